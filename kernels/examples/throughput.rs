//! Speed of products, per format: generation in GB/s of weights, prompts in G multiply-adds per second.
//!
//! `cargo run --release -p ocelli-kernels --example throughput -- [rows] [cols] [tokens] [threads]`; `OCELLI_ISA`
//! chooses the table. With one thread the clock is that thread's CPU time. Every figure is the median of several runs, checked against the scalar table.

use ocelli_kernels::{ActBuf, ActNeeds, Kernels, Pool, Precision, WeightRef, matmul};
use ocelli_quant::GgmlType;

/// Seconds since some start: of this thread's CPU time (for machines that others keep busy), or of the clock.
fn seconds(threads: usize) -> f64 {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(if threads == 1 { ClockId::ThreadCPUTime } else { ClockId::Monotonic });
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let arg = |i: usize, default: usize| args.get(i).copied().unwrap_or(default);
    let (rows, cols, tokens, threads) = (arg(0, 10240), arg(1, 2560), arg(2, 512), arg(3, 2));
    let kernels = match Kernels::select(None) {
        Ok(kernels) => kernels,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let pool = Pool::new(threads);
    println!("isa {}, {rows} × {cols}, {threads} threads, {tokens} tokens", kernels.name());
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let row: Vec<f32> = (0..cols).map(|_| random()).collect();
    let x: Vec<f32> = (0..tokens.max(1) * cols).map(|_| random()).collect();
    for ty in GgmlType::ALL {
        let mut one = vec![0; ty.row_bytes(cols).expect("columns divide into blocks")];
        ty.quantize_row(&row, None, &mut one).expect("finite");
        // Enough copies that generation reads memory, not cache.
        let copies = (64 << 20) / (one.len() * rows) + 1;
        let weights: Vec<Vec<u8>> = (0..copies).map(|_| one.repeat(rows)).collect();
        let run = |precision: Precision, tokens: usize, reps: usize| {
            let mut act = ActBuf::new();
            act.fill(&pool, kernels, &x[..tokens * cols], tokens, cols, ActNeeds::new(precision, [*ty])).expect("fits");
            let mut out = vec![f32::NAN; tokens * rows];
            let times = (0..reps)
                .map(|i| {
                    let w = WeightRef::new(*ty, &weights[i % copies], rows, cols).expect("fits");
                    let start = seconds(threads);
                    matmul(&pool, kernels, &w, &act, &mut out).expect("fits");
                    seconds(threads) - start
                })
                .collect();
            let mut want = vec![0f32; 1];
            let w = WeightRef::new(*ty, &one, 1, cols).expect("fits");
            act.fill(&pool, Kernels::scalar(), &x[..cols], 1, cols, ActNeeds::new(precision, [*ty])).expect("fits");
            matmul(&pool, Kernels::scalar(), &w, &act, &mut want).expect("fits");
            assert!((out[0] - want[0]).abs() < 1e-3 * (cols as f32).sqrt(), "{ty}: {} is not {}", out[0], want[0]);
            median(times)
        };
        let one_token = run(Precision::Fast, 1, copies.max(15));
        let bytes = (rows * one.len()) as f64;
        let macs = (rows * cols) as f64;
        print!("{:8} 1 token {:6.2} GB/s", ty.name(), bytes / one_token / 1e9);
        for n in [2, 4, 8, 32].into_iter().filter(|n| *n < tokens).chain([tokens]) {
            print!("  {n}: {:6.1}", macs * n as f64 / run(Precision::Fast, n, 5) / 1e9);
        }
        println!("  exact {tokens}: {:6.1} Gmac/s", macs * tokens as f64 / run(Precision::Exact, tokens, 3) / 1e9);
    }
}
