//! Stored rows into panels.

use std::arch::x86_64::*;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock};

use super::MR;
use crate::table::Pack;

/// Bytes of the codes of a super-block of a panel.
pub(crate) const SUPER_CODES: usize = 256 * MR;

/// Bytes of one super-block of a panel whose scales belong to groups of `group` weights.
pub(crate) const fn super_bytes(group: usize) -> usize {
    let groups = 256 / group;
    SUPER_CODES + groups * 4 * MR + groups / 2 * 4 * MR + 2 * 4 * MR
}

/// Bytes of the codes of a block of a panel.
pub(crate) const BLOCK_CODES: usize = 32 * MR;

/// Bytes of one block of a panel.
pub(crate) const BLOCK_BYTES: usize = BLOCK_CODES + 2 * 4 * MR;

/// Bytes of the codes of a block of a panel of signed codes, 16 bits each.
pub(crate) const SIGNED_CODES: usize = 2 * BLOCK_CODES;

/// Bytes of one block of a panel of signed codes.
pub(crate) const SIGNED_BYTES: usize = SIGNED_CODES + 4 * MR;

/// Writes 32 codes of each of 8 rows in steps of 4: step s, row r at `dst + 64·s + 4·r`. This is the transpose of an
/// 8 × 8 matrix of 32-bit elements.
///
/// # Safety
/// The rows must have 32 readable bytes; `dst` must be writable for 7·64 + 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn interleave(rows: [*const u8; 8], dst: *mut u8) {
    // SAFETY: promised by the caller.
    let r = rows.map(|p| unsafe { _mm256_loadu_si256(p.cast()) });
    let mut t = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // u[h][k]: rows 4h…4h+3 at steps k (low lane) and k + 4 (high lane).
    let u = [0, 4].map(|i| {
        [
            _mm256_unpacklo_epi64(t[i], t[i + 2]),
            _mm256_unpackhi_epi64(t[i], t[i + 2]),
            _mm256_unpacklo_epi64(t[i + 1], t[i + 3]),
            _mm256_unpackhi_epi64(t[i + 1], t[i + 3]),
        ]
    });
    for k in 0..4 {
        // SAFETY: promised by the caller.
        unsafe {
            _mm256_storeu_si256(dst.add(64 * k).cast(), _mm256_permute2x128_si256::<0x20>(u[0][k], u[1][k]));
            _mm256_storeu_si256(dst.add(64 * (k + 4)).cast(), _mm256_permute2x128_si256::<0x31>(u[0][k], u[1][k]));
        }
    }
}

/// See [`crate::table::IntKernels::pack`].
///
/// # Safety
/// Lengths as [`Pack`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn pack_super<F: Unpack<Unit = SuperBlock>>(a: &mut Pack) {
    let mut units = [SuperBlock::default(); MR];
    let groups = 256 / F::GROUP;
    for (i, panel) in a.panel.chunks_exact_mut(super_bytes(F::GROUP)).take(a.units).enumerate() {
        for (r, unit) in units.iter_mut().enumerate().take(a.n_rows) {
            let at = r * a.row_bytes + i * F::BLOCK_BYTES;
            F::unpack(&a.rows[at..at + F::BLOCK_BYTES], unit);
        }
        let (codes, rest) = panel.split_at_mut(SUPER_CODES);
        for half in 0..2 {
            for column in 0..8 {
                let rows = std::array::from_fn(|r| units[8 * half + r].codes[32 * column..].as_ptr());
                // SAFETY: 32 codes remain at `column`; step 8·column + 7 of the second half ends at byte
                // 64·(8·column + 7) + 64 ≤ SUPER_CODES.
                unsafe { interleave(rows, codes[512 * column + 32 * half..].as_mut_ptr()) };
            }
        }
        let (scales, rest) = rest.split_at_mut(groups * 4 * MR);
        let per = F::GROUP / 16;
        for (g, line) in scales.as_chunks_mut::<{ 4 * MR }>().0.iter_mut().enumerate() {
            for (slot, unit) in line.as_chunks_mut::<4>().0.iter_mut().zip(&units) {
                *slot = (u32::from(unit.scales[g * per] as u16) * 0x1_0001).to_le_bytes();
            }
        }
        let (mins, floats) = rest.split_at_mut(groups / 2 * 4 * MR);
        for (g, line) in mins.as_chunks_mut::<{ 4 * MR }>().0.iter_mut().enumerate() {
            for (slot, unit) in line.as_chunks_mut::<4>().0.iter_mut().zip(&units) {
                let (low, high) = (unit.mins[2 * g * per] as u16, unit.mins[(2 * g + 1) * per] as u16);
                *slot = (u32::from(low) | u32::from(high) << 16).to_le_bytes();
            }
        }
        let (d, dmin) = floats.split_at_mut(4 * MR);
        for ((d, dmin), unit) in d.as_chunks_mut::<4>().0.iter_mut().zip(dmin.as_chunks_mut::<4>().0).zip(&units) {
            *d = unit.d.to_le_bytes();
            *dmin = unit.dmin.to_le_bytes();
        }
    }
}

/// See [`crate::table::IntKernels::pack`]. Signed codes get their top bit flipped, which adds 128 and makes them
/// unsigned; who multiplies takes that off again.
///
/// # Safety
/// Lengths as [`Pack`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn pack_block<F: Unpack<Unit = Block32>>(a: &mut Pack) {
    let mut units = [Block32::default(); MR];
    for (i, panel) in a.panel.chunks_exact_mut(BLOCK_BYTES).take(a.units).enumerate() {
        for (r, unit) in units.iter_mut().enumerate().take(a.n_rows) {
            let at = r * a.row_bytes + i * F::BLOCK_BYTES;
            F::unpack(&a.rows[at..at + F::BLOCK_BYTES], unit);
            if F::SIGNED {
                unit.codes.iter_mut().for_each(|code| *code ^= 0x80);
            }
        }
        let (codes, floats) = panel.split_at_mut(BLOCK_CODES);
        for half in 0..2 {
            let rows = std::array::from_fn(|r| units[8 * half + r].codes.as_ptr());
            // SAFETY: a block has 32 codes; step 7 of the second half ends at byte 64·7 + 64 = BLOCK_CODES.
            unsafe { interleave(rows, codes[32 * half..].as_mut_ptr()) };
        }
        let (d, min) = floats.split_at_mut(4 * MR);
        for ((d, min), unit) in d.as_chunks_mut::<4>().0.iter_mut().zip(min.as_chunks_mut::<4>().0).zip(&units) {
            *d = unit.d.to_le_bytes();
            *min = unit.min.to_le_bytes();
        }
    }
}

/// See [`crate::table::IntKernels::pack`], for signed codes: they become 16 bits wide, in steps of two.
///
/// # Safety
/// Lengths as [`Pack`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn pack_signed<F: Unpack<Unit = Block32>>(a: &mut Pack) {
    let mut units = [Block32::default(); MR];
    let mut wide = [[0i16; 32]; MR];
    for (i, panel) in a.panel.chunks_exact_mut(SIGNED_BYTES).take(a.units).enumerate() {
        for (r, unit) in units.iter_mut().enumerate().take(a.n_rows) {
            let at = r * a.row_bytes + i * F::BLOCK_BYTES;
            F::unpack(&a.rows[at..at + F::BLOCK_BYTES], unit);
        }
        for (wide, unit) in wide.iter_mut().zip(&units) {
            for (wide, code) in wide.iter_mut().zip(&unit.codes) {
                *wide = i16::from(*code as i8);
            }
        }
        let (codes, d) = panel.split_at_mut(SIGNED_CODES);
        for half in 0..2 {
            for part in 0..2 {
                let rows = std::array::from_fn(|r| wide[8 * half + r][16 * part..].as_ptr().cast());
                // SAFETY: 16 codes of 2 bytes remain; step 8 + 7 of the second half ends at byte 64·15 + 64 =
                // SIGNED_CODES.
                unsafe { interleave(rows, codes[512 * part + 32 * half..].as_mut_ptr()) };
            }
        }
        for (d, unit) in d.as_chunks_mut::<4>().0.iter_mut().zip(&units) {
            *d = unit.d.to_le_bytes();
        }
    }
}
