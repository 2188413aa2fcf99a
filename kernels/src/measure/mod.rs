//! How fast this machine could be, and how fast the kernels are.
//!
//! [`Limits`] are measured: the multiply instructions of a table on registers alone, and reading memory, with as many
//! threads as the work will have. [`Work`] is what a computation needs of them. Their quotient is the *roofline*: the
//! least time the machine could take, whichever limit it meets first,
//!
//! ```text
//! least = max( Σ operations / peak of their unit,  bytes / read bandwidth )
//! ```
//!
//! and a measured time is reported as a share of it. [`products`] and [`others`] time single kernels at the shapes of a
//! model.

mod limits;
mod other;
mod product;
mod samples;
#[cfg(test)]
mod tests;

pub use limits::{Bound, Limits, Peak, Unit, Work, reading_rate};
pub use other::others;
pub use product::{SHAPES, Shape, products};
pub use samples::Samples;

use std::time::{Duration, Instant};

/// Which kernels are timed, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Storage formats.
    pub formats: Vec<ocelli_quant::GgmlType>,
    /// Shapes of weights.
    pub shapes: Vec<Shape>,
    /// Tokens multiplied together.
    pub tokens: Vec<usize>,
    /// Samples of each.
    pub repetitions: usize,
    /// Time that one run may take, about: larger work is timed on fewer rows, and the row says how many.
    pub budget: Duration,
}

impl Plan {
    /// Memory that [`products`] takes at most, and [`others`] where they are timed, too; `None` beyond 64 bits.
    #[must_use]
    pub fn memory(&self, others: bool) -> Option<u64> {
        let others = if others { other::memory(self)? } else { 0 };
        Some(product::memory(self)?.max(others))
    }
}

/// One kernel that was timed.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// Its name: `gemv`, `gemm`, `attention` …
    pub kernel: &'static str,
    /// Storage format of what it reads, or of what it makes.
    pub format: &'static str,
    /// Which matrix or layer of the model has this shape.
    pub shape: &'static str,
    /// Rows computed: fewer than the shape has, or queries fewer than the tokens, where all would take too long.
    pub rows: usize,
    /// Values per row.
    pub cols: usize,
    /// Tokens; for attention those that ask.
    pub tokens: usize,
    /// What one run needs of the machine.
    pub work: Work,
    /// Whether what it reads stays in a cache from run to run, so that memory is no limit.
    pub cached: bool,
    /// Times of one run.
    pub times: Samples,
}

/// Is given every kernel that was timed; `false` ends the list.
pub type EachTimed<'e> = dyn FnMut(Timed) -> bool + 'e;

/// Shortest sample: a clock read costs some tens of nanoseconds.
const SAMPLE: Duration = Duration::from_millis(1);

/// Times `run`, which is given the number of the run: one run to warm up, then `repetitions` samples of as many runs as
/// make a millisecond.
fn sample<E>(repetitions: usize, mut run: impl FnMut(usize) -> Result<(), E>) -> Result<Samples, E> {
    let started = Instant::now();
    run(0)?;
    let once = started.elapsed().max(Duration::from_nanos(1));
    let runs = (SAMPLE.as_secs_f64() / once.as_secs_f64()).ceil().clamp(1.0, 1e6) as usize;
    let mut number = 1;
    let mut times = Vec::with_capacity(repetitions);
    for _ in 0..repetitions.max(1) {
        let started = Instant::now();
        for _ in 0..runs {
            run(number)?;
            number += 1;
        }
        times.push(started.elapsed().as_secs_f64() / runs as f64);
    }
    Ok(Samples::new(times))
}

/// Numbers that look random and are spread like those of [`noise`], but bell-shaped, as the activations of models are: how long
/// products take depends on how far those of a group are from the largest of a unit.
pub(crate) fn bell(n: usize, seed: u64) -> Vec<f32> {
    noise(6 * n, seed).as_chunks::<6>().0.iter().map(|six| six.iter().sum::<f32>() / 6f32.sqrt()).collect()
}

/// Numbers that look random, between −1 and 1, the same every time.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
