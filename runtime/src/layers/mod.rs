//! The pieces layers are made of: plain functions over one workspace.
//!
//! A [`Pass`] carries the rows of one batch through all layers. Every buffer it uses belongs to the
//! [`Workspace`], which is sized when a context is made, so running a pass allocates nothing.

mod attention;
mod mlp;
mod workspace;

pub(crate) use attention::Attention;
pub(crate) use mlp::Mlp;
pub(crate) use workspace::Workspace;

use crate::batch::Batch;
use crate::kv::{KvPool, Queries};
use crate::nn::Engine;
use crate::rope::Rope;
use crate::{Config, RuntimeError};

/// Sees the residual stream after every layer; for comparison with other implementations.
pub trait LayerProbe {
    /// `rows` is `[n, n_embd]`: the residual stream after layer `il` for `n` positions from `first` on.
    fn layer(&mut self, il: usize, first: usize, rows: &[f32]);
}

/// A batch on its way through the layers.
pub(crate) struct Pass<'p> {
    pub(crate) config: &'p Config,
    pub(crate) engine: Engine<'p>,
    pub(crate) ws: &'p mut Workspace,
    pub(crate) kv: &'p mut KvPool,
    pub(crate) rope: &'p Rope,
    pub(crate) batch: &'p Batch,
    /// Rows that are still computed: all of the batch, or those whose logits are wanted.
    pub(crate) n: usize,
    /// Rows of the others are needed to the end, for a probe.
    pub(crate) keep_all: bool,
    /// The others have been dropped.
    pub(crate) dropped: bool,
}

impl Pass<'_> {
    /// Computes the rotations of this batch's positions, once for all layers.
    pub(crate) fn prepare_rope(&mut self) {
        self.rope.fill(self.batch.positions(), &mut self.ws.rope[..self.n * self.config.rope.n_rot]);
    }

    /// Turns queries and keys to their positions.
    pub(crate) fn rope(&mut self) -> Result<(), RuntimeError> {
        let (n, c, ws) = (self.n, self.config, &mut *self.ws);
        let rows = &ws.rope[..n * c.rope.n_rot];
        self.engine.rope(&mut ws.q[..n * c.q_width()], c.n_head, c.head_dim, rows)?;
        self.engine.rope(&mut ws.k[..n * c.kv_width()], c.n_head_kv, c.head_dim, rows)
    }

    /// Writes keys and values to the cache.
    pub(crate) fn store(&mut self, il: usize) -> Result<(), RuntimeError> {
        let len = self.n * self.config.kv_width();
        self.kv.store(&self.engine, il, self.batch, &self.ws.k[..len], &self.ws.v[..len])
    }

    /// Attention of every query over the positions of its conversation up to its own.
    pub(crate) fn attend(&mut self, il: usize) -> Result<(), RuntimeError> {
        let (len, ws) = (self.n * self.config.q_width(), &mut *self.ws);
        let segments = if self.dropped { &self.batch.ends } else { &self.batch.segments };
        let queries = Queries { q: &ws.q[..len], n_head: self.config.n_head, segments, blocks: &self.batch.blocks };
        self.kv.attend(&self.engine, il, queries, &mut ws.scratch, &mut ws.attn[..len])
    }

    /// In the last layer, once keys and values are stored: drops the rows whose results nobody wants.
    pub(crate) fn keep_wanted(&mut self, il: usize) {
        if il + 1 == self.config.n_layer && !self.keep_all {
            let c = self.config;
            self.batch.gather(&mut self.ws.x, c.n_embd);
            self.batch.gather(&mut self.ws.q, c.q_width());
            self.n = self.batch.n_wanted();
            self.dropped = true;
        }
    }
}
