//! Times a model as llama-bench does, and says what the machine would have to do for it at least.
//!
//! *Prompt* (`pp512`): random tokens into an empty or partly filled cache, as many at once as a micro-batch takes.
//! *Generation* (`tg128`): single random tokens, logits each time, nothing is sampled. Before the samples there is one
//! run to warm up; filling the cache to a depth is not timed. For pictures: encoding, and the time from a picture in
//! memory and a question to the first token of the answer.

#[cfg(test)]
mod tests;
mod text;
mod vision;

pub use text::{PassRows, TextTest, pass_work, random_ids, text, text_work};
pub use vision::{Picture, encode, first_token, vision_work};

use std::time::{Duration, Instant};

use ocelli_kernels::measure::Samples;
pub use ocelli_kernels::{JoinTimes, Kernels, Pool, measure};

use crate::RuntimeError;
use crate::memory::Large;

/// Memory to measure the rate of reading with, in large pages where the system gives them: those of mapped models are.
#[derive(Debug)]
pub struct Stretch(Large);

impl Stretch {
    /// `words` numbers, all of them there; `None` without the memory for them.
    #[must_use]
    pub fn new(words: usize) -> Option<Self> {
        let mut stretch = Large::new(words.checked_mul(size_of::<u64>())?)?;
        stretch.fill(1);
        Some(Self(stretch))
    }

    /// The numbers.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        // A mapping begins where a page does; nothing may begin anywhere.
        if self.0.is_empty() { &[] } else { bytemuck::cast_slice(&self.0) }
    }
}

/// How often a test is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// Samples.
    pub times: usize,
    /// Whether one run that does not count comes first.
    pub warm_up: bool,
}

/// Times of a test, and where its threads were meanwhile.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// Seconds of every repetition.
    pub times: Samples,
    /// Jobs of all repetitions together.
    pub joins: JoinTimes,
}

impl Measured {
    /// All repetitions together, in seconds.
    fn wall(&self) -> f64 {
        self.times.seconds().iter().sum()
    }

    /// Time that threads waited in joins per repetition, added up over threads.
    #[must_use]
    pub fn lost(&self) -> Duration {
        let n = u32::try_from(self.times.seconds().len()).unwrap_or(1).max(1);
        self.joins.lost() / n
    }

    /// The share of all threads' time, 0…1, that they waited in joins.
    #[must_use]
    pub fn lost_share(&self) -> f64 {
        let all = self.wall() * self.joins.threads.max(1) as f64;
        if all > 0.0 { self.joins.lost().as_secs_f64() / all } else { 0.0 }
    }

    /// The share of the time, 0…1, in which one thread worked and the others had nothing to do.
    #[must_use]
    pub fn serial_share(&self) -> f64 {
        let wall = self.wall();
        if wall > 0.0 { (1.0 - self.joins.wall.as_secs_f64() / wall).max(0.0) } else { 0.0 }
    }
}

/// Runs `once` as often as `repeat` says; `prepare` comes before each run and is not timed, nor is `pause` before each that
/// counts. `joins` switches the timing of joins and gives what was measured.
fn repeated<S>(
    state: &mut S,
    repeat: Repeat,
    pause: &mut dyn FnMut(),
    prepare: impl Fn(&mut S) -> Result<(), RuntimeError>,
    mut once: impl FnMut(&mut S) -> Result<(), RuntimeError>,
    joins: impl Fn(&S, bool) -> JoinTimes,
) -> Result<Measured, RuntimeError> {
    if repeat.warm_up {
        prepare(state)?;
        once(state)?;
    }
    let mut measured = Measured::default();
    let mut seconds = Vec::with_capacity(repeat.times);
    for _ in 0..repeat.times {
        prepare(state)?;
        pause();
        joins(state, true);
        let started = Instant::now();
        once(state)?;
        seconds.push(started.elapsed().as_secs_f64());
        measured.joins = measured.joins.and(joins(state, false));
    }
    measured.times = Samples::new(seconds);
    Ok(measured)
}

/// The time of day in UTC, as ISO 8601 writes it.
#[must_use]
pub fn utc_now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What the processor calls itself; its architecture where it does not say.
#[must_use]
pub fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned())
}
