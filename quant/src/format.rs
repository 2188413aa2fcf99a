//! What a storage format has to say about itself.

use crate::lanes::Simd;
use crate::{GgmlType, QuantError};

/// One storage format. Implementations live in [`crate::formats`], one file each.
///
/// The row functions trust their caller about lengths (they are reached through [`GgmlType`], which checks them) and
/// must be `#[inline(always)]` with everything they call, so that wrappers compiled for a wider instruction set
/// vectorise the same source.
pub trait Format {
    /// The type code stored in GGUF files.
    const ID: u32;
    /// The spelling used by GGUF tools.
    const NAME: &'static str;
    /// Weights in one block.
    const BLOCK_LEN: usize;
    /// Bytes of one block.
    const BLOCK_BYTES: usize;
    /// Whether weights are stored as integer codes with scales.
    const QUANTIZED: bool = true;

    /// Offsets of a block's f16 scales (for F16, of the value itself).
    const SCALES: &'static [usize];

    /// Quantises one row into `out` with the vectors of `S`. The bytes do not depend on `S`.
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

    /// Expands one row.
    fn dequantize_row(bytes: &[u8], out: &mut [f32]);

    /// The first block with a scale that is not finite: its weights were too large for the format.
    #[inline(always)]
    fn first_overflow(bytes: &[u8]) -> Option<usize> {
        let overflowed = |block: &[u8]| {
            Self::SCALES
                .iter()
                .fold(false, |any, at| any | (u16::from_le_bytes([block[*at], block[*at + 1]]) & 0x7c00 == 0x7c00))
        };
        // Without an early exit the scan vectorises; the block is looked up only on failure.
        let any = bytes.chunks_exact(Self::BLOCK_BYTES).fold(false, |any, block| any | overflowed(block));
        if any { bytes.chunks_exact(Self::BLOCK_BYTES).position(overflowed) } else { None }
    }
}

/// Quantises one row whose arguments have been checked, and checks the scales.
///
/// # Errors
/// [`QuantError::Overflow`] when a scale is not finite. `out` is written nevertheless.
#[inline(always)]
pub fn quantize_checked<F: Format, S: Simd>(
    s: S,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantError> {
    F::quantize_row(s, row, importance, out);
    match F::first_overflow(out) {
        None => Ok(()),
        Some(block) => Err(QuantError::Overflow { format: F::NAME, index: block * F::BLOCK_LEN }),
    }
}

/// Checks the arguments of a row quantisation.
///
/// # Errors
/// See [`GgmlType::quantize_row`].
#[inline(always)]
pub fn check_quantize(ty: GgmlType, row: &[f32], importance: Option<&[f32]>, out: &[u8]) -> Result<(), QuantError> {
    let want = ty.row_bytes(row.len())?;
    if out.len() != want {
        return Err(QuantError::ByteLength { format: ty.name(), want, got: out.len() });
    }
    if let Some(imp) = importance {
        if imp.len() != row.len() {
            return Err(QuantError::ImportanceLength { want: row.len(), got: imp.len() });
        }
        check_finite(imp)?;
    }
    check_finite(row)
}

/// Checks the arguments of an expansion.
///
/// # Errors
/// See [`GgmlType::dequantize_row`].
pub fn check_dequantize(ty: GgmlType, bytes: &[u8], out: &[f32]) -> Result<(), QuantError> {
    let want = ty.row_bytes(out.len())?;
    if bytes.len() != want {
        return Err(QuantError::ByteLength { format: ty.name(), want, got: bytes.len() });
    }
    Ok(())
}

/// Finds the first value that is NaN or infinite.
///
/// # Errors
/// [`QuantError::NotFinite`] with its index.
#[inline(always)]
pub fn check_finite(values: &[f32]) -> Result<(), QuantError> {
    // The fold has no early exit and therefore vectorises; the index is looked up only on failure.
    let bad = values.iter().fold(0u32, |bad, v| bad | u32::from(v.to_bits() & 0x7f80_0000 == 0x7f80_0000));
    if bad != 0
        && let Some(index) = values.iter().position(|v| !v.is_finite())
    {
        return Err(QuantError::NotFinite { index, value: values[index] });
    }
    Ok(())
}
