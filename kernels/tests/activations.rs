//! Activations that are made just before they are taken in, and rows that are taken in again.

mod common;

use common::{Fill, Rng, pool, tables, weight};
use ocelli_kernels::{ActBuf, ActNeeds, FEW_TOKENS, KernelError, Kernels, Pool, Precision, WeightRef, matmul};
use ocelli_quant::GgmlType;

/// One format for every form of activations.
const FORMATS: [GgmlType; 4] = [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q4_K];

/// Rows of a weight.
const ROWS: usize = 24;

fn product(kernels: Kernels, pool: &Pool, w: &WeightRef<'_>, act: &ActBuf) -> Vec<u32> {
    let mut out = vec![f32::NAN; act.tokens() * w.rows()];
    matmul(pool, kernels, w, act, &mut out).expect("fits");
    out.iter().map(|x| x.to_bits()).collect()
}

/// What the tests below make a row of: both halves depend on it and on what lies beside it.
fn make(t: usize, row: &mut [f32], beside: &mut [f32]) {
    beside[0] += t as f32;
    for x in row {
        *x = *x * 0.5 + beside[0] * 0.01;
    }
}

#[test]
fn made_rows_are_those_that_were_made_before() {
    let mut rng = Rng::new(5);
    let pool = pool();
    for kernels in tables() {
        for (ty, precision) in FORMATS.into_iter().flat_map(|ty| [(ty, Precision::Fast), (ty, Precision::Exact)]) {
            // Rows that are whole, that end within a block, and that are shorter than what is taken at a time.
            for (width, depth) in [(512, 512), (300, 512), (520, 768), (40, 256)] {
                for tokens in [1, 3, FEW_TOKENS, FEW_TOKENS + 1, 45] {
                    let bytes = weight(ty, ROWS, depth, Fill::Random, &mut rng);
                    let w = WeightRef::new(ty, &bytes, ROWS, depth).expect("whole rows");
                    let needs = ActNeeds::new(precision, [ty]);
                    let (mut x, mut beside) = (rng.vec(tokens * width, 1.0), rng.vec(tokens * 2, 1.0));
                    let (mut made, mut made_beside) = (x.clone(), beside.clone());
                    for (t, (row, beside)) in x.chunks_exact_mut(width).zip(beside.chunks_exact_mut(2)).enumerate() {
                        make(t, row, beside);
                    }
                    let (mut want, mut got) = (ActBuf::new(), ActBuf::new());
                    want.fill_padded(&pool, kernels, &x, tokens, depth, needs).expect("fits");
                    let take = |t: usize, row: &mut [f32], beside: &mut [f32]| {
                        make(t, row, beside);
                        t % 3 != 1
                    };
                    got.fill_made(&pool, kernels, &mut made, &mut made_beside, tokens, depth, needs, take)
                        .expect("fits");
                    assert_eq!((&made, &made_beside), (&x, &beside), "every row is made once");
                    for t in (0..tokens).filter(|t| t % 3 == 1) {
                        got.refill(&pool, kernels, &made, t..t + 1).expect("was filled");
                    }
                    let (want, got) = (product(kernels, &pool, &w, &want), product(kernels, &pool, &w, &got));
                    assert_eq!(want, got, "{} {} {precision:?} {width} {tokens}", kernels.name(), ty.name());
                }
            }
        }
    }
}

#[test]
fn taking_rows_in_again_replaces_them_only() {
    let mut rng = Rng::new(6);
    let (pool, tokens, depth) = (pool(), 20, 512);
    for kernels in tables() {
        for ty in FORMATS {
            let bytes = weight(ty, ROWS, depth, Fill::Random, &mut rng);
            let w = WeightRef::new(ty, &bytes, ROWS, depth).expect("whole rows");
            let needs = ActNeeds::new(Precision::Fast, [ty]);
            let (before, after) = (rng.vec(tokens * depth, 1.0), rng.vec(tokens * depth, 1.0));
            let mut act = ActBuf::new();
            act.fill(&pool, kernels, &after, tokens, depth, needs).expect("fits");
            let all = product(kernels, &pool, &w, &act);
            act.fill(&pool, kernels, &before, tokens, depth, needs).expect("fits");
            let mut want = product(kernels, &pool, &w, &act);
            act.refill(&pool, kernels, &after, 7..12).expect("was filled");
            want[7 * ROWS..12 * ROWS].copy_from_slice(&all[7 * ROWS..12 * ROWS]);
            assert_eq!(product(kernels, &pool, &w, &act), want, "{} {}", kernels.name(), ty.name());
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (pool, kernels) = (Pool::new(1), Kernels::scalar());
    let needs = ActNeeds::new(Precision::Fast, [GgmlType::Q8_0]);
    let mut act = ActBuf::new();
    let nothing = act.refill(&pool, kernels, &[], 0..0);
    assert_eq!(nothing, Err(KernelError::Empty { what: "set of activations" }));
    let (mut x, mut beside) = (vec![1.0; 4 * 64], vec![1.0; 6]);
    let uneven = act.fill_made(&pool, kernels, &mut x, &mut beside, 4, 64, needs, |_, _, _| true);
    assert_eq!(uneven, Err(KernelError::Multiple { what: "rows beside activations", got: 6, of: 4 }));
    assert!(act.refill(&pool, kernels, &x, 0..1).is_err(), "nothing is there after an error");
    act.fill_made(&pool, kernels, &mut x, &mut beside[..4], 4, 64, needs, |_, _, _| true).expect("fits");
    assert_eq!(
        act.refill(&pool, kernels, &x[1..], 0..1),
        Err(KernelError::Length { what: "activations", got: 255, want: 256 })
    );
    let beyond = act.refill(&pool, kernels, &x, 3..5);
    assert_eq!(beyond, Err(KernelError::TooLarge { what: "end of activations", got: 5, limit: 4 }));
}
