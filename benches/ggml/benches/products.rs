//! The same products through our kernels and ggml's, in one process, one thread each.
//!
//! `cd benches/ggml && cargo bench` measures all; `-- Q4_K` those whose name holds `Q4_K`. Before a product is timed, both
//! answers are compared: both programs round activations to 8 bits, each in its own way, so they may differ by 2 % of the
//! size that a sum of random products has (0.1 % for float weights). `THREADS` sets the number of threads.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ocelli_bench_ggml::Product;
use ocelli_kernels::measure::{SHAPES, Shape};
use ocelli_kernels::{ActBuf, ActNeeds, Kernels, Pool, Precision, WeightRef, matmul};
use ocelli_quant::GgmlType;

const FORMATS: [GgmlType; 7] =
    [GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::F16, GgmlType::F32];

const TOKENS: [usize; 3] = [1, 8, 512];

/// Rows of the largest matrix that are used: more say nothing new and take long.
const MAX_ROWS: usize = 10240;

/// Numbers that look random and are spread like those of [`noise`], but bell-shaped, as the activations of models are.
fn bell(n: usize, seed: u64) -> Vec<f32> {
    noise(6 * n, seed).chunks(6).map(|six| six.iter().sum::<f32>() / 6f32.sqrt()).collect()
}

/// Numbers that look random, between −1 and 1, the same every time.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// 61 different rows, repeated: quantising is slow.
fn weights(ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
    let row_bytes = ty.row_bytes(cols).expect("the caller has chosen a width that divides into blocks");
    let mut pattern = vec![0; 61 * row_bytes];
    for (row, bytes) in noise(61 * cols, 1).chunks_exact(cols).zip(pattern.chunks_exact_mut(row_bytes)) {
        ocelli_kernels::quantize::RowCodec::best().quantize_row(ty, row, None, bytes).expect("finite weights");
    }
    let mut all = pattern.repeat(rows.div_ceil(61));
    all.truncate(rows * row_bytes);
    all
}

fn compare(ours: &[f32], theirs: &[f32], name: &str, ty: GgmlType, cols: usize) {
    // A sum of `cols` products of two numbers that are uniform in −1…1 has a standard deviation of √cols / 3.
    let size = (cols as f32).sqrt() / 3.0;
    let allowed = if ty.is_quantized() { 0.02 } else { 0.001 } * size;
    let (mut squares, mut largest) = (0f64, 0f32);
    for (a, b) in ours.iter().zip(theirs) {
        let difference = (a - b).abs();
        assert!(difference.is_finite(), "{name}: {a} and {b}");
        squares += f64::from(difference).powi(2);
        largest = largest.max(difference);
    }
    let rms = (squares / ours.len() as f64).sqrt();
    assert!(rms <= f64::from(allowed), "{name}: the answers differ by {rms} (rms), {allowed} is allowed");
    eprintln!("{name}: answers differ by {rms:.2e} (rms), {largest:.2e} at most, of about {size:.1}");
}

fn products(c: &mut Criterion) {
    let threads = std::env::var("THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (pool, kernels) = (Pool::new(threads), Kernels::best());
    for ty in FORMATS {
        for &Shape { name, rows, cols } in SHAPES {
            if ty.row_bytes(cols).is_err() {
                continue;
            }
            let rows = rows.min(MAX_ROWS);
            let bytes = weights(ty, rows, cols);
            let weight = WeightRef::new(ty, &bytes, rows, cols).expect("whole rows");
            for tokens in TOKENS {
                let name = format!("{ty}/{name}/{tokens}");
                let x = bell(tokens * cols, 2);
                let mut out = vec![f32::NAN; tokens * rows];
                let mut act = ActBuf::new();
                let needs = ActNeeds::new(Precision::Fast, [ty]);
                // Quantising activations is part of both, since it is part of ggml's.
                let mut ours = || {
                    act.fill(&pool, kernels, &x, tokens, cols, needs).expect("lengths fit");
                    matmul(&pool, kernels, &weight, &act, &mut out).expect("shapes fit");
                };
                let mut group = c.benchmark_group(&name);
                group.sample_size(10).throughput(Throughput::Elements((rows * cols * tokens) as u64));
                ours();
                let mut theirs = Product::new(ty, &bytes, (rows, cols), &x, tokens, threads).expect("ggml takes it");
                theirs.run().expect("ggml computes it");
                group.bench_function(format!("ocelli, {}", kernels.name()), |b| b.iter(&mut ours));
                compare(&out, theirs.out(), &name, ty, cols);
                group.bench_function("ggml", |b| b.iter(|| black_box(theirs.run())));
                group.finish();
            }
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
