//! Beginnings that another conversation has computed are not computed again.

use std::time::Duration;

use ocelli_convert::mixture::FileType;
use ocelli_engine::Prefill;
use ocelli_runtime::{ContextOptions, Prompt};

use crate::fixture::{Loaded, Random, Request, alone, assert_same, mini, options, scheduler, together};

/// 100 tokens of a system prompt, 64 rows of a picture, and `own` tokens of a question.
fn conversation(loaded: &Loaded, question: u64, own: usize) -> Prompt {
    let mut random = Random(11);
    let mut prompt = Prompt::from(random.ids(100));
    prompt.push_rows(&random.picture(64, loaded.0.config().n_embd), 0..64, 0);
    prompt.push(&Random(1000 + question).ids(own));
    prompt
}

fn prefill(loaded: &Loaded, requests: &[Request], shared: &ContextOptions) -> Vec<Prefill> {
    let mut scheduler = scheduler(loaded, shared, Duration::from_secs(1));
    let outcomes = together(loaded, &mut scheduler, requests, |_, _| {});
    for (i, (outcome, request)) in outcomes.iter().zip(requests).enumerate() {
        assert_same(outcome, &alone(loaded, shared, request), &format!("request {i}"));
    }
    outcomes.iter().map(|outcome| outcome.how.as_ref().unwrap().prefill).collect()
}

#[test]
fn a_known_beginning_is_found_while_its_first_user_runs_and_afterwards() {
    let loaded = mini(FileType::Q4_K_M);
    let first = Request::new(conversation(&loaded, 1, 40), 30);
    // Between the two others come and go.
    let others = (0..3).map(|i| Request { arrives: 40 + i, ..Request::new(Random(i as u64).ids(90), 5) });
    for arrives in [3, 20, 35, 70] {
        let second = Request { arrives, ..Request::new(conversation(&loaded, 2, 33), 4) };
        let requests: Vec<_> = [first.clone(), second].into_iter().chain(others.clone()).collect();
        let found = prefill(&loaded, &requests, &options(512, 4));
        assert_eq!(found[0], Prefill { reused: 0, evaluated: 204 });
        assert_eq!(found[1], Prefill { reused: 164, evaluated: 33 }, "arriving before step {arrives}");
    }
}

#[test]
fn of_the_same_prompt_only_the_last_position_is_computed_again() {
    let loaded = mini(FileType::Q4_K_M);
    let prompt = conversation(&loaded, 1, 40);
    let same = |arrives| Request { arrives, ..Request::new(prompt.clone(), 5) };
    let found = prefill(&loaded, &[same(0), same(30), same(31)], &options(512, 4));
    assert_eq!(found[1], Prefill { reused: 203, evaluated: 1 });
    // While the second writes its own answer behind the shared positions, the third finds the same ones.
    assert_eq!(found[2], Prefill { reused: 203, evaluated: 1 });
}

/// Pictures with equal ids but other rows are not taken for each other.
#[test]
fn another_picture_is_another_beginning() {
    let loaded = mini(FileType::Q4_K_M);
    let n_embd = loaded.0.config().n_embd;
    let show = |seed: u64| {
        let mut prompt = Prompt::from(Random(11).ids(100));
        prompt.push_rows(&Random(seed).picture(64, n_embd), 0..64, 0);
        prompt.push(&Random(5).ids(40));
        prompt
    };
    let requests = [Request::new(show(1), 4), Request { arrives: 20, ..Request::new(show(2), 4) }];
    let found = prefill(&loaded, &requests, &options(512, 2));
    assert_eq!(found[1], Prefill { reused: 100, evaluated: 104 });
}

#[test]
fn what_was_dropped_for_others_is_computed_again() {
    let loaded = mini(FileType::Q4_K_M);
    let shared = ContextOptions { n_positions: 512, ..options(512, 2) };
    let crowd = (0..4).map(|i| Request { arrives: 20 + 10 * i, ..Request::new(Random(i as u64).ids(300), 3) });
    let ask = |question, arrives| Request { arrives, ..Request::new(conversation(&loaded, question, 40), 4) };
    let requests: Vec<_> = [ask(1, 0), ask(2, 100), ask(3, 120)].into_iter().chain(crowd).collect();
    let found = prefill(&loaded, &requests, &shared);
    assert_eq!(found[1], Prefill { reused: 0, evaluated: 204 }, "the others needed every block");
    assert_eq!(found[2], Prefill { reused: 164, evaluated: 40 }, "it is known again");
}
