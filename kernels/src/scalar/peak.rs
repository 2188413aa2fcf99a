//! Plain loops as the compiler makes them, over the first-level cache: the table has no instruction of its own.

use std::hint::black_box;

use crate::measure::Unit;
use crate::table::PeakLoop;

/// Values of a turn.
const N: usize = 2048;

/// Loops of this table.
pub(super) fn loops() -> Vec<PeakLoop> {
    let instructions = "plain code";
    vec![
        PeakLoop { unit: Unit::Int8, instructions, ops: 2 * N as u64, run: int8 },
        PeakLoop { unit: Unit::Int16, instructions, ops: 2 * N as u64, run: int16 },
        PeakLoop { unit: Unit::F32, instructions, ops: 2 * N as u64, run: f32 },
    ]
}

fn int8(turns: u64) {
    let (a, b) = (black_box([3i8; N]), black_box([5i8; N]));
    for _ in 0..turns {
        let dot: i32 = black_box(&a).iter().zip(black_box(&b)).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
        black_box(dot);
    }
}

fn int16(turns: u64) {
    let (a, b) = (black_box([3i16; N]), black_box([5i16; N]));
    for _ in 0..turns {
        let dot: i32 = black_box(&a).iter().zip(black_box(&b)).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
        black_box(dot);
    }
}

fn f32(turns: u64) {
    let (a, b) = (black_box([0.5f32; N]), black_box([0.25f32; N]));
    for _ in 0..turns {
        let mut sums = [0f32; 16];
        let (a, b) = (black_box(&a).as_chunks::<16>().0, black_box(&b).as_chunks::<16>().0);
        for (a, b) in a.iter().zip(b) {
            let products: [f32; 16] = std::array::from_fn(|i| a[i] * b[i]);
            sums = std::array::from_fn(|i| sums[i] + products[i]);
        }
        black_box(sums);
    }
}
