//! Float matrices as rows of Q8_0, for the fast mode.
//!
//! Vision files hold F16, BF16 or F32 matrices, whose products would run in f32. Made once, when the first fast encoder
//! starts: the matrices of MiniCPM-V 4.0 take 0.4 GB then, and are read instead of the 0.8 GB of the mapped ones.
//! Two blocks share a scale, which saves a third of what is not products, and rows that do not divide into blocks (4304)
//! get zeros behind them; so do the activations they meet. Columns that are
//! large in many rows would spoil the scales of the others: they are zeros here, and multiplied in f32 (see `outliers`).

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ocelli_kernels::quantize::{RowCodec, quantize_pairs};
use ocelli_kernels::{KernelError, Kernels, Pool, WeightRef};
use ocelli_quant::GgmlType;

use super::{Form, Linear, outliers};
use crate::RuntimeError;
use crate::memory::{self, Large};
use crate::weights::{Matrix, Weights};

/// The format of the rows: 32 codes of 8 bits and a scale, of which every two are the same.
pub(super) const FORMAT: GgmlType = GgmlType::Q8_0;

/// What a matrix is made into.
#[derive(Debug)]
struct Made {
    /// Where in all forms its rows lie.
    rows: Range<usize>,
    /// Columns that are zeros in those rows, ascending.
    without: Vec<u32>,
}

/// Rows per matrix, where it has such a form.
#[derive(Debug)]
pub(crate) struct Int8 {
    /// In the order of [`Weights::matrices`].
    matrices: Vec<Option<Made>>,
    /// The rows of all matrices, in one piece: with pages of 4 KiB, making them would take a hundred thousand page faults.
    bytes: Large,
}

impl Int8 {
    /// Makes the forms of all matrices that are to have one.
    pub(crate) fn new(weights: &Weights, forms: &[Form], kernels: Kernels, pool: &Pool) -> Result<Self, RuntimeError> {
        let stored = || weights.matrices().iter().zip(forms).map(|((_, matrix), form)| (matrix, wanted(matrix, *form)));
        let size = |(m, wanted): (&Matrix, bool)| if wanted { m.rows().checked_mul(row_bytes(m)) } else { Some(0) };
        let total = stored().try_fold(0usize, |sum, m| sum.checked_add(size(m)?));
        let what = "the 8-bit form of the vision weights";
        let remedy = "use --precision exact, which needs none";
        memory::check_or(what, total.map(|n| n as u64), remedy)?;
        let bytes = total.unwrap_or(usize::MAX);
        let no_memory = || memory::too_little(what.to_owned(), bytes as u64, remedy);
        let mut bytes = Large::new(bytes).ok_or_else(no_memory)?;
        let (mut matrices, mut at) = (Vec::with_capacity(forms.len()), 0);
        for (matrix, wanted) in stored() {
            let made = wanted.then(|| {
                let rows = at..at + matrix.rows() * row_bytes(matrix);
                at = rows.end;
                Made { rows, without: Vec::new() }
            });
            matrices.push(made);
        }
        let work = Work { weights, kernels, pool };
        let counts = work.quantize(&matrices, |_| true, &mut bytes)?;
        for ((made, counts), (matrix, _)) in matrices.iter_mut().zip(&counts).zip(stored()) {
            if let Some(made) = made {
                made.without = outliers::columns_of_weights(counts, matrix.rows());
            }
        }
        // Few are, and of trained weights only.
        work.quantize(&matrices, |made| !made.without.is_empty(), &mut bytes)?;
        Ok(Self { matrices, bytes })
    }

    /// What the matrix of `linear` was made into.
    fn made(&self, linear: &Linear) -> Option<&Made> {
        let Form::Int8(number) = linear.form else { return None };
        self.matrices.get(number)?.as_ref()
    }

    /// The rows made of the matrix of `linear`.
    pub(super) fn rows(&self, linear: &Linear) -> Option<&[u8]> {
        self.bytes.get(self.made(linear)?.rows.clone())
    }

    /// The columns that are zeros in those rows.
    pub(super) fn without(&self, linear: &Linear) -> &[u32] {
        self.made(linear).map_or(&[], |made| &made.without)
    }
}

fn wanted(matrix: &Matrix, form: Form) -> bool {
    matches!(form, Form::Int8(_)) && !matrix.ty().is_quantized()
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

/// Bytes of a form that a thread makes at a time.
const PIECE_BYTES: usize = 512 * 1024;

/// Some rows of a form.
struct Piece<'a> {
    slot: usize,
    first: usize,
    without: &'a [u32],
    out: &'a mut [u8],
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What forms are made of, and by whom.
struct Work<'a> {
    weights: &'a Weights,
    kernels: Kernels,
    pool: &'a Pool,
}

impl Work<'_> {
    /// The rows of all matrices whose form is `chosen`. Threads take pieces as they go, for memory that is new comes at
    /// uneven speed. Returns in how many of its rows each column of a matrix is an outlier.
    fn quantize(
        &self,
        forms: &[Option<Made>],
        chosen: impl Fn(&Made) -> bool,
        bytes: &mut [u8],
    ) -> Result<Vec<Vec<u32>>, RuntimeError> {
        let mut pieces = Vec::new();
        let (mut rest, mut at) = (bytes, 0);
        for (slot, (made, (_, matrix))) in forms.iter().zip(self.weights.matrices()).enumerate() {
            let Some(made) = made.as_ref().filter(|made| chosen(made)) else { continue };
            let (rows, behind) = std::mem::take(&mut rest)[made.rows.start - at..].split_at_mut(made.rows.len());
            (rest, at) = (behind, made.rows.end);
            let row = row_bytes(matrix);
            let per = (PIECE_BYTES / row).max(1);
            let cut = rows.chunks_mut(per * row).enumerate();
            let piece = |(i, out)| Mutex::new(Some(Piece { slot, first: i * per, without: &made.without, out }));
            pieces.extend(cut.map(piece));
        }
        let counts: Vec<_> = self.weights.matrices().iter().map(|(_, m)| Mutex::new(vec![0u32; m.cols()])).collect();
        let failed: Mutex<Option<RuntimeError>> = Mutex::new(None);
        self.pool.for_each(pieces.len(), |number, _| {
            let Some(piece) = lock(&pieces[number]).take() else { return };
            let slot = piece.slot;
            match self.piece(piece) {
                Ok(found) => lock(&counts[slot]).iter_mut().zip(found).for_each(|(sum, n)| *sum += n),
                Err(error) => drop(lock(&failed).get_or_insert(error)),
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        Ok(counts.into_iter().map(|counts| counts.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    /// Rows from `first` on, without some columns. Returns in how many of them each column is an outlier.
    fn piece(&self, piece: Piece<'_>) -> Result<Vec<u32>, RuntimeError> {
        let (name, matrix) = &self.weights.matrices()[piece.slot];
        let problem = |e: KernelError| RuntimeError::NoInt8 { name: name.clone(), problem: e.to_string() };
        let codec = RowCodec::of(self.kernels);
        let mut row = vec![0f32; padded(matrix.cols())];
        let mut counts = vec![0u32; matrix.cols()];
        for (out, i) in piece.out.chunks_exact_mut(row_bytes(matrix)).zip(piece.first..) {
            // What is computed of a row takes as long as the next one takes to come.
            if i + 1 < matrix.rows() {
                ocelli_kernels::fetch(self.weights.row(matrix, i + 1));
            }
            let (values, _) = row.split_at_mut(matrix.cols());
            codec.dequantize_row(matrix.ty(), self.weights.row(matrix, i), values).map_err(|e| problem(e.into()))?;
            outliers::count(self.kernels, values, &mut counts);
            for column in piece.without {
                values[*column as usize] = 0.0;
            }
            if in_pairs(matrix.cols()) {
                quantize_pairs(self.kernels, &row, out).map_err(problem)?;
            } else {
                codec.quantize_row(FORMAT, &row, None, out).map_err(|e| problem(e.into()))?;
            }
        }
        Ok(counts)
    }
}
