//! Panels times tokens: the rows of one panel or of two × as many tokens at once as the registers hold sums for.

use std::cell::Cell;

use ocelli_quant::Format;
use ocelli_quant::formats::q4_k::Q4_K;

use super::lanes::{Lanes, spread};
use super::two::{Groups, begin_of};
use crate::fixed::{Panel16, UNIT};
use crate::table::{F32_LANES, Gemm, GemmF32, RAISED16, RAISED32, Reach, fetch, rows_from, tile_tokens};
use crate::x86_avx2::gemm::apart;
use crate::x86_avx2::pack::{BLOCK_BYTES, BLOCK_CODES, SUPER_CODES, super_bytes};
use crate::x86_avx2::unpack::{Block, Super};

/// Runs a tile over all tokens; those of more than `$most` are empty.
macro_rules! over_tokens {
    ($most:expr, $tokens:expr, $tile:ident::<$V:ident $(, $F:ident)?>, $($a:expr),+) => {{
        let tokens = $tokens;
        let mut t = 0;
        while t < tokens {
            let n = tile_tokens($most, tokens - t);
            // SAFETY: tokens `t..t + n` exist; the rest is promised by the caller.
            unsafe {
                match n {
                    1 => $tile::<$V, $($F,)? 1>($($a,)+ t),
                    2 => $tile::<$V, $($F,)? 2>($($a,)+ t),
                    3 => $tile::<$V, $($F,)? 3>($($a,)+ t),
                    4 => $tile::<$V, $($F,)? 4>($($a,)+ t),
                    5 => $tile::<$V, $($F,)? 5>($($a,)+ t),
                    6 => $tile::<$V, $($F,)? 6>($($a,)+ t),
                    7 => $tile::<$V, $($F,)? 7>($($a,)+ t),
                    8 => $tile::<$V, $($F,)? 8>($($a,)+ t),
                    9 => $tile::<$V, $($F,)? 9>($($a,)+ t),
                    10 => $tile::<$V, $($F,)? 10>($($a,)+ t),
                    11 => $tile::<$V, $($F,)? 11>($($a,)+ t),
                    _ => $tile::<$V, $($F,)? 12>($($a,)+ t),
                }
            }
            t += n;
        }
    }};
}

/// Stored rows that are asked for in equal parts while others are multiplied, so that memory is read all the time.
struct Later<'a> {
    rows: Cell<&'a [u8]>,
    /// Bytes of a part.
    part: usize,
}

impl<'a> Later<'a> {
    fn new(rows: &'a [u8], parts: usize) -> Self {
        Self { rows: Cell::new(rows), part: rows.len().div_ceil(parts.max(1)).next_multiple_of(64) }
    }

    /// Asks for the next part.
    #[inline(always)]
    fn fetch(&self) {
        let rows = self.rows.get();
        let (now, rest) = rows.split_at(self.part.min(rows.len()));
        fetch(now);
        self.rows.set(rest);
    }
}

/// Bytes of the codes of a super-block of a panel, where 4-bit ones may lie two in a byte.
pub(super) const fn codes_bytes<F: Super>(nibbles: bool) -> usize {
    if nibbles && F::ID == Q4_K::ID { SUPER_CODES / 2 } else { SUPER_CODES }
}

/// Bytes of a super-block of such a panel.
pub(super) const fn unit_bytes<F: Super>(nibbles: bool) -> usize {
    super_bytes(F::GROUP) - SUPER_CODES + codes_bytes::<F>(nibbles)
}

/// See [`crate::table::IntKernels::gemm`].
///
/// # Safety
/// As for [`Lanes`]; the panel must come from the AVX2 table's `pack_super::<F>`, or where [`Lanes::NIBBLES`] says so, hold
/// codes as [`codes_bytes`] does; lengths as [`Gemm`] states them.
#[inline(always)]
pub(super) unsafe fn gemm_super<V: Lanes, F: Super>(a: &Gemm) {
    let tokens = a.acts.q.len() / a.acts.depth;
    let later = Later::new(a.later, a.units * (256 / F::GROUP) * tokens.div_ceil(V::TOKENS));
    over_tokens!(V::TOKENS, tokens, tile_super::<V, F>, a, &later);
}

/// A super-block of a panel, and what `N` tokens have for it.
struct Unit<'a, 'l, const N: usize> {
    panel: *const u8,
    /// Where the other panel is, see [`Lanes::ints`].
    next: usize,
    y: [*const i8; N],
    /// See [`Acts::begin`](crate::table::Acts::begin).
    begin: [*const i32; N],
    later: &'a Later<'l>,
}

impl<const N: usize> Unit<'_, '_, N> {
    /// What sums of group `g` begin with.
    ///
    /// # Safety
    /// As [`gemm_super`].
    #[inline(always)]
    unsafe fn begin<V: Lanes, F: Super>(&self, g: usize) -> [V::Int; N] {
        // SAFETY: promised by the caller; with this number, there is one for every group.
        unsafe {
            let mut sum = [V::int(0); N];
            if F::RAISED != 0 {
                for c in 0..N {
                    sum[c] = begin_of::<V>(self.begin[c].add(g), F::RAISED);
                }
            }
            sum
        }
    }

    /// Adds the products of group `g`; those of codes in upper nibbles 16 times.
    ///
    /// # Safety
    /// As [`gemm_super`].
    #[inline(always)]
    unsafe fn dots<V: Lanes, F: Super>(&self, sum: &mut [V::Int; N], g: usize) {
        self.later.fetch();
        // SAFETY: promised by the caller.
        unsafe {
            let (run, mask) = if codes_bytes::<F>(V::NIBBLES) < SUPER_CODES {
                (g / 2, Some(V::int(if g.is_multiple_of(2) { 0x0f0f_0f0f } else { 0xf0f0_f0f0_u32 as i32 })))
            } else {
                (g, None)
            };
            V::dots::<N>(sum, self.panel.add(16 * F::GROUP * run), self.next, mask, self.y, F::GROUP * g, F::GROUP / 4);
        }
    }

    /// The scales of group `g`, each twice as i16.
    ///
    /// # Safety
    /// As [`gemm_super`].
    #[inline(always)]
    unsafe fn scales<V: Lanes, F: Super>(&self, g: usize) -> V::Int {
        // SAFETY: promised by the caller.
        unsafe { V::ints(self.panel.add(codes_bytes::<F>(V::NIBBLES) + 64 * g), self.next) }
    }

    /// The products of all groups times their scales.
    ///
    /// # Safety
    /// As [`gemm_super`].
    #[inline(always)]
    unsafe fn wide<V: Lanes, F: Super>(&self) -> [V::Int; N] {
        // SAFETY: promised by the caller.
        unsafe {
            let mut total = [V::int(0); N];
            for g in 0..256 / F::GROUP {
                let mut sum = self.begin::<V, F>(g);
                self.dots::<V, F>(&mut sum, g);
                let scale = V::upper(self.scales::<V, F>(g));
                let upper = codes_bytes::<F>(V::NIBBLES) < SUPER_CODES && !g.is_multiple_of(2);
                for c in 0..N {
                    let sum = if upper { V::down4(sum[c]) } else { sum[c] };
                    total[c] = V::mul_add_int(total[c], sum, scale);
                }
            }
            total
        }
    }

    /// The same, where sums of all groups fit 16 bits: two in a lane are multiplied by their scales at once. On a Zen 4,
    /// multiplications take the time of as many steps of products; shifts and sums run beside those.
    ///
    /// # Safety
    /// As [`gemm_super`].
    #[inline(always)]
    unsafe fn narrow<V: Lanes, F: Super>(&self) -> [V::Int; N] {
        // SAFETY: promised by the caller.
        unsafe {
            let codes = codes_bytes::<F>(V::NIBBLES);
            let mut total = [V::int(0); N];
            for pair in 0..128 / F::GROUP {
                // Of both groups.
                self.later.fetch();
                self.later.fetch();
                let g = Groups {
                    p: self.panel.add(codes / (128 / F::GROUP) * pair),
                    next: self.next,
                    y: self.y.map(|y| y.add(2 * F::GROUP * pair)),
                    begin: self.begin.map(|begin| begin.wrapping_add(2 * pair)),
                    scales: self.panel.add(codes + 128 * pair),
                };
                const {
                    assert!(F::GROUP == 32 && F::RAISED == 0 || F::GROUP == 16 && matches!(F::RAISED, 0 | 4 | RAISED16))
                };
                match (F::GROUP, codes < SUPER_CODES, F::RAISED) {
                    (32, true, _) => V::two_groups::<N, 8, true, 0>(&mut total, &g),
                    (32, false, _) => V::two_groups::<N, 8, false, 0>(&mut total, &g),
                    (_, _, RAISED16) => V::two_groups::<N, 4, false, RAISED16>(&mut total, &g),
                    (_, _, 4) => V::two_groups::<N, 4, false, 4>(&mut total, &g),
                    _ => V::two_groups::<N, 4, false, 0>(&mut total, &g),
                }
            }
            total
        }
    }
}

/// Whether sums of a group of `N` tokens fit 16 bits, whatever the weights; `reach` has those of a unit, one `stride` apart.
#[inline(always)]
fn fit<F: Super, const N: usize>(reach: &[Reach], first: usize, stride: usize) -> bool {
    let fits = |reach: i32| reach * F::LARGEST <= i32::from(i16::MAX);
    if fits(127 * F::GROUP as i32) {
        return true;
    }
    (0..N).all(|c| {
        // Codes that are raised by nothing have one sign.
        let one = |r: &Reach| fits(i32::from(if F::GROUP == 32 { r.one_sign32 } else { r.all16 }));
        reach.get(first + c * stride).is_some_and(one)
    })
}

/// `N` tokens from `t`. 32-bit sums of a super-block stay below 63·127·256·128 < 2²⁸, and those of the mins below
/// 4096·2032·16 < 2²⁸.
///
/// # Safety
/// As [`gemm_super`]; tokens `t..t + N` must exist.
#[inline(always)]
unsafe fn tile_super<V: Lanes, F: Super, const N: usize>(a: &Gemm, later: &Later<'_>, t: usize) {
    if N > V::TOKENS {
        return; // never asked for; so it is not compiled either
    }
    let groups = 256 / F::GROUP;
    let (unit_bytes, codes) = (unit_bytes::<F>(V::NIBBLES), codes_bytes::<F>(V::NIBBLES));
    let depth = a.acts.depth;
    let sums: &[i16] = if F::GROUP == 32 { a.acts.sums32 } else { a.acts.sums16 };
    a.end.claim::<N>(t, a.n_rows);
    // SAFETY: the panel holds `units` super-blocks; the tokens hold `depth` codes, `depth / GROUP` sums and
    // `depth / 256` scales each, of which unit `u` of the panel is number `unit0 + u`. The result has `n_rows` values
    // for every token. The rest is promised by the caller.
    unsafe {
        let mut acc = [V::float(0.0); N];
        for u in 0..a.units {
            let panel = a.panel.as_ptr().add(u * unit_bytes);
            let unit = a.unit0 + u;
            let s: [*const i16; N] =
                rows_from(sums.as_ptr().add(t * (depth / F::GROUP) + groups * unit), depth / F::GROUP);
            let of = Unit::<N> {
                panel,
                next: a.next,
                y: rows_from(a.acts.q.as_ptr().add(t * depth + 256 * unit), depth),
                begin: rows_from(a.acts.begin.as_ptr().wrapping_add(t * (depth / 16) + groups * unit), depth / 16),
                later,
            };
            let narrow = fit::<F, N>(a.acts.reach, t * (depth / 256) + unit, depth / 256);
            let total = if narrow { of.narrow::<V, F>() } else { of.wide::<V, F>() };
            let mins = panel.add(codes + 64 * groups);
            let floats = mins.add(64 * (groups / 2)).cast::<f32>();
            let d = V::floats(floats, a.next);
            let dy: [*const f32; N] = rows_from(a.acts.d.as_ptr().add(t * (depth / 256) + unit), depth / 256);
            if F::RAISED != 0 {
                for c in 0..N {
                    acc[c] = V::mul_add(acc[c], V::mul(V::to_float(total[c]), d), V::float(*dy[c]));
                }
                continue;
            }
            let mut below = [V::int(0); N];
            for g in 0..groups / 2 {
                let m = V::ints(mins.add(64 * g), a.next);
                for c in 0..N {
                    below[c] = V::dot_words(below[c], m, spread::<V>(s[c].add(2 * g).cast()));
                }
            }
            let dmin = V::floats(floats.add(16), a.next);
            for c in 0..N {
                let whole = V::mul_sub(V::mul(V::to_float(total[c]), d), V::to_float(below[c]), dmin);
                acc[c] = V::mul_add(acc[c], whole, V::float(*dy[c]));
            }
        }
        for c in 0..N {
            V::store(a.out.add((t + c) * a.out_stride), a.n_rows, acc[c], a.accumulate);
        }
    }
}

/// See [`crate::table::IntKernels::gemm`].
///
/// # Safety
/// As for [`Lanes`]; the panel must come from the AVX2 table's `pack_block::<F>`; lengths as [`Gemm`] states them.
#[inline(always)]
pub(super) unsafe fn gemm_block<V: Lanes, F: Block>(a: &Gemm) {
    let tokens = a.acts.q.len() / a.acts.depth;
    let later = Later::new(a.later, a.units * tokens.div_ceil(V::TOKENS));
    if F::SIGNED && a.pairs {
        over_tokens!(V::TOKENS, tokens, tile_pairs::<V>, a, &later);
        return;
    }
    over_tokens!(V::TOKENS, tokens, tile_block::<V, F>, a, &later);
}

/// What codes of a block are raised by to be unsigned; 0 where the format has a min of its own.
pub(super) const fn raised32<F: Block>() -> i32 {
    if F::SIGNED { RAISED32 } else { F::OFFSET as i32 }
}

/// `N` tokens from `t`. Codes that are raised to be unsigned make sums begin with what that must not add, so that there is no
/// min to take off. A sum of 32 products is at most 255·127·32 < 2²⁰.
///
/// # Safety
/// As [`gemm_block`]; tokens `t..t + N` must exist.
#[inline(always)]
unsafe fn tile_block<V: Lanes, F: Block, const N: usize>(a: &Gemm, later: &Later<'_>, t: usize) {
    if N > V::TOKENS {
        return;
    }
    let depth = a.acts.depth;
    a.end.claim::<N>(t, a.n_rows);
    // SAFETY: the panel holds `units` blocks; the tokens hold `depth` codes, `depth / 32` sums and scales each, of which
    // unit `u` of the panel is number `unit0 + u`. The result has `n_rows` values for every token. The rest is promised
    // by the caller.
    unsafe {
        let mut acc = [V::float(0.0); N];
        for u in 0..a.units {
            later.fetch();
            let panel = a.panel.as_ptr().add(u * BLOCK_BYTES);
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 32 * unit), depth);
            let mut sum = [V::int(0); N];
            let raised = const { raised32::<F>() };
            if raised != 0 {
                for c in 0..N {
                    // There for the largest number that codes are raised by, which the others divide.
                    let begin = *a.acts.begin.as_ptr().add((t + c) * (depth / 32) + unit);
                    sum[c] = V::int(begin >> (RAISED32 / raised).ilog2());
                }
            }
            V::dots::<N>(&mut sum, panel, a.next, None, y, 0, 8);
            let floats = panel.add(BLOCK_CODES).cast::<f32>();
            let d = V::floats(floats, a.next);
            let first = t * (depth / 32) + unit;
            let dy: [*const f32; N] = rows_from(a.acts.d.as_ptr().add(first), depth / 32);
            for c in 0..N {
                acc[c] = V::add_scaled(acc[c], sum[c], d, dy[c]);
            }
            if raised == 0 {
                let min = V::floats(floats.add(16), a.next);
                let sums: [*const i16; N] = rows_from(a.acts.sums32.as_ptr().add(first), depth / 32);
                for c in 0..N {
                    acc[c] = V::mul_sub(acc[c], min, V::float(*dy[c] * f32::from(*sums[c])));
                }
            }
        }
        for c in 0..N {
            V::store(a.out.add((t + c) * a.out_stride), a.n_rows, acc[c], a.accumulate);
        }
    }
}

/// As [`tile_block`] where blocks have the same scale two by two: sums of 64 products, at most 255·127·64 < 2²¹.
///
/// # Safety
/// As [`gemm_block`]; tokens `t..t + N` must exist, units and the first of them be even.
#[inline(always)]
unsafe fn tile_pairs<V: Lanes, const N: usize>(a: &Gemm, later: &Later<'_>, t: usize) {
    if N > V::TOKENS {
        return;
    }
    let depth = a.acts.depth;
    a.end.claim::<N>(t, a.n_rows);
    // SAFETY: as in `tile_block`.
    unsafe {
        let mut acc = [V::float(0.0); N];
        for u in (0..a.units).step_by(2) {
            let panel = a.panel.as_ptr().add(u * BLOCK_BYTES);
            let unit = a.unit0 + u;
            let y: [*const i8; N] = rows_from(a.acts.q.as_ptr().add(t * depth + 32 * unit), depth);
            let begin: [*const i32; N] =
                rows_from(a.acts.begin_pairs.as_ptr().add((t * (depth / 32) + unit) / 2), depth / 64);
            let mut sum = [V::int(0); N];
            for c in 0..N {
                sum[c] = spread::<V>(begin[c].cast());
            }
            for half in 0..2 {
                later.fetch();
                V::dots::<N>(&mut sum, panel.add(half * BLOCK_BYTES), a.next, None, y, 32 * half, 8);
            }
            let d = V::floats(panel.add(BLOCK_CODES).cast::<f32>(), a.next);
            let dy: [*const f32; N] = rows_from(a.acts.d.as_ptr().add(t * (depth / 32) + unit), depth / 32);
            for c in 0..N {
                acc[c] = V::add_scaled(acc[c], sum[c], d, dy[c]);
            }
        }
        for c in 0..N {
            V::store(a.out.add((t + c) * a.out_stride), a.n_rows, acc[c], a.accumulate);
        }
    }
}

/// See [`crate::table::KernelTable::gemm_f32`].
///
/// # Safety
/// As for [`Lanes`]; pointers valid for the sizes that [`GemmF32`] states.
#[inline(always)]
pub(super) unsafe fn gemm_f32<V: Lanes>(a: &GemmF32) {
    over_tokens!(V::TOKENS, a.cols, tile_f32::<V>, a);
}

/// `N` columns from `first`.
///
/// # Safety
/// As [`gemm_f32`]; columns `first..first + N` must exist.
#[inline(always)]
unsafe fn tile_f32<V: Lanes, const N: usize>(a: &GemmF32, first: usize) {
    if N > V::TOKENS {
        return;
    }
    // SAFETY: the panel has `depth` steps of 16 lanes, `x` rows of `depth` values, the result `n_rows` lanes. The rest is
    // promised by the caller.
    unsafe {
        let mut acc = [V::float(0.0); N];
        let x: [*const f32; N] = apart(rows_from(a.x.add(first * a.x_stride), a.x_stride));
        for k in 0..a.depth {
            let w = V::floats(a.panel.add(k * a.panel_stride), 0);
            for c in 0..N {
                acc[c] = V::mul_add(acc[c], w, V::float(*x[c].add(k)));
            }
        }
        for c in 0..N {
            V::store(a.out.add((first + c) * a.out_stride), a.n_rows, acc[c], a.accumulate);
        }
    }
}

/// Steps of a fixed-point panel between two parts that are asked for.
const STEPS: usize = 4;

/// See [`crate::fixed::FixedKernels::gemm`].
///
/// # Safety
/// As for [`Lanes`]; pointers valid for the sizes that [`Panel16`] states.
#[inline(always)]
pub(super) unsafe fn gemm_fixed<V: Lanes>(a: &Panel16) {
    let later = Later::new(a.later, a.depth.div_ceil(2 * STEPS) * a.cols.div_ceil(V::PAIRS));
    over_tokens!(V::PAIRS, a.cols, tile_fixed::<V>, a, &later);
}

/// `N` rows from `first`.
///
/// # Safety
/// As [`gemm_fixed`]; rows `first..first + N` must exist.
#[inline(always)]
unsafe fn tile_fixed<V: Lanes, const N: usize>(a: &Panel16, later: &Later<'_>, first: usize) {
    if N > V::PAIRS {
        return;
    }
    let [next, next_factors] = [a.next, a.next_factors].map(|floats| floats * size_of::<f32>());
    // SAFETY: a panel has `depth` / 2 steps of 16 pairs, `x` rows of `depth` codes, both a factor for every unit, the
    // result `n_rows` lanes. The rest is promised by the caller.
    unsafe {
        let mut acc = [V::float(0.0); N];
        for (u, k0) in (0..a.depth).step_by(UNIT).enumerate() {
            let panel = a.panel.add(k0 / 2 * a.panel_stride);
            let x: [*const i16; N] = apart(rows_from(a.x.add(first * a.x_stride + k0), a.x_stride));
            let mut total = [V::int(0); N];
            let pairs = UNIT.min(a.depth - k0) / 2;
            for k0 in (0..pairs).step_by(STEPS) {
                later.fetch();
                for k in k0..pairs.min(k0 + STEPS) {
                    let w = V::ints(panel.add(k * a.panel_stride).cast(), next);
                    for c in 0..N {
                        total[c] = V::dot_words(total[c], w, spread::<V>(x[c].add(2 * k).cast()));
                    }
                }
            }
            let factors = V::floats(a.factors.add(u * F32_LANES), next_factors);
            for c in 0..N {
                let factor = V::float(*a.x_factors.add((first + c) * a.x_factor_stride + u));
                acc[c] = V::mul_add(acc[c], V::to_float(total[c]), V::mul(factors, factor));
            }
        }
        for c in 0..N {
            V::store(a.out.add((first + c) * a.out_stride), a.n_rows, acc[c], a.accumulate);
        }
    }
}
