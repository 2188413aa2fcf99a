//! What a repository holds, as the hub's API tells it.

use serde::Deserialize;

use crate::cache::{is_commit, is_etag};
use crate::choice::{ModelFile, has_extension};
use crate::error::HubError;
use crate::http::Client;
use crate::hub::Watch;
use crate::name::{RepoId, repo_path};
use crate::url::encode_path;

/// Most files and pages of a listing.
const MAX_FILES: usize = 100_000;
const MAX_PAGES: usize = 200;

/// Largest file: offsets stay far from the limits of arithmetic.
const MAX_FILE_BYTES: u64 = 1 << 50;

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    /// Architecture of the GGUF files, where the hub has read it from them.
    pub(crate) architecture: Option<String>,
    pub(crate) files: Vec<ModelFile>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    gguf: Option<GgufInfo>,
}

#[derive(Deserialize)]
struct GgufInfo {
    architecture: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// Asks which commit a revision is, and for the files of it.
pub(crate) fn list(client: &Client, repo: &RepoId, revision: &str, watch: &dyn Watch) -> Result<Listing, HubError> {
    let url = client.at(&format!("api/models/{repo}/revision/{}", encode_path(revision).replace('/', "%2F")))?;
    let wrong = |what: String| HubError::Protocol { url: url.to_string(), what };
    let (info, _): (Info, _) = client.json(&url, repo.as_str(), watch).map_err(|error| match error {
        HubError::NoRevision { repo, .. } => HubError::NoRevision { repo, revision: revision.to_owned() },
        error => error,
    })?;
    if !is_commit(&info.sha) {
        return Err(wrong("a commit that is not 40 hexadecimal digits".to_owned()));
    }
    let mut page = Some(client.at(&format!("api/models/{repo}/tree/{}?recursive=true", info.sha))?);
    let mut files: Vec<ModelFile> = Vec::new();
    let mut pages = 0;
    while let Some(url) = page {
        pages += 1;
        if pages > MAX_PAGES || !client.is_hub(&url) {
            return Err(HubError::Protocol {
                url: url.to_string(),
                what: "a listing that leads away or has no end".to_owned(),
            });
        }
        let (entries, next): (Vec<Entry>, _) = client.json(&url, repo.as_str(), watch)?;
        for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
            // Files that are no models are only ever named, so they need not be usable.
            let model = has_extension(&entry.path, "gguf");
            match file(entry) {
                Ok(file) => files.push(file),
                Err(what) if model => return Err(HubError::Protocol { url: url.to_string(), what }),
                Err(_) => {}
            }
        }
        if files.len() > MAX_FILES {
            return Err(HubError::Protocol { url: url.to_string(), what: format!("more than {MAX_FILES} files") });
        }
        page = next;
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(twice) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(wrong(format!("the file {} twice", twice[0].path)));
    }
    let architecture = info.gguf.and_then(|gguf| gguf.architecture).filter(|a| a.len() <= 64);
    Ok(Listing { commit: info.sha, architecture, files })
}

fn file(entry: Entry) -> Result<ModelFile, String> {
    let path = repo_path(&entry.path)?;
    let (size, etag) = match entry.lfs {
        Some(lfs) if lfs.oid.len() == 64 => (lfs.size, lfs.oid),
        None if entry.oid.len() == 40 => (entry.size, entry.oid),
        _ => return Err(format!("{path} without a checksum")),
    };
    if !is_etag(&etag) {
        return Err(format!("{path} with a checksum that is not lower-case hexadecimal digits"));
    }
    if size > MAX_FILE_BYTES {
        return Err(format!("{path} with a size of {size} bytes"));
    }
    Ok(ModelFile { path, size, etag })
}
