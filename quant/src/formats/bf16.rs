//! BF16: brain float, the upper half of an f32, little endian.

use crate::Format;
use crate::half_bits::{bf16_to_f32, f32_to_bf16};
use crate::lanes::Simd;
use crate::panel::{Unpack, Unquantized};

/// brain float, the upper half of an f32.
pub struct BF16;

impl Format for BF16 {
    const ID: u32 = 30;
    const NAME: &'static str = "BF16";
    const BLOCK_LEN: usize = 1;
    const BLOCK_BYTES: usize = 2;
    const QUANTIZED: bool = false;
    const SCALES: &'static [usize] = &[];

    #[inline(always)]
    fn quantize_row<S: Simd>(_s: S, row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        for (bytes, x) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
            *bytes = f32_to_bf16(*x).to_le_bytes();
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *x = bf16_to_f32(u16::from_le_bytes(*bytes));
        }
    }

    #[inline(always)]
    fn first_overflow(bytes: &[u8]) -> Option<usize> {
        let overflowed = |b: &[u8; 2]| u16::from_le_bytes(*b) & 0x7f80 == 0x7f80;
        let values = bytes.as_chunks::<2>().0;
        if values.iter().fold(false, |any, b| any | overflowed(b)) { values.iter().position(overflowed) } else { None }
    }
}

impl Unpack for BF16 {
    type Unit = Unquantized;
    const MAX_CODE: u8 = 0;
    const GROUP: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    fn unpack(_block: &[u8], _out: &mut Unquantized) {}
}
