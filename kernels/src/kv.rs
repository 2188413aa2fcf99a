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

use ocelli_quant::GgmlType;

use crate::error::{KernelError, check_len};
use crate::quantize;
use crate::select::Kernels;

/// The largest head that attention's scratch has room for.
pub(crate) const MAX_HEAD_DIM: usize = 512;

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
        Ok(Self { k_type, v_type, n_kv_heads, head_dim, block_len, k_row, v_row })
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

    /// Writes keys and values of consecutive positions from `pos0`. `k_rows` and `v_rows` are positions ×
    /// `n_kv_heads` × `head_dim`; `k` and `v` are the layer's buffers.
    ///
    /// # Errors
    /// When the lengths do not fit, a position lies in no block, or a value that a block format cannot store is not
    /// finite.
    #[expect(clippy::too_many_arguments, reason = "two buffers, two inputs and where they go")]
    pub fn store(
        &self,
        kernels: Kernels,
        k: &mut [u8],
        v: &mut [u8],
        table: &[u32],
        pos0: usize,
        k_rows: &[f32],
        v_rows: &[f32],
    ) -> Result<(), KernelError> {
        let width = self.n_kv_heads * self.head_dim;
        check_len("values to store", v_rows.len(), k_rows.len())?;
        if !k_rows.len().is_multiple_of(width) {
            return Err(KernelError::Multiple { what: "keys to store", got: k_rows.len(), of: width });
        }
        let n = k_rows.len() / width;
        self.check_table(k.len(), v.len(), table, pos0, pos0.saturating_add(n))?;
        for (i, (k_row, v_row)) in k_rows.chunks_exact(width).zip(v_rows.chunks_exact(width)).enumerate() {
            let pos = pos0 + i;
            let block = table[pos / self.block_len] as usize;
            for h in 0..self.n_kv_heads {
                let row = (block * self.n_kv_heads + h) * self.block_len + pos % self.block_len;
                let part = h * self.head_dim..(h + 1) * self.head_dim;
                encode(kernels, self.k_type, &k_row[part.clone()], &mut k[row * self.k_row..(row + 1) * self.k_row])?;
                encode(kernels, self.v_type, &v_row[part], &mut v[row * self.v_row..(row + 1) * self.v_row])?;
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

/// Stores one head's row in a cache format.
fn encode(kernels: Kernels, ty: GgmlType, x: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
    match ty {
        // An infinite or NaN activation is stored as it is: it shows in the logits, where a user can see it.
        // SAFETY: `out` is the row of `x.len()` halves; the table's features were detected.
        GgmlType::F16 => unsafe { (kernels.table.f32_to_f16)(x, out) },
        GgmlType::F32 => {
            for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
                *out = x.to_le_bytes();
            }
        }
        _ => quantize::quantize_row(ty, x, None, out)?,
    }
    Ok(())
}

/// The keys and values of one sequence in one layer, for reading.
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a> {
    layout: KvLayout,
    k: &'a [u8],
    v: &'a [u8],
    table: &'a [u32],
    len: usize,
}

impl<'a> KvView<'a> {
    /// Views the first `len` positions of the sequence with block table `table`.
    ///
    /// # Errors
    /// When a position lies in no block.
    pub fn new(layout: KvLayout, k: &'a [u8], v: &'a [u8], table: &'a [u32], len: usize) -> Result<Self, KernelError> {
        layout.check_table(k.len(), v.len(), table, 0, len)?;
        Ok(Self { layout, k, v, table, len })
    }

    /// Shapes and formats.
    #[must_use]
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Positions that can be read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to attend to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the key rows of positions `from..to`, which lie in one block.
    pub(crate) fn k_rows(&self, head: usize, from: usize, to: usize) -> &'a [u8] {
        self.rows(self.k, self.layout.k_row, head, from, to)
    }

    /// Bytes of the value rows of positions `from..to`, which lie in one block.
    pub(crate) fn v_rows(&self, head: usize, from: usize, to: usize) -> &'a [u8] {
        self.rows(self.v, self.layout.v_row, head, from, to)
    }

    fn rows(&self, bytes: &'a [u8], row: usize, head: usize, from: usize, to: usize) -> &'a [u8] {
        let l = &self.layout;
        let block = self.table[from / l.block_len] as usize;
        let first = (block * l.n_kv_heads + head) * l.block_len + from % l.block_len;
        &bytes[first * row..(first + to - from) * row]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_shuffled_blocks() {
        let layout = KvLayout::new(GgmlType::F32, GgmlType::F16, 2, 6, 16).expect("valid");
        let (mut k, mut v) = (vec![0u8; 3 * layout.k_block_bytes()], vec![0u8; 3 * layout.v_block_bytes()]);
        let table = [2u32, 0];
        let rows: Vec<f32> = (0..20 * 12).map(|i| i as f32).collect();
        let halves: Vec<f32> = rows.iter().map(|v| -v).collect();
        let kernels = Kernels::scalar();
        layout.store(kernels, &mut k, &mut v, &table, 0, &rows[..60], &halves[..60]).expect("fits");
        layout.store(kernels, &mut k, &mut v, &table, 5, &rows[60..], &halves[60..]).expect("fits");
        let view = KvView::new(layout, &k, &v, &table, 20).expect("covered");
        for pos in 0..20 {
            for head in 0..2 {
                let mut got = [0f32; 6];
                GgmlType::F32.dequantize_row(view.k_rows(head, pos, pos + 1), &mut got).expect("whole row");
                let at = pos * 12 + head * 6;
                assert_eq!(got, rows[at..at + 6]);
                GgmlType::F16.dequantize_row(view.v_rows(head, pos, pos + 1), &mut got).expect("whole row");
                assert_eq!(got, halves[at..at + 6]);
            }
        }
    }

    #[test]
    fn bad_tables_and_sizes_are_errors() {
        let layout = KvLayout::new(GgmlType::F16, GgmlType::F16, 1, 4, 16).expect("valid");
        let buffer = vec![0u8; 2 * layout.k_block_bytes()];
        assert!(KvView::new(layout, &buffer, &buffer, &[0, 1], 32).is_ok());
        for (table, len) in [(&[0u32, 2][..], 17), (&[0], 17), (&[], 1), (&[7], 1)] {
            let error = KvView::new(layout, &buffer, &buffer, table, len).expect_err("not covered");
            assert!(matches!(error, KernelError::KvPosition { .. }), "{error}");
        }
        assert!(KvLayout::new(GgmlType::Q8_0, GgmlType::F16, 1, 48, 16).is_err());
        assert!(KvLayout::new(GgmlType::F16, GgmlType::F16, 1, 4, 24).is_err());
        assert!(KvLayout::new(GgmlType::F16, GgmlType::F16, 0, 4, 16).is_err());
        assert!(KvLayout::new(GgmlType::F16, GgmlType::F16, usize::MAX / 4, 4, 16).is_err());
        assert!(KvLayout::new(GgmlType::F16, GgmlType::F16, 1, 513, 16).is_err());
    }
}
