//! Lanes in AVX-512 registers, and the formats compiled for them.
#![allow(clippy::inline_always)]

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

use ocelli_quant::lanes::{Lanes, Mask, Simd, Task};
use ocelli_quant::{GgmlType, QuantError, format, formats};

use super::{RowCodec, rows512};
use crate::x86_avx2::unpack::Known;
use crate::x86_vnni::expand::Expansion;

/// Proof that the machine has the features: only [`Avx512::detect`] makes one.
#[derive(Clone, Copy)]
struct Avx512(());

impl Avx512 {
    #[inline]
    fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"))
        .then_some(Self(()))
    }
}

/// The codec, if the machine has the features.
pub(super) fn codec() -> Option<RowCodec> {
    Avx512::detect().map(|_| RowCodec { name: "avx512", quantize, dequantize })
}

/// Vector of 16 f32. Vectors come only out of a [`Avx512`] or out of another vector.
#[derive(Clone, Copy)]
struct Vector(__m512);

/// One truth value per lane, in a mask register.
#[derive(Clone, Copy)]
struct Bits(__mmask16);

impl Simd for Avx512 {
    type F = Vector;
    const W: usize = 16;

    #[inline(always)]
    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn go<T: Task<Avx512>>(s: Avx512, task: T) -> T::Output {
            task.run(s)
        }
        // SAFETY: `self` exists only where `Avx512::detect` has found the features.
        unsafe { go(self, task) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        // SAFETY: `self` proves the features.
        Vector(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> Vector {
        let mut padded = [0f32; 16];
        let lanes = match values.first_chunk::<16>() {
            Some(lanes) => lanes,
            None => {
                padded[..values.len()].copy_from_slice(values);
                &padded
            }
        };
        // SAFETY: `self` proves the features; `lanes` holds 16 values, and the load needs no alignment.
        Vector(unsafe { _mm512_loadu_ps(lanes.as_ptr()) })
    }

    #[inline(always)]
    fn low_bytes(self, values: &[i32; 32]) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        for (bytes, values) in bytes.as_chunks_mut::<16>().0.iter_mut().zip(values.as_chunks::<16>().0) {
            // SAFETY: `self` proves the features; 16 integers in, 16 bytes out.
            unsafe {
                let narrow = _mm512_cvtepi32_epi8(_mm512_loadu_si512(values.as_ptr().cast()));
                _mm_storeu_si128(bytes.as_mut_ptr().cast(), narrow);
            }
        }
        bytes
    }
}

impl Lanes for Vector {
    type Mask = Bits;

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let mut padded = [0f32; 16];
        let n = out.len().min(16);
        let (lanes, whole) = match out.first_chunk_mut::<16>() {
            Some(lanes) => (lanes, true),
            None => (&mut padded, false),
        };
        // SAFETY: the vector proves the features; `lanes` holds 16 values, and the store needs no alignment.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), self.0) };
        if !whole {
            out[..n].copy_from_slice(&padded[..n]);
        }
    }

    #[inline(always)]
    fn store_truncated(self, out: &mut [i32]) {
        let mut padded = [0i32; 16];
        let n = out.len().min(16);
        let (lanes, whole) = match out.first_chunk_mut::<16>() {
            Some(lanes) => (lanes, true),
            None => (&mut padded, false),
        };
        // SAFETY: the vector proves the features; `lanes` holds 16 values, and the store needs no alignment. The
        // conversion yields `i32::MIN` for whatever does not fit.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), _mm512_cvttps_epi32(self.0)) };
        if !whole {
            out[..n].copy_from_slice(&padded[..n]);
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: the vector proves the features.
        Self(unsafe {
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self.0), _mm512_set1_epi32(0x7fff_ffff)))
        })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: the vector proves the features.
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the vector proves the features. The instruction yields its second operand for NaN and for equals.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: the vector proves the features. The instruction yields its second operand for NaN and for equals.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Bits {
        // SAFETY: the vector proves the features.
        Bits(unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Bits {
        // SAFETY: the vector proves the features.
        Bits(unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn select(mask: Bits, yes: Self, no: Self) -> Self {
        // SAFETY: the vectors prove the features.
        Self(unsafe { _mm512_mask_blend_ps(mask.0, no.0, yes.0) })
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        // SAFETY: the vector proves the features.
        Self(unsafe {
            let mantissa = _mm512_and_si512(
                _mm512_castps_si512(_mm512_add_ps(self.0, _mm512_set1_ps(12_582_912.0))),
                _mm512_set1_epi32(0x007f_ffff),
            );
            _mm512_cvtepi32_ps(_mm512_sub_epi32(mantissa, _mm512_set1_epi32(0x0040_0000)))
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
operators!(Add add _mm512_add_ps, Sub sub _mm512_sub_ps, Mul mul _mm512_mul_ps, Div div _mm512_div_ps);

impl Neg for Vector {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: the vector proves the features.
        Self(unsafe { _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(self.0), _mm512_set1_epi32(i32::MIN))) })
    }
}

impl Mask for Bits {
    #[inline(always)]
    fn any(self) -> bool {
        self.0 != 0
    }
}

impl BitAnd for Bits {
    type Output = Self;
    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Bits {
    type Output = Self;
    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Not for Bits {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        Self(!self.0)
    }
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
            let Some(simd) = Avx512::detect() else { return ty.quantize_row(row, importance, out) };
            if importance.is_none()
                && let Some(quantize) = rows512::quantizer(ty)
                // SAFETY: the features were just detected.
                && unsafe { quantize(row, out) }
            {
                return Ok(());
            }
            match ty {
                $(GgmlType::$variant => {
                    #[inline(never)]
                    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                    fn go(s: Avx512, x: &[f32], w: Option<&[f32]>, out: &mut [u8]) -> Result<(), QuantError> {
                        format::check_quantize(GgmlType::$variant, x, w, out)?;
                        format::quantize_checked::<formats::$module::$ty, _>(s, x, w, out)
                    }
                    // SAFETY: `simd` exists only where `Avx512::detect` has found the features.
                    unsafe { go(simd, row, importance, out) }
                })+
                // The list names every format there is.
                _ => ty.quantize_row(row, importance, out),
            }
        }

        fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
            if Avx512::detect().is_none() {
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
