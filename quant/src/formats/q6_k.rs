//! Q6_K: 256 weights in 210 bytes, 16 groups of 16 with an 8-bit signed scale each.
//!
//! ```text
//! 0          128       192            208     210
//! | ql u8×128 | qh u8×64 | scales i8×16 | d f16 |    x = (d·sc)·(q − 32)
//!
//! half h = 0, 1 of 128 codes, l = 0…31:
//! ql:  byte 64h+l    = q[128h+l]    & 15 | (q[128h+l+64] & 15) << 4
//!      byte 64h+32+l = q[128h+l+32] & 15 | (q[128h+l+96] & 15) << 4
//! qh:  byte 32h+l    = bits 4, 5 of q[128h+l], q[128h+l+32], q[128h+l+64], q[128h+l+96], from the low end
//! ```

use crate::Format;
use crate::half_bits::{read_f16, write_f16};
use crate::lanes::{Simd, nearest};
use crate::panel::{SuperBlock, Unpack};
use crate::search::EPS;
use crate::search::groups::{self, Groups, RUN};

/// 6-bit codes with a scale per 16 weights.
pub struct Q6_K;

impl Format for Q6_K {
    const ID: u32 = 14;
    const NAME: &'static str = "Q6_K";
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 210;
    const SCALES: &'static [usize] = &[208];

    #[inline(always)]
    fn quantize_row<S: Simd>(s: S, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<210>().0;
        for (run, (x, blocks)) in row.as_chunks::<256>().0.chunks(RUN).zip(blocks.chunks_mut(RUN)).enumerate() {
            let groups = match importance {
                None => groups::fit_symmetric::<S, 16>(s, x.as_flattened(), 32.0, |_, x| x.map(|x| x * x)),
                Some(importance) => {
                    let first = run * RUN * 256;
                    let importance = &importance[first..first + x.len() * 256];
                    groups::fit_symmetric::<S, 16>(s, x.as_flattened(), 32.0, |first, _| {
                        s.load_groups::<16>(&importance[16 * first..])
                    })
                }
            };
            for (b, (x, block)) in x.iter().zip(blocks).enumerate() {
                store_block(x, &groups, b, block);
            }
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (x, block) in out.as_chunks_mut::<256>().0.iter_mut().zip(bytes.as_chunks::<210>().0) {
            let d = read_f16(block, 208);
            let (lows, rest) = block.split_at(128);
            let halves =
                lows.as_chunks::<64>().0.iter().zip(rest.as_chunks::<32>().0).zip(block[192..].as_chunks::<8>().0);
            for (x, ((lows, high), scales)) in x.as_chunks_mut::<128>().0.iter_mut().zip(halves) {
                // The nibbles alternate between two runs of 32 bytes, then the high nibbles.
                let (runs, scales) = (lows.as_chunks::<32>().0, scales.as_chunks::<2>().0);
                let [x0, x1, x2, x3] = x.as_chunks_mut::<32>().0 else { continue };
                expand::<0, 0>(d, scales[0], &runs[0], high, x0);
                expand::<0, 2>(d, scales[1], &runs[1], high, x1);
                expand::<4, 4>(d, scales[2], &runs[0], high, x2);
                expand::<4, 6>(d, scales[3], &runs[1], high, x3);
            }
        }
    }
}

/// A quarter of half a block: 32 codes of two groups. Shifts are constants: vectors have none of bytes by a variable.
#[inline(always)]
fn expand<const LOW: u32, const HIGH: u32>(
    d: f32,
    scales: [u8; 2],
    low: &[u8; 32],
    high: &[u8; 32],
    x: &mut [f32; 32],
) {
    let bytes = low.as_chunks::<16>().0.iter().zip(high.as_chunks::<16>().0);
    for ((x, scale), (low, high)) in x.as_chunks_mut::<16>().0.iter_mut().zip(scales).zip(bytes) {
        let scale = d * f32::from(scale as i8);
        for ((x, low), high) in x.iter_mut().zip(low).zip(high) {
            let q = (low >> LOW & 15) | ((high >> HIGH & 3) << 4);
            *x = scale * (f32::from(q) - 32.0);
        }
    }
}

/// The scale of largest magnitude becomes −128; then the block is quantised anew with the stored scales and packed.
#[inline(always)]
fn store_block(x: &[f32; 256], groups: &Groups, b: usize, block: &mut [u8; 210]) {
    let scales = &groups.scale[16 * b..16 * b + 16];
    let (mut max, mut amax) = (0f32, 0f32);
    for scale in scales {
        if scale.abs() > amax {
            (max, amax) = (*scale, scale.abs());
        }
    }
    if amax < EPS {
        block.fill(0);
        return;
    }
    let inverse = -128.0 / max;
    let d = write_f16(block, 208, 1.0 / inverse);
    let mut codes = [0u8; 256];
    for (k, (x, codes)) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
        let sc = nearest(inverse * scales[k]).min(127) as i8;
        block[192 + k] = sc as u8;
        let d = d * f32::from(sc);
        if d == 0.0 {
            groups::fitted_symmetric(x, groups.code_scale[16 * b + k], 32, codes);
        } else {
            groups::requantize_symmetric(x, d, 32, codes);
        }
    }
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for l in 0..32 {
            let (a, b, c, e) = (codes[l], codes[l + 32], codes[l + 64], codes[l + 96]);
            block[64 * half + l] = (a & 15) | (c << 4);
            block[64 * half + 32 + l] = (b & 15) | (e << 4);
            block[128 + 32 * half + l] = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((e >> 4) << 6);
        }
    }
}

impl Unpack for Q6_K {
    type Unit = SuperBlock;
    const MAX_CODE: u8 = 63;
    const GROUP: usize = 16;
    const SIGNED: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut SuperBlock) {
        let Some(block) = block.first_chunk::<210>() else { return };
        // Loops with constant shifts, which compilers turn into vector instructions.
        for (half, codes) in out.codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (ql, qh) = (&block[64 * half..][..64], &block[128 + 32 * half..][..32]);
            let [a, b, c, e] = codes.as_chunks_mut::<32>().0 else { return };
            for i in 0..32 {
                a[i] = ql[i] & 15 | (qh[i] << 4 & 0x30);
            }
            for i in 0..32 {
                b[i] = ql[32 + i] & 15 | (qh[i] << 2 & 0x30);
            }
            for i in 0..32 {
                c[i] = ql[i] >> 4 | (qh[i] & 0x30);
            }
            for i in 0..32 {
                e[i] = ql[32 + i] >> 4 | (qh[i] >> 2 & 0x30);
            }
        }
        for (k, scale) in block[192..208].iter().enumerate() {
            out.scales[k] = i16::from(*scale as i8);
            // The codes stand for q − 32.
            out.mins[k] = 32 * out.scales[k];
        }
        out.d = read_f16(block, 208);
        out.dmin = out.d;
    }
}
