//! Requests at the edge of what can be asked for.

use std::time::Duration;

use ocelli_convert::mixture::FileType;
use ocelli_engine::{Queue, Step, Stop};
use ocelli_runtime::{ContextOptions, RuntimeError};

use crate::fixture::{Random, Request, alone, assert_same, mini, options, scheduler, together};

#[test]
fn prompts_that_cannot_be_are_refused_alone() {
    let loaded = mini(FileType::Q4_K_M);
    let shared = options(128, 2);
    let mut scheduler = scheduler(&loaded, &shared, Duration::ZERO);
    let good = |seed: u64| Request::new(Random(seed).ids(60), 4);
    let requests =
        [good(1), Request::new(Vec::new(), 4), Request::new(Random(2).ids(129), 4), good(3), Request::new(vec![], 0)];
    let outcomes = together(&loaded, &mut scheduler, &requests, |_, _| {});
    for i in [0, 3] {
        assert_same(&outcomes[i], &alone(&loaded, &shared, &requests[i]), &format!("request {i}"));
    }
    assert!(matches!(outcomes[1].how, Err(RuntimeError::EmptyPrompt)));
    assert!(matches!(outcomes[2].how, Err(RuntimeError::ContextFull { wanted: 129, n_ctx: 128 })));
    assert!(matches!(outcomes[4].how, Err(RuntimeError::EmptyPrompt)));
}

#[test]
fn a_prompt_without_an_answer_is_computed_and_no_more() {
    let loaded = mini(FileType::Q4_K_M);
    let mut scheduler = scheduler(&loaded, &options(128, 2), Duration::ZERO);
    let requests = [Request::new(Random(1).ids(70), 0), Request::new(Random(1).ids(128), 0)];
    let outcomes = together(&loaded, &mut scheduler, &requests, |_, _| {});
    for (outcome, n) in outcomes.iter().zip([70, 128]) {
        let ended = outcome.how.as_ref().unwrap();
        assert_eq!((ended.stop, ended.tokens, ended.read), (Stop::Length, 0, true));
        assert_eq!(ended.prefill.reused + ended.prefill.evaluated, n);
        assert!(outcome.seen.is_empty());
    }
}

/// A prompt that fills the context has one choice and no room for it.
#[test]
fn a_context_that_is_full_ends_the_answer() {
    let loaded = mini(FileType::Q4_K_M);
    let shared = options(128, 2);
    let mut scheduler = scheduler(&loaded, &shared, Duration::ZERO);
    let requests = [Request::new(Random(1).ids(128), 5), Request::new(Random(2).ids(120), 50)];
    let outcomes = together(&loaded, &mut scheduler, &requests, |_, _| {});
    for ((outcome, request), tokens) in outcomes.iter().zip(&requests).zip([0, 8]) {
        assert_same(outcome, &alone(&loaded, &shared, request), "full");
        assert_eq!((outcome.stop(), outcome.how.as_ref().unwrap().tokens), (Stop::ContextFull, tokens));
    }
}

/// A pool is never smaller than one conversation may be, whatever was asked for.
#[test]
fn a_pool_smaller_than_a_prompt_is_made_large_enough() {
    let loaded = mini(FileType::Q4_K_M);
    let shared = ContextOptions { n_positions: 64, ..options(256, 3) };
    let mut scheduler = scheduler(&loaded, &shared, Duration::ZERO);
    let requests: Vec<_> = (0..4).map(|i| Request::new(Random(i).ids(200 + i as usize), 60)).collect();
    let outcomes = together(&loaded, &mut scheduler, &requests, |_, _| {});
    for (outcome, request) in outcomes.iter().zip(&requests) {
        assert_same(outcome, &alone(&loaded, &shared, request), "one at a time");
    }
}

#[test]
fn a_hundred_wait_for_three_places() {
    let loaded = mini(FileType::Q4_K_M);
    let shared = options(128, 3);
    let mut scheduler = scheduler(&loaded, &shared, Duration::from_secs(1));
    let mut random = Random(51);
    let requests: Vec<_> = (0..100)
        .map(|i| {
            let (n, tokens) = (random.within(1, 40), random.within(1, 6));
            Request { seed: Some(i), ..Request::new(random.ids(n), tokens) }
        })
        .collect();
    let mut most = 0;
    let outcomes = together(&loaded, &mut scheduler, &requests, |_, queue| most = most.max(queue.running()));
    assert_eq!(most, 3);
    for (i, (outcome, request)) in outcomes.iter().zip(&requests).enumerate() {
        assert_same(outcome, &alone(&loaded, &shared, request), &format!("request {i}"));
    }
}

#[test]
fn with_nothing_to_do_a_step_does_nothing() {
    let loaded = mini(FileType::Q4_K_M);
    let mut scheduler = scheduler(&loaded, &options(128, 1), Duration::ZERO);
    let mut queue: Queue<crate::fixture::Listener> = Queue::new();
    let step = scheduler.step(&mut queue);
    assert_eq!(step, Step::default());
    assert!(step.is_idle());
}
