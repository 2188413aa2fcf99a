//! Whose turn it is: nobody starves, arrival decides, and a prompt does not hold up answers under way.

use std::time::Duration;

use ocelli_convert::mixture::FileType;
use ocelli_engine::Queue;

use crate::fixture::{Random, Request, mini, options, scheduler};

/// Three answers without an end, then a prompt of 600: the rows of the prompt in each step until it is computed.
fn pieces(pause: Duration) -> Vec<usize> {
    let loaded = mini(FileType::Q4_K_M);
    let mut scheduler = scheduler(&loaded, &options(1024, 4), pause);
    let mut queue = Queue::new();
    // Prompts too short to learn a rate from.
    for i in 0..3 {
        queue.push(Request::new(Random(i).ids(1), 1000).generation(&loaded.1));
    }
    for _ in 0..10 {
        scheduler.step(&mut queue);
    }
    queue.push(Request::new(Random(9).ids(600), 5).generation(&loaded.1));
    let mut pieces = Vec::new();
    while pieces.iter().sum::<usize>() < 600 {
        assert!(pieces.len() < 100, "it starves: {pieces:?}");
        let step = scheduler.step(&mut queue);
        assert_eq!(step.answer_rows, 3, "every answer goes on in every step");
        pieces.push(step.prompt_rows);
    }
    assert_eq!(scheduler.step(&mut queue).answer_rows, 4);
    pieces
}

#[test]
fn beside_answers_a_prompt_is_cut_as_the_pause_says() {
    let shortest = pieces(Duration::ZERO);
    assert_eq!(shortest[0], 32, "before any rate is known");
    let (last, others) = shortest[1..].split_last().unwrap();
    assert!(others.iter().all(|rows| *rows == 16) && *last <= 16, "{shortest:?}");
    let longest = pieces(Duration::from_secs(3600));
    assert_eq!(longest, [32, 125, 125, 125, 125, 68], "as much as fits beside three answers");
}

#[test]
fn a_prompt_alone_is_computed_in_the_largest_pieces() {
    let loaded = mini(FileType::Q4_K_M);
    let mut scheduler = scheduler(&loaded, &options(1024, 4), Duration::ZERO);
    let mut queue = Queue::new();
    queue.push(Request::new(Random(9).ids(600), 5).generation(&loaded.1));
    let rows: Vec<_> = (0..5).map(|_| scheduler.step(&mut queue).prompt_rows).collect();
    assert_eq!(rows, [128, 128, 128, 128, 88]);
}

#[test]
fn first_come_first_served() {
    let loaded = mini(FileType::Q4_K_M);
    let mut scheduler = scheduler(&loaded, &options(512, 3), Duration::ZERO);
    let mut queue = Queue::new();
    // Long and short ones: a short one does not overtake.
    let lengths = [300, 20, 150, 5, 90, 400, 1, 60];
    for (i, n) in lengths.iter().enumerate() {
        queue.push(Request::new(Random(i as u64).ids(*n), 1).generation(&loaded.1));
    }
    let mut order = Vec::new();
    while !queue.is_empty() {
        scheduler.step(&mut queue);
        assert!(queue.running() <= 3);
        let mut ended = Vec::new();
        while let Some((mut generation, how)) = queue.take_ended() {
            how.unwrap();
            let n = generation.answer().seen.len();
            assert_eq!(n, 1);
            ended.push(generation.into_sequence().unwrap().len());
        }
        // Those of one step ended together.
        ended.sort_by_key(|len| lengths.iter().position(|n| n == len));
        order.extend(ended);
    }
    assert_eq!(order, lengths);
}
