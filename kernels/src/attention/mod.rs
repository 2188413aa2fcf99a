//! Attention over a paged cache: grouped queries, causal, online softmax.
//!
//! Work is cut into tiles of at most [`ROWS`] query rows (query heads that share a KV head × tokens) and [`KEYS`]
//! keys. A tile's queries are laid out as panels once, and every key, expanded to f32, multiplied with all of them;
//! blocks of keys that lie behind every query of the tile are never touched. With `m` the running maximum and `l` the running
//! sum of a row, a key tile with scores `s` does
//!
//! ```text
//! m' = max(m, max s)    p = exp(s − m')    l = l·exp(m − m') + Σ p    o = o·exp(m − m') + p·V
//! ```
//!
//! and the result is `o / l`. Keys are taken in chunks of [`CHUNK`], whose results are added up in order.
//!
//! A call takes rows of many sequences, segment by segment. A tile belongs to one segment; threads share tiles, and the chunks of
//! tiles that are large beside the others (see `plan`). How the keys of a row are cut follows from its own slot, and sums are made
//! in one order whatever is in the tile: a row's result is the same, bit for bit, alone and in company, with any number of threads
//! and however its prompt was cut. Arithmetic is f32, or 16-bit fixed point where the table multiplies that faster and precision
//! is not asked for (see `fixed`).

mod fixed;
mod plan;

use std::ops::Range;

use crate::act::Precision;
use crate::error::{KernelError, check_len};
use crate::fixed::{FixedKernels, UNIT};
use crate::kv::{KvBatch, KvLayout, KvPart, KvView, Run, check_rows};
use crate::matmul::OutPtr;
use crate::measure::Unit;
use crate::pool::{Pool, SCRATCH_BYTES};
use crate::select::Kernels;
use crate::table::{F32_LANES, GemmF32, KernelTable, fetch};
use crate::transpose::to_panel;
use plan::{Plan, SPLIT_TOKENS};

/// Query rows of a tile.
const ROWS: usize = 64;

/// Keys of a tile, at most; a tile lies inside one cache block.
const KEYS: usize = 64;

/// Keys whose results are added up before they join those of others. A multiple of [`KEYS`].
const CHUNK: usize = 512;

// The largest head must fit a worker's scratch: queries, results, scores twice, keys, values, maxima and sums.
const _: () = assert!(Pieces::floats(crate::kv::MAX_HEAD_DIM) * 4 <= SCRATCH_BYTES);
const _: () = assert!((Pieces::floats(UNIT) + fixed::floats(UNIT)) * 4 <= SCRATCH_BYTES);

/// What a call of [`attention`] attends with.
#[derive(Debug, Clone, Copy)]
pub struct AttnShape {
    /// Query heads, a multiple of the cache's KV heads. Query head j uses KV head j / (`n_heads` / `n_kv_heads`).
    pub n_heads: usize,
    /// Factor on scores, usually `1/sqrt(head_dim)`.
    pub scale: f32,
    /// Whether a row sees only slots up to its own; else all up to the end of its segment.
    pub causal: bool,
    /// How products are computed: `Fast` is fixed point where the table multiplies such numbers faster and the cache is F16, or
    /// F16 and Q8_0 with enough query heads for a KV head.
    pub precision: Precision,
}

/// What the products of [`attention`] with `group` query heads for each KV head are made of. The number of tokens does not
/// matter: what is made of one must not depend on how many go together.
#[must_use]
pub fn attention_unit(kernels: Kernels, precision: Precision, layout: &KvLayout, group: usize) -> Unit {
    match &kernels.table.fixed {
        Some(fixed) if precision == Precision::Fast && fixed::suits(fixed, layout, group) => Unit::Int16,
        _ => Unit::F32,
    }
}

/// The plan of a call, and partial results where the keys of a row are shared among threads. Reuse one: it keeps the size it
/// has grown to.
#[derive(Debug, Default)]
pub struct AttnScratch {
    partial: Vec<f32>,
    plan: Plan,
}

impl AttnScratch {
    /// An empty scratch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A scratch that will not allocate for calls of up to `n_rows` rows, all segments together, over up to `n_ctx` slots of
    /// each sequence. Memory is touched only when it is used: what is for partial results, by calls with few rows over long
    /// sequences.
    #[must_use]
    pub fn with_capacity(n_heads: usize, head_dim: usize, n_ctx: usize, n_rows: usize) -> Self {
        let rows = n_rows.min(SPLIT_TOKENS).saturating_mul(n_heads);
        let n = n_ctx.div_ceil(CHUNK).saturating_mul(rows).saturating_mul(head_dim + 2);
        Self { partial: vec![0.0; n], plan: Plan::with_capacity(n_heads, n_ctx, n_rows) }
    }
}

/// `out[t][j] = softmax(scale · q[t][j]·K) · V` for every row and query head, with the keys and values that its sequence has in
/// the cache up to the row's own slot. `q` and `out` are rows × `n_heads` × `head_dim`, of all segments of the batch; `out` is
/// left as it is in rows that belong to none.
///
/// A causal row's result depends on its query and its sequence's cache only: not on other segments, on how many rows its own has
/// or on the number of threads.
///
/// # Errors
/// When the shapes do not fit, or a segment has rows that are not there.
pub fn attention(
    pool: &Pool,
    kernels: Kernels,
    scratch: &mut AttnScratch,
    shape: AttnShape,
    q: &[f32],
    batch: &KvBatch<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let layout = batch.layout();
    let (hd, kv_heads) = (layout.head_dim(), layout.n_kv_heads());
    if shape.n_heads == 0 || !shape.n_heads.is_multiple_of(kv_heads) {
        return Err(KernelError::Multiple { what: "number of query heads", got: shape.n_heads, of: kv_heads });
    }
    let width = shape.n_heads.saturating_mul(hd);
    if !q.len().is_multiple_of(width) {
        return Err(KernelError::Multiple { what: "queries", got: q.len(), of: width });
    }
    check_len("attention result", out.len(), q.len())?;
    check_rows(batch.end(), q.len() / width)?;
    let group = shape.n_heads / kv_heads;
    let heads = group.min(ROWS);
    let fast = attention_unit(kernels, shape.precision, layout, group) == Unit::Int16;
    let call = Call {
        table: kernels.table,
        fixed: kernels.table.fixed.filter(|_| fast),
        shape,
        batch: *batch,
        q,
        out: OutPtr(out.as_mut_ptr()),
        heads,
        head_tiles: group.div_ceil(heads),
        group,
        tile_tokens: (ROWS / heads).max(1),
    };
    call.run(pool, scratch);
    Ok(())
}

/// One call, readable from all threads.
struct Call<'a> {
    table: &'static KernelTable,
    /// Computes in fixed point.
    fixed: Option<FixedKernels>,
    shape: AttnShape,
    batch: KvBatch<'a>,
    q: &'a [f32],
    out: OutPtr,
    /// Query heads in a tile.
    heads: usize,
    /// Tiles that cover the query heads of one KV head.
    head_tiles: usize,
    /// Query heads per KV head.
    group: usize,
    /// Tokens in a tile.
    tile_tokens: usize,
}

/// The part of a call that belongs to one segment.
struct Job<'a> {
    call: &'a Call<'a>,
    view: KvView<'a>,
    /// Queries of the segment.
    q: &'a [f32],
    /// Results of the segment.
    out: OutPtr,
    /// Rows of the segment.
    tokens: usize,
    /// Slot of the first.
    slot: usize,
    /// Slots seen by the last.
    seen: usize,
}

/// The query rows of a tile: tokens `t0..t1` of query heads `h0..h1`, all of KV head `kv`.
#[derive(Clone, Copy)]
struct Tile {
    t0: usize,
    t1: usize,
    h0: usize,
    h1: usize,
    kv: usize,
}

impl Tile {
    fn rows(&self) -> usize {
        (self.t1 - self.t0) * (self.h1 - self.h0)
    }

    /// Token and head of row r.
    fn at(&self, r: usize) -> (usize, usize) {
        let heads = self.h1 - self.h0;
        (self.t0 + r / heads, self.h0 + r % heads)
    }
}

/// A worker's scratch, cut up for one tile.
struct Pieces<'a> {
    /// Queries × scale: panels [rows / LANES][head_dim][LANES].
    q: &'a mut [f32],
    /// Results before division, [rows][padded head_dim].
    o: &'a mut [f32],
    /// Scores, [rows][KEYS].
    s: &'a mut [f32],
    /// Scores as they are made, [KEYS][ROWS].
    by_key: &'a mut [f32],
    /// Keys, [KEYS][head_dim].
    k: &'a mut [f32],
    /// Values, [KEYS][padded head_dim].
    v: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// What is left.
    rest: &'a mut [f32],
}

/// Head size rounded up to whole panels.
const fn padded(head_dim: usize) -> usize {
    head_dim.div_ceil(F32_LANES) * F32_LANES
}

impl<'a> Pieces<'a> {
    /// Floats needed for heads of `hd` values.
    const fn floats(hd: usize) -> usize {
        2 * ROWS * (padded(hd) + KEYS) + 2 * KEYS * padded(hd) + 2 * ROWS
    }

    fn new(scratch: &'a mut [u8], hd: usize) -> Self {
        // SAFETY: a worker's scratch is aligned to 64 and SCRATCH_BYTES long; f32 has no invalid bits.
        let floats = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<f32>(), scratch.len() / 4) };
        let p = padded(hd);
        let (q, rest) = floats.split_at_mut(ROWS * p);
        let (o, rest) = rest.split_at_mut(ROWS * p);
        let (s, rest) = rest.split_at_mut(ROWS * KEYS);
        let (by_key, rest) = rest.split_at_mut(KEYS * ROWS);
        let (k, rest) = rest.split_at_mut(KEYS * p);
        let (v, rest) = rest.split_at_mut(KEYS * p);
        let (max, rest) = rest.split_at_mut(ROWS);
        let (sum, rest) = rest.split_at_mut(ROWS);
        Self { q, o, s, by_key, k, v, max, sum, rest }
    }
}

/// Maxima and sums of all chunks so far of a tile's rows, whose results are where they go.
struct Whole {
    max: [f32; ROWS],
    sum: [f32; ROWS],
}

impl Whole {
    fn new() -> Self {
        Self { max: [f32::NEG_INFINITY; ROWS], sum: [0.0; ROWS] }
    }

    /// Adds a chunk's result for row `r` to those before, which are in `out` unless there are none.
    fn join(&mut self, r: usize, out: &mut [f32], o: &[f32], max: f32, sum: f32) {
        // A chunk that this token does not see has a sum of 0 and a maximum of −∞.
        if sum == 0.0 {
            return;
        }
        if self.sum[r] == 0.0 {
            out.copy_from_slice(o);
            (self.max[r], self.sum[r]) = (max, sum);
            return;
        }
        let most = self.max[r].max(max);
        let [before, here] = [self.max[r], max].map(|max| if max == most { 1.0 } else { (max - most).exp() });
        for (out, o) in out.iter_mut().zip(o) {
            *out = *out * before + o * here;
        }
        (self.max[r], self.sum[r]) = (most, self.sum[r] * before + sum * here);
    }
}

impl Call<'_> {
    fn job(&self, segment: usize) -> Job<'_> {
        let segment = &self.batch.segments()[segment];
        let width = self.shape.n_heads * self.batch.layout().head_dim();
        let first = segment.first_row * width;
        // Within the result, or just behind it where the segment is empty: `attention` has checked the end of all rows.
        let out = OutPtr(self.out.get().wrapping_add(first));
        let q = &self.q[first..first + segment.rows * width];
        let view = self.batch.view(segment);
        Job { call: self, view, q, out, tokens: segment.rows, slot: segment.slot, seen: segment.len() }
    }

    fn run(&self, pool: &Pool, scratch: &mut AttnScratch) {
        let AttnScratch { partial, plan } = scratch;
        plan.make(self, pool.threads());
        if partial.len() < plan.partial {
            partial.resize(plan.partial, 0.0);
        }
        let results = OutPtr(partial.as_mut_ptr());
        let each = |item: usize, scratch: &mut [u8]| {
            let item = &plan.items[item];
            let job = self.job(item.segment);
            let tile = job.tile(item.tile);
            match &item.chunk {
                None => job.whole(tile, scratch),
                Some(chunk) => {
                    let floats = tile.rows() * job.partial_row();
                    // SAFETY: the plan gives every chunk floats of its own, all within the buffer.
                    let to = unsafe { std::slice::from_raw_parts_mut(results.get().add(chunk.first), floats) };
                    job.chunk(tile, chunk.number, scratch, to);
                }
            }
        };
        if plan.near {
            // In shares: what comes next in memory is the same thread's.
            pool.for_each_near(plan.items.len(), each);
        } else {
            pool.for_each(plan.items.len(), each);
        }
        pool.for_each(plan.splits.len(), |number, _| {
            let split = &plan.splits[number];
            let job = self.job(split.segment);
            let tile = job.tile(split.tile);
            let per_chunk = tile.rows() * job.partial_row();
            job.merge(tile, &partial[split.first..split.first + split.chunks * per_chunk], per_chunk);
        });
    }
}

impl Job<'_> {
    /// Tiles of the segment.
    fn tiles(&self) -> usize {
        self.tokens.div_ceil(self.call.tile_tokens) * self.view.layout().n_kv_heads() * self.call.head_tiles
    }

    /// Floats of a row's partial result: what its values add up to, the maximum and the sum.
    fn partial_row(&self) -> usize {
        self.view.layout().head_dim() + 2
    }

    /// All of a tile.
    fn whole(&self, tile: Tile, scratch: &mut [u8]) {
        let hd = self.view.layout().head_dim();
        let mut p = Pieces::new(scratch, hd);
        let mut whole = Whole::new();
        self.queries(tile, &mut p);
        for from in (0..self.seen_by(tile.t1 - 1)).step_by(CHUNK) {
            self.keys(tile, from, from + CHUNK, &mut p);
            for r in 0..tile.rows() {
                let o = &p.o[r * padded(hd)..][..hd];
                whole.join(r, self.result(tile, r), o, p.max[r], p.sum[r]);
            }
        }
        self.finish(tile, &whole);
    }

    /// One chunk of a tile's keys; `partial` has a row of [`Job::partial_row`] floats for each of the tile's.
    fn chunk(&self, tile: Tile, number: usize, scratch: &mut [u8], partial: &mut [f32]) {
        let hd = self.view.layout().head_dim();
        let mut p = Pieces::new(scratch, hd);
        self.queries(tile, &mut p);
        self.keys(tile, number * CHUNK, (number + 1) * CHUNK, &mut p);
        for (r, row) in partial.chunks_exact_mut(self.partial_row()).enumerate() {
            row[..hd].copy_from_slice(&p.o[r * padded(hd)..][..hd]);
            row[hd] = p.max[r];
            row[hd + 1] = p.sum[r];
        }
    }

    fn tile(&self, no: usize) -> Tile {
        let Call { heads, head_tiles, group, tile_tokens, .. } = *self.call;
        let per_token_tile = self.view.layout().n_kv_heads() * head_tiles;
        let (token_tile, rest) = (no / per_token_tile, no % per_token_tile);
        let (kv, head_tile) = (rest / head_tiles, rest % head_tiles);
        let t0 = token_tile * tile_tokens;
        let h0 = kv * group + head_tile * heads;
        Tile { t0, t1: self.tokens.min(t0 + tile_tokens), h0, h1: (h0 + heads).min((kv + 1) * group), kv }
    }

    /// Slots that token `t` sees.
    fn seen_by(&self, t: usize) -> usize {
        if self.call.shape.causal { self.slot + t + 1 } else { self.seen }
    }

    /// Attends with the queries of `tile`, which [`Job::queries`] has taken, to keys `from..to`, as far as they see them.
    fn keys(&self, tile: Tile, from: usize, to: usize, p: &mut Pieces<'_>) {
        let (pad, rows) = (padded(self.view.layout().head_dim()), tile.rows());
        p.o[..rows * pad].fill(0.0);
        p.max[..rows].fill(f32::NEG_INFINITY);
        p.sum[..rows].fill(0.0);
        if let Some(fixed) = &self.call.fixed {
            return self.keys_fixed(fixed, tile, from, to, p);
        }
        let to = to.min(self.seen_by(tile.t1 - 1));
        let mut k0 = from;
        while k0 < to {
            let (k1, [next_k, next_v]) = self.step(tile, k0, to);
            self.scores(tile, k0, k1, p);
            self.softmax(tile, k0, k1, next_k, p);
            self.values(tile, k0, k1, next_v, p);
            k0 = k1;
        }
    }

    /// The end of the keys that are taken together from `k0` on, at most `to`, and the rows of those after them, which may
    /// belong to the next chunk. These are asked for meanwhile, in parts: memory would have nothing to do otherwise, and then
    /// all to do at once.
    fn step(&self, tile: Tile, k0: usize, to: usize) -> (usize, [&[u8]; 2]) {
        let block = self.view.layout().block_len();
        let end = |from: usize, to: usize| to.min(from + KEYS).min((from / block + 1) * block);
        let k1 = end(k0, to);
        let k2 = end(k1, self.seen_by(tile.t1 - 1));
        let rows = |part| if k1 < k2 { self.view.bytes(Run { part, head: tile.kv, from: k1, to: k2 }) } else { &[] };
        (k1, [KvPart::Keys, KvPart::Values].map(rows))
    }

    /// Takes the tile's queries, times the scale.
    fn queries(&self, tile: Tile, p: &mut Pieces<'_>) {
        if let Some(fixed) = &self.call.fixed {
            return self.queries_fixed(fixed, tile, p);
        }
        let (hd, rows) = (self.view.layout().head_dim(), tile.rows());
        // The rows lie in the place of the keys, which come later.
        for (r, dst) in p.k.chunks_exact_mut(hd).take(rows).enumerate() {
            let (t, h) = tile.at(r);
            for (dst, q) in dst.iter_mut().zip(&self.q[(t * self.call.shape.n_heads + h) * hd..]) {
                *dst = q * self.call.shape.scale;
            }
        }
        for (panel, first) in p.q.chunks_exact_mut(hd * F32_LANES).zip((0..rows).step_by(F32_LANES)) {
            let lanes = F32_LANES.min(rows - first);
            if lanes < F32_LANES {
                panel.fill(0.0);
            }
            to_panel(self.call.table, &p.k[first * hd..], hd, lanes, hd, panel, F32_LANES);
        }
    }

    /// `s[r][key] = q[r]·k[key]`.
    fn scores(&self, tile: Tile, k0: usize, k1: usize, p: &mut Pieces<'_>) {
        let layout = self.view.layout();
        let (hd, n, rows) = (layout.head_dim(), k1 - k0, tile.rows());
        let keys = Run { part: KvPart::Keys, head: tile.kv, from: k0, to: k1 };
        self.view.expand(self.call.table, keys, p.k, hd);
        for (panel, first) in p.q.chunks_exact(hd * F32_LANES).zip((0..rows).step_by(F32_LANES)) {
            // SAFETY: the panel has `hd` steps, the keys are n rows of hd values, and `by_key` has n ≤ KEYS rows of ROWS,
            // of which this panel's lanes are `first..`; the table's features were detected.
            unsafe {
                (self.call.table.gemm_f32)(&GemmF32 {
                    panel: panel.as_ptr(),
                    panel_stride: F32_LANES,
                    n_rows: F32_LANES.min(rows - first),
                    depth: hd,
                    x: p.k.as_ptr(),
                    x_stride: hd,
                    cols: n,
                    out: p.by_key.as_mut_ptr().add(first),
                    out_stride: ROWS,
                    accumulate: false,
                });
            }
        }
        to_panel(self.call.table, p.by_key, ROWS, n, rows, p.s, KEYS);
    }

    /// Turns scores into weights, and rescales what has been added up.
    fn softmax(&self, tile: Tile, k0: usize, k1: usize, later: &[u8], p: &mut Pieces<'_>) {
        let pad = padded(self.view.layout().head_dim());
        let part = later.len().div_ceil(tile.rows());
        for r in 0..tile.rows() {
            fetch(later.get(r * part..later.len().min((r + 1) * part)).unwrap_or_default());
            let (t, _) = tile.at(r);
            let s = &mut p.s[r * KEYS..r * KEYS + (k1 - k0)];
            let (visible, hidden) = s.split_at_mut(self.seen_by(t).clamp(k0, k1) - k0);
            hidden.fill(0.0);
            if visible.is_empty() {
                continue;
            }
            // SAFETY: these functions take any length; the table's features were detected.
            unsafe {
                let max = p.max[r].max((self.call.table.max)(visible));
                // All scores −∞ (an overflow upstream): keep the weights at NaN rather than guess.
                let shrink = if p.max[r] == max { 1.0 } else { (p.max[r] - max).exp() };
                if shrink != 1.0 {
                    (self.call.table.scale)(&mut p.o[r * pad..(r + 1) * pad], shrink);
                }
                p.sum[r] = p.sum[r] * shrink + (self.call.table.exp_sum)(visible, max);
                p.max[r] = max;
            }
        }
    }

    /// `o[r] += Σ_key s[r][key]·v[key]`.
    fn values(&self, tile: Tile, k0: usize, k1: usize, later: &[u8], p: &mut Pieces<'_>) {
        let layout = self.view.layout();
        let (hd, n) = (layout.head_dim(), k1 - k0);
        let pad = padded(hd);
        let values = Run { part: KvPart::Values, head: tile.kv, from: k0, to: k1 };
        self.view.expand(self.call.table, values, p.v, pad);
        // A weight of zero keeps the value of a key that a row does not see out of its result, if it is a number.
        let seen_by_all = self.seen_by(tile.t0).clamp(k0, k1) - k0;
        // Without a branch for each, so that many are looked at together.
        let finite = p.v[seen_by_all * pad..n * pad].iter().fold(true, |finite, v| finite & v.is_finite());
        if finite {
            return self.add_values(0..tile.rows(), n, later, p);
        }
        let heads = tile.h1 - tile.h0;
        for t in tile.t0..tile.t1 {
            let first = (t - tile.t0) * heads;
            self.add_values(first..first + heads, self.seen_by(t).clamp(k0, k1) - k0, &[], p);
        }
    }

    /// Adds the first `n` values of a tile, times their weights, to the results of `rows`.
    fn add_values(&self, rows: Range<usize>, n: usize, later: &[u8], p: &mut Pieces<'_>) {
        let hd = self.view.layout().head_dim();
        let pad = padded(hd);
        let part = later.len().div_ceil(pad / F32_LANES);
        for lane in (0..hd).step_by(F32_LANES) {
            let at = lane / F32_LANES * part;
            fetch(later.get(at..later.len().min(at + part)).unwrap_or_default());
            // SAFETY: `v` has n rows of `pad` ≥ lane + LANES values, `s` has a row of KEYS ≥ n for each of the tile's, `o` one
            // of `pad`; the table's features were detected.
            unsafe {
                (self.call.table.gemm_f32)(&GemmF32 {
                    panel: p.v.as_ptr().add(lane),
                    panel_stride: pad,
                    n_rows: F32_LANES,
                    depth: n,
                    x: p.s.as_ptr().add(rows.start * KEYS),
                    x_stride: KEYS,
                    cols: rows.len(),
                    out: p.o.as_mut_ptr().add(rows.start * pad + lane),
                    out_stride: pad,
                    accumulate: true,
                });
            }
        }
    }

    /// Adds up the partial results of a tile's chunks, in order.
    fn merge(&self, tile: Tile, partial: &[f32], per_chunk: usize) {
        let hd = self.view.layout().head_dim();
        let mut whole = Whole::new();
        for r in 0..tile.rows() {
            for chunk in partial.chunks_exact(per_chunk) {
                let row = &chunk[r * self.partial_row()..][..self.partial_row()];
                whole.join(r, self.result(tile, r), &row[..hd], row[hd], row[hd + 1]);
            }
        }
        self.finish(tile, &whole);
    }

    /// Divides the results of a tile by their sums.
    fn finish(&self, tile: Tile, whole: &Whole) {
        for (r, sum) in whole.sum.iter().enumerate().take(tile.rows()) {
            let out = self.result(tile, r);
            if *sum == 0.0 {
                // All scores −∞ (an overflow upstream): NaN rather than a guess.
                out.fill(f32::NAN);
                continue;
            }
            let inverse = 1.0 / sum;
            for out in out {
                *out *= inverse;
            }
        }
    }

    /// Where row `r` of a tile goes.
    #[expect(clippy::mut_from_ref, reason = "rows of different tiles are disjoint, and a tile is one thread's")]
    fn result(&self, tile: Tile, r: usize) -> &mut [f32] {
        let hd = self.view.layout().head_dim();
        let (t, h) = tile.at(r);
        // SAFETY: the result of the segment is tokens × n_heads × hd long and no other's (`KvBatch::new` and `attention` have
        // checked that); every (token, head) belongs to one tile, which one thread handles at a time, and the slice is dropped
        // before the next one is made.
        unsafe { std::slice::from_raw_parts_mut(self.out.get().add((t * self.call.shape.n_heads + h) * hd), hd) }
    }
}
