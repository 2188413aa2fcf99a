//! Row quantisation compiled for the widest instruction set of the machine.

use ocelli_quant::{GgmlType, QuantError};

/// Quantises one row, with the same bytes as [`GgmlType::quantize_row`] whatever the machine.
///
/// # Errors
/// As [`GgmlType::quantize_row`].
pub fn quantize_row(ty: GgmlType, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) -> Result<(), QuantError> {
    ty.quantize_row(row, importance, out)
}
