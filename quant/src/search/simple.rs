//! What the formats without a search need: extremes of a block, truncating conversion, bit packing.
//!
//! Here a vector holds neighbouring weights. Extremes may be taken in any order except where magnitudes tie or zeros
//! have different signs, which is settled afterwards.

use crate::lanes::{Lanes, MAX_LANES, Simd};

// Plain loops throughout: a closure with lane operations is compiled on its own before it is inlined, and on its own it
// lacks the instruction set.

/// The lanes of a vector.
#[inline(always)]
fn lanes<F: Lanes>(v: F) -> [f32; MAX_LANES] {
    let mut lanes = [0f32; MAX_LANES];
    v.store(&mut lanes);
    lanes
}

/// Largest magnitude. The length of `x` is a multiple of [`MAX_LANES`], as everywhere in this module.
#[inline(always)]
pub(crate) fn abs_max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut max = s.splat(0.0);
    for x in x.chunks_exact(S::W) {
        max = s.load(x).abs().max(max);
    }
    // Magnitudes are ordered as their bits, and integer maxima vectorise.
    f32::from_bits(lanes(max).iter().fold(0, |max, v| max.max(v.to_bits())))
}

/// Smallest and largest value; of zeros with different signs, any.
#[inline(always)]
fn extremes<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = (s.load(x), s.load(x));
    for x in x.chunks_exact(S::W) {
        let v = s.load(x);
        low = v.min(low);
        high = v.max(high);
    }
    let (mut low, mut high) = (lanes(low), lanes(high));
    let mut half = S::W / 2;
    while half > 0 {
        for i in 0..half {
            low[i] = if low[i + half] < low[i] { low[i + half] } else { low[i] };
            high[i] = if high[i + half] > high[i] { high[i + half] } else { high[i] };
        }
        half /= 2;
    }
    (low[0], high[0])
}

/// The value of largest magnitude with its sign: the first one on ties, +0 for a block of zeros.
///
/// By both extremes, whose comparison needs no branch: where looking for the magnitude with either sign branches, every
/// second block is guessed wrong.
#[inline(always)]
pub(crate) fn signed_abs_max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (low, high) = extremes(s, x);
    if high == -low {
        return if high == 0.0 { 0.0 } else { x.iter().copied().find(|v| v.abs() == high).unwrap_or(high) };
    }
    let (low, high) = (s.splat(low), s.splat(high));
    lanes(S::F::select((-low).lt(high), high, low))[0]
}

/// Smallest and largest value; of zeros with different signs, the first.
#[inline(always)]
pub(crate) fn min_max<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let (low, high) = extremes(s, x);
    let first_zero = |value: f32| {
        if value == 0.0 { x.iter().copied().find(|v| *v == 0.0).unwrap_or(value) } else { value }
    };
    (first_zero(low), first_zero(high))
}

/// `(x − low)·inverse + offset` without fractions.
#[inline(always)]
pub(crate) fn truncated<S: Simd>(s: S, x: &[f32; 32], low: f32, inverse: f32, offset: f32) -> [i32; 32] {
    let (low, inverse, offset) = (s.splat(low), s.splat(inverse), s.splat(offset));
    let mut out = [0i32; 32];
    for (out, x) in out.chunks_exact_mut(S::W).zip(x.chunks_exact(S::W)) {
        ((s.load(x) - low) * inverse + offset).store_truncated(out);
    }
    out
}

/// `x·inverse` rounded to the nearest integer, halves away from zero.
///
/// Adding the number just below one half before truncation keeps 0.49999997 from rounding up.
#[inline(always)]
pub(crate) fn rounded_half_away<S: Simd>(s: S, x: &[f32; 32], inverse: f32) -> [i32; 32] {
    let (zero, inverse, half) = (s.splat(0.0), s.splat(inverse), s.splat(0.5f32.next_down()));
    let mut out = [0i32; 32];
    for (out, x) in out.chunks_exact_mut(S::W).zip(x.chunks_exact(S::W)) {
        let v = s.load(x) * inverse;
        (v + S::F::select(v.lt(zero), -half, half)).store_truncated(out);
    }
    out
}

/// Codes out of integers: the low byte, read as signed, and at most `limit`.
#[inline(always)]
pub(crate) fn limited<S: Simd>(s: S, v: &[i32; 32], limit: i8) -> [u8; 32] {
    let mut out = s.low_bytes(v);
    for out in &mut out {
        *out = (*out as i8).min(limit) as u8;
    }
    out
}

/// `1 / d`, or 0 for 0.
#[inline(always)]
pub(crate) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// `σ²` of a row: the mean square, summed in order.
#[inline(always)]
pub(crate) fn mean_square(row: &[f32]) -> f32 {
    row.iter().fold(0f32, |sum, v| sum + v * v) / row.len() as f32
}

/// Packs 32 codes of 4 bits: byte j holds code j in its low and code j + 16 in its high nibble.
#[inline(always)]
pub(crate) fn pack_halves(codes: &[u8; 32], qs: &mut [u8]) {
    let (low, high) = codes.split_at(16);
    for ((q, low), high) in qs.iter_mut().zip(low).zip(high) {
        *q = (low & 15) | (high << 4);
    }
}

/// Gathers bit 4 of 32 codes: bit j of the result belongs to code j.
#[inline(always)]
pub(crate) fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let mut bits = [0u8; 4];
    for (bits, codes) in bits.iter_mut().zip(codes.as_chunks::<8>().0) {
        // The factor moves bit 8j to bit 56 + j; no two products meet, so nothing carries.
        let word = u64::from_le_bytes(*codes) >> 4 & 0x0101_0101_0101_0101;
        *bits = (word.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
    bits
}

/// Undoes [`pack_halves`] and [`fifth_bits`].
#[inline(always)]
pub(crate) fn unpack_fifth(qh: [u8; 4], qs: &[u8], codes: &mut [u8; 32]) {
    let bits = u32::from_le_bytes(qh);
    let (low, high) = codes.split_at_mut(16);
    for (j, ((low, high), q)) in low.iter_mut().zip(high).zip(qs).enumerate() {
        *low = (q & 15) | ((bits >> j & 1) << 4) as u8;
        *high = (q >> 4) | ((bits >> (j + 16) & 1) << 4) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{Portable, truncate};

    const S: Portable<4> = Portable;

    #[test]
    fn extremes_settle_ties_by_position() {
        let mut x = [0.5f32; 32];
        x[3] = -2.0;
        x[9] = 2.0;
        assert_eq!(signed_abs_max(S, &x), -2.0);
        assert_eq!(min_max(S, &x), (-2.0, 2.0));
        x[2] = 2.0;
        assert_eq!(signed_abs_max(S, &x), 2.0);
        let zeros = [-0.0f32; 32];
        assert_eq!(signed_abs_max(S, &zeros).to_bits(), 0);
        let mut x = [0.0f32; 32];
        x[5] = -0.0;
        assert_eq!(min_max(S, &x).0.to_bits(), 0, "the first zero counts");
        x[0] = -0.0;
        assert_eq!(min_max(S, &x).0.to_bits(), 0x8000_0000);
    }

    #[test]
    fn rounding_agrees_with_the_library() {
        let check = |values: &[f32; 32]| {
            for (v, got) in values.iter().zip(rounded_half_away(S, values, 1.0)) {
                assert_eq!(got, v.round() as i32, "{v:e}");
            }
        };
        for bits in (0..0x4300_0000u32).step_by(32 * 61) {
            let values = std::array::from_fn(|i| f32::from_bits(bits + 61 * i as u32));
            check(&values);
            check(&values.map(|v| -v));
        }
        for k in -128i16..128 {
            let tie = f32::from(k) + 0.5;
            check(&std::array::from_fn(|i| [tie.next_down(), tie, tie.next_up()][i % 3]));
        }
    }

    #[test]
    fn fifth_bits_match_a_plain_loop() {
        let mut state = 7u32;
        for _ in 0..200 {
            let codes: [u8; 32] = std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8 & 31
            });
            let bits = codes.iter().enumerate().fold(0u32, |bits, (j, c)| bits | u32::from(c >> 4) << j);
            assert_eq!(fifth_bits(&codes), bits.to_le_bytes());
            let mut qs = [0u8; 16];
            pack_halves(&codes, &mut qs);
            let mut back = [0u8; 32];
            unpack_fifth(fifth_bits(&codes), &qs, &mut back);
            assert_eq!(back, codes);
        }
    }

    #[test]
    fn truncation_of_what_does_not_fit_is_the_smallest_integer() {
        assert_eq!(truncate(-3.99), -3);
        assert_eq!(truncate(16.5), 16);
        for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2_147_483_648.0, -2_147_483_648.0, 1e30] {
            assert_eq!(truncate(v), i32::MIN, "{v}");
        }
    }
}
