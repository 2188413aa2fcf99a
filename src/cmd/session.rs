//! Session files of `chat` and `run`: what may go on, and when a conversation is saved.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use ocelli_engine::{Chat, SavedChat};
use ocelli_runtime::RuntimeError;

use super::vision::Vision;
use crate::sink::errln;

/// Bytes of keys and values that are saved after every turn, at most: what a laptop writes in about a quarter of a second.
/// The whole cache is saved at the end.
const EVERY_TURN: u64 = 64 << 20;

/// Refuses a name that no file can be saved under, before there is anything to lose.
pub(crate) fn check_name(path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("session {}: the folder {} does not exist; create it first", path.display(), folder.display());
    }
    if path.exists() && !path.is_file() {
        bail!("session {}: is not a regular file; give another name", path.display());
    }
    Ok(())
}

/// Goes on with a conversation, if its pictures come from the vision file in use.
pub(crate) fn resume(chat: &mut Chat, saved: SavedChat, path: &Path, vision: &mut Vision) -> anyhow::Result<()> {
    if saved.has_images() {
        let found = vision.identity().with_context(|| format!("session {} shows pictures", path.display()))?;
        if !saved.images_are_of(&found) {
            bail!(
                "session {}: its pictures were encoded by another vision file; start with the one it was saved with",
                path.display()
            );
        }
    }
    Ok(chat.resume(saved)?)
}

/// Keeps a conversation in its file: after every turn, and with its whole cache at the end.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: Option<PathBuf>,
    /// State of the conversation that is in the file; see [`Chat::changes`].
    saved: u64,
    /// Whether all of its cache is there, too.
    whole: bool,
    /// Whether anything was written.
    wrote: bool,
    failed: Option<RuntimeError>,
}

impl Keeper {
    /// For a conversation as it stands, which needs no saving.
    pub(crate) fn new(path: Option<PathBuf>, chat: &Chat) -> Self {
        Self { path, saved: chat.changes(), whole: true, wrote: false, failed: None }
    }

    /// Keeps the conversation in another file from now on, which holds it as it stands.
    pub(crate) fn move_to(&mut self, path: &Path, chat: &Chat) -> bool {
        let moves = self.path.is_some();
        if moves {
            *self = Self::new(Some(path.to_owned()), chat);
        }
        moves
    }

    /// Saves what has changed. A failure is told; the conversation goes on, and the next turn tries again.
    pub(crate) fn after_turn(&mut self, chat: &Chat) {
        if chat.changes() != self.saved {
            self.save(chat, EVERY_TURN);
        }
        if let Some(error) = &self.failed {
            errln!("ocelli: warning: the conversation is not saved: {error}");
        }
    }

    /// Saves what is not in the file yet; gives the file if anything was ever written to it.
    ///
    /// # Errors
    /// When the conversation is not saved.
    pub(crate) fn finish(&mut self, chat: &Chat) -> anyhow::Result<Option<&Path>> {
        // Messages first: whoever sent a signal may not wait for a large cache.
        if chat.changes() != self.saved {
            self.save(chat, EVERY_TURN);
        }
        if self.failed.is_none() && !self.whole {
            self.save(chat, u64::MAX);
        }
        match self.failed.take() {
            Some(error) => Err(error).context("the conversation is not saved"),
            None => Ok(self.path.as_deref().filter(|_| self.wrote)),
        }
    }

    fn save(&mut self, chat: &Chat, cache_bytes: u64) {
        let Some(path) = &self.path else { return };
        match save(chat, path, cache_bytes) {
            Ok(()) => {
                (self.saved, self.wrote, self.failed) = (chat.changes(), true, None);
                self.whole = cached_bytes(chat) <= cache_bytes;
            }
            Err(error) => self.failed = Some(error),
        }
    }
}

/// Bytes of keys and values of a conversation.
fn cached_bytes(chat: &Chat) -> u64 {
    let per_token = chat.session().context().kv_shape().bytes_per_position().unwrap_or(u64::MAX);
    per_token.saturating_mul(chat.session().tokens().len() as u64)
}

/// The one place where conversations are written.
pub(crate) fn save(chat: &Chat, path: &Path, cache_bytes: u64) -> Result<(), RuntimeError> {
    chat.save_within(path, cache_bytes)
}
