//! Columns kept out of products of 8-bit codes.
//!
//! One scale serves 32 neighbouring codes, so that a value far above the rest costs its 31 neighbours their precision;
//! trained towers have such values, always in the same few columns. As LLM.int8() does (Dettmers et al. 2022), the
//! columns of such values are set to zero before a slice's rows become codes, and multiplied in f32:
//!
//! ```text
//! W·x = int8(W)·int8(x without columns C) + W[:, C]·x[C]
//! ```
//!
//! with the stored, not the 8-bit, weights. `C` is found for every slice and product anew, so that a slice's result
//! depends on nothing but the slice: a value counts that is more than `limit` times as large as the mean magnitude of
//! its row. Of a normal distribution that is none (8 means are 6.4 standard deviations), and the search is all that it
//! costs. Weights of the same kind, columns large throughout a matrix, are known beforehand: see `int8`.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ocelli_kernels::{ActBuf, ActNeeds, Kernels, MAX_COLUMNS, ops};

/// Times the mean magnitude of its row that a value is an outlier, where rows are sums of many terms or normed.
pub(crate) const LIMIT: f32 = 8.0;

/// The same behind a GELU, which makes most values small.
pub(crate) const LIMIT_GELU: f32 = 24.0;

/// Columns found in a slice are at most one in so many, the most outstanding first: what they cost stays bounded.
const SHARE: usize = 8;

/// And at most this many, and so are those known of a matrix: those of a slice and of three matrices that read it can
/// still be multiplied at once.
const MOST: usize = MAX_COLUMNS / 4;

/// Values of a row that are looked at together.
const LANES: usize = 16;

/// Input of matrix products: rows in the forms that the kernels take, and what is kept out of the codes.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub(super) codes: ActBuf,
    pub(super) kept: Outliers,
}

impl Inputs {
    /// Room for `n` rows of `depth` values in the forms of `needs`.
    pub(crate) fn with_capacity(n: usize, depth: usize, needs: ActNeeds) -> Self {
        Self { codes: ActBuf::with_capacity(n, depth, needs), kept: Outliers::default() }
    }
}

/// The columns of every slice and their values.
#[derive(Debug, Default)]
pub(crate) struct Outliers {
    /// For every slice and column the bits of the largest ratio of an outlier to the mean, 0 without one. Ratios are
    /// positive, so their bits are in the order of their values.
    levels: Vec<AtomicU32>,
    /// Whether a slice has any; all false between calls, as levels are 0.
    found: Vec<AtomicBool>,
    columns: Vec<u32>,
    values: Vec<f32>,
    groups: Vec<Group>,
}

/// A slice with such columns.
#[derive(Debug)]
struct Group {
    rows: Range<usize>,
    columns: Range<usize>,
    values: Range<usize>,
}

/// What [`Outliers::each`] yields: rows of the batch, columns, their values row by row.
pub(super) type Kept<'o> = (Range<usize>, &'o [u32], &'o [f32]);

impl Outliers {
    /// Nothing is kept out.
    pub(super) fn clear(&mut self) {
        self.columns.clear();
        self.values.clear();
        self.groups.clear();
    }

    /// Begins to look for the columns of `slices`, ranges of rows of `width` values.
    pub(super) fn begin(&mut self, slices: &[Range<usize>], width: usize) {
        self.clear();
        let wanted = slices.len() * width;
        if self.levels.len() < wanted {
            self.levels.resize_with(wanted, AtomicU32::default);
        }
        self.found.resize_with(self.found.len().max(slices.len()), AtomicBool::default);
    }

    /// Notes the outliers of a row of slice number `slice`; whether none was found in that slice so far.
    pub(super) fn look(&self, kernels: Kernels, slice: usize, row: &[f32], limit: f32) -> bool {
        let found = &self.found[slice];
        let Some(mean) = usual(kernels, row, limit) else { return !found.load(Ordering::Relaxed) };
        found.store(true, Ordering::Relaxed);
        let levels = self.levels[slice * row.len()..].chunks(LANES);
        for (levels, values) in levels.zip(row.chunks(LANES)) {
            // Hardly ever are there any, and finding that out together takes a fraction of the time.
            if values.iter().fold(0f32, |most, v| if v.abs() > most { v.abs() } else { most }) <= limit * mean {
                continue;
            }
            for (level, value) in levels.iter().zip(values).filter(|(_, v)| v.abs() > limit * mean) {
                level.fetch_max((value.abs() / mean).to_bits(), Ordering::Relaxed);
            }
        }
        false
    }

    /// Sets the columns that were found in `slices`, which [`Outliers::begin`] was told, to zero. `known` are taken out of
    /// every slice in any case. Returns the slices that were changed.
    pub(super) fn take(
        &mut self,
        rows: &mut [f32],
        width: usize,
        slices: &[Range<usize>],
        known: &[u32],
    ) -> Vec<Range<usize>> {
        let mut changed = Vec::new();
        for (number, slice) in slices.iter().enumerate() {
            if !std::mem::take(self.found[number].get_mut()) && known.is_empty() {
                continue;
            }
            changed.push(slice.clone());
            let first = self.columns.len();
            let levels = &mut self.levels[number * width..(number + 1) * width];
            choose(levels, known, &mut self.columns);
            if self.columns.len() == first {
                continue;
            }
            let (columns, start) = (&self.columns[first..], self.values.len());
            for row in rows[slice.start * width..slice.end * width].chunks_exact_mut(width) {
                self.values.extend(columns.iter().map(|c| std::mem::take(&mut row[*c as usize])));
            }
            let (columns, values) = (first..self.columns.len(), start..self.values.len());
            self.groups.push(Group { rows: slice.clone(), columns, values });
        }
        changed
    }

    /// Undoes [`Outliers::take`] to the rows.
    pub(super) fn put_back(&self, rows: &mut [f32], width: usize) {
        for (slice, columns, values) in self.each() {
            let rows = rows[slice.start * width..slice.end * width].chunks_exact_mut(width);
            for (row, values) in rows.zip(values.chunks_exact(columns.len())) {
                for (column, value) in columns.iter().zip(values) {
                    row[*column as usize] = *value;
                }
            }
        }
    }

    /// Whether anything was taken out.
    pub(super) fn any(&self) -> bool {
        !self.groups.is_empty()
    }

    /// What was taken out.
    pub(super) fn each(&self) -> impl Iterator<Item = Kept<'_>> {
        self.groups.iter().map(|g| (g.rows.clone(), &self.columns[g.columns.clone()], &self.values[g.values.clone()]))
    }
}

/// The mean magnitude of a row without its outliers; `None` if it has none.
fn usual(kernels: Kernels, row: &[f32], limit: f32) -> Option<f32> {
    let (sum, max) = ops::magnitudes(kernels, row);
    let bound = limit * (sum / row.len() as f32);
    if max <= bound || !bound.is_finite() {
        return None;
    }
    let (mut sums, mut counts) = ([0f32; LANES], [0u32; LANES]);
    for values in row.chunks(LANES) {
        for ((sum, n), value) in sums.iter_mut().zip(&mut counts).zip(values) {
            let inside = value.abs() <= bound;
            *sum += if inside { value.abs() } else { 0.0 };
            *n += u32::from(inside);
        }
    }
    Some(sums.iter().sum::<f32>() / counts.iter().sum::<u32>().max(1) as f32)
}

/// Appends the columns of a slice to `out`, ascending, and clears its levels: `known`, and of those noted the most
/// outstanding ones.
fn choose(levels: &mut [AtomicU32], known: &[u32], out: &mut Vec<u32>) {
    let most = (levels.len() / SHARE).clamp(1, MOST);
    // Columns of a matrix fit 32 bits: the largest accepted widths are far below.
    let mut noted: Vec<(u32, u32)> = (0u32..)
        .zip(levels)
        .filter_map(|(column, level)| {
            let level = std::mem::take(level.get_mut());
            (level != 0 && !known.contains(&column)).then_some((level, column))
        })
        .collect();
    noted.sort_unstable_by_key(|(level, column)| (std::cmp::Reverse(*level), *column));
    noted.truncate(most);
    let first = out.len();
    out.extend(noted.into_iter().map(|(_, column)| column));
    out.extend_from_slice(known);
    out[first..].sort_unstable();
}

/// Columns of a matrix that are outliers in more than one of `SHARE` rows, at most one column in `SHARE`, ascending;
/// `counts` has the number of those rows. Single large weights spoil one scale of one row each and are left alone.
pub(super) fn columns_of_weights(counts: &[u32], rows: usize) -> Vec<u32> {
    let mut found: Vec<(u32, u32)> =
        (0u32..).zip(counts).filter(|(_, n)| **n as usize * SHARE > rows).map(|(column, n)| (*n, column)).collect();
    found.sort_unstable_by_key(|(n, column)| (std::cmp::Reverse(*n), *column));
    found.truncate((counts.len() / SHARE).clamp(1, MOST));
    let mut columns: Vec<u32> = found.into_iter().map(|(_, column)| column).collect();
    columns.sort_unstable();
    columns
}

/// Counts the outliers of a row of weights.
pub(super) fn count(kernels: Kernels, row: &[f32], counts: &mut [u32]) {
    if let Some(mean) = usual(kernels, row, LIMIT) {
        for (n, value) in counts.iter_mut().zip(row) {
            *n += u32::from(value.abs() > LIMIT * mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of ±1, in which some values are others.
    fn rows(width: usize, n: usize, others: &[(usize, usize, f32)]) -> Vec<f32> {
        let mut rows: Vec<f32> = (0..n * width).map(|i| if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        for (row, column, value) in others {
            rows[row * width + column] = *value;
        }
        rows
    }

    fn taken(rows: &mut [f32], width: usize, slices: &[Range<usize>], known: &[u32]) -> Vec<(Range<usize>, Vec<u32>)> {
        let (before, mut outliers) = (rows.to_vec(), Outliers::default());
        let mut found = Vec::new();
        // What a call leaves behind must not disturb the next one.
        for _ in 0..2 {
            outliers.begin(slices, width);
            for (number, slice) in slices.iter().enumerate() {
                let mut any = false;
                for row in rows[slice.start * width..slice.end * width].chunks_exact(width) {
                    any |= !outliers.look(Kernels::scalar(), number, row, LIMIT);
                }
                assert_eq!(any, outliers.found[number].load(Ordering::Relaxed));
            }
            let changed = outliers.take(rows, width, slices, known);
            assert!(changed.iter().eq(outliers.groups.iter().map(|group| &group.rows)));
            found = outliers.each().map(|(rows, columns, _)| (rows, columns.to_vec())).collect();
            for (slice, columns) in &found {
                for (row, column) in slice.clone().flat_map(|r| columns.iter().map(move |c| (r, *c as usize))) {
                    assert_eq!(rows[row * width + column], 0.0);
                }
            }
            outliers.put_back(rows, width);
            assert_eq!(rows, before);
        }
        found
    }

    #[test]
    fn columns_belong_to_their_slice() {
        // Of the two of row 1, the larger hides the other from a mean that takes all in.
        let others = [(1, 3, 400.0), (1, 34, -11.0), (4, 7, -12.0), (5, 8, 7.0), (6, 1, 100.0)];
        let mut rows = rows(40, 7, &others);
        let found = taken(&mut rows, 40, &[0..2, 2..3, 3..6], &[]);
        assert_eq!(found, [(0..2, vec![3, 34]), (3..6, vec![7])]);
        let found = taken(&mut rows, 40, &[0..2, 2..3, 3..6], &[7, 9]);
        assert_eq!(found, [(0..2, vec![3, 7, 9, 34]), (2..3, vec![7, 9]), (3..6, vec![7, 9])]);
    }

    #[test]
    fn the_most_outstanding_are_taken() {
        let others: Vec<_> = (0..10).map(|i| (i, 10 + i, 20.0 + if i % 2 == 0 { i as f32 } else { 0.0 })).collect();
        let mut rows = rows(40, 10, &others);
        assert_eq!(taken(&mut rows, 40, std::slice::from_ref(&(0..10)), &[]), [(0..10, vec![10, 12, 14, 16, 18])]);
    }

    #[test]
    fn values_that_are_not_finite_are_left_alone() {
        for value in [f32::INFINITY, f32::NAN] {
            assert_eq!(usual(Kernels::scalar(), &rows(40, 1, &[(0, 4, value)]), LIMIT), None);
        }
        assert_eq!(usual(Kernels::scalar(), &[0.0; 40], LIMIT), None);
        assert_eq!(usual(Kernels::scalar(), &rows(40, 1, &[(0, 39, 50.0)]), LIMIT), Some(1.0));
        assert_eq!(usual(Kernels::scalar(), &[], LIMIT), None);
    }

    #[test]
    fn weights_count_where_many_rows_have_them() {
        let mut counts = vec![0; 40];
        for r in 0..16 {
            let others = [(0, 5, 30.0), (0, 6, if r < 2 { 30.0 } else { 1.0 })];
            count(Kernels::scalar(), &rows(40, 1, &others), &mut counts);
        }
        assert_eq!((counts[5], counts[6]), (16, 2));
        assert_eq!(columns_of_weights(&counts, 16), [5]);
    }
}
