//! One token times rows of the formats that models are mostly stored in, straight from their blocks.
//!
//! Layouts of the blocks are those of `ocelli_quant::formats`. To be inlined into functions that have the features of `D`.

use std::arch::aarch64::*;

use super::body::in_pieces;
use super::dot::Dot;
use crate::table::{Gemv, SuperAct, six_bits};

/// Bytes of a Q4_K block: d, dmin, 12 of scales and mins, 128 of codes.
const Q4_K: usize = 144;

/// Bytes of a Q5_K block: as Q4_K, with 32 of fifth bits before the codes.
const Q5_K: usize = 176;

/// Bytes of a Q6_K block: 128 and 64 of codes, 16 scales, d.
const Q6_K: usize = 210;

/// Bytes of a Q8_0 block: d, 32 codes.
const Q8_0: usize = 34;

/// Half precision to single, by the conversion that every AArch64 CPU has; its intrinsic is not stable yet.
#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    let single: f32;
    // SAFETY: one register in, one out; NEON is part of every AArch64 target.
    unsafe {
        std::arch::asm!(
            "fmov {single:s}, {bits:w}",
            "fcvt {single:s}, {single:h}",
            bits = in(reg) u32::from(u16::from_le_bytes(bytes)), single = out(vreg) single,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    single
}

/// What a super-block has come to: the sum of its products times their scales, that of its mins times the sums of codes, and
/// what both are multiplied by, `d` and `dmin` times the token's scale.
struct Whole {
    total: i32,
    below: i32,
    d: f32,
    dmin: f32,
}

/// Runs `block` over all super-blocks of all rows, and adds up what they come to as a tile of a panel does, to the bit.
#[inline(always)]
fn rows<const BYTES: usize>(a: &mut Gemv, block: impl Fn(&[u8; BYTES], SuperAct<'_>) -> Whole) {
    let q = a.acts.q.as_chunks::<256>().0;
    let sums16 = a.acts.sums16.as_chunks::<16>().0;
    let sums32 = a.acts.sums32.as_chunks::<8>().0;
    let unit = |k: usize| SuperAct { q: &q[k], sums16: &sums16[k], sums32: &sums32[k], d: a.acts.d[k] };
    for (row, out) in a.rows.chunks_exact(a.row_bytes).zip(a.out.iter_mut()) {
        let blocks = row.as_chunks::<BYTES>().0;
        in_pieces(blocks.len(), a.piece, out, |k, sum| {
            let of = block(&blocks[k], unit(k));
            let sum = (of.total as f32).mul_add(of.d, sum);
            (-(of.below as f32)).mul_add(of.dmin, sum)
        });
    }
}

/// Signed numbers of 16 bits as lanes of 32.
#[inline(always)]
fn wide(v: int16x8_t) -> [i32; 8] {
    let mut lanes = [0; 8];
    // SAFETY: eight lanes; NEON is part of every AArch64 target.
    unsafe {
        vst1q_s32(lanes.as_mut_ptr(), vmovl_s16(vget_low_s16(v)));
        vst1q_s32(lanes.as_mut_ptr().add(4), vmovl_high_s16(v));
    }
    lanes
}

/// `Σ a·b`, in four lanes.
#[inline(always)]
fn products(a: int16x8_t, b: int16x8_t) -> int32x4_t {
    // SAFETY: NEON is part of every AArch64 target.
    unsafe { vmlal_high_s16(vmull_s16(vget_low_s16(a), vget_low_s16(b)), a, b) }
}

/// Q4_K.
///
/// # Safety
/// Lengths as [`Gemv`] states them; the CPU must have the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn gemv_q4_k<D: Dot>(a: &mut Gemv) {
    // SAFETY: promised by the caller.
    unsafe { gemv_nibbles::<D, Q4_K>(a) };
}

/// Q5_K.
///
/// # Safety
/// As [`gemv_q4_k`].
#[inline(always)]
pub(super) unsafe fn gemv_q5_k<D: Dot>(a: &mut Gemv) {
    // SAFETY: promised by the caller.
    unsafe { gemv_nibbles::<D, Q5_K>(a) };
}

/// Q4_K or Q5_K, by the bytes of a block. A sum of 32 products is at most 31·127·32; times a scale of 63, summed over 8
/// groups, below 2²⁶.
///
/// # Safety
/// As [`gemv_q4_k`].
#[inline(always)]
unsafe fn gemv_nibbles<D: Dot, const BYTES: usize>(a: &mut Gemv) {
    rows::<BYTES>(a, |b, u| {
        let [scales, mins] = six_bits(b);
        // SAFETY: 32 bytes of fifth bits from byte 16 on in a block of 176, 128 bytes of codes at the end of a block, 256
        // activations, 8 sums; the caller promises the instructions.
        unsafe {
            let signed = |bytes: u64| vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(bytes)));
            let below = products(signed(mins), vld1q_s16(u.sums32.as_ptr()));
            let scales = wide(signed(scales));
            let (zero, nibbles) = (vdupq_n_s32(0), vdupq_n_u8(15));
            let mut total = zero;
            for j in 0..4 {
                let at = b.as_ptr().add(BYTES - 128 + 32 * j);
                let codes = [vld1q_u8(at), vld1q_u8(at.add(16))];
                for (h, mut codes) in
                    [codes.map(|c| vandq_u8(c, nibbles)), codes.map(|c| vshrq_n_u8::<4>(c))].into_iter().enumerate()
                {
                    if BYTES == Q5_K {
                        let (bit, fifth) = (vdupq_n_u8(1 << (2 * j + h)), vdupq_n_u8(16));
                        for v in 0..2 {
                            let set = vtstq_u8(vld1q_u8(b.as_ptr().add(16 + 16 * v)), bit);
                            codes[v] = vorrq_u8(codes[v], vandq_u8(set, fifth));
                        }
                    }
                    let y = u.q.as_ptr().add(64 * j + 32 * h);
                    let sum = D::dot(zero, vreinterpretq_s8_u8(codes[0]), vld1q_s8(y));
                    let sum = D::dot(sum, vreinterpretq_s8_u8(codes[1]), vld1q_s8(y.add(16)));
                    total = vmlaq_n_s32(total, sum, scales[2 * j + h]);
                }
            }
            let (d, dmin) = (half([b[0], b[1]]) * u.d, half([b[2], b[3]]) * u.d);
            Whole { total: vaddvq_s32(total), below: vaddvq_s32(below), d, dmin }
        }
    });
}

/// Q6_K, with codes 0…63 and 32 times the scaled sums of the activations taken off. A sum of 16 products is at most
/// 63·127·16; times a scale of 128, summed over 16 groups, below 2²⁸.
///
/// # Safety
/// As [`gemv_q4_k`].
#[inline(always)]
pub(super) unsafe fn gemv_q6_k<D: Dot>(a: &mut Gemv) {
    rows::<Q6_K>(a, |b, u| {
        // SAFETY: 128 + 64 bytes of codes, 16 scales from byte 192 on in a block of 210, 256 activations, 16 sums; the
        // caller promises the instructions.
        unsafe {
            let scales = vld1q_s8(b.as_ptr().add(192).cast());
            let scales = [vmovl_s8(vget_low_s8(scales)), vmovl_high_s8(scales)];
            let sums = u.sums16.as_ptr();
            let offset = vaddq_s32(products(scales[0], vld1q_s16(sums)), products(scales[1], vld1q_s16(sums.add(8))));
            let scales = scales.map(|s| wide(s));
            let (zero, nibbles, high) = (vdupq_n_s32(0), vdupq_n_u8(15), vdupq_n_u8(0x30));
            let mut total = zero;
            for h in 0..2 {
                // The first and the second 16 of runs of 32 codes.
                for v in 0..2 {
                    let at = b.as_ptr().add(64 * h + 16 * v);
                    let low = [vld1q_u8(at), vld1q_u8(at.add(32))];
                    let top = vld1q_u8(b.as_ptr().add(128 + 32 * h + 16 * v));
                    let tops = [vshlq_n_u8::<4>(top), vshlq_n_u8::<2>(top), top, vshrq_n_u8::<2>(top)];
                    let lows = [
                        vandq_u8(low[0], nibbles),
                        vandq_u8(low[1], nibbles),
                        vshrq_n_u8::<4>(low[0]),
                        vshrq_n_u8::<4>(low[1]),
                    ];
                    for k in 0..4 {
                        let codes = vreinterpretq_s8_u8(vorrq_u8(lows[k], vandq_u8(tops[k], high)));
                        let y = vld1q_s8(u.q.as_ptr().add(128 * h + 32 * k + 16 * v));
                        total = vmlaq_n_s32(total, D::dot(zero, codes, y), scales[h][2 * k + v]);
                    }
                }
            }
            let d = half([b[208], b[209]]) * u.d;
            Whole { total: vaddvq_s32(total), below: vaddvq_s32(offset) << 5, d, dmin: d }
        }
    });
}

/// Q8_0. A sum of 32 products is at most 128·127·32.
///
/// # Safety
/// Lengths as [`Gemv`] states them, with activations in units of 32; the CPU must have the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn gemv_q8_0<D: Dot>(a: &mut Gemv) {
    for (row, out) in a.rows.chunks_exact(a.row_bytes).zip(a.out.iter_mut()) {
        let (blocks, codes) = (row.as_chunks::<Q8_0>().0, a.acts.q.as_chunks::<32>().0);
        in_pieces(blocks.len(), a.piece, out, |k, sum| {
            let b = &blocks[k];
            // SAFETY: 32 codes from byte 2 on in a block of 34, 32 activations; the caller promises the instructions.
            let total = unsafe {
                let (w, y): (*const i8, _) = (b.as_ptr().add(2).cast(), codes[k].as_ptr());
                let total = D::dot(vdupq_n_s32(0), vld1q_s8(w), vld1q_s8(y));
                vaddvq_s32(D::dot(total, vld1q_s8(w.add(16)), vld1q_s8(y.add(16))))
            };
            (total as f32).mul_add(half([b[0], b[1]]) * a.acts.d[k], sum)
        });
    }
}
