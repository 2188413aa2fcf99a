//! Products, one weight after the other.
//!
//! A panel is the array of unpacked units, `[unit][row]`.

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock, Unit};

use super::MR;
use crate::fixed::{Panel16, UNIT};
use crate::table::{Acts, F32_LANES, Gemm, GemmF32, Gemv, Pack, RowsF32};

/// One super-block times 256 activation codes.
///
/// Integer ranges: a group of 16 is at most 63·127·16 < 2¹⁷, times a scale of at most 128 and 16 groups < 2²⁹; the
/// mins are at most 4096·2032·16 < 2²⁸.
fn dot_super(w: &SuperBlock, q: &[i8], sums16: &[i16], d: f32) -> f32 {
    let (mut products, mut mins) = (0i32, 0i32);
    let groups = w.codes.as_chunks::<16>().0.iter().zip(q.as_chunks::<16>().0);
    for (g, (codes, q)) in groups.enumerate() {
        let sum: i32 = codes.iter().zip(q).map(|(c, q)| i32::from(*c) * i32::from(*q)).sum();
        products += i32::from(w.scales[g]) * sum;
        mins += i32::from(w.mins[g]) * i32::from(sums16[g]);
    }
    w.d * d * products as f32 - w.dmin * d * mins as f32
}

/// One block of 32 times 32 activation codes; the sum is at most 255·127·32 < 2²⁰.
fn dot_block(w: &Block32, signed: bool, q: &[i8], sum: i16, d: f32) -> f32 {
    let mut products = 0i32;
    for (c, q) in w.codes.iter().zip(q) {
        let c = if signed { i32::from(*c as i8) } else { i32::from(*c) };
        products += c * i32::from(*q);
    }
    w.d * d * products as f32 - w.min * d * f32::from(sum)
}

/// See [`crate::table::IntKernels::gemv`].
///
/// # Safety
/// None beyond the lengths that [`Gemv`] states; a shorter slice panics.
pub(super) unsafe fn gemv_super<F: Unpack<Unit = SuperBlock>>(a: &mut Gemv) {
    let mut unit = SuperBlock::default();
    for (out, row) in a.out.iter_mut().zip(a.rows.chunks_exact(a.row_bytes)) {
        let mut blocks = row.chunks_exact(F::BLOCK_BYTES).enumerate();
        for piece in 0..blocks.len().div_ceil(a.piece) {
            let terms = blocks.by_ref().take(a.piece).map(|(i, block)| {
                F::unpack(block, &mut unit);
                super_at(&a.acts, 0, i, &unit)
            });
            let sum: f32 = terms.sum();
            *out = if piece == 0 { sum } else { *out + sum };
        }
    }
}

/// See [`crate::table::IntKernels::gemv`].
///
/// # Safety
/// As [`gemv_super`].
pub(super) unsafe fn gemv_block<F: Unpack<Unit = Block32>>(a: &mut Gemv) {
    let mut unit = Block32::default();
    for (out, row) in a.out.iter_mut().zip(a.rows.chunks_exact(a.row_bytes)) {
        let mut blocks = row.chunks_exact(F::BLOCK_BYTES).enumerate();
        for piece in 0..blocks.len().div_ceil(a.piece) {
            let terms = blocks.by_ref().take(a.piece).map(|(i, block)| {
                F::unpack(block, &mut unit);
                block_at(&a.acts, 0, i, &unit, F::SIGNED)
            });
            let sum: f32 = terms.sum();
            *out = if piece == 0 { sum } else { *out + sum };
        }
    }
}

/// Unit `i` of token `t` times an unpacked super-block.
fn super_at(acts: &Acts, t: usize, i: usize, w: &SuperBlock) -> f32 {
    let at = t * acts.depth / 256 + i;
    dot_super(w, &acts.q[256 * at..256 * at + 256], &acts.sums16[16 * at..16 * at + 16], acts.d[at])
}

/// Unit `i` of token `t` times an unpacked block.
fn block_at(acts: &Acts, t: usize, i: usize, w: &Block32, signed: bool) -> f32 {
    let at = t * acts.depth / 32 + i;
    dot_block(w, signed, &acts.q[32 * at..32 * at + 32], acts.sums32[at], acts.d[at])
}

/// See [`crate::table::IntKernels::pack`].
///
/// # Safety
/// `panel` must be `units · MR · size_of::<Unit>()` bytes, aligned to 64.
pub(super) unsafe fn pack<F: Unpack>(a: &mut Pack) {
    let panel: *mut F::Unit = a.panel.as_mut_ptr().cast();
    for i in 0..a.units {
        for r in 0..MR {
            let mut unit = F::Unit::default();
            if r < a.n_rows {
                let at = r * a.row_bytes + i * F::BLOCK_BYTES;
                F::unpack(&a.rows[at..at + F::BLOCK_BYTES], &mut unit);
            }
            // SAFETY: the panel holds `units · MR` units (this function's contract) and its alignment of 64 is a
            // multiple of the units' alignment of 32.
            unsafe { panel.add(i * MR + r).write(unit) };
        }
    }
}

/// The units of a panel.
///
/// # Safety
/// The panel must have been written by [`pack`] for a format with unit `U`.
unsafe fn units<'a, U: Unit>(a: &Gemm<'a>) -> &'a [U] {
    // SAFETY: `pack` has written that many units there, suitably aligned.
    unsafe { std::slice::from_raw_parts(a.panel.as_ptr().cast::<U>(), a.units * MR) }
}

/// See [`crate::table::IntKernels::gemm`].
///
/// # Safety
/// The panel must come from [`pack`]; `out` must be valid for the rows and tokens stated.
pub(super) unsafe fn gemm_super(a: &Gemm) {
    // SAFETY: the contract of this function.
    let units = unsafe { units::<SuperBlock>(a) };
    // SAFETY: the contract of this function.
    unsafe { store(a, |r, t| (0..a.units).map(|i| super_at(&a.acts, t, a.unit0 + i, &units[i * MR + r])).sum()) };
}

/// See [`crate::table::IntKernels::gemm`].
///
/// # Safety
/// As [`gemm_super`].
pub(super) unsafe fn gemm_block<F: Unpack<Unit = Block32>>(a: &Gemm) {
    // SAFETY: the contract of this function.
    let units = unsafe { units::<Block32>(a) };
    let dot = |r: usize, t: usize| {
        (0..a.units).map(|i| block_at(&a.acts, t, a.unit0 + i, &units[i * MR + r], F::SIGNED)).sum()
    };
    // SAFETY: the contract of this function.
    unsafe { store(a, dot) };
}

/// Stores or adds the result of every row and token.
///
/// # Safety
/// `out` must be valid for the rows and tokens stated.
unsafe fn store(a: &Gemm, dot: impl Fn(usize, usize) -> f32) {
    for t in 0..a.acts.q.len() / a.acts.depth {
        for r in 0..a.n_rows {
            let value = dot(r, t);
            // SAFETY: the contract of this function.
            let out = unsafe { &mut *a.out.add(t * a.out_stride + r) };
            *out = if a.accumulate { *out + value } else { value };
        }
    }
}

/// See [`crate::table::FormatKernels::dequantize`].
///
/// # Safety
/// None; lengths are checked by slicing.
pub(super) unsafe fn dequantize<F: Unpack>(bytes: &[u8], out: &mut [f32]) {
    F::dequantize_row(bytes, out);
}

/// See [`crate::table::KernelTable::rows_f32`]. Sums run in index order.
///
/// # Safety
/// Lengths as [`RowsF32`] states them.
pub(super) unsafe fn rows_f32(a: &RowsF32) {
    for t in 0..a.tokens {
        for (r, row) in a.rows.chunks_exact(a.row_bytes).enumerate() {
            // SAFETY: the contract of this function.
            unsafe {
                let x = std::slice::from_raw_parts(a.x.add(t * a.x_stride), a.cols);
                let weights = row.as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b));
                a.put(r, t, weights.zip(x).fold(0.0, |sum, (w, x)| sum + w * x));
            }
        }
    }
}

/// See [`crate::table::KernelTable::dot_f32`].
///
/// # Safety
/// None.
pub(super) unsafe fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

/// See [`crate::table::KernelTable::gemm_f32`].
///
/// # Safety
/// The pointers must be valid for the sizes stated.
pub(super) unsafe fn gemm_f32(a: &GemmF32) {
    for c in 0..a.cols {
        for r in 0..a.n_rows {
            // SAFETY: the contract of this function.
            unsafe {
                let out = a.out.add(c * a.out_stride + r);
                let mut sum = if a.accumulate { *out } else { 0.0 };
                for k in 0..a.depth {
                    sum += *a.panel.add(k * a.panel_stride + r) * *a.x.add(c * a.x_stride + k);
                }
                *out = sum;
            }
        }
    }
}

/// See [`crate::fixed::FixedKernels::gemm`].
///
/// # Safety
/// The pointers must be valid for the sizes stated.
pub(super) unsafe fn gemm_fixed(a: &Panel16) {
    for (c, r) in (0..a.cols).flat_map(|c| (0..a.n_rows).map(move |r| (c, r))) {
        let mut sum = 0f32;
        for (u, k0) in (0..a.depth).step_by(UNIT).enumerate() {
            let mut products = 0i32;
            for k in k0..a.depth.min(k0 + UNIT) {
                // SAFETY: the contract of this function; code k of row r is number k % 2 of pair k / 2.
                let (w, x) = unsafe {
                    let pair = a.panel.add(k / 2 * a.panel_stride + r).cast::<i16>();
                    (*pair.add(k % 2), *a.x.add(c * a.x_stride + k))
                };
                // Codes of what is no number may be anything; their factor is NaN.
                products = products.wrapping_add(i32::from(w) * i32::from(x));
            }
            // SAFETY: the contract of this function.
            let factor = unsafe { *a.factors.add(u * F32_LANES + r) * *a.x_factors.add(c * a.x_factor_stride + u) };
            sum += products as f32 * factor;
        }
        // SAFETY: the contract of this function.
        unsafe {
            let out = a.out.add(c * a.out_stride + r);
            *out = if a.accumulate { *out + sum } else { sum };
        }
    }
}
