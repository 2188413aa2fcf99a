//! Q5_0: 32 weights in 22 bytes.
//!
//! ```text
//! 0       2        6           22
//! | d f16 | qh u32 | qs u8×16  |      x = (q − 16)·d
//!
//! qs:  byte j = q[j] & 15 | (q[j+16] & 15) << 4      j = 0…15
//! qh:  bit j = bit 4 of q[j]                         j = 0…31
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::Simd;
use crate::panel::{Block32, Unpack, add_fifth, unpack_halves};
use crate::search::groups;
use crate::search::simple::{inverse, limited, pack_halves, signed_abs_max, truncated, unpack_fifth};

/// 5-bit codes with one scale per 32 weights.
pub struct Q5_0;

impl Format for Q5_0 {
    const ID: u32 = 6;
    const NAME: &'static str = "Q5_0";
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 22;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<22>().0;
        let pack = |block: &mut [u8; 22], d, codes: &[u8; 32]| {
            write_f16(block, 0, d);
            block[2..6].copy_from_slice(&s.fifth_bits(codes));
            pack_halves(codes, &mut block[6..]);
        };
        if let Some(importance) = importance {
            groups::quantize_symmetric_32(s, row, importance, 16.0, blocks, pack);
            return;
        }
        for (block, x) in blocks.iter_mut().zip(row.as_chunks::<32>().0) {
            let d = signed_abs_max(s, x) / -16.0;
            pack(block, d, &limited(s, &truncated(s, x, 0.0, inverse(d), 16.5), 31));
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<22>().0) {
            let d = read_f16(block, 0);
            let mut codes = [0u8; 32];
            unpack_fifth([block[2], block[3], block[4], block[5]], &block[6..], &mut codes);
            for (x, q) in x.iter_mut().zip(codes) {
                *x = (f32::from(q) - 16.0) * d;
            }
        }
    }
}

impl Unpack for Q5_0 {
    type Unit = Block32;
    const MAX_CODE: u8 = 31;
    const GROUP: usize = 32;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Block32) {
        let Some(block) = block.first_chunk::<22>() else { return };
        unpack_halves(&block[6..], &mut out.codes);
        add_fifth(&block[2..6], &mut out.codes);
        out.d = read_f16(block, 0);
        out.min = 16.0 * out.d;
    }
}
