//! How the work of a call is shared among threads. Nothing here changes a result: chunks of keys are attended to one by one and
//! joined in order, by one thread or by several.
//!
//! An item is a tile of a segment with all keys that it sees, or with one chunk of them where the tile alone would keep a
//! thread busy after the others are done. Chunks leave partial results, which are joined afterwards.

use super::{CHUNK, Call, KEYS};

/// Share of a thread's work that an item may be, at most, before its keys are split: one in so many.
const PER_THREAD: usize = 16;

/// Tokens whose chunks may leave partial results in one call, each over as many chunks as the longest sequence has. It bounds
/// the scratch; where more rows attend there are enough tiles without splitting.
pub(super) const SPLIT_TOKENS: usize = 16;

/// What a key of a tile costs beside the products with its rows, in rows: it is read and laid out.
const KEY_COST: usize = 8;

/// One piece of work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    /// Rows times keys, roughly.
    cost: usize,
    pub(super) segment: usize,
    pub(super) tile: usize,
    pub(super) chunk: Option<Chunk>,
}

/// A chunk of a tile's keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) number: usize,
    /// First float of its partial results.
    pub(super) first: usize,
}

/// A tile whose keys are split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub(super) segment: usize,
    pub(super) tile: usize,
    pub(super) chunks: usize,
    /// First float of its first chunk's partial results.
    pub(super) first: usize,
}

/// The items of a call.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
    pub(super) splits: Vec<Split>,
    /// Floats of all partial results.
    pub(super) partial: usize,
    /// Whether items are to be taken in shares of neighbours. Else the largest come first.
    pub(super) near: bool,
}

impl Plan {
    /// With room for so many rows and chunks.
    pub(super) fn with_capacity(n_heads: usize, n_ctx: usize, n_rows: usize) -> Self {
        // A tile has a query head and a row at least.
        let [tiles, splits] = [n_rows, n_rows.min(SPLIT_TOKENS)].map(|rows| rows.saturating_mul(n_heads));
        let chunks = splits.saturating_mul(n_ctx.div_ceil(CHUNK));
        Self {
            items: Vec::with_capacity(tiles.saturating_add(chunks)),
            splits: Vec::with_capacity(splits),
            ..Self::default()
        }
    }

    /// Plans a call for so many threads.
    pub(super) fn make(&mut self, call: &Call<'_>, threads: usize) {
        self.items.clear();
        self.splits.clear();
        self.partial = 0;
        let (mut total, mut most_chunks) = (0usize, 0);
        for segment in 0..call.batch.segments().len() {
            let job = call.job(segment);
            most_chunks = most_chunks.max(job.seen.div_ceil(CHUNK));
            // Late tiles see the most keys.
            for tile in (0..job.tiles()).rev() {
                let at = job.tile(tile);
                let cost = job.seen_by(at.t1 - 1).saturating_mul(at.rows() + KEY_COST);
                total = total.saturating_add(cost);
                self.items.push(Item { cost, segment, tile, chunk: None });
            }
        }
        let by_size = |item: &Item| (std::cmp::Reverse(item.cost), item.segment, std::cmp::Reverse(item.tile));
        self.items.sort_unstable_by_key(by_size);
        let limit = total / (threads * PER_THREAD);
        if threads > 1 {
            self.split(call, limit, most_chunks);
        }
        // What reads neighbours in memory goes through them in order, unless a large tile is left.
        let large = |item: &Item| item.chunk.is_none() && item.cost > limit;
        self.near = !self.splits.is_empty() && !self.items.iter().any(large);
        if self.near {
            self.items.sort_unstable_by_key(|item| (item.segment, item.tile, item.chunk.map(|chunk| chunk.number)));
        } else if !self.splits.is_empty() {
            let chunk = |item: &Item| item.chunk.map(|chunk| chunk.number);
            self.items.sort_unstable_by_key(|item| (by_size(item), chunk(item)));
        }
    }

    /// Makes chunks of the tiles that cost more than `limit`, the largest first, as long as there is room for their results.
    fn split(&mut self, call: &Call<'_>, limit: usize, most_chunks: usize) {
        let mut room = SPLIT_TOKENS.saturating_mul(call.shape.n_heads).saturating_mul(most_chunks);
        for i in 0..self.items.len() {
            let Item { cost, segment, tile, .. } = self.items[i];
            if cost <= limit {
                break;
            }
            let job = call.job(segment);
            let at = job.tile(tile);
            let seen = job.seen_by(at.t1 - 1);
            let (rows, chunks) = (at.rows(), seen.div_ceil(CHUNK));
            if chunks < 2 || rows * chunks > room {
                continue;
            }
            room -= rows * chunks;
            let (first, floats) = (self.partial, rows * job.partial_row());
            for number in 0..chunks {
                let keys = CHUNK.min(seen - number * CHUNK);
                let chunk = Some(Chunk { number, first: first + number * floats });
                self.items.push(Item { cost: keys * (rows + KEY_COST), segment, tile, chunk });
            }
            self.splits.push(Split { segment, tile, chunks, first });
            self.partial += chunks * floats;
            // Its place is taken by its chunks.
            self.items[i].cost = 0;
        }
        if !self.splits.is_empty() {
            self.items.retain(|item| item.cost > 0);
        }
    }
}

const _: () = assert!(CHUNK.is_multiple_of(KEYS));

#[cfg(test)]
mod tests {
    use ocelli_quant::GgmlType;

    use crate::attention::{AttnScratch, AttnShape, attention};
    use crate::kv::{KvBatch, KvLayout, KvSegment};
    use crate::measure::noise;
    use crate::{Kernels, Pool, Precision};

    const HEADS: usize = 4;
    const N_CTX: usize = 4096;

    /// Attends with segments of (slot, rows), all of one sequence.
    fn attend(pool: &Pool, scratch: &mut AttnScratch, segments: &[(usize, usize)]) {
        let layout = KvLayout::new(GgmlType::F32, GgmlType::F32, 2, 8, 64).expect("valid");
        let blocks: Vec<u32> = (0..(N_CTX / 64) as u32).collect();
        let bytes = vec![0u8; blocks.len() * layout.k_block_bytes()];
        let mut first_row = 0;
        let segments: Vec<KvSegment> = segments
            .iter()
            .map(|&(slot, rows)| {
                let segment = KvSegment { first_row, ..KvSegment::alone(slot, rows, blocks.len()) };
                first_row += rows;
                segment
            })
            .collect();
        let batch = KvBatch::new(layout, &bytes, &bytes, &blocks, &segments).expect("covered");
        let q = noise(first_row * HEADS * 8, 1);
        let mut out = vec![f32::NAN; q.len()];
        let shape = AttnShape { n_heads: HEADS, scale: 1.0, causal: true, precision: Precision::Exact };
        attention(pool, Kernels::scalar(), scratch, shape, &q, &batch, &mut out).expect("fits");
        assert!(out.iter().all(|x| *x == 0.0), "all values are zero");
    }

    #[test]
    fn keys_are_split_where_a_tile_would_be_too_much_for_a_thread() {
        let (pool, mut scratch) = (Pool::new(4), AttnScratch::new());
        let mut shape = |segments: &[(usize, usize)]| {
            attend(&pool, &mut scratch, segments);
            let plan = &scratch.plan;
            (plan.splits.len(), plan.items.iter().filter(|item| item.chunk.is_some()).count(), plan.near)
        };
        assert_eq!(shape(&[(4000, 1)]), (2, 16, true), "a long sequence, two KV heads");
        assert_eq!(shape(&[(100, 1); 8]), (0, 0, false), "short ones");
        assert_eq!(shape(&[(0, 500)]), (0, 0, false), "a prompt");
        assert_eq!(shape(&[(4000, 1), (10, 1), (20, 1)]), (2, 16, true), "a long one and short ones");
        assert_eq!(shape(&[(500, 1), (400, 1), (2500, 1)]).0, 2, "the last one");
        let items = &scratch.plan.items;
        assert!(items.windows(2).all(|two| two[0].cost >= two[1].cost), "the largest first");
    }

    #[test]
    fn a_scratch_of_the_right_size_does_not_grow() {
        let n_rows = 40;
        for threads in [1, 3, 16] {
            let pool = Pool::new(threads);
            let mut scratch = AttnScratch::with_capacity(HEADS, 8, N_CTX, n_rows);
            let size = |s: &AttnScratch| (s.partial.len(), s.plan.items.capacity(), s.plan.splits.capacity());
            let before = size(&scratch);
            for segments in [
                &[(N_CTX - 1, 1)][..],
                &[(N_CTX - 40, 40)],
                &[(N_CTX - 1, 1); 40],
                &[(N_CTX - 5, 5); 8],
                &[(N_CTX - 33, 33), (4000, 7)],
                &[(0, 40)],
                &[(3000, 0), (N_CTX - 16, 16)],
            ] {
                attend(&pool, &mut scratch, segments);
                assert_eq!(size(&scratch), before, "{threads} threads: {segments:?}");
                assert!(scratch.plan.partial <= before.0);
            }
        }
    }
}
