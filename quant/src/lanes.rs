//! SIMD lanes as the searches see them.
//!
//! A search runs on many groups of weights at once, one group per lane, so that each group's sums keep the order
//! that the stored bytes depend on. The searches are written once, against [`Simd`] and [`Lanes`]; an instruction set
//! implements both in the kernels crate. [`Portable`] here is the plain-array implementation: the oracle for the
//! others and the code for machines without one.
//!
//! Every operation is one correctly rounded IEEE f32 operation per lane. Nothing is fused and nothing re-associated,
//! so the lane count cannot change a result.

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

use crate::search::simple::fifth_bits;

/// The most lanes any implementation has; sizes of scratch buffers follow from it.
pub const MAX_LANES: usize = 16;

/// The number that turns `x + MAGIC` into "x rounded to the nearest integer" in the low mantissa bits.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// Proof that an instruction set is there, and the source of its vectors.
pub trait Simd: Copy {
    /// A vector of f32.
    type F: Lanes;
    /// Lanes of a vector: a power of two, at most [`MAX_LANES`].
    const W: usize;

    /// Runs `task` as a function of its own, compiled for this instruction set.
    ///
    /// Everything else about a format is inlined into one function per instruction set. A search is large and shared
    /// by several formats, so it is worth a call.
    fn run<T: Task<Self>>(self, task: T) -> T::Output;

    /// The same value in every lane.
    fn splat(self, value: f32) -> Self::F;

    /// The first [`Simd::W`] values of `values`; missing ones are zero.
    fn load(self, values: &[f32]) -> Self::F;

    /// Transposes groups of `N` consecutive values: lane `g` of vector `i` is `values[g·N + i]`, zero past the end.
    #[inline(always)]
    fn load_groups<const N: usize>(self, values: &[f32]) -> [Self::F; N] {
        self.run(LoadGroups(values))
    }

    /// The low bytes of 32 integers. An operation, because compilers make one instruction per byte out of the loop.
    #[inline(always)]
    fn low_bytes(self, values: &[i32; 32]) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        for (byte, value) in bytes.iter_mut().zip(values) {
            *byte = *value as u8;
        }
        bytes
    }

    /// Bit 4 of 32 bytes: bit j of the result belongs to byte j.
    #[inline(always)]
    fn fifth_bits(self, bytes: &[u8; 32]) -> [u8; 4] {
        fifth_bits(bytes)
    }
}

/// A piece of work for [`Simd::run`]. Implementations mark [`Task::run`] `#[inline(always)]`.
pub trait Task<S: Simd> {
    /// What comes out.
    type Output;

    /// Does the work.
    fn run(self, s: S) -> Self::Output;
}

/// The work of [`Simd::load_groups`].
struct LoadGroups<'a, const N: usize>(&'a [f32]);

impl<S: Simd, const N: usize> Task<S> for LoadGroups<'_, N> {
    type Output = [S::F; N];

    #[inline(always)]
    fn run(self, s: S) -> [S::F; N] {
        let mut columns = [[0f32; MAX_LANES]; N];
        for (g, group) in self.0.as_chunks::<N>().0.iter().take(S::W).enumerate() {
            for (column, value) in columns.iter_mut().zip(group) {
                column[g] = *value;
            }
        }
        let mut out = [s.splat(0.0); N];
        for (out, column) in out.iter_mut().zip(&columns) {
            *out = s.load(column);
        }
        out
    }
}

/// A vector of f32, one lane per group of weights.
pub trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// One truth value per lane.
    type Mask: Mask;

    /// Writes the lanes to the front of `out`, as many as fit.
    fn store(self, out: &mut [f32]);
    /// Writes the lanes without their fractions to the front of `out`, as many as fit: [`truncate`] of each.
    fn store_truncated(self, out: &mut [i32]);
    /// Absolute value.
    fn abs(self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// `self > other ? self : other`, hence `other` when either is NaN.
    fn max(self, other: Self) -> Self;
    /// `self < other ? self : other`, hence `other` when either is NaN.
    fn min(self, other: Self) -> Self;
    /// `self < other`, false for NaN.
    fn lt(self, other: Self) -> Self::Mask;
    /// `self == other`, false for NaN.
    fn eq(self, other: Self) -> Self::Mask;
    /// Lane by lane, `yes` where `mask` holds, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// The nearest integer as [`nearest`] defines it, also where that wraps.
    fn nearest(self) -> Self;

    /// `self > other`, false for NaN.
    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        other.lt(self)
    }
}

/// One truth value per lane.
pub trait Mask: Copy + BitAnd<Output = Self> + BitOr<Output = Self> + Not<Output = Self> {
    /// Whether it holds in any lane.
    fn any(self) -> bool;

    /// Whether it holds in every lane.
    #[inline(always)]
    fn all(self) -> bool {
        !(!self).any()
    }
}

/// `x` rounded to the nearest integer, ties to even, for |x| < 2^22.
///
/// The integer is read out of the mantissa of `x + 1.5·2^23`. Beyond 2^22, and for infinities and NaN, what is
/// read there is no longer the nearest integer but still well defined; the reference quantiser does the same, so
/// that even absurd weights yield the same bytes.
#[inline(always)]
#[must_use]
pub fn nearest(x: f32) -> i32 {
    ((x + MAGIC).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// `v` without its fraction; `i32::MIN` where that does not fit or `v` is NaN.
///
/// Blocks of denormals have infinite inverse scales, so this happens; the reference quantiser's conversion
/// instruction answers the same, of which the formats then store the low byte, 0.
#[inline(always)]
#[must_use]
pub fn truncate(v: f32) -> i32 {
    if v.abs() < 2_147_483_648.0 { v as i32 } else { i32::MIN }
}

/// `W` lanes in an array.
#[derive(Debug, Clone, Copy)]
pub struct Portable<const W: usize>;

/// Vector of [`Portable`].
#[derive(Debug, Clone, Copy)]
pub struct Array<const W: usize>([f32; W]);

/// Mask of [`Portable`]: all bits set, or none, so that a selection is three bit operations.
#[derive(Debug, Clone, Copy)]
pub struct ArrayMask<const W: usize>([u32; W]);

impl<const W: usize> Simd for Portable<W> {
    type F = Array<W>;
    const W: usize = W;

    #[inline(never)]
    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        task.run(self)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Array<W> {
        Array([value; W])
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> Array<W> {
        let mut lanes = [0f32; W];
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = *value;
        }
        Array(lanes)
    }
}

impl<const W: usize> Array<W> {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (a, b) in out.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
        Self(out)
    }

    #[inline(always)]
    fn test(self, other: Self, f: impl Fn(f32, f32) -> bool) -> ArrayMask<W> {
        let mut out = [0u32; W];
        for ((m, a), b) in out.iter_mut().zip(self.0).zip(other.0) {
            *m = if f(a, b) { u32::MAX } else { 0 };
        }
        ArrayMask(out)
    }
}

impl<const W: usize> Lanes for Array<W> {
    type Mask = ArrayMask<W>;

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        for (slot, lane) in out.iter_mut().zip(self.0) {
            *slot = lane;
        }
    }

    #[inline(always)]
    fn store_truncated(self, out: &mut [i32]) {
        for (slot, lane) in out.iter_mut().zip(self.0) {
            *slot = truncate(lane);
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> ArrayMask<W> {
        self.test(other, |a, b| a < b)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> ArrayMask<W> {
        self.test(other, |a, b| a == b)
    }

    #[inline(always)]
    fn select(mask: ArrayMask<W>, yes: Self, no: Self) -> Self {
        let mut out = no.0;
        for ((slot, m), y) in out.iter_mut().zip(mask.0).zip(yes.0) {
            *slot = f32::from_bits((y.to_bits() & m) | (slot.to_bits() & !m));
        }
        Self(out)
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        Self(self.0.map(|x| nearest(x) as f32))
    }
}

impl<const W: usize> Mask for ArrayMask<W> {
    #[inline(always)]
    fn any(self) -> bool {
        self.0.iter().fold(0, |any, m| any | m) != 0
    }
}

/// Implements the operators of the array types lane by lane.
macro_rules! lane_operators {
    ($($trait:ident $method:ident $op:tt),+) => {$(
        impl<const W: usize> $trait for Array<W> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.zip(other, |a, b| a $op b)
            }
        }
    )+};
}
lane_operators!(Add add +, Sub sub -, Mul mul *, Div div /);

impl<const W: usize> Neg for Array<W> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(self.0.map(|x| -x))
    }
}

impl<const W: usize> BitAnd for ArrayMask<W> {
    type Output = Self;
    #[inline(always)]
    fn bitand(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a &= b;
        }
        self
    }
}

impl<const W: usize> BitOr for ArrayMask<W> {
    type Output = Self;
    #[inline(always)]
    fn bitor(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a |= b;
        }
        self
    }
}

impl<const W: usize> Not for ArrayMask<W> {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        Self(self.0.map(|m| !m))
    }
}
