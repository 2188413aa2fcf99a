//! What the 32-weight formats need: extremes of a block, truncating conversion, bit packing.
//!
//! Extremes are taken over the bit patterns as integers. Integer maxima may be regrouped freely, so these loops
//! vectorise; the few cases in which the order of the values matters are settled afterwards.

/// Largest magnitude.
#[inline(always)]
pub(crate) fn abs_max(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff)))
}

/// The value of largest magnitude with its sign: the first one on ties, +0 for a block of zeros.
#[inline(always)]
pub(crate) fn signed_abs_max(x: &[f32]) -> f32 {
    let max = abs_max(x);
    let has = |value: f32| x.iter().fold(false, |any, v| any | (v.to_bits() == value.to_bits()));
    match (has(max), has(-max)) {
        _ if max == 0.0 => 0.0,
        (true, false) => max,
        (false, _) => -max,
        (true, true) => x.iter().copied().find(|v| v.abs() == max).unwrap_or(max),
    }
}

/// Smallest and largest value; of zeros with different signs, the first.
#[inline(always)]
pub(crate) fn min_max(x: &[f32]) -> (f32, f32) {
    // Flipping the lower bits of negative values makes the integers rise with the floats.
    let key = |bits: u32| bits as i32 ^ ((bits as i32 >> 31) & 0x7fff_ffff);
    let (min, max) = x.iter().fold((i32::MAX, i32::MIN), |(min, max), v| {
        let key = key(v.to_bits());
        (min.min(key), max.max(key))
    });
    let value = |k: i32| {
        let value = f32::from_bits(key(k as u32) as u32);
        if value == 0.0 { x.iter().copied().find(|v| *v == 0.0).unwrap_or(value) } else { value }
    };
    (value(min), value(max))
}

/// `1 / d`, or 0 for 0.
#[inline(always)]
pub(crate) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// `v` without its fraction; `i32::MIN` where that does not fit or `v` is NaN.
///
/// Blocks of denormals have infinite inverse scales, so this happens; the reference quantiser's conversion
/// instruction answers the same, of which the formats then store the low byte, 0.
#[inline(always)]
pub(crate) fn truncate(v: f32) -> i32 {
    if v.abs() < 2_147_483_648.0 { v as i32 } else { i32::MIN }
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

    #[test]
    fn extremes_settle_ties_by_position() {
        let mut x = [0.5f32; 32];
        x[3] = -2.0;
        x[9] = 2.0;
        assert_eq!(signed_abs_max(&x), -2.0);
        assert_eq!(min_max(&x), (-2.0, 2.0));
        x[2] = 2.0;
        assert_eq!(signed_abs_max(&x), 2.0);
        let zeros = [-0.0f32; 32];
        assert_eq!(signed_abs_max(&zeros).to_bits(), 0);
        let mut x = [0.0f32; 32];
        x[5] = -0.0;
        assert_eq!(min_max(&x).0.to_bits(), 0, "the first zero counts");
        x[0] = -0.0;
        assert_eq!(min_max(&x).0.to_bits(), 0x8000_0000);
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
