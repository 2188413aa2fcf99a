//! Writing rows of many segments to the cache.
//!
//! Work is cut by part (keys or values), KV head and the number of the block, so that a head's part of a block is one
//! thread's, whatever the block tables say; it goes through the rows in order.

use std::sync::{Mutex, PoisonError};

use ocelli_quant::{GgmlType, QuantError};

use super::{KvLayout, KvPart, KvSegment, MAX_HEAD_DIM};
use crate::error::KernelError;
use crate::matmul::OutPtr;
use crate::pool::Pool;
use crate::quantize::RowCodec;
use crate::select::Kernels;
use crate::table::index;

/// Rows from which on waking the threads of the pool pays: making codes of so many takes some tens of microseconds.
const MANY_ROWS: usize = 64;

/// Items for each thread, so that those that are done early can take more.
const PER_THREAD: usize = 2;

/// One call, readable from all threads.
pub(super) struct Store<'a> {
    layout: KvLayout,
    kernels: Kernels,
    /// Keys and values of the layer, of which a head's part of a block is one item's.
    to: [OutPtr<u8>; 2],
    blocks: &'a [u32],
    segments: &'a [KvSegment],
    rows: [&'a [f32]; 2],
    /// The first row that could not be stored.
    failed: Mutex<Option<(usize, QuantError)>>,
}

impl<'a> Store<'a> {
    /// Everything has been checked: slots lie in blocks within both buffers, rows in both inputs.
    pub(super) fn new(
        layout: KvLayout,
        kernels: Kernels,
        to: [&mut [u8]; 2],
        blocks: &'a [u32],
        segments: &'a [KvSegment],
        rows: [&'a [f32]; 2],
    ) -> Self {
        let to = to.map(|bytes| OutPtr(bytes.as_mut_ptr()));
        Self { layout, kernels, to, blocks, segments, rows, failed: Mutex::new(None) }
    }

    pub(super) fn run(self, pool: &Pool) -> Result<(), KernelError> {
        let parts = 2 * self.layout.n_kv_heads;
        let rows: usize = self.segments.iter().map(|segment| segment.rows).sum();
        if rows < MANY_ROWS {
            for part in 0..parts {
                self.part(part, 0, 1);
            }
        } else {
            let shards = (PER_THREAD * pool.threads()).div_ceil(parts);
            pool.for_each(parts * shards, |item, _| self.part(item / shards, item % shards, shards));
        }
        match self.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((row, source)) => Err(KernelError::StoreRow { row, source }),
            None => Ok(()),
        }
    }

    /// Stores the rows of a KV head's keys or values that belong to blocks with the number `shard`, modulo `shards`.
    fn part(&self, number: usize, shard: usize, shards: usize) {
        let layout = &self.layout;
        let (which, head) = (number % 2, number / 2);
        let part = [KvPart::Keys, KvPart::Values][which];
        let (ty, row_bytes) = layout.row(part);
        let place = layout.place(part);
        let width = layout.n_kv_heads * layout.head_dim;
        let mut halves = Halves::new();
        for segment in self.segments {
            let table = segment.table(self.blocks);
            let mut slot = segment.slot;
            while slot < segment.len() {
                let block = table[slot / layout.block_len] as usize;
                let end = segment.len().min((slot / layout.block_len + 1) * layout.block_len);
                let slots = slot..end;
                slot = end;
                if block % shards != shard {
                    continue;
                }
                let at = layout.head_bytes(row_bytes, block, head);
                // SAFETY: the block lies within the buffer, which `KvBatchMut::new` has checked and holds mutably. No other
                // item has this part, head and block, and the slice is dropped before the item makes another one.
                let bytes = unsafe { std::slice::from_raw_parts_mut(self.to[which].get().add(at.start), at.len()) };
                for slot in slots {
                    let row = segment.first_row + slot - segment.slot;
                    let x = &self.rows[which][row * width + head * layout.head_dim..][..layout.head_dim];
                    let at = slot % layout.block_len;
                    let stored = match place {
                        Some(place) => {
                            place.put(halves.round(self.kernels, x), bytes, at);
                            Ok(())
                        }
                        None => encode(self.kernels, ty, x, &mut bytes[at * row_bytes..(at + 1) * row_bytes]),
                    };
                    if let Err(error) = stored {
                        self.fail(row, error);
                        break;
                    }
                }
            }
        }
    }

    fn fail(&self, row: usize, error: QuantError) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.as_ref().is_none_or(|(first, _)| row < *first) {
            *failed = Some((row, error));
        }
    }
}

/// A row on its way to codes.
pub(super) struct Halves {
    bytes: [u8; 2 * MAX_HEAD_DIM],
    values: [f32; MAX_HEAD_DIM],
}

impl Halves {
    pub(super) fn new() -> Self {
        Self { bytes: [0; 2 * MAX_HEAD_DIM], values: [0.0; MAX_HEAD_DIM] }
    }

    /// At most [`MAX_HEAD_DIM`] values, rounded to half precision.
    fn round(&mut self, kernels: Kernels, x: &[f32]) -> &[f32] {
        let (bytes, values) = (&mut self.bytes[..2 * x.len()], &mut self.values[..x.len()]);
        // SAFETY: as many halves as values; the table's features were detected.
        unsafe {
            (kernels.table.f32_to_f16)(x, bytes);
            (kernels.table.formats[index(GgmlType::F16)].dequantize)(bytes, values);
        }
        values
    }

    /// At most [`MAX_HEAD_DIM`] values of half precision.
    pub(super) fn expand(&mut self, kernels: Kernels, bytes: &[u8]) -> &[f32] {
        let values = &mut self.values[..bytes.len() / 2];
        // SAFETY: as above.
        unsafe { (kernels.table.formats[index(GgmlType::F16)].dequantize)(bytes, values) };
        values
    }
}

/// Stores one head's row in a cache format.
pub(super) fn encode(kernels: Kernels, ty: GgmlType, x: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    match ty {
        // An infinite or NaN activation is stored as it is: it shows in the logits, where a user can see it.
        // SAFETY: `out` is the row of `x.len()` halves; the table's features were detected.
        GgmlType::F16 => unsafe { (kernels.table.f32_to_f16)(x, out) },
        GgmlType::F32 => {
            for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
                *out = x.to_le_bytes();
            }
        }
        _ => RowCodec::of(kernels).quantize_row(ty, x, None, out)?,
    }
    Ok(())
}
