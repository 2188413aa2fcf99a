//! Attention within spans against a plain f64 softmax, for every table.

mod common;

use common::{Failures, Rng, pool, tables};
use ocelli_kernels::{AttnSpan, Kernels, Pool, Precision, SpanHeads, SpanScratch, attention_spans};

struct Case {
    heads: SpanHeads,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(n_heads: usize, head_dim: usize, n_q: usize, n_kv: usize) -> Self {
        let mut rng = Rng::new((n_heads * 1000 + head_dim * 10 + n_q) as u64);
        let width = n_heads * head_dim;
        let heads = SpanHeads { n_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
        Self { heads, q: rng.vec(n_q * width, 3.0), k: rng.vec(n_kv * width, 3.0), v: rng.vec(n_kv * width, 1.0) }
    }

    fn width(&self) -> usize {
        self.heads.n_heads * self.heads.head_dim
    }

    fn run(&self, kernels: Kernels, precision: Precision, pool: &Pool, spans: &[AttnSpan]) -> Vec<f32> {
        let rows: usize = spans.iter().map(|s| s.n_q).sum();
        let mut out = vec![f32::NAN; rows * self.width()];
        let mut scratch = SpanScratch::new();
        let (heads, q, k, v) = (self.heads, &self.q, &self.k, &self.v);
        attention_spans(pool, kernels, precision, &mut scratch, heads, spans, q, k, v, &mut out).expect("fits");
        out
    }

    fn want(&self, spans: &[AttnSpan]) -> Vec<f64> {
        let SpanHeads { n_heads, head_dim, scale } = self.heads;
        let mut out = Vec::new();
        let at = |rows: &[f32], row: usize, head: usize| -> Vec<f64> {
            rows[(row * n_heads + head) * head_dim..][..head_dim].iter().map(|v| f64::from(*v)).collect()
        };
        for span in spans {
            for (row, head) in (span.q..span.q + span.n_q).flat_map(|r| (0..n_heads).map(move |h| (r, h))) {
                let q = at(&self.q, row, head);
                let keys = span.kv..span.kv + span.n_kv;
                let dot =
                    |key| q.iter().zip(at(&self.k, key, head)).map(|(a, b)| a * b).sum::<f64>() * f64::from(scale);
                let scores: Vec<f64> = keys.clone().map(dot).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut sum = vec![0f64; head_dim];
                for (key, weight) in keys.zip(weights) {
                    for (sum, v) in sum.iter_mut().zip(at(&self.v, key, head)) {
                        *sum += weight / total * v;
                    }
                }
                out.extend(sum);
            }
        }
        out
    }
}

/// Rounding of f32; or that of fixed-point numbers with eleven bits below their root mean square, of scores below 30.
fn tolerance(kernels: Kernels, precision: Precision) -> f64 {
    if precision == Precision::Fast && kernels.fixed_point() { 1e-3 } else { 2e-6 }
}

#[test]
fn spans_attend_to_their_own_keys_only() {
    let pool = pool();
    let mut failures = Failures::default();
    for kernels in tables() {
        for (n_heads, head_dim) in [(1, 1), (2, 72), (3, 17), (1, 128), (2, 16)] {
            let case = Case::new(n_heads, head_dim, 120, 150);
            let spans = [
                AttnSpan { q: 0, n_q: 1, kv: 0, n_kv: 1 },
                AttnSpan { q: 1, n_q: 49, kv: 1, n_kv: 33 },
                AttnSpan { q: 10, n_q: 0, kv: 0, n_kv: 0 },
                AttnSpan { q: 50, n_q: 64, kv: 34, n_kv: 100 },
                // Queries and keys may serve several spans, and overlap.
                AttnSpan { q: 50, n_q: 64, kv: 30, n_kv: 15 },
            ];
            let want = case.want(&spans);
            for precision in [Precision::Exact, Precision::Fast] {
                let got = case.run(kernels, precision, &pool, &spans);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let error = (f64::from(*got) - want).abs();
                    if error.is_nan() || error > tolerance(kernels, precision) {
                        let name = kernels.name();
                        failures.push(format!("{name} {precision:?} {n_heads}x{head_dim} element {i}: {got} {want}"));
                    }
                }
            }
        }
    }
    failures.check();
}

#[test]
fn a_span_depends_on_nothing_but_itself() {
    let case = Case::new(4, 72, 200, 200);
    let spans = [
        AttnSpan { q: 0, n_q: 97, kv: 0, n_kv: 97 },
        AttnSpan { q: 97, n_q: 101, kv: 97, n_kv: 101 },
        AttnSpan { q: 198, n_q: 2, kv: 198, n_kv: 2 },
    ];
    for kernels in tables() {
        for precision in [Precision::Exact, Precision::Fast] {
            let together = case.run(kernels, precision, &Pool::new(3), &spans);
            let mut apart = Vec::new();
            for span in spans {
                apart.extend(case.run(kernels, precision, &Pool::new(1), &[span]));
            }
            assert_eq!(together, apart, "{}", kernels.name());
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let pool = pool();
    let case = Case::new(2, 8, 4, 4);
    let run = |spans: &[AttnSpan], heads: SpanHeads, out: usize| {
        let mut out = vec![0.0; out];
        let mut scratch = SpanScratch::new();
        let (kernels, precision) = (Kernels::scalar(), Precision::Fast);
        attention_spans(&pool, kernels, precision, &mut scratch, heads, spans, &case.q, &case.k, &case.v, &mut out)
    };
    let span = AttnSpan { q: 0, n_q: 4, kv: 0, n_kv: 4 };
    assert!(run(&[span], case.heads, 64).is_ok());
    assert!(run(&[span], case.heads, 63).is_err());
    assert!(run(&[AttnSpan { kv: 1, ..span }], case.heads, 64).is_err());
    assert!(run(&[AttnSpan { q: usize::MAX, ..span }], case.heads, 64).is_err());
    assert!(run(&[AttnSpan { n_kv: 0, ..span }], case.heads, 64).is_err());
    assert!(run(&[span], SpanHeads { n_heads: 3, ..case.heads }, 64).is_err());
    assert!(run(&[span], SpanHeads { n_heads: 0, ..case.heads }, 64).is_err());
    assert!(run(&[], SpanHeads { n_heads: usize::MAX, ..case.heads }, 0).is_err());
}

#[test]
fn long_spans_take_smaller_tiles_and_endless_ones_are_refused() {
    let pool = pool();
    let case = Case::new(1, 1, 100, 200_000);
    let span = AttnSpan { q: 0, n_q: 100, kv: 0, n_kv: 40_000 };
    for (kernels, precision) in tables().into_iter().flat_map(|k| [(k, Precision::Exact), (k, Precision::Fast)]) {
        let got = case.run(kernels, precision, &pool, &[span]);
        for (got, want) in got.iter().zip(case.want(&[span])) {
            assert!((f64::from(*got) - want).abs() < 1e-4, "{} {precision:?}: {got} {want}", kernels.name());
        }
        let mut out = vec![0.0; 100];
        let spans = [AttnSpan { n_kv: 200_000, ..span }];
        let (heads, mut scratch) = (case.heads, SpanScratch::new());
        let (q, k, v) = (&case.q, &case.k, &case.v);
        let error = attention_spans(&pool, kernels, precision, &mut scratch, heads, &spans, q, k, v, &mut out)
            .expect_err("no room for the scores")
            .to_string();
        // As many as the message names do fit.
        let limit: usize =
            error.rsplit(|c: char| !c.is_ascii_digit()).find(|n| !n.is_empty()).unwrap().parse().unwrap();
        assert!(error.contains("200000"), "{error}");
        let spans = [AttnSpan { n_kv: limit, n_q: 1, ..span }];
        attention_spans(&pool, kernels, precision, &mut scratch, heads, &spans, q, k, v, &mut out[..1])
            .unwrap_or_else(|e| panic!("{}: {e}", kernels.name()));
    }
}
