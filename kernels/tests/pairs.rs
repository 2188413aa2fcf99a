//! Q8_0 whose blocks share a scale two by two: how rows are made, and products with activations of which the same is true.

mod common;

use common::{Rng, expand, pool, tables};
use ocelli_kernels::quantize::quantize_pairs;
use ocelli_kernels::{ActBuf, ActNeeds, FEW_TOKENS, KernelError, Kernels, Pool, Precision, WeightRef, matmul};
use ocelli_quant::{GgmlType, QuantError};

/// Bytes of a block: half-precision scale, 32 codes.
const BYTES: usize = 34;

fn made(kernels: Kernels, rows: &[f32], cols: usize) -> Vec<u8> {
    let mut out = vec![0xa5; rows.len() / 32 * BYTES];
    for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(cols / 32 * BYTES)) {
        quantize_pairs(kernels, row, out).expect("finite values");
    }
    out
}

/// A product into an output filled with NaN, with activations of one scale for 64 or for 32.
fn product(kernels: Kernels, pool: &Pool, w: &WeightRef<'_>, x: &[f32], pairs: bool) -> Vec<f32> {
    let tokens = x.len() / w.cols();
    let needs = ActNeeds::new(Precision::Fast, [GgmlType::Q8_0]);
    let mut act = ActBuf::new();
    act.fill(pool, kernels, x, tokens, w.cols(), if pairs { needs.in_pairs() } else { needs }).expect("fits");
    let mut out = vec![f32::NAN; tokens * w.rows()];
    matmul(pool, kernels, w, &act, &mut out).expect("fits");
    out
}

#[test]
fn rows_have_one_scale_for_64_weights() {
    let mut rng = Rng::new(3);
    for cols in [64, 128, 1024, 1088, 2176] {
        let mut row = rng.vec(cols, 0.5);
        row[cols - 64..cols - 1].fill(0.0);
        row[1] = -7.0;
        let want = made(Kernels::scalar(), &row, cols);
        for kernels in tables() {
            assert_eq!(made(kernels, &row, cols), want, "{}", kernels.name());
        }
        let values = expand(GgmlType::Q8_0, &want, 1, cols);
        for (blocks, (x, v)) in want.chunks_exact(2 * BYTES).zip(row.chunks_exact(64).zip(values.chunks_exact(64))) {
            assert_eq!(blocks[..2], blocks[BYTES..BYTES + 2]);
            let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (x, v) in x.iter().zip(v) {
                // Half a step, and what half precision takes from the scale.
                assert!((x - v).abs() <= largest / 127.0 * 0.51 + x.abs() / 1024.0, "{x} became {v}");
            }
        }
    }
}

#[test]
fn what_cannot_be_stored_is_an_error() {
    let kernels = Kernels::scalar();
    let mut row = vec![1.0f32; 128];
    let mut out = vec![0; 4 * BYTES];
    let odd = quantize_pairs(kernels, &row[..96], &mut out[..3 * BYTES]);
    assert_eq!(odd, Err(KernelError::Multiple { what: "row of blocks in pairs", got: 96, of: 64 }));
    let short = quantize_pairs(kernels, &row, &mut out[1..]);
    assert!(matches!(short, Err(KernelError::Quant(QuantError::ByteLength { want: 136, got: 135, .. }))), "{short:?}");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        row[77] = value;
        let error = quantize_pairs(kernels, &row, &mut out);
        assert!(matches!(error, Err(KernelError::Quant(QuantError::NotFinite { index: 77, .. }))), "{error:?}");
    }
    row[77] = 1e9;
    let error = quantize_pairs(kernels, &row, &mut out);
    assert!(matches!(error, Err(KernelError::Quant(QuantError::Overflow { index: 64, .. }))), "{error:?}");
    let odd = WeightRef::in_pairs(&out[..3 * BYTES], 1, 96);
    assert!(matches!(odd, Err(KernelError::Multiple { got: 96, of: 64, .. })));
    let mut act = ActBuf::new();
    let needs = ActNeeds::new(Precision::Fast, [GgmlType::Q8_0]).in_pairs();
    let odd = act.fill(&Pool::new(1), kernels, &row[..96], 1, 96, needs);
    assert_eq!(odd, Err(KernelError::Multiple { what: "activation depth", got: 96, of: 64 }));
}

#[test]
fn products_agree_with_scalar_and_with_blocks_of_their_own() {
    let pool = pool();
    for kernels in tables() {
        let (mr, nr) = kernels.tile();
        for (i, cols) in [64, 192, 1152, 4352].into_iter().enumerate() {
            for rows in [1, mr - 1, mr + 1, 2 * mr, 2 * mr + 3] {
                for tokens in [1, 2, FEW_TOKENS, FEW_TOKENS + nr + 1] {
                    let mut rng = Rng::new((i * 1000 + rows * 10 + tokens) as u64);
                    let (w, x) = (rng.vec(rows * cols, 0.1), rng.vec(tokens * cols, 2.0));
                    let bytes = made(kernels, &w, cols);
                    let paired = WeightRef::in_pairs(&bytes, rows, cols).expect("fits");
                    assert!(paired.is_in_pairs());
                    let plain = WeightRef::new(GgmlType::Q8_0, &bytes, rows, cols).expect("fits");
                    let got = product(kernels, &pool, &paired, &x, true);
                    let scalar = product(Kernels::scalar(), &pool, &paired, &x, true);
                    let alone = product(kernels, &pool, &plain, &x, true);
                    let finer = product(kernels, &pool, &paired, &x, false);
                    let name = format!("{} {rows}×{cols}, {tokens} tokens", kernels.name());
                    for (i, got) in got.iter().enumerate() {
                        let (x, w) = (&x[i / rows * cols..][..cols], &w[i % rows * cols..][..cols]);
                        let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                        let size = norm(x) * norm(w);
                        for (other, bound) in
                            [(scalar[i], 1e-6), (alone[i], 1e-6), (finer[i], 0.02), (exact as f32, 0.02)]
                        {
                            let off = f64::from((got - other).abs());
                            assert!(off <= bound * size, "{name}: result {i} is {got}, not {other}");
                        }
                    }
                    assert!(cols < 192 || got != finer, "{name}: scales for 64 give what scales for 32 give");
                }
            }
        }
    }
}

#[test]
fn largest_codes_do_not_saturate() {
    let pool = pool();
    for kernels in tables() {
        for (w, x) in [(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0)] {
            let (rows, cols, tokens) = (35, 4096, FEW_TOKENS + 7);
            let bytes = made(kernels, &vec![127.0 * w; rows * cols], cols);
            let weight = WeightRef::in_pairs(&bytes, rows, cols).expect("fits");
            let got = product(kernels, &pool, &weight, &vec![127.0 * x; tokens * cols], true);
            let want = 127.0 * 127.0 * w * x * cols as f32;
            assert!(got.iter().all(|v| (v - want).abs() <= want.abs() * 1e-6), "{}: {got:?}", kernels.name());
        }
    }
}
