//! Products with a few columns of a stored matrix: what is kept out of a product of 8-bit codes because it would spoil
//! their scales.

use crate::error::{KernelError, check_len};
use crate::matmul::{OutPtr, WeightRef};
use crate::pool::{Pool, SCRATCH_BYTES};
use crate::select::Kernels;
use crate::table::{F32_LANES, GemmF32, index};

/// Columns that [`add_columns`] takes at once.
pub const MAX_COLUMNS: usize = 512;

/// Weights of the longest block of any format.
const MAX_BLOCK: usize = 256;

// A panel of all columns and one block fit a worker's scratch.
const _: () = assert!((MAX_COLUMNS * F32_LANES + MAX_BLOCK) * size_of::<f32>() <= SCRATCH_BYTES);

/// `out[t][r] += Σ_i weight[r][columns[i]]·x[t][i]` in f32, summed in the order of `columns` before it is added. `x` has
/// as many rows of `columns.len()` values as `out` has rows of `weight.rows()`.
///
/// Nothing is copied but a panel of 16 rows at a time, into a worker's scratch. A row of the result depends on its row
/// of `x` only: not on the other rows, nor on the number of threads.
///
/// # Errors
/// When the lengths do not fit each other, a column does not exist, or there are more than [`MAX_COLUMNS`].
pub fn add_columns(
    pool: &Pool,
    kernels: Kernels,
    weight: &WeightRef<'_>,
    columns: &[u32],
    x: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let (depth, rows) = (columns.len(), weight.rows());
    if depth == 0 {
        return check_len("activations of no columns", x.len(), 0);
    }
    if depth > MAX_COLUMNS {
        return Err(KernelError::TooLarge { what: "number of columns", got: depth, limit: MAX_COLUMNS });
    }
    if let Some(column) = columns.iter().find(|c| **c as usize >= weight.cols()) {
        return Err(KernelError::TooLarge { what: "column", got: *column as usize, limit: weight.cols() - 1 });
    }
    if !x.len().is_multiple_of(depth) {
        return Err(KernelError::Multiple { what: "activations of columns", got: x.len(), of: depth });
    }
    let tokens = x.len() / depth;
    check_len("result of columns", out.len(), tokens.saturating_mul(rows))?;
    let (block_len, block_bytes) = (weight.ty().block_len(), weight.ty().block_bytes());
    if block_len > MAX_BLOCK {
        return Err(KernelError::TooLarge { what: "block of weights", got: block_len, limit: MAX_BLOCK });
    }
    let dequantize = kernels.table.formats[index(weight.ty())].dequantize;
    let row_bytes = weight.cols() / block_len * block_bytes;
    let out = OutPtr(out.as_mut_ptr());
    pool.for_each(if tokens == 0 { 0 } else { rows.div_ceil(F32_LANES) }, |item, scratch| {
        let (r0, r1) = (item * F32_LANES, rows.min((item + 1) * F32_LANES));
        // SAFETY: the scratch is aligned to 64 and holds both pieces (asserted above); f32 has no invalid bits.
        let (panel, block) = unsafe {
            let base: *mut f32 = scratch.as_mut_ptr().cast();
            (
                std::slice::from_raw_parts_mut(base, depth * F32_LANES),
                std::slice::from_raw_parts_mut(base.add(MAX_COLUMNS * F32_LANES), block_len),
            )
        };
        panel.fill(0.0);
        for lane in 0..r1 - r0 {
            let row = &weight.bytes()[(r0 + lane) * row_bytes..(r0 + lane + 1) * row_bytes];
            let mut held = usize::MAX;
            for (step, column) in panel.as_chunks_mut::<F32_LANES>().0.iter_mut().zip(columns) {
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
        // SAFETY: the panel holds `depth` steps, `x` holds `tokens` rows of `depth` values and the result `tokens` rows
        // of `rows` (checked above), of which nobody else touches lanes `r0..r1`; the features were detected.
        unsafe {
            (kernels.table.gemm_f32)(&GemmF32 {
                panel: panel.as_ptr(),
                panel_stride: F32_LANES,
                n_rows: r1 - r0,
                depth,
                x: x.as_ptr(),
                x_stride: depth,
                cols: tokens,
                out: out.get().add(r0),
                out_stride: rows,
                accumulate: true,
            });
        }
    });
    Ok(())
}
