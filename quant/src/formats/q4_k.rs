//! Q4_K: 256 weights in 144 bytes, 8 groups of 32 with a 6-bit scale and a 6-bit minimum each.
//!
//! ```text
//! 0       2          4              16                             144
//! | d f16 | dmin f16 | scales u8×12 | qs u8×128                     |   x = (d·sc)·q − dmin·m
//!
//! scales:  byte j   = sc[j]      | high 2 bits of sc[j+4] << 6         j = 0…3
//!          byte 4+j = m[j]       | high 2 bits of m[j+4]  << 6
//!          byte 8+j = sc[j+4]&15 | (m[j+4] & 15) << 4
//! qs:      byte 32c+l = q[64c+l] | q[64c+32+l] << 4                    c = 0…3, l = 0…31
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::{Lanes, Simd, nearest};
use crate::panel::{SuperBlock, Unpack, unpack_groups};
use crate::search::affine::Params;
use crate::search::groups::{self, Groups, RUN};
use crate::search::sums_of_squares;

/// 4-bit codes with scale and minimum per 32 weights.
pub struct Q4_K;

impl Format for Q4_K {
    const ID: u32 = 12;
    const NAME: &'static str = "Q4_K";
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 144;
    const SCALES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let plain = Params { n_max: 15.0, first: -1.0, step: 0.1, last: 20, absolute: false };
        quantize_groups_of_32::<S, 144>(s, row, importance, out, plain, u8::MAX, |codes, block| {
            pack_nibbles(codes, &mut block[16..]);
        });
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<256>().0.iter_mut().zip(bytes.as_chunks::<144>().0) {
            let (d, dmin) = (read_f16(block, 0), read_f16(block, 2));
            let (sc, m) = unpack_scales(&block[4..16]);
            let chunks = x.as_chunks_mut::<64>().0.iter_mut().zip(block[16..].as_chunks::<32>().0);
            for (c, (x, qs)) in chunks.enumerate() {
                let (low, high) = x.split_at_mut(32);
                let (d1, m1) = (d * f32::from(sc[2 * c]), dmin * f32::from(m[2 * c]));
                let (d2, m2) = (d * f32::from(sc[2 * c + 1]), dmin * f32::from(m[2 * c + 1]));
                for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
                    *low = d1 * f32::from(q & 15) - m1;
                    *high = d2 * f32::from(q >> 4) - m2;
                }
            }
        }
    }
}

/// Packs 256 codes of 4 bits (higher bits are cut off) as Q4_K and Q5_K lay them out.
#[inline(always)]
pub(super) fn pack_nibbles(codes: &[u8; 256], qs: &mut [u8]) {
    for (codes, qs) in codes.as_chunks::<64>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        let (low, high) = codes.split_at(32);
        for ((q, low), high) in qs.iter_mut().zip(low).zip(high) {
            *q = (low & 15) | (high << 4);
        }
    }
}

/// The 8 scales and 8 minima of 6 bits.
#[inline(always)]
pub(super) fn unpack_scales(s: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut sc, mut m) = ([0; 8], [0; 8]);
    for j in 0..4 {
        sc[j] = s[j] & 63;
        m[j] = s[4 + j] & 63;
        sc[j + 4] = (s[8 + j] & 15) | ((s[j] >> 6) << 4);
        m[j + 4] = (s[8 + j] >> 4) | ((s[4 + j] >> 6) << 4);
    }
    (sc, m)
}

/// Packs 8 scales and 8 minima of 6 bits.
#[inline(always)]
fn pack_scales(sc: &[u8; 8], m: &[u8; 8], s: &mut [u8]) {
    for j in 0..4 {
        s[j] = sc[j] | ((sc[j + 4] >> 4) << 6);
        s[4 + j] = m[j] | ((m[j + 4] >> 4) << 6);
        s[8 + j] = (sc[j + 4] & 15) | ((m[j + 4] & 15) << 4);
    }
}

/// Scales and minima of a super-block: two multipliers and a code per group for each.
struct Scales {
    d: f32,
    dmin: f32,
    sc: [u8; 8],
    m: [u8; 8],
}

/// Quantises a row of super-blocks with 8 groups of 32, as Q4_K and Q5_K do. `pack` stores a block's 256 codes.
///
/// Groups with hardly any weight can end up with a scale or minimum < 0, whose code wraps around in its byte. With
/// importance, `scale_limit` says to what such codes are cut; without, it is 63.
#[inline(always)]
pub(super) fn quantize_groups_of_32<S: Simd, const B: usize>(
    s: S,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    plain: Params,
    scale_limit: u8,
    pack: impl Fn(&[u8; 256], &mut [u8; B]),
) {
    let blocks = out.as_chunks_mut::<B>().0;
    for (run, (x, blocks)) in row.as_chunks::<256>().0.chunks(RUN).zip(blocks.chunks_mut(RUN)).enumerate() {
        let (groups, scales) = match importance {
            None => {
                let groups = groups::fit_affine::<S, 32>(s, x.as_flattened(), plain, |_, x| {
                    let sum = x.iter().fold(s.splat(0.0), |sum, x| sum + *x * *x);
                    let rms = (sum / s.splat(32.0)).sqrt();
                    x.map(|x| rms + x.abs())
                });
                let scales = std::array::from_fn(|b| plain_scales(&groups, b));
                (groups, scales)
            }
            Some(importance) => {
                let first = run * RUN * 256;
                fit_with_importance(s, x, &importance[first..first + x.len() * 256], plain.n_max, scale_limit)
            }
        };
        for (b, ((x, block), scales)) in x.iter().zip(blocks).zip(&scales).enumerate() {
            store_block(x, &groups, b, scales, plain.n_max as i32, block, &pack);
        }
    }
}

/// Without importance, the largest scale and the largest minimum become code 63.
#[inline(always)]
fn plain_scales(groups: &Groups, b: usize) -> Scales {
    let code = |values: &[f32]| {
        let max = values.iter().fold(0f32, |max, v| if *v > max { *v } else { max });
        let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
        let mut codes = [0u8; 8];
        for (code, v) in codes.iter_mut().zip(values) {
            *code = (nearest(inverse * v) as u8).min(63);
        }
        (max / 63.0, codes)
    };
    let (d, sc) = code(&groups.scale[8 * b..8 * b + 8]);
    let (dmin, m) = code(&groups.neg_min[8 * b..8 * b + 8]);
    Scales { d, dmin, sc, m }
}

/// With importance, the scales and minima are themselves fitted, weighted by what their groups weigh.
#[inline(always)]
fn fit_with_importance<S: Simd>(
    s: S,
    x: &[[f32; 256]],
    importance: &[f32],
    n_max: f32,
    scale_limit: u8,
) -> (Groups, [Scales; RUN]) {
    let mut sums = [0f32; RUN];
    sums_of_squares(x, &mut sums[..x.len()]);
    let sigma2: [f32; 8 * RUN] = std::array::from_fn(|g| 2.0 * sums[g / 8] / 256.0);
    let params = Params { n_max, first: -0.9, step: 0.05, last: 36, absolute: false };
    let groups = groups::fit_affine::<S, 32>(s, x.as_flattened(), params, |first, x| {
        groups::importance_weights(s, x, &importance[32 * first..], &sigma2[first..])
    });
    let (d, sc) = groups::code_positive::<S, 8>(s, x.len(), &groups.scale, &groups.sum_w, 63.0);
    let (dmin, m) = groups::code_positive::<S, 8>(s, x.len(), &groups.neg_min, &groups.sum_w, 63.0);
    let cut = |codes: [u8; 8]| codes.map(|code| code.min(scale_limit));
    let scales = std::array::from_fn(|b| Scales { d: d[b], dmin: dmin[b], sc: cut(sc[b]), m: cut(m[b]) });
    (groups, scales)
}

/// Stores the scales of a block, quantises it anew with what they became, and packs the codes.
#[inline(always)]
fn store_block<const B: usize>(
    x: &[f32; 256],
    groups: &Groups,
    b: usize,
    scales: &Scales,
    n_max: i32,
    block: &mut [u8; B],
    pack: &impl Fn(&[u8; 256], &mut [u8; B]),
) {
    let (d, dmin) = (write_f16(block, 0, scales.d), write_f16(block, 2, scales.dmin));
    pack_scales(&scales.sc, &scales.m, &mut block[4..16]);
    let (sc, m) = unpack_scales(&block[4..16]);
    let mut codes = [0u8; 256];
    for (j, (x, codes)) in x.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0).enumerate() {
        let d = d * f32::from(sc[j]);
        if d == 0.0 {
            let g = 8 * b + j;
            groups::fitted_affine(x, groups.code_scale[g], groups.code_min[g], n_max, codes);
        } else {
            groups::requantize_affine(x, d, dmin * f32::from(m[j]), n_max, codes);
        }
    }
    pack(&codes, block);
}

impl Unpack for Q4_K {
    type Unit = SuperBlock;
    const MAX_CODE: u8 = 15;
    const GROUP: usize = 32;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut SuperBlock) {
        let Some(block) = block.first_chunk::<144>() else { return };
        unpack_groups(&block[16..], &mut out.codes);
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
