//! Transposing in registers, 4 × 4.

use std::arch::aarch64::*;

use crate::transpose::Transpose;

/// See [`crate::table::KernelTable::transpose`].
///
/// # Safety
/// As [`Transpose::scalar`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn transpose(a: &Transpose) {
    // SAFETY: the contract of this function; a square touches 4 rows of 4 values on either side.
    unsafe { a.by_squares::<4>(|src, from, dst, to| square(src, from, dst, to)) };
}

/// Values change places in pairs of rows, then pairs of values do.
///
/// # Safety
/// 4 rows of 4 values must exist at both pointers.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn square(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
    let wide = |v: float32x4_t| vreinterpretq_f64_f32(v);
    let narrow = |v: float64x2_t| vreinterpretq_f32_f64(v);
    // SAFETY: the contract of this function.
    let row: [float32x4_t; 4] = std::array::from_fn(|r| unsafe { vld1q_f32(src.add(r * src_stride)) });
    let (even, odd) = (
        [vtrn1q_f32(row[0], row[1]), vtrn1q_f32(row[2], row[3])],
        [vtrn2q_f32(row[0], row[1]), vtrn2q_f32(row[2], row[3])],
    );
    let column = [
        narrow(vtrn1q_f64(wide(even[0]), wide(even[1]))),
        narrow(vtrn1q_f64(wide(odd[0]), wide(odd[1]))),
        narrow(vtrn2q_f64(wide(even[0]), wide(even[1]))),
        narrow(vtrn2q_f64(wide(odd[0]), wide(odd[1]))),
    ];
    for (c, v) in column.into_iter().enumerate() {
        // SAFETY: the contract of this function.
        unsafe { vst1q_f32(dst.add(c * dst_stride), v) };
    }
}
