//! Float matrices as rows of Q8_0, for the fast mode.
//!
//! Vision files hold F16, BF16 or F32 matrices, whose products would run in f32. Made once, when the first fast encoder
//! starts: the matrices of MiniCPM-V 4.0 take 0.4 GB then, and are read instead of the 0.8 GB of the mapped ones.
//! Rows that do not divide into blocks (4304) get zeros behind them; so do the activations they meet.

use ocelli_kernels::quantize::RowCodec;
use ocelli_quant::GgmlType;

use super::VisionError;
use super::engine::Stored;
use crate::weights::{Matrix, Weights};
use crate::{RuntimeError, memory};

/// The format of the rows: 32 codes of 8 bits and a scale.
pub(super) const FORMAT: GgmlType = GgmlType::Q8_0;

/// Rows per matrix, where it has such a form.
#[derive(Debug)]
pub(crate) struct Int8 {
    matrices: Vec<Option<Vec<u8>>>,
}

impl Int8 {
    /// Makes the forms of all matrices that are to have one.
    pub(super) fn new(weights: &Weights, stored: &[Stored], n_threads: usize) -> Result<Self, RuntimeError> {
        let size = |s: &Stored| if wanted(s) { s.matrix.rows().checked_mul(row_bytes(&s.matrix)) } else { Some(0) };
        let total = stored.iter().try_fold(0usize, |sum, s| sum.checked_add(size(s)?));
        memory::check("the 8-bit form of the vision weights", total.map(|n| n as u64))?;
        let matrices =
            stored.iter().map(|s| if wanted(s) { quantized(weights, s, n_threads).map(Some) } else { Ok(None) });
        Ok(Self { matrices: matrices.collect::<Result<_, _>>()? })
    }

    /// The rows of matrix number `slot`.
    pub(super) fn rows(&self, slot: usize) -> Option<&[u8]> {
        self.matrices.get(slot)?.as_deref()
    }
}

fn wanted(stored: &Stored) -> bool {
    stored.int8 && !stored.matrix.ty().is_quantized()
}

/// Columns with the zeros behind them.
pub(super) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(FORMAT.block_len())
}

fn row_bytes(matrix: &Matrix) -> usize {
    padded(matrix.cols()) / FORMAT.block_len() * FORMAT.block_bytes()
}

/// All rows of one matrix, cut evenly over threads.
fn quantized(weights: &Weights, stored: &Stored, n_threads: usize) -> Result<Vec<u8>, RuntimeError> {
    let (matrix, out_row) = (&stored.matrix, row_bytes(&stored.matrix));
    let mut out = vec![0u8; matrix.rows() * out_row];
    let per = matrix.rows().div_ceil(n_threads.max(1)).max(1);
    let work = |first: usize, out: &mut [u8]| -> Result<(), VisionError> {
        let codec = RowCodec::best();
        let mut row = vec![0f32; padded(matrix.cols())];
        let problem =
            |e: ocelli_quant::QuantError| VisionError::Weights { name: stored.name.clone(), problem: e.to_string() };
        for (i, out) in out.chunks_exact_mut(out_row).enumerate() {
            let (values, _) = row.split_at_mut(matrix.cols());
            codec.dequantize_row(matrix.ty(), weights.row(matrix, first + i), values).map_err(problem)?;
            codec.quantize_row(FORMAT, &row, None, out).map_err(problem)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = out
            .chunks_mut(per * out_row)
            .enumerate()
            .map(|(i, piece)| scope.spawn(move || work(i * per, piece)))
            .collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(out)
}
