//! The gated feed-forward: `x += W_down (silu(W_gate h) ⊙ (W_up h))`.

use super::Pass;
use crate::RuntimeError;
use crate::weights::{Loader, Matrix};

/// SwiGLU feed-forward of one layer, without biases.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Mlp {
    pub(crate) fn load(loader: &mut Loader<'_>, il: usize) -> Result<Self, RuntimeError> {
        let (n_embd, n_ff) = (loader.config().n_embd, loader.config().n_ff);
        Ok(Self {
            gate: loader.matrix(&format!("blk.{il}.ffn_gate.weight"), n_ff, n_embd)?,
            up: loader.matrix(&format!("blk.{il}.ffn_up.weight"), n_ff, n_embd)?,
            down: loader.matrix(&format!("blk.{il}.ffn_down.weight"), n_embd, n_ff)?,
        })
    }

    /// Adds the feed-forward of the normed rows to the residual stream.
    pub(crate) fn run(&self, pass: &mut Pass<'_>) -> Result<(), RuntimeError> {
        let n = pass.n;
        let (n_embd, n_ff) = (pass.config.n_embd, pass.config.n_ff);
        let (engine, ws) = (pass.engine, &mut *pass.ws);
        engine.prepare(&mut ws.acts, &ws.h[..n * n_embd], n, &[&self.gate, &self.up])?;
        engine.gated(&self.gate, &self.up, &ws.acts, &mut ws.ff[..n * n_ff])?;
        engine.prepare(&mut ws.acts, &ws.ff[..n * n_ff], n, &[&self.down])?;
        engine.multiply(&ws.acts, &mut [(&self.down, &mut ws.h[..n * n_embd])])?;
        engine.add(&mut ws.x[..n * n_embd], &ws.h[..n * n_embd])
    }
}
