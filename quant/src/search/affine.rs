//! Codes `0…n_max` with a scale and a minimum: `x ≈ scale·l + min`, `min ≤ 0`.

use super::code;
use crate::lanes::{Lanes, Mask, Simd, Task};

/// What to try, and how to judge it.
#[derive(Debug, Clone, Copy)]
pub struct Params {
    /// Largest code.
    pub n_max: f32,
    /// The first trial spreads the group over `n_max + first` steps.
    pub first: f32,
    /// Each further trial over this many more.
    pub step: f32,
    /// Number of the last trial; they count from 0.
    pub last: u32,
    /// Whether the error is the weighted sum of magnitudes and not of squares.
    pub absolute: bool,
}

/// The best fit of each group.
#[derive(Debug, Clone, Copy)]
pub struct Fit<F> {
    /// Scale; zero for a group that is all one value ≤ 0.
    pub scale: F,
    /// Minimum with its sign turned, hence ≥ 0 for ordinary data.
    pub neg_min: F,
    /// The codes are `clamp(nearest(code_scale·(x − code_min)), 0, n_max)`.
    pub code_scale: F,
    /// See `code_scale`.
    pub code_min: F,
}

/// Searches scale and minimum of one group per lane, with weights `w`.
///
/// # Method
/// The group's range gives a first `min` and scale. Each trial takes a slightly different inverse scale, computes the
/// codes, solves the 2×2 normal equations of `Σ w·(scale·l + min − x)²` (with `min` held at 0 if it came out
/// positive) and is accepted if its error is less than the best so far. An accepted `min` moves the origin of the
/// codes of later trials, while the upper end of the range stays.
pub struct Search<'a, F, const N: usize> {
    /// The groups' values, transposed.
    pub x: &'a [F; N],
    /// Their weights.
    pub w: &'a [F; N],
    /// What to try.
    pub params: Params,
}

impl<S: Simd, const N: usize> Task<S> for Search<'_, S::F, N> {
    type Output = Fit<S::F>;

    #[inline(always)]
    fn run(self, s: S) -> Fit<S::F> {
        let Self { x, w, params: p } = self;
        let (zero, n_max) = (s.splat(0.0), s.splat(p.n_max));
        let (mut low, mut high) = (x[0], x[0]);
        let mut sum_w = w[0];
        let mut sum_x = w[0] * x[0];
        for (x, w) in x.iter().zip(w).skip(1) {
            low = x.min(low);
            high = x.max(high);
            sum_w = sum_w + *w;
            sum_x = sum_x + *w * *x;
        }
        let bounds = [low, high];
        let low = S::F::select(low.gt(zero), zero, low);
        let flat = high.eq(low);
        let mut fit = Fit { scale: zero, neg_min: -low, code_scale: zero, code_min: low };
        if flat.all() {
            return fit;
        }
        // Codes are exact integers in f32.
        let mut l = [zero; N];
        let mut min = low;
        let mut best = zero;
        // Trial 0 takes scale and minimum from the range itself and is the one to beat.
        for trial in 0..=p.last + 1 {
            let steps = if trial == 0 { p.n_max } else { p.first + p.step * (trial - 1) as f32 + p.n_max };
            let iscale = s.splat(steps) / (high - min);
            trial_codes(s, x, iscale, min, bounds, n_max, &mut l);
            let (trial_scale, trial_min, regular) =
                if trial == 0 { (s.splat(1.0) / iscale, min, zero.eq(zero)) } else { solve(s, x, w, &l, sum_w, sum_x) };
            let err = error(s, x, w, &l, trial_scale, trial_min, p.absolute);
            let better = if trial == 0 { !flat } else { regular & err.lt(best) & !flat };
            if better.any() {
                best = S::F::select(better, err, best);
                fit.scale = S::F::select(better, trial_scale, fit.scale);
                fit.code_scale = S::F::select(better, iscale, fit.code_scale);
                fit.code_min = S::F::select(better, min, fit.code_min);
                min = S::F::select(better, trial_min, min);
            }
        }
        fit.neg_min = -min;
        fit
    }
}

/// The scale and the minimum ≤ 0 with the least squared error for given codes, and whether they are determined.
#[inline(always)]
fn solve<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    l: &[S::F; N],
    sum_w: S::F,
    sum_x: S::F,
) -> (S::F, S::F, <S::F as Lanes>::Mask) {
    let zero = s.splat(0.0);
    let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
    for ((x, w), l) in x.iter().zip(w).zip(l) {
        let wl = *w * *l;
        sum_l = sum_l + wl;
        sum_l2 = sum_l2 + wl * *l;
        sum_xl = sum_xl + wl * *x;
    }
    let det = sum_w * sum_l2 - sum_l * sum_l;
    let scale = (sum_w * sum_xl - sum_x * sum_l) / det;
    let min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
    let above = min.gt(zero);
    (S::F::select(above, sum_xl / sum_l2, scale), S::F::select(above, zero, min), det.gt(zero))
}

/// The codes of a trial. Groups whose arguments might leave the range of the fast rounding take the exact one.
#[inline(always)]
fn trial_codes<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    iscale: S::F,
    min: S::F,
    [x_low, x_high]: [S::F; 2],
    n_max: S::F,
    l: &mut [S::F; N],
) {
    let (zero, limit) = (s.splat(0.0), s.splat(4_000_000.0));
    // Rounding is monotone, so the arguments of all codes lie between those of the group's extremes.
    let inside = (iscale * (x_low - min)).abs().lt(limit) & (iscale * (x_high - min)).abs().lt(limit);
    if inside.all() {
        for (l, x) in l.iter_mut().zip(x) {
            *l = code(s, iscale * (*x - min), zero, n_max);
        }
    } else {
        for (l, x) in l.iter_mut().zip(x) {
            *l = (iscale * (*x - min)).nearest().max(zero).min(n_max);
        }
    }
}

/// The weighted error of a candidate.
#[inline(always)]
fn error<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    l: &[S::F; N],
    scale: S::F,
    min: S::F,
    absolute: bool,
) -> S::F {
    let mut sum = s.splat(0.0);
    for ((x, w), l) in x.iter().zip(w).zip(l) {
        let diff = scale * *l + min - *x;
        let e = if absolute { diff.abs() } else { diff * diff };
        sum = sum + *w * e;
    }
    sum
}
