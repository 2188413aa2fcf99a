//! Attention without a cache or a mask: the rows of a span see all keys of that span.
//!
//! Vision towers attend within a picture, resamplers from a fixed set of queries to a picture; several pictures are
//! several spans of one call. Heads may have any size (72 in SigLIP so400m).
//!
//! ```text
//! 1  keys and values of every (span, head) are laid out once:
//!        keys    [n_kv / 16][head_dim][16]       values  [n_kv][head_dim rounded up to 16]
//! 2  tiles of at most ROWS queries of one head: scores [rows][n_kv] = scale·q·Kᵀ, softmax of whole rows, times V
//! ```
//!
//! Scores of a tile are whole rows, so the softmax needs no running maximum. A span's result depends on its own rows only,
//! never on the other spans of the call or the number of threads. Arithmetic is f32, or 16-bit fixed point where the table
//! multiplies that faster and precision is not asked for (see `fixed`).

mod fixed;

use crate::act::Precision;
use crate::error::{KernelError, check_len};
use crate::fixed::FixedKernels;
use crate::matmul::OutPtr;
use crate::pool::{Pool, SCRATCH_BYTES};
use crate::select::Kernels;
use crate::table::{F32_LANES, GemmF32, KernelTable};
use crate::transpose::to_panel;

/// Queries of a tile, at most; a multiple of every table's f32 tile.
const ROWS: usize = 48;

/// Floats of laid-out keys and values that are made before they are used, unless one span alone needs more.
const PACKED: usize = 8 << 20;

/// Largest head.
const MAX_HEAD_DIM: usize = 512;

/// Rows that attend, and the rows they attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttnSpan {
    /// First query row.
    pub q: usize,
    /// Query rows. The results of all spans follow each other in the order of the spans.
    pub n_q: usize,
    /// First key and value row.
    pub kv: usize,
    /// Key and value rows, at least 1 where there are queries.
    pub n_kv: usize,
}

/// How rows divide into heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpanHeads {
    /// Heads of queries, keys and values alike.
    pub n_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Factor on scores, usually `1/sqrt(head_dim)`.
    pub scale: f32,
}

/// Laid-out keys and values. Reuse one: it keeps the size it has grown to.
#[derive(Debug, Default)]
pub struct SpanScratch {
    packed: Vec<f32>,
}

impl SpanScratch {
    /// An empty scratch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `floats` floats that start a cache line.
    fn aligned(&mut self, floats: usize) -> &mut [f32] {
        if self.packed.len() < floats + F32_LANES {
            self.packed.resize(floats + F32_LANES, 0.0);
        }
        let skip = self.packed.as_ptr().align_offset(64).min(F32_LANES);
        &mut self.packed[skip..skip + floats]
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.packed.capacity() * 4
    }
}

/// `out = softmax(scale · q·Kᵀ) · V` per span and head. All rows are `n_heads` × `head_dim`; `out` has one row for every
/// query of every span, in order. `Fast`: scores and results are products of 16-bit fixed-point numbers where the table
/// has kernels for those.
///
/// # Errors
/// When lengths do not fit, a span lies outside its rows or has queries and no keys, or there are more keys in a span
/// than a worker's scratch can score.
#[expect(clippy::too_many_arguments, reason = "three inputs, their division, a scratch and a result")]
pub fn attention_spans(
    pool: &Pool,
    kernels: Kernels,
    precision: Precision,
    scratch: &mut SpanScratch,
    heads: SpanHeads,
    spans: &[AttnSpan],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let fixed = kernels.table.fixed.filter(|_| precision == Precision::Fast);
    let job = Job { table: kernels.table, fixed, heads, q, k, v, out: OutPtr(out.as_mut_ptr()) };
    check(&job, spans, out.len())?;
    let (mut first, mut row) = (0, 0);
    while first < spans.len() {
        let mut last = first + 1;
        let mut floats = job.packed_floats(&spans[first]);
        while last < spans.len() && floats + job.packed_floats(&spans[last]) <= PACKED {
            floats += job.packed_floats(&spans[last]);
            last += 1;
        }
        job.run(pool, scratch.aligned(floats), &spans[first..last], row);
        row += spans[first..last].iter().map(|s| s.n_q).sum::<usize>();
        first = last;
    }
    Ok(())
}

/// Checks everything that the unchecked code below relies on.
fn check(job: &Job<'_>, spans: &[AttnSpan], out: usize) -> Result<(), KernelError> {
    let SpanHeads { n_heads, head_dim, .. } = job.heads;
    if n_heads == 0 || head_dim == 0 {
        return Err(KernelError::Empty { what: "attention head" });
    }
    if head_dim > MAX_HEAD_DIM {
        return Err(KernelError::TooLarge { what: "head size", got: head_dim, limit: MAX_HEAD_DIM });
    }
    let limit = isize::MAX as usize / 4;
    let width = n_heads.checked_mul(head_dim);
    let width = width.ok_or(KernelError::TooLarge { what: "number of heads", got: n_heads, limit })?;
    for rows in [job.q, job.k, job.v] {
        if !rows.len().is_multiple_of(width) {
            return Err(KernelError::Multiple { what: "attention input", got: rows.len(), of: width });
        }
    }
    check_len("values", job.v.len(), job.k.len())?;
    let mut rows = 0usize;
    for span in spans {
        let inside = |first: usize, n: usize, have: usize| match first.checked_add(n) {
            Some(end) if end <= have => Ok(()),
            end => Err(KernelError::TooLarge { what: "end of a span", got: end.unwrap_or(usize::MAX), limit: have }),
        };
        inside(span.q, span.n_q, job.q.len() / width)?;
        inside(span.kv, span.n_kv, job.k.len() / width)?;
        if span.n_q > 0 && span.n_kv == 0 {
            return Err(KernelError::Empty { what: "list of keys" });
        }
        if job.rows_per_tile(span.n_kv) == 0 {
            let limit = match job.fixed {
                Some(_) => fixed::most_keys(head_dim),
                None => SCRATCH_BYTES / 4 - head_dim - padded(head_dim) - F32_LANES,
            };
            return Err(KernelError::TooLarge { what: "number of keys in a span", got: span.n_kv, limit });
        }
        rows = rows.saturating_add(span.n_q);
    }
    check_len("attention result", out, rows.saturating_mul(width))
}

/// Rounded up to whole lanes.
fn padded(n: usize) -> usize {
    n.next_multiple_of(F32_LANES)
}

/// One call, readable from all threads.
struct Job<'a> {
    table: &'static KernelTable,
    /// Where products are to be those of fixed-point numbers.
    fixed: Option<FixedKernels>,
    heads: SpanHeads,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: OutPtr,
}

/// Where one head of one span lies.
#[derive(Clone, Copy)]
struct Place {
    span: AttnSpan,
    head: usize,
    /// First float of the laid-out keys; the values follow.
    packed: usize,
    /// First row of the span's results.
    out: usize,
}

impl Job<'_> {
    /// Floats of the laid-out keys of one head.
    fn key_floats(&self, n_kv: usize) -> usize {
        padded(n_kv) * self.heads.head_dim
    }

    /// Floats of the laid-out keys and values of one head.
    fn head_floats(&self, n_kv: usize) -> usize {
        if self.fixed.is_some() {
            return fixed::head_floats(n_kv, self.heads.head_dim);
        }
        self.key_floats(n_kv) + n_kv * padded(self.heads.head_dim)
    }

    fn packed_floats(&self, span: &AttnSpan) -> usize {
        self.head_floats(span.n_kv) * self.heads.n_heads
    }

    /// Queries of a tile that a worker's scratch has room for.
    fn rows_per_tile(&self, n_kv: usize) -> usize {
        let hd = self.heads.head_dim;
        if n_kv > SCRATCH_BYTES {
            return 0;
        }
        let per_row = match self.fixed {
            Some(_) => fixed::floats_per_row(n_kv, hd),
            None => padded(n_kv) + hd + padded(hd),
        };
        (SCRATCH_BYTES / 4 / per_row).min(ROWS)
    }

    /// Item `item` of the (span, head) pairs.
    fn place(&self, spans: &[AttnSpan], first_row: usize, item: usize) -> Place {
        let (number, head) = (item / self.heads.n_heads, item % self.heads.n_heads);
        let before = &spans[..number];
        let packed = before.iter().map(|s| self.packed_floats(s)).sum::<usize>();
        let span = spans[number];
        Place {
            span,
            head,
            packed: packed + head * self.head_floats(span.n_kv),
            out: first_row + before.iter().map(|s| s.n_q).sum::<usize>(),
        }
    }

    fn run(&self, pool: &Pool, packed: &mut [f32], spans: &[AttnSpan], first_row: usize) {
        let n_heads = self.heads.n_heads;
        let base = OutPtr(packed.as_mut_ptr());
        pool.for_each(spans.len() * n_heads, |item, _| {
            let place = self.place(spans, first_row, item);
            if place.span.n_kv == 0 {
                return;
            }
            let n = self.head_floats(place.span.n_kv);
            // SAFETY: the pieces of (span, head) pairs follow each other in the buffer, which has room for all.
            let piece = unsafe { std::slice::from_raw_parts_mut(base.get().add(place.packed), n) };
            match &self.fixed {
                Some(fixed) => self.pack_fixed(fixed, &place, piece),
                None => self.pack(&place, piece),
            }
        });
        let packed = &*packed;
        let tiles = |s: &AttnSpan| s.n_q.div_ceil(self.rows_per_tile(s.n_kv));
        let items = spans.iter().map(|s| tiles(s) * n_heads).sum();
        pool.for_each(items, |mut item, scratch| {
            for (number, span) in spans.iter().enumerate() {
                let here = tiles(span) * n_heads;
                if item < here {
                    // All tiles of a head in a row, so that threads share its keys in the cache.
                    let place = self.place(spans, first_row, number * n_heads + item / tiles(span));
                    // SAFETY: a worker's scratch is aligned to 64 and SCRATCH_BYTES long; f32 has no invalid bits.
                    let floats = unsafe {
                        std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<f32>(), scratch.len() / 4)
                    };
                    match &self.fixed {
                        Some(fixed) => self.tile_fixed(fixed, &place, packed, item % tiles(span), floats),
                        None => self.tile(&place, packed, item % tiles(span), floats),
                    }
                    return;
                }
                item -= here;
            }
        });
    }

    /// One head's part of row `row`.
    fn head<'r>(&self, rows: &'r [f32], row: usize, head: usize) -> &'r [f32] {
        let SpanHeads { n_heads, head_dim, .. } = self.heads;
        &rows[(row * n_heads + head) * head_dim..][..head_dim]
    }

    /// Lays out keys and values of one head.
    fn pack(&self, place: &Place, piece: &mut [f32]) {
        let hd = self.heads.head_dim;
        let AttnSpan { kv, n_kv, .. } = place.span;
        let (keys, values) = piece.split_at_mut(self.key_floats(n_kv));
        let stride = self.heads.n_heads * hd;
        for (panel, first) in keys.chunks_exact_mut(hd * F32_LANES).zip((0..n_kv).step_by(F32_LANES)) {
            let lanes = F32_LANES.min(n_kv - first);
            if lanes < F32_LANES {
                panel.fill(0.0);
            }
            let rows = &self.k[(kv + first) * stride + place.head * hd..];
            to_panel(self.table, rows, stride, lanes, hd, panel, F32_LANES);
        }
        for (i, row) in values.chunks_exact_mut(padded(hd)).enumerate() {
            row[..hd].copy_from_slice(self.head(self.v, kv + i, place.head));
            row[hd..].fill(0.0);
        }
    }

    /// The queries of tile `tile` of one head.
    fn tile(&self, place: &Place, packed: &[f32], tile: usize, floats: &mut [f32]) {
        let SpanHeads { head_dim: hd, scale, .. } = self.heads;
        let AttnSpan { q, n_q, n_kv, .. } = place.span;
        let per = self.rows_per_tile(n_kv);
        let (from, to) = (tile * per, n_q.min((tile + 1) * per));
        let (rows, pad, stride) = (to - from, padded(hd), padded(n_kv));
        // `rows_per_tile` leaves room for these three.
        let (queries, rest) = floats.split_at_mut(per * hd);
        let (results, rest) = rest.split_at_mut(per * pad);
        let scores = &mut rest[..per * stride];
        for (i, row) in queries.chunks_exact_mut(hd).take(rows).enumerate() {
            for (dst, value) in row.iter_mut().zip(self.head(self.q, q + from + i, place.head)) {
                *dst = value * scale;
            }
        }
        let (keys, values) = packed[place.packed..][..self.head_floats(n_kv)].split_at(self.key_floats(n_kv));
        for (number, panel) in keys.chunks_exact(hd * F32_LANES).enumerate() {
            // SAFETY: the panel has `hd` steps, the queries `rows` × hd values, the scores `rows` × stride of which this
            // panel's lanes are `number·LANES ..`; the table's features were detected.
            unsafe {
                (self.table.gemm_f32)(&GemmF32 {
                    panel: panel.as_ptr(),
                    panel_stride: F32_LANES,
                    n_rows: F32_LANES,
                    depth: hd,
                    x: queries.as_ptr(),
                    x_stride: hd,
                    cols: rows,
                    out: scores.as_mut_ptr().add(number * F32_LANES),
                    out_stride: stride,
                    accumulate: false,
                });
            }
        }
        let mut inverse = [0f32; ROWS];
        for (row, inverse) in scores.chunks_exact_mut(stride).zip(&mut inverse).take(rows) {
            let row = &mut row[..n_kv];
            // SAFETY: these functions take any length; the table's features were detected.
            *inverse = 1.0 / unsafe { (self.table.exp_sum)(row, (self.table.max)(row)) };
        }
        for lane in (0..hd).step_by(F32_LANES) {
            // SAFETY: the values are n_kv rows of `pad` ≥ lane + LANES, the scores `rows` × stride ≥ n_kv, the results
            // `rows` × pad; the table's features were detected.
            unsafe {
                (self.table.gemm_f32)(&GemmF32 {
                    panel: values.as_ptr().add(lane),
                    panel_stride: pad,
                    n_rows: F32_LANES,
                    depth: n_kv,
                    x: scores.as_ptr(),
                    x_stride: stride,
                    cols: rows,
                    out: results.as_mut_ptr().add(lane),
                    out_stride: pad,
                    accumulate: false,
                });
            }
        }
        self.finish(place, from, results.chunks_exact(pad).zip(inverse).take(rows));
    }

    /// Stores results of queries from number `from` of a span on, times a factor each.
    fn finish<'r>(&self, place: &Place, from: usize, results: impl Iterator<Item = (&'r [f32], f32)>) {
        let SpanHeads { n_heads, head_dim, .. } = self.heads;
        for (i, (row, factor)) in results.enumerate() {
            let at = ((place.out + from + i) * n_heads + place.head) * head_dim;
            // SAFETY: the result has a row for every query of every span (checked in `check`); every (query, head)
            // belongs to one tile, which one thread handles.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.get().add(at), head_dim) };
            for (out, value) in out.iter_mut().zip(row) {
                *out = value * factor;
            }
        }
    }
}
