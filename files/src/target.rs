//! What an output path really names.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use crate::{FileError, folder_of, sys};

/// Links followed at most, as on Linux.
const MAX_LINKS: usize = 40;

/// What stands at the end of all links.
#[derive(Debug)]
pub(crate) enum Target {
    /// Nothing yet; the file will be made at this path.
    Missing(PathBuf),
    /// A regular file.
    Regular(PathBuf, Metadata),
    /// A descriptor of this process, such as standard output: whatever it is, it is written to as it stands.
    Descriptor(PathBuf),
    /// A named pipe.
    Fifo(PathBuf),
    /// A socket with a name.
    Socket(PathBuf),
    /// A character device.
    Device(PathBuf),
    /// A block device.
    Disk(PathBuf),
}

impl Target {
    /// Follows `path`.
    pub(crate) fn find(path: &Path) -> Result<Self, FileError> {
        let mut at = path.to_owned();
        for _ in 0..MAX_LINKS {
            let full = full_name(path, &at)?;
            let meta = match full.symlink_metadata() {
                Ok(meta) => meta,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::Missing(full)),
                Err(e) => return Err(FileError::open(path)(e)),
            };
            if sys::is_descriptor(&full) {
                return Ok(Self::Descriptor(full));
            }
            if !meta.is_symlink() {
                return Self::of(path, full, meta);
            }
            let link = std::fs::read_link(&full).map_err(FileError::open(path))?;
            at = folder_of(&full).join(link);
        }
        Err(FileError::open(path)(std::io::Error::other("too many symbolic links, or links in a circle")))
    }

    fn of(path: &Path, full: PathBuf, meta: Metadata) -> Result<Self, FileError> {
        if meta.is_dir() {
            return Err(FileError::Folder { path: path.to_owned() });
        }
        Ok(match sys::special(&meta) {
            None => Self::Regular(full, meta),
            Some(sys::Special::Fifo) => Self::Fifo(full),
            Some(sys::Special::Socket) => Self::Socket(full),
            Some(sys::Special::Device) => Self::Device(full),
            Some(sys::Special::Disk) => Self::Disk(full),
        })
    }
}

/// The path `at` in its real folder. `path` is what the user gave.
fn full_name(path: &Path, at: &Path) -> Result<PathBuf, FileError> {
    let is_folder = at.as_os_str().as_encoded_bytes().last().is_some_and(|b| std::path::is_separator(char::from(*b)));
    let name = match at.file_name() {
        Some(name) if !is_folder && !at.as_os_str().is_empty() => name,
        _ if at.as_os_str().is_empty() => {
            return Err(FileError::open(path)(std::io::Error::other("the name is empty")));
        }
        _ => return Err(FileError::Folder { path: path.to_owned() }),
    };
    let folder = folder_of(at);
    let real = folder.canonicalize().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => FileError::NoFolder { path: path.to_owned(), folder: folder.to_owned() },
        _ => FileError::open(path)(source),
    })?;
    Ok(real.join(name))
}
