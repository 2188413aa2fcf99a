//! Codes of cached keys and values in pairs, 16 at a time: see [`crate::fixed::PairKernels`].

use std::arch::x86_64::*;

/// Lower 16 bits of `low` below those of `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn beside(low: __m512, high: __m512) -> __m512i {
    let high = _mm512_slli_epi32::<16>(_mm512_castps_si512(high));
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_castps_si512(low), high)
}

/// The largest of 16 magnitudes.
#[inline]
#[target_feature(enable = "avx512f")]
fn magnitude(x: __m512i) -> __m512i {
    _mm512_and_si512(x, _mm512_set1_epi32(i32::MAX))
}

/// See [`crate::fixed::PairKernels::largest`].
#[target_feature(enable = "avx512f")]
pub(super) fn largest(x: &[f32]) -> u32 {
    let (chunks, rest) = x.as_chunks::<64>();
    let mut most = [_mm512_setzero_si512(); 4];
    for x in chunks {
        for (i, most) in most.iter_mut().enumerate() {
            // SAFETY: 64 floats.
            let x = unsafe { _mm512_loadu_si512(x.as_ptr().add(16 * i).cast()) };
            *most = _mm512_max_epu32(*most, magnitude(x));
        }
    }
    let [a, b, c, d] = most;
    let most = _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(a, b), _mm512_max_epu32(c, d)));
    rest.iter().fold(most, |most, x| most.max(x.abs().to_bits()))
}

/// See [`crate::fixed::HalfKernels::largest`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn largest_half(bytes: &[u8]) -> u32 {
    let (chunks, rest) = bytes.as_chunks::<128>();
    let mut most = [_mm512_setzero_si512(); 2];
    for bytes in chunks {
        for (i, most) in most.iter_mut().enumerate() {
            // SAFETY: 128 bytes.
            let x = unsafe { _mm512_loadu_si512(bytes.as_ptr().add(64 * i).cast()) };
            *most = _mm512_max_epu16(*most, _mm512_and_si512(x, _mm512_set1_epi16(i16::MAX)));
        }
    }
    let most = _mm512_max_epu16(most[0], most[1]);
    let most = _mm512_max_epu16(_mm512_srli_epi32::<16>(most), _mm512_and_si512(most, _mm512_set1_epi32(0xffff)));
    // Magnitudes of half precision are in the order of their bits.
    let most = rest
        .as_chunks::<2>()
        .0
        .iter()
        .fold(_mm512_reduce_max_epu32(most), |most, half| most.max(u32::from(u16::from_le_bytes(*half) & 0x7fff)));
    ocelli_quant::half_bits::f16_to_f32(most as u16).to_bits()
}

/// Defines a function over two rows of what is stored, 16 values at a time.
macro_rules! pairs {
    ($(#[$doc:meta])* $name:ident, $stored:ty, $values:literal, |$p:ident| $sixteen:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `out` must be valid for 16 pairs at every stride.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        pub(super) unsafe fn $name(low: &[$stored], high: &[$stored], magic: f32, out: *mut f32, stride: usize) {
            let magic = _mm512_set1_ps(magic);
            let sixteens = low.as_chunks::<$values>().0.iter().zip(high.as_chunks::<$values>().0);
            for (i, (low, high)) in sixteens.enumerate() {
                // SAFETY: 16 values each; the rest is promised by the caller.
                unsafe {
                    let [low, high] = [low, high].map(|values| {
                        let $p = values.as_ptr();
                        _mm512_add_ps($sixteen, magic)
                    });
                    _mm512_storeu_si512(out.add(i * stride).cast(), beside(low, high));
                }
            }
        }
    };
}

pairs!(
    /// See [`crate::fixed::PairKernels::pair`].
    pair, f32, 16, |p| _mm512_loadu_ps(p)
);
pairs!(
    /// See [`crate::fixed::HalfKernels::pair`].
    pair_halves, u8, 32, |p| _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
);
