//! What a storage format has to say about itself.

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

    /// Quantises one row into `out`; `W` is the number of f32 lanes the caller's instruction set has. The bytes do
    /// not depend on `W`.
    fn quantize_row<const W: usize>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

    /// Expands one row.
    fn dequantize_row(bytes: &[u8], out: &mut [f32]);
}

/// Checks the arguments of a row quantisation.
///
/// # Errors
/// See [`GgmlType::quantize_row`].
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

/// Finds the first value that is NaN or infinite.
///
/// # Errors
/// [`QuantError::NotFinite`] with its index.
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
