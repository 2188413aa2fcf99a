//! One token times rows stored in blocks of 32, straight from those.
//!
//! Signed codes are multiplied as their absolute values with the activations' signs turned; the code −128 counts as 128
//! so. A pair of products is at most 2·128·127 = 32,512. Layouts of the blocks are those of `ocelli_quant::formats`.

use std::arch::x86_64::*;

use super::gemv::{fetch_ahead, sum};
use super::tuned::{half, load};
use crate::table::Gemv;

/// Adds up products with signed codes. The first two bytes of a block are its d.
///
/// # Safety
/// Lengths as [`Gemv`] states them, with activations in units of 32; rows are whole blocks of `BYTES`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn signed<const BYTES: usize>(a: &mut Gemv, codes: impl Fn(&[u8; BYTES]) -> __m256i) {
    let ones = _mm256_set1_epi16(1);
    let acts = || a.acts.q.as_chunks::<32>().0.iter().zip(a.acts.d);
    for (row, out) in a.rows.chunks_exact(a.row_bytes).zip(a.out.iter_mut()) {
        let mut acc = _mm256_setzero_ps();
        for (b, (y, d)) in row.as_chunks::<BYTES>().0.iter().zip(acts()) {
            fetch_ahead(b.as_ptr(), BYTES);
            let w = codes(b);
            // SAFETY: 32 activations.
            let y = unsafe { load(y.as_ptr()) };
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(y, w));
            let total = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
            acc = _mm256_fmadd_ps(total, _mm256_set1_ps(half([b[0], b[1]]) * d), acc);
        }
        *out = sum(acc);
    }
}

/// Adds up products with codes from 0 on, and what the activations come to times what code 0 stands for. A block begins
/// with its d and that.
///
/// # Safety
/// As [`signed`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unsigned<const BYTES: usize>(a: &mut Gemv, codes: impl Fn(&[u8; BYTES]) -> __m256i) {
    let ones = _mm256_set1_epi16(1);
    let acts = || a.acts.q.as_chunks::<32>().0.iter().zip(a.acts.sums32).zip(a.acts.d);
    for (row, out) in a.rows.chunks_exact(a.row_bytes).zip(a.out.iter_mut()) {
        let (mut acc, mut base) = (_mm256_setzero_ps(), 0f32);
        for (b, ((y, own), d)) in row.as_chunks::<BYTES>().0.iter().zip(acts()) {
            fetch_ahead(b.as_ptr(), BYTES);
            // SAFETY: 32 activations.
            let pairs = unsafe { _mm256_maddubs_epi16(codes(b), load(y.as_ptr())) };
            let total = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
            acc = _mm256_fmadd_ps(total, _mm256_set1_ps(half([b[0], b[1]]) * d), acc);
            base += half([b[2], b[3]]) * d * f32::from(*own);
        }
        *out = sum(acc) + base;
    }
}

/// The nibbles of the 16 bytes from `at` on: the low ones, then the high ones.
///
/// # Safety
/// The bytes must lie inside.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { _mm_loadu_si128(at.cast()) };
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes), _mm256_set1_epi8(15))
}

/// All bits of byte i where bit i of the four bytes is set.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(b: [u8; 4]) -> __m256i {
    let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let one_each = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(b)), spread);
    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, one_each), one_each)
}

/// Q4_0: d, nibbles; a code stands for 8 less.
///
/// # Safety
/// Lengths as [`Gemv`] states them, with activations in units of 32.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q4_0(a: &mut Gemv) {
    // SAFETY: promised by the caller; 16 bytes from byte 2 on.
    unsafe { signed(a, |b: &[u8; 18]| _mm256_sub_epi8(nibbles(b.as_ptr().add(2)), _mm256_set1_epi8(8))) };
}

/// Q4_1: d, min, nibbles.
///
/// # Safety
/// As [`gemv_q4_0`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q4_1(a: &mut Gemv) {
    // SAFETY: promised by the caller; 16 bytes from byte 4 on.
    unsafe { unsigned(a, |b: &[u8; 20]| nibbles(b.as_ptr().add(4))) };
}

/// Q5_0: d, fifth bits, nibbles; a code stands for 16 less.
///
/// # Safety
/// As [`gemv_q4_0`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q5_0(a: &mut Gemv) {
    // SAFETY: promised by the caller; 16 bytes from byte 6 on. Without its fifth bit a code stands for its nibble less 16:
    // in bytes that is the nibble below four set bits.
    unsafe {
        signed(a, |b: &[u8; 22]| {
            let missing = _mm256_andnot_si256(bits([b[2], b[3], b[4], b[5]]), _mm256_set1_epi8(0xf0_u8 as i8));
            _mm256_or_si256(nibbles(b.as_ptr().add(6)), missing)
        });
    }
}

/// Q5_1: d, min, fifth bits, nibbles.
///
/// # Safety
/// As [`gemv_q4_0`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q5_1(a: &mut Gemv) {
    // SAFETY: promised by the caller; 16 bytes from byte 8 on.
    unsafe {
        unsigned(a, |b: &[u8; 24]| {
            let fifth = _mm256_and_si256(bits([b[4], b[5], b[6], b[7]]), _mm256_set1_epi8(16));
            _mm256_or_si256(nibbles(b.as_ptr().add(8)), fifth)
        });
    }
}

/// Q8_0: d, codes.
///
/// # Safety
/// As [`gemv_q4_0`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q8_0(a: &mut Gemv) {
    // SAFETY: promised by the caller; 32 bytes from byte 2 on.
    unsafe { signed(a, |b: &[u8; 34]| load(b.as_ptr().add(2))) };
}

/// IQ4_NL: d, nibbles that number the values of a table.
///
/// # Safety
/// As [`gemv_q4_0`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_iq4_nl(a: &mut Gemv) {
    let values = ocelli_quant::formats::iq4_nl::TABLE.values();
    // SAFETY: promised by the caller; 16 values, 16 bytes from byte 2 on.
    unsafe {
        let values = _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast()));
        signed(a, |b: &[u8; 18]| _mm256_shuffle_epi8(values, nibbles(b.as_ptr().add(2))));
    }
}
