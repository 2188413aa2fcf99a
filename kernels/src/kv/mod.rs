//! The paged key/value cache of one layer.
//!
//! Keys and values of a layer are two byte buffers of equally many blocks. A block holds `block_len` consecutive
//! positions of all KV heads; a sequence is a table of block numbers, so sequences can share a prefix.
//!
//! ```text
//! buffer   [block][kv_head][position in block][head_dim]
//! row      head_dim values in the cache's format: F16, F32 or a block format whose block length divides head_dim
//! position p of a sequence lies in block table[p / block_len], at p % block_len
//! ```
//!
//! Where attention computes in fixed point, rows of F16 are kept as the codes that it multiplies ([`KvLayout::coded`]); how
//! these lie in a head's part of a block, `codes` says.

mod batch;
pub(crate) mod codes;
mod store;

use ocelli_quant::GgmlType;

use crate::act::Precision;
use crate::attention::attention_unit;
use crate::error::{KernelError, check_len};
use crate::measure::Unit;
use crate::select::Kernels;
use crate::table::{KernelTable, index};
use codes::Place;
use store::{Halves, encode};

pub(crate) use batch::check_rows;
pub use batch::{KvBatch, KvBatchMut, KvSegment};

/// The largest head that attention's scratch has room for.
pub(crate) const MAX_HEAD_DIM: usize = 512;

/// Keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPart {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

/// Shapes and formats of a layer's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    k_type: GgmlType,
    v_type: GgmlType,
    n_kv_heads: usize,
    head_dim: usize,
    block_len: usize,
    k_row: usize,
    v_row: usize,
    k_coded: bool,
    v_coded: bool,
}

impl KvLayout {
    /// Positions per block that suit attention's tiles.
    pub const BLOCK_LEN: usize = 64;

    /// Describes a cache.
    ///
    /// # Errors
    /// When a format's block length does not divide `head_dim`, `head_dim` is 0 or above 512, there are no heads,
    /// `block_len` is not a positive multiple of 16, or a block's size overflows.
    pub fn new(
        k_type: GgmlType,
        v_type: GgmlType,
        n_kv_heads: usize,
        head_dim: usize,
        block_len: usize,
    ) -> Result<Self, KernelError> {
        for (what, got) in [("head", head_dim), ("list of KV heads", n_kv_heads), ("KV block", block_len)] {
            if got == 0 {
                return Err(KernelError::Empty { what });
            }
        }
        if head_dim > MAX_HEAD_DIM {
            return Err(KernelError::TooLarge { what: "head size", got: head_dim, limit: MAX_HEAD_DIM });
        }
        if !block_len.is_multiple_of(16) {
            return Err(KernelError::Multiple { what: "positions per KV block", got: block_len, of: 16 });
        }
        let (k_row, v_row) = (k_type.row_bytes(head_dim)?, v_type.row_bytes(head_dim)?);
        let rows = n_kv_heads.checked_mul(block_len);
        if rows.and_then(|rows| rows.checked_mul(k_row.max(v_row))).is_none_or(|bytes| bytes > isize::MAX as usize) {
            let limit = isize::MAX as usize / (block_len * k_row.max(v_row));
            return Err(KernelError::TooLarge { what: "number of KV heads", got: n_kv_heads, limit });
        }
        Ok(Self { k_type, v_type, n_kv_heads, head_dim, block_len, k_row, v_row, k_coded: false, v_coded: false })
    }

    /// The same with rows of F16 kept as codes, where [`attention`](crate::attention()) with `group` query heads for each KV
    /// head multiplies such: they need not be made of halves again for every token then. A row takes one byte more; its values
    /// move by at most 2⁻¹² of the largest of them. Any table and precision can read it.
    #[must_use]
    pub fn coded(mut self, kernels: Kernels, precision: Precision, group: usize) -> Self {
        let suits = attention_unit(kernels, precision, &self, group) == Unit::Int16;
        self.k_coded = suits && self.k_type == GgmlType::F16;
        self.v_coded = suits && self.v_type == GgmlType::F16;
        for (part, coded, row) in
            [(KvPart::Keys, self.k_coded, &mut self.k_row), (KvPart::Values, self.v_coded, &mut self.v_row)]
        {
            if coded {
                *row = Place { part, head_dim: self.head_dim, block_len: self.block_len }.row_bytes();
            }
        }
        self
    }

    /// Where codes of this part lie, if it is kept as codes.
    fn place(&self, part: KvPart) -> Option<Place> {
        let coded = match part {
            KvPart::Keys => self.k_coded,
            KvPart::Values => self.v_coded,
        };
        coded.then_some(Place { part, head_dim: self.head_dim, block_len: self.block_len })
    }

    /// Format of a part, and bytes of one of its rows as kept.
    fn row(&self, part: KvPart) -> (GgmlType, usize) {
        match part {
            KvPart::Keys => (self.k_type, self.k_row),
            KvPart::Values => (self.v_type, self.v_row),
        }
    }

    /// Format of keys.
    #[must_use]
    pub fn k_type(&self) -> GgmlType {
        self.k_type
    }

    /// Format of values.
    #[must_use]
    pub fn v_type(&self) -> GgmlType {
        self.v_type
    }

    /// KV heads.
    #[must_use]
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads
    }

    /// Values per head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Positions per block.
    #[must_use]
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// Bytes of the keys of one block.
    #[must_use]
    pub fn k_block_bytes(&self) -> usize {
        self.n_kv_heads * self.block_len * self.k_row
    }

    /// Bytes of the values of one block.
    #[must_use]
    pub fn v_block_bytes(&self) -> usize {
        self.n_kv_heads * self.block_len * self.v_row
    }

    /// Blocks that `positions` positions need.
    #[must_use]
    pub fn blocks_for(&self, positions: usize) -> usize {
        positions.div_ceil(self.block_len)
    }

    /// The bytes of one head in block `block`.
    fn head_bytes(&self, row_bytes: usize, block: usize, head: usize) -> std::ops::Range<usize> {
        let bytes = self.block_len * row_bytes;
        let first = (block * self.n_kv_heads + head) * bytes;
        first..first + bytes
    }

    /// Bytes of a row of this part in its own format, as [`KvLayout::read_rows`] gives it.
    ///
    /// # Errors
    /// When the format does not divide the head, which [`KvLayout::new`] has refused.
    pub fn stored_row_bytes(&self, part: KvPart) -> Result<usize, KernelError> {
        Ok(self.row(part).0.row_bytes(self.head_dim)?)
    }

    /// The first rows of one head in a block, in the part's own format. `head` is the head's part of the block, and
    /// `rows` has as many rows as are wanted.
    ///
    /// # Errors
    /// When the lengths do not fit.
    pub fn read_rows(&self, kernels: Kernels, part: KvPart, head: &[u8], rows: &mut [u8]) -> Result<(), KernelError> {
        self.check_rows(part, head.len(), rows.len())?;
        let Some(place) = self.place(part) else {
            rows.copy_from_slice(&head[..rows.len()]);
            return Ok(());
        };
        let mut values = [0f32; MAX_HEAD_DIM];
        let values = &mut values[..self.head_dim];
        for (at, row) in rows.chunks_exact_mut(2 * self.head_dim).enumerate() {
            place.get(head, at, values);
            encode(kernels, GgmlType::F16, values, row)?;
        }
        Ok(())
    }

    /// Takes what [`KvLayout::read_rows`] gave.
    ///
    /// # Errors
    /// When the lengths do not fit.
    pub fn write_rows(&self, kernels: Kernels, part: KvPart, rows: &[u8], head: &mut [u8]) -> Result<(), KernelError> {
        self.check_rows(part, head.len(), rows.len())?;
        let Some(place) = self.place(part) else {
            head[..rows.len()].copy_from_slice(rows);
            return Ok(());
        };
        let mut halves = Halves::new();
        for (at, row) in rows.chunks_exact(2 * self.head_dim).enumerate() {
            place.put(halves.expand(kernels, row), head, at);
        }
        Ok(())
    }

    fn check_rows(&self, part: KvPart, head: usize, rows: usize) -> Result<(), KernelError> {
        check_len("a head's part of a KV block", head, self.block_len * self.row(part).1)?;
        let row = self.stored_row_bytes(part)?;
        if !rows.is_multiple_of(row) {
            return Err(KernelError::Multiple { what: "bytes of cached rows", got: rows, of: row });
        }
        if rows > self.block_len * row {
            return Err(KernelError::TooLarge { what: "rows of a KV block", got: rows / row, limit: self.block_len });
        }
        Ok(())
    }

    /// Checks that buffers of codes begin where one can lie.
    fn check_address(&self, k: &[u8], v: &[u8]) -> Result<(), KernelError> {
        for (coded, bytes) in [(self.k_coded, k), (self.v_coded, v)] {
            let off = bytes.as_ptr() as usize % align_of::<f32>();
            if coded && off != 0 {
                return Err(KernelError::Multiple { what: "address of a KV buffer", got: off, of: align_of::<f32>() });
            }
        }
        Ok(())
    }

    /// Checks that positions `from..to` lie in blocks that both buffers have.
    fn check_table(&self, k: usize, v: usize, table: &[u32], from: usize, to: usize) -> Result<(), KernelError> {
        let blocks = (k / self.k_block_bytes()).min(v / self.v_block_bytes());
        for entry in from / self.block_len..to.div_ceil(self.block_len) {
            if table.get(entry).is_none_or(|block| *block as usize >= blocks) {
                let position = from.max(entry * self.block_len);
                return Err(KernelError::KvPosition { position, table: table.len(), blocks });
            }
        }
        Ok(())
    }
}

/// Keys or values of one head at positions `from..to`, which lie in one block. Where they are kept as codes, `from` is a
/// multiple of 16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) part: KvPart,
    pub(crate) head: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// The keys and values of one sequence in one layer, for reading. Its slots were checked by [`KvBatch::new`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvView<'a> {
    layout: KvLayout,
    k: &'a [u8],
    v: &'a [u8],
    table: &'a [u32],
}

impl<'a> KvView<'a> {
    /// Shapes and formats.
    pub(crate) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// The bytes of a run.
    pub(crate) fn bytes(&self, run: Run) -> &'a [u8] {
        let (head, at) = self.head(run);
        let (_, row) = self.layout.row(run.part);
        match self.layout.place(run.part) {
            Some(place) => &head[place.bytes(at.start, at.end)],
            None => &head[at.start * row..at.end * row],
        }
    }

    /// The codes and the exponents of a run, where it is kept so.
    pub(crate) fn codes(&self, run: Run) -> Option<(&'a [u8], &'a [u8])> {
        let place = self.layout.place(run.part)?;
        let (head, at) = self.head(run);
        Some((&head[place.bytes(at.start, at.end)], &head[place.exponents(at.start, at.end)]))
    }

    /// The values of a run, in rows of `stride` with zeros behind them.
    pub(crate) fn expand(&self, table: &KernelTable, run: Run, rows: &mut [f32], stride: usize) {
        let (head, at) = self.head(run);
        let (ty, row_bytes) = self.layout.row(run.part);
        let dequantize = table.formats[index(ty)].dequantize;
        for (at, row) in at.zip(rows.chunks_exact_mut(stride)) {
            let (row, rest) = row.split_at_mut(self.layout.head_dim);
            match self.layout.place(run.part) {
                Some(place) => place.get(head, at, row),
                // SAFETY: the bytes are one row of head_dim values; the table's features were detected.
                None => unsafe { dequantize(&head[at * row_bytes..(at + 1) * row_bytes], row) },
            }
            rest.fill(0.0);
        }
    }

    /// The head's part of the block that a run lies in, and where in the block.
    fn head(&self, run: Run) -> (&'a [u8], std::ops::Range<usize>) {
        let l = &self.layout;
        let block = self.table[run.from / l.block_len] as usize;
        let bytes = match run.part {
            KvPart::Keys => self.k,
            KvPart::Values => self.v,
        };
        let at = run.from % l.block_len;
        (&bytes[l.head_bytes(l.row(run.part).1, block, run.head)], at..at + run.to - run.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    #[test]
    fn rows_come_back_from_shuffled_blocks() {
        let layout = KvLayout::new(GgmlType::F32, GgmlType::F16, 2, 6, 16).expect("valid");
        let (mut k, mut v) = (vec![0u8; 3 * layout.k_block_bytes()], vec![0u8; 3 * layout.v_block_bytes()]);
        let table = [2u32, 0];
        let rows: Vec<f32> = (0..20 * 12).map(|i| i as f32).collect();
        let halves: Vec<f32> = rows.iter().map(|v| -v).collect();
        let (kernels, pool) = (Kernels::scalar(), Pool::new(1));
        for (slot, part) in [(0, 0..60), (5, 60..240)] {
            let segment = [KvSegment::alone(slot, part.len() / 12, 2)];
            let mut batch = KvBatchMut::new(layout, &mut k, &mut v, &table, &segment).expect("covered");
            batch.store(&pool, kernels, &rows[part.clone()], &halves[part]).expect("fits");
        }
        let segment = KvSegment::alone(0, 20, 2);
        let batch = KvBatch::new(layout, &k, &v, &table, std::slice::from_ref(&segment)).expect("covered");
        let view = batch.view(&segment);
        for pos in 0..20 {
            for head in 0..2 {
                let mut got = [0f32; 6];
                let run = |part| Run { part, head, from: pos, to: pos + 1 };
                GgmlType::F32.dequantize_row(view.bytes(run(KvPart::Keys)), &mut got).expect("whole row");
                let at = pos * 12 + head * 6;
                assert_eq!(got, rows[at..at + 6]);
                view.expand(kernels.table, run(KvPart::Values), &mut got, 6);
                assert_eq!(got, halves[at..at + 6]);
            }
        }
    }

    #[test]
    fn bad_tables_and_sizes_are_errors() {
        let layout = KvLayout::new(GgmlType::F16, GgmlType::F16, 1, 4, 16).expect("valid");
        let buffer = vec![0u8; 2 * layout.k_block_bytes()];
        let view = |table: &[u32], segments: &[KvSegment]| {
            KvBatch::new(layout, &buffer, &buffer, table, segments).map(|batch| batch.end())
        };
        assert_eq!(view(&[0, 1], &[KvSegment::alone(31, 1, 2)]), Ok(1));
        for (table, len) in [(&[0u32, 2][..], 17), (&[0], 17), (&[], 1), (&[7], 1)] {
            let error = view(table, &[KvSegment::alone(len - 1, 1, table.len())]).expect_err("not covered");
            assert!(matches!(error, KernelError::KvPosition { .. }), "{error}");
        }
        let first = KvSegment { first_row: 3, rows: 2, slot: 0, first_block: 1, blocks: 1 };
        assert_eq!(view(&[9, 1], &[first, KvSegment { first_row: 5, ..first }]), Ok(7));
        for first_row in [0, 4] {
            let error = view(&[9, 1], &[first, KvSegment { first_row, ..first }]).expect_err("overlap");
            assert!(matches!(error, KernelError::SegmentRows { segment: 1, end: 5, .. }), "{error}");
        }
        for wrong in [
            KvSegment { first_block: 2, ..first },
            KvSegment { blocks: 2, ..first },
            KvSegment { first_block: usize::MAX, ..first },
            KvSegment { slot: usize::MAX, ..first },
            KvSegment { rows: usize::MAX, ..first },
            KvSegment { slot: usize::MAX - 2, ..first },
        ] {
            assert!(view(&[9, 1], &[wrong]).is_err(), "{wrong:?}");
        }
        assert!(KvLayout::new(GgmlType::Q8_0, GgmlType::F16, 1, 48, 16).is_err());
        assert!(KvLayout::new(GgmlType::F16, GgmlType::F16, 1, 4, 24).is_err());
        assert!(KvLayout::new(GgmlType::F16, GgmlType::F16, 0, 4, 16).is_err());
        assert!(KvLayout::new(GgmlType::F16, GgmlType::F16, usize::MAX / 4, 4, 16).is_err());
        assert!(KvLayout::new(GgmlType::F16, GgmlType::F16, 1, 513, 16).is_err());
    }
}
