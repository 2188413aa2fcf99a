//! `ocelli rm`: removes models from the cache.

use std::path::PathBuf;

use ocelli_hub::{Name, Store};

use super::inspect::bytes;
use super::names;
use super::usage::bail_usage;
use crate::sink::outln;

/// Options of `ocelli rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Models as `ocelli list` names them; USER/REPO without a tag is the whole repository
    #[arg(value_name = "NAME", required = true)]
    names: Vec<PathBuf>,
}

/// Removes the models, telling what became free.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    for name in &args.names {
        let text = name.to_string_lossy();
        for (store, how) in [
            (Store::Ollama, "`ollama rm`"),
            (Store::LmStudio, "LM Studio"),
            (Store::LlamaCpp, "deleting its file, which `ocelli list` shows"),
        ] {
            if text.starts_with(store.scheme()) {
                bail_usage!("{text} belongs to {store}; remove it with {how}");
            }
        }
        let model = match names::parse(name)? {
            Name::Repo(model) => model,
            Name::Path(path) => {
                bail_usage!("{} is not a model of the cache; a file is deleted like any other", path.display())
            }
        };
        let removed = ocelli_hub::remove(names::hub()?.config(), &model)?;
        let files = if removed.paths.len() == 1 { "file" } else { "files" };
        outln!("removed {model}: {} {files}, {}", removed.paths.len(), bytes(removed.bytes))?;
    }
    Ok(())
}
