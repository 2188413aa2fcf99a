//! Codes that index a table of 16 values, with a scale: `x ≈ scale·T[l]`.

use super::{EPS, signed_max};
use crate::lanes::{Lanes, Mask, Simd, Task};

/// A rising table and the midpoints between its neighbours.
#[derive(Debug)]
pub struct Table {
    values: [i8; 16],
}

impl Table {
    /// A table of rising values.
    #[must_use]
    pub const fn new(values: [i8; 16]) -> Self {
        Self { values }
    }

    /// All values, by code.
    #[must_use]
    pub const fn values(&self) -> &[i8; 16] {
        &self.values
    }

    /// The value of a code as an integer; codes have 4 bits.
    #[inline(always)]
    #[must_use]
    pub fn code(&self, code: u8) -> i8 {
        self.values[usize::from(code & 15)]
    }

    /// The value of a code; codes have 4 bits.
    #[inline(always)]
    #[must_use]
    pub fn value(&self, code: u8) -> f32 {
        f32::from(self.values[usize::from(code & 15)])
    }

    /// The point between entries `k` and `k + 1`. From there on `k + 1` is nearest.
    ///
    /// Comparing a value with the midpoint decides as comparing its two distances does: near the midpoint both
    /// distances are exact in f32, because they are no larger than about the value itself.
    #[inline(always)]
    fn midpoint(&self, k: usize) -> f32 {
        f32::midpoint(f32::from(self.values[k]), f32::from(self.values[k + 1]))
    }

    /// The table value nearest to `v`; the last one for NaN.
    #[inline(always)]
    fn nearest_value<S: Simd>(&self, s: S, v: S::F) -> S::F {
        let mut value = s.splat(f32::from(self.values[0]));
        for k in 0..15 {
            value = S::F::select(v.lt(s.splat(self.midpoint(k))), value, s.splat(f32::from(self.values[k + 1])));
        }
        value
    }

    /// The index of the table value nearest to `v`; 15 for NaN.
    #[inline(always)]
    #[must_use]
    pub fn nearest_index(&self, v: f32) -> u8 {
        let mut index = 15;
        for k in 0..15 {
            index -= u8::from(v < self.midpoint(k));
        }
        index
    }

    /// `Σ (w·T)·x` and `Σ (w·T)·T` for the table values nearest to `iscale·x`.
    #[inline(always)]
    fn sums<S: Simd, const N: usize>(&self, s: S, x: &[S::F; N], w: &[S::F; N], iscale: S::F) -> (S::F, S::F) {
        let (mut sumqx, mut sumq2) = (s.splat(0.0), s.splat(0.0));
        for (x, w) in x.iter().zip(w) {
            let q = self.nearest_value(s, iscale * *x);
            let wq = *w * q;
            sumqx = sumqx + wq * *x;
            sumq2 = sumq2 + wq * q;
        }
        (sumqx, sumq2)
    }
}

/// Searches the scale of one group per lane, with weights `w`.
///
/// # Method
/// The value of largest magnitude goes to the first entry and, in 15 trials, to points up to 7 to either side of
/// it. As in [`symmetric`](super::symmetric), the best scale for given codes is `Σ w·x·T / Σ w·T²` and the best
/// trial has the largest `(Σ w·x·T)² / Σ w·T²`.
pub struct Search<'a, F, const N: usize> {
    /// What the codes stand for.
    pub table: &'a Table,
    /// The groups' values, transposed.
    pub x: &'a [F; N],
    /// Their weights.
    pub w: &'a [F; N],
}

impl<S: Simd, const N: usize> Task<S> for Search<'_, S::F, N> {
    type Output = S::F;

    #[inline(always)]
    fn run(self, s: S) -> S::F {
        let Self { table, x, w } = self;
        let zero = s.splat(0.0);
        let first = f32::from(table.values[0]);
        let max = signed_max(s, x);
        let empty = max.abs().lt(s.splat(EPS));
        if empty.all() {
            return zero;
        }
        let one = s.splat(1.0);
        let (sumqx, sumq2) = table.sums(s, x, w, one / (-max / s.splat(first)));
        let mut scale = S::F::select(sumq2.gt(zero), sumqx / sumq2, zero);
        let mut best = scale * sumqx;
        for t in -7i8..=7 {
            let (sumqx, sumq2) = table.sums(s, x, w, s.splat(f32::from(t) + first) / max);
            let better = sumq2.gt(zero) & (sumqx * sumqx).gt(best * sumq2);
            if better.any() {
                let fit = sumqx / sumq2;
                scale = S::F::select(better, fit, scale);
                best = S::F::select(better, fit * sumqx, best);
            }
        }
        S::F::select(empty, zero, scale)
    }
}
