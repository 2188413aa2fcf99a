use std::time::Duration;

use ocelli_quant::GgmlType;

use super::*;
use crate::{Kernels, Pool};

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

#[test]
fn statistics_of_a_sample() {
    let samples = Samples::new(vec![2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
    assert!(close(samples.mean(), 5.0));
    assert!(close(samples.stddev(), (32.0f64 / 7.0).sqrt()), "divided by n − 1");
    assert!(close(samples.median(), 4.5));
    assert!(close(Samples::new(vec![3.0, 1.0, 2.0]).median(), 2.0));
    let one = Samples::new(vec![0.5]);
    assert_eq!((one.mean(), one.stddev(), one.median()), (0.5, 0.0, 0.5));
    assert_eq!(one.rates(10.0).seconds(), [20.0]);
    let none = Samples::default();
    assert_eq!((none.mean(), none.stddev(), none.median()), (0.0, 0.0, 0.0));
}

/// 100 Gop/s of bytes, 10 of f32, 20 GB/s.
fn limits() -> Limits {
    let peak = |unit, ops| Peak { unit, instructions: "", ops };
    Limits { isa: "test", threads: 1, peaks: vec![peak(Unit::Int8, 1e11), peak(Unit::F32, 1e10)], read: 2e10 }
}

#[test]
fn the_roofline_is_the_limit_met_first() {
    let limits = limits();
    let (seconds, bound) = limits.least(&Work::of(Unit::Int8, 1e11, 1e9));
    assert!(close(seconds, 1.0) && bound == Bound::Compute(Unit::Int8));
    let (seconds, bound) = limits.least(&Work::of(Unit::Int8, 1e9, 4e10));
    assert!(close(seconds, 2.0) && bound == Bound::Memory);
    let both = Work { f32: 2e10, ..Work::of(Unit::Int8, 1e10, 1e9) };
    let (seconds, bound) = limits.least(&both);
    assert!(close(seconds, 0.1 + 2.0) && bound == Bound::Compute(Unit::F32), "units take turns");
    assert!(close(limits.share(&both, 4.2), 0.5));
    assert!(close(both.intensity(), 30.0));
    let twice = both + both;
    assert_eq!(twice, both * 2.0);
    assert_eq!((bound.name(), Bound::Memory.name()), ("f32", "memory"));
    assert!(limits.peak(Unit::Bf16).is_none());
}

#[test]
fn limits_of_every_table_are_measured() {
    let pool = Pool::new(1);
    let memory = vec![1u64; 1 << 16];
    for kernels in Kernels::available() {
        let limits = Limits::measure(&pool, kernels, &memory);
        assert_eq!((limits.isa, limits.threads), (kernels.name(), 1));
        let fixed = kernels.fixed_point().then_some(Unit::Int16);
        for unit in [Unit::Int8, Unit::F32].into_iter().chain(fixed) {
            let peak = limits.peak(unit).expect("every table multiplies these");
            assert!(peak.ops.is_finite() && peak.ops > 0.0 && !peak.instructions.is_empty(), "{peak:?}");
        }
        assert!(limits.read.is_finite() && limits.read > 0.0);
        let words: Vec<u64> = (1..=1000).collect();
        // SAFETY: the table was detected.
        assert_eq!(unsafe { (kernels.table.read)(&words) }, 500_500);
    }
}

#[test]
fn kernels_are_timed_and_wrong_answers_refused() {
    let pool = Pool::new(1);
    let plan = Plan {
        formats: vec![GgmlType::Q4_K, GgmlType::Q8_0, GgmlType::F16],
        shapes: vec![Shape { name: "a", rows: 40, cols: 256 }, Shape { name: "b", rows: 8, cols: 96 }],
        tokens: vec![1, 17],
        repetitions: 2,
        budget: Duration::from_millis(1),
    };
    for kernels in Kernels::available() {
        let mut seen = Vec::new();
        products(&pool, kernels, &plan, &mut |timed| {
            assert_eq!(timed.times.seconds().len(), 2);
            assert!(timed.times.seconds().iter().all(|s| s.is_finite() && *s > 0.0));
            assert!(close(timed.work.ops(), 2.0 * (timed.rows * timed.cols * timed.tokens) as f64));
            assert_eq!(timed.kernel, if timed.tokens == 1 { "gemv" } else { "gemm" });
            let half = if timed.tokens > 16 && kernels.fixed_point() { Unit::Int16 } else { Unit::F32 };
            assert_eq!(timed.work.unit(), if timed.format == "F16" { half } else { Unit::Int8 });
            seen.push((timed.format, timed.shape, timed.tokens));
            true
        })
        .expect("kernels are right");
        // Rows of 96 are no whole block of Q4_K.
        let want = [
            ("Q4_K", "a", 1),
            ("Q4_K", "a", 17),
            ("Q8_0", "b", 1),
            ("Q8_0", "b", 17),
            ("Q8_0", "a", 1),
            ("Q8_0", "a", 17),
            ("F16", "b", 1),
            ("F16", "b", 17),
            ("F16", "a", 1),
            ("F16", "a", 17),
        ];
        assert_eq!(seen, want);
        let mut n = 0;
        products(&pool, kernels, &plan, &mut |_| {
            n += 1;
            n < 3
        })
        .expect("kernels are right");
        assert_eq!(n, 3, "the caller ends the list");
    }
}

#[test]
fn the_rest_is_timed() {
    let pool = Pool::new(1);
    let plan = Plan {
        formats: vec![GgmlType::F16],
        shapes: Vec::new(),
        tokens: vec![1],
        repetitions: 1,
        budget: Duration::from_millis(1),
    };
    let mut seen = Vec::new();
    others(&pool, Kernels::best(), &plan, &mut |timed| {
        assert!(timed.work.bytes > 0.0 && timed.times.mean() > 0.0, "{timed:?}");
        seen.push(timed.kernel);
        true
    })
    .expect("kernels are right");
    for kernel in ["rmsnorm", "rope", "swiglu", "quantize_act", "attention", "attention_spans", "dequantize_row"] {
        assert!(seen.contains(&kernel), "{kernel}: {seen:?}");
    }
}
