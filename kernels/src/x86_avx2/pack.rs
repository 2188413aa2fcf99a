//! Stored rows into panels.
//!
//! Blocks of 8 rows are unpacked in registers, whose 32-bit elements are transposed on their way to the panel.

use std::arch::x86_64::*;

use ocelli_quant::Format;

use super::MR;
use super::unpack::{Block, Super, each_run};
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

/// What stands for a row that is missing: a block of any format in which everything is 0.
static NOTHING: [u8; 256] = [0; 256];

/// How far ahead of its use a row is asked for, in super-blocks: 4 and 8 are slower.
pub(crate) const AHEAD_SUPER: usize = 2;

/// The same in blocks of 32: 2 are slower.
const AHEAD: usize = 4;

/// Where a piece of depth of every row begins.
pub(crate) struct Rows<'a> {
    rows: &'a [u8],
    row_bytes: usize,
    n_rows: usize,
    units: usize,
    block_bytes: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn of<F: Format>(a: &Pack<'a>) -> Self {
        const { assert!(F::BLOCK_BYTES <= NOTHING.len()) };
        let block_bytes = F::BLOCK_BYTES;
        Self { rows: a.rows, row_bytes: a.row_bytes, n_rows: a.n_rows, units: a.units, block_bytes }
    }

    /// Block `unit` of all rows.
    #[inline(always)]
    pub(crate) fn blocks(&self, unit: usize) -> [*const u8; MR] {
        let mut blocks = [NOTHING.as_ptr(); MR];
        for (r, block) in blocks.iter_mut().enumerate().take(self.n_rows) {
            let at = r * self.row_bytes + unit * self.block_bytes;
            *block = self.rows[at..at + self.block_bytes].as_ptr();
        }
        blocks
    }

    /// Asks for the block of row `r` that comes `ahead` after block `unit`: at the end of a row for the beginning of one
    /// behind these, in the strip that some thread unpacks next. One row at a time, for few reads can be under way at once.
    #[inline]
    #[target_feature(enable = "sse")]
    pub(crate) fn fetch(&self, unit: usize, r: usize, ahead: usize) {
        let later = unit + ahead;
        let (r, later) = if later < self.units { (r, later) } else { (r + MR, later - self.units) };
        let block = self.rows.as_ptr().wrapping_add(r * self.row_bytes + later * self.block_bytes);
        for line in (0..self.block_bytes).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(line).cast());
        }
    }
}

/// Writes 8 elements of 32 bits of each of 8 rows: element s of row r at `dst + 64·s + 4·r`.
///
/// # Safety
/// `dst` must be writable for 7·64 + 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn interleave(r: [__m256i; 8], dst: *mut u8) {
    let mut t = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // u[h][k]: rows 4h…4h+3 at elements k (low lane) and k + 4 (high lane). A loop, not a closure: that would be called.
    let mut u = [[_mm256_setzero_si256(); 4]; 2];
    for (h, u) in u.iter_mut().enumerate() {
        let t = [t[4 * h], t[4 * h + 1], t[4 * h + 2], t[4 * h + 3]];
        u[0] = _mm256_unpacklo_epi64(t[0], t[2]);
        u[1] = _mm256_unpackhi_epi64(t[0], t[2]);
        u[2] = _mm256_unpacklo_epi64(t[1], t[3]);
        u[3] = _mm256_unpackhi_epi64(t[1], t[3]);
    }
    for k in 0..4 {
        // SAFETY: promised by the caller.
        unsafe {
            _mm256_storeu_si256(dst.add(64 * k).cast(), _mm256_permute2x128_si256::<0x20>(u[0][k], u[1][k]));
            _mm256_storeu_si256(dst.add(64 * (k + 4)).cast(), _mm256_permute2x128_si256::<0x31>(u[0][k], u[1][k]));
        }
    }
}

/// As [`interleave`], of 4 elements of each of 8 rows, which are the lower halves.
///
/// # Safety
/// `dst` must be writable for 3·64 + 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn interleave_halves(r: [__m256i; 8], dst: *mut u8) {
    // Rows i and i + 4 side by side.
    let mut p = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        p[i] = _mm256_permute2x128_si256::<0x20>(r[i], r[i + 4]);
    }
    let (a, b) = (_mm256_unpacklo_epi32(p[0], p[1]), _mm256_unpackhi_epi32(p[0], p[1]));
    let (c, d) = (_mm256_unpacklo_epi32(p[2], p[3]), _mm256_unpackhi_epi32(p[2], p[3]));
    let steps = [
        _mm256_unpacklo_epi64(a, c),
        _mm256_unpackhi_epi64(a, c),
        _mm256_unpacklo_epi64(b, d),
        _mm256_unpackhi_epi64(b, d),
    ];
    for (k, step) in steps.into_iter().enumerate() {
        // SAFETY: promised by the caller.
        unsafe { _mm256_storeu_si256(dst.add(64 * k).cast(), step) };
    }
}

/// See [`crate::table::IntKernels::pack`].
///
/// # Safety
/// Lengths as [`Pack`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn pack_super<F: Super>(a: &mut Pack) {
    let groups = 256 / F::GROUP;
    let rows = Rows::of::<F>(a);
    for (i, panel) in a.panel.chunks_exact_mut(super_bytes(F::GROUP)).take(a.units).enumerate() {
        let blocks = rows.blocks(i);
        let (codes, rest) = panel.split_at_mut(SUPER_CODES);
        let (scales, rest) = rest.split_at_mut(groups * 4 * MR);
        let (mins, floats) = rest.split_at_mut(groups / 2 * 4 * MR);
        let zero = _mm256_setzero_si256();
        for half in 0..2 {
            let blocks = &blocks[8 * half..8 * half + 8];
            // SAFETY: whole blocks. Element 7 of run 7 of the second half ends at byte 512·7 + 64·7 + 64 = SUPER_CODES; of
            // scales there are 8 or 16 steps, of mins half as many, of 64 bytes each.
            unsafe {
                each_run!(|N| {
                    rows.fetch(i, 8 * half + N, AHEAD_SUPER);
                    let mut r = [zero; 8];
                    for (r, b) in r.iter_mut().zip(blocks) {
                        *r = F::run::<N>(*b);
                    }
                    interleave(r, codes.as_mut_ptr().add(512 * N + 32 * half));
                });
                let (mut s, mut m) = ([[zero; 8]; 2], [zero; 8]);
                for (r, b) in blocks.iter().enumerate() {
                    let [scales, mins] = F::steps(*b);
                    // Every scale twice; groups 0 … 3 and 4 … 7 lie in the halves that the lower unpacking takes.
                    let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(scales);
                    s[0][r] = _mm256_unpacklo_epi16(ordered, ordered);
                    s[1][r] = _mm256_unpackhi_epi16(ordered, ordered);
                    m[r] = mins;
                }
                let (scales, mins) = (scales.as_mut_ptr().add(32 * half), mins.as_mut_ptr().add(32 * half));
                interleave(s[0], scales);
                if F::GROUP == 16 {
                    interleave(s[1], scales.add(512));
                    interleave(m, mins);
                } else {
                    interleave_halves(m, mins);
                }
            }
        }
        let (d, dmin) = floats.split_at_mut(4 * MR);
        for ((d, dmin), b) in d.as_chunks_mut::<4>().0.iter_mut().zip(dmin.as_chunks_mut::<4>().0).zip(blocks) {
            // SAFETY: whole blocks.
            let floats = unsafe { F::floats(b) };
            *d = floats[0].to_le_bytes();
            *dmin = floats[1].to_le_bytes();
        }
    }
}

/// See [`crate::table::IntKernels::pack`]. Signed codes get their top bit flipped, which adds 128 and makes them
/// unsigned; who multiplies takes that off again.
///
/// # Safety
/// Lengths as [`Pack`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn pack_block<F: Block>(a: &mut Pack) {
    let rows = Rows::of::<F>(a);
    let flip = _mm256_set1_epi8(if F::SIGNED { i8::MIN } else { 0 });
    for (i, panel) in a.panel.chunks_exact_mut(BLOCK_BYTES).take(a.units).enumerate() {
        let blocks = rows.blocks(i);
        let (codes, floats) = panel.split_at_mut(BLOCK_CODES);
        for half in 0..2 {
            let mut r = [flip; 8];
            for (n, (r, b)) in r.iter_mut().zip(&blocks[8 * half..]).enumerate() {
                rows.fetch(i, 8 * half + n, AHEAD);
                // SAFETY: whole blocks.
                *r = _mm256_xor_si256(unsafe { F::codes(*b) }, flip);
            }
            // SAFETY: element 7 of the second half ends at byte 64·7 + 64 = BLOCK_CODES.
            unsafe { interleave(r, codes.as_mut_ptr().add(32 * half)) };
        }
        let (d, min) = floats.split_at_mut(4 * MR);
        for ((d, min), b) in d.as_chunks_mut::<4>().0.iter_mut().zip(min.as_chunks_mut::<4>().0).zip(blocks) {
            // SAFETY: whole blocks.
            let floats = unsafe { F::floats(b) };
            *d = floats[0].to_le_bytes();
            *min = floats[1].to_le_bytes();
        }
    }
}

/// See [`crate::table::IntKernels::pack`], for signed codes: they become 16 bits wide, in steps of two.
///
/// # Safety
/// Lengths as [`Pack`] states them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn pack_signed<F: Block>(a: &mut Pack) {
    let rows = Rows::of::<F>(a);
    for (i, panel) in a.panel.chunks_exact_mut(SIGNED_BYTES).take(a.units).enumerate() {
        let blocks = rows.blocks(i);
        let (codes, d) = panel.split_at_mut(SIGNED_CODES);
        for half in 0..2 {
            let mut r = [[_mm256_setzero_si256(); 8]; 2];
            for (row, b) in blocks[8 * half..8 * half + 8].iter().enumerate() {
                rows.fetch(i, 8 * half + row, AHEAD);
                // SAFETY: whole blocks.
                let codes = unsafe { F::codes(*b) };
                r[0][row] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(codes));
                r[1][row] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(codes));
            }
            for (part, r) in r.into_iter().enumerate() {
                // SAFETY: element 7 of the second part and half ends at byte 512 + 64·7 + 64 = SIGNED_CODES.
                unsafe { interleave(r, codes.as_mut_ptr().add(512 * part + 32 * half)) };
            }
        }
        for (d, b) in d.as_chunks_mut::<4>().0.iter_mut().zip(blocks) {
            // SAFETY: whole blocks.
            *d = unsafe { F::floats(b) }[0].to_le_bytes();
        }
    }
}
