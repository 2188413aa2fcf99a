//! Super-blocks whose groups have sums as large as 16 bits hold, and larger by one: the same results, whichever way they are
//! multiplied.

mod common;

use common::{Failures, Fill, Rng, expand, pool, tables, weight};
use ocelli_kernels::{ActBuf, ActNeeds, FEW_TOKENS, Kernels, Pool, Precision, WeightRef, matmul};
use ocelli_quant::GgmlType;

const DEPTH: usize = 512;

/// A format, its groups, where in a block its codes and its scales lie, and the largest magnitude of a group of activations whose
/// products fit: (2¹⁵ − 1) by the largest code, or any.
struct Format {
    ty: GgmlType,
    group: usize,
    codes: std::ops::Range<usize>,
    scales: std::ops::Range<usize>,
    edge: usize,
}

/// Q6_K's codes are −32…31, so magnitudes count; the others have one sign, and so does a group here.
fn formats() -> [Format; 5] {
    [
        Format { ty: GgmlType::Q4_K, group: 32, codes: 16..144, scales: 4..16, edge: 32767 / 15 },
        Format { ty: GgmlType::Q5_K, group: 32, codes: 16..176, scales: 4..16, edge: 32767 / 31 },
        Format { ty: GgmlType::Q6_K, group: 16, codes: 0..192, scales: 192..208, edge: 32767 / 32 },
        Format { ty: GgmlType::Q3_K, group: 16, codes: 0..96, scales: 0..0, edge: 16 * 127 - 1 },
        Format { ty: GgmlType::Q2_K, group: 16, codes: 16..80, scales: 0..0, edge: 16 * 127 - 1 },
    ]
}

/// Blocks with a scale of 1 whose codes are all `code`, or any; scales of groups are small, so that sums are exact in f32.
fn blocks(format: &Format, rows: usize, code: Option<u8>, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = weight(format.ty, rows, DEPTH, Fill::Integral, rng);
    for block in bytes.chunks_exact_mut(format.ty.block_bytes()) {
        if let Some(code) = code {
            block[format.codes.clone()].fill(code);
        }
        for scale in &mut block[format.scales.clone()] {
            *scale = if format.ty == GgmlType::Q6_K { [1u8, 0xff, 3, 0xfd][rng.below(4)] } else { 1 };
        }
    }
    bytes
}

/// A group whose magnitudes have this sum, the largest being 127, so that the activations' scale is 1.
fn group(out: &mut [f32], sum: usize, sign: f32) {
    let rest = sum - 127;
    let n = out.len() - 1;
    out[0] = 127.0 * sign;
    for (i, x) in out[1..].iter_mut().enumerate() {
        *x = sign * (rest / n + usize::from(i < rest % n)) as f32;
    }
}

fn product(kernels: Kernels, pool: &Pool, ty: GgmlType, bytes: &[u8], rows: usize, x: &[f32]) -> Vec<f32> {
    let (tokens, mut act) = (x.len() / DEPTH, ActBuf::new());
    act.fill(pool, kernels, x, tokens, DEPTH, ActNeeds::new(Precision::Fast, [ty])).expect("fits");
    let w = WeightRef::new(ty, bytes, rows, DEPTH).expect("whole rows");
    let mut out = vec![f32::NAN; tokens * rows];
    matmul(pool, kernels, &w, &act, &mut out).expect("fits");
    out
}

#[test]
fn sums_at_the_edge_of_16_bits_are_exact() {
    let (pool, mut rng, mut failures) = (pool(), Rng::new(11), Failures::default());
    // Two panels and some rows; tiles of 6 tokens, and of 5 and 4 at the end.
    let rows = 35;
    for tokens in [FEW_TOKENS + 6, FEW_TOKENS + 7] {
        for format in formats() {
            for (above, of) in [(0, 1), (1, 1), (1, 9)] {
                let mut x = vec![0f32; tokens * DEPTH];
                for (i, out) in x.chunks_exact_mut(format.group).enumerate() {
                    // Every `of`th group is above what fits, if any.
                    let sum = format.edge + if i % of == 0 { above } else { 0 };
                    group(out, sum, if (i / 2 + i / 7) % 2 == 0 { 1.0 } else { -1.0 });
                }
                for code in [Some(0xff), Some(0), None] {
                    let bytes = blocks(&format, rows, code, &mut rng);
                    let w = expand(format.ty, &bytes, rows, DEPTH);
                    let exact = |i: usize| -> f64 {
                        let (w, x) = (&w[i % rows * DEPTH..][..DEPTH], &x[i / rows * DEPTH..][..DEPTH]);
                        w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
                    };
                    let want: Vec<f64> = (0..tokens * rows).map(exact).collect();
                    for kernels in tables() {
                        let got = product(kernels, &pool, format.ty, &bytes, rows, &x);
                        if let Some(i) = (0..got.len()).find(|i| f64::from(got[*i]) != want[*i]) {
                            let (got, want, ty) = (got[i], want[i], format.ty);
                            let name = kernels.name();
                            failures.push(format!(
                                "{name} {ty} {tokens} tokens, codes {code:?}, {above} above: {got}, not {want}"
                            ));
                        }
                    }
                }
            }
        }
    }
    failures.check();
}
