//! A file that grows while the work goes on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::target::Target;
use crate::{FileError, Output, WriteOptions};

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
    /// [`FileError::Write`], or as [`Output::put`].
    pub fn append(&mut self, piece: &[u8]) -> Result<(), FileError> {
        match &mut self.sink {
            Sink::Through(output) => output.put(piece),
            Sink::File { file, whole } => {
                if let Err(error) = file.write_all(piece) {
                    // What could be written of it, on a disk that is full, is no piece.
                    let _ = file.set_len(*whole);
                    return Err(FileError::Write { path: self.path.clone(), error });
                }
                *whole += piece.len() as u64;
                Ok(())
            }
        }
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn sync(&mut self) -> Result<(), FileError> {
        match &self.sink {
            Sink::Through(_) => Ok(()),
            Sink::File { file, .. } => {
                file.sync_data().map_err(|error| FileError::Write { path: self.path.clone(), error })
            }
        }
    }
}
