//! The cache on disk, in the layout of Python's `huggingface_hub`, so that both find each other's files.
//!
//! ```text
//! <cache>/models--USER--REPO/refs/main                 commit, 40 digits without a line end
//!                            snapshots/<commit>/PATH   relative link to the blob
//!                            blobs/<etag>              the bytes
//!                            blobs/<etag>.ocelli.incomplete, .ocelli.journal   a download under way
//! <cache>/.locks/models--USER--REPO/<etag>.lock        held (flock) while a blob is written
//! ```

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::choice::ModelFile;
use crate::error::HubError;
use crate::hub::Watch;
use crate::name::{RepoId, repo_path};

/// Most files of one snapshot, and deepest folder, that are looked at.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 16;

/// Pause between two attempts to get a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Whether `text` is a commit: 40 lower-case hexadecimal digits.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether `text` can be a blob's name: a SHA-256 or a SHA-1.
pub(crate) fn is_etag(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

/// One repository in the cache.
#[derive(Debug, Clone)]
pub struct CachedRepo {
    id: RepoId,
    folder: PathBuf,
    locks: PathBuf,
}

impl CachedRepo {
    pub(crate) fn new(cache: &Path, id: RepoId) -> Self {
        let name = id.folder();
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name), id }
    }

    /// All model repositories of a cache, by name. A cache that does not exist has none.
    pub fn all(cache: &Path) -> Result<Vec<Self>, HubError> {
        let entries = match std::fs::read_dir(cache) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(HubError::io("list", cache)(e)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut ids: Vec<RepoId> = names.filter_map(|name| RepoId::from_folder(&name)).collect();
        ids.sort();
        Ok(ids.into_iter().map(|id| Self::new(cache, id)).collect())
    }

    /// Which repository.
    pub fn id(&self) -> &RepoId {
        &self.id
    }

    /// Its folder, which holds everything but the locks.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder with its locks.
    pub fn locks(&self) -> &Path {
        &self.locks
    }

    /// The commit that a branch or tag had when it was last asked for.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut text = String::new();
        File::open(self.folder.join("refs").join(revision)).ok()?.take(64).read_to_string(&mut text).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Commits of which files are there.
    pub fn commits(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join("snapshots")).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut commits: Vec<String> = names.filter(|name| is_commit(name)).collect();
        commits.sort();
        commits
    }

    /// Where a file of a commit lies, or will.
    pub fn snapshot(&self, commit: &str, path: &str) -> PathBuf {
        path.split('/').fold(self.folder.join("snapshots").join(commit), |folder, part| folder.join(part))
    }

    /// The files of a commit that are there, by path. Links to nothing are left out.
    pub fn files(&self, commit: &str) -> Vec<ModelFile> {
        let mut files = Vec::new();
        walk(&self.folder.join("snapshots").join(commit), "", MAX_DEPTH, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Makes the folders that a download needs.
    pub(crate) fn prepare(&self, cache: &Path) -> Result<(), HubError> {
        for folder in [&self.folder.join("blobs"), &self.locks] {
            std::fs::create_dir_all(folder).map_err(HubError::io("make the folder", folder))?;
        }
        // Tells backup programs that everything here can be fetched again.
        let tag = cache.join("CACHEDIR.TAG");
        if !tag.exists() {
            let text = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds models that can be downloaded again.\n";
            std::fs::write(&tag, text).map_err(HubError::io("write", &tag))?;
        }
        Ok(())
    }

    /// Notes which commit a revision is.
    pub(crate) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder).map_err(HubError::io("make the folder", folder))?;
        // Renamed into place, so that nobody reads half of it.
        let new = folder.join(format!(".{}.{}.new", commit, std::process::id()));
        let written = File::create(&new).and_then(|mut file| file.write_all(commit.as_bytes()));
        written.and_then(|()| std::fs::rename(&new, &path)).map_err(HubError::io("write", &path))
    }

    /// Gives a blob its name in a commit: a relative link, or what comes nearest where there are no links.
    pub(crate) fn link(&self, commit: &str, file: &ModelFile) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit, &file.path);
        let blob = self.blob(&file.etag);
        if same_file(&path, &blob) {
            return Ok(path);
        }
        let folder = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder).map_err(HubError::io("make the folder", folder))?;
        let up = "../".repeat(file.path.matches('/').count() + 2);
        let target = format!("{up}blobs/{}", file.etag);
        let new = folder.join(format!(".{}.{}.new", file.etag, std::process::id()));
        let _ = std::fs::remove_file(&new);
        symlink(&target, &new)
            .or_else(|_| std::fs::hard_link(&blob, &new))
            .or_else(|_| std::fs::copy(&blob, &new).map(|_| ()))
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(HubError::io("make", &path))?;
        Ok(path)
    }

    /// Waits for the lock of a blob, which Python's clients take as well. It is released when the file is dropped, or
    /// its process ends.
    pub(crate) fn lock(&self, file: &ModelFile, watch: &dyn Watch) -> Result<File, HubError> {
        let path = self.locks.join(format!("{}.lock", file.etag));
        let mut told = false;
        loop {
            let lock = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let lock = lock.map_err(HubError::io("open the lock", &path))?;
            match lock.try_lock() {
                // Whoever removes lock files may have removed this one between opening and locking it.
                Ok(()) if is_at(&lock, &path) => return Ok(lock),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        watch.waiting(&file.path);
                        told = true;
                    }
                    if watch.cancelled() {
                        return Err(HubError::Cancelled);
                    }
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::Error(e)) => {
                    return Err(HubError::io("lock (move the cache to a disk with file locks)", &path)(e));
                }
            }
        }
    }
}

#[cfg(unix)]
fn is_at(lock: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (lock.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => held.dev() == named.dev() && held.ino() == named.ino(),
        _ => false,
    }
}

/// Other systems do not let an open file be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), link)
}

/// Whether both paths lead to one existing file.
fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// Bytes of an existing file, through links.
pub(crate) fn size_of(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len())
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<ModelFile>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    for entry in entries.filter_map(Result::ok) {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if files.len() >= MAX_FILES || repo_path(&path).is_err() {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => walk(&entry.path(), &path, depth - 1, files),
            _ => {
                let Some(size) = size_of(&entry.path()) else { continue };
                let blob = entry.path().read_link().ok();
                let etag = blob.as_deref().and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or_default();
                files.push(ModelFile { path, size, etag: etag.to_owned() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Silent;

    fn repo(cache: &Path) -> CachedRepo {
        let repo = CachedRepo::new(cache, RepoId::new("u/r").unwrap());
        repo.prepare(cache).unwrap();
        repo
    }

    fn file(path: &str, etag: &str) -> ModelFile {
        ModelFile { path: path.to_owned(), size: 3, etag: etag.repeat(40) }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_relative_and_survive_a_move_of_the_cache() {
        let place = tempfile::tempdir().unwrap();
        let cache = place.path().join("one");
        let (repo, commit) = (repo(&cache), "c".repeat(40));
        let (top, deep) = (file("x.gguf", "a"), file("a/b/y.gguf", "b"));
        for file in [&top, &deep] {
            std::fs::write(repo.blob(&file.etag), "abc").unwrap();
            let link = repo.link(&commit, file).unwrap();
            assert_eq!(repo.link(&commit, file).unwrap(), link);
        }
        assert_eq!(repo.snapshot(&commit, "x.gguf").read_link().unwrap(), Path::new("../../blobs").join(&top.etag));
        assert_eq!(
            repo.snapshot(&commit, "a/b/y.gguf").read_link().unwrap(),
            Path::new("../../../../blobs").join(&deep.etag)
        );
        repo.set_commit("main", &commit).unwrap();
        assert_eq!(std::fs::read(repo.folder().join("refs/main")).unwrap(), commit.as_bytes());
        std::fs::rename(&cache, place.path().join("two")).unwrap();
        let moved = CachedRepo::all(&place.path().join("two")).unwrap().remove(0);
        assert_eq!(moved.commit_of("main").unwrap(), commit);
        assert_eq!(moved.files(&commit), [deep, top]);
        std::fs::remove_file(moved.blob(&"a".repeat(40))).unwrap();
        assert_eq!(moved.files(&commit).len(), 1, "a link to nothing is not a file");
    }

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let cache = tempfile::tempdir().unwrap();
        let repo = repo(cache.path());
        let file = file("x", "a");
        let held = repo.lock(&file, &Silent).unwrap();
        let other = File::open(repo.locks().join(format!("{}.lock", file.etag))).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        drop(other);
        // A lock file that was removed while it was waited for is made again.
        let held = repo.lock(&file, &Silent).unwrap();
        std::fs::remove_file(repo.locks().join(format!("{}.lock", file.etag))).unwrap();
        let again = repo.lock(&file, &Silent).unwrap();
        assert!(repo.locks().join(format!("{}.lock", file.etag)).exists());
        drop((held, again));
    }

    #[test]
    fn damaged_refs_name_no_commit() {
        let cache = tempfile::tempdir().unwrap();
        let repo = repo(cache.path());
        std::fs::create_dir_all(repo.folder().join("refs")).unwrap();
        for text in ["", "main", "../../x", &"g".repeat(40), &"A".repeat(40), &"a".repeat(41)] {
            std::fs::write(repo.folder().join("refs/main"), text).unwrap();
            assert_eq!(repo.commit_of("main"), None, "{text}");
        }
    }
}
