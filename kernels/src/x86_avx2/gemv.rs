//! One token times stored rows.

use std::arch::x86_64::*;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock};

use crate::table::{Gemv, GemvF32};

/// How far ahead of the products weights are asked for, in bytes. Rows follow each other, so this may be the next row. The
/// processor's own prefetching ends with every page of 4 KiB, where a read would wait for memory: with 1,024 bytes a sixth
/// of the reading rate that this gives is lost, with 4,096 a twentieth.
const AHEAD: usize = 2048;

/// Asks for the bytes that lie [`AHEAD`] of a block. Rows of floats gain nothing from it.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn fetch_ahead(block: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        // Affects nothing but caches, also where nothing can be read.
        _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(AHEAD + at).cast());
    }
}

/// Adds the 8 lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// See [`crate::table::IntKernels::gemv`]. A pair of products is at most 2·63·127 = 16,002; the 32-bit bounds are
/// those of the tile.
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_super<F: Unpack<Unit = SuperBlock>>(a: &mut Gemv) {
    let mut w = SuperBlock::default();
    for (out, row) in a.out.iter_mut().zip(a.rows.chunks_exact(a.row_bytes)) {
        let (mut acc, mut below) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        let acts = a.acts.q.as_chunks::<256>().0.iter().zip(a.acts.sums16.as_chunks::<16>().0).zip(a.acts.d);
        for (block, ((y, sums), dy)) in row.chunks_exact(F::BLOCK_BYTES).zip(acts) {
            fetch_ahead(block.as_ptr(), F::BLOCK_BYTES);
            F::unpack(block, &mut w);
            let mut total = _mm256_setzero_si256();
            for g in 0..8 {
                // SAFETY: 32 codes on both sides, 16 mins and 16 sums; all are inside the arrays.
                let pairs = unsafe {
                    _mm256_maddubs_epi16(
                        _mm256_loadu_si256(w.codes.as_ptr().add(32 * g).cast()),
                        _mm256_loadu_si256(y.as_ptr().add(32 * g).cast()),
                    )
                };
                let scale = if F::GROUP == 32 {
                    _mm256_set1_epi16(w.scales[2 * g])
                } else {
                    _mm256_set_m128i(_mm_set1_epi16(w.scales[2 * g + 1]), _mm_set1_epi16(w.scales[2 * g]))
                };
                total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, scale));
            }
            // SAFETY: as above.
            let mins = unsafe {
                _mm256_madd_epi16(_mm256_loadu_si256(w.mins.as_ptr().cast()), _mm256_loadu_si256(sums.as_ptr().cast()))
            };
            acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(w.d * dy), acc);
            below = _mm256_fmadd_ps(_mm256_cvtepi32_ps(mins), _mm256_set1_ps(w.dmin * dy), below);
        }
        *out = sum(_mm256_sub_ps(acc, below));
    }
}

/// See [`crate::table::IntKernels::gemv`]. Bounds as in the tile.
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_block<F: Unpack<Unit = Block32>>(a: &mut Gemv) {
    let mut unit = Block32::default();
    let ones = _mm256_set1_epi16(1);
    for (out, row) in a.out.iter_mut().zip(a.rows.chunks_exact(a.row_bytes)) {
        let (mut acc, mut below) = (_mm256_setzero_ps(), 0f32);
        let acts = a.acts.q.as_chunks::<32>().0.iter().zip(a.acts.sums32).zip(a.acts.d);
        for (block, ((y, s), dy)) in row.chunks_exact(F::BLOCK_BYTES).zip(acts) {
            fetch_ahead(block.as_ptr(), F::BLOCK_BYTES);
            F::unpack(block, &mut unit);
            // SAFETY: 32 codes on both sides.
            let (w, y) =
                unsafe { (_mm256_loadu_si256(unit.codes.as_ptr().cast()), _mm256_loadu_si256(y.as_ptr().cast())) };
            let pairs = if F::SIGNED {
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(y, w))
            } else {
                below += unit.min * dy * f32::from(*s);
                _mm256_maddubs_epi16(w, y)
            };
            let total = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
            acc = _mm256_fmadd_ps(total, _mm256_set1_ps(unit.d * dy), acc);
        }
        *out = sum(acc) - below;
    }
}

/// Expands half precision.
///
/// # Safety
/// None beyond the features; `zip` stops at the shorter side.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn dequantize_f16(bytes: &[u8], out: &mut [f32]) {
    let (chunks, rest) = out.as_chunks_mut::<8>();
    let (b, b_rest) = bytes.as_chunks::<16>();
    for (out, b) in chunks.iter_mut().zip(b) {
        // SAFETY: 16 bytes in, 8 floats out.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(b.as_ptr().cast()))) };
    }
    for (out, b) in rest.iter_mut().zip(b_rest.as_chunks::<2>().0) {
        *out = ocelli_quant::half_bits::f16_to_f32(u16::from_le_bytes(*b));
    }
}

/// Rounds to half precision.
///
/// # Safety
/// As [`dequantize_f16`].
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn f32_to_f16(x: &[f32], out: &mut [u8]) {
    let (chunks, rest) = x.as_chunks::<8>();
    let (b, b_rest) = out.as_chunks_mut::<16>();
    for (x, b) in chunks.iter().zip(b) {
        // SAFETY: 8 floats in, 16 bytes out.
        unsafe {
            let h = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
            _mm_storeu_si128(b.as_mut_ptr().cast(), h);
        }
    }
    for (x, b) in rest.iter().zip(b_rest.as_chunks_mut::<2>().0) {
        *b = ocelli_quant::half_bits::f32_to_f16(*x).to_le_bytes();
    }
}

/// Half-precision rows times one f32 token.
///
/// # Safety
/// Lengths as [`GemvF32`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_f16(a: &mut GemvF32) {
    let (x, x_rest) = a.x.as_chunks::<16>();
    for (out, row) in a.out.iter_mut().zip(a.rows.chunks_exact(a.row_bytes)) {
        let (w, w_rest) = row.as_chunks::<32>();
        let mut acc = [_mm256_setzero_ps(); 2];
        for (x, w) in x.iter().zip(w) {
            for (h, acc) in acc.iter_mut().enumerate() {
                // SAFETY: 16 floats and 32 bytes, of which half h is read.
                let (x, w) = unsafe {
                    (
                        _mm256_loadu_ps(x.as_ptr().add(8 * h)),
                        _mm256_cvtph_ps(_mm_loadu_si128(w.as_ptr().add(16 * h).cast())),
                    )
                };
                *acc = _mm256_fmadd_ps(x, w, *acc);
            }
        }
        let mut total = sum(_mm256_add_ps(acc[0], acc[1]));
        for (x, w) in x_rest.iter().zip(w_rest.as_chunks::<2>().0) {
            total += x * ocelli_quant::half_bits::f16_to_f32(u16::from_le_bytes(*w));
        }
        *out = total;
    }
}
