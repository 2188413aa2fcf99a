//! The multipliers on registers alone, and reading with full-width loads.

use std::arch::asm;

use crate::measure::Unit;
use crate::table::{PeakLoop, sum_words};

/// Factors without special values, for any type.
pub(crate) static FACTORS: [u32; 16] = [0x3f01_0302; 16];

/// Loops of this table.
pub(super) fn loops() -> Vec<PeakLoop> {
    vec![
        PeakLoop {
            unit: Unit::Int8,
            instructions: "vpmaddubsw + vpaddw, vpmaddwd + vpaddd every 8 (256 bits)",
            ops: 8 * 8 * 64,
            run: int8,
        },
        PeakLoop { unit: Unit::Int16, instructions: "vpmaddwd + vpaddd (256 bits)", ops: 8 * 12 * 32, run: int16 },
        PeakLoop { unit: Unit::F32, instructions: "vfmadd231ps (256 bits)", ops: 8 * 12 * 16, run: f32 },
    ]
}

/// What a tile of the GEMM does for a group of 32 weights, 16 rows and 4 tokens, without its loads: eight sums of eight
/// products in 16 bits, widened once.
#[target_feature(enable = "avx2")]
fn int8(turns: u64) {
    // SAFETY: reads 32 bytes of `FACTORS`; all other effects are on registers that are declared.
    unsafe {
        asm!(
            "vmovdqu ymm14, [{factors}]",
            "vpsrlw ymm15, ymm14, 6",
            "vpxor ymm12, ymm12, ymm12",
            "vpxor ymm13, ymm13, ymm13",
            "2:",
            "vpmaddubsw ymm0, ymm14, ymm15",
            "vpmaddubsw ymm1, ymm14, ymm15",
            "vpmaddubsw ymm2, ymm14, ymm15",
            "vpmaddubsw ymm3, ymm14, ymm15",
            "vpmaddubsw ymm4, ymm14, ymm15",
            "vpmaddubsw ymm5, ymm14, ymm15",
            "vpmaddubsw ymm6, ymm14, ymm15",
            "vpmaddubsw ymm7, ymm14, ymm15",
            ".rept 7",
            "vpmaddubsw ymm8, ymm14, ymm15",
            "vpmaddubsw ymm9, ymm14, ymm15",
            "vpmaddubsw ymm10, ymm14, ymm15",
            "vpmaddubsw ymm11, ymm14, ymm15",
            "vpaddw ymm0, ymm0, ymm8",
            "vpaddw ymm1, ymm1, ymm9",
            "vpaddw ymm2, ymm2, ymm10",
            "vpaddw ymm3, ymm3, ymm11",
            "vpmaddubsw ymm8, ymm14, ymm15",
            "vpmaddubsw ymm9, ymm14, ymm15",
            "vpmaddubsw ymm10, ymm14, ymm15",
            "vpmaddubsw ymm11, ymm14, ymm15",
            "vpaddw ymm4, ymm4, ymm8",
            "vpaddw ymm5, ymm5, ymm9",
            "vpaddw ymm6, ymm6, ymm10",
            "vpaddw ymm7, ymm7, ymm11",
            ".endr",
            "vpmaddwd ymm0, ymm0, ymm15",
            "vpmaddwd ymm1, ymm1, ymm15",
            "vpmaddwd ymm2, ymm2, ymm15",
            "vpmaddwd ymm3, ymm3, ymm15",
            "vpmaddwd ymm4, ymm4, ymm15",
            "vpmaddwd ymm5, ymm5, ymm15",
            "vpmaddwd ymm6, ymm6, ymm15",
            "vpmaddwd ymm7, ymm7, ymm15",
            "vpaddd ymm12, ymm12, ymm0",
            "vpaddd ymm13, ymm13, ymm1",
            "vpaddd ymm12, ymm12, ymm2",
            "vpaddd ymm13, ymm13, ymm3",
            "vpaddd ymm12, ymm12, ymm4",
            "vpaddd ymm13, ymm13, ymm5",
            "vpaddd ymm12, ymm12, ymm6",
            "vpaddd ymm13, ymm13, ymm7",
            "dec rcx",
            "jnz 2b",
            factors = in(reg) FACTORS.as_ptr(),
            inout("rcx") turns.max(1) => _,
            clobber_abi("sysv64"),
            options(readonly, nostack)
        );
    }
}

/// What a tile of fixed-point numbers does, without its loads: twelve sums of pairs of products.
#[target_feature(enable = "avx2")]
fn int16(turns: u64) {
    // SAFETY: reads 32 bytes of `FACTORS`; all other effects are on registers that are declared.
    unsafe {
        asm!(
            "vmovdqu ymm15, [{factors}]",
            ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11",
            "vpxor ymm\\i, ymm\\i, ymm\\i",
            ".endr",
            "2:",
            ".rept 8",
            ".irp i, 0,2,4,6,8,10",
            "vpmaddwd ymm12, ymm15, ymm15",
            "vpaddd ymm\\i, ymm\\i, ymm12",
            ".endr",
            ".irp i, 1,3,5,7,9,11",
            "vpmaddwd ymm13, ymm15, ymm15",
            "vpaddd ymm\\i, ymm\\i, ymm13",
            ".endr",
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

/// Makes a loop of independent sums by one instruction, `$often` times each in a turn: as many as its latency of 4 to 6
/// cycles needs at two a cycle. The last two registers, which the sums leave free, hold the factors.
macro_rules! sums {
    (
        $name:ident, $features:literal, $instruction:literal, $register:literal [$($i:literal)+], $one:literal $other:literal,
        zero: $zero:literal, often: $often:literal
    ) => {
        #[target_feature(enable = $features)]
        fn $name(turns: u64) {
            // SAFETY: reads at most the 64 bytes of `FACTORS`; all other effects are on registers that are declared. The
            // function's features are those of the table, which has been detected, or detected where it is listed.
            unsafe {
                std::arch::asm!(
                    concat!("vmovups ", $register, $one, ", [{factors}]"),
                    concat!("vmovaps ", $register, $other, ", ", $register, $one),
                    $(concat!($zero, " ", $register, $i, ", ", $register, $i, ", ", $register, $i),)+
                    "2:",
                    concat!(".rept ", $often),
                    $(concat!($instruction, " ", $register, $i, ", ", $register, $one, ", ", $register, $other),)+
                    ".endr",
                    "dec rcx",
                    "jnz 2b",
                    factors = in(reg) $crate::x86_avx2::peak::FACTORS.as_ptr(),
                    inout("rcx") turns.max(1) => _,
                    clobber_abi("sysv64"),
                    options(readonly, nostack)
                );
            }
        }
    };
}
pub(crate) use sums;

sums!(f32, "avx2,fma", "vfmadd231ps", "ymm" [0 1 2 3 4 5 6 7 8 9 10 11], 14 15, zero: "vxorps", often: 8);

/// See [`crate::table::KernelTable::read`].
#[target_feature(enable = "avx2")]
pub(super) fn read(words: &[u64]) -> u64 {
    sum_words(words)
}
