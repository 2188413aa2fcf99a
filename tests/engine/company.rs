//! The logits of an answer are the same to the bit, alone and in company.

use std::time::Duration;

use ocelli_convert::mixture::FileType;
use ocelli_engine::Stop;
use ocelli_kernels::{HalfWeights, Kernels};
use ocelli_quant::GgmlType;
use ocelli_runtime::{ContextOptions, Precision, Prompt};

use crate::fixture::{Random, Request, alone, assert_same, mini, options, scheduler, small, together};

const FORMATS: [FileType; 12] = [
    FileType::Q4_K_M,
    FileType::Q8_0,
    FileType::Q6_K,
    FileType::Q3_K_M,
    FileType::Q2_K,
    FileType::Q4_0,
    FileType::Q4_1,
    FileType::Q5_0,
    FileType::Q5_1,
    FileType::F16,
    FileType::BF16,
    FileType::F32,
];

/// A single token, a prompt that is cut, one that shares a block with it and a drawn answer: a few rows and many go together.
fn four() -> Vec<Request> {
    let mut random = Random(1);
    let long = random.ids(66);
    let mut shares = long[..65].to_vec();
    shares.extend(random.ids(4));
    let drawn = Request { seed: Some(3), arrives: 1, ..Request::new(random.ids(19), 3) };
    vec![
        Request::new(random.ids(1), 6),
        Request::new(long, 3),
        drawn,
        Request { arrives: 7, ..Request::new(shares, 2) },
    ]
}

/// Every format, on one instruction set, in both precisions and with both kinds of cache.
fn every_format(isa: &str) {
    let requests = four();
    for file_type in FORMATS {
        let mut loaded = mini(file_type);
        loaded.2 = Kernels::named(isa).unwrap();
        let is_half = matches!(file_type, FileType::F16 | FileType::BF16);
        let halves = if is_half { &[HalfWeights::F32, HalfWeights::FixedPoint][..] } else { &[HalfWeights::Fastest] };
        let caches = [GgmlType::F16, GgmlType::Q8_0];
        let precisions = [Precision::Fast, Precision::Exact];
        let choices = halves.iter().flat_map(|half| precisions.map(|precision| (*half, precision)));
        for ((half_weights, precision), cache) in choices.flat_map(|choice| caches.map(|cache| (choice, cache))) {
            // The slow one has each precision and each cache once.
            if isa == "scalar" && (precision == Precision::Fast) != (cache == GgmlType::F16) {
                continue;
            }
            let case = format!("{} {isa} {precision:?} {half_weights:?} {}", file_type.name(), cache.name());
            let options = ContextOptions {
                n_ubatch: 48,
                precision,
                half_weights,
                type_k: cache,
                type_v: cache,
                ..options(128, 4)
            };
            // No pause at all: the prompts are cut as short as they can be.
            let mut scheduler = scheduler(&loaded, &options, Duration::ZERO);
            let outcomes = together(&loaded, &mut scheduler, &requests, |_, _| {});
            for (i, (outcome, request)) in outcomes.iter().zip(&requests).enumerate() {
                assert_same(outcome, &alone(&loaded, &options, request), &format!("{case}, request {i}"));
            }
            assert!(outcomes[3].how.as_ref().unwrap().prefill.reused >= 64, "{case}: a block is shared");
        }
    }
}

/// The larger model: one KV head for all query heads, whose cache is kept as codes where attention multiplies such.
#[test]
fn a_shared_kv_head_is_the_same_in_company() {
    let (loaded, requests) = (small(FileType::Q4_K_M), four());
    let options = ContextOptions { n_ubatch: 48, ..options(128, 4) };
    let mut scheduler = scheduler(&loaded, &options, Duration::ZERO);
    let outcomes = together(&loaded, &mut scheduler, &requests, |_, _| {});
    for (i, (outcome, request)) in outcomes.iter().zip(&requests).enumerate() {
        assert_same(outcome, &alone(&loaded, &options, request), &format!("request {i}"));
    }
}

/// One thread for each instruction set.
#[test]
fn every_format_is_the_same_in_company() {
    std::thread::scope(|scope| {
        for kernels in Kernels::available() {
            scope.spawn(move || every_format(kernels.name()));
        }
    });
}

/// Requests of all kinds, many of which begin alike.
fn mix(random: &mut Random, n: usize, n_ctx: usize, n_embd: usize) -> Vec<Request> {
    let system = random.ids(90);
    let rows = random.within(1, 80);
    let picture = random.picture(rows, n_embd);
    (0..n)
        .map(|_| {
            let mut prompt = Prompt::default();
            if random.one_in(2) {
                prompt.push(&system[..random.pick(&[64, 70, 90])]);
            }
            if random.one_in(3) {
                prompt.push_rows(&picture, 0..picture.queries, 0);
            }
            let left = n_ctx - prompt.len();
            let own = if random.one_in(6) { random.within(left / 2, left) } else { random.within(1, left.min(80)) };
            prompt.push(&random.ids(own));
            Request {
                n_predict: if random.one_in(2) { 70 } else { random.within(0, 16) },
                seed: random.one_in(2).then(|| random.next()),
                arrives: random.within(0, 12),
                leaves: random.one_in(6).then(|| random.within(0, 60)),
                prompt,
            }
        })
        .collect()
}

/// Random mixes; gives how many were set back, ended for want of room, and were cancelled.
fn random_mixes(seeds: std::ops::Range<u64>) -> (usize, usize, usize) {
    let (mut set_back, mut full, mut interrupted) = (0, 0, 0);
    for seed in seeds {
        let mut random = Random(seed);
        let loaded = mini(random.pick(&[FileType::Q4_K_M, FileType::Q8_0, FileType::Q5_0, FileType::F16]));
        let n_ctx = random.pick(&[200, 256, 320, 700]);
        let n_parallel = random.within(2, 6);
        let (n_ubatch, pause) = (random.within(16, 512), random.pick(&[0, 1, 5, 1000]));
        let options = ContextOptions {
            n_positions: n_ctx + random.pick(&[0, 64, 200, 2000]),
            n_ubatch,
            n_threads: random.within(1, 2),
            precision: random.pick(&[Precision::Fast, Precision::Exact]),
            half_weights: random.pick(&[HalfWeights::F32, HalfWeights::FixedPoint]),
            type_k: random.pick(&[GgmlType::F16, GgmlType::Q8_0]),
            type_v: random.pick(&[GgmlType::F16, GgmlType::Q8_0]),
            ..options(n_ctx, n_parallel)
        };
        let n = random.within(2, 12);
        let requests = mix(&mut random, n, n_ctx, loaded.0.config().n_embd);
        let mut scheduler = scheduler(&loaded, &options, Duration::from_millis(pause));
        let outcomes = together(&loaded, &mut scheduler, &requests, |step, queue| {
            assert!(step.prompt_rows + step.answer_rows <= n_ubatch.max(n_parallel), "seed {seed}: too many rows");
            assert!(queue.running() <= n_parallel, "seed {seed}: too many together");
        });
        for (i, (outcome, request)) in outcomes.iter().zip(&requests).enumerate() {
            assert_same(outcome, &alone(&loaded, &options, request), &format!("seed {seed}, request {i}"));
            let ended = outcome.how.as_ref().unwrap();
            set_back += ended.set_back;
            full += usize::from(ended.stop == Stop::ContextFull);
            interrupted += usize::from(ended.stop == Stop::Interrupted);
        }
        let kv = scheduler.context().kv();
        assert_eq!(kv.n_available_blocks(), kv.n_blocks(), "seed {seed}: blocks are lost");
    }
    (set_back, full, interrupted)
}

#[test]
fn random_mixes_are_the_same_as_alone() {
    let (set_back, full, interrupted) = random_mixes(0..10);
    assert!(set_back > 0 && full > 0 && interrupted > 0, "nothing was tried: {set_back} {full} {interrupted}");
}
