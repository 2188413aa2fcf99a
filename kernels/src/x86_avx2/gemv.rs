//! One token, or a few, times stored rows, straight from their blocks.
//!
//! One row at a time: two in step share loads of activations, and were slower by a third where rows come from memory.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::chain::{Places, ROWS, SUPER_UNITS, SuperSums, Terms, folded, products, sums_of_four, sums_of_four_256};
use super::unpack::{Block, Super, each_run, load};
use crate::table::{Acts, Few, Gemv, rows_from};

/// How far ahead of the products weights are asked for, in bytes: first to come to the second cache, then to the first. Rows
/// follow each other, so this may be the next row. The processor's own prefetching ends with every page of 4 KiB, where a read
/// would wait for memory.
const FAR: usize = 12 * 1024;

/// See [`FAR`].
const NEAR: usize = 3 * 1024;

/// Asks for the bytes that lie [`FAR`] and [`NEAR`] behind those of a block. Rows of floats gain nothing from it.
///
/// The first cache keeps count of few requests, and where all of them wait for memory, so does what is read now. Of requests
/// to the second, many are under way at once, but where others use the memory, too, they come last. So each makes up for what
/// the other lacks.
#[inline]
#[target_feature(enable = "sse")]
pub(crate) fn fetch_ahead(block: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        // Affects nothing but caches, also where nothing can be read.
        _mm_prefetch::<_MM_HINT_T1>(block.wrapping_add(FAR + at).cast());
        _mm_prefetch::<_MM_HINT_NTA>(block.wrapping_add(NEAR + at).cast());
    }
}

/// Adds the 8 lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// Shuffles that put 16-bit number i of a lane into all places of the lane.
static SPREAD: [[u8; 32]; 8] = {
    let mut masks = [[0; 32]; 8];
    let mut i = 0;
    while i < 8 {
        let mut j = 0;
        while j < 32 {
            masks[i][j] = (2 * i + j % 2) as u8;
            j += 1;
        }
        i += 1;
    }
    masks
};

/// Shuffles that put 16-bit number 2k into all places of the low lane and number 2k + 1 into those of the high lane.
static SPREAD_PAIRS: [[u8; 32]; 4] = {
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

/// Terms of units `from..from + n` of a row of super-blocks, the first of which is at `row`, and of `T` tokens from number `t0`
/// on, see [`super::chain`].
///
/// A pair of products is at most 2·63·127 = 16,002; times a scale of 128, summed over the 16 pairs of a lane, below 2²⁵,
/// and so are the sums of mins, of which a lane has two of 4096·2032.
///
/// # Safety
/// The row holds as many weights as a token of `acts`, which has `t0 + T` tokens in units of 256; `n` is at most
/// [`SUPER_UNITS`], and there is a place for each, rounded up to a multiple of four.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_super<F: Super, const T: usize>(
    row: *const u8,
    acts: &Acts<'_>,
    t0: usize,
    from: usize,
    n: usize,
    places: Places<T>,
) {
    let sums: &[i16] = if F::GROUP == 32 { acts.sums32 } else { acts.sums16 };
    let (groups, units) = (256 / F::GROUP, acts.depth / 256);
    let q: [*const i8; T] = rows_from(acts.q[t0 * acts.depth + 256 * from..].as_ptr(), acts.depth);
    let own: [*const i16; T] = rows_from(sums[(t0 * units + from) * groups..].as_ptr(), units * groups);
    // A shuffle that the compiler knows becomes a shift and a broadcast.
    let spread = std::hint::black_box(&SPREAD);
    let mut made = SuperSums::<T>::new();
    // SAFETY: a whole block; of each unit of each token 256 codes and a sum for every group; masks of 32 bytes; places as
    // promised.
    unsafe {
        for k0 in (0..n).step_by(4) {
            let (mut totals, mut belows) = ([[_mm256_setzero_si256(); 4]; T], [[_mm_setzero_si128(); 4]; T]);
            for k in k0..n.min(k0 + 4) {
                let b = row.add(k * F::BLOCK_BYTES);
                if t0 == 0 {
                    fetch_ahead(b, F::BLOCK_BYTES);
                }
                let [scales, mins] = F::steps(b);
                // The low half of these is for the first four runs, the high half for the others; or one for all.
                let of_half = [
                    _mm256_permute2x128_si256::<0x00>(scales, scales),
                    _mm256_permute2x128_si256::<0x11>(scales, scales),
                ];
                let mut total = [_mm256_setzero_si256(); T];
                each_run!(|N| {
                    // Without it all runs are unpacked first, which spills them.
                    if T > 1 {
                        compiler_fence(Ordering::SeqCst);
                    }
                    let w = F::run::<N>(b);
                    let scale = if F::GROUP == 32 {
                        _mm256_shuffle_epi8(of_half[0], load(spread[N].as_ptr()))
                    } else {
                        _mm256_shuffle_epi8(of_half[N / 4], load(SPREAD_PAIRS[N % 4].as_ptr()))
                    };
                    for t in 0..T {
                        let pairs = _mm256_maddubs_epi16(w, load(q[t].add(256 * k + 32 * N)));
                        total[t] = _mm256_add_epi32(total[t], _mm256_madd_epi16(pairs, scale));
                    }
                });
                made.put_floats(k, F::floats(b));
                for t in 0..T {
                    let own = own[t].add(groups * k);
                    let below = if F::GROUP == 32 {
                        let own = _mm_loadu_si128(own.cast());
                        _mm256_zextsi128_si256(_mm_madd_epi16(_mm256_castsi256_si128(mins), own))
                    } else {
                        _mm256_madd_epi16(mins, load(own))
                    };
                    if F::RAISED != 0 {
                        total[t] = _mm256_sub_epi32(total[t], below);
                    } else if F::GROUP == 32 {
                        belows[t][k - k0] = _mm256_castsi256_si128(below);
                    } else {
                        belows[t][k - k0] = folded(below);
                    }
                    totals[t][k - k0] = total[t];
                }
            }
            for t in 0..T {
                made.put(t, k0, sums_of_four_256(totals[t]), sums_of_four(belows[t]));
            }
        }
        if F::RAISED != 0 {
            made.terms::<false>(n, places.terms);
        } else {
            made.terms::<true>(n, places.terms);
        }
    }
}

/// Blocks of 32 whose scales are converted and multiplied together.
pub(crate) const TOGETHER: usize = 4;

/// As [`row_super`], of blocks of 32, and units of so many.
///
/// # Safety
/// As there, but for the bound on `n`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_block<F: Block, const T: usize>(
    row: *const u8,
    acts: &Acts<'_>,
    t0: usize,
    from: usize,
    n: usize,
    mut places: Places<T>,
) {
    let units = acts.depth / 32;
    let mut at = Blocks {
        row,
        q: rows_from(acts.q[t0 * acts.depth + 32 * from..].as_ptr(), acts.depth),
        own: rows_from(acts.sums32[t0 * units + from..].as_ptr(), units),
    };
    // SAFETY: the row holds `n` blocks, each token as many times 32 codes and a sum; places as promised.
    unsafe {
        for _ in 0..n / TOGETHER {
            if t0 == 0 {
                fetch_ahead(at.row, TOGETHER * F::BLOCK_BYTES);
            }
            let own = at.own.map(|own| _mm_loadl_epi64(own.cast()));
            some_blocks::<F, T>(&at, TOGETHER, own, &places);
            at.advance::<F>(TOGETHER);
            places.terms = places.terms.map(|place| place.add(TOGETHER));
            places.mins = places.mins.add(TOGETHER);
        }
        let rest = n % TOGETHER;
        if rest > 0 {
            let mut own = [_mm_setzero_si128(); T];
            for t in 0..T {
                let mut sums = [0i16; 2 * TOGETHER];
                std::ptr::copy_nonoverlapping(at.own[t], sums.as_mut_ptr(), rest);
                own[t] = _mm_loadu_si128(sums.as_ptr().cast());
            }
            some_blocks::<F, T>(&at, rest, own, &places);
        }
    }
}

/// Where the next blocks of a row begin, and for each of `T` tokens what they are multiplied with.
pub(crate) struct Blocks<const T: usize> {
    pub(crate) row: *const u8,
    pub(crate) q: [*const i8; T],
    pub(crate) own: [*const i16; T],
}

impl<const T: usize> Blocks<T> {
    #[inline(always)]
    pub(crate) fn advance<F: Block>(&mut self, n: usize) {
        self.row = self.row.wrapping_add(n * F::BLOCK_BYTES);
        for t in 0..T {
            self.q[t] = self.q[t].wrapping_add(32 * n);
            self.own[t] = self.own[t].wrapping_add(n);
        }
    }
}

/// The mins of `n` blocks, at most [`TOGETHER`], of a format that has its own.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(crate) unsafe fn mins_of<F: Block>(row: *const u8, n: usize) -> __m128 {
    // SAFETY: promised by the caller; behind the scale such a block has what is added.
    unsafe { _mm_sub_ps(_mm_setzero_ps(), halves_of::<F>(row.add(2), n)) }
}

/// Whether a format of blocks has mins of its own.
pub(crate) const fn has_mins<F: Block>() -> bool {
    !F::SIGNED && F::OFFSET == 0
}

/// Terms of `n` blocks, at most [`TOGETHER`], and `T` tokens that have these sums of codes there.
///
/// Signed codes are multiplied as their absolute values with the activations' signs turned; the code −128 counts as 128
/// so. A pair of products is at most 2·128·127 = 32,512.
///
/// # Safety
/// `n` blocks and their codes of each token must be readable; there must be places for [`TOGETHER`] terms.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some_blocks<F: Block, const T: usize>(at: &Blocks<T>, n: usize, own: [__m128i; T], places: &Places<T>) {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: promised by the caller; every block begins with its scale.
    unsafe {
        let scale = halves_of::<F>(at.row, n);
        if has_mins::<F>() {
            _mm_storeu_ps(places.mins, mins_of::<F>(at.row, n));
        }
        let mut totals = [[_mm256_setzero_si256(); TOGETHER]; T];
        for i in 0..n {
            let w = F::codes(at.row.add(i * F::BLOCK_BYTES));
            let size = if F::SIGNED { _mm256_abs_epi8(w) } else { w };
            for t in 0..T {
                let y = load(at.q[t].add(32 * i));
                let y = if F::SIGNED { _mm256_sign_epi8(y, w) } else { y };
                totals[t][i] = _mm256_madd_epi16(_mm256_maddubs_epi16(size, y), ones);
            }
        }
        for t in 0..T {
            let mut sums = sums_of_four_256(totals[t]);
            if F::OFFSET > 0 {
                let own = _mm_cvtepi16_epi32(own[t]);
                sums = _mm_sub_epi32(sums, _mm_mullo_epi32(own, _mm_set1_epi32(i32::from(F::OFFSET))));
            }
            _mm_storeu_ps(places.terms[t], _mm_mul_ps(_mm_cvtepi32_ps(sums), scale));
        }
    }
}

/// The half-precision numbers that `n` blocks from here on begin with; 0 for the others.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "f16c")]
pub(crate) unsafe fn halves_of<F: Block>(first: *const u8, n: usize) -> __m128 {
    let mut bits = 0;
    for i in 0..n {
        // SAFETY: promised by the caller.
        let half = unsafe { first.add(i * F::BLOCK_BYTES).cast::<u16>().read_unaligned() };
        bits |= i64::from(half) << (16 * i);
    }
    _mm_cvtph_ps(_mm_cvtsi64_si128(bits))
}

products!("avx2,fma,f16c", Super, 256, SUPER_UNITS, false, row_super, gemv_super, few_super);
products!("avx2,fma,f16c", Block, 32, usize::MAX, const { has_mins::<F>() }, row_block, gemv_block, few_block);
