//! Stored blocks to floats, by the codes that [`super::unpack`] makes in registers: written once for AVX2 and AVX-512. Values
//! are those of `GgmlType::dequantize_row`: the same products and differences in the same order.

use std::arch::x86_64::*;

use ocelli_quant::formats::f16::F16;
use ocelli_quant::panel::Unquantized;
use ocelli_quant::{Format, Unpack};

use super::unpack::{Block, Super, Visit};
use super::{elem, float};

/// Expands whole blocks.
pub(crate) type Expand = unsafe fn(&[u8], &mut [f32]);

/// The expansion of a format with AVX2, FMA and F16C.
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
        if F::ID == F16::ID { float::dequantize_f16 } else { elem::dequantize::<F> }
    }
}

/// Defines the expansion of super-blocks and of blocks of 32 from that of 32 codes: signed bytes times `d`, less `min` where
/// there is one; both for the first 16 and for the others.
macro_rules! expansions {
    ($features:literal, $spread:ident) => {
        /// See [`crate::table::FormatKernels::dequantize`].
        ///
        /// # Safety
        /// None beyond the features; both sides end where the shorter does.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn expand_block<F: Block>(bytes: &[u8], out: &mut [f32]) {
            let offset = _mm256_set1_epi8(F::OFFSET as i8);
            for (block, out) in bytes.chunks_exact(F::BLOCK_BYTES).zip(out.as_chunks_mut::<32>().0) {
                // SAFETY: a whole block.
                let ([d, min], codes) = unsafe { (F::floats(block.as_ptr()), F::codes(block.as_ptr())) };
                if F::SIGNED || F::OFFSET > 0 {
                    $spread::<false>(_mm256_sub_epi8(codes, offset), [d; 2], [min; 2], out);
                } else {
                    $spread::<true>(codes, [d; 2], [min; 2], out);
                }
            }
        }

        /// See [`crate::table::FormatKernels::dequantize`].
        ///
        /// # Safety
        /// None beyond the features; both sides end where the shorter does.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn expand_super<F: Super>(bytes: &[u8], out: &mut [f32]) {
            let raised = _mm256_set1_epi8(F::RAISED as i8);
            for (block, out) in bytes.chunks_exact(F::BLOCK_BYTES).zip(out.as_chunks_mut::<256>().0) {
                let block = block.as_ptr();
                // SAFETY: a whole block.
                let ([d, dmin], [scales, mins]) = unsafe { (F::floats(block), F::steps(block)) };
                let (scales, mins) = (times(scales, d), times(mins, dmin));
                let [x0, x1, x2, x3, x4, x5, x6, x7] = out.as_chunks_mut::<32>().0 else { continue };
                let runs = [x0, x1, x2, x3, x4, x5, x6, x7];
                each_run!(|N| {
                    let groups = if F::GROUP == 16 { [2 * N, 2 * N + 1] } else { [N; 2] };
                    // SAFETY: a whole block.
                    let codes = _mm256_sub_epi8(unsafe { F::run::<N>(block) }, raised);
                    let (scales, mins) = (groups.map(|g| scales[g]), groups.map(|g| mins[g]));
                    if F::RAISED > 0 {
                        $spread::<false>(codes, scales, mins, runs[N]);
                    } else {
                        $spread::<true>(codes, scales, mins, runs[N]);
                    }
                });
            }
        }
    };
}
pub(crate) use super::unpack::each_run;
pub(crate) use expansions;

expansions!("avx2,fma,f16c", spread);

/// Sixteen integers times a float.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn times(integers: __m256i, factor: f32) -> [f32; 16] {
    let mut products = [0f32; 16];
    let halves = [_mm256_castsi256_si128(integers), _mm256_extracti128_si256::<1>(integers)];
    for (products, integers) in products.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
        let floats = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(integers));
        // SAFETY: 8 places.
        unsafe { _mm256_storeu_ps(products.as_mut_ptr(), _mm256_mul_ps(floats, _mm256_set1_ps(factor))) };
    }
    products
}

/// What [`expansions!`] asks for, 8 at a time.
#[inline]
#[target_feature(enable = "avx2")]
fn spread<const MIN: bool>(codes: __m256i, d: [f32; 2], min: [f32; 2], out: &mut [f32; 32]) {
    let halves = [_mm256_castsi256_si128(codes), _mm256_extracti128_si256::<1>(codes)];
    for (h, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let eights = [halves[h], _mm_unpackhi_epi64(halves[h], halves[h])];
        for (out, codes) in out.as_chunks_mut::<8>().0.iter_mut().zip(eights) {
            let x = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), _mm256_set1_ps(d[h]));
            let x = if MIN { _mm256_sub_ps(x, _mm256_set1_ps(min[h])) } else { x };
            // SAFETY: 8 places.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) };
        }
    }
}
