//! Q5_K: 256 weights in 176 bytes, 8 groups of 32 with a 6-bit scale and a 6-bit minimum each.
//!
//! ```text
//! 0       2          4              16         48                     176
//! | d f16 | dmin f16 | scales u8×12 | qh u8×32 | qs u8×128             |   x = (d·sc)·q − dmin·m
//!
//! scales, qs:  as in Q4_K, with the low 4 bits of the codes
//! qh:          bit g of byte l = bit 4 of q[32g+l]                         g = 0…7, l = 0…31
//! ```

use super::q4_k::{pack_nibbles, quantize_groups_of_32, unpack_scales};
use crate::Format;
use crate::half_bits::read_f16;
use crate::lanes::Simd;
use crate::panel::{SuperBlock, Unpack, add_plane, unpack_groups};
use crate::search::affine::Params;

/// 5-bit codes with scale and minimum per 32 weights.
pub struct Q5_K;

impl Format for Q5_K {
    const ID: u32 = 13;
    const NAME: &'static str = "Q5_K";
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 176;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let plain = Params { n_max: 31.0, first: -0.5, step: 0.1, last: 15, absolute: false };
        quantize_groups_of_32::<S, 176>(s, row, importance, out, plain, 63, |codes, block| {
            let (head, qs) = block.split_at_mut(48);
            pack_nibbles(codes, qs);
            let qh = &mut head[16..];
            qh.fill(0);
            for (g, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
                for (bits, code) in qh.iter_mut().zip(codes) {
                    *bits |= (code >> 4) << g;
                }
            }
        });
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<256>().0.iter_mut().zip(bytes.as_chunks::<176>().0) {
            let (d, dmin) = (read_f16(block, 0), read_f16(block, 2));
            let (sc, m) = unpack_scales(&block[4..16]);
            let (qh, qs) = block[16..].split_at(32);
            for (c, (x, qs)) in x.as_chunks_mut::<64>().0.iter_mut().zip(qs.as_chunks::<32>().0).enumerate() {
                let (low, high) = x.split_at_mut(32);
                let (d1, m1) = (d * f32::from(sc[2 * c]), dmin * f32::from(m[2 * c]));
                let (d2, m2) = (d * f32::from(sc[2 * c + 1]), dmin * f32::from(m[2 * c + 1]));
                for (((low, high), q), bits) in low.iter_mut().zip(high).zip(qs).zip(qh) {
                    *low = d1 * f32::from((q & 15) | ((bits >> (2 * c) & 1) << 4)) - m1;
                    *high = d2 * f32::from((q >> 4) | ((bits >> (2 * c + 1) & 1) << 4)) - m2;
                }
            }
        }
    }
}

impl Unpack for Q5_K {
    type Unit = SuperBlock;
    const MAX_CODE: u8 = 31;
    const GROUP: usize = 32;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut SuperBlock) {
        let Some(block) = block.first_chunk::<176>() else { return };
        let Some((qh, qs)) = block[16..].split_first_chunk::<32>() else { return };
        unpack_groups(qs, &mut out.codes);
        add_plane(qh, 4, &mut out.codes);
        let (sc, m) = unpack_scales(&block[4..16]);
        for g in 0..8 {
            out.scales[2 * g] = i16::from(sc[g]);
            out.scales[2 * g + 1] = i16::from(sc[g]);
            out.mins[2 * g] = i16::from(m[g]);
            out.mins[2 * g + 1] = i16::from(m[g]);
        }
        (out.d, out.dmin) = (read_f16(block, 0), read_f16(block, 2));
    }
}
