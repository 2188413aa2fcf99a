//! The kernels, generic over how products are added. All are `#[inline(always)]`, so that they are compiled with the
//! features of the table that calls them.

use std::arch::aarch64::*;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock};

use super::dot::Dot;
use crate::table::{Gemm, GemmF32, Gemv, Pack, RowsF32, rows_from};

/// Rows of a panel: two registers of 4 lanes.
pub(super) const MR: usize = 8;

/// Tokens of a tile: 8 registers of a group's sums and 8 of a super-block's.
pub(super) const NR: usize = 4;

const SUPER_CODES: usize = 256 * MR;
const BLOCK_CODES: usize = 32 * MR;

/// Bytes of one super-block of a panel whose scales belong to groups of `group` weights.
pub(super) const fn super_bytes(group: usize) -> usize {
    SUPER_CODES + 256 / group * 2 * 4 * MR + 2 * 4 * MR
}

/// Bytes of one block of a panel.
pub(super) const BLOCK_BYTES: usize = BLOCK_CODES + 2 * 4 * MR;

/// Runs a tile over all tokens, 4 at a time.
macro_rules! over_tokens {
    ($tokens:expr, $tile:ident[$($F:ty),*], $a:expr) => {{
        let tokens = $tokens;
        let mut t = 0;
        while t < tokens {
            let n = (tokens - t).min(body::NR);
            // SAFETY: tokens `t..t + n` exist; the rest is the contract of the calling function.
            unsafe {
                match n {
                    1 => body::$tile::<$($F,)* 1>($a, t),
                    2 => body::$tile::<$($F,)* 2>($a, t),
                    3 => body::$tile::<$($F,)* 3>($a, t),
                    _ => body::$tile::<$($F,)* 4>($a, t),
                }
            }
            t += n;
        }
    }};
}
pub(super) use over_tokens;

/// Writes steps of one row into a panel.
#[inline(always)]
fn interleave<D: Dot>(codes: &[u8], r: usize, panel: &mut [u8]) {
    for (step, codes) in panel.chunks_exact_mut(D::STEP * MR).zip(codes.chunks_exact(D::STEP)) {
        step[D::STEP * r..D::STEP * (r + 1)].copy_from_slice(codes);
    }
}

/// See [`crate::table::IntKernels::pack`].
#[inline(always)]
pub(super) fn pack_super<F: Unpack<Unit = SuperBlock>, D: Dot>(a: &mut Pack) {
    let groups = 256 / F::GROUP;
    let per = F::GROUP / 16;
    for (i, panel) in a.panel.chunks_exact_mut(super_bytes(F::GROUP)).take(a.units).enumerate() {
        let (codes, rest) = panel.split_at_mut(SUPER_CODES);
        let (scales, rest) = rest.split_at_mut(groups * 4 * MR);
        let (mins, floats) = rest.split_at_mut(groups * 4 * MR);
        for r in 0..MR {
            let mut unit = SuperBlock::default();
            if r < a.n_rows {
                let at = r * a.row_bytes + i * F::BLOCK_BYTES;
                F::unpack(&a.rows[at..at + F::BLOCK_BYTES], &mut unit);
            }
            interleave::<D>(&unit.codes, r, codes);
            for g in 0..groups {
                let at = 4 * (g * MR + r);
                scales[at..at + 4].copy_from_slice(&i32::from(unit.scales[g * per]).to_le_bytes());
                mins[at..at + 4].copy_from_slice(&i32::from(unit.mins[g * per]).to_le_bytes());
            }
            floats[4 * r..4 * r + 4].copy_from_slice(&unit.d.to_le_bytes());
            floats[4 * (MR + r)..4 * (MR + r) + 4].copy_from_slice(&unit.dmin.to_le_bytes());
        }
    }
}

/// See [`crate::table::IntKernels::pack`].
#[inline(always)]
pub(super) fn pack_block<F: Unpack<Unit = Block32>, D: Dot>(a: &mut Pack) {
    for (i, panel) in a.panel.chunks_exact_mut(BLOCK_BYTES).take(a.units).enumerate() {
        let (codes, floats) = panel.split_at_mut(BLOCK_CODES);
        for r in 0..MR {
            let mut unit = Block32::default();
            if r < a.n_rows {
                let at = r * a.row_bytes + i * F::BLOCK_BYTES;
                F::unpack(&a.rows[at..at + F::BLOCK_BYTES], &mut unit);
            }
            interleave::<D>(&unit.codes, r, codes);
            floats[4 * r..4 * r + 4].copy_from_slice(&unit.d.to_le_bytes());
            floats[4 * (MR + r)..4 * (MR + r) + 4].copy_from_slice(&unit.min.to_le_bytes());
        }
    }
}

/// Stores or adds the lanes of `v`, of which `n` exist.
///
/// # Safety
/// `out` must be valid for `n` floats.
#[inline(always)]
unsafe fn store<const V: usize>(out: *mut f32, n: usize, v: [float32x4_t; V], accumulate: bool) {
    for (i, v) in v.into_iter().enumerate() {
        let left = n.saturating_sub(4 * i);
        // SAFETY: at most `n` floats are written, from an array of 4.
        unsafe {
            if left >= 4 {
                let out = out.add(4 * i);
                vst1q_f32(out, if accumulate { vaddq_f32(vld1q_f32(out), v) } else { v });
            } else {
                let mut lanes = [0f32; 4];
                vst1q_f32(lanes.as_mut_ptr(), v);
                for (l, lane) in lanes.iter().enumerate().take(left) {
                    let out = out.add(4 * i + l);
                    *out = if accumulate { *out + lane } else { *lane };
                }
            }
        }
    }
}

/// `N` tokens from `t` of a panel of super-blocks. 32-bit sums stay below 63·127·256·128 < 2²⁸, those of the mins below
/// 4096·2032·16 < 2²⁸.
///
/// # Safety
/// The panel must come from [`pack_super::<F, D>`](pack_super); lengths as [`Gemm`] states them; tokens `t..t + N` must exist; the CPU must
/// have the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn tile_super<F: Unpack<Unit = SuperBlock>, D: Dot, const N: usize>(a: &Gemm, t: usize) {
    let groups = 256 / F::GROUP;
    let depth = a.acts.depth;
    let sums: &[i16] = if F::GROUP == 32 { a.acts.sums32 } else { a.acts.sums16 };
    // SAFETY: the panel holds `units` super-blocks; the tokens hold `depth` codes, `depth / GROUP` sums and
    // `depth / 256` scales each, of which a unit is number `unit0 + u`; the result has `n_rows` values per token.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 2]; N];
        for u in 0..a.units {
            let panel = a.panel.as_ptr().add(u * super_bytes(F::GROUP)).cast::<i8>();
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 256 * unit), depth);
            let s: [*const i16; N] =
                rows_from(sums.as_ptr().add(t * (depth / F::GROUP) + groups * unit), depth / F::GROUP);
            let scales = panel.add(SUPER_CODES).cast::<i32>();
            let mins = scales.add(groups * MR);
            let mut total = D::zero::<N>();
            for g in 0..groups {
                let sum = D::sums(panel.add(g * F::GROUP * MR), y.map(|y| y.add(g * F::GROUP)), F::GROUP);
                total = D::scaled(total, sum, scales.add(g * MR));
            }
            let total = D::rows(total);
            let mut below = [[vdupq_n_s32(0); 2]; N];
            for g in 0..groups {
                for h in 0..2 {
                    let min = vld1q_s32(mins.add(g * MR + 4 * h));
                    for c in 0..N {
                        below[c][h] = vmlaq_n_s32(below[c][h], min, i32::from(*s[c].add(g)));
                    }
                }
            }
            let floats = mins.add(groups * MR).cast::<f32>();
            for h in 0..2 {
                let (d, dmin) = (vld1q_f32(floats.add(4 * h)), vld1q_f32(floats.add(MR + 4 * h)));
                for c in 0..N {
                    let dy = *a.acts.d.as_ptr().add((t + c) * (depth / 256) + unit);
                    acc[c][h] = vfmaq_f32(acc[c][h], vcvtq_f32_s32(total[c][h]), vmulq_n_f32(d, dy));
                    acc[c][h] = vfmsq_f32(acc[c][h], vcvtq_f32_s32(below[c][h]), vmulq_n_f32(dmin, dy));
                }
            }
        }
        for (c, acc) in acc.into_iter().enumerate() {
            store(a.out.add((t + c) * a.out_stride), a.n_rows, acc, a.accumulate);
        }
    }
}

/// `N` tokens from `t` of a panel of blocks. A sum of 32 products is at most 128·127·32 < 2²⁰.
///
/// # Safety
/// The panel must come from [`pack_block::<F, D>`](pack_block); the rest as [`tile_super`].
#[inline(always)]
pub(super) unsafe fn tile_block<F: Unpack<Unit = Block32>, D: Dot, const N: usize>(a: &Gemm, t: usize) {
    let depth = a.acts.depth;
    // SAFETY: the panel holds `units` blocks; the tokens hold `depth` codes, `depth / 32` sums and scales each, of
    // which a unit is number `unit0 + u`; the result has `n_rows` values per token.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 2]; N];
        for u in 0..a.units {
            let panel = a.panel.as_ptr().add(u * BLOCK_BYTES).cast::<i8>();
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 32 * unit), depth);
            let sum = D::rows(D::sums(panel, y, 32));
            let floats = panel.add(BLOCK_CODES).cast::<f32>();
            for h in 0..2 {
                let (d, min) = (vld1q_f32(floats.add(4 * h)), vld1q_f32(floats.add(MR + 4 * h)));
                for c in 0..N {
                    let at = (t + c) * (depth / 32) + unit;
                    let dy = *a.acts.d.as_ptr().add(at);
                    let below = dy * f32::from(*a.acts.sums32.as_ptr().add(at));
                    acc[c][h] = vfmaq_f32(acc[c][h], vcvtq_f32_s32(sum[c][h]), vmulq_n_f32(d, dy));
                    if !F::SIGNED {
                        acc[c][h] = vfmsq_f32(acc[c][h], min, vdupq_n_f32(below));
                    }
                }
            }
        }
        for (c, acc) in acc.into_iter().enumerate() {
            store(a.out.add((t + c) * a.out_stride), a.n_rows, acc, a.accumulate);
        }
    }
}

/// `N` columns from `first` of a panel of f32 weights.
///
/// # Safety
/// Pointers valid for the sizes that [`GemmF32`] states; columns `first..first + N` must exist.
#[inline(always)]
pub(super) unsafe fn tile_f32<const N: usize>(a: &GemmF32, first: usize) {
    // SAFETY: the panel has `depth` steps of 16 lanes, `x` rows of `depth` values, the result `n_rows` lanes.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 4]; N];
        let x: [*const f32; N] = rows_from(a.x.add(first * a.x_stride), a.x_stride);
        for k in 0..a.depth {
            let w = a.panel.add(k * a.panel_stride);
            let w = [vld1q_f32(w), vld1q_f32(w.add(4)), vld1q_f32(w.add(8)), vld1q_f32(w.add(12))];
            for c in 0..N {
                let x = *x[c].add(k);
                for h in 0..4 {
                    acc[c][h] = vfmaq_n_f32(acc[c][h], w[h], x);
                }
            }
        }
        for (c, acc) in acc.into_iter().enumerate() {
            store(a.out.add((first + c) * a.out_stride), a.n_rows, acc, a.accumulate);
        }
    }
}

/// See [`crate::table::KernelTable::rows_f32`].
///
/// # Safety
/// Lengths as [`RowsF32`] states them, of rows of f32.
#[inline(always)]
pub(super) unsafe fn rows_f32(a: &RowsF32) {
    let n = a.rows.len() / a.row_bytes;
    for t in (0..a.tokens).step_by(4) {
        // Sixteen sums at once, so that none has to wait for itself; with one token eight.
        let step = if a.tokens - t == 1 { 8 } else { 4 };
        for r in (0..n).step_by(step) {
            // SAFETY: rows and tokens from here on exist as far as they are asked for.
            unsafe {
                match (n - r >= step, a.tokens - t) {
                    (true, 1) => rows_tile::<8, 1>(a, r, t),
                    (true, 2) => rows_tile::<4, 2>(a, r, t),
                    (true, 3) => rows_tile::<4, 3>(a, r, t),
                    (true, _) => rows_tile::<4, 4>(a, r, t),
                    (false, left) => {
                        for (r, t) in (r..n).flat_map(|r| (t..t + left.min(4)).map(move |t| (r, t))) {
                            rows_tile::<1, 1>(a, r, t);
                        }
                    }
                }
            }
        }
    }
}

/// `R` rows from `r` on and `T` tokens from `t` on, a sum for each pair. The bits of a result depend neither on `R` nor on `T`.
///
/// # Safety
/// As [`rows_f32`]; those rows and tokens must exist.
#[inline(always)]
unsafe fn rows_tile<const R: usize, const T: usize>(a: &RowsF32, r: usize, t: usize) {
    let rows: [*const u8; R] = rows_from(a.rows[r * a.row_bytes..].as_ptr(), a.row_bytes);
    let x: [*const f32; T] = rows_from(a.x.wrapping_add(t * a.x_stride), a.x_stride);
    let whole = a.cols / 4 * 4;
    // SAFETY: whole fours end at `whole`, the rest at `cols`; loads need no alignment.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); T]; R];
        for k in (0..whole).step_by(4) {
            let mut at_x = [vdupq_n_f32(0.0); T];
            for c in 0..T {
                at_x[c] = vld1q_f32(x[c].add(k));
            }
            for l in 0..R {
                let w = vreinterpretq_f32_u8(vld1q_u8(rows[l].add(4 * k)));
                for c in 0..T {
                    acc[l][c] = vfmaq_f32(acc[l][c], w, at_x[c]);
                }
            }
        }
        for l in 0..R {
            for c in 0..T {
                let mut sum = vaddvq_f32(acc[l][c]);
                for k in whole..a.cols {
                    sum = rows[l].add(4 * k).cast::<f32>().read_unaligned().mul_add(*x[c].add(k), sum);
                }
                a.put(r + l, t + c, sum);
            }
        }
    }
}

/// One row: the sums of as many units as a panel holds, one piece after the other, as a tile adds them. `unit` adds number `k`,
/// which it is given, to the sum so far.
#[inline(always)]
pub(super) fn in_pieces(units: usize, piece: usize, out: &mut f32, mut unit: impl FnMut(usize, f32) -> f32) {
    for from in (0..units).step_by(piece) {
        let mut sum = 0.0;
        for k in from..units.min(from + piece) {
            sum = unit(k, sum);
        }
        *out = if from == 0 { sum } else { *out + sum };
    }
}

/// One token times rows of super-blocks; bounds as in [`tile_super`], and sums in the same order, to the bit.
///
/// # Safety
/// Lengths as [`Gemv`] states them; the CPU must have the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn gemv_super<F: Unpack<Unit = SuperBlock>, D: Dot>(a: &mut Gemv) {
    let mut w = SuperBlock::default();
    for (out, row) in a.out.iter_mut().zip(a.rows.chunks_exact(a.row_bytes)) {
        in_pieces(a.acts.d.len(), a.piece, out, |k, sum| {
            let (y, sums, dy) = (&a.acts.q[256 * k..256 * k + 256], &a.acts.sums16[16 * k..16 * k + 16], a.acts.d[k]);
            F::unpack(&row[k * F::BLOCK_BYTES..(k + 1) * F::BLOCK_BYTES], &mut w);
            // SAFETY: 256 codes, 16 mins and 16 sums, all inside the arrays; the caller promises the instructions.
            let (total, below) = unsafe {
                let zero = vdupq_n_s32(0);
                let mut total = zero;
                for g in 0..16 {
                    let codes = vld1q_s8(w.codes.as_ptr().add(16 * g).cast());
                    let sum = D::dot(zero, codes, vld1q_s8(y.as_ptr().add(16 * g)));
                    total = vmlaq_n_s32(total, sum, i32::from(w.scales[g]));
                }
                let mut below = zero;
                for q in 0..4 {
                    below = vmlal_s16(below, vld1_s16(w.mins.as_ptr().add(4 * q)), vld1_s16(sums.as_ptr().add(4 * q)));
                }
                (vaddvq_s32(total), vaddvq_s32(below))
            };
            let sum = (total as f32).mul_add(w.d * dy, sum);
            (-(below as f32)).mul_add(w.dmin * dy, sum)
        });
    }
}

/// One token times rows of blocks; bounds as in [`tile_block`].
///
/// # Safety
/// As [`gemv_super`].
#[inline(always)]
pub(super) unsafe fn gemv_block<F: Unpack<Unit = Block32>, D: Dot>(a: &mut Gemv) {
    let mut w = Block32::default();
    for (out, row) in a.out.iter_mut().zip(a.rows.chunks_exact(a.row_bytes)) {
        in_pieces(a.acts.d.len(), a.piece, out, |k, sum| {
            let (y, s, dy) = (&a.acts.q[32 * k..32 * k + 32], a.acts.sums32[k], a.acts.d[k]);
            F::unpack(&row[k * F::BLOCK_BYTES..(k + 1) * F::BLOCK_BYTES], &mut w);
            // SAFETY: 32 codes on both sides; the caller promises the instructions.
            let total = unsafe {
                let codes: *const i8 = w.codes.as_ptr().cast();
                let sum = D::dot(vdupq_n_s32(0), vld1q_s8(codes), vld1q_s8(y.as_ptr()));
                vaddvq_s32(D::dot(sum, vld1q_s8(codes.add(16)), vld1q_s8(y.as_ptr().add(16))))
            };
            let sum = (total as f32).mul_add(w.d * dy, sum);
            if F::SIGNED { sum } else { (-w.min).mul_add(dy * f32::from(s), sum) }
        });
    }
}
