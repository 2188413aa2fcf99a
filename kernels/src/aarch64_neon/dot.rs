//! How a table multiplies signed bytes and adds the products to 32-bit lanes.

use std::arch::aarch64::*;

use super::body::MR;
use super::peak;
use crate::table::PeakLoop;

/// Sums of `MR` rows for `N` tokens, rows in lanes.
pub(super) type Rows<const N: usize> = [[int32x4_t; 2]; N];

/// How a table adds products.
pub(super) trait Dot {
    /// Its multiplications on registers alone.
    const PEAK: PeakLoop;

    /// Weights of a row that lie together in a panel.
    const STEP: usize;

    /// Sums of `MR` rows for `N` tokens in the lanes that suit the instruction.
    type Sums<const N: usize>: Copy;

    /// `acc[i] + Σ_{j<4} a[4i + j]·b[4i + j]`. One factor is at most 127 in magnitude.
    ///
    /// # Safety
    /// The CPU must have the instructions of the implementing type.
    unsafe fn dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;

    /// Zeros.
    fn zero<const N: usize>() -> Self::Sums<N>;

    /// `Σ_k w[r][k]·y[c][k]` over `len` weights, a multiple of 16, for `MR` rows and `N` tokens.
    ///
    /// # Safety
    /// `w` must be readable for `MR · len` bytes, interleaved in steps of [`Self::STEP`], each `y` for `len` bytes; the
    /// CPU must have the instructions of the implementing type.
    unsafe fn sums<const N: usize>(w: *const i8, y: [*const i8; N], len: usize) -> Self::Sums<N>;

    /// `total + sum·scale`, one scale per row.
    ///
    /// # Safety
    /// `scales` must be readable for `MR` values.
    unsafe fn scaled<const N: usize>(total: Self::Sums<N>, sum: Self::Sums<N>, scales: *const i32) -> Self::Sums<N>;

    /// Brings rows into lanes.
    fn rows<const N: usize>(sums: Self::Sums<N>) -> Rows<N>;
}

/// A dot product with the same four numbers in every lane.
pub(super) trait LaneDot: Dot {
    /// `acc[i] + Σ_{j<4} a[4i + j]·b[4·LANE + j]`. One factor is at most 127 in magnitude.
    ///
    /// # Safety
    /// The CPU must have the instructions of the implementing type.
    #[inline(always)]
    unsafe fn dot_lane<const LANE: i32>(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: promised by the caller.
        unsafe { Self::dot(acc, a, vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(b)))) }
    }
}

/// Adds the products of four weights of `MR` rows with lane `LANE` of the codes of `N` tokens.
///
/// # Safety
/// `w` must be readable for `4 · MR` bytes; the CPU must have the instructions of `D`.
#[inline(always)]
unsafe fn step<D: LaneDot, const N: usize, const LANE: i32>(sums: &mut Rows<N>, w: *const i8, y: [int8x16_t; N]) {
    // SAFETY: promised by the caller.
    unsafe {
        let w = [vld1q_s8(w), vld1q_s8(w.add(16))];
        for c in 0..N {
            for h in 0..2 {
                sums[c][h] = D::dot_lane::<LANE>(sums[c][h], w[h], y[c]);
            }
        }
    }
}

/// What the tables share whose 32-bit lanes are rows: everything but [`Dot::dot`].
macro_rules! rows_in_lanes {
    () => {
        const STEP: usize = 4;

        type Sums<const N: usize> = Rows<N>;

        #[inline(always)]
        fn zero<const N: usize>() -> Rows<N> {
            // SAFETY: NEON is part of every AArch64 target.
            [[unsafe { vdupq_n_s32(0) }; 2]; N]
        }

        #[inline(always)]
        unsafe fn sums<const N: usize>(w: *const i8, y: [*const i8; N], len: usize) -> Rows<N> {
            let mut sums = Self::zero::<N>();
            for chunk in 0..len / 16 {
                // SAFETY: chunks below `len / 16`, of four steps, lie inside what the caller promises, as do the
                // instructions.
                unsafe {
                    let y = y.map(|y| vld1q_s8(y.add(16 * chunk)));
                    let w = w.add(16 * MR * chunk);
                    step::<Self, N, 0>(&mut sums, w, y);
                    step::<Self, N, 1>(&mut sums, w.add(4 * MR), y);
                    step::<Self, N, 2>(&mut sums, w.add(8 * MR), y);
                    step::<Self, N, 3>(&mut sums, w.add(12 * MR), y);
                }
            }
            sums
        }

        #[inline(always)]
        unsafe fn scaled<const N: usize>(mut total: Rows<N>, sum: Rows<N>, scales: *const i32) -> Rows<N> {
            for h in 0..2 {
                // SAFETY: promised by the caller.
                unsafe {
                    let scale = vld1q_s32(scales.add(4 * h));
                    for c in 0..N {
                        total[c][h] = vmlaq_s32(total[c][h], sum[c][h], scale);
                    }
                }
            }
            total
        }

        #[inline(always)]
        fn rows<const N: usize>(sums: Rows<N>) -> Rows<N> {
            sums
        }
    };
}

/// With instructions of every AArch64 CPU.
pub(super) struct Widen;

impl Dot for Widen {
    rows_in_lanes!();

    const PEAK: PeakLoop = peak::WIDEN;

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

impl LaneDot for Widen {}

/// With `sdot`; its intrinsics are not stable yet.
pub(super) struct Sdot;

impl LaneDot for Sdot {
    #[inline(always)]
    unsafe fn dot_lane<const LANE: i32>(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller promises the dotprod extension; registers in, one register changed.
        unsafe {
            std::arch::asm!(
                "sdot {acc:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
                acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b, lane = const LANE,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }
}

impl Dot for Sdot {
    rows_in_lanes!();

    const PEAK: PeakLoop = peak::SDOT;

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

/// With `smmla`, which multiplies two rows of 8 with two rows of 8; its intrinsic is not stable yet.
pub(super) struct Smmla;

impl Smmla {
    /// Adds the products of `a[0..8]` and `a[8..16]` with `b[0..8]` and `b[8..16]`: lanes a₀b₀, a₀b₁, a₁b₀, a₁b₁.
    ///
    /// # Safety
    /// The CPU must have the i8mm extension.
    #[inline(always)]
    unsafe fn products(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller promises the i8mm extension; registers in, one register changed.
        unsafe {
            std::arch::asm!(
                "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b",
                acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }
}

impl Dot for Smmla {
    const PEAK: PeakLoop = peak::SMMLA;

    const STEP: usize = 8;

    /// `sums[p][q]` holds tokens `2p`, `2p + 1` times rows `2q`, `2q + 1`, a token in each half. `N / 2` pairs, rounded
    /// up, are in use; the last of an odd number of tokens is multiplied twice and read once.
    type Sums<const N: usize> = [[int32x4_t; MR / 2]; N];

    /// One token has nothing to pair with: a dot product per lane is the better instruction.
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the table that uses this type is there only where dotprod is, too.
        unsafe { Sdot::dot(acc, a, b) }
    }

    #[inline(always)]
    fn zero<const N: usize>() -> Self::Sums<N> {
        // SAFETY: NEON is part of every AArch64 target.
        [[unsafe { vdupq_n_s32(0) }; MR / 2]; N]
    }

    #[inline(always)]
    unsafe fn sums<const N: usize>(w: *const i8, y: [*const i8; N], len: usize) -> Self::Sums<N> {
        let mut sums = Self::zero::<N>();
        for step in 0..len / 8 {
            // SAFETY: steps below `len / 8` lie inside what the caller promises, as do the instructions.
            unsafe {
                let w = w.add(8 * MR * step);
                let w: [int8x16_t; MR / 2] = std::array::from_fn(|q| vld1q_s8(w.add(16 * q)));
                for p in 0..N.div_ceil(2) {
                    let pair = [y[2 * p], y[(2 * p + 1).min(N - 1)]];
                    let y = pair.map(|y| vld1_s8(y.add(8 * step)));
                    let y = vcombine_s8(y[0], y[1]);
                    for q in 0..MR / 2 {
                        sums[p][q] = Self::products(sums[p][q], y, w[q]);
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn scaled<const N: usize>(
        mut total: Self::Sums<N>,
        sum: Self::Sums<N>,
        scales: *const i32,
    ) -> Self::Sums<N> {
        for q in 0..MR / 2 {
            // SAFETY: promised by the caller.
            unsafe {
                let scale = vld1_s32(scales.add(2 * q));
                let scale = vcombine_s32(scale, scale);
                for p in 0..N.div_ceil(2) {
                    total[p][q] = vmlaq_s32(total[p][q], sum[p][q], scale);
                }
            }
        }
        total
    }

    #[inline(always)]
    fn rows<const N: usize>(sums: Self::Sums<N>) -> Rows<N> {
        std::array::from_fn(|c| {
            std::array::from_fn(|h| {
                let (a, b) = (sums[c / 2][2 * h], sums[c / 2][2 * h + 1]);
                // SAFETY: NEON is part of every AArch64 target.
                unsafe {
                    if c % 2 == 0 {
                        vcombine_s32(vget_low_s32(a), vget_low_s32(b))
                    } else {
                        vcombine_s32(vget_high_s32(a), vget_high_s32(b))
                    }
                }
            })
        })
    }
}
