//! The same attention in 16-bit fixed point, where a KV head has enough queries: scores and results are products of integers
//! (see [`crate::fixed`]), the softmax between them f32, its lanes the queries.
//!
//! ```text
//! queries  panels [rows / 16][pairs of a head][16]    a factor per query, the codes' norm at most PANEL_NORM
//! keys     rows   [keys][pairs of a head]             a power of two for all of a tile, codes up to 4096
//! values   panels [head / 16][pairs of keys][16]      the same
//! weights  rows   [rows][pairs of keys]               a factor per query and tile, norm at most ROW_NORM
//! ```
//!
//! A pair of a head is a value of its lower half beside one of its upper half: codes of consecutive values would have to be
//! picked out of a register, those of two registers come side by side by a shift. Codes up to 4096 have at most the norm
//! 4096·√256 in a key, which times 32,760 fits 32 bits, and 4096·√64 in a column of values, which times 65,508 does.
//!
//! Weights are scaled by the norm of those of their own query and tile, so that a tile far below the best keeps its
//! precision, and what a result is divided by is the sum of the codes.

use std::ops::Range;

use ocelli_quant::GgmlType;

use super::{Job, KEYS, Pieces, ROWS, Tile, padded};
use crate::fixed::{FixedKernels, PANEL_NORM, Panel16, UNIT, Weights};
use crate::kv::KvLayout;
use crate::table::{F32_LANES, index};
use crate::transpose::to_panel;

/// Largest magnitude of a code of keys and values, as a power of two.
const BITS: u32 = 12;

/// Floats of a panel of values with its factors.
const VALUES: usize = (KEYS / 2 + 1) * F32_LANES;

/// Whether attention with so many query heads for each KV head is computed like this, where precision is not asked for.
pub(super) fn suits(fixed: &FixedKernels, layout: &KvLayout, group: usize) -> bool {
    // Half precision, and what is made of it, lies within the range of the codes' powers of two.
    let fits = |ty: GgmlType| matches!(ty, GgmlType::F16 | GgmlType::Q8_0);
    group >= fixed.queries && wide(layout.head_dim()) <= UNIT && fits(layout.k_type()) && fits(layout.v_type())
}

/// Values of a head with zeros behind them: whole registers in both halves.
const fn wide(head_dim: usize) -> usize {
    head_dim.next_multiple_of(2 * F32_LANES)
}

/// Floats of a panel of queries with its factors.
const fn query_floats(head_dim: usize) -> usize {
    (wide(head_dim) / 2 + 1) * F32_LANES
}

/// Floats of scratch beside [`Pieces`].
pub(super) const fn floats(head_dim: usize) -> usize {
    let (queries, keys) = (ROWS / F32_LANES * query_floats(head_dim), KEYS * wide(head_dim));
    queries + keys / 2 + padded(head_dim) / F32_LANES * VALUES + ROWS * KEYS / 2 + KEYS / 2 * F32_LANES + keys
}

/// The power of two that a tile's codes are counted in, and what is added to a value for its code to be the lower 16 bits
/// of the sum. `bits` are those of the largest magnitude; the power is NaN where that is no number.
fn power(bits: u32) -> (f32, f32) {
    let exponent = bits >> 23;
    // Far above half precision times a code of 8 bits, and where the sums still have a place.
    if exponent > 220 {
        return (f32::NAN, 0.0);
    }
    // Below 2⁻⁶³ everything is zero, so that the sum of a small value has a place.
    let exponent = exponent.max(64) + 1 - BITS;
    (f32::from_bits(exponent << 23), f32::from_bits(((exponent + 23) << 23) | 1 << 22))
}

/// Scratch of a tile, beside [`Pieces`].
struct Fixed<'a> {
    queries: &'a mut [f32],
    keys: &'a mut [f32],
    values: &'a mut [f32],
    weights: &'a mut [f32],
    /// Weights as they are made, `[pairs of keys][16]`.
    by_pair: &'a mut [f32],
    /// Values of rows on their way.
    staged: &'a mut [f32],
}

impl<'a> Fixed<'a> {
    fn new(rest: &'a mut [f32], head_dim: usize) -> Self {
        let (queries, rest) = rest.split_at_mut(ROWS / F32_LANES * query_floats(head_dim));
        let (keys, rest) = rest.split_at_mut(KEYS * wide(head_dim) / 2);
        let (values, rest) = rest.split_at_mut(padded(head_dim) / F32_LANES * VALUES);
        let (weights, rest) = rest.split_at_mut(ROWS * KEYS / 2);
        let (by_pair, rest) = rest.split_at_mut(KEYS / 2 * F32_LANES);
        Self { queries, keys, values, weights, by_pair, staged: &mut rest[..KEYS * wide(head_dim)] }
    }
}

impl Job<'_> {
    /// [`Job::keys`] in fixed point.
    pub(super) fn keys_fixed(&self, fixed: &FixedKernels, tile: Tile, from: usize, to: usize, p: &mut Pieces<'_>) {
        let layout = self.view.layout();
        let (pad, rows) = (padded(layout.head_dim()), tile.rows());
        p.o[..rows * pad].fill(0.0);
        p.max[..rows].fill(f32::NEG_INFINITY);
        p.sum[..rows].fill(0.0);
        let rest = std::mem::take(&mut p.rest);
        let mut f = Fixed::new(rest, layout.head_dim());
        self.queries_fixed(fixed, tile, &mut f);
        let to = to.min(self.seen_by(tile.t1 - 1));
        let mut k0 = from;
        while k0 < to {
            let (k1, [next_k, next_v]) = self.step(tile, k0, to);
            self.scores_fixed(fixed, tile, k0, k1, next_k, &mut f, p);
            let factors = self.weights(fixed, tile, k0, k1, &mut f, p);
            self.values_fixed(fixed, tile, k0, k1, &factors, next_v, &mut f, p);
            k0 = k1;
        }
        p.rest = rest;
    }

    /// Takes the tile's queries, times the scale, as panels; lanes without one are zeros.
    fn queries_fixed(&self, fixed: &FixedKernels, tile: Tile, f: &mut Fixed<'_>) {
        let (hd, rows) = (self.view.layout().head_dim(), tile.rows());
        let (wide, half) = (wide(hd), wide(hd) / 2);
        let mut codes = [0i16; UNIT];
        let panels = f.queries.chunks_exact_mut(query_floats(hd)).zip((0..rows).step_by(F32_LANES));
        for (panel, first) in panels {
            let (panel, factors) = panel.split_at_mut(half * F32_LANES);
            let (staged, row) = f.staged.split_at_mut(F32_LANES * half);
            staged.fill(0.0);
            factors.fill(0.0);
            for (r, (staged, factor)) in staged.chunks_exact_mut(half).zip(factors).take(rows - first).enumerate() {
                let (t, h) = tile.at(first + r);
                let query = &self.q[(t * self.shape.n_heads + h) * hd..][..hd];
                row[hd..wide].fill(0.0);
                for (dst, q) in row.iter_mut().zip(query) {
                    *dst = q * self.shape.scale;
                }
                // SAFETY: as many codes as values, one factor for one unit; the table's features were detected.
                unsafe { (fixed.row)(&row[..wide], PANEL_NORM, &mut codes[..wide], std::slice::from_mut(factor)) };
                for (i, pair) in staged.iter_mut().enumerate() {
                    *pair = paired(codes[i], codes[i + half]);
                }
            }
            to_panel(self.table, staged, half, F32_LANES, half, panel, F32_LANES);
        }
    }

    /// Codes of `n` rows of a head in a cache's format, in pairs. `width` values of each are taken, zeros behind those that
    /// there are; `pairs(i)` says which two ranges of values, all rows one behind the other, make pair row `i`, and where its
    /// pairs go: every 16 of them `stride` behind those before. The power of two that codes are counted in.
    ///
    /// # Safety
    /// Places must be valid for all pairs of a row.
    #[expect(clippy::too_many_arguments, reason = "rows, their format, and what is made of them")]
    unsafe fn pair(
        &self,
        fixed: &FixedKernels,
        ty: GgmlType,
        bytes: &[u8],
        n: usize,
        width: usize,
        count: usize,
        pairs: impl Fn(usize) -> ([Range<usize>; 2], *mut f32),
        stride: usize,
        staged: &mut [f32],
    ) -> f32 {
        let hd = self.view.layout().head_dim();
        let kernels = &fixed.pairs;
        if let Some(halves) = kernels.halves
            && ty == GgmlType::F16
            && width == hd
            && pairs(count - 1).0[1].end <= n * width
        {
            // SAFETY: takes any length; the table's features were detected.
            let (power, magic) = power(unsafe { (halves.largest)(bytes) });
            for i in 0..count {
                let ([low, high], out) = pairs(i);
                let [low, high] = [low, high].map(|values| &bytes[2 * values.start..2 * values.end]);
                // SAFETY: equal lengths, multiples of 16 values; the place is promised by the caller.
                unsafe { (halves.pair)(low, high, magic, out, stride) };
            }
            return power;
        }
        let dequantize = self.table.formats[index(ty)].dequantize;
        for (row, bytes) in staged.chunks_exact_mut(width).zip(bytes.chunks_exact(bytes.len() / n)) {
            // SAFETY: the bytes are one row of head_dim values; the table's features were detected.
            unsafe { dequantize(bytes, &mut row[..hd]) };
            row[hd..].fill(0.0);
        }
        // An odd key's neighbour.
        staged[n * width..].iter_mut().take(width).for_each(|value| *value = 0.0);
        // SAFETY: takes any length; the table's features were detected.
        let (power, magic) = power(unsafe { (kernels.largest)(&staged[..n * width]) });
        for i in 0..count {
            let ([low, high], out) = pairs(i);
            // SAFETY: as above.
            unsafe { (kernels.pair)(&staged[low], &staged[high], magic, out, stride) };
        }
        power
    }

    /// `by_key[key][r] = q[r]·k[key]`.
    #[expect(clippy::too_many_arguments, reason = "a rectangle, what comes behind it and its scratch")]
    fn scores_fixed(
        &self,
        fixed: &FixedKernels,
        tile: Tile,
        k0: usize,
        k1: usize,
        later: &[u8],
        f: &mut Fixed<'_>,
        p: &mut Pieces<'_>,
    ) {
        let layout = self.view.layout();
        let (hd, n, rows) = (layout.head_dim(), k1 - k0, tile.rows());
        let (wide, half) = (wide(hd), wide(hd) / 2);
        let bytes = self.view.k_rows(tile.kv, k0, k1);
        let keys = f.keys.as_mut_ptr();
        let halves = |key: usize| {
            let middle = key * wide + half;
            ([key * wide..middle, middle..middle + half], keys.wrapping_add(key * half))
        };
        // SAFETY: there are `half` places for each of up to KEYS keys.
        let power = unsafe { self.pair(fixed, layout.k_type(), bytes, n, wide, n, halves, F32_LANES, f.staged) };
        let powers = [power; KEYS];
        let panel_floats = query_floats(hd);
        let at_once = fixed.panels * F32_LANES;
        let part = later.len().div_ceil(rows.div_ceil(at_once));
        for (number, first) in (0..rows).step_by(at_once).enumerate() {
            let panel = &f.queries[first / F32_LANES * panel_floats..];
            let lanes = at_once.min((rows - first).next_multiple_of(F32_LANES));
            // SAFETY: as many panels as lanes are there with their factors, keys are n rows of `wide` codes with a factor
            // each, and `by_key` has n ≤ KEYS rows of ROWS lanes; the table's features were detected.
            unsafe {
                (fixed.gemm)(&Panel16 {
                    panel: panel.as_ptr(),
                    factors: panel.as_ptr().add(half * F32_LANES),
                    next: panel_floats,
                    n_rows: lanes,
                    depth: wide,
                    x: f.keys.as_ptr().cast(),
                    x_stride: wide,
                    x_factors: powers.as_ptr(),
                    x_factor_stride: 1,
                    cols: n,
                    out: p.by_key.as_mut_ptr().add(first),
                    out_stride: ROWS,
                    accumulate: false,
                    later: part_of(later, number, part),
                });
            }
        }
    }

    /// Turns scores into rows of codes of weights, and rescales what has been added up; what a code of each row stands for.
    fn weights(
        &self,
        fixed: &FixedKernels,
        tile: Tile,
        k0: usize,
        k1: usize,
        f: &mut Fixed<'_>,
        p: &mut Pieces<'_>,
    ) -> [f32; ROWS] {
        let (n, rows, pad) = (k1 - k0, tile.rows(), padded(self.view.layout().head_dim()));
        let mut factors = [0f32; ROWS];
        for first in (0..rows).step_by(F32_LANES) {
            let lanes = F32_LANES.min(rows - first);
            let mut w = Weights {
                max: [f32::NEG_INFINITY; F32_LANES],
                sum: [0.0; F32_LANES],
                seen: [0; F32_LANES],
                shrink: [0.0; F32_LANES],
                factor: [0.0; F32_LANES],
            };
            w.max[..lanes].copy_from_slice(&p.max[first..first + lanes]);
            w.sum[..lanes].copy_from_slice(&p.sum[first..first + lanes]);
            for (l, seen) in w.seen.iter_mut().take(lanes).enumerate() {
                // At most KEYS.
                *seen = (self.seen_by(tile.at(first + l).0).clamp(k0, k1) - k0) as u32;
            }
            // SAFETY: scores of n ≤ KEYS keys lie ROWS apart, and there are as many pairs of rows of codes as for KEYS; the
            // table's features were detected.
            unsafe { (fixed.weigh)(&mut p.by_key[first..], ROWS, n, &mut w, f.by_pair) };
            to_panel(
                self.table,
                f.by_pair,
                F32_LANES,
                n.div_ceil(2),
                lanes,
                &mut f.weights[first * KEYS / 2..],
                KEYS / 2,
            );
            for l in 0..lanes {
                let row = &mut p.o[(first + l) * pad..(first + l + 1) * pad];
                if w.shrink[l] != 1.0 {
                    // SAFETY: takes any length; the table's features were detected.
                    unsafe { (self.table.scale)(row, w.shrink[l]) };
                }
            }
            p.max[first..first + lanes].copy_from_slice(&w.max[..lanes]);
            p.sum[first..first + lanes].copy_from_slice(&w.sum[..lanes]);
            factors[first..first + lanes].copy_from_slice(&w.factor[..lanes]);
        }
        factors
    }

    /// `o[r] += Σ_key weight[r][key]·v[key]`.
    #[expect(clippy::too_many_arguments, reason = "a rectangle, its weights and its scratch")]
    fn values_fixed(
        &self,
        fixed: &FixedKernels,
        tile: Tile,
        k0: usize,
        k1: usize,
        factors: &[f32; ROWS],
        later: &[u8],
        f: &mut Fixed<'_>,
        p: &mut Pieces<'_>,
    ) {
        let layout = self.view.layout();
        let (hd, n) = (layout.head_dim(), k1 - k0);
        let pad = padded(hd);
        let bytes = self.view.v_rows(tile.kv, k0, k1);
        let values = f.values.as_mut_ptr();
        let rows = |i: usize| {
            let next = (2 * i + 1) * pad;
            ([2 * i * pad..next, next..next + pad], values.wrapping_add(i * F32_LANES))
        };
        // SAFETY: there are `pad` places, 16 in every panel, for each pair of up to KEYS keys.
        let power = unsafe { self.pair(fixed, layout.v_type(), bytes, n, pad, n.div_ceil(2), rows, VALUES, f.staged) };
        for panel in f.values.chunks_exact_mut(VALUES) {
            panel[VALUES - F32_LANES..].fill(power);
        }
        let at_once = fixed.panels * F32_LANES;
        let part = later.len().div_ceil(pad.div_ceil(at_once));
        for (number, first) in (0..pad).step_by(at_once).enumerate() {
            let panel = &f.values[first / F32_LANES * VALUES..];
            // SAFETY: as many panels as lanes are there with their factors, weights are a row of KEYS codes with a factor for
            // every row of the tile, `o` has rows × pad; the table's features were detected.
            unsafe {
                (fixed.gemm)(&Panel16 {
                    panel: panel.as_ptr(),
                    factors: panel.as_ptr().add(VALUES - F32_LANES),
                    next: VALUES,
                    n_rows: at_once.min(pad - first),
                    depth: n.next_multiple_of(2),
                    x: f.weights.as_ptr().cast(),
                    x_stride: KEYS,
                    x_factors: factors.as_ptr(),
                    x_factor_stride: 1,
                    cols: tile.rows(),
                    out: p.o.as_mut_ptr().add(first),
                    out_stride: pad,
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

/// Two codes in the place of a float.
fn paired(low: i16, high: i16) -> f32 {
    f32::from_bits(u32::from(low as u16) | u32::from(high as u16) << 16)
}
