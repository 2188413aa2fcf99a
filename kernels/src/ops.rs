//! The small operations between products: norms, biases, rotary positions, activations, embedding rows.

use ocelli_quant::GgmlType;

use crate::error::{KernelError, check_len};
use crate::matmul::{OutPtr, WeightRef};
use crate::pool::Pool;
use crate::select::Kernels;
use crate::table::index;

/// Values below which an operation is not worth waking other threads for.
const WORTH_A_MEETING: usize = 32 * 1024;

/// Which elements of a head form a pair that rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RopePairs {
    /// Elements 2i and 2i + 1: `llama` files, whose q and k rows are permuted for it.
    #[default]
    Interleaved,
    /// Elements i and i + n/2 (NEOX): `qwen2` and most other architectures.
    Halves,
}

/// Cuts `rows` rows of `width` values over the pool; `each(from, to)` handles rows `from..to`.
fn rows_over(pool: &Pool, rows: usize, width: usize, each: impl Fn(usize, usize) + Sync) {
    if rows == 0 || width == 0 {
        return;
    }
    if rows.saturating_mul(width) < WORTH_A_MEETING || pool.threads() == 1 {
        each(0, rows);
        return;
    }
    let per = rows.div_ceil(pool.threads() * 4).max(1);
    pool.for_each(rows.div_ceil(per), |item, _| each(item * per, rows.min((item + 1) * per)));
}

/// Part `from..to` of a buffer that several threads write.
///
/// # Safety
/// The range must lie in the buffer and nobody else may access it meanwhile.
unsafe fn part<'a>(ptr: OutPtr, from: usize, to: usize) -> &'a mut [f32] {
    // SAFETY: the contract of this function.
    unsafe { std::slice::from_raw_parts_mut(ptr.get().add(from), to - from) }
}

/// Root mean square normalisation of every row: `out = x·w / sqrt(mean(x²) + eps)`, rows of `w.len()` values.
///
/// # Errors
/// When `x` is not a whole number of rows or `out` differs from it in length.
pub fn rmsnorm(
    pool: &Pool,
    kernels: Kernels,
    x: &[f32],
    w: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = w.len();
    check_rows("input of a norm", x.len(), width)?;
    check_len("result of a norm", out.len(), x.len())?;
    let out = OutPtr(out.as_mut_ptr());
    rows_over(pool, x.len() / width, width, |from, to| {
        for r in from..to {
            let (a, e) = (r * width, (r + 1) * width);
            // SAFETY: row r lies in the result (checked above); rows are disjoint.
            rmsnorm_row(kernels, &x[a..e], w, eps, unsafe { part(out, a, e) });
        }
    });
    Ok(())
}

/// Layer normalisation of every row: `out = (x − mean)·w / sqrt(var + eps) + b`, rows of `w.len()` values; `var` is the
/// mean of the squared differences.
///
/// # Errors
/// When `x` is not a whole number of rows, or `b` or `out` have another length.
pub fn layer_norm(
    pool: &Pool,
    kernels: Kernels,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = w.len();
    check_rows("input of a norm", x.len(), width)?;
    check_len("bias of a norm", b.len(), width)?;
    check_len("result of a norm", out.len(), x.len())?;
    let out = OutPtr(out.as_mut_ptr());
    rows_over(pool, x.len() / width, width, |from, to| {
        for r in from..to {
            let (a, e) = (r * width, (r + 1) * width);
            // SAFETY: row r lies in the result (checked above); rows are disjoint.
            layer_norm_row(kernels, &x[a..e], w, b, eps, unsafe { part(out, a, e) });
        }
    });
    Ok(())
}

/// `x = gelu(x + bias)` for every row of `bias.len()` values, with
/// `gelu(x) = x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
///
/// # Errors
/// When `x` is not a whole number of rows.
pub fn bias_gelu(pool: &Pool, kernels: Kernels, x: &mut [f32], bias: &[f32]) -> Result<(), KernelError> {
    each_row(pool, kernels.table.bias_gelu, x, bias)
}

/// `x += bias` for every row of `bias.len()` values.
///
/// # Errors
/// When `x` is not a whole number of rows.
pub fn add_bias(pool: &Pool, kernels: Kernels, x: &mut [f32], bias: &[f32]) -> Result<(), KernelError> {
    each_row(pool, kernels.table.add, x, bias)
}

/// `x += y + bias` for every row of `bias.len()` values.
///
/// # Errors
/// When `x` is not a whole number of rows or `y` differs from it in length.
pub fn add_biased(pool: &Pool, kernels: Kernels, x: &mut [f32], y: &[f32], bias: &[f32]) -> Result<(), KernelError> {
    let width = bias.len();
    check_rows("sum", x.len(), width)?;
    check_len("summand", y.len(), x.len())?;
    let rows = x.len() / width;
    let x = OutPtr(x.as_mut_ptr());
    rows_over(pool, rows, width, |from, to| {
        for r in from..to {
            let (a, e) = (r * width, (r + 1) * width);
            // SAFETY: row r lies in the buffer (checked above); rows are disjoint.
            add_biased_row(kernels, unsafe { part(x, a, e) }, &y[a..e], bias);
        }
    });
    Ok(())
}

/// Runs `f(row, bias)` for every row.
fn each_row(pool: &Pool, f: unsafe fn(&mut [f32], &[f32]), x: &mut [f32], bias: &[f32]) -> Result<(), KernelError> {
    let width = bias.len();
    check_rows("rows that take a bias", x.len(), width)?;
    let rows = x.len() / width;
    let x = OutPtr(x.as_mut_ptr());
    rows_over(pool, rows, width, |from, to| {
        for r in from..to {
            // SAFETY: row r lies in the buffer (checked above) and is as long as the bias; rows are disjoint; the
            // table's features were detected.
            unsafe { f(part(x, r * width, (r + 1) * width), bias) };
        }
    });
    Ok(())
}

/// Rotary positions, in place. `x` is tokens × `n_heads` × `head_dim`; the first `2·pairs` elements of each head
/// rotate, the rest stay. `cos_sin` is tokens × pairs × (cos, sin), with any attention factor already multiplied in.
///
/// # Errors
/// When the lengths do not fit each other, or more elements would rotate than a head has.
#[expect(clippy::too_many_arguments, reason = "a tensor of three dimensions and its table")]
pub fn rope(
    pool: &Pool,
    kernels: Kernels,
    x: &mut [f32],
    n_heads: usize,
    head_dim: usize,
    n_rot: usize,
    cos_sin: &[f32],
    pairs: RopePairs,
) -> Result<(), KernelError> {
    let width = n_heads.saturating_mul(head_dim);
    check_rows("input of rope", x.len(), width)?;
    if n_rot > head_dim {
        return Err(KernelError::TooLarge { what: "rotated elements of a head", got: n_rot, limit: head_dim });
    }
    if !n_rot.is_multiple_of(2) {
        return Err(KernelError::Multiple { what: "rotated elements of a head", got: n_rot, of: 2 });
    }
    let tokens = x.len() / width;
    check_len("rope table", cos_sin.len(), tokens * n_rot)?;
    let rotate = match pairs {
        RopePairs::Interleaved => kernels.table.rope_interleaved,
        RopePairs::Halves => kernels.table.rope_halves,
    };
    let x = OutPtr(x.as_mut_ptr());
    rows_over(pool, tokens, width, |from, to| {
        for t in from..to {
            let cos_sin = &cos_sin[t * n_rot..(t + 1) * n_rot];
            for h in 0..n_heads {
                let at = t * width + h * head_dim;
                // SAFETY: the head lies in `x` (checked above); heads are disjoint; the features were detected.
                unsafe { rotate(part(x, at, at + n_rot), cos_sin) };
            }
        }
    });
    Ok(())
}

/// `gate[i] = silu(gate[i])·up[i]`.
///
/// # Errors
/// When the lengths differ.
pub fn swiglu(pool: &Pool, kernels: Kernels, gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
    check_len("up projection", up.len(), gate.len())?;
    binary(pool, kernels.table.swiglu, gate, up);
    Ok(())
}

/// `x[i] += y[i]`.
///
/// # Errors
/// When the lengths differ.
pub fn add(pool: &Pool, kernels: Kernels, x: &mut [f32], y: &[f32]) -> Result<(), KernelError> {
    check_len("summand", y.len(), x.len())?;
    binary(pool, kernels.table.add, x, y);
    Ok(())
}

/// Sum and largest of the magnitudes of a row, the same to the bit with every table. Where a value is not finite, the sum
/// is not.
#[must_use]
pub fn magnitudes(kernels: Kernels, row: &[f32]) -> (f32, f32) {
    // SAFETY: the function takes any length; the table's features were detected.
    unsafe { (kernels.table.magnitudes)(row) }
}

/// One row of [`rmsnorm`], by the calling thread: for [`crate::ActBuf::fill_made`]. All have the same length.
pub fn rmsnorm_row(kernels: Kernels, x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    debug_assert!(x.len() == w.len() && out.len() == w.len());
    // SAFETY: the function takes any lengths, and leaves what is longer alone; the table's features were detected.
    unsafe { (kernels.table.rmsnorm)(x, w, eps, out) }
}

/// One row of [`layer_norm`], as [`rmsnorm_row`].
pub fn layer_norm_row(kernels: Kernels, x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) {
    debug_assert!(x.len() == w.len() && b.len() == w.len() && out.len() == w.len());
    // SAFETY: as above.
    unsafe { (kernels.table.layer_norm)(x, w, b, eps, out) }
}

/// One row of [`bias_gelu`], as [`rmsnorm_row`].
pub fn bias_gelu_row(kernels: Kernels, x: &mut [f32], bias: &[f32]) {
    debug_assert_eq!(x.len(), bias.len());
    // SAFETY: as above.
    unsafe { (kernels.table.bias_gelu)(x, bias) }
}

/// One row of [`add`], as [`rmsnorm_row`].
pub fn add_row(kernels: Kernels, x: &mut [f32], y: &[f32]) {
    debug_assert_eq!(x.len(), y.len());
    // SAFETY: as above.
    unsafe { (kernels.table.add)(x, y) }
}

/// One row of [`add_biased`], as [`rmsnorm_row`].
pub fn add_biased_row(kernels: Kernels, x: &mut [f32], y: &[f32], bias: &[f32]) {
    debug_assert!(x.len() == bias.len() && y.len() == bias.len());
    // SAFETY: as above.
    unsafe { (kernels.table.add_biased)(x, y, bias) }
}

/// Runs an element-wise function in pieces of a fixed size, so that tails do not depend on the thread count.
fn binary(pool: &Pool, f: unsafe fn(&mut [f32], &[f32]), x: &mut [f32], y: &[f32]) {
    const PIECE: usize = 4096;
    let n = x.len();
    let x = OutPtr(x.as_mut_ptr());
    rows_over(pool, n.div_ceil(PIECE), PIECE, |from, to| {
        for p in from..to {
            let (a, b) = (p * PIECE, n.min((p + 1) * PIECE));
            // SAFETY: pieces are disjoint and lie in the buffer; the lengths are equal (checked by the callers); the
            // table's features were detected.
            unsafe { f(part(x, a, b), &y[a..b]) };
        }
    });
}

/// Softmax of one row in place: `exp(x − max) / Σ`.
pub fn softmax(kernels: Kernels, x: &mut [f32]) {
    if x.is_empty() {
        return;
    }
    let table = kernels.table;
    // SAFETY: these functions take any lengths; the table's features were detected.
    unsafe {
        let max = (table.max)(x);
        let sum = (table.exp_sum)(x, max);
        (table.scale)(x, 1.0 / sum);
    }
}

/// Expands one stored row to f32, with exactly the values of [`GgmlType::dequantize_row`].
///
/// # Errors
/// When `bytes` is not exactly `out.len()` weights long.
pub fn dequantize_row(kernels: Kernels, ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    check_len("bytes of a row", bytes.len(), ty.row_bytes(out.len())?)?;
    // SAFETY: the bytes are the whole blocks of `out.len()` weights; the table's features were detected.
    unsafe { (kernels.table.formats[index(ty)].dequantize)(bytes, out) };
    Ok(())
}

/// Expands the rows `ids` of a stored matrix, one after the other: the embedding look-up.
///
/// # Errors
/// When a row does not exist or `out` is not `ids.len()` rows long.
pub fn lookup_rows(kernels: Kernels, weight: &WeightRef<'_>, ids: &[u32], out: &mut [f32]) -> Result<(), KernelError> {
    check_len("embedding rows", out.len(), ids.len().saturating_mul(weight.cols()))?;
    for (id, out) in ids.iter().zip(out.chunks_exact_mut(weight.cols())) {
        dequantize_row(kernels, weight.ty(), weight.row(*id as usize)?, out)?;
    }
    Ok(())
}

/// Dot product in f32.
///
/// # Errors
/// When the lengths differ.
pub fn dot(kernels: Kernels, a: &[f32], b: &[f32]) -> Result<f32, KernelError> {
    check_len("second factor", b.len(), a.len())?;
    // SAFETY: equal lengths; the table's features were detected.
    Ok(unsafe { (kernels.table.dot_f32)(a, b) })
}

/// Fails unless `len` is a whole number of rows of `width` values.
fn check_rows(what: &'static str, len: usize, width: usize) -> Result<(), KernelError> {
    if width == 0 {
        return Err(KernelError::Empty { what });
    }
    if !len.is_multiple_of(width) {
        return Err(KernelError::Multiple { what, got: len, of: width });
    }
    Ok(())
}
