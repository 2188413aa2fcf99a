//! Every codec of the machine against the portable one, whatever the row length.

use ocelli_quant::lanes::Portable;
use ocelli_quant::{Format, GgmlType, QuantError, formats};

use super::RowCodec;
use crate::Kernels;

/// Pseudo-random rows of several kinds: bell-shaped, with outliers, with zeros, over many magnitudes.
fn row(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..n)
        .map(|_| {
            let bell = (uniform() + uniform() + uniform() + uniform()) * 0.04;
            match seed % 4 {
                0 => bell,
                1 if uniform() > 0.48 => bell * 100.0,
                2 if uniform() > 0.0 => 0.0,
                3 => uniform() * (uniform() * 60.0).exp2(),
                _ => bell,
            }
        })
        .collect()
}

#[test]
fn every_codec_stores_the_same_bytes() {
    for codec in RowCodec::available() {
        eprintln!("codec {}", codec.name());
        for ty in GgmlType::ALL {
            for (seed, blocks) in [1, 2, 3, 7, 8, 15, 16, 17, 33].into_iter().enumerate() {
                let n = blocks * ty.block_len();
                let x = row(seed as u32, n);
                let importance: Vec<f32> = row(seed as u32 + 100, n).iter().map(|v| v * v).collect();
                for importance in [None, Some(&importance[..])] {
                    let mut want = vec![0xa5; ty.row_bytes(n).unwrap()];
                    let mut got = vec![0x5a; want.len()];
                    let expected = ty.quantize_row(&x, importance, &mut want);
                    assert_eq!(codec.quantize_row(*ty, &x, importance, &mut got), expected);
                    assert!(got == want, "{} {ty}: {blocks} blocks, importance {}", codec.name(), importance.is_some());
                    let (mut values, mut expected) = (vec![f32::NAN; n], vec![f32::NAN; n]);
                    codec.dequantize_row(*ty, &got, &mut values).unwrap();
                    ty.dequantize_row(&want, &mut expected).unwrap();
                    assert!(bits(&values) == bits(&expected), "{} {ty}: expanded values", codec.name());
                }
            }
        }
    }
}

#[test]
fn every_table_has_its_codec() {
    let names: Vec<_> = RowCodec::available().iter().map(RowCodec::name).collect();
    for kernels in Kernels::available() {
        let codec = RowCodec::of(kernels).name();
        assert!(names.contains(&codec));
        let fits: &[&str] = match kernels.name() {
            "avx512vnni" => &["avx512", "avx2"],
            "avxvnni" | "avx2" => &["avx2"],
            _ => &["portable"],
        };
        assert!(fits.contains(&codec), "{} goes with {codec}", kernels.name());
    }
}

#[test]
fn halves_and_scales_at_their_limits_are_rounded_alike() {
    // A largest value of 127 makes a scale of 1, so that these lie half-way between two codes, or just below.
    let mut x = vec![127.0f32];
    for i in 0..15u8 {
        let half = f32::from(i) + 0.5;
        x.extend([half, -half]);
    }
    x.push(0.5f32.next_down());
    // Scales that underflow, that are zero, and the largest that half precision has.
    x.extend([1e-9; 32].iter().chain(&[0.0; 32]).chain(&[65_504.0 * 127.0; 32]));
    for codec in RowCodec::available() {
        let (mut want, mut got) = (vec![0xa5; 4 * 34], vec![0x5a; 4 * 34]);
        GgmlType::Q8_0.quantize_row(&x, None, &mut want).unwrap();
        codec.quantize_row(GgmlType::Q8_0, &x, None, &mut got).unwrap();
        assert_eq!(got, want, "{}", codec.name());
        x.push(65_536.0 * 127.0);
        x.resize(5 * 32, 0.0);
        let error = codec.quantize_row(GgmlType::Q8_0, &x, None, &mut [0; 5 * 34]).unwrap_err();
        assert!(matches!(error, QuantError::Overflow { index: 128, .. }), "{}: {error}", codec.name());
        x.truncate(4 * 32);
    }
}

/// Bits, those of every NaN alike: which of two an operation keeps is up to the compiler.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

#[test]
fn whatever_bytes_are_stored_mean_the_same() {
    let mut state = 1u32;
    for ty in GgmlType::ALL {
        for blocks in [0, 1, 2, 15, 16, 17, 33] {
            // Every bit at random: every code, scales of either sign, subnormal, infinite, no number.
            let bytes: Vec<u8> = (0..blocks * ty.block_bytes())
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            let mut want = vec![0.5; blocks * ty.block_len()];
            ty.dequantize_row(&bytes, &mut want).unwrap();
            for codec in RowCodec::available() {
                let mut got = vec![-0.5; want.len()];
                codec.dequantize_row(*ty, &bytes, &mut got).unwrap();
                assert!(bits(&got) == bits(&want), "{} {ty}: {blocks} blocks", codec.name());
            }
        }
    }
}

/// Compares the portable lanes of every width on one format.
fn every_width<F: Format>() {
    for (seed, blocks) in [1, 3, 17, 33].into_iter().enumerate() {
        let n = blocks * F::BLOCK_LEN;
        let x = row(seed as u32 + 7, n);
        let importance: Vec<f32> = row(seed as u32 + 300, n).iter().map(|v| v * v).collect();
        for importance in [None, Some(&importance[..])] {
            let mut out = [1u8, 2, 3, 4].map(|fill| vec![fill; blocks * F::BLOCK_BYTES]);
            let [one, four, eight, sixteen] = &mut out;
            F::quantize_row(Portable::<1>, &x, importance, one);
            F::quantize_row(Portable::<4>, &x, importance, four);
            F::quantize_row(Portable::<8>, &x, importance, eight);
            F::quantize_row(Portable::<16>, &x, importance, sixteen);
            assert!(out.iter().all(|o| *o == out[0]), "{}: {blocks} blocks", F::NAME);
        }
    }
}

#[test]
fn the_lane_count_does_not_matter() {
    every_width::<formats::q2_k::Q2_K>();
    every_width::<formats::q3_k::Q3_K>();
    every_width::<formats::q4_k::Q4_K>();
    every_width::<formats::q6_k::Q6_K>();
    every_width::<formats::q4_0::Q4_0>();
    every_width::<formats::q5_1::Q5_1>();
    every_width::<formats::iq4_nl::IQ4_NL>();
}

#[test]
fn bad_arguments_are_refused_by_every_codec() {
    for codec in RowCodec::available() {
        for ty in GgmlType::ALL {
            let n = 2 * ty.block_len();
            let mut out = vec![0; ty.row_bytes(n).unwrap()];
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![0.5; n];
                x[n - 1] = bad;
                match codec.quantize_row(*ty, &x, None, &mut out) {
                    Err(QuantError::NotFinite { index, .. }) => assert_eq!(index, n - 1),
                    other => panic!("{} {ty}: {other:?}", codec.name()),
                }
                let error = codec.quantize_row(*ty, &vec![0.5; n], Some(&x), &mut out).unwrap_err();
                assert!(matches!(error, QuantError::NotFinite { .. }), "{error}");
            }
            let short = codec.quantize_row(*ty, &vec![0.5; n], None, &mut out[1..]);
            assert!(matches!(short, Err(QuantError::ByteLength { .. })));
            let importance = codec.quantize_row(*ty, &vec![0.5; n], Some(&[1.0]), &mut out);
            assert!(matches!(importance, Err(QuantError::ImportanceLength { .. })));
            let short = codec.dequantize_row(*ty, &out[1..], &mut vec![0.0; n]);
            assert!(matches!(short, Err(QuantError::ByteLength { .. })));
            if ty.block_len() > 1 {
                let ragged = codec.quantize_row(*ty, &vec![0.5; n - 1], None, &mut out);
                assert!(matches!(ragged, Err(QuantError::RowLength { .. })));
            }
        }
    }
}

#[test]
fn overflowing_scales_are_reported_with_their_place() {
    // Large, but with a square that f32 can hold: beyond that the searches see nothing but infinities.
    let mut x = vec![0.5f32; 1024];
    x[700] = 1e9;
    for codec in RowCodec::available() {
        for ty in GgmlType::ALL {
            let mut out = vec![0; ty.row_bytes(x.len()).unwrap()];
            let result = codec.quantize_row(*ty, &x, None, &mut out);
            if matches!(ty, GgmlType::F32 | GgmlType::BF16 | GgmlType::Q8_K) {
                assert_eq!(result, Ok(()), "{ty}");
                continue;
            }
            let Err(QuantError::Overflow { index, .. }) = result else { panic!("{ty}: {result:?}") };
            assert_eq!(index, 700 / ty.block_len() * ty.block_len(), "{ty}");
        }
    }
}
