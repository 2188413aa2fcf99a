//! One token, or a few, times stored rows with AVX-512, straight from their blocks: AVX2's kernels in registers of twice
//! the width, with a dot product of four bytes where those need a multiplication and a sum. AVX2's read weights from memory
//! at two thirds of the rate of a Zen 5.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::gemm::raised32;
use super::lanes::vpdpwssd_512;
use super::unpack::Wide;
use crate::table::{Acts, Few, Gemv, rows_from, six_bits};
use crate::x86_avx2::chain::{Places, ROWS, SUPER_UNITS, SuperSums, Terms, folded, products, sums_of_four};
use crate::x86_avx2::gemv::{Blocks, TOGETHER, fetch_ahead, halves_of, has_mins, mins_of};
use crate::x86_avx2::unpack::{Block, load};

/// For both halves of a super-block: which 16-bit scale belongs to which 16-bit sum. Packing two registers puts four sums of
/// the one beside four of the other.
const fn places(runs: [[usize; 2]; 4], group: usize) -> [[u16; 32]; 2] {
    let mut places = [[0; 32]; 2];
    let mut i = 0;
    while i < 64 {
        let (half, lane, register) = (i / 32, i % 32 / 8, 2 * (i / 32) + i % 8 / 4);
        // A lane has 16 codes, half a run.
        let run = runs[register][lane / 2];
        places[half][i % 32] = if group == 32 { run } else { 2 * run + lane % 2 } as u16;
        i += 1;
    }
    places
}

/// The same for 8-bit scales, of which a shuffle makes 16-bit ones: in an odd place it puts a zero.
const fn byte_places(runs: [[usize; 2]; 4]) -> [[u16; 32]; 2] {
    let mut places = places(runs, 32);
    let mut i = 0;
    while i < 64 {
        places[i / 32][i % 32] |= 0x8000;
        i += 1;
    }
    places
}

/// The small numbers of a block on their way to be broadcast. A load does that for nothing, where it takes shuffles to get them
/// out of a register. With one token it is loads that are short: all that a block has is loaded once for every product.
struct Small {
    scales: u64,
    mins: u64,
}

impl Small {
    /// Takes the numbers of a Q4_K or Q5_K block.
    ///
    /// # Safety
    /// 16 bytes of the block must be readable, `this` writable.
    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512vl")]
    unsafe fn take(this: *mut Self, b: *const u8) {
        // SAFETY: promised by the caller.
        unsafe {
            let [scales, mins] = six_bits(&*b.cast::<[u8; 16]>());
            // Each by itself: the compiler would compute both in a vector, which takes longer.
            (&raw mut (*this).scales).write_volatile(scales);
            (&raw mut (*this).mins).write_volatile(mins);
        }
        // What follows must not know what it will find there.
        compiler_fence(Ordering::SeqCst);
    }
}

/// Codes of a token as a format's registers take them.
///
/// # Safety
/// 256 codes must be readable, in the order that the format asks for. To be inlined into a function that is compiled with
/// AVX-512.
#[inline(always)]
unsafe fn codes_of<F: Wide>(register: usize, q: *const i8) -> __m512i {
    let runs = F::RUNS[register];
    // SAFETY: promised by the caller.
    unsafe {
        if F::CROSSED || runs[1] == runs[0] + 1 {
            return _mm512_loadu_si512(q.add(64 * register).cast());
        }
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(q.add(32 * runs[0]))), load(q.add(32 * runs[1])))
    }
}

/// Whether a block's small numbers go by way of [`Small`].
const fn in_memory<F: Wide, const T: usize>() -> bool {
    F::GROUP == 32 && T > 2
}

/// Terms of units `from..from + n` of a row of super-blocks, the first of which is at `row`, and of `T` tokens from number `t0`
/// on, see [`chain`](crate::x86_avx2::chain).
///
/// A lane has four products, at most 4·63·127 = 32,004 together, which fits 16 bits; times a scale of 128, summed over the
/// eight of them, below 2²⁵, and so are the sums of mins, of which a lane has two of 4096·2032.
///
/// # Safety
/// The row holds as many weights as a token of `acts`, which has `t0 + T` tokens in units of 256; `n` is at most
/// [`SUPER_UNITS`], and there is a place for each, rounded up to a multiple of four. To be inlined into a function that is
/// compiled with the table's features.
#[inline(always)]
unsafe fn row_super<F: Wide, const T: usize>(
    row: *const u8,
    acts: &Acts<'_>,
    t0: usize,
    from: usize,
    n: usize,
    at: Places<T>,
) {
    let sums: &[i16] = if F::GROUP == 32 { acts.sums32 } else { acts.sums16 };
    let codes = if F::CROSSED { acts.crossed } else { acts.q };
    debug_assert_eq!(codes.len(), acts.q.len());
    let (groups, units) = (256 / F::GROUP, acts.depth / 256);
    let q: [*const i8; T] = rows_from(codes.as_ptr().wrapping_add(t0 * acts.depth + 256 * from), acts.depth);
    let own: [*const i16; T] = rows_from(sums.as_ptr().wrapping_add((t0 * units + from) * groups), units * groups);
    // SAFETY: promised by the caller: `n` whole blocks; of each token 256 codes, and a sum for every group of every unit.
    unsafe {
        // A shuffle that the compiler knows may become several others.
        let places = std::hint::black_box(
            const { &if in_memory::<F, T>() { byte_places(F::RUNS) } else { places(F::RUNS, F::GROUP) } },
        );
        let places = [places[0], places[1]].map(|place| _mm512_loadu_si512(place.as_ptr().cast()));
        let mut small = Small { scales: 0, mins: 0 };
        let small: *mut Small = std::hint::black_box(&raw mut small);
        let mut made = SuperSums::<T>::new();
        for k0 in (0..n).step_by(4) {
            let (mut totals, mut belows) = ([[_mm512_setzero_si512(); 4]; T], [[_mm_setzero_si128(); 4]; T]);
            for k in k0..n.min(k0 + 4) {
                let b = row.add(k * F::BLOCK_BYTES);
                if t0 == 0 {
                    fetch_ahead(b, F::BLOCK_BYTES);
                }
                let [scales, mins] = if in_memory::<F, T>() {
                    Small::take(small, b);
                    let mins = _mm_cvtepu8_epi16(_mm_loadl_epi64((&raw const (*small).mins).cast()));
                    [_mm512_set1_epi64((*small).scales as i64), _mm512_zextsi128_si512(mins)]
                } else {
                    F::steps(b).map(|steps| _mm512_castsi256_si512(steps))
                };
                let mins = _mm512_castsi512_si256(mins);
                let mut total = [_mm512_setzero_si512(); T];
                macro_rules! halves {
                    ($($h:literal)+) => {$(
                        // Without it everything is unpacked first, which spills it.
                        if T > 1 {
                            compiler_fence(Ordering::SeqCst);
                        }
                        let w = F::half::<$h>(b);
                        let scale = if in_memory::<F, T>() {
                            _mm512_shuffle_epi8(scales, places[$h])
                        } else {
                            _mm512_permutexvar_epi16(places[$h], scales)
                        };
                        for t in 0..T {
                            let dot = |i: usize| {
                                let y = codes_of::<F>(2 * $h + i, q[t].add(256 * k));
                                _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[i], y)
                            };
                            total[t] = vpdpwssd_512(total[t], _mm512_packs_epi32(dot(0), dot(1)), scale);
                        }
                    )+};
                }
                halves!(0 1);
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
                        total[t] = _mm512_sub_epi32(total[t], _mm512_zextsi256_si512(below));
                    } else if F::GROUP == 32 {
                        belows[t][k - k0] = _mm256_castsi256_si128(below);
                    } else {
                        belows[t][k - k0] = folded(below);
                    }
                    totals[t][k - k0] = total[t];
                }
            }
            for t in 0..T {
                made.put(t, k0, totals_of_four(totals[t]), sums_of_four(belows[t]));
            }
        }
        if F::RAISED != 0 {
            made.terms::<false>(n, at.terms);
        } else {
            made.terms::<true>(n, at.terms);
        }
    }
}

/// The sum of all lanes of each of four registers.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn totals_of_four(v: [__m512i; 4]) -> __m128i {
    let two = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (a, b) = (two(v[0], v[1]), two(v[2], v[3]));
    let four = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    folded(_mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64::<1>(four)))
}

/// The sum of all lanes of each of four registers of floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn totals(v: [__m512; 4]) -> __m128 {
    let two = |a, b| _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    let (a, b) = (two(v[0], v[1]), two(v[2], v[3]));
    let (low, high) = (_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    let four = _mm512_add_ps(low, high);
    let upper = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(four))));
    let four = _mm256_add_ps(_mm512_castps512_ps256(four), _mm512_castps512_ps256(upper));
    _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four))
}

/// As [`row_super`], of blocks of 32, and units of so many.
///
/// # Safety
/// As there, but for the bound on `n`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_block<F: Block, const T: usize>(
    row: *const u8,
    acts: &Acts<'_>,
    t0: usize,
    from: usize,
    n: usize,
    mut places: Places<T>,
) {
    let units = acts.depth / 32;
    let q: [*const i8; T] = rows_from(acts.q[t0 * acts.depth + 32 * from..].as_ptr(), acts.depth);
    let own: [*const i16; T] = rows_from(acts.sums32[t0 * units + from..].as_ptr(), units);
    let mut at = Blocks { row, q, own };
    // SAFETY: the row holds `n` blocks, each token as many times 32 codes and a sum; places as promised.
    unsafe {
        for _ in 0..n / TOGETHER {
            if t0 == 0 {
                fetch_ahead(at.row, TOGETHER * F::BLOCK_BYTES);
            }
            some_blocks::<F, T, true>(&at, TOGETHER, &places);
            at.advance::<F>(TOGETHER);
            places.terms = places.terms.map(|place| place.add(TOGETHER));
            places.mins = places.mins.add(TOGETHER);
        }
        if !n.is_multiple_of(TOGETHER) {
            some_blocks::<F, T, false>(&at, n % TOGETHER, &places);
        }
    }
}

/// Terms of `n` blocks, at most [`TOGETHER`] and just as many where they are `ALL`, and `T` tokens. Signed codes are raised by
/// 128 to be unsigned.
///
/// # Safety
/// `n` blocks, and their codes and sums of each token, must be readable; there must be places for [`TOGETHER`] terms.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn some_blocks<F: Block, const T: usize, const ALL: bool>(at: &Blocks<T>, n: usize, places: &Places<T>) {
    let flip = _mm512_set1_epi8(if F::SIGNED { i8::MIN } else { 0 });
    let n = if ALL { TOGETHER } else { n };
    let there: __mmask8 = (1 << n) - 1;
    // SAFETY: promised by the caller; masks keep reads of fewer than four inside. Every block begins with its scale.
    unsafe {
        let scale = halves_of::<F>(at.row, n);
        if has_mins::<F>() {
            _mm_storeu_ps(places.mins, mins_of::<F>(at.row, n));
        }
        let mut dots = [[_mm512_setzero_si512(); 2]; T];
        macro_rules! pair {
            ($($p:literal)+) => {$(
                if ALL || 2 * $p < n {
                    let b = at.row.add(2 * $p * F::BLOCK_BYTES);
                    // Behind the last block there may be nothing.
                    let both = ALL || 2 * $p + 1 < n;
                    let upper = if both { F::codes(b.add(F::BLOCK_BYTES)) } else { _mm256_setzero_si256() };
                    let w = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(F::codes(b)), upper);
                    let w = _mm512_xor_si512(w, flip);
                    let here: __mmask16 = if both { 0xffff } else { 0x00ff };
                    for t in 0..T {
                        let y = _mm512_maskz_loadu_epi32(here, at.q[t].add(64 * $p).cast());
                        dots[t][$p] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, y);
                    }
                }
            )+};
        }
        pair!(0 1);
        for t in 0..T {
            let mut sums = of_pairs(dots[t]);
            let raised = const { raised32::<F>() };
            if raised != 0 {
                let own = _mm_cvtepi16_epi32(_mm_maskz_loadu_epi16(there, at.own[t]));
                sums = _mm_sub_epi32(sums, _mm_mullo_epi32(own, _mm_set1_epi32(raised)));
            }
            _mm_storeu_ps(places.terms[t], _mm_mul_ps(_mm_cvtepi32_ps(sums), scale));
        }
    }
}

/// The sums of four halves: the lower and upper of the first register, then those of the second.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512vl")]
fn of_pairs(v: [__m512i; 2]) -> __m128i {
    // Lanes of 128 bits have two numbers of the first and two of the second; of the lower halves in the lower two lanes.
    let twos = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    let (lower, upper) = (folded(_mm512_castsi512_si256(twos)), folded(_mm512_extracti64x4_epi64::<1>(twos)));
    // Of each, numbers 0 and 2 are of the first register, 1 and 3 of the second.
    let (even, odd) = (_mm_unpacklo_epi32(lower, upper), _mm_unpackhi_epi32(lower, upper));
    _mm_add_epi32(even, odd)
}

products!(
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni",
    Wide,
    256,
    SUPER_UNITS,
    false,
    row_super,
    gemv_super,
    few_super
);
products!(
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni",
    Block,
    32,
    usize::MAX,
    const { has_mins::<F>() },
    row_block,
    gemv_block,
    few_block
);
