//! Two groups of a super-block at once, where their sums fit 16 bits: one in the upper half of every lane and one in the
//! lower, and one multiplication for both times their scales.

use std::arch::x86_64::*;

use super::lanes::{Avx512, Lanes, Pair};
use super::steps::{step, weights};
use crate::table::RAISED16;

/// What keeps a sum in the lower half of a lane positive, or it would take one from the sum above it.
const RAISED_LOWER: i32 = 1 << 15;

/// Two groups of panels and of `N` tokens, that in even place first.
pub(super) struct Groups<const N: usize> {
    /// Codes of `2·STEPS` steps, or where they are nibbles, of half as many.
    pub(super) p: *const u8,
    /// Where the other panel is, see [`Lanes::ints`].
    pub(super) next: usize,
    /// Codes of tokens, that lie one stride apart.
    pub(super) y: [*const i8; N],
    /// What sums begin with, if they do with anything but 0.
    pub(super) begin: [*const i32; N],
    /// Scales, each twice as i16.
    pub(super) scales: *const u8,
}

/// What a sum begins with where codes are raised by `raised`, a power of two; at `p` is what it would begin with for
/// [`RAISED16`].
///
/// # Safety
/// As for [`Lanes`]; it must be readable.
#[inline(always)]
pub(super) unsafe fn begin_of<V: Lanes>(p: *const i32, raised: i32) -> V::Int {
    // SAFETY: promised by the caller.
    unsafe { V::int(*p >> (RAISED16 / raised).ilog2()) }
}

/// Adds the products of two groups times their scales, of `STEPS` steps each. Codes that are `NIBBLES` are those of the even
/// group in the lower halves of bytes, and of the other in the upper ones. Sums begin with what codes `RAISED` by that must not
/// add, see [`begin_of`], or with 0.
///
/// # Safety
/// As for [`Lanes`]; what [`Groups`] names must be readable.
#[inline(always)]
pub(super) unsafe fn by_steps<V: Lanes, const N: usize, const STEPS: usize, const NIBBLES: bool, const RAISED: i32>(
    total: &mut [V::Int; N],
    g: &Groups<N>,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let raised = V::int(RAISED_LOWER);
        let mut sum = [V::int(0); N];
        for c in 0..N {
            if RAISED != 0 {
                sum[c] = begin_of::<V>(g.begin[c], RAISED);
            }
        }
        // What the upper halves of bytes give is shifted by 4 bits as it is, and so comes first.
        let mask = |bits: u32| NIBBLES.then(|| V::int(bits.cast_signed()));
        let at = if NIBBLES { [4 * STEPS, 0] } else { [0, 4 * STEPS] };
        V::dots::<N>(&mut sum, g.p, g.next, mask(0xf0f0_f0f0), g.y, at[0], STEPS);
        for c in 0..N {
            let upper = if NIBBLES { V::up12(sum[c]) } else { V::up16(sum[c]) };
            sum[c] = V::add_int(upper, raised);
            if RAISED != 0 {
                sum[c] = V::add_int(sum[c], begin_of::<V>(g.begin[c].add(1), RAISED));
            }
        }
        let second = g.p.add(if NIBBLES { 0 } else { 64 * STEPS });
        V::dots::<N>(&mut sum, second, g.next, mask(0x0f0f_0f0f), g.y, at[1], STEPS);
        let [even, odd] = [V::ints(g.scales, g.next), V::ints(g.scales.add(64), g.next)];
        let scales = if NIBBLES { V::halves(odd, even) } else { V::halves(even, odd) };
        for c in 0..N {
            total[c] = V::dot_words(total[c], V::xor(sum[c], raised), scales);
        }
    }
}

/// Steps of the tokens named, each as [`step`] numbers them.
macro_rules! steps {
    ($bits:ident [$($k:literal $at:literal)+] $tokens:tt) => {
        concat!($(steps!(@one $bits $k $at $tokens)),+)
    };
    (@one $bits:ident $k:literal $at:literal [$($a:literal $b:literal $c:literal $d:literal $y:literal $begin:literal),+]) => {
        step!($bits $k $at: $($a $b $y),+)
    };
}

/// What sums begin with.
macro_rules! begin {
    (zero [$($a:literal $b:literal $c:literal $d:literal $y:literal $begin:literal),+]) => {
        concat!($("vpxord {", $a, "}, {", $a, "}, {", $a, "}\n", "vpxord {", $b, "}, {", $b, "}, {", $b, "}\n",)+)
    };
    (given [$($a:literal $b:literal $c:literal $d:literal $y:literal $begin:literal),+]) => {
        concat!($("vpbroadcastd {", $a, "}, dword ptr [", $begin, "]\n", "vmovdqa64 {", $b, "}, {", $a, "}\n",)+)
    };
    (eighth [$($a:literal $b:literal $c:literal $d:literal $y:literal $begin:literal),+]) => {
        concat!($("vpsrad {", $a, "}, dword ptr [", $begin, "]{{1to16}}, 3\n", "vmovdqa64 {", $b, "}, {", $a, "}\n",)+)
    };
}

/// What lower sums of a token begin with: into a register, or with nothing of their own.
macro_rules! lower {
    (zero $begin:literal) => {
        "/* {n} {ns} {n3} */\n"
    };
    (given $begin:literal) => {
        concat!("vpaddd {x}, {raised}, dword ptr [", $begin, " + 4]{{1to16}}\n")
    };
    (eighth $begin:literal) => {
        concat!("vpsrad {x}, dword ptr [", $begin, " + 4]{{1to16}}, 3\n", "vpaddd {x}, {x}, {raised}\n")
    };
    (@place zero) => {
        "{raised}"
    };
    (@place $begin:ident) => {
        "{x}"
    };
}

/// Sums to the upper halves of lanes, and what those in the lower ones begin with.
macro_rules! lift {
    ($from:ident $up:literal [$($a:literal $b:literal $c:literal $d:literal $y:literal $begin:literal),+]) => {
        concat!($(
            lower!($from $begin),
            "vpslld {", $a, "}, {", $a, "}, ", $up, "\n", "vpslld {", $b, "}, {", $b, "}, ", $up, "\n",
            "vpaddd {", $a, "}, {", $a, "}, ", lower!(@place $from), "\n",
            "vpaddd {", $b, "}, {", $b, "}, ", lower!(@place $from), "\n",
        )+)
    };
}

/// Adds both sums of every lane times their scales to totals.
macro_rules! settle {
    ($upper:literal $lower:literal [$($a:literal $b:literal $c:literal $d:literal $y:literal $begin:literal),+]) => {
        concat!(
            "vmovdqu64 {w0}, [{scales} + ", $upper, "]\n", "vmovdqu64 {w1}, [{scales} + {next} + ", $upper, "]\n",
            "vmovdqu16 {w0}{{{low}}}, [{scales} + ", $lower, "]\n",
            "vmovdqu16 {w1}{{{low}}}, [{scales} + {next} + ", $lower, "]\n",
            $(
                "vpxord {", $a, "}, {", $a, "}, {raised}\n", "vpxord {", $b, "}, {", $b, "}, {raised}\n",
                "vpdpwssd {", $c, "}, {", $a, "}, {w0}\n", "vpdpwssd {", $d, "}, {", $b, "}, {w1}\n",
            )+
        )
    };
}

/// All of [`by_steps`] for the tokens named.
macro_rules! both {
    (nibbles $tokens:tt) => {
        concat!(
            begin!(zero $tokens),
            steps!(masked [0 8 1 9 2 10 3 11 4 12 5 13 6 14 7 15] $tokens),
            lift!(zero "12" $tokens),
            steps!(others [0 0 1 1 2 2 3 3 4 4 5 5 6 6 7 7] $tokens),
            settle!("64" "0" $tokens)
        )
    };
    (whole $tokens:tt) => {
        concat!(
            begin!(zero $tokens),
            steps!(whole [0 0 1 1 2 2 3 3 4 4 5 5 6 6 7 7] $tokens),
            lift!(zero "16" $tokens),
            steps!(whole [8 8 9 9 10 10 11 11 12 12 13 13 14 14 15 15] $tokens),
            settle!("0" "64" $tokens)
        )
    };
    ($begin:ident $tokens:tt) => {
        concat!(
            begin!($begin $tokens),
            steps!(whole [0 0 1 1 2 2 3 3] $tokens),
            lift!($begin "16" $tokens),
            steps!(whole [4 4 5 5 6 6 7 7] $tokens),
            settle!("0" "64" $tokens)
        )
    };
}

/// [`by_steps`] of two panels as assembly, where a tile is large: the compiler kept sums in memory.
///
/// # Safety
/// As there; the CPU must have AVX-512 VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn of_two_512<const N: usize, const STEPS: usize, const NIBBLES: bool, const RAISED: i32>(
    total: &mut [[__m512i; 2]; N],
    g: &Groups<N>,
) {
    if !(4..=6).contains(&N) {
        // SAFETY: promised by the caller.
        return unsafe { by_steps::<Pair<Avx512, N>, N, STEPS, NIBBLES, RAISED>(total, g) };
    }
    let stride = g.y[1].addr().wrapping_sub(g.y[0].addr());
    let begin_stride = g.begin[1].addr().wrapping_sub(g.begin[0].addr());
    let raised = _mm512_set1_epi32(RAISED_LOWER);
    let mask = _mm512_set1_epi32(0xf0f0_f0f0_u32.cast_signed());
    macro_rules! tile {
        ($kind:ident: $($i:literal $a:ident $b:ident $c:ident $d:ident),+; $tokens:tt) => {{
            // Registers to work in; without a type they would be too narrow.
            $(let ($a, $b): (__m512i, __m512i);)+
            let (w0, w1, x): (__m512i, __m512i, __m512i);
            // SAFETY: promised by the caller; reads what is promised, and changes registers that are declared only.
            unsafe {
                std::arch::asm!(
                    both!($kind $tokens),
                    $($a = out(zmm_reg) $a, $b = out(zmm_reg) $b, $c = inout(zmm_reg) total[$i][0], $d = inout(zmm_reg) total[$i][1],)+
                    w0 = out(zmm_reg) w0, w1 = out(zmm_reg) w1, x = out(zmm_reg) x,
                    mask = in(zmm_reg) mask, raised = in(zmm_reg) raised, low = in(kreg) 0x5555_5555_u32,
                    p = in(reg) g.p, next = in(reg) g.next, scales = in(reg) g.scales,
                    y = in(reg) g.y[0], s = in(reg) stride, y3 = in(reg) g.y[3],
                    n = in(reg) g.begin[0], ns = in(reg) begin_stride, n3 = in(reg) g.begin[3],
                    options(readonly, nostack, preserves_flags)
                );
            }
            let _ = (w0, w1, x, $($a, $b),+);
        }};
    }
    macro_rules! tiles {
        ($kind:ident) => {
            match N {
                4 => tile!($kind: 0 a0 b0 c0 d0, 1 a1 b1 c1 d1, 2 a2 b2 c2 d2, 3 a3 b3 c3 d3; [
                    "a0" "b0" "c0" "d0" "{y}" "{n}", "a1" "b1" "c1" "d1" "{y} + {s}" "{n} + {ns}",
                    "a2" "b2" "c2" "d2" "{y} + 2*{s}" "{n} + 2*{ns}", "a3" "b3" "c3" "d3" "{y3}" "{n3}"
                ]),
                5 => tile!($kind: 0 a0 b0 c0 d0, 1 a1 b1 c1 d1, 2 a2 b2 c2 d2, 3 a3 b3 c3 d3, 4 a4 b4 c4 d4; [
                    "a0" "b0" "c0" "d0" "{y}" "{n}", "a1" "b1" "c1" "d1" "{y} + {s}" "{n} + {ns}",
                    "a2" "b2" "c2" "d2" "{y} + 2*{s}" "{n} + 2*{ns}", "a3" "b3" "c3" "d3" "{y3}" "{n3}",
                    "a4" "b4" "c4" "d4" "{y3} + {s}" "{n3} + {ns}"
                ]),
                _ => tile!($kind: 0 a0 b0 c0 d0, 1 a1 b1 c1 d1, 2 a2 b2 c2 d2, 3 a3 b3 c3 d3, 4 a4 b4 c4 d4, 5 a5 b5 c5 d5; [
                    "a0" "b0" "c0" "d0" "{y}" "{n}", "a1" "b1" "c1" "d1" "{y} + {s}" "{n} + {ns}",
                    "a2" "b2" "c2" "d2" "{y} + 2*{s}" "{n} + 2*{ns}", "a3" "b3" "c3" "d3" "{y3}" "{n3}",
                    "a4" "b4" "c4" "d4" "{y3} + {s}" "{n3} + {ns}", "a5" "b5" "c5" "d5" "{y3} + 2*{s}" "{n3} + 2*{ns}"
                ]),
            }
        };
    }
    const { assert!(STEPS == 8 && RAISED == 0 || STEPS == 4 && !NIBBLES && matches!(RAISED, 0 | 4 | RAISED16)) };
    match (STEPS, NIBBLES, RAISED) {
        (8, true, _) => tiles!(nibbles),
        (8, false, _) => tiles!(whole),
        (_, _, RAISED16) => tiles!(given),
        (_, _, 4) => tiles!(eighth),
        _ => tiles!(zero),
    }
}
