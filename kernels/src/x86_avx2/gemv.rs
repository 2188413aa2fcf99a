//! One token times stored rows, straight from their blocks.
//!
//! One row at a time: two in step share loads of activations, and were slower by a third where rows come from memory.

use std::arch::x86_64::*;

use super::unpack::{Block, Super, each_run, load};
use crate::table::{Gemv, GemvF32};

/// How far ahead of the products weights are asked for, in bytes. Rows follow each other, so this may be the next row. The
/// processor's own prefetching ends with every page of 4 KiB, where a read would wait for memory: with 1,024 bytes
/// up to a sixth of the reading rate that this gives is lost, with 4,096 up to a twelfth.
const AHEAD: usize = 2048;

/// Asks for the bytes that lie [`AHEAD`] behind those of a block. Rows of floats gain nothing from it.
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

/// Shuffles that put 16-bit number i of a lane into all places of the lane.
const SPREAD: [[u8; 16]; 8] = {
    let mut masks = [[0; 16]; 8];
    let mut i = 0;
    while i < 8 {
        let mut j = 0;
        while j < 16 {
            masks[i][j] = (2 * i + j % 2) as u8;
            j += 1;
        }
        i += 1;
    }
    masks
};

/// Shuffles that put 16-bit number 2k into all places of the low lane and number 2k + 1 into those of the high lane.
const SPREAD_PAIRS: [[u8; 32]; 4] = {
    let mut masks = [[0; 32]; 4];
    let mut k = 0;
    while k < 4 {
        let mut j = 0;
        while j < 32 {
            masks[k][j] = (4 * k + 2 * (j / 16) + j % 2) as u8;
            j += 1;
        }
        k += 1;
    }
    masks
};

/// See [`crate::table::IntKernels::gemv`]. A pair of products is at most 2·63·127 = 16,002; times a scale of 128, summed over
/// the 16 pairs of a lane, below 2²⁵, and so are the sums of mins, of which a lane has two of 4096·2032.
///
/// # Safety
/// Lengths as [`Gemv`] states them, with activations in units of 256.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_super<F: Super>(a: &mut Gemv) {
    let sums: &[i16] = if F::GROUP == 32 { a.acts.sums32 } else { a.acts.sums16 };
    let groups = 256 / F::GROUP;
    for (row, out) in a.rows.chunks_exact(a.row_bytes).zip(a.out.iter_mut()) {
        let (mut above, mut under) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        for (k, block) in row.chunks_exact(F::BLOCK_BYTES).enumerate() {
            fetch_ahead(block.as_ptr(), F::BLOCK_BYTES);
            let b = block.as_ptr();
            // SAFETY: a whole block; of unit k of the token 256 codes, a sum for every group and a scale; masks of 32 and
            // of 16 bytes.
            unsafe {
                let q = a.acts.q.as_ptr().add(256 * k);
                let own = sums.as_ptr().add(groups * k);
                let [scales, mins] = F::steps(b);
                // The low half of these is for the first four runs, the high half for the others; or one for all.
                let of_half = [
                    _mm256_permute2x128_si256::<0x00>(scales, scales),
                    _mm256_permute2x128_si256::<0x11>(scales, scales),
                ];
                let mut total = _mm256_setzero_si256();
                each_run!(|N| {
                    let pairs = _mm256_maddubs_epi16(F::run::<N>(b), load(q.add(32 * N)));
                    let scale = if F::GROUP == 32 {
                        let mask = _mm_loadu_si128(SPREAD[N].as_ptr().cast());
                        _mm256_shuffle_epi8(of_half[0], _mm256_broadcastsi128_si256(mask))
                    } else {
                        _mm256_shuffle_epi8(of_half[N / 4], load(SPREAD_PAIRS[N % 4].as_ptr()))
                    };
                    total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, scale));
                });
                let below = if F::GROUP == 32 {
                    let own = _mm_loadu_si128(own.cast());
                    _mm256_zextsi128_si256(_mm_madd_epi16(_mm256_castsi256_si128(mins), own))
                } else {
                    _mm256_madd_epi16(mins, load(own))
                };
                let (dy, [d, dmin]) = (*a.acts.d.as_ptr().add(k), F::floats(b));
                if F::OFFSET {
                    total = _mm256_sub_epi32(total, below);
                } else {
                    under = _mm256_fmadd_ps(_mm256_cvtepi32_ps(below), _mm256_set1_ps(dmin * dy), under);
                }
                above = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(d * dy), above);
            }
        }
        *out = sum(_mm256_sub_ps(above, under));
    }
}

/// See [`crate::table::IntKernels::gemv`]. Signed codes are multiplied as their absolute values with the activations' signs
/// turned; the code −128 counts as 128 so. A pair of products is at most 2·128·127 = 32,512.
///
/// # Safety
/// Lengths as [`Gemv`] states them, with activations in units of 32.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_block<F: Block>(a: &mut Gemv) {
    let ones = _mm256_set1_epi16(1);
    let offset = _mm256_set1_epi8(F::OFFSET as i8);
    for (row, out) in a.rows.chunks_exact(a.row_bytes).zip(a.out.iter_mut()) {
        let (mut acc, mut below) = (_mm256_setzero_ps(), 0f32);
        let acts = a.acts.q.as_chunks::<32>().0.iter().zip(a.acts.sums32).zip(a.acts.d);
        for (block, ((y, own), dy)) in row.chunks_exact(F::BLOCK_BYTES).zip(acts) {
            fetch_ahead(block.as_ptr(), F::BLOCK_BYTES);
            // SAFETY: a whole block, 32 activations.
            let (w, y, [d, min]) = unsafe { (F::codes(block.as_ptr()), load(y.as_ptr()), F::floats(block.as_ptr())) };
            let pairs = if F::SIGNED || F::OFFSET > 0 {
                let w = if F::OFFSET > 0 { _mm256_sub_epi8(w, offset) } else { w };
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(y, w))
            } else {
                below += min * dy * f32::from(*own);
                _mm256_maddubs_epi16(w, y)
            };
            let total = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
            acc = _mm256_fmadd_ps(total, _mm256_set1_ps(d * dy), acc);
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
