//! Cross-attention from learned queries to the patches of a slice.
//!
//! ```text
//! kv = ln_kv(W_kv · x)                     Q = ln_q(query)
//! q = W_q·Q + b    k = W_k·(kv + P) + b    v = W_v·kv + b
//! y = proj · ln_post(W_out · attention(q, k, v) + b)
//! ```
//!
//! Heads have 128 values. `q` is the same for every picture and computed once. `P` has sines and cosines of the patch's
//! place, with `ω_k = 10000^(−k/quarter)` and a quarter of the width each:
//!
//! ```text
//! P[row, column] = sin(column·ω) | cos(column·ω) | sin(row·ω) | cos(row·ω)
//! ```
//!
//! in f32. (The published code rounds the table to the precision the model was loaded in: up to 2e-3 away in bf16.)

use ocelli_kernels::{AttnSpan, SpanHeads};

use super::super::VisionConfig;
use super::super::parts::Parts;
use super::super::pass::Pass;
use crate::RuntimeError;
use crate::nn::{Engine, Inputs, Keep, LIMIT, Linear, Norm};

/// Values of a head, fixed in the model's code.
const HEAD_DIM: usize = 128;

/// Epsilon of its norms, fixed in the model's code.
const EPS: f32 = 1e-6;

/// Largest accepted numbers of queries and of values of a row.
const MAX_QUERIES: usize = 4096;
const MAX_WIDTH: usize = 1 << 20;

/// The tensors `resampler.*`.
#[derive(Debug)]
pub(super) struct Resampler {
    query: Linear,
    ln_q: Norm,
    kv: Linear,
    ln_kv: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    ln_post: Norm,
    proj: Linear,
}

impl Resampler {
    /// Takes the tensors, and the sizes of the result into `config`.
    pub(super) fn load(parts: &mut Parts<'_, '_>, config: &mut VisionConfig) -> Result<Self, RuntimeError> {
        let (queries, width) = shape(parts)?;
        (config.query_num, config.projection_dim) = (queries, width);
        let key = "clip.minicpmv_query_num";
        if let Some(n) = parts.meta.u64(key)?.filter(|n| *n != 0 && *n != queries as u64) {
            let problem = format!("is {n}, but resampler.query has {queries} rows");
            return Err(RuntimeError::Metadata { key: key.to_owned(), problem });
        }
        // The same table as computed here, for readers that want it in the file.
        parts.ignore("resampler.pos_embed_k");
        Ok(Self {
            query: parts.table("resampler.query", queries, width)?,
            ln_q: parts.norm("resampler.ln_q", width, EPS)?,
            kv: parts.unbiased("resampler.kv", width, config.n_embd)?,
            ln_kv: parts.norm("resampler.ln_kv", width, EPS)?,
            q: parts.float_linear("resampler.attn.q", width, width)?,
            k: parts.linear("resampler.attn.k", width, width)?,
            v: parts.linear("resampler.attn.v", width, width)?,
            out: parts.linear("resampler.attn.out", width, width)?,
            ln_post: parts.norm("resampler.ln_post", width, EPS)?,
            proj: parts.unbiased("resampler.proj", width, width)?,
        })
    }

    /// The projected queries, `[query_num, projection_dim]`, in f32 whatever the precision.
    pub(super) fn queries(&self, engine: &Engine<'_>, config: &VisionConfig) -> Result<Vec<f32>, RuntimeError> {
        let engine = engine.exact();
        let n = config.query_num;
        let ids: Vec<u32> = (0..n).map(|i| i as u32).collect();
        let mut rows = vec![0f32; n * config.projection_dim];
        let mut normed = rows.clone();
        engine.look_up(&self.query, &ids, &mut rows)?;
        engine.norm(&self.ln_q, &rows, &mut normed)?;
        let mut inputs = Inputs::default();
        engine.prepare(&mut inputs, &mut normed, None, &[&self.q])?;
        engine.multiply(&inputs, &mut [(&self.q, &mut rows)])?;
        engine.add_bias(&self.q, &mut rows)?;
        Ok(rows)
    }

    /// Reads the tower's rows from `h` and writes the pass's results.
    pub(super) fn run(&self, pass: &mut Pass<'_>) -> Result<(), RuntimeError> {
        let (c, engine, n, out_rows) = (pass.config, pass.engine, pass.n, pass.out_rows());
        let (slices, results) = (pass.patch_rows(), pass.result_rows());
        let keep = Some(Keep { slices: &slices, limit: LIMIT });
        let keep_out = Some(Keep { slices: &results, limit: LIMIT });
        let (width, ws) = (c.projection_dim, &mut *pass.ws);
        let (len, out_len) = (n * width, out_rows * width);
        let h = &mut pass.residual.h;
        let kv = &mut ws.ff[..len];
        engine.prepare(&mut ws.acts, &mut h[..n * c.n_embd], keep, &[&self.kv])?;
        engine.multiply(&ws.acts, &mut [(&self.kv, &mut ws.k[..len])])?;
        engine.prepare_made(&mut ws.acts, kv, &mut ws.k[..len], keep, &[&self.v], |_, kv, k| {
            engine.norm_row(&self.ln_kv, k, kv);
        })?;
        engine.multiply(&ws.acts, &mut [(&self.v, &mut ws.v[..len])])?;
        engine.add_bias(&self.v, &mut ws.v[..len])?;
        let sides = pass.slices.iter().map(|s| s.rows.max(s.cols)).max().unwrap_or(0);
        let lines = sines(width, sides);
        engine.prepare_made(&mut ws.acts, kv, &mut [], keep, &[&self.k], |t, row, _| {
            // Rows behind the slices have no position.
            let number = slices.partition_point(|slice| slice.end <= t);
            let Some(slice) = pass.slices.get(number) else { return };
            let i = t - slice.first;
            for (half, at) in row.chunks_exact_mut(width / 2).zip([i % slice.cols, i / slice.cols]) {
                let line = &lines[at * (width / 2)..(at + 1) * (width / 2)];
                half.iter_mut().zip(line).for_each(|(v, p)| *v += p);
            }
        })?;
        engine.multiply(&ws.acts, &mut [(&self.k, &mut ws.k[..len])])?;
        engine.add_bias(&self.k, &mut ws.k[..len])?;
        let spans: Vec<AttnSpan> =
            pass.slices.iter().map(|s| AttnSpan { q: 0, n_q: c.query_num, kv: s.first, n_kv: s.len() }).collect();
        let heads = SpanHeads { n_heads: width / HEAD_DIM, head_dim: HEAD_DIM, scale: 1.0 / (HEAD_DIM as f32).sqrt() };
        let (attn, rest) = ws.attn[..out_len].split_at_mut(pass.out.len());
        engine.attend(&mut ws.spans, heads, &spans, pass.constants, &ws.k[..len], &ws.v[..len], attn)?;
        rest.fill(0.0);
        engine.prepare(&mut ws.acts, &mut ws.attn[..out_len], keep_out, &[&self.out])?;
        engine.multiply(&ws.acts, &mut [(&self.out, &mut h[..out_len])])?;
        engine.add_bias(&self.out, &mut h[..out_len])?;
        let (rows, h) = (&mut ws.attn[..out_len], &mut h[..out_len]);
        engine.prepare_made(&mut ws.acts, rows, h, keep_out, &[&self.proj], |_, row, h| {
            engine.norm_row(&self.ln_post, h, row);
        })?;
        engine.multiply(&ws.acts, &mut [(&self.proj, &mut ws.k[..out_len])])?;
        pass.out.copy_from_slice(&ws.k[..pass.out.len()]);
        Ok(())
    }
}

/// Queries and width, from the tensor that has both.
fn shape(parts: &Parts<'_, '_>) -> Result<(usize, usize), RuntimeError> {
    let name = "resampler.query";
    let dims = parts.dims(name)?;
    let inside =
        |n: Option<&u64>, max: usize| n.and_then(|n| usize::try_from(*n).ok()).filter(|n| (1..=max).contains(n));
    match (dims, inside(dims.first(), MAX_WIDTH), inside(dims.get(1), MAX_QUERIES)) {
        ([_, _], Some(width), Some(queries)) if width.is_multiple_of(HEAD_DIM) => Ok((queries, width)),
        _ => Err(RuntimeError::TensorShape {
            name: name.to_owned(),
            found: format!("{{{}}}", dims.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
            expected: format!("{{a multiple of {HEAD_DIM}, 1 to {MAX_QUERIES} queries}}"),
        }),
    }
}

/// For every coordinate below `n`: sines, then cosines, `width / 4` of each.
fn sines(width: usize, n: usize) -> Vec<f32> {
    let quarter = width / 4;
    let omega: Vec<f32> =
        (0..quarter).map(|k| 1.0 / 10_000f64.powf(f64::from(k as f32 / quarter as f32)) as f32).collect();
    let mut out = Vec::with_capacity(n * width / 2);
    for at in 0..n {
        // The angle is an f32, whose sine is then taken: as in the reference.
        let angles = || omega.iter().map(|w| f64::from(at as f32 * w));
        out.extend(angles().map(|a| a.sin() as f32));
        out.extend(angles().map(|a| a.cos() as f32));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values computed by an independent program.
    #[test]
    fn known_sines() {
        let lines = sines(2560, 70);
        let at = |row: usize, col: usize, i: usize| lines[if i < 1280 { col } else { row } * 1280 + i % 1280];
        for (row, col, i, want) in [
            (1, 2, 0, 0.909_297_4),
            (1, 2, 1, 0.920_816_5),
            (1, 2, 639, 0.000_202_9),
            (1, 2, 640, -0.416_146_8),
            (1, 2, 641, -0.389_996_2),
            (1, 2, 1279, 1.0),
            (1, 2, 1280, 0.841_471),
            (1, 2, 1281, 0.833_665_5),
            (1, 2, 1919, 0.000_101_4),
            (1, 2, 1920, 0.540_302_3),
            (31, 69, 0, -0.114_784_8),
            (31, 69, 640, 0.993_390_4),
            (31, 69, 1280, -0.404_037_6),
            (31, 69, 1920, 0.914_742_4),
        ] {
            assert!((at(row, col, i) - want).abs() < 1e-6, "({row}, {col})[{i}] is {}", at(row, col, i));
        }
    }
}
