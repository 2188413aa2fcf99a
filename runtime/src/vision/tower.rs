//! A SigLIP-shaped vision tower: patches, learned positions, pre-norm blocks with full attention, a norm at the end.
//!
//! ```text
//! x = patch_embd · patch + bias + position_embd[bucket(row)·grid + bucket(column)]
//! x += attn_out · attention(ln1(x)) + bias        n_head heads, every patch of a slice sees every other
//! x += fc2 · gelu(fc1 · ln2(x) + bias) + bias     tanh-GELU
//! h = post_ln(x)
//! ```

use ocelli_kernels::{AttnSpan, SpanHeads};

use super::VisionConfig;
use super::parts::Parts;
use super::pass::{Pass, Slice};
use crate::RuntimeError;
use crate::nn::{Keep, LIMIT, LIMIT_GELU, Linear, Norm};
use crate::weights::Vector;

/// Largest accepted grid of learned positions: as many rows as a table can have.
const MAX_GRID: u64 = 4096;

#[derive(Debug)]
struct Block {
    ln1: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    ln2: Norm,
    fc1: Linear,
    fc1_bias: Vector,
    fc2: Linear,
}

/// The tensors of a tower.
#[derive(Debug)]
pub(crate) struct Tower {
    patch_embd: Linear,
    position_embd: Linear,
    blocks: Vec<Block>,
    post_ln: Norm,
}

impl Tower {
    /// Takes the tensors `v.*`, and the size of the position grid into `config`.
    pub(crate) fn load(parts: &mut Parts<'_, '_>, config: &mut VisionConfig) -> Result<Self, RuntimeError> {
        let (n_embd, patch) = (config.n_embd, config.patch_size);
        let patch_embd = parts.convolution("v.patch_embd", &[patch, patch, 3, n_embd])?;
        config.grid = grid(parts, n_embd)?;
        let position_embd = parts.table("v.position_embd.weight", config.grid * config.grid, n_embd)?;
        // Every block must find its tensors in the file, so a false block count ends at the first one missing.
        let mut blocks = Vec::new();
        for il in 0..config.n_layer {
            blocks.push(Block::load(parts, config, il)?);
        }
        let post_ln = parts.norm("v.post_ln", n_embd, config.layer_norm_eps)?;
        Ok(Self { patch_embd, position_embd, blocks, post_ln })
    }

    /// Numbers that [`Tower::step`] takes: one per block.
    pub(crate) fn steps(&self) -> usize {
        self.blocks.len()
    }

    /// One block. What it adds to the residual stream last stays in `h`, for the next step to add.
    pub(crate) fn step(&self, pass: &mut Pass<'_>, number: usize) -> Result<(), RuntimeError> {
        let before = number.checked_sub(1).map(|before| &self.blocks[before].fc2);
        self.blocks[number].run(pass, before)
    }

    /// Leaves the normed result of all slices in `h`.
    pub(crate) fn finish(&self, pass: &mut Pass<'_>) -> Result<(), RuntimeError> {
        let len = pass.n * pass.config.n_embd;
        let (x, h) = (&mut pass.residual.x[..len], &mut pass.residual.h[..len]);
        if let Some(block) = self.blocks.last() {
            pass.engine.add_biased(&block.fc2, x, h)?;
        }
        pass.engine.norm(&self.post_ln, x, h)
    }

    /// Patches and positions into the residual stream.
    pub(crate) fn embed(&self, pass: &mut Pass<'_>) -> Result<(), RuntimeError> {
        let (c, engine, n, ws) = (pass.config, pass.engine, pass.n, &mut *pass.ws);
        let (patch_len, len) = (c.patch_len(), n * c.n_embd);
        let (x, h) = (&mut pass.residual.x[..len], &mut pass.residual.h[..len]);
        let patches = &mut ws.ff[..n * patch_len];
        let used: usize = pass.slices.iter().map(Slice::len).sum();
        let mut ids = Vec::with_capacity(n);
        let values = pixel_values(c);
        for slice in pass.slices {
            cut(slice, c.patch_size, &values, &mut patches[slice.first * patch_len..]);
            let rows = pass.positions.buckets(slice.rows, c.grid)?;
            let cols = pass.positions.buckets(slice.cols, c.grid)?;
            // A grid has at most 2²⁴ cells.
            ids.extend(rows.iter().flat_map(|r| cols.iter().map(move |col| (r * c.grid + col) as u32)));
        }
        patches[used * patch_len..].fill(0.0);
        ids.resize(n, 0);
        engine.prepare(&mut ws.acts, patches, None, &[&self.patch_embd])?;
        engine.multiply(&ws.acts, &mut [(&self.patch_embd, &mut *x)])?;
        engine.look_up(&self.position_embd, &ids, h)?;
        engine.add_biased(&self.patch_embd, x, h)
    }
}

impl Block {
    fn load(parts: &mut Parts<'_, '_>, config: &VisionConfig, il: usize) -> Result<Self, RuntimeError> {
        let (n_embd, n_ff) = (config.n_embd, config.n_ff);
        let name = |part: &str| format!("v.blk.{il}.{part}");
        // Converters of this family have always called the first, widening matrix `ffn_down`. Shapes tell.
        let swapped = parts.dims(&name("ffn_down.weight"))?.first() == Some(&(n_embd as u64));
        let (first, second) = if swapped { ("ffn_down", "ffn_up") } else { ("ffn_up", "ffn_down") };
        let mut fc1 = parts.linear(&name(first), n_ff, n_embd)?;
        let missing = || RuntimeError::MissingTensor { name: name(&format!("{first}.bias")) };
        let fc1_bias = fc1.bias.take().ok_or_else(missing)?;
        Ok(Self {
            ln1: parts.norm(&name("ln1"), n_embd, config.layer_norm_eps)?,
            q: parts.linear(&name("attn_q"), n_embd, n_embd)?,
            k: parts.linear(&name("attn_k"), n_embd, n_embd)?,
            v: parts.linear(&name("attn_v"), n_embd, n_embd)?,
            out: parts.linear(&name("attn_out"), n_embd, n_embd)?,
            ln2: parts.norm(&name("ln2"), n_embd, config.layer_norm_eps)?,
            fc1,
            fc1_bias,
            fc2: parts.linear(&name(second), n_embd, n_ff)?,
        })
    }

    /// Leaves the last product in `h`, without its bias: whoever reads the residual stream next adds it. That product of
    /// the block before is one with `before`.
    fn run(&self, pass: &mut Pass<'_>, before: Option<&Linear>) -> Result<(), RuntimeError> {
        let spans: Vec<AttnSpan> =
            pass.slices.iter().map(|s| AttnSpan { q: s.first, n_q: s.len(), kv: s.first, n_kv: s.len() }).collect();
        let slices = &pass.patch_rows();
        let (c, engine, n, ws) = (pass.config, pass.engine, pass.n, &mut *pass.ws);
        let (len, wide) = (n * c.n_embd, n * c.n_ff);
        let keep = Some(Keep { slices, limit: LIMIT });
        let (x, h) = (&mut pass.residual.x[..len], &mut pass.residual.h[..len]);
        let (q, k, v) = (&mut ws.q[..len], &mut ws.k[..len], &mut ws.v[..len]);
        engine.prepare_made(&mut ws.acts, h, x, keep, &[&self.q, &self.k, &self.v], |_, h, x| {
            if let Some(linear) = before {
                engine.add_biased_row(linear, x, h);
            }
            engine.norm_row(&self.ln1, x, h);
        })?;
        engine.multiply(&ws.acts, &mut [(&self.q, &mut *q), (&self.k, &mut *k), (&self.v, &mut *v)])?;
        for (linear, rows) in [(&self.q, &mut *q), (&self.k, &mut *k), (&self.v, &mut *v)] {
            engine.add_bias(linear, rows)?;
        }
        let heads = SpanHeads { n_heads: c.n_head, head_dim: c.head_dim(), scale: 1.0 / (c.head_dim() as f32).sqrt() };
        let used: usize = spans.iter().map(|s| s.n_q).sum::<usize>() * c.n_embd;
        let (attn, rest) = ws.attn[..len].split_at_mut(used);
        engine.attend(&mut ws.spans, heads, &spans, q, k, v, attn)?;
        rest.fill(0.0);
        engine.prepare(&mut ws.acts, &mut ws.attn[..len], keep, &[&self.out])?;
        engine.multiply(&ws.acts, &mut [(&self.out, &mut *h)])?;
        engine.prepare_made(&mut ws.acts, h, x, keep, &[&self.fc1], |_, h, x| {
            engine.add_biased_row(&self.out, x, h);
            engine.norm_row(&self.ln2, x, h);
        })?;
        let ff = &mut ws.ff[..wide];
        engine.multiply(&ws.acts, &mut [(&self.fc1, &mut *ff)])?;
        engine.prepare_made(
            &mut ws.acts,
            ff,
            &mut [],
            Some(Keep { slices, limit: LIMIT_GELU }),
            &[&self.fc2],
            |_, ff, _| {
                engine.gelu_row(&self.fc1_bias, ff);
            },
        )?;
        engine.multiply(&ws.acts, &mut [(&self.fc2, h)])
    }
}

/// The side of the square of learned positions.
fn grid(parts: &Parts<'_, '_>, n_embd: usize) -> Result<usize, RuntimeError> {
    let name = "v.position_embd.weight";
    let dims = parts.dims(name)?;
    let cells = dims.get(1).copied().unwrap_or(0);
    let side = cells.isqrt();
    if side == 0 || side > MAX_GRID || side * side != cells {
        return Err(RuntimeError::TensorShape {
            name: name.to_owned(),
            found: format!("{{{}}}", dims.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
            expected: format!("{{{n_embd}, a square number of positions up to {}}}", MAX_GRID * MAX_GRID),
        });
    }
    // At most 4096.
    Ok(side as usize)
}

/// The value of every byte in every colour: `(byte / 255 − mean) / std`, rounded as the reference rounds it.
fn pixel_values(config: &VisionConfig) -> [[f32; 256]; 3] {
    std::array::from_fn(|colour| {
        let (mean, std) = (config.image_mean[colour], config.image_std[colour]);
        std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std)
    })
}

/// Cuts a slice into patches, row by row: each is `[colour][y][x]`, as a convolution's kernel is stored.
fn cut(slice: &Slice<'_>, size: usize, values: &[[f32; 256]; 3], out: &mut [f32]) {
    let stride = slice.pixels.width() * 3;
    let data = slice.pixels.data();
    for (number, patch) in out.chunks_exact_mut(3 * size * size).take(slice.len()).enumerate() {
        let (row, col) = (number / slice.cols, number % slice.cols);
        for (y, line) in patch.chunks_exact_mut(size).enumerate() {
            let (colour, y) = (y / size, y % size);
            let from = (row * size + y) * stride + col * size * 3 + colour;
            for (value, byte) in line.iter_mut().zip(data[from..].iter().step_by(3)) {
                *value = values[colour][usize::from(*byte)];
            }
        }
    }
}
