//! Activations to codes with registers of 16 floats: the bits are those of every other table.

use std::arch::x86_64::*;

use crate::act::TINY;
use crate::fixed::{LANES, UNIT, scale};

/// Units of 32 whose scales are found together.
const TOGETHER: usize = 16;

/// `|x|`
#[inline]
#[target_feature(enable = "avx512f")]
fn size(x: __m512) -> __m512 {
    _mm512_abs_ps(x)
}

/// 16 floats.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(x: *const f32) -> __m512 {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_ps(x) }
}

/// See [`crate::table::KernelTable::quantize_q8b`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_q8b(x: &[f32], q: &mut [i8], d: &mut [f32], sums32: &mut [i16], pairs: bool) {
    let values = x.chunks(32 * TOGETHER).zip(q.chunks_mut(32 * TOGETHER));
    for ((x, q), (d, sums)) in values.zip(d.chunks_mut(TOGETHER).zip(sums32.chunks_mut(TOGETHER))) {
        let (x, q) = (x.as_chunks::<32>().0, q.as_chunks_mut::<32>().0);
        let mut largest = [0f32; TOGETHER];
        for (largest, x) in largest.iter_mut().zip(x) {
            // SAFETY: 32 floats. Of a number and none, the second operand is taken.
            let all = unsafe {
                let low = _mm512_max_ps(size(load(x.as_ptr())), _mm512_setzero_ps());
                _mm512_max_ps(size(load(x.as_ptr().add(16))), low)
            };
            *largest = _mm512_reduce_max_ps(all);
        }
        // SAFETY: 16 floats.
        let mut largest = unsafe { load(largest.as_ptr()) };
        if pairs {
            largest = _mm512_max_ps(largest, _mm512_permute_ps::<0b10_11_00_01>(largest));
        }
        // Also where it is no number, which none is here.
        let some = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(largest, _mm512_set1_ps(TINY));
        let most = _mm512_set1_ps(127.0);
        let mut scales = [0f32; TOGETHER];
        let there = (1u32 << d.len().min(TOGETHER)).wrapping_sub(1) as __mmask16;
        // SAFETY: 16 places; of `d`, as many as there are.
        unsafe {
            _mm512_storeu_ps(scales.as_mut_ptr(), _mm512_maskz_div_ps(some, most, largest));
            _mm512_mask_storeu_ps(d.as_mut_ptr(), there, _mm512_maskz_div_ps(some, largest, most));
        }
        for (((x, q), scale), sum) in x.iter().zip(q).zip(scales).zip(sums) {
            let scale = _mm512_set1_ps(scale);
            // SAFETY: 32 floats, and 32 places for codes.
            unsafe {
                // To the nearest, ties to even; what is no number becomes 0 in its lowest byte.
                let low = _mm512_cvtps_epi32(_mm512_mul_ps(load(x.as_ptr()), scale));
                let high = _mm512_cvtps_epi32(_mm512_mul_ps(load(x.as_ptr().add(16)), scale));
                let (low, high) = (_mm512_cvtepi32_epi8(low), _mm512_cvtepi32_epi8(high));
                let codes = _mm256_set_m128i(high, low);
                _mm256_storeu_si256(q.as_mut_ptr().cast(), codes);
                // Sums of eight bytes, raised by 128 to be unsigned.
                let raised = _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN));
                let eights = _mm256_sad_epu8(raised, _mm256_setzero_si256());
                let pair = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256::<1>(eights));
                let all = _mm_add_epi64(pair, _mm_unpackhi_epi64(pair, pair));
                *sum = (_mm_cvtsi128_si32(all) - 32 * 128) as i16;
            }
        }
    }
}

/// See [`crate::fixed::FixedKernels::row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn fixed_row(x: &[f32], norm: f32, q: &mut [i16], factors: &mut [f32]) {
    for ((x, q), factor) in x.chunks(UNIT).zip(q.chunks_mut(UNIT)).zip(factors) {
        let (pieces, rest) = x.as_chunks::<LANES>();
        let there = (1u32 << rest.len()).wrapping_sub(1) as __mmask16;
        // SAFETY: as many floats as there are.
        let last = unsafe { _mm512_maskz_loadu_ps(there, rest.as_ptr()) };
        let (mut squares, mut largest) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        let mut take = |x| {
            squares = _mm512_add_ps(squares, _mm512_mul_ps(x, x));
            // The second operand, where the first is no number.
            largest = _mm512_max_ps(size(x), largest);
        };
        for piece in pieces {
            // SAFETY: 16 floats.
            take(unsafe { load(piece.as_ptr()) });
        }
        if !rest.is_empty() {
            take(last);
        }
        let (scale, back) = scale(total(squares), top(largest), norm);
        *factor = back;
        if back.is_nan() {
            q.fill(0);
            continue;
        }
        let scale = _mm512_set1_ps(scale);
        let codes = |x| _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(x, scale)));
        let (places, places_rest) = q.as_chunks_mut::<LANES>();
        for (place, piece) in places.iter_mut().zip(pieces) {
            // SAFETY: 16 floats; 16 codes are 32 bytes.
            unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), codes(load(piece.as_ptr()))) };
        }
        // SAFETY: as many places as floats.
        unsafe { _mm256_mask_storeu_epi16(places_rest.as_mut_ptr(), there, codes(last)) };
    }
}

/// All lanes as one, the upper half onto the lower until one is left: the order of [`crate::fixed::scale`].
macro_rules! halved {
    ($v:ident, $two:ident, $four:ident, $one:ident) => {{
        let upper = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd($v))));
        let v = $two(_mm512_castps512_ps256($v), _mm512_castps512_ps256(upper));
        let v = $four(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = $four(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32($one(v, _mm_movehdup_ps(v)))
    }};
}

#[inline]
#[target_feature(enable = "avx512f")]
fn total(v: __m512) -> f32 {
    halved!(v, _mm256_add_ps, _mm_add_ps, _mm_add_ss)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn top(v: __m512) -> f32 {
    halved!(v, _mm256_max_ps, _mm_max_ps, _mm_max_ss)
}
