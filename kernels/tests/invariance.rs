//! Batch invariance: a result depends on the weight row, its token and the instruction set, and on nothing else, to the bit.
//! Not on how many tokens go together, nor which, nor on how the rows are cut. Of F16 and BF16 weights that is so as long as
//! one way of multiplying them is chosen.

mod common;

use common::{Failures, Fill, Rng, is_half, tables, weight};
use ocelli_kernels::{
    ActBuf, ActNeeds, FEW_TOKENS, HalfWeights, Kernels, MatMul, Pool, Precision, WeightRef, matmul, matmul_many,
    matmul_swiglu, ops,
};
use ocelli_quant::GgmlType;

/// One token's results alone, and how many of them go together in each batch that is compared with that.
const BATCHES: [usize; 25] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 31, 32, 33, 48, 64];

/// The ways to multiply: precise, fast, and that with both ways for F16 and BF16.
const WAYS: [(Precision, HalfWeights); 3] = [
    (Precision::Exact, HalfWeights::Fastest),
    (Precision::Fast, HalfWeights::F32),
    (Precision::Fast, HalfWeights::FixedPoint),
];

/// Runs one product.
fn product(
    kernels: Kernels,
    pool: &Pool,
    w: &WeightRef<'_>,
    x: &[f32],
    (precision, half): (Precision, HalfWeights),
) -> Vec<f32> {
    let tokens = x.len() / w.cols();
    let mut act = ActBuf::new();
    let needs = ActNeeds::new(precision, [w.ty()]).half_weights(half);
    act.fill(pool, kernels, x, tokens, w.cols(), needs).expect("fits");
    let mut out = vec![f32::NAN; tokens * w.rows()];
    matmul(pool, kernels, w, &act, &mut out).expect("fits");
    out
}

/// Those that make a difference to a format.
fn ways(ty: GgmlType) -> impl Iterator<Item = (Precision, HalfWeights)> {
    let all = is_half(ty);
    WAYS.into_iter().filter(move |(_, half)| all || *half != HalfWeights::FixedPoint)
}

/// Activations of `tokens` rows, of very different sizes: what one needs must not change what is made of another.
fn activations(tokens: usize, cols: usize, rng: &mut Rng) -> Vec<f32> {
    let mut x = rng.vec(tokens * cols, 1.0);
    for (t, row) in x.chunks_exact_mut(cols).enumerate() {
        let size = [1.0, 300.0, 1e-3, 20.0][t % 4];
        row.iter_mut().for_each(|x| *x *= size);
        // All codes of a group as large as they can be: sums of products leave 16 bits.
        if t % 5 == 3 {
            row[..32].fill(size);
        }
        // A group of zeros.
        if t % 7 == 6 {
            row[cols - 32..].fill(0.0);
        }
    }
    x
}

/// The first place where `got` is not `want`, to the bit.
fn difference(got: &[f32], want: &[f32]) -> Option<String> {
    let at = got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits())?;
    Some(format!("row {at} is {:e}, alone {:e}", got[at], want[at]))
}

#[test]
fn results_do_not_depend_on_the_batch() {
    let pools = [Pool::new(1), Pool::new(3)];
    let mut failures = Failures::default();
    for kernels in tables() {
        let (mr, _) = kernels.tile();
        for ty in GgmlType::ALL {
            let block = ty.block_len().max(32);
            // Less than a tile, a tile and a bit, a tail of fewer blocks than go together; some hundred units.
            for (rows, cols) in [(mr - 1, block), (mr + 3, 5 * block), (2 * mr + 1, 2560), (19, 3 * 256 + block)] {
                let mut rng = Rng::new((rows * cols) as u64);
                let bytes = weight(*ty, rows, cols, Fill::Random, &mut rng);
                let w = WeightRef::new(*ty, &bytes, rows, cols).expect("fits");
                let most = if cols > 2000 { 20 } else { 64 };
                let x = activations(most, cols, &mut rng);
                for way in ways(*ty) {
                    let alone: Vec<Vec<f32>> =
                        x.chunks_exact(cols).map(|x| product(kernels, &pools[1], &w, x, way)).collect();
                    'batches: for n in BATCHES.into_iter().filter(|n| *n <= most) {
                        // Other neighbours for different sizes.
                        let first = if n < most { n % (most - n) } else { 0 };
                        let got = product(kernels, &pools[n % 2], &w, &x[first * cols..][..n * cols], way);
                        for (t, got) in got.chunks_exact(rows).enumerate() {
                            if let Some(what) = difference(got, &alone[first + t]) {
                                failures.push(format!(
                                    "{} {ty} {way:?} {rows}×{cols}: token {t} of {n}: {what}",
                                    kernels.name()
                                ));
                                // One of a kind says enough.
                                break 'batches;
                            }
                        }
                    }
                }
            }
        }
    }
    failures.check();
}

/// Rows so long that panels of them are multiplied piece by piece, and the same rows alone, in other strips.
#[test]
fn results_do_not_depend_on_how_rows_are_cut() {
    let pool = Pool::new(2);
    let mut failures = Failures::default();
    for kernels in tables() {
        let (mr, _) = kernels.tile();
        for ty in GgmlType::ALL {
            let (rows, cols) = (mr + 2, 256 * 141);
            let mut rng = Rng::new(5);
            let bytes = weight(*ty, rows, cols, Fill::Random, &mut rng);
            let w = WeightRef::new(*ty, &bytes, rows, cols).expect("fits");
            let tokens = 19;
            let x = activations(tokens, cols, &mut rng);
            for way in ways(*ty) {
                let all = product(kernels, &pool, &w, &x, way);
                let row_bytes = bytes.len() / rows;
                for (first, n, t) in [(0, rows, 0), (1, 1, 2), (mr, 2, 18), (rows - 1, 1, 4), (3, mr / 2, 7)] {
                    let cut = &bytes[first * row_bytes..(first + n) * row_bytes];
                    let w = WeightRef::new(*ty, cut, n, cols).expect("fits");
                    for tokens in [t..t + 1, 0..tokens] {
                        let got = product(kernels, &pool, &w, &x[tokens.start * cols..tokens.end * cols], way);
                        let got = &got[(t - tokens.start) * n..][..n];
                        if let Some(what) = difference(got, &all[t * rows + first..][..n]) {
                            failures.push(format!(
                                "{} {ty} {way:?}: rows from {first}, {n} of them, token {t} among {tokens:?}: {what}",
                                kernels.name()
                            ));
                        }
                    }
                }
            }
        }
    }
    failures.check();
}

/// Products that share activations, and gated ones, of formats that differ in what they take.
#[test]
fn shared_and_gated_products_do_not_depend_on_the_batch() {
    let pool = Pool::new(3);
    let mut failures = Failures::default();
    let (rows, cols) = (45, 768);
    for kernels in tables() {
        for (i, ty) in GgmlType::ALL.iter().enumerate() {
            let others = [GgmlType::ALL[(i + 1) % GgmlType::ALL.len()], GgmlType::ALL[(i + 4) % GgmlType::ALL.len()]];
            let types = [*ty, others[0], others[1]];
            let mut rng = Rng::new(i as u64 + 7);
            let bytes = types.map(|ty| weight(ty, rows, cols, Fill::Random, &mut rng));
            let weights: Vec<WeightRef<'_>> =
                types.iter().zip(&bytes).map(|(ty, b)| WeightRef::new(*ty, b, rows, cols).expect("fits")).collect();
            let x = activations(37, cols, &mut rng);
            for (precision, half) in WAYS {
                let run = |x: &[f32]| {
                    let tokens = x.len() / cols;
                    let mut act = ActBuf::new();
                    let needs = ActNeeds::new(precision, types).half_weights(half);
                    act.fill(&pool, kernels, x, tokens, cols, needs).expect("fits");
                    let mut outs = vec![vec![f32::NAN; tokens * rows]; 4];
                    {
                        let (last, outs) = outs.split_last_mut().expect("four");
                        let mut products: Vec<MatMul<'_, '_>> =
                            weights.iter().zip(outs).map(|(w, out)| MatMul { weight: *w, out }).collect();
                        matmul_many(&pool, kernels, &act, &mut products).expect("fits");
                        matmul_swiglu(&pool, kernels, &weights[0], &weights[1], &act, last).expect("fits");
                    }
                    outs
                };
                let alone: Vec<_> = x.chunks_exact(cols).map(run).collect();
                for n in [2, 3, 4, 5, 9, 16, 17, 37] {
                    let got = run(&x[..n * cols]);
                    for (t, alone) in alone[..n].iter().enumerate() {
                        for (p, (got, alone)) in got.iter().zip(alone).enumerate() {
                            if let Some(what) = difference(&got[t * rows..(t + 1) * rows], alone) {
                                failures.push(format!(
                                    "{} {types:?} {precision:?} {half:?}: product {p}, token {t} of {n}: {what}",
                                    kernels.name()
                                ));
                            }
                        }
                    }
                }
            }
        }
    }
    failures.check();
}

/// Weights whose blocks share a scale two by two.
#[test]
fn products_in_pairs_do_not_depend_on_the_batch() {
    let pool = Pool::new(2);
    let (rows, cols) = (37, 1088);
    for kernels in tables() {
        let mut rng = Rng::new(3);
        let values = rng.vec(rows * cols, 0.3);
        let mut bytes = vec![0; rows * cols / 32 * 34];
        for (row, out) in values.chunks_exact(cols).zip(bytes.chunks_exact_mut(cols / 32 * 34)) {
            ocelli_kernels::quantize::quantize_pairs(kernels, row, out).expect("finite");
        }
        let w = WeightRef::in_pairs(&bytes, rows, cols).expect("fits");
        let x = activations(40, cols, &mut rng);
        let run = |x: &[f32]| {
            let tokens = x.len() / cols;
            let mut act = ActBuf::new();
            let needs = ActNeeds::new(Precision::Fast, [GgmlType::Q8_0]).in_pairs();
            act.fill(&pool, kernels, x, tokens, cols, needs).expect("fits");
            let mut out = vec![f32::NAN; tokens * rows];
            matmul(&pool, kernels, &w, &act, &mut out).expect("fits");
            out
        };
        let alone: Vec<_> = x.chunks_exact(cols).map(run).collect();
        for n in [1, 2, 4, 5, 8, 16, 17, 33, 40] {
            for (t, got) in run(&x[..n * cols]).chunks_exact(rows).enumerate() {
                assert_eq!(difference(got, &alone[t]), None, "{}: token {t} of {n}", kernels.name());
            }
        }
    }
}

/// What rows pass through between products.
#[test]
fn operations_on_rows_do_not_depend_on_the_batch() {
    let pool = Pool::new(3);
    for kernels in tables() {
        for width in [1, 31, 72, 256, 1000] {
            let mut rng = Rng::new(width as u64);
            let (x, w) = (activations(33, width.max(32), &mut rng), rng.vec(width.max(32), 1.0));
            let width = width.max(32);
            let run = |x: &[f32]| {
                let mut out = vec![f32::NAN; x.len()];
                ops::rmsnorm(&pool, kernels, x, &w, 1e-5, &mut out).expect("fits");
                out
            };
            let alone: Vec<_> = x.chunks_exact(width).map(run).collect();
            for n in [1, 2, 5, 16, 17, 33] {
                for (t, got) in run(&x[..n * width]).chunks_exact(width).enumerate() {
                    assert_eq!(difference(got, &alone[t]), None, "{}: token {t} of {n}", kernels.name());
                }
            }
        }
    }
}

/// Without a choice, F16 and BF16 weights are multiplied as a few tokens are chosen to be, and then as many are.
#[test]
fn half_weights_are_multiplied_as_is_faster() {
    let pool = Pool::new(2);
    let (rows, cols) = (20, 512);
    for kernels in tables() {
        for ty in [GgmlType::F16, GgmlType::BF16] {
            let mut rng = Rng::new(8);
            let bytes = weight(ty, rows, cols, Fill::Random, &mut rng);
            let w = WeightRef::new(ty, &bytes, rows, cols).expect("fits");
            for tokens in [1, FEW_TOKENS, FEW_TOKENS + 1] {
                let x = activations(tokens, cols, &mut rng);
                let of = |half| product(kernels, &pool, &w, &x, (Precision::Fast, half));
                let (float, fixed) = (of(HalfWeights::F32), of(HalfWeights::FixedPoint));
                assert_eq!(float != fixed, kernels.fixed_point(), "{} {ty}", kernels.name());
                let want = if tokens > FEW_TOKENS { fixed } else { float };
                assert_eq!(of(HalfWeights::Fastest), want, "{} {ty}, {tokens} tokens", kernels.name());
            }
        }
    }
}
