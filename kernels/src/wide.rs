//! Element-wise functions for every vector instruction set, written once.
//!
//! Plain Rust over fixed numbers of lanes: an instruction set instantiates it with [`wide_functions!`] inside functions
//! that have its features, and the compiler vectorises it there. Lane counts are fixed, so that all vector tables give
//! the same bits. `mul_add` is one instruction wherever this is instantiated.

use crate::act::TINY;
use crate::fixed::{TILE, WEIGHT_NORM, Weights};
use crate::table::Reach;

/// Lanes of every accumulator.
const LANES: usize = 16;

/// `1.5·2²³`: adding it rounds to the nearest integer (ties to even) and leaves that integer in the low bits.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// The bits of half precision from which on it is not finite, without the sign.
pub(crate) const HALF_INFINITY: u16 = 0x7c00;

/// `exp(x)` within 2 ulp: `2ⁿ·exp(r)`, `|r| ≤ ln2 / 2`, with the Taylor polynomial of degree 7 (remainder below
/// `0.35⁸/8! < 6e-9`). Below −87.3 the result is 0, above 88.3 it is that of 88.3; NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let clamped = if x > 88.3 { 88.3 } else { x };
    let clamped = if clamped < -87.3 { -87.3 } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    // ln 2 in two parts: the first has few enough bits that its product with n is exact.
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = r.mul_add(1.0 / 5040.0, 1.0 / 720.0);
    let p = p.mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0);
    let p = p.mul_add(r, 1.0 / 6.0);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r, 1.0);
    let p = p.mul_add(r, 1.0);
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { p * power }
}

/// Adds the lanes pairwise.
#[inline(always)]
fn sum(lanes: &[f32; LANES]) -> f32 {
    // Without the barrier, compilers cut the loop that made the lanes into the pieces that are added here: seven sums of 2 or 4
    // lanes instead of one of 16.
    let mut v = std::hint::black_box(*lanes);
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            v[i] += v[i + n];
        }
        n /= 2;
    }
    v[0]
}

#[inline(always)]
pub(crate) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [[0f32; LANES]; 2];
    let (a2, a_rest) = a.as_chunks::<{ 2 * LANES }>();
    let (b2, b_rest) = b.as_chunks::<{ 2 * LANES }>();
    for (a, b) in a2.iter().zip(b2) {
        for half in 0..2 {
            for l in 0..LANES {
                acc[half][l] = a[half * LANES + l].mul_add(b[half * LANES + l], acc[half][l]);
            }
        }
    }
    let [mut low, high] = acc;
    for (low, high) in low.iter_mut().zip(high) {
        *low += high;
    }
    for ((a, b), acc) in a_rest.iter().zip(b_rest).zip((0..2 * LANES).map(|l| l % LANES)) {
        low[acc] = a.mul_add(*b, low[acc]);
    }
    sum(&low)
}

#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            acc[l] = if x[l] > acc[l] { x[l] } else { acc[l] };
        }
    }
    rest.iter().chain(&acc).fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m })
}

/// Sum and largest of the magnitudes.
#[inline(always)]
pub(crate) fn magnitudes(x: &[f32]) -> (f32, f32) {
    let (mut sums, mut largest) = ([0f32; LANES], [0f32; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut last = [0f32; LANES];
    last[..rest.len()].copy_from_slice(rest);
    for x in chunks.iter().chain([&last]) {
        for l in 0..LANES {
            let value = x[l].abs();
            sums[l] += value;
            largest[l] = if value > largest[l] { value } else { largest[l] };
        }
    }
    (sum(&sums), largest.into_iter().fold(0.0, f32::max))
}

/// Largest magnitude of a unit of activations.
#[inline(always)]
fn largest<const N: usize>(x: &[f32; N]) -> f32 {
    let mut acc = [0f32; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for l in 0..LANES {
            let a = x[l].abs();
            acc[l] = if a > acc[l] { a } else { acc[l] };
        }
    }
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            acc[i] = if acc[i + n] > acc[i] { acc[i + n] } else { acc[i] };
        }
        n /= 2;
    }
    acc[0]
}

/// Codes of one unit; `|x·scale|` is at most 127 up to rounding, so the low byte of the shifted sum is the code.
#[inline(always)]
fn codes<const N: usize>(x: &[f32; N], scale: f32, q: &mut [i8; N]) {
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * scale + MAGIC).to_bits() as i8;
    }
}

#[inline(always)]
fn sums<const N: usize>(q: &[i8], sums: &mut [i16]) {
    for (sum, q) in sums.iter_mut().zip(q.as_chunks::<N>().0) {
        *sum = q.iter().map(|q| i16::from(*q)).sum();
    }
}

#[inline(always)]
pub(crate) fn quantize_q8k(x: &[f32], q: &mut [i8], d: &mut [f32], sums16: &mut [i16], sums32: &mut [i16]) {
    for ((x, codes_out), d) in x.as_chunks::<256>().0.iter().zip(q.as_chunks_mut::<256>().0).zip(d) {
        let largest = largest(x);
        let scale = if largest < TINY { 0.0 } else { 127.0 / largest };
        *d = if largest < TINY { 0.0 } else { 1.0 / scale };
        codes(x, scale, codes_out);
    }
    sums::<16>(q, sums16);
    for (sum, pair) in sums32.iter_mut().zip(sums16.as_chunks::<2>().0) {
        *sum = pair[0] + pair[1];
    }
}

/// See [`crate::table::KernelTable::reach`].
#[inline(always)]
pub(crate) fn reach(q: &[i8], out: &mut [Reach]) {
    for (q, out) in q.as_chunks::<256>().0.iter().zip(out) {
        *out = Reach::default();
        for q in q.as_chunks::<32>().0 {
            let (mut above, mut below) = ([0u16; 2], [0u16; 2]);
            for ((q, above), below) in q.as_chunks::<16>().0.iter().zip(&mut above).zip(&mut below) {
                *above = q.iter().map(|q| u16::from(q.max(&0).unsigned_abs())).sum();
                *below = q.iter().map(|q| u16::from(q.min(&0).unsigned_abs())).sum();
                out.all16 = out.all16.max(*above + *below);
            }
            out.one_sign32 = out.one_sign32.max(above[0] + above[1]).max(below[0] + below[1]);
        }
    }
}

#[inline(always)]
pub(crate) fn quantize_q8b(x: &[f32], q: &mut [i8], d: &mut [f32], sums32: &mut [i16], pairs: bool) {
    let blocks = x.as_chunks::<32>().0;
    for (i, ((x, codes_out), d)) in blocks.iter().zip(q.as_chunks_mut::<32>().0).zip(d).enumerate() {
        let mut largest = largest(x);
        if let Some(other) = blocks.get(i ^ 1).filter(|_| pairs) {
            largest = largest.max(self::largest(other));
        }
        let scale = if largest < TINY { 0.0 } else { 127.0 / largest };
        *d = if largest < TINY { 0.0 } else { largest / 127.0 };
        codes(x, scale, codes_out);
    }
    sums::<32>(q, sums32);
}

/// See [`crate::table::KernelTable::q8_pairs`].
#[inline(always)]
pub(crate) fn q8_pairs(x: &[f32], out: &mut [u8]) -> bool {
    let mut fine = true;
    for (x, out) in x.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<68>().0) {
        fine &= x.iter().fold(true, |fine, x| fine & x.is_finite());
        let largest = largest(x);
        let (scale, back) = if largest < TINY { (0.0, 0.0) } else { (127.0 / largest, largest / 127.0) };
        let half = ocelli_quant::half_bits::f32_to_f16(back);
        fine &= half < HALF_INFINITY;
        let mut q = [0i8; 64];
        codes(x, scale, &mut q);
        for (out, q) in out.as_chunks_mut::<34>().0.iter_mut().zip(q.as_chunks::<32>().0) {
            out[..2].copy_from_slice(&half.to_le_bytes());
            for (out, code) in out[2..].iter_mut().zip(q) {
                *out = code.cast_unsigned();
            }
        }
    }
    fine
}

#[inline(always)]
pub(crate) fn rmsnorm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let mean = dot_f32(x, x) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
        *out = x * scale * w;
    }
}

/// Mean first, then the mean square of what is left: squares of large values minus a large square would cancel.
#[inline(always)]
pub(crate) fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut acc = [0f32; LANES];
    for x in chunks {
        for l in 0..LANES {
            acc[l] += x[l];
        }
    }
    for (x, acc) in rest.iter().zip(&mut acc) {
        *acc += *x;
    }
    let mean = sum(&acc) / n;
    acc = [0f32; LANES];
    for x in chunks {
        for l in 0..LANES {
            let d = x[l] - mean;
            acc[l] = d.mul_add(d, acc[l]);
        }
    }
    for (x, acc) in rest.iter().zip(&mut acc) {
        let d = x - mean;
        *acc = d.mul_add(d, *acc);
    }
    let scale = 1.0 / (sum(&acc) / n + eps).sqrt();
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(w).zip(b) {
        *out = ((x - mean) * scale).mul_add(*w, *b);
    }
}

/// `x/2·(1 + tanh u) = x / (1 + exp(−2u))`, which does not cancel where the tanh is near −1.
/// `2u = 2·√(2/π)·(x + 0.044715·x³)`.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    let twice = x * (x * x).mul_add(CUBIC, LINEAR);
    x / (1.0 + exp(-twice))
}

#[inline(always)]
pub(crate) fn bias_gelu(x: &mut [f32], bias: &[f32]) {
    for (x, b) in x.iter_mut().zip(bias) {
        *x = gelu(*x + b);
    }
}

#[inline(always)]
pub(crate) fn add_biased(x: &mut [f32], y: &[f32], bias: &[f32]) {
    for ((x, y), b) in x.iter_mut().zip(y).zip(bias) {
        *x += y + b;
    }
}

#[inline(always)]
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

#[inline(always)]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
pub(crate) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let mut acc = [0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            x[l] = exp(x[l] - max);
            acc[l] += x[l];
        }
    }
    for (x, acc) in rest.iter_mut().zip(&mut acc) {
        *x = exp(*x - max);
        *acc += *x;
    }
    sum(&acc)
}

#[inline(always)]
pub(crate) fn scale(x: &mut [f32], s: f32) {
    for x in x {
        *x *= s;
    }
}

#[inline(always)]
pub(crate) fn rope_interleaved(x: &mut [f32], cos_sin: &[f32]) {
    for (x, cs) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos_sin.as_chunks::<2>().0) {
        *x = [x[0] * cs[0] - x[1] * cs[1], x[1] * cs[0] + x[0] * cs[1]];
    }
}

#[inline(always)]
pub(crate) fn rope_halves(x: &mut [f32], cos_sin: &[f32]) {
    let (low, high) = x.split_at_mut(x.len() / 2);
    for ((a, b), cs) in low.iter_mut().zip(high).zip(cos_sin.as_chunks::<2>().0) {
        (*a, *b) = (*a * cs[0] - *b * cs[1], *b * cs[0] + *a * cs[1]);
    }
}

#[inline(always)]
#[allow(dead_code, reason = "a table may have something better for this slot")]
pub(crate) fn f32_to_f16(x: &[f32], out: &mut [u8]) {
    for (out, x) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
        *out = ocelli_quant::half_bits::f32_to_f16(*x).to_le_bytes();
    }
}

/// See [`crate::fixed::FixedKernels::weigh`].
#[inline(always)]
pub(crate) fn weigh(scores: &mut [[f32; TILE]], powers: &[f32; TILE], w: &mut Weights, codes: &mut [[i16; TILE]]) {
    for (query, (scores, codes)) in scores.iter_mut().zip(codes).enumerate() {
        let seen = w.seen[query];
        scores[seen..].fill(f32::NEG_INFINITY);
        // The power of a key that is not seen may be anything.
        let mut powers = *powers;
        powers[seen..].fill(0.0);
        let most = max(scores);
        let above = if most == f32::NEG_INFINITY { 0.0 } else { most };
        let [mut sums, mut squares, mut tops] = [[0f32; LANES]; 3];
        for (x, powers) in scores.as_chunks_mut::<LANES>().0.iter_mut().zip(powers.as_chunks::<LANES>().0) {
            for l in 0..LANES {
                let weight = exp(x[l] - above);
                sums[l] += weight;
                x[l] = weight * powers[l];
                squares[l] = x[l].mul_add(x[l], squares[l]);
                tops[l] = if x[l] > tops[l] { x[l] } else { tops[l] };
            }
        }
        let (scale, factor) = crate::fixed::scale(sum(&squares), largest(&tops), WEIGHT_NORM);
        if factor.is_nan() {
            codes.fill(0);
        } else {
            for (code, x) in codes.iter_mut().zip(scores) {
                *code = x.mul_add(scale, MAGIC).to_bits() as i16;
            }
        }
        w.take(query, most, sum(&sums), factor, exp);
    }
}

/// Makes the module `elem` with the functions above compiled for the features given.
macro_rules! wide_functions {
    ($features:literal) => {
        /// The portable element-wise functions, compiled for this instruction set.
        #[allow(dead_code, reason = "a table may have something better for a slot")]
        mod elem {
            use crate::fixed::{TILE, Weights};
            use crate::wide;

            crate::wide::wide_functions!(@each $features
                dot_f32(a: &[f32], b: &[f32]) -> f32;
                max(x: &[f32]) -> f32;
                magnitudes(x: &[f32]) -> (f32, f32);
                quantize_q8k(x: &[f32], q: &mut [i8], d: &mut [f32], sums16: &mut [i16], sums32: &mut [i16]) -> ();
                quantize_q8b(x: &[f32], q: &mut [i8], d: &mut [f32], sums32: &mut [i16], pairs: bool) -> ();
                reach(q: &[i8], out: &mut [crate::table::Reach]) -> ();
                q8_pairs(x: &[f32], out: &mut [u8]) -> bool;
                rmsnorm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) -> ();
                layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) -> ();
                bias_gelu(x: &mut [f32], bias: &[f32]) -> ();
                add_biased(x: &mut [f32], y: &[f32], bias: &[f32]) -> ();
                swiglu(gate: &mut [f32], up: &[f32]) -> ();
                add(x: &mut [f32], y: &[f32]) -> ();
                exp_sum(x: &mut [f32], max: f32) -> f32;
                scale(x: &mut [f32], s: f32) -> ();
                rope_interleaved(x: &mut [f32], cos_sin: &[f32]) -> ();
                rope_halves(x: &mut [f32], cos_sin: &[f32]) -> ();
                f32_to_f16(x: &[f32], out: &mut [u8]) -> ();
                weigh(scores: &mut [[f32; TILE]], powers: &[f32; TILE], w: &mut Weights, codes: &mut [[i16; TILE]]) -> ();
            );

            #[target_feature(enable = $features)]
            pub(super) fn dequantize<F: ocelli_quant::Format>(bytes: &[u8], out: &mut [f32]) {
                F::dequantize_row(bytes, out);
            }
        }
    };
    (@each $features:literal $($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)+) => {
        $(
            #[target_feature(enable = $features)]
            pub(super) fn $name($($arg: $ty),*) -> $ret {
                wide::$name($($arg),*)
            }
        )+
    };
}
pub(crate) use wide_functions;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0f64;
        for i in -873_000..883_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 2.0 / f64::from(1 << 23), "{worst:e}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn every_table_knows_what_codes_reach() {
        let mut state = 1u32;
        let mut q: Vec<i8> = (0..16 * 256)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 24) as u8).cast_signed().max(-127)
            })
            .collect();
        q[..256].fill(0);
        q[256..512].fill(127);
        q[512..768].fill(-127);
        q[768..1024].fill(0);
        // One group at the end of a unit.
        q[1008..1024].fill(-127);
        let want: Vec<Reach> = q
            .chunks(256)
            .map(|q| {
                let sum = |q: &[i8], sign: i32| q.iter().map(|q| (sign * i32::from(*q)).max(0)).sum::<i32>() as u16;
                let all16 = q.chunks(16).map(|q| sum(q, 1) + sum(q, -1)).max().unwrap();
                let one_sign32 = q.chunks(32).map(|q| sum(q, 1).max(sum(q, -1))).max().unwrap();
                Reach { one_sign32, all16 }
            })
            .collect();
        assert_eq!(
            want[..4].iter().map(|r| (r.one_sign32, r.all16)).collect::<Vec<_>>(),
            [(0, 0), (4064, 2032), (4064, 2032), (2032, 2032)]
        );
        let mut tables = crate::Kernels::available();
        #[cfg(feature = "emulated")]
        tables.extend(crate::Kernels::emulated());
        for (name, of) in tables.iter().filter_map(|k| Some((k.name(), k.table.reach?))).chain([("plain", reach as _)])
        {
            let mut got = vec![Reach::default(); q.len() / 256];
            // SAFETY: a place for every unit; the table's features were detected.
            unsafe { of(&q, &mut got) };
            assert_eq!(got, want, "{name}");
        }
    }
}
