//! `ocelli probe`: what a model computes for a prompt, in a file for comparison with another implementation.

use std::path::PathBuf;

use ocelli_runtime::probe::Probe;
use ocelli_runtime::render;
use ocelli_runtime::template::Message;

use super::common::{self, ModelArgs};

/// Options of `ocelli probe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The prompt; `-` reads it from standard input
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Take the prompt as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// Greedy steps
    #[arg(short = 'n', long = "steps", value_name = "STEPS", default_value_t = 1)]
    steps: usize,
    /// Also write the residual stream after every layer, for all positions of the prompt
    #[arg(long)]
    layers: bool,
    /// File to write (safetensors)
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Chat format: a known name, or a file with a Jinja template
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "raw")]
    chat_template: Option<String>,
    /// [-mm] Vision file; not in this build
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Picture; not in this build
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the prompt and some greedy steps, and writes what was computed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.mmproj.is_some() || !args.image.is_empty() {
        anyhow::bail!(
            "this build probes text only; leave --mmproj and --image out, or use a build that runs mmproj files"
        );
    }
    let text = if args.prompt == "-" { common::read_text("-".as_ref())? } else { args.prompt.clone() };
    let (mut context, assets) = common::open(&args.model, args.chat_template.as_deref())?;
    let text = if args.raw { text } else { render(&assets, &[Message::new("user", text)])? };
    let ids = assets.tokenizer.encode(&text, true, true)?;
    let probe = Probe::run(&mut context, &ids, args.steps, args.layers)?;
    probe.write(&args.output)?;
    eprintln!("{}: {} prompt tokens, {} steps", args.output.display(), probe.ids.len(), probe.tokens.len());
    Ok(())
}
