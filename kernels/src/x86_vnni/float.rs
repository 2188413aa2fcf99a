//! Rows of floats times one token, or a few, with registers of 16: one row at a time, since several in step are as many
//! streams of memory, of which a Zen 4 follows none far enough ahead. Where AVX2 has a sum for each of four rows, a row has
//! four sums here. What is stored is not asked for ahead: a single stream of it comes faster without, by a tenth with 256
//! bytes and by a third with 4,096.

use std::arch::x86_64::*;

use super::gemv::totals;
use crate::table::{RowsF32, rows_from, tile_tokens};
use crate::x86_avx2::float::{Brain, Half, Single, Stored, TOGETHER};

/// Values of a register.
const LANES: usize = 16;

/// Sums of a row and a token: one of them would have to wait for itself.
const CHAINS: usize = 4;

/// Bytes of tokens that stay in the first cache.
const NEAR: usize = 24 * 1024;

/// Floats as they are stored, a register at a time.
///
/// # Safety
/// All functions ask for a CPU with AVX-512 F, BW and VL, and to be inlined into a function that is compiled with them.
pub(super) trait Wide: Stored {
    /// The 16 from `p` on.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn all(p: *const u8) -> __m512;

    /// Those of them that are `there`; zeros for the others.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn some(p: *const u8, there: __mmask16) -> __m512;
}

/// The upper halves of f32.
#[inline]
#[target_feature(enable = "avx512f")]
fn widened(upper: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(upper)))
}

impl Wide for Half {
    #[inline(always)]
    unsafe fn all(p: *const u8) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn some(p: *const u8, there: __mmask16) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, p.cast())) }
    }
}

impl Wide for Brain {
    #[inline(always)]
    unsafe fn all(p: *const u8) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { widened(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn some(p: *const u8, there: __mmask16) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { widened(_mm256_maskz_loadu_epi16(there, p.cast())) }
    }
}

impl Wide for Single {
    #[inline(always)]
    unsafe fn all(p: *const u8) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_loadu_ps(p.cast()) }
    }

    #[inline(always)]
    unsafe fn some(p: *const u8, there: __mmask16) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_maskz_loadu_ps(there, p.cast()) }
    }
}

/// `R` rows times `T` tokens: sums of which [`totals`] makes results. Their bits depend neither on `R` nor on `T`.
///
/// # Safety
/// Every row holds `n` floats, as does every token. To be inlined into a function that is compiled with the table's features.
#[inline(always)]
unsafe fn tile<W: Wide, const R: usize, const T: usize>(
    rows: [*const u8; R],
    x: [*const f32; T],
    n: usize,
) -> [[__m512; T]; R] {
    // SAFETY: whole steps end at n or before it, masks there.
    unsafe {
        let mut acc = [[[_mm512_setzero_ps(); CHAINS]; T]; R];
        let step = CHAINS * LANES;
        let whole = n / step * step;
        for at in (0..whole).step_by(step) {
            // Left to itself, the compiler may keep sums in memory.
            macro_rules! chains {
                ($($c:literal)+) => {$({
                    let at = at + $c * LANES;
                    let mut w = [_mm512_setzero_ps(); R];
                    for r in 0..R {
                        w[r] = W::all(rows[r].add(at * W::BYTES));
                    }
                    for t in 0..T {
                        let x = _mm512_loadu_ps(x[t].add(at));
                        for r in 0..R {
                            acc[r][t][$c] = _mm512_fmadd_ps(w[r], x, acc[r][t][$c]);
                        }
                    }
                })+};
            }
            chains!(0 1 2 3);
        }
        for c in 0..CHAINS {
            let at = whole + c * LANES;
            if at >= n {
                break;
            }
            let there = u16::MAX >> (LANES - LANES.min(n - at));
            for t in 0..T {
                let x = _mm512_maskz_loadu_ps(there, x[t].add(at));
                for r in 0..R {
                    let w = W::some(rows[r].add(at * W::BYTES), there);
                    acc[r][t][c] = _mm512_fmadd_ps(w, x, acc[r][t][c]);
                }
            }
        }
        let mut sums = [[_mm512_setzero_ps(); T]; R];
        for r in 0..R {
            for t in 0..T {
                let [a, b, c, d] = acc[r][t];
                sums[r][t] = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
            }
        }
        sums
    }
}

/// One token: rows one after the other, or where it does not stay in the first cache, four in step.
///
/// # Safety
/// As [`rows`]; there must be a token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
unsafe fn one<W: Wide>(a: &RowsF32) {
    let near = a.cols * size_of::<f32>() <= NEAR;
    for (part, rows) in a.rows.chunks(4 * a.row_bytes).enumerate() {
        let n = rows.len() / a.row_bytes;
        let mut sums = [_mm512_setzero_ps(); 4];
        // SAFETY: the contract of this function; no more results than there are places.
        unsafe {
            if n == 4 && !near {
                let four = tile::<W, 4, 1>(rows_from(rows.as_ptr(), a.row_bytes), [a.x], a.cols);
                for r in 0..4 {
                    sums[r] = four[r][0];
                }
            } else {
                for r in 0..n {
                    sums[r] = tile::<W, 1, 1>([rows[r * a.row_bytes..].as_ptr()], [a.x], a.cols)[0][0];
                }
            }
            let mut results = [0f32; 4];
            _mm_storeu_ps(results.as_mut_ptr(), totals(sums));
            for (r, result) in results.into_iter().enumerate().take(n) {
                a.put(4 * part + r, 0, result);
            }
        }
    }
}

/// See [`crate::table::KernelTable::rows_f32`].
///
/// # Safety
/// Lengths as [`RowsF32`] states them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn rows<W: Wide>(a: &RowsF32) {
    if a.tokens == 1 {
        // SAFETY: the contract of this function.
        return unsafe { one::<W>(a) };
    }
    let per = (TOGETHER / a.row_bytes).max(1);
    let near = NEAR / size_of::<f32>() / a.cols.max(1);
    for (part, rows) in a.rows.chunks(per * a.row_bytes).enumerate() {
        let (mut t, r) = (0, part * per);
        while t < a.tokens {
            // The first group reads rows from memory, one after the other where that is the rarer miss; the others find
            // them in the cache.
            let alone = t == 0 && near > 1;
            let n = if alone { near.min(4).min(a.tokens) } else { tile_tokens(near.clamp(2, 3), a.tokens - t) };
            // SAFETY: tokens `t..t + n` exist, and places for the results of these rows.
            unsafe {
                match (n, alone) {
                    (1, _) => group::<W, 4, 1>(a, rows, r, t),
                    (2, true) => group::<W, 1, 2>(a, rows, r, t),
                    (3, true) => group::<W, 1, 3>(a, rows, r, t),
                    (_, true) => group::<W, 1, 4>(a, rows, r, t),
                    (2, _) => group::<W, 3, 2>(a, rows, r, t),
                    _ => group::<W, 2, 3>(a, rows, r, t),
                }
            }
            t += n;
        }
    }
}

/// These rows, the first of which is number `r`, times `T` tokens from number `t` on, `R` rows in step: they share what is
/// read of the tokens.
///
/// # Safety
/// As [`rows`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
unsafe fn group<W: Wide, const R: usize, const T: usize>(a: &RowsF32, rows: &[u8], mut r: usize, t: usize) {
    let x: [*const f32; T] = rows_from(a.x.wrapping_add(t * a.x_stride), a.x_stride);
    let mut step = rows.chunks_exact(R * a.row_bytes);
    // SAFETY: promised by the caller; as many rows are there as are read.
    unsafe {
        for step in &mut step {
            let sums = tile::<W, R, T>(rows_from(step.as_ptr(), a.row_bytes), x, a.cols);
            for sums in sums {
                put(a, r, t, sums);
                r += 1;
            }
        }
        for row in step.remainder().chunks_exact(a.row_bytes) {
            let [sums] = tile::<W, 1, T>([row.as_ptr()], x, a.cols);
            put(a, r, t, sums);
            r += 1;
        }
    }
}

/// Stores the results of row `r` and `T` tokens from number `t` on.
///
/// # Safety
/// As [`rows`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put<const T: usize>(a: &RowsF32, r: usize, t: usize, sums: [__m512; T]) {
    let mut four = [_mm512_setzero_ps(); 4];
    four[..T].copy_from_slice(&sums);
    let mut results = [0f32; 4];
    // SAFETY: four places; the caller promises those of the results.
    unsafe {
        _mm_storeu_ps(results.as_mut_ptr(), totals(four));
        for i in 0..T {
            a.put(r, t + i, results[i]);
        }
    }
}
