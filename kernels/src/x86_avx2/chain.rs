//! The last step of products straight from stored blocks: what the units of a row come to, added up in the order of depth.
//!
//! A panel has a row in every lane and adds one unit after the other. A row by itself has neighbours of the depth in its lanes,
//! and would add them up in another order. So every unit becomes one number here, from sums of integers, which are exact in
//! any order; and those of [`ROWS`] rows are then added as a panel does it, to the bit: `sum = fma(term, scale, sum)`, and
//! where a format has mins of its own, `sum = fma(-min, scale·codes, sum)`. One row alone would wait for every sum, where
//! units are short.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use crate::table::rows_from;

/// Rows that are added up together.
pub(crate) const ROWS: usize = 4;

/// Terms of one token's [`ROWS`] rows that are kept at a time, and of all tokens together.
const KEPT: usize = 4096;

/// Terms of [`ROWS`] rows and `T` tokens, and mins of the rows.
pub(crate) struct Terms<const T: usize> {
    terms: MaybeUninit<[f32; KEPT]>,
    mins: MaybeUninit<[f32; KEPT]>,
}

/// Where one row puts them.
#[derive(Clone, Copy)]
pub(crate) struct Places<const T: usize> {
    /// Of each token, that of the first unit.
    pub(crate) terms: [*mut f32; T],
    /// Of the first unit.
    pub(crate) mins: *mut f32,
}

impl<const T: usize> Terms<T> {
    /// Units that there is room for, a multiple of four.
    pub(crate) const UNITS: usize = KEPT / ROWS / T & !3;

    pub(crate) fn new() -> Self {
        Self { terms: MaybeUninit::uninit(), mins: MaybeUninit::uninit() }
    }

    /// Places of row `r`, room for [`Self::UNITS`] each.
    #[inline(always)]
    pub(crate) fn places(&mut self, r: usize) -> Places<T> {
        debug_assert!(r < ROWS);
        let first = self.terms.as_mut_ptr().cast::<f32>().wrapping_add(r * Self::UNITS);
        let mut terms = [first; T];
        for (t, place) in terms.iter_mut().enumerate() {
            *place = first.wrapping_add(t * ROWS * Self::UNITS);
        }
        Places { terms, mins: self.mins.as_mut_ptr().cast::<f32>().wrapping_add(r * Self::UNITS) }
    }

    /// `sum` and what `n` units of token `t` add to it: a row in every lane; those from `rows` on hold nothing of use. `d` has
    /// scales and `own` sums of the token's codes, which only formats with `MINS` ask for.
    ///
    /// # Safety
    /// The first `rows` rows must have put `n` terms, with `MINS` as many mins; so many scales and sums must be readable.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn add<const MINS: bool>(
        &self,
        mut sum: __m128,
        t: usize,
        rows: usize,
        n: usize,
        d: *const f32,
        own: *const i16,
    ) -> __m128 {
        let terms = self.terms.as_ptr().cast::<f32>().wrapping_add(t * ROWS * Self::UNITS);
        let [mut terms, mut mins]: [[*const f32; ROWS]; 2] =
            [rows_from(terms, Self::UNITS), rows_from(self.mins.as_ptr().cast(), Self::UNITS)];
        // Rows that are not there have put nothing.
        for r in rows..ROWS {
            (terms[r], mins[r]) = (terms[0], mins[0]);
        }
        // SAFETY: promised by the caller; fours end at n or before it.
        unsafe {
            let mut step = |term, min, k: usize| {
                let scale = *d.add(k);
                sum = _mm_fmadd_ps(term, _mm_set1_ps(scale), sum);
                if MINS {
                    sum = _mm_fnmadd_ps(min, _mm_set1_ps(scale * f32::from(*own.add(k))), sum);
                }
            };
            let fours = n / 4 * 4;
            for k in (0..fours).step_by(4) {
                let term = columns(terms.map(|row| _mm_loadu_ps(row.add(k))));
                let min = if MINS { columns(mins.map(|row| _mm_loadu_ps(row.add(k)))) } else { term };
                for i in 0..4 {
                    step(term[i], min[i], k + i);
                }
            }
            for k in fours..n {
                let of = |rows: [*const f32; ROWS]| {
                    _mm_setr_ps(*rows[0].add(k), *rows[1].add(k), *rows[2].add(k), *rows[3].add(k))
                };
                let term = of(terms);
                step(term, if MINS { of(mins) } else { term }, k);
            }
        }
        sum
    }
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx2")]
fn columns(v: [__m128; 4]) -> [__m128; 4] {
    let (a, b) = (_mm_unpacklo_ps(v[0], v[1]), _mm_unpackhi_ps(v[0], v[1]));
    let (c, d) = (_mm_unpacklo_ps(v[2], v[3]), _mm_unpackhi_ps(v[2], v[3]));
    [_mm_movelh_ps(a, c), _mm_movehl_ps(c, a), _mm_movelh_ps(b, d), _mm_movehl_ps(d, b)]
}

/// The sum of all lanes of each of four registers.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn sums_of_four(v: [__m128i; 4]) -> __m128i {
    _mm_hadd_epi32(_mm_hadd_epi32(v[0], v[1]), _mm_hadd_epi32(v[2], v[3]))
}

/// The same of wider ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn sums_of_four_256(v: [__m256i; 4]) -> __m128i {
    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums))
}

/// Both halves added.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn folded(v: __m256i) -> __m128i {
    _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
}

/// Super-blocks whose numbers are kept until their terms are made.
pub(crate) const SUPER_UNITS: usize = 64;

/// What super-blocks of a row have come to, all integers.
pub(crate) struct SuperSums<const T: usize> {
    total: [MaybeUninit<[i32; SUPER_UNITS]>; T],
    below: [MaybeUninit<[i32; SUPER_UNITS]>; T],
    d: MaybeUninit<[f32; SUPER_UNITS]>,
    dmin: MaybeUninit<[f32; SUPER_UNITS]>,
}

impl<const T: usize> SuperSums<T> {
    pub(crate) fn new() -> Self {
        let (total, below) = ([MaybeUninit::uninit(); T], [MaybeUninit::uninit(); T]);
        Self { total, below, d: MaybeUninit::uninit(), dmin: MaybeUninit::uninit() }
    }

    /// Puts `d` and `dmin` of unit `k`, below [`SUPER_UNITS`].
    ///
    /// # Safety
    /// That bound.
    #[inline(always)]
    pub(crate) unsafe fn put_floats(&mut self, k: usize, [d, dmin]: [f32; 2]) {
        debug_assert!(k < SUPER_UNITS);
        // SAFETY: promised by the caller.
        unsafe {
            self.d.as_mut_ptr().cast::<f32>().add(k).write(d);
            self.dmin.as_mut_ptr().cast::<f32>().add(k).write(dmin);
        }
    }

    /// Puts sums of units `k..k + 4` of token `t`: of products, and of mins times the sums of codes.
    ///
    /// # Safety
    /// `k + 4` must be at most [`SUPER_UNITS`].
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(crate) unsafe fn put(&mut self, t: usize, k: usize, total: __m128i, below: __m128i) {
        debug_assert!(k + 4 <= SUPER_UNITS);
        // SAFETY: promised by the caller.
        unsafe {
            _mm_storeu_si128(self.total[t].as_mut_ptr().cast::<i32>().add(k).cast(), total);
            _mm_storeu_si128(self.below[t].as_mut_ptr().cast::<i32>().add(k).cast(), below);
        }
    }

    /// Makes the terms of `n` units: `total·d`, and with `MINS`, `− below·dmin`. Up to three behind them hold nothing of use.
    ///
    /// # Safety
    /// Numbers of that many units must have been put, and places be there for `n` rounded up to a multiple of four.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn terms<const MINS: bool>(&self, n: usize, terms: [*mut f32; T]) {
        for k in (0..n).step_by(4) {
            // SAFETY: promised by the caller; what was not put is not looked at, and there is room for whole fours.
            unsafe {
                let d = _mm_loadu_ps(self.d.as_ptr().cast::<f32>().add(k));
                for t in 0..T {
                    let at = |of: &MaybeUninit<[i32; SUPER_UNITS]>| {
                        _mm_cvtepi32_ps(_mm_loadu_si128(of.as_ptr().cast::<i32>().add(k).cast()))
                    };
                    let mut term = _mm_mul_ps(at(&self.total[t]), d);
                    if MINS {
                        let dmin = _mm_loadu_ps(self.dmin.as_ptr().cast::<f32>().add(k));
                        term = _mm_fnmadd_ps(at(&self.below[t]), dmin, term);
                    }
                    _mm_storeu_ps(terms[t].add(k), term);
                }
            }
        }
    }
}

/// Defines the product with one token and that with a few from what makes the terms of a row: `$row::<F, T>(row, acts, t0,
/// from, n, places)` puts those of units `from..from + n`, the first of which is at `row`, and of tokens `t0..t0 + T`.
macro_rules! products {
    ($features:literal, $format:ident, $unit:literal, $most:expr, $mins:expr, $row:ident, $one:ident, $few:ident) => {
        /// See [`crate::table::IntKernels::gemv`].
        ///
        /// # Safety
        /// Lengths as [`Gemv`] states them.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $one<F: $format>(a: &mut Gemv) {
            let (rows, row_bytes, out, out_stride) = (a.rows, a.row_bytes, a.out.as_mut_ptr(), a.out.len());
            let a = Few { rows, row_bytes, acts: a.acts, tokens: 1, piece: a.piece, out, out_stride };
            for (part, rows) in a.rows.chunks(ROWS * a.row_bytes).enumerate() {
                // SAFETY: the contract of this function.
                unsafe { products!(@group $unit, $most, $mins, $row, F, 1, &a, rows, ROWS * part, 0) };
            }
        }

        /// See [`crate::table::IntKernels::few`].
        ///
        /// # Safety
        /// Lengths as [`Few`] states them.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $few<F: $format>(a: &Few) {
            for (part, rows) in a.rows.chunks(ROWS * a.row_bytes).enumerate() {
                for t in (0..a.tokens).step_by(4) {
                    // SAFETY: there are that many tokens; the rest is the contract of this function.
                    unsafe {
                        match a.tokens - t {
                            1 => products!(@group $unit, $most, $mins, $row, F, 1, a, rows, ROWS * part, t),
                            2 => products!(@group $unit, $most, $mins, $row, F, 2, a, rows, ROWS * part, t),
                            3 => products!(@group $unit, $most, $mins, $row, F, 3, a, rows, ROWS * part, t),
                            _ => products!(@group $unit, $most, $mins, $row, F, 4, a, rows, ROWS * part, t),
                        }
                    }
                }
            }
        }
    };
    // At most `ROWS` rows, of which the first is number `r0`, times `T` tokens from number `t0` on.
    (@group $unit:literal, $most:expr, $mins:expr, $row:ident, $F:ident, $T:literal, $a:expr, $rows:expr, $r0:expr, $t0:expr) => {{
        let (a, rows, r0, t0): (&Few, &[u8], usize, usize) = ($a, $rows, $r0, $t0);
        let units = a.acts.depth / $unit;
        let (block_bytes, n_rows) = (a.row_bytes / units, rows.len() / a.row_bytes);
        let mut kept = Terms::<$T>::new();
        let mut sums = [_mm_setzero_ps(); $T];
        let mut from = 0;
        while from < units {
            let piece_end = units.min((from / a.piece + 1) * a.piece);
            let n = (piece_end - from).min(if $most < Terms::<$T>::UNITS { $most } else { Terms::<$T>::UNITS });
            for r in 0..n_rows {
                let row = rows.as_ptr().add(r * a.row_bytes + from * block_bytes);
                $row::<$F, $T>(row, &a.acts, t0, from, n, kept.places(r));
            }
            for t in 0..$T {
                let at = (t0 + t) * units + from;
                let own = if $mins { a.acts.sums32.as_ptr().add(at) } else { std::ptr::null() };
                let d = a.acts.d.as_ptr().add(at);
                sums[t] = if $mins {
                    kept.add::<true>(sums[t], t, n_rows, n, d, own)
                } else {
                    kept.add::<false>(sums[t], t, n_rows, n, d, own)
                };
            }
            from += n;
            if from == piece_end {
                for t in 0..$T {
                    let mut results = [0f32; ROWS];
                    _mm_storeu_ps(results.as_mut_ptr(), sums[t]);
                    sums[t] = _mm_setzero_ps();
                    let out = a.out.add((t0 + t) * a.out_stride + r0);
                    for (r, result) in results.into_iter().enumerate().take(n_rows) {
                        let out = out.add(r);
                        *out = if piece_end > a.piece { *out + result } else { result };
                    }
                }
            }
        }
    }};
}
pub(crate) use products;
