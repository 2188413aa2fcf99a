//! The 16 rows of a panel as two registers of AVX-VNNI, or of AVX2 where nothing better is there to test with.

use std::arch::x86_64::*;

use super::lanes::{Avx512, Lanes};
use crate::x86_avx2::gemm::store as store_halves;

/// `sum + w₀x₀ + w₁x₁` in every lane by one instruction of AVX-VNNI; by its name for the reason that
/// [`super::lanes::vpdpwssd_512`] gives.
///
/// # Safety
/// The CPU must have AVX-VNNI.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn vpdpwssd_256(mut sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("{{vex}} vpdpwssd {0}, {1}, {2}", inout(ymm_reg) sum, in(ymm_reg) w, in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Two registers of 32 bytes, of which there are 16: a tile of 3 tokens has 12 sums.
///
/// `D` multiplies; everything else is AVX2.
pub(super) struct Halves<D, const TOKENS: usize>(std::marker::PhantomData<D>);

/// Products of small integers that are added up in 32-bit lanes, without saturation.
pub(super) trait Dots {
    /// See [`Lanes::dot_bytes`].
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn bytes(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;

    /// See [`Lanes::dot_words`].
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn words(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// `vpdpbusd` and `vpdpwssd` in their 256-bit form without AVX-512.
pub(super) enum Vnni {}

impl Dots for Vnni {
    #[inline(always)]
    unsafe fn bytes(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_dpbusd_avx_epi32(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn words(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { vpdpwssd_256(sum, w, x) }
    }
}

/// The same sums by AVX2 alone, so that tests reach everything around the two instructions on CPUs that lack them.
#[cfg(feature = "emulated")]
pub(super) enum Emulated {}

#[cfg(feature = "emulated")]
impl Dots for Emulated {
    #[inline(always)]
    unsafe fn bytes(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: promised by the caller. Bytes of even and of odd number become 16 bits wide.
        unsafe {
            let even = _mm256_madd_epi16(
                _mm256_and_si256(w, _mm256_set1_epi16(0xff)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(w), _mm256_srai_epi16::<8>(x));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    unsafe fn words(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(w, x)) }
    }
}

// SAFETY of all blocks: promised by the caller; loads and stores need no alignment.
impl<D: Dots, const TOKENS: usize> Lanes for Halves<D, TOKENS> {
    type Int = [__m256i; 2];
    type Float = [__m256; 2];

    const TOKENS: usize = TOKENS;
    const PAIRS: usize = if TOKENS > 6 { Avx512::PAIRS } else { 6 };

    #[inline(always)]
    unsafe fn ints(p: *const u8, _: usize) -> Self::Int {
        let p = p.cast::<__m256i>();
        // SAFETY: see above.
        unsafe { [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))] }
    }

    #[inline(always)]
    unsafe fn int(v: i32) -> Self::Int {
        // SAFETY: see above.
        unsafe { [_mm256_set1_epi32(v); 2] }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [D::bytes(sum[0], w[0], x[0]), D::bytes(sum[1], w[1], x[1])] }
    }

    #[inline(always)]
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn dot_words(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [D::words(sum[0], w[0], x[0]), D::words(sum[1], w[1], x[1])] }
    }

    #[inline(always)]
    unsafe fn xor(a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn halves(upper: Self::Int, lower: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe {
            [
                _mm256_blend_epi16::<0b0101_0101>(upper[0], lower[0]),
                _mm256_blend_epi16::<0b0101_0101>(upper[1], lower[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn up12(v: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [_mm256_slli_epi32::<12>(v[0]), _mm256_slli_epi32::<12>(v[1])] }
    }

    #[inline(always)]
    unsafe fn up16(v: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [_mm256_slli_epi32::<16>(v[0]), _mm256_slli_epi32::<16>(v[1])] }
    }

    #[inline(always)]
    unsafe fn down4(v: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [_mm256_srai_epi32::<4>(v[0]), _mm256_srai_epi32::<4>(v[1])] }
    }

    #[inline(always)]
    unsafe fn add_int(a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn upper(v: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [_mm256_srai_epi32::<16>(v[0]), _mm256_srai_epi32::<16>(v[1])] }
    }

    #[inline(always)]
    unsafe fn mul_add_int(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe {
            [
                _mm256_add_epi32(sum[0], _mm256_mullo_epi32(a[0], b[0])),
                _mm256_add_epi32(sum[1], _mm256_mullo_epi32(a[1], b[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn floats(p: *const f32, _: usize) -> Self::Float {
        // SAFETY: see above.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }

    #[inline(always)]
    unsafe fn float(v: f32) -> Self::Float {
        // SAFETY: see above.
        unsafe { [_mm256_set1_ps(v); 2] }
    }

    #[inline(always)]
    unsafe fn to_float(v: Self::Int) -> Self::Float {
        // SAFETY: see above.
        unsafe { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        // SAFETY: see above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul_add(sum: Self::Float, a: Self::Float, b: Self::Float) -> Self::Float {
        // SAFETY: see above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])] }
    }

    #[inline(always)]
    unsafe fn mul_sub(sum: Self::Float, a: Self::Float, b: Self::Float) -> Self::Float {
        // SAFETY: see above.
        unsafe { [_mm256_fnmadd_ps(a[0], b[0], sum[0]), _mm256_fnmadd_ps(a[1], b[1], sum[1])] }
    }

    #[inline(always)]
    unsafe fn store(out: *mut f32, n: usize, v: Self::Float, accumulate: bool) {
        // SAFETY: see above.
        unsafe { store_halves(out, n, v, accumulate) };
    }
}
