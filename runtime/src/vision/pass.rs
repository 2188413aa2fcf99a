//! One batch of slices on one step of its way through a graph, and the buffers it uses.

use std::mem::size_of;
use std::ops::Range;

use ocelli_kernels::{FEW_TOKENS, Precision, SpanScratch};

use super::{Positions, VisionConfig, VisionProbe};
use crate::RuntimeError;
use crate::memory::{self, Floats};
use crate::nn::{Engine, Inputs};
use ocelli_image::Rgb8;

/// A slice of the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slice<'s> {
    pub(crate) pixels: &'s Rgb8,
    /// Patches from top to bottom.
    pub(crate) rows: usize,
    /// Patches from left to right.
    pub(crate) cols: usize,
    /// Its first row in the batch.
    pub(crate) first: usize,
}

impl Slice<'_> {
    /// Patches.
    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }
}

/// Rows of a product, at least. Products of few rows take another path through the kernels, with another order of sums;
/// smaller batches get rows of zeros, so that a slice's result never depends on its batch.
pub(crate) const MIN_ROWS: usize = FEW_TOKENS + 1;

/// All slices of a batch together, for one step.
pub(crate) struct Pass<'p> {
    pub(crate) engine: Engine<'p>,
    pub(crate) config: &'p VisionConfig,
    pub(crate) positions: Positions,
    /// What the graph computed when the encoder was made.
    pub(crate) constants: &'p [f32],
    pub(crate) ws: &'p mut Workspace,
    /// What the step before left.
    pub(crate) residual: &'p mut Residual,
    pub(crate) slices: &'p [Slice<'p>],
    /// Rows of the tower: the patches of all slices, at least [`MIN_ROWS`].
    pub(crate) n: usize,
    /// Results, slices × `query_num` × `projection_dim`.
    pub(crate) out: &'p mut [f32],
    pub(crate) probe: Option<&'p mut (dyn VisionProbe + 'p)>,
    /// Number of the first slice, as the probe is told it.
    pub(crate) number: usize,
}

impl Pass<'_> {
    /// The rows of every slice in the tower.
    pub(crate) fn patch_rows(&self) -> Vec<Range<usize>> {
        self.slices.iter().map(|s| s.first..s.first + s.len()).collect()
    }

    /// The rows of every slice in the results.
    pub(crate) fn result_rows(&self) -> Vec<Range<usize>> {
        let n = self.config.query_num;
        (0..self.slices.len()).map(|i| i * n..(i + 1) * n).collect()
    }

    /// Rows of results, at least [`MIN_ROWS`].
    pub(crate) fn out_rows(&self) -> usize {
        (self.slices.len() * self.config.query_num).max(MIN_ROWS)
    }

    /// Shows the probe the tower's result, which lies in `h`.
    pub(crate) fn show_tower(&mut self) {
        let (width, h) = (self.config.n_embd, &self.residual.h);
        let Some(probe) = self.probe.as_deref_mut() else { return };
        for (i, slice) in self.slices.iter().enumerate() {
            let rows = &h[slice.first * width..(slice.first + slice.len()) * width];
            probe.vit(self.number + i, slice.rows, slice.cols, rows);
        }
    }
}

/// What helps when the buffers do not fit.
const SMALLER: &str = "close other programs, or have pictures cut into fewer slices (--image-max-slices 1)";

/// What a batch keeps from one step of a graph to the next.
#[derive(Debug, Default)]
pub(crate) struct Residual {
    /// Residual stream, `[n, n_embd]`.
    pub(crate) x: Floats,
    /// Normed rows, and results on their way into `x`; `[n, n_embd]` or `[out_rows, projection_dim]`.
    pub(crate) h: Floats,
}

impl Residual {
    /// Makes room for `n` rows of the tower and `out` rows of results.
    ///
    /// # Errors
    /// When it does not fit into the memory available.
    pub(crate) fn reserve(&mut self, config: &VisionConfig, n: usize, out: usize) -> Result<(), RuntimeError> {
        let wanted = [n * config.n_embd, result_len(config, n, out)];
        grow([&mut self.x, &mut self.h], wanted, 0, n)
    }
}

/// Scratch of a step, grown to the largest batch so far.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// Queries, `[n, n_embd]`.
    pub(crate) q: Floats,
    /// Keys, `[n, n_embd]` or `[n, projection_dim]`.
    pub(crate) k: Floats,
    /// Values, like the keys.
    pub(crate) v: Floats,
    /// Attention results, like [`Residual::h`].
    pub(crate) attn: Floats,
    /// Patches, the inside of the feed-forward or the projected rows, `[n, …]`.
    pub(crate) ff: Floats,
    /// Input of the matrix products, in the forms they take.
    pub(crate) acts: Inputs,
    /// Attention's own.
    pub(crate) spans: SpanScratch,
}

impl Workspace {
    /// Makes room for `n` rows of the tower and `out` rows of results.
    ///
    /// # Errors
    /// When it does not fit into the memory available.
    pub(crate) fn reserve(
        &mut self,
        config: &VisionConfig,
        precision: Precision,
        n: usize,
        out: usize,
    ) -> Result<(), RuntimeError> {
        let (embd, dim) = (config.n_embd, config.projection_dim);
        let wide = config.n_ff.max(config.patch_len()).max(dim);
        let result = result_len(config, n, out);
        let wanted = [n * embd, (n * embd.max(dim)).max(out * dim), n * embd.max(dim), result, n * wide];
        let acts = match precision {
            Precision::Exact => n * wide * size_of::<f32>(),
            // Codes of 8 and of 16 bits; what is kept out of them is at most an eighth.
            Precision::Fast => n * wide * 3 + n * wide / 8 * size_of::<f32>(),
        };
        grow([&mut self.q, &mut self.k, &mut self.v, &mut self.attn, &mut self.ff], wanted, acts, n)
    }
}

/// Values of the larger of the tower's result and the resampler's. Widths are below 2²⁰ and rows below 2¹⁴·2⁶: nothing
/// overflows, here nor in the sizes of the other buffers.
fn result_len(config: &VisionConfig, n: usize, out: usize) -> usize {
    (n * config.n_embd).max(out * config.projection_dim)
}

/// Makes `buffers` as long as `wanted` where they are shorter, for `n` patches. `more` bytes will be needed besides.
fn grow<const N: usize>(
    buffers: [&mut Floats; N],
    wanted: [usize; N],
    more: usize,
    n: usize,
) -> Result<(), RuntimeError> {
    let missing: usize = buffers.iter().zip(wanted).map(|(b, n)| n.saturating_sub(b.len())).sum();
    if missing == 0 {
        return Ok(());
    }
    let bytes = (missing * size_of::<f32>() + more) as u64;
    let what = || format!("the workspace for {n} image patches");
    memory::check_or(what(), Some(bytes), SMALLER)?;
    for (buffer, floats) in buffers.into_iter().zip(wanted) {
        if buffer.len() < floats {
            *buffer = Floats::new(floats).ok_or_else(|| memory::too_little(what(), bytes, SMALLER))?;
        }
    }
    Ok(())
}
