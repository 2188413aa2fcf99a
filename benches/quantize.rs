//! Rows per second of every quantiser and dequantiser, for every codec that this machine can run.
//!
//! `cargo bench --bench quantize` measures all; `-- Q4_K` those whose name holds `Q4_K`. Before a codec is timed, its
//! bytes are compared with the portable ones: a wrong answer is not worth a figure.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ocelli_kernels::quantize::RowCodec;
use ocelli_quant::GgmlType;

/// Weights in a row: the width of the text model.
const ROW: usize = 2560;

/// Values as weights have them: roughly normal, standard deviation 0.02, the same at every run.
fn weights(seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..ROW).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 0.035).collect()
}

fn quantize(c: &mut Criterion) {
    let row = weights(1);
    let importance: Vec<f32> = weights(2).iter().map(|v| v * v).collect();
    for &ty in GgmlType::ALL {
        let bytes = ty.row_bytes(ROW).expect("the row suits every format");
        for (kind, importance) in [("plain", None), ("importance", Some(&importance[..]))] {
            let mut want = vec![0; bytes];
            ty.quantize_row(&row, importance, &mut want).expect("the weights are finite");
            let mut group = c.benchmark_group(format!("quantize/{ty}/{kind}"));
            group.throughput(Throughput::Elements(ROW as u64));
            for codec in RowCodec::available() {
                let mut out = vec![0; bytes];
                codec.quantize_row(ty, &row, importance, &mut out).expect("the weights are finite");
                assert_eq!(out, want, "{ty} by {} differs from the portable bytes", codec.name());
                group.bench_function(codec.name(), |b| {
                    b.iter(|| codec.quantize_row(ty, black_box(&row), importance, black_box(&mut out)));
                });
            }
        }
    }
}

fn dequantize(c: &mut Criterion) {
    let row = weights(3);
    for &ty in GgmlType::ALL {
        let mut bytes = vec![0; ty.row_bytes(ROW).expect("the row suits every format")];
        ty.quantize_row(&row, None, &mut bytes).expect("the weights are finite");
        let mut want = vec![0.0; ROW];
        ty.dequantize_row(&bytes, &mut want).expect("the lengths fit");
        let mut group = c.benchmark_group(format!("dequantize/{ty}"));
        group.throughput(Throughput::Elements(ROW as u64));
        for codec in RowCodec::available() {
            let mut out = vec![f32::NAN; ROW];
            codec.dequantize_row(ty, &bytes, &mut out).expect("the lengths fit");
            assert_eq!(out, want, "{ty} by {} differs from the portable values", codec.name());
            group.bench_function(codec.name(), |b| {
                b.iter(|| codec.dequantize_row(ty, black_box(&bytes), black_box(&mut out)));
            });
        }
    }
}

criterion_group!(benches, quantize, dequantize);
criterion_main!(benches);
