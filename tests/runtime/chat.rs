//! Conversations: what is reused, dropped, saved and restored.

use std::sync::atomic::Ordering;

use ocelli_convert::mixture::FileType;
use ocelli_engine::{Answer, Chat, Choice, Session, Stop, Watch};
use ocelli_image::Profile;
use ocelli_quant::GgmlType;
use ocelli_runtime::{Context, ContextOptions, Precision, RuntimeError};
use ocelli_text::sampler::{SamplerChain, SamplerOverrides};

use crate::fixture::{Greedy, distance, load, mini, options, read};

/// Collects the answer.
#[derive(Default)]
struct Heard(String);

impl Watch for Heard {
    fn text(&mut self, text: &str) {
        self.0.push_str(text);
    }
}

fn chat_with(file_type: FileType, options: &ContextOptions, shift: bool) -> Chat {
    let (model, assets) = load(&mini(file_type));
    Chat::new(Session::new(Context::new(model, options).unwrap()), assets, shift, Profile::Reference)
}

fn chat(n_ctx: usize, shift: bool) -> Chat {
    chat_with(FileType::F16, &options(n_ctx, Precision::Exact), shift)
}

/// Random weights end an answer at random, so the end is forbidden and the length given.
fn sampler(chat: &Chat, temperature: f32, seed: u64) -> SamplerChain {
    let mut params = chat.assets().sampling.clone();
    SamplerOverrides {
        temperature: Some(temperature),
        seed: Some(seed),
        ignore_eos: Some(true),
        ..SamplerOverrides::default()
    }
    .apply(&mut params);
    SamplerChain::new(params, &chat.assets().tokenizer).unwrap()
}

#[test]
fn what_follows_an_answer_is_computed_when_it_is_wanted() {
    let (model, _) = load(&mini(FileType::Q4_K_M));
    let answer = |pieces: &[usize]| {
        let mut session = Session::new(Context::new(model.clone(), &options(64, Precision::Fast)).unwrap());
        let mut whole = vec![5u32, 9, 7];
        for n in pieces {
            let mut greedy = Greedy::default();
            let ended = session.answer(&whole.clone().into(), *n, &mut greedy).unwrap();
            assert_eq!((ended.stop, ended.tokens), (Stop::Length, *n));
            whole.extend(greedy.0);
            assert_eq!(session.tokens(), &whole[..whole.len() - 1], "all but the last");
        }
        assert_eq!(read(&mut session, whole.clone()).evaluated, 1);
        (whole, session.context().logits().unwrap().to_vec())
    };
    let whole = answer(&[9]);
    assert_eq!(answer(&[1, 5, 3]), whole);
}

#[test]
fn a_token_outside_the_vocabulary_ends_its_answer_with_an_error() {
    struct Foreign;
    impl Answer for Foreign {
        fn choose(&mut self, _: &[f32]) -> Result<Choice, RuntimeError> {
            Ok(Choice::Token(u32::MAX))
        }

        fn token(&mut self, _: u32) -> Choice {
            panic!("shown")
        }
    }
    let mut session =
        Session::new(Context::new(load(&mini(FileType::Q4_K_M)).0, &options(64, Precision::Fast)).unwrap());
    let ended = session.answer(&vec![5u32].into(), 1, &mut Foreign);
    assert!(matches!(ended, Err(RuntimeError::Token { .. })), "{ended:?}");
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let mut chat = chat(512, false);
    chat.set_system(Some("Be brief."));
    let mut sampler = sampler(&chat, 0.0, 1);
    let mut heard = Heard::default();
    let first = chat.say("Hello there", &[], &mut sampler, 12, &mut heard).unwrap();
    assert_eq!((first.prefill.reused, first.tokens.len(), first.stop), (0, 12, Stop::Length));
    assert_eq!(heard.0, first.text);
    let second = chat.say("And now?", &[], &mut sampler, 4, &mut Heard::default()).unwrap();
    assert!(second.prefill.reused >= first.n_prompt + 11, "{second:?}");
    assert!(second.prefill.evaluated < 30, "{second:?}");
    assert_eq!(chat.messages().len(), 5);
    assert!(chat.forget_answer());
    let again = chat.answer(&mut sampler, 4, &mut Heard::default()).unwrap();
    assert_eq!((again.prefill.evaluated, again.text), (1, second.text), "the same question, greedily");
}

#[test]
fn the_seed_decides_the_text() {
    let run = |seed| {
        let mut chat = chat(256, false);
        let mut sampler = sampler(&chat, 1.5, seed);
        chat.say("Tell me", &[], &mut sampler, 24, &mut Heard::default()).unwrap().tokens
    };
    assert_eq!(run(42), run(42));
    assert_ne!(run(42), run(43));
}

#[test]
fn a_full_context_is_told_unless_turns_may_be_dropped() {
    let question = "What is the weather like in the mountains today?";
    let mut plain = chat(160, false);
    let mut chain = sampler(&plain, 0.0, 1);
    let stopped = plain.say(question, &[], &mut chain, 400, &mut Heard::default()).unwrap();
    assert_eq!(stopped.stop, Stop::ContextFull);
    let refused = plain.say(question, &[], &mut chain, 10, &mut Heard::default()).unwrap_err();
    assert!(matches!(refused, RuntimeError::ContextFull { n_ctx: 160, .. }), "{refused}");
    assert_eq!(plain.messages().len(), 2, "the refused message is not part of the conversation");

    let mut shifting = chat(160, true);
    shifting.set_system(Some("Be kind."));
    let mut chain = sampler(&shifting, 0.0, 1);
    let mut dropped = 0;
    for _ in 0..8 {
        dropped += shifting.say(question, &[], &mut chain, 30, &mut Heard::default()).unwrap().dropped_turns;
        assert_eq!(shifting.system(), Some("Be kind."));
        assert!(shifting.session().tokens().len() <= 160);
    }
    assert!(dropped > 0);
    let hopeless = shifting.say(&question.repeat(20), &[], &mut chain, 5, &mut Heard::default()).unwrap_err();
    assert!(matches!(hopeless, RuntimeError::ContextFull { .. }), "{hopeless}");
}

#[test]
fn after_a_shift_the_state_is_that_of_a_conversation_without_the_dropped_turns() {
    let mut shifting = chat(200, true);
    shifting.set_system(Some("Be kind."));
    let mut chain = sampler(&shifting, 0.0, 1);
    let mut dropped = 0;
    for i in 0..10 {
        let question = format!("Question number {i}, if you please");
        dropped += shifting.say(&question, &[], &mut chain, 25, &mut Heard::default()).unwrap().dropped_turns;
        if dropped > 0 {
            break;
        }
    }
    assert!(dropped > 0, "the context fills up");
    let mut fresh = Session::new(Context::new(load(&mini(FileType::F16)).0, &options(200, Precision::Exact)).unwrap());
    read(&mut fresh, shifting.session().tokens().to_vec());
    let (fresh, shifted) = (fresh.context().logits().unwrap(), shifting.session().context().logits().unwrap());
    assert!(distance(fresh, shifted) < 1e-2);
}

#[test]
fn an_interrupted_answer_stays_and_an_interrupted_prompt_does_not() {
    let mut chat = chat(256, false);
    let mut chain = sampler(&chat, 0.0, 1);
    let flag = chat.session().interrupt().clone();
    struct Stopper(std::sync::Arc<std::sync::atomic::AtomicBool>, usize);
    impl Watch for Stopper {
        fn text(&mut self, _: &str) {
            self.1 += 1;
            self.0.store(self.1 == 5, Ordering::Relaxed);
        }
    }
    let stopped = chat.say("Hello", &[], &mut chain, 50, &mut Stopper(flag.clone(), 0)).unwrap();
    assert_eq!((stopped.stop, stopped.tokens.len()), (Stop::Interrupted, 5));
    flag.store(true, Ordering::Relaxed);
    let refused = chat.say("More", &[], &mut chain, 5, &mut Heard::default()).unwrap_err();
    assert!(matches!(refused, RuntimeError::Interrupted));
    assert_eq!(chat.messages().len(), 2);
    flag.store(false, Ordering::Relaxed);
    chat.say("More", &[], &mut chain, 5, &mut Heard::default()).unwrap();
}

#[test]
fn a_saved_conversation_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.session");
    for (type_k, type_v) in [(GgmlType::F16, GgmlType::F16), (GgmlType::Q8_0, GgmlType::F32)] {
        let options = ContextOptions { type_k, type_v, ..options(256, Precision::Exact) };
        let mut first = chat_with(FileType::F16, &options, false);
        first.set_system(Some("Be brief."));
        let mut chain = sampler(&first, 0.0, 1);
        first.say("Remember the number seven", &[], &mut chain, 20, &mut Heard::default()).unwrap();
        first.save(&path).unwrap();
        let went_on = first.say("Which number?", &[], &mut chain, 16, &mut Heard::default()).unwrap();
        let mut second = chat_with(FileType::F16, &options, false);
        second.load(&path).unwrap();
        assert_eq!(second.messages()[..3], first.messages()[..3]);
        let mut chain = sampler(&second, 0.0, 1);
        let restored = second.say("Which number?", &[], &mut chain, 16, &mut Heard::default()).unwrap();
        assert_eq!((restored.tokens, restored.prefill), (went_on.tokens, went_on.prefill));
    }
}

/// A weight in the middle of a tensor decides over a session as well as any other byte.
#[test]
fn a_session_of_a_model_that_was_tampered_with_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, model) = (dir.path().join("talk.session"), dir.path().join("m.gguf"));
    let whole = std::fs::read(mini(FileType::F16)).unwrap();
    let open = |bytes: &[u8]| {
        // Renamed into place, for the file is mapped by whoever uses it still.
        let new = dir.path().join("new.gguf");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(&new, &model).unwrap();
        let (model, assets) = load(&model);
        Chat::new(
            Session::new(Context::new(model, &options(128, Precision::Exact)).unwrap()),
            assets,
            false,
            Profile::Reference,
        )
    };
    let mut first = open(&whole);
    let mut chain = sampler(&first, 0.0, 1);
    first.say("Hello", &[], &mut chain, 4, &mut Heard::default()).unwrap();
    first.save(&path).unwrap();
    open(&whole).load(&path).unwrap();
    let gguf = ocelli_gguf::Gguf::parse(&whole).unwrap();
    let tensor = gguf.tensors().iter().find(|t| t.name == "blk.1.ffn_up.weight").unwrap();
    let middle = usize::try_from(tensor.offset + tensor.n_bytes / 2).unwrap();
    for at in [middle, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let text = open(&changed).load(&path).unwrap_err().to_string();
        assert!(text.contains("another model") && text.contains("changed"), "byte {at}: {text}");
    }
    first.save(&path).unwrap();
}

#[test]
fn sessions_of_others_and_damaged_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.session");
    let mut saved = chat(128, false);
    let mut chain = sampler(&saved, 0.0, 1);
    saved.say("Hello", &[], &mut chain, 10, &mut Heard::default()).unwrap();
    saved.save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let refuse = |chat: &mut Chat, bytes: &[u8], word: &str| {
        std::fs::write(&path, bytes).unwrap();
        let text = chat.load(&path).unwrap_err().to_string();
        assert!(text.contains(word) && text.contains("talk.session"), "{word}: {text}");
    };
    refuse(&mut chat_with(FileType::Q8_0, &options(128, Precision::Exact), false), &good, "another model");
    let q8 = ContextOptions { type_k: GgmlType::Q8_0, ..options(128, Precision::Exact) };
    refuse(&mut chat_with(FileType::F16, &q8, false), &good, "-ctk f16");
    refuse(&mut chat(16, false), &good, "larger context");
    let tokens_before = saved.session().tokens().to_vec();
    for at in (0..good.len()).step_by(good.len() / 40).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        assert!(saved.load(&path).is_err(), "byte {at} of {}", good.len());
    }
    for len in [0, 7, 79, 80, good.len() - 1] {
        refuse(&mut saved, &good[..len], "damaged");
    }
    let mut longer = good.clone();
    longer.push(0);
    refuse(&mut saved, &longer, "damaged");
    refuse(&mut saved, &[b'x'; 200], "no session file");
    let version = |n: u32| [&good[..8], &n.to_le_bytes(), &good[12..]].concat();
    refuse(&mut saved, &version(2), "an older version");
    refuse(&mut saved, &version(99), "a newer version");
    assert_eq!(saved.session().tokens(), tokens_before, "a refused file changes nothing");
    std::fs::write(&path, &good).unwrap();
    saved.load(&path).unwrap();
}
