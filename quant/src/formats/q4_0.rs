//! Q4_0: 32 weights in 18 bytes.
//!
//! ```text
//! 0       2           18
//! | d f16 | qs u8×16  |      x = (q − 8)·d
//!
//! qs:  byte j = q[j] | q[j+16] << 4      j = 0…15
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::Simd;
use crate::panel::{Block32, Unpack, unpack_halves};
use crate::search::groups;
use crate::search::simple::{inverse, limited, pack_halves, signed_abs_max, truncated};

/// 4-bit codes with one scale per 32 weights.
pub struct Q4_0;

impl Format for Q4_0 {
    const ID: u32 = 2;
    const NAME: &'static str = "Q4_0";
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 18;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<18>().0;
        if let Some(importance) = importance {
            groups::quantize_symmetric_32(s, row, importance, 8.0, blocks, |block, d, codes| {
                write_f16(block, 0, d);
                pack_halves(codes, &mut block[2..]);
            });
            return;
        }
        for (block, x) in blocks.iter_mut().zip(row.as_chunks::<32>().0) {
            let d = signed_abs_max(s, x) / -8.0;
            write_f16(block, 0, d);
            let codes = truncated(s, x, 0.0, inverse(d), 8.5);
            pack_halves(&limited(s, &codes, 15), &mut block[2..]);
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<18>().0) {
            let d = read_f16(block, 0);
            let (low, high) = x.split_at_mut(16);
            for ((low, high), q) in low.iter_mut().zip(high).zip(&block[2..]) {
                *low = (f32::from(q & 15) - 8.0) * d;
                *high = (f32::from(q >> 4) - 8.0) * d;
            }
        }
    }
}

impl Unpack for Q4_0 {
    type Unit = Block32;
    const MAX_CODE: u8 = 15;
    const GROUP: usize = 32;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Block32) {
        let Some(block) = block.first_chunk::<18>() else { return };
        unpack_halves(&block[2..], &mut out.codes);
        out.d = read_f16(block, 0);
        out.min = 8.0 * out.d;
    }
}
