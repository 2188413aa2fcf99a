//! An answer: prompt in, tokens chosen one by one, text out.

use std::time::{Duration, Instant};

use ocelli_gguf::Metadata;

use crate::prompt::Prompt;
use crate::{Prefill, RuntimeError, Session, Stop};
use ocelli_text::sampler::{SamplerChain, SamplerParams};
use ocelli_text::template::{ChatTemplate, Worker};
use ocelli_text::tokenizer::{TokenDecoder, Tokenizer};

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

/// What it took to go on with an answer.
#[derive(Debug)]
pub(crate) struct Went {
    pub(crate) stop: Stop,
    pub(crate) time: Duration,
    pub(crate) evaluated: usize,
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

/// A session with what is needed to answer in it.
pub(crate) struct Answering<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) sampler: &'a mut SamplerChain,
    pub(crate) watch: &'a mut dyn Watch,
}

impl Answering<'_> {
    /// Takes `prompt` in, followed by `answer`, which goes on. The penalties see the same tokens whether the cache held
    /// them or not, and no image.
    pub(crate) fn prefill(&mut self, prompt: &Prompt, answer: &[u32]) -> Result<(Prefill, Duration), RuntimeError> {
        let started = Instant::now();
        let mut whole = std::borrow::Cow::Borrowed(prompt);
        if !answer.is_empty() {
            whole.to_mut().push(answer);
        }
        let prefill = self.session.prefill(&*whole, &mut |done, all| self.watch.prompt(done, all))?;
        let time = started.elapsed();
        self.sampler.forget_tokens();
        prompt.text_tokens().for_each(|id| self.sampler.accept_prompt(id));
        answer.iter().for_each(|id| self.sampler.accept(*id));
        Ok((prefill, time))
    }

    /// Appends up to `n_predict` tokens to `tokens` and their text to `text`.
    pub(crate) fn go_on(
        &mut self,
        n_predict: usize,
        decoder: &mut TokenDecoder,
        tokens: &mut Vec<u32>,
        text: &mut String,
    ) -> Result<Went, RuntimeError> {
        let (started, before) = (Instant::now(), tokens.len());
        let (tokenizer, watch) = (self.tokenizer, &mut *self.watch);
        let sampler = &mut *self.sampler;
        let mut pick = |logits: &[f32]| -> Result<u32, RuntimeError> {
            let token = sampler.sample(logits)?;
            sampler.accept(token);
            Ok(token)
        };
        let stop =
            self.session.generate(n_predict, &|id| tokenizer.is_end_of_generation(id), &mut pick, &mut |id| {
                tokens.push(id);
                let piece = decoder.push(tokenizer, id);
                text.push_str(piece);
                watch.text(piece);
            })?;
        let evaluated = (tokens.len() - before).saturating_sub(self.session.pending());
        Ok(Went { stop, time: started.elapsed(), evaluated })
    }
}

/// Continues `prompt` by up to `n_predict` tokens, keeping what `session` holds of it already.
///
/// # Errors
/// When the prompt is empty or does not fit the context, or no token can be chosen.
pub fn complete(
    session: &mut Session,
    assets: &Assets,
    sampler: &mut SamplerChain,
    prompt: &Prompt,
    n_predict: usize,
    watch: &mut dyn Watch,
) -> Result<Completion, RuntimeError> {
    let mut answering = Answering { session, tokenizer: &assets.tokenizer, sampler, watch };
    let (prefill, prompt_time) = answering.prefill(prompt, &[])?;
    let mut decoder = TokenDecoder::new(false, false);
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let went = answering.go_on(n_predict, &mut decoder, &mut tokens, &mut text)?;
    let rest = decoder.finish();
    text.push_str(rest);
    watch.text(rest);
    Ok(Completion {
        tokens,
        text,
        stop: went.stop,
        n_prompt: prompt.len(),
        n_image: prompt.image_rows(),
        prefill,
        prompt_time,
        answer_time: went.time,
        answer_evaluated: went.evaluated,
        dropped_turns: 0,
    })
}
