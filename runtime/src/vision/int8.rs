//! Float matrices as rows of Q8_0, for the fast mode.
//!
//! Vision files hold F16, BF16 or F32 matrices, whose products would run in f32. Made once, when the first fast encoder
//! starts: the matrices of MiniCPM-V 4.0 take 0.4 GB then, and are read instead of the 0.8 GB of the mapped ones.
//! Two blocks share a scale, which saves a third of what is not products, and rows that do not divide into blocks (4304)
//! get zeros behind them; so do the activations they meet. Columns that are
//! large in many rows would spoil the scales of the others: they are zeros here, and multiplied in f32 (see `outliers`).

use std::ops::Range;

use ocelli_kernels::quantize::{RowCodec, quantize_pairs};
use ocelli_kernels::{KernelError, Kernels, WeightRef};
use ocelli_quant::GgmlType;

use super::VisionError;
use super::engine::Stored;
use super::outliers;
use crate::RuntimeError;
use crate::memory::{self, Large};
use crate::weights::{Matrix, Weights};

/// The format of the rows: 32 codes of 8 bits and a scale, of which every two are the same.
pub(super) const FORMAT: GgmlType = GgmlType::Q8_0;

/// What a matrix is made into.
#[derive(Debug)]
struct Form {
    /// Where in all forms its rows lie.
    rows: Range<usize>,
    /// Columns that are zeros in those rows, ascending.
    without: Vec<u32>,
}

/// Rows per matrix, where it has such a form.
#[derive(Debug)]
pub(crate) struct Int8 {
    matrices: Vec<Option<Form>>,
    /// The rows of all matrices, in one piece: with pages of 4 KiB, making them would take a hundred thousand page faults.
    bytes: Large,
}

impl Int8 {
    /// Makes the forms of all matrices that are to have one.
    pub(super) fn new(
        weights: &Weights,
        stored: &[Stored],
        kernels: Kernels,
        n_threads: usize,
    ) -> Result<Self, RuntimeError> {
        let size = |s: &Stored| if wanted(s) { s.matrix.rows().checked_mul(row_bytes(&s.matrix)) } else { Some(0) };
        let total = stored.iter().try_fold(0usize, |sum, s| sum.checked_add(size(s)?));
        let what = "the 8-bit form of the vision weights";
        memory::check_or(what, total.map(|n| n as u64), "use --precision exact, which needs none")?;
        let bytes = total.unwrap_or(usize::MAX);
        let no_memory = || RuntimeError::NoMemory {
            what: what.to_owned(),
            bytes: bytes as u64,
            remedy: "use --precision exact, which needs none",
        };
        let mut bytes = Large::new(bytes).ok_or_else(no_memory)?;
        let (mut matrices, mut at) = (Vec::with_capacity(stored.len()), 0);
        for s in stored {
            if !wanted(s) {
                matrices.push(None);
                continue;
            }
            let rows = at..at + s.matrix.rows() * row_bytes(&s.matrix);
            at = rows.end;
            let without = form(weights, s, kernels, n_threads, &mut bytes[rows.clone()])?;
            matrices.push(Some(Form { rows, without }));
        }
        Ok(Self { matrices, bytes })
    }

    /// The rows of matrix number `slot`.
    pub(super) fn rows(&self, slot: usize) -> Option<&[u8]> {
        self.bytes.get(self.matrices.get(slot)?.as_ref()?.rows.clone())
    }

    /// The columns that are zeros in those rows.
    pub(super) fn without(&self, slot: usize) -> &[u32] {
        self.matrices.get(slot).and_then(|form| form.as_ref()).map_or(&[], |form| &form.without)
    }
}

fn wanted(stored: &Stored) -> bool {
    stored.int8 && !stored.matrix.ty().is_quantized()
}

/// The rows of a form as they are multiplied.
pub(super) fn view<'a>(matrix: &Matrix, rows: &'a [u8]) -> Result<WeightRef<'a>, KernelError> {
    let cols = padded(matrix.cols());
    if in_pairs(matrix.cols()) {
        WeightRef::in_pairs(rows, matrix.rows(), cols)
    } else {
        WeightRef::new(FORMAT, rows, matrix.rows(), cols)
    }
}

/// Columns with the zeros behind them.
pub(super) fn padded(cols: usize) -> usize {
    // Other matrices that read the same rows may be stored in such blocks, an odd number of them.
    if cols.is_multiple_of(FORMAT.block_len()) { cols } else { cols.next_multiple_of(2 * FORMAT.block_len()) }
}

/// Whether every two blocks share a scale.
pub(super) fn in_pairs(cols: usize) -> bool {
    padded(cols).is_multiple_of(2 * FORMAT.block_len())
}

fn row_bytes(matrix: &Matrix) -> usize {
    padded(matrix.cols()) / FORMAT.block_len() * FORMAT.block_bytes()
}

/// Makes the rows of one matrix; returns the columns that are zeros in them.
fn form(
    weights: &Weights,
    stored: &Stored,
    kernels: Kernels,
    n_threads: usize,
    rows: &mut [u8],
) -> Result<Vec<u32>, RuntimeError> {
    let counts = quantize(weights, stored, kernels, n_threads, &[], rows)?;
    let without = outliers::columns_of_weights(&counts, stored.matrix.rows());
    if !without.is_empty() {
        quantize(weights, stored, kernels, n_threads, &without, rows)?;
    }
    Ok(without)
}

/// All rows of one matrix without some columns, cut evenly over threads; returns in how many rows each column is an
/// outlier.
fn quantize(
    weights: &Weights,
    stored: &Stored,
    kernels: Kernels,
    n_threads: usize,
    without: &[u32],
    out: &mut [u8],
) -> Result<Vec<u32>, RuntimeError> {
    let (matrix, out_row) = (&stored.matrix, row_bytes(&stored.matrix));
    let per = matrix.rows().div_ceil(n_threads.max(1)).max(1);
    let work = |first: usize, out: &mut [u8]| -> Result<Vec<u32>, VisionError> {
        let codec = RowCodec::best();
        let mut row = vec![0f32; padded(matrix.cols())];
        let mut counts = vec![0u32; matrix.cols()];
        let problem = |e: KernelError| VisionError::Weights { name: stored.name.clone(), problem: e.to_string() };
        let pairs = in_pairs(matrix.cols());
        for (i, out) in out.chunks_exact_mut(out_row).enumerate() {
            let (values, _) = row.split_at_mut(matrix.cols());
            codec.dequantize_row(matrix.ty(), weights.row(matrix, first + i), values).map_err(|e| problem(e.into()))?;
            outliers::count(kernels, values, &mut counts);
            for column in without {
                values[*column as usize] = 0.0;
            }
            if pairs {
                quantize_pairs(kernels, &row, out).map_err(problem)?;
            } else {
                codec.quantize_row(FORMAT, &row, None, out).map_err(|e| problem(e.into()))?;
            }
        }
        Ok(counts)
    };
    let mut total = vec![0u32; matrix.cols()];
    std::thread::scope(|scope| {
        let threads: Vec<_> = out
            .chunks_mut(per * out_row)
            .enumerate()
            .map(|(i, piece)| scope.spawn(move || work(i * per, piece)))
            .collect();
        threads.into_iter().try_for_each(|t| {
            let counts = t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            total.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
            Ok::<_, VisionError>(())
        })
    })?;
    Ok(total)
}
