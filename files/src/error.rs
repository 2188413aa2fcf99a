//! What can go wrong with an output.

use std::path::{Path, PathBuf};

/// Why a file cannot be written. Nothing is left behind, and what stood there is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file is there already and may not be replaced.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file of another kind is there.
    #[error("{} exists and is not {expected}; choose another name", path.display())]
    OtherKind {
        /// The file.
        path: PathBuf,
        /// What could be replaced, with its article.
        expected: &'static str,
    },
    /// The output is one of the inputs.
    #[error("cannot write to {}: it is the same file as the input {}; choose another output", output.display(), input.display())]
    Input {
        /// The output.
        output: PathBuf,
        /// The input.
        input: PathBuf,
    },
    /// Two outputs of one command are the same file.
    #[error("cannot write both {} and {}: they are the same file; choose another name", first.display(), second.display())]
    Twice {
        /// One output.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A folder where a file should be.
    #[error("cannot write to {}: it is a folder; give the name of a file", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of the output is missing.
    #[error("cannot write {}: the folder {} does not exist; make it first", path.display(), folder.display())]
    NoFolder {
        /// The output.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// A file whose permissions forbid writing.
    #[error("{} is write-protected; change its permissions or choose another name", path.display())]
    Protected {
        /// The file.
        path: PathBuf,
    },
    /// A disk, not a file on it.
    #[error("{} is a disk, and writing to it would destroy what it holds; choose a file", path.display())]
    Disk {
        /// The block device.
        path: PathBuf,
    },
    /// Something else appeared under the name while the output was being written.
    #[error("{} was replaced by something that is not a file; nothing was written", path.display())]
    Changed {
        /// The output.
        path: PathBuf,
    },
    /// The temporary file cannot be made.
    #[error("cannot write {}: cannot create a file in {}: {error}", path.display(), folder.display())]
    Create {
        /// The output.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The path cannot be followed, or what it names cannot be opened.
    #[error("cannot write {}: {error}", path.display())]
    Open {
        /// The output.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// Writing failed; the unfinished file is gone.
    #[error("cannot write {}: {error}; nothing was left behind", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// Adding to a file that grows failed; what was whole stays.
    #[error("cannot add to {}: {error}; what was written before is kept", path.display())]
    Append {
        /// The output.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// Writing to a device, pipe or socket failed.
    #[error("cannot write to {}: {error}", path.display())]
    Through {
        /// The output.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// Not enough room for the result.
    #[error(
        "{} has {available} bytes free, the result needs {needed}; free some space or choose another folder",
        folder.display()
    )]
    NoSpace {
        /// The folder of the output.
        folder: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// The program was told to stop.
    #[error("interrupted; {} was not written", path.display())]
    Interrupted {
        /// The output.
        path: PathBuf,
    },
}

impl FileError {
    /// The error that [`std::io::Write`] of an [`crate::Output`] wrapped, where `error` is one.
    ///
    /// # Errors
    /// `error` itself where it is of other origin.
    pub fn unwrap(error: std::io::Error) -> Result<Self, std::io::Error> {
        error.downcast::<Self>()
    }

    pub(crate) fn open(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Open { path, error }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Write { path, error }
    }

    /// As an error of [`std::io::Write`], with the kind it had.
    pub(crate) fn into_io(self) -> std::io::Error {
        let kind = match &self {
            Self::Write { error, .. }
            | Self::Append { error, .. }
            | Self::Through { error, .. }
            | Self::Open { error, .. } => error.kind(),
            // Not `Interrupted`, which callers take as a request to try again.
            _ => std::io::ErrorKind::Other,
        };
        let kind = if kind == std::io::ErrorKind::Interrupted { std::io::ErrorKind::Other } else { kind };
        std::io::Error::new(kind, self)
    }
}
