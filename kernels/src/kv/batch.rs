//! Rows of several sequences that go through a layer's cache in one call.

use super::store::Store;
use super::{KvLayout, KvView};
use crate::error::KernelError;
use crate::pool::Pool;
use crate::select::Kernels;

/// Consecutive rows of one sequence. Plain data, so that a caller can keep its lists from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvSegment {
    /// Number of its first row among the rows of the call.
    pub first_row: usize,
    /// Its rows; none is allowed.
    pub rows: usize,
    /// Slot of the first row in the cache of its sequence, which is its causal index as well; the other rows follow.
    pub slot: usize,
    /// Where its block numbers begin in the list of all segments.
    pub first_block: usize,
    /// How many block numbers it has.
    pub blocks: usize,
}

impl KvSegment {
    /// The only segment of a call: `rows` rows from `slot` on, of a sequence with `blocks` blocks.
    #[must_use]
    pub fn alone(slot: usize, rows: usize, blocks: usize) -> Self {
        Self { first_row: 0, rows, slot, first_block: 0, blocks }
    }

    /// Slots up to the end of the segment. [`check`] has found that they can be counted.
    pub(crate) fn len(&self) -> usize {
        self.slot + self.rows
    }

    /// The block table of its sequence. [`check`] has found it within the list.
    pub(super) fn table<'a>(&self, blocks: &'a [u32]) -> &'a [u32] {
        &blocks[self.first_block..self.first_block + self.blocks]
    }
}

/// Checks that segments lie one behind the other, and that `slots` of each are in blocks that both buffers have. Returns the
/// end of the last row.
fn check(
    layout: &KvLayout,
    (keys, values): (usize, usize),
    blocks: &[u32],
    segments: &[KvSegment],
    from: impl Fn(&KvSegment) -> usize,
) -> Result<usize, KernelError> {
    let mut end = 0;
    for (number, segment) in segments.iter().enumerate() {
        if segment.first_row < end {
            return Err(KernelError::SegmentRows { segment: number, first_row: segment.first_row, end });
        }
        // What cannot be counted is beyond every buffer.
        end = segment.first_row.saturating_add(segment.rows);
        let last_block = segment.first_block.saturating_add(segment.blocks);
        if last_block > blocks.len() {
            let what = "end of a segment's block numbers";
            return Err(KernelError::TooLarge { what, got: last_block, limit: blocks.len() });
        }
        let Some(slots) = segment.slot.checked_add(segment.rows) else {
            return Err(KernelError::TooLarge { what: "slot of a segment", got: segment.slot, limit: usize::MAX });
        };
        layout.check_table(keys, values, segment.table(blocks), from(segment), slots)?;
    }
    Ok(end)
}

/// The cache of one layer, all blocks, and what segments read of it: everything up to their own rows.
#[derive(Debug, Clone, Copy)]
pub struct KvBatch<'a> {
    layout: KvLayout,
    keys: &'a [u8],
    values: &'a [u8],
    blocks: &'a [u32],
    segments: &'a [KvSegment],
    end: usize,
}

impl<'a> KvBatch<'a> {
    /// Brings together a layer's buffers, the segments in the order of their rows, and `blocks`, the block numbers of all of
    /// them one after the other. Sequences may share blocks, and segments their part of the list.
    ///
    /// # Errors
    /// When segments overlap or are out of order, a slot up to the end of one lies in no block, or a buffer of codes does not
    /// begin where one can lie.
    pub fn new(
        layout: KvLayout,
        keys: &'a [u8],
        values: &'a [u8],
        blocks: &'a [u32],
        segments: &'a [KvSegment],
    ) -> Result<Self, KernelError> {
        layout.check_address(keys, values)?;
        let end = check(&layout, (keys.len(), values.len()), blocks, segments, |_| 0)?;
        Ok(Self { layout, keys, values, blocks, segments, end })
    }

    /// Shapes and formats.
    #[must_use]
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &'a [KvSegment] {
        self.segments
    }

    /// The end of the last segment's rows.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// What a segment's rows can see.
    pub(crate) fn view(&self, segment: &KvSegment) -> KvView<'a> {
        let table = segment.table(self.blocks);
        KvView { layout: self.layout, k: self.keys, v: self.values, table }
    }
}

/// The cache of one layer, all blocks, and where segments write in it.
#[derive(Debug)]
pub struct KvBatchMut<'a> {
    layout: KvLayout,
    keys: &'a mut [u8],
    values: &'a mut [u8],
    blocks: &'a [u32],
    segments: &'a [KvSegment],
    end: usize,
}

impl<'a> KvBatchMut<'a> {
    /// As [`KvBatch::new`], for writing: only the blocks of the rows themselves have to be there. Where two segments write
    /// the same place, the later one's row stays.
    ///
    /// # Errors
    /// When segments overlap or are out of order, or a slot lies in no block.
    pub fn new(
        layout: KvLayout,
        keys: &'a mut [u8],
        values: &'a mut [u8],
        blocks: &'a [u32],
        segments: &'a [KvSegment],
    ) -> Result<Self, KernelError> {
        let end = check(&layout, (keys.len(), values.len()), blocks, segments, |segment| segment.slot)?;
        Ok(Self { layout, keys, values, blocks, segments, end })
    }

    /// Writes the keys and values of all segments. `k_rows` and `v_rows` are rows × `n_kv_heads` × `head_dim`; rows in no
    /// segment are passed over.
    ///
    /// # Errors
    /// When the lengths do not fit, or a value that a block format cannot store is not finite: the rows of all other segments
    /// are stored then, and [`KernelError::StoreRow`] names the first bad one.
    pub fn store(&mut self, pool: &Pool, kernels: Kernels, k_rows: &[f32], v_rows: &[f32]) -> Result<(), KernelError> {
        let width = self.layout.n_kv_heads * self.layout.head_dim;
        crate::error::check_len("values to store", v_rows.len(), k_rows.len())?;
        if !k_rows.len().is_multiple_of(width) {
            return Err(KernelError::Multiple { what: "keys to store", got: k_rows.len(), of: width });
        }
        check_rows(self.end, k_rows.len() / width)?;
        let (keys, values) = (&mut *self.keys, &mut *self.values);
        Store::new(self.layout, kernels, [keys, values], self.blocks, self.segments, [k_rows, v_rows]).run(pool)
    }
}

/// Checks that the rows of all segments, the last of which ends at `end`, are among `rows`.
pub(crate) fn check_rows(end: usize, rows: usize) -> Result<(), KernelError> {
    if end > rows {
        return Err(KernelError::TooLarge { what: "end of a segment's rows", got: end, limit: rows });
    }
    Ok(())
}
