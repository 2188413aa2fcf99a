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

/// A byte in every byte of a word. The functions below work on 8 codes at a time in plain words: quick everywhere, and
/// compilers join neighbouring words to vectors more reliably than they vectorise loops over bytes.
const fn each(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

/// `codes = f(codes, qs)` in words of 8.
#[inline(always)]
fn zip_words<const N: usize>(codes: &mut [u8; N], qs: &[u8; N], f: impl Fn(u64, u64) -> u64) {
    for (code, q) in codes.as_chunks_mut::<8>().0.iter_mut().zip(qs.as_chunks::<8>().0) {
        *code = f(u64::from_le_bytes(*code), u64::from_le_bytes(*q)).to_le_bytes();
    }
}

/// The low nibbles of 16 bytes, then their high nibbles.
#[inline(always)]
pub(crate) fn unpack_halves(qs: &[u8], codes: &mut [u8; 32]) {
    if let (Some(qs), [low, high]) = (qs.first_chunk::<16>(), codes.as_chunks_mut::<16>().0) {
        zip_words(low, qs, |_, q| q & each(15));
        zip_words(high, qs, |_, q| q >> 4 & each(15));
    }
}

/// The nibbles of Q4_K and Q5_K: 32 bytes hold one group of 32 in their low nibbles and the next in the high ones.
#[inline(always)]
pub(crate) fn unpack_groups(qs: &[u8], codes: &mut [u8; 256]) {
    for (codes, qs) in codes.as_chunks_mut::<64>().0.iter_mut().zip(qs.as_chunks::<32>().0) {
        if let [low, high] = codes.as_chunks_mut::<32>().0 {
            zip_words(low, qs, |_, q| q & each(15));
            zip_words(high, qs, |_, q| q >> 4 & each(15));
        }
    }
}

/// Sets bit `to` in the codes of group g where bit g of the corresponding byte is set.
#[inline(always)]
pub(crate) fn add_plane(bits: &[u8; 32], to: u32, codes: &mut [u8; 256]) {
    for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        zip_words(codes, bits, |code, bits| code | (bits >> g & each(1)) << to);
    }
}

/// The 2-bit codes of Q2_K and Q3_K: bits 2g of the 32 bytes of a half are group g of that half.
#[inline(always)]
pub(crate) fn unpack_pairs(qs: &[u8], codes: &mut [u8; 256]) {
    for (codes, qs) in codes.as_chunks_mut::<128>().0.iter_mut().zip(qs.as_chunks::<32>().0) {
        for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            zip_words(codes, qs, |_, q| q >> (2 * g) & each(3));
        }
    }
}

/// Sets bit 4 of code j where bit j is set.
#[inline(always)]
pub(crate) fn add_fifth(bits: &[u8], codes: &mut [u8; 32]) {
    for (codes, bits) in codes.as_chunks_mut::<8>().0.iter_mut().zip(bits) {
        // Bit j in byte j; adding 0x7f carries any of them but the highest into bit 7, which is moved to bit 4.
        let picked = (u64::from(*bits) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let carried = (picked & 0x7f7f_7f7f_7f7f_7f7f) + 0x7f7f_7f7f_7f7f_7f7f;
        let set = (carried | picked) & 0x8080_8080_8080_8080;
        *codes = (u64::from_le_bytes(*codes) | (set >> 3)).to_le_bytes();
    }
}
