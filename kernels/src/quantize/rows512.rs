//! Rows of the formats without a search with AVX-512: what is written once for all instruction sets is far from the speed of
//! memory. The same bytes; what is an error there is left to that.

use std::arch::x86_64::*;

use ocelli_quant::GgmlType;

use crate::x86_vnni::quantize::lanes;

/// Blocks whose scales are found together.
const TOGETHER: usize = 16;

/// How far ahead is asked for what is read, in floats.
const AHEAD: usize = 2048;

/// Weights of a block.
const WEIGHTS: usize = 32;

/// Quantises a row without importance; whether it could: lengths fit, nothing is infinite or no number, nor is what half
/// precision (of BF16: 16 bits) makes of it.
///
/// # Safety
/// None beyond AVX-512 F, BW, DQ and VL.
pub(super) type Quantize = unsafe fn(&[f32], &mut [u8]) -> bool;

/// The function of a format, if it has one here.
pub(super) fn quantizer(ty: GgmlType) -> Option<Quantize> {
    Some(match ty {
        GgmlType::F16 => quantize_f16,
        GgmlType::BF16 => quantize_bf16,
        GgmlType::Q8_0 => quantize_q8_0,
        GgmlType::Q4_0 => quantize_nibbles::<18, false, false>,
        GgmlType::Q4_1 => quantize_nibbles::<20, true, false>,
        GgmlType::Q5_0 => quantize_nibbles::<22, false, true>,
        GgmlType::Q5_1 => quantize_nibbles::<24, true, true>,
        _ => return None,
    })
}

/// Defines the rounding to 16-bit floats from that of 16. `$too_large` are the bits of the smallest magnitude that becomes
/// infinite.
macro_rules! halves {
    ($name:ident, $too_large:literal, |$x:ident| $rounded:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn $name(row: &[f32], out: &mut [u8]) -> bool {
            if out.len() != 2 * row.len() {
                return false;
            }
            let (row, rest) = row.as_chunks::<16>();
            let (out, out_rest) = out.as_chunks_mut::<32>();
            // Magnitudes are ordered as their bits, those of what is no number last.
            let mut largest = _mm512_setzero_si512();
            for (x, out) in row.iter().zip(out) {
                fetch(x);
                // SAFETY: 16 floats in, 32 bytes out.
                unsafe {
                    let $x = _mm512_loadu_ps(x.as_ptr());
                    largest = _mm512_max_epu32(largest, _mm512_castps_si512(_mm512_abs_ps($x)));
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), $rounded);
                }
            }
            let there = (1u32 << rest.len()).wrapping_sub(1) as __mmask16;
            // SAFETY: as many floats are read, and as many places of 16 bits written, as there are.
            unsafe {
                let $x = _mm512_maskz_loadu_ps(there, rest.as_ptr());
                largest = _mm512_max_epu32(largest, _mm512_castps_si512(_mm512_abs_ps($x)));
                _mm256_mask_storeu_epi16(out_rest.as_mut_ptr().cast(), there, $rounded);
            }
            _mm512_reduce_max_epu32(largest) < $too_large
        }
    };
}

halves!(quantize_f16, 0x477f_f000, |x| _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));

// Half of what is cut off is added, less one where what is kept is even.
halves!(quantize_bf16, 0x7f7f_8000, |x| {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let raised = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(raised))
});

/// `d = max|x| / 127`, `q = x / d` rounded to the nearest, halves away from zero: the number just below one half is added to
/// the magnitude before it is cut.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize_q8_0(row: &[f32], out: &mut [u8]) -> bool {
    let Some((blocks, out)) = blocks::<34>(row, out) else { return false };
    let zero = _mm512_setzero_ps();
    let (half, sign) = (_mm512_set1_ps(0.5f32.next_down()), _mm512_set1_ps(-0.0));
    let mut check = Check { finite: [zero; 2], fine: true };
    for (blocks, out) in blocks.chunks(TOGETHER).zip(out.chunks_mut(TOGETHER)) {
        let [min, max] = check.extremes(blocks);
        let d = _mm512_div_ps(_mm512_max_ps(max, _mm512_sub_ps(zero, min)), _mm512_set1_ps(127.0));
        let steps = check.steps(d, zero);
        for (b, (x, out)) in blocks.iter().zip(out).enumerate() {
            fetch(x);
            let inverse = _mm512_set1_ps(steps.inverse[b]);
            let [low, high] = pair(x).map(|x| {
                let v = _mm512_mul_ps(x, inverse);
                let half = _mm512_or_ps(half, _mm512_and_ps(v, sign));
                _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(_mm512_add_ps(v, half)))
            });
            out[..2].copy_from_slice(&steps.stored[b].to_le_bytes()[..2]);
            // SAFETY: 32 bytes behind the scale.
            unsafe { _mm256_storeu_si256(out[2..].as_mut_ptr().cast(), _mm256_set_m128i(high, low)) };
        }
    }
    check.passed()
}

/// The formats of nibbles: `B` bytes hold the scale, the minimum if they are `AFFINE`, `FIFTH` bits if there are, nibbles.
///
/// `q = (x − min) / d` is raised by one half and cut, with `d = (max − min) / most`; without a minimum, the value of largest
/// magnitude becomes the smallest code.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize_nibbles<const B: usize, const AFFINE: bool, const FIFTH: bool>(row: &[f32], out: &mut [u8]) -> bool {
    let Some((blocks, out)) = blocks::<B>(row, out) else { return false };
    let head = if AFFINE { 4 } else { 2 };
    let (most, middle) = if FIFTH { (31, 16.0) } else { (15, 8.0) };
    let zero = _mm512_setzero_ps();
    let (limit, offset) = (_mm512_set1_epi32(most), _mm512_set1_ps(if AFFINE { 0.5 } else { middle + 0.5 }));
    let (nibble, fifth) = (_mm512_set1_epi32(15), _mm512_set1_epi32(16));
    let mut check = Check { finite: [zero; 2], fine: true };
    for (blocks, out) in blocks.chunks(TOGETHER).zip(out.chunks_mut(TOGETHER)) {
        let [min, max] = check.extremes(blocks);
        let (d, min) = if AFFINE {
            // Plus zero, which the difference of zeros is not, whatever their signs.
            let range = _mm512_add_ps(_mm512_sub_ps(max, min), zero);
            let zeros = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(min, zero);
            (_mm512_div_ps(range, _mm512_set1_ps(most as f32)), first_of(blocks, min, zeros))
        } else {
            (_mm512_div_ps(signed(blocks, min, max), _mm512_set1_ps(-middle)), zero)
        };
        let steps = check.steps(d, min);
        for (b, (x, out)) in blocks.iter().zip(out).enumerate() {
            fetch(x);
            let (inverse, min) = (_mm512_set1_ps(steps.inverse[b]), _mm512_set1_ps(steps.min[b]));
            let [low, high] = pair(x).map(|x| {
                let x = if AFFINE { _mm512_sub_ps(x, min) } else { x };
                let v = _mm512_cvttps_epi32(_mm512_add_ps(_mm512_mul_ps(x, inverse), offset));
                // What does not fit, by an infinite inverse, is the smallest integer, whose low bits are 0.
                _mm512_min_epi32(v, limit)
            });
            out[..head].copy_from_slice(&steps.stored[b].to_le_bytes()[..head]);
            if FIFTH {
                let bits = [low, high].map(|codes| u32::from(_mm512_test_epi32_mask(codes, fifth)));
                out[head..head + 4].copy_from_slice(&(bits[0] | bits[1] << 16).to_le_bytes());
            }
            let codes = _mm512_or_si512(_mm512_and_si512(low, nibble), _mm512_slli_epi32::<4>(high));
            // SAFETY: the last 16 bytes.
            unsafe { _mm_storeu_si128(out[B - 16..].as_mut_ptr().cast(), _mm512_cvtepi32_epi8(codes)) };
        }
    }
    check.passed()
}

/// The blocks of both sides.
type Blocks<'a, const B: usize> = (&'a [[f32; WEIGHTS]], &'a mut [[u8; B]]);

/// The blocks of both sides, if they are as many.
fn blocks<'a, const B: usize>(row: &'a [f32], out: &'a mut [u8]) -> Option<Blocks<'a, B>> {
    let (blocks, rest) = row.as_chunks::<WEIGHTS>();
    let (out, out_rest) = out.as_chunks_mut::<B>();
    (rest.is_empty() && out_rest.is_empty() && blocks.len() == out.len()).then_some((blocks, out))
}

/// Asks for what is read 8 KiB on, as far as it is there or not: the rows of a matrix follow one another. Left to itself, a
/// Zen 5 reads at half its rate between the two looks at every block.
#[inline]
fn fetch<const N: usize>(x: &[f32; N]) {
    for line in (0..N).step_by(16) {
        // SAFETY: asking for an address reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(AHEAD + line).cast()) };
    }
}

/// A block in two registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn pair(x: &[f32; WEIGHTS]) -> [__m512; 2] {
    // SAFETY: 32 floats.
    unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] }
}

/// The values of largest magnitude with their signs: the first on ties, +0 for zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn signed(blocks: &[[f32; WEIGHTS]], min: __m512, max: __m512) -> __m512 {
    let zero = _mm512_setzero_ps();
    let minus = _mm512_sub_ps(zero, min);
    let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(max, minus);
    let ties = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(max, minus) & _mm512_cmp_ps_mask::<_CMP_NEQ_OQ>(max, zero);
    first_of(blocks, _mm512_add_ps(_mm512_mask_blend_ps(negative, max, min), zero), ties)
}

/// In the lanes of `which`, the first value of the block that has the magnitude.
#[inline]
#[target_feature(enable = "avx512f")]
fn first_of(blocks: &[[f32; WEIGHTS]], values: __m512, which: __mmask16) -> __m512 {
    if which == 0 { values } else { looked_up(blocks, values, which) }
}

/// As [`first_of`]; seldom called.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f")]
fn looked_up(blocks: &[[f32; WEIGHTS]], values: __m512, which: __mmask16) -> __m512 {
    let mut settled = lanes(values);
    for (b, (value, x)) in settled.iter_mut().zip(blocks).enumerate() {
        if which >> b & 1 == 1 {
            *value = x.iter().copied().find(|x| x.abs() == value.abs()).unwrap_or(*value);
        }
    }
    // SAFETY: 16 floats.
    unsafe { _mm512_loadu_ps(settled.as_ptr()) }
}

/// What the codes of blocks are made with, and what is stored for it.
struct Steps {
    /// `1 / d`, or 0 for 0.
    inverse: [f32; TOGETHER],
    min: [f32; TOGETHER],
    /// In half precision, d and above it the minimum.
    stored: [u32; TOGETHER],
}

/// Whether the row can be quantised.
struct Check {
    /// Zeros, unless something was infinite or no number.
    finite: [__m512; 2],
    /// Whether scales fit half precision.
    fine: bool,
}

/// Joins registers of four blocks to one with their values in turn, and four of those to one whose lane b is block b.
macro_rules! join {
    ($op:ident, of $blocks:expr) => {{
        let [a, b, c, d] = $blocks;
        let ab = $op(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = $op(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let [ab, cd] = [_mm512_castps_pd(ab), _mm512_castps_pd(cd)];
        $op(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)))
    }};
    ($op:ident, $fours:expr) => {{
        let [a, b, c, d] = $fours;
        let ab = $op(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let cd = $op(_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        $op(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd))
    }};
}

impl Check {
    /// The smallest and the largest value of each block; of zeros with different signs, any. Where there is no block, 0.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn extremes(&mut self, blocks: &[[f32; WEIGHTS]]) -> [__m512; 2] {
        let ([a, b], [c, d]) =
            ([self.four(blocks, 0), self.four(blocks, 4)], [self.four(blocks, 8), self.four(blocks, 12)]);
        [join!(_mm512_min_ps, [a[0], b[0], c[0], d[0]]), join!(_mm512_max_ps, [a[1], b[1], c[1], d[1]])]
    }

    /// The extremes of four blocks in turn, in each quarter.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn four(&mut self, blocks: &[[f32; WEIGHTS]], first: usize) -> [__m512; 2] {
        static NONE: [f32; WEIGHTS] = [0.0; WEIGHTS];
        let zero = _mm512_setzero_ps();
        let x = [0, 1, 2, 3].map(|b| pair(blocks.get(first + b).unwrap_or(&NONE)));
        for [low, high] in x {
            // A minimum or maximum may lose what is no number.
            self.finite[0] = _mm512_fmadd_ps(low, zero, self.finite[0]);
            self.finite[1] = _mm512_fmadd_ps(high, zero, self.finite[1]);
        }
        let min = join!(_mm512_min_ps, of x.map(|[low, high]| _mm512_min_ps(low, high)));
        let max = join!(_mm512_max_ps, of x.map(|[low, high]| _mm512_max_ps(low, high)));
        [min, max]
    }

    /// Steps out of scales and minima.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn steps(&mut self, d: __m512, min: __m512) -> Steps {
        let infinite = _mm256_set1_epi16(0x7c00);
        let [d_stored, min_stored] = [d, min].map(|v| _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
        let overflows =
            [d_stored, min_stored].map(|v| _mm256_cmpeq_epi16_mask(_mm256_and_si256(v, infinite), infinite));
        self.fine &= overflows == [0; 2];
        let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(d, _mm512_setzero_ps());
        let above = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(min_stored));
        let mut stored = [0u32; TOGETHER];
        // SAFETY: 16 places.
        unsafe {
            let both = _mm512_or_si512(_mm512_cvtepu16_epi32(d_stored), above);
            _mm512_storeu_si512(stored.as_mut_ptr().cast(), both);
        }
        Steps { inverse: lanes(_mm512_maskz_div_ps(some, _mm512_set1_ps(1.0), d)), min: lanes(min), stored }
    }

    /// Whether all was well.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn passed(&self) -> bool {
        let sum = _mm512_add_ps(self.finite[0], self.finite[1]);
        self.fine && _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(sum, sum) == 0
    }
}
