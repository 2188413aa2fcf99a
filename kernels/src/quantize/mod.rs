//! Row quantisation and expansion compiled for the widest instruction set of the machine.
//!
//! `ocelli-quant` writes each format once, against lanes ([`ocelli_quant::lanes`]). Here the lanes become vector
//! registers: one [`RowCodec`] per instruction set, made from the list of formats, so that a format gains every
//! instruction set the day it is registered. All codecs give the same bytes.
//!
//! On x86 rows are expanded by the codes that the products make in registers, and what needs no search has functions of its
//! own with AVX-512.

use std::sync::OnceLock;

use ocelli_quant::{GgmlType, QuantError};

use crate::error::KernelError;
use crate::select::Kernels;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod edge_tests;
#[cfg(target_arch = "x86_64")]
mod rows512;
#[cfg(test)]
mod tests;

type Quantize = fn(GgmlType, &[f32], Option<&[f32]>, &mut [u8]) -> Result<(), QuantError>;
type Dequantize = fn(GgmlType, &[u8], &mut [f32]) -> Result<(), QuantError>;

/// Quantiser and dequantiser of one instruction set. Holding one means that the machine has it.
#[derive(Debug)]
pub struct RowCodec {
    name: &'static str,
    quantize: Quantize,
    dequantize: Dequantize,
}

impl RowCodec {
    /// The codecs this machine can run, best first; the portable one is always there.
    #[must_use]
    pub fn available() -> &'static [RowCodec] {
        static AVAILABLE: OnceLock<Vec<RowCodec>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let portable =
                RowCodec { name: "portable", quantize: GgmlType::quantize_row, dequantize: GgmlType::dequantize_row };
            #[cfg(target_arch = "x86_64")]
            let candidates = [avx512::codec(), avx2::codec(), Some(portable)];
            #[cfg(not(target_arch = "x86_64"))]
            let candidates = [Some(portable)];
            candidates.into_iter().flatten().collect()
        })
    }

    /// The best codec of this machine.
    #[must_use]
    pub fn best() -> &'static RowCodec {
        // `available` ends with the portable codec, so there is a first one.
        &Self::available()[0]
    }

    /// The codec that goes with a table of kernels: the widest that needs no more than the table does.
    #[must_use]
    pub fn of(kernels: Kernels) -> &'static RowCodec {
        let names: &[&str] = match kernels.name() {
            "avx512vnni" => &["avx512", "avx2"],
            "avxvnni" | "avx2" => &["avx2"],
            _ => &[],
        };
        let all = Self::available();
        // The portable codec is the last, and always there.
        all.iter().find(|codec| names.contains(&codec.name)).unwrap_or(&all[all.len() - 1])
    }

    /// Name of the instruction set.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Quantises one row, with the same bytes as [`GgmlType::quantize_row`].
    ///
    /// # Errors
    /// As [`GgmlType::quantize_row`].
    pub fn quantize_row(
        &self,
        ty: GgmlType,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), QuantError> {
        (self.quantize)(ty, row, importance, out)
    }

    /// Expands one row, to the same values as [`GgmlType::dequantize_row`].
    ///
    /// # Errors
    /// As [`GgmlType::dequantize_row`].
    pub fn dequantize_row(&self, ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
        (self.dequantize)(ty, bytes, out)
    }
}

/// Quantises one row to Q8_0 with the same scale for every two blocks, as [`crate::WeightRef::in_pairs`] takes it: 64 weights
/// share the scale of the largest.
///
/// # Errors
/// As [`GgmlType::quantize_row`] for Q8_0, and when the row is an odd number of blocks.
pub fn quantize_pairs(kernels: Kernels, row: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
    if !row.len().is_multiple_of(64) {
        return Err(KernelError::Multiple { what: "row of blocks in pairs", got: row.len(), of: 64 });
    }
    // SAFETY: the function writes no more than there is of either; the table's features were detected.
    let fine = unsafe { (kernels.table.q8_pairs)(row, out) } && out.len() == GgmlType::Q8_0.row_bytes(row.len())?;
    // What is wrong, plain blocks say.
    if fine { Ok(()) } else { Ok(RowCodec::of(kernels).quantize_row(GgmlType::Q8_0, row, None, out)?) }
}
