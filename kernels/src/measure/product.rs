//! Products of stored weights with activations, at a model's shapes.

use std::time::Instant;

use ocelli_quant::GgmlType;

use super::{EachTimed, Plan, Timed, Unit, Work, bell, noise, sample};
use crate::act::{ActBuf, ActNeeds, Precision};
use crate::error::KernelError;
use crate::matmul::{FEW_TOKENS, WeightRef, matmul};
use crate::pool::Pool;
use crate::quantize::RowCodec;
use crate::select::Kernels;

/// Bytes of weights that runs walk through in turn: more than a last-level cache holds.
const BUFFER: usize = 96 << 20;

/// Different rows in a buffer: quantising is slower than what is to be measured, so they repeat. Not a multiple of any
/// tile, so that a result in the wrong place does not agree by chance.
const ROWS: usize = 17;

/// Rows that are timed to estimate the time of all.
const PROBE_ROWS: usize = 64;

/// A matrix of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// What it is.
    pub name: &'static str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// The matrices of MiniCPM-V 4.0: text, then vision (feed-forward widths padded to whole blocks, as they are multiplied).
pub const SHAPES: &[Shape] = &[
    Shape { name: "attn_q", rows: 4096, cols: 2560 },
    Shape { name: "attn_k", rows: 256, cols: 2560 },
    Shape { name: "attn_output", rows: 2560, cols: 4096 },
    Shape { name: "ffn_gate", rows: 10240, cols: 2560 },
    Shape { name: "ffn_down", rows: 2560, cols: 10240 },
    Shape { name: "output", rows: 73448, cols: 2560 },
    Shape { name: "v.attn", rows: 1152, cols: 1152 },
    Shape { name: "v.ffn_up", rows: 4304, cols: 1152 },
    Shape { name: "v.ffn_down", rows: 1152, cols: 4320 },
];

/// Times the products of `plan` with the table `kernels`. Every answer is compared with the scalar table's before it is
/// timed. Shapes whose rows are no whole blocks of a format are left out.
///
/// # Errors
/// When an answer is wrong, or a kernel refuses its arguments.
pub fn products(pool: &Pool, kernels: Kernels, plan: &Plan, each: &mut EachTimed<'_>) -> Result<(), KernelError> {
    let mut widths: Vec<usize> = plan.shapes.iter().map(|s| s.cols).collect();
    widths.sort_unstable();
    widths.dedup();
    let most = plan.tokens.iter().copied().max().unwrap_or(0);
    let mut buffer = Vec::new();
    for &ty in &plan.formats {
        for &cols in &widths {
            let Ok(row_bytes) = ty.row_bytes(cols) else { continue };
            let rows = noise(ROWS * cols, 1);
            let mut pattern = vec![0; ROWS * row_bytes];
            for (row, bytes) in rows.chunks_exact(cols).zip(pattern.chunks_exact_mut(row_bytes)) {
                RowCodec::of(kernels).quantize_row(ty, row, None, bytes)?;
            }
            let x = bell(most * cols, 2);
            let set = Set { pool, kernels, plan, ty, cols, row_bytes, x: &x };
            let want = set.expected(&pattern, Precision::Fast)?;
            let exact = set.expected(&pattern, Precision::Exact)?;
            fill(&mut buffer, &pattern);
            for shape in plan.shapes.iter().filter(|s| s.cols == cols) {
                for &tokens in plan.tokens.iter().filter(|t| **t > 0) {
                    // Few tokens of weights that have no integers are multiplied in f32.
                    let want = if kernels.unit(ty, tokens) == Unit::F32 { &exact } else { &want };
                    if !each(set.time(shape, tokens, &buffer, want)?) {
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

/// Memory that [`products`] takes at most; `None` beyond 64 bits.
pub(super) fn memory(plan: &Plan) -> Option<u64> {
    let tokens = plan.tokens.iter().copied().max().unwrap_or(0) as u64;
    let cols = plan.shapes.iter().map(|s| s.cols).max().unwrap_or(0) as u64;
    let rows = plan.shapes.iter().map(|s| s.rows).max().unwrap_or(0) as u64;
    // The activations as they are made (see `bell`) or as they are used, with their codes, and the products.
    let x = tokens.checked_mul(cols)?.checked_mul(4 * (6 + 1))?;
    let out = tokens.checked_mul(rows)?.checked_mul(4)?;
    // The different rows, as f32 and stored.
    let pattern = (ROWS as u64).checked_mul(cols)?.checked_mul(2 * 4)?;
    x.checked_add(out)?.checked_add(pattern)?.checked_add(BUFFER as u64)?.checked_add(pattern)
}

/// Repeats `pattern` over the buffer.
fn fill(buffer: &mut Vec<u8>, pattern: &[u8]) {
    buffer.clear();
    let times = (BUFFER / pattern.len()).max(1);
    buffer.reserve(times * pattern.len());
    for _ in 0..times {
        buffer.extend_from_slice(pattern);
    }
}

/// What the cases of one format and width share.
struct Set<'a> {
    pool: &'a Pool,
    kernels: Kernels,
    plan: &'a Plan,
    ty: GgmlType,
    cols: usize,
    row_bytes: usize,
    x: &'a [f32],
}

impl Set<'_> {
    fn acts(&self, kernels: Kernels, precision: Precision, tokens: usize) -> Result<ActBuf, KernelError> {
        let mut act = ActBuf::new();
        let needs = ActNeeds::new(precision, [self.ty]);
        act.fill(self.pool, kernels, &self.x[..tokens * self.cols], tokens, self.cols, needs)?;
        Ok(act)
    }

    /// The scalar table's products of all different rows with the first tokens, token after token.
    fn expected(&self, pattern: &[u8], precision: Precision) -> Result<Vec<f32>, KernelError> {
        // More than a few, so that weights that become fixed-point numbers then do so here.
        let tokens = (self.x.len() / self.cols).min(FEW_TOKENS + 1);
        let mut want = vec![0f32; tokens * ROWS];
        let weight = WeightRef::new(self.ty, pattern, ROWS, self.cols)?;
        let scalar = Kernels::scalar();
        matmul(self.pool, scalar, &weight, &self.acts(scalar, precision, tokens)?, &mut want)?;
        Ok(want)
    }

    /// Tokens whose answers are compared.
    fn checked(&self, tokens: usize) -> usize {
        (self.x.len() / self.cols).min(tokens).min(4)
    }

    fn compare(&self, out: &[f32], rows: usize, tokens: usize, want: &[f32]) -> Result<(), KernelError> {
        // Sums of `cols` products of magnitude below 1, rounded to f32 in another order.
        let limit = 1e-4 * (self.cols as f32).sqrt();
        for t in 0..self.checked(tokens) {
            for (r, got) in out[t * rows..(t + 1) * rows].iter().enumerate() {
                let want = want[t * ROWS + r % ROWS];
                // Written so that a NaN is wrong.
                let close = (got - want).abs() <= limit;
                if !close {
                    let (isa, format) = (self.kernels.name(), self.ty.name());
                    return Err(KernelError::WrongAnswer { isa, format, got: *got, want });
                }
            }
        }
        Ok(())
    }

    fn time(&self, shape: &Shape, tokens: usize, buffer: &[u8], want: &[f32]) -> Result<Timed, KernelError> {
        let act = self.acts(self.kernels, Precision::Fast, tokens)?;
        let all = shape.rows.min(buffer.len() / self.row_bytes);
        let mut out = vec![f32::NAN; tokens * all];
        let run = |rows: usize, number: usize, out: &mut [f32]| -> Result<(), KernelError> {
            let bytes = rows * self.row_bytes;
            let at = number % (buffer.len() / bytes).max(1) * bytes;
            let weight = WeightRef::new(self.ty, &buffer[at..at + bytes], rows, self.cols)?;
            matmul(self.pool, self.kernels, &weight, &act, &mut out[..tokens * rows])
        };
        let probe = PROBE_ROWS.min(all);
        run(probe, 0, &mut out)?;
        self.compare(&out, probe, tokens, want)?;
        let started = Instant::now();
        run(probe, 0, &mut out)?;
        let per_row = started.elapsed().as_secs_f64().max(1e-9) / probe as f64;
        let fit = (self.plan.budget.as_secs_f64() / per_row) as usize / PROBE_ROWS * PROBE_ROWS;
        let rows = all.min(fit.max(PROBE_ROWS));
        out.fill(f32::NAN);
        run(rows, 0, &mut out)?;
        self.compare(&out, rows, tokens, want)?;
        let times = sample(self.plan.repetitions, |number| run(rows, number, &mut out))?;
        Ok(Timed {
            kernel: if tokens <= self.kernels.few_tokens(self.ty) { "gemv" } else { "gemm" },
            format: self.ty.name(),
            shape: shape.name,
            rows,
            cols: self.cols,
            tokens,
            work: self.work(rows, tokens),
            cached: false,
            times,
        })
    }

    /// Weights are read once, activations and results once.
    fn work(&self, rows: usize, tokens: usize) -> Work {
        let ops = 2.0 * rows as f64 * self.cols as f64 * tokens as f64;
        let unit = self.kernels.unit(self.ty, tokens);
        let act = match unit {
            Unit::Int8 => 1.0,
            Unit::Int16 => 2.0,
            Unit::Bf16 | Unit::F32 => 4.0,
        };
        let vectors = tokens as f64 * (self.cols as f64 * act + rows as f64 * 4.0);
        let bytes = (rows * self.row_bytes) as f64 + vectors;
        Work::of(unit, ops, bytes)
    }
}
