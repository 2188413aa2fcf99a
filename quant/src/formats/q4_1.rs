//! Q4_1: 32 weights in 20 bytes.
//!
//! ```text
//! 0       2       4           20
//! | d f16 | m f16 | qs u8×16  |      x = q·d + m
//!
//! qs:  byte j = q[j] | q[j+16] << 4      j = 0…15
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::Simd;
use crate::panel::{Block32, Unpack, unpack_halves};
use crate::search::groups;
use crate::search::simple::{inverse, limited, min_max, pack_halves, truncated};

/// 4-bit codes with scale and minimum per 32 weights.
pub struct Q4_1;

impl Format for Q4_1 {
    const ID: u32 = 3;
    const NAME: &'static str = "Q4_1";
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 20;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<20>().0;
        if let Some(importance) = importance {
            groups::quantize_affine_32(s, row, importance, 15.0, blocks, |block, d, m, codes| {
                write_f16(block, 0, d);
                write_f16(block, 2, m);
                pack_halves(codes, &mut block[4..]);
            });
            return;
        }
        for (block, x) in blocks.iter_mut().zip(row.as_chunks::<32>().0) {
            let (min, max) = min_max(s, x);
            let d = (max - min) / 15.0;
            write_f16(block, 0, d);
            write_f16(block, 2, min);
            let codes = truncated(s, x, min, inverse(d), 0.5);
            pack_halves(&limited(s, &codes, 15), &mut block[4..]);
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<20>().0) {
            let (d, m) = (read_f16(block, 0), read_f16(block, 2));
            let (low, high) = x.split_at_mut(16);
            for ((low, high), q) in low.iter_mut().zip(high).zip(&block[4..]) {
                *low = f32::from(q & 15) * d + m;
                *high = f32::from(q >> 4) * d + m;
            }
        }
    }
}

impl Unpack for Q4_1 {
    type Unit = Block32;
    const MAX_CODE: u8 = 15;
    const GROUP: usize = 32;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Block32) {
        let Some(block) = block.first_chunk::<20>() else { return };
        unpack_halves(&block[4..], &mut out.codes);
        out.d = read_f16(block, 0);
        out.min = -read_f16(block, 2);
    }
}
