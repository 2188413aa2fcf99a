//! Four products of signed bytes added to each 32-bit lane.

use std::arch::aarch64::{int8x16_t, int32x4_t, vget_low_s8, vmull_high_s8, vmull_s8, vpadalq_s16, vpaddq_s16};

/// How a table adds products.
pub(super) trait Dot {
    /// `acc[i] + Σ_{j<4} a[4i + j]·b[4i + j]`. One factor is at most 127 in magnitude.
    ///
    /// # Safety
    /// The CPU must have the instructions of the implementing type.
    unsafe fn dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

/// With instructions of every AArch64 CPU.
pub(super) struct Widen;

impl Dot for Widen {
    /// A product is at most 128·127, the sum of two 32,512: 16 bits hold it.
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: NEON is part of every AArch64 target.
        unsafe {
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(a, b)))
        }
    }
}

/// With `sdot`; its intrinsic is not stable yet.
pub(super) struct Sdot;

impl Dot for Sdot {
    #[inline(always)]
    unsafe fn dot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller promises the dotprod extension; registers in, one register changed.
        unsafe {
            std::arch::asm!(
                "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
                acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }
}
