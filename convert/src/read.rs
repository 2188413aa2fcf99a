//! Reading of a checkpoint's small files: bounded, without a byte-order mark, and with a plain answer to what is often
//! found in their place (a Git LFS pointer, a web page, a folder, UTF-16).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ocelli_memory::NoMemory;

/// How the files of a Git LFS checkout begin that were never fetched.
const LFS: &[u8] = b"version https://git-lfs";

/// Memory that a file takes while its content is turned into tables, in sizes of the file at most; a test holds it.
const MEMORY_PER_BYTE: u64 = 8;
/// Files up to this size are read without asking: what is left over for small things has room for them.
const SMALL_FILE: u64 = 1 << 20;
/// What helps where a file does not fit into memory.
pub(crate) const REMEDY: &str = "close other programs, or raise the limit";

/// Why a file of a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The system refuses.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A folder, a pipe, a device or a link that leads nowhere.
    #[error("{} is {found}, not a regular file; download the file again", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Its content does not fit into memory.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// Larger than any real file of this kind.
    #[error("{} has more than {limit} bytes, which no real file of this kind has; download it again", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size accepted, in bytes.
        limit: u64,
    },
    /// A stand-in for a large file that Git LFS was to fetch.
    #[error(
        "{} is a Git LFS pointer, not the file itself; run `git lfs pull` in the folder, or download the file",
        path.display()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A page of a web site, saved under the name of a file.
    #[error("{} is a web page, not the file itself; download it again with a link to the file", path.display())]
    WebPage {
        /// The file.
        path: PathBuf,
    },
    /// Text in an encoding that cannot be read.
    #[error("{}: {what}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: TextFault,
    },
    /// JSON that does not parse, or does not hold what it must.
    #[error("{}: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column when known.
        problem: String,
    },
}

/// Bytes that are not UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextFault {
    /// The byte-order mark of UTF-16 or UTF-32.
    #[error("the text is UTF-16; save it as UTF-8")]
    Utf16,
    /// A byte that UTF-8 does not have there.
    #[error("not UTF-8 text (byte {at}); save it as UTF-8")]
    Utf8 {
        /// Where the first such byte stands.
        at: usize,
    },
}

/// The text of a file that a person or another program wrote: UTF-8, with or without a byte-order mark, which is
/// removed.
///
/// # Errors
/// When it is in another encoding.
pub fn decode_text(bytes: Vec<u8>) -> Result<String, TextFault> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(TextFault::Utf16);
    }
    let marked = bytes.starts_with(MARK);
    match String::from_utf8(bytes) {
        Ok(mut text) => {
            if marked {
                text.drain(..'\u{feff}'.len_utf8());
            }
            Ok(text)
        }
        Err(error) => Err(TextFault::Utf8 { at: error.utf8_error().valid_up_to() }),
    }
}

/// The bytes of `path`, or `None` if there is no such file.
pub(crate) fn bytes(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    // Asked before opening: opening a pipe waits for a writer.
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return match std::fs::symlink_metadata(path) {
                Ok(_) => Err(ReadError::NotAFile { path: path.to_owned(), found: "a link to a file that is gone" }),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(io(error)),
    };
    if !meta.is_file() {
        let found = if meta.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(ReadError::NotAFile { path: path.to_owned(), found });
    }
    let too_large = || ReadError::TooLarge { path: path.to_owned(), limit };
    if meta.len() > limit {
        return Err(too_large());
    }
    check_memory(path, meta.len())?;
    // The size can change after it was asked for.
    let mut bytes = Vec::new();
    let hint = usize::try_from(meta.len()).unwrap_or(0);
    bytes.try_reserve_exact(hint + 1).map_err(|e| io(std::io::Error::other(e)))?;
    File::open(path).map_err(io)?.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    if bytes.starts_with(LFS) {
        return Err(ReadError::LfsPointer { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

/// Whether there is the memory to read `len` bytes of `path` into tables.
pub(crate) fn check_memory(path: &Path, len: u64) -> Result<(), NoMemory> {
    if len <= SMALL_FILE {
        return Ok(());
    }
    ocelli_memory::check(format!("reading {}", path.display()), len.checked_mul(MEMORY_PER_BYTE), REMEDY)
}

/// Whether `bytes`, the beginning of a file, are those of a Git LFS pointer.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    // Eight bytes are enough where no more are known: "version " is no sensible length of a header.
    let n = bytes.len().min(LFS.len());
    n >= 8 && bytes.get(..n) == LFS.get(..n)
}

/// The text of `path`, or `None` if there is no such file.
pub(crate) fn text(path: &Path, limit: u64) -> Result<Option<String>, ReadError> {
    let Some(bytes) = bytes(path, limit)? else { return Ok(None) };
    match decode_text(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(what) => Err(ReadError::NotText { path: path.to_owned(), what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks() {
        assert_eq!(decode_text(b"\xef\xbb\xbfa\xef\xbb\xbf".to_vec()).unwrap(), "a\u{feff}");
        assert_eq!(decode_text(b"\xef\xbb\xbf".to_vec()).unwrap(), "");
        assert_eq!(decode_text(b"".to_vec()).unwrap(), "");
        for bytes in [&b"\xff\xfe{\0"[..], b"\xfe\xff\0{"] {
            assert_eq!(decode_text(bytes.to_vec()), Err(TextFault::Utf16));
        }
        assert_eq!(decode_text(b"ab\xff".to_vec()), Err(TextFault::Utf8 { at: 2 }));
    }

    #[test]
    fn what_lies_in_a_files_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(text(&path, 100).unwrap().is_none());
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(text(&path, 100), Err(ReadError::NotAFile { found: "a folder", .. })));
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n").unwrap();
        assert!(text(&path, 100).unwrap_err().to_string().contains("git lfs pull"));
        std::fs::write(&path, vec![b' '; 101]).unwrap();
        assert!(matches!(text(&path, 100), Err(ReadError::TooLarge { .. })));
        assert!(is_lfs_pointer(b"version ") && !is_lfs_pointer(b"version") && !is_lfs_pointer(b"versions"));
    }
}
