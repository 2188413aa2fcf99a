//! Q3_K: 256 weights in 110 bytes, 16 groups of 16 with a 6-bit scale each.
//!
//! ```text
//! 0             32         96             108     110
//! | hmask u8×32 | qs u8×64 | scales u8×12 | d f16 |    x = (d·(sc − 32))·(q − 4)
//!
//! hmask:   bit g of byte l = bit 2 of q[32g+l]                              g = 0…7, l = 0…31
//! qs:      the low 2 bits, as in Q2_K
//! scales:  byte k = sc[k] & 15 | (sc[k+8] & 15) << 4                        k = 0…7
//!          byte 8+k = bits 4, 5 of sc[k], sc[k+4], sc[k+8], sc[k+12], from the low end      k = 0…3
//! ```

use super::q2_k::pack_pairs;
use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::{Lanes, Simd, nearest};
use crate::panel::{SuperBlock, Unpack, add_plane, unpack_pairs};
use crate::search::groups::{self, RUN, store_codes};
use crate::search::{sums_of_squares, symmetric};

/// 3-bit codes with a scale per 16 weights.
pub struct Q3_K;

impl Format for Q3_K {
    const ID: u32 = 11;
    const NAME: &'static str = "Q3_K";
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 110;
    const SCALES: &'static [usize] = &[108];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<110>().0;
        for (run, (x, blocks)) in row.as_chunks::<256>().0.chunks(RUN).zip(blocks.chunks_mut(RUN)).enumerate() {
            let mut codes = [[0u8; 256]; RUN];
            let scales = match importance {
                None => {
                    let codes = codes[..x.len()].as_flattened_mut();
                    let scales = groups::fit_descent(s, x.as_flattened(), 4.0, codes);
                    std::array::from_fn(|b| plain_scales(&scales[16 * b..16 * b + 16]))
                }
                Some(importance) => {
                    let first = run * RUN * 256;
                    fit_with_importance(s, x, &importance[first..first + x.len() * 256], &mut codes)
                }
            };
            for (((x, block), (d, sc)), codes) in x.iter().zip(blocks).zip(&scales).zip(&mut codes) {
                store_block(x, *d, sc, codes, block);
            }
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<256>().0.iter_mut().zip(bytes.as_chunks::<110>().0) {
            let d = read_f16(block, 108);
            for (k, x) in x.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let low = block[96 + k % 8] >> (4 * (k / 8)) & 15;
                let high = block[104 + k % 4] >> (2 * (k / 4)) & 3;
                let dl = d * (f32::from(low | (high << 4)) - 32.0);
                let (half, shift, group) = (k / 8, 2 * (k % 8 / 2), k / 2);
                let qs = &block[32 + 32 * half + 16 * (k % 2)..][..16];
                let hmask = &block[16 * (k % 2)..][..16];
                for ((x, q), bits) in x.iter_mut().zip(qs).zip(hmask) {
                    // Widened first: vectors have no shift of bytes.
                    let q = (i32::from(*q) >> shift & 3) | ((i32::from(*bits) >> group & 1) << 2);
                    *x = dl * (q - 4) as f32;
                }
            }
        }
    }
}

/// Without importance, the scale of largest magnitude becomes code −32. The codes come shifted by 32.
#[inline(always)]
fn plain_scales(scales: &[f32]) -> (f32, [u8; 16]) {
    let (mut max, mut amax) = (0f32, 0f32);
    for scale in scales {
        if scale.abs() > amax {
            (max, amax) = (*scale, scale.abs());
        }
    }
    if max == 0.0 {
        return (0.0, [0; 16]);
    }
    let inverse = -32.0 / max;
    let mut codes = [0u8; 16];
    for (code, scale) in codes.iter_mut().zip(scales) {
        *code = (i32::from(nearest(inverse * scale) as i8).clamp(-32, 31) + 32) as u8;
    }
    (1.0 / inverse, codes)
}

/// With importance, the scales are themselves fitted, weighted by what their groups weigh.
#[inline(always)]
fn fit_with_importance<S: Simd>(
    s: S,
    x: &[[f32; 256]],
    importance: &[f32],
    codes: &mut [[u8; 256]; RUN],
) -> [(f32, [u8; 16]); RUN] {
    let mut sums = [0f32; RUN];
    sums_of_squares(x, &mut sums[..x.len()]);
    let sigma2: [f32; 16 * RUN] = std::array::from_fn(|g| 2.0 * sums[g / 16] / 256.0);
    let groups = groups::fit_symmetric::<S, 16>(s, x.as_flattened(), 4.0, |first, x| {
        groups::importance_weights(s, x, &importance[16 * first..], &sigma2[first..])
    });
    let each = x.as_flattened().as_chunks::<16>().0.iter().zip(codes.as_flattened_mut().as_chunks_mut::<16>().0);
    for ((x, codes), code_scale) in each.zip(&groups.code_scale) {
        groups::fitted_symmetric(x, *code_scale, 4, codes);
    }
    let mut out = [(0f32, [0u8; 16]); RUN];
    for first in (0..x.len()).step_by(S::W) {
        let end = x.len().min(first + S::W);
        let scales = s.load_groups::<16>(&groups.scale[16 * first..16 * end]);
        let weights = s.load_groups::<16>(&groups.sum_w[16 * first..16 * end]);
        let fit = s.run(symmetric::Search::<_, 16, true> { x: &scales, w: &weights, n_max: 32.0 });
        let (mut d, mut sc) = ([0f32; RUN], [[0u8; 16]; RUN]);
        fit.scale.store(&mut d);
        store_codes(&fit.codes(s, &scales, 32.0), sc.as_flattened_mut());
        for ((out, d), sc) in out[first..end].iter_mut().zip(d).zip(sc) {
            *out = (d, sc);
        }
    }
    out
}

/// Stores the scales of a block, quantises it anew with what they became (where that is not zero), and packs it.
#[inline(always)]
fn store_block(x: &[f32; 256], d: f32, sc: &[u8; 16], codes: &mut [u8; 256], block: &mut [u8; 110]) {
    block[..108].fill(0);
    for (k, sc) in sc.iter().enumerate() {
        block[96 + k % 8] |= (sc & 15) << (4 * (k / 8));
        block[104 + k % 4] |= (sc >> 4) << (2 * (k / 4));
    }
    let d = write_f16(block, 108, d);
    for ((x, codes), sc) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0).zip(sc) {
        let d = d * (f32::from(*sc) - 32.0);
        if d != 0.0 {
            groups::requantize_symmetric(x, d, 4, codes);
        }
    }
    for (g, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        for (bits, code) in block[..32].iter_mut().zip(codes) {
            *bits |= (code >> 2) << g;
        }
    }
    pack_pairs(codes, &mut block[32..96]);
}

impl Unpack for Q3_K {
    type Unit = SuperBlock;
    const MAX_CODE: u8 = 7;
    const GROUP: usize = 16;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut SuperBlock) {
        let Some(block) = block.first_chunk::<110>() else { return };
        let Some((hmask, qs)) = block.split_first_chunk::<32>() else { return };
        unpack_pairs(&qs[..64], &mut out.codes);
        add_plane(hmask, 2, &mut out.codes);
        for k in 0..16 {
            let low = block[96 + k % 8] >> (4 * (k / 8)) & 15;
            let high = block[104 + k % 4] >> (2 * (k / 4)) & 3;
            out.scales[k] = i16::from(low | (high << 4)) - 32;
            // The codes stand for q − 4.
            out.mins[k] = 4 * out.scales[k];
        }
        out.d = read_f16(block, 108);
        out.dmin = out.d;
    }
}
