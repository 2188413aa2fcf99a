//! A file that grows while the work goes on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::target::Target;
use crate::{FileError, Output, WriteOptions, sys};

/// A file that gains a piece at a time and ends with a whole one: what was paid for stays, whatever ends the program.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// A regular file, and its length up to the last whole piece.
    File { file: File, whole: u64 },
    /// A device or pipe.
    Through(Output),
}

impl Log {
    /// Checks that `path` can be written to as `options` say, and changes nothing.
    ///
    /// # Errors
    /// As [`Output::create`].
    pub fn check(path: &Path, options: &WriteOptions) -> Result<(), FileError> {
        Output::create(path, options).map(drop)
    }

    /// Opens `path`, of which the first `keep` bytes stay.
    ///
    /// # Errors
    /// As [`Output::create`].
    pub fn open(path: &Path, options: &WriteOptions, keep: u64) -> Result<Self, FileError> {
        let output = Output::create(path, options)?;
        let sink = if output.is_written_through() {
            Sink::Through(output)
        } else {
            drop(output);
            let failed = FileError::open(path);
            let (Target::Missing(full) | Target::Regular(full, _)) = Target::find(path)? else {
                return Err(failed(std::io::Error::other("it was replaced by something else just now")));
            };
            let file = File::options().append(true).create(true).open(full).and_then(|file| {
                file.set_len(keep)?;
                Ok(file)
            });
            Sink::File { file: file.map_err(failed)?, whole: keep }
        };
        Ok(Self { path: path.to_owned(), sink })
    }

    /// Adds a piece, whole or not at all.
    ///
    /// # Errors
    /// [`FileError::Append`], or as [`Output::put`].
    pub fn append(&mut self, piece: &[u8]) -> Result<(), FileError> {
        match &mut self.sink {
            Sink::Through(output) => output.put(piece),
            Sink::File { file, whole } => {
                let end = whole.saturating_add(piece.len() as u64);
                // Beyond its limit, a process is ended by the system before it can clean up.
                let is_allowed = sys::size_limit().is_none_or(|limit| end <= limit);
                let written = if is_allowed { file.write_all(piece) } else { Err(sys::too_large()) };
                if let Err(error) = written {
                    // What could be written of it, on a disk that is full, is no piece.
                    let _ = file.set_len(*whole);
                    return Err(FileError::Append { path: self.path.clone(), error });
                }
                *whole = end;
                Ok(())
            }
        }
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    /// [`FileError::Append`].
    pub fn sync(&mut self) -> Result<(), FileError> {
        match &self.sink {
            Sink::Through(_) => Ok(()),
            Sink::File { file, .. } => {
                file.sync_data().map_err(|error| FileError::Append { path: self.path.clone(), error })
            }
        }
    }
}
