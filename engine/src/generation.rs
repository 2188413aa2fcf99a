//! One answer under way.

use std::time::{Duration, Instant};

use ocelli_runtime::{Prompt, RuntimeError, Sequence};

use crate::Prefill;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model ended it.
    EndOfGeneration,
    /// As many tokens as were asked for.
    Length,
    /// There is no room for another token.
    ContextFull,
    /// Somebody asked for it.
    Interrupted,
}

/// What comes next in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This token.
    Token(u32),
    /// Nothing: the answer is complete.
    End,
}

/// Whoever wants an answer: chooses its tokens and takes them. Each generation has its own, so one that fails ends that
/// generation and no other.
pub trait Answer {
    /// `done` of `all` positions of the prompt have been computed; `reused` of them were known.
    fn prompt(&mut self, done: usize, all: usize, reused: usize) {
        let _ = (done, all, reused);
    }

    /// Chooses from the logits, one for every token of the vocabulary.
    ///
    /// # Errors
    /// Ends this generation with the error.
    fn choose(&mut self, logits: &[f32]) -> Result<Choice, RuntimeError>;

    /// Takes the token that was chosen, now that there is room for it. [`Choice::End`] completes the answer with it.
    fn token(&mut self, id: u32) -> Choice {
        Choice::Token(id)
    }

    /// Whether nobody wants the answer any more. Asked before every step, and between layers of one where all are asked to
    /// stop.
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl<A: Answer + ?Sized> Answer for &mut A {
    fn prompt(&mut self, done: usize, all: usize, reused: usize) {
        (**self).prompt(done, all, reused);
    }

    fn choose(&mut self, logits: &[f32]) -> Result<Choice, RuntimeError> {
        (**self).choose(logits)
    }

    fn token(&mut self, id: u32) -> Choice {
        (**self).token(id)
    }

    fn is_cancelled(&self) -> bool {
        (**self).is_cancelled()
    }
}

/// How an answer came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Why it ended.
    pub stop: Stop,
    /// How the prompt was taken in.
    pub prefill: Prefill,
    /// From the first step for it until the prompt was computed; waiting before that is not in it.
    pub prompt_time: Duration,
    /// From there to the end.
    pub answer_time: Duration,
    /// Time between arrival and the first step.
    pub waited: Duration,
    /// Tokens of the answer.
    pub tokens: usize,
    /// Tokens computed in `answer_time`: all of the answer but the last, if its length ended it.
    pub answer_evaluated: usize,
    /// Times it was set back, to make room for others.
    pub set_back: usize,
    /// Whether the prompt was computed.
    pub read: bool,
}

/// One answer, from its arrival to its end.
#[derive(Debug)]
pub struct Generation<A> {
    /// The prompt, and behind it the answer so far.
    pub(crate) whole: Prompt,
    pub(crate) n_prompt: usize,
    pub(crate) n_predict: usize,
    pub(crate) answer: A,
    /// While it waits, none.
    pub(crate) seq: Option<Sequence>,
    /// Positions that must be computed before the next token is chosen, at the time it began or went on.
    pub(crate) goal: usize,
    pub(crate) reused: Option<usize>,
    pub(crate) evaluated: usize,
    pub(crate) set_back: usize,
    arrived: Instant,
    pub(crate) started: Option<Instant>,
    pub(crate) read: Option<Instant>,
}

impl<A: Answer> Generation<A> {
    /// An answer of up to `n_predict` tokens to `prompt`.
    #[must_use]
    pub fn new(prompt: &Prompt, n_predict: usize, answer: A) -> Self {
        Self {
            n_prompt: prompt.len(),
            whole: prompt.clone(),
            n_predict,
            answer,
            seq: None,
            goal: 0,
            reused: None,
            evaluated: 0,
            set_back: 0,
            arrived: Instant::now(),
            started: None,
            read: None,
        }
    }

    /// Whoever wants it.
    pub fn answer(&mut self) -> &mut A {
        &mut self.answer
    }

    /// Whoever wanted it.
    #[must_use]
    pub fn into_answer(self) -> A {
        self.answer
    }

    /// Tokens of the answer so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.whole.tokens()[self.n_prompt..]
    }

    /// Whether the next row is the last token of an answer, not a piece of a prompt.
    pub(crate) fn is_answering(&self) -> bool {
        self.seq.as_ref().is_some_and(|seq| seq.len() + 1 == self.whole.len()) && self.whole.len() > self.goal
    }

    pub(crate) fn ended(&self, stop: Stop) -> Ended {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let read = self.read.unwrap_or(now);
        let computed = self.seq.as_ref().map_or(0, Sequence::len);
        let tokens = self.whole.len() - self.n_prompt;
        Ended {
            stop,
            prefill: Prefill { reused: self.reused.unwrap_or(0), evaluated: self.evaluated },
            prompt_time: read - started,
            answer_time: now - read,
            waited: started - self.arrived,
            tokens,
            answer_evaluated: computed.saturating_sub(self.n_prompt).min(tokens),
            set_back: self.set_back,
            read: self.read.is_some(),
        }
    }

    /// Its positions, computed so far; for saving them.
    #[must_use]
    pub fn into_sequence(self) -> Option<Sequence> {
        self.seq
    }
}
