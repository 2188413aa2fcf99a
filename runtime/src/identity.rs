//! Which bytes a model file holds: a BLAKE3 hash over all of them.
//!
//! What is kept beside a model (sessions, encoded pictures) is only right for the very file it was made with, so its
//! name is a hash of every byte: a file that somebody changed, anywhere, is another file. Hashing runs on all cores and
//! happens once per file: an [`IdentityCache`] remembers hashes by device, inode, size, and times of the last change.
//! The time of change (ctime) cannot be set back with `touch`, so a change that keeps size and modification time is
//! seen as well.
//!
//! The file of remembered hashes:
//!
//! ```text
//! "OCELLIID" | version u32 | records of 88 bytes, the oldest first, at most 512
//! record: device u64 | inode u64 | size u64 | mtime s i64 | ctime s i64 | mtime ns u32 | ctime ns u32
//!         hash, 32 bytes | first 8 bytes of BLAKE3 of all before
//! ```
//!
//! All numbers are little-endian. A damaged or foreign file counts as empty: the only loss is time.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};

use ocelli_files::{Inputs, Replace, WriteOptions, write_file};

use crate::{FileOptions, ModelFile, RuntimeError};

const MAGIC: &[u8; 8] = b"OCELLIID";
const VERSION: u32 = 1;
const HEAD_LEN: usize = 8 + 4;
const STAMP_LEN: usize = 5 * 8 + 2 * 4;
const RECORD_LEN: usize = STAMP_LEN + 32 + CHECK_LEN;
const CHECK_LEN: usize = 8;
const MAX_RECORDS: usize = 512;

/// A file changed within this many seconds may change again without its times showing it, so its hash is not kept.
const SETTLED_AFTER: i64 = 2;

/// Where and in which state a file is, as far as the system tells without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    bytes: [u8; STAMP_LEN],
    /// The later of the two times, in seconds.
    changed: i64,
}

impl Stamp {
    /// `None` where the system has no inodes; hashes are not remembered there.
    #[cfg(unix)]
    fn of(meta: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let mut bytes = Vec::with_capacity(STAMP_LEN);
        for word in [meta.dev(), meta.ino(), meta.size()] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for seconds in [meta.mtime(), meta.ctime()] {
            bytes.extend_from_slice(&seconds.to_le_bytes());
        }
        for nanos in [meta.mtime_nsec(), meta.ctime_nsec()] {
            bytes.extend_from_slice(&u32::try_from(nanos).unwrap_or(u32::MAX).to_le_bytes());
        }
        Some(Self { bytes: bytes.try_into().ok()?, changed: meta.mtime().max(meta.ctime()) })
    }

    #[cfg(not(unix))]
    fn of(_: &Metadata) -> Option<Self> {
        None
    }

    /// Size and time of modification. A file that is renamed or deleted keeps them, one that is written does not.
    fn content(&self) -> (&[u8], &[u8], &[u8]) {
        (&self.bytes[16..24], &self.bytes[24..32], &self.bytes[40..44])
    }

    /// Whether the last change is so long ago that another one would show.
    fn is_settled(&self) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.is_ok_and(|now| self.changed.saturating_add(SETTLED_AFTER) < now.as_secs().cast_signed())
    }
}

/// Whether a file was written between two looks at it.
pub(crate) fn written_between(before: Option<&Stamp>, after: Option<&Stamp>) -> bool {
    before.map(Stamp::content) != after.map(Stamp::content)
}

/// The state of an open file; `None` where it cannot be told.
pub(crate) fn stamp(file: &File) -> Option<Stamp> {
    Stamp::of(&file.metadata().ok()?)
}

/// Hashes of whole files, remembered in a file of the user's cache folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityCache {
    path: PathBuf,
}

impl IdentityCache {
    /// Remembers in the file `path`, which is made with its folder when there is something to remember.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn find(&self, stamp: &Stamp) -> Option<[u8; 32]> {
        let bytes = self.read();
        records(&bytes).rev().find_map(|(key, hash)| (*key == stamp.bytes).then_some(*hash))
    }

    /// Adds a record, dropping the oldest where there are too many. Where the file cannot be written, the hash is
    /// computed again next time. Of two programs that add at once, one is forgotten.
    fn add(&self, stamp: &Stamp, hash: &[u8; 32]) {
        let write = || -> std::io::Result<()> {
            let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            private_folder(folder)?;
            let old = self.read();
            let kept: Vec<_> = records(&old).filter(|(key, _)| **key != stamp.bytes).collect();
            let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
            let dropped = (kept.len() + 1).saturating_sub(MAX_RECORDS);
            for (key, hash) in kept.into_iter().skip(dropped).chain([(&stamp.bytes, hash)]) {
                let record = [&key[..], &hash[..]].concat();
                bytes.extend_from_slice(&record);
                bytes.extend_from_slice(&check(&record));
            }
            // A link would be followed, and a file that others can write would stay so.
            if std::fs::symlink_metadata(&self.path).is_ok_and(|meta| !is_private(&meta)) {
                std::fs::remove_file(&self.path)?;
            }
            let options = WriteOptions::new(Inputs::none(), Replace::Always).private().unsynced();
            write_file(&self.path, &bytes, &options).map_err(std::io::Error::other)
        };
        let _ = write();
    }

    /// The file's bytes; none where it is not one that this program wrote for this user.
    fn read(&self) -> Vec<u8> {
        let read = || -> Option<Vec<u8>> {
            // Opening a pipe would wait for ever.
            if !is_private(&std::fs::symlink_metadata(&self.path).ok()?) {
                return None;
            }
            let limit = HEAD_LEN + MAX_RECORDS * RECORD_LEN;
            let mut bytes = Vec::new();
            File::open(&self.path).ok()?.take(limit as u64 + 1).read_to_end(&mut bytes).ok()?;
            let sound =
                bytes.len() <= limit && bytes.starts_with(MAGIC) && bytes.get(8..HEAD_LEN)? == VERSION.to_le_bytes();
            sound.then_some(bytes)
        };
        read().unwrap_or_default()
    }
}

/// A regular file, not a link, that only its owner can write.
#[cfg(unix)]
fn is_private(meta: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    meta.is_file() && meta.mode() & 0o022 == 0
}

#[cfg(not(unix))]
fn is_private(meta: &Metadata) -> bool {
    meta.is_file()
}

#[cfg(unix)]
fn private_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn private_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)
}

fn check(record: &[u8]) -> [u8; CHECK_LEN] {
    let mut check = [0; CHECK_LEN];
    check.copy_from_slice(&blake3::hash(record).as_bytes()[..CHECK_LEN]);
    check
}

/// Stamp and hash of every undamaged record.
fn records(bytes: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8; STAMP_LEN], &[u8; 32])> {
    let (all, _) = bytes.get(HEAD_LEN..).unwrap_or_default().as_chunks::<RECORD_LEN>();
    all.iter().filter_map(|record| {
        let (content, sum) = record.split_at(RECORD_LEN - CHECK_LEN);
        let (stamp, hash) = content.split_first_chunk()?;
        (check(content) == *sum).then_some((stamp, hash.first_chunk()?))
    })
}

/// The hash of `bytes`, the content of the file at `path`; `now` tells the state of the file.
///
/// # Errors
/// [`RuntimeError::Changing`] when the file changes while it is hashed.
pub(crate) fn of_bytes(
    path: &Path,
    bytes: &[u8],
    now: impl Fn() -> Option<Stamp>,
    cache: Option<&IdentityCache>,
) -> Result<[u8; 32], RuntimeError> {
    let before = now();
    if let Some(known) = before.and_then(|stamp| cache?.find(&stamp)) {
        return Ok(known);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_rayon(bytes);
    let hash = *hasher.finalize().as_bytes();
    let after = now();
    if written_between(before.as_ref(), after.as_ref()) {
        return Err(RuntimeError::Changing { path: path.to_owned() });
    }
    if let (Some(stamp), Some(cache)) = (before.filter(|b| after == Some(*b) && b.is_settled()), cache) {
        cache.add(&stamp, &hash);
    }
    Ok(hash)
}

/// The hash of the file at `path`.
///
/// # Errors
/// When it cannot be read, or changes meanwhile.
pub fn of_file(path: &Path, cache: Option<&'static IdentityCache>) -> Result<[u8; 32], RuntimeError> {
    ModelFile::open(path, FileOptions { identities: cache, ..FileOptions::default() })?.identity()
}

/// One hash for a model in several files: of their lengths and hashes, in order.
///
/// # Errors
/// As [`ModelFile::identity`].
pub(crate) fn of_parts<'f>(files: impl Iterator<Item = &'f ModelFile>) -> Result<[u8; 32], RuntimeError> {
    let mut hasher = blake3::Hasher::new_derive_key("ocelli 2026 identity of a model in parts");
    for file in files {
        hasher.update(&(file.bytes().len() as u64).to_le_bytes());
        hasher.update(&file.identity()?);
    }
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests;
