//! Models by name: the Hugging Face hub's protocol, its cache on disk, and the stores of other programs.
//!
//! A [`Name`] says which model is meant, [`Hub::plan`] asks the hub which files that is, and [`Hub::fetch`] brings what is
//! missing into the cache that Python's `huggingface_hub` uses as well. [`Hub::cached`] answers without a network.
//!
//! Everything a server says is untrusted. Commits, checksums, sizes and file names are checked before one of them becomes
//! a path or an allocation, every file of the hub is verified against its checksum before it gets its name, and a token is
//! only ever sent to the origin it was set for. What has arrived is never lost: each piece is noted beside the unfinished
//! file once it is written, so a download goes on where it stopped, whatever stopped it.

#![forbid(unsafe_code)]

mod api;
mod cache;
mod choice;
mod config;
mod download;
mod error;
mod http;
mod hub;
mod journal;
mod name;
mod remove;
mod retry;
mod stores;
mod url;
mod verify;

pub use crate::cache::CachedRepo;
pub use crate::choice::{Choice, ModelFile, quant_label};
pub use crate::config::{Config, Timing, Token};
pub use crate::error::HubError;
pub use crate::hub::{Files, Hub, Plan, Silent, Watch};
pub use crate::name::{Name, RepoId, RepoModel, SHORT_NAMES, ShortName};
pub use crate::remove::{Removed, remove};
pub use crate::stores::{LocalModel, Store, Stores};
