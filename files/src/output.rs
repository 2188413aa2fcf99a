//! A file under construction, or what is written through.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempPath;

use crate::inputs::FileId;
use crate::target::Target;
use crate::temporary::{Registry, TemporaryFile, interruptions};
use crate::{FileError, Inputs, folder_of, sys};

/// Time between two looks at whether to go on waiting for the other end of a pipe.
const LOOK: Duration = Duration::from_millis(50);

/// A kind of file, known by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileKind {
    /// What such a file is called, with its article: `a saved conversation`.
    pub name: &'static str,
    /// How it begins.
    pub magic: &'static [u8],
}

/// Which existing regular files may be replaced. Empty ones always may, inputs never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// None.
    Never,
    /// All: the user said so, or the folder is the program's own.
    Always,
    /// Those of a kind, such as an earlier state of the same thing.
    Only(FileKind),
}

impl Replace {
    /// [`Replace::Always`] where `overwrite`, else [`Replace::Never`].
    #[must_use]
    pub const fn if_told(overwrite: bool) -> Self {
        if overwrite { Self::Always } else { Self::Never }
    }
}

/// How outputs of one command are written.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    inputs: Inputs,
    replace: Replace,
    private: bool,
    sync: bool,
}

impl WriteOptions {
    /// Outputs beside `inputs`, which they must not be.
    #[must_use]
    pub const fn new(inputs: Inputs, replace: Replace) -> Self {
        Self { inputs, replace, private: false, sync: true }
    }

    /// Makes new files readable by their owner only, also while they are temporary.
    #[must_use]
    pub const fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Leaves it to the system when the content reaches the disk: for caches, which check what they read.
    #[must_use]
    pub const fn unsynced(mut self) -> Self {
        self.sync = false;
        self
    }

    /// Fails unless the regular file `target`, which the user calls `path`, may be replaced.
    fn check(&self, path: &Path, target: &Path, meta: &Metadata) -> Result<(), FileError> {
        self.check_apart(path, &FileId::from_meta(target, meta))?;
        if !sys::may_replace(target, meta) {
            return Err(FileError::Protected { path: path.to_owned() });
        }
        if meta.len() == 0 {
            return Ok(());
        }
        match self.replace {
            Replace::Always => Ok(()),
            Replace::Never => Err(FileError::Exists { path: path.to_owned() }),
            Replace::Only(kind) => {
                let mut start = Vec::new();
                let limit = kind.magic.len() as u64;
                let read = File::open(target).and_then(|file| file.take(limit).read_to_end(&mut start));
                read.map_err(FileError::open(path))?;
                let fits = start == kind.magic;
                if fits { Ok(()) } else { Err(FileError::OtherKind { path: path.to_owned(), expected: kind.name }) }
            }
        }
    }

    fn check_apart(&self, path: &Path, id: &FileId) -> Result<(), FileError> {
        match self.inputs.name_of(id) {
            Some(input) => Err(FileError::Input { output: path.to_owned(), input: input.to_owned() }),
            None => Ok(()),
        }
    }
}

/// A file that appears at its place on [`Output::commit`], or a device, pipe or socket that is written to directly.
///
/// Dropped without a commit, a file leaves nothing, and what it was to replace stays. Errors of [`Write`] hold a
/// [`FileError`], which [`FileError::unwrap`] takes out again.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    options: WriteOptions,
    sink: Sink,
    written: u64,
    limit: u64,
    interruptions: u64,
}

#[derive(Debug)]
enum Sink {
    /// A regular file, to appear at `target`.
    Beside { temporary: TemporaryFile, target: PathBuf },
    /// What is no regular file.
    Through(File),
    /// A named pipe from which nobody reads yet.
    Waiting(PathBuf),
}

impl Output {
    /// Opens one output.
    ///
    /// # Errors
    /// Where `path` leads to something that cannot or must not be written to: see [`FileError`].
    pub fn create(path: &Path, options: &WriteOptions) -> Result<Self, FileError> {
        let sink = match Target::find(path)? {
            Target::Missing(target) => Sink::beside(path, target, None, options)?,
            Target::Regular(target, meta) => {
                options.check(path, &target, &meta)?;
                Sink::beside(path, target, Some(&meta), options)?
            }
            Target::Descriptor(full) => {
                if let Some(id) = FileId::of(&full) {
                    options.check_apart(path, &id)?;
                }
                Sink::Through(sys::open_descriptor(&full).map_err(FileError::open(path))?)
            }
            // The reader may come later, and must not wait for ever if this program fails before it writes: a pipe
            // that has one is opened now.
            Target::Fifo(full) => match sys::open_fifo(&full).map_err(FileError::open(path))? {
                Some(file) => Sink::Through(file),
                None => Sink::Waiting(full),
            },
            Target::Socket(full) => Sink::Through(sys::open_socket(&full).map_err(FileError::open(path))?),
            Target::Device(full) => Sink::Through(sys::open_device(&full).map_err(FileError::open(path))?),
            Target::Disk(full) => {
                if let Some(id) = FileId::of(&full) {
                    options.check_apart(path, &id)?;
                }
                if options.replace != Replace::Always {
                    return Err(FileError::Disk { path: path.to_owned() });
                }
                Sink::Through(sys::open_device(&full).map_err(FileError::open(path))?)
            }
        };
        Ok(Self {
            path: path.to_owned(),
            options: options.clone(),
            sink,
            written: 0,
            limit: sys::size_limit().unwrap_or(u64::MAX),
            interruptions: interruptions(),
        })
    }

    /// Opens all outputs of a command, which must differ from each other.
    ///
    /// # Errors
    /// As [`Output::create`], and [`FileError::Twice`]; nothing is left then.
    pub fn create_all<P: AsRef<Path>>(paths: &[P], options: &WriteOptions) -> Result<Vec<Self>, FileError> {
        let mut outputs: Vec<Self> = Vec::with_capacity(paths.len());
        for path in paths {
            let output = Self::create(path.as_ref(), options)?;
            if let Some(other) = outputs.iter().find(|other| output.is_same_file(other)) {
                return Err(FileError::Twice { first: other.path.clone(), second: output.path });
            }
            outputs.push(output);
        }
        Ok(outputs)
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether bytes go to a device, pipe or socket at once, rather than to a file that appears at the end.
    #[must_use]
    pub const fn is_written_through(&self) -> bool {
        !matches!(self.sink, Sink::Beside { .. })
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// [`FileError::Write`], [`FileError::Through`] or [`FileError::Interrupted`].
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.write_all(bytes).map_err(|e| as_file_error(&self.path, e))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// As [`commit_all`].
    pub fn commit(self) -> Result<(), FileError> {
        commit_all(vec![self])
    }

    /// Whether both will be, or be written to, the same file.
    fn is_same_file(&self, other: &Self) -> bool {
        match (&self.sink, &other.sink) {
            (Sink::Beside { target: a, .. }, Sink::Beside { target: b, .. }) => {
                a == b || FileId::of(a).is_some_and(|id| FileId::of(b) == Some(id))
            }
            _ => false,
        }
    }

    /// The real folder of a file that is to appear.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.sink {
            Sink::Beside { target, .. } => Some(folder_of(target)),
            _ => None,
        }
    }

    fn failed(&self, error: std::io::Error) -> std::io::Error {
        let path = self.path.clone();
        match self.sink {
            Sink::Beside { .. } => FileError::Write { path, error },
            _ => FileError::Through { path, error },
        }
        .into_io()
    }

    /// Goes on waiting for the other end of a pipe, unless the program was told to stop meanwhile.
    fn go_on(&self) -> std::io::Result<()> {
        if interruptions() == self.interruptions {
            return Ok(());
        }
        Err(FileError::Interrupted { path: self.path.clone() }.into_io())
    }

    /// The open pipe, once somebody reads from it.
    fn connect(&mut self) -> std::io::Result<()> {
        while let Sink::Waiting(path) = &self.sink {
            match sys::open_fifo(path) {
                Ok(Some(file)) => self.sink = Sink::Through(file),
                Ok(None) => {
                    self.go_on()?;
                    std::thread::sleep(LOOK);
                }
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(())
    }
}

impl Sink {
    fn beside(path: &Path, target: PathBuf, old: Option<&Metadata>, options: &WriteOptions) -> Result<Self, FileError> {
        let folder = folder_of(&target);
        let failed = |error| FileError::Create { path: path.to_owned(), folder: folder.to_owned(), error };
        // What replaces a file must not be open to more readers than that while it is temporary.
        let temporary = TemporaryFile::new(folder, options.private || old.is_some()).map_err(failed)?;
        if let Some(old) = old {
            sys::take_over(temporary.file(), old).map_err(failed)?;
        }
        Ok(Self::Beside { temporary, target })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.connect()?;
        let done = match &self.sink {
            Sink::Beside { temporary, .. } => {
                // Beyond its limit, a process is ended by the system before it can clean up.
                let room = self.limit.saturating_sub(self.written);
                if room == 0 && !bytes.is_empty() {
                    Err(sys::too_large())
                } else {
                    let n = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
                    temporary.file().write(bytes.get(..n).unwrap_or(bytes))
                }
            }
            Sink::Through(file) => {
                while !sys::wait_for_room(file, LOOK).map_err(|e| self.failed(e))? {
                    self.go_on()?;
                }
                let mut file = file;
                file.write(bytes.get(..sys::PIPE_BUF).unwrap_or(bytes))
            }
            Sink::Waiting(_) => Err(ErrorKind::NotConnected.into()),
        };
        match done {
            Ok(n) => {
                self.written += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Err(e),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes `bytes` as the whole content of `path`.
///
/// # Errors
/// As [`Output::create`] and [`commit_all`].
pub fn write_file(path: &Path, bytes: &[u8], options: &WriteOptions) -> Result<(), FileError> {
    let mut output = Output::create(path, options)?;
    output.put(bytes)?;
    output.commit()
}

fn as_file_error(path: &Path, error: std::io::Error) -> FileError {
    FileError::unwrap(error).unwrap_or_else(FileError::write(path))
}

/// A file that got its name, and how to take that back.
struct Named {
    target: PathBuf,
    before: Before,
    sync: bool,
}

/// What had the name before.
enum Before {
    Nothing,
    /// A file that has the temporary name now, until all is done.
    Kept(TempPath),
    /// A file that is gone.
    Replaced,
}

/// Flushes every file to disk, then gives all of them their names. If one cannot have its name, none does.
///
/// # Errors
/// [`FileError::Write`], or those of [`Output::create`] where what stands at a place has changed since.
pub fn commit_all(mut outputs: Vec<Output>) -> Result<(), FileError> {
    for output in &mut outputs {
        // A pipe that nothing was written to still tells its reader so.
        output.connect().map_err(|e| as_file_error(&output.path, e))?;
        if let Sink::Beside { temporary, .. } = &output.sink
            && output.options.sync
        {
            temporary.file().sync_all().map_err(FileError::write(&output.path))?;
        }
    }
    let several = outputs.len() > 1;
    // Entries of the registry must not be dropped while it is locked, nor a file unlocked before it has its name.
    let mut kept = Vec::new();
    let mut named: Vec<Named> = Vec::new();
    let mut failed = None;
    {
        let registry = Registry::lock();
        for output in outputs {
            let Output { path, options, sink, .. } = output;
            let Sink::Beside { temporary, target } = sink else { continue };
            let (file, temporary, entry) = temporary.into_parts();
            kept.push((file, entry));
            if registry.is_closed() {
                failed = Some(FileError::Interrupted { path });
            } else if failed.is_none() {
                match rename(&path, temporary, &target, &options, several) {
                    Ok(done) => named.push(done),
                    Err(e) => failed = Some(e),
                }
            }
        }
        if failed.is_some() {
            named.drain(..).rev().for_each(Named::undo);
        }
    }
    let folders: BTreeSet<_> = named.iter().filter(|n| n.sync).map(|n| folder_of(&n.target)).collect();
    folders.into_iter().for_each(sys::sync_folder);
    failed.map_or(Ok(()), Err)
}

/// Gives `temporary` the name `target`, if what has it may be replaced.
fn rename(
    path: &Path,
    mut temporary: TempPath,
    target: &Path,
    options: &WriteOptions,
    keep_old: bool,
) -> Result<Named, FileError> {
    let named = |before| Named { target: target.to_owned(), before, sync: options.sync };
    loop {
        match target.symlink_metadata() {
            Ok(meta) if meta.is_file() => options.check(path, target, &meta)?,
            Ok(_) => return Err(FileError::Changed { path: path.to_owned() }),
            Err(e) if e.kind() == ErrorKind::NotFound => match temporary.persist_noclobber(target) {
                Ok(()) => return Ok(named(Before::Nothing)),
                Err(e) if e.error.kind() == ErrorKind::AlreadyExists => {
                    // Somebody was faster, and what they made decides.
                    temporary = e.path;
                    continue;
                }
                Err(e) => return Err(FileError::write(path)(e.error)),
            },
            Err(e) => return Err(FileError::write(path)(e)),
        }
        if keep_old && sys::exchange(&temporary, target).is_ok() {
            return Ok(named(Before::Kept(temporary)));
        }
        return match temporary.persist(target) {
            Ok(()) => Ok(named(Before::Replaced)),
            Err(e) => Err(FileError::write(path)(e.error)),
        };
    }
}

impl Named {
    /// Best effort: the error that is reported is the one that matters.
    fn undo(self) {
        match self.before {
            // The new file gets the temporary name back, and goes with it.
            Before::Kept(old) => drop(sys::exchange(&old, &self.target)),
            Before::Nothing => drop(std::fs::remove_file(&self.target)),
            // The file system cannot exchange names.
            Before::Replaced => {}
        }
    }
}
