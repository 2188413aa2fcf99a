//! One that fails ends alone.

use std::sync::Arc;
use std::time::Duration;

use ocelli_convert::mixture::FileType;
use ocelli_engine::{Ended, Generation, Queue};
use ocelli_quant::GgmlType;
use ocelli_runtime::{ContextOptions, ImageEmbedding, Precision, Prompt, RuntimeError};

use crate::fixture::{Listener, Loaded, Outcome, Random, Request, alone, assert_same, mini, options, scheduler};

/// The number of the one that fails.
const BAD: usize = 9;

/// Runs `bad` between two good ones, and another good one after them; how the bad one ended. The others are as alone.
fn between(loaded: &Loaded, shared: &ContextOptions, mut bad: Generation<Listener>) -> Result<Ended, RuntimeError> {
    let mut scheduler = scheduler(loaded, shared, Duration::from_secs(1));
    let mut queue = Queue::new();
    let mut random = Random(41);
    let good: Vec<_> = (0..3).map(|i| Request { seed: Some(i), ..Request::new(random.ids(50), 8) }).collect();
    let ask = |number: usize, queue: &mut Queue<Listener>| {
        let mut generation = good[number].generation(&loaded.1);
        generation.answer().number = number;
        queue.push(generation);
    };
    ask(0, &mut queue);
    bad.answer().number = BAD;
    queue.push(bad);
    ask(1, &mut queue);
    let (mut ended, mut completed) = (None, 0);
    while completed < 3 {
        assert!(!scheduler.step(&mut queue).is_idle(), "it does not go on");
        while let Some((mut generation, how)) = queue.take_ended() {
            match generation.answer().number {
                BAD => ended = Some(how),
                number => {
                    let outcome = Outcome::of(generation, how);
                    assert_same(&outcome, &alone(loaded, shared, &good[number]), &format!("good one {number}"));
                    completed += 1;
                }
            }
        }
        // Whatever the bad one left in its blocks, who gets them does not see it.
        if completed == 2 && queue.is_empty() {
            ask(2, &mut queue);
        }
    }
    let kv = scheduler.context().kv();
    assert_eq!(kv.n_available_blocks(), kv.n_blocks());
    ended.expect("it ends")
}

#[test]
fn a_choice_that_fails_ends_one_generation() {
    let loaded = mini(FileType::Q4_K_M);
    let shared = options(128, 3);
    for at in [0, 3] {
        let mut bad = Request::new(Random(1).ids(70), 8).generation(&loaded.1);
        bad.answer().fails_at = Some(at);
        assert!(matches!(between(&loaded, &shared, bad), Err(RuntimeError::EmptyPrompt)));
        let mut bad = Request::new(Random(1).ids(70), 8).generation(&loaded.1);
        bad.answer().errs_at = Some(at);
        let n_vocab = loaded.0.config().n_vocab;
        let failed = between(&loaded, &shared, bad);
        assert!(matches!(failed, Err(RuntimeError::Token { id, n_vocab: n }) if id as usize == n && n == n_vocab));
    }
}

#[test]
fn a_token_outside_the_vocabulary_or_a_foreign_picture_ends_one_generation() {
    let loaded = mini(FileType::Q4_K_M);
    let shared = options(128, 3);
    // Near the end, so that good pieces may have been computed before.
    let mut ids = Random(1).ids(70);
    ids[60] = u32::MAX;
    let failed = between(&loaded, &shared, Request::new(ids, 8).generation(&loaded.1));
    assert!(matches!(failed, Err(RuntimeError::Token { id: u32::MAX, .. })), "{failed:?}");
    let mut prompt = Prompt::from(Random(1).ids(20));
    prompt.push_rows(&Random(2).picture(8, loaded.0.config().n_embd + 1), 0..8, 0);
    let failed = between(&loaded, &shared, Request::new(prompt, 8).generation(&loaded.1));
    assert!(matches!(failed, Err(RuntimeError::ImageWidth { .. })), "{failed:?}");
}

/// Rows that are no numbers. What becomes of their own conversation is a matter of formats; what is checked here is that
/// the others do not see them, not even those who get the same blocks afterwards.
#[test]
fn rows_that_are_no_numbers_stay_with_their_conversation() {
    let loaded = mini(FileType::Q4_K_M);
    let n_embd = loaded.0.config().n_embd;
    let mut refused = 0;
    for value in [f32::NAN, f32::INFINITY] {
        for (precision, cache) in [
            (Precision::Fast, GgmlType::F16),
            (Precision::Fast, GgmlType::Q8_0),
            (Precision::Exact, GgmlType::F16),
            (Precision::Exact, GgmlType::F32),
            (Precision::Exact, GgmlType::Q8_0),
        ] {
            // As few blocks as there can be: later ones get those that held the bad rows.
            let shared =
                ContextOptions { n_positions: 320, type_k: cache, type_v: cache, precision, ..options(128, 3) };
            let mut picture = ImageEmbedding::clone(&Random(3).picture(8, n_embd));
            picture.rows[3 * n_embd..4 * n_embd].fill(value);
            let mut prompt = Prompt::from(Random(1).ids(20));
            prompt.push_rows(&Arc::new(picture), 0..8, 0);
            prompt.push(&Random(4).ids(80));
            let ended = between(&loaded, &shared, Request::new(prompt, 8).generation(&loaded.1));
            if cache == GgmlType::Q8_0 && precision == Precision::Exact {
                assert!(matches!(ended, Err(RuntimeError::Pass { .. })), "{value}: {ended:?}");
            }
            refused += usize::from(ended.is_err());
        }
    }
    assert!(refused >= 2);
}
