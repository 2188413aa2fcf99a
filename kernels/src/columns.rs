//! Products with a few columns of a stored matrix: what is kept out of a product of 8-bit codes because it would spoil
//! their scales.

use std::ops::Range;

use crate::error::{KernelError, check_len};
use crate::matmul::WeightRef;
use crate::pool::SCRATCH_BYTES;
use crate::select::Kernels;
use crate::table::{F32_LANES, GemmF32, index};

/// Columns that [`KeptColumns`] may name.
pub const MAX_COLUMNS: usize = 512;

/// Weights of the longest block of any format.
const MAX_BLOCK: usize = 256;

// A panel of all columns and one block fit a worker's scratch.
const _: () = assert!((MAX_COLUMNS * F32_LANES + MAX_BLOCK) * size_of::<f32>() <= SCRATCH_BYTES);

/// What [`crate::matmul_with_columns`] adds to some tokens of its products:
/// `out[t][r] += Σ_i weight[r][columns[i]]·x[t − tokens.start][i]` in f32, summed in the order of `columns` before it is
/// added.
#[derive(Debug)]
pub struct KeptColumns<'a> {
    /// The weights, one for every product and of its number of rows.
    pub weights: &'a [WeightRef<'a>],
    /// The tokens.
    pub tokens: Range<usize>,
    /// Columns of the weights, at most [`MAX_COLUMNS`].
    pub columns: &'a [u32],
    /// A value for every column, of one token behind the other.
    pub x: &'a [f32],
}

impl KeptColumns<'_> {
    /// Checks everything against `tokens` tokens and products of so many rows.
    pub(crate) fn check(&self, tokens: usize, rows: &[usize]) -> Result<(), KernelError> {
        let depth = self.columns.len();
        if depth > MAX_COLUMNS {
            return Err(KernelError::TooLarge { what: "number of columns", got: depth, limit: MAX_COLUMNS });
        }
        let Range { start, end } = self.tokens;
        if start > end || end > tokens {
            return Err(KernelError::TooLarge { what: "token with columns", got: end.max(start), limit: tokens });
        }
        check_len("activations of columns", self.x.len(), (end - start).saturating_mul(depth))?;
        check_len("weights of columns", self.weights.len(), rows.len())?;
        for (weight, rows) in self.weights.iter().zip(rows) {
            check_len("rows of a weight of columns", weight.rows(), *rows)?;
            if let Some(column) = self.columns.iter().find(|c| **c as usize >= weight.cols()) {
                let limit = weight.cols() - 1;
                return Err(KernelError::TooLarge { what: "column", got: *column as usize, limit });
            }
            let block_len = weight.ty().block_len();
            if block_len > MAX_BLOCK {
                return Err(KernelError::TooLarge { what: "block of weights", got: block_len, limit: MAX_BLOCK });
            }
        }
        Ok(())
    }

    /// Adds to rows `r0..r1` of product `number`, while they are in the cache. Nothing is copied but a panel of 16 rows at a
    /// time, into `scratch`.
    ///
    /// # Safety
    /// [`KeptColumns::check`] must have passed; `out` is the place of row 0 and token 0 of a result of `rows` rows, and
    /// nobody else may access rows `r0..r1`. `scratch` is a worker's, aligned to 64.
    pub(crate) unsafe fn add(
        &self,
        kernels: Kernels,
        number: usize,
        (r0, r1): (usize, usize),
        out: *mut f32,
        rows: usize,
        scratch: &mut [u8],
    ) {
        let (depth, weight) = (self.columns.len(), &self.weights[number]);
        let (block_len, block_bytes) = (weight.ty().block_len(), weight.ty().block_bytes());
        let row_bytes = weight.cols() / block_len * block_bytes;
        let dequantize = kernels.table.formats[index(weight.ty())].dequantize;
        // SAFETY: the scratch is aligned to 64 and holds both pieces (asserted above); f32 has no invalid bits.
        let (panel, block) = unsafe {
            let base: *mut f32 = scratch.as_mut_ptr().cast();
            (
                std::slice::from_raw_parts_mut(base, depth * F32_LANES),
                std::slice::from_raw_parts_mut(base.add(MAX_COLUMNS * F32_LANES), block_len),
            )
        };
        for r0 in (r0..r1).step_by(F32_LANES) {
            let n_rows = F32_LANES.min(r1 - r0);
            panel.fill(0.0);
            for lane in 0..n_rows {
                let row = &weight.bytes()[(r0 + lane) * row_bytes..(r0 + lane + 1) * row_bytes];
                let mut held = usize::MAX;
                for (step, column) in panel.as_chunks_mut::<F32_LANES>().0.iter_mut().zip(self.columns) {
                    let (number, at) = (*column as usize / block_len, *column as usize % block_len);
                    if number != held {
                        // SAFETY: the bytes are one whole block, which `block` has room for; the table's features were
                        // detected.
                        unsafe { dequantize(&row[number * block_bytes..(number + 1) * block_bytes], block) };
                        held = number;
                    }
                    step[lane] = block[at];
                }
            }
            // SAFETY: the panel holds `depth` steps, `x` holds as many rows of `depth` values as there are tokens, and the
            // result as many rows of `rows` (checked), of which nobody else touches these lanes; the features were
            // detected.
            unsafe {
                (kernels.table.gemm_f32)(&GemmF32 {
                    panel: panel.as_ptr(),
                    panel_stride: F32_LANES,
                    n_rows,
                    depth,
                    x: self.x.as_ptr(),
                    x_stride: depth,
                    cols: self.tokens.len(),
                    out: out.add(self.tokens.start * rows + r0),
                    out_stride: rows,
                    accumulate: true,
                });
            }
        }
    }
}
