//! Unit tests of the pieces; whole vocabularies are compared in `tests/tokenizer.rs`.

use super::bpe::{byte_of, char_of};
use super::pre::{self, Pre};

fn words(pre: Pre, text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    pre::split(pre, text, &mut |word| words.push(word));
    assert_eq!(words.concat(), text, "{pre:?} loses text");
    assert!(words.iter().all(|w| !w.is_empty()), "{pre:?} makes empty words of {text:?}");
    words
}

#[test]
fn byte_alphabet_is_a_bijection() {
    for byte in 0..=255u8 {
        assert_eq!(byte_of(char_of(byte)), Some(byte), "byte {byte:#x}");
    }
    let known: Vec<(u8, char)> = vec![(b'!', '!'), (b' ', 'Ġ'), (b'\n', 'Ċ'), (0x7f, 'ġ'), (0xad, 'Ń'), (0xff, 'ÿ')];
    for (byte, c) in known {
        assert_eq!(char_of(byte), c);
    }
    assert_eq!(byte_of('中'), None);
    assert_eq!(byte_of(' '), None);
}

#[test]
fn gpt2_words() {
    for (text, expected) in [
        ("Hello world", vec!["Hello", " world"]),
        ("it's we'll  I'M", vec!["it", "'s", " we", "'ll", " ", " I", "'", "M"]),
        ("a   b", vec!["a", "  ", " b"]),
        ("tail  ", vec!["tail", "  "]),
        ("x \n\n y", vec!["x", " \n\n", " y"]),
        ("12 345", vec!["12", " 345"]),
        ("中文，é!?", vec!["中文", "，", "é", "!?"]),
    ] {
        assert_eq!(words(Pre::Gpt2, text), expected);
    }
}

#[test]
fn llama3_words() {
    for (text, expected) in [
        ("I'LL go", vec!["I", "'LL", " go"]),
        ("12345 6", vec!["123", "45", " ", "6"]),
        ("(word) .\n\nx", vec!["(word", ")", " .\n\n", "x"]),
        ("a  \n  b", vec!["a", "  \n", " ", " b"]),
        ("end ", vec!["end", " "]),
    ] {
        assert_eq!(words(Pre::Llama3, text), expected);
    }
    assert_eq!(words(Pre::Qwen2, "12345 6"), ["1", "2", "3", "4", "5", " ", "6"]);
}

#[test]
fn staged_rules() {
    assert_eq!(words(Pre::DigitsGpt2, "a12 34"), ["a", "1", "2", " ", "3", "4"]);
    assert_eq!(words(Pre::Falcon, "a12345`b` $x"), ["a", "123", "45", "`", "b", "`", " ", "$", "x"]);
    assert_eq!(words(Pre::Default, "a12345 x!"), ["a", "123", "45", " x", "!"]);
    assert_eq!(words(Pre::DeepseekLlm, "Hi 中文  \n12a"), ["Hi", " ", "中文", "  ", "\n", "12", "a"]);
    assert_eq!(words(Pre::DeepseekCoder, "Hi, 中文 12"), ["Hi", ",", " ", "中文", " ", "1", "2"]);
}

#[test]
fn every_known_name_is_found_and_listed() {
    let names = pre::known_names();
    for name in names.split(", ") {
        assert!(pre::lookup(name).is_some(), "{name}");
    }
    assert!(pre::lookup("llama-bpe").is_some_and(|s| s.ignore_merges && s.add_bos));
    assert!(pre::lookup("no-such").is_none());
}

/// Vocabularies made for these tests, with the ids that llama.cpp gives for a list of texts.
mod fixtures {
    use ocelli_gguf::{Gguf, GgufWriter, MetaValue};
    use serde_json::Value;

    use crate::tokenizer::{Tokenizer, TokenizerError};

    pub(crate) fn spm() -> Value {
        serde_json::from_str(include_str!("fixtures/spm.json")).unwrap()
    }

    pub(crate) fn bpe() -> Value {
        serde_json::from_str(include_str!("fixtures/bpe.json")).unwrap()
    }

    pub(crate) fn strings(value: &Value) -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn ids(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|v| u32::try_from(v.as_u64().unwrap()).unwrap()).collect()
    }

    fn types(value: &Value) -> Vec<i32> {
        value.as_array().unwrap().iter().map(|v| i32::try_from(v.as_i64().unwrap()).unwrap()).collect()
    }

    /// The keys of a fixture's vocabulary.
    pub(crate) fn keys(fixture: &Value, model: &str, pre: &str) -> Vec<(String, MetaValue)> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let mut keys: Vec<(String, MetaValue)> = vec![
            ("general.architecture".into(), "llama".to_owned().into()),
            (key("model"), model.to_owned().into()),
            (key("pre"), pre.to_owned().into()),
            (key("tokens"), strings(&fixture["tokens"]).into()),
            (key("token_type"), types(&fixture["types"]).into()),
        ];
        if let Some(scores) = fixture["scores"].as_array() {
            keys.push((key("scores"), scores.iter().map(|s| s.as_f64().unwrap() as f32).collect::<Vec<_>>().into()));
        }
        if fixture["merges"].is_array() {
            keys.push((key("merges"), strings(&fixture["merges"]).into()));
        }
        keys
    }

    pub(crate) fn set(keys: &mut Vec<(String, MetaValue)>, name: &str, value: impl Into<MetaValue>) {
        remove(keys, name);
        keys.push((name.to_owned(), value.into()));
    }

    pub(crate) fn remove(keys: &mut Vec<(String, MetaValue)>, name: &str) {
        keys.retain(|(key, _)| key != name);
    }

    pub(crate) fn build(keys: &[(String, MetaValue)]) -> Result<Tokenizer, TokenizerError> {
        let mut writer = GgufWriter::new();
        for (key, value) in keys {
            writer.kv(key.clone(), value.clone()).unwrap();
        }
        let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
        Tokenizer::from_gguf(&Gguf::parse(&bytes).unwrap())
    }
}

pub(crate) use fixtures::{bpe, build, keys, remove, set, spm};
use fixtures::{ids, strings};

use super::{TokenDecoder, TokenType, Tokenizer, TokenizerError};
use ocelli_gguf::MetaValue;

/// The small SentencePiece vocabulary.
pub(crate) fn small_spm() -> Tokenizer {
    build(&keys(&spm(), "llama", "default")).unwrap()
}

fn compare(tokenizer: &Tokenizer, what: &str, texts: &[String], expected: &serde_json::Value, special: bool) {
    let wrong: Vec<String> = texts
        .iter()
        .zip(expected.as_array().unwrap())
        .filter_map(|(text, expected)| {
            let found = tokenizer.encode(text, special, special).unwrap();
            let expected = ids(expected);
            (found != expected).then(|| format!("{text:?}\n  found    {found:?}\n  expected {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{what}: {} of {} texts differ\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

#[test]
fn spm_ids_are_those_of_llama_cpp() {
    let fixture = spm();
    let texts = strings(&fixture["texts"]);
    assert!(texts.len() > 100);
    for variant in fixture["variants"].as_array().unwrap() {
        let mut keys = keys(&fixture, "llama", "default");
        if variant["equal"].as_bool().unwrap() {
            set(&mut keys, "tokenizer.ggml.scores", vec![-1000.0f32; fixture["tokens"].as_array().unwrap().len()]);
        }
        for (key, value) in variant["keys"].as_object().unwrap() {
            set(&mut keys, key, value.as_bool().unwrap());
        }
        let tokenizer = build(&keys).unwrap();
        let column = |i: usize| variant["ids"].as_array().unwrap().iter().map(|pair| pair[i].clone()).collect();
        let name = variant["name"].as_str().unwrap();
        compare(&tokenizer, name, &texts, &column(0), false);
        compare(&tokenizer, &format!("{name}, special"), &texts, &column(1), true);
    }
}

#[test]
fn bpe_ids_are_those_of_llama_cpp() {
    let fixture = bpe();
    let texts = strings(&fixture["texts"]);
    let bos = u32::try_from(fixture["tokens"].as_array().unwrap().len() - 2).unwrap();
    let pres = fixture["pres"].as_object().unwrap();
    assert_eq!(pres.len(), 12);
    for (pre, expected) in pres {
        // A name stands for the list of another name with the same rules.
        let expected = expected.as_str().map_or(expected, |same| &pres[same]);
        let mut keys = keys(&fixture, "gpt2", pre);
        set(&mut keys, "tokenizer.ggml.bos_token_id", bos);
        set(&mut keys, "tokenizer.ggml.eos_token_id", bos);
        let tokenizer = build(&keys).unwrap();
        compare(&tokenizer, pre, &texts, expected, false);
        if pre == "qwen2" {
            compare(&tokenizer, "qwen2, special", &texts, &fixture["qwen2_special"], true);
        }
        for text in &texts {
            let ids = tokenizer.encode(text, false, true).unwrap();
            assert_eq!(&tokenizer.decode(&ids, true), text, "{pre} does not decode to the text");
        }
    }
}

/// Every case of the vocabulary files that llama.cpp is tested with, when a directory with them is given.
#[test]
fn published_vocabularies() {
    let Some(dir) = std::env::var_os("OCELLI_VOCAB_DIR") else {
        println!("skipped: OCELLI_VOCAB_DIR does not name a directory with ggml-vocab-*.gguf, .inp and .out files");
        return;
    };
    let names = [
        "llama-spm",
        "phi-3",
        "llama-bpe",
        "qwen2",
        "gpt-2",
        "mpt",
        "starcoder",
        "refact",
        "command-r",
        "deepseek-llm",
        "deepseek-coder",
        "falcon",
    ];
    for name in names {
        let path = std::path::Path::new(&dir).join(format!("ggml-vocab-{name}.gguf"));
        let with = |ending: &str| std::fs::read_to_string(format!("{}.{ending}", path.display())).unwrap();
        let header = ocelli_gguf::read_header(&path).unwrap();
        let tokenizer = Tokenizer::from_gguf(&header.view().unwrap()).unwrap();
        let (input, output) = (with("inp"), with("out"));
        let texts: Vec<&str> = input.split("\n__ggml_vocab_test__\n").collect();
        let mut cases = 0;
        for (text, line) in texts.iter().zip(output.lines()) {
            let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false, false).unwrap(), expected, "{name}: {text:?}");
            cases += 1;
        }
        assert!(cases > 40, "{name} has only {cases} cases");
        println!("{name}: {cases} cases");
    }
}

#[test]
fn spm_round_trip() {
    let tokenizer = small_spm();
    for text in strings(&spm()["texts"]) {
        let ids = tokenizer.encode(&text, false, false).unwrap();
        // The one mark that text cannot hold is SentencePiece's own. A blank is added after every special token.
        if text.contains("<image>") {
            continue;
        }
        assert_eq!(tokenizer.decode(&ids, true), text.replace('\u{2581}', " "));
    }
    let ids = tokenizer.encode("Hello", true, true).unwrap();
    assert_eq!(ids.first(), tokenizer.ids().bos.as_ref());
    assert_eq!(tokenizer.decode(&ids[1..], false), "Hello");
}

#[test]
fn control_tokens_only_when_asked_for() {
    let tokenizer = small_spm();
    let (start, image) = (tokenizer.token_id("<|im_start|>").unwrap(), tokenizer.token_id("<image>").unwrap());
    let text = "<|im_start|>a<image>";
    assert!(!tokenizer.encode(text, false, false).unwrap().contains(&start));
    assert!(tokenizer.encode(text, false, true).unwrap().contains(&start));
    for parse_special in [false, true] {
        assert!(tokenizer.encode(text, false, parse_special).unwrap().contains(&image), "user-defined: always");
    }
    assert_eq!(&*tokenizer.piece(start, false), b"");
    assert_eq!(&*tokenizer.piece(start, true), b"<|im_start|>");
    assert_eq!(&*tokenizer.piece(image, false), b"<image>");
    assert_eq!(&*tokenizer.piece(u32::MAX, true), b"");
}

#[test]
fn generation_ends_by_key_and_by_text() {
    let mut keys = keys(&spm(), "llama", "default");
    let tokenizer = build(&keys).unwrap();
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert_eq!(tokenizer.ids().eot, Some(end));
    assert_eq!(tokenizer.end_of_generation(), [2, end]);
    assert!(tokenizer.is_end_of_generation(2) && !tokenizer.is_end_of_generation(3));
    // A file that calls the marker ordinary text does not get its way.
    let mut types: Vec<i32> = vec![1; tokenizer.n_tokens()];
    types[0] = 2;
    set(&mut keys, "tokenizer.ggml.token_type", types);
    set(&mut keys, "tokenizer.ggml.eot_token_id", 300u32);
    let tokenizer = build(&keys).unwrap();
    assert_eq!(tokenizer.token_type(end), TokenType::Control);
    assert_eq!(tokenizer.end_of_generation(), [2, 300, end]);
}

#[test]
fn decoder_gives_whole_characters_only() {
    let tokenizer = small_spm();
    let byte = |b: u8| tokenizer.token_id(&format!("<0x{b:02X}>")).unwrap();
    let mut decoder = TokenDecoder::new(false, false);
    for (b, expected) in "é🙂a".bytes().zip(["", "é", "", "", "", "🙂", "a"]) {
        assert_eq!(decoder.push(&tokenizer, byte(b)), expected);
    }
    assert_eq!(decoder.finish(), "");
    // Broken sequences: replaced as soon as they cannot be completed, the rest at the end.
    for (bytes, expected, rest) in [
        (&[0xff, b'a'][..], "\u{fffd}a", ""),
        (&[0xf0, 0x9f, b'a'], "\u{fffd}a", ""),
        (&[0xe4, 0xb8], "", "\u{fffd}"),
        (&[0xc3, 0xc3, 0xa9], "\u{fffd}é", ""),
        (&[0xed, 0xa0, 0x80], "\u{fffd}\u{fffd}\u{fffd}", ""),
    ] {
        let mut text = String::new();
        for &b in bytes {
            text.push_str(decoder.push(&tokenizer, byte(b)));
        }
        assert_eq!(text, expected, "{bytes:x?}");
        assert_eq!(decoder.finish(), rest, "{bytes:x?}");
        assert_eq!(format!("{expected}{rest}"), String::from_utf8_lossy(bytes));
    }
}

#[test]
fn long_texts_take_no_longer_per_byte() {
    // Quadratic work on this much would run for many minutes.
    let big = 1 << 18;
    let spm = small_spm();
    let mut keys = keys(&bpe(), "gpt2", "deepseek-llm");
    let deepseek = build(&keys).unwrap();
    set(&mut keys, "tokenizer.ggml.pre", "qwen2".to_owned());
    let qwen2 = build(&keys).unwrap();
    for text in ["a".repeat(big), " ".repeat(big), "the ".repeat(big / 4), " \n".repeat(big / 2), "'".repeat(big)] {
        for tokenizer in [&spm, &deepseek, &qwen2] {
            let ids = tokenizer.encode(&text, false, true).unwrap();
            assert_eq!(tokenizer.decode(&ids, true), text);
        }
    }
    let markers = "<|im_start|>".repeat(big / 12);
    assert_eq!(spm.encode(&markers, false, true).unwrap().len(), big / 12);
}

fn error_of(keys: &[(String, MetaValue)]) -> String {
    match build(keys) {
        Ok(_) => panic!("was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn unknown_kinds_are_named_with_the_known_ones() {
    let mut spm_keys = keys(&spm(), "llama", "default");
    for model in ["bert", "t5", "rwkv", "none", "gemma4"] {
        set(&mut spm_keys, "tokenizer.ggml.model", model.to_owned());
        let message = error_of(&spm_keys);
        assert!(message.contains(model) && message.contains("llama, gpt2"), "{message}");
    }
    let message = error_of(&keys(&bpe(), "gpt2", "brand-new"));
    for name in ["brand-new", "llama-bpe", "qwen2", "smollm", "command-r", "deepseek-coder"] {
        assert!(message.contains(name), "{message}");
    }
    remove(&mut spm_keys, "tokenizer.ggml.model");
    assert!(error_of(&spm_keys).contains("no vocabulary"));
    // A file that does not name its rules still works, and says so.
    let mut bpe_keys = keys(&bpe(), "gpt2", "x");
    remove(&mut bpe_keys, "tokenizer.ggml.pre");
    let tokenizer = build(&bpe_keys).unwrap();
    assert_eq!(tokenizer.pre(), "default");
    assert!(tokenizer.notes().iter().any(|n| n.contains("tokenizer.ggml.pre")));
}

#[test]
fn damaged_vocabularies_are_refused() {
    let fixture = spm();
    let tokens = strings(&fixture["tokens"]);
    let n = tokens.len();
    let mut duplicate = tokens.clone();
    duplicate[n - 1] = duplicate[n - 2].clone();
    let mut no_byte = tokens.clone();
    let byte = no_byte.iter().position(|t| t == "<0x7F>").unwrap();
    no_byte[byte] = "something else".into();
    let mut long = tokens.clone();
    long[n - 1] = "x".repeat(20_000);
    let mut nan = vec![0.0f32; n];
    nan[5] = f32::NAN;
    let cases: Vec<(&str, MetaValue, &str)> = vec![
        ("tokenizer.ggml.tokens", duplicate.into(), "same text"),
        ("tokenizer.ggml.tokens", no_byte.into(), "<0x7F>"),
        ("tokenizer.ggml.tokens", long.into(), "20000 bytes"),
        ("tokenizer.ggml.tokens", Vec::<String>::new().into(), "0 tokens"),
        ("tokenizer.ggml.tokens", vec![1i32; n].into(), "tokenizer.ggml.tokens"),
        ("tokenizer.ggml.scores", nan.into(), "token 5"),
        ("tokenizer.ggml.scores", vec![0.0f32; n - 1].into(), "tokenizer.ggml.scores"),
        ("tokenizer.ggml.scores", tokens.clone().into(), "tokenizer.ggml.scores"),
        ("tokenizer.ggml.token_type", vec![1i32; n + 1].into(), "tokenizer.ggml.token_type"),
        ("tokenizer.ggml.token_type", 1u32.into(), "tokenizer.ggml.token_type"),
        ("tokenizer.ggml.bos_token_id", u32::MAX.into(), "tokenizer.ggml.bos_token_id"),
        ("tokenizer.ggml.eos_token_id", (-1i32).into(), "tokenizer.ggml.eos_token_id"),
        ("tokenizer.ggml.eot_token_id", u32::try_from(n).unwrap().into(), "tokenizer.ggml.eot_token_id"),
        ("tokenizer.ggml.add_bos_token", 1u32.into(), "tokenizer.ggml.add_bos_token"),
    ];
    for (key, value, expected) in cases {
        let mut keys = keys(&fixture, "llama", "default");
        set(&mut keys, key, value);
        let message = error_of(&keys);
        assert!(message.contains(expected) && !message.contains('\n'), "{key}: {message}");
    }
    for (name, present) in [("tokenizer.ggml.tokens", false), ("tokenizer.ggml.scores", true)] {
        let mut keys = keys(&fixture, "llama", "default");
        remove(&mut keys, name);
        assert_eq!(build(&keys).is_ok(), present, "without {name}");
    }
}

#[test]
fn damaged_merge_lists_are_refused() {
    let fixture = bpe();
    for (merge, expected) in [
        ("nospace", "no second part"),
        ("", "no second part"),
        ("a \u{1f642}", "not in the vocabulary"),
        ("\u{120}a zzzzzz", "not in the vocabulary"),
        ("z q", "result is not in the vocabulary"),
    ] {
        let mut keys = keys(&fixture, "gpt2", "gpt-2");
        let mut merges = strings(&fixture["merges"]);
        merges.insert(3, merge.to_owned());
        set(&mut keys, "tokenizer.ggml.merges", merges);
        let message = error_of(&keys);
        assert!(message.contains("merge 3") && message.contains(expected), "{message}");
    }
    let mut keys = keys(&fixture, "gpt2", "gpt-2");
    set(&mut keys, "tokenizer.ggml.add_eos_token", true);
    assert!(matches!(build(&keys), Err(TokenizerError::MissingSpecial { .. })));
    remove(&mut keys, "tokenizer.ggml.add_eos_token");
    remove(&mut keys, "tokenizer.ggml.merges");
    assert!(matches!(build(&keys), Err(TokenizerError::MissingKey { key: "tokenizer.ggml.merges" })));
}

#[test]
fn bytes_without_a_token_are_announced_and_left_out() {
    let fixture = bpe();
    let mut keys = keys(&fixture, "gpt2", "gpt-2");
    let mut tokens = strings(&fixture["tokens"]);
    let bell = tokens.iter().position(|t| *t == char_of(7).to_string()).unwrap();
    tokens[bell] = "unrelated".into();
    set(&mut keys, "tokenizer.ggml.tokens", tokens);
    let tokenizer = build(&keys).unwrap();
    assert!(tokenizer.notes().iter().any(|n| n.ends_with(" 07")), "{:?}", tokenizer.notes());
    let ids = |text: &str| tokenizer.encode(text, false, false).unwrap();
    assert_eq!(ids("a\u{7}b"), [ids("a"), ids("b")].concat());
}

/// 256 bytes and all pairs of them would fill the merge engine's grid; it must not come to its own assertion.
#[test]
fn a_merge_list_that_no_engine_can_hold_is_refused() {
    let fixture = bpe();
    let mut keys = keys(&fixture, "gpt2", "gpt-2");
    let bytes: Vec<String> = (0..=255u8).map(|b| char_of(b).to_string()).collect();
    let pairs = || bytes.iter().flat_map(|a| bytes.iter().map(move |b| (a, b)));
    let tokens: Vec<String> = bytes.iter().cloned().chain(pairs().map(|(a, b)| format!("{a}{b}"))).collect();
    set(&mut keys, "tokenizer.ggml.token_type", vec![1i32; tokens.len()]);
    set(&mut keys, "tokenizer.ggml.tokens", tokens);
    set(&mut keys, "tokenizer.ggml.merges", pairs().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>());
    let message = error_of(&keys);
    assert!(message.contains("grid of pairs") && !message.contains('\n'), "{message}");
}

#[test]
fn ids_outside_the_vocabulary_have_no_text() {
    let tokenizer = small_spm();
    let n = u32::try_from(tokenizer.n_tokens()).unwrap();
    for id in [n, i32::MAX as u32, 1 << 31, u32::MAX] {
        assert!(tokenizer.piece(id, true).is_empty() && tokenizer.token_text(id).is_empty());
        assert!(!tokenizer.is_end_of_generation(id));
        assert_eq!(tokenizer.decode(&[id, id], true), "");
        assert_eq!(TokenDecoder::new(true, false).push(&tokenizer, id), "");
    }
}
