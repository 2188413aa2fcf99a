//! F32: IEEE single precision, little endian.

use crate::Format;
use crate::lanes::Simd;
use crate::panel::{Unpack, Unquantized};

/// IEEE single precision.
pub struct F32;

impl Format for F32 {
    const ID: u32 = 0;
    const NAME: &'static str = "F32";
    const BLOCK_LEN: usize = 1;
    const BLOCK_BYTES: usize = 4;
    const QUANTIZED: bool = false;
    const SCALES: &'static [usize] = &[];

    #[inline(always)]
    fn quantize_row<S: Simd>(_s: S, row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        for (bytes, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(row) {
            *bytes = x.to_le_bytes();
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *x = f32::from_le_bytes(*bytes);
        }
    }
}

impl Unpack for F32 {
    type Unit = Unquantized;
    const MAX_CODE: u8 = 0;
    const GROUP: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    fn unpack(_block: &[u8], _out: &mut Unquantized) {}
}
