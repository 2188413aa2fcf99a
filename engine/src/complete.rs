//! An answer: prompt in, tokens chosen one by one, text out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ocelli_gguf::Metadata;
use ocelli_runtime::{Prompt, RuntimeError};
use ocelli_text::sampler::{SamplerChain, SamplerParams};
use ocelli_text::template::{ChatTemplate, Worker};
use ocelli_text::tokenizer::{TokenDecoder, Tokenizer};

use crate::generation::{Answer, Choice, Stop};
use crate::{Prefill, Session};

/// What a model file carries besides the model.
#[derive(Debug)]
pub struct Assets {
    /// The vocabulary.
    pub tokenizer: Tokenizer,
    /// How conversations are written down.
    pub template: ChatTemplate,
    /// The sampling the file recommends.
    pub sampling: SamplerParams,
}

impl Assets {
    /// Reads them from a file's metadata, with another chat template if one was chosen. A template that is not one of the
    /// known formats is checked and rendered by `worker`; see [`ChatTemplate::from_metadata`].
    ///
    /// # Errors
    /// When vocabulary, template or recommendations cannot be used.
    pub fn read(
        meta: &Metadata<'_>,
        chat_template: Option<&str>,
        worker: Option<&Worker>,
    ) -> Result<Self, RuntimeError> {
        let template = match chat_template {
            Some(choice) => ChatTemplate::from_choice(choice, worker)?,
            None => ChatTemplate::from_metadata(meta, worker)?,
        };
        Ok(Self { tokenizer: Tokenizer::from_metadata(meta)?, template, sampling: SamplerParams::from_metadata(meta)? })
    }
}

/// An answer and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub stop: Stop,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Positions of the prompt that hold image rows.
    pub n_image: usize,
    /// How the prompt was taken in.
    pub prefill: Prefill,
    /// Time for the prompt.
    pub prompt_time: Duration,
    /// Time for the answer.
    pub answer_time: Duration,
    /// Tokens computed in that time: all of the answer but the last, if its length ended it. The first was chosen from what the
    /// prompt gave.
    pub answer_evaluated: usize,
    /// Turns that were dropped from the start of the conversation to make room.
    pub dropped_turns: usize,
}

impl Completion {
    /// Tokens of the prompt computed per second, if any were.
    #[must_use]
    pub fn prompt_rate(&self) -> Option<f64> {
        rate(self.prefill.evaluated, self.prompt_time)
    }

    /// Tokens of the answer computed per second, if any were: of one token none is.
    #[must_use]
    pub fn answer_rate(&self) -> Option<f64> {
        rate(self.answer_evaluated, self.answer_time)
    }
}

fn rate(n: usize, time: Duration) -> Option<f64> {
    (n > 0 && !time.is_zero()).then(|| n as f64 / time.as_secs_f64())
}

/// Where an answer is shown while it is made.
pub trait Watch {
    /// `done` of `all` tokens of the prompt have been computed.
    fn prompt(&mut self, done: usize, all: usize) {
        let _ = (done, all);
    }

    /// More text of the answer.
    fn text(&mut self, text: &str);
}

/// What an answer needs besides a session: who chooses, and who sees it.
pub(crate) struct Writer<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) sampler: &'a mut SamplerChain,
    pub(crate) decoder: &'a mut TokenDecoder,
    pub(crate) text: &'a mut String,
    pub(crate) tokens: &'a mut Vec<u32>,
    pub(crate) interrupt: &'a AtomicBool,
    pub(crate) watch: &'a mut dyn Watch,
}

impl Answer for Writer<'_> {
    fn prompt(&mut self, done: usize, all: usize, reused: usize) {
        self.watch.prompt(done - reused.min(done), all - reused.min(all));
    }

    fn choose(&mut self, logits: &[f32]) -> Result<Choice, RuntimeError> {
        sample(self.sampler, self.tokenizer, logits)
    }

    fn token(&mut self, id: u32) -> Choice {
        self.tokens.push(id);
        let piece = self.decoder.push(self.tokenizer, id);
        self.text.push_str(piece);
        self.watch.text(piece);
        Choice::Token(id)
    }

    fn is_cancelled(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

/// The next token by `sampler`, which remembers it, or the end if the model ends its answer here.
pub(crate) fn sample(
    sampler: &mut SamplerChain,
    tokenizer: &Tokenizer,
    logits: &[f32],
) -> Result<Choice, RuntimeError> {
    let id = sampler.sample(logits)?;
    sampler.accept(id);
    Ok(if tokenizer.is_end_of_generation(id) { Choice::End } else { Choice::Token(id) })
}

/// What the penalties see before an answer goes on: the same tokens whether the cache held them or not, and no image.
pub(crate) fn remember(sampler: &mut SamplerChain, prompt: &Prompt, answer: &[u32]) {
    sampler.forget_tokens();
    prompt.text_tokens().for_each(|id| sampler.accept_prompt(id));
    answer.iter().for_each(|id| sampler.accept(*id));
}

/// Continues `prompt` by up to `n_predict` tokens, keeping what `session` holds of it already.
///
/// # Errors
/// When the prompt is empty or does not fit the context, no token can be chosen, or somebody asked to stop before the prompt
/// was computed.
pub fn complete(
    session: &mut Session,
    assets: &Assets,
    sampler: &mut SamplerChain,
    prompt: &Prompt,
    n_predict: usize,
    watch: &mut dyn Watch,
) -> Result<Completion, RuntimeError> {
    let mut decoder = TokenDecoder::new(false, false);
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let interrupt = Arc::clone(session.interrupt());
    remember(sampler, prompt, &[]);
    let mut writer = Writer {
        tokenizer: &assets.tokenizer,
        sampler,
        decoder: &mut decoder,
        text: &mut text,
        tokens: &mut tokens,
        interrupt: &interrupt,
        watch: &mut *watch,
    };
    let ended = session.answer(prompt, n_predict, &mut writer)?;
    if ended.stop == Stop::Interrupted && !ended.read {
        return Err(RuntimeError::Interrupted);
    }
    let rest = decoder.finish();
    text.push_str(rest);
    watch.text(rest);
    Ok(Completion {
        tokens,
        text,
        stop: ended.stop,
        n_prompt: prompt.len(),
        n_image: prompt.image_rows(),
        prefill: ended.prefill,
        prompt_time: ended.prompt_time,
        answer_time: ended.answer_time,
        answer_evaluated: ended.answer_evaluated,
        dropped_turns: 0,
    })
}
