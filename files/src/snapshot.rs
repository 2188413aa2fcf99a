//! A file that is brought up to date again and again while the work goes on.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::inputs::FileId;
use crate::target::Target;
use crate::{FileError, Output, Replace, WriteOptions};

/// A file that holds the state of long work: every [`Snapshot::update`] replaces it as a whole. What it must not
/// replace when it is opened, it never replaces; its own earlier state it always may.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    options: WriteOptions,
    /// The file of the last update, unless it was moved or replaced by somebody else since.
    own: Option<Made>,
    /// A device or pipe, and how many bytes went there.
    through: Option<(Output, usize)>,
}

/// A file and when it was made: numbers of files that are gone are given again.
type Made = (FileId, Option<SystemTime>);

impl Snapshot {
    /// Checks that `path` can be written to as `options` say. A file is not made, nor replaced, before the first update.
    ///
    /// # Errors
    /// As [`Output::create`].
    pub fn open(path: &Path, options: WriteOptions) -> Result<Self, FileError> {
        let output = Output::create(path, &options)?;
        let through = output.is_written_through().then_some((output, 0));
        Ok(Self { path: path.to_owned(), options, own: None, through })
    }

    /// Makes `whole` the content of the file. A device or pipe gets what `whole` has more than the last time.
    ///
    /// # Errors
    /// As [`Output::create`] and [`Output::commit`]; the file is as it was before then.
    pub fn update(&mut self, whole: &[u8]) -> Result<(), FileError> {
        if let Some((output, sent)) = &mut self.through {
            let more = whole.get(*sent..).unwrap_or_default();
            output.put(more)?;
            *sent += more.len();
            return Ok(());
        }
        let is_own = self.own.is_some() && self.file() == self.own;
        let options = self.options.clone();
        let options = if is_own { options.replacing(Replace::Always) } else { options };
        let mut output = Output::create(&self.path, &options)?;
        output.put(whole)?;
        output.commit()?;
        self.own = self.file();
        Ok(())
    }

    /// The file that is there now.
    fn file(&self) -> Option<Made> {
        match Target::find(&self.path) {
            Ok(Target::Regular(path, meta)) => Some((FileId::from_meta(&path, &meta), meta.created().ok())),
            _ => None,
        }
    }
}
