//! Removing models from the cache.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::cache::CachedRepo;
use crate::choice::{choose, models};
use crate::config::Config;
use crate::error::HubError;
use crate::name::RepoModel;

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Files of models, and unfinished ones.
    pub paths: Vec<PathBuf>,
    /// Bytes that are free now.
    pub bytes: u64,
}

/// Removes a model from the cache: without a tag all of its repository, with one that model's text files; what is left
/// of a repository without a text model goes with the last of them.
pub fn remove(config: &Config, model: &RepoModel) -> Result<Removed, HubError> {
    let repo = CachedRepo::new(&config.cache, model.repo.clone());
    let absent = || HubError::NotCached { what: model.to_string(), cache: config.cache.clone() };
    if !repo.folder().is_dir() {
        return Err(absent());
    }
    let _locks = lock_all(&repo, model)?;
    if model.quant.is_none() && model.file.is_none() && model.revision.is_none() {
        return remove_all(&repo);
    }
    let commit = repo.commit_of(model.revision()).ok_or_else(absent)?;
    let files = repo.files(&commit);
    let choice = choose(model, &files)?;
    let left = models(&files).into_iter().filter(|other| other.text != choice.text).count();
    let elsewhere = repo.commits().iter().any(|other| *other != commit && !models(&repo.files(other)).is_empty());
    if left == 0 && !elsewhere {
        return remove_all(&repo);
    }
    let mut removed = Removed { paths: Vec::new(), bytes: 0 };
    for file in &choice.text {
        let path = repo.snapshot(&commit, &file.path);
        std::fs::remove_file(&path).map_err(HubError::io("remove", &path))?;
        removed.paths.push(path);
    }
    // A blob goes when no commit links to it any more.
    let used: BTreeSet<String> = repo.commits().iter().flat_map(|c| repo.files(c)).map(|file| file.etag).collect();
    for file in choice.text.iter().filter(|file| !used.contains(&file.etag) && !file.etag.is_empty()) {
        let blob = repo.blob(&file.etag);
        removed.bytes += own_size(&blob);
        std::fs::remove_file(&blob).map_err(HubError::io("remove", &blob))?;
    }
    Ok(removed)
}

fn remove_all(repo: &CachedRepo) -> Result<Removed, HubError> {
    let mut paths = Vec::new();
    for commit in repo.commits() {
        paths.extend(repo.files(&commit).iter().map(|file| repo.snapshot(&commit, &file.path)));
    }
    let bytes = tree_size(repo.folder());
    std::fs::remove_dir_all(repo.folder()).map_err(HubError::io("remove", repo.folder()))?;
    // Lock files are empty; whoever waits for one makes it again.
    if repo.locks().is_dir() {
        std::fs::remove_dir_all(repo.locks()).map_err(HubError::io("remove", repo.locks()))?;
    }
    Ok(Removed { paths, bytes })
}

/// Takes every lock of a repository, so that no download is under way; a lock that another process holds is an error.
fn lock_all(repo: &CachedRepo, model: &RepoModel) -> Result<Vec<File>, HubError> {
    let entries = std::fs::read_dir(repo.locks()).into_iter().flatten().filter_map(Result::ok);
    let mut locks = Vec::new();
    for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "lock")) {
        let lock = File::options().read(true).write(true).open(&path).map_err(HubError::io("open the lock", &path))?;
        match lock.try_lock() {
            Ok(()) => locks.push(lock),
            Err(std::fs::TryLockError::WouldBlock) => return Err(HubError::Busy { what: model.to_string() }),
            Err(std::fs::TryLockError::Error(e)) => return Err(HubError::io("lock", &path)(e)),
        }
    }
    Ok(locks)
}

/// Bytes of a file itself; a link, as one to a store that several repositories share, has none.
fn own_size(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file).map_or(0, |m| m.len())
}

fn tree_size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => tree_size(&entry.path()),
            _ => own_size(&entry.path()),
        })
        .sum()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::choice::ModelFile;
    use crate::name::{Name, RepoId};

    fn named(text: &str) -> RepoModel {
        match Name::parse(text, "https://huggingface.co") {
            Ok(Name::Repo(model)) => model,
            other => panic!("{other:?}"),
        }
    }

    fn filled(cache: &Path) -> (Config, CachedRepo, String) {
        let config = Config::new("https://huggingface.co", cache).unwrap();
        let repo = CachedRepo::new(cache, RepoId::new("u/r").unwrap());
        repo.prepare(cache).unwrap();
        let commit = "c".repeat(40);
        for (path, c) in [("x-Q4_K_M.gguf", "a"), ("x-Q8_0.gguf", "b"), ("mmproj-f16.gguf", "d")] {
            let file = ModelFile { path: path.to_owned(), size: 10, etag: c.repeat(64) };
            std::fs::write(repo.blob(&file.etag), [0; 10]).unwrap();
            repo.link(&commit, &file).unwrap();
        }
        repo.set_commit("main", &commit).unwrap();
        (config, repo, commit)
    }

    #[test]
    fn one_model_goes_and_the_rest_stays() {
        let cache = tempfile::tempdir().unwrap();
        let (config, repo, commit) = filled(cache.path());
        let removed = remove(&config, &named("u/r:q8_0")).unwrap();
        assert_eq!((removed.paths.len(), removed.bytes), (1, 10));
        let left: Vec<_> = repo.files(&commit).into_iter().map(|f| f.path).collect();
        assert_eq!(left, ["mmproj-f16.gguf", "x-Q4_K_M.gguf"]);
        assert!(matches!(remove(&config, &named("u/r:Q8_0")), Err(HubError::NoQuant { .. })));
        // With the last text model goes the vision file.
        assert_eq!(remove(&config, &named("u/r:Q4_K_M")).unwrap().bytes, 20 + 40);
        assert!(!repo.folder().exists() && !repo.locks().exists());
        assert!(matches!(remove(&config, &named("u/r")), Err(HubError::NotCached { .. })));
    }

    #[test]
    fn a_blob_stays_while_another_commit_has_it() {
        let cache = tempfile::tempdir().unwrap();
        let (config, repo, _) = filled(cache.path());
        let file = ModelFile { path: "x-Q8_0.gguf".to_owned(), size: 10, etag: "b".repeat(64) };
        repo.link(&"e".repeat(40), &file).unwrap();
        assert_eq!(remove(&config, &named("u/r:Q8_0")).unwrap().bytes, 0);
        assert!(repo.blob(&file.etag).exists());
    }

    #[test]
    fn what_another_process_writes_is_not_removed() {
        let cache = tempfile::tempdir().unwrap();
        let (config, repo, _) = filled(cache.path());
        let path = repo.locks().join("a.lock");
        let held = File::create(&path).unwrap();
        held.lock().unwrap();
        assert!(matches!(remove(&config, &named("u/r")), Err(HubError::Busy { .. })));
        drop(held);
        assert!(remove(&config, &named("u/r")).unwrap().bytes >= 30);
    }

    #[test]
    fn links_out_of_the_cache_are_removed_but_not_followed() {
        let (cache, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (config, repo, commit) = filled(cache.path());
        let outside = other.path().join("keep.gguf");
        std::fs::write(&outside, "keep").unwrap();
        std::os::unix::fs::symlink(other.path(), repo.folder().join("snapshots").join(&commit).join("folder")).unwrap();
        std::os::unix::fs::symlink(&outside, repo.snapshot(&commit, "keep-F16.gguf")).unwrap();
        remove(&config, &named("u/r")).unwrap();
        assert_eq!(std::fs::read(&outside).unwrap(), b"keep");
    }
}
