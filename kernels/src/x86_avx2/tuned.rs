//! One token times rows stored in super-blocks of 256, straight from those.
//!
//! One row at a time: two in step share loads of activations, and were slower by a third where rows come from memory.
//! Layouts of the blocks are those of `ocelli_quant::formats`.

use std::arch::x86_64::*;

use ocelli_quant::GgmlType;

use super::gemv::{fetch_ahead, sum};
use crate::table::{Gemv, SuperAct, TunedGemv, six_bits};

/// These kernels, by format.
pub(super) const TUNED: &[TunedGemv] = &[
    (GgmlType::Q2_K, gemv_q2_k),
    (GgmlType::Q3_K, gemv_q3_k),
    (GgmlType::Q4_K, gemv_q4_k),
    (GgmlType::Q5_K, gemv_q5_k),
    (GgmlType::Q6_K, gemv_q6_k),
    (GgmlType::Q4_0, super::tuned32::gemv_q4_0),
    (GgmlType::Q4_1, super::tuned32::gemv_q4_1),
    (GgmlType::Q5_0, super::tuned32::gemv_q5_0),
    (GgmlType::Q5_1, super::tuned32::gemv_q5_1),
    (GgmlType::Q8_0, super::tuned32::gemv_q8_0),
    (GgmlType::IQ4_NL, super::tuned32::gemv_iq4_nl),
];

/// Bytes of a Q4_K block: d, dmin, 12 of scales and mins, 128 of codes.
const Q4_K: usize = 144;

/// Bytes of a Q5_K block: as Q4_K, with 32 of fifth bits before the codes.
const Q5_K: usize = 176;

/// Bytes of a Q6_K block: 128 and 64 of codes, 16 scales, d.
const Q6_K: usize = 210;

/// Bytes of a Q3_K block: 32 of third bits, 64 of codes, 12 of scales, d.
const Q3_K: usize = 110;

/// Bytes of a Q2_K block: 16 of scales and mins, 64 of codes, d, dmin.
const Q2_K: usize = 84;

/// Half precision to single.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)))))
}

/// What a row has come to: lanes to be added up, and lanes to be taken off.
#[derive(Clone, Copy)]
struct Acc {
    above: __m256,
    below: __m256,
}

/// Runs `block` over all super-blocks of all rows.
///
/// # Safety
/// Lengths as [`Gemv`] states them, with activations in units of 256; rows are whole blocks of `BYTES`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<const BYTES: usize>(a: &mut Gemv, block: impl Fn(&[u8; BYTES], SuperAct<'_>, &mut Acc)) {
    let q = a.acts.q.as_chunks::<256>().0;
    let sums16 = a.acts.sums16.as_chunks::<16>().0;
    let sums32 = a.acts.sums32.as_chunks::<8>().0;
    let unit = |k: usize| SuperAct { q: &q[k], sums16: &sums16[k], sums32: &sums32[k], d: a.acts.d[k] };
    let zero = Acc { above: _mm256_setzero_ps(), below: _mm256_setzero_ps() };
    for (row, out) in a.rows.chunks_exact(a.row_bytes).zip(a.out.iter_mut()) {
        let mut x = zero;
        for (k, p) in row.as_chunks::<BYTES>().0.iter().enumerate() {
            fetch_ahead(p.as_ptr(), BYTES);
            block(p, unit(k), &mut x);
        }
        *out = sum(_mm256_sub_ps(x.above, x.below));
    }
}

/// 32 bytes from `at` on.
///
/// # Safety
/// They must lie inside.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load<T>(at: *const T) -> __m256i {
    // SAFETY: promised by the caller.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Shuffles that put 16-bit number i of a lane into all places of the lane.
const SPREAD: [[u8; 16]; 8] = {
    let mut masks = [[0; 16]; 8];
    let mut i = 0;
    while i < 8 {
        let mut j = 0;
        while j < 16 {
            masks[i][j] = (2 * i + j % 2) as u8;
            j += 1;
        }
        i += 1;
    }
    masks
};

/// Shuffles that put 16-bit number 2k into all places of the low lane and number 2k + 1 into those of the high lane.
const SPREAD_PAIRS: [[u8; 32]; 4] = {
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

/// Q4_K.
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q4_k(a: &mut Gemv) {
    // SAFETY: promised by the caller.
    unsafe { gemv_nibbles::<Q4_K>(a) };
}

/// Q5_K.
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q5_k(a: &mut Gemv) {
    // SAFETY: promised by the caller.
    unsafe { gemv_nibbles::<Q5_K>(a) };
}

/// Q4_K or Q5_K, by the bytes of a block. A pair of products is at most 2·31·127 = 7,874; times a scale of 63, summed over
/// the 8 of a lane, below 2²³.
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemv_nibbles<const BYTES: usize>(a: &mut Gemv) {
    let block = |b: &[u8; BYTES], u: SuperAct<'_>, acc: &mut Acc| {
        let [scales, mins] = six_bits(b);
        // SAFETY: 8 sums of 16 bits, 32 bytes of fifth bits from byte 16 on in a block of 176, 128 bytes of codes at the end
        // of a block, 256 activations, and masks of 16 bytes; the features are those of the function around.
        unsafe {
            let wide = |bytes: u64| _mm_cvtepu8_epi16(_mm_cvtsi64_si128(bytes as i64));
            let below = _mm_madd_epi16(wide(mins), _mm_loadu_si128(u.sums32.as_ptr().cast()));
            let scales = _mm256_broadcastsi128_si256(wide(scales));
            let nibbles = _mm256_set1_epi8(15);
            let mut total = _mm256_setzero_si256();
            for j in 0..4 {
                let codes = load(b.as_ptr().add(BYTES - 128 + 32 * j));
                let halves =
                    [_mm256_and_si256(codes, nibbles), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibbles)];
                for (h, mut codes) in halves.into_iter().enumerate() {
                    if BYTES == Q5_K {
                        let bit = _mm256_set1_epi8(1 << (2 * j + h));
                        let set = _mm256_cmpeq_epi8(_mm256_and_si256(load(b.as_ptr().add(16)), bit), bit);
                        codes = _mm256_or_si256(codes, _mm256_and_si256(set, _mm256_set1_epi8(16)));
                    }
                    let pairs = _mm256_maddubs_epi16(codes, load(u.q.as_ptr().add(64 * j + 32 * h)));
                    let mask = _mm256_broadcastsi128_si256(_mm_loadu_si128(SPREAD[2 * j + h].as_ptr().cast()));
                    let scale = _mm256_shuffle_epi8(scales, mask);
                    total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, scale));
                }
            }
            let (d, dmin) = (half([b[0], b[1]]) * u.d, half([b[2], b[3]]) * u.d);
            acc.above = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(d), acc.above);
            let below = _mm256_zextps128_ps256(_mm_cvtepi32_ps(below));
            acc.below = _mm256_fmadd_ps(below, _mm256_set1_ps(dmin), acc.below);
        }
    };
    // SAFETY: promised by the caller.
    unsafe { rows::<BYTES>(a, block) };
}

/// Sum of scaled products of a super-block in groups of 16: `codes(h, k)` are run k of 32 codes of half h.
///
/// # Safety
/// A pair of products, times its scale, summed over the 16 pairs of a lane, must fit 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scaled_16(scales: __m256i, q: &[i8; 256], codes: impl Fn(usize, usize) -> __m256i) -> __m256i {
    let mut total = _mm256_setzero_si256();
    for h in 0..2 {
        let scales = if h == 0 {
            _mm256_permute2x128_si256::<0x00>(scales, scales)
        } else {
            _mm256_permute2x128_si256::<0x11>(scales, scales)
        };
        for k in 0..4 {
            // SAFETY: 256 activations, masks of 32 bytes.
            unsafe {
                let pairs = _mm256_maddubs_epi16(codes(h, k), load(q.as_ptr().add(128 * h + 32 * k)));
                let scale = _mm256_shuffle_epi8(scales, load(SPREAD_PAIRS[k].as_ptr()));
                total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, scale));
            }
        }
    }
    total
}

/// Run k of two bits of 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn two_bits(bytes: __m256i, k: usize) -> __m256i {
    let shifted = match k {
        0 => bytes,
        1 => _mm256_srli_epi16::<2>(bytes),
        2 => _mm256_srli_epi16::<4>(bytes),
        _ => _mm256_srli_epi16::<6>(bytes),
    };
    _mm256_and_si256(shifted, _mm256_set1_epi8(3))
}

/// Q6_K, with codes 0…63 and 32 times the scaled sums of the activations taken off. A pair of products is at most
/// 2·63·127 = 16,002; times a scale of 128, summed over the 16 pairs of a lane, below 2²⁵.
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q6_k(a: &mut Gemv) {
    let block = |b: &[u8; Q6_K], u: SuperAct<'_>, acc: &mut Acc| {
        // SAFETY: 128 + 64 bytes of codes, 16 scales from byte 192 on in a block of 210, 16 sums; bounds see above. The
        // features are those of the function around.
        unsafe {
            let scales = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.as_ptr().add(192).cast()));
            let offset = _mm256_madd_epi16(scales, load(u.sums16.as_ptr()));
            let (nibbles, high) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
            let total = scaled_16(scales, u.q, |h, k| {
                let low = load(b.as_ptr().add(64 * h + 32 * (k % 2)));
                let low = if k < 2 { low } else { _mm256_srli_epi16::<4>(low) };
                let top = load(b.as_ptr().add(128 + 32 * h));
                // Bits 4 and 5 of the four runs of 32 codes.
                let top = match k {
                    0 => _mm256_slli_epi16::<4>(top),
                    1 => _mm256_slli_epi16::<2>(top),
                    2 => top,
                    _ => _mm256_srli_epi16::<2>(top),
                };
                _mm256_or_si256(_mm256_and_si256(low, nibbles), _mm256_and_si256(top, high))
            });
            let total = _mm256_sub_epi32(total, _mm256_slli_epi32::<5>(offset));
            let d = half([b[208], b[209]]) * u.d;
            acc.above = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(d), acc.above);
        }
    };
    // SAFETY: promised by the caller.
    unsafe { rows::<Q6_K>(a, block) };
}

/// Q3_K, with codes 0…7 and 4 times the scaled sums of the activations taken off. Scales are −32…31: sums as for Q6_K.
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q3_k(a: &mut Gemv) {
    let block = |b: &[u8; Q3_K], u: SuperAct<'_>, acc: &mut Acc| {
        // Six bits each: low nibbles of scales 0 … 7, high ones those of 8 … 15; then the upper bits, four by four.
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let (low, high) = ([word(96), word(100)], word(104));
        let four = |k: usize| (low[k % 2] >> (4 * (k / 2)) & 0x0f0f_0f0f) | (high >> (2 * k) & 0x0303_0303) << 4;
        // SAFETY: 32 bytes of third bits, 64 of codes behind them, 16 sums; bounds see above. The features are those of the
        // function around.
        unsafe {
            let scales = _mm_setr_epi32(four(0) as i32, four(1) as i32, four(2) as i32, four(3) as i32);
            let scales = _mm256_sub_epi16(_mm256_cvtepu8_epi16(scales), _mm256_set1_epi16(32));
            let offset = _mm256_madd_epi16(scales, load(u.sums16.as_ptr()));
            let third = load(b.as_ptr());
            let total = scaled_16(scales, u.q, |h, k| {
                let bit = _mm256_set1_epi8(1 << (4 * h + k));
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(third, bit), bit);
                let low = two_bits(load(b.as_ptr().add(32 + 32 * h)), k);
                _mm256_or_si256(low, _mm256_and_si256(set, _mm256_set1_epi8(4)))
            });
            let total = _mm256_sub_epi32(total, _mm256_slli_epi32::<2>(offset));
            let d = half([b[108], b[109]]) * u.d;
            acc.above = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(d), acc.above);
        }
    };
    // SAFETY: promised by the caller.
    unsafe { rows::<Q3_K>(a, block) };
}

/// Q2_K, with codes 0…3, and scales and mins 0…15.
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv_q2_k(a: &mut Gemv) {
    let block = |b: &[u8; Q2_K], u: SuperAct<'_>, acc: &mut Acc| {
        // SAFETY: 16 bytes of scales and mins, 64 of codes behind them, 16 sums; bounds see above. The features are those of
        // the function around.
        unsafe {
            let both = _mm_loadu_si128(b.as_ptr().cast());
            let nibbles = _mm_set1_epi8(15);
            let scales = _mm256_cvtepu8_epi16(_mm_and_si128(both, nibbles));
            let mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(both), nibbles));
            let below = _mm256_madd_epi16(mins, load(u.sums16.as_ptr()));
            let total = scaled_16(scales, u.q, |h, k| two_bits(load(b.as_ptr().add(16 + 32 * h)), k));
            let (d, dmin) = (half([b[80], b[81]]) * u.d, half([b[82], b[83]]) * u.d);
            acc.above = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_set1_ps(d), acc.above);
            acc.below = _mm256_fmadd_ps(_mm256_cvtepi32_ps(below), _mm256_set1_ps(dmin), acc.below);
        }
    };
    // SAFETY: promised by the caller.
    unsafe { rows::<Q2_K>(a, block) };
}
