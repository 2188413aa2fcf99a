//! Q8_0: 32 weights in 34 bytes.
//!
//! ```text
//! 0      2                                   34
//! | d f16 | i8 q0 … q31                       |      x = d·q
//! ```

use crate::Format;

/// 8-bit codes with one scale per 32 weights.
pub struct Q8_0;

impl Format for Q8_0 {
    const ID: u32 = 8;
    const NAME: &'static str = "Q8_0";
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 34;

    #[inline(always)]
    fn quantize_row<const W: usize>(row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        for (block, x) in out.as_chunks_mut::<34>().0.iter_mut().zip(row.as_chunks::<32>().0) {
            let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            let d = amax / 127.0;
            let id = if d == 0.0 { 0.0 } else { 1.0 / d };
            block[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
            for (q, v) in block[2..].iter_mut().zip(x) {
                *q = (v * id).round() as i8 as u8;
            }
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<34>().0) {
            let d = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
            for (x, q) in x.iter_mut().zip(&block[2..]) {
                *x = d * f32::from(*q as i8);
            }
        }
    }
}
