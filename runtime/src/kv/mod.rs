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
mod index;
mod sequence;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;

use memmap2::MmapMut;
use ocelli_kernels::{
    AttnScratch, AttnShape, Kernels, KvBatch, KvBatchMut, KvLayout, KvPart, KvSegment, Precision, attention,
};
use ocelli_quant::GgmlType;

pub use blocks::BLOCK_LEN;
pub use sequence::Sequence;

use blocks::Books;
use index::Content;

use crate::batch::Batch;
use crate::nn::Engine;
use crate::prompt::PromptView;
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
    /// Positions of all conversations together, rounded up to whole blocks.
    pub n_positions: usize,
}

impl KvShape {
    /// The shape for `n` positions of a model.
    #[must_use]
    pub fn of(config: &Config, n: usize, type_k: GgmlType, type_v: GgmlType) -> Self {
        let n_positions = n.div_ceil(BLOCK_LEN).saturating_mul(BLOCK_LEN);
        let &Config { n_layer, n_head_kv, head_dim, .. } = config;
        Self { n_layer, n_head_kv, head_dim, type_k, type_v, n_positions }
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
        let rows =
            [self.n_layer, self.n_head_kv, self.n_positions].iter().try_fold(1u64, |n, m| n.checked_mul(*m as u64));
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

/// Query rows `[n, n_head · head_dim]`, and whose they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queries<'q> {
    pub(crate) q: &'q [f32],
    pub(crate) n_head: usize,
    pub(crate) segments: &'q [KvSegment],
    /// Block numbers of all segments.
    pub(crate) blocks: &'q [u32],
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

/// Keys and values of all conversations: blocks of positions, in books that say whose they are and what they hold.
#[derive(Debug)]
pub struct KvPool {
    shape: KvShape,
    layout: KvLayout,
    kernels: Kernels,
    layers: Vec<LayerKv>,
    books: Books,
}

impl KvPool {
    /// Reserves the address space of a pool for `n_head` query heads that attend with these kernels and this precision.
    ///
    /// # Errors
    /// When a format does not fit the head length, or the pool does not fit into the memory available.
    pub fn new(shape: KvShape, kernels: Kernels, precision: Precision, n_head: usize) -> Result<Self, RuntimeError> {
        let what = || format!("the KV cache of {} positions", shape.n_positions);
        // Rules out what does not fit the formats' own bytes before anything is multiplied.
        memory::check(what(), shape.bytes()?.and_then(|(k, v)| k.checked_add(v)))?;
        let layout = KvLayout::new(shape.type_k, shape.type_v, shape.n_head_kv, shape.head_dim, BLOCK_LEN)?;
        let layout = layout.coded(kernels, precision, n_head / shape.n_head_kv);
        let blocks = shape.n_positions / BLOCK_LEN;
        let (k, v) = bytes(&shape, &layout);
        memory::check(what(), k.checked_add(v))?;
        let plane = |block_bytes| Plane::new(block_bytes, blocks);
        let layers = (0..shape.n_layer)
            .map(|_| Ok(LayerKv { k: plane(layout.k_block_bytes())?, v: plane(layout.v_block_bytes())? }))
            .collect::<Result<_, RuntimeError>>()?;
        Ok(Self { shape, layout, kernels, layers, books: Books::new(blocks) })
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

    /// Blocks in all.
    #[must_use]
    pub fn n_blocks(&self) -> usize {
        self.books.lock().len()
    }

    /// Blocks that a sequence could get: free ones, and those that are kept for nothing but their content.
    #[must_use]
    pub fn n_available_blocks(&self) -> usize {
        self.books.lock().n_available()
    }

    /// Blocks that hold nothing.
    #[must_use]
    pub fn n_free_blocks(&self) -> usize {
        self.books.lock().n_free()
    }

    /// Forgets everything that no sequence uses.
    pub fn drop_kept(&self) {
        self.books.lock().drop_kept();
    }

    /// An empty sequence of up to `n_ctx` positions; it takes part in the prefix cache if `cached`. It allocates nothing
    /// later.
    #[must_use]
    pub fn new_sequence(&self, n_ctx: usize, cached: bool) -> Sequence {
        Sequence::new(self.books.clone(), n_ctx.div_ceil(BLOCK_LEN), n_ctx, cached)
    }

    /// A sequence of up to `n_ctx` positions that begins with as much of `prompt` as is known, but for the last position:
    /// that one is computed again, for its logits are wanted.
    #[must_use]
    pub fn find(&self, prompt: PromptView<'_>, n_ctx: usize) -> Sequence {
        let mut seq = self.new_sequence(n_ctx, true);
        let marks = prompt.all_marks();
        let but_one = prompt.len().saturating_sub(1);
        seq.find(Content { tokens: &prompt.tokens()[..but_one], marks: &marks[..but_one] });
        seq
    }

    /// Blocks that must be available for a sequence to begin with `prompt` and one position more: all but those that others
    /// are using.
    #[must_use]
    pub fn blocks_to_begin(&self, prompt: PromptView<'_>) -> usize {
        let marks = prompt.all_marks();
        let used = self.books.lock().in_use(Content { tokens: prompt.tokens(), marks: &marks });
        (prompt.len() + 1).div_ceil(BLOCK_LEN) - used
    }

    /// A second sequence that shares the first `len` positions (at most all) of `seq`; nothing is computed or copied.
    #[must_use]
    pub fn fork(&self, seq: &Sequence, len: usize, n_ctx: usize) -> Sequence {
        seq.fork(self.new_sequence(n_ctx, true), len)
    }

    fn must_copy(&self, seq: &Sequence) -> bool {
        let (number, offset) = (seq.end() / BLOCK_LEN, seq.end() % BLOCK_LEN);
        offset > 0 && !self.books.lock().is_writable(seq.blocks[number], offset)
    }

    /// Makes room for the positions of `more` at the end of `seq`. A last block that others use, too, is copied first.
    ///
    /// # Errors
    /// [`RuntimeError::PoolFull`] when there are not enough blocks; nothing has changed then.
    pub(crate) fn append(&mut self, seq: &mut Sequence, more: PromptView<'_>) -> Result<(), RuntimeError> {
        debug_assert!(seq.is_of(&self.books));
        let (end, n) = (seq.end(), more.len());
        let new = (end + n).div_ceil(BLOCK_LEN) - seq.blocks.len();
        let copied = (n > 0 && self.must_copy(seq)).then_some(end / BLOCK_LEN);
        {
            let mut books = self.books.lock();
            let available = books.n_available();
            // Where there is no block for a copy, the prefix cache gives its own up.
            let copied = copied.filter(|i| new < available || !books.give_up(seq.blocks[*i], end % BLOCK_LEN));
            let need = new + usize::from(copied.is_some());
            if need > available {
                return Err(RuntimeError::PoolFull { need: need * BLOCK_LEN, have: available * BLOCK_LEN });
            }
            if let Some(i) = copied
                && let Some(own) = books.take()
            {
                for layer in &mut self.layers {
                    layer.k.copy_block(seq.blocks[i], own);
                    layer.v.copy_block(seq.blocks[i], own);
                }
                books.release(std::mem::replace(&mut seq.blocks[i], own));
            }
            seq.blocks.extend((0..new).filter_map(|_| books.take()));
        }
        seq.begin(more.tokens(), |marks| more.append_marks(marks));
        Ok(())
    }

    /// Writes keys and values of the rows of all segments to layer `il`.
    pub(crate) fn store(
        &mut self,
        engine: &Engine<'_>,
        il: usize,
        batch: &Batch,
        k: &[f32],
        v: &[f32],
    ) -> Result<(), RuntimeError> {
        let layer = &mut self.layers[il];
        let (to_k, to_v) = (&mut layer.k.map, &mut layer.v.map);
        let mut to = KvBatchMut::new(self.layout, to_k, to_v, &batch.blocks, &batch.segments)?;
        Ok(to.store(engine.pool, engine.kernels, k, v)?)
    }

    /// Causal attention of the queries of all segments, each over the positions of its own conversation.
    pub(crate) fn attend(
        &self,
        engine: &Engine<'_>,
        il: usize,
        queries: Queries<'_>,
        scratch: &mut AttnScratch,
        out: &mut [f32],
    ) -> Result<(), RuntimeError> {
        let layer = &self.layers[il];
        let head_dim = self.shape.head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let batch = KvBatch::new(self.layout, &layer.k.map, &layer.v.map, queries.blocks, queries.segments)?;
        let shape = AttnShape { n_heads: queries.n_head, scale, causal: true, precision: engine.precision };
        Ok(attention(engine.pool, engine.kernels, scratch, shape, queries.q, &batch, out)?)
    }

    /// The first `len` positions of `seq` in the cache's formats, run by run: per layer all keys, then all values, each head by
    /// head.
    pub(crate) fn for_each_run(
        &self,
        seq: &Sequence,
        len: usize,
        mut run: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rows = Vec::new();
        for layer in &self.layers {
            for (part, plane) in [(KvPart::Keys, &layer.k), (KvPart::Values, &layer.v)] {
                for (head, n) in runs(&seq.blocks, len, self.shape.n_head_kv, plane.block_bytes) {
                    rows.resize(n * self.layout.stored_row_bytes(part).map_err(io::Error::other)?, 0);
                    self.layout.read_rows(self.kernels, part, &plane.map[head], &mut rows).map_err(io::Error::other)?;
                    run(&rows)?;
                }
            }
        }
        Ok(())
    }

    /// As [`KvPool::for_each_run`], for filling.
    pub(crate) fn for_each_run_mut(
        &mut self,
        seq: &Sequence,
        len: usize,
        mut run: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rows = Vec::new();
        for layer in &mut self.layers {
            for (part, plane) in [(KvPart::Keys, &mut layer.k), (KvPart::Values, &mut layer.v)] {
                for (head, n) in runs(&seq.blocks, len, self.shape.n_head_kv, plane.block_bytes) {
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
    let blocks = (shape.n_layer * (shape.n_positions / BLOCK_LEN)) as u64;
    (blocks * layout.k_block_bytes() as u64, blocks * layout.v_block_bytes() as u64)
}

/// The bytes of one head's part of a block and the rows in it, for all heads and all blocks of `len` positions.
fn runs(blocks: &[u32], len: usize, n_head: usize, block_bytes: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let head_bytes = block_bytes / n_head;
    (0..n_head).flat_map(move |head| {
        blocks.iter().enumerate().map_while(move |(i, block)| {
            let rows = len.checked_sub(i * BLOCK_LEN).filter(|rows| *rows > 0)?.min(BLOCK_LEN);
            let start = *block as usize * block_bytes + head * head_bytes;
            Some((start..start + head_bytes, rows))
        })
    })
}
