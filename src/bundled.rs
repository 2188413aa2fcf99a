//! The model that comes with the program: a small trained MiniCPM-V, carried in the binary as a checkpoint and converted
//! when it is first wanted.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, bail};
use ocelli_convert::{ConvertOptions, Part, convert};
use ocelli_files::TemporaryFolder;
use sha2::{Digest, Sha256};

use crate::progress::Bar;
use crate::signals;
use crate::sink::errln;

/// Name of the model and beginning of its files' names.
pub(crate) const NAME: &str = "ocelli-tiny";

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../models/ocelli-tiny/", $name)).as_slice())),+]
    };
}

/// The checkpoint: everything the conversion reads.
static CHECKPOINT: [(&str, &[u8]); 8] = files![
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "model.safetensors",
];

/// Pictures to ask about.
static PICTURES: [(&str, &[u8]); 3] = files!["examples/shapes.png", "examples/number.png", "examples/many.jpg"];

/// The files of the model in the user's cache folder.
#[derive(Debug)]
pub(crate) struct Bundled {
    folder: PathBuf,
}

impl Bundled {
    /// The model's files, made now if this is the first time.
    pub(crate) fn open() -> anyhow::Result<Self> {
        Self::open_in(&folder()?)
    }

    /// As [`Bundled::open`] with the folder `all` for such models.
    ///
    /// The folder's name has a digest of the weights and the program's version, so that another build never takes files
    /// that are not its own.
    pub(crate) fn open_in(all: &Path) -> anyhow::Result<Self> {
        let folder = all.join(format!("{NAME}-{}", fingerprint()));
        let bundled = Self { folder };
        if bundled.is_whole() {
            return Ok(bundled);
        }
        // The command may not have come to watching for them.
        signals::end_unless_watched()?;
        bundled.make(all).with_context(|| {
            format!("cannot make the bundled model in {}; name another model with -m", all.display())
        })?;
        if !bundled.is_whole() {
            bail!("{} is incomplete; delete it", bundled.folder.display());
        }
        Ok(bundled)
    }

    /// The text file, Q4_K_M; the vision file lies beside it.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.join(format!("{NAME}-Q4_K_M.gguf"))
    }

    /// One of the pictures, by the name it has in the checkpoint.
    pub(crate) fn picture(&self, name: &str) -> PathBuf {
        self.folder.join("examples").join(name)
    }

    /// The folder appears under its name when all is in it; what was deleted from it since is missed here.
    fn is_whole(&self) -> bool {
        let vision = self.folder.join(format!("mmproj-{NAME}-F16.gguf"));
        let pictures = PICTURES.iter().map(|(name, _)| self.folder.join(name));
        pictures.chain([self.model(), vision]).all(|path| path.is_file())
    }

    /// Converts in a folder beside the model's own and gives it its name last, so that nobody ever sees half of it.
    fn make(&self, all: &Path) -> anyhow::Result<()> {
        let folder = &self.folder;
        std::fs::create_dir_all(all).with_context(|| format!("cannot make the folder {}", all.display()))?;
        let work = TemporaryFolder::new(all)?;
        let (checkpoint, files) = (work.path().join("checkpoint"), work.path().join("files"));
        write_all(&checkpoint, &CHECKPOINT)?;
        write_all(&files, &PICTURES)?;
        errln!("converting the bundled model to Q4_K_M, this once");
        let options =
            ConvertOptions { outdir: files.clone(), name: Some(NAME.to_owned()), ..ConvertOptions::default() };
        let report = convert(&checkpoint, &options, &Bar::leaving_ctrl_c())?;
        for file in &report.files {
            let part = if file.part == Part::Text { "text" } else { "vision" };
            let name = file.path.file_name().unwrap_or_default();
            errln!("{part}: {} ({:.1} MB)", folder.join(name).display(), file.bytes as f64 / 1e6);
        }
        if self.is_whole() {
            // Another process was faster; its files are the same.
            return Ok(());
        }
        if folder.exists() {
            // What is left of it goes with the working folder.
            let aside = work.path().join("replaced");
            std::fs::rename(folder, aside).with_context(|| format!("cannot replace {}", folder.display()))?;
        }
        match std::fs::rename(&files, folder) {
            // The same, but in the last moment.
            Err(_) if folder.is_dir() => Ok(()),
            renamed => renamed.with_context(|| format!("cannot name {}", folder.display())),
        }
    }
}

/// First digits of a SHA-256 over everything that the files are made of; computed once, since commands ask several times.
fn fingerprint() -> &'static str {
    static DIGITS: OnceLock<String> = OnceLock::new();
    DIGITS.get_or_init(|| {
        let mut digest = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
        for (name, bytes) in CHECKPOINT.iter().chain(&PICTURES) {
            digest.update(name);
            digest.update(bytes.len().to_le_bytes());
            digest.update(bytes);
        }
        digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    })
}

fn write_all(folder: &Path, files: &[(&str, &[u8])]) -> anyhow::Result<()> {
    for (name, bytes) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The folder for bundled models.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    Ok(cache_folder()?.join("ocelli").join("models"))
}

/// The user's cache folder as desktop systems define it.
fn cache_folder() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .context("there is no cache folder for the bundled model: set HOME or XDG_CACHE_HOME, or name a model with -m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_mended_when_a_file_is_missing() {
        let all = tempfile::tempdir().unwrap();
        let first = Bundled::open_in(all.path()).unwrap();
        let made = std::fs::metadata(first.model()).unwrap().modified().unwrap();
        let again = Bundled::open_in(all.path()).unwrap();
        assert_eq!(std::fs::metadata(again.model()).unwrap().modified().unwrap(), made);
        assert!(std::fs::read(first.picture("shapes.png")).unwrap().starts_with(b"\x89PNG"));
        std::fs::remove_file(first.picture("shapes.png")).unwrap();
        Bundled::open_in(all.path()).unwrap();
        assert!(first.picture("shapes.png").is_file());
        let left: Vec<_> = std::fs::read_dir(all.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "a working folder was left");
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = format!("{:#}", Bundled::open_in(&file.path().join("models")).unwrap_err());
        assert!(error.contains("-m") && error.contains(&*file.path().to_string_lossy()), "{error}");
    }
}
