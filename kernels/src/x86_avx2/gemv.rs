//! One token, or a few, times stored rows, straight from their blocks.
//!
//! One row at a time: two in step share loads of activations, and were slower by a third where rows come from memory.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::chain::{Beside, Places, ROWS, Terms, UNITS, folded, products, sums_of_four, sums_of_four_256, super_terms};
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

/// One super-block times `T` tokens: sums of products times scales, and of mins times sums of codes, where they are not taken
/// off those at once.
///
/// A pair of products is at most 2·63·127 = 16,002; times a scale of 128, summed over the 16 pairs of a lane, below 2²⁵,
/// and so are the sums of mins, of which a lane has two of 4096·2032.
///
/// # Safety
/// A block must be readable at `b`, and of each token 256 codes and a sum for every group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unit_super<F: Super, const T: usize>(
    b: *const u8,
    q: [*const i8; T],
    own: [*const i16; T],
) -> ([__m256i; T], [__m128i; T]) {
    // A shuffle that the compiler knows becomes a shift and a broadcast.
    let spread = std::hint::black_box(&SPREAD);
    // SAFETY: promised by the caller; masks of 32 bytes.
    unsafe {
        let [scales, mins] = F::steps(b);
        // The low half of these is for the first four runs, the high half for the others; or one for all.
        let of_half =
            [_mm256_permute2x128_si256::<0x00>(scales, scales), _mm256_permute2x128_si256::<0x11>(scales, scales)];
        let (mut total, mut below) = ([_mm256_setzero_si256(); T], [_mm_setzero_si128(); T]);
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
                let pairs = _mm256_maddubs_epi16(w, load(q[t].add(32 * N)));
                total[t] = _mm256_add_epi32(total[t], _mm256_madd_epi16(pairs, scale));
            }
        });
        for t in 0..T {
            if F::GROUP == 32 {
                below[t] = _mm_madd_epi16(_mm256_castsi256_si128(mins), _mm_loadu_si128(own[t].cast()));
                continue;
            }
            let taken = _mm256_madd_epi16(mins, load(own[t]));
            if F::RAISED != 0 {
                total[t] = _mm256_sub_epi32(total[t], taken);
            } else {
                below[t] = folded(taken);
            }
        }
        const { assert!(F::RAISED == 0 || F::GROUP == 16) };
        (total, below)
    }
}

/// `d` and `dmin` of `n` super-blocks, at most four, by way of whole numbers: shuffles are short. Where `dmin` only takes off what
/// codes are raised by, it holds nothing of use.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "f16c")]
pub(crate) unsafe fn floats_of<F: Super>(row: *const u8, n: usize) -> [__m128; 2] {
    let mut bits = [0i64; 2];
    for i in 0..n.min(4) {
        let at = row.wrapping_add(i * F::BLOCK_BYTES + F::FLOATS);
        // SAFETY: promised by the caller.
        unsafe {
            bits[0] |= i64::from(at.cast::<u16>().read_unaligned()) << (16 * i);
            if F::RAISED == 0 {
                bits[1] |= i64::from(at.add(2).cast::<u16>().read_unaligned()) << (16 * i);
            }
        }
    }
    [_mm_cvtph_ps(_mm_cvtsi64_si128(bits[0])), _mm_cvtph_ps(_mm_cvtsi64_si128(bits[1]))]
}

/// Codes and sums of `T` tokens from number `t0` on, where unit `from` of super-blocks begins.
#[inline(always)]
pub(crate) fn tokens_at<F: Super, const T: usize>(
    codes: &[i8],
    acts: &Acts<'_>,
    t0: usize,
    from: usize,
) -> ([*const i8; T], [*const i16; T]) {
    let sums: &[i16] = if F::GROUP == 32 { acts.sums32 } else { acts.sums16 };
    let (groups, units) = (256 / F::GROUP, acts.depth / 256);
    (
        rows_from(codes.as_ptr().wrapping_add(t0 * acts.depth + 256 * from), acts.depth),
        rows_from(sums.as_ptr().wrapping_add((t0 * units + from) * groups), units * groups),
    )
}

/// Terms of units `from..from + n` of a row of super-blocks, the first of which is at `row`, and of the first token.
///
/// # Safety
/// The row holds as many weights as the token, whose units are of 256, and there is a place for each, rounded up to a multiple
/// of four.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_super<F: Super>(row: *const u8, acts: &Acts<'_>, from: usize, n: usize, places: Places) {
    let ([q], [own]) = tokens_at::<F, 1>(acts.q, acts, 0, from);
    // SAFETY: promised by the caller.
    unsafe {
        for k0 in (0..n).step_by(4) {
            let none = (_mm256_setzero_si256(), _mm_setzero_si128());
            // By themselves, so that nothing has to go by way of memory.
            macro_rules! unit {
                ($i:literal) => {
                    if k0 + $i < n {
                        // Units are not mixed, or not all would fit the registers.
                        compiler_fence(Ordering::SeqCst);
                        let b = row.add((k0 + $i) * F::BLOCK_BYTES);
                        fetch_ahead(b, F::BLOCK_BYTES);
                        let (q, own) = ([q.add(256 * (k0 + $i))], [own.add(256 / F::GROUP * (k0 + $i))]);
                        let ([total], [below]) = unit_super::<F, 1>(b, q, own);
                        (total, below)
                    } else {
                        none
                    }
                };
            }
            let units = [unit!(0), unit!(1), unit!(2), unit!(3)];
            let first = row.add(k0 * F::BLOCK_BYTES);
            let [d, dmin] = if n - k0 >= 4 { floats_of::<F>(first, 4) } else { floats_of::<F>(first, n - k0) };
            let total = sums_of_four_256([units[0].0, units[1].0, units[2].0, units[3].0]);
            let term = if F::RAISED != 0 {
                super_terms::<false>(total, total, d, dmin)
            } else {
                let below = sums_of_four([units[0].1, units[1].1, units[2].1, units[3].1]);
                super_terms::<true>(total, below, d, dmin)
            };
            _mm_storeu_ps(places.terms.add(k0), term);
        }
    }
}

/// What units `from..from + n` of a row of super-blocks, the first of which is at `row`, and of `T` tokens from number `t0` on
/// come to: a token in every lane.
///
/// # Safety
/// The row holds as many weights as a token of `acts`, which has `t0 + T` tokens, four at most, in units of 256; `beside` holds
/// these units.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_super<F: Super, const T: usize>(
    row: *const u8,
    acts: &Acts<'_>,
    t0: usize,
    from: usize,
    n: usize,
    beside: &Beside,
) -> __m128 {
    let (q, own) = tokens_at::<F, T>(acts.q, acts, t0, from);
    let mut sum = _mm_setzero_ps();
    // SAFETY: promised by the caller.
    unsafe {
        for k in 0..n {
            let b = row.add(k * F::BLOCK_BYTES);
            if t0 == 0 {
                fetch_ahead(b, F::BLOCK_BYTES);
            }
            let mut at = (q, own);
            for t in 0..T {
                (at.0[t], at.1[t]) = (q[t].add(256 * k), own[t].add(256 / F::GROUP * k));
            }
            let (total, below) = unit_super::<F, T>(b, at.0, at.1);
            let (mut totals, mut belows) = ([_mm256_setzero_si256(); 4], [_mm_setzero_si128(); 4]);
            totals[..T].copy_from_slice(&total);
            belows[..T].copy_from_slice(&below);
            let [d, dmin] = F::floats(b).map(|x| _mm_set1_ps(x));
            let total = sums_of_four_256(totals);
            let term = if F::RAISED != 0 {
                super_terms::<false>(total, total, d, dmin)
            } else {
                super_terms::<true>(total, sums_of_four(belows), d, dmin)
            };
            sum = _mm_fmadd_ps(term, beside.scales(k), sum);
        }
    }
    sum
}

/// Blocks of 32 whose scales are converted and multiplied together.
pub(crate) const TOGETHER: usize = 4;

/// Sums of one block of 32 and `T` tokens, 8 lanes of each.
///
/// Signed codes are multiplied as their absolute values with the activations' signs turned; the code −128 counts as 128
/// so. A pair of products is at most 2·128·127 = 32,512.
///
/// # Safety
/// A block must be readable at `b`, 32 codes of each token.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unit_block<F: Block, const T: usize>(b: *const u8, q: [*const i8; T]) -> [__m256i; T] {
    let ones = _mm256_set1_epi16(1);
    let mut totals = [_mm256_setzero_si256(); T];
    // SAFETY: promised by the caller.
    unsafe {
        let w = F::codes(b);
        let size = if F::SIGNED { _mm256_abs_epi8(w) } else { w };
        for t in 0..T {
            let y = load(q[t]);
            let y = if F::SIGNED { _mm256_sign_epi8(y, w) } else { y };
            totals[t] = _mm256_madd_epi16(_mm256_maddubs_epi16(size, y), ones);
        }
    }
    totals
}

/// As [`row_super`], of blocks of 32, and units of so many.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_block<F: Block>(row: *const u8, acts: &Acts<'_>, from: usize, n: usize, places: Places) {
    let (q, own) = (acts.q[32 * from..].as_ptr(), acts.sums32[from..].as_ptr());
    // SAFETY: the row holds `n` blocks, the token as many times 32 codes and a sum; places as promised.
    unsafe {
        for k in (0..n / TOGETHER * TOGETHER).step_by(TOGETHER) {
            let b = row.add(k * F::BLOCK_BYTES);
            fetch_ahead(b, TOGETHER * F::BLOCK_BYTES);
            let own = _mm_loadl_epi64(own.add(k).cast());
            some_blocks::<F>(b, q.add(32 * k), own, TOGETHER, places.at(k));
        }
        let rest = n % TOGETHER;
        if rest > 0 {
            let (k, mut sums) = (n - rest, [0i16; 2 * TOGETHER]);
            std::ptr::copy_nonoverlapping(own.add(k), sums.as_mut_ptr(), rest);
            let own = _mm_loadu_si128(sums.as_ptr().cast());
            some_blocks::<F>(row.add(k * F::BLOCK_BYTES), q.add(32 * k), own, rest, places.at(k));
        }
    }
}

/// Terms of `n` blocks, at most [`TOGETHER`], and a token that has these sums of codes there.
///
/// # Safety
/// `n` blocks and the token's codes must be readable; there must be places for [`TOGETHER`] terms.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some_blocks<F: Block>(b: *const u8, q: *const i8, own: __m128i, n: usize, places: Places) {
    // SAFETY: promised by the caller; every block begins with its scale.
    unsafe {
        let scale = halves_of::<F>(b, n);
        if has_mins::<F>() {
            _mm_storeu_ps(places.mins, mins_of::<F>(b, n));
        }
        let mut totals = [_mm256_setzero_si256(); TOGETHER];
        for i in 0..n {
            [totals[i]] = unit_block::<F, 1>(b.add(i * F::BLOCK_BYTES), [q.add(32 * i)]);
        }
        let mut sums = sums_of_four_256(totals);
        if F::OFFSET > 0 {
            let own = _mm_cvtepi16_epi32(own);
            sums = _mm_sub_epi32(sums, _mm_mullo_epi32(own, _mm_set1_epi32(i32::from(F::OFFSET))));
        }
        _mm_storeu_ps(places.terms, _mm_mul_ps(_mm_cvtepi32_ps(sums), scale));
    }
}

/// As [`rows_super`], of blocks of 32, and units of so many.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_block<F: Block, const T: usize>(
    row: *const u8,
    acts: &Acts<'_>,
    t0: usize,
    from: usize,
    n: usize,
    beside: &Beside,
) -> __m128 {
    let q: [*const i8; T] = rows_from(acts.q[t0 * acts.depth + 32 * from..].as_ptr(), acts.depth);
    let mut sum = _mm_setzero_ps();
    // SAFETY: promised by the caller.
    unsafe {
        for k0 in (0..n).step_by(TOGETHER) {
            let (b, n) = (row.add(k0 * F::BLOCK_BYTES), TOGETHER.min(n - k0));
            if t0 == 0 {
                fetch_ahead(b, n * F::BLOCK_BYTES);
            }
            let numbers = Numbers::of::<F>(b, n);
            for i in 0..n {
                let mut at = q;
                for t in 0..T {
                    at[t] = q[t].add(32 * (k0 + i));
                }
                let mut totals = [_mm256_setzero_si256(); 4];
                totals[..T].copy_from_slice(&unit_block::<F, T>(b.add(i * F::BLOCK_BYTES), at));
                let products = sums_of_four_256(totals);
                sum = if F::OFFSET > 0 {
                    numbers.add::<F, true>(sum, beside, k0 + i, i, products)
                } else {
                    numbers.add::<F, false>(sum, beside, k0 + i, i, products)
                };
            }
        }
    }
    sum
}

/// Scales and mins of up to [`TOGETHER`] blocks, to be broadcast from memory.
pub(crate) struct Numbers {
    scales: [f32; TOGETHER],
    mins: [f32; TOGETHER],
}

impl Numbers {
    /// Those of `n` blocks.
    ///
    /// # Safety
    /// They must be readable.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(crate) unsafe fn of<F: Block>(b: *const u8, n: usize) -> Self {
        let mut this = Self { scales: [0.0; TOGETHER], mins: [0.0; TOGETHER] };
        // SAFETY: promised by the caller.
        unsafe {
            _mm_storeu_ps(this.scales.as_mut_ptr(), halves_of::<F>(b, n));
            if has_mins::<F>() {
                _mm_storeu_ps(this.mins.as_mut_ptr(), mins_of::<F>(b, n));
            }
        }
        this
    }

    /// `sum` and what block `i` adds to it, which is unit `k` of `beside`. Codes are `RAISED` to be unsigned, or not.
    ///
    /// # Safety
    /// As [`Beside::add_block`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn add<F: Block, const RAISED: bool>(
        &self,
        sum: __m128,
        beside: &Beside,
        k: usize,
        i: usize,
        products: __m128i,
    ) -> __m128 {
        let [scale, min] = [_mm_set1_ps(self.scales[i % TOGETHER]), _mm_set1_ps(self.mins[i % TOGETHER])];
        // SAFETY: promised by the caller.
        unsafe {
            if has_mins::<F>() {
                beside.add_block::<RAISED, true>(sum, k, products, scale, min)
            } else {
                beside.add_block::<RAISED, false>(sum, k, products, scale, min)
            }
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

products!("avx2,fma,f16c", Super, 256, 0, false, row_super, rows_super, gemv_super, few_super);
products!(
    "avx2,fma,f16c",
    Block,
    32,
    i32::from(F::OFFSET),
    const { has_mins::<F>() },
    row_block,
    rows_block,
    gemv_block,
    few_block
);
