//! BF16: brain float, the upper half of an f32, little endian.

use crate::Format;

/// brain float, the upper half of an f32.
pub struct BF16;

impl Format for BF16 {
    const ID: u32 = 30;
    const NAME: &'static str = "BF16";
    const BLOCK_LEN: usize = 1;
    const BLOCK_BYTES: usize = 2;
    const QUANTIZED: bool = false;

    #[inline(always)]
    fn quantize_row<const W: usize>(row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        for (bytes, x) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
            *bytes = half::bf16::from_f32(*x).to_le_bytes();
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *x = half::bf16::from_le_bytes(*bytes).to_f32();
        }
    }
}
