//! The multipliers on registers alone.

use std::arch::asm;

use crate::measure::Unit;
use crate::table::PeakLoop;

/// Sums of one loop body.
const SUMS: u64 = 16;

/// Bodies per turn.
const REPEATS: u64 = 4;

/// Loops of the table whose integer loop is `int8`. No kernel uses the instruction for bfloat16 where there is one; its
/// peak says what it would give.
pub(super) fn loops(int8: PeakLoop) -> Vec<PeakLoop> {
    let mut loops =
        vec![int8, PeakLoop { unit: Unit::F32, instructions: "fmla (128 bits)", ops: REPEATS * SUMS * 8, run: f32 }];
    if std::arch::is_aarch64_feature_detected!("bf16") {
        loops.push(PeakLoop {
            unit: Unit::Bf16,
            instructions: "bfmmla (128 bits)",
            ops: REPEATS * SUMS * 32,
            run: bf16,
        });
    }
    loops
}

/// As [`super::dot::Widen`] multiplies: 16 products in five instructions.
pub(super) const WIDEN: PeakLoop = PeakLoop {
    unit: Unit::Int8,
    instructions: "smull, smull2, addp, sadalp (128 bits)",
    ops: REPEATS * SUMS * 32,
    run: widen,
};

/// As [`super::dot::Sdot`] multiplies.
pub(super) const SDOT: PeakLoop =
    PeakLoop { unit: Unit::Int8, instructions: "sdot (128 bits)", ops: REPEATS * SUMS * 32, run: sdot };

/// As [`super::dot::Smmla`] multiplies.
pub(super) const SMMLA: PeakLoop =
    PeakLoop { unit: Unit::Int8, instructions: "smmla (128 bits)", ops: REPEATS * SUMS * 64, run: smmla };

/// Sixteen independent sums.
macro_rules! sums {
    ($name:ident, $features:literal, [$($i:literal)+], $($part:literal $end:literal)+) => {
        #[target_feature(enable = $features)]
        fn $name(turns: u64) {
            // SAFETY: touches registers alone, all of them declared. The function's features are those of the table,
            // which has been detected, or detected where it is listed.
            unsafe {
                asm!(
                    "fmov v28.4s, #0.5",
                    "fmov v29.4s, #0.5",
                    $(concat!("movi v", $i, ".4s, #0"),)+
                    "2:",
                    ".rept 4",
                    sums!(@lines [$($i)+] $($part $end)+),
                    ".endr",
                    "subs x9, x9, #1",
                    "b.ne 2b",
                    inout("x9") turns.max(1) => _,
                    clobber_abi("C"),
                    options(nomem, nostack)
                );
            }
        }
    };
    (@lines [$($i:literal)+] $part:literal $end:literal) => {
        concat!($($part, $i, $end, "\n"),+)
    };
}

sums!(f32, "neon", [0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23], "fmla v" ".4s, v28.4s, v29.4s");
sums!(bf16, "neon,bf16", [0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23], "bfmmla v" ".4s, v28.8h, v29.8h");
sums!(sdot, "neon,dotprod", [0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23], "sdot v" ".4s, v28.16b, v29.16b");
sums!(smmla, "neon,i8mm", [0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23], "smmla v" ".4s, v28.16b, v29.16b");
sums!(
    widen,
    "neon",
    [0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23],
    "smull v24.8h, v28.8b, v29.8b\nsmull2 v25.8h, v28.16b, v29.16b\naddp v24.8h, v24.8h, v25.8h\nsadalp v" ".4s, v24.8h"
);
