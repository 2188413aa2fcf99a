//! The dot product on registers alone.

use std::arch::asm;

use crate::measure::Unit;
use crate::table::PeakLoop;

/// Factors of any sign.
static FACTORS: [u32; 8] = [0x3f01_8302; 8];

/// Loops of this table: those of AVX2, but for bytes.
pub(super) fn loops(avx2: &[PeakLoop]) -> Vec<PeakLoop> {
    let int8 = PeakLoop { unit: Unit::Int8, instructions: "vpdpbusd (256 bits)", ops: 8 * 12 * 64, run: int8 };
    std::iter::once(int8).chain(avx2.iter().filter(|peak| peak.unit != Unit::Int8).copied()).collect()
}

/// Twelve independent sums: enough for a latency of 5 or 6 cycles at two a cycle.
#[target_feature(enable = "avx2,avxvnni")]
fn int8(turns: u64) {
    // SAFETY: reads 32 bytes of `FACTORS`; all other effects are on registers that are declared. The function's features
    // are those of the table, which has been detected.
    unsafe {
        asm!(
            "vmovdqu ymm14, [{factors}]",
            "vmovdqa ymm15, ymm14",
            "2:",
            ".rept 8",
            "{{vex}} vpdpbusd ymm0, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm1, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm2, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm3, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm4, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm5, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm6, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm7, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm8, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm9, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm10, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm11, ymm14, ymm15",
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
