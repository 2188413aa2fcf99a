//! Norms, rotary positions, activations and embedding rows of every table against f64.

mod common;

use common::{Fill, Rng, expand, pool, tables, weight};
use ocelli_kernels::{Kernels, RopePairs, WeightRef, ops};
use ocelli_quant::GgmlType;

/// Lengths around the vector widths.
const SIZES: &[usize] = &[1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100, 2560];

fn close(got: &[f32], want: &[f64], relative: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= relative * (w.abs() + 1e-6), "{what}: element {i} is {g}, not {w}");
    }
}

#[test]
fn rmsnorm_divides_by_the_root_mean_square() {
    let pool = pool();
    for kernels in tables() {
        for n in SIZES {
            let mut rng = Rng::new(*n as u64);
            let (x, w) = (rng.vec(3 * n, 3.0), rng.vec(*n, 1.0));
            let mut out = vec![f32::NAN; 3 * n];
            ops::rmsnorm(&pool, kernels, &x, &w, 1e-6, &mut out).expect("fits");
            let want: Vec<f64> = x
                .chunks_exact(*n)
                .flat_map(|x| {
                    let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64;
                    let scale = 1.0 / (mean + 1e-6).sqrt();
                    x.iter().zip(&w).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect::<Vec<_>>()
                })
                .collect();
            close(&out, &want, 1e-6, kernels.name());
        }
    }
}

#[test]
fn rope_rotates_both_kinds_of_pairs() {
    let pool = pool();
    for kernels in tables() {
        for (heads, head_dim, n_rot) in [(1, 2, 2), (3, 18, 18), (2, 72, 40), (32, 128, 128)] {
            let mut rng = Rng::new(head_dim as u64);
            let tokens = 3;
            let x = rng.vec(tokens * heads * head_dim, 1.0);
            let angles = rng.vec(tokens * n_rot / 2, 3.0);
            let table: Vec<f32> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
            for pairs in [RopePairs::Interleaved, RopePairs::Halves] {
                let mut got = x.clone();
                ops::rope(&pool, kernels, &mut got, heads, head_dim, n_rot, &table, pairs).expect("fits");
                let mut want: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
                for t in 0..tokens {
                    for h in 0..heads {
                        for i in 0..n_rot / 2 {
                            let (a, b) = match pairs {
                                RopePairs::Interleaved => (2 * i, 2 * i + 1),
                                RopePairs::Halves => (i, i + n_rot / 2),
                            };
                            let at = (t * heads + h) * head_dim;
                            let cs = &table[t * n_rot + 2 * i..][..2];
                            let (c, s) = (f64::from(cs[0]), f64::from(cs[1]));
                            let (x, y) = (want[at + a], want[at + b]);
                            (want[at + a], want[at + b]) = (x * c - y * s, y * c + x * s);
                        }
                    }
                }
                for (g, w) in got.iter().zip(&want) {
                    assert!((f64::from(*g) - w).abs() < 3e-7, "{} {pairs:?}: {g} {w}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn swiglu_add_softmax_and_dot() {
    let pool = pool();
    for kernels in tables() {
        for n in SIZES.iter().chain(&[70_000]) {
            let mut rng = Rng::new(*n as u64 + 9);
            let (gate, up) = (rng.vec(*n, 20.0), rng.vec(*n, 2.0));
            let mut got = gate.clone();
            ops::swiglu(&pool, kernels, &mut got, &up).expect("fits");
            let want: Vec<f64> = gate
                .iter()
                .zip(&up)
                .map(|(g, u)| f64::from(*g) / (1.0 + (-f64::from(*g)).exp()) * f64::from(*u))
                .collect();
            close(&got, &want, 1e-6, kernels.name());
            let mut got = gate.clone();
            ops::add(&pool, kernels, &mut got, &up).expect("fits");
            let sums: Vec<f32> = gate.iter().zip(&up).map(|(a, b)| a + b).collect();
            assert_eq!(got, sums);
            let mut got = gate.clone();
            ops::softmax(kernels, &mut got);
            let max = gate.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps: Vec<f64> = gate.iter().map(|v| (f64::from(*v) - f64::from(max)).exp()).collect();
            let total: f64 = exps.iter().sum();
            let want: Vec<f64> = exps.iter().map(|e| e / total).collect();
            // The sum of n terms may run in order.
            close(&got, &want, 1e-5 + 6e-8 * *n as f64, kernels.name());
            let dot = ops::dot(kernels, &gate, &up).expect("fits");
            let want: f64 = gate.iter().zip(&up).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(dot) - want).abs() < 1e-6 * 40.0 * *n as f64, "{}: {dot} {want}", kernels.name());
        }
    }
}

#[test]
fn layer_norm_centres_and_scales() {
    let pool = pool();
    for kernels in tables() {
        for n in SIZES.iter().filter(|n| **n > 1).chain(&[1152]) {
            let mut rng = Rng::new(*n as u64 + 5);
            // A mean far from zero, as in the residual stream of a vision tower.
            let x: Vec<f32> = rng.vec(3 * n, 3.0).iter().map(|v| v + 20.0).collect();
            let (w, b) = (rng.vec(*n, 2.0), rng.vec(*n, 1.0));
            let mut out = vec![f32::NAN; 3 * n];
            ops::layer_norm(&pool, kernels, &x, &w, &b, 1e-6, &mut out).expect("fits");
            for (x, out) in x.chunks_exact(*n).zip(out.chunks_exact(*n)) {
                let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / *n as f64;
                let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / *n as f64;
                for (((x, w), b), got) in x.iter().zip(&w).zip(&b).zip(out) {
                    let want = (f64::from(*x) - mean) / (variance + 1e-6).sqrt() * f64::from(*w) + f64::from(*b);
                    // The mean of values near 20 is known to a few of their last bits.
                    let bound = 1e-5 * (1.0 + 1.0 / variance.sqrt());
                    assert!((f64::from(*got) - want).abs() < bound, "{} {n}: {got} {want}", kernels.name());
                }
            }
        }
        assert!(ops::layer_norm(&pool, kernels, &[1.0; 4], &[1.0; 2], &[1.0; 3], 0.0, &mut [0.0; 4]).is_err());
        assert!(ops::layer_norm(&pool, kernels, &[1.0; 5], &[1.0; 2], &[1.0; 2], 0.0, &mut [0.0; 5]).is_err());
    }
}

#[test]
fn gelu_is_the_tanh_form() {
    let pool = pool();
    // Values computed by an independent program.
    let known = [
        (-3.0, -0.003_637_39),
        (-1.0, -0.158_808_01),
        (-0.5, -0.154_285_99),
        (0.5, 0.345_714_01),
        (1.0, 0.841_191_99),
        (3.0, 2.996_362_61),
    ];
    for kernels in tables() {
        for (x, want) in known {
            let mut got = [x];
            ops::bias_gelu(&pool, kernels, &mut got, &[0.0]).expect("fits");
            assert!(
                (f64::from(got[0]) - want).abs() < 3e-8 + 1e-7 * want.abs(),
                "{}: gelu({x}) = {}",
                kernels.name(),
                got[0]
            );
        }
        let mut x: Vec<f32> = (-60_000..60_000).map(|i| i as f32 * 2e-4).collect();
        let want: Vec<f64> = x
            .iter()
            .map(|v| {
                let v = f64::from(*v);
                let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
                v / (1.0 + (-twice).exp())
            })
            .collect();
        ops::bias_gelu(&pool, kernels, &mut x, &[0.0; 100]).expect("fits");
        for (got, want) in x.iter().zip(&want) {
            // Relative also where the result nearly vanishes; the argument of exp carries its own rounding there.
            let bound = 1e-5 * want.abs() + 1e-12;
            assert!((f64::from(*got) - want).abs() < bound, "{}: {got} {want}", kernels.name());
        }
        let mut ends = [f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY, f32::NAN, -0.0];
        ops::bias_gelu(&pool, kernels, &mut ends, &[0.0]).expect("fits");
        assert!(ends[1].abs() < 1e-6, "{}: {}", kernels.name(), ends[1]);
        assert_eq!((ends[2], ends[3], ends[5]), (1e30, f32::INFINITY, 0.0));
        assert!(ends[4].is_nan());
    }
}

#[test]
fn biases_are_added_to_every_row() {
    let pool = pool();
    for kernels in tables() {
        for n in SIZES {
            let mut rng = Rng::new(*n as u64 + 77);
            let (x, y, b) = (rng.vec(30 * n, 2.0), rng.vec(30 * n, 2.0), rng.vec(*n, 2.0));
            let mut got = x.clone();
            ops::add_bias(&pool, kernels, &mut got, &b).expect("fits");
            assert!(got.iter().zip(&x).enumerate().all(|(i, (g, x))| *g == x + b[i % n]));
            let mut got = x.clone();
            ops::add_biased(&pool, kernels, &mut got, &y, &b).expect("fits");
            assert!(got.iter().enumerate().all(|(i, g)| *g == x[i] + (y[i] + b[i % n])));
            assert!(ops::add_biased(&pool, kernels, &mut got, &y[1..], &b).is_err());
        }
        assert!(ops::add_bias(&pool, kernels, &mut [0.0; 5], &[1.0; 2]).is_err());
    }
}

#[test]
fn extremes_of_the_activations() {
    let pool = pool();
    for kernels in tables() {
        let mut gate = vec![f32::NEG_INFINITY, -200.0, -0.0, 200.0, f32::MAX, f32::NAN];
        gate.resize(20, 1.0);
        ops::swiglu(&pool, kernels, &mut gate, &[1.0; 20]).expect("fits");
        assert!(gate[1] == 0.0 || gate[1].abs() < 1e-30, "{}: {}", kernels.name(), gate[1]);
        assert_eq!((gate[2], gate[3], gate[4]), (0.0, 200.0, f32::MAX));
        assert!(gate[5].is_nan());
        let mut scores = vec![f32::NEG_INFINITY; 19];
        scores[3] = 5.0;
        ops::softmax(kernels, &mut scores);
        assert_eq!(scores[3], 1.0);
        assert_eq!(scores.iter().sum::<f32>(), 1.0);
    }
}

#[test]
fn magnitudes_are_the_same_with_every_table() {
    for n in [0, 1, 15, 16, 17, 500, 1152] {
        let mut row = Rng::new(n as u64).vec(n, 3.0);
        let want = ops::magnitudes(Kernels::scalar(), &row);
        let sum: f64 = row.iter().map(|v| f64::from(v.abs())).sum();
        assert!((f64::from(want.0) - sum).abs() <= 1e-6 * sum);
        assert_eq!(want.1, row.iter().fold(0f32, |m, v| m.max(v.abs())));
        for kernels in tables() {
            assert_eq!(ops::magnitudes(kernels, &row), want, "{}", kernels.name());
            for value in [f32::NAN, f32::INFINITY] {
                let Some(last) = row.last_mut() else { continue };
                let before = std::mem::replace(last, value);
                assert!(!ops::magnitudes(kernels, &row).0.is_finite(), "{}", kernels.name());
                row[n - 1] = before;
            }
        }
    }
}

#[test]
fn embedding_rows_are_the_definition() {
    for kernels in tables() {
        for ty in GgmlType::ALL {
            let bytes = weight(*ty, 5, 512, Fill::Random, &mut Rng::new(4));
            let w = WeightRef::new(*ty, &bytes, 5, 512).expect("fits");
            let all = expand(*ty, &bytes, 5, 512);
            let mut got = vec![f32::NAN; 3 * 512];
            ops::lookup_rows(kernels, &w, &[4, 0, 4], &mut got).expect("rows exist");
            assert_eq!(got[..512], all[4 * 512..]);
            assert_eq!(got[512..1024], all[..512]);
            assert_eq!(got[1024..], all[4 * 512..]);
            assert!(ops::lookup_rows(kernels, &w, &[5], &mut got[..512]).is_err());
        }
    }
}
