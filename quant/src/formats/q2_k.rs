//! Q2_K: 256 weights in 84 bytes, 16 groups of 16 with a 4-bit scale and a 4-bit minimum each.
//!
//! ```text
//! 0              16            80      82         84
//! | scales u8×16 | qs u8×64    | d f16 | dmin f16 |    x = (d·(s & 15))·q − dmin·(s >> 4)
//!
//! scales:  byte k = scale of group k | minimum << 4
//! qs:      byte 32h+l = q[128h+l] | q[128h+l+32] << 2 | q[128h+l+64] << 4 | q[128h+l+96] << 6     h = 0, 1
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::{Lanes, Simd, nearest};
use crate::panel::{SuperBlock, Unpack, unpack_pairs};
use crate::search::affine::Params;
use crate::search::groups::{self, Groups, RUN};
use crate::search::sums_of_squares;

/// 2-bit codes with scale and minimum per 16 weights.
pub struct Q2_K;

impl Format for Q2_K {
    const ID: u32 = 10;
    const NAME: &'static str = "Q2_K";
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 84;
    const SCALES: &'static [usize] = &[80, 82];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let plain = Params { n_max: 3.0, first: -0.5, step: 0.1, last: 15, absolute: true };
        let blocks = out.as_chunks_mut::<84>().0;
        for (run, (x, blocks)) in row.as_chunks::<256>().0.chunks(RUN).zip(blocks.chunks_mut(RUN)).enumerate() {
            let (groups, scales) = match importance {
                None => {
                    let groups = groups::fit_affine::<S, 16>(s, x.as_flattened(), plain, |_, x| x.map(|x| x.abs()));
                    let scales = std::array::from_fn(|b| plain_scales(&groups, b));
                    (groups, scales)
                }
                Some(importance) => {
                    let first = run * RUN * 256;
                    fit_with_importance(s, x, &importance[first..first + x.len() * 256])
                }
            };
            for (b, ((x, block), scales)) in x.iter().zip(blocks).zip(&scales).enumerate() {
                store_block(x, &groups, b, scales, block);
            }
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<256>().0.iter_mut().zip(bytes.as_chunks::<84>().0) {
            let (d, dmin) = (read_f16(block, 80), read_f16(block, 82));
            let halves = block[16..].as_chunks::<32>().0.iter().zip(block.as_chunks::<8>().0);
            for (x, (qs, scales)) in x.as_chunks_mut::<128>().0.iter_mut().zip(halves) {
                let scales = scales.as_chunks::<2>().0;
                let [x0, x1, x2, x3] = x.as_chunks_mut::<32>().0 else { continue };
                expand::<0>(d, dmin, scales[0], qs, x0);
                expand::<2>(d, dmin, scales[1], qs, x1);
                expand::<4>(d, dmin, scales[2], qs, x2);
                expand::<6>(d, dmin, scales[3], qs, x3);
            }
        }
    }
}

/// 32 codes of two groups. The shift is a constant: vectors have none of bytes by a variable.
#[inline(always)]
fn expand<const SHIFT: u32>(d: f32, dmin: f32, scales: [u8; 2], qs: &[u8; 32], x: &mut [f32; 32]) {
    for ((x, s), qs) in x.as_chunks_mut::<16>().0.iter_mut().zip(scales).zip(qs.as_chunks::<16>().0) {
        let (dl, ml) = (d * f32::from(s & 15), dmin * f32::from(s >> 4));
        for (x, q) in x.iter_mut().zip(qs) {
            *x = dl * f32::from(q >> SHIFT & 3) - ml;
        }
    }
}

/// Packs 256 codes of 2 bits (higher bits are cut off) as Q2_K and Q3_K lay them out.
#[inline(always)]
pub(super) fn pack_pairs(codes: &[u8; 256], qs: &mut [u8]) {
    for (codes, qs) in codes.as_chunks::<128>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        for (l, q) in qs.iter_mut().enumerate() {
            *q = (codes[l] & 3) | ((codes[l + 32] & 3) << 2) | ((codes[l + 64] & 3) << 4) | (codes[l + 96] << 6);
        }
    }
}

/// Scales and minima of a super-block: two multipliers, and a byte per group with both codes.
struct Scales {
    d: f32,
    dmin: f32,
    codes: [u8; 16],
}

/// Without importance, the largest scale and the largest minimum become code 15.
#[inline(always)]
fn plain_scales(groups: &Groups, b: usize) -> Scales {
    let code = |values: &[f32]| {
        let max = values.iter().fold(0f32, |max, v| if *v > max { *v } else { max });
        let inverse = if max > 0.0 { 15.0 / max } else { 0.0 };
        let mut codes = [0i32; 16];
        for (code, v) in codes.iter_mut().zip(values) {
            *code = nearest(inverse * v);
        }
        (max / 15.0, codes)
    };
    let (d, sc) = code(&groups.scale[16 * b..16 * b + 16]);
    let (dmin, m) = code(&groups.neg_min[16 * b..16 * b + 16]);
    Scales { d, dmin, codes: std::array::from_fn(|k| sc[k] as u8 | (m[k] << 4) as u8) }
}

/// With importance, the scales and minima are themselves fitted, weighted by what their groups weigh.
#[inline(always)]
fn fit_with_importance<S: Simd>(s: S, x: &[[f32; 256]], importance: &[f32]) -> (Groups, [Scales; RUN]) {
    let mut sums = [0f32; RUN];
    sums_of_squares(x, &mut sums[..x.len()]);
    let sigma2: [f32; 16 * RUN] = std::array::from_fn(|g| sums[g / 16] / 256.0);
    let params = Params { n_max: 3.0, first: -0.9, step: 0.05, last: 36, absolute: false };
    let groups = groups::fit_affine::<S, 16>(s, x.as_flattened(), params, |first, x| {
        groups::importance_weights(s, x, &importance[16 * first..], &sigma2[first..])
    });
    let (d, sc) = groups::code_positive::<S, 16>(s, x.len(), &groups.scale, &groups.sum_w, 15.0);
    let (dmin, m) = groups::code_positive::<S, 16>(s, x.len(), &groups.neg_min, &groups.sum_w, 15.0);
    let scales = std::array::from_fn(|b| Scales {
        d: d[b],
        dmin: dmin[b],
        codes: std::array::from_fn(|k| sc[b][k] | (m[b][k] << 4)),
    });
    (groups, scales)
}

/// Stores the scales of a block, quantises it anew with what they became, and packs the codes.
#[inline(always)]
fn store_block(x: &[f32; 256], groups: &Groups, b: usize, scales: &Scales, block: &mut [u8; 84]) {
    block[..16].copy_from_slice(&scales.codes);
    let (d, dmin) = (write_f16(block, 80, scales.d), write_f16(block, 82, scales.dmin));
    let mut codes = [0u8; 256];
    let each = x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0).zip(&scales.codes);
    for (k, ((x, codes), s)) in each.enumerate() {
        let d = d * f32::from(s & 15);
        if d == 0.0 {
            let g = 16 * b + k;
            groups::fitted_affine(x, groups.code_scale[g], groups.code_min[g], 3, codes);
        } else {
            groups::requantize_affine(x, d, dmin * f32::from(s >> 4), 3, codes);
        }
    }
    pack_pairs(&codes, &mut block[16..80]);
}

impl Unpack for Q2_K {
    type Unit = SuperBlock;
    const MAX_CODE: u8 = 3;
    const GROUP: usize = 16;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut SuperBlock) {
        let Some(block) = block.first_chunk::<84>() else { return };
        unpack_pairs(&block[16..80], &mut out.codes);
        for (k, s) in block[..16].iter().enumerate() {
            out.scales[k] = i16::from(s & 15);
            out.mins[k] = i16::from(s >> 4);
        }
        (out.d, out.dmin) = (read_f16(block, 80), read_f16(block, 82));
    }
}
