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
//!
//! *Images* stand as markers in the text of messages; their rows are kept as long as a message shows them, because
//! dropping turns computes the rest anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::chat_note::Note;
use crate::generate::{Answering, Assets, Completion, Watch};
use crate::placement::{Attachment, Placer, compose, indices, without_markers};
use crate::prompt::Prompt;
use crate::{Prefill, RuntimeError, SavedSession, Session, SessionKind, Stop};
use ocelli_image::Profile;
use ocelli_text::sampler::SamplerChain;
use ocelli_text::template::{Content, Message, RenderOptions, without_bos};
use ocelli_text::tokenizer::{TokenDecoder, TokenType};

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
    /// Images by the index in their markers.
    images: BTreeMap<usize, Attachment>,
    profile: Profile,
    shift: bool,
    /// Counts what would have to be saved.
    changes: u64,
    /// The conversation up to the end of the last answer.
    known: Known,
    /// The same, up to the beginning of the last answer.
    asked: Known,
}

#[derive(Debug, Clone, Default)]
struct Known {
    text: String,
    prompt: Prompt,
}

impl Chat {
    /// An empty conversation. `shift` allows dropping the oldest turns when the context is full; `profile` says how
    /// images are placed.
    #[must_use]
    pub fn new(session: Session, assets: Assets, shift: bool, profile: Profile) -> Self {
        Self {
            session,
            assets,
            messages: Vec::new(),
            images: BTreeMap::new(),
            profile,
            shift,
            changes: 0,
            known: Known::default(),
            asked: Known::default(),
        }
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

    /// A number that is another one after every change of the conversation.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Sets or removes the system prompt. It holds from the next turn on, for the whole conversation.
    pub fn set_system(&mut self, text: Option<&str>) {
        self.changes += 1;
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if let Some(text) = text {
            self.messages.insert(0, Message::new(SYSTEM, without_markers(text)));
        }
    }

    /// Forgets everything but the system prompt.
    pub fn clear(&mut self) {
        self.changes += 1;
        self.messages.retain(|m| m.role == SYSTEM);
        self.forget_images();
        self.session.clear();
        self.known = Known::default();
    }

    /// Removes the last answer, so that [`Chat::answer`] gives another. `false` when there is none.
    pub fn forget_answer(&mut self) -> bool {
        let is_answer = self.messages.last().is_some_and(|m| m.role == ASSISTANT);
        if is_answer {
            self.changes += 1;
            self.messages.pop();
            self.known = std::mem::take(&mut self.asked);
        }
        is_answer
    }

    /// Answers the last message again; `None` when there is no answer yet. When that fails, the old answer stays.
    ///
    /// # Errors
    /// As [`Chat::answer`].
    pub fn regenerate(
        &mut self,
        sampler: &mut SamplerChain,
        n_predict: usize,
        watch: &mut dyn Watch,
    ) -> Result<Option<Completion>, RuntimeError> {
        let (old, known, asked) = (self.messages.last().cloned(), self.known.clone(), self.asked.clone());
        let Some(old) = old.filter(|_| self.forget_answer()) else { return Ok(None) };
        let answer = self.answer(sampler, n_predict, watch);
        if answer.is_err() {
            self.messages.push(old);
            (self.known, self.asked) = (known, asked);
        }
        answer.map(Some)
    }

    /// Shows `images` and says `text` as the user, and answers it. When that fails, the conversation is as it was before.
    ///
    /// # Errors
    /// When the conversation does not fit the context, the template refuses it, or the model cannot be shown images.
    pub fn say(
        &mut self,
        text: &str,
        images: &[Attachment],
        sampler: &mut SamplerChain,
        n_predict: usize,
        watch: &mut dyn Watch,
    ) -> Result<Completion, RuntimeError> {
        let first = self.images.last_key_value().map_or(0, |(index, _)| index + 1);
        self.images.extend((first..).zip(images.iter().cloned()));
        let content = compose(self.profile, first..first + images.len(), text);
        self.messages.push(Message::new(USER, content));
        let answer = self.answer(sampler, n_predict, watch);
        if answer.is_err() {
            self.messages.pop();
            self.forget_images();
        }
        answer
    }

    /// Images that messages show.
    #[must_use]
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// Lets go of images that no message shows.
    fn forget_images(&mut self) {
        let shown: Vec<usize> = self.messages.iter().flat_map(|m| indices(text_of(m))).collect();
        self.images.retain(|index, _| shown.contains(index));
    }

    /// Answers the conversation as it stands. An answer that is interrupted is one as far as it goes; without a single token
    /// there is none.
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
            n_image: 0,
            prefill: Prefill::default(),
            prompt_time: Duration::ZERO,
            answer_time: Duration::ZERO,
            answer_evaluated: 0,
            dropped_turns: 0,
        };
        let mut decoder = TokenDecoder::new(false, false);
        let mut prompt = self.prompt()?;
        if self.shift && prompt.prompt.len() >= self.session.context().n_ctx() {
            self.drop_turns(&mut prompt, &mut done)?;
        }
        loop {
            let mut answering =
                Answering { session: &mut self.session, tokenizer: &self.assets.tokenizer, sampler, watch };
            let (prefill, time) = answering.prefill(&prompt.prompt, &done.tokens).map_err(|e| match e {
                RuntimeError::ContextFull { wanted, n_ctx, .. } => {
                    RuntimeError::ContextFull { wanted, n_ctx, shift: self.shift }
                }
                other => other,
            })?;
            done.prefill.evaluated += prefill.evaluated;
            done.prefill.reused = done.prefill.reused.max(prefill.reused);
            done.prompt_time += time;
            let left = n_predict - done.tokens.len();
            let went = answering.go_on(left, &mut decoder, &mut done.tokens, &mut done.text)?;
            done.answer_time += went.time;
            done.answer_evaluated += went.evaluated;
            done.stop = went.stop;
            if went.stop != Stop::ContextFull || !self.shift || !self.drop_turns(&mut prompt, &mut done)? {
                break;
            }
        }
        if done.stop == Stop::Interrupted && done.tokens.is_empty() {
            return Err(RuntimeError::Interrupted);
        }
        let rest = decoder.finish();
        done.text.push_str(rest);
        watch.text(rest);
        self.changes += 1;
        done.n_prompt = prompt.prompt.len();
        done.n_image = prompt.prompt.image_rows();
        self.asked = prompt.clone();
        let said = without_markers(&done.text);
        prompt.text.push_str(&said);
        prompt.prompt.push(&done.tokens);
        self.known = prompt;
        self.messages.push(Message::new(ASSISTANT, said));
        Ok(done)
    }

    /// The ids of the conversation as it stands, up to where the assistant's turn begins.
    ///
    /// # Errors
    /// When the template refuses the conversation.
    pub fn prompt_ids(&self) -> Result<Vec<u32>, RuntimeError> {
        Ok(self.prompt()?.prompt.tokens().to_vec())
    }

    fn prompt(&self) -> Result<Known, RuntimeError> {
        let text = render(&self.assets, &self.messages)?;
        let placer = Placer { tokenizer: &self.assets.tokenizer, profile: self.profile };
        let image = |index| self.images.get(&index);
        if let Some(rest) = text.strip_prefix(self.known.text.as_str()).filter(|_| !self.known.text.is_empty()) {
            let known = indices(&self.known.text).filter_map(image);
            let numbered = known.filter(|attachment| attachment.numbered).count();
            let more = placer.place(rest, false, numbered, image)?;
            // Only behind a control token is a piece of text tokenised as it would be in its place.
            let control = |id: &u32| self.assets.tokenizer.token_type(*id) == TokenType::Control;
            if rest.is_empty() || more.tokens().first().is_some_and(control) {
                let mut prompt = self.known.prompt.clone();
                prompt.append(&more);
                return Ok(Known { text, prompt });
            }
        }
        let prompt = placer.place(&text, true, 0, image)?;
        Ok(Known { text, prompt })
    }

    /// Drops the oldest turns until half of the context is free or only the last turn is left, and renders the prompt
    /// anew; `false` when there was nothing to drop.
    fn drop_turns(&mut self, prompt: &mut Known, done: &mut Completion) -> Result<bool, RuntimeError> {
        let goal = self.session.context().n_ctx() / 2;
        let mut dropped = 0;
        while let Some(turn) = oldest_turn(&self.messages) {
            self.messages.drain(turn);
            self.changes += 1;
            dropped += 1;
            self.known = Known::default();
            *prompt = self.prompt()?;
            if prompt.prompt.len() + done.tokens.len() <= goal {
                break;
            }
        }
        self.forget_images();
        done.dropped_turns += dropped;
        Ok(dropped > 0)
    }

    /// Saves the conversation, its images and its cache.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), RuntimeError> {
        self.save_within(path, u64::MAX)
    }

    /// As [`Chat::save`], but with no more than about `cache_bytes` of the cache. Nothing of the conversation is left out;
    /// what the cache lacks is computed again when somebody goes on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_within(&self, path: &Path, cache_bytes: u64) -> Result<(), RuntimeError> {
        let note = Note {
            messages: self.messages.clone(),
            images: self.images.clone(),
            profile: self.profile,
            template: Some(self.template_digest()),
            text: self.known.text.clone(),
            prompt: self.known.prompt.clone(),
        };
        self.session.save_within(path, &note.to_bytes(), cache_bytes)
    }

    fn template_digest(&self) -> [u8; 32] {
        Sha256::digest(self.assets.template.source()).into()
    }

    /// Opens a saved conversation and checks whether it can go on here; nothing changes yet.
    ///
    /// # Errors
    /// As [`Session::open`], and as [`Chat::check`].
    pub fn open(&self, path: &Path) -> Result<SavedChat, RuntimeError> {
        self.check(self.session.open(path)?)
    }

    /// Checks whether a saved session is a conversation that can go on here.
    ///
    /// # Errors
    /// When it holds no conversation, or one with another chat template or image profile.
    pub fn check(&self, session: SavedSession) -> Result<SavedChat, RuntimeError> {
        let refuse =
            |problem: &str| Err(RuntimeError::Session { path: session.path().to_owned(), problem: problem.to_owned() });
        if session.kind() == SessionKind::Prompt {
            return refuse("holds a single prompt and its answer, no conversation; give another file name");
        }
        let Some(note) = Note::from_bytes(session.note(), self.assets.tokenizer.n_tokens()) else {
            return refuse("holds no conversation of this program; remove it and start a new one");
        };
        if note.profile != self.profile && !note.images.is_empty() {
            return refuse(&format!("was saved with --image-profile {}; start with that", note.profile.name()));
        }
        if note.template.is_some_and(|digest| digest != self.template_digest()) {
            return refuse("was saved with another chat template; start with the one it was saved with");
        }
        Ok(SavedChat { session, note })
    }

    /// Goes on with a saved conversation.
    ///
    /// # Errors
    /// When the file cannot be read any more; the conversation is empty then.
    pub fn resume(&mut self, saved: SavedChat) -> Result<(), RuntimeError> {
        self.changes += 1;
        let SavedChat { session, note } = saved;
        if let Err(error) = self.session.restore(session) {
            self.clear();
            return Err(error);
        }
        (self.messages, self.images) = (note.messages, note.images);
        self.known = Known { text: note.text, prompt: note.prompt };
        self.asked = Known::default();
        Ok(())
    }

    /// [`Chat::open`] and [`Chat::resume`] in one, whatever vision file its images come from.
    ///
    /// # Errors
    /// When the file is missing, damaged, or of another model, template or image profile; nothing has changed then.
    pub fn load(&mut self, path: &Path) -> Result<(), RuntimeError> {
        let saved = self.open(path)?;
        self.resume(saved)
    }
}

/// A saved conversation that can go on; see [`Chat::open`].
#[derive(Debug)]
pub struct SavedChat {
    session: SavedSession,
    note: Note,
}

impl SavedChat {
    /// Whether all images come from the vision model with this identity.
    #[must_use]
    pub fn images_are_of(&self, vision: &[u8; 32]) -> bool {
        self.note.images.values().all(|shown| shown.image.model == *vision)
    }

    /// Whether it shows images.
    #[must_use]
    pub fn has_images(&self) -> bool {
        !self.note.images.is_empty()
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

pub(crate) fn text_of(message: &Message) -> &str {
    match &message.content {
        Content::Text(text) => text,
        Content::Parts(_) => "",
    }
}
