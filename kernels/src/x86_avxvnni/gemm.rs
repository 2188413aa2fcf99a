//! Panels times tokens: 16 rows × up to 3 tokens at once.

use std::arch::x86_64::*;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock};

use super::NR;
use crate::table::{Gemm, rows_from};
use crate::x86_avx2::gemm::{broadcast, store};
use crate::x86_avx2::pack::{BLOCK_BYTES, BLOCK_CODES, SUPER_CODES, super_bytes};

/// Products of small integers that are added up in 32-bit lanes, without saturation.
pub(super) trait Dots {
    /// `sum + w₀x₀ + … + w₃x₃` in every lane, of unsigned bytes `w` and signed bytes `x`.
    ///
    /// # Safety
    /// The CPU must have the instructions of the implementation.
    unsafe fn bytes(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;

    /// `sum + w₀x₀ + w₁x₁` in every lane, of signed 16-bit integers.
    ///
    /// # Safety
    /// As [`Dots::bytes`].
    unsafe fn words(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// `vpdpbusd` and `vpdpwssd` in their 256-bit form without AVX-512.
pub(super) enum Vnni {}

impl Dots for Vnni {
    #[inline(always)]
    unsafe fn bytes(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_dpbusd_avx_epi32(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn words(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_dpwssd_avx_epi32(sum, w, x) }
    }
}

/// The same sums by AVX2 alone, so that tests reach everything around the two instructions on CPUs that lack them.
#[cfg(feature = "emulated")]
pub(super) enum Emulated {}

#[cfg(feature = "emulated")]
impl Dots for Emulated {
    #[inline(always)]
    unsafe fn bytes(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: promised by the caller. Bytes of even and of odd number become 16 bits wide.
        unsafe {
            let even = _mm256_madd_epi16(
                _mm256_and_si256(w, _mm256_set1_epi16(0xff)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(w), _mm256_srai_epi16::<8>(x));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    unsafe fn words(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(w, x)) }
    }
}

/// Runs a tile over all tokens, 3 at a time; 4 that remain are two pairs.
macro_rules! over_tokens {
    ($tile:ident::<$D:ident, $F:ident>, $a:expr) => {{
        let tokens = $a.acts.q.len() / $a.acts.depth;
        let mut t = 0;
        while t < tokens {
            let n = match tokens - t {
                1 => 1,
                2 | 4 => 2,
                _ => NR,
            };
            // SAFETY: tokens `t..t + n` exist.
            unsafe {
                match n {
                    1 => $tile::<$D, $F, 1>($a, t),
                    2 => $tile::<$D, $F, 2>($a, t),
                    _ => $tile::<$D, $F, 3>($a, t),
                }
            }
            t += n;
        }
    }};
}

/// See [`crate::table::IntKernels::gemm`]. To be inlined into a function that has the features of `D`, AVX2 and FMA.
///
/// # Safety
/// The panel must come from the AVX2 table's `pack_super::<F>`; lengths as [`Gemm`] states them. The CPU must have what
/// `D` asks for.
#[inline(always)]
pub(super) unsafe fn gemm_super<D: Dots, F: Unpack<Unit = SuperBlock>>(a: &Gemm) {
    over_tokens!(tile_super::<D, F>, a);
}

/// `N` tokens from `t`. 32-bit sums of a super-block stay below 63·127·256·128 < 2²⁸, and those of the mins below
/// 4096·2032·16 < 2²⁸.
///
/// # Safety
/// As [`gemm_super`]; tokens `t..t + N` must exist.
#[inline(always)]
unsafe fn tile_super<D: Dots, F: Unpack<Unit = SuperBlock>, const N: usize>(a: &Gemm, t: usize) {
    let groups = 256 / F::GROUP;
    let depth = a.acts.depth;
    let sums: &[i16] = if F::GROUP == 32 { a.acts.sums32 } else { a.acts.sums16 };
    // SAFETY: the panel holds `units` super-blocks; the tokens hold `depth` codes, `depth / GROUP` sums and
    // `depth / 256` scales each, of which unit `u` of the panel is number `unit0 + u`. The result has `n_rows` values
    // for every token. Features are promised by the caller.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; N];
        for u in 0..a.units {
            let panel = a.panel.as_ptr().add(u * super_bytes(F::GROUP));
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 256 * unit), depth);
            let s: [*const i16; N] =
                rows_from(sums.as_ptr().add(t * (depth / F::GROUP) + groups * unit), depth / F::GROUP);
            let mut total = [[_mm256_setzero_si256(); 2]; N];
            for g in 0..groups {
                let mut sum = [[_mm256_setzero_si256(); 2]; N];
                for step in g * (F::GROUP / 4)..(g + 1) * (F::GROUP / 4) {
                    let w = panel.add(64 * step).cast::<__m256i>();
                    let w = [_mm256_load_si256(w), _mm256_load_si256(w.add(1))];
                    for c in 0..N {
                        let y = broadcast(y[c].add(4 * step));
                        for h in 0..2 {
                            sum[c][h] = D::bytes(sum[c][h], w[h], y);
                        }
                    }
                }
                let scale = panel.add(SUPER_CODES + 64 * g).cast::<__m256i>();
                for h in 0..2 {
                    // A lane holds the scale twice as i16: the upper one, with its sign.
                    let scale = _mm256_srai_epi32::<16>(_mm256_load_si256(scale.add(h)));
                    for c in 0..N {
                        total[c][h] = _mm256_add_epi32(total[c][h], _mm256_mullo_epi32(sum[c][h], scale));
                    }
                }
            }
            let mins = panel.add(SUPER_CODES + 64 * groups);
            let mut below = [[_mm256_setzero_si256(); 2]; N];
            for g in 0..groups / 2 {
                let m = mins.add(64 * g).cast::<__m256i>();
                let m = [_mm256_load_si256(m), _mm256_load_si256(m.add(1))];
                for c in 0..N {
                    let s = broadcast(s[c].add(2 * g).cast());
                    for h in 0..2 {
                        below[c][h] = D::words(below[c][h], m[h], s);
                    }
                }
            }
            let floats = mins.add(64 * (groups / 2)).cast::<f32>();
            for h in 0..2 {
                let d = _mm256_load_ps(floats.add(8 * h));
                let dmin = _mm256_load_ps(floats.add(16 + 8 * h));
                for c in 0..N {
                    let dy = _mm256_set1_ps(*a.acts.d.as_ptr().add((t + c) * (depth / 256) + unit));
                    acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[c][h]), _mm256_mul_ps(d, dy), acc[c][h]);
                    let below = _mm256_cvtepi32_ps(below[c][h]);
                    acc[c][h] = _mm256_fnmadd_ps(below, _mm256_mul_ps(dmin, dy), acc[c][h]);
                }
            }
        }
        for (c, acc) in acc.into_iter().enumerate() {
            store(a.out.add((t + c) * a.out_stride), a.n_rows, acc, a.accumulate);
        }
    }
}

/// See [`crate::table::IntKernels::gemm`]. To be inlined into a function that has the features of `D`, AVX2 and FMA.
///
/// # Safety
/// The panel must come from the AVX2 table's `pack_block::<F>`; lengths as [`Gemm`] states them. The CPU must have what
/// `D` asks for.
#[inline(always)]
pub(super) unsafe fn gemm_block<D: Dots, F: Unpack<Unit = Block32>>(a: &Gemm) {
    over_tokens!(tile_block::<D, F>, a);
}

/// `N` tokens from `t`. Signed codes come with 128 added, so sums begin at −128 times the activations' own; these formats
/// have no min. A sum of 32 products is at most 255·127·32 < 2²⁰.
///
/// # Safety
/// As [`gemm_block`]; tokens `t..t + N` must exist.
#[inline(always)]
unsafe fn tile_block<D: Dots, F: Unpack<Unit = Block32>, const N: usize>(a: &Gemm, t: usize) {
    let depth = a.acts.depth;
    // SAFETY: the panel holds `units` blocks; the tokens hold `depth` codes, `depth / 32` sums and scales each, of which
    // unit `u` of the panel is number `unit0 + u`. The result has `n_rows` values for every token. Features are promised
    // by the caller.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; N];
        for u in 0..a.units {
            let panel = a.panel.as_ptr().add(u * BLOCK_BYTES);
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 32 * unit), depth);
            let mut sum = [[_mm256_setzero_si256(); 2]; N];
            if F::SIGNED {
                for c in 0..N {
                    let own = i32::from(*a.acts.sums32.as_ptr().add((t + c) * (depth / 32) + unit));
                    sum[c] = [_mm256_set1_epi32(-128 * own); 2];
                }
            }
            for step in 0..8 {
                let w = panel.add(64 * step).cast::<__m256i>();
                let w = [_mm256_load_si256(w), _mm256_load_si256(w.add(1))];
                for c in 0..N {
                    let y = broadcast(y[c].add(4 * step));
                    for h in 0..2 {
                        sum[c][h] = D::bytes(sum[c][h], w[h], y);
                    }
                }
            }
            let floats = panel.add(BLOCK_CODES).cast::<f32>();
            for c in 0..N {
                let at = (t + c) * (depth / 32) + unit;
                let dy = *a.acts.d.as_ptr().add(at);
                for h in 0..2 {
                    let d = _mm256_mul_ps(_mm256_load_ps(floats.add(8 * h)), _mm256_set1_ps(dy));
                    acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[c][h]), d, acc[c][h]);
                }
                if !F::SIGNED {
                    let below = _mm256_set1_ps(dy * f32::from(*a.acts.sums32.as_ptr().add(at)));
                    for h in 0..2 {
                        acc[c][h] = _mm256_fnmadd_ps(_mm256_load_ps(floats.add(16 + 8 * h)), below, acc[c][h]);
                    }
                }
            }
        }
        for (c, acc) in acc.into_iter().enumerate() {
            store(a.out.add((t + c) * a.out_stride), a.n_rows, acc, a.accumulate);
        }
    }
}
