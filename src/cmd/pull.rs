//! `ocelli pull`: fetches a model by name.

use std::path::PathBuf;

use anyhow::bail;
use ocelli_hub::Name;

use super::fetch::fetch;
use super::names;
use super::usage::bail_usage;
use crate::sink::{self, errln};

/// Options of `ocelli pull`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "NAME is minicpm-v-4 (or another short name), USER/REPO[:QUANT], hf://USER/REPO[/FILE], or the address \
                        of a repository or file. Q4_K_M is taken if no QUANT is given. Files are verified and kept in the \
                        cache of huggingface_hub; HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are obeyed, \
                        OCELLI_CACHE moves the cache for this program. An interrupted download goes on where it stopped."
)]
pub(crate) struct Args {
    /// Which model
    #[arg(value_name = "NAME")]
    name: PathBuf,
    /// Fetch it even if this version does not run its architecture
    #[arg(long)]
    any: bool,
    /// Print one JSON object instead of paths
    #[arg(long)]
    json: bool,
}

/// Fetches the model, or what is new of it, and prints where its files are.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let model = match names::parse(&args.name)? {
        Name::Repo(model) => model,
        Name::Path(path) if path.exists() => bail!("{} is here already", path.display()),
        Name::Path(path) => {
            bail_usage!("{} is a path, not the name of a model; name it as USER/REPO[:QUANT]", path.display())
        }
    };
    let hub = names::hub()?;
    let files = match (fetch(hub, &model, args.any), hub.cached(&model)) {
        (Err(error), Some(cached)) if names::is_unreachable(&error) => {
            errln!("ocelli: warning: {error:#}; this is what the cache has");
            cached
        }
        (files, _) => files?,
    };
    if args.json {
        return sink::json(&serde_json::json!({
            "name": model.to_string(),
            "quant": files.quant,
            "commit": files.commit,
            "text": files.text,
            "vision": files.vision,
        }));
    }
    for path in files.text.iter().chain(&files.vision) {
        sink::out(&format!("{}\n", path.display()))?;
    }
    Ok(())
}
