//! Rows of activations on their way into a buffer, several threads at once.

use std::ops::Range;

use super::{ActBuf, ActNeeds, Codes};
use crate::fixed::{self, FixedKernels, UNIT};
use crate::matmul::{FEW_TOKENS, OutPtr};
use crate::pool::Pool;
use crate::select::Kernels;
use crate::table::{KernelTable, RAISED16, RAISED32, Reach};

/// Values of a row that can be taken by themselves: no form has longer units.
const PIECE: usize = UNIT;

/// Writes each half of a super-block's codes as its runs of 32 in the order 0, 2, 1, 3.
fn cross(q: &[i8], crossed: &mut [i8]) {
    for (q, crossed) in q.as_chunks::<128>().0.iter().zip(crossed.as_chunks_mut::<128>().0) {
        crossed[..32].copy_from_slice(&q[..32]);
        crossed[32..64].copy_from_slice(&q[64..96]);
        crossed[64..96].copy_from_slice(&q[32..64]);
        crossed[96..].copy_from_slice(&q[96..]);
    }
}

/// A buffer that has room for its rows, and the forms they are wanted in.
pub(super) struct Rows<'a> {
    table: &'static KernelTable,
    tokens: usize,
    depth: usize,
    needs: ActNeeds,
    f32: Option<OutPtr>,
    fixed: Option<(FixedKernels, OutPtr<i16>, OutPtr)>,
    q8k: CodesPtr,
    q8b: CodesPtr,
    _buf: std::marker::PhantomData<&'a mut ActBuf>,
}

impl<'a> Rows<'a> {
    /// Of a buffer that was resized for `needs`.
    pub(super) fn of(buf: &'a mut ActBuf, kernels: Kernels, needs: ActNeeds) -> Self {
        let (codes, factors) = (OutPtr(buf.fixed.q.as_mut_ptr()), OutPtr(buf.fixed.factors.as_mut_ptr()));
        Self {
            table: kernels.table,
            tokens: buf.tokens,
            depth: buf.depth,
            needs,
            f32: buf.filled.0.then_some(OutPtr(buf.f32.as_mut_ptr())),
            fixed: kernels.table.fixed.filter(|_| buf.filled.1).map(|fixed| (fixed, codes, factors)),
            q8k: CodesPtr::new(&mut buf.q8k),
            q8b: CodesPtr::new(&mut buf.q8b),
            _buf: std::marker::PhantomData,
        }
    }

    /// Takes in the rows `range` that `row` returns, at most as long as the buffer's; zeros follow. `row` is called once for
    /// each.
    pub(super) fn over<'r>(&self, pool: &Pool, range: Range<usize>, row: impl Fn(usize) -> Option<&'r [f32]> + Sync) {
        debug_assert!(range.end <= self.tokens);
        let n = range.len();
        if self.depth == 0 {
            return;
        }
        // Several rows per turn when there are many, so that threads do not meet on the counter for every row.
        let per = n.div_ceil(pool.threads() * 4).max(1);
        pool.for_each(n.div_ceil(per), |item, _| {
            for t in range.start + item * per..range.end.min(range.start + (item + 1) * per) {
                let Some(row) = row(t) else { continue };
                let whole = if row.len() == self.depth { self.depth } else { row.len() / PIECE * PIECE };
                let (values, rest) = row.split_at(whole);
                // SAFETY: a token of the buffer, taken by this turn alone; pieces follow each other.
                unsafe { self.take(t, 0, values) };
                for from in (whole..self.depth).step_by(PIECE) {
                    let mut piece = [0f32; PIECE];
                    let values = rest.get(from - whole..).unwrap_or_default();
                    piece[..values.len()].copy_from_slice(values);
                    // SAFETY: as above.
                    unsafe { self.take(t, from, &piece[..PIECE.min(self.depth - from)]) };
                }
            }
        });
    }

    /// Takes in `values` of row `t` from value `from` on, a multiple of [`PIECE`]. They are whole units of every form, or end
    /// the row.
    ///
    /// # Safety
    /// The buffer must have those values of such a row, and nobody else may access them.
    unsafe fn take(&self, t: usize, from: usize, values: &[f32]) {
        let (n, ends) = (values.len(), from + values.len() == self.depth);
        if n == 0 {
            return;
        }
        let table = self.table;
        if let Some(f32) = self.f32 {
            // SAFETY: promised by the caller.
            unsafe { f32.get().add(t * self.depth + from).copy_from_nonoverlapping(values.as_ptr(), n) };
        }
        if let Some((fixed, codes, factors)) = &self.fixed {
            let (stride, units) = (fixed::even(self.depth), fixed::units(self.depth));
            // SAFETY: promised by the caller; a row has `stride` codes, of which the last may lie behind its values. The
            // table's features were detected.
            unsafe {
                let n_codes = if ends { stride - from } else { n };
                let q = std::slice::from_raw_parts_mut(codes.get().add(t * stride + from), n_codes);
                let factors = factors.get().add(t * units + from / UNIT);
                let factors = std::slice::from_raw_parts_mut(factors, fixed::units(n));
                (fixed.row)(values, fixed::ROW_NORM, &mut q[..n], factors);
                q[n..].fill(0);
            }
        }
        if self.needs.q8k {
            // SAFETY: promised by the caller; 256 divides rows, which was checked. The table's features were detected.
            unsafe {
                let (q, d, s16, s32) = self.q8k.piece(t * self.depth + from, n, 256);
                (table.quantize_q8k)(values, q, d, s16, s32);
                for (begin, sum) in self.q8k.begin(t * self.depth + from, n, 16).iter_mut().zip(s16) {
                    *begin = -RAISED16 * i32::from(*sum);
                }
                if let Some(reach) = table.reach.filter(|_| self.q8k.has_reach) {
                    reach(q, self.q8k.reach(t * self.depth + from, n));
                }
                if self.tokens <= FEW_TOKENS {
                    cross(q, self.q8k.crossed(t * self.depth + from, n));
                }
            }
        }
        if self.needs.q8b {
            // SAFETY: as above, with 32, or 64 in pairs.
            unsafe {
                let at = t * self.depth + from;
                let (q, d, _, s32) = self.q8b.piece(at, n, 32);
                (table.quantize_q8b)(values, q, d, s32, self.needs.pairs);
                if self.q8b.has_wide {
                    for (wide, q) in self.q8b.wide(at, n).iter_mut().zip(q) {
                        *wide = i16::from(*q);
                    }
                }
                for (begin, sum) in self.q8b.begin(at, n, 32).iter_mut().zip(s32.iter()) {
                    *begin = -RAISED32 * i32::from(*sum);
                }
                if self.needs.pairs {
                    for (begin, sums) in self.q8b.begin_pairs(at, n).iter_mut().zip(s32.as_chunks::<2>().0) {
                        *begin = -RAISED32 * (i32::from(sums[0]) + i32::from(sums[1]));
                    }
                }
            }
        }
    }
}

/// Where rows of codes are written from several threads.
struct CodesPtr {
    q: *mut i8,
    crossed: *mut i8,
    q16: *mut i16,
    has_wide: bool,
    d: *mut f32,
    sums16: *mut i16,
    has16: bool,
    sums32: *mut i16,
    begin: *mut i32,
    begin_pairs: *mut i32,
    reach: *mut Reach,
    has_reach: bool,
}

// SAFETY: threads write disjoint rows, see `piece`.
unsafe impl Sync for CodesPtr {}

/// Places of the values from number `at` on, `n` of them, whole units.
///
/// # Safety
/// For all functions: the buffers must hold those values, and no other reference to them may exist.
#[expect(clippy::mut_from_ref, reason = "pieces are disjoint, which the caller promises")]
impl CodesPtr {
    fn new(codes: &mut Codes) -> Self {
        Self {
            q: codes.q.as_mut_ptr(),
            crossed: codes.crossed.as_mut_ptr(),
            q16: codes.q16.as_mut_ptr(),
            has_wide: !codes.q16.is_empty(),
            d: codes.d.as_mut_ptr(),
            sums16: codes.sums16.as_mut_ptr(),
            has16: !codes.sums16.is_empty(),
            sums32: codes.sums32.as_mut_ptr(),
            begin: codes.begin.as_mut_ptr(),
            begin_pairs: codes.begin_pairs.as_mut_ptr(),
            reach: codes.reach.as_mut_ptr(),
            has_reach: !codes.reach.is_empty(),
        }
    }

    /// Wide codes; the buffer of those must be there.
    ///
    /// # Safety
    /// See above.
    unsafe fn wide(&self, at: usize, n: usize) -> &mut [i16] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.q16.add(at), n) }
    }

    /// Codes in the other order; tokens must be few.
    ///
    /// # Safety
    /// See above.
    unsafe fn crossed(&self, at: usize, n: usize) -> &mut [i8] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.crossed.add(at), n) }
    }

    /// Beginnings, one for every `of` values.
    ///
    /// # Safety
    /// See above.
    unsafe fn begin(&self, at: usize, n: usize, of: usize) -> &mut [i32] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.begin.add(at / of), n / of) }
    }

    /// Beginnings of pairs.
    ///
    /// # Safety
    /// See above.
    unsafe fn begin_pairs(&self, at: usize, n: usize) -> &mut [i32] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.begin_pairs.add(at / 64), n / 64) }
    }

    /// What units of 256 reach; there must be room for that.
    ///
    /// # Safety
    /// See above.
    unsafe fn reach(&self, at: usize, n: usize) -> &mut [Reach] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.reach.add(at / 256), n / 256) }
    }

    /// Codes, scales, sums of 16 and of 32.
    ///
    /// # Safety
    /// See above.
    unsafe fn piece(&self, at: usize, n: usize, unit: usize) -> (&mut [i8], &mut [f32], &mut [i16], &mut [i16]) {
        use std::slice::from_raw_parts_mut as slice;
        let (at16, n16) = if self.has16 { (at / 16, n / 16) } else { (0, 0) };
        // SAFETY: promised by the caller.
        unsafe {
            (
                slice(self.q.add(at), n),
                slice(self.d.add(at / unit), n / unit),
                slice(self.sums16.add(at16), n16),
                slice(self.sums32.add(at / 32), n / 32),
            )
        }
    }
}
