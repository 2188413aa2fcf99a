//! Models that are on this machine already: the hub's cache and the stores of other programs. Nothing is copied or changed.
//!
//! Other programs' files are as untrusted as a server's answers: names and checksums in them are checked before one of
//! them becomes a path.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cache::{CachedRepo, is_etag, size_of};
use crate::choice::{Choice, ModelFile, has_extension, is_vision, models, quant_label};
use crate::config::Config;
use crate::error::HubError;

/// Longest manifest that is read, most models of a store, and deepest folder of it that is looked into.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
const MAX_MODELS: usize = 10_000;
const MAX_DEPTH: usize = 6;

/// Whose store a model lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Store {
    /// The cache of `huggingface_hub` and of this program.
    Hub,
    /// Ollama's store.
    Ollama,
    /// LM Studio's folder.
    LmStudio,
    /// The cache of llama.cpp.
    LlamaCpp,
}

impl Store {
    /// The name that users know.
    pub fn title(self) -> &'static str {
        match self {
            Self::Hub => "Hugging Face",
            Self::Ollama => "Ollama",
            Self::LmStudio => "LM Studio",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// What a model's name begins with, empty for the hub's.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Hub => "",
            Self::Ollama => "ollama://",
            Self::LmStudio => "lmstudio://",
            Self::LlamaCpp => "llamacpp://",
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// Whose.
    pub store: Store,
    /// What it is called, as it can be typed in place of its path.
    pub name: String,
    /// The text model: one file, or the parts of a split one.
    pub text: Vec<PathBuf>,
    /// The vision file that belongs to it.
    pub vision: Option<PathBuf>,
    /// Quantisation, where the file's name tells.
    pub quant: Option<String>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Where models may lie.
#[derive(Debug, Clone)]
pub struct Stores {
    places: Vec<(Store, PathBuf)>,
}

impl Stores {
    /// The usual places, and those that environment variables name: `OLLAMA_MODELS`, `LLAMA_CACHE`.
    pub fn from_vars(config: &Config, var: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME").or_else(|| path("USERPROFILE"));
        let at_home = |below: &str| home.as_ref().map(|home| home.join(below));
        let mut places = vec![(Store::Hub, config.cache.clone())];
        // A cache that was moved for this program leaves the common one as one of other programs.
        let common = path("HF_HUB_CACHE")
            .or_else(|| path("HF_HOME").map(|hf| hf.join("hub")))
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface").join("hub")))
            .or_else(|| at_home(".cache/huggingface/hub"));
        places.extend(common.map(|cache| (Store::Hub, cache)));
        let ollama = match path("OLLAMA_MODELS") {
            Some(models) => vec![models],
            None => at_home(".ollama/models").into_iter().chain(["/usr/share/ollama/.ollama/models".into()]).collect(),
        };
        places.extend(ollama.into_iter().map(|path| (Store::Ollama, path)));
        for below in [".lmstudio/models", ".cache/lm-studio/models"] {
            places.extend(at_home(below).map(|path| (Store::LmStudio, path)));
        }
        let llama = match path("LLAMA_CACHE") {
            Some(cache) => vec![cache],
            None => {
                let caches = [
                    path("XDG_CACHE_HOME").or_else(|| at_home(".cache")),
                    at_home("Library/Caches"),
                    path("LOCALAPPDATA"),
                ];
                caches.into_iter().flatten().map(|cache| cache.join("llama.cpp")).collect()
            }
        };
        for cache in llama {
            places.extend([(Store::Hub, cache.clone()), (Store::LlamaCpp, cache)]);
        }
        let mut seen = Vec::new();
        places.retain(|place| {
            let new = !seen.contains(place);
            seen.push(place.clone());
            new
        });
        Self { places }
    }

    /// All places that are looked at, whether they exist or not.
    pub fn places(&self) -> &[(Store, PathBuf)] {
        &self.places
    }

    /// All models that are found, by store and name.
    pub fn list(&self) -> Vec<LocalModel> {
        let mut found = Vec::new();
        for (store, place) in &self.places {
            let room = MAX_MODELS.saturating_sub(found.len());
            let models = match store {
                Store::Hub => hub(place),
                Store::Ollama => ollama(place),
                Store::LmStudio => lm_studio(place),
                Store::LlamaCpp => llama_cpp(place),
            };
            found.extend(models.into_iter().take(room));
        }
        found.sort_by(|a, b| (a.store, &a.name, &a.text).cmp(&(b.store, &b.name, &b.text)));
        // A place may have been named twice.
        found.dedup_by(|a, b| a.text == b.text && a.name == b.name);
        found
    }

    /// The model of another program's store that `name` names; `None` where the name has no store's beginning.
    pub fn find(&self, name: &str) -> Option<Result<LocalModel, HubError>> {
        let store =
            [Store::Ollama, Store::LmStudio, Store::LlamaCpp].into_iter().find(|s| name.starts_with(s.scheme()))?;
        let mut models: Vec<LocalModel> = self.list().into_iter().filter(|model| model.store == store).collect();
        // As in Ollama itself, a name without a tag means the tag `latest`.
        let tagged = format!("{name}:latest");
        let wanted =
            models.iter().position(|model| model.name == name || (store == Store::Ollama && model.name == tagged));
        Some(wanted.map(|index| models.swap_remove(index)).ok_or_else(|| {
            let known: Vec<String> = models.into_iter().map(|model| model.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            HubError::Name { name: name.to_owned(), reason: format!("{store} has no such model; it has: {known}") }
        }))
    }
}

/// A choice whose paths lie below `folder`.
fn local(store: Store, name: String, choice: Choice, place: impl Fn(&ModelFile) -> PathBuf) -> LocalModel {
    LocalModel {
        store,
        name,
        text: choice.text.iter().map(&place).collect(),
        vision: choice.vision.as_ref().map(&place),
        bytes: choice.text.iter().chain(&choice.vision).map(|file| file.size).sum(),
        quant: choice.quant,
    }
}

/// Repositories of a cache. A model is listed for `main`, and for another commit where that has other files.
fn hub(cache: &Path) -> Vec<LocalModel> {
    let mut found = Vec::new();
    for repo in CachedRepo::all(cache).unwrap_or_default() {
        let main = repo.commit_of("main");
        let mut commits = repo.commits();
        commits.sort_by_key(|commit| Some(commit) != main.as_ref());
        let mut seen: Vec<Vec<String>> = Vec::new();
        for commit in commits {
            let of_commit = models(&repo.files(&commit));
            for choice in &of_commit {
                let blobs: Vec<String> = choice.text.iter().map(|file| file.etag.clone()).collect();
                if seen.contains(&blobs) && blobs.iter().all(|blob| !blob.is_empty()) {
                    continue;
                }
                seen.push(blobs);
                let path = choice.text.first().map_or("", |file| &file.path);
                // A tag that two models share names only the first of them.
                let same = of_commit.iter().filter(|other| other.quant == choice.quant).count();
                let tag = choice.quant.as_deref().filter(|_| same == 1).unwrap_or(path);
                let at = if Some(&commit) == main.as_ref() { String::new() } else { format!("@{commit}") };
                let name = format!("{}{at}:{tag}", repo.id());
                found.push(local(Store::Hub, name, choice.clone(), |file| repo.snapshot(&commit, &file.path)));
            }
        }
    }
    found
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
}

/// Ollama's models: `manifests/<host>/<namespace>/<name>/<tag>`, whose layers are `blobs/sha256-<digits>`.
fn ollama(store: &Path) -> Vec<LocalModel> {
    let manifests = store.join("manifests");
    let mut found = Vec::new();
    for host in names(&manifests) {
        for namespace in names(&manifests.join(&host)) {
            for name in names(&manifests.join(&host).join(&namespace)) {
                for tag in names(&manifests.join(&host).join(&namespace).join(&name)) {
                    let path = manifests.join(&host).join(&namespace).join(&name).join(&tag);
                    // The registry and its library are left out, as Ollama itself does.
                    let prefix = match (host.as_str(), namespace.as_str()) {
                        ("registry.ollama.ai", "library") => String::new(),
                        ("registry.ollama.ai", _) => format!("{namespace}/"),
                        _ => format!("{host}/{namespace}/"),
                    };
                    let name = format!("{}{prefix}{name}:{tag}", Store::Ollama.scheme());
                    found.extend(ollama_model(store, &path, name));
                }
            }
        }
    }
    found
}

fn ollama_model(store: &Path, manifest: &Path, name: String) -> Option<LocalModel> {
    let mut text = Vec::new();
    File::open(manifest).ok()?.take(MAX_MANIFEST_BYTES).read_to_end(&mut text).ok()?;
    let manifest: Manifest = serde_json::from_slice(&text).ok()?;
    let blobs = |kind: &str| -> Vec<(PathBuf, u64)> {
        let layers = manifest.layers.iter().filter(|layer| layer.media_type.ends_with(kind));
        let digests =
            layers.filter_map(|layer| layer.digest.strip_prefix("sha256:").filter(|d| d.len() == 64 && is_etag(d)));
        let paths = digests.map(|digest| store.join("blobs").join(format!("sha256-{digest}")));
        paths.filter_map(|path| size_of(&path).map(|size| (path, size))).collect()
    };
    let (model, vision) = (blobs(".image.model"), blobs(".image.projector"));
    let (path, size) = model.into_iter().next()?;
    let vision = vision.into_iter().next();
    let bytes = size + vision.as_ref().map_or(0, |(_, size)| *size);
    Some(LocalModel {
        store: Store::Ollama,
        name,
        text: vec![path],
        vision: vision.map(|(p, _)| p),
        quant: None,
        bytes,
    })
}

/// LM Studio's models: `<publisher>/<repository>/…/*.gguf`.
fn lm_studio(folder: &Path) -> Vec<LocalModel> {
    let mut files = Vec::new();
    gguf_files(folder, "", MAX_DEPTH, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let repository = |path: &str| path.split('/').take(2).collect::<Vec<_>>().join("/");
    let mut found = Vec::new();
    for group in files.chunk_by(|a, b| repository(&a.path) == repository(&b.path)) {
        for choice in models(group) {
            let name = format!("{}{}", Store::LmStudio.scheme(), choice.text.first().map_or("", |file| &file.path));
            found.push(local(Store::LmStudio, name, choice, |file| folder.join(&file.path)));
        }
    }
    found
}

/// llama.cpp's older cache: `USER_REPO_FILE.gguf` in one folder.
fn llama_cpp(folder: &Path) -> Vec<LocalModel> {
    let mut files = Vec::new();
    gguf_files(folder, "", 0, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let (vision, text): (Vec<ModelFile>, Vec<ModelFile>) = files.into_iter().partition(|file| is_vision(&file.path));
    let mut found = Vec::new();
    for mut choice in models(&text) {
        let path = choice.text.first().map_or("", |file| &file.path);
        // What stands before `mmproj` is the repository, which only its own files begin with.
        choice.vision = vision
            .iter()
            .find(|file| file.path.find("mmproj").is_some_and(|at| at > 0 && path.starts_with(&file.path[..at])))
            .cloned();
        let name = format!("{}{path}", Store::LlamaCpp.scheme());
        found.push(local(Store::LlamaCpp, name, choice, |file| folder.join(&file.path)));
    }
    found
}

/// Names in a folder, sorted; none where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).take(MAX_MODELS).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

fn gguf_files(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<ModelFile>) {
    for name in names(folder) {
        let path = folder.join(&name);
        let inner = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if files.len() >= MAX_MODELS {
            return;
        }
        // Links to folders are not followed, since they could lead round in a circle.
        if std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            if depth > 0 {
                gguf_files(&path, &inner, depth - 1, files);
            }
        } else if has_extension(&inner, "gguf")
            && let Some(size) = size_of(&path)
        {
            files.push(ModelFile { path: inner, size, etag: String::new() });
        }
    }
}

impl LocalModel {
    /// The first file, which is enough to name a split model.
    pub fn path(&self) -> &Path {
        self.text.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// The quantisation in a file name, if there is one.
    pub fn quant_of(path: &Path) -> Option<String> {
        quant_label(path.file_name()?.to_str()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: impl AsRef<[u8]>) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn stores(home: &Path, vars: &[(&str, &str)]) -> Stores {
        let var = |name: &str| {
            let found = vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            found.or_else(|| (name == "HOME").then(|| home.as_os_str().to_owned()))
        };
        Stores::from_vars(&Config::from_vars(var).unwrap(), var)
    }

    fn manifest(layers: &[(&str, &str)]) -> String {
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, digest)| {
                serde_json::json!({ "mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": digest, "size": 5 })
            })
            .collect();
        serde_json::json!({ "schemaVersion": 2, "config": {}, "layers": layers }).to_string()
    }

    #[test]
    fn ollamas_models_come_with_their_projector() {
        let home = tempfile::tempdir().unwrap();
        let store = home.path().join(".ollama/models");
        let digest = |c: &str| c.repeat(64);
        let blob = |c: &str| store.join("blobs").join(format!("sha256-{}", digest(c)));
        for c in ["a", "b", "c"] {
            write(&blob(c), "12345");
        }
        let of = |c: &str| format!("sha256:{}", digest(c));
        let at = |path: &str| store.join("manifests").join(path);
        let both =
            manifest(&[("params", &of("c")), ("model", &of("a")), ("projector", &of("b")), ("template", &of("c"))]);
        write(&at("registry.ollama.ai/library/minicpm-v/8b"), &both);
        write(&at("registry.ollama.ai/library/minicpm-v/latest"), manifest(&[("model", &of("c"))]));
        write(&at("hf.co/user/Repo-GGUF/Q4_K_M"), manifest(&[("model", &of("c"))]));
        for (name, layers) in [
            ("gone", vec![("model", of("d"))]),
            ("escaping", vec![("model", "sha256:../../../etc/passwd".to_owned())]),
            ("no-model", vec![("projector", of("a"))]),
        ] {
            let layers: Vec<_> = layers.iter().map(|(k, d)| (*k, d.as_str())).collect();
            write(&at("registry.ollama.ai/library").join(name).join("latest"), manifest(&layers));
        }
        write(&at("registry.ollama.ai/library/broken/latest"), "{\"layers\": 7}");
        write(&at("registry.ollama.ai/library/not-json/latest"), [0xff; 40]);
        let stores = stores(home.path(), &[]);
        let found = stores.list();
        let first = found.iter().find(|m| m.name == "ollama://minicpm-v:8b").unwrap();
        assert_eq!((&first.text, &first.vision, first.bytes), (&vec![blob("a")], &Some(blob("b")), 10));
        // One file may have two names.
        let other: Vec<_> = found.iter().map(|m| m.name.as_str()).filter(|n| *n != "ollama://minicpm-v:8b").collect();
        assert_eq!(other, ["ollama://hf.co/user/Repo-GGUF:Q4_K_M", "ollama://minicpm-v:latest"]);
        let found = stores.find("ollama://minicpm-v").unwrap().unwrap();
        assert_eq!(found.text, [blob("c")]);
        let error = stores.find("ollama://none").unwrap().unwrap_err().to_string();
        assert!(error.contains("minicpm-v:8b"), "{error}");
        assert!(stores.find("u/r").is_none());
    }

    #[test]
    fn folders_of_lm_studio_and_llama_cpp() {
        let home = tempfile::tempdir().unwrap();
        let studio = home.path().join(".lmstudio/models");
        write(&studio.join("openbmb/MiniCPM-V-4/m-Q4_K_M.gguf"), "1");
        write(&studio.join("openbmb/MiniCPM-V-4/mmproj-m-f16.gguf"), "22");
        write(&studio.join("other/Model/x-00001-of-00002.gguf"), "1");
        write(&studio.join("other/Model/x-00002-of-00002.gguf"), "1");
        write(&home.path().join(".cache/lm-studio/models/old/Model/y-Q8_0.gguf"), "1");
        let llama = home.path().join(".cache/llama.cpp");
        write(&llama.join("u_r-GGUF_r-Q4_K_M.gguf"), "1");
        write(&llama.join("u_r-GGUF_r-Q4_K_M.gguf.json"), "{}");
        write(&llama.join("u_r-GGUF_mmproj-r-f16.gguf"), "22");
        write(&llama.join("u_other_x-Q8_0.gguf"), "1");
        let found = stores(home.path(), &[]).list();
        let row = |name: &str| {
            let model = found.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("{name}: {found:?}"));
            (model.text.len(), model.vision.is_some(), model.quant.as_deref(), model.bytes)
        };
        assert_eq!(row("lmstudio://openbmb/MiniCPM-V-4/m-Q4_K_M.gguf"), (1, true, Some("Q4_K_M"), 3));
        assert_eq!(row("lmstudio://other/Model/x-00001-of-00002.gguf"), (2, false, None, 2));
        assert_eq!(row("lmstudio://old/Model/y-Q8_0.gguf"), (1, false, Some("Q8_0"), 1));
        assert_eq!(row("llamacpp://u_r-GGUF_r-Q4_K_M.gguf"), (1, true, Some("Q4_K_M"), 3));
        assert_eq!(row("llamacpp://u_other_x-Q8_0.gguf"), (1, false, Some("Q8_0"), 1));
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn variables_move_the_stores() {
        let home = Path::new("/h");
        let places = |vars: &[_]| -> Vec<(Store, PathBuf)> { stores(home, vars).places().to_vec() };
        let usual = places(&[]);
        assert!(usual.contains(&(Store::Ollama, "/h/.ollama/models".into())));
        assert!(usual.contains(&(Store::LlamaCpp, "/h/.cache/llama.cpp".into())));
        assert_eq!(usual.iter().filter(|p| p.1 == Path::new("/h/.cache/huggingface/hub")).count(), 1);
        let moved = places(&[("OLLAMA_MODELS", "/o"), ("LLAMA_CACHE", "/l"), ("OCELLI_CACHE", "/c")]);
        assert!(
            moved.contains(&(Store::Ollama, "/o".into())) && !moved.iter().any(|p| p.1.ends_with(".ollama/models"))
        );
        assert!(moved.contains(&(Store::LlamaCpp, "/l".into())) && moved.contains(&(Store::Hub, "/l".into())));
        assert_eq!(moved[0], (Store::Hub, "/c".into()));
        assert!(
            moved.contains(&(Store::Hub, "/h/.cache/huggingface/hub".into())),
            "other programs' cache is still seen"
        );
    }
}
