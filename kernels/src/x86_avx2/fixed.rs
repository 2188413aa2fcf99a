//! 16-bit fixed-point numbers: `vpmaddwd` adds products of pairs in 32 bits.

use std::arch::x86_64::*;

use super::elem;
use super::gemm::{apart, broadcast, over_tokens, store};
use crate::fixed::{LANES, Panel16, ROW_NORM, Spread, UNIT, scale};
use crate::table::{F32_LANES, fetch, rows_from, tile_tokens};

/// See [`crate::fixed::spread`].
#[target_feature(enable = "avx2")]
pub(super) fn spread(x: &[f32]) -> (f32, f32) {
    let (pieces, rest) = x.as_chunks::<LANES>();
    let mut last = [0f32; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let (mut squares, mut largest) = ([_mm256_setzero_ps(); 2], [_mm256_setzero_ps(); 2]);
    for piece in pieces.iter().chain((!rest.is_empty()).then_some(&last)) {
        let x = halves(piece);
        for h in 0..2 {
            squares[h] = _mm256_add_ps(squares[h], _mm256_mul_ps(x[h], x[h]));
            // The second operand, where the first is no number.
            largest[h] = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0), x[h]), largest[h]);
        }
    }
    Spread { squares: lanes(squares), largest: lanes(largest) }.joined()
}

/// See [`crate::fixed::FixedKernels::row`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn row(x: &[f32], norm: f32, q: &mut [i16], factors: &mut [f32]) {
    for ((x, q), factor) in x.chunks(UNIT).zip(q.chunks_mut(UNIT)).zip(factors) {
        let (squares, largest) = spread(x);
        let (scale, back) = scale(squares, largest, norm);
        *factor = back;
        if back.is_nan() {
            q.fill(0);
            continue;
        }
        let (pieces, rest) = x.as_chunks::<LANES>();
        let (codes, codes_rest) = q.as_chunks_mut::<LANES>();
        for (codes, x) in codes.iter_mut().zip(pieces) {
            *codes = rounded(x, scale);
        }
        let mut last = [0f32; LANES];
        last[..rest.len()].copy_from_slice(rest);
        codes_rest.copy_from_slice(&rounded(&last, scale)[..rest.len()]);
    }
}

/// See [`crate::fixed::FixedKernels::soften`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn soften(scores: &mut [f32], q: &mut [i16], factors: &mut [f32]) -> f32 {
    let sum = elem::exp_sum(scores, elem::max(scores));
    row(scores, ROW_NORM, q, factors);
    sum
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(x: &[f32; LANES]) -> [__m256; 2] {
    // SAFETY: 16 floats.
    unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(v: [__m256; 2]) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    for (lanes, v) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(v) {
        // SAFETY: 8 floats.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), v) };
    }
    lanes
}

/// See [`crate::fixed::PairKernels::pair`].
#[target_feature(enable = "avx2")]
pub(super) fn pair(low: &[f32], high: &[f32], magic: [f32; 2], out: &mut [f32]) {
    let magic = magic.map(|magic| _mm256_set1_ps(magic));
    let eights = low.as_chunks::<8>().0.iter().zip(high.as_chunks::<8>().0);
    for (out, (low, high)) in out.as_chunks_mut::<8>().0.iter_mut().zip(eights) {
        // SAFETY: 8 floats each.
        unsafe {
            let low = _mm256_castps_si256(_mm256_add_ps(_mm256_loadu_ps(low.as_ptr()), magic[0]));
            let high = _mm256_castps_si256(_mm256_add_ps(_mm256_loadu_ps(high.as_ptr()), magic[1]));
            let both = _mm256_blend_epi16::<0xaa>(low, _mm256_slli_epi32::<16>(high));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), both);
        }
    }
}

/// Nearest integers of `x · scale`, which fit 16 bits; ties to even.
#[inline]
#[target_feature(enable = "avx2")]
fn rounded(x: &[f32; LANES], scale: f32) -> [i16; LANES] {
    let [a, b] = halves(x);
    let scale = _mm256_set1_ps(scale);
    let (a, b) = (_mm256_cvtps_epi32(_mm256_mul_ps(a, scale)), _mm256_cvtps_epi32(_mm256_mul_ps(b, scale)));
    let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
    let mut codes = [0i16; LANES];
    // SAFETY: 16 codes are 32 bytes.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), packed) };
    codes
}

/// See [`crate::fixed::FixedKernels::gemm`].
///
/// # Safety
/// Pointers valid for the sizes that [`Panel16`] states.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn gemm(a: &Panel16) {
    fetch(a.later);
    over_tokens!(6 or [1 2 3 4 5], a.cols, tile, a);
}

/// `N` rows from `first`: 2·N sums of pairs, two registers of the panel, one pair for all lanes.
///
/// # Safety
/// As [`gemm`]; rows `first..first + N` must exist.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const N: usize>(a: &Panel16, first: usize) {
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    // SAFETY: the panel has `depth` / 2 steps of 16 pairs, `x` rows of `depth` codes, both a factor for every unit, the
    // result `n_rows` lanes.
    unsafe {
        for (u, k0) in (0..a.depth).step_by(UNIT).enumerate() {
            let panel = a.panel.add(k0 / 2 * a.panel_stride);
            let x: [*const i16; N] = apart(rows_from(a.x.add(first * a.x_stride + k0), a.x_stride));
            let mut total = [[_mm256_setzero_si256(); 2]; N];
            let steps = UNIT.min(a.depth - k0) / 2;
            for k in 0..steps / 2 {
                for k in 2 * k..2 * k + 2 {
                    step(panel.add(k * a.panel_stride), x, 2 * k, &mut total);
                }
            }
            if steps % 2 == 1 {
                step(panel.add((steps - 1) * a.panel_stride), x, 2 * (steps - 1), &mut total);
            }
            let factors = a.factors.add(u * F32_LANES);
            for c in 0..N {
                let factor = _mm256_set1_ps(*a.x_factors.add((first + c) * a.x_factor_stride + u));
                for h in 0..2 {
                    let factor = _mm256_mul_ps(_mm256_loadu_ps(factors.add(8 * h)), factor);
                    acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[c][h]), factor, acc[c][h]);
                }
            }
        }
        for (c, acc) in acc.into_iter().enumerate() {
            store(a.out.add((first + c) * a.out_stride), a.n_rows, acc, a.accumulate);
        }
    }
}

/// Adds the products of a pair of the panel with pair `at` of every row.
///
/// # Safety
/// 16 pairs must exist at `w`, and two codes at `at` in every row.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn step<const N: usize>(w: *const f32, x: [*const i16; N], at: usize, total: &mut [[__m256i; 2]; N]) {
    // SAFETY: promised by the caller.
    unsafe {
        let w = w.cast::<__m256i>();
        let w = [_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1))];
        for c in 0..N {
            let x = broadcast(x[c].add(at).cast());
            for h in 0..2 {
                total[c][h] = _mm256_add_epi32(total[c][h], _mm256_madd_epi16(w[h], x));
            }
        }
    }
}
