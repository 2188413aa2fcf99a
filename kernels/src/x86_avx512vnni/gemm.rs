//! Panels times tokens: 16 rows × up to 8 tokens at once.

use std::arch::x86_64::*;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock};

use super::NR;
use crate::table::{Gemm, GemmF32, rows_from};
use crate::x86_avx2::pack::{BLOCK_BYTES, BLOCK_CODES, SUPER_CODES, super_bytes};

/// Runs a tile over all tokens, 8 at a time, then the remainder at once.
macro_rules! over_tokens {
    ($tokens:expr, $tile:ident $(::<$F:ident>)?, $a:expr) => {{
        let tokens = $tokens;
        let mut t = 0;
        while t < tokens {
            let n = (tokens - t).min(NR);
            // SAFETY: tokens `t..t + n` exist.
            unsafe {
                match n {
                    1 => $tile::<$($F,)? 1>($a, t),
                    2 => $tile::<$($F,)? 2>($a, t),
                    3 => $tile::<$($F,)? 3>($a, t),
                    4 => $tile::<$($F,)? 4>($a, t),
                    5 => $tile::<$($F,)? 5>($a, t),
                    6 => $tile::<$($F,)? 6>($a, t),
                    7 => $tile::<$($F,)? 7>($a, t),
                    _ => $tile::<$($F,)? 8>($a, t),
                }
            }
            t += n;
        }
    }};
}

/// Reads 4 bytes into every lane.
///
/// # Safety
/// `p` must be readable for 4 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(p: *const i8) -> __m512i {
    // SAFETY: promised by the caller.
    _mm512_set1_epi32(unsafe { p.cast::<i32>().read_unaligned() })
}

/// Stores or adds 16 lanes, of which `n` exist.
///
/// # Safety
/// `out` must be valid for `n` floats.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(out: *mut f32, n: usize, v: __m512, accumulate: bool) {
    let mask: __mmask16 = ((1u32 << n) - 1) as u16;
    // SAFETY: lanes outside the mask are neither read nor written.
    unsafe {
        let v = if accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), v) } else { v };
        _mm512_mask_storeu_ps(out, mask, v);
    }
}

/// See [`crate::table::IntKernels::gemm`].
///
/// # Safety
/// The panel must come from the AVX2 table's `pack_super::<F>`; lengths as [`Gemm`] states them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn gemm_super<F: Unpack<Unit = SuperBlock>>(a: &Gemm) {
    over_tokens!(a.acts.q.len() / a.acts.depth, tile_super::<F>, a);
}

/// `N` tokens from `t`. `vpdpbusd` does not saturate; 32-bit sums of a super-block stay below 63·127·256·128 < 2²⁸,
/// and those of the mins below 4096·2032·16 < 2²⁸.
///
/// # Safety
/// As [`gemm_super`]; tokens `t..t + N` must exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile_super<F: Unpack<Unit = SuperBlock>, const N: usize>(a: &Gemm, t: usize) {
    let groups = 256 / F::GROUP;
    let depth = a.acts.depth;
    let sums: &[i16] = if F::GROUP == 32 { a.acts.sums32 } else { a.acts.sums16 };
    let mut acc = [_mm512_setzero_ps(); N];
    for u in 0..a.units {
        // SAFETY: the panel holds `units` super-blocks; the tokens hold `depth` codes, `depth / GROUP` sums and
        // `depth / 256` scales each, of which this unit is number `unit0 + u`.
        unsafe {
            let panel = a.panel.as_ptr().add(u * super_bytes(F::GROUP));
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 256 * unit), depth);
            let s: [*const i16; N] =
                rows_from(sums.as_ptr().add(t * (depth / F::GROUP) + groups * unit), depth / F::GROUP);
            let mut total = [_mm512_setzero_si512(); N];
            for g in 0..groups {
                let mut sum = [_mm512_setzero_si512(); N];
                for step in g * (F::GROUP / 4)..(g + 1) * (F::GROUP / 4) {
                    let w = _mm512_load_si512(panel.add(64 * step).cast());
                    for c in 0..N {
                        sum[c] = _mm512_dpbusd_epi32(sum[c], w, broadcast(y[c].add(4 * step)));
                    }
                }
                // A lane holds the scale twice as i16: the upper one, with its sign.
                let scale = _mm512_srai_epi32::<16>(_mm512_load_si512(panel.add(SUPER_CODES + 64 * g).cast()));
                for c in 0..N {
                    total[c] = _mm512_add_epi32(total[c], _mm512_mullo_epi32(sum[c], scale));
                }
            }
            let mins = panel.add(SUPER_CODES + 64 * groups);
            let mut below = [_mm512_setzero_si512(); N];
            for g in 0..groups / 2 {
                let m = _mm512_load_si512(mins.add(64 * g).cast());
                for c in 0..N {
                    let s = broadcast(s[c].add(2 * g).cast());
                    below[c] = _mm512_dpwssd_epi32(below[c], m, s);
                }
            }
            let floats = mins.add(64 * (groups / 2)).cast::<f32>();
            let (d, dmin) = (_mm512_load_ps(floats), _mm512_load_ps(floats.add(16)));
            for c in 0..N {
                let dy = _mm512_set1_ps(*a.acts.d.as_ptr().add((t + c) * (depth / 256) + unit));
                acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[c]), _mm512_mul_ps(d, dy), acc[c]);
                acc[c] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(below[c]), _mm512_mul_ps(dmin, dy), acc[c]);
            }
        }
    }
    for (c, acc) in acc.into_iter().enumerate() {
        // SAFETY: the result has `n_rows` values for every token.
        unsafe { store(a.out.add((t + c) * a.out_stride), a.n_rows, acc, a.accumulate) };
    }
}

/// See [`crate::table::IntKernels::gemm`].
///
/// # Safety
/// The panel must come from the AVX2 table's `pack_block::<F>`; lengths as [`Gemm`] states them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn gemm_block<F: Unpack<Unit = Block32>>(a: &Gemm) {
    over_tokens!(a.acts.q.len() / a.acts.depth, tile_block::<F>, a);
}

/// `N` tokens from `t`. Signed codes come with 128 added, so sums begin at −128 times the activations' own; these formats
/// have no min. A sum of 32 products is at most 255·127·32 < 2²⁰.
///
/// # Safety
/// As [`gemm_block`]; tokens `t..t + N` must exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile_block<F: Unpack<Unit = Block32>, const N: usize>(a: &Gemm, t: usize) {
    let depth = a.acts.depth;
    let mut acc = [_mm512_setzero_ps(); N];
    for u in 0..a.units {
        // SAFETY: the panel holds `units` blocks; the tokens hold `depth` codes, `depth / 32` sums and scales each, of
        // which this unit is number `unit0 + u`.
        unsafe {
            let panel = a.panel.as_ptr().add(u * BLOCK_BYTES);
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 32 * unit), depth);
            let mut sum = [_mm512_setzero_si512(); N];
            if F::SIGNED {
                for c in 0..N {
                    let own = i32::from(*a.acts.sums32.as_ptr().add((t + c) * (depth / 32) + unit));
                    sum[c] = _mm512_set1_epi32(-128 * own);
                }
            }
            for step in 0..8 {
                let w = _mm512_load_si512(panel.add(64 * step).cast());
                for c in 0..N {
                    sum[c] = _mm512_dpbusd_epi32(sum[c], w, broadcast(y[c].add(4 * step)));
                }
            }
            let floats = panel.add(BLOCK_CODES).cast::<f32>();
            let (d, min) = (_mm512_load_ps(floats), _mm512_load_ps(floats.add(16)));
            for c in 0..N {
                let at = (t + c) * (depth / 32) + unit;
                let dy = *a.acts.d.as_ptr().add(at);
                let d = _mm512_mul_ps(d, _mm512_set1_ps(dy));
                acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[c]), d, acc[c]);
                if !F::SIGNED {
                    let below = _mm512_set1_ps(dy * f32::from(*a.acts.sums32.as_ptr().add(at)));
                    acc[c] = _mm512_fnmadd_ps(min, below, acc[c]);
                }
            }
        }
    }
    for (c, acc) in acc.into_iter().enumerate() {
        // SAFETY: the result has `n_rows` values for every token.
        unsafe { store(a.out.add((t + c) * a.out_stride), a.n_rows, acc, a.accumulate) };
    }
}

/// See [`crate::table::KernelTable::gemm_f32`].
///
/// # Safety
/// Pointers valid for the sizes that [`GemmF32`] states.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn gemm_f32(a: &GemmF32) {
    over_tokens!(a.cols, tile_f32, a);
}

/// `N` columns from `first`.
///
/// # Safety
/// As [`gemm_f32`]; columns `first..first + N` must exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile_f32<const N: usize>(a: &GemmF32, first: usize) {
    let mut acc = [_mm512_setzero_ps(); N];
    // SAFETY: the panel has `depth` steps of 16 lanes, `x` rows of `depth` values, the result `n_rows` lanes.
    unsafe {
        let x: [*const f32; N] = rows_from(a.x.add(first * a.x_stride), a.x_stride);
        for k in 0..a.depth {
            let w = _mm512_loadu_ps(a.panel.add(k * a.panel_stride));
            for c in 0..N {
                acc[c] = _mm512_fmadd_ps(w, _mm512_set1_ps(*x[c].add(k)), acc[c]);
            }
        }
        for (c, acc) in acc.into_iter().enumerate() {
            store(a.out.add((first + c) * a.out_stride), a.n_rows, acc, a.accumulate);
        }
    }
}
