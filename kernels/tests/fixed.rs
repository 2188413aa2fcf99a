//! Products in 16-bit fixed point against f64, within the bound that their scales promise.

mod common;

use common::{Failures, Rng, expand, pool, tables};
use ocelli_kernels::{ActBuf, ActNeeds, FEW_TOKENS, Kernels, Precision, WeightRef, matmul};
use ocelli_quant::GgmlType;

/// Values that share a scale.
const UNIT: usize = 256;

/// Error of a unit's sum, times both norms: 256 codes are off by at most ½, so the vectors by 8 of 32752 and 8 of 32767 at
/// least, and the rest is rounding of f32.
const BOUND: f64 = 8.0 / 32_752.0 + 8.0 / 32_767.0 + 1e-6;

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

struct Case {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    w: Vec<f32>,
    x: Vec<f32>,
}

impl Case {
    fn run(&self, kernels: Kernels) -> (Vec<f32>, Vec<f32>) {
        let mut bytes = vec![0; self.rows * self.ty.row_bytes(self.cols).expect("one value a block")];
        self.ty.quantize_row(&self.w, None, &mut bytes).expect("finite");
        let tokens = self.x.len() / self.cols;
        assert!(tokens > FEW_TOKENS, "fewer are multiplied in f32");
        let mut act = ActBuf::new();
        let needs = ActNeeds::new(Precision::Fast, [self.ty]).rounded();
        act.fill(&pool(), kernels, &self.x, tokens, self.cols, needs).expect("fits");
        let weight = WeightRef::new(self.ty, &bytes, self.rows, self.cols).expect("fits");
        let mut out = vec![f32::NAN; tokens * self.rows];
        matmul(&pool(), kernels, &weight, &act, &mut out).expect("fits");
        (out, expand(self.ty, &bytes, self.rows, self.cols))
    }

    /// Results and bounds on their errors, token after token.
    fn want(&self, w: &[f32]) -> Vec<(f64, f64)> {
        let each = |x: &[f32], w: &[f32]| {
            let pairs = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let bound = x.chunks(UNIT).zip(w.chunks(UNIT)).map(|(x, w)| norm(x) * norm(w) * BOUND).sum::<f64>();
            (pairs.sum(), bound)
        };
        self.x.chunks(self.cols).flat_map(|x| w.chunks(self.cols).map(move |w| each(x, w))).collect()
    }
}

fn fixed_tables() -> impl Iterator<Item = Kernels> {
    tables().into_iter().filter(Kernels::fixed_point)
}

#[test]
fn products_stay_within_their_bound() {
    let mut failures = Failures::default();
    for kernels in fixed_tables() {
        for ty in [GgmlType::F16, GgmlType::BF16, GgmlType::F32] {
            let sizes = [(1, 1, 1), (16, 2, 2), (17, 72, 3), (33, 255, 4), (5, 257, 9), (19, 1152, 5), (16, 700, 84)];
            for (rows, cols, more) in sizes {
                let tokens = FEW_TOKENS + more;
                let mut rng = Rng::new((rows * cols + tokens) as u64);
                let case = Case { ty, rows, cols, w: rng.vec(rows * cols, 1.0), x: rng.vec(tokens * cols, 2.0) };
                let (got, w) = case.run(kernels);
                let (mut squares, mut bounds) = (0.0, 0.0);
                for (i, (got, (want, bound))) in got.iter().zip(case.want(&w)).enumerate() {
                    let error = (f64::from(*got) - want).abs();
                    if error.is_nan() || error > bound {
                        failures.push(format!("{} {ty} {rows}×{cols}: {i} is {got}, not {want}", kernels.name()));
                    }
                    squares += error * error;
                    bounds += bound * bound;
                }
                // Errors are random, so that few come near what is possible.
                if rows * tokens > 80 && cols > 70 && squares > bounds / 100.0 {
                    failures.push(format!("{} {ty} {rows}×{cols}: errors are too large", kernels.name()));
                }
            }
        }
    }
    failures.check();
}

/// All codes at the largest norm on both sides, all products of one sign: were a sum to leave 32 bits, it would change its
/// sign.
#[test]
fn sums_do_not_overflow() {
    for kernels in fixed_tables() {
        for cols in [1, 2, 16, 255, 256, 512] {
            for (size, sign) in [(1.0, 1.0), (1.0, -1.0), (60_000.0, -1.0), (1e-4, 1.0)] {
                let case = Case {
                    ty: GgmlType::F16,
                    rows: 3,
                    cols,
                    w: vec![size; 3 * cols],
                    x: vec![sign * 1e20; (FEW_TOKENS + 3) * cols],
                };
                let (got, w) = case.run(kernels);
                for (got, (want, bound)) in got.iter().zip(case.want(&w)) {
                    assert!((f64::from(*got) - want).abs() <= bound, "{} {cols}: {got} {want}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn values_beside_large_ones_keep_their_precision() {
    let (rows, cols, tokens) = (16, 512, FEW_TOKENS + 8);
    for kernels in fixed_tables() {
        let mut rng = Rng::new(5);
        let mut case =
            Case { ty: GgmlType::F16, rows, cols, w: rng.vec(rows * cols, 1.0), x: rng.vec(tokens * cols, 1.0) };
        for x in case.x.chunks_mut(cols) {
            x[7] = 500.0;
        }
        for w in case.w.chunks_mut(cols) {
            w[7] = 0.0;
        }
        let (got, w) = case.run(kernels);
        let errors: f64 = got.iter().zip(case.want(&w)).map(|(got, (want, _))| (f64::from(*got) - want).powi(2)).sum();
        let sizes: f64 = case.want(&w).iter().map(|(want, _)| want * want).sum();
        // Eight bits would leave the neighbours nothing: 500 / 127 is more than the largest of them.
        assert!((errors / sizes).sqrt() < 0.01, "{}: {}", kernels.name(), (errors / sizes).sqrt());
    }
}

#[test]
fn what_is_not_finite_shows_and_stays_in_its_row() {
    for kernels in fixed_tables() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rng = Rng::new(3);
            let mut case =
                Case { ty: GgmlType::F16, rows: 18, cols: 300, w: rng.vec(18 * 300, 1.0), x: rng.vec(20 * 300, 1.0) };
            case.x[2 * 300 + 270] = value;
            let (got, _) = case.run(kernels);
            for (t, row) in got.chunks(18).enumerate() {
                assert!(row.iter().all(|v| v.is_finite() == (t != 2)), "{} token {t}: {row:?}", kernels.name());
            }
        }
    }
}
