//! Grouped-query attention over the paged cache: `W_o attn(rope(W_q h), rope(W_k h), W_v h)` with `h = norm(x)`, which the
//! feed-forward adds to `x`.

use super::Pass;
use crate::RuntimeError;
use crate::nn::{Linear, Norm};
use crate::weights::Loader;

/// Attention of one layer.
#[derive(Debug)]
pub(crate) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
}

impl Attention {
    pub(crate) fn load(loader: &mut Loader<'_>, il: usize) -> Result<Self, RuntimeError> {
        let config = loader.config();
        let (n_embd, q_width, kv_width) = (config.n_embd, config.q_width(), config.kv_width());
        Ok(Self {
            q: Linear::load(loader, &format!("blk.{il}.attn_q"), q_width, n_embd)?,
            k: Linear::load(loader, &format!("blk.{il}.attn_k"), kv_width, n_embd)?,
            v: Linear::load(loader, &format!("blk.{il}.attn_v"), kv_width, n_embd)?,
            o: Linear::load(loader, &format!("blk.{il}.attn_output"), n_embd, q_width)?,
        })
    }

    /// Stores keys and values of the residual stream, normed, and leaves the attention over all positions so far in `ws.h`,
    /// which is to be added to it. In the last layer only the rows whose logits are wanted go on from there.
    pub(crate) fn run(&self, il: usize, norm: &Norm, pass: &mut Pass<'_>) -> Result<(), RuntimeError> {
        let n = pass.n;
        let (n_embd, q_width, kv_width) = (pass.config.n_embd, pass.config.q_width(), pass.config.kv_width());
        let (engine, ws) = (pass.engine, &mut *pass.ws);
        let (q, k, v) = (&mut ws.q[..n * q_width], &mut ws.k[..n * kv_width], &mut ws.v[..n * kv_width]);
        let (x, h, readers) = (&mut ws.x[..n * n_embd], &mut ws.h[..n * n_embd], [&self.q, &self.k, &self.v]);
        engine.prepare_made(&mut ws.acts, h, x, None, &readers, |_, h, x| {
            engine.norm_row(norm, x, h);
        })?;
        engine.multiply(&ws.acts, &mut [(&self.q, &mut *q), (&self.k, &mut *k), (&self.v, &mut *v)])?;
        for (linear, rows) in [(&self.q, &mut *q), (&self.k, &mut *k), (&self.v, &mut *v)] {
            engine.add_bias(linear, rows)?;
        }
        pass.rope()?;
        pass.store(il)?;
        pass.keep_wanted(il);
        pass.attend(il)?;
        let (n, ws) = (pass.n, &mut *pass.ws);
        engine.prepare(&mut ws.acts, &mut ws.attn[..n * q_width], None, &[&self.o])?;
        engine.multiply(&ws.acts, &mut [(&self.o, &mut ws.h[..n * n_embd])])?;
        engine.add_bias(&self.o, &mut ws.h[..n * n_embd])
    }
}
