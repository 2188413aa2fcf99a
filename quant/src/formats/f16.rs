//! F16: IEEE half precision, little endian.

use crate::Format;
use crate::half_bits::{f16_to_f32, f32_to_f16};
use crate::lanes::Simd;
use crate::panel::{Unpack, Unquantized};

/// IEEE half precision.
pub struct F16;

impl Format for F16 {
    const ID: u32 = 1;
    const NAME: &'static str = "F16";
    const BLOCK_LEN: usize = 1;
    const BLOCK_BYTES: usize = 2;
    const QUANTIZED: bool = false;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize_row<S: Simd>(_s: S, row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        for (bytes, x) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
            *bytes = f32_to_f16(*x).to_le_bytes();
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *x = f16_to_f32(u16::from_le_bytes(*bytes));
        }
    }
}

impl Unpack for F16 {
    type Unit = Unquantized;
    const MAX_CODE: u8 = 0;
    const GROUP: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    fn unpack(_block: &[u8], _out: &mut Unquantized) {}
}
