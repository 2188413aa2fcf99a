//! Stored rows into panels with AVX-512, for the formats that matter most: what is stored is transposed, and unpacked
//! behind that, so that a shuffle moves two nibbles at once. The panels are those of [`crate::x86_avx2::pack`], to the bit, but for
//! Q4_K's, whose codes are not unpacked at all: two groups' lie in a byte, and the products take one half or the other. Such a
//! panel is made with half the stores, and takes half as much of the second cache.

use std::arch::x86_64::*;

use ocelli_quant::formats::q4_k::Q4_K;
use ocelli_quant::formats::q5_k::Q5_K;
use ocelli_quant::formats::q6_k::Q6_K;
use ocelli_quant::formats::q8_0::Q8_0;

use super::gemm::{codes_bytes, unit_bytes};
use crate::table::Pack;
use crate::x86_avx2::MR;
use crate::x86_avx2::pack::{AHEAD_SUPER, BLOCK_BYTES, BLOCK_CODES, Rows};
use crate::x86_avx2::unpack::Super;

/// Where the blocks of 16 rows begin.
type Blocks = [*const u8; MR];

/// A shuffle of the bytes of a register, 16 by 16.
type Shuffle = [u8; 64];

/// Transposes within the 128-bit parts of four registers, 32 bits at a time.
#[inline]
#[target_feature(enable = "avx512f")]
fn fours(r: [__m512i; 4]) -> [__m512i; 4] {
    let (a, b) = (_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[0], r[1]));
    let (c, d) = (_mm512_unpacklo_epi32(r[2], r[3]), _mm512_unpackhi_epi32(r[2], r[3]));
    [_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)]
}

/// 32 bytes of every row, from `at` of its block on: register k has their 32-bit element k of all rows. Loads put four rows behind
/// four others, which is a stage of shuffles less than to take 64 bytes of a row at once.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns8(blocks: &Blocks, at: usize) -> [__m512i; 8] {
    let mut parts = [[_mm512_setzero_si512(); 4]; 2];
    for (i, part) in parts.iter_mut().enumerate() {
        let mut r = [_mm512_setzero_si512(); 4];
        for (k, r) in r.iter_mut().enumerate() {
            let [low, high] = [blocks[8 * i + k], blocks[8 * i + 4 + k]];
            // SAFETY: promised by the caller.
            unsafe {
                let low = _mm512_castsi256_si512(_mm256_loadu_si256(low.add(at).cast()));
                *r = _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(high.add(at).cast()));
            }
        }
        *part = fours(r);
    }
    let mut out = [_mm512_setzero_si512(); 8];
    for m in 0..4 {
        out[m] = _mm512_shuffle_i32x4::<0x88>(parts[0][m], parts[1][m]);
        out[4 + m] = _mm512_shuffle_i32x4::<0xdd>(parts[0][m], parts[1][m]);
    }
    out
}

/// As [`columns8`], of 16 bytes.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns4(blocks: &Blocks, at: usize) -> [__m512i; 4] {
    let mut r = [_mm512_setzero_si512(); 4];
    for (k, r) in r.iter_mut().enumerate() {
        // SAFETY: promised by the caller.
        let part = |i: usize| unsafe { _mm_loadu_si128(blocks[4 * i + k].add(at).cast()) };
        let v = _mm512_castsi128_si512(part(0));
        let v = _mm512_inserti32x4::<1>(v, part(1));
        let v = _mm512_inserti32x4::<2>(v, part(2));
        *r = _mm512_inserti32x4::<3>(v, part(3));
    }
    fours(r)
}

/// A shuffle that makes of every lane's bytes those four; 128 is a zero.
const fn in_lanes(bytes: [u8; 4]) -> Shuffle {
    let mut mask = [0; 64];
    let mut i = 0;
    while i < 64 {
        // A shuffle sees 16 bytes.
        let from = bytes[i % 4];
        mask[i] = if from == 128 { 128 } else { (i as u8 % 16) / 4 * 4 + from };
        i += 1;
    }
    mask
}

/// Each byte of a lane as a 16-bit number, twice.
static TWICE: [Shuffle; 4] =
    [in_lanes([0, 128, 0, 128]), in_lanes([1, 128, 1, 128]), in_lanes([2, 128, 2, 128]), in_lanes([3, 128, 3, 128])];

/// Each two bytes of a lane as 16-bit numbers.
static PAIRS: [Shuffle; 2] = [in_lanes([0, 128, 1, 128]), in_lanes([2, 128, 3, 128])];

/// As [`TWICE`] and [`PAIRS`], the bytes above zeros: shifted down, they keep their sign.
static TWICE_ABOVE: [Shuffle; 4] =
    [in_lanes([128, 0, 128, 0]), in_lanes([128, 1, 128, 1]), in_lanes([128, 2, 128, 2]), in_lanes([128, 3, 128, 3])];
static PAIRS_ABOVE: [Shuffle; 2] = [in_lanes([128, 0, 128, 1]), in_lanes([128, 2, 128, 3])];

/// # Safety
/// As for the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shuffled(v: __m512i, mask: &Shuffle) -> __m512i {
    // SAFETY: a mask has 64 bytes.
    _mm512_shuffle_epi8(v, unsafe { _mm512_loadu_si512(mask.as_ptr().cast()) })
}

/// Stores register `k`.
///
/// # Safety
/// `dst` must be writable for `k + 1` registers.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put(dst: *mut u8, k: usize, v: __m512i) {
    // SAFETY: promised by the caller.
    unsafe { _mm512_storeu_si512(dst.add(64 * k).cast(), v) };
}

/// Half precision in the lower halves of lanes to single.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(v: __m512i) -> __m512i {
    _mm512_castps_si512(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)))
}

/// The number of half precision at `at` of every row to single. By way of general registers: what is stored in small pieces
/// and loaded at once has to wait.
///
/// # Safety
/// Two bytes must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scattered_halves(blocks: &Blocks, at: usize) -> __m512i {
    let mut words = [0i64; 4];
    for (i, word) in words.iter_mut().enumerate() {
        for k in 0..4 {
            // SAFETY: promised by the caller.
            let half = unsafe { blocks[4 * i + k].add(at).cast::<u16>().read_unaligned() };
            *word |= i64::from(half) << (16 * k);
        }
    }
    _mm512_castps_si512(_mm512_cvtph_ps(_mm256_setr_epi64x(words[0], words[1], words[2], words[3])))
}

/// A format of super-blocks.
///
/// # Safety
/// All functions ask for a CPU with the features of [`pack_super`], for 16 blocks to be readable, and for `dst` to be
/// writable for what a panel has of it.
pub(super) trait Packed: Super {
    /// Writes registers of codes, as many as [`codes_bytes`] says.
    unsafe fn codes(blocks: &Blocks, dst: *mut u8);
    /// Writes scales, mins and both floats.
    unsafe fn rest(blocks: &Blocks, dst: *mut u8);
}

/// Nibbles of 128 bytes from `at` on, raised by 16 where bit N of the element of `fifth` is set, for those of run N.
///
/// # Safety
/// As for [`Packed::codes`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibble_codes(blocks: &Blocks, at: usize, fifth: &[__m512i; 8], dst: *mut u8) {
    let nibble = _mm512_set1_epi8(15);
    for pair in 0..4 {
        // SAFETY: promised by the caller.
        let c = unsafe { columns8(blocks, at + 32 * pair) };
        for (k, c) in c.into_iter().enumerate() {
            let run = 2 * pair;
            let both = [_mm512_and_si512(c, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(c), nibble)];
            for (i, mut codes) in both.into_iter().enumerate() {
                let set = _mm512_test_epi8_mask(fifth[k], _mm512_set1_epi8((1u8 << (run + i)) as i8));
                codes = _mm512_mask_add_epi8(codes, set, codes, _mm512_set1_epi8(16));
                // SAFETY: as above: 8 runs of 8 registers.
                unsafe { put(dst, 8 * (run + i) + k, codes) };
            }
        }
    }
}

/// What Q4_K and Q5_K begin with: d, dmin, and six bits for the scale and the min of each of 8 groups.
///
/// # Safety
/// As for [`Packed::rest`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn six_bit_rest(blocks: &Blocks, dst: *mut u8) {
    // SAFETY: promised by the caller: 8 registers of scales, 4 of mins, 2 of floats.
    unsafe {
        let [floats, s, m, n] = columns4(blocks, 0);
        let (six, nibble, top) = (_mm512_set1_epi8(0x3f), _mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let last = |low: __m512i, high: __m512i| {
            let high = _mm512_and_si512(_mm512_srli_epi16::<2>(high), top);
            _mm512_or_si512(_mm512_and_si512(low, nibble), high)
        };
        let scales = [_mm512_and_si512(s, six), last(n, s)];
        let mins = [_mm512_and_si512(m, six), last(_mm512_srli_epi16::<4>(n), m)];
        for g in 0..8 {
            put(dst, g, shuffled(scales[g / 4], &TWICE[g % 4]));
        }
        for g in 0..4 {
            put(dst, 8 + g, shuffled(mins[g / 2], &PAIRS[g % 2]));
        }
        put(dst, 12, halves(floats));
        put(dst, 13, halves(_mm512_srli_epi32::<16>(floats)));
    }
}

impl Packed for Q4_K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn codes(blocks: &Blocks, dst: *mut u8) {
        for run in 0..4 {
            // SAFETY: promised by the caller; the nibbles lie there. They stay as they are, two in a byte.
            unsafe {
                for (k, codes) in columns8(blocks, 16 + 32 * run).into_iter().enumerate() {
                    put(dst, 8 * run + k, codes);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn rest(blocks: &Blocks, dst: *mut u8) {
        // SAFETY: promised by the caller.
        unsafe { six_bit_rest(blocks, dst) };
    }
}

impl Packed for Q5_K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn codes(blocks: &Blocks, dst: *mut u8) {
        // SAFETY: the fifth bits and the nibbles lie there.
        unsafe { nibble_codes(blocks, 48, &columns8(blocks, 16), dst) };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn rest(blocks: &Blocks, dst: *mut u8) {
        // SAFETY: promised by the caller.
        unsafe { six_bit_rest(blocks, dst) };
    }
}

impl Packed for Q6_K {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn codes(blocks: &Blocks, dst: *mut u8) {
        let (nibble, top) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        for half in 0..2 {
            // One after the other: a closure would be called where it is not inlined.
            // SAFETY: promised by the caller; nibbles of four runs lie in 64 bytes, their upper bits in 32.
            let (c, d, h) = unsafe {
                (columns8(blocks, 64 * half), columns8(blocks, 64 * half + 32), columns8(blocks, 128 + 32 * half))
            };
            for k in 0..8 {
                let high =
                    [_mm512_slli_epi16::<4>(h[k]), _mm512_slli_epi16::<2>(h[k]), h[k], _mm512_srli_epi16::<2>(h[k])];
                let low = [c[k], d[k], _mm512_srli_epi16::<4>(c[k]), _mm512_srli_epi16::<4>(d[k])];
                for (run, (low, high)) in low.into_iter().zip(high).enumerate() {
                    let codes = _mm512_or_si512(_mm512_and_si512(low, nibble), _mm512_and_si512(high, top));
                    // SAFETY: as above: 8 runs of 8 registers.
                    unsafe { put(dst, 8 * (4 * half + run) + k, codes) };
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn rest(blocks: &Blocks, dst: *mut u8) {
        // SAFETY: promised by the caller: 16 registers of scales, 8 of mins, which are 32 times those, 2 of floats.
        unsafe {
            for (part, scales) in columns4(blocks, 192).into_iter().enumerate() {
                for g in 0..4 {
                    put(dst, 4 * part + g, _mm512_srai_epi16::<8>(shuffled(scales, &TWICE_ABOVE[g])));
                }
                for g in 0..2 {
                    put(dst, 16 + 2 * part + g, _mm512_srai_epi16::<3>(shuffled(scales, &PAIRS_ABOVE[g])));
                }
            }
            let d = scattered_halves(blocks, 208);
            put(dst, 24, d);
            put(dst, 25, d);
        }
    }
}

/// Rows of super-blocks are asked for again, to come to the first cache, where they are longer than this. The GEMM has asked
/// for all of them by then, and what is in the second cache comes as fast unasked where rows are shorter: products of Q8_0 with
/// 32 tokens take an eighth less time like that, of Q4_K with 16 a twentieth.
const PAGE: usize = 4096;

/// See [`crate::table::IntKernels::pack`].
///
/// # Safety
/// Lengths as [`Pack`] states them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack_super<F: Packed>(a: &mut Pack) {
    let rows = Rows::of::<F>(a);
    let apart = a.row_bytes > PAGE;
    for (i, panel) in a.panel.chunks_exact_mut(unit_bytes::<F>(true)).take(a.units).enumerate() {
        let blocks = rows.blocks(i);
        if apart {
            for r in 0..MR {
                rows.fetch(i, r, AHEAD_SUPER);
            }
        }
        let dst = panel.as_mut_ptr();
        // SAFETY: whole blocks; a panel has room for all its parts.
        unsafe {
            F::codes(&blocks, dst);
            F::rest(&blocks, dst.add(codes_bytes::<F>(true)));
        }
    }
}

/// See [`crate::table::IntKernels::pack`]; codes get their top bit flipped.
///
/// # Safety
/// Lengths as [`Pack`] states them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack_q8_0(a: &mut Pack) {
    let rows = Rows::of::<Q8_0>(a);
    let flip = _mm512_set1_epi8(i8::MIN);
    for (i, panel) in a.panel.chunks_exact_mut(BLOCK_BYTES).take(a.units).enumerate() {
        let blocks = rows.blocks(i);
        let dst = panel.as_mut_ptr();
        // SAFETY: whole blocks of a scale and 32 codes; a panel has 8 registers of codes, then 2 of floats.
        unsafe {
            for (k, codes) in columns8(&blocks, 2).into_iter().enumerate() {
                put(dst, k, _mm512_xor_si512(codes, flip));
            }
            put(dst, BLOCK_CODES / 64, scattered_halves(&blocks, 0));
            put(dst, BLOCK_CODES / 64 + 1, _mm512_setzero_si512());
        }
    }
}
