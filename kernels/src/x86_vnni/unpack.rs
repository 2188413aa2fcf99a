//! Half a super-block at once in registers of AVX-512: two of 64 codes each.

use std::arch::x86_64::*;

use ocelli_quant::formats::q2_k::Q2_K;
use ocelli_quant::formats::q3_k::Q3_K;
use ocelli_quant::formats::q4_k::Q4_K;
use ocelli_quant::formats::q5_k::Q5_K;
use ocelli_quant::formats::q6_k::Q6_K;

use crate::x86_avx2::unpack::{Super, load};

/// A format of super-blocks.
///
/// # Safety
/// As for [`Super`]; the CPU must have AVX-512 F and BW, too.
pub(super) trait Wide: Super {
    /// The two runs of each of the four registers of a super-block: those that come out of whole lines of what is stored. A
    /// load that fills both halves with the same 32 bytes takes a Zen 4 longer.
    const RUNS: [[usize; 2]; 4];

    /// Whether that is the order of [`Acts::crossed`](crate::table::Acts::crossed).
    const CROSSED: bool = matches!(Self::RUNS, OF_NIBBLES);

    /// The registers `2H` and `2H + 1`.
    unsafe fn half<const H: usize>(b: *const u8) -> [__m512i; 2];
}

/// 64 bytes from `at` on.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn line(at: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// 32 bytes from `at` on, in both halves.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn twice(at: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    let bytes = _mm512_castsi256_si512(unsafe { load(at) });
    _mm512_shuffle_i64x2::<0x44>(bytes, bytes)
}

/// The low nibbles of every byte, and the high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(bytes: __m512i) -> [__m512i; 2] {
    let fifteen = _mm512_set1_epi8(15);
    [_mm512_and_si512(bytes, fifteen), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), fifteen)]
}

/// Bits `4H` and `4H + 1` of every byte, and those above them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn two_bits<const H: usize>(bytes: __m512i) -> [__m512i; 2] {
    let three = _mm512_set1_epi8(3);
    let bytes = if H == 0 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
    [_mm512_and_si512(bytes, three), _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), three)]
}

/// `codes` with bit `TO` set where the bits of their runs are set in `bits`, of which both halves are the same.
#[inline]
#[target_feature(enable = "avx512f")]
fn with_bit<F: Wide, const H: usize, const TO: usize>(codes: [__m512i; 2], bits: __m512i) -> [__m512i; 2] {
    let mut with = codes;
    for (codes, runs) in with.iter_mut().zip(&F::RUNS[2 * H..]) {
        let [low, high] = runs.map(|run| (run as i64 - TO as i64).rem_euclid(64));
        let there = _mm512_rorv_epi64(bits, _mm512_setr_epi64(low, low, low, low, high, high, high, high));
        // The codes, or'ed with what both others have.
        *codes = _mm512_ternarylogic_epi64::<0xf8>(*codes, there, _mm512_set1_epi8(1 << TO));
    }
    with
}

/// Implements [`Wide`], its safety comment with it.
macro_rules! wide_format {
    ($ty:ident, $runs:expr, |$b:ident| half $h:ident: $half:expr) => {
        impl Wide for $ty {
            const RUNS: [[usize; 2]; 4] = $runs;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw")]
            unsafe fn half<const $h: usize>($b: *const u8) -> [__m512i; 2] {
                // SAFETY: a block is readable.
                unsafe { $half }
            }
        }
    };
}

/// 32 bytes hold two runs of nibbles.
const OF_NIBBLES: [[usize; 2]; 4] = [[0, 2], [1, 3], [4, 6], [5, 7]];

/// 32 bytes hold four runs of two bits.
const OF_TWO_BITS: [[usize; 2]; 4] = [[0, 4], [1, 5], [2, 6], [3, 7]];

wide_format!(Q4_K, OF_NIBBLES, |b| half H: nibbles(line(b.add(16 + 64 * H))));
wide_format!(Q5_K, OF_NIBBLES, |b| half H: with_bit::<Q5_K, H, 4>(nibbles(line(b.add(48 + 64 * H))), twice(b.add(16))));
wide_format!(Q3_K, OF_TWO_BITS, |b| half H: with_bit::<Q3_K, H, 2>(two_bits::<H>(line(b.add(32))), twice(b)));
wide_format!(Q2_K, OF_TWO_BITS, |b| half H: two_bits::<H>(line(b.add(16))));
// 64 bytes hold two runs in their low nibbles, and the two after those in the high ones; 32 bytes the upper bits of all four.
wide_format!(Q6_K, [[0, 1], [2, 3], [4, 5], [6, 7]], |b| half H: {
    let top = twice(b.add(128 + 32 * H));
    let high = [
        _mm512_sllv_epi64(top, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2)),
        _mm512_srlv_epi64(top, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2)),
    ];
    let [low, next] = nibbles(line(b.add(64 * H)));
    let upper = _mm512_set1_epi8(0x30);
    // The codes, or'ed with what both have of the upper bits.
    [_mm512_ternarylogic_epi64::<0xf8>(low, high[0], upper), _mm512_ternarylogic_epi64::<0xf8>(next, high[1], upper)]
});
