//! Building blocks of the quantisers: for one group of weights per lane, the scale (and minimum) that store it best.
//!
//! All of them follow one plan. The codes of a group are `l = nearest(iscale·x)` for some inverse scale; a handful of
//! inverse scales around the obvious one are tried, for each the best scale for its codes is found in closed form
//! (weighted least squares), and the candidate with the least error wins. Ties and rounding decide which bytes are
//! stored, so the order of every sum and product in these files is part of the format's contract.
//!
//! | search | codes | used by |
//! |---|---|---|
//! | [`affine`] | `0…n_max`, scale and minimum | Q4_K, Q5_K, Q2_K; Q4_1, Q5_1 with importance |
//! | [`symmetric`] | `−n_max…n_max−1`, scale | Q6_K; Q3_K, Q4_0, Q5_0 with importance |
//! | [`descent`] | the same, then code by code | Q3_K |
//! | [`positive`] | `0…n_max`, scale | super-block scales with importance |
//! | [`table`] | the 16 values of a table, scale | IQ4_NL |

pub mod affine;
pub mod descent;
pub(crate) mod groups;
pub mod positive;
pub(crate) mod simple;
pub mod symmetric;
pub mod table;

use crate::lanes::{Lanes, MAGIC, Simd};

/// Groups whose largest magnitude is below this are stored as zeros.
pub(crate) const EPS: f32 = 1e-15;

/// `clamp(nearest(v), lo, hi)` for |v| < 2^22.
#[inline(always)]
pub(crate) fn code<S: Simd>(s: S, v: S::F, lo: S::F, hi: S::F) -> S::F {
    let magic = s.splat(MAGIC);
    ((v + magic) - magic).max(lo).min(hi)
}

/// The value of largest magnitude of each group, with its sign: the first one on ties. Starts from zero.
#[inline(always)]
pub(crate) fn signed_max<S: Simd, const N: usize>(s: S, x: &[S::F; N]) -> S::F {
    let (mut max, mut amax) = (s.splat(0.0), s.splat(0.0));
    for v in x {
        let a = v.abs();
        let larger = a.gt(amax);
        amax = S::F::select(larger, a, amax);
        max = S::F::select(larger, *v, max);
    }
    max
}

/// Adds up the squares of each block, in order.
///
/// One block's sum is a chain of dependent additions; going through several blocks side by side hides its latency.
#[inline(always)]
pub(crate) fn sums_of_squares<const N: usize>(blocks: &[[f32; N]], sums: &mut [f32]) {
    for (sums, blocks) in sums.chunks_mut(4).zip(blocks.chunks(4)) {
        if let ([s0, s1, s2, s3], [b0, b1, b2, b3]) = (&mut *sums, blocks) {
            let mut acc = [0f32; 4];
            for (((v0, v1), v2), v3) in b0.iter().zip(b1).zip(b2).zip(b3) {
                acc = [acc[0] + v0 * v0, acc[1] + v1 * v1, acc[2] + v2 * v2, acc[3] + v3 * v3];
            }
            [*s0, *s1, *s2, *s3] = acc;
        } else {
            for (sum, block) in sums.iter_mut().zip(blocks) {
                *sum = block.iter().fold(0.0, |sum, v| sum + v * v);
            }
        }
    }
}
