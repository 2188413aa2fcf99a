//! Codes of cached keys and values in pairs, 16 at a time: see [`crate::fixed::PairKernels`].

use std::arch::x86_64::*;

/// See [`crate::fixed::PairKernels::pair`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pair(low: &[f32], high: &[f32], magic: [f32; 2], out: &mut [f32]) {
    let magic = magic.map(|magic| _mm512_set1_ps(magic));
    let sixteens = low.as_chunks::<16>().0.iter().zip(high.as_chunks::<16>().0);
    for (out, (low, high)) in out.as_chunks_mut::<16>().0.iter_mut().zip(sixteens) {
        // SAFETY: 16 floats each.
        unsafe {
            let low = _mm512_castps_si512(_mm512_add_ps(_mm512_loadu_ps(low.as_ptr()), magic[0]));
            let high = _mm512_castps_si512(_mm512_add_ps(_mm512_loadu_ps(high.as_ptr()), magic[1]));
            // Lower 16 bits of the one below those of the other.
            let both = _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32::<16>(high));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
        }
    }
}
