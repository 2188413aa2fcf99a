//! The multipliers on registers alone, and reading with full-width loads.

use std::arch::x86_64::*;

use crate::measure::Unit;
use crate::table::PeakLoop;
use crate::x86_avx2::peak::sums;

/// Loops of the table of AVX-VNNI: those of AVX2, but for integers.
pub(super) fn avx_loops(avx2: &[PeakLoop]) -> Vec<PeakLoop> {
    let int8 = PeakLoop { unit: Unit::Int8, instructions: "vpdpbusd (256 bits)", ops: 8 * 12 * 64, run: int8_256 };
    let int16 = PeakLoop { unit: Unit::Int16, instructions: "vpdpwssd (256 bits)", ops: 8 * 12 * 32, run: int16_256 };
    let replaced = |peak: &&PeakLoop| peak.unit != Unit::Int8 && peak.unit != Unit::Int16;
    [int8, int16].into_iter().chain(avx2.iter().filter(replaced).copied()).collect()
}

/// Loops of the table of AVX-512. No kernel uses the instruction for bfloat16 where there is one; its peak says what it
/// would give.
pub(super) fn avx512_loops() -> Vec<PeakLoop> {
    let mut loops = vec![
        PeakLoop { unit: Unit::Int8, instructions: "vpdpbusd (512 bits)", ops: 4 * 16 * 128, run: int8 },
        PeakLoop { unit: Unit::Int16, instructions: "vpdpwssd (512 bits)", ops: 4 * 16 * 64, run: int16 },
        PeakLoop { unit: Unit::F32, instructions: "vfmadd231ps (512 bits)", ops: 4 * 16 * 32, run: f32 },
    ];
    if is_x86_feature_detected!("avx512bf16") {
        loops.push(PeakLoop { unit: Unit::Bf16, instructions: "vdpbf16ps (512 bits)", ops: 4 * 16 * 64, run: bf16 });
    }
    loops
}

sums!(int8_256, "avx2,avxvnni", "{{vex}} vpdpbusd", "ymm" [0 1 2 3 4 5 6 7 8 9 10 11], 14 15, zero: "vxorps", often: 8);
sums!(int16_256, "avx2,avxvnni", "{{vex}} vpdpwssd", "ymm" [0 1 2 3 4 5 6 7 8 9 10 11], 14 15, zero: "vxorps", often: 8);

/// Sixteen sums by an instruction of AVX-512.
macro_rules! wide_sums {
    ($name:ident, $features:literal, $instruction:literal) => {
        sums!($name, $features, $instruction, "zmm" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15], 30 31, zero: "vpxord", often: 4);
    };
}

wide_sums!(int8, "avx512f,avx512vnni", "vpdpbusd");
wide_sums!(int16, "avx512f,avx512vnni", "vpdpwssd");
wide_sums!(f32, "avx512f", "vfmadd231ps");
wide_sums!(bf16, "avx512f,avx512bf16", "vdpbf16ps");

/// See [`crate::table::KernelTable::read`]. Register by register: what the compiler makes of the loop that the other tables
/// share reads less than a tenth as fast.
#[target_feature(enable = "avx512f")]
pub(super) fn read(words: &[u64]) -> u64 {
    let (blocks, rest) = words.as_chunks::<32>();
    let mut sums = [_mm512_setzero_si512(); 4];
    for block in blocks {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a block is four times as long; loads need no alignment.
            *sum = _mm512_add_epi64(*sum, unsafe { _mm512_loadu_si512(block.as_ptr().add(8 * i).cast()) });
        }
    }
    let [a, b, c, d] = sums;
    let sum = _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d)));
    rest.iter().fold(sum as u64, |a, b| a.wrapping_add(*b))
}
