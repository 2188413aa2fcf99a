//! One token, or a few, times stored rows, straight from their blocks.
//!
//! One row at a time: two in step share loads of activations, and were slower by a third where rows come from memory.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

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

/// One row of super-blocks times `T` tokens from number `t0` on. The bits of a result do not depend on `T`.
///
/// A pair of products is at most 2·63·127 = 16,002; times a scale of 128, summed over the 16 pairs of a lane, below 2²⁵,
/// and so are the sums of mins, of which a lane has two of 4096·2032.
///
/// # Safety
/// The row holds as many weights as a token of `acts`, which has `t0 + T` tokens in units of 256.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_super<F: Super, const T: usize>(row: &[u8], acts: &Acts<'_>, t0: usize) -> [f32; T] {
    let sums: &[i16] = if F::GROUP == 32 { acts.sums32 } else { acts.sums16 };
    let (groups, units) = (256 / F::GROUP, acts.depth / 256);
    let q: [*const i8; T] = rows_from(acts.q[t0 * acts.depth..].as_ptr(), acts.depth);
    let d: [*const f32; T] = rows_from(acts.d[t0 * units..].as_ptr(), units);
    let own: [*const i16; T] = rows_from(sums[t0 * units * groups..].as_ptr(), units * groups);
    // A shuffle that the compiler knows becomes a shift and a broadcast.
    let spread = std::hint::black_box(&SPREAD);
    let mut acc = [_mm256_setzero_ps(); T];
    for (k, block) in row.chunks_exact(F::BLOCK_BYTES).enumerate() {
        let b = block.as_ptr();
        if t0 == 0 {
            fetch_ahead(b, F::BLOCK_BYTES);
        }
        // SAFETY: a whole block; of unit k of each token 256 codes, a sum for every group and a scale; masks of 32
        // bytes.
        unsafe {
            let [scales, mins] = F::steps(b);
            // The low half of these is for the first four runs, the high half for the others; or one for all.
            let of_half =
                [_mm256_permute2x128_si256::<0x00>(scales, scales), _mm256_permute2x128_si256::<0x11>(scales, scales)];
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
            let [d_row, dmin] = F::floats(b).map(|x| _mm256_set1_ps(x));
            for t in 0..T {
                let own = own[t].add(groups * k);
                let below = if F::GROUP == 32 {
                    let own = _mm_loadu_si128(own.cast());
                    _mm256_zextsi128_si256(_mm_madd_epi16(_mm256_castsi256_si128(mins), own))
                } else {
                    _mm256_madd_epi16(mins, load(own))
                };
                let (dy, scaled) =
                    (_mm256_broadcast_ss(&*d[t].add(k)), |x| _mm256_mul_ps(_mm256_cvtepi32_ps(x), d_row));
                let whole = if F::RAISED != 0 {
                    scaled(_mm256_sub_epi32(total[t], below))
                } else {
                    _mm256_fnmadd_ps(_mm256_cvtepi32_ps(below), dmin, scaled(total[t]))
                };
                acc[t] = _mm256_fmadd_ps(whole, dy, acc[t]);
            }
        }
    }
    acc.map(|acc| sum(acc))
}

/// Blocks of 32 whose scales are converted and multiplied together.
pub(crate) const TOGETHER: usize = 4;

/// One row of blocks of 32 times `T` tokens from number `t0` on. The bits of a result do not depend on `T`.
///
/// # Safety
/// As [`row_super`], in units of 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_block<F: Block, const T: usize>(row: &[u8], acts: &Acts<'_>, t0: usize) -> [f32; T] {
    let units = acts.depth / 32;
    let mut sums = Sums { acc: [[_mm256_setzero_ps(); 2]; T], below: [_mm_setzero_ps(); T] };
    let mut at = Blocks {
        row: row.as_ptr(),
        q: rows_from(acts.q[t0 * acts.depth..].as_ptr(), acts.depth),
        d: rows_from(acts.d[t0 * units..].as_ptr(), units),
        own: rows_from(acts.sums32[t0 * units..].as_ptr(), units),
    };
    // SAFETY: the row holds `units` blocks, each token as many times 32 codes, a scale and a sum.
    unsafe {
        for _ in 0..units / TOGETHER {
            if t0 == 0 {
                fetch_ahead(at.row, TOGETHER * F::BLOCK_BYTES);
            }
            let d = at.d.map(|d| _mm_loadu_ps(d));
            let own = at.own.map(|own| _mm_loadl_epi64(own.cast()));
            some_blocks::<F, T>(&at, TOGETHER, d, own, &mut sums);
            at.advance::<F>(TOGETHER);
        }
        let rest = units % TOGETHER;
        if rest > 0 {
            let (mut d, mut own) = ([_mm_setzero_ps(); T], [_mm_setzero_si128(); T]);
            for t in 0..T {
                let (mut scales, mut sums) = ([0f32; TOGETHER], [0i16; 2 * TOGETHER]);
                std::ptr::copy_nonoverlapping(at.d[t], scales.as_mut_ptr(), rest);
                std::ptr::copy_nonoverlapping(at.own[t], sums.as_mut_ptr(), rest);
                (d[t], own[t]) = (_mm_loadu_ps(scales.as_ptr()), _mm_loadu_si128(sums.as_ptr().cast()));
            }
            some_blocks::<F, T>(&at, rest, d, own, &mut sums);
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        let below = _mm_add_ps(sums.below[t], _mm_movehl_ps(sums.below[t], sums.below[t]));
        let below = _mm_add_ss(below, _mm_movehdup_ps(below));
        out[t] = sum(_mm256_add_ps(sums.acc[t][0], sums.acc[t][1])) - _mm_cvtss_f32(below);
    }
    out
}

/// Sums of `T` tokens: of the products of even and of odd blocks, since one after the other would wait for its turn, and of
/// what is to be taken off.
struct Sums<const T: usize> {
    acc: [[__m256; 2]; T],
    below: [__m128; T],
}

/// Where the next blocks of a row begin, and for each of `T` tokens what they are multiplied with.
pub(crate) struct Blocks<const T: usize> {
    pub(crate) row: *const u8,
    pub(crate) q: [*const i8; T],
    pub(crate) d: [*const f32; T],
    pub(crate) own: [*const i16; T],
}

impl<const T: usize> Blocks<T> {
    #[inline(always)]
    pub(crate) fn advance<F: Block>(&mut self, n: usize) {
        self.row = self.row.wrapping_add(n * F::BLOCK_BYTES);
        for t in 0..T {
            self.q[t] = self.q[t].wrapping_add(32 * n);
            self.d[t] = self.d[t].wrapping_add(n);
            self.own[t] = self.own[t].wrapping_add(n);
        }
    }
}

/// `n` blocks, at most [`TOGETHER`], times `T` tokens that have these scales and sums there.
///
/// Signed codes are multiplied as their absolute values with the activations' signs turned; the code −128 counts as 128
/// so. A pair of products is at most 2·128·127 = 32,512.
///
/// # Safety
/// `n` blocks and their codes of each token must be readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some_blocks<F: Block, const T: usize>(
    at: &Blocks<T>,
    n: usize,
    d: [__m128; T],
    own: [__m128i; T],
    sums: &mut Sums<T>,
) {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: promised by the caller; every block begins with its scale, and where there is no offset a second number
    // follows.
    unsafe {
        let scale = halves_of::<F>(at.row, n);
        let min = if F::SIGNED {
            _mm_setzero_ps()
        } else if F::OFFSET > 0 {
            _mm_mul_ps(scale, _mm_set1_ps(f32::from(F::OFFSET)))
        } else {
            _mm_sub_ps(_mm_setzero_ps(), halves_of::<F>(at.row.add(2), n))
        };
        let mut scales = [[0f32; TOGETHER]; T];
        for t in 0..T {
            _mm_storeu_ps(scales[t].as_mut_ptr(), _mm_mul_ps(scale, d[t]));
            if !F::SIGNED {
                let own = _mm_cvtepi32_ps(_mm_cvtepi16_epi32(own[t]));
                sums.below[t] = _mm_fmadd_ps(_mm_mul_ps(min, d[t]), own, sums.below[t]);
            }
        }
        // Loads broadcast what lies in memory; what the compiler knew to be in a register would take a shuffle.
        let scales = std::hint::black_box(&scales);
        for i in 0..n {
            let w = F::codes(at.row.add(i * F::BLOCK_BYTES));
            let size = if F::SIGNED { _mm256_abs_epi8(w) } else { w };
            for t in 0..T {
                let y = load(at.q[t].add(32 * i));
                let y = if F::SIGNED { _mm256_sign_epi8(y, w) } else { y };
                let total = _mm256_madd_epi16(_mm256_maddubs_epi16(size, y), ones);
                let scale = _mm256_broadcast_ss(&scales[t][i]);
                let acc = &mut sums.acc[t][i % 2];
                *acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), scale, *acc);
            }
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

/// Defines the product with one token and that with a few from a row's.
macro_rules! products {
    ($features:literal, $format:ident, $row:ident, $one:ident, $few:ident) => {
        /// See [`crate::table::IntKernels::gemv`].
        ///
        /// # Safety
        /// Lengths as [`Gemv`] states them.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $one<F: $format>(a: &mut Gemv) {
            for (row, out) in a.rows.chunks_exact(a.row_bytes).zip(a.out.iter_mut()) {
                // SAFETY: the contract of this function.
                [*out] = unsafe { $row::<F, 1>(row, &a.acts, 0) };
            }
        }

        /// See [`crate::table::IntKernels::few`].
        ///
        /// # Safety
        /// Lengths as [`Few`] states them.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $few<F: $format>(a: &Few) {
            for (r, row) in a.rows.chunks_exact(a.row_bytes).enumerate() {
                let mut t = 0;
                while t < a.tokens {
                    let place = a.out.wrapping_add(t * a.out_stride + r);
                    // SAFETY: there are that many tokens, and places for their results.
                    t += unsafe {
                        match a.tokens - t {
                            1 => put($row::<F, 1>(row, &a.acts, t), place, a.out_stride),
                            2 => put($row::<F, 2>(row, &a.acts, t), place, a.out_stride),
                            3 => put($row::<F, 3>(row, &a.acts, t), place, a.out_stride),
                            _ => put($row::<F, 4>(row, &a.acts, t), place, a.out_stride),
                        }
                    };
                }
            }
        }
    };
}
pub(crate) use products;

products!("avx2,fma,f16c", Super, row_super, gemv_super, few_super);
products!("avx2,fma,f16c", Block, row_block, gemv_block, few_block);

/// Stores results `stride` apart; how many.
///
/// # Safety
/// They must be writable.
#[inline]
pub(crate) unsafe fn put<const T: usize>(results: [f32; T], out: *mut f32, stride: usize) -> usize {
    for (t, result) in results.into_iter().enumerate() {
        // SAFETY: promised by the caller.
        unsafe { out.add(t * stride).write(result) };
    }
    T
}
