//! Rows of 16-bit fixed-point numbers: products of floats at the speed of integers.
//!
//! A unit of up to [`UNIT`] neighbours shares a scale: `x ≈ code / s`. Their products are summed as integers, and the sum
//! fits 32 bits because the scale bounds the *norm* of a unit's codes, not just the largest: by Cauchy and Schwarz, with
//! `s = N/‖x‖` on one side and `M/‖y‖` on the other,
//!
//! ```text
//! |Σ codes(x)·codes(y)| ≤ ‖codes(x)‖·‖codes(y)‖ ≤ (N + 8)·(M + 8) < 2³¹
//! ```
//!
//! whatever part of it is summed (rounding moves each of 256 codes by at most ½, their norm by at most 8). So a code has
//! eleven or twelve bits below the unit's root mean square, about as many as half precision gives every number, and a
//! large value costs its neighbours precision only in proportion to the norm. The error of a sum is at most
//! `5·10⁻⁴·‖x‖·‖y‖` per unit, and a fiftieth of that where errors are random.

use crate::act::TINY;
use crate::table::{F32_LANES, KernelTable};
use crate::transpose::to_panel;

/// Sums that are kept at a time.
pub(crate) const LANES: usize = 16;

/// Values that share a scale, at most: the last unit of a row may be shorter.
pub(crate) const UNIT: usize = 256;

/// Norm of the codes of a unit of a panel.
pub(crate) const PANEL_NORM: f32 = 32_752.0;

/// Norm of the codes of a unit that is multiplied with a panel. A code is at most 32767 as well.
pub(crate) const ROW_NORM: f32 = 65_500.0;

/// Norm of the codes of a tile's weights of one query, see [`Weights`]: what it is less than [`ROW_NORM`], the codes of values
/// are more.
pub(crate) const WEIGHT_NORM: f32 = 32_750.0;

/// Largest code.
pub(crate) const MAX_CODE: f32 = 32_767.0;

/// Units of a row of `depth` values.
pub(crate) fn units(depth: usize) -> usize {
    depth.div_ceil(UNIT)
}

/// Rows of a panel, or of two, times rows.
#[derive(Debug)]
pub(crate) struct Panel16<'a> {
    /// Codes in pairs, `[depth / 2][F32_LANES][2]`.
    pub(crate) panel: *const f32,
    /// Pairs from one step of a panel to the next.
    pub(crate) panel_stride: usize,
    /// Factors, `[units][F32_LANES]`.
    pub(crate) factors: *const f32,
    /// Pairs from one panel to the other.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 takes two panels at once"))]
    pub(crate) next: usize,
    /// Floats from the factors of one panel to those of the other.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "as above"))]
    pub(crate) next_factors: usize,
    /// Lanes to store, 1…[`F32_LANES`], or of two panels.
    pub(crate) n_rows: usize,
    /// Codes of a row, an even number.
    pub(crate) depth: usize,
    /// First row of codes.
    pub(crate) x: *const i16,
    /// Distance between rows of codes.
    pub(crate) x_stride: usize,
    /// Factors of the first row.
    pub(crate) x_factors: *const f32,
    /// Distance between rows of factors.
    pub(crate) x_factor_stride: usize,
    /// Rows.
    pub(crate) cols: usize,
    /// Result of lane 0 and the first row.
    pub(crate) out: *mut f32,
    /// Distance between rows in the result.
    pub(crate) out_stride: usize,
    /// Whether to add to the result instead of storing it.
    pub(crate) accumulate: bool,
    /// Bytes that will be wanted next, to be asked for meanwhile; they may be anything.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 asks for them"))]
    pub(crate) later: &'a [u8],
}

/// See [`FixedKernels::weigh`].
pub(crate) type Weigh = unsafe fn(&mut [[f32; TILE]], &[f32; TILE], &mut Weights, &mut [[i16; TILE]]);

/// See [`PairKernels::pair`].
pub(crate) type Pair = unsafe fn(&[f32], &[f32], [f32; 2], &mut [f32]);

/// Kernels for fixed-point numbers, where a table has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FixedKernels {
    /// One row: values, the norm of a unit's codes, codes, and the factor of every unit. A unit with a value that is not
    /// finite gets the factor NaN.
    pub(crate) row: unsafe fn(&[f32], f32, &mut [i16], &mut [f32]),
    /// The weights of a softmax over one row: scores, codes of `exp(score − largest)`, the factor of every unit, all as by
    /// `row` with [`ROW_NORM`]; the sum of the weights. Scores may be written over.
    pub(crate) soften: unsafe fn(&mut [f32], &mut [i16], &mut [f32]) -> f32,
    /// Multiplies a panel with rows.
    pub(crate) gemm: unsafe fn(&Panel16),
    /// Codes of what attention reads.
    pub(crate) pairs: PairKernels,
    /// The weights of a softmax over the scores in a tile, of up to [`LANES`] queries: scores, the powers of two of the values,
    /// and the codes, a row for each query. Scores are written over.
    pub(crate) weigh: Weigh,
    /// Panels that it takes at once.
    pub(crate) panels: usize,
    /// Query heads of a KV head from which on attention over a cache takes less time like this, also with one token, where codes
    /// of keys or values have to be made each time. Where the cache keeps them it always does.
    pub(crate) queries: usize,
}

/// Makes codes in pairs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairKernels {
    /// See [`spread`].
    pub(crate) spread: unsafe fn(&[f32]) -> (f32, f32),
    /// The lower 16 bits of values with a number added, those of the first slice below those of the second, each with a number
    /// of its own. All slices have the same length, a multiple of 16.
    pub(crate) pair: Pair,
}

/// Keys of a tile of attention over a cache.
pub(crate) const TILE: usize = 64;

/// What a tile of keys makes of the weights of up to [`LANES`] queries: codes of the weights times the powers of two of the
/// values that they belong to. The norm of a query's codes is at most [`WEIGHT_NORM`].
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Weights {
    /// Largest score so far; −∞ before the first.
    pub(crate) max: [f32; LANES],
    /// What results are to be divided by so far.
    pub(crate) sum: [f32; LANES],
    /// Keys of this tile that each query sees, the first ones.
    pub(crate) seen: [usize; LANES],
    /// What results so far are to be multiplied with.
    pub(crate) shrink: [f32; LANES],
    /// What a code of this tile stands for.
    pub(crate) factor: [f32; LANES],
}

impl Weights {
    /// Before the first tile.
    pub(crate) fn new() -> Self {
        let [sum, shrink, factor] = [[0.0; LANES], [1.0; LANES], [0.0; LANES]];
        Self { max: [f32::NEG_INFINITY; LANES], sum, seen: [0; LANES], shrink, factor }
    }

    /// Takes what the tile has for query `l`: the largest score (−∞ where none is seen), the sum of the weights in relation to
    /// that one, and what a code stands for there. `exp` is the table's own.
    #[inline(always)]
    pub(crate) fn take(&mut self, l: usize, largest: f32, sum: f32, factor: f32, exp: impl Fn(f32) -> f32) {
        let max = if largest > self.max[l] { largest } else { self.max[l] };
        self.shrink[l] = if self.max[l] == max { 1.0 } else { exp(self.max[l] - max) };
        let weight = if largest == f32::NEG_INFINITY { 0.0 } else { exp(largest - max) };
        self.factor[l] = weight * factor;
        self.sum[l] = self.sum[l] * self.shrink[l] + weight * sum;
        self.max[l] = max;
    }
}

/// What a unit's scale is made of: lanes of squares, added up, and of largest magnitudes.
pub(crate) struct Spread {
    pub(crate) squares: [f32; LANES],
    pub(crate) largest: [f32; LANES],
}

impl Spread {
    /// Both of all lanes. In pairs: one after the other would take longer than making the codes.
    #[inline(always)]
    pub(crate) fn joined(&self) -> (f32, f32) {
        let squares = halved(self.squares, |a, b| a + b);
        (squares, halved(self.largest, |a, b| if b > a { b } else { a }))
    }
}

/// The sum of the squares, rounded before they are added, and the largest magnitude, with every table the same bits. Where a
/// value is not finite, neither is the sum.
pub(crate) fn spread(x: &[f32]) -> (f32, f32) {
    let [mut squares, mut largest] = [[0f32; LANES]; 2];
    for x in x.chunks(LANES) {
        for ((square, largest), x) in squares.iter_mut().zip(&mut largest).zip(x) {
            *square += x * x;
            *largest = if x.abs() > *largest { x.abs() } else { *largest };
        }
    }
    Spread { squares, largest }.joined()
}

/// The factor on values that makes codes of this norm, and the one on codes that undoes it: NaN where a value is not finite.
/// Of the sum of the squares and the largest magnitude.
#[inline(always)]
pub(crate) fn scale(squares: f32, largest: f32, norm: f32) -> (f32, f32) {
    if squares.is_nan() || largest > f32::MAX {
        return (0.0, f32::NAN);
    }
    if largest < TINY {
        return (0.0, 0.0);
    }
    let scale = if squares > 1e-30 && squares < f32::MAX {
        (norm / squares.sqrt()).min(MAX_CODE / largest)
    } else {
        // Squares that are no numbers of this type: a unit's norm is at most 16 times its largest value.
        norm / 16.0 / largest
    };
    (scale, 1.0 / scale)
}

/// All lanes as one: the upper half onto the lower, until one is left.
#[inline(always)]
fn halved(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] = join(lanes[i], lanes[i + n]);
        }
        n /= 2;
    }
    lanes[0]
}

/// See [`FixedKernels::row`]. Squares are rounded before they are added, so that every table, and the plain code without
/// fused multiply-adds, gets the same bits.
pub(crate) fn row(x: &[f32], norm: f32, q: &mut [i16], factors: &mut [f32]) {
    for ((x, q), factor) in x.chunks(UNIT).zip(q.chunks_mut(UNIT)).zip(factors) {
        let (squares, largest) = spread(x);
        let scale;
        (scale, *factor) = self::scale(squares, largest, norm);
        for (q, x) in q.iter_mut().zip(x) {
            *q = if factor.is_nan() { 0 } else { (x * scale).round_ties_even() as i16 };
        }
    }
}

/// `n` rounded up to whole pairs.
pub(crate) fn even(n: usize) -> usize {
    n.next_multiple_of(2)
}

/// 32-bit lanes of a panel of `depth` values: pairs of 16-bit codes.
pub(crate) fn panel_lanes(depth: usize) -> usize {
    even(depth) / 2 * F32_LANES
}

/// A unit of a panel on its way: codes and factors of all its rows.
#[repr(C, align(64))]
pub(crate) struct Staged {
    codes: [[i16; UNIT]; F32_LANES],
    factors: [f32; F32_LANES],
}

impl Staged {
    pub(crate) fn new() -> Self {
        Self { codes: [[0; UNIT]; F32_LANES], factors: [0.0; F32_LANES] }
    }

    /// Takes row `r` of a unit, at most [`UNIT`] values.
    ///
    /// # Safety
    /// `fixed` must belong to a table that was detected.
    pub(crate) unsafe fn take(&mut self, fixed: &FixedKernels, r: usize, values: &[f32]) {
        let (codes, rest) = self.codes[r].split_at_mut(values.len());
        // SAFETY: promised by the caller; there are as many codes as values, and one factor for one unit.
        unsafe { (fixed.row)(values, PANEL_NORM, codes, std::slice::from_mut(&mut self.factors[r])) };
        if let Some(odd) = rest.first_mut() {
            *odd = 0;
        }
    }

    /// Clears the rows from `n` on, which are missing.
    pub(crate) fn end(&mut self, n: usize) {
        for (codes, factor) in self.codes.iter_mut().zip(&mut self.factors).skip(n) {
            codes.fill(0);
            *factor = 0.0;
        }
    }

    /// Lays out the first `depth` codes of all rows in pairs, `[depth / 2][F32_LANES][2]`, and the factors.
    pub(crate) fn lay_out(&self, table: &KernelTable, depth: usize, panel: &mut [f32], factors: &mut [f32]) {
        factors.copy_from_slice(&self.factors);
        // SAFETY: the codes begin this struct, which is aligned to 64; every pair is some f32, and transposing only copies.
        let pairs = unsafe { std::slice::from_raw_parts(self.codes.as_ptr().cast::<f32>(), UNIT / 2 * F32_LANES) };
        to_panel(table, pairs, UNIT / 2, F32_LANES, even(depth) / 2, panel, F32_LANES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::noise;
    use crate::select::Kernels;

    /// Rows of every kind: random, equal, one large value, tiny, huge, none, not finite.
    fn rows() -> Vec<Vec<f32>> {
        let mut rows = Vec::new();
        for len in [1, 2, 15, 16, 17, 72, 255, 256, 257, 700] {
            let random = noise(len, len as u64);
            let mut spiked = random.clone();
            spiked[len / 2] = 1e4;
            rows.extend([1e-35, 1e-22, 1e-17, 1.0, 1e15, 1e19, 1e30, 3e38].map(|size| {
                let sized: Vec<f32> = random.iter().map(|x| x * size).collect();
                sized
            }));
            rows.extend([f32::NAN, f32::INFINITY].map(|v| {
                let mut row = random.clone();
                row[len - 1] = v;
                row
            }));
            rows.extend([spiked, vec![0.0; len], vec![-2.5; len], vec![1e-19; len], vec![-1e19; len]]);
        }
        rows
    }

    fn made(fixed: &FixedKernels, row: &[f32], norm: f32) -> (Vec<i16>, Vec<f32>) {
        let (mut codes, mut factors) = (vec![1; row.len()], vec![7.0; units(row.len())]);
        // SAFETY: as many codes as values, a factor for every unit; the table was detected.
        unsafe { (fixed.row)(row, norm, &mut codes, &mut factors) };
        (codes, factors)
    }

    #[test]
    fn codes_are_the_values_and_their_norm_is_bounded() {
        let scalar = Kernels::scalar().table.fixed.expect("the reference");
        for (row, norm) in rows().iter().flat_map(|row| [(row, PANEL_NORM), (row, ROW_NORM)]) {
            let (codes, factors) = made(&scalar, row, norm);
            for ((x, q), factor) in row.chunks(UNIT).zip(codes.chunks(UNIT)).zip(&factors) {
                if x.iter().any(|x| !x.is_finite()) {
                    assert!(factor.is_nan() && q.iter().all(|q| *q == 0));
                    continue;
                }
                let squares: f64 = q.iter().map(|q| f64::from(*q).powi(2)).sum();
                assert!(squares.sqrt() <= f64::from(norm) + 8.1 && !q.contains(&i16::MIN));
                for (x, q) in x.iter().zip(q) {
                    let back = f64::from(*q) * f64::from(*factor);
                    let off = (back - f64::from(*x)).abs();
                    assert!(off <= f64::from(*factor) * 0.501 + 1e-30 + f64::from(x.abs()) * 1e-6, "{x} is {back}");
                }
            }
        }
        assert!(f64::from(PANEL_NORM + 8.1) * f64::from(ROW_NORM + 8.1) < f64::from(i32::MAX));
    }

    #[test]
    fn every_table_makes_the_same_codes() {
        let scalar = Kernels::scalar().table.fixed.expect("the reference");
        for (kernels, fixed) in Kernels::available().into_iter().filter_map(|k| Some((k, k.table.fixed?))) {
            for (row, norm) in rows().iter().flat_map(|row| [(row, PANEL_NORM), (row, ROW_NORM)]) {
                let (want, got) = (made(&scalar, row, norm), made(&fixed, row, norm));
                assert_eq!(want.0, got.0, "{} {row:?}", kernels.name());
                let bits = |factors: &[f32]| factors.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&want.1), bits(&got.1), "{}", kernels.name());
            }
        }
    }

    #[test]
    fn weights_of_a_softmax_are_codes() {
        for (kernels, fixed) in Kernels::available().into_iter().filter_map(|k| Some((k, k.table.fixed?))) {
            for len in [1, 2, 15, 16, 17, 31, 32, 33, 72, 255, 256, 257, 304, 700] {
                for (size, below) in [(0.0, 0.0), (1e-3, 7.0), (1.0, 0.0), (10.0, -300.0), (200.0, 1e4)] {
                    let mut scores: Vec<f32> = noise(len, len as u64).iter().map(|x| x * size + below).collect();
                    scores[len / 2] = if len % 2 == 0 { f32::NEG_INFINITY } else { scores[len / 2] };
                    let largest = scores.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
                    let want: Vec<f64> = scores.iter().map(|x| f64::from(x - largest).exp()).collect();
                    let (mut codes, mut factors) = (vec![1; len], vec![7.0; units(len)]);
                    // SAFETY: as many codes as scores, a factor for every unit; the table was detected.
                    let sum = unsafe { (fixed.soften)(&mut scores, &mut codes, &mut factors) };
                    let total: f64 = want.iter().sum();
                    assert!((f64::from(sum) / total - 1.0).abs() < 3e-6, "{}: {sum} is not {total}", kernels.name());
                    for ((want, codes), factor) in want.chunks(UNIT).zip(codes.chunks(UNIT)).zip(&factors) {
                        let squares: f64 = codes.iter().map(|q| f64::from(*q).powi(2)).sum();
                        assert!(squares.sqrt() <= f64::from(ROW_NORM) + 8.1 && !codes.contains(&i16::MIN));
                        for (want, q) in want.iter().zip(codes) {
                            let off = (f64::from(*q) * f64::from(*factor) - want).abs();
                            assert!(
                                off <= f64::from(*factor) * 0.501 + 1e-30 + want * 5e-6,
                                "{}: {want}",
                                kernels.name()
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_among_scores_shows() {
        for (kernels, fixed) in Kernels::available().into_iter().filter_map(|k| Some((k, k.table.fixed?))) {
            for (bad, len) in [(f32::NAN, 300), (f32::INFINITY, 300), (f32::NAN, 5), (f32::INFINITY, 40)] {
                let mut scores = noise(len, 3);
                scores[len - 1] = bad;
                let (mut codes, mut factors) = (vec![1; len], vec![7.0; units(len)]);
                // SAFETY: as above.
                let sum = unsafe { (fixed.soften)(&mut scores, &mut codes, &mut factors) };
                assert!(sum.is_nan() && factors.iter().any(|f| f.is_nan()), "{} {bad}", kernels.name());
            }
        }
    }
}
