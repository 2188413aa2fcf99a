//! Times many conversations together, as llama-batched-bench does.
//!
//! ```text
//! prompts      B sequences of random tokens, passes of up to n_ubatch rows      T_PP
//! last rows    the last position of every prompt again: answers begin           not timed
//! generation   passes of one row per sequence, logits of each                   T_TG
//! ```
//!
//! All of it runs on the scheduler. Prompts and answers are fixed random tokens, so that the model is timed and no sampler.
//! Answers take their prompts from the prefix cache; where the prompt is shared, it is computed once for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use ocelli_kernels::measure::{Samples, Work};
use ocelli_runtime::bench::{Measured, PassRows, Repeat, pass_work, random_ids};
use ocelli_runtime::kv::BLOCK_LEN;
use ocelli_runtime::{Context, Prompt, RuntimeError};

use crate::{Answer, Choice, Generation, Queue, Scheduler, Stop};

/// Sequences that read a prompt and answer together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchTest {
    /// Tokens of the prompt of each sequence.
    pub n_prompt: usize,
    /// Tokens generated behind it by each sequence.
    pub n_gen: usize,
    /// Sequences.
    pub n_parallel: usize,
    /// Whether all have the same prompt.
    pub shared: bool,
}

impl BatchTest {
    /// `pp128+tg64 ×8`, with `shared` behind it where the prompt is.
    #[must_use]
    pub fn name(&self) -> String {
        let shared = if self.shared { " shared" } else { "" };
        format!("pp{}+tg{} ×{}{shared}", self.n_prompt, self.n_gen, self.n_parallel)
    }

    /// Prompts that are computed.
    fn n_prompts(&self) -> usize {
        if self.shared { 1 } else { self.n_parallel }
    }

    /// Tokens of prompts that count for the rate.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        self.n_prompts().saturating_mul(self.n_prompt)
    }

    /// Tokens generated, by all sequences.
    #[must_use]
    pub fn gen_tokens(&self) -> usize {
        self.n_parallel.saturating_mul(self.n_gen)
    }

    /// Positions computed, a shared prompt counted once.
    #[must_use]
    pub fn n_kv(&self) -> usize {
        self.prompt_tokens().saturating_add(self.gen_tokens())
    }

    /// Positions that a sequence needs room for: one answer token comes before the first timed pass.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_prompt.saturating_add(self.n_gen).saturating_add(2)
    }

    /// Positions that the cache needs room for, so that no sequence has to wait for another: besides its own blocks a sequence
    /// may copy a partly filled one, and the scheduler keeps one back for each when it admits the next.
    #[must_use]
    pub fn n_positions(&self) -> usize {
        let blocks = self.n_ctx().div_ceil(BLOCK_LEN).saturating_add(2);
        blocks.saturating_mul(BLOCK_LEN).saturating_mul(self.n_parallel)
    }
}

/// What a test took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchMeasured {
    /// Computing the prompts.
    pub prompt: Measured,
    /// Generating.
    pub generation: Measured,
    /// Prompt positions computed in the time for prompts, in one repetition.
    pub evaluated: usize,
    /// Prompt positions computed again, untimed, to begin the answers.
    pub evaluated_again: usize,
}

/// A sequence that answers with given tokens, over and over.
struct Fixed {
    tokens: Vec<u32>,
    next: usize,
    /// Counts the sequences that have begun to answer.
    begun: Arc<AtomicUsize>,
    interrupt: Arc<AtomicBool>,
}

impl Answer for Fixed {
    fn choose(&mut self, _logits: &[f32]) -> Result<Choice, RuntimeError> {
        if self.next == 0 {
            self.begun.fetch_add(1, Ordering::Relaxed);
        }
        let token = self.tokens.get(self.next % self.tokens.len().max(1)).copied();
        self.next += 1;
        Ok(token.map_or(Choice::End, Choice::Token))
    }

    fn is_cancelled(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

/// The tokens of a test.
struct Sequences {
    prompts: Vec<Prompt>,
    tokens: Vec<Vec<u32>>,
    begun: Arc<AtomicUsize>,
}

impl Sequences {
    fn new(context: &Context, test: &BatchTest) -> Self {
        let n_vocab = context.model().config().n_vocab.max(1);
        let prompt = |j: usize| {
            let mut ids = random_ids(context, test.n_prompt, 2 + 2 * j as u64);
            // Nothing in common from the start, where there are enough tokens for it. Below the size of a vocabulary.
            ids.iter_mut().take(1).for_each(|id| *id = (j % n_vocab) as u32);
            Prompt::from(ids)
        };
        Self {
            prompts: (0..test.n_prompts()).map(prompt).collect(),
            tokens: (0..test.n_parallel).map(|j| random_ids(context, test.n_gen.max(1), 3 + 2 * j as u64)).collect(),
            begun: Arc::default(),
        }
    }

    /// An answer of sequence `j`.
    fn answer(&self, j: usize, n_predict: usize, context: &Context) -> Option<Generation<Fixed>> {
        let (prompt, tokens) = (self.prompts.get(j % self.prompts.len().max(1))?, self.tokens.get(j)?.clone());
        let answer = Fixed { tokens, next: 0, begun: Arc::clone(&self.begun), interrupt: context.interrupt_flag() };
        Some(Generation::new(prompt, n_predict, answer))
    }

    fn queue(&self, n: usize, n_predict: usize, context: &Context) -> Queue<Fixed> {
        let mut queue = Queue::new();
        (0..n).filter_map(|j| self.answer(j, n_predict, context)).for_each(|generation| queue.push(generation));
        queue
    }

    /// Computes the prompts, and gives how many positions that were.
    fn read(&self, scheduler: &mut Scheduler, queue: &mut Queue<Fixed>) -> Result<usize, RuntimeError> {
        let mut evaluated = 0;
        while !queue.is_empty() {
            scheduler.step(queue);
            while let Some((_, how)) = queue.take_ended() {
                let ended = how?;
                if ended.stop == Stop::Interrupted {
                    return Err(RuntimeError::Interrupted);
                }
                evaluated += ended.prefill.evaluated;
            }
        }
        Ok(evaluated)
    }

    /// Lets all answers begin, and gives how many positions of prompts were computed for it.
    fn begin(&self, scheduler: &mut Scheduler, queue: &mut Queue<Fixed>) -> Result<usize, RuntimeError> {
        self.begun.store(0, Ordering::Relaxed);
        let mut evaluated = 0;
        while self.begun.load(Ordering::Relaxed) < self.tokens.len() {
            evaluated += scheduler.step(queue).prompt_rows;
            nobody_ended(queue)?;
        }
        Ok(evaluated)
    }

    /// `n` passes with a row of every sequence.
    fn generate(&self, scheduler: &mut Scheduler, queue: &mut Queue<Fixed>, n: usize) -> Result<(), RuntimeError> {
        for _ in 0..n {
            let step = scheduler.step(queue);
            nobody_ended(queue)?;
            if (step.answer_rows, step.prompt_rows) != (self.tokens.len(), 0) {
                let problem = format!(
                    "a pass had {} rows of answers and {} of prompts, not one row of each of {} sequences",
                    step.answer_rows,
                    step.prompt_rows,
                    self.tokens.len()
                );
                return Err(RuntimeError::Pass { problem });
            }
        }
        Ok(())
    }
}

/// While answers are timed, all of them go on.
fn nobody_ended(queue: &mut Queue<Fixed>) -> Result<(), RuntimeError> {
    match queue.take_ended() {
        None => Ok(()),
        Some((_, Err(error))) => Err(error),
        Some((_, Ok(ended))) if ended.stop == Stop::Interrupted => Err(RuntimeError::Interrupted),
        Some((_, Ok(ended))) => {
            let problem = format!("a sequence ended after {} tokens, before its time", ended.tokens);
            Err(RuntimeError::Pass { problem })
        }
    }
}

/// Times `test`; `pause` is called before each run that counts.
///
/// # Errors
/// When the test does not fit the scheduler's context, or that is interrupted.
pub fn batch(
    scheduler: &mut Scheduler,
    test: &BatchTest,
    repeat: Repeat,
    pause: &mut dyn FnMut(),
) -> Result<BatchMeasured, RuntimeError> {
    let (wanted, n_ctx) = (test.n_ctx(), scheduler.context().n_ctx());
    if wanted > n_ctx {
        return Err(RuntimeError::ContextFull { wanted, n_ctx });
    }
    if test.n_parallel > scheduler.n_parallel() {
        let problem = format!("{} sequences, but {} go together", test.n_parallel, scheduler.n_parallel());
        return Err(RuntimeError::Option { option: "-np/--parallel", problem });
    }
    let sequences = Sequences::new(scheduler.context(), test);
    let (mut measured, mut prompt, mut generation) = (BatchMeasured::default(), Vec::new(), Vec::new());
    for run in 0..repeat.times + usize::from(repeat.warm_up) {
        let counts = run > 0 || !repeat.warm_up;
        scheduler.context().kv().drop_kept();
        if counts {
            pause();
        }
        let mut queue = sequences.queue(test.n_prompts(), 0, scheduler.context());
        scheduler.context().measure_joins(true);
        let started = Instant::now();
        measured.evaluated = sequences.read(scheduler, &mut queue)?;
        let prompt_time = started.elapsed().as_secs_f64();
        let prompt_joins = scheduler.context().join_times();

        let mut queue = sequences.queue(test.n_parallel, usize::MAX, scheduler.context());
        measured.evaluated_again = sequences.begin(scheduler, &mut queue)?;
        scheduler.context().measure_joins(true);
        let started = Instant::now();
        sequences.generate(scheduler, &mut queue, test.n_gen)?;
        let generation_time = started.elapsed().as_secs_f64();
        let generation_joins = scheduler.context().join_times();
        scheduler.context().measure_joins(false);
        if counts {
            prompt.push(prompt_time);
            generation.push(generation_time);
            measured.prompt.joins = measured.prompt.joins.and(prompt_joins);
            measured.generation.joins = measured.generation.joins.and(generation_joins);
        }
    }
    measured.prompt.times = Samples::new(prompt);
    measured.generation.times = Samples::new(generation);
    Ok(measured)
}

/// What `test` needs of the machine at least, for its prompts and for its generation: every weight once per pass, every cached
/// key and value once per pass, and those of a shared prompt once for all sequences.
///
/// # Errors
/// When the cache's formats do not fit the heads.
pub fn batch_work(context: &Context, test: &BatchTest) -> Result<(Work, Work), RuntimeError> {
    let (mut prompt, mut generation) = (Work::default(), Work::default());
    let mut pass: Vec<PassRows> = Vec::new();
    let mut room = context.n_ubatch();
    for _ in 0..test.n_prompts() {
        let mut at = 0;
        while at < test.n_prompt {
            let n = room.min(test.n_prompt - at);
            pass.push(PassRows { at, n, wanted: usize::from(at + n == test.n_prompt) });
            (at, room) = (at + n, room - n);
            if room == 0 {
                prompt += pass_work(context, &pass)?;
                pass.clear();
                room = context.n_ubatch();
            }
        }
    }
    if !pass.is_empty() {
        prompt += pass_work(context, &pass)?;
    }
    let per_position = context.kv_shape().bytes_per_position()? as f64;
    for at in test.n_prompt..test.n_prompt.saturating_add(test.n_gen) {
        generation += pass_work(context, &vec![PassRows { at, n: 1, wanted: 1 }; test.n_parallel])?;
        if test.shared {
            generation.bytes -= per_position * (test.n_prompt * (test.n_parallel - 1)) as f64;
        }
    }
    Ok((prompt, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_count_what_llama_batched_bench_counts() {
        let test = BatchTest { n_prompt: 128, n_gen: 64, n_parallel: 8, shared: false };
        assert_eq!((test.name().as_str(), test.n_kv(), test.prompt_tokens()), ("pp128+tg64 ×8", 1536, 1024));
        let shared = BatchTest { shared: true, ..test };
        assert_eq!((shared.name().as_str(), shared.n_kv()), ("pp128+tg64 ×8 shared", 128 + 512));
        assert_eq!((shared.prompt_tokens(), shared.gen_tokens()), (128, 512));
        assert!(test.n_positions() >= test.n_kv() + 2 * 8 && test.n_ctx() > 192);
        let huge = BatchTest { n_prompt: usize::MAX, n_gen: 1, ..test };
        assert_eq!((huge.n_ctx(), huge.n_positions()), (usize::MAX, usize::MAX));
    }
}
