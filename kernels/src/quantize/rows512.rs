//! Rows of Q8_0 with AVX-512: what is written once for all instruction sets is far from the speed of memory. The same bytes;
//! what is an error there is left to that.

use std::arch::x86_64::*;

/// Blocks whose scales are found together.
const TOGETHER: usize = 16;

/// Weights and bytes of a block of Q8_0: half-precision d, then signed codes.
const WEIGHTS: usize = 32;
const BYTES: usize = 34;

/// Quantises a row to Q8_0; whether it could: nothing is infinite or no number, nor are scales in half precision.
///
/// `d = max|x| / 127`, `q = x / d` rounded to the nearest, halves away from zero: the number just below one half is added to
/// the magnitude before it is cut.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantize_q8_0(row: &[f32], out: &mut [u8]) -> bool {
    let (blocks, rest) = row.as_chunks::<WEIGHTS>();
    let (out, out_rest) = out.as_chunks_mut::<BYTES>();
    if !rest.is_empty() || !out_rest.is_empty() || blocks.len() != out.len() {
        return false;
    }
    let (half, most) = (_mm512_set1_ps(0.5f32.next_down()), _mm512_set1_ps(127.0));
    let mut fine = true;
    for (blocks, out) in blocks.chunks(TOGETHER).zip(out.chunks_mut(TOGETHER)) {
        let mut largest = [0f32; TOGETHER];
        let mut odd = 0;
        for (largest, x) in largest.iter_mut().zip(blocks) {
            let [low, high] = halves(x).map(|v| _mm512_abs_ps(v));
            // Not below infinity: it, or no number, which a maximum might lose.
            let infinite = _mm512_set1_ps(f32::INFINITY);
            odd |= _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(low, infinite) | _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(high, infinite);
            *largest = _mm512_reduce_max_ps(_mm512_max_ps(low, high));
        }
        // SAFETY: 16 floats.
        let d = _mm512_div_ps(unsafe { _mm512_loadu_ps(largest.as_ptr()) }, most);
        let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(d, _mm512_setzero_ps());
        let scales = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(d);
        let overflows = _mm256_cmpeq_epi16_mask(scales, _mm256_set1_epi16(0x7c00));
        fine &= odd == 0 && overflows == 0;
        let (mut inverse, mut stored) = ([0f32; TOGETHER], [0u16; TOGETHER]);
        // SAFETY: 16 places each.
        unsafe {
            _mm512_storeu_ps(inverse.as_mut_ptr(), _mm512_maskz_div_ps(some, _mm512_set1_ps(1.0), d));
            _mm256_storeu_si256(stored.as_mut_ptr().cast(), scales);
        }
        for (((x, out), inverse), d) in blocks.iter().zip(out).zip(inverse).zip(stored) {
            let [low, high] = halves(x).map(|x| {
                let v = _mm512_mul_ps(x, _mm512_set1_ps(inverse));
                let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(v, _mm512_setzero_ps());
                let v = _mm512_mask_sub_ps(_mm512_add_ps(v, half), negative, v, half);
                _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v))
            });
            out[..2].copy_from_slice(&d.to_le_bytes());
            // SAFETY: 32 bytes behind the scale.
            unsafe { _mm256_storeu_si256(out[2..].as_mut_ptr().cast(), _mm256_set_m128i(high, low)) };
        }
    }
    fine
}

/// A block in two registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(x: &[f32; WEIGHTS]) -> [__m512; 2] {
    // SAFETY: 32 floats.
    unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] }
}
