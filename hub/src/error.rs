//! What can go wrong between a name and a file.

use std::path::PathBuf;
use std::time::Duration;

/// Why a model could not be found, fetched or used. Addresses in messages have no query, which may hold a signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is neither a file, a short name, a repository nor an address.
    #[error("`{name}` is not the name of a model: {reason}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it, and what is right.
        reason: String,
    },
    /// An environment variable or setting that cannot be used. Never holds a token's text.
    #[error("{setting} cannot be used: {reason}")]
    Setting {
        /// Name of the variable.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The network may not be used and the files are not in the cache.
    #[error(
        "{what} is not in the cache {cache}, and HF_HUB_OFFLINE forbids to fetch it; unset it, or fetch the model beforehand"
    )]
    Offline {
        /// What was wanted.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// No answer: no network, wrong host, broken connection, TLS.
    #[error(
        "cannot reach {url}: {reason}; check the network connection (and HTTPS_PROXY, HF_ENDPOINT if they are set)"
    )]
    Network {
        /// Address without its query.
        url: String,
        /// What the network said.
        reason: String,
        /// Whether there was no connection at all, rather than a broken one.
        unreachable: bool,
    },
    /// A server that keeps a connection open and sends next to nothing.
    #[error("{url} sends too slowly: fewer than {floor} bytes per second for {} s; try again later, what arrived is kept", .window.as_secs_f64())]
    Stalled {
        /// Address without its query.
        url: String,
        /// Bytes per second that were not reached.
        floor: u64,
        /// For how long.
        window: Duration,
    },
    /// An answer with a status that has no meaning here.
    #[error("{url} answered with status {status}{}", .detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
    Status {
        /// Address without its query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's explanation.
        detail: Option<String>,
    },
    /// Too many requests, for longer than is waited.
    #[error("{url} asks to wait for {} s before the next request; try again then, what arrived is kept", .wait.as_secs())]
    RateLimited {
        /// Address without its query.
        url: String,
        /// How long the server asks to wait.
        wait: Duration,
    },
    /// No such repository, or a private one.
    #[error("there is no repository {repo}, or it is private{}; check the spelling at {endpoint}/{repo}", if *.with_token { " and the token does not give access to it" } else { " and no token is set (HF_TOKEN)" })]
    NoRepo {
        /// `USER/REPO`.
        repo: String,
        /// Address of the hub.
        endpoint: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// A repository whose owner must give access first.
    #[error("{repo} is gated: accept its conditions at {endpoint}/{repo}{}", if *.with_token { " with the account of your token" } else { ", make a token at https://huggingface.co/settings/tokens, and set HF_TOKEN to it" })]
    Gated {
        /// `USER/REPO`.
        repo: String,
        /// Address of the hub.
        endpoint: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub does not know the token.
    #[error(
        "{endpoint} refuses the token (HF_TOKEN, or the file that HF_TOKEN_PATH or HF_HOME names): it is expired or mistyped; make another one at https://huggingface.co/settings/tokens, or unset it"
    )]
    BadToken {
        /// Address of the hub.
        endpoint: String,
    },
    /// No such branch, tag or commit.
    #[error("{repo} has no revision `{revision}`")]
    NoRevision {
        /// `USER/REPO`.
        repo: String,
        /// As asked for.
        revision: String,
    },
    /// No such file in the repository.
    #[error("{repo} has no file {file}{}", list(.found))]
    NoFile {
        /// `USER/REPO`.
        repo: String,
        /// As asked for.
        file: String,
        /// GGUF files that are there.
        found: Vec<String>,
    },
    /// No file of the wanted quantisation.
    #[error("{repo} has no {wanted} file{}", list(.found))]
    NoQuant {
        /// `USER/REPO`.
        repo: String,
        /// The tag as asked for.
        wanted: String,
        /// Tags that are there.
        found: Vec<String>,
    },
    /// A repository with a checkpoint only.
    #[error("{repo} has no GGUF files, only a checkpoint (safetensors); it must be converted first")]
    CheckpointOnly {
        /// `USER/REPO`.
        repo: String,
    },
    /// A repository without a model.
    #[error("{repo} has neither GGUF files nor a checkpoint; its files: {}", shorten(.found))]
    NoModel {
        /// `USER/REPO`.
        repo: String,
        /// What is there.
        found: Vec<String>,
    },
    /// A split model with missing parts.
    #[error("{repo} lacks part {missing} of {of} of {file}")]
    MissingPart {
        /// `USER/REPO`.
        repo: String,
        /// First part.
        file: String,
        /// Number of the first part that is not there.
        missing: u32,
        /// Number of parts.
        of: u32,
    },
    /// An answer that contradicts the protocol, itself, or a limit.
    #[error("{url} gave an answer that cannot be right: {what}")]
    Protocol {
        /// Address without its query.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// The bytes are not those that the hub describes.
    #[error(
        "{file} was received with another checksum ({found}) than its own ({expected}) and was discarded; try again, and if it happens again, do not use this source"
    )]
    Checksum {
        /// File in the repository.
        file: String,
        /// What the hub says.
        expected: String,
        /// What arrived.
        found: String,
    },
    /// Not enough room.
    #[error("{} needs {needed} bytes more and its disk has {free} left; remove something, or move the cache (OCELLI_CACHE, HF_HUB_CACHE)", .path.display())]
    NoSpace {
        /// Folder that is written to.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Something that is not there.
    #[error("{what} is not in the cache {}", .cache.display())]
    NotCached {
        /// What was named.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// Files that another process is writing.
    #[error("another process is downloading files of {what}; wait for it, or end it")]
    Busy {
        /// What was named.
        what: String,
    },
    /// A file or folder that cannot be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caller gave up.
    #[error("cancelled; what arrived is kept")]
    Cancelled,
}

impl HubError {
    /// Whether the hub could not be reached at all, so that the cache may answer in its place.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Network { unreachable: true, .. } | Self::Offline { .. })
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// `; there are: a, b`, at most 40 of them.
fn list(found: &[String]) -> String {
    if found.is_empty() {
        "; it has no GGUF files at all".to_owned()
    } else {
        format!("; there are: {}", shorten(found))
    }
}

fn shorten(found: &[String]) -> String {
    const MOST: usize = 40;
    match found {
        [] => "none".to_owned(),
        _ if found.len() <= MOST => found.join(", "),
        _ => format!("{} and {} more", found[..MOST].join(", "), found.len() - MOST),
    }
}
