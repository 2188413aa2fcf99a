//! All buffers a pass uses.

use ocelli_kernels::{ActNeeds, AttnScratch, Precision};

use crate::memory::{self, Floats};
use crate::nn::Inputs;
use crate::weights::Weights;
use crate::{Config, RuntimeError};

/// Rows of logits computed at a time, at least: those of an evaluation come in hundreds.
pub(crate) const LOGIT_ROWS: usize = 32;

/// Buffers for micro-batches of up to `n_ubatch` rows.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Residual stream, `[n, n_embd]`.
    pub(crate) x: Floats,
    /// Normed rows, and results on their way into `x`, `[n, n_embd]`.
    pub(crate) h: Floats,
    /// Queries, `[n, q_width]`.
    pub(crate) q: Floats,
    /// Keys, `[n, kv_width]`.
    pub(crate) k: Vec<f32>,
    /// Values, `[n, kv_width]`.
    pub(crate) v: Vec<f32>,
    /// Attention results, `[n, q_width]`.
    pub(crate) attn: Floats,
    /// Inside of the feed-forward, `[n, n_ff]`.
    pub(crate) ff: Floats,
    /// (Cosine, sine) pairs of the positions, `[n, n_rot]`.
    pub(crate) rope: Vec<f32>,
    /// Logits of some rows, `[LOGIT_ROWS, n_vocab]`.
    pub(crate) logits: Vec<f32>,
    /// Input of the matrix products, in the forms they take.
    pub(crate) acts: Inputs,
    /// Attention's own.
    pub(crate) scratch: AttnScratch,
}

impl Workspace {
    fn logit_rows(n: usize, n_parallel: usize) -> usize {
        LOGIT_ROWS.max(n_parallel).min(n)
    }

    /// Bytes for micro-batches of `n` rows of up to `n_parallel` sequences; `None` beyond 64 bits.
    pub(crate) fn bytes(config: &Config, n: usize, n_parallel: usize) -> Option<u64> {
        let (q, kv) = (config.q_width(), config.kv_width());
        let widest = config.n_embd.max(config.n_ff).max(q);
        let per_row = [config.n_embd, config.n_embd, q, q, kv, kv, config.n_ff, config.rope.n_rot, 2 * widest];
        let floats = per_row.iter().try_fold(0u64, |sum, w| sum.checked_add(*w as u64))?;
        let logits = Self::logit_rows(n, n_parallel) as u64 * config.n_vocab as u64;
        floats.checked_mul(n as u64)?.checked_add(logits)?.checked_mul(4)
    }

    /// Allocates everything for micro-batches of `n` rows of up to `n_parallel` sequences of `n_ctx` positions each.
    ///
    /// # Errors
    /// When it does not fit into the memory available.
    pub(crate) fn new(
        config: &Config,
        weights: &Weights,
        precision: Precision,
        n: usize,
        n_parallel: usize,
        n_ctx: usize,
    ) -> Result<Self, RuntimeError> {
        let (q, kv) = (config.q_width(), config.kv_width());
        let widest = config.n_embd.max(config.n_ff).max(q);
        let logits = Self::logit_rows(n, n_parallel);
        let bytes = Self::bytes(config, n, n_parallel);
        let what = || format!("the workspace for micro-batches of {n} tokens");
        memory::check(what(), bytes)?;
        let floats = |n| Floats::new(n).ok_or_else(|| memory::too_large(what(), bytes.unwrap_or(u64::MAX)));
        let needs = ActNeeds::new(precision, weights.types());
        Ok(Self {
            x: floats(n * config.n_embd)?,
            h: floats(n * config.n_embd)?,
            q: floats(n * q)?,
            k: vec![0.0; n * kv],
            v: vec![0.0; n * kv],
            attn: floats(n * q)?,
            ff: floats(n * config.n_ff)?,
            rope: vec![0.0; n * config.rope.n_rot],
            logits: vec![0.0; logits * config.n_vocab],
            acts: Inputs::with_capacity(n, widest.next_multiple_of(256), needs),
            scratch: AttnScratch::with_capacity(config.n_head, config.head_dim, n_ctx, n),
        })
    }
}
