//! Steps of the largest tile of AVX-512, as assembly: the compiler moved all loads of a group to its beginning and kept sums
//! in memory for that.

use std::arch::x86_64::*;

use super::lanes::{Avx512, spread};

/// The weights of a step of a tile of two panels: whole, the bits of a mask, or those that are not in it.
macro_rules! weights {
    (whole $k:literal) => {
        concat!("vmovdqu64 {w0}, [{p} + 64*", $k, "]\n", "vmovdqu64 {w1}, [{p} + {next} + 64*", $k, "] /* {mask} */\n")
    };
    (masked $k:literal) => {
        concat!("vpandd {w0}, {mask}, [{p} + 64*", $k, "]\n", "vpandd {w1}, {mask}, [{p} + {next} + 64*", $k, "]\n")
    };
    (others $k:literal) => {
        concat!("vpandnd {w0}, {mask}, [{p} + 64*", $k, "]\n", "vpandnd {w1}, {mask}, [{p} + {next} + 64*", $k, "]\n")
    };
}
pub(super) use weights;

/// A step of the tokens named, number `k` of the weights and `at` of the tokens: weights, then for every token four bytes in every
/// lane and two products.
macro_rules! step {
    ($bits:ident $k:literal $at:literal: $($sum:literal $other:literal $place:literal),+) => {
        concat!(
            weights!($bits $k),
            $(
                "vpbroadcastd {x}, dword ptr [", $place, " + 4*", $at, "]\n",
                "vpdpbusd {", $sum, "}, {w0}, {x}\n",
                "vpdpbusd {", $other, "}, {w1}, {x}\n",
            )+
        )
    };
}

pub(super) use step;

/// Four steps of tokens that are named, as [`step`] takes them.
macro_rules! steps {
    ($bits:ident: $($token:tt)+) => {
        concat!(
            step!($bits 0 0: $($token)+), step!($bits 1 1: $($token)+),
            step!($bits 2 2: $($token)+), step!($bits 3 3: $($token)+)
        )
    };
}

/// Four steps of a tile of two panels, for `N` tokens that lie `stride` apart, of what is set in `mask` where it is `MASKED`.
///
/// # Safety
/// The CPU must have AVX-512 VNNI; panels must be readable for 256 bytes, tokens for 16.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn four_steps<const N: usize, const MASKED: bool>(
    sums: &mut [[__m512i; 2]; N],
    p: *const u8,
    next: usize,
    mask: __m512i,
    y: *const i8,
    stride: isize,
) {
    macro_rules! tile {
        ($bits:ident: $($i:literal $a:ident $b:ident),+; $($token:tt)+) => {{
            // Registers to work in; without a type they would be too narrow.
            let (w0, w1, x): (__m512i, __m512i, __m512i);
            // SAFETY: promised by the caller; reads what is promised, and changes the sums only.
            unsafe {
                std::arch::asm!(
                    steps!($bits: $($token)+),
                    $($a = inout(zmm_reg) sums[$i][0], $b = inout(zmm_reg) sums[$i][1],)+
                    w0 = out(zmm_reg) w0, w1 = out(zmm_reg) w1, x = out(zmm_reg) x, mask = in(zmm_reg) mask,
                    p = in(reg) p, next = in(reg) next,
                    y = in(reg) y, s = in(reg) stride, y3 = in(reg) y.wrapping_offset(3 * stride),
                    options(readonly, nostack, preserves_flags)
                );
            }
            let _ = (w0, w1, x);
        }};
    }
    macro_rules! tiles {
        ($bits:ident) => {
            match N {
                6 => tile!($bits: 0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3, 4 a4 b4, 5 a5 b5;
                    "a0" "b0" "{y}", "a1" "b1" "{y} + {s}", "a2" "b2" "{y} + 2*{s}",
                    "a3" "b3" "{y3}", "a4" "b4" "{y3} + {s}", "a5" "b5" "{y3} + 2*{s}"),
                5 => tile!($bits: 0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3, 4 a4 b4;
                    "a0" "b0" "{y}", "a1" "b1" "{y} + {s}", "a2" "b2" "{y} + 2*{s}",
                    "a3" "b3" "{y3}", "a4" "b4" "{y3} + {s}"),
                4 => tile!($bits: 0 a0 b0, 1 a1 b1, 2 a2 b2, 3 a3 b3;
                    "a0" "b0" "{y}", "a1" "b1" "{y} + {s}", "a2" "b2" "{y} + 2*{s}", "a3" "b3" "{y3}"),
                _ => {
                    for step in 0..4 {
                        // SAFETY: promised by the caller.
                        unsafe {
                            let mut w = [
                                _mm512_loadu_si512(p.add(64 * step).cast()),
                                _mm512_loadu_si512(p.add(64 * step + next).cast()),
                            ];
                            if MASKED {
                                w = [_mm512_and_si512(w[0], mask), _mm512_and_si512(w[1], mask)];
                            }
                            for (c, sum) in sums.iter_mut().enumerate() {
                                let x = spread::<Avx512>(y.offset(c as isize * stride).add(4 * step));
                                *sum = [_mm512_dpbusd_epi32(sum[0], w[0], x), _mm512_dpbusd_epi32(sum[1], w[1], x)];
                            }
                        }
                    }
                }
            }
        };
    }
    if MASKED { tiles!(masked) } else { tiles!(whole) }
}
