//! Element-wise functions, one element after the other.
//!
//! All are `unsafe fn` only because tables hold such pointers; lengths are checked by slicing and zipping.

use crate::act::TINY;
use crate::fixed::{LANES, ROW_NORM, Weights};

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
/// `out` must be valid for 16 pairs at every stride.
pub(super) unsafe fn pair(low: &[f32], high: &[f32], magic: f32, out: *mut f32, stride: usize) {
    for (i, (low, high)) in low.iter().zip(high).enumerate() {
        let [low, high] = [low, high].map(|x| (x + magic).to_bits() & 0xffff);
        // SAFETY: promised by the caller.
        unsafe { out.add(i / LANES * stride + i % LANES).write(f32::from_bits(low | high << 16)) };
    }
}

/// See [`crate::fixed::PairKernels::largest`].
///
/// # Safety
/// None.
pub(super) unsafe fn largest(x: &[f32]) -> u32 {
    x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0)
}

/// See [`crate::fixed::FixedKernels::soften`].
///
/// # Safety
/// None.
pub(super) unsafe fn soften(scores: &mut [f32], q: &mut [i16], factors: &mut [f32]) -> f32 {
    // SAFETY: neither asks for anything.
    let sum = unsafe { exp_sum(scores, max(scores)) };
    crate::fixed::row(scores, ROW_NORM, q, factors);
    sum
}

/// See [`crate::fixed::FixedKernels::weigh`]: query by query.
///
/// # Safety
/// None.
pub(super) unsafe fn weigh(scores: &mut [f32], stride: usize, n: usize, w: &mut Weights, pairs: &mut [f32]) {
    let (mut largest, mut squares) = ([f32::NEG_INFINITY; LANES], [0f32; LANES]);
    let (mut scale, mut sums) = ([0f32; LANES], [0u32; LANES]);
    for l in 0..LANES {
        let seen = n.min(w.seen[l] as usize);
        let of = |key: usize| key * stride + l;
        for key in 0..seen {
            largest[l] = if scores[of(key)] > largest[l] { scores[of(key)] } else { largest[l] };
        }
        for key in 0..n {
            let weight = if key < seen { (scores[of(key)] - largest[l]).exp() } else { 0.0 };
            scores[of(key)] = weight;
            squares[l] += weight * weight;
        }
        scale[l] = Weights::scale(squares[l]);
        let code = |key: usize| if key < n { (scores[of(key)] * scale[l]).round_ties_even() as u32 } else { 0 };
        for (i, pair) in pairs.chunks_exact_mut(LANES).take(n.div_ceil(2)).enumerate() {
            let (low, high) = (code(2 * i), code(2 * i + 1));
            sums[l] += low + high;
            pair[l] = f32::from_bits(low | high << 16);
        }
    }
    w.take(&largest, &squares, &scale, &sums, f32::exp);
}
