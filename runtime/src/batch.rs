//! Rows of several conversations on their way through the layers together.

use std::ops::Range;
use std::sync::Arc;

use ocelli_kernels::KvSegment;

use crate::kv::Sequence;
use crate::prompt::{ImageEmbedding, PromptView};

/// Rows of an image over some rows of the batch.
#[derive(Debug)]
struct Overlay {
    row: usize,
    image: Arc<ImageEmbedding>,
    rows: Range<usize>,
}

/// The rows of one forward pass. Three things about a row are told apart: its slot in the cache, which is also how much of its
/// conversation it sees; its position for the rotary embedding; and whether its logits are wanted.
///
/// Reuse one: it keeps the size it has grown to.
#[derive(Debug, Default)]
pub struct Batch {
    ids: Vec<u32>,
    /// The rotary position of every row.
    positions: Vec<u32>,
    overlays: Vec<Overlay>,
    /// Consecutive rows of one conversation each, with its blocks up to its last row.
    pub(crate) segments: Vec<KvSegment>,
    /// Block numbers of all segments, one list behind the other.
    pub(crate) blocks: Vec<u32>,
    /// Rows whose logits are wanted, in order.
    wanted: Vec<usize>,
    /// The wanted rows as segments of their own, once the others are dropped.
    pub(crate) ends: Vec<KvSegment>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch that does not allocate for up to `n_rows` rows of sequences with `n_blocks` blocks in all.
    #[must_use]
    pub fn with_capacity(n_rows: usize, n_blocks: usize) -> Self {
        Self {
            ids: Vec::with_capacity(n_rows),
            positions: Vec::with_capacity(n_rows),
            overlays: Vec::new(),
            segments: Vec::with_capacity(n_rows),
            blocks: Vec::with_capacity(n_blocks),
            wanted: Vec::with_capacity(n_rows),
            ends: Vec::with_capacity(n_rows),
        }
    }

    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Rows whose logits are wanted.
    #[must_use]
    pub fn n_wanted(&self) -> usize {
        self.wanted.len()
    }

    /// Removes all rows.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.overlays.clear();
        self.segments.clear();
        self.blocks.clear();
        self.wanted.clear();
        self.ends.clear();
    }

    /// The last `tokens.len()` positions of `seq` as rows, with the logits of those from index `wanted` on.
    pub(crate) fn push(&mut self, seq: &Sequence, tokens: PromptView<'_>, wanted: usize) {
        let (first_row, rows, slot) = (self.len(), tokens.len(), seq.end() - tokens.len());
        if rows == 0 {
            return;
        }
        self.ids.extend_from_slice(tokens.tokens());
        // A context is bounded far below u32.
        self.positions.extend((slot..slot + rows).map(|at| at as u32));
        for (start, rows, image) in tokens.overlays() {
            self.overlays.push(Overlay { row: first_row + start, image: Arc::clone(image), rows });
        }
        let (first_block, blocks) = (self.blocks.len(), seq.blocks().len());
        self.blocks.extend_from_slice(seq.blocks());
        let segment = KvSegment { first_row, rows, slot, first_block, blocks };
        self.segments.push(segment);
        if wanted < rows {
            let first_row = self.wanted.len();
            self.wanted.extend(segment.first_row + wanted..segment.first_row + rows);
            self.ends.push(KvSegment { first_row, rows: rows - wanted, slot: slot + wanted, ..segment });
        }
    }

    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Writes image rows over the embeddings: `x` is `[len, n_embd]`.
    pub(crate) fn overlay(&self, x: &mut [f32], n_embd: usize) {
        for Overlay { row, image, rows } in &self.overlays {
            let src = &image.rows[rows.start * n_embd..rows.end * n_embd];
            x[row * n_embd..][..src.len()].copy_from_slice(src);
        }
    }

    /// Moves the wanted rows of `x`, `[len, width]`, to its front.
    pub(crate) fn gather(&self, x: &mut [f32], width: usize) {
        for (to, from) in self.wanted.iter().enumerate().filter(|(to, from)| to != *from) {
            x.copy_within(from * width..(from + 1) * width, to * width);
        }
    }
}
