//! One that fails ends alone.

use std::sync::Arc;
use std::time::Duration;

use ocelli_convert::mixture::FileType;
use ocelli_engine::{Generation, Queue};
use ocelli_quant::GgmlType;
use ocelli_runtime::{ContextOptions, ImageEmbedding, Prompt, RuntimeError};

use crate::fixture::{Listener, Loaded, Outcome, Random, Request, alone, assert_same, mini, options, scheduler};

/// Runs `bad` between two good ones; how it ended. The others are as alone, and so is who comes later.
fn between(loaded: &Loaded, shared: &ContextOptions, bad: Generation<Listener>) -> Result<(), RuntimeError> {
    let mut scheduler = scheduler(loaded, shared, Duration::from_secs(1));
    let mut queue = Queue::new();
    let mut random = Random(41);
    let good: Vec<_> = (0..3).map(|i| Request { seed: Some(i), ..Request::new(random.ids(50), 8) }).collect();
    queue.push(good[0].generation(&loaded.1));
    queue.push(bad);
    queue.push(good[1].generation(&loaded.1));
    let mut outcomes = Vec::new();
    let mut failed = Ok(());
    while !queue.is_empty() {
        assert!(outcomes.len() < 1000, "it does not end");
        scheduler.step(&mut queue);
        while let Some((generation, how)) = queue.take_ended() {
            match how {
                Err(error) => failed = Err(error),
                // Of two that answer in step, the later one is taken out first.
                how => outcomes.push(Outcome::of(generation, how)),
            }
        }
    }
    outcomes.sort_by_key(|outcome| outcome.seen != alone(loaded, shared, &good[0]).seen);
    for (outcome, request) in outcomes.iter().zip(&good) {
        assert_same(outcome, &alone(loaded, shared, request), "beside one that fails");
    }
    assert!(outcomes.len() >= 2);
    // Whatever the bad one left in the blocks, nobody sees it.
    for request in &good[2..] {
        queue.push(request.generation(&loaded.1));
        while !queue.is_empty() {
            scheduler.step(&mut queue);
        }
        let (generation, how) = queue.take_ended().unwrap();
        assert_same(&Outcome::of(generation, how), &alone(loaded, shared, request), "after one that failed");
    }
    let kv = scheduler.context().kv();
    assert_eq!(kv.n_available_blocks(), kv.n_blocks());
    failed
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

/// Rows that are no numbers: refused by a cache that cannot hold them, and otherwise the matter of whoever chooses.
#[test]
fn rows_that_are_no_numbers_stay_with_their_conversation() {
    let loaded = mini(FileType::Q4_K_M);
    let n_embd = loaded.0.config().n_embd;
    for value in [f32::NAN, f32::INFINITY] {
        for cache in [GgmlType::Q8_0, GgmlType::F16, GgmlType::F32] {
            // As few blocks as there can be: later ones get those that held the bad rows.
            let shared = ContextOptions { n_positions: 320, type_k: cache, type_v: cache, ..options(128, 3) };
            let mut picture = ImageEmbedding::clone(&Random(3).picture(8, n_embd));
            picture.rows[3 * n_embd + 5] = value;
            let mut prompt = Prompt::from(Random(1).ids(20));
            prompt.push_rows(&Arc::new(picture), 0..8, 0);
            prompt.push(&Random(4).ids(80));
            let bad = Request { seed: Some(1), ..Request::new(prompt, 8) };
            let failed = between(&loaded, &shared, bad.generation(&loaded.1));
            if cache == GgmlType::Q8_0 {
                assert!(matches!(failed, Err(RuntimeError::Pass { .. })), "{value} {}: {failed:?}", cache.name());
            } else {
                assert!(failed.is_err(), "{value} {}: drawn from what is no number", cache.name());
            }
        }
    }
}
