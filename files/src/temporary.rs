//! Temporary files and folders: found again by whoever must remove them.
//!
//! Names are `.ocelli-`, six letters or digits, `.partial`. A living process holds a lock on each of its own, so one
//! whose lock is free was left behind by a process that was killed. All are listed in a registry too, from which
//! [`remove_unfinished`] clears them when the process is ended without unwinding.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{NamedTempFile, TempDir, TempPath};

use crate::sys;

const PREFIX: &str = ".ocelli-";
const SUFFIX: &str = ".partial";
const RANDOM: usize = 6;

/// Attempts to make a file before a cleaner removes it again.
const ATTEMPTS: usize = 16;

static REGISTRY: Mutex<Registry> = Mutex::new(Registry::new());

static INTERRUPTIONS: AtomicU64 = AtomicU64::new(0);

/// What this process has under temporary names.
#[derive(Debug)]
pub(crate) struct Registry {
    /// No name may be taken or given any more: the process is ending.
    closed: bool,
    next: u64,
    live: BTreeMap<u64, PathBuf>,
    /// Folders that were searched for leftovers.
    swept: Vec<PathBuf>,
}

impl Registry {
    const fn new() -> Self {
        Self { closed: false, next: 0, live: BTreeMap::new(), swept: Vec::new() }
    }

    pub(crate) fn lock() -> MutexGuard<'static, Self> {
        REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn add(&mut self, path: &Path) -> u64 {
        self.next += 1;
        self.live.insert(self.next, path.to_owned());
        self.next
    }
}

/// Ends the waiting for readers of pipes. For handlers of signals; work is interrupted by other means.
pub fn interrupt() {
    INTERRUPTIONS.fetch_add(1, Ordering::Relaxed);
}

/// How often [`interrupt`] was called.
pub(crate) fn interruptions() -> u64 {
    INTERRUPTIONS.load(Ordering::Relaxed)
}

/// Removes everything that is not complete. For handlers of signals, right before they end the process: from now on
/// nothing can be created or completed.
pub fn remove_unfinished() {
    let mut registry = Registry::lock();
    registry.closed = true;
    for path in std::mem::take(&mut registry.live).into_values() {
        remove(&path);
    }
}

fn remove(path: &Path) {
    // Other threads may still be putting files into a folder.
    for _ in 0..ATTEMPTS {
        let removed = match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
            Ok(_) => std::fs::remove_file(path),
            Err(_) => return,
        };
        if removed.is_ok() {
            return;
        }
    }
}

fn stopping() -> Error {
    Error::other("the program is ending")
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
    builder
}

/// A file with a temporary name; dropping it removes it.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    file: NamedTempFile,
    entry: Entry,
}

impl TemporaryFile {
    /// Makes a file in `folder`, for its owner only where `private`, both within the process's mask.
    pub(crate) fn new(folder: &Path, private: bool) -> Result<Self> {
        sweep(folder);
        let mut registry = Registry::lock();
        if registry.closed {
            return Err(stopping());
        }
        let mut builder = builder();
        #[cfg(unix)]
        builder.permissions(sys::permissions(private));
        #[cfg(not(unix))]
        let _ = private;
        for _ in 0..ATTEMPTS {
            let file = builder.tempfile_in(folder)?;
            if hold(file.as_file(), file.path()) {
                let entry = Entry(registry.add(file.path()));
                return Ok(Self { file, entry });
            }
        }
        Err(Error::from(ErrorKind::ResourceBusy))
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The locked file, its name, and what keeps it in the registry. The file must stay open until it has been renamed.
    pub(crate) fn into_parts(self) -> (File, TempPath, Entry) {
        let (file, path) = self.file.into_parts();
        (file, path, self.entry)
    }
}

/// A folder with a temporary name, which goes with everything in it when it is dropped.
#[derive(Debug)]
pub struct TemporaryFolder {
    folder: TempDir,
    _lock: Option<File>,
    _entry: Entry,
}

impl TemporaryFolder {
    /// Makes a folder in `parent`.
    ///
    /// # Errors
    /// The system's, when it cannot be made.
    pub fn new(parent: &Path) -> Result<Self> {
        let parent = parent.canonicalize()?;
        sweep(&parent);
        let mut registry = Registry::lock();
        if registry.closed {
            return Err(stopping());
        }
        for _ in 0..ATTEMPTS {
            let folder = builder().tempdir_in(&parent)?;
            // A folder that cannot be locked is never taken for a leftover either.
            let lock = sys::open_to_lock(folder.path(), true).ok();
            if lock.as_ref().is_none_or(|lock| hold(lock, folder.path())) {
                let entry = Entry(registry.add(folder.path()));
                return Ok(Self { folder, _lock: lock, _entry: entry });
            }
        }
        Err(Error::from(ErrorKind::ResourceBusy))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A place in the registry, given up when dropped. Declared behind what it stands for, so that that is gone first.
#[derive(Debug)]
pub(crate) struct Entry(u64);

impl Drop for Entry {
    fn drop(&mut self) {
        Registry::lock().live.remove(&self.0);
    }
}

/// Locks `file`; `false` where a cleaner was faster and removed it.
fn hold(file: &File, path: &Path) -> bool {
    // Where there are no locks, cleaners get none either and leave the file alone.
    let _ = file.lock();
    is_at(file, path)
}

/// Whether `path` still names `file`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(named)) => sys::id(path, &open) == sys::id(path, &named),
        _ => false,
    }
}

/// Whether a file name is one of ours.
fn is_ours(name: &str) -> bool {
    let middle = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    middle.is_some_and(|middle| middle.len() == RANDOM && middle.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Removes what killed processes left in `folder`; once per folder. What cannot be removed stays: it harms nobody.
fn sweep(folder: &Path) {
    {
        let mut registry = Registry::lock();
        if registry.swept.iter().any(|swept| swept == folder) {
            return;
        }
        registry.swept.push(folder.to_owned());
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_ours) {
            remove_stale(&entry.path());
        }
    }
}

fn remove_stale(path: &Path) {
    let Ok(meta) = path.symlink_metadata() else { return };
    if !(meta.is_file() || meta.is_dir()) || !sys::is_mine(&meta) {
        return;
    }
    let Ok(file) = sys::open_to_lock(path, meta.is_dir()) else { return };
    if file.try_lock().is_ok() && is_at(&file, path) {
        let _ = if meta.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
}
