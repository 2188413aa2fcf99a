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
//! and the result is `o / l`. Keys are taken in chunks of [`CHUNK`], whose results are added up in order. When all queries fit
//! one tile (generation), threads share the chunks. How work is cut depends on the shapes only, so results do not depend on the
//! number of threads. Arithmetic is f32, or 16-bit fixed point where the table multiplies that faster and precision is not asked
//! for (see `fixed`): then they do not depend on how many tokens go together, either.

mod fixed;

use crate::act::Precision;
use crate::error::{KernelError, check_len};
use crate::fixed::{FixedKernels, UNIT};
use crate::kv::{KvLayout, KvPart, KvView, Run};
use crate::matmul::OutPtr;
use crate::measure::Unit;
use crate::pool::{Pool, SCRATCH_BYTES};
use crate::select::Kernels;
use crate::table::{F32_LANES, GemmF32, KernelTable, fetch};
use crate::transpose::to_panel;

/// Query rows of a tile.
const ROWS: usize = 64;

/// Keys of a tile, at most; a tile lies inside one cache block.
const KEYS: usize = 64;

/// Keys whose results are added up before they join those of others. A multiple of [`KEYS`].
const CHUNK: usize = 512;

/// Query rows below which each is multiplied by itself instead of as lanes of a panel.
const FEW_ROWS: usize = 4;

// The largest head must fit a worker's scratch: queries, results, scores twice, keys, values, maxima and sums.
const _: () = assert!(Pieces::floats(crate::kv::MAX_HEAD_DIM) * 4 <= SCRATCH_BYTES);
const _: () = assert!((Pieces::floats(UNIT) + fixed::floats(UNIT)) * 4 <= SCRATCH_BYTES);

/// What a call of [`attention`] attends with.
#[derive(Debug, Clone, Copy)]
pub struct AttnShape {
    /// Query heads, a multiple of the cache's KV heads. Query head j uses KV head j / (`n_heads` / `n_kv_heads`).
    pub n_heads: usize,
    /// Position of the first query token.
    pub pos0: usize,
    /// Factor on scores, usually `1/sqrt(head_dim)`.
    pub scale: f32,
    /// Whether a token sees only positions up to its own; else all of the view.
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

/// Partial results of generation steps over long contexts. Reuse one: it keeps the size it has grown to.
#[derive(Debug, Default)]
pub struct AttnScratch {
    partial: Vec<f32>,
}

impl AttnScratch {
    /// An empty scratch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A scratch that will not allocate for single tokens over up to `n_ctx` positions.
    #[must_use]
    pub fn with_capacity(n_heads: usize, head_dim: usize, n_ctx: usize) -> Self {
        let n = n_ctx.div_ceil(CHUNK).saturating_mul(n_heads).saturating_mul(head_dim + 2);
        Self { partial: vec![0.0; n] }
    }
}

/// `out[t][j] = softmax(scale · q[t][j]·K) · V` for every token and query head. `q` and `out` are tokens × `n_heads` ×
/// `head_dim`; token t stands at position `pos0 + t`.
///
/// # Errors
/// When the shapes do not fit, or the view does not hold the positions that the tokens see.
pub fn attention(
    pool: &Pool,
    kernels: Kernels,
    scratch: &mut AttnScratch,
    shape: AttnShape,
    q: &[f32],
    view: &KvView<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let layout = view.layout();
    let (hd, kv_heads) = (layout.head_dim(), layout.n_kv_heads());
    if shape.n_heads == 0 || !shape.n_heads.is_multiple_of(kv_heads) {
        return Err(KernelError::Multiple { what: "number of query heads", got: shape.n_heads, of: kv_heads });
    }
    let width = shape.n_heads.saturating_mul(hd);
    if !q.len().is_multiple_of(width) {
        return Err(KernelError::Multiple { what: "queries", got: q.len(), of: width });
    }
    check_len("attention result", out.len(), q.len())?;
    let tokens = q.len() / width;
    if tokens == 0 {
        return Ok(());
    }
    let seen = if shape.causal { shape.pos0.saturating_add(tokens) } else { view.len().max(1) };
    if seen > view.len() {
        return Err(KernelError::TooLarge { what: "positions to attend to", got: seen, limit: view.len() });
    }
    let group = shape.n_heads / kv_heads;
    let heads = group.min(ROWS);
    let fast = attention_unit(kernels, shape.precision, layout, group) == Unit::Int16;
    let job = Job {
        table: kernels.table,
        fixed: kernels.table.fixed.filter(|_| fast),
        shape,
        view: *view,
        q,
        out: OutPtr(out.as_mut_ptr()),
        tokens,
        seen,
        heads,
        head_tiles: group.div_ceil(heads),
        group,
        tile_tokens: (ROWS / heads).max(1),
    };
    job.run(pool, scratch);
    Ok(())
}

/// One call, readable from all threads.
struct Job<'a> {
    table: &'static KernelTable,
    /// Computes in fixed point.
    fixed: Option<FixedKernels>,
    shape: AttnShape,
    view: KvView<'a>,
    q: &'a [f32],
    out: OutPtr,
    tokens: usize,
    /// Positions seen by the last token.
    seen: usize,
    /// Query heads in a tile.
    heads: usize,
    /// Tiles that cover the query heads of one KV head.
    head_tiles: usize,
    /// Query heads per KV head.
    group: usize,
    /// Tokens in a tile.
    tile_tokens: usize,
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
    /// Queries × scale: panels [rows / LANES][head_dim][LANES], or few rows [rows][head_dim].
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

impl Job<'_> {
    fn run(&self, pool: &Pool, scratch: &mut AttnScratch) {
        let tiles = self.tokens.div_ceil(self.tile_tokens) * self.view.layout().n_kv_heads() * self.head_tiles;
        let chunks = self.seen.div_ceil(CHUNK);
        let hd = self.view.layout().head_dim();
        if self.tokens > self.tile_tokens || chunks == 1 {
            // Late tiles see the most keys: they go first, so that no thread is left with one at the end.
            pool.for_each(tiles, |item, scratch| {
                let mut p = Pieces::new(scratch, hd);
                let tile = self.tile(tiles - 1 - item);
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
            });
            return;
        }
        let stride = hd + 2;
        let n = tiles * self.heads * self.tokens * stride * chunks;
        if scratch.partial.len() < n {
            scratch.partial.resize(n, 0.0);
        }
        let partial = OutPtr(scratch.partial.as_mut_ptr());
        let per_tile = n / tiles / chunks;
        // In shares: what comes next in memory is the same thread's.
        pool.for_each_near(tiles * chunks, |item, scratch| {
            let (tile_no, chunk) = (item / chunks, item % chunks);
            let tile = self.tile(tile_no);
            let mut p = Pieces::new(scratch, hd);
            self.queries(tile, &mut p);
            self.keys(tile, chunk * CHUNK, self.seen.min((chunk + 1) * CHUNK), &mut p);
            // SAFETY: item `i` owns floats `i·per_tile .. (i + 1)·per_tile` of the buffer of `n` floats.
            let dst = unsafe { std::slice::from_raw_parts_mut(partial.get().add(item * per_tile), per_tile) };
            for r in 0..tile.rows() {
                let row = &mut dst[r * stride..(r + 1) * stride];
                row[..hd].copy_from_slice(&p.o[r * padded(hd)..r * padded(hd) + hd]);
                row[hd] = p.max[r];
                row[hd + 1] = p.sum[r];
            }
        });
        let partial = &scratch.partial;
        pool.for_each(tiles, |tile_no, _| {
            let all = &partial[tile_no * chunks * per_tile..(tile_no + 1) * chunks * per_tile];
            self.merge(self.tile(tile_no), all, chunks, per_tile);
        });
    }

    fn tile(&self, no: usize) -> Tile {
        let per_token_tile = self.view.layout().n_kv_heads() * self.head_tiles;
        let (token_tile, rest) = (no / per_token_tile, no % per_token_tile);
        let (kv, head_tile) = (rest / self.head_tiles, rest % self.head_tiles);
        let t0 = token_tile * self.tile_tokens;
        let h0 = kv * self.group + head_tile * self.heads;
        Tile {
            t0,
            t1: self.tokens.min(t0 + self.tile_tokens),
            h0,
            h1: (h0 + self.heads).min((kv + 1) * self.group),
            kv,
        }
    }

    /// Positions that token `t` sees.
    fn seen_by(&self, t: usize) -> usize {
        if self.shape.causal { self.shape.pos0 + t + 1 } else { self.seen }
    }

    /// Attends with the queries of `tile`, which [`Job::queries`] has taken, to keys `from..to`, as far as they see them.
    fn keys(&self, tile: Tile, from: usize, to: usize, p: &mut Pieces<'_>) {
        let (pad, rows) = (padded(self.view.layout().head_dim()), tile.rows());
        p.o[..rows * pad].fill(0.0);
        p.max[..rows].fill(f32::NEG_INFINITY);
        p.sum[..rows].fill(0.0);
        if let Some(fixed) = &self.fixed {
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
        if let Some(fixed) = &self.fixed {
            return self.queries_fixed(fixed, tile, p);
        }
        let (hd, rows) = (self.view.layout().head_dim(), tile.rows());
        // Where panels are made, the rows lie in the place of the keys, which come later.
        let scaled = if rows < FEW_ROWS { &mut *p.q } else { &mut *p.k };
        for (r, dst) in scaled.chunks_exact_mut(hd).take(rows).enumerate() {
            let (t, h) = tile.at(r);
            for (dst, q) in dst.iter_mut().zip(&self.q[(t * self.shape.n_heads + h) * hd..]) {
                *dst = q * self.shape.scale;
            }
        }
        if rows < FEW_ROWS {
            return;
        }
        for (panel, first) in p.q.chunks_exact_mut(hd * F32_LANES).zip((0..rows).step_by(F32_LANES)) {
            let lanes = F32_LANES.min(rows - first);
            if lanes < F32_LANES {
                panel.fill(0.0);
            }
            to_panel(self.table, &p.k[first * hd..], hd, lanes, hd, panel, F32_LANES);
        }
    }

    /// `s[r][key] = q[r]·k[key]`.
    fn scores(&self, tile: Tile, k0: usize, k1: usize, p: &mut Pieces<'_>) {
        let layout = self.view.layout();
        let (hd, n, rows) = (layout.head_dim(), k1 - k0, tile.rows());
        let keys = Run { part: KvPart::Keys, head: tile.kv, from: k0, to: k1 };
        self.view.expand(self.table, keys, p.k, hd);
        if rows < FEW_ROWS {
            for (r, q) in p.q.chunks_exact(hd).take(rows).enumerate() {
                for (score, key) in p.s[r * KEYS..][..n].iter_mut().zip(p.k.chunks_exact(hd)) {
                    // SAFETY: equal lengths; features as above.
                    *score = unsafe { (self.table.dot_f32)(q, key) };
                }
            }
            return;
        }
        for (panel, first) in p.q.chunks_exact(hd * F32_LANES).zip((0..rows).step_by(F32_LANES)) {
            // SAFETY: the panel has `hd` steps, the keys are n rows of hd values, and `by_key` has n ≤ KEYS rows of ROWS,
            // of which this panel's lanes are `first..`; the table's features were detected.
            unsafe {
                (self.table.gemm_f32)(&GemmF32 {
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
        to_panel(self.table, p.by_key, ROWS, n, rows, p.s, KEYS);
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
                let max = p.max[r].max((self.table.max)(visible));
                // All scores −∞ (an overflow upstream): keep the weights at NaN rather than guess.
                let shrink = if p.max[r] == max { 1.0 } else { (p.max[r] - max).exp() };
                if shrink != 1.0 {
                    (self.table.scale)(&mut p.o[r * pad..(r + 1) * pad], shrink);
                }
                p.sum[r] = p.sum[r] * shrink + (self.table.exp_sum)(visible, max);
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
        self.view.expand(self.table, values, p.v, pad);
        let part = later.len().div_ceil(pad / F32_LANES);
        for lane in (0..hd).step_by(F32_LANES) {
            let at = lane / F32_LANES * part;
            fetch(later.get(at..later.len().min(at + part)).unwrap_or_default());
            // SAFETY: `v` has n rows of `pad` ≥ lane + LANES values, `s` has rows × KEYS ≥ n, `o` rows × pad; the
            // table's features were detected.
            unsafe {
                (self.table.gemm_f32)(&GemmF32 {
                    panel: p.v.as_ptr().add(lane),
                    panel_stride: pad,
                    n_rows: F32_LANES,
                    depth: n,
                    x: p.s.as_ptr(),
                    x_stride: KEYS,
                    cols: tile.rows(),
                    out: p.o.as_mut_ptr().add(lane),
                    out_stride: pad,
                    accumulate: true,
                });
            }
        }
    }

    /// Adds up the partial results of a tile's chunks, in order.
    fn merge(&self, tile: Tile, partial: &[f32], chunks: usize, per_chunk: usize) {
        let hd = self.view.layout().head_dim();
        let stride = hd + 2;
        let mut whole = Whole::new();
        for r in 0..tile.rows() {
            for chunk in 0..chunks {
                let row = &partial[chunk * per_chunk + r * stride..][..stride];
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
        // SAFETY: the result is tokens × n_heads × hd long (checked in `attention`); every (token, head) belongs to
        // one tile, which one thread handles, and the slice is dropped before the next one is made.
        unsafe { std::slice::from_raw_parts_mut(self.out.get().add((t * self.shape.n_heads + h) * hd), hd) }
    }
}
