//! Stored blocks to floats, 16 at a time, by the functions of [`crate::x86_avx2::expand`].

use std::arch::x86_64::*;

use ocelli_quant::formats::bf16::BF16;
use ocelli_quant::formats::f16::F16;
use ocelli_quant::panel::Unquantized;
use ocelli_quant::{Format, Unpack};

use crate::x86_avx2::expand::{self, Expand, each_run, expansions, times};
use crate::x86_avx2::unpack::{Block, Super, Visit};

/// The expansion of a format with AVX-512 F, BW and VL, beside all that AVX2's asks for.
pub(crate) struct Expansion;

impl Visit for Expansion {
    type Out = Expand;

    fn super_block<F: Super>(self) -> Expand {
        expand_super::<F>
    }

    fn block<F: Block>(self) -> Expand {
        expand_block::<F>
    }

    fn float<F: Unpack<Unit = Unquantized>>(self) -> Expand {
        match F::ID {
            F16::ID => dequantize_f16,
            BF16::ID => dequantize_bf16,
            _ => expand::Expansion.float::<F>(),
        }
    }
}

expansions!("avx2,fma,f16c,avx512f,avx512bw,avx512vl", spread);

/// What [`expansions!`] asks for, 16 at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn spread<const MIN: bool>(codes: __m256i, d: [f32; 2], min: [f32; 2], out: &mut [f32; 32]) {
    let halves = [_mm256_castsi256_si128(codes), _mm256_extracti128_si256::<1>(codes)];
    for (h, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let x = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(halves[h])), _mm512_set1_ps(d[h]));
        let x = if MIN { _mm512_sub_ps(x, _mm512_set1_ps(min[h])) } else { x };
        // SAFETY: 16 places.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
    }
}

/// Defines the expansion of 16-bit floats from that of one and that of 16.
macro_rules! halves {
    ($name:ident, $one:path, |$bits:ident| $sixteen:expr) => {
        /// See [`crate::table::FormatKernels::dequantize`].
        ///
        /// # Safety
        /// None beyond the features; both sides end where the shorter does.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        pub(crate) unsafe fn $name(bytes: &[u8], out: &mut [f32]) {
            let (chunks, rest) = out.as_chunks_mut::<16>();
            let (b, b_rest) = bytes.as_chunks::<32>();
            for (out, b) in chunks.iter_mut().zip(b) {
                // SAFETY: 32 bytes in, 16 floats out.
                unsafe {
                    let $bits = _mm256_loadu_si256(b.as_ptr().cast());
                    _mm512_storeu_ps(out.as_mut_ptr(), $sixteen);
                }
            }
            for (out, b) in rest.iter_mut().zip(b_rest.as_chunks::<2>().0) {
                *out = $one(u16::from_le_bytes(*b));
            }
        }
    };
}

halves!(dequantize_f16, ocelli_quant::half_bits::f16_to_f32, |bits| _mm512_cvtph_ps(bits));
halves!(dequantize_bf16, ocelli_quant::half_bits::bf16_to_f32, |bits| {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
});
