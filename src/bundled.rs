//! The model that comes with the program: a small trained MiniCPM-V, carried in the binary as a checkpoint and converted
//! when it is first wanted.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ocelli_convert::{ConvertOptions, ConvertReport, Part, convert};
use ocelli_files::{Inputs, Replace, TemporaryFolder, WriteOptions, write_file};
use ocelli_runtime::identity::of_file;
use ocelli_runtime::{IdentityCache, RuntimeError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cache_folder;
use crate::isa;
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

/// Sizes and hashes of the files, beside them.
const MANIFEST: &str = "manifest.json";

/// The most that a manifest can have; it is read whole.
const MAX_MANIFEST: u64 = 64 << 10;

/// How long another process may take to put its files in place.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a file must be.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    blake3: String,
}

type Manifest = BTreeMap<String, Entry>;

/// The files of the model in the user's cache folder.
#[derive(Debug)]
pub(crate) struct Bundled {
    folder: PathBuf,
}

impl Bundled {
    /// The model's files, made now if this is the first time.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let folder = cache_folder::folder().context(
            "there is no cache folder for the bundled model: set HOME or XDG_CACHE_HOME, or name a model with -m",
        )?;
        Self::open_in(&folder.join("models"), cache_folder::identities())
    }

    /// As [`Bundled::open`] with the folder `all` for such models. Whole files are hashed once: `identities` remembers.
    ///
    /// The folder's name has a digest of the weights and the program's version, so that another build never takes files
    /// that are not its own.
    pub(crate) fn open_in(all: &Path, identities: Option<&'static IdentityCache>) -> anyhow::Result<Self> {
        let bundled = Self { folder: all.join(format!("{NAME}-{}", fingerprint())) };
        let checked =
            bundled.check(identities).context("cannot check the bundled model; name another model with -m")?;
        let Some(fault) = checked else { return Ok(bundled) };
        if bundled.folder.exists() {
            errln!("the bundled model in {} is damaged ({fault}) and made again", bundled.folder.display());
        }
        // The command may not have come to watching for them.
        signals::end_unless_watched()?;
        make(all, &bundled, identities).with_context(|| {
            format!("cannot make the bundled model in {}; name another model with -m", all.display())
        })?;
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

    /// What is wrong with the files, if anything is: one that is missing or is not what was made. Making them again would not
    /// help where the system cannot read one; that is an error.
    fn check(&self, identities: Option<&'static IdentityCache>) -> anyhow::Result<Option<String>> {
        let manifest = match read_manifest(&self.folder.join(MANIFEST))? {
            Ok(manifest) => manifest,
            Err(fault) => return Ok(Some(format!("{MANIFEST} {fault}"))),
        };
        let models = [format!("{NAME}-Q4_K_M.gguf"), format!("mmproj-{NAME}-F16.gguf")];
        let pictures = PICTURES.iter().map(|(name, _)| (*name).to_owned());
        for name in models.into_iter().chain(pictures) {
            let Some(entry) = manifest.get(&name) else {
                return Ok(Some(format!("{MANIFEST} does not name {name}")));
            };
            if let Some(fault) = check_file(&self.folder.join(&name), entry, identities)? {
                return Ok(Some(format!("{name} {fault}")));
            }
        }
        Ok(None)
    }
}

/// What is wrong with the file at `path`, which was made with the length and hash of `entry`.
fn check_file(
    path: &Path,
    entry: &Entry,
    identities: Option<&'static IdentityCache>,
) -> anyhow::Result<Option<String>> {
    let Some(meta) = metadata(path)? else { return Ok(Some(MISSING.to_owned())) };
    if !meta.is_file() {
        return Ok(Some("is not a regular file".to_owned()));
    }
    if meta.len() != entry.bytes {
        return Ok(Some(format!("has {} bytes instead of {}", meta.len(), entry.bytes)));
    }
    let hash = match of_file(path, identities) {
        Ok(hash) => hash,
        // Removed since, or on its way to be replaced by another process.
        Err(RuntimeError::Open { source, .. }) if is_missing(&source) => return Ok(Some(MISSING.to_owned())),
        Err(error) => return Err(error.into()),
    };
    Ok((hex(&hash) != entry.blake3).then(|| "is not what was made".to_owned()))
}

/// What is said of a file that is not there.
const MISSING: &str = "is missing";

/// Of what `path` names, links not followed; `None` where there is nothing.
fn metadata(path: &Path) -> anyhow::Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest at `path`, or what is wrong with it.
fn read_manifest(path: &Path) -> anyhow::Result<Result<Manifest, String>> {
    let Some(meta) = metadata(path)? else { return Ok(Err(MISSING.to_owned())) };
    if !meta.is_file() || meta.len() > MAX_MANIFEST {
        return Ok(Err("is not a list of files".to_owned()));
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).map_err(|e| format!("is not a list of files: {e}"))),
        Err(error) if is_missing(&error) => Ok(Err(MISSING.to_owned())),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
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

/// Converts in a folder beside the model's and gives it its name last, so that nobody ever sees half of it.
fn make(all: &Path, bundled: &Bundled, identities: Option<&'static IdentityCache>) -> anyhow::Result<()> {
    std::fs::create_dir_all(all).with_context(|| format!("cannot make the folder {}", all.display()))?;
    let folder = &bundled.folder;
    let work = TemporaryFolder::new(all)?;
    let (checkpoint, files) = (work.path().join("checkpoint"), work.path().join("files"));
    write_all(&checkpoint, &CHECKPOINT)?;
    write_all(&files, &PICTURES)?;
    errln!("converting the bundled model to Q4_K_M, this once");
    let options = ConvertOptions {
        outdir: files.clone(),
        name: Some(NAME.to_owned()),
        codec: isa::codec()?,
        ..ConvertOptions::default()
    };
    let report = convert(&checkpoint, &options, &Bar::leaving_ctrl_c())?;
    write_manifest(&files, &report)?;
    let lock = File::create(all.join(".lock")).context("cannot lock the folder")?;
    wait_for(&lock)?;
    // Another process may have been faster; its files are the same.
    if bundled.check(identities)?.is_none() {
        return Ok(());
    }
    // What is damaged is moved away, not overwritten: whoever has its files mapped keeps them.
    if folder.symlink_metadata().is_ok() {
        std::fs::rename(folder, work.path().join("damaged"))
            .with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    std::fs::rename(&files, folder).with_context(|| format!("cannot name {}", folder.display()))?;
    for file in &report.files {
        let part = if file.part == Part::Text { "text" } else { "vision" };
        let name = file.path.file_name().unwrap_or_default();
        errln!("{part}: {} ({:.1} MB)", folder.join(name).display(), file.bytes as f64 / 1e6);
    }
    Ok(())
}

/// Waits until no other process is putting its files in place, which takes an instant unless it hangs.
fn wait_for(lock: &File) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => bail!("another process is making it and does not come to an end"),
            // File systems without locks: renaming keeps the files whole all the same.
            Err(TryLockError::Error(_)) => return Ok(()),
        }
    }
}

fn write_manifest(files: &Path, report: &ConvertReport) -> anyhow::Result<()> {
    let mut manifest = Manifest::new();
    for file in &report.files {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let entry = Entry { bytes: std::fs::metadata(&file.path)?.len(), blake3: hex(&of_file(&file.path, None)?) };
        manifest.insert(name, entry);
    }
    for (name, bytes) in PICTURES {
        let entry = Entry { bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() };
        manifest.insert(name.to_owned(), entry);
    }
    let path = files.join(MANIFEST);
    Ok(write_file(&path, &serde_json::to_vec_pretty(&manifest)?, &new_file())?)
}

fn write_all(folder: &Path, files: &[(&str, &[u8])]) -> anyhow::Result<()> {
    for (name, bytes) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
        write_file(&path, bytes, &new_file())?;
    }
    Ok(())
}

/// How files are written into a folder that nobody else knows yet. Its files are checked before they are used.
fn new_file() -> WriteOptions {
    WriteOptions::new(Inputs::none(), Replace::Never).unsynced()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modified(path: &Path) -> std::time::SystemTime {
        std::fs::metadata(path).unwrap().modified().unwrap()
    }

    #[test]
    fn is_made_once_and_mended_when_a_file_is_missing() {
        let all = tempfile::tempdir().unwrap();
        let first = Bundled::open_in(all.path(), None).unwrap();
        let made = modified(&first.model());
        let again = Bundled::open_in(all.path(), None).unwrap();
        assert_eq!(modified(&again.model()), made);
        assert!(std::fs::read(first.picture("shapes.png")).unwrap().starts_with(b"\x89PNG"));
        std::fs::remove_file(first.picture("shapes.png")).unwrap();
        Bundled::open_in(all.path(), None).unwrap();
        assert!(first.picture("shapes.png").is_file());
        let mut left: Vec<_> = std::fs::read_dir(all.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left.len(), 2, "a working folder was left: {left:?}");
        assert_eq!(left[0], ".lock");
    }

    /// Whatever happens to a file, the next start makes all of them anew.
    #[test]
    fn damaged_files_are_made_again() {
        let all = tempfile::tempdir().unwrap();
        let bundled = Bundled::open_in(all.path(), None).unwrap();
        let vision = bundled.folder.join(format!("mmproj-{NAME}-F16.gguf"));
        let manifest = bundled.folder.join(MANIFEST);
        let right = std::fs::read(bundled.model()).unwrap();
        let mut flipped = right.clone();
        flipped[right.len() / 2] ^= 1;
        let damages: [(PathBuf, &[u8], &str); 7] = [
            (bundled.model(), &right[..right.len() / 2], "bytes instead of"),
            (bundled.model(), b"", "bytes instead of"),
            (bundled.model(), &flipped, "not what was made"),
            (vision, b"GGUF", "mmproj"),
            (bundled.picture("number.png"), b"\x89PNG", "number.png"),
            (manifest.clone(), b"{}", "does not name"),
            (manifest.clone(), b"{", MANIFEST),
        ];
        for (path, content, words) in damages {
            std::fs::write(&path, content).unwrap();
            let fault = bundled.check(None).unwrap().unwrap();
            assert!(fault.contains(words), "{}: {fault}", path.display());
            Bundled::open_in(all.path(), None).unwrap();
            assert_eq!(bundled.check(None).unwrap(), None, "{}", path.display());
            assert!(std::fs::read(bundled.model()).unwrap() == right, "{}", path.display());
        }
        std::fs::remove_file(&manifest).unwrap();
        Bundled::open_in(all.path(), None).unwrap();
        assert!(manifest.is_file(), "files without a manifest are of an older version");
    }

    /// A folder, or a link that leads nowhere, in the place of a file.
    #[cfg(unix)]
    #[test]
    fn other_things_in_the_place_of_a_file_are_damage() {
        let all = tempfile::tempdir().unwrap();
        let bundled = Bundled::open_in(all.path(), None).unwrap();
        for path in [bundled.model(), bundled.folder.join(MANIFEST)] {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            assert!(bundled.check(None).unwrap().unwrap().contains("not a"), "{}", path.display());
            Bundled::open_in(all.path(), None).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("nowhere", &path).unwrap();
            assert!(bundled.check(None).unwrap().unwrap().contains("not a"), "{}", path.display());
            Bundled::open_in(all.path(), None).unwrap();
            assert_eq!(bundled.check(None).unwrap(), None);
        }
    }

    /// What the system cannot read is told, and left as it is.
    #[cfg(target_os = "linux")]
    #[test]
    fn files_that_cannot_be_read_are_errors() {
        let all = tempfile::tempdir().unwrap();
        let bundled = Bundled::open_in(all.path(), None).unwrap();
        // A link to itself, which not even root can follow, on the way to a file.
        let examples = bundled.folder.join("examples");
        let aside = bundled.folder.join("aside");
        std::fs::rename(&examples, &aside).unwrap();
        std::os::unix::fs::symlink("examples", &examples).unwrap();
        let error = format!("{:#}", Bundled::open_in(all.path(), None).unwrap_err());
        assert!(error.contains("-m") && error.contains("examples/shapes.png"), "{error}");
        assert!(!error.contains('\n') && bundled.model().is_file() && aside.is_dir(), "{error}");
        std::fs::remove_file(&examples).unwrap();
        std::fs::rename(&aside, &examples).unwrap();
        assert_eq!(bundled.check(None).unwrap(), None);
    }

    #[test]
    fn several_at_once_do_each_other_no_harm() {
        let all = tempfile::tempdir().unwrap();
        let open = || Bundled::open_in(all.path(), None).map(|b| std::fs::read(b.model()).unwrap().len());
        let lengths: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        assert!(lengths[0] > 1 << 20 && lengths.iter().all(|len| *len == lengths[0]), "{lengths:?}");
        assert_eq!(Bundled::open_in(all.path(), None).unwrap().check(None).unwrap(), None);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = format!("{:#}", Bundled::open_in(&file.path().join("models"), None).unwrap_err());
        assert!(error.contains("-m") && error.contains(&*file.path().to_string_lossy()), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
