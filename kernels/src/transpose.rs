//! Rows to columns, for panels and scores.

use crate::table::KernelTable;

/// A matrix and where its transpose goes: `dst[c·dst_stride + r] = src[r·src_stride + c]`.
#[derive(Debug)]
pub(crate) struct Transpose {
    pub(crate) src: *const f32,
    pub(crate) src_stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) dst: *mut f32,
    pub(crate) dst_stride: usize,
}

impl Transpose {
    /// Value by value.
    ///
    /// # Safety
    /// `src` must have `rows` rows and `dst` `cols` rows at their strides, not overlapping.
    pub(crate) unsafe fn scalar(&self) {
        // SAFETY: the contract of this function.
        unsafe { self.edge(0..self.rows, 0..self.cols) };
    }

    /// In squares of N, each by `square(src, src_stride, dst, dst_stride)`; value by value what is left at the edges.
    ///
    /// # Safety
    /// As [`Self::scalar`], and `square` must touch its N rows of N values on either side only.
    #[inline(always)]
    #[allow(dead_code, reason = "the scalar table is all that some machines have")]
    pub(crate) unsafe fn by_squares<const N: usize>(&self, square: impl Fn(*const f32, usize, *mut f32, usize)) {
        let (rows, cols) = (self.rows / N * N, self.cols / N * N);
        for r in (0..rows).step_by(N) {
            for c in (0..cols).step_by(N) {
                // SAFETY: rows `r..r + N` and columns `c..c + N` exist on both sides.
                let (src, dst) =
                    unsafe { (self.src.add(r * self.src_stride + c), self.dst.add(c * self.dst_stride + r)) };
                square(src, self.src_stride, dst, self.dst_stride);
            }
        }
        // SAFETY: the contract of this function.
        unsafe {
            self.edge(0..rows, cols..self.cols);
            self.edge(rows..self.rows, 0..self.cols);
        }
    }

    /// # Safety
    /// As [`Self::scalar`]; the rows and columns must exist.
    #[inline(always)]
    unsafe fn edge(&self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) {
        for r in rows {
            for c in cols.clone() {
                // SAFETY: the contract of this function.
                unsafe { *self.dst.add(c * self.dst_stride + r) = *self.src.add(r * self.src_stride + c) };
            }
        }
    }
}

/// `panel[c][r] = rows[r][c]` for rows of `cols` values at `stride`; `lanes` is the length of the panel's steps.
///
/// # Panics
/// When a slice is too short.
pub(crate) fn to_panel(
    table: &KernelTable,
    rows: &[f32],
    stride: usize,
    n: usize,
    cols: usize,
    panel: &mut [f32],
    lanes: usize,
) {
    if n == 0 || cols == 0 {
        return;
    }
    assert!(cols <= stride && n <= lanes);
    assert!((n - 1) * stride + cols <= rows.len() && (cols - 1) * lanes + n <= panel.len());
    let job =
        Transpose { src: rows.as_ptr(), src_stride: stride, rows: n, cols, dst: panel.as_mut_ptr(), dst_stride: lanes };
    // SAFETY: both slices hold what the job names (asserted above); the table's features were detected.
    unsafe { (table.transpose)(&job) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::Kernels;

    #[test]
    fn every_table_transposes_every_edge_and_nothing_beside() {
        for kernels in Kernels::available() {
            for rows in [1, 3, 4, 7, 8, 12, 16, 17] {
                for cols in [1, 4, 5, 8, 9, 16, 31, 72] {
                    let (stride, lanes) = (cols + 3, rows + 2);
                    let src: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
                    let mut dst = vec![f32::NAN; cols * lanes];
                    to_panel(kernels.table, &src, stride, rows, cols, &mut dst, lanes);
                    for (i, v) in dst.iter().enumerate() {
                        let (c, r) = (i / lanes, i % lanes);
                        if r < rows {
                            assert_eq!(*v, (r * stride + c) as f32, "{} {rows}×{cols}", kernels.name());
                        } else {
                            assert!(v.is_nan(), "{} {rows}×{cols} wrote beside the matrix", kernels.name());
                        }
                    }
                }
            }
        }
    }
}
