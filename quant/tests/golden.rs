//! Stored bytes of one small row, for every format with and without importance, and what they expand to.
//!
//! The digests were made with an independent implementation of the formats.

use ocelli_quant::GgmlType;
use sha2::{Digest, Sha256};

/// `n` values of a linear congruential generator, uniform in ±`scale`/2.
fn uniform(seed: u32, n: usize, scale: f32) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 16_777_216.0 - 0.5) * scale
        })
        .collect()
}

fn weights() -> Vec<f32> {
    uniform(1, 512, 0.25)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))[..16].to_owned()
}

fn quantize(ty: GgmlType, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xa5; ty.row_bytes(row.len()).unwrap()];
    ty.quantize_row(row, importance, &mut out).unwrap();
    out
}

#[test]
fn the_input_is_the_intended_one() {
    let bytes: Vec<u8> = weights().iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(digest(&bytes), "6d5b82752a0b5714");
}

#[test]
fn bytes_with_and_without_importance() {
    let cases = [
        ("Q8_0", "5ce82bc80092c5b2", "5ce82bc80092c5b2"),
        ("Q4_0", "79700957562b14e3", "73bcb8d32570a7a3"),
        ("Q4_1", "3ffb435c3fdfdf13", "ef9235cd3c0f51a6"),
        ("Q5_0", "d5603a5ee3a707f5", "07f4f0d4690afa57"),
        ("Q5_1", "e4ccb96bd7620dff", "3750b2bd2031824d"),
        ("IQ4_NL", "0a68409b42282cb1", "0736afd697d10960"),
        ("Q4_K", "0353f21afc856257", "33c2c04ec59b5fec"),
        ("Q5_K", "c957fe6ce76c60cd", "3f9dd26459a64fea"),
        ("Q6_K", "501f07ca6f91cf38", "61c06659ab7eb4d5"),
        ("Q2_K", "c0a391daad191614", "61de56657e244e7e"),
        ("Q3_K", "608c146455726325", "1fbfc2019e9ee4a6"),
    ];
    let row = weights();
    let importance: Vec<f32> = uniform(7, 512, 1.0).iter().map(|v| v * v).collect();
    let mut wrong = Vec::new();
    for (name, plain, weighted) in cases {
        let ty = GgmlType::from_name(name).unwrap();
        if digest(&quantize(ty, &row, None)) != plain {
            wrong.push(format!("{name} plain"));
        }
        if digest(&quantize(ty, &row, Some(&importance))) != weighted {
            wrong.push(format!("{name} with importance"));
        }
    }
    assert!(wrong.is_empty(), "wrong bytes: {wrong:?}");
}

#[test]
fn q8_k_bytes_and_sums() {
    let x = uniform(3, 512, 2.0);
    let out = quantize(GgmlType::Q8_K, &x, None);
    assert_eq!(hex(&out[..4]), "72c400bc");
    let codes: Vec<i8> = out[4..12].iter().map(|b| *b as i8).collect();
    assert_eq!(codes, [67, -13, -95, -71, 30, -93, -35, 28]);
    let sums: Vec<i16> = out[260..268].as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b)).collect();
    assert_eq!(sums, [-341, 20, 391, 25]);
    assert_eq!(digest(&out), "1efa8faf16a53afd");
}

#[test]
fn expanded_values_sums_and_dot_products() {
    // First three values, sum of all, and dot product with the activations.
    let cases = [
        ("Q8_0", [-0.065_671_92, -0.032_360_08, 0.000_951_767], 3.662_143, -0.061_704),
        ("Q4_0", [-0.060_424_8, -0.030_212_4, 0.0], 3.787_544, 0.024_288),
        ("Q4_1", [-0.072_647_09, -0.040_512_08, 0.007_690_43], 3.549_538, -0.168_727),
        ("Q5_0", [-0.067_977_91, -0.030_212_4, 0.0], 3.643_021, -0.068_796),
        ("Q5_1", [-0.066_402_44, -0.035_289_76, 0.003_601_074], 3.692_707, -0.082_153),
        ("IQ4_NL", [-0.065_150_26, -0.035_080_91, 0.001_002_312], 3.640_558, 0.003_435),
        ("Q4_K", [-0.067_603_11, -0.033_249_86, 0.001_103_401], 3.629_706, -0.060_923),
        ("Q5_K", [-0.067_079_07, -0.035_800_46, 0.003_297_806], 3.745_661, -0.061_288),
        ("Q6_K", [-0.066_090_11, -0.031_101_23, 0.0], 3.649_441, -0.075_949),
        ("Q2_K", [-0.041_141_51, -0.041_141_51, 0.040_283_2], 3.197_643, 0.071_079),
        ("Q3_K", [-0.077_989_58, -0.038_994_79, 0.0], 4.217_187, -0.026_685),
    ];
    let x = uniform(3, 512, 2.0);
    for (name, first, sum, dot) in cases {
        let ty = GgmlType::from_name(name).unwrap();
        let mut values = vec![f32::NAN; 512];
        ty.dequantize_row(&quantize(ty, &weights(), None), &mut values).unwrap();
        for (got, want) in values.iter().zip(first) {
            assert!((got - want).abs() <= 1e-8, "{name}: {got} is not {want}");
        }
        let total: f64 = values.iter().map(|v| f64::from(*v)).sum();
        assert!((total - sum).abs() < 1e-6, "{name}: sum {total}, expected {sum}");
        // The reference dot product goes through 8-bit activations; in f32 it must come out nearby.
        let exact: f64 = values.iter().zip(&x).map(|(v, x)| f64::from(*v) * f64::from(*x)).sum();
        assert!((exact - dot).abs() < 0.02, "{name}: dot {exact}, expected about {dot}");
    }
}

#[test]
fn first_bytes() {
    let row = weights();
    let q8_0 = "cc13bbde01368ade480f8125beec1859ba7e5fd33008b5988fd09f3616e0c24271ab";
    assert!(hex(&quantize(GgmlType::Q8_0, &row, None)).starts_with(q8_0));
    let q4_k = "8a0c1118fefbfafffcfcfdfebccafc2453f5678a70f5dbb8e0f92356a82c732e9cd45a07e331c104620a5825c36b2d929cbe6070cf4c0756";
    assert!(hex(&quantize(GgmlType::Q4_K, &row, None)).starts_with(q4_k));
}
