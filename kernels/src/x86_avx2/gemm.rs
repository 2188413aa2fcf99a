//! Panels times tokens: 16 rows × up to 4 tokens at once.

use std::arch::x86_64::*;

use super::MR;
use super::pack::{BLOCK_BYTES, BLOCK_CODES, SIGNED_BYTES, SIGNED_CODES, SUPER_CODES, super_bytes};
use super::unpack::{Block, Super};
use crate::table::{Gemm, GemmF32, RAISED32, rows_from, tile_tokens};

/// `vpmaddubsw` results that add up in 16 bits without overflow: each is at most 2·127·`max_code`. A power of two that
/// divides the steps of a group.
const fn chain(max_code: u8, group: usize) -> usize {
    let mut n = group / 4;
    while n > 1 && n * 254 * max_code as usize > 32767 {
        n /= 2;
    }
    n
}

/// Runs a tile over all tokens: of `$most` at once, or fewer, of which all sizes are listed.
macro_rules! over_tokens {
    ($most:literal or [$($fewer:literal)+], $tokens:expr, $tile:ident $(:: <$F:ident>)?, $a:expr) => {{
        let (tokens, a) = ($tokens, $a);
        let mut t = 0;
        while t < tokens {
            let n = tile_tokens($most, tokens - t);
            // SAFETY: tokens `t..t + n` exist.
            unsafe { over_tokens!(@one n, $most [$($fewer)+], $tile [$($F)?], a, t) };
            t += n;
        }
    }};
    (@one $n:ident, $most:literal [$($fewer:literal)+], $tile:ident [], $a:ident, $t:ident) => {
        match $n {
            $($fewer => $tile::<$fewer>($a, $t),)+
            _ => $tile::<$most>($a, $t),
        }
    };
    (@one $n:ident, $most:literal [$($fewer:literal)+], $tile:ident [$F:ident], $a:ident, $t:ident) => {
        match $n {
            $($fewer => $tile::<$F, $fewer>($a, $t),)+
            _ => $tile::<$F, $most>($a, $t),
        }
    };
}

/// The same pointers, as if they had nothing to do with each other. From rows that are one stride apart the compiler makes
/// one pointer and calculates the others anew in every step.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn apart<T, const N: usize>(mut rows: [*const T; N]) -> [*const T; N] {
    for row in &mut rows {
        // SAFETY: no instruction at all.
        #[expect(clippy::pointers_in_nomem_asm_block, reason = "addresses pass through, nobody looks there")]
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) * row, options(pure, nomem, nostack, preserves_flags))
        };
    }
    rows
}

pub(super) use over_tokens;

/// Reads 4 codes of an activation into every lane.
///
/// # Safety
/// `p` must be readable for 4 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn broadcast(p: *const i8) -> __m256i {
    // SAFETY: promised by the caller.
    _mm256_set1_epi32(unsafe { p.cast::<i32>().read_unaligned() })
}

/// Stores or adds 16 lanes, of which `n` exist.
///
/// # Safety
/// `out` must be valid for `n` floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn store(out: *mut f32, n: usize, v: [__m256; 2], accumulate: bool) {
    if n == MR {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: 16 floats are valid.
            unsafe {
                let out = out.add(8 * i);
                let v = if accumulate { _mm256_add_ps(_mm256_loadu_ps(out), v) } else { v };
                _mm256_storeu_ps(out, v);
            }
        }
        return;
    }
    let mut lanes = [0f32; MR];
    // SAFETY: the array has 16 floats; `out` has `n`.
    unsafe {
        _mm256_storeu_ps(lanes.as_mut_ptr(), v[0]);
        _mm256_storeu_ps(lanes.as_mut_ptr().add(8), v[1]);
        for (i, lane) in lanes.iter().enumerate().take(n) {
            let out = out.add(i);
            *out = if accumulate { *out + lane } else { *lane };
        }
    }
}

/// See [`crate::table::IntKernels::gemm`].
///
/// # Safety
/// The panel must come from `pack_super::<F>`; lengths as [`Gemm`] states them.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn gemm_super<F: Super>(a: &Gemm) {
    over_tokens!(4 or [1 2 3], a.acts.q.len() / a.acts.depth, tile_super::<F>, a);
}

/// `N` tokens from `t`.
///
/// 16-bit sums hold `chain` results of at most 254·MAX_CODE; times a scale of at most 128 and two lanes, 32-bit sums
/// of a super-block stay below 63·127·256·128 < 2²⁸, and those of the mins below 4096·2032·16 < 2²⁸.
///
/// # Safety
/// As [`gemm_super`]; tokens `t..t + N` must exist.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_super<F: Super, const N: usize>(a: &Gemm, t: usize) {
    let chain = const { chain(F::MAX_CODE, F::GROUP) };
    let groups = 256 / F::GROUP;
    let depth = a.acts.depth;
    let sums: &[i16] = if F::GROUP == 32 { a.acts.sums32 } else { a.acts.sums16 };
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    for u in 0..a.units {
        // SAFETY: the panel holds `units` super-blocks; the tokens hold `depth` codes, `depth / GROUP` sums and
        // `depth / 256` scales each, of which this unit is number `unit0 + u`.
        unsafe {
            let panel = a.panel.as_ptr().add(u * super_bytes(F::GROUP));
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 256 * unit), depth);
            let s: [*const i16; N] =
                rows_from(sums.as_ptr().add(t * (depth / F::GROUP) + groups * unit), depth / F::GROUP);
            let mut total = [[_mm256_setzero_si256(); 2]; N];
            for g in 0..groups {
                let scale = panel.add(SUPER_CODES + 64 * g).cast::<__m256i>();
                for part in 0..F::GROUP / 4 / chain {
                    let mut pairs = [[_mm256_setzero_si256(); 2]; N];
                    for k in 0..chain {
                        let step = g * (F::GROUP / 4) + part * chain + k;
                        let w = panel.add(64 * step).cast::<__m256i>();
                        let w = [_mm256_load_si256(w), _mm256_load_si256(w.add(1))];
                        for c in 0..N {
                            let y = broadcast(y[c].add(4 * step));
                            for h in 0..2 {
                                pairs[c][h] = _mm256_add_epi16(pairs[c][h], _mm256_maddubs_epi16(w[h], y));
                            }
                        }
                    }
                    for c in 0..N {
                        for h in 0..2 {
                            let scaled = _mm256_madd_epi16(pairs[c][h], _mm256_load_si256(scale.add(h)));
                            total[c][h] = _mm256_add_epi32(total[c][h], scaled);
                        }
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
                        below[c][h] = _mm256_add_epi32(below[c][h], _mm256_madd_epi16(m[h], s));
                    }
                }
            }
            let floats = mins.add(64 * (groups / 2)).cast::<f32>();
            for h in 0..2 {
                let d = _mm256_load_ps(floats.add(8 * h));
                let dmin = _mm256_load_ps(floats.add(MR + 8 * h));
                for c in 0..N {
                    let dy = _mm256_set1_ps(*a.acts.d.as_ptr().add((t + c) * (depth / 256) + unit));
                    let scaled = |v| _mm256_mul_ps(_mm256_cvtepi32_ps(v), d);
                    let whole = if F::RAISED != 0 {
                        scaled(_mm256_sub_epi32(total[c][h], below[c][h]))
                    } else {
                        _mm256_fnmadd_ps(_mm256_cvtepi32_ps(below[c][h]), dmin, scaled(total[c][h]))
                    };
                    acc[c][h] = _mm256_fmadd_ps(whole, dy, acc[c][h]);
                }
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
/// The panel must come from `pack_block::<F>`; lengths as [`Gemm`] states them.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn gemm_block<F: Block>(a: &Gemm) {
    over_tokens!(4 or [1 2 3], a.acts.q.len() / a.acts.depth, tile_block::<F>, a);
}

/// `N` tokens from `t`, unsigned codes; bounds as in [`tile_super`]. Codes that are raised to be so make sums begin with what
/// that must not add.
///
/// # Safety
/// As [`gemm_block`]; tokens `t..t + N` must exist.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_block<F: Block, const N: usize>(a: &Gemm, t: usize) {
    let chain = const { chain(F::MAX_CODE, 32) };
    let depth = a.acts.depth;
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    for u in 0..a.units {
        // SAFETY: the panel holds `units` blocks; the tokens hold `depth` codes, `depth / 32` sums and scales each, of
        // which this unit is number `unit0 + u`.
        unsafe {
            let panel = a.panel.as_ptr().add(u * BLOCK_BYTES);
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 32 * unit), depth);
            let mut total = [[_mm256_setzero_si256(); 2]; N];
            if F::OFFSET > 0 {
                for c in 0..N {
                    // There for the largest number that codes are raised by, which the others divide.
                    let begin = *a.acts.begin.as_ptr().add((t + c) * (depth / 32) + unit);
                    total[c] = [_mm256_set1_epi32(begin >> (RAISED32 / i32::from(F::OFFSET)).ilog2()); 2];
                }
            }
            for part in 0..8 / chain {
                let mut pairs = [[_mm256_setzero_si256(); 2]; N];
                for k in 0..chain {
                    let step = part * chain + k;
                    let w = panel.add(64 * step).cast::<__m256i>();
                    let w = [_mm256_load_si256(w), _mm256_load_si256(w.add(1))];
                    for c in 0..N {
                        let y = broadcast(y[c].add(4 * step));
                        for h in 0..2 {
                            pairs[c][h] = _mm256_add_epi16(pairs[c][h], _mm256_maddubs_epi16(w[h], y));
                        }
                    }
                }
                for c in 0..N {
                    for h in 0..2 {
                        total[c][h] = _mm256_add_epi32(total[c][h], _mm256_madd_epi16(pairs[c][h], ones));
                    }
                }
            }
            let floats = panel.add(BLOCK_CODES).cast::<f32>();
            for c in 0..N {
                let at = (t + c) * (depth / 32) + unit;
                let dy = *a.acts.d.as_ptr().add(at);
                let below = _mm256_set1_ps(dy * f32::from(*a.acts.sums32.as_ptr().add(at)));
                let dy = _mm256_set1_ps(dy);
                for h in 0..2 {
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(total[c][h]), _mm256_load_ps(floats.add(8 * h)));
                    acc[c][h] = _mm256_fmadd_ps(scaled, dy, acc[c][h]);
                    if F::OFFSET == 0 {
                        acc[c][h] = _mm256_fnmadd_ps(_mm256_load_ps(floats.add(MR + 8 * h)), below, acc[c][h]);
                    }
                }
            }
        }
    }
    for (c, acc) in acc.into_iter().enumerate() {
        // SAFETY: the result has `n_rows` values for every token.
        unsafe { store(a.out.add((t + c) * a.out_stride), a.n_rows, acc, a.accumulate) };
    }
}

/// See [`crate::table::IntKernels::gemm`], for signed codes.
///
/// # Safety
/// The panel must come from `pack_signed::<F>`; lengths as [`Gemm`] states them.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn gemm_signed<F: Block>(a: &Gemm) {
    over_tokens!(4 or [1 2 3], a.acts.q.len() / a.acts.depth, tile_signed::<F>, a);
}

/// `N` tokens from `t`. Codes of both sides are 16 bits wide here: bytes would need the sign of the weight moved to the
/// activation and a widening of every sum, three multiplier operations where this takes two. A block's sum is at most
/// 32·128·127.
///
/// # Safety
/// As [`gemm_signed`]; tokens `t..t + N` must exist.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_signed<F: Block, const N: usize>(a: &Gemm, t: usize) {
    let depth = a.acts.depth;
    // Steps of two times two codes. Hidden from the compiler, which otherwise unrolls all and runs out of registers.
    let turns = std::hint::black_box(8);
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    for u in 0..a.units {
        // SAFETY: the panel holds `units` blocks; the tokens hold `depth` codes, wide ones too, and `depth / 32`
        // scales each, of which this unit is number `unit0 + u`.
        unsafe {
            let panel = a.panel.as_ptr().add(u * SIGNED_BYTES);
            let unit = a.unit0 + u;
            let y: [*const i16; N] = rows_from(a.acts.q16.as_ptr().add(t * depth + 32 * unit), depth);
            let mut total = [[_mm256_setzero_si256(); 2]; N];
            for turn in 0..turns {
                for k in 0..2 {
                    let step = 2 * turn + k;
                    let w = panel.add(64 * step).cast::<__m256i>();
                    let w = [_mm256_load_si256(w), _mm256_load_si256(w.add(1))];
                    for c in 0..N {
                        let y = broadcast(y[c].add(2 * step).cast());
                        for h in 0..2 {
                            total[c][h] = _mm256_add_epi32(total[c][h], _mm256_madd_epi16(w[h], y));
                        }
                    }
                }
            }
            let floats = panel.add(SIGNED_CODES).cast::<f32>();
            for c in 0..N {
                let dy = _mm256_set1_ps(*a.acts.d.as_ptr().add((t + c) * (depth / 32) + unit));
                for h in 0..2 {
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(total[c][h]), _mm256_load_ps(floats.add(8 * h)));
                    acc[c][h] = _mm256_fmadd_ps(scaled, dy, acc[c][h]);
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
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn gemm_f32(a: &GemmF32) {
    over_tokens!(6 or [1 2 3 4 5], a.cols, tile_f32, a);
}

/// `N` columns from `first`: 2·N accumulators, two registers of weights, one broadcast.
///
/// # Safety
/// As [`gemm_f32`]; columns `first..first + N` must exist.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_f32<const N: usize>(a: &GemmF32, first: usize) {
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    // SAFETY: the panel has `depth` steps of 16 lanes, `x` rows of `depth` values, the result `n_rows` lanes.
    unsafe {
        let x: [*const f32; N] = apart(rows_from(a.x.add(first * a.x_stride), a.x_stride));
        for k in 0..a.depth {
            let w = a.panel.add(k * a.panel_stride);
            let w = [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))];
            for c in 0..N {
                let x = _mm256_set1_ps(*x[c].add(k));
                for h in 0..2 {
                    acc[c][h] = _mm256_fmadd_ps(w[h], x, acc[c][h]);
                }
            }
        }
        for (c, acc) in acc.into_iter().enumerate() {
            store(a.out.add((first + c) * a.out_stride), a.n_rows, acc, a.accumulate);
        }
    }
}
