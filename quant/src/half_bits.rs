//! Conversions between f32 and the 16-bit floats, as straight-line integer code.
//!
//! Library conversions look for hardware support on every call, which keeps a loop from being vectorised. These are
//! a handful of integer operations without a branch; the compiler vectorises them for whatever it is compiled for.

/// The f16 nearest to `x` (ties to even): subnormals kept, overflow to infinity, every NaN to `sign | 0x7e00`.
#[inline(always)]
#[must_use]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let mag = bits & 0x7fff_ffff;
    // Normal results: add half an ulp (less one when the kept part is even), rebias the exponent by 112.
    let rounded = mag.wrapping_add(0x0fff + ((mag >> 13) & 1));
    let normal = (rounded.wrapping_sub(112 << 23) >> 13).min(0x7c00);
    // Subnormal results: one ulp of 0.5 is 2^-24, the unit of f16's subnormals, so the addition does the rounding.
    let subnormal = (f32::from_bits(mag) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if mag < 0x3880_0000 { subnormal } else { normal };
    let finite_or_inf = if mag >= 0x4780_0000 { 0x7c00 } else { finite };
    (sign | if mag > 0x7f80_0000 { 0x7e00 } else { finite_or_inf }) as u16
}

/// The value of f16 bits; exact. NaNs keep their payload and become quiet.
#[inline(always)]
#[must_use]
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let mag = u32::from(h & 0x7fff);
    let normal = (mag << 13) + (112 << 23);
    let special = (mag << 13) | 0x7f80_0000 | if mag > 0x7c00 { 0x0040_0000 } else { 0 };
    // i32 and not u32: signed conversion is one instruction everywhere.
    let subnormal = (mag as i32 as f32 * (1.0 / 16_777_216.0)).to_bits();
    let finite = if mag < 0x0400 { subnormal } else { normal };
    f32::from_bits(sign | if mag >= 0x7c00 { special } else { finite })
}

/// The bf16 nearest to `x` (ties to even); NaNs keep sign and upper payload and become quiet.
#[inline(always)]
#[must_use]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { (bits >> 16) | 0x40 } else { rounded }) as u16
}

/// The value of bf16 bits; exact.
#[inline(always)]
#[must_use]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// The f16 stored at `offset` of a block.
#[inline(always)]
pub(crate) fn read_f16<const B: usize>(block: &[u8; B], offset: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[offset], block[offset + 1]]))
}

/// Stores `x` as f16 at `offset` of a block and returns the stored value.
#[inline(always)]
pub(crate) fn write_f16<const B: usize>(block: &mut [u8; B], offset: usize, x: f32) -> f32 {
    let h = f32_to_f16(x);
    block[offset..offset + 2].copy_from_slice(&h.to_le_bytes());
    f16_to_f32(h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16_widens_exactly() {
        for h in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(h), half::f16::from_bits(h).to_f32());
            assert_eq!(ours.to_bits(), theirs.to_bits(), "f16 {h:#06x}");
            let (ours, theirs) = (bf16_to_f32(h), f32::from_bits(u32::from(h) << 16));
            assert_eq!(ours.to_bits(), theirs.to_bits(), "bf16 {h:#06x}");
        }
    }

    #[test]
    fn narrowing_agrees_with_half_over_all_exponents_and_ties() {
        let check = |bits: u32| {
            let x = f32::from_bits(bits);
            let f16 = if x.is_nan() { (bits >> 16) as u16 & 0x8000 | 0x7e00 } else { half::f16::from_f32(x).to_bits() };
            assert_eq!(f32_to_f16(x), f16, "f16 of {bits:#010x}");
            assert_eq!(f32_to_bf16(x), half::bf16::from_f32(x).to_bits(), "bf16 of {bits:#010x}");
        };
        (0..=u32::MAX).step_by(977).for_each(check);
        // Around every value that f16 can hold and every midpoint between two of them.
        for h in 0..0x7c00u16 {
            let bits = f16_to_f32(h).to_bits();
            for half_ulp in [0, 0x1000] {
                for nudge in -1i32..=1 {
                    check((bits + half_ulp).wrapping_add_signed(nudge));
                    check((bits + half_ulp).wrapping_add_signed(nudge) | 0x8000_0000);
                }
            }
        }
        // Subnormals' midpoints lie elsewhere.
        for k in 0..2048u32 {
            let x = (k as f32 + 0.5) / 16_777_216.0;
            for nudge in -1i32..=1 {
                check(x.to_bits().wrapping_add_signed(nudge));
            }
        }
        [0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0xffc0_0000, 0x477f_efff, 0x477f_f000, 0x4780_0000]
            .into_iter()
            .for_each(check);
    }
}
