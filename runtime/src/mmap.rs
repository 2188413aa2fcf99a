//! Model files in memory: mapped, or read whole into memory of large pages.
//!
//! This is the only file of the crate with `unsafe`: creating a mapping is unsafe because another process could
//! truncate or rewrite the file underneath it. Everything above sees plain `&[u8]`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use memmap2::{Advice, Mmap, MmapOptions};

use crate::identity::{self, IdentityCache, Stamp};
use crate::{RuntimeError, memory};

/// How the bytes of a model file come into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOptions {
    /// Map the file instead of reading it (llama.cpp's `--no-mmap` turns this off).
    pub mmap: bool,
    /// Fault every page in before returning (`MAP_POPULATE`); otherwise the kernel is only advised to read ahead.
    pub populate: bool,
    /// Lock the pages so that they are never swapped or dropped (`--mlock`).
    pub mlock: bool,
    /// Where hashes of whole files are remembered; `None`: they are computed each time they are wanted.
    pub identities: Option<&'static IdentityCache>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { mmap: true, populate: false, mlock: false, identities: None }
    }
}

/// The bytes of one file, for as long as any model uses them.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    bytes: Bytes,
    file: File,
    /// State of the file when it was opened.
    opened: Option<Stamp>,
    identities: Option<&'static IdentityCache>,
    identity: OnceLock<[u8; 32]>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    /// A mapping without a file: aligned for every type a GGUF tensor holds.
    Read(Mmap),
}

impl ModelFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// When it cannot be opened, is no regular file or is empty, when memory for a copy is missing, or when
    /// `mlock` is refused by the system.
    pub fn open(path: &Path, options: FileOptions) -> Result<Self, RuntimeError> {
        let io = |source| RuntimeError::Open { path: path.to_owned(), source };
        // Looked at before it is opened: a pipe without a writer would be waited for.
        if !path.metadata().map_err(io)?.is_file() {
            return Err(RuntimeError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(RuntimeError::NotAFile { path: path.to_owned() });
        }
        if meta.len() == 0 {
            return Err(RuntimeError::EmptyFile { path: path.to_owned() });
        }
        let opened = identity::stamp(&file);
        let bytes = if options.mmap { map(&file, options).map_err(io)? } else { read(&file, path, meta.len())? };
        let (path, identities) = (path.to_owned(), options.identities);
        let file = Self { path, bytes, file, opened, identities, identity: OnceLock::new() };
        if options.mlock {
            file.lock()?;
        }
        Ok(file)
    }

    /// Where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) | Bytes::Read(map) => map,
        }
    }

    /// A BLAKE3 hash of all bytes, computed when it is first asked for, by all cores, unless it is remembered.
    ///
    /// # Errors
    /// [`RuntimeError::Changing`] when somebody writes to the file.
    pub fn identity(&self) -> Result<[u8; 32], RuntimeError> {
        if let Some(known) = self.identity.get() {
            return Ok(*known);
        }
        let now = identity::stamp(&self.file);
        let hash = match &self.bytes {
            // A mapping shows what the file has become, of which nothing was computed.
            Bytes::Mapped(_) if identity::written_between(self.opened.as_ref(), now.as_ref()) => {
                return Err(RuntimeError::Changing { path: self.path.clone() });
            }
            Bytes::Mapped(map) => identity::of_bytes(&self.path, map, || identity::stamp(&self.file), self.identities)?,
            // What was read stays as it is; it is what the file's times tell of only where they have not moved since.
            Bytes::Read(map) => {
                let unchanged = now == self.opened;
                identity::of_bytes(&self.path, map, || self.opened, self.identities.filter(|_| unchanged))?
            }
        };
        Ok(*self.identity.get_or_init(|| hash))
    }

    /// Whether the bytes are a mapping of the file.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    fn lock(&self) -> Result<(), RuntimeError> {
        match &self.bytes {
            Bytes::Mapped(map) => map.lock().map_err(|source| RuntimeError::Mlock { path: self.path.clone(), source }),
            Bytes::Read(_) => Err(RuntimeError::MlockWithoutMmap),
        }
    }
}

fn map(file: &File, options: FileOptions) -> std::io::Result<Bytes> {
    let mut how = MmapOptions::new();
    if options.populate {
        how.populate();
    }
    // SAFETY: the mapping is read-only and the caller's file was checked above to be a regular file. That nobody
    // truncates or rewrites it while the program runs is the documented condition of use, the same as for every
    // program that maps model files.
    let map = unsafe { how.map(file)? };
    // Weights are read from end to end for every token, and small pages cost a translation each. File systems that keep
    // files in large pieces (ext4 and XFS of newer kernels) then read them so, and map them as large pages.
    #[cfg(target_os = "linux")]
    let _ = map.advise(Advice::HugePage);
    if !options.populate {
        // Advice only: a kernel without it pages the file in on first use.
        let _ = map.advise(Advice::WillNeed);
    }
    Ok(Bytes::Mapped(map))
}

fn read(mut file: &File, path: &Path, len: u64) -> Result<Bytes, RuntimeError> {
    const REMEDY: &str = "leave --no-mmap out";
    let what = || format!("{} read as a whole", path.display());
    memory::check_or(what(), Some(len), REMEDY)?;
    let too_large = || memory::too_little(what(), len, REMEDY);
    let size = usize::try_from(len).map_err(|_| too_large())?;
    let mut map = MmapOptions::new().len(size).map_anon().map_err(|_| too_large())?;
    // Weights are read from end to end for every token: with pages of 4 KiB that costs a translation for each. Advice only,
    // and only memory without a file can have large pages everywhere.
    #[cfg(target_os = "linux")]
    let _ = map.advise(Advice::HugePage);
    let io = |source| RuntimeError::Open { path: path.to_owned(), source };
    file.read_exact(&mut map).map_err(io)?;
    Ok(Bytes::Read(map.make_read_only().map_err(io)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.bin");
        std::fs::write(&path, (0..1001u32).map(|i| i as u8).collect::<Vec<_>>()).unwrap();
        (dir, path)
    }

    #[test]
    fn mapped_and_read_hold_the_same_bytes() {
        let (_dir, path) = sample();
        let mapped = ModelFile::open(&path, FileOptions::default()).unwrap();
        let populated = ModelFile::open(&path, FileOptions { populate: true, ..FileOptions::default() }).unwrap();
        let read = ModelFile::open(&path, FileOptions { mmap: false, ..FileOptions::default() }).unwrap();
        assert!(mapped.is_mapped() && populated.is_mapped() && !read.is_mapped());
        assert_eq!(mapped.bytes().len(), 1001);
        assert_eq!(mapped.bytes(), read.bytes());
        assert_eq!(populated.bytes(), read.bytes());
        assert_eq!(read.bytes().as_ptr() as usize % 8, 0);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let (dir, path) = sample();
        let missing = ModelFile::open(&dir.path().join("nothing"), FileOptions::default()).unwrap_err();
        assert!(missing.to_string().contains("nothing"), "{missing}");
        let folder = ModelFile::open(dir.path(), FileOptions::default()).unwrap_err();
        assert!(matches!(folder, RuntimeError::NotAFile { .. }), "{folder}");
        std::fs::write(&path, b"").unwrap();
        let empty = ModelFile::open(&path, FileOptions::default()).unwrap_err();
        assert!(matches!(empty, RuntimeError::EmptyFile { .. }), "{empty}");
    }

    #[test]
    fn locking_needs_a_mapping() {
        let (_dir, path) = sample();
        let error =
            ModelFile::open(&path, FileOptions { mmap: false, mlock: true, ..FileOptions::default() }).unwrap_err();
        assert!(matches!(error, RuntimeError::MlockWithoutMmap), "{error}");
    }
}
