//! One conversation at a time: keeps what was computed, computes only what is new, saves and restores.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ocelli_runtime::{Context, Prompt, RuntimeError, Sequence, session_file};
use sha2::{Digest, Sha256};

use crate::generation::{Answer, Ended, Generation};
use crate::scheduler::{Queue, Scheduler, SchedulerOptions};

/// How a prompt was taken in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens of the prompt that were in the cache already.
    pub reused: usize,
    /// Tokens computed.
    pub evaluated: usize,
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

/// One conversation at a time: keeps what was computed, computes only what is new, saves and restores.
///
/// It is an engine with one generation: what it does, a server does for many.
#[derive(Debug)]
pub struct Session {
    scheduler: Scheduler,
    /// The conversation as it was left.
    seq: Sequence,
    interrupt: Arc<AtomicBool>,
}

impl Session {
    /// An empty conversation.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let (seq, interrupt) = (context.find_sequence(&[]), context.interrupt_flag());
        Self { scheduler: Scheduler::new(context, SchedulerOptions::default()), seq, interrupt }
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &Context {
        self.scheduler.context()
    }

    /// Set this to stop a prompt or an answer that is being computed; clear it before the next one.
    #[must_use]
    pub fn interrupt(&self) -> &Arc<AtomicBool> {
        &self.interrupt
    }

    /// Tokens in the cache. The last of an answer is not among them: it is computed with what follows, if anything does.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        self.seq.tokens()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.seq.clear();
        self.context().kv().drop_kept();
    }

    /// Computes what is new of `prompt` and up to `n_predict` tokens of an answer, which `answer` chooses and takes.
    /// Interrupted, what is done stays in the cache, so that a second call goes on from there.
    ///
    /// # Errors
    /// When the prompt is empty, longer than the context, or holds a token outside the vocabulary, or no token can be chosen.
    pub fn answer<A: Answer>(
        &mut self,
        prompt: &Prompt,
        n_predict: usize,
        answer: &mut A,
    ) -> Result<Ended, RuntimeError> {
        // Its blocks stay findable.
        self.seq.clear();
        let mut queue = Queue::new();
        queue.push(Generation::new(prompt, n_predict, answer));
        loop {
            self.scheduler.step(&mut queue);
            if let Some((generation, how)) = queue.take_ended() {
                if let Some(seq) = generation.into_sequence() {
                    self.seq = seq;
                }
                return how;
            }
        }
    }

    /// A digest of everything that decides whether saved keys and values can be used here, but their formats: every byte of
    /// the model, and its rope.
    ///
    /// # Errors
    /// When the model's file cannot be read, or changed while it was in use.
    pub fn fingerprint(&self) -> Result<[u8; 32], RuntimeError> {
        let mut digest = Sha256::new();
        digest.update(self.context().model().weights().identity()?);
        for value in self.context().rope().inv_freq().iter().chain([&self.context().rope().magnitude()]) {
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
        let per_token = self.context().kv_shape().bytes_per_position()?.max(1);
        let keep = usize::try_from(cache_bytes / per_token).unwrap_or(usize::MAX);
        session_file::save(path, &self.fingerprint()?, self.context().kv(), &self.seq, keep, note)
    }

    /// Checks everything about a saved session, and takes nothing from it yet.
    ///
    /// # Errors
    /// When the file is missing, damaged, of another model or other KV types, or longer than this context.
    pub fn open(&self, path: &Path) -> Result<SavedSession, RuntimeError> {
        Ok(SavedSession(session_file::Checked::open(path, &self.fingerprint()?, self.context())?))
    }

    /// Replaces the content of the cache by a saved one; gives the note.
    ///
    /// # Errors
    /// When the file cannot be read any more; the cache is empty then.
    pub fn restore(&mut self, saved: SavedSession) -> Result<Vec<u8>, RuntimeError> {
        self.clear();
        saved.0.read(self.scheduler.context_mut(), &mut self.seq)
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
