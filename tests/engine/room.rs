//! A pool that is too small for all: later, but right.

use std::time::Duration;

use ocelli_convert::mixture::FileType;
use ocelli_engine::{Queue, Stop};
use ocelli_runtime::ContextOptions;

use crate::fixture::{Outcome, Random, Request, alone, assert_same, mini, options, scheduler, together};

#[test]
fn generations_that_are_set_back_complete_all_the_same() {
    let loaded = mini(FileType::Q4_K_M);
    let options = ContextOptions { n_positions: 640, ..options(320, 4) };
    let mut random = Random(5);
    let requests: Vec<_> = (0..4).map(|i| Request { seed: Some(i), ..Request::new(random.ids(100), 200) }).collect();
    let mut scheduler = scheduler(&loaded, &options, Duration::from_secs(1));
    let mut steps = 0;
    let outcomes = together(&loaded, &mut scheduler, &requests, |_, _| steps += 1);
    let mut set_back = 0;
    for (i, (outcome, request)) in outcomes.iter().zip(&requests).enumerate() {
        assert_same(outcome, &alone(&loaded, &options, request), &format!("request {i}"));
        set_back += outcome.how.as_ref().unwrap().set_back;
    }
    assert!((1..=6).contains(&set_back), "set back {set_back} times");
    assert!(steps < 4 * 210, "as many steps as one after the other: {steps}");
    assert_eq!(outcomes[0].how.as_ref().unwrap().set_back, 0, "the oldest never waits again");
}

/// A generation that has ended but has not been taken yet does not keep the next one from its blocks.
#[test]
fn what_ended_makes_room_before_it_is_taken() {
    let loaded = mini(FileType::Q4_K_M);
    let options = ContextOptions { n_positions: 256, ..options(256, 2) };
    let mut random = Random(6);
    let (first, second) = (Request::new(random.ids(200), 10), Request::new(random.ids(250), 3));
    for cancel in [false, true] {
        let mut scheduler = scheduler(&loaded, &options, Duration::from_secs(1));
        let mut queue = Queue::new();
        let mut generation = first.generation(&loaded.1);
        let switch = generation.answer().cancelled.clone();
        queue.push(generation);
        for _ in 0..4 {
            scheduler.step(&mut queue);
        }
        queue.push(second.generation(&loaded.1));
        switch.set(cancel);
        while !queue.is_empty() {
            assert!(!scheduler.step(&mut queue).is_idle(), "nothing goes on");
        }
        let (generation, how) = queue.take_ended().unwrap();
        assert_eq!(how.unwrap().stop, if cancel { Stop::Interrupted } else { Stop::Length });
        drop(generation);
        let (generation, how) = queue.take_ended().unwrap();
        let case = format!("cancelled: {cancel}");
        assert_same(&Outcome::of(generation, how), &alone(&loaded, &options, &second), &case);
    }
}

/// A prompt that begins in the middle of a block that others went on from, and needs every block there is.
#[test]
fn a_shared_beginning_never_costs_the_last_block() {
    let loaded = mini(FileType::Q4_K_M);
    let options = ContextOptions { n_positions: 256, n_ubatch: 256, ..options(256, 1) };
    let mut random = Random(7);
    let first = random.ids(140);
    for common in [1, 30, 63, 64, 65, 100, 139] {
        let mut scheduler = scheduler(&loaded, &options, Duration::from_secs(1));
        let mut prompt = first[..common].to_vec();
        prompt.extend(random.ids(255 - common));
        let requests = [Request::new(first.clone(), 2), Request { arrives: 9, ..Request::new(prompt, 2) }];
        let outcomes = together(&loaded, &mut scheduler, &requests, |_, _| {});
        for (outcome, request) in outcomes.iter().zip(&requests) {
            assert_same(outcome, &alone(&loaded, &options, request), &format!("{common} in common"));
        }
        assert_eq!(outcomes[1].how.as_ref().unwrap().prefill.reused, common);
    }
}
