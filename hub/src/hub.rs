//! From a model's name to its files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::{self, Listing};
use crate::cache::{CachedRepo, size_of};
use crate::choice::{Choice, ModelFile, choose};
use crate::config::Config;
use crate::download::{self, Remote};
use crate::error::HubError;
use crate::http::Client;
use crate::journal;
use crate::name::{RepoModel, check_revision};
use crate::url::encode_path;

/// Room that must be left on the disk after a download.
const MARGIN: u64 = 64 << 20;

/// Hears how a download goes. Called from several threads.
pub trait Watch: Sync {
    /// A file is begun or gone on with: its path in the repository, its bytes, and those that are there already.
    fn begin(&self, file: &str, bytes: u64, arrived: u64) {
        let _ = (file, bytes, arrived);
    }
    /// So many more bytes have arrived.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }
    /// All bytes are there and their checksum is computed.
    fn verifying(&self, file: &str) {
        let _ = file;
    }
    /// The file is verified and has its name.
    fn finished(&self, file: &str) {
        let _ = file;
    }
    /// Another process fetches this file; it is waited for.
    fn waiting(&self, file: &str) {
        let _ = file;
    }
    /// A request failed and is tried again after a pause.
    fn retrying(&self, reason: &str, pause: Duration) {
        let _ = (reason, pause);
    }
    /// Whether to stop. What arrived is kept.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Watch for Silent {}

/// What a name stands for at the hub, and how much of it is missing here.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What was asked for.
    pub model: RepoModel,
    /// The commit of the files.
    pub commit: String,
    /// The files.
    pub choice: Choice,
    /// Architecture of the model, where the hub tells.
    pub architecture: Option<String>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that are still to be fetched.
    pub missing: u64,
}

/// A model's files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The text model: one file, or the parts of a split one.
    pub text: Vec<PathBuf>,
    /// The vision file.
    pub vision: Option<PathBuf>,
    /// Quantisation tag of the text model.
    pub quant: Option<String>,
    /// The commit that the files belong to.
    pub commit: String,
    /// What was decided for the user, to be shown.
    pub notes: Vec<String>,
}

/// A hub and a cache.
#[derive(Debug)]
pub struct Hub {
    client: Client,
}

impl Hub {
    /// Takes the settings; asks nobody yet.
    pub fn new(config: &Config) -> Result<Self, HubError> {
        Ok(Self { client: Client::new(config)? })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        self.client.config()
    }

    /// A repository's place in the cache.
    pub fn repo(&self, model: &RepoModel) -> CachedRepo {
        CachedRepo::new(&self.config().cache, model.repo.clone())
    }

    /// The files of `model` as they are in the cache, without asking the hub; `None` if they are not, or not all.
    pub fn cached(&self, model: &RepoModel) -> Option<Files> {
        let repo = self.repo(model);
        let commit = repo.commit_of(model.revision())?;
        let found = repo.files(&commit);
        let choice = choose(model, &found).ok()?;
        // That the cache lacks the usual file says nothing about the repository.
        let notes = if model.quant.is_none() && model.file.is_none() && !choice.notes.is_empty() {
            let label =
                choice.quant.clone().unwrap_or_else(|| choice.text.first().map_or(String::new(), |f| f.path.clone()));
            vec![format!("{}: taking {label} from the cache", model.repo)]
        } else {
            Vec::new()
        };
        let path = |file: &ModelFile| repo.snapshot(&commit, &file.path);
        Some(Files {
            text: choice.text.iter().map(path).collect(),
            vision: choice.vision.as_ref().map(path),
            quant: choice.quant,
            notes,
            commit,
        })
    }

    /// Asks the hub what `model` is.
    pub fn plan(&self, model: &RepoModel, watch: &dyn Watch) -> Result<Plan, HubError> {
        let config = self.config();
        if config.offline {
            return Err(HubError::Offline { what: model.to_string(), cache: config.cache.clone() });
        }
        let revision =
            check_revision(model.revision()).map_err(|reason| HubError::Name { name: model.to_string(), reason })?;
        let Listing { commit, architecture, files } = api::list(&self.client, &model.repo, &revision, watch)?;
        let choice = choose(model, &files)?;
        Ok(self.measured(Plan { model: model.clone(), commit, architecture, bytes: 0, missing: 0, choice }))
    }

    /// A plan for the vision file alone; `None` where the repository has none.
    pub fn only_vision(&self, mut plan: Plan) -> Option<Plan> {
        plan.choice.text = vec![plan.choice.vision.take()?];
        Some(self.measured(plan))
    }

    fn measured(&self, plan: Plan) -> Plan {
        let repo = self.repo(&plan.model);
        let wanted: Vec<&ModelFile> = plan.choice.text.iter().chain(&plan.choice.vision).collect();
        let bytes = wanted.iter().map(|file| file.size).sum();
        let missing = missing(&repo, &wanted);
        Plan { bytes, missing, ..plan }
    }

    /// Fetches what is missing of a plan. Nothing of it can be found under its name before all of that file has arrived
    /// and was verified.
    pub fn fetch(&self, plan: &Plan, watch: &dyn Watch) -> Result<Files, HubError> {
        let cache = &self.config().cache;
        let repo = self.repo(&plan.model);
        repo.prepare(cache)?;
        let wanted: Vec<&ModelFile> = plan.choice.text.iter().chain(&plan.choice.vision).collect();
        room_for(&repo, &wanted)?;
        let mut paths = Vec::with_capacity(wanted.len());
        for file in wanted {
            if !is_there(&repo, file) {
                let _lock = repo.lock(file, watch)?;
                // Another process may have fetched it meanwhile.
                if !is_there(&repo, file) {
                    self.fetch_file(&repo, plan, file, watch)?;
                }
            }
            paths.push(repo.link(&plan.commit, file)?);
            watch.finished(&file.path);
        }
        // Last, so that the revision never means a commit whose files are not there.
        repo.set_commit(plan.model.revision(), &plan.commit)?;
        let vision = plan.choice.vision.as_ref().and_then(|_| paths.pop());
        Ok(Files {
            text: paths,
            vision,
            quant: plan.choice.quant.clone(),
            commit: plan.commit.clone(),
            notes: plan.choice.notes.clone(),
        })
    }

    fn fetch_file(&self, repo: &CachedRepo, plan: &Plan, file: &ModelFile, watch: &dyn Watch) -> Result<(), HubError> {
        let url = self.client.at(&format!("{}/resolve/{}/{}", repo.id(), plan.commit, encode_path(&file.path)))?;
        let remote = Remote { repo: repo.id().as_str(), commit: &plan.commit, file, url };
        download::fetch(&self.client, &remote, &repo.blob(&file.etag), watch)
    }
}

fn is_there(repo: &CachedRepo, file: &ModelFile) -> bool {
    size_of(&repo.blob(&file.etag)) == Some(file.size)
}

/// Bytes that are still to be fetched.
fn missing(repo: &CachedRepo, wanted: &[&ModelFile]) -> u64 {
    let absent = wanted.iter().filter(|file| !is_there(repo, file));
    absent.map(|file| file.size - journal::arrived(&repo.blob(&file.etag), file.size).min(file.size)).sum()
}

/// Checks that the disk has room for what is missing.
fn room_for(repo: &CachedRepo, wanted: &[&ModelFile]) -> Result<(), HubError> {
    let missing = missing(repo, wanted);
    if missing == 0 {
        return Ok(());
    }
    let free = free_bytes(repo.folder())?;
    if missing.saturating_add(MARGIN) > free {
        return Err(HubError::NoSpace { path: repo.folder().to_owned(), needed: missing + MARGIN, free });
    }
    Ok(())
}

fn free_bytes(folder: &Path) -> Result<u64, HubError> {
    fs4::available_space(folder).map_err(HubError::io("see how much room there is in", folder))
}
