//! Element-wise functions, one element after the other.
//!
//! All are `unsafe fn` only because tables hold such pointers; lengths are checked by slicing and zipping.

use crate::act::TINY;
use crate::fixed::{self, ROW_NORM, TILE, WEIGHT_NORM, Weights};

/// See [`crate::act`] for the arithmetic.
///
/// # Safety
/// None.
pub(super) unsafe fn quantize_q8k(x: &[f32], q: &mut [i8], d: &mut [f32], sums16: &mut [i16], sums32: &mut [i16]) {
    for (i, x) in x.as_chunks::<256>().0.iter().enumerate() {
        let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let scale = if largest < TINY { 0.0 } else { 127.0 / largest };
        d[i] = if largest < TINY { 0.0 } else { 1.0 / scale };
        codes(x, scale, &mut q[256 * i..256 * i + 256]);
    }
    sums::<16>(q, sums16);
    sums::<32>(q, sums32);
}

/// See [`crate::act`] for the arithmetic.
///
/// # Safety
/// None.
pub(super) unsafe fn quantize_q8b(x: &[f32], q: &mut [i8], d: &mut [f32], sums32: &mut [i16], pairs: bool) {
    let unit = if pairs { 64 } else { 32 };
    for (i, x) in x.chunks(unit).enumerate() {
        let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let scale = if largest < TINY { 0.0 } else { 127.0 / largest };
        d[i * unit / 32..][..x.len() / 32].fill(if largest < TINY { 0.0 } else { largest / 127.0 });
        codes(x, scale, &mut q[unit * i..][..x.len()]);
    }
    sums::<32>(q, sums32);
}

/// `round_half_even(x·scale)`, at most 127 in magnitude.
fn codes(x: &[f32], scale: f32, q: &mut [i8]) {
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * scale).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
}

/// Sums of `N` consecutive codes, at most 32·127.
fn sums<const N: usize>(q: &[i8], sums: &mut [i16]) {
    for (sum, q) in sums.iter_mut().zip(q.as_chunks::<N>().0) {
        *sum = q.iter().map(|q| i16::from(*q)).sum();
    }
}

/// Root mean square normalisation; the mean is summed in f64, so that the reference has no order to speak of.
///
/// # Safety
/// None.
pub(super) unsafe fn rmsnorm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let sum: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    let mean = (sum / x.len() as f64) as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
        *out = x * scale * w;
    }
}

/// Layer normalisation; mean and variance are summed in f64, so that the reference has no order to speak of.
///
/// # Safety
/// None.
pub(super) unsafe fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f64;
    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + f64::from(eps)).sqrt();
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(w).zip(b) {
        *out = ((f64::from(*x) - mean) * scale) as f32 * w + b;
    }
}

/// `gelu(x) = x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, in f64.
///
/// # Safety
/// None.
pub(super) unsafe fn bias_gelu(x: &mut [f32], bias: &[f32]) {
    for (x, b) in x.iter_mut().zip(bias) {
        let v = f64::from(*x + b);
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
        *x = (0.5 * v * (1.0 + inner.tanh())) as f32;
    }
}

/// Adds a row and a bias.
///
/// # Safety
/// None.
pub(super) unsafe fn add_biased(x: &mut [f32], y: &[f32], bias: &[f32]) {
    for ((x, y), b) in x.iter_mut().zip(y).zip(bias) {
        *x += y + b;
    }
}

/// `silu(g)·u`, `silu(g) = g / (1 + exp(−g))`.
///
/// # Safety
/// None.
pub(super) unsafe fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + (-*g).exp()) * u;
    }
}

/// Adds.
///
/// # Safety
/// None.
pub(super) unsafe fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Largest value.
///
/// # Safety
/// None.
pub(super) unsafe fn max(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v))
}

/// Sum and largest of the magnitudes, in the order of the other tables: whether a row has outliers must not depend on them.
///
/// # Safety
/// None.
pub(super) unsafe fn magnitudes(x: &[f32]) -> (f32, f32) {
    crate::wide::magnitudes(x)
}

/// Blocks of Q8_0 in pairs.
///
/// # Safety
/// None.
pub(super) unsafe fn q8_pairs(x: &[f32], out: &mut [u8]) -> bool {
    crate::wide::q8_pairs(x, out)
}

/// Exponentials relative to `max`, and their sum.
///
/// # Safety
/// None.
pub(super) unsafe fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let mut sum = 0.0;
    for x in x {
        *x = (*x - max).exp();
        sum += *x;
    }
    sum
}

/// Scales.
///
/// # Safety
/// None.
pub(super) unsafe fn scale(x: &mut [f32], s: f32) {
    for x in x {
        *x *= s;
    }
}

/// Rotates neighbours: `(a, b) → (a·cos − b·sin, b·cos + a·sin)`.
///
/// # Safety
/// None.
pub(super) unsafe fn rope_interleaved(x: &mut [f32], cos_sin: &[f32]) {
    for (x, cs) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos_sin.as_chunks::<2>().0) {
        *x = [x[0] * cs[0] - x[1] * cs[1], x[1] * cs[0] + x[0] * cs[1]];
    }
}

/// Rotates element i with element i + n/2.
///
/// # Safety
/// None.
pub(super) unsafe fn rope_halves(x: &mut [f32], cos_sin: &[f32]) {
    let (low, high) = x.split_at_mut(x.len() / 2);
    for ((a, b), cs) in low.iter_mut().zip(high).zip(cos_sin.as_chunks::<2>().0) {
        (*a, *b) = (*a * cs[0] - *b * cs[1], *b * cs[0] + *a * cs[1]);
    }
}

/// Rounds to half precision, to nearest even.
///
/// # Safety
/// None.
pub(super) unsafe fn f32_to_f16(x: &[f32], out: &mut [u8]) {
    for (out, x) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
        *out = ocelli_quant::half_bits::f32_to_f16(*x).to_le_bytes();
    }
}

/// See [`crate::fixed::PairKernels::pair`].
///
/// # Safety
/// None.
pub(super) unsafe fn pair(low: &[f32], high: &[f32], magic: [f32; 2], out: &mut [f32]) {
    for ((low, high), out) in low.iter().zip(high).zip(out) {
        let code = |x: f32, magic: f32| (x + magic).to_bits() & 0xffff;
        *out = f32::from_bits(code(*low, magic[0]) | code(*high, magic[1]) << 16);
    }
}

/// See [`crate::fixed::PairKernels::spread`].
///
/// # Safety
/// None.
pub(super) unsafe fn spread(x: &[f32]) -> (f32, f32) {
    fixed::spread(x)
}

/// See [`crate::fixed::FixedKernels::soften`].
///
/// # Safety
/// None.
pub(super) unsafe fn soften(scores: &mut [f32], q: &mut [i16], factors: &mut [f32]) -> f32 {
    // SAFETY: neither asks for anything.
    let sum = unsafe { exp_sum(scores, max(scores)) };
    fixed::row(scores, ROW_NORM, q, factors);
    sum
}

/// See [`crate::fixed::FixedKernels::weigh`].
///
/// # Safety
/// None.
pub(super) unsafe fn weigh(
    scores: &mut [[f32; TILE]],
    powers: &[f32; TILE],
    w: &mut Weights,
    codes: &mut [[i16; TILE]],
) {
    for (l, (scores, codes)) in scores.iter_mut().zip(codes).enumerate() {
        let (seen, unseen) = scores.split_at_mut(w.seen[l]);
        unseen.fill(0.0);
        let largest = seen.iter().fold(f32::NEG_INFINITY, |most, score| if *score > most { *score } else { most });
        let mut sum = 0.0;
        for (score, power) in seen.iter_mut().zip(powers) {
            let weight = (*score - if largest == f32::NEG_INFINITY { 0.0 } else { largest }).exp();
            sum += weight;
            *score = weight * power;
        }
        let squares: f32 = scores.iter().map(|x| x * x).sum();
        let (scale, factor) = fixed::scale(squares, scores.iter().copied().fold(0.0, f32::max), WEIGHT_NORM);
        for (code, x) in codes.iter_mut().zip(scores) {
            *code = (*x * scale).round_ties_even() as i16;
        }
        w.take(l, largest, sum, factor, f32::exp);
    }
}
