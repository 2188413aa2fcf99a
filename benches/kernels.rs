//! The compute kernels at the shapes of MiniCPM-V 4.0, for every table that this machine runs but the scalar one.
//!
//! `cargo bench --bench kernels` measures all; `-- gemm/Q4_K` those whose name holds that. `THREADS` sets the number of
//! threads (1). Before a kernel is timed, its answer is compared with the scalar table's.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ocelli_kernels::measure::{SHAPES, Unit};
use ocelli_kernels::{
    ActBuf, ActNeeds, AttnScratch, AttnShape, AttnSpan, FEW_TOKENS, Kernels, KvBatch, KvBatchMut, KvLayout, KvSegment,
    Pool, Precision, SpanHeads, SpanScratch, WeightRef, attention, attention_spans, attention_unit, matmul, ops,
};
use ocelli_quant::GgmlType;

/// The formats of the model's usual files; `ocelli bench kernels` times all.
const FORMATS: [GgmlType; 5] = [GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::Q8_0, GgmlType::F16, GgmlType::Q4_0];

const TOKENS: [usize; 3] = [1, 8, 512];

/// Rows of the largest matrix that are used.
const MAX_ROWS: usize = 10240;

/// Different rows, which repeat: quantising is slow. No multiple of a tile.
const ROWS: usize = 17;

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

fn pool() -> Pool {
    Pool::new(std::env::var("THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1))
}

fn tables() -> impl Iterator<Item = Kernels> {
    Kernels::available().into_iter().filter(|k| k.name() != "scalar")
}

fn assert_close(got: &[f32], want: &[f32], allowed: f32, what: &str) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        // A NaN is not within any distance.
        assert!((got - want).abs() <= allowed, "{what}: {got} is not {want} at {i}");
    }
}

fn products(c: &mut Criterion) {
    let pool = pool();
    for ty in FORMATS {
        for shape in SHAPES.iter().filter(|s| ty.row_bytes(s.cols).is_ok()) {
            let (rows, cols) = (shape.rows.min(MAX_ROWS), shape.cols);
            let row_bytes = ty.row_bytes(cols).expect("the filter has asked");
            let mut pattern = vec![0; ROWS * row_bytes];
            for (row, bytes) in noise(ROWS * cols, 1).chunks_exact(cols).zip(pattern.chunks_exact_mut(row_bytes)) {
                ty.quantize_row(row, None, bytes).expect("the weights are finite");
            }
            let mut bytes = pattern.repeat(rows.div_ceil(ROWS));
            bytes.truncate(rows * row_bytes);
            let weight = WeightRef::new(ty, &bytes, rows, cols).expect("whole rows");
            for tokens in TOKENS {
                let x = bell(tokens * cols, 2);
                let run = |kernels: Kernels, precision, weight: &WeightRef<'_>, tokens: usize, out: &mut [f32]| {
                    let (mut act, needs) = (ActBuf::new(), ActNeeds::new(precision, [ty]));
                    act.fill(&pool, kernels, &x[..tokens * cols], tokens, cols, needs).expect("lengths fit");
                    matmul(&pool, kernels, weight, &act, out).expect("shapes fit");
                };
                let few = tokens.min(4);
                // As many as make weights that become fixed-point numbers do so.
                let known = tokens.min(FEW_TOKENS + 1);
                let mut want = vec![0f32; known * ROWS];
                let first = WeightRef::new(ty, &pattern, ROWS, cols).expect("whole rows");
                let kind = if tokens <= Kernels::best().few_tokens(ty) { "gemv" } else { "gemm" };
                let mut group = c.benchmark_group(format!("{kind}/{ty}/{}/{tokens}", shape.name));
                group.sample_size(10).throughput(Throughput::Elements((rows * cols * tokens) as u64));
                for kernels in tables() {
                    let mut out = vec![f32::NAN; tokens * rows];
                    run(kernels, Precision::Fast, &weight, tokens, &mut out);
                    let exact = kernels.unit(ty, tokens) == Unit::F32;
                    let precision = if exact { Precision::Exact } else { Precision::Fast };
                    run(Kernels::scalar(), precision, &first, known, &mut want);
                    for (t, out) in out.chunks_exact(rows).take(few).enumerate() {
                        for (i, got) in out.iter().enumerate() {
                            let want = want[t * ROWS + i % ROWS];
                            let allowed = 1e-4 * (cols as f32).sqrt();
                            assert_close(&[*got], &[want], allowed, &format!("{ty} {} {}", shape.name, kernels.name()));
                        }
                    }
                    let (mut act, needs) = (ActBuf::new(), ActNeeds::new(Precision::Fast, [ty]));
                    act.fill(&pool, kernels, &x, tokens, cols, needs).expect("lengths fit");
                    group.bench_function(kernels.name(), |b| {
                        b.iter(|| matmul(&pool, kernels, black_box(&weight), &act, &mut out));
                    });
                }
            }
        }
    }
}

/// Text attention: a prompt of 512 tokens, and one token behind 4096 positions.
fn text_attention(c: &mut Criterion) {
    let pool = pool();
    let (heads, kv_heads, head_dim) = (32, 2, 128);
    for ty in [GgmlType::F16, GgmlType::F32, GgmlType::Q8_0] {
        for (tokens, before) in [(512, 0), (1, 4096)] {
            let layout = KvLayout::new(ty, ty, kv_heads, head_dim, 64).expect("heads of whole blocks");
            let len = before + tokens;
            let blocks = layout.blocks_for(len);
            let table: Vec<u32> = (0..blocks as u32).collect();
            let (k_rows, v_rows) = (noise(len * kv_heads * head_dim, 3), noise(len * kv_heads * head_dim, 4));
            let filled = |layout: KvLayout| {
                let mut k = vec![0; blocks * layout.k_block_bytes()];
                let mut v = vec![0; blocks * layout.v_block_bytes()];
                let all = [KvSegment::alone(0, len, blocks)];
                let mut batch = KvBatchMut::new(layout, &mut k, &mut v, &table, &all).expect("the table covers it");
                batch.store(&pool, Kernels::scalar(), &k_rows, &v_rows).expect("room");
                (layout, k, v)
            };
            let (_, k, v) = filled(layout);
            let segments = |rows| [KvSegment::alone(before, rows, blocks)];
            let (four, all) = (segments(tokens.min(4)), segments(tokens));
            let batch = KvBatch::new(layout, &k, &v, &table, &four).expect("the table covers it");
            let q = noise(tokens * heads * head_dim, 5);
            let shape = AttnShape {
                n_heads: heads,
                scale: (head_dim as f32).sqrt().recip(),
                causal: true,
                precision: Precision::Fast,
            };
            let mut scratch = AttnScratch::new();
            let few = tokens.min(4) * heads * head_dim;
            // The plain code in f32 and in fixed point: a table is held to what it computes in itself.
            let mut plain = |precision| {
                let (shape, mut want) = (AttnShape { precision, ..shape }, vec![0f32; few]);
                attention(&pool, Kernels::scalar(), &mut scratch, shape, &q[..few], &batch, &mut want)
                    .expect("shapes fit");
                want
            };
            let (exact, fast) = (plain(Precision::Exact), plain(Precision::Fast));
            let mut group = c.benchmark_group(format!("attention/{ty}/{tokens}@{before}"));
            group.sample_size(10);
            for kernels in tables() {
                let mut out = vec![f32::NAN; q.len()];
                let (layout, k, v) = filled(layout.coded(kernels, shape.precision, heads / kv_heads));
                let batch = KvBatch::new(layout, &k, &v, &table, &all).expect("the table covers it");
                attention(&pool, kernels, &mut scratch, shape, &q, &batch, &mut out).expect("shapes fit");
                let unit = attention_unit(kernels, shape.precision, &layout, heads / kv_heads);
                assert_close(&out, if unit == Unit::F32 { &exact } else { &fast }, 1e-4, "attention");
                group.bench_function(kernels.name(), |b| {
                    b.iter(|| attention(&pool, kernels, &mut scratch, shape, black_box(&q), &batch, &mut out));
                });
            }
        }
    }
}

/// A slice of the vision tower: 1,024 patches, 16 heads of 72.
fn vision_attention(c: &mut Criterion) {
    let (pool, n) = (pool(), 1024);
    let heads = SpanHeads { n_heads: 16, head_dim: 72, scale: 72f32.sqrt().recip() };
    let width = heads.n_heads * heads.head_dim;
    let (q, k, v) = (noise(n * width, 6), noise(n * width, 7), noise(n * width, 8));
    let mut scratch = SpanScratch::new();
    let few = [AttnSpan { q: 0, n_q: 4, kv: 0, n_kv: n }];
    let mut want = vec![0f32; 4 * width];
    attention_spans(
        &pool,
        Kernels::scalar(),
        Precision::Fast,
        &mut scratch,
        heads,
        &few,
        &q[..4 * width],
        &k,
        &v,
        &mut want,
    )
    .expect("shapes fit");
    let spans = [AttnSpan { q: 0, n_q: n, kv: 0, n_kv: n }];
    let mut group = c.benchmark_group("attention_spans/1024x16x72");
    group.sample_size(10);
    for kernels in tables() {
        let mut out = vec![f32::NAN; n * width];
        attention_spans(&pool, kernels, Precision::Fast, &mut scratch, heads, &spans, &q, &k, &v, &mut out)
            .expect("shapes fit");
        assert_close(&out, &want, 1e-4, "attention over spans");
        group.bench_function(kernels.name(), |b| {
            b.iter(|| {
                attention_spans(
                    &pool,
                    kernels,
                    Precision::Fast,
                    &mut scratch,
                    heads,
                    &spans,
                    black_box(&q),
                    &k,
                    &v,
                    &mut out,
                )
            });
        });
    }
}

/// Norms and gated activations of 512 rows.
fn rows(c: &mut Criterion) {
    let (pool, n) = (pool(), 512);
    let (x, w, b) = (noise(n * 10240, 9), noise(10240, 10), noise(10240, 11));
    let run = |kernels: Kernels, kind: &str, out: &mut [f32]| match kind {
        "rmsnorm/2560" => ops::rmsnorm(&pool, kernels, &x[..n * 2560], &w[..2560], 1e-6, &mut out[..n * 2560]),
        "layer_norm/1152" => {
            ops::layer_norm(&pool, kernels, &x[..n * 1152], &w[..1152], &b[..1152], 1e-6, &mut out[..n * 1152])
        }
        "bias_gelu/4304" => ops::bias_gelu(&pool, kernels, &mut out[..n * 4304], &b[..4304]),
        _ => ops::swiglu(&pool, kernels, out, &x),
    };
    for kind in ["rmsnorm/2560", "layer_norm/1152", "bias_gelu/4304", "swiglu/10240"] {
        let mut want = x.clone();
        run(Kernels::scalar(), kind, &mut want).expect("lengths fit");
        let mut group = c.benchmark_group(format!("rows/{kind}"));
        group.sample_size(10);
        for kernels in tables() {
            let mut out = x.clone();
            run(kernels, kind, &mut out).expect("lengths fit");
            assert_close(&out, &want, 1e-4, kind);
            group.bench_function(kernels.name(), |b| b.iter(|| run(kernels, kind, black_box(&mut out))));
        }
    }
}

criterion_group!(benches, products, text_attention, vision_attention, rows);
criterion_main!(benches);
