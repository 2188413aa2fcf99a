//! Attention, norms, activations, rotary positions; quantising and expanding rows.

use std::time::Instant;

use ocelli_quant::GgmlType;

use super::{EachTimed, Plan, Timed, Unit, Work, noise, sample};
use crate::act::{ActBuf, ActNeeds, Precision};
use crate::attention::{AttnScratch, AttnShape, attention, attention_unit};
use crate::attention_spans::{AttnSpan, SpanHeads, SpanScratch, attention_spans};
use crate::error::KernelError;
use crate::kv::{KvLayout, KvView};
use crate::ops::{self, RopePairs};
use crate::pool::Pool;
use crate::quantize::RowCodec;
use crate::select::Kernels;

/// The model's text attention.
const HEADS: usize = 32;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 128;

/// Positions per cache block.
const BLOCK: usize = 64;

/// Widths of the text model, its feed-forward, the tower and its feed-forward.
const N_EMBD: usize = 2560;
const N_FF: usize = 10240;
const V_EMBD: usize = 1152;
const V_FF: usize = 4304;

/// Patches of a slice of 448 × 448 pixels.
const PATCHES: usize = 1024;

/// Bytes that do not fit a last-level cache.
const BUFFER: usize = 96 << 20;

/// Bytes that are taken to stay in a cache from run to run.
const CACHED: f64 = (64 << 20) as f64;

/// Formats of a cache of keys and values.
const KV_TYPES: [GgmlType; 3] = [GgmlType::F16, GgmlType::F32, GgmlType::Q8_0];

/// Positions before a token that is generated, and before a prompt that continues.
const DEPTH: usize = 4096;

/// Times everything but products with the table `kernels`, for the numbers of tokens and the formats of `plan`. An
/// exponential, a root or a quotient counts one operation.
///
/// # Errors
/// When an answer is wrong, or a kernel refuses its arguments.
pub fn others(pool: &Pool, kernels: Kernels, plan: &Plan, each: &mut EachTimed<'_>) -> Result<(), KernelError> {
    let set = Set { pool, kernels, plan };
    let mut going = true;
    let mut keep = |timed: Timed| {
        going = going && each(timed);
        going
    };
    for &tokens in plan.tokens.iter().filter(|t| **t > 0) {
        if !set.rows(tokens, &mut keep)? {
            return Ok(());
        }
        for ty in KV_TYPES {
            if !keep(set.attention(ty, tokens, if tokens > 8 { 0 } else { DEPTH })?) {
                return Ok(());
            }
        }
    }
    if keep(set.spans()?) {
        set.codecs(&mut keep)?;
    }
    Ok(())
}

/// Memory that [`others`] takes at most; `None` beyond 64 bits.
pub(super) fn memory(plan: &Plan) -> Option<u64> {
    let tokens = plan.tokens.iter().copied().max().unwrap_or(0) as u64;
    // Four lists of the widest rows, of which `noise` makes one at a time, and codes of one.
    let rows = tokens.checked_mul((5 * N_FF * 4) as u64)?;
    // A cache: keys and values as f32, stored, and repeated over the buffer; queries and results, with room for partial ones.
    let cache = (DEPTH as u64).checked_add(tokens)?.checked_mul((2 * KV_HEADS * HEAD_DIM * 2 * 4) as u64)?;
    let queries = tokens.checked_mul((4 * HEADS * HEAD_DIM * 4) as u64)?;
    let attention = cache.checked_mul(2)?.checked_add(BUFFER as u64)?.checked_add(queries)?;
    let spans = (8 * PATCHES * V_EMBD * 4) as u64;
    // Rows as floats, and stored in the largest format.
    let codecs = 2 * BUFFER as u64;
    Some(rows.max(attention).max(spans).max(codecs))
}

struct Set<'a> {
    pool: &'a Pool,
    kernels: Kernels,
    plan: &'a Plan,
}

impl Set<'_> {
    fn timed(
        &self,
        kernel: &'static str,
        shape: &'static str,
        (rows, cols): (usize, usize),
        work: Work,
        run: impl FnMut(usize) -> Result<(), KernelError>,
    ) -> Result<Timed, KernelError> {
        Ok(Timed {
            kernel,
            format: "F32",
            shape,
            rows,
            cols,
            tokens: rows,
            work,
            cached: work.bytes < CACHED,
            times: sample(self.plan.repetitions, run)?,
        })
    }

    /// What runs over rows; `false` when the caller wants no more.
    fn rows(&self, n: usize, keep: &mut impl FnMut(Timed) -> bool) -> Result<bool, KernelError> {
        let (pool, kernels) = (self.pool, self.kernels);
        // `floats` are read or written per value.
        let work = |width: usize, ops: f64, floats: f64| {
            let n = n as f64 * width as f64;
            Work::of(Unit::F32, n * ops, n * floats * 4.0)
        };
        let (x, w) = (noise(n * N_FF, 3), noise(N_FF, 4));
        let (mut y, mut out) = (noise(n * N_FF, 5), vec![0f32; n * N_FF]);
        let len = n * N_EMBD;
        let (text, vision) = ((n, N_EMBD), (n, V_EMBD));
        let timed = self.timed("rmsnorm", "text", text, work(N_EMBD, 4.0, 2.0), |_| {
            ops::rmsnorm(pool, kernels, &x[..len], &w[..N_EMBD], 1e-6, &mut out[..len])
        })?;
        if !keep(timed) {
            return Ok(false);
        }
        let v_len = n * V_EMBD;
        let timed = self.timed("layer_norm", "vision", vision, work(V_EMBD, 7.0, 2.0), |_| {
            let (w, b) = (&w[..V_EMBD], &w[V_EMBD..2 * V_EMBD]);
            ops::layer_norm(pool, kernels, &x[..v_len], w, b, 1e-6, &mut out[..v_len])
        })?;
        if !keep(timed) {
            return Ok(false);
        }
        let timed =
            self.timed("swiglu", "text", (n, N_FF), work(N_FF, 5.0, 3.0), |_| ops::swiglu(pool, kernels, &mut y, &x))?;
        if !keep(timed) {
            return Ok(false);
        }
        let ff = n * V_FF;
        let timed = self.timed("bias_gelu", "vision", (n, V_FF), work(V_FF, 9.0, 2.0), |_| {
            ops::bias_gelu(pool, kernels, &mut out[..ff], &w[..V_FF])
        })?;
        if !keep(timed) {
            return Ok(false);
        }
        let timed = self.timed("add", "text", text, work(N_EMBD, 1.0, 3.0), |_| {
            ops::add(pool, kernels, &mut out[..len], &x[..len])
        })?;
        if !keep(timed) {
            return Ok(false);
        }
        let (width, table) = (HEADS * HEAD_DIM, noise(n * HEAD_DIM, 6));
        let timed = self.timed("rope", "text", (n, width), work(width, 3.0, 2.0), |_| {
            let q = &mut out[..n * width];
            ops::rope(pool, kernels, q, HEADS, HEAD_DIM, HEAD_DIM, &table, RopePairs::Interleaved)
        })?;
        if !keep(timed) {
            return Ok(false);
        }
        for (ty, name) in [(GgmlType::Q4_K, "Q8K"), (GgmlType::Q8_0, "Q8B")] {
            let mut act = ActBuf::new();
            let timed = self.timed("quantize_act", "text", text, work(N_EMBD, 3.0, 1.25), |_| {
                act.fill(pool, kernels, &x[..len], n, N_EMBD, ActNeeds::new(Precision::Fast, [ty]))
            })?;
            if !keep(Timed { format: name, ..timed }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `tokens` queries behind `before` positions, as the text model's layers attend.
    fn attention(&self, ty: GgmlType, tokens: usize, before: usize) -> Result<Timed, KernelError> {
        let layout = KvLayout::new(ty, ty, KV_HEADS, HEAD_DIM, BLOCK)?;
        let layout = layout.coded(self.kernels, Precision::Fast, HEADS / KV_HEADS);
        let len = before + tokens;
        let blocks = layout.blocks_for(len);
        let (k_bytes, v_bytes) = (blocks * layout.k_block_bytes(), blocks * layout.v_block_bytes());
        let layers = (BUFFER / (k_bytes + v_bytes)).clamp(1, 64);
        let table: Vec<u32> = (0..blocks).filter_map(|b| u32::try_from(b).ok()).collect();
        let width = KV_HEADS * HEAD_DIM;
        let (mut k, mut v) = (vec![0u8; k_bytes], vec![0u8; v_bytes]);
        layout.store(self.kernels, &mut k, &mut v, &table, 0, &noise(len * width, 7), &noise(len * width, 8))?;
        let (keys, values) = (k.repeat(layers), v.repeat(layers));
        let q = noise(tokens * HEADS * HEAD_DIM, 9);
        let mut out = vec![f32::NAN; q.len()];
        let scale = 1.0 / (HEAD_DIM as f32).sqrt();
        let unit = attention_unit(self.kernels, Precision::Fast, &layout, HEADS / KV_HEADS);
        // The plain code takes fixed point wherever some table does; it is to compute as this one.
        let precision = if unit == Unit::F32 { Precision::Exact } else { Precision::Fast };
        let shape = AttnShape { n_heads: HEADS, pos0: before, scale, causal: true, precision };
        let mut scratch = AttnScratch::new();
        let mut run = |kernels: Kernels, layer: usize, n: usize, out: &mut [f32]| {
            let layer = layer % layers;
            let (k, v) = (&keys[layer * k_bytes..][..k_bytes], &values[layer * v_bytes..][..v_bytes]);
            let view = KvView::new(layout, k, v, &table, len)?;
            let n = n * HEADS * HEAD_DIM;
            attention(self.pool, kernels, &mut scratch, shape, &q[..n], &view, &mut out[..n])
        };
        let few = tokens.min(4);
        let mut want = vec![0f32; few * HEADS * HEAD_DIM];
        run(Kernels::scalar(), 0, few, &mut want)?;
        run(self.kernels, 0, few, &mut out)?;
        self.compare(ty.name(), &out, &want)?;
        let (started, all) = (Instant::now(), tokens);
        run(self.kernels, 0, few, &mut out)?;
        let tokens = self.fit(started, few, all);
        let times = sample(self.plan.repetitions, |number| run(self.kernels, number, tokens, &mut out))?;
        let pairs: f64 = (0..tokens).map(|t| (before + t + 1) as f64).sum();
        let ops = 4.0 * pairs * (HEADS * HEAD_DIM) as f64;
        let row = (k_bytes + v_bytes) as f64 / (blocks * BLOCK) as f64;
        let bytes = (before + tokens) as f64 * row + 8.0 * (tokens * HEADS * HEAD_DIM) as f64;
        Ok(Timed {
            kernel: "attention",
            format: ty.name(),
            shape: if before == 0 { "prompt" } else { "depth 4096" },
            rows: tokens,
            cols: HEAD_DIM,
            tokens: all,
            work: Work::of(unit, ops, bytes),
            cached: false,
            times,
        })
    }

    /// A slice of the vision tower.
    fn spans(&self) -> Result<Timed, KernelError> {
        let (n_heads, head_dim) = (16, 72);
        let heads = SpanHeads { n_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
        let n = PATCHES * V_EMBD;
        let (q, k, v) = (noise(n, 10), noise(n, 11), noise(n, 12));
        let mut out = vec![f32::NAN; n];
        let mut scratch = SpanScratch::new();
        let mut run = |kernels: Kernels, queries: usize, out: &mut [f32]| {
            let span = [AttnSpan { q: 0, n_q: queries, kv: 0, n_kv: PATCHES }];
            attention_spans(
                self.pool,
                kernels,
                Precision::Fast,
                &mut scratch,
                heads,
                &span,
                &q[..queries * V_EMBD],
                &k,
                &v,
                out,
            )
        };
        let few = 4;
        let mut want = vec![0f32; few * V_EMBD];
        run(Kernels::scalar(), few, &mut want)?;
        run(self.kernels, few, &mut out[..few * V_EMBD])?;
        self.compare("F32", &out, &want)?;
        // As many as a tile has: laying keys out is part of a run.
        let (started, tile) = (Instant::now(), 48);
        run(self.kernels, tile, &mut out[..tile * V_EMBD])?;
        let queries = self.fit(started, tile, PATCHES);
        let out = &mut out[..queries * V_EMBD];
        let ops = 4.0 * (queries * PATCHES) as f64 * V_EMBD as f64;
        let unit = if self.kernels.fixed_point() { Unit::Int16 } else { Unit::F32 };
        let work = Work::of(unit, ops, 8.0 * (n + queries * V_EMBD) as f64);
        let shape = (queries, head_dim);
        let timed = self.timed("attention_spans", "vision", shape, work, |_| run(self.kernels, queries, out))?;
        Ok(Timed { tokens: PATCHES, cached: false, ..timed })
    }

    /// How many of `all` queries one run may have, when `few` took from `started` to now.
    fn fit(&self, started: Instant, few: usize, all: usize) -> usize {
        let per_query = started.elapsed().as_secs_f64().max(1e-9) / few as f64;
        all.min(((self.plan.budget.as_secs_f64() / per_query) as usize).max(few))
    }

    fn compare(&self, format: &'static str, got: &[f32], want: &[f32]) -> Result<(), KernelError> {
        for (got, want) in got.iter().zip(want) {
            // Written so that a NaN is wrong. Results are means of values below 1.
            let close = (got - want).abs() <= 1e-4;
            if !close {
                return Err(KernelError::WrongAnswer { isa: self.kernels.name(), format, got: *got, want: *want });
            }
        }
        Ok(())
    }

    /// Quantising and expanding whole buffers of rows, one thread, by the codec made for this table's registers.
    fn codecs(&self, keep: &mut impl FnMut(Timed) -> bool) -> Result<(), KernelError> {
        let isa = self.kernels.name();
        let wanted = |codec: &&RowCodec| isa.starts_with(codec.name());
        let all = RowCodec::available();
        let Some(codec) = all.iter().find(wanted).or(all.last()) else { return Ok(()) };
        let all_rows = BUFFER / 4 / N_EMBD;
        let values = noise(N_EMBD, 13);
        for &ty in &self.plan.formats {
            let row_bytes = ty.row_bytes(N_EMBD)?;
            let mut one = vec![0; row_bytes];
            codec.quantize_row(ty, &values, None, &mut one)?;
            let started = Instant::now();
            codec.quantize_row(ty, &values, None, &mut one)?;
            let per_row = started.elapsed().as_secs_f64().max(1e-9);
            let rows = all_rows.min((self.plan.budget.as_secs_f64() / per_row) as usize).max(1);
            let mut floats = values.repeat(all_rows);
            let mut stored = one.repeat(all_rows);
            let quantize = sample(self.plan.repetitions, |_| -> Result<(), KernelError> {
                let mut rows = floats.chunks_exact(N_EMBD).zip(stored.chunks_exact_mut(row_bytes)).take(rows);
                rows.try_for_each(|(row, out)| Ok(codec.quantize_row(ty, row, None, out)?))
            })?;
            let dequantize = sample(self.plan.repetitions, |_| -> Result<(), KernelError> {
                let mut rows = stored.chunks_exact(row_bytes).zip(floats.chunks_exact_mut(N_EMBD));
                rows.try_for_each(|(row, out)| Ok(codec.dequantize_row(ty, row, out)?))
            })?;
            for (kernel, rows, times) in [("quantize_row", rows, quantize), ("dequantize_row", all_rows, dequantize)] {
                let bytes = (rows * (row_bytes + 4 * N_EMBD)) as f64;
                let timed = Timed {
                    kernel,
                    format: ty.name(),
                    shape: codec.name(),
                    rows,
                    cols: N_EMBD,
                    tokens: 1,
                    // One operation per value, so that they have a place in a roofline.
                    work: Work::of(Unit::F32, (rows * N_EMBD) as f64, bytes),
                    cached: bytes < CACHED,
                    times,
                };
                if !keep(timed) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
