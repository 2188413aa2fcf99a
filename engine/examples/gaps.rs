//! How long answers under way pause while somebody else's prompt is read.
//!
//! ```text
//! gaps MODEL.gguf [ANSWERS [PROMPT_TOKENS [PAUSE_MS]]]
//! ```
//!
//! Prints percentiles of the times between two tokens of an answer, before and while the prompt is read, and the prompt's
//! own time beside that on an idle engine.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ocelli_engine::{Answer, Choice, Generation, Queue, Scheduler, SchedulerOptions};
use ocelli_runtime::{Context, ContextOptions, Exec, Kernels, LoadOptions, Model, RuntimeError};

/// Always says the same, and notes when.
struct Timed(Arc<Mutex<Vec<Instant>>>);

impl Answer for Timed {
    fn choose(&mut self, _: &[f32]) -> Result<Choice, RuntimeError> {
        Ok(Choice::Token(5))
    }

    fn token(&mut self, id: u32) -> Choice {
        self.0.lock().map(|mut times| times.push(Instant::now())).ok();
        Choice::Token(id)
    }
}

fn percentiles(times: &[Instant], from: Instant, to: Instant) -> String {
    let inside: Vec<_> = times.iter().filter(|t| (from..=to).contains(t)).collect();
    let mut gaps: Vec<Duration> = inside.windows(2).map(|pair| *pair[1] - *pair[0]).collect();
    gaps.sort();
    let at = |share: f64| gaps.get(((gaps.len() as f64 * share) as usize).min(gaps.len().saturating_sub(1)));
    let ms = |gap: Option<&Duration>| gap.map_or("-".to_owned(), |gap| format!("{:.0}", gap.as_secs_f64() * 1e3));
    format!("{} gaps: 50 % {} ms, 95 % {} ms, longest {} ms", gaps.len(), ms(at(0.5)), ms(at(0.95)), ms(at(1.0)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("give a model file")?);
    let mut number = |default: usize| args.next().map_or(Ok(default), |text| text.parse());
    let (answers, prompt_tokens, pause) = (number(2)?, number(2000)?, number(200)?);
    let (model, ()) = Model::load(&path, &LoadOptions::default(), |_| Ok(()))?;
    let n_ctx = prompt_tokens + 1024;
    let options = ContextOptions {
        n_ctx,
        n_positions: n_ctx * (answers + 1),
        n_parallel: answers + 1,
        ..ContextOptions::default()
    };
    let exec = Arc::new(Exec::for_context(Kernels::best(), &options));
    let context = Context::new(Arc::new(model), exec, &options)?;
    let schedule = SchedulerOptions { n_parallel: answers + 1, pause: Duration::from_millis(pause as u64) };
    let mut scheduler = Scheduler::new(context, schedule);
    let prompt =
        |seed: u32, n: usize| (0..n as u32).map(|i| 10 + (i * 7 + seed * 13) % 1000).collect::<Vec<_>>().into();
    let times = || Arc::new(Mutex::new(Vec::with_capacity(4096)));

    let alone = Instant::now();
    let mut queue = Queue::new();
    queue.push(Generation::new(&prompt(1, prompt_tokens), 1, Timed(times())));
    while queue.take_ended().is_none() {
        scheduler.step(&mut queue);
    }
    let alone = alone.elapsed();

    let told: Vec<_> = (0..answers).map(|_| times()).collect();
    for (i, times) in told.iter().enumerate() {
        queue.push(Generation::new(&prompt(100 + i as u32, 32), 1000, Timed(Arc::clone(times))));
    }
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(6) {
        scheduler.step(&mut queue);
    }
    let arrival = Instant::now();
    queue.push(Generation::new(&prompt(2, prompt_tokens), 1, Timed(times())));
    while queue.take_ended().is_none() {
        scheduler.step(&mut queue);
    }
    let (end, mut out) = (Instant::now(), std::io::stdout().lock());
    for (i, times) in told.iter().enumerate() {
        let times = times.lock().map_err(|_| "a panic")?.clone();
        writeln!(out, "answer {i} undisturbed, {}", percentiles(&times, begin, arrival))?;
        writeln!(out, "answer {i} beside the prompt, {}", percentiles(&times, arrival, end))?;
    }
    let beside = end - arrival;
    writeln!(
        out,
        "prompt of {prompt_tokens}: {:.2} s alone, {:.2} s beside {answers} answers ({:+.0} %)",
        alone.as_secs_f64(),
        beside.as_secs_f64(),
        (beside.as_secs_f64() / alone.as_secs_f64() - 1.0) * 100.0
    )?;
    Ok(())
}
