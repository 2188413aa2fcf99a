//! The pieces layers are made of: plain functions over one workspace.
//!
//! A [`Pass`] carries the rows of one micro-batch through all layers. Every buffer it uses belongs to the
//! [`Workspace`], which is sized when a context is made, so running a pass allocates nothing.

mod attention;
mod mlp;
mod workspace;

pub(crate) use attention::Attention;
pub(crate) use mlp::Mlp;
pub(crate) use workspace::Workspace;

use crate::kv::{BlockTable, KvCache, Queries};
use crate::nn::Engine;
use crate::rope::Rope;
use crate::{Config, RuntimeError};

/// Sees the residual stream after every layer; for comparison with other implementations.
pub trait LayerProbe {
    /// `rows` is `[n, n_embd]`: the residual stream after layer `il` for `n` positions from `first` on.
    fn layer(&mut self, il: usize, first: usize, rows: &[f32]);
}

/// One micro-batch on its way through the layers.
pub(crate) struct Pass<'p> {
    pub(crate) config: &'p Config,
    pub(crate) engine: Engine<'p>,
    pub(crate) ws: &'p mut Workspace,
    pub(crate) kv: &'p mut KvCache,
    pub(crate) table: &'p BlockTable,
    pub(crate) rope: &'p Rope,
    /// Position of the first row.
    pub(crate) first: usize,
    /// Rows.
    pub(crate) n: usize,
    /// The first row whose result is wanted; `n` when none is.
    pub(crate) wanted: usize,
    /// Rows before the wanted ones are needed to the end, for a probe.
    pub(crate) keep_all: bool,
}

impl Pass<'_> {
    /// Computes the rotations of this batch's positions, once for all layers.
    pub(crate) fn prepare_rope(&mut self) {
        self.rope.fill(self.first, &mut self.ws.rope[..self.n * self.config.rope.n_rot]);
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
        self.kv.store(&self.engine, self.table, il, self.first, &self.ws.k[..len], &self.ws.v[..len])
    }

    /// Attention of the queries over all positions up to their own.
    pub(crate) fn attend(&mut self, il: usize) -> Result<(), RuntimeError> {
        let (len, ws) = (self.n * self.config.q_width(), &mut *self.ws);
        let queries = Queries { q: &ws.q[..len], n_head: self.config.n_head, first: self.first };
        self.kv.attend(&self.engine, self.table, il, queries, &mut ws.scratch, &mut ws.attn[..len])
    }

    /// In the last layer, once keys and values are stored: drops the rows whose results nobody wants.
    pub(crate) fn keep_wanted(&mut self, il: usize) {
        if il + 1 != self.config.n_layer || self.keep_all || self.wanted == 0 {
            return;
        }
        let (from, c) = (self.wanted, self.config);
        self.ws.x.copy_within(from * c.n_embd..self.n * c.n_embd, 0);
        self.ws.q.copy_within(from * c.q_width()..self.n * c.q_width(), 0);
        self.first += from;
        self.n -= from;
        self.wanted = 0;
    }
}
