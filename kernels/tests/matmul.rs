//! Every table × every format × generated shapes, against the scalar table; the scalar table against f64.

mod common;

use common::{Failures, Fill, Rng, computes_in_f32, expand, is_half, pool, tables, vector_tables, weight};
use ocelli_kernels::{
    ActBuf, ActNeeds, FEW_TOKENS, KeptColumns, Kernels, MAX_COLUMNS, MatMul, Pool, Precision, WeightRef, matmul,
    matmul_many, matmul_swiglu, matmul_with_columns, ops,
};
use ocelli_quant::GgmlType;

const EPS: f64 = 1.0 / (1u64 << 24) as f64;

/// One product: a weight, activations, and everything computed from them.
struct Case {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    tokens: usize,
    bytes: Vec<u8>,
    x: Vec<f32>,
}

impl Case {
    fn new(ty: GgmlType, rows: usize, cols: usize, tokens: usize, fill: Fill, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let bytes = weight(ty, rows, cols, fill, &mut rng);
        let mut x = rng.vec(tokens * cols, 2.0);
        if fill == Fill::Integral {
            // One 127 in every 32 makes all activation scales exactly 1; the rest stays small.
            for (i, v) in x.iter_mut().enumerate() {
                *v = if i % 32 == 5 { 127.0 } else { v.round() };
            }
        }
        Self { ty, rows, cols, tokens, bytes, x }
    }

    /// Runs the product into an output filled with NaN.
    fn run(&self, kernels: Kernels, pool: &Pool, precision: Precision) -> Vec<f32> {
        let mut act = ActBuf::new();
        let needs = ActNeeds::new(precision, [self.ty]);
        act.fill(pool, kernels, &self.x, self.tokens, self.cols, needs).expect("fits");
        // An odd address: nothing may rely on the alignment of a mapped file.
        let mut shifted = vec![0u8; self.bytes.len() + 1];
        shifted[1..].copy_from_slice(&self.bytes);
        let w = WeightRef::new(self.ty, &shifted[1..], self.rows, self.cols).expect("fits");
        let mut out = vec![f32::NAN; self.tokens * self.rows];
        matmul(pool, kernels, &w, &act, &mut out).expect("fits");
        out
    }

    /// A bound on the sum of the magnitudes of all terms of each result: the largest weight of each unit (which
    /// bounds code·scale and min separately up to a factor of 2) times the activations of the unit.
    fn magnitudes(&self) -> Vec<f64> {
        let w = expand(self.ty, &self.bytes, self.rows, self.cols);
        let unit = self.ty.block_len().max(32);
        let mut out = Vec::with_capacity(self.tokens * self.rows);
        for x in self.x.chunks_exact(self.cols) {
            for w in w.chunks_exact(self.cols) {
                let units = w.chunks(unit).zip(x.chunks(unit));
                out.push(
                    units
                        .map(|(w, x)| {
                            let largest = w.iter().fold(0f64, |m, w| m.max(f64::from(w.abs())));
                            2.0 * largest * x.iter().map(|x| f64::from(x.abs())).sum::<f64>()
                        })
                        .sum(),
                );
            }
        }
        out
    }

    fn compare(&self, name: &str, got: &[f32], want: &[f32], roundings: f64, failures: &mut Failures) {
        for (i, ((g, w), m)) in got.iter().zip(want).zip(self.magnitudes()).enumerate() {
            let bound = roundings * EPS * m + 1e-37;
            let difference = (f64::from(*g) - f64::from(*w)).abs();
            if difference.is_nan() || difference > bound {
                failures.push(format!(
                    "{name} {} {}×{} tokens {}: element {i} is {g}, not {w} (± {bound:e})",
                    self.ty, self.rows, self.cols, self.tokens
                ));
                return;
            }
        }
    }
}

/// Sizes around the tiles and blocks.
fn shapes(kernels: Kernels, ty: GgmlType) -> Vec<(usize, usize, usize)> {
    let (mr, nr) = kernels.tile();
    let block = ty.block_len().max(32);
    let mut shapes = Vec::new();
    for tokens in (1..13).chain([nr + 1, FEW_TOKENS + nr, 31, 32, 33, 65]) {
        shapes.push((mr + 1, block, tokens));
        shapes.push((2 * mr + 3, 2 * block, tokens));
    }
    for rows in [0, 1, mr - 1, mr, mr + 1, 2 * mr + 3] {
        for tokens in [1, 2, nr, FEW_TOKENS + nr] {
            shapes.push((rows, block, tokens));
            shapes.push((rows, 3 * block, tokens));
        }
    }
    shapes.push((mr + 2, 2560, 1));
    shapes.push((mr + 2, 2560, nr + 1));
    shapes.push((mr + 2, 2560, FEW_TOKENS + nr + 1));
    shapes
}

#[test]
fn tables_agree_with_scalar() {
    let pool = pool();
    let mut failures = Failures::default();
    for kernels in vector_tables() {
        for ty in GgmlType::ALL {
            for (i, (rows, cols, tokens)) in shapes(kernels, *ty).into_iter().enumerate() {
                let case = Case::new(*ty, rows, cols, tokens, Fill::Random, i as u64 + 1);
                for precision in [Precision::Fast, Precision::Exact] {
                    // Fixed-point numbers have the same codes in every table that has them.
                    let as_f32 = is_half(*ty) && !kernels.fixed_point();
                    let reference = if as_f32 { Precision::Exact } else { precision };
                    let want = case.run(Kernels::scalar(), &pool, reference);
                    let got = case.run(kernels, &pool, precision);
                    let float = precision == Precision::Exact || computes_in_f32(*ty);
                    // f32 sums of n terms: n + 2 roundings on either side. Integer sums are exact; each unit adds
                    // five roundings.
                    let roundings =
                        if float { 2.0 * (cols + 2) as f64 } else { 2.0 * (5 * (cols / 32).max(1) + 5) as f64 };
                    case.compare(kernels.name(), &got, &want, roundings, &mut failures);
                }
            }
        }
    }
    failures.check();
}

#[test]
fn integer_parts_are_equal() {
    let pool = pool();
    let mut failures = Failures::default();
    for kernels in tables() {
        // Q8_K is quantised but multiplies as floats: it has no integer part.
        for ty in GgmlType::ALL.iter().filter(|ty| !(computes_in_f32(**ty) && ty.is_quantized())) {
            let (mr, nr) = kernels.tile();
            for (i, tokens) in [1, 2, 3, nr, nr + 1, 7, FEW_TOKENS + nr, FEW_TOKENS + nr + 1].into_iter().enumerate() {
                let case = Case::new(*ty, mr + 3, 512, tokens, Fill::Integral, i as u64 + 50);
                let precision = if is_half(*ty) { Precision::Exact } else { Precision::Fast };
                let want = case.run(Kernels::scalar(), &pool, precision);
                let got = case.run(kernels, &pool, precision);
                case.compare(kernels.name(), &got, &want, 0.0, &mut failures);
                // All activation scales are 1, so quantised activations are the activations: f64 must agree, too.
                let w = expand(*ty, &case.bytes, case.rows, case.cols);
                let exact: Vec<f32> = case
                    .x
                    .chunks_exact(case.cols)
                    .flat_map(|x| w.chunks_exact(case.cols).map(|w| dot64(w, x) as f32).collect::<Vec<_>>())
                    .collect();
                case.compare("f64", &want, &exact, 0.0, &mut failures);
            }
        }
    }
    failures.check();
}

#[test]
fn extreme_codes_do_not_saturate() {
    let pool = pool();
    let mut failures = Failures::default();
    for kernels in tables() {
        for ty in GgmlType::ALL {
            for (byte, sign) in [(0xff, 1.0), (0xff, -1.0), (0x7f, 1.0), (0x80, -1.0), (0x80, 1.0), (0x00, 1.0)] {
                for tokens in [1, 5, FEW_TOKENS + 5] {
                    let mut case = Case::new(*ty, 5, 512, tokens, Fill::Byte(byte), 9);
                    case.x.fill(127.0 * sign);
                    let w = expand(*ty, &case.bytes, case.rows, case.cols);
                    let want: Vec<f32> =
                        (0..tokens * 5).map(|i| dot64(&w[i % 5 * 512..][..512], &case.x[..512]) as f32).collect();
                    let got = case.run(kernels, &pool, Precision::Fast);
                    // A rounded code of 4094 is worth more than roundings of f32.
                    let roundings = if is_half(*ty) { 5e-4 / EPS } else { 64.0 };
                    case.compare(kernels.name(), &got, &want, roundings, &mut failures);
                }
            }
        }
    }
    failures.check();
}

#[test]
fn denormal_scales_and_zero_activations() {
    let pool = pool();
    let mut failures = Failures::default();
    for kernels in tables() {
        for ty in GgmlType::ALL {
            for tokens in [1, 5, FEW_TOKENS + 5] {
                let mut case = Case::new(*ty, 6, 256, tokens, Fill::Denormal, 77);
                let want = case.run(Kernels::scalar(), &pool, Precision::Fast);
                let got = case.run(kernels, &pool, Precision::Fast);
                case.compare(kernels.name(), &got, &want, 600.0, &mut failures);
                case.x.fill(0.0);
                for precision in [Precision::Fast, Precision::Exact] {
                    let got = case.run(kernels, &pool, precision);
                    assert!(got.iter().all(|v| *v == 0.0), "{} {ty}: zeros give {got:?}", kernels.name());
                }
            }
        }
    }
    failures.check();
}

/// The scalar table against f64 on expanded weights: exactly for `Exact`, up to activation rounding for `Fast`.
#[test]
fn scalar_agrees_with_f64() {
    let pool = pool();
    let mut failures = Failures::default();
    for ty in GgmlType::ALL {
        for (tokens, cols) in [(1, 256), (3, 768)] {
            let case = Case::new(*ty, 7, cols, tokens, Fill::Random, 5);
            let w = expand(*ty, &case.bytes, 7, cols);
            let want: Vec<f32> = case
                .x
                .chunks_exact(cols)
                .flat_map(|x| w.chunks_exact(cols).map(|w| dot64(w, x) as f32).collect::<Vec<_>>())
                .collect();
            let exact = case.run(Kernels::scalar(), &pool, Precision::Exact);
            case.compare("scalar exact", &exact, &want, (cols + 2) as f64, &mut failures);
            let fast = case.run(Kernels::scalar(), &pool, Precision::Fast);
            // Half a code of 127, relative to the largest activation of 2: the error of one activation is below
            // 2/254, and `magnitudes` sums |x| whose mean is 1.
            let relative = if !computes_in_f32(*ty) { 2.0 / 254.0 / EPS } else { (cols + 2) as f64 };
            case.compare("scalar fast", &fast, &want, relative, &mut failures);
        }
    }
    failures.check();
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for kernels in tables() {
        for ty in GgmlType::ALL {
            for tokens in [1, 6, FEW_TOKENS + 3] {
                let case = Case::new(*ty, 83, 512, tokens, Fill::Random, 3);
                for precision in [Precision::Fast, Precision::Exact] {
                    let one = case.run(kernels, &Pool::new(1), precision);
                    let three = case.run(kernels, &Pool::new(3), precision);
                    assert_eq!(one, three, "{} {ty} tokens {tokens}", kernels.name());
                }
            }
        }
    }
}

/// As many tokens as need no panel: the sums have the same order as for one.
#[test]
fn few_tokens_have_the_bits_of_one() {
    let pool = pool();
    for kernels in tables() {
        for ty in GgmlType::ALL {
            for tokens in 2..=kernels.few_tokens(*ty) {
                let (rows, cols) = (37, 768);
                let case = Case::new(*ty, rows, cols, tokens, Fill::Random, tokens as u64);
                let together = case.run(kernels, &pool, Precision::Fast);
                for (t, together) in together.chunks_exact(rows).enumerate() {
                    let x = case.x[t * cols..][..cols].to_vec();
                    let alone = Case { tokens: 1, x, bytes: case.bytes.clone(), ..case };
                    let want = alone.run(kernels, &pool, Precision::Fast);
                    assert_eq!(together, want, "{} {ty}: token {t} of {tokens}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn several_products_share_activations() {
    let pool = pool();
    for kernels in tables() {
        for tokens in [1, 5, FEW_TOKENS + 5] {
            let mut rng = Rng::new(11);
            let cols = 512;
            let list: Vec<(GgmlType, usize, Vec<u8>)> = GgmlType::ALL
                .iter()
                .take(8)
                .enumerate()
                .map(|(i, ty)| (*ty, 5 + 9 * i, weight(*ty, 5 + 9 * i, cols, Fill::Random, &mut rng)))
                .collect();
            let x = rng.vec(tokens * cols, 1.0);
            let mut act = ActBuf::new();
            let needs = ActNeeds::new(Precision::Fast, list.iter().map(|(ty, ..)| *ty));
            act.fill(&pool, kernels, &x, tokens, cols, needs).expect("fits");
            let mut outs: Vec<Vec<f32>> = list.iter().map(|(_, rows, _)| vec![f32::NAN; rows * tokens]).collect();
            let mut products: Vec<MatMul> = list
                .iter()
                .zip(&mut outs)
                .map(|((ty, rows, bytes), out)| MatMul {
                    weight: WeightRef::new(*ty, bytes, *rows, cols).expect("fits"),
                    out,
                })
                .collect();
            matmul_many(&pool, kernels, &act, &mut products).expect("fits");
            for ((ty, rows, bytes), out) in list.iter().zip(&outs) {
                let mut alone = vec![f32::NAN; rows * tokens];
                let w = WeightRef::new(*ty, bytes, *rows, cols).expect("fits");
                matmul(&pool, kernels, &w, &act, &mut alone).expect("fits");
                assert_eq!(*out, alone, "{} {ty}", kernels.name());
            }
        }
    }
}

#[test]
fn fused_swiglu_equals_its_parts() {
    let pool = pool();
    for kernels in tables() {
        for (gate_ty, up_ty) in GgmlType::ALL.iter().zip(GgmlType::ALL.iter().cycle().skip(1)) {
            for tokens in [1, 2, 37] {
                let (rows, cols) = (41, 256);
                let mut rng = Rng::new(21);
                let gate_bytes = weight(*gate_ty, rows, cols, Fill::Random, &mut rng);
                let up_bytes = weight(*up_ty, rows, cols, Fill::Random, &mut rng);
                let gate = WeightRef::new(*gate_ty, &gate_bytes, rows, cols).expect("fits");
                let up = WeightRef::new(*up_ty, &up_bytes, rows, cols).expect("fits");
                let x = rng.vec(tokens * cols, 1.0);
                let mut act = ActBuf::new();
                let needs = ActNeeds::new(Precision::Fast, [*gate_ty, *up_ty]);
                act.fill(&pool, kernels, &x, tokens, cols, needs).expect("fits");
                let mut fused = vec![f32::NAN; tokens * rows];
                matmul_swiglu(&pool, kernels, &gate, &up, &act, &mut fused).expect("fits");
                let (mut g, mut u) = (fused.clone(), fused.clone());
                matmul(&pool, kernels, &gate, &act, &mut g).expect("fits");
                matmul(&pool, kernels, &up, &act, &mut u).expect("fits");
                ops::swiglu(&pool, kernels, &mut g, &u).expect("fits");
                for (i, (a, b)) in fused.iter().zip(&g).enumerate() {
                    assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{} {i}: {a} {b}", kernels.name());
                }
            }
        }
    }
}

/// More tokens than the results of a strip have room for in a worker's memory, and a few behind those.
#[test]
fn a_few_tokens_behind_many_are_as_good() {
    let pool = pool();
    for kernels in tables() {
        for ty in [GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::Q8_0, GgmlType::F16] {
            let (rows, cols, tokens) = (32, 256, 2 * 512 + 3);
            let mut rng = Rng::new(23);
            let [gate, up] = [1, 2].map(|_| weight(ty, rows, cols, Fill::Random, &mut rng));
            let [gate, up] = [&gate, &up].map(|bytes| WeightRef::new(ty, bytes, rows, cols).expect("fits"));
            let x = rng.vec(tokens * cols, 1.0);
            let (mut act, needs) = (ActBuf::new(), ActNeeds::new(Precision::Fast, [ty]));
            act.fill(&pool, kernels, &x, tokens, cols, needs).expect("fits");
            let mut fused = vec![f32::NAN; tokens * rows];
            matmul_swiglu(&pool, kernels, &gate, &up, &act, &mut fused).expect("fits");
            let [mut g, u] = [gate, up].map(|weight| {
                let mut out = vec![f32::NAN; tokens * rows];
                matmul(&pool, kernels, &weight, &act, &mut out).expect("fits");
                out
            });
            ops::swiglu(&pool, kernels, &mut g, &u).expect("fits");
            for (i, (a, b)) in fused.iter().zip(&g).enumerate() {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{} {ty} {i}: {a} {b}", kernels.name());
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let (pool, kernels) = (pool(), Kernels::scalar());
    let bytes = vec![0u8; 34 * 4];
    assert!(WeightRef::new(GgmlType::Q8_0, &bytes, 2, 64).is_ok());
    assert!(WeightRef::new(GgmlType::Q8_0, &bytes, 2, 32).is_err());
    assert!(WeightRef::new(GgmlType::Q8_0, &bytes, 2, 63).is_err());
    assert!(WeightRef::new(GgmlType::Q8_0, &bytes, usize::MAX, 64).is_err());
    assert!(WeightRef::new(GgmlType::Q8_0, &[], 2, 0).is_err());
    let w = WeightRef::new(GgmlType::Q8_0, &bytes, 2, 64).expect("fits");
    let mut act = ActBuf::new();
    let mut out = vec![0.0; 2];
    assert!(matmul(&pool, kernels, &w, &act, &mut out).is_err(), "never filled");
    let f32_only = ActNeeds::new(Precision::Fast, [GgmlType::F32]);
    let q8 = ActNeeds::new(Precision::Fast, [GgmlType::Q8_0]);
    assert!(act.fill(&pool, kernels, &[0.0; 63], 1, 64, q8).is_err());
    assert!(act.fill(&pool, kernels, &[0.0; 63], 1, 63, q8).is_err());
    act.fill(&pool, kernels, &[0.0; 64], 1, 64, f32_only).expect("fits");
    let error = matmul(&pool, kernels, &w, &act, &mut out).expect_err("wrong form").to_string();
    assert!(error.contains("Q8_0"), "{error}");
    act.fill(&pool, kernels, &[0.0; 96], 1, 96, q8).expect("fits");
    assert!(matmul(&pool, kernels, &w, &act, &mut out).is_err(), "depth");
    act.fill(&pool, kernels, &[0.0; 64], 1, 64, q8).expect("fits");
    assert!(matmul(&pool, kernels, &w, &act, &mut out[..1]).is_err(), "result length");
    matmul(&pool, kernels, &w, &act, &mut out).expect("fits");
    act.fill(&pool, kernels, &[], 0, 64, q8).expect("fits");
    matmul(&pool, kernels, &w, &act, &mut []).expect("no tokens, no results");
}

fn dot64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn rows_padded_on_the_way_in_are_rows_with_zeros() {
    let (tokens, width, depth) = (5, 72, 96);
    let pool = pool();
    let mut rng = Rng::new(31);
    let x = rng.vec(tokens * width, 2.0);
    let mut padded = vec![0.0; tokens * depth];
    for (to, from) in padded.chunks_exact_mut(depth).zip(x.chunks_exact(width)) {
        to[..width].copy_from_slice(from);
    }
    for kernels in tables() {
        for (ty, precision) in
            [(GgmlType::Q8_0, Precision::Fast), (GgmlType::Q8_0, Precision::Exact), (GgmlType::F16, Precision::Fast)]
        {
            let bytes = weight(ty, 7, depth, Fill::Random, &mut rng);
            let w = WeightRef::new(ty, &bytes, 7, depth).expect("whole");
            let needs = ActNeeds::new(precision, [ty]);
            let mut results = [vec![f32::NAN; tokens * 7], vec![f32::NAN; tokens * 7]];
            let mut act = ActBuf::new();
            for (out, x) in results.iter_mut().zip([&x, &padded]) {
                act.fill_padded(&pool, kernels, x, tokens, depth, needs).expect("fits");
                matmul(&pool, kernels, &w, &act, out).expect("fits");
            }
            assert_eq!(results[0], results[1], "{} {ty:?}", kernels.name());
        }
    }
    let needs = ActNeeds::new(Precision::Fast, [GgmlType::Q8_0]);
    let mut act = ActBuf::new();
    assert!(act.fill_padded(&pool, Kernels::scalar(), &x, 7, depth, needs).is_err());
    assert!(act.fill_padded(&pool, Kernels::scalar(), &x, 1, depth, needs).is_err());
}

#[test]
fn columns_are_added() {
    let pool = pool();
    let mut failures = Failures::default();
    for kernels in tables() {
        for ty in GgmlType::ALL {
            let cols = 3 * ty.block_len().max(32);
            for (rows, tokens, chosen) in [(1, 1, 1), (16, 2, 3), (37, 7, 5), (33, 1, 20), (70, 20, 2), (5, 0, 2)] {
                let mut rng = Rng::new((rows + tokens) as u64);
                let both: [Vec<u8>; 2] = std::array::from_fn(|_| weight(*ty, rows, cols, Fill::Random, &mut rng));
                let w = both.each_ref().map(|bytes| WeightRef::new(*ty, bytes, rows, cols).expect("fits"));
                let mut act = ActBuf::new();
                let needs = ActNeeds::new(Precision::Exact, [*ty]);
                act.fill(&pool, kernels, &rng.vec(tokens * cols, 1.0), tokens, cols, needs).expect("fits");
                // The first token has none, the second product columns of the first weight.
                let some = tokens.min(1)..tokens;
                let columns: Vec<u32> = (0..chosen).map(|_| rng.below(cols) as u32).collect();
                let x = rng.vec(some.len() * chosen, 3.0);
                let (weights, mut results) = ([w[1], w[0]], [(); 4].map(|()| vec![f32::NAN; tokens * rows]));
                let [before, before2, got, got2] = &mut results;
                let mut products = [MatMul { weight: w[0], out: before }, MatMul { weight: w[1], out: before2 }];
                matmul_many(&pool, kernels, &act, &mut products).expect("fits");
                let kept = [KeptColumns { weights: &weights, tokens: some.clone(), columns: &columns, x: &x }];
                let mut products = [MatMul { weight: w[0], out: got }, MatMul { weight: w[1], out: got2 }];
                matmul_with_columns(&pool, kernels, &act, &mut products, &kept).expect("fits");
                for (number, (before, got)) in [(&*before, &*got), (&*before2, &*got2)].into_iter().enumerate() {
                    let values = expand(*ty, &both[1 - number], rows, cols);
                    for (i, (got, before)) in got.iter().zip(before).enumerate() {
                        let (t, r) = (i / rows, i % rows);
                        let terms = || {
                            let x = if some.contains(&t) { &x[(t - some.start) * chosen..][..chosen] } else { &[] };
                            let pairs = columns.iter().zip(x);
                            pairs.map(|(c, x)| f64::from(values[r * cols + *c as usize]) * f64::from(*x))
                        };
                        let want = f64::from(*before) + terms().sum::<f64>();
                        let size = f64::from(before.abs()) + terms().map(f64::abs).sum::<f64>();
                        // Written so that a NaN is wrong.
                        let close = (f64::from(*got) - want).abs() <= (chosen + 2) as f64 * EPS * size;
                        if !close {
                            failures.push(format!(
                                "{} {ty} {rows}×{cols}, product {number}: element {i} is {got}, not {want}",
                                kernels.name()
                            ));
                            break;
                        }
                    }
                }
            }
        }
    }
    failures.check();
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    let (pool, kernels, ty) = (pool(), Kernels::scalar(), GgmlType::F32);
    let bytes = vec![0u8; 4 * 2 * 3];
    let w = WeightRef::new(ty, &bytes, 2, 3).expect("fits");
    let smaller = WeightRef::new(ty, &bytes[..12], 1, 3).expect("fits");
    let mut act = ActBuf::new();
    act.fill(&pool, kernels, &[0.0; 6], 2, 3, ActNeeds::new(Precision::Exact, [ty])).expect("fits");
    let add = |weights: &[WeightRef<'_>], tokens: std::ops::Range<usize>, columns: &[u32], x: &[f32]| {
        let mut out = [1.0; 4];
        let kept = [KeptColumns { weights, tokens, columns, x }];
        let done = matmul_with_columns(&pool, kernels, &act, &mut [MatMul { weight: w, out: &mut out }], &kept);
        assert!(done.is_ok() || out == [1.0; 4], "an error comes before anything is computed");
        done
    };
    assert!(add(&[w], 0..2, &[0, 2], &[1.0; 4]).is_ok());
    assert!(add(&[w], 0..2, &[], &[]).is_ok());
    assert!(add(&[w], 1..1, &[0], &[]).is_ok());
    assert!(add(&[w], 0..2, &[0, 3], &[1.0; 4]).is_err());
    assert!(add(&[w], 0..2, &[0, 1], &[1.0; 3]).is_err());
    assert!(add(&[w], 0..2, &[], &[1.0]).is_err());
    assert!(add(&[w], 1..3, &[0], &[1.0; 2]).is_err());
    assert!(add(&[], 0..2, &[0], &[1.0; 2]).is_err());
    assert!(add(&[w, w], 0..2, &[0], &[1.0; 2]).is_err());
    assert!(add(&[smaller], 0..2, &[0], &[1.0; 2]).is_err());
    let many = [0; MAX_COLUMNS + 1];
    assert!(add(&[w], 0..2, &many, &[1.0; 2 * (MAX_COLUMNS + 1)]).is_err());
}
