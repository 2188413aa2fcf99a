//! Walks the groups of a run of blocks, a vector of groups at a time, and keeps what the searches find.
//!
//! Blocks come in runs of at most [`RUN`], so that every lane count finds whole vectors of groups and of blocks, and
//! everything between the steps of a quantiser fits in fixed arrays on the stack.

use super::simple::mean_square;
use super::{affine, descent, positive, symmetric};
use crate::lanes::{Lanes, MAX_LANES, Simd, Task, nearest};

/// Blocks quantised together.
pub(crate) const RUN: usize = MAX_LANES;

/// Most groups in a run: 16 per super-block.
pub(crate) const MAX_GROUPS: usize = 16 * RUN;

/// What is known about each group of a run. Fields a search does not have stay zero.
pub(crate) struct Groups {
    /// Best scale.
    pub(crate) scale: [f32; MAX_GROUPS],
    /// Minimum with its sign turned.
    pub(crate) neg_min: [f32; MAX_GROUPS],
    /// Inverse scale of the codes.
    pub(crate) code_scale: [f32; MAX_GROUPS],
    /// Origin of the codes.
    pub(crate) code_min: [f32; MAX_GROUPS],
    /// Sum of the group's weights.
    pub(crate) sum_w: [f32; MAX_GROUPS],
}

impl Groups {
    #[inline(always)]
    fn new() -> Self {
        let zero = [0f32; MAX_GROUPS];
        Self { scale: zero, neg_min: zero, code_scale: zero, code_min: zero, sum_w: zero }
    }
}

/// Searches scale and minimum of every group of `N` values. `weights` gets the number of the first group and the
/// groups' values, transposed.
#[inline(always)]
pub(crate) fn fit_affine<S: Simd, const N: usize>(
    s: S,
    x: &[f32],
    params: affine::Params,
    weights: impl Fn(usize, &[S::F; N]) -> [S::F; N],
) -> Groups {
    let mut groups = Groups::new();
    for (first, x) in (0..MAX_GROUPS).step_by(S::W).zip(x.chunks(N * S::W)) {
        let x = s.load_groups::<N>(x);
        let w = weights(first, &x);
        let fit = s.run(affine::Search { x: &x, w: &w, params });
        fit.scale.store(&mut groups.scale[first..]);
        fit.neg_min.store(&mut groups.neg_min[first..]);
        fit.code_scale.store(&mut groups.code_scale[first..]);
        fit.code_min.store(&mut groups.code_min[first..]);
        sum(s, &w).store(&mut groups.sum_w[first..]);
    }
    groups
}

/// Searches the scale of every group of `N` values, around codes `−n_max…n_max−1`.
#[inline(always)]
pub(crate) fn fit_symmetric<S: Simd, const N: usize>(
    s: S,
    x: &[f32],
    n_max: f32,
    weights: impl Fn(usize, &[S::F; N]) -> [S::F; N],
) -> Groups {
    let mut groups = Groups::new();
    for (first, x) in (0..MAX_GROUPS).step_by(S::W).zip(x.chunks(N * S::W)) {
        let x = s.load_groups::<N>(x);
        let w = weights(first, &x);
        let fit = s.run(symmetric::Search::<_, N, false> { x: &x, w: &w, n_max });
        fit.scale.store(&mut groups.scale[first..]);
        fit.code_scale.store(&mut groups.code_scale[first..]);
        sum(s, &w).store(&mut groups.sum_w[first..]);
    }
    groups
}

/// Searches scales and codes of every group of 16 values by [`descent`]; the codes go to `codes`.
#[inline(always)]
pub(crate) fn fit_descent<S: Simd>(s: S, x: &[f32], n_max: f32, codes: &mut [u8]) -> [f32; MAX_GROUPS] {
    let mut scales = [0f32; MAX_GROUPS];
    for ((first, x), codes) in (0..MAX_GROUPS).step_by(S::W).zip(x.chunks(16 * S::W)).zip(codes.chunks_mut(16 * S::W)) {
        let x = s.load_groups::<16>(x);
        let (scale, l) = s.run(descent::Search { x: &x, n_max });
        scale.store(&mut scales[first..]);
        store_codes(&l, codes);
    }
    scales
}

/// The scales (or minima) of each block's `G` groups as codes `0…n_max` of one scale per block.
#[inline(always)]
pub(crate) fn code_positive<S: Simd, const G: usize>(
    s: S,
    n_blocks: usize,
    values: &[f32; MAX_GROUPS],
    weights: &[f32; MAX_GROUPS],
    n_max: f32,
) -> ([f32; RUN], [[u8; G]; RUN]) {
    let mut scales = [0f32; RUN];
    let mut codes = [[0u8; G]; RUN];
    for first in (0..n_blocks).step_by(S::W) {
        let end = n_blocks.min(first + S::W);
        let x = s.load_groups::<G>(&values[first * G..end * G]);
        let w = s.load_groups::<G>(&weights[first * G..end * G]);
        let (scale, l) = s.run(positive::Search { x: &x, w: &w, n_max });
        scale.store(&mut scales[first..]);
        store_codes(&l, codes[first..end].as_flattened_mut());
    }
    (scales, codes)
}

/// Transposes codes back: lane `g` of vector `i` goes to `out[g·N + i]`, as far as `out` reaches.
#[inline(always)]
pub(crate) fn store_codes<F: Lanes, const N: usize>(l: &[F; N], out: &mut [u8]) {
    for (i, l) in l.iter().enumerate() {
        let mut lanes = [0f32; MAX_LANES];
        l.store(&mut lanes);
        for (group, l) in out.as_chunks_mut::<N>().0.iter_mut().zip(lanes) {
            group[i] = l as u8;
        }
    }
}

/// `Σ w`, in order.
#[inline(always)]
fn sum<S: Simd, const N: usize>(s: S, w: &[S::F; N]) -> S::F {
    w.iter().fold(s.splat(0.0), |sum, w| sum + *w)
}

/// `importance·sqrt(sigma2 + x²)`, group by group; `sigma2` and `importance` begin at the vector's first group. A task,
/// because closures call this, and those are not always inlined into what has the instruction set's features.
#[inline(always)]
pub(crate) fn importance_weights<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    importance: &[f32],
    sigma2: &[f32],
) -> [S::F; N] {
    s.run(Weigh { x, importance, sigma2 })
}

/// See [`importance_weights`].
struct Weigh<'a, F, const N: usize> {
    x: &'a [F; N],
    importance: &'a [f32],
    sigma2: &'a [f32],
}

impl<S: Simd, const N: usize> Task<S> for Weigh<'_, S::F, N> {
    type Output = [S::F; N];

    #[inline(always)]
    fn run(self, s: S) -> [S::F; N] {
        let sigma2 = s.load(self.sigma2);
        let mut w = s.load_groups::<N>(self.importance);
        for (w, x) in w.iter_mut().zip(self.x) {
            *w = *w * (sigma2 + *x * *x).sqrt();
        }
        w
    }
}

/// `clamp(nearest((x + m) / d), 0, n_max)`: a group's codes under the scale and minimum that are stored.
#[inline(always)]
pub(crate) fn requantize_affine(x: &[f32], d: f32, m: f32, n_max: i32, codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        *code = nearest((x + m) / d).clamp(0, n_max) as u8;
    }
}

/// The codes that came with an affine fit.
#[inline(always)]
pub(crate) fn fitted_affine(x: &[f32], code_scale: f32, code_min: f32, n_max: i32, codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        *code = nearest(code_scale * (x - code_min)).clamp(0, n_max) as u8;
    }
}

/// `clamp(nearest(x / d), −n_max, n_max−1) + n_max`: a group's codes under the scale that is stored.
#[inline(always)]
pub(crate) fn requantize_symmetric(x: &[f32], d: f32, n_max: i32, codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (nearest(x / d).clamp(-n_max, n_max - 1) + n_max) as u8;
    }
}

/// The codes that came with a symmetric fit, shifted to be ≥ 0. Those of a group of zeros are 0: with a scale of 0
/// they stand for zero whatever they are.
#[inline(always)]
pub(crate) fn fitted_symmetric(x: &[f32], code_scale: f32, n_max: i32, codes: &mut [u8]) {
    if code_scale == 0.0 {
        codes.fill(0);
        return;
    }
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (nearest(code_scale * x).clamp(-n_max, n_max - 1) + n_max) as u8;
    }
}

/// Quantises a row of 32-weight blocks with importance around codes `−n_max…n_max−1`; `store` gets a block's scale and
/// its codes, shifted to be ≥ 0.
#[inline(always)]
pub(crate) fn quantize_symmetric_32<S: Simd, const B: usize>(
    s: S,
    row: &[f32],
    importance: &[f32],
    n_max: f32,
    blocks: &mut [[u8; B]],
    store: impl Fn(&mut [u8; B], f32, &[u8; 32]),
) {
    let sigma2 = [mean_square(row); MAX_LANES];
    let runs = row.as_chunks::<32>().0.chunks(RUN).zip(importance.chunks(32 * RUN)).zip(blocks.chunks_mut(RUN));
    for ((x, importance), blocks) in runs {
        let groups = fit_symmetric::<S, 32>(s, x.as_flattened(), n_max, |first, x| {
            importance_weights(s, x, &importance[32 * first..], &sigma2)
        });
        for (b, (x, block)) in x.iter().zip(blocks).enumerate() {
            let mut codes = [0u8; 32];
            fitted_symmetric(x, groups.code_scale[b], n_max as i32, &mut codes);
            store(block, groups.scale[b], &codes);
        }
    }
}

/// Quantises a row of 32-weight blocks with importance to codes `0…n_max`; `store` gets a block's scale, minimum and
/// codes.
#[inline(always)]
pub(crate) fn quantize_affine_32<S: Simd, const B: usize>(
    s: S,
    row: &[f32],
    importance: &[f32],
    n_max: f32,
    blocks: &mut [[u8; B]],
    store: impl Fn(&mut [u8; B], f32, f32, &[u8; 32]),
) {
    let sigma2 = [mean_square(row); MAX_LANES];
    let params = affine::Params { n_max, first: -0.9, step: 0.05, last: 36, absolute: false };
    let runs = row.as_chunks::<32>().0.chunks(RUN).zip(importance.chunks(32 * RUN)).zip(blocks.chunks_mut(RUN));
    for ((x, importance), blocks) in runs {
        let groups = fit_affine::<S, 32>(s, x.as_flattened(), params, |first, x| {
            importance_weights(s, x, &importance[32 * first..], &sigma2)
        });
        for (b, (x, block)) in x.iter().zip(blocks).enumerate() {
            let mut codes = [0u8; 32];
            fitted_affine(x, groups.code_scale[b], groups.code_min[b], n_max as i32, &mut codes);
            store(block, groups.scale[b], -groups.neg_min[b], &codes);
        }
    }
}
