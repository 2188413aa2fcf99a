//! Lanes in AVX2 registers, and the formats compiled for them.
#![allow(clippy::inline_always)]

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

use ocelli_quant::formats::f16::F16;
use ocelli_quant::lanes::{Lanes, Mask, Simd, Task};
use ocelli_quant::{Format, GgmlType, QuantError, format, formats};

use super::RowCodec;
use crate::x86_avx2::expand::Expansion;
use crate::x86_avx2::float::f32_to_f16;
use crate::x86_avx2::unpack::Known;

/// Proof that the machine has the features: only [`Avx2::detect`] makes one.
#[derive(Clone, Copy)]
struct Avx2(());

impl Avx2 {
    #[inline]
    fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"))
            .then_some(Self(()))
    }
}

/// The codec, if the machine has the features.
pub(super) fn codec() -> Option<RowCodec> {
    Avx2::detect().map(|_| RowCodec { name: "avx2", quantize, dequantize })
}

/// Vector of 8 f32. Vectors come only out of a [`Avx2`] or out of another vector.
#[derive(Clone, Copy)]
struct Vector(__m256);

/// One truth value per lane: all bits of a lane set, or none.
#[derive(Clone, Copy)]
struct Bits(__m256);

impl Simd for Avx2 {
    type F = Vector;
    const W: usize = 8;

    #[inline(always)]
    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        #[inline(never)]
        #[target_feature(enable = "avx2")]
        fn go<T: Task<Avx2>>(s: Avx2, task: T) -> T::Output {
            task.run(s)
        }
        // SAFETY: `self` exists only where `Avx2::detect` has found the features.
        unsafe { go(self, task) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        // SAFETY: `self` proves the features.
        Vector(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> Vector {
        let mut padded = [0f32; 8];
        let lanes = match values.first_chunk::<8>() {
            Some(lanes) => lanes,
            None => {
                padded[..values.len()].copy_from_slice(values);
                &padded
            }
        };
        // SAFETY: `self` proves the features; `lanes` holds 8 values, and the load needs no alignment.
        Vector(unsafe { _mm256_loadu_ps(lanes.as_ptr()) })
    }

    #[inline(always)]
    fn low_bytes(self, values: &[i32; 32]) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        // SAFETY: `self` proves the features; 32 integers in, 32 bytes out.
        unsafe {
            let [mut a, mut b, mut c, mut d] = [_mm256_setzero_si256(); 4];
            for (k, v) in [&mut a, &mut b, &mut c, &mut d].into_iter().enumerate() {
                *v = _mm256_and_si256(_mm256_loadu_si256(values.as_ptr().add(8 * k).cast()), _mm256_set1_epi32(255));
            }
            let mixed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), _mm256_permutevar8x32_epi32(mixed, order));
        }
        bytes
    }

    #[inline(always)]
    fn fifth_bits(self, bytes: &[u8; 32]) -> [u8; 4] {
        // SAFETY: `self` proves the features; 32 bytes. Bit 4 of each becomes its highest.
        unsafe {
            let raised = _mm256_slli_epi16::<3>(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm256_movemask_epi8(raised).to_le_bytes()
        }
    }
}

impl Lanes for Vector {
    type Mask = Bits;

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let mut padded = [0f32; 8];
        let n = out.len().min(8);
        let (lanes, whole) = match out.first_chunk_mut::<8>() {
            Some(lanes) => (lanes, true),
            None => (&mut padded, false),
        };
        // SAFETY: the vector proves the features; `lanes` holds 8 values, and the store needs no alignment.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), self.0) };
        if !whole {
            out[..n].copy_from_slice(&padded[..n]);
        }
    }

    #[inline(always)]
    fn store_truncated(self, out: &mut [i32]) {
        let mut padded = [0i32; 8];
        let n = out.len().min(8);
        let (lanes, whole) = match out.first_chunk_mut::<8>() {
            Some(lanes) => (lanes, true),
            None => (&mut padded, false),
        };
        // SAFETY: the vector proves the features; `lanes` holds 8 values, and the store needs no alignment. The
        // conversion yields `i32::MIN` for whatever does not fit.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_cvttps_epi32(self.0)) };
        if !whole {
            out[..n].copy_from_slice(&padded[..n]);
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: the vector proves the features.
        Self(unsafe {
            _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(self.0), _mm256_set1_epi32(0x7fff_ffff)))
        })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: the vector proves the features.
        Self(unsafe { _mm256_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the vector proves the features. The instruction yields its second operand for NaN and for equals.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: the vector proves the features. The instruction yields its second operand for NaN and for equals.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Bits {
        // SAFETY: the vector proves the features.
        Bits(unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Bits {
        // SAFETY: the vector proves the features.
        Bits(unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn select(mask: Bits, yes: Self, no: Self) -> Self {
        // SAFETY: the vectors prove the features.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, mask.0) })
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        // SAFETY: the vector proves the features.
        Self(unsafe {
            let mantissa = _mm256_and_si256(
                _mm256_castps_si256(_mm256_add_ps(self.0, _mm256_set1_ps(12_582_912.0))),
                _mm256_set1_epi32(0x007f_ffff),
            );
            _mm256_cvtepi32_ps(_mm256_sub_epi32(mantissa, _mm256_set1_epi32(0x0040_0000)))
        })
    }
}

/// Implements the operators by one instruction each.
macro_rules! operators {
    ($($trait:ident $method:ident $instruction:ident),+) => {$(
        impl $trait for Vector {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the vectors prove the features.
                Self(unsafe { $instruction(self.0, other.0) })
            }
        }
    )+};
}
operators!(Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps);

impl Neg for Vector {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: the vector proves the features.
        Self(unsafe { _mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(self.0), _mm256_set1_epi32(i32::MIN))) })
    }
}

impl Mask for Bits {
    #[inline(always)]
    fn any(self) -> bool {
        // SAFETY: the mask proves the features.
        unsafe { _mm256_movemask_ps(self.0) != 0 }
    }
}

impl BitAnd for Bits {
    type Output = Self;
    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        // SAFETY: the masks prove the features.
        Self(unsafe { _mm256_and_ps(self.0, other.0) })
    }
}

impl BitOr for Bits {
    type Output = Self;
    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        // SAFETY: the masks prove the features.
        Self(unsafe { _mm256_or_ps(self.0, other.0) })
    }
}

impl Not for Bits {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: the mask proves the features.
        Self(unsafe { _mm256_xor_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) })
    }
}

/// Rounds to half precision by the instruction for it.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_f16(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) -> Result<(), QuantError> {
    format::check_quantize(GgmlType::F16, row, importance, out)?;
    // SAFETY: this function has the features.
    unsafe { f32_to_f16(row, out) };
    F16::first_overflow(out).map_or(Ok(()), |index| Err(QuantError::Overflow { format: F16::NAME, index }))
}

/// Defines `quantize` and `dequantize` out of the list of formats, each format quantised by functions of its own.
macro_rules! compile_formats {
    ($($variant:ident $module:ident $ty:ident),+) => {
        fn quantize(
            ty: GgmlType,
            row: &[f32],
            importance: Option<&[f32]>,
            out: &mut [u8],
        ) -> Result<(), QuantError> {
            let Some(simd) = Avx2::detect() else { return ty.quantize_row(row, importance, out) };
            if ty == GgmlType::F16 {
                // SAFETY: the features were just detected.
                return unsafe { quantize_f16(row, importance, out) };
            }
            match ty {
                $(GgmlType::$variant => {
                    #[inline(never)]
                    #[target_feature(enable = "avx2")]
                    fn go(s: Avx2, x: &[f32], w: Option<&[f32]>, out: &mut [u8]) -> Result<(), QuantError> {
                        format::check_quantize(GgmlType::$variant, x, w, out)?;
                        format::quantize_checked::<formats::$module::$ty, _>(s, x, w, out)
                    }
                    // SAFETY: `simd` exists only where `Avx2::detect` has found the features.
                    unsafe { go(simd, row, importance, out) }
                })+
                // The list names every format there is.
                _ => ty.quantize_row(row, importance, out),
            }
        }

        fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
            if Avx2::detect().is_none() {
                return ty.dequantize_row(bytes, out);
            }
            let expand = match ty {
                $(GgmlType::$variant => formats::$module::$ty::visit(Expansion),)+
                _ => return ty.dequantize_row(bytes, out),
            };
            format::check_dequantize(ty, bytes, out)?;
            // SAFETY: the features were just detected.
            unsafe { expand(bytes, out) };
            Ok(())
        }
    };
}
ocelli_quant::for_each_format!(compile_formats);
