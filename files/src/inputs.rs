//! What a command reads, so that it is never written to.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use crate::sys;

/// Levels of folders that are searched in an input that is a folder.
const DEPTH: usize = 4;

/// A file, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileId(sys::Id);

impl FileId {
    /// The file at `path`, links followed, if it holds data that could be lost: regular files and disks.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        (meta.is_file() || sys::is_disk(&meta)).then(|| Self::from_meta(path, &meta))
    }

    pub(crate) fn from_meta(path: &Path, meta: &Metadata) -> Self {
        Self(sys::id(path, meta))
    }
}

/// The files that a command reads. No output may be one of them, under whatever name.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    files: Vec<(FileId, PathBuf)>,
}

impl Inputs {
    /// For what is written without reading any file, such as a cache.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The files at `paths`, all files in those that are folders, and the file that standard input comes from, if it
    /// comes from one. Paths where nothing is are passed over: whoever reads them will say so.
    #[must_use]
    pub fn of<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let mut inputs = Self::default();
        if let Some(id) = sys::standard_input() {
            inputs.files.push((FileId(id), PathBuf::from("standard input")));
        }
        for path in paths {
            inputs.add(path.as_ref());
        }
        inputs
    }

    /// Adds the file at `path`, or all files in that folder.
    pub fn add(&mut self, path: &Path) {
        self.add_where(path, &|_| true);
    }

    /// As [`Inputs::add`], with only those files of a folder of which `is_read` is true.
    pub fn add_where(&mut self, path: &Path, is_read: &dyn Fn(&Path) -> bool) {
        self.add_below(path, DEPTH, is_read);
    }

    fn add_below(&mut self, path: &Path, depth: usize, is_read: &dyn Fn(&Path) -> bool) {
        if let Some(id) = FileId::of(path) {
            self.files.push((id, path.to_owned()));
        } else if depth > 0 && path.is_dir() {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() || is_read(&path) {
                    self.add_below(&path, depth - 1, is_read);
                }
            }
        }
    }

    /// The name under which `id` is read, if it is.
    pub(crate) fn name_of(&self, id: &FileId) -> Option<&Path> {
        self.files.iter().find(|(input, _)| input == id).map(|(_, path)| path.as_path())
    }
}
