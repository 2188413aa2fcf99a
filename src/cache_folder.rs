//! The user's cache folder: what can be made again, at the cost of time.

use std::path::PathBuf;
use std::sync::LazyLock;

use ocelli_runtime::IdentityCache;

/// The folder for this program's files, as desktop systems define it; `None` where the environment names none.
pub(crate) fn folder() -> Option<PathBuf> {
    // A relative path would mean another folder in every folder; the specification of these variables has it ignored.
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let all =
        set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA")).or_else(|| set("HOME").map(|home| home.join(".cache")));
    all.map(|all| all.join("ocelli"))
}

/// Where hashes of model files are remembered.
pub(crate) fn identities() -> Option<&'static IdentityCache> {
    static CACHE: LazyLock<Option<IdentityCache>> =
        LazyLock::new(|| folder().map(|folder| IdentityCache::new(folder.join("identities"))));
    CACHE.as_ref()
}
