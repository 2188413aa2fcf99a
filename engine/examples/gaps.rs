//! How long answers under way pause while somebody else's prompt is read, or a picture encoded.
//!
//! ```text
//! gaps MODEL.gguf [ANSWERS [PROMPT_TOKENS [PAUSE_MS]]] [--mmproj FILE [--slices N]]
//! ```
//!
//! Prints percentiles of the times between two tokens of an answer, before and while the prompt is read, and the prompt's
//! own time beside that on an idle engine. With a vision file, the same for a picture of N slices (3) of 448 × 448 pixels
//! of noise; a prompt of 0 tokens leaves the prompt out.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ocelli_engine::{Answer, Choice, EncodeJob, EncodedRows, Generation, Queue, Scheduler, SchedulerOptions};
use ocelli_image::Rgb8;
use ocelli_runtime::vision::{VisionEncoder, VisionModel, VisionOptions};
use ocelli_runtime::{
    Context, ContextOptions, Exec, FileOptions, Kernels, LoadOptions, Model, Precision, RuntimeError,
};

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

/// Who waits beside the answers.
#[derive(Clone, Copy)]
enum Newcomer {
    /// A prompt of so many tokens.
    Prompt(usize),
    /// A picture of so many slices.
    Picture(usize),
}

/// A vision file's encoder, if there is one.
type Encoder = Option<Arc<Mutex<VisionEncoder>>>;

/// A square of noise.
fn noise(seed: usize) -> Result<Rgb8, Box<dyn Error>> {
    let mut state = seed as u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Ok(Rgb8::new(448, 448, (0..448 * 448 * 3).map(|_| byte()).collect())?)
}

fn prompt(seed: u32, n: usize) -> ocelli_runtime::Prompt {
    (0..n as u32).map(|i| 10 + (i * 7 + seed * 13) % 1000).collect::<Vec<_>>().into()
}

fn times() -> Arc<Mutex<Vec<Instant>>> {
    Arc::new(Mutex::new(Vec::with_capacity(4096)))
}

/// Has the newcomer served, beside whatever is in the queue; gives the time it takes.
fn serve(
    scheduler: &mut Scheduler,
    queue: &mut Queue<Timed>,
    encoder: &Encoder,
    newcomer: Newcomer,
    seed: u32,
) -> Result<Duration, Box<dyn Error>> {
    let mut rows: Option<EncodedRows> = None;
    match newcomer {
        Newcomer::Prompt(n) => queue.push(Generation::new(&prompt(seed, n), 1, Timed(times()))),
        Newcomer::Picture(n) => {
            let slices = (0..n).map(|i| noise(seed as usize + i)).collect::<Result<_, _>>()?;
            let (job, waiting) = EncodeJob::new(encoder.as_ref().ok_or("no vision file")?, slices)?;
            queue.push_job(Box::new(job));
            rows = Some(waiting);
        }
    }
    let begin = Instant::now();
    loop {
        scheduler.step(queue);
        match (queue.take_ended(), queue.jobs()) {
            (Some(_), _) if rows.is_some() => return Err("an answer ended too early: ask for fewer slices".into()),
            (Some((_, how)), _) => how.map(drop)?,
            (None, 0) if rows.is_some() => {}
            (None, _) => continue,
        }
        let took = begin.elapsed();
        if let Some(rows) = rows {
            rows.wait()?;
        }
        return Ok(took);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut words, mut mmproj, mut slices) = (Vec::new(), None, 3);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--mmproj" => mmproj = Some(PathBuf::from(args.next().ok_or("--mmproj wants a file")?)),
            "--slices" => slices = args.next().ok_or("--slices wants a number")?.parse()?,
            _ => words.push(arg),
        }
    }
    let path = PathBuf::from(words.first().ok_or("give a model file")?);
    let number = |i: usize, default: usize| words.get(i).map_or(Ok(default), |text| text.parse());
    let (answers, prompt_tokens, pause) = (number(1, 2)?, number(2, 2000)?, number(3, 250)?);
    let (model, ()) = Model::load(&path, &LoadOptions::default(), |_| Ok(()))?;
    let n_ctx = prompt_tokens + 2048;
    let options = ContextOptions {
        n_ctx,
        n_positions: n_ctx * (answers + 1),
        n_parallel: answers + 1,
        ..ContextOptions::default()
    };
    let exec = Arc::new(Exec::for_context(Kernels::best(), &options));
    let encoder: Encoder = match mmproj {
        Some(path) => {
            let vision = Arc::new(VisionModel::load(&path, FileOptions::default())?);
            let options = VisionOptions { precision: Precision::Fast, ..VisionOptions::default() };
            Some(Arc::new(Mutex::new(VisionEncoder::new(vision, Arc::clone(&exec), &options)?)))
        }
        None => None,
    };
    let context = Context::new(Arc::new(model), exec, &options)?;
    let schedule = SchedulerOptions { n_parallel: answers + 1, pause: Duration::from_millis(pause as u64) };
    let mut scheduler = Scheduler::new(context, schedule);

    let mut newcomers = Vec::new();
    newcomers.extend((prompt_tokens > 0).then_some(Newcomer::Prompt(prompt_tokens)));
    newcomers.extend(encoder.is_some().then_some(Newcomer::Picture(slices)));
    let mut alone = Vec::new();
    for newcomer in &newcomers {
        alone.push(serve(&mut scheduler, &mut Queue::new(), &encoder, *newcomer, 1)?);
    }
    let mut queue = Queue::new();
    let told: Vec<_> = (0..answers).map(|_| times()).collect();
    for (i, times) in told.iter().enumerate() {
        queue.push(Generation::new(&prompt(100 + i as u32, 32), 2000, Timed(Arc::clone(times))));
    }
    let mut out = std::io::stdout().lock();
    let mut begin = Instant::now();
    for (newcomer, alone) in newcomers.iter().zip(&alone) {
        // On a slow machine, until there are gaps to speak of.
        let from = told.iter().map(|times| times.lock().map_or(0, |times| times.len())).min().unwrap_or(0);
        while begin.elapsed() < Duration::from_secs(6)
            || told.iter().any(|times| times.lock().is_ok_and(|times| times.len() < from + 10))
        {
            scheduler.step(&mut queue);
        }
        let arrival = Instant::now();
        let beside = serve(&mut scheduler, &mut queue, &encoder, *newcomer, 2)?;
        let what = match newcomer {
            Newcomer::Prompt(n) => format!("prompt of {n}"),
            Newcomer::Picture(n) => format!("picture of {n} slices"),
        };
        for (i, times) in told.iter().enumerate() {
            let times = times.lock().map_err(|_| "a panic")?.clone();
            writeln!(out, "answer {i} undisturbed, {}", percentiles(&times, begin, arrival))?;
            writeln!(out, "answer {i} beside the {what}, {}", percentiles(&times, arrival, arrival + beside))?;
        }
        writeln!(
            out,
            "{what}: {:.2} s alone, {:.2} s beside {answers} answers ({:+.0} %)",
            alone.as_secs_f64(),
            beside.as_secs_f64(),
            (beside.as_secs_f64() / alone.as_secs_f64() - 1.0) * 100.0
        )?;
        begin = Instant::now();
    }
    Ok(())
}
