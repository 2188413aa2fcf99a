//! The one way in which this program writes files.
//!
//! ```text
//! Inputs        what the command reads
//!    │
//! WriteOptions  + what may be replaced, and who may read the result
//!    │
//! Output        the path is followed to what it really is:
//!    ├── nothing, or a regular file   written under a temporary name beside it, flushed, renamed by `commit`
//!    └── device, pipe, socket         written through, as it comes
//! ```
//!
//! * An output that is one of the inputs, under whatever name, is refused before any work is done.
//! * An existing file is replaced only as [`Replace`] allows; that is checked at the start and again at the end. An
//!   empty file has nothing to lose and is always replaced.
//! * Symbolic links are followed and stay links. A replaced file keeps its permissions. Its other hard links keep the
//!   old content.
//! * Until [`Output::commit`], dropping an output removes what was written. A handler of signals calls
//!   [`interrupt`] at the first signal and [`remove_unfinished`] before it ends the process.
//! * Temporary files are locked as long as their process lives. Unlocked ones were left by a killed process and are
//!   removed when the next output in that folder is opened.
#![forbid(unsafe_code)]

mod error;
mod folder;
mod inputs;
mod log;
mod output;
mod space;
mod sys;
mod target;
mod temporary;

pub use error::FileError;
pub use folder::NewFolder;
pub use inputs::Inputs;
pub use log::Log;
pub use output::{FileKind, Output, Replace, WriteOptions, commit_all, write_file};
pub use space::check_space;
pub use temporary::{TemporaryFolder, interrupt, remove_unfinished};

use std::path::Path;

/// The folder a path lies in; `.` for a bare file name.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
