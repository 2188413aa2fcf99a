//! Every codec against the portable one where rounding, ties, zeros, scales and errors are at their limits, for the formats
//! that have functions of their own.

use ocelli_quant::{GgmlType, QuantError};

use super::RowCodec;

const FORMATS: [GgmlType; 7] =
    [GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1];

type Block = [f32; 32];

/// What ranges and magnitudes are divided by.
const DIVISORS: [f32; 6] = [1.0, 8.0, 15.0, 16.0, 31.0, 127.0];

/// The result, with the bits of a value that is no number.
fn known<T: std::fmt::Debug>(result: Result<T, QuantError>) -> String {
    match result {
        Err(QuantError::NotFinite { index, value }) => format!("not finite: {:x} at {index}", value.to_bits()),
        other => format!("{other:?}"),
    }
}

/// Compares every codec with the portable one on a row: what it says, and the bytes if there are any.
fn compare(row: &[f32], what: &str) {
    for ty in FORMATS {
        let mut want = vec![0xa5; ty.row_bytes(row.len()).unwrap()];
        let expected = ty.quantize_row(row, None, &mut want);
        let written = !matches!(expected, Err(QuantError::NotFinite { .. }));
        let expected = known(expected);
        for codec in RowCodec::available() {
            let mut got = vec![0x5a; want.len()];
            let result = known(codec.quantize_row(ty, row, None, &mut got));
            assert_eq!(result, expected, "{} {ty}: {what}", codec.name());
            assert!(!written || got == want, "{} {ty}: {what}: {got:02x?} for {want:02x?}", codec.name());
        }
    }
}

/// Half-way between two codes, and just beside, where the scale is `step`.
fn halves(step: f32, lowest: f32, highest: f32) -> Vec<Block> {
    let mut values = Vec::new();
    let mut code = lowest;
    while code < highest {
        let half = (code + 0.5) * step;
        values.extend([half.next_down(), half, half.next_up()]);
        code += 1.0;
    }
    // The extremes are in every block, so that the scale is what it is.
    let block = |values: &[f32]| {
        let mut block = [lowest * step; 32];
        block[31] = highest * step;
        block[1..=values.len()].copy_from_slice(values);
        block
    };
    values.chunks(30).map(block).collect()
}

/// One value, and others at some places.
fn block(of: f32, others: &[(usize, f32)]) -> Block {
    let mut block = [of; 32];
    others.iter().for_each(|(at, value)| block[*at] = *value);
    block
}

/// Blocks that can be quantised, each special in its way.
fn special() -> Vec<Block> {
    let mut blocks = Vec::new();
    for step in [1.0, 0.001, 3e-6] {
        for (lowest, highest) in [(-8.0, 7.0), (-16.0, 15.0), (-127.0, 127.0), (0.0, 15.0), (0.0, 31.0), (-20.0, 11.0)]
        {
            blocks.extend(halves(step, lowest, highest));
            blocks.extend(halves(-step, lowest, highest));
        }
    }
    // The largest magnitude with both signs, in this or the other order, in one register or in two.
    for (first, second) in [(0, 31), (15, 16), (3, 4), (30, 31), (0, 1)] {
        blocks.push(block(0.25, &[(first, 2.0), (second, -2.0)]));
        blocks.push(block(0.25, &[(first, -2.0), (second, 2.0)]));
    }
    blocks.extend([block(-1.0, &[]), block(1.0, &[]), block(-1.0, &[(31, 1.0)]), block(1.0, &[(31, -1.0)])]);
    // Zeros of either sign: alone, together, as the smallest and as the largest value.
    for (zero, other) in [(0.0, -0.0), (-0.0, 0.0)] {
        blocks.push([zero; 32]);
        for at in [0, 1, 15, 16, 31] {
            blocks.push(block(zero, &[(at, other)]));
            blocks.push(block(1.0, &[(at, zero), ((at + 7) % 32, other)]));
            blocks.push(block(-1.0, &[(at, zero), ((at + 7) % 32, other)]));
        }
    }
    // Scales that are subnormal or 0 in half precision, subnormal in single, with an infinite inverse, 0.
    for size in
        [1e-4, 6e-5, 1e-6, 5e-7, 1e-9, 1e-30, 1e-36, 3e-37, 1e-37, 4e-38, 2e-38, 1e-38, 1e-39, 1e-41, 7e-45, 1e-45]
    {
        blocks.push(block(size, &[]));
        blocks.push(block(0.0, &[(3, size)]));
        blocks.push(std::array::from_fn(|i| size * (i as f32 / 31.0)));
        blocks.push(std::array::from_fn(|i| size * (i as f32 / 16.0 - 1.0)));
        blocks.push(std::array::from_fn(|i| -size * ((i * 7 % 32) as f32 / 16.0 - 1.0)));
    }
    // Half-way between two values of 16 bits, the lower one odd and even; also as scales.
    for bits in
        [0x3f80_8000u32, 0x3f81_8000, 0x3f80_1000, 0x3f80_3000, 0x3880_1000, 0x3300_0000, 0x3340_0000, 0x387f_f000]
    {
        for bits in [bits - 1, bits, bits + 1] {
            blocks.extend(DIVISORS.map(|by| block(0.0, &[(5, f32::from_bits(bits) * by)])));
            blocks.extend(DIVISORS.map(|by| block(0.0, &[(25, -f32::from_bits(bits) * by)])));
        }
    }
    blocks
}

#[test]
fn special_blocks_are_stored_alike_wherever_they_are() {
    let blocks = special();
    for n in [1, 15, 16, 17, 33] {
        for first in 0..blocks.len() {
            let row: Vec<f32> = blocks.iter().cycle().skip(first).take(n).flatten().copied().collect();
            compare(&row, &format!("{n} special blocks from {first} on"));
        }
    }
}

#[test]
fn what_is_too_large_is_the_same_error_at_the_same_place() {
    let ordinary: Vec<f32> = (0..33 * 32).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    let largest = [65_504.0, 65_519.996, 65_520.0, 65_536.0, 1e9, f32::MAX, f32::from_bits(0x7f7f_7fff)];
    for n in [1, 15, 16, 17, 33] {
        for at in [0, 1, 14, 15, 16, 31, 32].into_iter().filter(|at| *at < n) {
            for (value, by) in largest.iter().flat_map(|value| DIVISORS.map(|by| (*value, by))) {
                let value = (value * by).min(f32::MAX);
                for (lowest, highest) in [(0.0, value), (-value, 0.0), (-value, value), (-value, -value)] {
                    let mut row = ordinary[..32 * n].to_vec();
                    row[32 * at..32 * at + 32].copy_from_slice(&block(lowest, &[(9, highest)]));
                    compare(&row, &format!("{lowest:e} and {highest:e} in block {at} of {n}"));
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_is_the_same_error_at_every_place() {
    let ordinary: Vec<f32> = (0..33 * 32).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    let signalling = f32::from_bits(0x7f80_0001);
    for bad in [f32::NAN, -f32::NAN, signalling, f32::INFINITY, f32::NEG_INFINITY] {
        for n in [1, 16, 33] {
            let mut row = ordinary[..32 * n].to_vec();
            for at in 0..row.len() {
                let good = std::mem::replace(&mut row[at], bad);
                compare(&row, &format!("{bad} at {at}"));
                row[at] = good;
            }
            row[7..32 * n].fill(bad);
            compare(&row, &format!("{bad} from 7 on"));
        }
    }
}

#[test]
fn rows_of_16_bits_may_have_any_length() {
    let ordinary: Vec<f32> = (0..65).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
    for ty in [GgmlType::F16, GgmlType::BF16] {
        for n in 0..=ordinary.len() {
            for bad in [None, Some(f32::NAN), Some(f32::MAX)] {
                let mut row = ordinary[..n].to_vec();
                if let (Some(last), Some(bad)) = (row.last_mut(), bad) {
                    *last = bad;
                }
                let mut want = vec![0; 2 * n];
                let expected = known(ty.quantize_row(&row, None, &mut want));
                for codec in RowCodec::available() {
                    // What lies behind the row stays as it is.
                    let mut got = vec![0x5a; 2 * n + 64];
                    assert_eq!(known(codec.quantize_row(ty, &row, None, &mut got[..2 * n])), expected, "{n}");
                    assert!(bad.is_some() || got[..2 * n] == want, "{} {ty}: {n} values", codec.name());
                    assert!(got[2 * n..].iter().all(|b| *b == 0x5a), "{} {ty}: {n} values", codec.name());
                }
            }
        }
    }
}
