//! How stored blocks become what kernels compute with.
//!
//! Storage formats are many, compute layouts are few. A format says in its own file how one of its blocks turns into
//! one [`Unit`]; kernels know the units only, so that a new format runs on every instruction set at once.
//!
//! | unit | weights | meaning | activations |
//! |---|---|---|---|
//! | [`SuperBlock`] | 256 | `x = d·scales[k]·q − dmin·mins[k]`, integer scales and mins per 16 | one scale per 256 |
//! | [`Block32`] | 32 | `x = d·q − min` | one scale per 32 |
//! | [`Unquantized`] | – | floats, expanded by [`Format::dequantize_row`] | f32 |

use crate::Format;

/// A super-block of 256 weights: `x[i] = d·scales[i/16]·codes[i] − dmin·mins[i/16]`.
///
/// Formats whose groups have 32 weights repeat each scale and min ([`Unpack::GROUP`] tells kernels so).
/// Codes are unsigned; a format with signed codes adds an offset and states it as a min.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub struct SuperBlock {
    /// Codes, at most [`Unpack::MAX_CODE`].
    pub codes: [u8; 256],
    /// Integer scales, −128…127.
    pub scales: [i16; 16],
    /// Integer mins, −4096…4096.
    pub mins: [i16; 16],
    /// Scale of the integer scales.
    pub d: f32,
    /// Scale of the integer mins.
    pub dmin: f32,
}

impl Default for SuperBlock {
    fn default() -> Self {
        Self { codes: [0; 256], scales: [0; 16], mins: [0; 16], d: 0.0, dmin: 0.0 }
    }
}

/// A block of 32 weights: `x = d·q − min`, with `q` a `u8`, or the bits of an `i8` where [`Unpack::SIGNED`].
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(32))]
pub struct Block32 {
    /// Codes, at most [`Unpack::MAX_CODE`] in magnitude.
    pub codes: [u8; 32],
    /// Scale.
    pub d: f32,
    /// Subtracted from every weight.
    pub min: f32,
}

/// No integer codes: kernels expand the weights to f32.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unquantized;

/// What one block unpacks to.
pub trait Unit: Default + Copy {
    /// Weights in a unit; 0 when there are no codes.
    const LEN: usize;
}

impl Unit for SuperBlock {
    const LEN: usize = 256;
}

impl Unit for Block32 {
    const LEN: usize = 32;
}

impl Unit for Unquantized {
    const LEN: usize = 0;
}

/// The compute side of a format.
pub trait Unpack: Format {
    /// The compute layout; where it has codes its length is [`Format::BLOCK_LEN`].
    type Unit: Unit;
    /// The largest code in magnitude. Kernels derive from it how many products fit 16 bits.
    const MAX_CODE: u8;
    /// Weights that share an integer scale: 16 or 32.
    const GROUP: usize;
    /// Whether codes are the bits of `i8`s.
    const SIGNED: bool;

    /// Unpacks one block of [`Format::BLOCK_BYTES`] bytes. Must be `#[inline(always)]`. A slice that is too short
    /// leaves `out` as it is; kernels check lengths once per call.
    fn unpack(block: &[u8], out: &mut Self::Unit);
}
