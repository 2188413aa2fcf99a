//! Codes `−n_max…n_max−1` with a scale, improved code by code.

use super::{EPS, signed_max};
use crate::lanes::{Lanes, Mask, Simd, Task};

/// Searches the scale of one group per lane, with weights `x²`; returns it with the codes shifted to `0…2·n_max−1`
/// (all 0 for a group of zeros).
///
/// # Method
/// Starts from the codes that put the value of largest magnitude at −n_max. Up to five sweeps then go through the
/// codes in order: take one out of the sums, ask which code would be best under the scale that the others want, and
/// keep the change where it raises `(Σ w·x·l)² / Σ w·l²`.
pub struct Search<'a, F, const N: usize> {
    /// The groups' values, transposed.
    pub x: &'a [F; N],
    /// The codes are `−n_max…n_max−1`.
    pub n_max: f32,
}

impl<S: Simd, const N: usize> Task<S> for Search<'_, S::F, N> {
    type Output = (S::F, [S::F; N]);

    #[inline(always)]
    fn run(self, s: S) -> (S::F, [S::F; N]) {
        let Self { x, n_max } = self;
        let zero = s.splat(0.0);
        let (lowest, highest) = (s.splat(-n_max), s.splat(n_max - 1.0));
        let max = signed_max(s, x);
        let empty = max.abs().lt(s.splat(EPS));
        if empty.all() {
            return (zero, [zero; N]);
        }
        let iscale = lowest / max;
        let (mut sumlx, mut suml2) = (zero, zero);
        let mut l = [zero; N];
        for (l, x) in l.iter_mut().zip(x) {
            let w = *x * *x;
            *l = (iscale * *x).nearest().max(lowest).min(highest);
            sumlx = sumlx + w * *x * *l;
            suml2 = suml2 + w * *l * *l;
        }
        for _ in 0..5 {
            let mut changed = zero.lt(zero);
            for (l, x) in l.iter_mut().zip(x) {
                let w = *x * *x;
                let slx = sumlx - w * *x * *l;
                let sl2 = suml2 - w * *l * *l;
                let new = (*x * sl2 / slx).nearest().max(lowest).min(highest);
                let differs = slx.gt(zero) & !new.eq(*l);
                if !differs.any() {
                    continue;
                }
                let slx = slx + w * *x * new;
                let sl2 = sl2 + w * new * new;
                let better = differs & sl2.gt(zero) & (slx * slx * suml2).gt(sumlx * sumlx * sl2) & !empty;
                *l = S::F::select(better, new, *l);
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
            *l = S::F::select(empty, zero, *l + s.splat(n_max));
        }
        (scale, l)
    }
}
