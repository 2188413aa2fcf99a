//! Codes `0…n_max` with a scale and a minimum: `x ≈ scale·l + min`, `min ≤ 0`.

use super::code;
use crate::lanes::{Lanes, Mask, Simd};

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
#[inline(always)]
pub fn search<S: Simd, const N: usize>(s: S, x: &[S::F; N], w: &[S::F; N], p: Params) -> Fit<S::F> {
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
    // The smallest value itself, before it is limited to 0, for the bounds of the codes' arguments below.
    let x_low = low;
    let low = S::F::select(low.gt(zero), zero, low);
    let flat = high.eq(low);
    let nothing = Fit { scale: zero, neg_min: -low, code_scale: zero, code_min: low };
    if flat.all() {
        return nothing;
    }

    // Codes are exact integers in f32; `l` keeps those of the current trial.
    let mut l = [zero; N];
    let mut min = low;
    let mut code_scale = n_max / (high - min);
    let mut code_min = min;
    let mut scale = s.splat(1.0) / code_scale;
    trial_codes(s, x, code_scale, min, [x_low, high], n_max, &mut l);
    let mut best = error(s, x, w, &l, scale, min, p.absolute);

    for trial in 0..=p.last {
        let iscale = s.splat(p.first + p.step * trial as f32 + p.n_max) / (high - min);
        trial_codes(s, x, iscale, min, [x_low, high], n_max, &mut l);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for ((x, w), l) in x.iter().zip(w).zip(&l) {
            let wl = *w * *l;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * *l;
            sum_xl = sum_xl + wl * *x;
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        let regular = det.gt(zero);
        let fit_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        let fit_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        let above = fit_min.gt(zero);
        let fit_scale = S::F::select(above, sum_xl / sum_l2, fit_scale);
        let fit_min = S::F::select(above, zero, fit_min);
        let err = error(s, x, w, &l, fit_scale, fit_min, p.absolute);
        let better = regular & err.lt(best) & !flat;
        if better.any() {
            best = S::F::select(better, err, best);
            scale = S::F::select(better, fit_scale, scale);
            code_scale = S::F::select(better, iscale, code_scale);
            code_min = S::F::select(better, min, code_min);
            min = S::F::select(better, fit_min, min);
        }
    }
    Fit {
        scale: S::F::select(flat, nothing.scale, scale),
        neg_min: S::F::select(flat, nothing.neg_min, -min),
        code_scale: S::F::select(flat, nothing.code_scale, code_scale),
        code_min: S::F::select(flat, nothing.code_min, code_min),
    }
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
