//! Attention over the rows of many sequences at once: every row gets the bits that it gets alone, and what is stored in company
//! is what is stored alone.

mod common;

use common::{Rng, tables};
use ocelli_kernels::{
    AttnScratch, AttnShape, KernelError, Kernels, KvBatch, KvBatchMut, KvLayout, KvPart, KvSegment, Pool, Precision,
    attention,
};
use ocelli_quant::GgmlType;

const BLOCK: usize = 32;

/// Sequences in one cache, and the queries of their last rows.
struct Batch {
    layout: KvLayout,
    n_blocks: usize,
    n_heads: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
    blocks: Vec<u32>,
    segments: Vec<KvSegment>,
    q: Vec<f32>,
}

/// Shape of a layer.
#[derive(Clone, Copy, Debug)]
struct Layer {
    types: (GgmlType, GgmlType),
    heads: (usize, usize),
    head_dim: usize,
    coded: bool,
}

impl Layer {
    fn layout(&self) -> KvLayout {
        let (k, v) = self.types;
        let layout = KvLayout::new(k, v, self.heads.1, self.head_dim, BLOCK).expect("valid");
        let group = self.heads.0 / self.heads.1;
        if self.coded { layout.coded(Kernels::scalar(), Precision::Fast, group) } else { layout }
    }
}

impl Batch {
    /// Sequences with (slot of the first row, rows). Every third begins with the blocks of the one before it.
    fn new(layer: Layer, sequences: &[(usize, usize)], rng: &mut Rng) -> Self {
        let layout = layer.layout();
        let (mut blocks, mut segments) = (Vec::<u32>::new(), Vec::<KvSegment>::new());
        let (mut fresh, mut first_row) = (0, 0);
        let need: usize = sequences.iter().map(|(slot, rows)| layout.blocks_for(slot + rows)).sum();
        // Block numbers in no order.
        let numbers: Vec<u32> = (0..need as u32).map(|i| i * 7 % need as u32).collect();
        let scattered = if need.is_multiple_of(7) { (0..need as u32).rev().collect() } else { numbers };
        for (i, &(slot, rows)) in sequences.iter().enumerate() {
            let first_block = blocks.len();
            let n = layout.blocks_for(slot + rows);
            if let (2, Some(last)) = (i % 3, segments.last()) {
                // A block with rows of the segment itself is its own.
                let shared = (last.slot / BLOCK).min(slot / BLOCK);
                blocks.extend_from_within(last.first_block..last.first_block + shared);
            }
            while blocks.len() < first_block + n {
                blocks.push(scattered[fresh]);
                fresh += 1;
            }
            segments.push(KvSegment { first_row, rows, slot, first_block, blocks: n });
            // Some rows belong to nobody.
            first_row += rows + i % 2;
        }
        // Memory that nobody has written is no number.
        let keys = vec![0xffu8; need * layout.k_block_bytes()];
        let values = vec![0xffu8; need * layout.v_block_bytes()];
        let n_heads = layer.heads.0;
        let q = rng.vec(first_row * n_heads * layer.head_dim, 2.0);
        let mut batch = Self { layout, n_blocks: need, n_heads, keys, values, blocks, segments, q };
        let whole: Vec<KvSegment> =
            batch.segments.iter().map(|s| KvSegment { first_row: 0, rows: s.slot + s.rows, slot: 0, ..*s }).collect();
        for segment in whole {
            let rows = batch.rows(segment.rows, rng);
            batch.store(&[segment], &rows, &Pool::new(1)).expect("fits");
        }
        batch
    }

    fn rows(&self, n: usize, rng: &mut Rng) -> [Vec<f32>; 2] {
        let width = self.layout.n_kv_heads() * self.layout.head_dim();
        [rng.vec(n * width, 2.0), rng.vec(n * width, 1.0)]
    }

    fn store(&mut self, segments: &[KvSegment], [k, v]: &[Vec<f32>; 2], pool: &Pool) -> Result<(), KernelError> {
        KvBatchMut::new(self.layout, &mut self.keys, &mut self.values, &self.blocks, segments)?.store(
            pool,
            Kernels::scalar(),
            k,
            v,
        )
    }

    fn width(&self) -> usize {
        self.n_heads * self.layout.head_dim()
    }

    fn attend(
        &self,
        (pool, kernels, precision): (&Pool, Kernels, Precision),
        scratch: &mut AttnScratch,
        segments: &[KvSegment],
        q: &[f32],
    ) -> Vec<f32> {
        let batch = KvBatch::new(self.layout, &self.keys, &self.values, &self.blocks, segments).expect("covered");
        let scale = 1.0 / (self.layout.head_dim() as f32).sqrt();
        let shape = AttnShape { n_heads: self.n_heads, scale, causal: true, precision };
        let mut out = vec![7.0; q.len()];
        attention(pool, kernels, scratch, shape, q, &batch, &mut out).expect("fits");
        out
    }

    /// Attends with all rows together, with prompts cut somewhere and other threads, and with rows alone; all of it has to agree.
    /// Returns the results.
    fn check(
        &self,
        with: (&Pool, Kernels, Precision),
        other: &Pool,
        scratch: &mut AttnScratch,
        rng: &mut Rng,
        what: &str,
    ) -> Vec<f32> {
        let all = self.attend(with, scratch, &self.segments, &self.q);
        let cut: Vec<KvSegment> = self
            .segments
            .iter()
            .flat_map(|s| {
                let at = rng.below(s.rows + 1);
                let upper = KvSegment { first_row: s.first_row + at, slot: s.slot + at, rows: s.rows - at, ..*s };
                [KvSegment { rows: at, ..*s }, upper]
            })
            .collect();
        let (width, alone) = (self.width(), Pool::new(1));
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        let name = format!("{what} {} {:?} {} threads", with.1.name(), with.2, with.0.threads());
        let in_pieces = self.attend((other, with.1, with.2), scratch, &cut, &self.q);
        assert!(same(&all, &in_pieces), "{name}: cut at other places, {} threads", other.threads());
        let mut row = 0;
        for s in &self.segments {
            for (row, gap) in all[..s.first_row * width].chunks_exact(width).enumerate().skip(row) {
                assert!(gap.iter().all(|x| *x == 7.0), "{name}: row {row} belongs to nobody");
            }
            // Some of the rows of long segments: each costs as much as all before it.
            for i in (0..s.rows).filter(|i| s.rows < 3 || i % 59 == 5 || i + 1 == s.rows) {
                let part = (s.first_row + i) * width..(s.first_row + i + 1) * width;
                let one = [KvSegment { first_row: 0, rows: 1, slot: s.slot + i, ..*s }];
                let got = self.attend((&alone, with.1, with.2), scratch, &one, &self.q[part.clone()]);
                assert!(same(&got, &all[part]), "{name}: row {i} of {s:?}");
            }
            row = s.first_row + s.rows;
        }
        all
    }

    /// The row of a slot, as the cache's format has it.
    fn cached(&self, part: KvPart, segment: &KvSegment, head: usize, slots: usize) -> Vec<f32> {
        let layout = &self.layout;
        let (bytes, ty) = match part {
            KvPart::Keys => (&self.keys, layout.k_type()),
            KvPart::Values => (&self.values, layout.v_type()),
        };
        let heads = bytes.len() / (self.n_blocks * layout.n_kv_heads());
        let mut out = vec![0f32; slots * layout.head_dim()];
        for (i, rows) in out.chunks_mut(BLOCK * layout.head_dim()).enumerate() {
            let block = self.blocks[segment.first_block + i] as usize;
            let stored_row = layout.stored_row_bytes(part).expect("whole blocks");
            let mut stored = vec![0; rows.len() / layout.head_dim() * stored_row];
            let from = &bytes[(block * layout.n_kv_heads() + head) * heads..][..heads];
            layout.read_rows(Kernels::scalar(), part, from, &mut stored).expect("fits");
            for (bytes, row) in stored.chunks(stored_row).zip(rows.chunks_mut(layout.head_dim())) {
                ty.dequantize_row(bytes, row).expect("whole row");
            }
        }
        out
    }

    /// The results of every segment's last row, by a softmax in f64.
    fn reference(&self) -> Vec<f64> {
        let hd = self.layout.head_dim();
        let mut want = Vec::new();
        for (s, h) in self.segments.iter().flat_map(|s| (0..self.n_heads).map(move |h| (s, h))) {
            let head = h / (self.n_heads / self.layout.n_kv_heads());
            let seen = s.slot + s.rows;
            let [keys, values] = [KvPart::Keys, KvPart::Values].map(|part| self.cached(part, s, head, seen));
            let q = &self.q[(s.first_row + s.rows - 1) * self.width() + h * hd..][..hd];
            let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
            let scores: Vec<f64> = keys.chunks(hd).map(|k| dot(k) / (hd as f64).sqrt()).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut row = vec![0f64; hd];
            for (w, v) in weights.iter().zip(values.chunks(hd)) {
                row.iter_mut().zip(v).for_each(|(x, v)| *x += w / sum * f64::from(*v));
            }
            want.extend(row);
        }
        want
    }

    /// Largest distance of results from the reference.
    fn off(&self, out: &[f32], reference: &[f64]) -> f64 {
        let width = self.width();
        let last = self.segments.iter().flat_map(|s| &out[(s.first_row + s.rows - 1) * width..][..width]);
        let off = last.zip(reference).map(|(got, want)| (f64::from(*got) - want).abs());
        off.fold(0.0, |worst, off| if off.is_nan() { f64::INFINITY } else { worst.max(off) })
    }
}

fn layers() -> Vec<Layer> {
    use GgmlType::{F16, F32, Q8_0};
    let mut layers = Vec::new();
    for (types, coded) in [((F16, F16), true), ((F16, F16), false), ((F32, F32), false), ((Q8_0, Q8_0), false)] {
        for heads in [(8, 2), (32, 2), (4, 4)] {
            for head_dim in [64, 128, 80] {
                let whole = types.0 != Q8_0 || head_dim % 32 == 0;
                layers.extend(whole.then_some(Layer { types, heads, head_dim, coded }));
            }
        }
    }
    layers
}

#[test]
fn rows_of_many_sequences_get_what_each_gets_alone() {
    let pools = [1, 2, 3].map(Pool::new);
    for (number, layer) in layers().into_iter().enumerate() {
        let mut rng = Rng::new(number as u64 + 3);
        // A prompt, a continued prompt behind several chunks, drafts, and single rows, some far in their sequences.
        let mut sequences = vec![
            (rng.below(40), 60 + rng.below(71)),
            (1000 + rng.below(1000), 1),
            (900 + rng.below(400), 2 + rng.below(8)),
        ];
        sequences.extend((0..4).map(|_| (rng.below(600), 1 + rng.below(5))));
        sequences.swap(0, number % 4);
        let batch = Batch::new(layer, &sequences, &mut rng);
        let reference = batch.reference();
        for kernels in tables() {
            for precision in [Precision::Fast, Precision::Exact] {
                let (mut scratch, what) = (AttnScratch::new(), format!("{layer:?}"));
                let with = (&pools[number % 3], kernels, precision);
                let got = batch.check(with, &pools[(number + 1) % 3], &mut scratch, &mut rng, &what);
                let (off, bound) =
                    (batch.off(&got, &reference), if precision == Precision::Fast { 4e-4 } else { 1e-5 });
                assert!(off < bound, "{what} {} {precision:?}: off by {off:e}", kernels.name());
            }
        }
    }
}

/// What a row cannot see does not change it, even if it is no number.
#[test]
fn a_later_row_that_is_no_number_stays_with_itself() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(12));
    for layer in layers().into_iter().filter(|layer| layer.types.0 != GgmlType::Q8_0 && layer.head_dim != 128) {
        let mut batch = Batch::new(layer, &[(20, 9), (40, 3)], &mut rng);
        for kernels in tables() {
            for precision in [Precision::Fast, Precision::Exact] {
                let with = (&pool, kernels, precision);
                let mut scratch = AttnScratch::new();
                let width = batch.width();
                let before = batch.attend(with, &mut scratch, &batch.segments, &batch.q);
                let kept = (batch.keys.clone(), batch.values.clone());
                for (keys, value) in
                    [(true, f32::NAN), (false, f32::NAN), (true, f32::INFINITY), (false, f32::INFINITY)]
                {
                    let mut rows = batch.rows(1, &mut rng);
                    rows[usize::from(!keys)].fill(value);
                    let bad = KvSegment { first_row: 0, slot: 25, rows: 1, ..batch.segments[0] };
                    batch.store(&[bad], &rows, &pool).expect("the format has such values");
                    let after = batch.attend(with, &mut scratch, &batch.segments, &batch.q);
                    let name = format!("{layer:?} {} {precision:?} {value} in keys: {keys}", kernels.name());
                    assert_eq!(before[..5 * width], after[..5 * width], "{name}: rows before it");
                    assert_eq!(before[9 * width..], after[9 * width..], "{name}: the other sequence");
                    assert!(
                        after[5 * width..9 * width].chunks(width).all(|row| row.iter().any(|x| !x.is_finite())),
                        "{name}"
                    );
                    (batch.keys, batch.values) = kept.clone();
                }
            }
        }
    }
}

#[test]
fn what_is_stored_together_is_what_is_stored_alone() {
    let mut rng = Rng::new(8);
    for layer in layers() {
        // Few rows, which one thread writes, and many.
        for sequences in [&[(31, 3), (0, 1), (64, 2)][..], &[(0, 70), (90, 40), (5, 1), (31, 33)]] {
            let mut together = Batch::new(layer, sequences, &mut rng);
            let segments = together.segments.clone();
            let n = together.q.len() / together.width();
            let rows = together.rows(n, &mut rng);
            let (keys, values) = (together.keys.clone(), together.values.clone());
            together.store(&segments, &rows, &Pool::new(3)).expect("fits");
            let stored = (together.keys.clone(), together.values.clone());
            assert_ne!(stored.0, keys);
            (together.keys, together.values) = (keys, values);
            let width = layer.heads.1 * layer.head_dim;
            for s in &segments {
                for i in 0..s.rows {
                    let part = (s.first_row + i) * width..(s.first_row + i + 1) * width;
                    let one = KvSegment { first_row: 0, slot: s.slot + i, rows: 1, ..*s };
                    let row = [rows[0][part.clone()].to_vec(), rows[1][part].to_vec()];
                    together.store(&[one], &row, &Pool::new(1)).expect("fits");
                }
            }
            assert!(stored == (together.keys, together.values), "{layer:?} {sequences:?}");
        }
    }
}

#[test]
fn a_row_that_cannot_be_stored_is_named_and_the_others_are_stored() {
    let mut rng = Rng::new(9);
    let layer = Layer { types: (GgmlType::Q8_0, GgmlType::Q8_0), heads: (2, 2), head_dim: 64, coded: false };
    for sequences in [&[(0, 2), (3, 2), (7, 1)][..], &[(0, 50), (3, 40), (7, 1)]] {
        let mut batch = Batch::new(layer, sequences, &mut rng);
        let segments = batch.segments.clone();
        let n = batch.q.len() / batch.width();
        let rows = batch.rows(n, &mut rng);
        let want = {
            let (keys, values) = (batch.keys.clone(), batch.values.clone());
            batch.store(&segments, &rows, &Pool::new(2)).expect("fits");
            (std::mem::replace(&mut batch.keys, keys), std::mem::replace(&mut batch.values, values))
        };
        let mut bad = rows.clone();
        let row = segments[1].first_row + 1;
        bad[1][row * 128 + 77] = f32::NAN;
        let error = batch.store(&segments, &bad, &Pool::new(2)).expect_err("Q8_0 holds numbers only");
        assert!(matches!(error, KernelError::StoreRow { row: found, .. } if found == row), "{error}");
        for s in [&segments[0], &segments[2]] {
            let got = [KvPart::Keys, KvPart::Values].map(|part| batch.cached(part, s, 1, s.slot + s.rows));
            (batch.keys, batch.values) = want.clone();
            let want = [KvPart::Keys, KvPart::Values].map(|part| batch.cached(part, s, 1, s.slot + s.rows));
            assert_eq!(got, want);
        }
    }
}

#[test]
fn segments_that_do_not_fit_are_errors() {
    let mut rng = Rng::new(10);
    let layer = Layer { types: (GgmlType::F16, GgmlType::F16), heads: (2, 1), head_dim: 64, coded: false };
    let mut batch = Batch::new(layer, &[(0, 4), (30, 4)], &mut rng);
    let [first, second] = batch.segments[..] else { panic!("two segments") };
    let rows = batch.rows(9, &mut rng);
    for segments in [
        [second, first],
        [first, KvSegment { first_row: 3, ..second }],
        [first, KvSegment { blocks: 1, ..second }],
        [first, KvSegment { first_block: 2, ..second }],
        [first, KvSegment { first_row: 6, ..second }],
        [first, KvSegment { first_row: usize::MAX, ..second }],
        [first, KvSegment { slot: usize::MAX - 1, ..second }],
    ] {
        assert!(batch.store(&segments, &rows, &Pool::new(1)).is_err(), "{segments:?}");
    }
    let missing = [KvSegment { blocks: 1, slot: 33, ..second }];
    let error = KvBatch::new(batch.layout, &batch.keys, &batch.values, &batch.blocks, &missing).expect_err("no block");
    assert!(matches!(error, KernelError::KvPosition { .. }), "{error}");
    let none = [KvSegment { rows: 0, ..first }];
    let with = (&Pool::new(2), Kernels::scalar(), Precision::Fast);
    assert!(batch.attend(with, &mut AttnScratch::new(), &none, &batch.q).iter().all(|x| *x == 7.0));
    assert!(batch.attend(with, &mut AttnScratch::new(), &[], &[]).is_empty());
}
