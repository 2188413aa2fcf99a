//! The last step of products straight from stored blocks: what the units of a row come to, added up in the order of depth.
//!
//! A panel has a row in every lane and adds one unit after the other. A row by itself has neighbours of the depth in its lanes,
//! and would add them up in another order. So every unit becomes one number here, from sums of integers, which are exact in
//! any order; and those are then added as a panel does it, to the bit: `sum = fma(term, scale, sum)`, and where a format has
//! mins of its own, `sum = fma(-min, scale·codes, sum)`.
//!
//! With several tokens, those are the lanes, and what they have for each unit is put side by side first ([`Beside`]). With one,
//! the terms of [`ROWS`] rows are kept and then added, rows in lanes ([`Terms`]): a row alone would wait for every sum, where
//! units are short.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use crate::table::{Acts, rows_from};

/// Rows that are added up together, and tokens.
pub(crate) const ROWS: usize = 4;

/// Units of a row that are kept at a time.
pub(crate) const UNITS: usize = 1024;

/// Terms of [`ROWS`] rows and one token, and mins of the rows.
pub(crate) struct Terms {
    terms: MaybeUninit<[[f32; UNITS]; ROWS]>,
    mins: MaybeUninit<[[f32; UNITS]; ROWS]>,
}

/// Where one row puts them: the places of the first unit.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) terms: *mut f32,
    pub(crate) mins: *mut f32,
}

impl Places {
    /// Those of unit `k`.
    #[inline(always)]
    pub(crate) fn at(self, k: usize) -> Self {
        Self { terms: self.terms.wrapping_add(k), mins: self.mins.wrapping_add(k) }
    }
}

impl Terms {
    pub(crate) fn new() -> Self {
        Self { terms: MaybeUninit::uninit(), mins: MaybeUninit::uninit() }
    }

    /// Places of row `r`, room for [`UNITS`] each.
    #[inline(always)]
    pub(crate) fn places(&mut self, r: usize) -> Places {
        debug_assert!(r < ROWS);
        let [terms, mins] = [self.terms.as_mut_ptr(), self.mins.as_mut_ptr()];
        Places { terms: terms.cast::<f32>().wrapping_add(r * UNITS), mins: mins.cast::<f32>().wrapping_add(r * UNITS) }
    }

    /// `sum` and what `n` units add to it: a row in every lane; those from `rows` on hold nothing of use. `d` has
    /// scales and `own` sums of the token's codes, which only formats with `MINS` ask for.
    ///
    /// # Safety
    /// The first `rows` rows must have put `n` terms, with `MINS` as many mins; so many scales and sums must be readable.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn add<const MINS: bool>(
        &self,
        mut sum: __m128,
        rows: usize,
        n: usize,
        d: *const f32,
        own: *const i16,
    ) -> __m128 {
        let [mut terms, mut mins]: [[*const f32; ROWS]; 2] =
            [rows_from(self.terms.as_ptr().cast(), UNITS), rows_from(self.mins.as_ptr().cast(), UNITS)];
        // Rows that are not there have put nothing.
        for r in rows..ROWS {
            (terms[r], mins[r]) = (terms[0], mins[0]);
        }
        // SAFETY: the caller promises `n` values at each pointer; groups of four end at `n` or before it.
        unsafe {
            let fours = n / 4 * 4;
            for k in (0..fours).step_by(4) {
                let term = columns(four_at(terms, k));
                let min = if MINS { columns(four_at(mins, k)) } else { term };
                for i in 0..4 {
                    let scale = *d.add(k + i);
                    sum = _mm_fmadd_ps(term[i], _mm_set1_ps(scale), sum);
                    if MINS {
                        sum = _mm_fnmadd_ps(min[i], _mm_set1_ps(scale * f32::from(*own.add(k + i))), sum);
                    }
                }
            }
            for k in fours..n {
                let scale = *d.add(k);
                sum = _mm_fmadd_ps(one_at(terms, k), _mm_set1_ps(scale), sum);
                if MINS {
                    sum = _mm_fnmadd_ps(one_at(mins, k), _mm_set1_ps(scale * f32::from(*own.add(k))), sum);
                }
            }
        }
        sum
    }
}

/// Four numbers of each row from `k` on.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four_at(rows: [*const f32; 4], k: usize) -> [__m128; 4] {
    let mut v = [_mm_setzero_ps(); 4];
    for (v, row) in v.iter_mut().zip(rows) {
        // SAFETY: promised by the caller.
        *v = unsafe { _mm_loadu_ps(row.add(k)) };
    }
    v
}

/// Number `k` of each row.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn one_at(rows: [*const f32; 4], k: usize) -> __m128 {
    // SAFETY: promised by the caller.
    unsafe { _mm_setr_ps(*rows[0].add(k), *rows[1].add(k), *rows[2].add(k), *rows[3].add(k)) }
}

/// What up to four tokens have for units of depth, side by side.
pub(crate) struct Beside {
    /// Scales of codes.
    scales: MaybeUninit<[[f32; 4]; UNITS]>,
    /// Sums of codes times what weights are raised by, or times scales.
    own: MaybeUninit<[[i32; 4]; UNITS]>,
}

impl Beside {
    pub(crate) fn new() -> Self {
        Self { scales: MaybeUninit::uninit(), own: MaybeUninit::uninit() }
    }

    /// Takes units `from..from + n` of `tokens` tokens from number `t0` on; of blocks of 32 that are raised by `raised`, or have
    /// `mins`, what is taken off, too.
    ///
    /// # Safety
    /// Those tokens must exist, one at least and four at most; `n` is at most [`UNITS`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn take(
        &mut self,
        acts: &Acts<'_>,
        (t0, tokens): (usize, usize),
        (from, n): (usize, usize),
        raised: i32,
        mins: bool,
    ) {
        let units = acts.depth / acts.unit;
        let mut d: [*const f32; 4] = rows_from(acts.d.as_ptr().wrapping_add(t0 * units + from), units);
        let mut own: [*const i16; 4] = rows_from(acts.sums32.as_ptr().wrapping_add(t0 * units + from), units);
        // Lanes of tokens that are not there hold nothing of use.
        for t in tokens..4 {
            (d[t], own[t]) = (d[0], own[0]);
        }
        let (scales, taken) = (self.scales.as_mut_ptr().cast::<f32>(), self.own.as_mut_ptr().cast::<i32>());
        // SAFETY: the caller promises those units of those tokens, and that `n` fits the arrays; groups of four end at `n`
        // or before it.
        unsafe {
            let fours = n / 4 * 4;
            for k in (0..fours).step_by(4) {
                let d = columns(four_at(d, k));
                for i in 0..4 {
                    _mm_storeu_ps(scales.add(4 * (k + i)), d[i]);
                }
            }
            for k in fours..n {
                _mm_storeu_ps(scales.add(4 * k), one_at(d, k));
            }
            if raised == 0 && !mins {
                return;
            }
            for k in 0..n {
                let sums = _mm_setr_epi32(
                    (*own[0].add(k)).into(),
                    (*own[1].add(k)).into(),
                    (*own[2].add(k)).into(),
                    (*own[3].add(k)).into(),
                );
                let taken = taken.add(4 * k).cast::<__m128i>();
                if mins {
                    let scaled = _mm_mul_ps(_mm_loadu_ps(scales.add(4 * k)), _mm_cvtepi32_ps(sums));
                    _mm_storeu_si128(taken, _mm_castps_si128(scaled));
                } else {
                    _mm_storeu_si128(taken, _mm_mullo_epi32(sums, _mm_set1_epi32(raised)));
                }
            }
        }
    }

    /// Scales of unit `k`.
    ///
    /// # Safety
    /// It must have been taken.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(crate) unsafe fn scales(&self, k: usize) -> __m128 {
        debug_assert!(k < UNITS);
        // SAFETY: promised by the caller.
        unsafe { _mm_loadu_ps(self.scales.as_ptr().cast::<f32>().add(4 * k)) }
    }

    /// `sum` and what block `k` adds to it: sums of products, the block's scale, and its min where it has `MINS`.
    ///
    /// # Safety
    /// It must have been taken, with what is taken off where blocks are `RAISED` or have `MINS`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn add_block<const RAISED: bool, const MINS: bool>(
        &self,
        sum: __m128,
        k: usize,
        mut products: __m128i,
        scale: __m128,
        min: __m128,
    ) -> __m128 {
        debug_assert!(k < UNITS);
        // SAFETY: promised by the caller.
        unsafe {
            let taken = self.own.as_ptr().cast::<__m128i>().add(k);
            if RAISED {
                products = _mm_sub_epi32(products, _mm_loadu_si128(taken));
            }
            let sum = _mm_fmadd_ps(_mm_mul_ps(_mm_cvtepi32_ps(products), scale), self.scales(k), sum);
            if MINS { _mm_fnmadd_ps(min, _mm_castsi128_ps(_mm_loadu_si128(taken)), sum) } else { sum }
        }
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
    folded(_mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3])))
}

/// Both halves added.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn folded(v: __m256i) -> __m128i {
    _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
}

/// `total·d`, and where a format has mins of its own, `− below·dmin`: what super-blocks come to.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn super_terms<const MINS: bool>(total: __m128i, below: __m128i, d: __m128, dmin: __m128) -> __m128 {
    let term = _mm_mul_ps(_mm_cvtepi32_ps(total), d);
    if MINS { _mm_fnmadd_ps(_mm_cvtepi32_ps(below), dmin, term) } else { term }
}

/// Defines the product with one token and that with a few. `$one_row::<F>(row, acts, from, n, places)` puts the terms of units
/// `from..from + n`, the first of which is at `row`, of the first token; `$few_row::<F, T>(row, acts, t0, from, n, beside)` adds
/// up what those units of tokens `t0..t0 + T` come to. Where a format is `$raised` or has `$mins`, blocks take that off.
macro_rules! products {
    (
        $features:literal, $format:ident, $unit:literal, $raised:expr, $mins:expr,
        $one_row:ident, $few_row:ident, $one:ident, $few:ident
    ) => {
        /// See [`crate::table::IntKernels::gemv`].
        ///
        /// # Safety
        /// Lengths as [`Gemv`] states them.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $one<F: $format>(a: &mut Gemv) {
            let units = a.acts.depth / $unit;
            let mut kept = Terms::new();
            for (rows, out) in a.rows.chunks(ROWS * a.row_bytes).zip(a.out.chunks_mut(ROWS)) {
                let mut sum = _mm_setzero_ps();
                let mut from = 0;
                while from < units {
                    let piece_end = units.min((from / a.piece + 1) * a.piece);
                    let n = UNITS.min(piece_end - from);
                    // SAFETY: the contract of this function: rows of `units` units, codes and scales of as many.
                    unsafe {
                        for r in 0..out.len() {
                            let row = rows[r * a.row_bytes..].as_ptr().add(from * F::BLOCK_BYTES);
                            $one_row::<F>(row, &a.acts, from, n, kept.places(r));
                        }
                        let (d, own) = (a.acts.d.as_ptr().add(from), a.acts.sums32.as_ptr().wrapping_add(from));
                        sum = if $mins {
                            kept.add::<true>(sum, out.len(), n, d, own)
                        } else {
                            kept.add::<false>(sum, out.len(), n, d, own)
                        };
                    }
                    from += n;
                    if from == piece_end {
                        let mut results = [0f32; ROWS];
                        // SAFETY: four places.
                        unsafe { _mm_storeu_ps(results.as_mut_ptr(), sum) };
                        for (out, result) in out.iter_mut().zip(results) {
                            *out = if piece_end > a.piece { *out + result } else { result };
                        }
                        sum = _mm_setzero_ps();
                    }
                }
            }
        }

        /// See [`crate::table::IntKernels::few`].
        ///
        /// # Safety
        /// Lengths as [`Few`] states them.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $few<F: $format>(a: &Few) {
            let units = a.acts.depth / $unit;
            // No panel has more.
            let piece = a.piece.min(UNITS);
            debug_assert!(piece == a.piece || units <= piece);
            let mut beside = Beside::new();
            for t0 in (0..a.tokens).step_by(4) {
                let tokens = 4.min(a.tokens - t0);
                for from in (0..units).step_by(piece) {
                    let n = piece.min(units - from);
                    // SAFETY: the contract of this function: rows of `units` units, and tokens that have as many.
                    unsafe {
                        beside.take(&a.acts, (t0, tokens), (from, n), $raised, $mins);
                        for (r, row) in a.rows.chunks_exact(a.row_bytes).enumerate() {
                            let row = row.as_ptr().add(from * F::BLOCK_BYTES);
                            let sum = match tokens {
                                1 => $few_row::<F, 1>(row, &a.acts, t0, from, n, &beside),
                                2 => $few_row::<F, 2>(row, &a.acts, t0, from, n, &beside),
                                3 => $few_row::<F, 3>(row, &a.acts, t0, from, n, &beside),
                                _ => $few_row::<F, 4>(row, &a.acts, t0, from, n, &beside),
                            };
                            let mut results = [0f32; 4];
                            _mm_storeu_ps(results.as_mut_ptr(), sum);
                            for (t, result) in results.into_iter().enumerate().take(tokens) {
                                let out = a.out.add((t0 + t) * a.out_stride + r);
                                *out = if from > 0 { *out + result } else { result };
                            }
                        }
                    }
                }
            }
        }
    };
}
pub(crate) use products;
