//! Rows of floats: one token, or a few, times them, and conversions.

use std::arch::x86_64::*;

use super::gemv::sum;
use crate::table::{RowsF32, rows_from, tile_tokens};

/// Bytes of rows that stay in the second cache while one group of tokens after the other is multiplied with them.
pub(crate) const TOGETHER: usize = 128 * 1024;

/// Floats as they are stored.
pub(crate) trait Stored {
    /// Bytes of each.
    const BYTES: usize;

    /// Eight of them.
    ///
    /// # Safety
    /// They must be readable, and the CPU have F16C.
    unsafe fn eight(p: *const u8) -> __m256;

    /// One of them.
    ///
    /// # Safety
    /// It must be readable.
    unsafe fn one(p: *const u8) -> f32;
}

pub(crate) enum Half {}
pub(crate) enum Brain {}
pub(crate) enum Single {}

impl Stored for Half {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn eight(p: *const u8) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: promised by the caller.
        ocelli_quant::half_bits::f16_to_f32(u16::from_le(unsafe { p.cast::<u16>().read_unaligned() }))
    }
}

impl Stored for Brain {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn eight(p: *const u8) -> __m256 {
        // SAFETY: promised by the caller. The upper half of an f32.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))) }
    }

    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: promised by the caller.
        f32::from_bits(u32::from(u16::from_le(unsafe { p.cast::<u16>().read_unaligned() })) << 16)
    }
}

impl Stored for Single {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn eight(p: *const u8) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }

    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: promised by the caller.
        unsafe { p.cast::<f32>().read_unaligned() }
    }
}

/// `R` rows times `T` tokens, a sum for each pair: with four of them or more none has to wait for itself, and nine fit the
/// registers beside what is multiplied (twelve do not: a third slower). The bits of a result depend neither on `R` nor on
/// `T`.
///
/// # Safety
/// Every row holds `n` floats, as does every token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<W: Stored, const R: usize, const T: usize>(
    rows: [*const u8; R],
    x: [*const f32; T],
    n: usize,
) -> [[f32; T]; R] {
    let mut acc = [[_mm256_setzero_ps(); T]; R];
    let mut out = [[0f32; T]; R];
    let eights = n / 8;
    // SAFETY: whole eights end at 8 · ⌊n / 8⌋, the rest at n.
    unsafe {
        for eight in 0..eights {
            let mut at_x = [_mm256_setzero_ps(); T];
            for t in 0..T {
                at_x[t] = _mm256_loadu_ps(x[t].add(8 * eight));
            }
            for r in 0..R {
                let w = W::eight(rows[r].add(8 * eight * W::BYTES));
                for t in 0..T {
                    acc[r][t] = _mm256_fmadd_ps(w, at_x[t], acc[r][t]);
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                out[r][t] = sum(acc[r][t]);
                for i in 8 * eights..n {
                    out[r][t] += *x[t].add(i) * W::one(rows[r].add(i * W::BYTES));
                }
            }
        }
    }
    out
}

/// See [`crate::table::KernelTable::rows_f32`].
///
/// # Safety
/// Lengths as [`RowsF32`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn rows<W: Stored>(a: &RowsF32) {
    let per = (TOGETHER / a.row_bytes).max(1);
    for (part, rows) in a.rows.chunks(per * a.row_bytes).enumerate() {
        let mut t = 0;
        while t < a.tokens {
            let n = tile_tokens(3, a.tokens - t);
            // SAFETY: tokens `t..t + n` exist, and places for the results of these rows.
            unsafe {
                match n {
                    1 => group::<W, 4, 1>(a, rows, part * per, t),
                    2 => group::<W, 4, 2>(a, rows, part * per, t),
                    _ => group::<W, 3, 3>(a, rows, part * per, t),
                }
            }
            t += n;
        }
    }
}

/// These rows, the first of which is number `first`, times `T` tokens from number `t` on, `R` rows in step: they share what is
/// read of the tokens.
///
/// # Safety
/// As [`rows`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group<W: Stored, const R: usize, const T: usize>(a: &RowsF32, bytes: &[u8], first: usize, t: usize) {
    let x: [*const f32; T] = rows_from(a.x.wrapping_add(t * a.x_stride), a.x_stride);
    let n = bytes.len() / a.row_bytes;
    let mut r = 0;
    while r < n {
        let row = bytes[r * a.row_bytes..].as_ptr();
        // SAFETY: promised by the caller; rows `r..r + R` are there where they are read.
        unsafe {
            if r + R <= n {
                put(a, first + r, t, tile::<W, R, T>(rows_from(row, a.row_bytes), x, a.cols));
                r += R;
            } else {
                put(a, first + r, t, tile::<W, 1, T>([row], x, a.cols));
                r += 1;
            }
        }
    }
}

/// Stores results of `R` rows from number `r` on, and `T` tokens from number `t` on.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn put<const R: usize, const T: usize>(a: &RowsF32, r: usize, t: usize, results: [[f32; T]; R]) {
    for (i, results) in results.into_iter().enumerate() {
        for (j, result) in results.into_iter().enumerate() {
            // SAFETY: promised by the caller.
            unsafe { a.put(r + i, t + j, result) };
        }
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
pub(crate) unsafe fn f32_to_f16(x: &[f32], out: &mut [u8]) {
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
