//! Codes `0…n_max` with a scale, for values ≥ 0: the scales and minima of a super-block's groups.

use super::EPS;
use crate::lanes::{Lanes, Mask, Simd, Task};

/// Searches the scale of one set of values per lane, with weights `w`; returns it with the codes.
///
/// # Method
/// Nine inverse scales around `n_max / max` compete by weighted squared error; the winner's codes are then improved
/// one by one as in [`descent`](super::descent).
pub struct Search<'a, F, const N: usize> {
    /// The sets of values, transposed.
    pub x: &'a [F; N],
    /// Their weights.
    pub w: &'a [F; N],
    /// Largest code.
    pub n_max: f32,
}

impl<S: Simd, const N: usize> Task<S> for Search<'_, S::F, N> {
    type Output = (S::F, [S::F; N]);

    #[inline(always)]
    fn run(self, s: S) -> (S::F, [S::F; N]) {
        let Self { x, w, n_max } = self;
        let (zero, top) = (s.splat(0.0), s.splat(n_max));
        let max = x.iter().fold(zero, |max, x| max.max(*x));
        let empty = max.lt(s.splat(EPS));
        if empty.all() {
            return (zero, [zero; N]);
        }
        let mut iscale = top / max;
        // The starting point is judged by codes stored in a byte, without an upper limit; ordinary values never pass it.
        let mut best = mse(s, x, w, iscale, |v| byte(s, v.nearest()));
        for k in [-4i8, -3, -2, -1, 1, 2, 3, 4] {
            let trial = s.splat(0.1 * f32::from(k) + n_max) / max;
            let err = mse(s, x, w, trial, |v| v.nearest().min(top));
            let better = err.lt(best);
            best = S::F::select(better, err, best);
            iscale = S::F::select(better, trial, iscale);
        }
        let (mut sumlx, mut suml2) = (zero, zero);
        let mut l = [zero; N];
        for ((l, x), w) in l.iter_mut().zip(x).zip(w) {
            let code = (iscale * *x).nearest().min(top);
            *l = byte(s, code);
            sumlx = sumlx + *w * *x * code;
            suml2 = suml2 + *w * code * code;
        }
        for _ in 0..5 {
            let mut changed = zero.lt(zero);
            for ((l, x), w) in l.iter_mut().zip(x).zip(w) {
                let slx = sumlx - *w * *x * *l;
                let sl2 = suml2 - *w * *l * *l;
                let new = (*x * sl2 / slx).nearest().min(top);
                let differs = slx.gt(zero) & sl2.gt(zero) & !new.eq(*l) & !empty;
                if !differs.any() {
                    continue;
                }
                let slx = slx + *w * *x * new;
                let sl2 = sl2 + *w * new * new;
                let better = differs & (slx * slx * suml2).gt(sumlx * sumlx * sl2);
                *l = S::F::select(better, byte(s, new), *l);
                sumlx = S::F::select(better, slx, sumlx);
                suml2 = S::F::select(better, sl2, suml2);
                changed = changed | better;
            }
            if !changed.any() {
                break;
            }
        }
        let scale = S::F::select(suml2.gt(zero) & !empty, sumlx / suml2, zero);
        for l in &mut l {
            *l = S::F::select(empty, zero, *l);
        }
        (scale, l)
    }
}

/// Weighted squared error of storing `x` with the inverse scale `iscale` and the codes `code(iscale·x)`.
#[inline(always)]
fn mse<S: Simd, const N: usize>(s: S, x: &[S::F; N], w: &[S::F; N], iscale: S::F, code: impl Fn(S::F) -> S::F) -> S::F {
    let scale = s.splat(1.0) / iscale;
    let mut sum = s.splat(0.0);
    for (x, w) in x.iter().zip(w) {
        let diff = *x - scale * code(iscale * *x);
        sum = sum + *w * diff * diff;
    }
    sum
}

/// An integer as it reads back from a byte: negative ones (of a negative scale, which only degenerate groups have)
/// wrap.
#[inline(always)]
fn byte<S: Simd>(s: S, v: S::F) -> S::F {
    if !(v.lt(s.splat(0.0)) | v.gt(s.splat(255.0))).any() {
        return v;
    }
    let mut lanes = [0f32; crate::lanes::MAX_LANES];
    v.store(&mut lanes);
    s.load(&lanes.map(|v| f32::from(v as i32 as u8)))
}
