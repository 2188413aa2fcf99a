//! The multipliers on registers alone, and reading with full-width loads.

use std::arch::asm;

use crate::measure::Unit;
use crate::table::{PeakLoop, sum_words};

/// Factors without special values, for any type.
static FACTORS: [u32; 16] = [0x3f01_0302; 16];

/// Loops of this table.
pub(super) fn loops() -> Vec<PeakLoop> {
    vec![
        PeakLoop {
            unit: Unit::Int8,
            instructions: "vpmaddubsw + vpaddw, vpmaddwd + vpaddd every 8 (256 bits)",
            ops: 8 * 8 * 64,
            run: int8,
        },
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

/// Twelve independent sums: enough for a latency of 4 to 6 cycles at two multiply-adds a cycle.
#[target_feature(enable = "avx2,fma")]
fn f32(turns: u64) {
    // SAFETY: reads 32 bytes of `FACTORS`; all other effects are on registers that are declared.
    unsafe {
        asm!(
            "vmovups ymm14, [{factors}]",
            "vmovaps ymm15, ymm14",
            "vxorps ymm0, ymm0, ymm0",
            "vxorps ymm1, ymm1, ymm1",
            "vxorps ymm2, ymm2, ymm2",
            "vxorps ymm3, ymm3, ymm3",
            "vxorps ymm4, ymm4, ymm4",
            "vxorps ymm5, ymm5, ymm5",
            "vxorps ymm6, ymm6, ymm6",
            "vxorps ymm7, ymm7, ymm7",
            "vxorps ymm8, ymm8, ymm8",
            "vxorps ymm9, ymm9, ymm9",
            "vxorps ymm10, ymm10, ymm10",
            "vxorps ymm11, ymm11, ymm11",
            "2:",
            ".rept 8",
            "vfmadd231ps ymm0, ymm14, ymm15",
            "vfmadd231ps ymm1, ymm14, ymm15",
            "vfmadd231ps ymm2, ymm14, ymm15",
            "vfmadd231ps ymm3, ymm14, ymm15",
            "vfmadd231ps ymm4, ymm14, ymm15",
            "vfmadd231ps ymm5, ymm14, ymm15",
            "vfmadd231ps ymm6, ymm14, ymm15",
            "vfmadd231ps ymm7, ymm14, ymm15",
            "vfmadd231ps ymm8, ymm14, ymm15",
            "vfmadd231ps ymm9, ymm14, ymm15",
            "vfmadd231ps ymm10, ymm14, ymm15",
            "vfmadd231ps ymm11, ymm14, ymm15",
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

/// See [`crate::table::KernelTable::read`].
#[target_feature(enable = "avx2")]
pub(super) fn read(words: &[u64]) -> u64 {
    sum_words(words)
}
