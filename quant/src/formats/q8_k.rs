//! Q8_K: 256 values in 292 bytes; what activations become before they meet a K-quant weight.
//!
//! ```text
//! 0       4           260                292
//! | d f32 | qs i8×256 | bsums i16×16     |      x = d·q      (d has the sign that makes the extreme value −127)
//!
//! bsums:  bsums[k] = Σ qs[16k … 16k+15]
//! ```

use crate::Format;
use crate::lanes::{Simd, nearest};
use crate::panel::{Unpack, Unquantized};
use crate::search::simple::signed_abs_max;

/// 8-bit codes with an f32 scale per 256 values, and the sums of every 16 codes.
pub struct Q8_K;

impl Format for Q8_K {
    const ID: u32 = 15;
    const NAME: &'static str = "Q8_K";
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 292;
    const SCALES: &'static [usize] = &[];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        for (block, x) in out.as_chunks_mut::<292>().0.iter_mut().zip(row.as_chunks::<256>().0) {
            let max = signed_abs_max(s, x);
            if max == 0.0 {
                block.fill(0);
                continue;
            }
            let inverse = -127.0 / max;
            block[..4].copy_from_slice(&(1.0 / inverse).to_le_bytes());
            let mut codes = [0i8; 256];
            for (code, x) in codes.iter_mut().zip(x) {
                *code = nearest(inverse * x).min(127) as i8;
            }
            for (q, code) in block[4..260].iter_mut().zip(codes) {
                *q = code as u8;
            }
            for (sum, codes) in block[260..].as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<16>().0) {
                *sum = codes.iter().map(|q| i16::from(*q)).sum::<i16>().to_le_bytes();
            }
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<256>().0.iter_mut().zip(bytes.as_chunks::<292>().0) {
            let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            for (x, q) in x.iter_mut().zip(&block[4..260]) {
                *x = d * f32::from(*q as i8);
            }
        }
    }
}

/// Only activations have this format; as a weight it computes in f32.
impl Unpack for Q8_K {
    type Unit = Unquantized;
    const MAX_CODE: u8 = 0;
    const GROUP: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    fn unpack(_block: &[u8], _out: &mut Unquantized) {}
}
