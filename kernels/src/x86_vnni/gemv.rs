//! One token, or a few, times stored rows with AVX-512, straight from their blocks: AVX2's kernels in registers of twice
//! the width, with a dot product of four bytes where those need a multiplication and a sum. AVX2's read weights from memory
//! at two thirds of the rate of a Zen 5.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::lanes::vpdpwssd_512;
use super::unpack::Wide;
use crate::table::{Acts, Few, Gemv, rows_from};
use crate::x86_avx2::gemv::{Blocks, TOGETHER, fetch_ahead, halves_of, products, put, sum};
use crate::x86_avx2::unpack::Block;

/// How far ahead of the products weights are asked for, in bytes: with 2,048 of them a Zen 5 reads a tenth to a fifth slower.
pub(super) const AHEAD: usize = 8192;

/// For every pair of runs: which 16-bit scale belongs to which lane of 32 bits, of groups of 32 and of 16.
static SCALES: [[[u16; 32]; 4]; 2] = {
    let mut places = [[[0; 32]; 4]; 2];
    let mut j = 0;
    while j < 4 {
        let mut word = 0;
        while word < 32 {
            places[0][j][word] = (2 * j + word / 16) as u16;
            places[1][j][word] = (4 * j + word / 8) as u16;
            word += 1;
        }
        j += 1;
    }
    places
};

/// The lower word of every lane.
const LOWER: __mmask32 = 0x5555_5555;

/// One row of super-blocks times `T` tokens from number `t0` on. The bits of a result do not depend on `T`.
///
/// A lane has four products, at most 4·63·127 = 32,004 together, which fits 16 bits; times a scale of 128, summed over the
/// four pairs of runs, below 2²⁵, and so are the sums of mins, of which a lane has two of 4096·2032.
///
/// # Safety
/// The row holds as many weights as a token of `acts`, which has `t0 + T` tokens in units of 256.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_super<F: Wide, const T: usize>(row: &[u8], acts: &Acts<'_>, t0: usize) -> [f32; T] {
    let sums: &[i16] = if F::GROUP == 32 { acts.sums32 } else { acts.sums16 };
    let (groups, units) = (256 / F::GROUP, acts.depth / 256);
    let q: [*const i8; T] = rows_from(acts.q[t0 * acts.depth..].as_ptr(), acts.depth);
    let d: [*const f32; T] = rows_from(acts.d[t0 * units..].as_ptr(), units);
    let own: [*const i16; T] = rows_from(sums[t0 * units * groups..].as_ptr(), units * groups);
    // A shuffle that the compiler knows may become several others.
    let places = std::hint::black_box(&SCALES[usize::from(F::GROUP == 16)]);
    let mut acc = [_mm512_setzero_ps(); T];
    let mut below = [_mm256_setzero_ps(); T];
    for (k, block) in row.chunks_exact(F::BLOCK_BYTES).enumerate() {
        let b = block.as_ptr();
        if t0 == 0 {
            fetch_ahead::<AHEAD>(b, F::BLOCK_BYTES);
        }
        // SAFETY: a whole block; of unit k of each token 256 codes, a sum for every group and a scale.
        unsafe {
            let [scales, mins] = F::steps(b);
            let scales = _mm512_castsi256_si512(scales);
            let mut total = [_mm512_setzero_si512(); T];
            macro_rules! pair {
                ($($j:literal)+) => {$(
                    if T > 1 {
                        compiler_fence(Ordering::SeqCst);
                    }
                    let w = F::pair::<$j>(b);
                    let place = _mm512_loadu_si512(places[$j].as_ptr().cast());
                    let scale = _mm512_maskz_permutexvar_epi16(LOWER, place, scales);
                    for t in 0..T {
                        let y = _mm512_loadu_si512(q[t].add(256 * k + 64 * $j).cast());
                        let dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, y);
                        total[t] = vpdpwssd_512(total[t], dot, scale);
                    }
                )+};
            }
            pair!(0 1 2 3);
            let [d_row, dmin] = F::floats(b);
            for t in 0..T {
                let own = own[t].add(groups * k);
                let taken = if F::GROUP == 32 {
                    let own = _mm_loadu_si128(own.cast());
                    _mm256_zextsi128_si256(_mm_madd_epi16(_mm256_castsi256_si128(mins), own))
                } else {
                    _mm256_madd_epi16(mins, _mm256_loadu_si256(own.cast()))
                };
                let dy = *d[t].add(k);
                if F::RAISED != 0 {
                    total[t] = _mm512_sub_epi32(total[t], _mm512_zextsi256_si512(taken));
                } else {
                    below[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(taken), _mm256_set1_ps(dmin * dy), below[t]);
                }
                acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[t]), _mm512_set1_ps(d_row * dy), acc[t]);
            }
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        out[t] = sum(_mm256_sub_ps(folded(acc[t]), below[t]));
    }
    out
}

/// Both halves added.
#[inline]
#[target_feature(enable = "avx512f")]
fn folded(v: __m512) -> __m256 {
    let upper = _mm512_castps_pd(v);
    _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(upper)))
}

/// For both pairs of four blocks: which block's number belongs to which lane.
static BLOCKS: [[u32; 16]; 2] =
    [[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3]];

/// Where codes are signed, the first lane of each block begins with what their being raised by 128 must not add.
const FIRST: __mmask16 = 0x0101;

/// One row of blocks of 32 times `T` tokens from number `t0` on. The bits of a result do not depend on `T`.
///
/// # Safety
/// As [`row_super`], in units of 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_block<F: Block, const T: usize>(row: &[u8], acts: &Acts<'_>, t0: usize) -> [f32; T] {
    let units = acts.depth / 32;
    let q: [*const i8; T] = rows_from(acts.q[t0 * acts.depth..].as_ptr(), acts.depth);
    let d: [*const f32; T] = rows_from(acts.d[t0 * units..].as_ptr(), units);
    let own: [*const i16; T] = rows_from(acts.sums32[t0 * units..].as_ptr(), units);
    let mut sums = Sums { acc: [[_mm512_setzero_ps(); 2]; T], below: [_mm_setzero_ps(); T] };
    let mut at = Blocks { row: row.as_ptr(), q, d, own };
    // SAFETY: the row holds `units` blocks, each token as many times 32 codes, a scale and a sum.
    unsafe {
        for _ in 0..units / TOGETHER {
            if t0 == 0 {
                fetch_ahead::<AHEAD>(at.row, TOGETHER * F::BLOCK_BYTES);
            }
            some_blocks::<F, T, true>(&at, TOGETHER, &mut sums);
            at.advance::<F>(TOGETHER);
        }
        if !units.is_multiple_of(TOGETHER) {
            some_blocks::<F, T, false>(&at, units % TOGETHER, &mut sums);
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        let below = _mm256_zextps128_ps256(sums.below[t]);
        out[t] = sum(_mm256_sub_ps(folded(_mm512_add_ps(sums.acc[t][0], sums.acc[t][1])), below));
    }
    out
}

/// Sums of `T` tokens: of the products of even and of odd pairs of blocks, and of what is to be taken off.
struct Sums<const T: usize> {
    acc: [[__m512; 2]; T],
    below: [__m128; T],
}

/// `n` blocks, at most [`TOGETHER`] and just as many where they are `ALL`, times `T` tokens.
///
/// Signed codes are raised by 128; sums begin with what that must not add.
///
/// # Safety
/// `n` blocks, and their codes, scales and sums of each token, must be readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn some_blocks<F: Block, const T: usize, const ALL: bool>(at: &Blocks<T>, n: usize, sums: &mut Sums<T>) {
    let flip = _mm512_set1_epi8(if F::SIGNED { i8::MIN } else { 0 });
    let n = if ALL { TOGETHER } else { n };
    let there: __mmask8 = (1 << n) - 1;
    // SAFETY: promised by the caller; masks keep reads of fewer than four inside. Every block begins with its scale, and
    // where there is no offset a second number follows.
    unsafe {
        let scale = halves_of::<F>(at.row, n);
        let min = if F::SIGNED {
            _mm_setzero_ps()
        } else if F::OFFSET > 0 {
            _mm_mul_ps(scale, _mm_set1_ps(f32::from(F::OFFSET)))
        } else {
            _mm_sub_ps(_mm_setzero_ps(), halves_of::<F>(at.row.add(2), n))
        };
        let (mut scales, mut begin) = ([_mm512_setzero_ps(); T], [_mm512_setzero_si512(); T]);
        for t in 0..T {
            let d = _mm_maskz_loadu_ps(there, at.d[t]);
            let own = _mm_cvtepi16_epi32(_mm_maskz_loadu_epi16(there, at.own[t]));
            scales[t] = _mm512_castps128_ps512(_mm_mul_ps(scale, d));
            if F::SIGNED {
                begin[t] = _mm512_castsi128_si512(_mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32::<7>(own)));
            } else {
                sums.below[t] = _mm_fmadd_ps(_mm_mul_ps(min, d), _mm_cvtepi32_ps(own), sums.below[t]);
            }
        }
        let places = std::hint::black_box(&BLOCKS);
        macro_rules! pair {
            ($($p:literal)+) => {$(
                if ALL || 2 * $p < n {
                    let b = at.row.add(2 * $p * F::BLOCK_BYTES);
                    // Behind the last block there may be nothing.
                    let both = ALL || 2 * $p + 1 < n;
                    let upper = if both { F::codes(b.add(F::BLOCK_BYTES)) } else { _mm256_setzero_si256() };
                    let w = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(F::codes(b)), upper);
                    let w = _mm512_xor_si512(w, flip);
                    let place = _mm512_loadu_si512(places[$p].as_ptr().cast());
                    let here: __mmask16 = if both { 0xffff } else { 0x00ff };
                    for t in 0..T {
                        let y = _mm512_maskz_loadu_epi32(here, at.q[t].add(64 * $p).cast());
                        let mut dot = _mm512_setzero_si512();
                        if F::SIGNED {
                            dot = _mm512_maskz_permutexvar_epi32(FIRST, place, begin[t]);
                        }
                        let dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(dot, w, y));
                        let by = _mm512_permutexvar_ps(place, scales[t]);
                        sums.acc[t][$p] = _mm512_fmadd_ps(dot, by, sums.acc[t][$p]);
                    }
                }
            )+};
        }
        pair!(0 1);
    }
}

products!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", Wide, row_super, gemv_super, few_super);
products!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", Block, row_block, gemv_block, few_block);
