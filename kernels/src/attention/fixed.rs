//! The same attention in 16-bit fixed point, of an F16 cache, and of Q8_0 where a KV head has enough queries: scores and results
//! are products of integers (see [`crate::fixed`]), the softmax between them f32.
//!
//! ```text
//! queries  rows   [rows][pairs of a head]             a factor per query, the codes' norm at most PANEL_NORM
//! keys     panels [keys / 16][pairs of a head][16]    a power of two per key, norm at most ROW_NORM
//! weights  rows   [rows][pairs of keys]               a factor per query and tile, norm at most WEIGHT_NORM
//! values   panels [lanes / 16] of [pairs of keys][16] a power of two per key, which its weights take; codes up to 8,192
//! ```
//!
//! Keys and values lie like that in the cache where it keeps codes ([`crate::kv::codes`], which says why no sum leaves 32 bits);
//! of other formats they are made tile by tile. A pair of a head is a value of its lower half beside one of its upper half: codes of
//! consecutive values would have to be picked out of a register, those of two registers come side by side by a shift.
//!
//! A weight is multiplied with the power of two of its key's value before it becomes a code, so that the codes of a tile have one
//! factor for each query: it is that of their norm, so that a tile far below the best keeps its precision. Nothing depends on
//! how many queries go together.

use ocelli_quant::GgmlType;

use super::{Job, KEYS, Pieces, ROWS, Tile};
use crate::fixed::{FixedKernels, LANES, PANEL_NORM, Panel16, TILE, UNIT, Weights};
use crate::kv::codes::{exponent, key_pairs, power, value_lanes};
use crate::kv::{KvLayout, KvPart, Run};
use crate::table::F32_LANES;
use crate::transpose::to_panel;

const _: () = assert!(KEYS == TILE);

/// The factor of a panel whose rows have theirs elsewhere.
static ONES: [f32; F32_LANES] = [1.0; F32_LANES];

/// Whether attention with so many query heads for each KV head is computed like this, where precision is not asked for.
pub(super) fn suits(fixed: &FixedKernels, layout: &KvLayout, group: usize) -> bool {
    let types = [layout.k_type(), layout.v_type()];
    // Half precision, and what is made of it, lies within the range of the codes' powers of two.
    let fits = types.iter().all(|ty| matches!(ty, GgmlType::F16 | GgmlType::Q8_0));
    // The cache can keep codes of these, and none have to be made.
    let kept = types.iter().all(|ty| *ty == GgmlType::F16);
    fits && (kept || group >= fixed.queries) && 2 * key_pairs(layout.head_dim()) <= UNIT
}

/// Pairs of a key as they are made, whole registers.
const fn made_pairs(head_dim: usize) -> usize {
    key_pairs(head_dim).next_multiple_of(F32_LANES)
}

/// Values of a row on its way: the pairs of a key read both halves to whole registers.
const fn staged_row(head_dim: usize) -> usize {
    let (key, value) = (key_pairs(head_dim) + made_pairs(head_dim), value_lanes(head_dim));
    if key > value { key } else { value }
}

/// Floats of scratch beside [`Pieces`].
pub(super) const fn floats(head_dim: usize) -> usize {
    let (pairs, lanes) = (key_pairs(head_dim), value_lanes(head_dim));
    let rows = ROWS * (pairs + 1 + KEYS / 2);
    rows + KEYS * pairs + KEYS / 2 * lanes + F32_LANES * made_pairs(head_dim) + (F32_LANES + 1) * staged_row(head_dim)
}

/// Scratch of a tile, beside [`Pieces`].
struct Fixed<'a> {
    /// Those of [`Job::queries_fixed`], and what makes scores of the products of each, with the scale in it.
    queries: &'a mut [f32],
    query_factors: &'a mut [f32],
    weights: &'a mut [f32],
    /// Keys and values of formats that are no codes yet.
    keys: &'a mut [f32],
    values: &'a mut [f32],
    /// Pairs of keys, row by row.
    by_key: &'a mut [f32],
    /// Values of rows on their way, and a row of zeros beside an odd one.
    staged: &'a mut [f32],
    /// What makes results of those of a tile's weights.
    weight_factors: [f32; ROWS],
}

impl<'a> Fixed<'a> {
    fn new(rest: &'a mut [f32], head_dim: usize) -> Self {
        let pairs = key_pairs(head_dim);
        let (queries, rest) = rest.split_at_mut(ROWS * pairs);
        let (query_factors, rest) = rest.split_at_mut(ROWS);
        let (weights, rest) = rest.split_at_mut(ROWS * KEYS / 2);
        let (keys, rest) = rest.split_at_mut(KEYS * pairs);
        let (values, rest) = rest.split_at_mut(KEYS / 2 * value_lanes(head_dim));
        let (by_key, rest) = rest.split_at_mut(F32_LANES * made_pairs(head_dim));
        let staged = &mut rest[..(F32_LANES + 1) * staged_row(head_dim)];
        Self { queries, query_factors, weights, keys, values, by_key, staged, weight_factors: [0.0; ROWS] }
    }
}

/// Codes of the keys or of the values of a tile.
struct Codes {
    /// The first pair. Valid for whole panels of 16 keys, or for all pairs of keys.
    pairs: *const f32,
    /// What a code stands for, key by key.
    powers: [f32; KEYS],
}

impl Job<'_> {
    /// [`Job::keys`] in fixed point.
    pub(super) fn keys_fixed(&self, fixed: &FixedKernels, tile: Tile, from: usize, to: usize, p: &mut Pieces<'_>) {
        let head_dim = self.view.layout().head_dim();
        let rest = std::mem::take(&mut p.rest);
        let mut f = Fixed::new(rest, head_dim);
        let to = to.min(self.seen_by(tile.t1 - 1));
        let mut k0 = from;
        while k0 < to {
            let (k1, [next_k, next_v]) = self.step(tile, k0, to);
            let run = |part| Run { part, head: tile.kv, from: k0, to: k1 };
            let keys = self.codes(fixed, run(KvPart::Keys), &mut f);
            self.scores_fixed(fixed, tile, k1 - k0, &keys, next_k, &f, p);
            let values = self.codes(fixed, run(KvPart::Values), &mut f);
            self.weights(fixed, tile, k0, k1, &values.powers, &mut f, p);
            self.values_fixed(fixed, tile, k1 - k0, &values, next_v, &f, p);
            k0 = k1;
        }
        p.rest = rest;
    }

    /// [`Job::queries`] in fixed point: they stay in scratch, whatever chunks of keys follow.
    pub(super) fn queries_fixed(&self, fixed: &FixedKernels, tile: Tile, p: &mut Pieces<'_>) {
        let hd = self.view.layout().head_dim();
        let f = Fixed::new(p.rest, hd);
        let pairs = key_pairs(hd);
        let mut codes = [0i16; UNIT];
        for r in 0..tile.rows() {
            let (t, h) = tile.at(r);
            let row = &mut p.q[..hd];
            for (dst, q) in row.iter_mut().zip(&self.q[(t * self.call.shape.n_heads + h) * hd..]) {
                *dst = q * self.call.shape.scale;
            }
            let factor = std::slice::from_mut(&mut f.query_factors[r]);
            // SAFETY: as many codes as values, one factor for one unit; the table's features were detected.
            unsafe { (fixed.row)(row, PANEL_NORM, &mut codes[..hd], factor) };
            // Beside the last value of an odd number there is none: the code there is still zero.
            for (i, pair) in f.queries[r * pairs..(r + 1) * pairs].iter_mut().enumerate() {
                *pair = f32::from_bits(u32::from(codes[i] as u16) | u32::from(codes[i + pairs] as u16) << 16);
            }
        }
    }

    /// Codes of the keys or values of a tile: those of the cache, or made in scratch.
    fn codes(&self, fixed: &FixedKernels, run: Run, f: &mut Fixed<'_>) -> Codes {
        let n = run.to - run.from;
        let mut powers = [0f32; KEYS];
        if let Some((codes, exponents)) = self.view.codes(run) {
            for (power_of, exponent) in powers.iter_mut().zip(exponents) {
                *power_of = power(*exponent);
            }
            return Codes { pairs: codes.as_ptr().cast(), powers };
        }
        // 16 keys at a time: what is on its way stays in the first cache.
        for first in (0..n).step_by(F32_LANES) {
            let (from, to) = (run.from + first, run.to.min(run.from + first + F32_LANES));
            self.make(fixed, Run { from, to, ..run }, first, &mut powers[first..], f);
        }
        Codes { pairs: if run.part == KvPart::Keys { f.keys.as_ptr() } else { f.values.as_ptr() }, powers }
    }

    /// Makes codes of up to 16 keys or values, in the place of those from number `first` of a tile on, and their powers.
    fn make(&self, fixed: &FixedKernels, run: Run, first: usize, powers: &mut [f32], f: &mut Fixed<'_>) {
        let n = run.to - run.from;
        let hd = self.view.layout().head_dim();
        let (pairs, made, lanes) = (key_pairs(hd), made_pairs(hd), value_lanes(hd));
        let stride = if run.part == KvPart::Keys { staged_row(hd) } else { lanes };
        self.view.expand(self.call.table, run, f.staged, stride);
        f.staged[n * stride..(n + 1) * stride].fill(0.0);
        let (mut squares, mut largest) = ([0f32; F32_LANES], [0f32; F32_LANES]);
        for ((row, squares), largest) in f.staged.chunks_exact(stride).zip(&mut squares).zip(&mut largest).take(n) {
            // SAFETY: takes any length; the table's features were detected.
            (*squares, *largest) = unsafe { (fixed.pairs.spread)(&row[..hd]) };
        }
        let (mut magics, mut powers_of) = ([0f32; F32_LANES], [0f32; F32_LANES]);
        for i in 0..F32_LANES {
            let (exponent, magic) = exponent(run.part, squares[i], largest[i]);
            (powers_of[i], magics[i]) = (power(exponent), magic);
        }
        powers[..n].copy_from_slice(&powers_of[..n]);
        if run.part == KvPart::Values {
            let rows = f.staged.chunks_exact(2 * lanes).zip(magics.as_chunks::<2>().0);
            let out = f.values[first / 2 * lanes..].chunks_exact_mut(lanes);
            for ((two, magics), out) in rows.zip(out).take(n.div_ceil(2)) {
                let (low, high) = two.split_at(lanes);
                // SAFETY: as many pairs as values, a multiple of 16; features as above.
                unsafe { (fixed.pairs.pair)(low, high, *magics, out) };
            }
            return;
        }
        let rows = f.staged.chunks_exact(stride).zip(magics);
        for ((row, magic), out) in rows.zip(f.by_key.chunks_exact_mut(made)).take(n) {
            // SAFETY: as above.
            unsafe { (fixed.pairs.pair)(&row[..made], &row[pairs..pairs + made], [magic; 2], out) };
        }
        to_panel(self.call.table, f.by_key, made, n, pairs, &mut f.keys[first * pairs..], F32_LANES);
    }

    /// `s[r][key] = q[r]·k[key]` for the `n` keys of a tile.
    #[expect(clippy::too_many_arguments, reason = "a rectangle, what comes behind it and its scratch")]
    fn scores_fixed(
        &self,
        fixed: &FixedKernels,
        tile: Tile,
        n: usize,
        keys: &Codes,
        later: &[u8],
        f: &Fixed<'_>,
        p: &mut Pieces<'_>,
    ) {
        let pairs = key_pairs(self.view.layout().head_dim());
        let at_once = fixed.panels * F32_LANES;
        let part = later.len().div_ceil(n.div_ceil(at_once));
        for (number, first) in (0..n).step_by(at_once).enumerate() {
            // SAFETY: panels of `pairs` steps are there for n keys, rounded up to 16, powers for KEYS; there is a row of `pairs`
            // pairs with a factor for every row of the tile, and `s` has rows × KEYS; the table's features were detected.
            unsafe {
                (fixed.gemm)(&Panel16 {
                    panel: keys.pairs.add(first * pairs),
                    panel_stride: F32_LANES,
                    factors: keys.powers.as_ptr().add(first),
                    next: pairs * F32_LANES,
                    next_factors: F32_LANES,
                    n_rows: at_once.min((n - first).next_multiple_of(F32_LANES)),
                    depth: 2 * pairs,
                    x: f.queries.as_ptr().cast(),
                    x_stride: 2 * pairs,
                    x_factors: f.query_factors.as_ptr(),
                    x_factor_stride: 1,
                    cols: tile.rows(),
                    out: p.s.as_mut_ptr().add(first),
                    out_stride: KEYS,
                    accumulate: false,
                    later: part_of(later, number, part),
                });
            }
        }
    }

    /// Turns scores into rows of codes of weights, and rescales what has been added up.
    #[expect(clippy::too_many_arguments, reason = "a rectangle, its powers and its scratch")]
    fn weights(
        &self,
        fixed: &FixedKernels,
        tile: Tile,
        k0: usize,
        k1: usize,
        powers: &[f32; KEYS],
        f: &mut Fixed<'_>,
        p: &mut Pieces<'_>,
    ) {
        let pad = value_lanes(self.view.layout().head_dim());
        // SAFETY: a float is two 16-bit integers, which have no invalid bits and need less alignment.
        let codes = unsafe { std::slice::from_raw_parts_mut(f.weights.as_mut_ptr().cast::<i16>(), ROWS * KEYS) };
        let scores = p.s.as_chunks_mut::<KEYS>().0.chunks_mut(LANES);
        let rows = scores.zip(codes.as_chunks_mut::<KEYS>().0.chunks_mut(LANES));
        for (first, (scores, codes)) in (0..tile.rows()).step_by(LANES).zip(rows) {
            let n = LANES.min(tile.rows() - first);
            let mut w = Weights::new();
            w.max[..n].copy_from_slice(&p.max[first..first + n]);
            w.sum[..n].copy_from_slice(&p.sum[first..first + n]);
            for (l, seen) in w.seen.iter_mut().enumerate().take(n) {
                *seen = self.seen_by(tile.at(first + l).0).clamp(k0, k1) - k0;
            }
            // SAFETY: asks for nothing else; the table's features were detected.
            unsafe { (fixed.weigh)(&mut scores[..n], powers, &mut w, &mut codes[..n]) };
            for (row, shrink) in p.o[first * pad..].chunks_exact_mut(pad).zip(w.shrink).take(n) {
                if shrink != 1.0 {
                    // SAFETY: takes any length; features as above.
                    unsafe { (self.call.table.scale)(row, shrink) };
                }
            }
            p.max[first..first + n].copy_from_slice(&w.max[..n]);
            p.sum[first..first + n].copy_from_slice(&w.sum[..n]);
            f.weight_factors[first..first + n].copy_from_slice(&w.factor[..n]);
        }
    }

    /// `o[r] += Σ_key weight[r][key]·v[key]` for the `n` keys of a tile.
    #[expect(clippy::too_many_arguments, reason = "a rectangle, what comes behind it and its scratch")]
    fn values_fixed(
        &self,
        fixed: &FixedKernels,
        tile: Tile,
        n: usize,
        values: &Codes,
        later: &[u8],
        f: &Fixed<'_>,
        p: &mut Pieces<'_>,
    ) {
        let lanes = value_lanes(self.view.layout().head_dim());
        let at_once = fixed.panels * F32_LANES;
        let part = later.len().div_ceil(lanes.div_ceil(at_once));
        for (number, first) in (0..lanes).step_by(at_once).enumerate() {
            // SAFETY: rows of `lanes` pairs are there for every pair of keys, weights are a row of KEYS codes with a factor for
            // every row of the tile, `o` has rows × lanes; the table's features were detected.
            unsafe {
                (fixed.gemm)(&Panel16 {
                    panel: values.pairs.add(first),
                    panel_stride: lanes,
                    factors: ONES.as_ptr(),
                    next: F32_LANES,
                    next_factors: 0,
                    n_rows: at_once.min(lanes - first),
                    depth: n.next_multiple_of(2),
                    x: f.weights.as_ptr().cast(),
                    x_stride: KEYS,
                    x_factors: f.weight_factors.as_ptr(),
                    x_factor_stride: 1,
                    cols: tile.rows(),
                    out: p.o.as_mut_ptr().add(first),
                    out_stride: lanes,
                    accumulate: true,
                    later: part_of(later, number, part),
                });
            }
        }
    }
}

/// Part `number` of bytes.
fn part_of(bytes: &[u8], number: usize, part: usize) -> &[u8] {
    bytes.get(number * part..bytes.len().min((number + 1) * part)).unwrap_or_default()
}
