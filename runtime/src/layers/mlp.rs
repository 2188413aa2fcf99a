//! The gated feed-forward: `x += attention`, then `x += W_down (silu(W_gate h) ⊙ (W_up h))` with `h = norm(x)`.

use super::Pass;
use crate::RuntimeError;
use crate::nn::{Linear, Norm};
use crate::weights::Loader;

/// SwiGLU feed-forward of one layer, without biases.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Mlp {
    pub(crate) fn load(loader: &mut Loader<'_>, il: usize) -> Result<Self, RuntimeError> {
        let (n_embd, n_ff) = (loader.config().n_embd, loader.config().n_ff);
        Ok(Self {
            gate: Linear::of(loader.matrix(&format!("blk.{il}.ffn_gate.weight"), n_ff, n_embd)?),
            up: Linear::of(loader.matrix(&format!("blk.{il}.ffn_up.weight"), n_ff, n_embd)?),
            down: Linear::of(loader.matrix(&format!("blk.{il}.ffn_down.weight"), n_embd, n_ff)?),
        })
    }

    /// Adds what attention left in `ws.h` to the residual stream, and then the feed-forward of that, normed.
    pub(crate) fn run(&self, norm: &Norm, pass: &mut Pass<'_>) -> Result<(), RuntimeError> {
        let n = pass.n;
        let (n_embd, n_ff) = (pass.config.n_embd, pass.config.n_ff);
        let (engine, ws) = (pass.engine, &mut *pass.ws);
        let (x, h) = (&mut ws.x[..n * n_embd], &mut ws.h[..n * n_embd]);
        engine.prepare_made(&mut ws.acts, h, x, None, &[&self.gate, &self.up], |_, h, x| {
            engine.add_row(x, h);
            engine.norm_row(norm, x, h);
        })?;
        engine.gated(&self.gate, &self.up, &ws.acts, &mut ws.ff[..n * n_ff])?;
        engine.prepare(&mut ws.acts, &mut ws.ff[..n * n_ff], None, &[&self.down])?;
        engine.multiply(&ws.acts, &mut [(&self.down, &mut ws.h[..n * n_embd])])?;
        engine.add(&mut ws.x[..n * n_embd], &ws.h[..n * n_embd])
    }
}
