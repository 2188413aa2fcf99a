//! Which rows go through the model next.
//!
//! A step is one forward pass over rows of several conversations:
//!
//! ```text
//! queue, by arrival      step
//! ┌ answering  ────────> its last token                                     ┐
//! ├ answering  ────────> its last token                                     ├ up to n_ubatch rows,
//! ├ reading    ────────> a piece of its prompt, as long as the pause allows ┘ one forward pass
//! ├ waiting      begins when a place and blocks are free
//! └ waiting
//! ```
//!
//! While answers are under way, nobody shall wait for a token much longer than the *pause*: the piece of a prompt in a step is
//! cut to what the measured rates make of it. With nobody waiting, it is as long as a pass can be. What a conversation's
//! logits are does not depend on any of this.
//!
//! Jobs ([`Job`]: a picture to be encoded) have what a pass leaves of the pause, and at least one piece of work a step. Prompts
//! leave them half of the time that answers do not need.
//!
//! When the pool of keys and values is full, the youngest generation is set back: it waits again, its blocks stay findable
//! as long as they can, and what is lost is computed again. Late, never wrong.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ocelli_kernels::KernelError;
use ocelli_runtime::{Batch, Context, RuntimeError};

use crate::generation::{Answer, Choice, Ended, Generation, Stop};
use crate::job::Job;

/// How steps are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Generations under way together, at most; the others wait. At most what the context was made for.
    pub n_parallel: usize,
    /// How long a step may take while answers are under way, by the rates measured so far.
    pub pause: Duration,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { n_parallel: 1, pause: Duration::from_millis(250) }
    }
}

/// Rows of a prompt that go into a step before any rate is known.
const FIRST_PIECE: usize = 32;

/// Rows of a prompt in a step, at least: fewer would cost the newcomer more than they save the others.
const SHORTEST_PIECE: usize = 16;

/// Share of a new measurement in a rate.
const NEWEST: f64 = 0.3;

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Rows of prompts.
    pub prompt_rows: usize,
    /// Rows of answers.
    pub answer_rows: usize,
    /// Generations that ended; take them with [`Queue::take_ended`].
    pub ended: usize,
    /// Pieces of jobs.
    pub job_steps: usize,
}

impl Step {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// Generations and jobs in order of arrival.
#[derive(Debug)]
pub struct Queue<A> {
    waiting: VecDeque<Generation<A>>,
    /// By arrival, too: the last is the youngest.
    running: Vec<Generation<A>>,
    ended: VecDeque<(Generation<A>, Result<Ended, RuntimeError>)>,
    jobs: VecDeque<Box<dyn Job>>,
}

impl<A> Default for Queue<A> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), running: Vec::new(), ended: VecDeque::new(), jobs: VecDeque::new() }
    }
}

impl<A: Answer> Queue<A> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a generation to the end.
    pub fn push(&mut self, generation: Generation<A>) {
        self.waiting.push_back(generation);
    }

    /// Adds a job behind the other jobs.
    pub fn push_job(&mut self, job: Box<dyn Job>) {
        self.jobs.push_back(job);
    }

    /// Generations that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.jobs.is_empty()
    }

    /// Jobs that have not ended.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Generations under way.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The generation that ended longest ago, and how.
    pub fn take_ended(&mut self) -> Option<(Generation<A>, Result<Ended, RuntimeError>)> {
        self.ended.pop_front()
    }

    /// Ends every generation and every job as interrupted.
    pub fn interrupt_all(&mut self) {
        while let Some(generation) = self.running.pop().or_else(|| self.waiting.pop_back()) {
            self.end(generation, Ok(Stop::Interrupted));
        }
        self.jobs.drain(..).for_each(|job| job.end(Err(RuntimeError::Interrupted)));
    }

    /// Takes the blocks of those that have ended but have not been taken yet; whether there were any. What they hold is
    /// found again as long as nobody needs the room.
    fn release_ended(&mut self) -> bool {
        let sequences = self.ended.iter_mut().filter_map(|(generation, _)| generation.seq.take());
        sequences.fold(false, |_, _| true)
    }

    fn end(&mut self, generation: Generation<A>, how: Result<Stop, RuntimeError>) {
        let how = how.map(|stop| generation.ended(stop));
        self.ended.push_back((generation, how));
    }
}

/// Seconds of a pass with answers only, of a row of a prompt, and of a piece of a job, as measured.
#[derive(Debug, Clone, Copy, Default)]
struct Rates {
    answers: Option<f64>,
    prompt_row: Option<f64>,
    job_step: Option<f64>,
}

/// A rate after a new measurement.
fn mix(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + NEWEST * (new - old))
}

impl Rates {
    fn learn(&mut self, step: &Step, took: f64) {
        if step.prompt_rows == 0 {
            self.answers = Some(mix(self.answers, took));
        } else if step.prompt_rows >= SHORTEST_PIECE {
            let answers = if step.answer_rows > 0 { self.answers.unwrap_or(0.0) } else { 0.0 };
            let rest = (took - answers).max(took / 4.0);
            self.prompt_row = Some(mix(self.prompt_row, rest / step.prompt_rows as f64));
        }
    }

    /// Rows of a prompt that fit into a step of `pause` beside answers, and beside a job.
    fn rows(&self, pause: Duration, job: bool) -> usize {
        let Some(row) = self.prompt_row else { return FIRST_PIECE };
        let left = pause.as_secs_f64() - self.answers.unwrap_or(0.0);
        let job = if job { (left / 2.0).max(self.job_step.unwrap_or(0.0)) } else { 0.0 };
        (((left - job) / row) as usize).max(SHORTEST_PIECE)
    }
}

/// A part of a step: rows of one running generation.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Its index among those running.
    index: usize,
    first_row: usize,
    rows: usize,
    /// Whether its logits were asked for, and which row of them is its own.
    logits: Option<usize>,
    is_prompt: bool,
}

/// What became of rows for the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Added {
    /// They are in it.
    Rows,
    /// There is no room in this step.
    NotNow,
    /// Their generation is not running any more.
    Gone,
}

/// One context, and the policy by which generations share it.
#[derive(Debug)]
pub struct Scheduler {
    context: Context,
    options: SchedulerOptions,
    batch: Batch,
    parts: Vec<Part>,
    rates: Rates,
}

impl Scheduler {
    /// For generations in `context`.
    #[must_use]
    pub fn new(context: Context, options: SchedulerOptions) -> Self {
        let options = SchedulerOptions { n_parallel: options.n_parallel.clamp(1, context.n_parallel()), ..options };
        let n_blocks = context.n_ctx().div_ceil(ocelli_runtime::kv::BLOCK_LEN);
        Self {
            batch: Batch::with_capacity(context.n_ubatch(), n_blocks.saturating_mul(options.n_parallel)),
            parts: Vec::with_capacity(options.n_parallel),
            rates: Rates::default(),
            context,
            options,
        }
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Generations under way together, at most.
    #[must_use]
    pub fn n_parallel(&self) -> usize {
        self.options.n_parallel
    }

    /// The context, to be used between steps.
    pub fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    /// Computes one step for the generations of `queue`, and pieces of its jobs. Generations that end, with or without an
    /// error, are in [`Queue::take_ended`] afterwards.
    pub fn step<A: Answer>(&mut self, queue: &mut Queue<A>) -> Step {
        let started = Instant::now();
        let mut step = Step::default();
        let before = queue.ended.len();
        drop_cancelled(queue);
        self.batch.clear();
        self.parts.clear();
        self.answer_rows(queue, &mut step);
        self.prompt_rows(queue, &mut step);
        if !self.parts.is_empty() {
            let running = &queue.running;
            let parts = &self.parts;
            let nobody = || parts.iter().all(|part| running[part.index].answer.is_cancelled());
            let done = self.context.forward(&self.batch, &nobody);
            let complete = done.is_ok();
            self.finish(queue, done);
            // A pass that ended early would make the next ones too long.
            if complete {
                self.rates.learn(&step, started.elapsed().as_secs_f64());
            }
        }
        self.job_steps(queue, &mut step, started);
        step.ended = queue.ended.len() - before;
        step
    }

    /// The last tokens of all answers under way, into the batch.
    fn answer_rows<A: Answer>(&mut self, queue: &mut Queue<A>, step: &mut Step) {
        let mut index = 0;
        while index < queue.running.len() && self.batch.len() < self.context.n_ubatch() {
            // Others may have been set back, but only younger ones.
            match queue.running[index].is_answering().then(|| self.add(queue, index, 1, false)) {
                Some(Added::Rows) => {
                    step.answer_rows += 1;
                    index += 1;
                }
                Some(Added::Gone) => {}
                Some(Added::NotNow) | None => index += 1,
            }
        }
    }

    /// Pieces of prompts, the oldest first, behind the answers in the batch.
    fn prompt_rows<A: Answer>(&mut self, queue: &mut Queue<A>, step: &mut Step) {
        let room = self.context.n_ubatch() - self.batch.len();
        let mut left =
            if step.answer_rows > 0 { self.rates.rows(self.options.pause, queue.jobs() > 0).min(room) } else { room };
        let mut index = 0;
        while left > 0 {
            while index < queue.running.len() && self.parts.iter().any(|part| part.index == index) {
                index += 1;
            }
            if index >= queue.running.len() && !self.admit(queue) {
                return;
            }
            let Some(generation) = queue.running.get(index) else { return };
            let done = generation.seq.as_ref().map_or(0, |seq| seq.len());
            let rows = (generation.whole.len() - done).min(left);
            match self.add(queue, index, rows, true) {
                Added::Rows => {}
                Added::Gone => continue,
                Added::NotNow => return,
            }
            step.prompt_rows += rows;
            left -= rows;
            index += 1;
        }
    }

    /// Pieces of the oldest jobs: what is left of the pause where answers are under way, and where none are as long as the
    /// pass took, or a pause, so that whoever comes next need not wait for a whole job.
    fn job_steps<A: Answer>(&mut self, queue: &mut Queue<A>, step: &mut Step, started: Instant) {
        let pass = started.elapsed();
        // Not those of the pass: a prompt may have been read in it, whose answer goes on now.
        let alone = !queue.running.iter().any(Generation::is_answering);
        let until = if alone { pass + pass.max(self.options.pause) } else { self.options.pause };
        while let Some(job) = queue.jobs.front_mut() {
            let before = started.elapsed();
            let expected = self.rates.job_step.unwrap_or(0.0);
            if step.job_steps > 0 && before.as_secs_f64() + expected > until.as_secs_f64() {
                return;
            }
            let how = if job.is_cancelled() {
                Err(RuntimeError::Interrupted)
            } else {
                let done = job.step(alone);
                step.job_steps += 1;
                self.rates.job_step = Some(mix(self.rates.job_step, (started.elapsed() - before).as_secs_f64()));
                match done {
                    Ok(false) => continue,
                    Ok(true) => Ok(()),
                    Err(error) => Err(error),
                }
            };
            if let Some(job) = queue.jobs.pop_front() {
                job.end(how);
            }
        }
    }

    /// Lets the oldest generation that waits begin, if there is a place and there are blocks for its prompt.
    fn admit<A: Answer>(&mut self, queue: &mut Queue<A>) -> bool {
        while let Some(generation) = queue.waiting.front() {
            let alone = queue.running.is_empty();
            let n_ctx = self.context.n_ctx();
            let refused = match generation.whole.len() {
                0 => Some(RuntimeError::EmptyPrompt),
                wanted if wanted > n_ctx => Some(RuntimeError::ContextFull { wanted, n_ctx }),
                _ => None,
            };
            if let Some(error) = refused {
                if let Some(generation) = queue.waiting.pop_front() {
                    queue.end(generation, Err(error));
                }
                continue;
            }
            if queue.running.len() >= self.options.n_parallel {
                return false;
            }
            // One more for each of those under way, so that it is not set back at once.
            let blocks = self.context.kv().blocks_to_begin(generation.whole.view()) + queue.running.len();
            if !alone && blocks > self.context.kv().n_available_blocks() {
                if queue.release_ended() {
                    continue;
                }
                return false;
            }
            let Some(mut generation) = queue.waiting.pop_front() else { return false };
            let seq = self.context.find_sequence(&generation.whole);
            generation.started.get_or_insert_with(Instant::now);
            let known = seq.len();
            if generation.reused.is_none() {
                generation.reused = Some(known.min(generation.n_prompt));
                // Room for the whole answer now, so that later steps allocate nothing.
                generation.whole.reserve(generation.n_predict.min(n_ctx - generation.whole.len()));
            }
            generation.goal = generation.whole.len();
            generation.answer.prompt(known.min(generation.n_prompt), generation.n_prompt, known);
            generation.seq = Some(seq);
            queue.running.push(generation);
            return true;
        }
        false
    }

    /// Adds the next `rows` of running generation `index` to the batch, setting younger ones back if there is no room.
    fn add<A: Answer>(&mut self, queue: &mut Queue<A>, index: usize, rows: usize, is_prompt: bool) -> Added {
        loop {
            let generation = &mut queue.running[index];
            let Some(seq) = &mut generation.seq else { return Added::NotNow };
            let at = seq.len();
            let last = at + rows == generation.whole.len();
            let piece = generation.whole.view().part(at..at + rows);
            let wanted = if last { rows - 1 } else { rows };
            let logits = last.then(|| self.batch.n_wanted());
            let first_row = self.batch.len();
            match self.context.append(&mut self.batch, seq, piece, wanted) {
                Ok(()) => {
                    self.parts.push(Part { index, first_row, rows, logits, is_prompt });
                    return Added::Rows;
                }
                Err(RuntimeError::PoolFull { .. }) if queue.release_ended() => {}
                Err(RuntimeError::PoolFull { .. }) if queue.running.len() > 1 => {
                    let youngest = queue.running.len() - 1;
                    // Its rows are in the batch: there is room again in the next step.
                    if self.parts.iter().any(|part| part.index == youngest) {
                        return Added::NotNow;
                    }
                    self.set_back(queue);
                    if youngest == index {
                        return Added::Gone;
                    }
                }
                Err(error) => {
                    let generation = queue.running.remove(index);
                    for part in self.parts.iter_mut().filter(|part| part.index > index) {
                        part.index -= 1;
                    }
                    queue.end(generation, Err(error));
                    return Added::Gone;
                }
            }
        }
    }

    /// Lets the youngest generation wait again.
    fn set_back<A: Answer>(&mut self, queue: &mut Queue<A>) {
        if let Some(mut youngest) = queue.running.pop() {
            youngest.seq = None;
            youngest.set_back += 1;
            queue.waiting.push_front(youngest);
        }
    }

    /// Takes over what a pass has computed, and chooses the next tokens.
    fn finish<A: Answer>(&mut self, queue: &mut Queue<A>, done: Result<(), RuntimeError>) {
        let n_vocab = self.context.model().config().n_vocab;
        let n_ctx = self.context.n_ctx();
        // From the last to the first: ended ones are taken out.
        self.parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.index));
        // A row whose keys or values are no numbers is the fault of one; the others have the step again.
        let guilty = match &done {
            Err(RuntimeError::Kernel(KernelError::StoreRow { row, .. })) => Some(*row),
            _ => None,
        };
        for part in &self.parts {
            let generation = &mut queue.running[part.index];
            let Some(seq) = &mut generation.seq else { continue };
            let innocent = guilty.is_some_and(|row| !(part.first_row..part.first_row + part.rows).contains(&row));
            let how = match &done {
                Err(error) if innocent || matches!(error, RuntimeError::Interrupted) => {
                    seq.revert();
                    continue;
                }
                Err(error) => {
                    seq.revert();
                    Some(Err(RuntimeError::Pass { problem: error.to_string() }))
                }
                Ok(()) => {
                    seq.commit();
                    let len = seq.len();
                    if part.is_prompt {
                        generation.evaluated += part.rows;
                        let (reused, n_prompt) = (generation.reused.unwrap_or(0), generation.n_prompt);
                        generation.answer.prompt(len.min(n_prompt), n_prompt, reused);
                    }
                    let logits = part.logits.and_then(|row| self.context.logits_of(row));
                    logits.and_then(|logits| choose(generation, logits, len, n_ctx, n_vocab))
                }
            };
            if let Some(how) = how {
                let generation = queue.running.remove(part.index);
                queue.end(generation, how);
            }
        }
        drop_cancelled(queue);
    }
}

/// The next token of `generation`, whose `len` positions are computed; `Some` when it has ended.
fn choose<A: Answer>(
    generation: &mut Generation<A>,
    logits: &[f32],
    len: usize,
    n_ctx: usize,
    n_vocab: usize,
) -> Option<Result<Stop, RuntimeError>> {
    generation.read.get_or_insert_with(Instant::now);
    if generation.tokens().len() >= generation.n_predict {
        return Some(Ok(Stop::Length));
    }
    let id = match generation.answer.choose(logits) {
        Ok(Choice::Token(id)) => id,
        Ok(Choice::End) => return Some(Ok(Stop::EndOfGeneration)),
        Err(error) => return Some(Err(error)),
    };
    if len == n_ctx {
        return Some(Ok(Stop::ContextFull));
    }
    if id as usize >= n_vocab {
        return Some(Err(RuntimeError::Token { id, n_vocab }));
    }
    generation.whole.push(&[id]);
    if generation.answer.token(id) == Choice::End {
        return Some(Ok(Stop::EndOfGeneration));
    }
    // What would follow the last token is not computed: nobody may ever want it.
    (generation.tokens().len() >= generation.n_predict).then_some(Ok(Stop::Length))
}

fn drop_cancelled<A: Answer>(queue: &mut Queue<A>) {
    for index in (0..queue.jobs.len()).rev() {
        if queue.jobs[index].is_cancelled()
            && let Some(job) = queue.jobs.remove(index)
        {
            job.end(Err(RuntimeError::Interrupted));
        }
    }
    for index in (0..queue.running.len()).rev() {
        if queue.running[index].answer.is_cancelled() {
            let generation = queue.running.remove(index);
            queue.end(generation, Ok(Stop::Interrupted));
        }
    }
    for index in (0..queue.waiting.len()).rev() {
        if queue.waiting[index].answer.is_cancelled()
            && let Some(generation) = queue.waiting.remove(index)
        {
            queue.end(generation, Ok(Stop::Interrupted));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_leave_jobs_half_of_what_answers_do_not_need() {
        let pause = Duration::from_millis(200);
        let rates = Rates { answers: Some(0.1), prompt_row: Some(0.001), job_step: Some(0.01) };
        assert_eq!((rates.rows(pause, false), rates.rows(pause, true)), (100, 50));
        // Room for one piece, if that is longer.
        let rates = Rates { job_step: Some(0.07), ..rates };
        assert_eq!(rates.rows(pause, true), 30);
        // None is left.
        let rates = Rates { job_step: Some(1.0), ..rates };
        assert_eq!(rates.rows(pause, true), SHORTEST_PIECE);
        assert_eq!(Rates::default().rows(pause, true), FIRST_PIECE);
    }
}
