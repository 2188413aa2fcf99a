//! Two runs of a super-block at once, and two blocks of 32: 64 codes in a register of AVX-512.

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
    /// Codes `64·J .. 64·J + 64`: runs `2J` and `2J + 1`.
    unsafe fn pair<const J: usize>(b: *const u8) -> __m512i;
}

/// 32 bytes from `at` on, in both halves.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn twice(at: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    _mm512_broadcast_i64x4(unsafe { load(at) })
}

/// `low` in every byte of the lower half, `high` in every byte of the upper one.
#[inline]
#[target_feature(enable = "avx512f")]
fn by_half(low: u8, high: u8) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set1_epi8(low as i8)), _mm256_set1_epi8(high as i8))
}

/// Every byte shifted to the right by `low` bits in the lower half, by `high` in the upper; other bytes' bits come in above.
#[inline]
#[target_feature(enable = "avx512f")]
fn right(bytes: __m512i, low: i64, high: i64) -> __m512i {
    _mm512_srlv_epi64(bytes, _mm512_setr_epi64(low, low, low, low, high, high, high, high))
}

/// Runs `2J` and `2J + 1` of the nibbles of Q4_K and Q5_K: 32 bytes hold both.
///
/// # Safety
/// 128 bytes must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn nibbles<const J: usize>(at: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { twice(at.add(32 * J)) };
    _mm512_and_si512(right(bytes, 0, 4), _mm512_set1_epi8(15))
}

/// Runs `2J` and `2J + 1` of the two bits of Q2_K and Q3_K: 32 bytes hold four runs.
///
/// # Safety
/// 64 bytes must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn two_bits<const J: usize>(at: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { twice(at.add(32 * (J / 2))) };
    let bytes = if J.is_multiple_of(2) { right(bytes, 0, 2) } else { right(bytes, 4, 6) };
    _mm512_and_si512(bytes, _mm512_set1_epi8(3))
}

/// `codes`, raised by `value` where bits `2J` (lower half) and `2J + 1` (upper half) of the 32 bytes at `at` are set.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn raised<const J: usize>(codes: __m512i, at: *const u8, value: i8) -> __m512i {
    // SAFETY: promised by the caller.
    let set = _mm512_test_epi8_mask(unsafe { twice(at) }, by_half(1 << (2 * J), 2 << (2 * J)));
    _mm512_mask_add_epi8(codes, set, codes, _mm512_set1_epi8(value))
}

/// Implements [`Wide::pair`], its safety comment with it.
macro_rules! wide_format {
    ($ty:ident, |$b:ident| pair $j:ident: $pair:expr) => {
        impl Wide for $ty {
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw")]
            unsafe fn pair<const $j: usize>($b: *const u8) -> __m512i {
                // SAFETY: a block is readable.
                unsafe { $pair }
            }
        }
    };
}

wide_format!(Q4_K, |b| pair J: nibbles::<J>(b.add(16)));
wide_format!(Q5_K, |b| pair J: raised::<J>(nibbles::<J>(b.add(48)), b.add(16), 16));
wide_format!(Q3_K, |b| pair J: raised::<J>(two_bits::<J>(b.add(32)), b, 4));
wide_format!(Q2_K, |b| pair J: two_bits::<J>(b.add(16)));
wide_format!(Q6_K, |b| pair J: {
    let half = J / 2;
    let (low, top) = (_mm512_loadu_si512(b.add(64 * half).cast()), twice(b.add(128 + 32 * half)));
    let (low, top) = if J.is_multiple_of(2) {
        (low, _mm512_sllv_epi64(top, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2)))
    } else {
        (_mm512_srli_epi16::<4>(low), right(top, 0, 2))
    };
    _mm512_or_si512(
        _mm512_and_si512(low, _mm512_set1_epi8(15)),
        _mm512_and_si512(top, _mm512_set1_epi8(0x30)),
    )
});
