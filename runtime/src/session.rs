//! One conversation in one context: keeps what was computed, computes only what is new.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use crate::context::Sequence;
use crate::prompt::PromptView;
use crate::{Context, RuntimeError, session_file};

/// How a prompt was taken in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens of the prompt that were in the cache already.
    pub reused: usize,
    /// Tokens computed.
    pub evaluated: usize,
}

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

/// What a session file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// The tokens of one prompt and its answer, to save computing them again.
    Prompt,
    /// A conversation: messages and pictures as well.
    Conversation,
}

/// A session file that was found sound and fitting; see [`Session::open`].
#[derive(Debug)]
pub struct SavedSession(session_file::Checked);

impl SavedSession {
    /// What it holds.
    #[must_use]
    pub fn kind(&self) -> SessionKind {
        if self.0.note.is_empty() { SessionKind::Prompt } else { SessionKind::Conversation }
    }

    /// What was saved beside the cache.
    pub(crate) fn note(&self) -> &[u8] {
        &self.0.note
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }
}

/// One conversation in one context: keeps what was computed, computes only what is new, saves and restores.
#[derive(Debug)]
pub struct Session {
    context: Context,
    seq: Sequence,
    /// The answer's last token, where nothing has asked yet for what follows it.
    pending: Option<u32>,
    interrupt: Arc<AtomicBool>,
}

impl Session {
    /// An empty conversation.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let seq = context.new_sequence();
        let interrupt = context.interrupt_flag();
        Self { context, seq, pending: None, interrupt }
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Set this to stop a prompt or an answer that is being computed; clear it before the next one.
    #[must_use]
    pub fn interrupt(&self) -> &Arc<AtomicBool> {
        &self.interrupt
    }

    /// Tokens in the cache. The last of an answer that ended by its length is not among them: it is computed with what follows.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        self.seq.tokens()
    }

    /// Tokens of the answer whose pass nobody needed yet: one at most.
    pub(crate) fn pending(&self) -> usize {
        usize::from(self.pending.is_some())
    }

    /// Positions left.
    #[must_use]
    pub fn room(&self) -> usize {
        self.context.n_ctx() - self.seq.tokens().len() - self.pending()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pending = None;
        self.context.clear(&mut self.seq);
    }

    /// Makes `prompt` the content of the cache and computes the logits of its last token. What the cache and the
    /// prompt have in common at the start is kept, not computed again. `progress(done, all)` is told in tokens.
    ///
    /// Interrupted, it keeps what is done, so that a second call goes on from there.
    ///
    /// # Errors
    /// [`RuntimeError::Interrupted`]; when the prompt is empty, longer than the context, or holds a token outside the
    /// vocabulary.
    pub fn prefill<'p>(
        &mut self,
        prompt: impl Into<PromptView<'p>>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Prefill, RuntimeError> {
        let prompt = prompt.into();
        let n_ctx = self.context.n_ctx();
        if prompt.len() > n_ctx {
            return Err(RuntimeError::ContextFull { wanted: prompt.len(), n_ctx, shift: false });
        }
        if prompt.len() == 0 {
            return Err(RuntimeError::Option {
                option: "-p/--prompt",
                problem: "gives no tokens; say something".to_owned(),
            });
        }
        self.pending = None;
        let same = prompt.same_as(&self.seq.tokens, &self.seq.marks);
        // The last token always runs: its logits are wanted.
        let reused = same.min(prompt.len() - 1);
        self.context.truncate(&mut self.seq, reused);
        let all = prompt.len() - reused;
        let chunk = self.context.n_ubatch();
        for start in (reused..prompt.len()).step_by(chunk) {
            progress(start - reused, all);
            self.context.decode(&mut self.seq, prompt.part(start..prompt.len().min(start + chunk)))?;
        }
        progress(all, all);
        Ok(Prefill { reused, evaluated: all })
    }

    /// Goes on from the prompt, or from the answer so far, for up to `n_predict` tokens. `pick` chooses from the logits, `ends`
    /// says at which tokens the answer is over (such a token is not part of it), `each` is given every token of the answer.
    /// What would follow the last of them is not computed: nobody may ever want it.
    ///
    /// # Errors
    /// When the session is empty, or `pick` fails or gives a token outside the vocabulary.
    pub fn generate(
        &mut self,
        n_predict: usize,
        ends: &dyn Fn(u32) -> bool,
        pick: &mut dyn FnMut(&[f32]) -> Result<u32, RuntimeError>,
        each: &mut dyn FnMut(u32),
    ) -> Result<Stop, RuntimeError> {
        for _ in 0..n_predict {
            if self.interrupt.load(Ordering::Relaxed) {
                return Ok(Stop::Interrupted);
            }
            if let Some(token) = self.pending {
                match self.context.decode(&mut self.seq, &[token]) {
                    Err(RuntimeError::Interrupted) => return Ok(Stop::Interrupted),
                    done => done?,
                }
                self.pending = None;
            }
            let Some(logits) = self.context.logits() else {
                return Err(RuntimeError::Option {
                    option: "-p/--prompt",
                    problem: "comes before an answer".to_owned(),
                });
            };
            let token = pick(logits)?;
            if ends(token) {
                return Ok(Stop::EndOfGeneration);
            }
            if self.room() == 0 {
                return Ok(Stop::ContextFull);
            }
            let n_vocab = self.context.model().config().n_vocab;
            if token as usize >= n_vocab {
                return Err(RuntimeError::Token { id: token, n_vocab });
            }
            each(token);
            self.pending = Some(token);
        }
        Ok(Stop::Length)
    }

    /// A digest of everything that decides whether saved keys and values can be used here, but their formats: every byte of
    /// the model, and its rope.
    ///
    /// # Errors
    /// When the model's file cannot be read, or changed while it was in use.
    pub fn fingerprint(&self) -> Result<[u8; 32], RuntimeError> {
        let mut digest = Sha256::new();
        digest.update(self.context.model().weights().identity()?);
        for value in self.context.rope().inv_freq().iter().chain([&self.context.rope().magnitude()]) {
            digest.update(value.to_le_bytes());
        }
        Ok(digest.finalize().into())
    }

    /// Saves [`Session::tokens`] with their keys and values, and `note`, to `path`.
    ///
    /// # Errors
    /// When the file cannot be written; an existing one is untouched then.
    pub fn save(&self, path: &Path, note: &[u8]) -> Result<(), RuntimeError> {
        self.save_within(path, note, u64::MAX)
    }

    /// As [`Session::save`], but with no more than about `cache_bytes` of keys and values: those of the first tokens. What
    /// is left out is computed again when somebody goes on.
    ///
    /// # Errors
    /// As [`Session::save`].
    pub fn save_within(&self, path: &Path, note: &[u8], cache_bytes: u64) -> Result<(), RuntimeError> {
        let per_token = self.context.kv_shape().bytes_per_position()?.max(1);
        let keep = usize::try_from(cache_bytes / per_token).unwrap_or(usize::MAX);
        session_file::save(path, &self.fingerprint()?, &self.context.kv, &self.seq, keep, note)
    }

    /// Checks everything about a saved session, and takes nothing from it yet.
    ///
    /// # Errors
    /// When the file is missing, damaged, of another model or other KV types, or longer than this context.
    pub fn open(&self, path: &Path) -> Result<SavedSession, RuntimeError> {
        Ok(SavedSession(session_file::Checked::open(path, &self.fingerprint()?, &self.context)?))
    }

    /// Replaces the content of the cache by a saved one; gives the note.
    ///
    /// # Errors
    /// When the file cannot be read any more; the cache is empty then.
    pub fn restore(&mut self, saved: SavedSession) -> Result<Vec<u8>, RuntimeError> {
        self.clear();
        saved.0.read(&mut self.context.kv, &mut self.seq)
    }

    /// Replaces the content of the cache by what [`Session::save`] wrote; gives the note.
    ///
    /// # Errors
    /// When the file is missing, damaged, of another model or other KV types, or longer than this context. The cache
    /// is empty then if the file turned out to be unreadable half-way, and untouched otherwise.
    pub fn load(&mut self, path: &Path) -> Result<Vec<u8>, RuntimeError> {
        let saved = self.open(path)?;
        self.restore(saved)
    }
}
