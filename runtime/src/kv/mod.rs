//! The KV cache: keys and values of past positions, in blocks.
//!
//! ```text
//! layer l, K:   | block 0                                   | block 1 …
//!               | head 0: 64 rows of head_dim | head 1: …   |
//! layer l, V:   the same
//! ```
//!
//! A row is one position's key (or value) of one head, stored as F16 (default), F32 or Q8_0; F16 is kept as codes where
//! attention multiplies such, but leaves and comes as F16. Memory is mapped anonymously: the system provides a page when a
//! position in it is first written.

mod blocks;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;

use memmap2::MmapMut;
use ocelli_kernels::{AttnScratch, AttnShape, Kernels, KvLayout, KvPart, KvView, Precision, attention};
use ocelli_quant::GgmlType;

pub(crate) use blocks::BlockPool;
pub use blocks::{BLOCK_LEN, BlockTable};

use crate::nn::Engine;
use crate::{Config, RuntimeError, memory};

/// The formats a cache can have.
pub const KV_TYPES: [GgmlType; 3] = [GgmlType::F16, GgmlType::F32, GgmlType::Q8_0];

/// Shape and formats of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub n_layer: usize,
    /// Key (and value) heads.
    pub n_head_kv: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Format of the keys.
    pub type_k: GgmlType,
    /// Format of the values.
    pub type_v: GgmlType,
    /// Positions, rounded up to whole blocks.
    pub n_ctx: usize,
}

impl KvShape {
    /// The shape for `n_ctx` positions of a model.
    #[must_use]
    pub fn of(config: &Config, n_ctx: usize, type_k: GgmlType, type_v: GgmlType) -> Self {
        let n_ctx = n_ctx.div_ceil(BLOCK_LEN).saturating_mul(BLOCK_LEN);
        Self { n_layer: config.n_layer, n_head_kv: config.n_head_kv, head_dim: config.head_dim, type_k, type_v, n_ctx }
    }

    fn row_bytes(&self, ty: GgmlType) -> Result<usize, RuntimeError> {
        if !KV_TYPES.contains(&ty) {
            let known: Vec<_> = KV_TYPES.iter().map(|t| t.name().to_lowercase()).collect();
            let problem = format!("{} is no format of the KV cache; known are {}", ty.name(), known.join(", "));
            return Err(RuntimeError::Option { option: "-ctk/-ctv", problem });
        }
        ty.row_bytes(self.head_dim).map_err(|_| RuntimeError::KvType {
            ty: ty.name(),
            block: ty.block_len(),
            head_dim: self.head_dim,
        })
    }

    /// Bytes of one position's keys and values in all layers.
    ///
    /// # Errors
    /// When a format does not fit the head length.
    pub fn bytes_per_position(&self) -> Result<u64, RuntimeError> {
        let rows = self.n_layer as u64 * self.n_head_kv as u64;
        Ok(rows * (self.row_bytes(self.type_k)? as u64 + self.row_bytes(self.type_v)? as u64))
    }

    /// Bytes of all keys and of all values, when the formats fit and the product does 64 bits.
    ///
    /// # Errors
    /// When a format does not fit the head length.
    pub fn bytes(&self) -> Result<Option<(u64, u64)>, RuntimeError> {
        let rows = [self.n_layer, self.n_head_kv, self.n_ctx].iter().try_fold(1u64, |n, m| n.checked_mul(*m as u64));
        let of = |ty| -> Result<Option<u64>, RuntimeError> {
            let row = self.row_bytes(ty)? as u64;
            Ok(rows.and_then(|n| n.checked_mul(row)))
        };
        Ok(of(self.type_k)?.zip(of(self.type_v)?))
    }
}

/// Where large pages begin.
#[cfg(target_os = "linux")]
const LARGE_FROM: usize = 1 << 20;

/// Query rows `[n, n_head · head_dim]` and the position of the first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queries<'q> {
    pub(crate) q: &'q [f32],
    pub(crate) n_head: usize,
    pub(crate) first: usize,
}

/// Keys or values of one layer, all blocks.
#[derive(Debug)]
struct Plane {
    map: MmapMut,
    /// Bytes of one block: heads × positions × row.
    block_bytes: usize,
}

impl Plane {
    fn new(block_bytes: usize, blocks: usize) -> Result<Self, RuntimeError> {
        let bytes = block_bytes * blocks;
        let map = MmapMut::map_anon(bytes).map_err(|_| memory::too_large("the KV cache".to_owned(), bytes as u64))?;
        // Behind many positions every step reads all of them: large pages need fewer translations of addresses. The first
        // positions stay in small ones, for a large one is cleared as a whole. Advice only.
        #[cfg(target_os = "linux")]
        if bytes > LARGE_FROM {
            let _ = map.advise_range(memmap2::Advice::HugePage, LARGE_FROM, bytes - LARGE_FROM);
        }
        Ok(Self { map, block_bytes })
    }

    fn copy_block(&mut self, from: u32, to: u32) {
        let start = from as usize * self.block_bytes;
        self.map.copy_within(start..start + self.block_bytes, to as usize * self.block_bytes);
    }
}

#[derive(Debug)]
struct LayerKv {
    k: Plane,
    v: Plane,
}

/// The cache of one context. Several sequences may use it, each with its own [`BlockTable`].
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    layout: KvLayout,
    kernels: Kernels,
    layers: Vec<LayerKv>,
    pool: BlockPool,
}

impl KvCache {
    /// Reserves the address space of a cache for `n_head` query heads that attend with these kernels and this precision.
    ///
    /// # Errors
    /// When a format does not fit the head length, or the cache does not fit into the memory available.
    pub fn new(shape: KvShape, kernels: Kernels, precision: Precision, n_head: usize) -> Result<Self, RuntimeError> {
        let what = || format!("the KV cache of {} positions", shape.n_ctx);
        // Rules out what does not fit the formats' own bytes before anything is multiplied.
        memory::check(what(), shape.bytes()?.and_then(|(k, v)| k.checked_add(v)))?;
        let layout = KvLayout::new(shape.type_k, shape.type_v, shape.n_head_kv, shape.head_dim, BLOCK_LEN)?;
        let layout = layout.coded(kernels, precision, n_head / shape.n_head_kv);
        let blocks = shape.n_ctx / BLOCK_LEN;
        let (k, v) = bytes(&shape, &layout);
        memory::check(what(), k.checked_add(v))?;
        let plane = |block_bytes| Plane::new(block_bytes, blocks);
        let layers = (0..shape.n_layer)
            .map(|_| Ok(LayerKv { k: plane(layout.k_block_bytes())?, v: plane(layout.v_block_bytes())? }))
            .collect::<Result<_, RuntimeError>>()?;
        Ok(Self { shape, layout, kernels, layers, pool: BlockPool::new(blocks) })
    }

    /// Bytes of all keys and of all values as they are kept.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        bytes(&self.shape, &self.layout)
    }

    /// Shape and formats.
    #[must_use]
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Blocks in no table.
    #[must_use]
    pub fn n_free_blocks(&self) -> usize {
        self.pool.n_free()
    }

    /// An empty table, with room for as many blocks as the cache has so that growing it never allocates.
    #[must_use]
    pub fn new_table(&self) -> BlockTable {
        BlockTable { blocks: Vec::with_capacity(self.pool.len()), len: 0 }
    }

    /// Makes room for `n` more positions at the end of `table` and counts them as stored. A shared last block is
    /// copied first, so that the other sequences keep theirs.
    ///
    /// # Errors
    /// [`RuntimeError::ContextFull`] when there are not enough free blocks; the table is unchanged then.
    pub fn grow(&mut self, table: &mut BlockTable, n: usize) -> Result<(), RuntimeError> {
        let full =
            RuntimeError::ContextFull { wanted: table.len.saturating_add(n), n_ctx: self.shape.n_ctx, shift: false };
        let Some(len) = table.len.checked_add(n).filter(|len| *len <= self.shape.n_ctx) else { return Err(full) };
        let partial = (!table.len.is_multiple_of(BLOCK_LEN)).then_some(table.len / BLOCK_LEN);
        let copied = partial.filter(|i| n > 0 && self.pool.is_shared(table.blocks[*i]));
        let more = len.div_ceil(BLOCK_LEN) - table.blocks.len();
        if more + usize::from(copied.is_some()) > self.pool.n_free() {
            return Err(full);
        }
        if let Some(i) = copied
            && let Some(own) = self.pool.take()
        {
            for layer in &mut self.layers {
                layer.k.copy_block(table.blocks[i], own);
                layer.v.copy_block(table.blocks[i], own);
            }
            self.pool.release(table.blocks[i]);
            table.blocks[i] = own;
        }
        table.blocks.extend((0..more).filter_map(|_| self.pool.take()));
        table.len = len;
        Ok(())
    }

    /// Writes the keys and values of consecutive positions from `first` on, which [`KvCache::grow`] made room for.
    pub(crate) fn store(
        &mut self,
        engine: &Engine<'_>,
        table: &BlockTable,
        il: usize,
        first: usize,
        k: &[f32],
        v: &[f32],
    ) -> Result<(), RuntimeError> {
        let layer = &mut self.layers[il];
        let (to_k, to_v) = (&mut layer.k.map[..], &mut layer.v.map[..]);
        Ok(self.layout.store(engine.kernels, to_k, to_v, &table.blocks, first, k, v)?)
    }

    /// Causal attention of `queries.q`, whose first row stands at `queries.first`.
    pub(crate) fn attend(
        &self,
        engine: &Engine<'_>,
        table: &BlockTable,
        il: usize,
        queries: Queries<'_>,
        scratch: &mut AttnScratch,
        out: &mut [f32],
    ) -> Result<(), RuntimeError> {
        let layer = &self.layers[il];
        let head_dim = self.shape.head_dim;
        let n = queries.q.len() / (queries.n_head * head_dim);
        let view = KvView::new(self.layout, &layer.k.map, &layer.v.map, &table.blocks, queries.first + n)?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (n_heads, precision) = (queries.n_head, engine.precision);
        let shape = AttnShape { n_heads, pos0: queries.first, scale, causal: true, precision };
        Ok(attention(engine.pool, engine.kernels, scratch, shape, queries.q, &view, out)?)
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, table: &mut BlockTable, len: usize) {
        if len < table.len {
            for block in table.blocks.drain(len.div_ceil(BLOCK_LEN)..) {
                self.pool.release(block);
            }
            table.len = len;
        }
    }

    /// Forgets everything of `table`.
    pub fn clear(&mut self, table: &mut BlockTable) {
        self.truncate(table, 0);
    }

    /// A second table that shares the first `len` positions (at most all) of `table`.
    pub fn fork(&mut self, table: &BlockTable, len: usize) -> BlockTable {
        let mut copy = self.new_table();
        copy.len = len.min(table.len);
        copy.blocks.extend_from_slice(&table.blocks[..copy.len.div_ceil(BLOCK_LEN)]);
        for block in &copy.blocks {
            self.pool.share(*block);
        }
        copy
    }

    /// The first `len` positions of `table` in the cache's formats, run by run: per layer all keys, then all values, each head by
    /// head.
    pub(crate) fn for_each_run(
        &self,
        table: &BlockTable,
        len: usize,
        mut run: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rows = Vec::new();
        for layer in &self.layers {
            for (part, plane) in [(KvPart::Keys, &layer.k), (KvPart::Values, &layer.v)] {
                for (head, n) in runs(table, len, self.shape.n_head_kv, plane.block_bytes) {
                    rows.resize(n * self.layout.stored_row_bytes(part).map_err(io::Error::other)?, 0);
                    self.layout.read_rows(self.kernels, part, &plane.map[head], &mut rows).map_err(io::Error::other)?;
                    run(&rows)?;
                }
            }
        }
        Ok(())
    }

    /// As [`KvCache::for_each_run`], for filling.
    pub(crate) fn for_each_run_mut(
        &mut self,
        table: &BlockTable,
        len: usize,
        mut run: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rows = Vec::new();
        for layer in &mut self.layers {
            for (part, plane) in [(KvPart::Keys, &mut layer.k), (KvPart::Values, &mut layer.v)] {
                for (head, n) in runs(table, len, self.shape.n_head_kv, plane.block_bytes) {
                    rows.resize(n * self.layout.stored_row_bytes(part).map_err(io::Error::other)?, 0);
                    run(&mut rows)?;
                    let head = &mut plane.map[head];
                    self.layout.write_rows(self.kernels, part, &rows, head).map_err(io::Error::other)?;
                }
            }
        }
        Ok(())
    }
}

/// Bytes of all keys and of all values of a cache that has been found to be possible.
fn bytes(shape: &KvShape, layout: &KvLayout) -> (u64, u64) {
    let blocks = (shape.n_layer * (shape.n_ctx / BLOCK_LEN)) as u64;
    (blocks * layout.k_block_bytes() as u64, blocks * layout.v_block_bytes() as u64)
}

/// The bytes of one head's part of a block and the rows in it, for all heads and all blocks of `len` positions.
fn runs(
    table: &BlockTable,
    len: usize,
    n_head: usize,
    block_bytes: usize,
) -> impl Iterator<Item = (Range<usize>, usize)> {
    let head_bytes = block_bytes / n_head;
    (0..n_head).flat_map(move |head| {
        table.blocks.iter().enumerate().map_while(move |(i, block)| {
            let rows = len.checked_sub(i * BLOCK_LEN).filter(|rows| *rows > 0)?.min(BLOCK_LEN);
            let start = *block as usize * block_bytes + head * head_bytes;
            Some((start..start + head_bytes, rows))
        })
    })
}
