//! Output files: written beside their final place, flushed to disk, renamed when everything has succeeded.
//!
//! A temporary file that is dropped without [`commit_all`] is removed, so an error or a cancelled run leaves nothing.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::ConvertError;

/// A file under construction.
#[derive(Debug)]
pub struct OutputFile {
    temp: NamedTempFile,
    path: PathBuf,
    overwrite: bool,
}

impl OutputFile {
    /// Starts a file that will appear at `path`.
    ///
    /// # Errors
    /// [`ConvertError::Exists`] when `path` exists and may not be overwritten, [`ConvertError::Io`] when no temporary
    /// file can be made in its folder.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self, ConvertError> {
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(ConvertError::Exists { path: path.to_owned() });
        }
        let dir = folder_of(path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(".ocelli-").suffix(".partial");
        #[cfg(unix)]
        {
            // Temporary files are private by default; the result should get the usual rights of a new file.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temp = builder.tempfile_in(dir).map_err(ConvertError::io("create a file in", dir))?;
        Ok(Self { temp, path: path.to_owned(), overwrite })
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        self.temp.as_file_mut()
    }

    /// Where the file will appear.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn persist(self) -> Result<PathBuf, ConvertError> {
        let path = self.path;
        let done = if self.overwrite { self.temp.persist(&path) } else { self.temp.persist_noclobber(&path) };
        match done {
            Ok(_) => Ok(path),
            Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(ConvertError::Exists { path }),
            Err(e) => Err(ConvertError::Io { action: "create", path, source: e.error }),
        }
    }
}

/// Flushes every file to disk, then moves all of them to their places.
///
/// # Errors
/// [`ConvertError::Io`] or [`ConvertError::Exists`]; files that had already been moved are removed again unless they
/// replaced an older one.
pub fn commit_all(files: Vec<OutputFile>) -> Result<Vec<PathBuf>, ConvertError> {
    for file in &files {
        file.temp.as_file().sync_all().map_err(ConvertError::io("flush", &file.path))?;
    }
    let mut done: Vec<(PathBuf, bool)> = Vec::with_capacity(files.len());
    for file in files {
        let replaced = file.overwrite;
        match file.persist() {
            Ok(path) => done.push((path, replaced)),
            Err(error) => {
                for (path, replaced) in done {
                    if !replaced {
                        // Best effort: the error that is reported is the one that matters.
                        let _ = std::fs::remove_file(path);
                    }
                }
                return Err(error);
            }
        }
    }
    for (path, _) in &done {
        // The rename itself must reach the disk too. Not every file system can sync a folder; the data is safe.
        if let Ok(dir) = File::open(folder_of(path)) {
            let _ = dir.sync_all();
        }
    }
    Ok(done.into_iter().map(|(path, _)| path).collect())
}

/// Fails when fewer than `needed` bytes are free in `dir`.
///
/// # Errors
/// [`ConvertError::DiskFull`], or [`ConvertError::Io`] when the file system cannot be asked.
#[cfg(unix)]
pub fn check_space(dir: &Path, needed: u64) -> Result<(), ConvertError> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| ConvertError::Io {
        action: "ask for the free space of",
        path: dir.to_owned(),
        source: e.into(),
    })?;
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if available < needed { Err(ConvertError::DiskFull { path: dir.to_owned(), needed, available }) } else { Ok(()) }
}

/// Free space cannot be asked for on this system; a full disk shows as a write error.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn check_space(_dir: &Path, _needed: u64) -> Result<(), ConvertError> {
    Ok(())
}

/// The folder a path lies in; `.` for a bare file name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_only_on_commit() {
        let dir = tempfile::tempdir().unwrap();
        let mut a = OutputFile::create(&dir.path().join("a"), false).unwrap();
        let b = OutputFile::create(&dir.path().join("b"), false).unwrap();
        a.file().write_all(b"text").unwrap();
        assert!(!dir.path().join("a").exists());
        commit_all(vec![a, b]).unwrap();
        assert_eq!(names(dir.path()), ["a", "b"]);
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"text");
    }

    #[test]
    fn dropped_files_vanish() {
        let dir = tempfile::tempdir().unwrap();
        drop(OutputFile::create(&dir.path().join("a"), false).unwrap());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn existing_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"old").unwrap();
        assert!(matches!(OutputFile::create(&path, false), Err(ConvertError::Exists { .. })));
        let mut new = OutputFile::create(&path, true).unwrap();
        new.file().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        commit_all(vec![new]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    /// A file that turns up between start and end is neither lost nor does it leave half a pair.
    #[test]
    fn late_rival_undoes_the_pair() {
        let dir = tempfile::tempdir().unwrap();
        let a = OutputFile::create(&dir.path().join("a"), false).unwrap();
        let b = OutputFile::create(&dir.path().join("b"), false).unwrap();
        std::fs::write(dir.path().join("b"), b"rival").unwrap();
        assert!(matches!(commit_all(vec![a, b]), Err(ConvertError::Exists { .. })));
        assert_eq!(names(dir.path()), ["b"]);
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"rival");
    }

    #[test]
    fn space_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        check_space(dir.path(), 1).unwrap();
        let error = check_space(dir.path(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains(&u64::MAX.to_string()), "{error}");
    }
}
