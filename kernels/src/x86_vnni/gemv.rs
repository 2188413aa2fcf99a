//! One token, or a few, times stored rows with AVX-512, straight from their blocks: AVX2's kernels in registers of twice
//! the width, with a dot product of four bytes where those need a multiplication and a sum. AVX2's read weights from memory
//! at two thirds of the rate of a Zen 5.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::gemm::raised32;
use super::lanes::vpdpwssd_512;
use super::unpack::Wide;
use crate::table::{Acts, Few, Gemv, rows_from, six_bits};
use crate::x86_avx2::chain::{Beside, Places, ROWS, Terms, UNITS, folded, products, sums_of_four, super_terms};
use crate::x86_avx2::gemv::{Numbers, TOGETHER, fetch_ahead, floats_of, halves_of, has_mins, mins_of, tokens_at};
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

/// One super-block times `T` tokens: sums of products times scales, and of mins times sums of codes, where they are not taken
/// off those at once.
///
/// A lane has four products, at most 4·63·127 = 32,004 together, which fits 16 bits; times a scale of 128, summed over the
/// eight of them, below 2²⁵, and so are the sums of mins, of which a lane has two of 4096·2032.
///
/// # Safety
/// A block must be readable at `b`, and of each token 256 codes and a sum for every group. To be inlined into a function that is
/// compiled with the table's features.
#[inline(always)]
unsafe fn unit_super<F: Wide, const T: usize>(
    b: *const u8,
    q: [*const i8; T],
    own: [*const i16; T],
    places: [__m512i; 2],
    small: *mut Small,
) -> ([__m512i; T], [__m128i; T]) {
    // SAFETY: promised by the caller.
    unsafe {
        let [scales, mins] = if in_memory::<F, T>() {
            Small::take(small, b);
            let mins = _mm_cvtepu8_epi16(_mm_loadl_epi64((&raw const (*small).mins).cast()));
            [_mm512_set1_epi64((*small).scales as i64), _mm512_zextsi128_si512(mins)]
        } else {
            F::steps(b).map(|steps| _mm512_castsi256_si512(steps))
        };
        let mins = _mm512_castsi512_si256(mins);
        let (mut total, mut below) = ([_mm512_setzero_si512(); T], [_mm_setzero_si128(); T]);
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
                        let y = codes_of::<F>(2 * $h + i, q[t]);
                        _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[i], y)
                    };
                    total[t] = vpdpwssd_512(total[t], _mm512_packs_epi32(dot(0), dot(1)), scale);
                }
            )+};
        }
        halves!(0 1);
        for t in 0..T {
            if F::GROUP == 32 {
                below[t] = _mm_madd_epi16(_mm256_castsi256_si128(mins), _mm_loadu_si128(own[t].cast()));
                continue;
            }
            let taken = _mm256_madd_epi16(mins, load(own[t]));
            if F::RAISED != 0 {
                total[t] = _mm512_sub_epi32(total[t], _mm512_zextsi256_si512(taken));
            } else {
                below[t] = folded(taken);
            }
        }
        const { assert!(F::RAISED == 0 || F::GROUP == 16) };
        (total, below)
    }
}

/// What [`unit_super`] takes besides: which scale belongs where, and room for small numbers.
///
/// # Safety
/// To be inlined into a function that is compiled with the table's features.
#[inline(always)]
unsafe fn places_of<F: Wide, const T: usize>() -> [__m512i; 2] {
    // A shuffle that the compiler knows may become several others.
    let places = std::hint::black_box(
        const { &if in_memory::<F, T>() { byte_places(F::RUNS) } else { places(F::RUNS, F::GROUP) } },
    );
    // SAFETY: 32 numbers of 16 bits each.
    unsafe { [_mm512_loadu_si512(places[0].as_ptr().cast()), _mm512_loadu_si512(places[1].as_ptr().cast())] }
}

/// Terms of units `from..from + n` of a row of super-blocks, the first of which is at `row`, and of the first token, see
/// [`chain`](crate::x86_avx2::chain).
///
/// # Safety
/// The row holds as many weights as the token, whose units are of 256, and there is a place for each, rounded up to a multiple
/// of four. To be inlined into a function that is compiled with the table's features.
#[inline(always)]
unsafe fn row_super<F: Wide>(row: *const u8, acts: &Acts<'_>, from: usize, n: usize, at: Places) {
    let codes = if F::CROSSED { acts.crossed } else { acts.q };
    debug_assert_eq!(codes.len(), acts.q.len());
    let ([q], [own]) = tokens_at::<F, 1>(codes, acts, 0, from);
    // SAFETY: promised by the caller.
    unsafe {
        let places = places_of::<F, 1>();
        let mut small = Small { scales: 0, mins: 0 };
        for k0 in (0..n).step_by(4) {
            let none = (_mm512_setzero_si512(), _mm_setzero_si128());
            // By themselves, so that nothing has to go by way of memory.
            macro_rules! unit {
                ($i:literal) => {
                    if k0 + $i < n {
                        // Units are not mixed, or not all would fit the registers.
                        compiler_fence(Ordering::SeqCst);
                        let b = row.add((k0 + $i) * F::BLOCK_BYTES);
                        fetch_ahead(b, F::BLOCK_BYTES);
                        let (q, own) = ([q.add(256 * (k0 + $i))], [own.add(256 / F::GROUP * (k0 + $i))]);
                        let ([total], [below]) = unit_super::<F, 1>(b, q, own, places, &raw mut small);
                        (total, below)
                    } else {
                        none
                    }
                };
            }
            let units = [unit!(0), unit!(1), unit!(2), unit!(3)];
            let first = row.add(k0 * F::BLOCK_BYTES);
            let [d, dmin] = if n - k0 >= 4 { floats_of::<F>(first, 4) } else { floats_of::<F>(first, n - k0) };
            let total = totals_of_four([units[0].0, units[1].0, units[2].0, units[3].0]);
            let term = if F::RAISED != 0 {
                super_terms::<false>(total, total, d, dmin)
            } else {
                let below = sums_of_four([units[0].1, units[1].1, units[2].1, units[3].1]);
                super_terms::<true>(total, below, d, dmin)
            };
            _mm_storeu_ps(at.terms.add(k0), term);
        }
    }
}

/// What units `from..from + n` of a row of super-blocks, the first of which is at `row`, and of `T` tokens from number `t0` on
/// come to: a token in every lane.
///
/// # Safety
/// The row holds as many weights as a token of `acts`, which has `t0 + T` tokens, four at most, in units of 256; `beside` holds
/// these units. To be inlined into a function that is compiled with the table's features.
#[inline(always)]
unsafe fn rows_super<F: Wide, const T: usize>(
    row: *const u8,
    acts: &Acts<'_>,
    t0: usize,
    from: usize,
    n: usize,
    beside: &Beside,
) -> __m128 {
    let codes = if F::CROSSED { acts.crossed } else { acts.q };
    debug_assert_eq!(codes.len(), acts.q.len());
    let (q, own) = tokens_at::<F, T>(codes, acts, t0, from);
    // SAFETY: promised by the caller.
    unsafe {
        let places = places_of::<F, T>();
        let mut small = Small { scales: 0, mins: 0 };
        let small: *mut Small = std::hint::black_box(&raw mut small);
        let mut sum = _mm_setzero_ps();
        for k in 0..n {
            let b = row.add(k * F::BLOCK_BYTES);
            if t0 == 0 {
                fetch_ahead(b, F::BLOCK_BYTES);
            }
            let mut at = (q, own);
            for t in 0..T {
                (at.0[t], at.1[t]) = (q[t].add(256 * k), own[t].add(256 / F::GROUP * k));
            }
            let (total, below) = unit_super::<F, T>(b, at.0, at.1, places, small);
            let (mut totals, mut belows) = ([_mm512_setzero_si512(); 4], [_mm_setzero_si128(); 4]);
            totals[..T].copy_from_slice(&total);
            belows[..T].copy_from_slice(&below);
            let [d, dmin] = F::floats(b);
            let [d, dmin] = [_mm_set1_ps(d), _mm_set1_ps(dmin)];
            let total = totals_of_four(totals);
            let term = if F::RAISED != 0 {
                super_terms::<false>(total, total, d, dmin)
            } else {
                super_terms::<true>(total, sums_of_four(belows), d, dmin)
            };
            sum = _mm_fmadd_ps(term, beside.scales(k), sum);
        }
        sum
    }
}

/// Sums of lanes of each of four registers: every 128 bits have one of each.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn fours(v: [__m512i; 4]) -> __m512i {
    let two = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (a, b) = (two(v[0], v[1]), two(v[2], v[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
}

/// The sum of all lanes of each of four registers.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn totals_of_four(v: [__m512i; 4]) -> __m128i {
    let four = fours(v);
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

/// Two blocks of 32 times `T` tokens: the products of the first in the lower half of a register, and those of the second, which
/// need not be there. Signed codes are raised by 128 to be unsigned.
///
/// # Safety
/// One block must be readable at `b`, with `BOTH` two, and as many times 32 codes of each token.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn two_blocks<F: Block, const T: usize, const BOTH: bool>(b: *const u8, q: [*const i8; T]) -> [__m512i; T] {
    let flip = _mm512_set1_epi8(if F::SIGNED { i8::MIN } else { 0 });
    let mut dots = [_mm512_setzero_si512(); T];
    // SAFETY: promised by the caller.
    unsafe {
        let upper = if BOTH { F::codes(b.add(F::BLOCK_BYTES)) } else { _mm256_setzero_si256() };
        let w = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(F::codes(b)), upper);
        let w = _mm512_xor_si512(w, flip);
        for t in 0..T {
            let y = if BOTH { _mm512_loadu_si512(q[t].cast()) } else { _mm512_zextsi256_si512(load(q[t])) };
            dots[t] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, y);
        }
    }
    dots
}

/// As [`row_super`], of blocks of 32, and units of so many.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_block<F: Block>(row: *const u8, acts: &Acts<'_>, from: usize, n: usize, places: Places) {
    let (q, own) = (acts.q[32 * from..].as_ptr(), acts.sums32[from..].as_ptr());
    // SAFETY: the row holds `n` blocks, the token as many times 32 codes and a sum; places as promised.
    unsafe {
        let eights = n / 8 * 8;
        for k in (0..eights).step_by(8) {
            let b = row.add(k * F::BLOCK_BYTES);
            fetch_ahead(b, 8 * F::BLOCK_BYTES);
            put_eight::<F>(b, q.add(32 * k), own.add(k), places.at(k));
        }
        for k in (eights..n / TOGETHER * TOGETHER).step_by(TOGETHER) {
            let b = row.add(k * F::BLOCK_BYTES);
            fetch_ahead(b, TOGETHER * F::BLOCK_BYTES);
            let dots = |i: usize| two_blocks::<F, 1, true>(b.add(i * F::BLOCK_BYTES), [q.add(32 * (k + i))])[0];
            put_blocks::<F>(b, [dots(0), dots(2)], own.add(k), TOGETHER, places.at(k));
        }
        let rest = n % TOGETHER;
        if rest > 0 {
            let k = n - rest;
            let (b, q) = (row.add(k * F::BLOCK_BYTES), q.add(32 * k));
            let (b2, q2) = (b.wrapping_add(2 * F::BLOCK_BYTES), q.wrapping_add(64));
            let none = _mm512_setzero_si512();
            let dots = match rest {
                1 => [two_blocks::<F, 1, false>(b, [q])[0], none],
                2 => [two_blocks::<F, 1, true>(b, [q])[0], none],
                _ => [two_blocks::<F, 1, true>(b, [q])[0], two_blocks::<F, 1, false>(b2, [q2])[0]],
            };
            put_blocks::<F>(b, dots, own.add(k), rest, places.at(k));
        }
    }
}

/// Puts terms of eight blocks and one token, and `own` are the sums of its codes. What blocks of even number have, and of odd, is
/// where both come in two halves.
///
/// # Safety
/// Eight blocks, and as many times 32 codes and a sum, must be readable; there must be eight places.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn put_eight<F: Block>(b: *const u8, q: *const i8, own: *const i16, places: Places) {
    // SAFETY: promised by the caller. Every block begins with its scale.
    unsafe {
        let dots = |i: usize| two_blocks::<F, 1, true>(b.add(2 * i * F::BLOCK_BYTES), [q.add(64 * i)])[0];
        let mut sums = halves_of_four([dots(0), dots(1), dots(2), dots(3)]);
        let raised = const { raised32::<F>() };
        if raised != 0 {
            let own = _mm_loadu_si128(own.cast());
            let own = [_mm_srai_epi32::<16>(_mm_slli_epi32::<16>(own)), _mm_srai_epi32::<16>(own)];
            for i in 0..2 {
                sums[i] = _mm_sub_epi32(sums[i], _mm_mullo_epi32(own[i], _mm_set1_epi32(raised)));
            }
        }
        let scales = [every_other::<F>(b), every_other::<F>(b.add(F::BLOCK_BYTES))];
        let [even, odd] = [0, 1].map(|i| _mm_mul_ps(_mm_cvtepi32_ps(sums[i]), scales[i]));
        put_both(places.terms, even, odd);
        if has_mins::<F>() {
            let mins = [every_other::<F>(b.add(2)), every_other::<F>(b.add(F::BLOCK_BYTES + 2))];
            let [even, odd] = mins.map(|min| _mm_sub_ps(_mm_setzero_ps(), min));
            put_both(places.mins, even, odd);
        }
    }
}

/// Puts numbers of even and of odd blocks in order.
///
/// # Safety
/// There must be eight places.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn put_both(place: *mut f32, even: __m128, odd: __m128) {
    // SAFETY: promised by the caller.
    unsafe {
        _mm_storeu_ps(place, _mm_unpacklo_ps(even, odd));
        _mm_storeu_ps(place.add(4), _mm_unpackhi_ps(even, odd));
    }
}

/// The half-precision numbers that blocks 0, 2, 4 and 6 from here on begin with.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "f16c")]
unsafe fn every_other<F: Block>(first: *const u8) -> __m128 {
    let mut bits = 0;
    for i in 0..4 {
        // SAFETY: promised by the caller.
        let half = unsafe { first.add(2 * i * F::BLOCK_BYTES).cast::<u16>().read_unaligned() };
        bits |= i64::from(half) << (16 * i);
    }
    _mm_cvtph_ps(_mm_cvtsi64_si128(bits))
}

/// Puts terms of `n` blocks, at most [`TOGETHER`], of which these are the products, and `own` the sums of the token's codes.
///
/// # Safety
/// `n` blocks and sums must be readable; there must be places for [`TOGETHER`] terms.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
unsafe fn put_blocks<F: Block>(b: *const u8, dots: [__m512i; 2], own: *const i16, n: usize, places: Places) {
    // SAFETY: promised by the caller; the mask keeps reads of fewer than four inside. Every block begins with its scale.
    unsafe {
        if has_mins::<F>() {
            _mm_storeu_ps(places.mins, mins_of::<F>(b, n));
        }
        let mut sums = of_pairs(dots);
        let raised = const { raised32::<F>() };
        if raised != 0 {
            let own = _mm_cvtepi16_epi32(_mm_maskz_loadu_epi16((1 << n) - 1, own));
            sums = _mm_sub_epi32(sums, _mm_mullo_epi32(own, _mm_set1_epi32(raised)));
        }
        _mm_storeu_ps(places.terms, _mm_mul_ps(_mm_cvtepi32_ps(sums), halves_of::<F>(b, n)));
    }
}

/// As [`rows_super`], of blocks of 32, and units of so many.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
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
            for i in (0..n).step_by(2) {
                let mut at = q;
                for t in 0..T {
                    at[t] = q[t].add(32 * (k0 + i));
                }
                let b = b.add(i * F::BLOCK_BYTES);
                let both = i + 1 < n;
                let dots = if both { two_blocks::<F, T, true>(b, at) } else { two_blocks::<F, T, false>(b, at) };
                let mut all = [_mm512_setzero_si512(); 4];
                all[..T].copy_from_slice(&dots);
                let [first, second] = halves_of_four(all);
                for (i, products) in [(i, first), (i + 1, second)].into_iter().take(if both { 2 } else { 1 }) {
                    sum = if has_mins::<F>() {
                        numbers.add::<F, false>(sum, beside, k0 + i, i, products)
                    } else {
                        numbers.add::<F, true>(sum, beside, k0 + i, i, products)
                    };
                }
            }
        }
    }
    sum
}

/// The sums of the lower halves of four registers, and those of the upper ones.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn halves_of_four(v: [__m512i; 4]) -> [__m128i; 2] {
    let four = fours(v);
    [folded(_mm512_castsi512_si256(four)), folded(_mm512_extracti64x4_epi64::<1>(four))]
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
    0,
    false,
    row_super,
    rows_super,
    gemv_super,
    few_super
);
products!(
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni",
    Block,
    32,
    const { raised32::<F>() },
    const { has_mins::<F>() },
    row_block,
    rows_block,
    gemv_block,
    few_block
);
