//! Cached rows as the codes that attention in fixed point multiplies (see [`crate::fixed`]), made when they are stored.
//!
//! ```text
//! keys     [position / 16][pairs of a head][16][2]   a value of the head's first half beside one of its second
//! values   [position / 2][lanes][2]                  those of two positions, side by side
//! behind   [position]                                the exponent of the power of two that a row's codes count
//! ```
//!
//! A row takes the bytes of half precision and one more. It is rounded to half precision first. Codes have 13 bits or more and
//! a sign, so that what is far below the row's largest value keeps fewer of its eleven bits. They are values of half precision,
//! too, and come from those again: rows can leave as F16 and come back.

use std::ops::Range;

use super::{KvPart, MAX_HEAD_DIM};
use crate::fixed::{MAX_CODE, ROW_NORM, spread};
use crate::table::F32_LANES;

/// Largest magnitude of a code of values. Those of 64 values of a column have at most the norm 8·VALUE_CODE, which times
/// [`crate::fixed::WEIGHT_NORM`] fits 32 bits.
pub(crate) const VALUE_CODE: f32 = 8_192.0;

/// The exponent of a row that holds what is no number. Such a row's codes are zero.
const NOT_FINITE: u8 = 255;

/// The exponent for a row with this sum of squares and this largest magnitude ([`crate::fixed::spread`]), and what is added to a
/// value for its code to be the lower 16 bits of the sum. Codes of a key have at most the norm [`ROW_NORM`], those of values
/// at most the magnitude [`VALUE_CODE`]: a column of a tile has one value of each row.
///
/// Without branches, so that a loop over rows is computed for several at once.
#[inline(always)]
pub(crate) fn exponent(part: KvPart, squares: f32, largest: f32) -> (u8, f32) {
    // Of the square of a norm half the exponent, rounded up, too.
    let exponent = match part {
        KvPart::Keys => ((log2(squares / (ROW_NORM * ROW_NORM)) + 1) >> 1).max(log2(largest / MAX_CODE)),
        KvPart::Values => log2(largest / VALUE_CODE),
    };
    // Far above half precision times a code of 8 bits, and where the sums still have a place. Adding infinity leaves the lower
    // bits of a number zero.
    let finite = squares.is_finite() & (exponent <= 90);
    // Below 2⁻⁷⁷ little is left, so that the sum of a small value has a place.
    let exponent = (exponent.max(-77) + 127) as u32;
    let magic = if finite { ((exponent + 23) << 23) | 1 << 22 } else { f32::INFINITY.to_bits() };
    // A row of zeros has no power: it must not take bits from the weights of others.
    let exponent = if largest == 0.0 { 0 } else { exponent };
    (if finite { exponent as u8 } else { NOT_FINITE }, f32::from_bits(magic))
}

/// `log₂ x`, rounded up, of what is not negative; far below −100 of what is nearly nothing.
#[inline(always)]
fn log2(x: f32) -> i32 {
    let bits = x.to_bits();
    (bits >> 23) as i32 - 127 + i32::from(bits & ((1 << 23) - 1) != 0)
}

/// The power of two of an exponent: 0 of none, NaN where a row holds what is no number.
#[inline(always)]
pub(crate) fn power(exponent: u8) -> f32 {
    f32::from_bits(u32::from(exponent) << 23 | u32::from(exponent == NOT_FINITE) << 22)
}

/// Pairs of codes of a key: zero beside the last value where a head's length is odd.
pub(crate) const fn key_pairs(head_dim: usize) -> usize {
    head_dim.div_ceil(2)
}

/// Lanes of a row of values: whole panels.
pub(crate) const fn value_lanes(head_dim: usize) -> usize {
    head_dim.next_multiple_of(F32_LANES)
}

/// Where the codes of one head lie in its part of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) part: KvPart,
    pub(super) head_dim: usize,
    pub(super) block_len: usize,
}

impl Place {
    /// Bytes of a row of codes.
    fn code_bytes(&self) -> usize {
        match self.part {
            KvPart::Keys => 4 * key_pairs(self.head_dim),
            KvPart::Values => 2 * value_lanes(self.head_dim),
        }
    }

    /// Bytes of a row, with its exponent.
    pub(super) fn row_bytes(&self) -> usize {
        self.code_bytes() + 1
    }

    /// The bytes of the codes of positions `from..to`; `from` is a multiple of 16. Up to the end of a block, where exponents
    /// follow, these are there, too.
    pub(super) fn bytes(&self, from: usize, to: usize) -> Range<usize> {
        let to = if to == self.block_len { to * self.row_bytes() } else { to.next_multiple_of(16) * self.code_bytes() };
        from * self.code_bytes()..to
    }

    /// The bytes of the exponents of positions `from..to`.
    pub(super) fn exponents(&self, from: usize, to: usize) -> Range<usize> {
        let first = self.block_len * self.code_bytes();
        first + from..first + to
    }

    /// Byte of code `i` of position `at`.
    fn code(&self, at: usize, i: usize) -> usize {
        let pairs = key_pairs(self.head_dim);
        2 * match self.part {
            KvPart::Keys if i < pairs => ((at / F32_LANES * pairs + i) * F32_LANES + at % F32_LANES) * 2,
            KvPart::Keys => ((at / F32_LANES * pairs + i - pairs) * F32_LANES + at % F32_LANES) * 2 + 1,
            KvPart::Values => (at / 2 * value_lanes(self.head_dim) + i) * 2 + at % 2,
        }
    }

    /// Stores the row of position `at`, values of half precision, in the head's part of a block.
    pub(super) fn put(&self, row: &[f32], block: &mut [u8], at: usize) {
        let (squares, largest) = spread(row);
        let (exponent, magic) = exponent(self.part, squares, largest);
        let mut codes = [0u16; MAX_HEAD_DIM];
        for (code, x) in codes.iter_mut().zip(row) {
            *code = if exponent == NOT_FINITE { 0 } else { (x + magic).to_bits() as u16 };
        }
        // Also the zero beside the last value of an odd number.
        let n = if self.part == KvPart::Keys { 2 * key_pairs(self.head_dim) } else { self.head_dim };
        for (i, code) in codes.iter().take(n).enumerate() {
            let place = self.code(at, i);
            block[place..place + 2].copy_from_slice(&code.to_ne_bytes());
        }
        block[self.exponents(at, at + 1)].fill(exponent);
    }

    /// The values of the row of position `at`.
    pub(super) fn get(&self, block: &[u8], at: usize, row: &mut [f32]) {
        let power = power(block[self.exponents(at, at + 1)][0]);
        for (i, x) in row.iter_mut().enumerate() {
            let place = self.code(at, i);
            *x = f32::from(i16::from_ne_bytes([block[place], block[place + 1]])) * power;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::{PANEL_NORM, WEIGHT_NORM};
    use crate::measure::noise;
    use ocelli_quant::half_bits::{f16_to_f32, f32_to_f16};

    fn halves(row: &[f32]) -> Vec<f32> {
        row.iter().map(|x| f16_to_f32(f32_to_f16(*x))).collect()
    }

    /// Rows of half precision: of every size, with outliers, with zeros.
    fn rows(head_dim: usize) -> Vec<Vec<f32>> {
        let random = noise(head_dim, head_dim as u64);
        let mut rows: Vec<Vec<f32>> = [1.0, 3e-8, 1e-5, 0.37, 6e4, 0.0]
            .map(|size| halves(&random.iter().map(|x| x * size).collect::<Vec<_>>()))
            .to_vec();
        let mut spiked = random.clone();
        spiked[head_dim / 2] = -900.0;
        rows.push(halves(&spiked));
        rows.push(vec![-65504.0; head_dim]);
        rows
    }

    #[test]
    fn rows_come_back_within_a_code_and_then_stay() {
        for (part, head_dim) in [KvPart::Keys, KvPart::Values].into_iter().zip([1, 2, 18, 72, 128, 256]).chain([
            (KvPart::Keys, 35),
            (KvPart::Values, 35),
            (KvPart::Keys, 256),
        ]) {
            let place = Place { part, head_dim, block_len: 32 };
            let rows = rows(head_dim);
            let mut block = vec![0xffu8; place.row_bytes() * 32];
            for (i, row) in rows.iter().enumerate() {
                place.put(row, &mut block, 3 * i + 1);
            }
            for (i, row) in rows.iter().enumerate() {
                let mut back = vec![f32::NAN; head_dim];
                place.get(&block, 3 * i + 1, &mut back);
                let largest = row.iter().fold(0f32, |most, x| most.max(x.abs()));
                for (x, back) in row.iter().zip(&back) {
                    assert!((x - back).abs() <= largest / 4096.0, "{part:?} {head_dim}: {x} is {back}");
                    assert!(x.abs() * 2.0 < largest || x == back, "{part:?} {head_dim}: {x} is {back}");
                }
                assert_eq!(back, halves(&back), "{part:?} {head_dim}: codes are values of half precision");
                place.put(&back, &mut block, 3 * i + 1);
                let mut again = vec![f32::NAN; head_dim];
                place.get(&block, 3 * i + 1, &mut again);
                assert_eq!(back, again, "{part:?} {head_dim}: the same values again");
            }
        }
    }

    #[test]
    fn sums_of_products_fit() {
        // Rounding moves each of 256 codes, or of 64, by at most ½, their norm by at most 8, or 4; a code of values is exact.
        let fits = |a: f32, b: f32| f64::from(a) * f64::from(b) < f64::from(i32::MAX);
        assert!(fits(ROW_NORM + 8.0, PANEL_NORM + 8.0) && fits(WEIGHT_NORM + 4.0, 8.0 * VALUE_CODE));
        for (head_dim, size) in [(256, 1.0), (128, 3e-5), (255, 6e4), (2, 1.0)] {
            for row in [vec![size; head_dim], noise(head_dim, 7).iter().map(|x| x * size).collect()] {
                let row = halves(&row);
                let (squares, largest) = spread(&row);
                let (e, magic) = exponent(KvPart::Keys, squares, largest);
                let codes: Vec<f64> = row.iter().map(|x| f64::from((x + magic).to_bits() as i16)).collect();
                let norm = codes.iter().map(|c| c * c).sum::<f64>().sqrt();
                assert!(norm <= f64::from(ROW_NORM) + 8.0, "{head_dim} × {size}: {norm}");
                assert!(norm > 30_000.0 || codes.iter().any(|c| c.abs() > 16_000.0), "{head_dim} × {size}: {norm}");
                let off = codes.iter().zip(&row).map(|(c, x)| (c * f64::from(power(e)) - f64::from(*x)).abs());
                assert!(off.fold(0.0, f64::max) <= f64::from(power(e)) / 2.0);
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_with_its_row() {
        for part in [KvPart::Keys, KvPart::Values] {
            let place = Place { part, head_dim: 20, block_len: 16 };
            let mut block = vec![0u8; place.row_bytes() * 16];
            for (at, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30].into_iter().enumerate() {
                let mut row = vec![0.5f32; 20];
                row[7] = bad;
                place.put(&row, &mut block, 2 * at);
                place.put(&[0.25; 20], &mut block, 2 * at + 1);
            }
            for at in 0..8 {
                let mut row = [0f32; 20];
                place.get(&block, at, &mut row);
                assert!(
                    row.iter().all(|x| if at % 2 == 0 { x.is_nan() } else { *x == 0.25 }),
                    "{part:?} {at}: {row:?}"
                );
            }
        }
    }
}
