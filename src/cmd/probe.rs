//! `ocelli probe`: what a model computes for a prompt, in a file for comparison with another implementation.

use std::path::PathBuf;

use ocelli_eval::probe::{Probe, Stages};
use ocelli_files::{Output, Replace, WriteOptions};
use ocelli_runtime::media::Shown;

use super::common::{self, ModelArgs};
use super::vision::{Vision, VisionArgs, tell_warnings};
use crate::outputs;
use crate::signals;
use crate::sink::errln;

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
    /// Replace the output if it exists
    #[arg(long)]
    overwrite: bool,
    /// Chat format: a known name, or a file with a Jinja template
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "raw")]
    chat_template: Option<String>,
    /// Picture, placed before the text; may be given several times. Cameras' orientation is not looked at
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    vision: VisionArgs,
}

/// Runs the prompt and some greedy steps, and writes what was computed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    signals::end_unless_watched()?;
    let mut read = outputs::model_files(&args.model.file()?);
    read.extend(args.vision.mmproj.iter().chain(&args.image).cloned());
    read.extend(args.chat_template.iter().map(PathBuf::from));
    let write = WriteOptions::new(outputs::inputs(&read), Replace::if_told(args.overwrite));
    let output = Output::create(&args.output, &write)?;
    let text = if args.prompt == "-" { common::read_text("-".as_ref())? } else { args.prompt.clone() };
    let (mut context, assets) = common::open(&args.model, args.chat_template.as_deref())?;
    let interrupt = context.interrupt_flag();
    common::watch_signals(&interrupt)?;
    let file = args.model.load_options()?.file;
    let mut vision = Vision::new(&args.vision, None, &args.model.file()?, file, &context)?;
    vision.ignore_orientation();
    let (mut slices, mut shown) = (Stages::default(), Vec::new());
    if !args.image.is_empty() {
        let media = vision.media()?;
        shown = media.probe(&args.image, &mut slices, &interrupt)?;
        tell_warnings(media);
        slices.finish(&shown);
    }
    let images: Vec<_> = shown.iter().map(Shown::numbered).collect();
    let prompt = super::run::prompt(args.raw, None, &assets, &text, &images, vision.profile())?;
    let probe = Probe::run(&mut context, &prompt, slices, args.steps, args.layers)?;
    probe.write(output)?;
    errln!("{}: {} prompt tokens, {} steps", args.output.display(), probe.ids.len(), probe.tokens.len());
    Ok(())
}
