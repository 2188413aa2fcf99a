//! The multipliers on registers alone, and reading with full-width loads.

use std::arch::asm;

use crate::measure::Unit;
use crate::table::{PeakLoop, sum_words};

/// Factors without special values, for any type.
static FACTORS: [u32; 16] = [0x3f01_0302; 16];

/// Loops of this table. No kernel uses the instruction for bfloat16 where there is one; its peak says what it would give.
pub(super) fn loops() -> Vec<PeakLoop> {
    let mut loops = vec![
        PeakLoop { unit: Unit::Int8, instructions: "vpdpbusd (512 bits)", ops: 4 * 16 * 128, run: int8 },
        PeakLoop { unit: Unit::F32, instructions: "vfmadd231ps (512 bits)", ops: 4 * 16 * 32, run: f32 },
    ];
    if is_x86_feature_detected!("avx512bf16") {
        loops.push(PeakLoop { unit: Unit::Bf16, instructions: "vdpbf16ps (512 bits)", ops: 4 * 16 * 64, run: bf16 });
    }
    loops
}

/// Sixteen independent sums of one instruction.
macro_rules! sums {
    ($name:ident, $features:literal, $instruction:literal, [$($i:literal)+]) => {
        #[target_feature(enable = $features)]
        fn $name(turns: u64) {
            // SAFETY: reads 64 bytes of `FACTORS`; all other effects are on registers that are declared. The
            // function's features are those of the table, which has been detected, or detected where it is listed.
            unsafe {
                asm!(
                    "vmovups zmm30, [{factors}]",
                    "vmovaps zmm31, zmm30",
                    $(concat!("vpxord zmm", $i, ", zmm", $i, ", zmm", $i),)+
                    "2:",
                    ".rept 4",
                    $(concat!($instruction, " zmm", $i, ", zmm30, zmm31"),)+
                    ".endr",
                    "dec rcx",
                    "jnz 2b",
                    factors = in(reg) FACTORS.as_ptr(),
                    inout("rcx") turns.max(1) => _,
                    clobber_abi("sysv64"),
                    options(readonly, nostack)
                );
            }
        }
    };
}

sums!(int8, "avx512f,avx512vnni", "vpdpbusd", [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
sums!(f32, "avx512f", "vfmadd231ps", [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
sums!(bf16, "avx512f,avx512bf16", "vdpbf16ps", [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);

/// See [`crate::table::KernelTable::read`].
#[target_feature(enable = "avx512f")]
pub(super) fn read(words: &[u64]) -> u64 {
    sum_words(words)
}
