//! A conversation: messages, the chat template, and a session that computes only what is new.
//!
//! *Prefix reuse.* The text of a conversation is rendered anew for every turn. As long as it begins with the text that
//! the session already holds, only the rest is turned into ids and appended, so that an answer stays the tokens the
//! model chose, whatever the tokenizer would make of its text. Where a template rewrites earlier turns, the whole text
//! is tokenised and the session keeps what is still the same.
//!
//! *Context shift.* When it is allowed and the context is full, whole turns (a user's message and what follows it) are
//! dropped from the start, the system prompt stays, and the rest is computed anew at its new positions: exactly the
//! state of a conversation that never had those turns. Rotating cached keys instead would be quicker and leave traces
//! of the dropped text in every later key and value. Turns are dropped until half of the context is free, so that
//! this happens seldom.

use std::path::Path;
use std::time::Duration;

use crate::generate::{Answering, Assets, Completion, Watch};
use crate::sampler::SamplerChain;
use crate::template::{Content, Message, RenderOptions, without_bos};
use crate::tokenizer::{TokenDecoder, TokenType};
use crate::{Prefill, RuntimeError, Session, Stop};

const SYSTEM: &str = "system";
const USER: &str = "user";
const ASSISTANT: &str = "assistant";

/// A conversation in a session: prompts are rendered, only what is new is computed, and whole turns can be dropped when
/// the context is full.
#[derive(Debug)]
pub struct Chat {
    session: Session,
    assets: Assets,
    messages: Vec<Message>,
    shift: bool,
    /// Text of the conversation up to the end of the last answer, and its ids.
    known: Known,
    /// The same, up to the beginning of the last answer.
    asked: Known,
}

#[derive(Debug, Clone, Default)]
struct Known {
    text: String,
    ids: Vec<u32>,
}

impl Chat {
    /// An empty conversation. `shift` allows dropping the oldest turns when the context is full.
    #[must_use]
    pub fn new(session: Session, assets: Assets, shift: bool) -> Self {
        Self { session, assets, messages: Vec::new(), shift, known: Known::default(), asked: Known::default() }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Vocabulary, template, recommended sampling.
    #[must_use]
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// The messages so far.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The system prompt.
    #[must_use]
    pub fn system(&self) -> Option<&str> {
        self.messages.first().filter(|m| m.role == SYSTEM).map(text_of)
    }

    /// Sets or removes the system prompt. It holds from the next turn on, for the whole conversation.
    pub fn set_system(&mut self, text: Option<&str>) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if let Some(text) = text {
            self.messages.insert(0, Message::new(SYSTEM, text));
        }
    }

    /// Forgets everything but the system prompt.
    pub fn clear(&mut self) {
        self.messages.retain(|m| m.role == SYSTEM);
        self.session.clear();
        self.known = Known::default();
    }

    /// Removes the last answer, so that [`Chat::answer`] gives another. `false` when there is none.
    pub fn forget_answer(&mut self) -> bool {
        let is_answer = self.messages.last().is_some_and(|m| m.role == ASSISTANT);
        if is_answer {
            self.messages.pop();
            self.known = std::mem::take(&mut self.asked);
        }
        is_answer
    }

    /// Says `text` as the user and answers it. When that fails, the conversation is as it was before.
    ///
    /// # Errors
    /// When the conversation does not fit the context or the template refuses it.
    pub fn say(
        &mut self,
        text: &str,
        sampler: &mut SamplerChain,
        n_predict: usize,
        watch: &mut dyn Watch,
    ) -> Result<Completion, RuntimeError> {
        self.messages.push(Message::new(USER, text));
        let answer = self.answer(sampler, n_predict, watch);
        if answer.is_err() {
            self.messages.pop();
        }
        answer
    }

    /// Answers the conversation as it stands.
    ///
    /// # Errors
    /// As [`Chat::say`].
    pub fn answer(
        &mut self,
        sampler: &mut SamplerChain,
        n_predict: usize,
        watch: &mut dyn Watch,
    ) -> Result<Completion, RuntimeError> {
        let mut done = Completion {
            tokens: Vec::new(),
            text: String::new(),
            stop: Stop::Length,
            n_prompt: 0,
            prefill: Prefill::default(),
            prompt_time: Duration::ZERO,
            answer_time: Duration::ZERO,
            dropped_turns: 0,
        };
        let mut decoder = TokenDecoder::new(false, false);
        let mut prompt = self.prompt()?;
        if self.shift && prompt.ids.len() >= self.session.context().n_ctx() {
            self.drop_turns(&mut prompt, &mut done)?;
        }
        loop {
            let mut ids = prompt.ids.clone();
            ids.extend_from_slice(&done.tokens);
            let mut answering =
                Answering { session: &mut self.session, tokenizer: &self.assets.tokenizer, sampler, watch };
            let (prefill, time) = answering.prefill(&ids, done.tokens.len()).map_err(|e| match e {
                RuntimeError::ContextFull { wanted, n_ctx, .. } => {
                    RuntimeError::ContextFull { wanted, n_ctx, shift: self.shift }
                }
                other => other,
            })?;
            done.prefill.evaluated += prefill.evaluated;
            done.prefill.reused = done.prefill.reused.max(prefill.reused);
            done.prompt_time += time;
            let left = n_predict - done.tokens.len();
            let (stop, time) = answering.go_on(left, &mut decoder, &mut done.tokens, &mut done.text)?;
            done.answer_time += time;
            done.stop = stop;
            if stop != Stop::ContextFull || !self.shift || !self.drop_turns(&mut prompt, &mut done)? {
                break;
            }
        }
        let rest = decoder.finish();
        done.text.push_str(rest);
        watch.text(rest);
        done.n_prompt = prompt.ids.len();
        self.asked = prompt.clone();
        prompt.text.push_str(&done.text);
        prompt.ids.extend_from_slice(&done.tokens);
        self.known = prompt;
        self.messages.push(Message::new(ASSISTANT, done.text.as_str()));
        Ok(done)
    }

    /// The ids of the conversation as it stands, up to where the assistant's turn begins.
    ///
    /// # Errors
    /// When the template refuses the conversation.
    pub fn prompt_ids(&self) -> Result<Vec<u32>, RuntimeError> {
        Ok(self.prompt()?.ids)
    }

    fn prompt(&self) -> Result<Known, RuntimeError> {
        let text = render(&self.assets, &self.messages)?;
        let tokenizer = &self.assets.tokenizer;
        if let Some(rest) = text.strip_prefix(self.known.text.as_str()).filter(|_| !self.known.text.is_empty()) {
            let more = tokenizer.encode(rest, false, true)?;
            // Only behind a control token is a piece of text tokenised as it would be in its place.
            let clean =
                rest.is_empty() || more.first().is_some_and(|id| tokenizer.token_type(*id) == TokenType::Control);
            if clean {
                let ids = self.known.ids.iter().chain(&more).copied().collect();
                return Ok(Known { text, ids });
            }
        }
        let ids = tokenizer.encode(&text, true, true)?;
        Ok(Known { text, ids })
    }

    /// Drops the oldest turns until half of the context is free or only the last turn is left, and renders the prompt
    /// anew; `false` when there was nothing to drop.
    fn drop_turns(&mut self, prompt: &mut Known, done: &mut Completion) -> Result<bool, RuntimeError> {
        let goal = self.session.context().n_ctx() / 2;
        let mut dropped = 0;
        while let Some(turn) = oldest_turn(&self.messages) {
            self.messages.drain(turn);
            dropped += 1;
            self.known = Known::default();
            *prompt = self.prompt()?;
            if prompt.ids.len() + done.tokens.len() <= goal {
                break;
            }
        }
        done.dropped_turns += dropped;
        Ok(dropped > 0)
    }

    /// Saves the conversation and its cache.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), RuntimeError> {
        let messages: Vec<_> =
            self.messages.iter().map(|m| serde_json::json!({ "role": m.role, "content": text_of(m) })).collect();
        let note = serde_json::json!({ "messages": messages, "text": self.known.text, "ids": self.known.ids });
        self.session.save(path, note.to_string().as_bytes())
    }

    /// Goes on with a saved conversation.
    ///
    /// # Errors
    /// When the file is missing, damaged, or of another model; see [`Session::load`].
    pub fn load(&mut self, path: &Path) -> Result<(), RuntimeError> {
        let note = self.session.load(path)?;
        let n_tokens = self.assets.tokenizer.n_tokens();
        let Some((messages, known)) = read_note(&note, n_tokens) else {
            self.clear();
            let problem = "holds no conversation of this program; remove it and start a new one".to_owned();
            return Err(RuntimeError::Session { path: path.to_owned(), problem });
        };
        (self.messages, self.known, self.asked) = (messages, known, Known::default());
        Ok(())
    }
}

/// The text of a conversation, ready to be tokenised with BOS where the vocabulary adds one.
///
/// # Errors
/// When the template refuses the conversation.
pub fn render(assets: &Assets, messages: &[Message]) -> Result<String, RuntimeError> {
    let tokenizer = &assets.tokenizer;
    let token = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
    let options = RenderOptions {
        bos_token: token(tokenizer.ids().bos),
        eos_token: token(tokenizer.ids().eos),
        add_generation_prompt: true,
        ..RenderOptions::default()
    };
    let text = assets.template.render(messages, &options)?;
    Ok(if tokenizer.adds_bos() { without_bos(&text, options.bos_token).to_owned() } else { text })
}

/// The messages of the oldest turn that may be dropped: from the first user message to the next one.
fn oldest_turn(messages: &[Message]) -> Option<std::ops::Range<usize>> {
    let mut users = messages.iter().enumerate().filter(|(_, m)| m.role == USER).map(|(i, _)| i);
    Some(users.next()?..users.next()?)
}

fn text_of(message: &Message) -> &str {
    match &message.content {
        Content::Text(text) => text,
        Content::Parts(_) => "",
    }
}

/// The messages, text and ids of a saved conversation; `None` where something is missing or an id is not below
/// `n_tokens`.
fn read_note(note: &[u8], n_tokens: usize) -> Option<(Vec<Message>, Known)> {
    let value: serde_json::Value = serde_json::from_slice(note).ok()?;
    let messages = value.get("messages")?.as_array()?.iter();
    let messages = messages
        .map(|m| Some(Message::new(m.get("role")?.as_str()?, m.get("content")?.as_str()?)))
        .collect::<Option<Vec<_>>>()?;
    let ids = value.get("ids")?.as_array()?.iter();
    let ids = ids
        .map(|id| u32::try_from(id.as_u64()?).ok().filter(|id| (*id as usize) < n_tokens))
        .collect::<Option<Vec<_>>>()?;
    Some((messages, Known { text: value.get("text")?.as_str()?.to_owned(), ids }))
}
