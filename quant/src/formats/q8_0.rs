//! Q8_0: 32 weights in 34 bytes.
//!
//! ```text
//! 0       2           34
//! | d f16 | qs i8×32  |      x = q·d
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::Simd;
use crate::panel::{Block32, Unpack};
use crate::search::simple::{abs_max, inverse, rounded_half_away};

/// 8-bit codes with one scale per 32 weights.
pub struct Q8_0;

impl Format for Q8_0 {
    const ID: u32 = 8;
    const NAME: &'static str = "Q8_0";
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 34;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        for (block, x) in out.as_chunks_mut::<34>().0.iter_mut().zip(row.as_chunks::<32>().0) {
            let d = abs_max(s, x) / 127.0;
            write_f16(block, 0, d);
            let codes = rounded_half_away(s, x, inverse(d));
            block[2..].copy_from_slice(&s.low_bytes(&codes));
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<34>().0) {
            let d = read_f16(block, 0);
            for (x, q) in x.iter_mut().zip(&block[2..]) {
                *x = f32::from(*q as i8) * d;
            }
        }
    }
}

impl Unpack for Q8_0 {
    type Unit = Block32;
    const MAX_CODE: u8 = 128;
    const GROUP: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Block32) {
        let Some(block) = block.first_chunk::<34>() else { return };
        out.codes.copy_from_slice(&block[2..]);
        out.d = read_f16(block, 0);
        out.min = 0.0;
    }
}
