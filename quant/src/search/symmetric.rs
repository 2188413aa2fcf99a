//! Codes `−n_max…n_max−1` with a scale: `x ≈ scale·l`.

use super::{EPS, signed_max};
use crate::lanes::{Lanes, MAGIC, Mask, Simd, Task};

/// The best fit of each group.
#[derive(Debug, Clone, Copy)]
pub struct Fit<F> {
    /// Scale; zero for a group of zeros.
    pub scale: F,
    /// The codes are `clamp(nearest(code_scale·x), −n_max, n_max−1)`; zero for a group of zeros.
    pub code_scale: F,
}

/// Searches the scale of one group per lane, with weights `w`.
///
/// # Method
/// The value of largest magnitude goes to code −n_max, in 19 trials to `−(n_max + 0.1·k)` with k = −9…9. The scale
/// that is best for a trial's codes is `Σ w·x·l / Σ w·l²`, and the squared error it leaves is least where
/// `(Σ w·x·l)² / Σ w·l²` is largest.
///
/// `EXACT` rounds as [`nearest`](crate::lanes::nearest) does; without it `x` must be finite.
pub struct Search<'a, F, const N: usize, const EXACT: bool> {
    /// The groups' values, transposed.
    pub x: &'a [F; N],
    /// Their weights.
    pub w: &'a [F; N],
    /// The codes are `−n_max…n_max−1`.
    pub n_max: f32,
}

impl<S: Simd, const N: usize, const EXACT: bool> Task<S> for Search<'_, S::F, N, EXACT> {
    type Output = Fit<S::F>;

    #[inline(always)]
    fn run(self, s: S) -> Fit<S::F> {
        let Self { x, w, n_max } = self;
        let zero = s.splat(0.0);
        let max = signed_max(s, x);
        let empty = max.abs().lt(s.splat(EPS));
        if empty.all() {
            return Fit { scale: zero, code_scale: zero };
        }
        let mut code_scale = s.splat(-n_max) / max;
        let (sumlx, suml2) = sums::<S, N, EXACT>(s, x, w, code_scale, n_max);
        let mut scale = S::F::select(suml2.eq(zero), zero, sumlx / suml2);
        let mut best = scale * sumlx;
        for k in -9i8..=9 {
            if k == 0 {
                continue;
            }
            let iscale = s.splat(-(n_max + 0.1 * f32::from(k))) / max;
            let (sumlx, suml2) = sums::<S, N, EXACT>(s, x, w, iscale, n_max);
            let better = suml2.gt(zero) & (sumlx * sumlx).gt(best * suml2);
            if better.any() {
                let fit = sumlx / suml2;
                scale = S::F::select(better, fit, scale);
                best = S::F::select(better, fit * sumlx, best);
                code_scale = S::F::select(better, iscale, code_scale);
            }
        }
        Fit { scale: S::F::select(empty, zero, scale), code_scale: S::F::select(empty, zero, code_scale) }
    }
}

/// `Σ (w·x)·l` and `Σ (w·l)·l` for the codes that `iscale` gives.
#[inline(always)]
fn sums<S: Simd, const N: usize, const EXACT: bool>(
    s: S,
    x: &[S::F; N],
    w: &[S::F; N],
    iscale: S::F,
    n_max: f32,
) -> (S::F, S::F) {
    let (mut sumlx, mut suml2) = (s.splat(0.0), s.splat(0.0));
    for (x, w) in x.iter().zip(w) {
        let l = signed_code::<S, EXACT>(s, iscale * *x, n_max);
        sumlx = sumlx + *w * *x * l;
        suml2 = suml2 + *w * l * l;
    }
    (sumlx, suml2)
}

/// `clamp(nearest(v), −n_max, n_max−1)`.
///
/// For a finite group `v` is at most about `n_max + 1` in magnitude, because it is scaled by its own largest value;
/// the fast rounding is then exact.
#[inline(always)]
fn signed_code<S: Simd, const EXACT: bool>(s: S, v: S::F, n_max: f32) -> S::F {
    let rounded = if EXACT {
        v.nearest()
    } else {
        let magic = s.splat(MAGIC);
        (v + magic) - magic
    };
    rounded.max(s.splat(-n_max)).min(s.splat(n_max - 1.0))
}

impl<F: Lanes> Fit<F> {
    /// The codes that belong to the fit, shifted to `0…2·n_max−1`. A group of zeros has codes 0: its scale is 0, so
    /// the value does not matter, but the stored byte does.
    #[inline(always)]
    pub fn codes<S: Simd<F = F>, const N: usize>(&self, s: S, x: &[F; N], n_max: f32) -> [F; N] {
        let zero = s.splat(0.0);
        let empty = signed_max(s, x).abs().lt(s.splat(EPS));
        let shift = s.splat(n_max);
        let mut codes = *x;
        for code in &mut codes {
            *code = F::select(empty, zero, signed_code::<S, true>(s, self.code_scale * *code, n_max) + shift);
        }
        codes
    }
}
