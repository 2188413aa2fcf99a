//! Transposing in registers, 8 × 8.

use std::arch::x86_64::*;

use crate::transpose::Transpose;

/// See [`crate::table::KernelTable::transpose`].
///
/// # Safety
/// As [`Transpose::scalar`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn transpose(a: &Transpose) {
    // SAFETY: the contract of this function; a square touches 8 rows of 8 values on either side.
    unsafe { a.by_squares::<8>(|src, from, dst, to| square(src, from, dst, to)) };
}

/// Pairs of values, then pairs of pairs, then halves change places.
///
/// # Safety
/// 8 rows of 8 values must exist at both pointers.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn square(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
    // SAFETY: the contract of this function.
    let row: [__m256; 8] = std::array::from_fn(|r| unsafe { _mm256_loadu_ps(src.add(r * src_stride)) });
    let mut pairs = row;
    let mut fours = row;
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    for i in (0..8).step_by(4) {
        for (k, (a, b)) in [(pairs[i], pairs[i + 2]), (pairs[i + 1], pairs[i + 3])].into_iter().enumerate() {
            fours[i + 2 * k] = _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
            fours[i + 2 * k + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
        }
    }
    for c in 0..4 {
        let (low, high) = (fours[c], fours[c + 4]);
        // SAFETY: the contract of this function.
        unsafe {
            _mm256_storeu_ps(dst.add(c * dst_stride), _mm256_permute2f128_ps::<0x20>(low, high));
            _mm256_storeu_ps(dst.add((c + 4) * dst_stride), _mm256_permute2f128_ps::<0x31>(low, high));
        }
    }
}
