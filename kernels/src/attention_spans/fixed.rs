//! The same attention in 16-bit fixed point: scores and results are products of integers, the softmax between them f32.
//!
//! ```text
//! laid out   keys    [n_kv / 16] panels of depth head_dim       a factor per key
//!            values  [head_dim / 16] panels of depth n_kv       a factor per column and 256 keys
//! per tile   queries a factor per row; weights of the softmax   a factor per row and 256 keys
//! ```

use super::{Job, Place, ROWS, padded};
use crate::fixed::{FixedKernels, Panel16, ROW_NORM, Staged, UNIT, even, panel_lanes, units};
use crate::pool::SCRATCH_BYTES;
use crate::table::F32_LANES;
use crate::transpose::to_panel;

/// Floats that a panel of this depth takes, with its factors behind it.
fn panel_floats(depth: usize) -> usize {
    panel_lanes(depth) + units(depth) * F32_LANES
}

/// Floats of the laid-out keys of one head.
fn key_floats(n_kv: usize, head_dim: usize) -> usize {
    padded(n_kv) / F32_LANES * panel_floats(head_dim)
}

/// Floats of the laid-out keys and values of one head.
pub(super) fn head_floats(n_kv: usize, head_dim: usize) -> usize {
    key_floats(n_kv, head_dim) + padded(head_dim) / F32_LANES * panel_floats(n_kv)
}

/// Floats of codes and factors of one row.
fn row_floats(n: usize) -> usize {
    even(n) / 2 + units(n)
}

/// Floats of a worker's scratch that a query takes: itself, its scores, their weights, its result.
pub(super) fn floats_per_row(n_kv: usize, head_dim: usize) -> usize {
    row_floats(head_dim) + padded(n_kv) + row_floats(n_kv) + padded(head_dim)
}

/// Rows of codes with their factors.
struct Rows<'s> {
    codes: &'s mut [i16],
    stride: usize,
    factors: &'s mut [f32],
    units: usize,
}

impl<'s> Rows<'s> {
    /// Cuts room for `n` rows of `len` values off the front of `floats`.
    fn cut(floats: &'s mut [f32], n: usize, len: usize) -> (Self, &'s mut [f32]) {
        let (stride, units) = (even(len), units(len));
        let (codes, rest) = floats.split_at_mut(n * stride / 2);
        let (factors, rest) = rest.split_at_mut(n * units);
        // SAFETY: a float is two 16-bit integers, which have no invalid bits and need less alignment.
        let codes = unsafe { std::slice::from_raw_parts_mut(codes.as_mut_ptr().cast::<i16>(), n * stride) };
        (Self { codes, stride, factors, units }, rest)
    }

    /// The places of `n` codes of row `r`, and of the factors of its units.
    fn row(&mut self, r: usize, n: usize) -> (&mut [i16], &mut [f32]) {
        let codes = &mut self.codes[r * self.stride..(r + 1) * self.stride];
        let (codes, odd) = codes.split_at_mut(n);
        odd.fill(0);
        (codes, &mut self.factors[r * self.units..(r + 1) * self.units])
    }

    /// Takes the values of row `r`; the factors of its units.
    fn take(&mut self, fixed: &FixedKernels, r: usize, values: &[f32]) -> &mut [f32] {
        let (codes, factors) = self.row(r, values.len());
        // SAFETY: as many codes as values, a factor for every unit; the table's features were detected.
        unsafe { (fixed.row)(values, ROW_NORM, codes, factors) };
        factors
    }

    /// Takes the weights of row `r` of a softmax, of its scores; their sum.
    fn soften(&mut self, fixed: &FixedKernels, r: usize, scores: &mut [f32]) -> f32 {
        let (codes, factors) = self.row(r, scores.len());
        // SAFETY: as above.
        unsafe { (fixed.soften)(scores, codes, factors) }
    }

    /// Multiplies the first `n` rows with panels, behind each of which its factors are.
    ///
    /// # Safety
    /// `out` must be valid for `n` rows of [`F32_LANES`] floats for every panel at `out_stride`.
    unsafe fn multiply(&self, fixed: &FixedKernels, panels: &[f32], n: usize, out: *mut f32, out_stride: usize) {
        let next = (self.stride / 2 + self.units) * F32_LANES;
        let (codes, factors) = panels.split_at(self.stride / 2 * F32_LANES);
        debug_assert!(panels.len().is_multiple_of(next) && n * self.stride <= self.codes.len());
        // SAFETY: a panel has a pair of codes for every pair of a row, both have a factor for every unit (asserted); `out`
        // is promised by the caller; the table's features were detected.
        unsafe {
            (fixed.gemm)(&Panel16 {
                panel: codes.as_ptr(),
                panel_stride: F32_LANES,
                factors: factors.as_ptr(),
                next,
                next_factors: next,
                n_rows: panels.len() / next * F32_LANES,
                depth: self.stride,
                x: self.codes.as_ptr(),
                x_stride: self.stride,
                x_factors: self.factors.as_ptr(),
                x_factor_stride: self.units,
                cols: n,
                out,
                out_stride,
                accumulate: false,
                later: &[],
            });
        }
    }
}

impl Job<'_> {
    /// Lays out keys and values of one head.
    pub(super) fn pack_fixed(&self, fixed: &FixedKernels, place: &Place, piece: &mut [f32]) {
        let hd = self.heads.head_dim;
        let (kv, n_kv) = (place.span.kv, place.span.n_kv);
        let mut staged = Staged::new();
        let (keys, values) = piece.split_at_mut(key_floats(n_kv, hd));
        for (panel, first) in keys.chunks_exact_mut(panel_floats(hd)).zip((0..n_kv).step_by(F32_LANES)) {
            let n = F32_LANES.min(n_kv - first);
            staged.end(n);
            self.each_unit(hd, panel, &mut staged, |staged, d0, d1| {
                for r in 0..n {
                    let key = &self.head(self.k, kv + first + r, place.head)[d0..d1];
                    // SAFETY: the kernels are those of the job's table, which was detected.
                    unsafe { staged.take(fixed, r, key) };
                }
            });
        }
        let stride = self.heads.n_heads * hd;
        let mut columns = [0f32; UNIT * F32_LANES];
        for (panel, lane) in values.chunks_exact_mut(panel_floats(n_kv)).zip((0..hd).step_by(F32_LANES)) {
            let n = F32_LANES.min(hd - lane);
            staged.end(n);
            self.each_unit(n_kv, panel, &mut staged, |staged, k0, k1| {
                let rows = &self.v[(kv + k0) * stride + place.head * hd + lane..];
                to_panel(self.table, rows, stride, k1 - k0, n, &mut columns, UNIT);
                for (r, column) in columns.chunks_exact(UNIT).take(n).enumerate() {
                    // SAFETY: as above.
                    unsafe { staged.take(fixed, r, &column[..k1 - k0]) };
                }
            });
        }
    }

    /// Fills a panel of this depth: `take` is given every unit's range.
    fn each_unit(
        &self,
        depth: usize,
        panel: &mut [f32],
        staged: &mut Staged,
        mut take: impl FnMut(&mut Staged, usize, usize),
    ) {
        let (codes, factors) = panel.split_at_mut(panel_lanes(depth));
        let units = codes.chunks_mut(UNIT / 2 * F32_LANES).zip(factors.chunks_exact_mut(F32_LANES));
        for ((codes, factors), from) in units.zip((0..depth).step_by(UNIT)) {
            let to = depth.min(from + UNIT);
            take(staged, from, to);
            staged.lay_out(self.table, to - from, codes, factors);
        }
    }

    /// The queries of tile `tile` of one head.
    pub(super) fn tile_fixed(
        &self,
        fixed: &FixedKernels,
        place: &Place,
        packed: &[f32],
        tile: usize,
        scratch: &mut [f32],
    ) {
        let hd = self.heads.head_dim;
        let (n_q, n_kv) = (place.span.n_q, place.span.n_kv);
        let per = self.rows_per_tile(n_kv);
        let (from, to) = (tile * per, n_q.min((tile + 1) * per));
        let (rows, pad, stride) = (to - from, padded(hd), padded(n_kv));
        // `rows_per_tile` leaves room for all of these.
        let (scores, rest) = scratch.split_at_mut(per * stride);
        let (results, rest) = rest.split_at_mut(per * pad);
        let (mut queries, rest) = Rows::cut(rest, per, hd);
        let (mut weights, _) = Rows::cut(rest, per, n_kv);
        for i in 0..rows {
            let factors = queries.take(fixed, i, self.head(self.q, place.span.q + from + i, place.head));
            for factor in factors {
                *factor *= self.heads.scale;
            }
        }
        let (keys, values) = packed[place.packed..][..head_floats(n_kv, hd)].split_at(key_floats(n_kv, hd));
        let lanes = fixed.panels * F32_LANES;
        for (number, panels) in keys.chunks(fixed.panels * panel_floats(hd)).enumerate() {
            // SAFETY: the scores have `per` ≥ `rows` rows of `stride` values, a multiple of the lanes.
            unsafe { queries.multiply(fixed, panels, rows, scores.as_mut_ptr().add(number * lanes), stride) };
        }
        let mut inverse = [0f32; ROWS];
        for (i, inverse) in inverse.iter_mut().take(rows).enumerate() {
            *inverse = 1.0 / weights.soften(fixed, i, &mut scores[i * stride..][..n_kv]);
        }
        for (number, panels) in values.chunks(fixed.panels * panel_floats(n_kv)).enumerate() {
            // SAFETY: the results have `per` ≥ `rows` rows of `pad` values, a multiple of the lanes.
            unsafe { weights.multiply(fixed, panels, rows, results.as_mut_ptr().add(number * lanes), pad) };
        }
        self.finish(place, from, results.chunks_exact(pad).zip(inverse).take(rows));
    }
}

/// Most keys that one query can have scores for.
pub(super) fn most_keys(head_dim: usize) -> usize {
    let left = SCRATCH_BYTES / 4 - row_floats(head_dim) - padded(head_dim);
    // A key takes one float, half a float and a 256th; rounding up takes a few.
    (left - 2 * F32_LANES) * 512 / (512 + 256 + 2)
}
