//! Q5_1: 32 weights in 24 bytes.
//!
//! ```text
//! 0       2       4        8           24
//! | d f16 | m f16 | qh u32 | qs u8×16  |      x = q·d + m
//!
//! qs:  byte j = q[j] & 15 | (q[j+16] & 15) << 4      j = 0…15
//! qh:  bit j = bit 4 of q[j]                         j = 0…31
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::Simd;
use crate::panel::{Block32, Unpack, add_fifth, unpack_halves};
use crate::search::groups;
use crate::search::simple::{inverse, limited, min_max, pack_halves, truncated, unpack_fifth};

/// 5-bit codes with scale and minimum per 32 weights.
pub struct Q5_1;

impl Format for Q5_1 {
    const ID: u32 = 7;
    const NAME: &'static str = "Q5_1";
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 24;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<24>().0;
        let pack = |block: &mut [u8; 24], d, m, codes: &[u8; 32]| {
            write_f16(block, 0, d);
            write_f16(block, 2, m);
            block[4..8].copy_from_slice(&s.fifth_bits(codes));
            pack_halves(codes, &mut block[8..]);
        };
        if let Some(importance) = importance {
            groups::quantize_affine_32(s, row, importance, 31.0, blocks, pack);
            return;
        }
        for (block, x) in blocks.iter_mut().zip(row.as_chunks::<32>().0) {
            let (min, max) = min_max(s, x);
            let d = (max - min) / 31.0;
            pack(block, d, min, &limited(s, &truncated(s, x, min, inverse(d), 0.5), i8::MAX));
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<24>().0) {
            let (d, m) = (read_f16(block, 0), read_f16(block, 2));
            let mut codes = [0u8; 32];
            unpack_fifth([block[4], block[5], block[6], block[7]], &block[8..], &mut codes);
            for (x, q) in x.iter_mut().zip(codes) {
                *x = f32::from(q) * d + m;
            }
        }
    }
}

impl Unpack for Q5_1 {
    type Unit = Block32;
    const MAX_CODE: u8 = 31;
    const GROUP: usize = 32;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Block32) {
        let Some(block) = block.first_chunk::<24>() else { return };
        unpack_halves(&block[8..], &mut out.codes);
        add_fifth(&block[4..8], &mut out.codes);
        out.d = read_f16(block, 0);
        out.min = -read_f16(block, 2);
    }
}
