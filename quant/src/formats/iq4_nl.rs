//! IQ4_NL: 32 weights in 18 bytes; the codes index a table of unevenly spaced values.
//!
//! ```text
//! 0       2           18
//! | d f16 | qs u8×16  |      x = T[q]·d
//!
//! qs:  byte j = q[j] | q[j+16] << 4      j = 0…15
//! T:   −127 −104 −83 −65 −49 −35 −22 −10 1 13 25 38 53 69 89 113
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::{Lanes, MAX_LANES, Simd};
use crate::panel::{Block32, Unpack};
use crate::search::groups::{self, RUN};
use crate::search::simple::{inverse, pack_halves};
use crate::search::table::{self, Table};

/// 4-bit indices into a table, with one scale per 32 weights.
pub struct IQ4_NL;

/// What the codes stand for.
pub const TABLE: Table = Table::new([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]);

impl Format for IQ4_NL {
    const ID: u32 = 20;
    const NAME: &'static str = "IQ4_NL";
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 18;
    const SCALES: &'static [usize] = &[0];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let runs = row.as_chunks::<32>().0.chunks(RUN).zip(out.as_chunks_mut::<18>().0.chunks_mut(RUN));
        for (run, (x, blocks)) in runs.enumerate() {
            let mut scales = [0f32; RUN];
            for first in (0..x.len()).step_by(S::W) {
                let lanes = s.load_groups::<32>(x[first..].as_flattened());
                let w = match importance {
                    None => lanes.map(|x| x * x),
                    Some(importance) => {
                        let sum = lanes.iter().fold(s.splat(0.0), |sum, x| sum + *x * *x);
                        let mut sigma2 = [0f32; MAX_LANES];
                        (sum * s.splat(2.0 / 32.0)).store(&mut sigma2);
                        groups::importance_weights(s, &lanes, &importance[32 * (RUN * run + first)..], &sigma2)
                    }
                };
                s.run(table::Search { table: &TABLE, x: &lanes, w: &w }).store(&mut scales[first..]);
            }
            for ((x, block), d) in x.iter().zip(blocks).zip(scales) {
                write_f16(block, 0, d);
                let id = inverse(d);
                pack_halves(&x.map(|x| TABLE.nearest_index(id * x)), &mut block[2..]);
            }
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<18>().0) {
            let d = read_f16(block, 0);
            let (low, high) = x.split_at_mut(16);
            for ((low, high), q) in low.iter_mut().zip(high).zip(&block[2..]) {
                *low = TABLE.value(q & 15) * d;
                *high = TABLE.value(q >> 4) * d;
            }
        }
    }
}

impl Unpack for IQ4_NL {
    type Unit = Block32;
    const MAX_CODE: u8 = 127;
    const GROUP: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Block32) {
        let Some(block) = block.first_chunk::<18>() else { return };
        let (low, high) = out.codes.split_at_mut(16);
        for ((low, high), q) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = TABLE.code(q & 15) as u8;
            *high = TABLE.code(q >> 4) as u8;
        }
        out.d = read_f16(block, 0);
        out.min = 0.0;
    }
}
