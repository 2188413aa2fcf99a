//! From what is typed as a model to files on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use ocelli_hub::{Config, Files, Hub, HubError, LocalModel, Name, RepoId, RepoModel, Stores};

use super::fetch::{fetch, fetch_vision};
use super::usage::Usage;
use crate::sink::errln;

/// The model that is used where none is named.
pub(crate) const MODEL_VARIABLE: &str = "OCELLI_MODEL";

/// A model's files.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The text model, or its first part.
    pub(crate) text: PathBuf,
    /// The vision file, where the name says which.
    pub(crate) vision: Option<PathBuf>,
}

/// Models that were found in this process, by their names.
static KNOWN: Mutex<BTreeMap<PathBuf, Found>> = Mutex::new(BTreeMap::new());

/// The hub that the environment describes.
pub(crate) fn hub() -> anyhow::Result<&'static Hub> {
    static HUB: OnceLock<Hub> = OnceLock::new();
    if let Some(hub) = HUB.get() {
        return Ok(hub);
    }
    let made = Hub::new(&Config::from_vars(|name| std::env::var_os(name))?)?;
    Ok(HUB.get_or_init(|| made))
}

/// The stores of this user.
pub(crate) fn stores() -> anyhow::Result<Stores> {
    Ok(Stores::from_vars(hub()?.config(), |name| std::env::var_os(name)))
}

/// What `name` names. Text that cannot be a name is a path, whose absence whoever opens it tells.
pub(crate) fn parse(name: &Path) -> anyhow::Result<Name> {
    let Some(text) = name.to_str().filter(|_| !name.exists()) else { return Ok(Name::Path(name.to_owned())) };
    // A path needs no hub, so settings that are wrong do not matter to it.
    let hub = hub();
    let endpoint = hub.as_ref().map_or("https://huggingface.co", |hub| &hub.config().endpoint);
    match Name::parse(text, endpoint)? {
        Name::Repo(_) => hub.and_then(|_| Ok(Name::parse(text, endpoint)?)),
        path => Ok(path),
    }
}

/// The files of a model, fetched if they are not here. Asking again for the same name costs nothing.
pub(crate) fn find(name: &Path) -> anyhow::Result<Found> {
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known().get(name) {
        return Ok(found.clone());
    }
    let found = locate(name)?;
    known().insert(name.to_owned(), found.clone());
    Ok(found)
}

fn locate(name: &Path) -> anyhow::Result<Found> {
    if name.exists() {
        return Ok(Found { text: name.to_owned(), vision: None });
    }
    if let Some(local) = find_stored(name) {
        let local = local?;
        return Ok(Found { text: local.path().to_owned(), vision: local.vision });
    }
    match parse(name)? {
        Name::Path(path) => Ok(Found { text: path, vision: None }),
        Name::Repo(model) => {
            let files = files(&model)
                .with_context(|| format!("{} is not a file here, so it is looked for at the hub", name.display()))?;
            let text = files.text.into_iter().next().context("the model has no files")?;
            Ok(Found { text, vision: files.vision })
        }
    }
}

/// The files of a repository's model: from the cache where it is whole, else from the hub.
pub(crate) fn files(model: &RepoModel) -> anyhow::Result<Files> {
    let hub = hub()?;
    let cached = hub.cached(model);
    // Without a vision file it cannot be told whether the repository has none, or it was not fetched.
    if let Some(files) = cached.clone().filter(|files| files.vision.is_some() || hub.config().offline) {
        return Ok(told(files));
    }
    match (fetch(hub, model, false), cached) {
        (Err(error), Some(cached)) if is_unreachable(&error) => Ok(told(cached)),
        (fetched, _) => fetched,
    }
}

fn told(files: Files) -> Files {
    for note in &files.notes {
        errln!("ocelli: note: {note}");
    }
    files
}

/// Whether the hub could not be asked.
pub(crate) fn is_unreachable(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<HubError>().is_some_and(HubError::is_unreachable))
}

/// The vision file that came with the name of the text model at `text`.
pub(crate) fn vision_of(text: &Path) -> Option<PathBuf> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.values().find(|found| found.text == text).and_then(|found| found.vision.clone())
}

/// A vision file by path, or the one of a named model, which is fetched without its text file.
pub(crate) fn find_vision(name: &Path) -> anyhow::Result<PathBuf> {
    if name.exists() {
        return Ok(name.to_owned());
    }
    if let Some(local) = find_stored(name) {
        return local?.vision.with_context(|| format!("{} has no vision file", name.display()));
    }
    match parse(name)? {
        Name::Path(path) => Ok(path),
        // A file is taken as it is; whoever opens it sees whether it is a vision file.
        Name::Repo(RepoModel { file: Some(_), .. }) => Ok(find(name)?.text),
        Name::Repo(model) => {
            let hub = hub()?;
            match hub.cached(&model).and_then(|files| files.vision) {
                Some(path) => Ok(path),
                None => fetch_vision(hub, &model),
            }
        }
    }
}

/// A model of another program's store, if the name says that it is one.
fn find_stored(name: &Path) -> Option<anyhow::Result<LocalModel>> {
    let text = name.to_str().filter(|text| text.contains("://"))?;
    match stores() {
        Ok(stores) => stores.find(text).map(|found| Ok(found?)),
        Err(error) => Some(Err(error)),
    }
}

/// The model of `-hf USER/REPO[:QUANT]` with `-hff FILE`, as a name.
pub(crate) fn of_repo(repo: &str, file: Option<&str>) -> anyhow::Result<PathBuf> {
    let id = repo.split_once(':').map_or(repo, |(id, _)| id);
    RepoId::new(id).map_err(|reason| Usage(format!("`{repo}` is not a repository: {reason}")))?;
    Ok(match file {
        Some(file) => format!("hf://{id}/{file}"),
        None => format!("hf://{repo}"),
    }
    .into())
}

/// The model that `OCELLI_MODEL` names.
pub(crate) fn of_environment() -> Option<PathBuf> {
    std::env::var_os(MODEL_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from)
}

/// A file or folder to look at, or the first file of a named model that is here. Nothing is fetched.
pub(crate) fn find_here(name: &Path) -> anyhow::Result<PathBuf> {
    if name.exists() {
        return Ok(name.to_owned());
    }
    if let Some(local) = find_stored(name) {
        return Ok(local?.path().to_owned());
    }
    match parse(name)? {
        Name::Path(path) => Ok(path),
        Name::Repo(model) => {
            let files = hub()?.cached(&model).and_then(|files| files.text.into_iter().next());
            files.with_context(|| {
                format!(
                    "{model} is not on this machine; `ocelli pull {}` fetches it, `ocelli list` shows what is here",
                    name.display()
                )
            })
        }
    }
}
