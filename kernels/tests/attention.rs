//! Attention over paged caches against a plain f64 softmax, for every table.

mod common;

use common::{Failures, Rng, pool, tables};
use ocelli_kernels::measure::Unit;
use ocelli_kernels::{
    AttnScratch, AttnShape, Kernels, KvBatch, KvBatchMut, KvLayout, KvPart, KvSegment, Pool, Precision, attention,
    attention_unit,
};
use ocelli_quant::GgmlType;

#[derive(Clone)]
struct Case {
    layout: KvLayout,
    n_heads: usize,
    pos0: usize,
    tokens: usize,
    causal: bool,
    k: Vec<u8>,
    v: Vec<u8>,
    table: Vec<u32>,
    q: Vec<f32>,
    len: usize,
}

impl Case {
    fn new(
        types: (GgmlType, GgmlType),
        heads: (usize, usize),
        head_dim: usize,
        pos0: usize,
        tokens: usize,
        causal: bool,
    ) -> Self {
        let layout = KvLayout::new(types.0, types.1, heads.1, head_dim, 32).expect("valid");
        let mut rng = Rng::new(head_dim as u64 * 31 + pos0 as u64);
        let len = pos0 + tokens;
        let blocks = layout.blocks_for(len) + 2;
        // Blocks in reverse order, so that a wrong table look-up shows. Unused memory is NaN.
        let table: Vec<u32> = (0..layout.blocks_for(len)).map(|i| (blocks - 1 - i) as u32).collect();
        let mut k = vec![0xffu8; blocks * layout.k_block_bytes()];
        let mut v = vec![0xffu8; blocks * layout.v_block_bytes()];
        let width = heads.1 * head_dim;
        let rows = rng.vec(len * width, 2.0);
        let values = rng.vec(len * width, 1.0);
        let all = [KvSegment::alone(0, len, table.len())];
        let mut batch = KvBatchMut::new(layout, &mut k, &mut v, &table, &all).expect("covered");
        batch.store(&Pool::new(1), Kernels::scalar(), &rows, &values).expect("fits");
        let q = rng.vec(tokens * heads.0 * head_dim, 2.0);
        Self { layout, n_heads: heads.0, pos0, tokens, causal, k, v, table, q, len }
    }

    /// The same with what is F16 kept as codes; none where no table would keep any.
    fn coded(&self) -> Option<Self> {
        let group = self.n_heads / self.layout.n_kv_heads();
        let layout = self.layout.coded(Kernels::scalar(), Precision::Fast, group);
        if layout == self.layout {
            return None;
        }
        let (blocks, kernels) = (self.k.len() / self.layout.k_block_bytes(), Kernels::scalar());
        let mut k = vec![0xffu8; blocks * layout.k_block_bytes()];
        let mut v = vec![0xffu8; blocks * layout.v_block_bytes()];
        for (i, block) in self.table.iter().enumerate() {
            let rows = (self.len - i * layout.block_len()).min(layout.block_len());
            for head in 0..layout.n_kv_heads() {
                for (part, from, to) in [(KvPart::Keys, &self.k, &mut k), (KvPart::Values, &self.v, &mut v)] {
                    let heads = blocks * layout.n_kv_heads();
                    let number = *block as usize * layout.n_kv_heads() + head;
                    let (from_bytes, to_bytes) = (from.len() / heads, to.len() / heads);
                    let mut stored = vec![0; rows * layout.stored_row_bytes(part).expect("whole blocks")];
                    let from = &from[number * from_bytes..][..from_bytes];
                    self.layout.read_rows(kernels, part, from, &mut stored).expect("fits");
                    let to = &mut to[number * to_bytes..][..to_bytes];
                    layout.write_rows(kernels, part, &stored, to).expect("fits");
                }
            }
        }
        Some(Self { layout, k, v, ..self.clone() })
    }

    fn run(&self, kernels: Kernels, precision: Precision, pool: &Pool) -> Vec<f32> {
        let segments = [KvSegment::alone(self.pos0, self.tokens, self.table.len())];
        let batch = KvBatch::new(self.layout, &self.k, &self.v, &self.table, &segments).expect("covered");
        let scale = 1.0 / (self.layout.head_dim() as f32).sqrt();
        let (n_heads, causal) = (self.n_heads, self.causal);
        let shape = AttnShape { n_heads, scale, causal, precision };
        let mut out = vec![f32::NAN; self.q.len()];
        attention(pool, kernels, &mut AttnScratch::new(), shape, &self.q, &batch, &mut out).expect("fits");
        out
    }

    fn row(&self, ty: GgmlType, bytes: &[u8], block_bytes: usize, head: usize, pos: usize) -> Vec<f32> {
        let l = &self.layout;
        let row = ty.row_bytes(l.head_dim()).expect("whole");
        let block = self.table[pos / l.block_len()] as usize;
        let at = block * block_bytes + (head * l.block_len() + pos % l.block_len()) * row;
        let mut out = vec![0.0; l.head_dim()];
        ty.dequantize_row(&bytes[at..at + row], &mut out).expect("whole row");
        out
    }

    fn reference(&self) -> Vec<f32> {
        let l = &self.layout;
        let hd = l.head_dim();
        let mut out = Vec::with_capacity(self.q.len());
        for t in 0..self.tokens {
            for h in 0..self.n_heads {
                let kv = h / (self.n_heads / l.n_kv_heads());
                let q = &self.q[(t * self.n_heads + h) * hd..][..hd];
                let seen = if self.causal { self.pos0 + t + 1 } else { self.len };
                let scores: Vec<f64> = (0..seen)
                    .map(|p| {
                        let k = self.row(l.k_type(), &self.k, l.k_block_bytes(), kv, p);
                        q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(k)).sum::<f64>() / (hd as f64).sqrt()
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut row = vec![0f64; hd];
                for (p, w) in weights.iter().enumerate() {
                    let v = self.row(l.v_type(), &self.v, l.v_block_bytes(), kv, p);
                    for (o, v) in row.iter_mut().zip(v) {
                        *o += w / sum * f64::from(v);
                    }
                }
                out.extend(row.iter().map(|v| *v as f32));
            }
        }
        out
    }
}

fn cases() -> Vec<Case> {
    use GgmlType::{BF16, F16, F32, Q8_0};
    let mut cases = Vec::new();
    for (k, v) in [(F16, F16), (F32, F32), (Q8_0, Q8_0), (F16, Q8_0), (BF16, F32)] {
        cases.push(Case::new((k, v), (4, 2), 32, 0, 1, true));
        cases.push(Case::new((k, v), (4, 2), 64, 37, 5, true));
        cases.push(Case::new((k, v), (8, 1), 32, 0, 70, true));
        // Generation over several chunks of keys.
        cases.push(Case::new((k, v), (4, 2), 32, 1100, 1, true));
    }
    // Head sizes that fill no panel, one query head per KV head, many query heads, and a few tokens over chunks.
    for head_dim in [2, 18, 72, 80, 100] {
        cases.push(Case::new((F16, F16), (3, 3), head_dim, 3, 33, true));
        cases.push(Case::new((F16, F16), (6, 2), head_dim, 40, 2, true));
    }
    cases.push(Case::new((F16, F16), (80, 1), 16, 5, 3, true));
    cases.push(Case::new((F16, F16), (8, 1), 16, 600, 6, true));
    // Enough heads for fixed point, of every size, in both formats that it takes.
    for head_dim in [2, 18, 72, 80, 100, 256] {
        cases.push(Case::new((F16, F16), (32, 1), head_dim, 40, 3, true));
    }
    for (k, v) in [(F16, F16), (Q8_0, Q8_0), (F16, Q8_0)] {
        cases.push(Case::new((k, v), (64, 2), 64, 37, 5, true));
        cases.push(Case::new((k, v), (48, 1), 32, 1100, 1, true));
        cases.push(Case::new((k, v), (40, 1), 32, 0, 70, true));
    }
    // Over several chunks with so many tokens that threads share them, not the keys.
    cases.push(Case::new((F16, F16), (16, 1), 32, 1000, 70, true));
    cases.push(Case::new((F16, F16), (2, 2), 72, 0, 40, false));
    cases.push(Case::new((F16, F16), (16, 2), 128, 130, 9, true));
    cases.push(Case::new((F16, F16), (1, 1), 512, 20, 3, true));
    cases
}

#[test]
fn agrees_with_a_plain_softmax() {
    let pool = pool();
    let mut failures = Failures::default();
    for case in cases() {
        let want = case.reference();
        for kernels in tables() {
            let got = case.run(kernels, Precision::Exact, &pool);
            // Weights sum to 1 and values are at most 1: the error is that of the scores (head_dim roundings of terms
            // up to 4/sqrt(head_dim)) and of the weighted sum.
            let bound = 1e-5;
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                if g.is_nan() || (g - w).abs() > bound {
                    failures.push(format!(
                        "{} {}/{} heads {} of {} dim {} pos {} tokens {}: element {i} is {g}, not {w}",
                        kernels.name(),
                        case.layout.k_type(),
                        case.layout.v_type(),
                        case.n_heads,
                        case.layout.n_kv_heads(),
                        case.layout.head_dim(),
                        case.pos0,
                        case.tokens
                    ));
                    break;
                }
            }
        }
    }
    failures.check();
}

/// In fixed point an error is that of the codes: of scores, terms up to 4/√head_dim with a code's share of √head_dim/65,500 on
/// one side and twice that on the other, random; of weights and values 2⁻¹³.
#[test]
fn fixed_point_is_as_good_as_its_codes() {
    let pool = pool();
    let mut failures = Failures::default();
    let mut fixed = 0;
    for case in cases() {
        let group = case.n_heads / case.layout.n_kv_heads();
        let want = case.reference();
        for kernels in tables() {
            if attention_unit(kernels, Precision::Fast, &case.layout, group) != Unit::Int16 {
                let same = case.run(kernels, Precision::Fast, &pool) == case.run(kernels, Precision::Exact, &pool);
                assert!(same, "{}: nothing else is computed otherwise", kernels.name());
                continue;
            }
            fixed += 1;
            let got = case.run(kernels, Precision::Fast, &pool);
            let off = got.iter().zip(&want).map(|(g, w)| if g.is_nan() { f32::INFINITY } else { (g - w).abs() });
            let (worst, mean) = off.fold((0f32, 0f64), |(worst, sum), off| (worst.max(off), sum + f64::from(off)));
            let mean = mean / want.len() as f64;
            if let Some(coded) = case.coded() {
                let same = got == coded.run(kernels, Precision::Fast, &pool);
                assert!(same, "{}: codes that were kept are those made now", kernels.name());
            }
            if worst > 4e-4 || mean > 5e-5 {
                failures.push(format!(
                    "{} {} heads of {} dim {} pos {} tokens {}: off by {worst:e}, {mean:e} in the mean",
                    kernels.name(),
                    case.n_heads,
                    case.layout.n_kv_heads(),
                    case.layout.head_dim(),
                    case.pos0,
                    case.tokens
                ));
            }
        }
    }
    assert!(fixed > 0, "no case is computed in fixed point");
    failures.check();
}

/// Values of half precision move by at most half a code when they become one.
#[test]
fn any_table_and_precision_reads_codes() {
    let pool = pool();
    let mut coded = 0;
    for case in cases() {
        let Some(kept) = case.coded() else { continue };
        coded += 1;
        let want = case.reference();
        for kernels in tables() {
            for precision in [Precision::Exact, Precision::Fast] {
                for (got, want) in kept.run(kernels, precision, &pool).iter().zip(&want) {
                    assert!((got - want).abs() < 4e-4, "{} {precision:?}: {got}, not {want}", kernels.name());
                }
            }
        }
    }
    assert!(coded > 3);
}

#[test]
fn kept_codes_leave_as_halves_and_come_back() {
    let (kernels, mut rng) = (Kernels::scalar(), Rng::new(5));
    for head_dim in [2, 35, 72, 128] {
        let layout = KvLayout::new(GgmlType::F16, GgmlType::F16, 1, head_dim, 32).expect("valid");
        let layout = layout.coded(kernels, Precision::Fast, 64);
        let (mut k, mut v) = (vec![0u8; layout.k_block_bytes()], vec![0u8; layout.v_block_bytes()]);
        let (keys, values) = (rng.vec(32 * head_dim, 9.0), rng.vec(32 * head_dim, 0.1));
        let all = [KvSegment::alone(0, 32, 1)];
        let mut batch = KvBatchMut::new(layout, &mut k, &mut v, &[0], &all).expect("covered");
        batch.store(&pool(), kernels, &keys, &values).expect("fits");
        for (part, bytes) in [(KvPart::Keys, &k), (KvPart::Values, &v)] {
            for rows in [1, 19, 32] {
                let mut halves = vec![0; rows * 2 * head_dim];
                layout.read_rows(kernels, part, bytes, &mut halves).expect("fits");
                let mut back = bytes.clone();
                layout.write_rows(kernels, part, &halves, &mut back).expect("fits");
                let mut again = vec![1; halves.len()];
                layout.read_rows(kernels, part, &back, &mut again).expect("fits");
                assert_eq!(halves, again, "{part:?} {head_dim}: {rows} rows");
            }
            let mut more = vec![0; 33 * 2 * head_dim];
            assert!(layout.read_rows(kernels, part, bytes, &mut more).is_err());
            assert!(layout.read_rows(kernels, part, bytes, &mut more[..2 * head_dim + 1]).is_err());
            assert!(layout.write_rows(kernels, part, &more[..2 * head_dim], &mut bytes.clone()[1..]).is_err());
        }
    }
}

#[test]
fn results_do_not_depend_on_how_many_tokens_go_together() {
    let pool = pool();
    let mut fixed = 0;
    for case in cases() {
        let group = case.n_heads / case.layout.n_kv_heads();
        let case = case.coded().unwrap_or(case);
        for (kernels, precision) in tables().into_iter().flat_map(|k| [(k, Precision::Fast), (k, Precision::Exact)]) {
            if case.tokens == 1 || !case.causal {
                continue;
            }
            fixed += usize::from(attention_unit(kernels, precision, &case.layout, group) == Unit::Int16);
            let all = case.run(kernels, precision, &pool);
            let width = case.n_heads * case.layout.head_dim();
            for n in [1, 2, 5] {
                for from in (0..case.tokens).step_by(n) {
                    let tokens = n.min(case.tokens - from);
                    let part = from * width..(from + tokens) * width;
                    let (pos0, q) = (case.pos0 + from, case.q[part.clone()].to_vec());
                    let one = Case { pos0, tokens, len: pos0 + tokens, q, ..case.clone() };
                    let got = one.run(kernels, precision, &pool);
                    let name = kernels.name();
                    assert_eq!(got, all[part], "{name} {precision:?}: {n} of {} tokens at {pos0}", case.tokens);
                }
            }
        }
    }
    assert!(fixed > 0, "no case is computed in fixed point");
}

#[test]
fn what_is_no_number_shows_in_its_own_head_only() {
    let pool = pool();
    for kernels in tables() {
        for (in_keys, value) in [(true, f32::NAN), (true, f32::INFINITY), (false, f32::NEG_INFINITY), (false, f32::NAN)]
        {
            let mut case = Case::new((GgmlType::F16, GgmlType::F16), (16, 2), 32, 70, 1, true);
            let width = 2 * 32;
            let mut row = [vec![0.5f32; width], vec![0.25; width]];
            row[usize::from(!in_keys)][3] = value;
            let [keys, values] = &row;
            let row = [KvSegment::alone(66, 1, case.table.len())];
            KvBatchMut::new(case.layout, &mut case.k, &mut case.v, &case.table, &row)
                .and_then(|mut batch| batch.store(&pool, Kernels::scalar(), keys, values))
                .expect("half precision has values that are no numbers");
            let coded = case.coded().expect("enough heads");
            for (case, precision) in [
                (&case, Precision::Exact),
                (&case, Precision::Fast),
                (&coded, Precision::Exact),
                (&coded, Precision::Fast),
            ] {
                let got = case.run(kernels, precision, &pool);
                let (first, second) = got.split_at(8 * 32);
                let name = kernels.name();
                let bad = first.iter().filter(|v| !v.is_finite()).count();
                assert!(bad >= 8, "{name} {precision:?}: {value} in keys: {in_keys}, {bad} results show it");
                assert!(second.iter().all(|v| v.is_finite()), "{name} {precision:?}: {value}, in keys: {in_keys}");
            }
        }
        let mut case = Case::new((GgmlType::F16, GgmlType::F16), (16, 2), 32, 70, 1, true);
        case.q[32 + 3] = f32::NAN;
        for precision in [Precision::Exact, Precision::Fast] {
            let got = case.run(kernels, precision, &pool);
            for (head, row) in got.chunks(32).enumerate() {
                assert!(row.iter().all(|v| v.is_nan() == (head == 1)), "{} {precision:?}: head {head}", kernels.name());
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for case in cases() {
        for kernels in tables() {
            for precision in [Precision::Exact, Precision::Fast] {
                let run = |threads| case.run(kernels, precision, &Pool::new(threads));
                assert_eq!(run(1), run(3), "{} {precision:?}", kernels.name());
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let case = Case::new((GgmlType::F16, GgmlType::F16), (4, 2), 32, 10, 2, true);
    let (pool, kernels) = (pool(), Kernels::scalar());
    let mut out = vec![0.0; case.q.len()];
    let mut scratch = AttnScratch::with_capacity(4, 32, 64, 2);
    let shape = AttnShape { n_heads: 4, scale: 1.0, causal: true, precision: Precision::Fast };
    let mut run = |shape, rows, q: &[f32], out: &mut [f32]| {
        let segments = [KvSegment::alone(10, rows, case.table.len())];
        let batch = KvBatch::new(case.layout, &case.k, &case.v, &case.table, &segments).expect("covered");
        attention(&pool, kernels, &mut scratch, shape, q, &batch, out)
    };
    assert!(run(shape, 3, &case.q, &mut out).is_err(), "more rows than queries");
    assert!(run(shape, 2, &case.q, &mut out[1..]).is_err());
    assert!(run(shape, 2, &case.q[1..], &mut out).is_err());
    assert!(run(AttnShape { n_heads: 3, ..shape }, 2, &case.q, &mut out).is_err());
    assert!(run(AttnShape { n_heads: 0, ..shape }, 2, &case.q, &mut out).is_err());
    run(shape, 2, &case.q, &mut out).expect("fits");
}
