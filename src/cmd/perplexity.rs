//! `ocelli perplexity`: how well a model predicts a text, and how far it is from another model.

use std::path::{Path, PathBuf};

use ocelli_eval::perplexity::{DivergenceSummary, Evaluation, LogitsReader, Nll, Report, compare, evaluate};
use ocelli_files::{Output, Replace, WriteOptions};
use ocelli_runtime::RuntimeError;

use super::common::{self, ModelArgs};
use super::usage::bail_usage;
use crate::outputs;
use crate::signals;
use crate::sink::{self, OutputError, errln, outln};

/// Options of `ocelli perplexity`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The text (`-`: standard input); not needed with --kl-against, whose file holds its tokens
    #[arg(short, long, value_name = "FILE", required_unless_present = "kl_against")]
    file: Option<PathBuf>,
    /// Chunks to run at most; -1: all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    chunks: i64,
    /// Compare with the log-probabilities in this file (written by --save-logits or llama-perplexity)
    #[arg(long, value_name = "FILE", conflicts_with = "save_logits")]
    kl_against: Option<PathBuf>,
    /// Save the log-probabilities of all scored tokens
    #[arg(long, value_name = "FILE")]
    save_logits: Option<PathBuf>,
    /// Replace the file of --save-logits if it exists
    #[arg(long, requires = "save_logits")]
    overwrite: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Chunk length where -c is not given.
const N_CTX: usize = 512;

/// Prints the perplexity of a text.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    signals::end_unless_watched()?;
    let save = args.save_logits.as_deref().map(|path| save(args, path)).transpose()?;
    let text = args.file.as_deref().filter(|_| args.kl_against.is_none()).map(common::read_text).transpose()?;
    let chunks = match args.chunks {
        -1 => None,
        n => match usize::try_from(n) {
            Ok(n) if n > 0 => Some(n),
            _ => bail_usage!("--chunks is -1 (all) or a number from 1"),
        },
    };
    let mut options = args.model.context_options();
    if options.n_ctx == 0 {
        options.n_ctx = N_CTX;
    }
    let (mut context, assets) = common::open_raw(&args.model, &options)?;
    common::watch_signals(&context.interrupt_flag())?;
    let tokenizer = &assets.tokenizer;
    let bos = tokenizer.ids().bos.filter(|_| tokenizer.adds_bos());
    let what = Evaluation { n_ctx: context.n_ctx(), chunks, bos };
    let mut so_far = None;
    let mut progress = |done: usize, all: usize, nll: &Nll| {
        errln!("[{done}/{all}] {:.4}", nll.perplexity());
        so_far = Some((done, all, nll.perplexity()));
    };
    let report = match &args.kl_against {
        Some(path) => {
            let mut base = LogitsReader::open(path, context.model().config().n_vocab)?;
            compare(&mut context, &mut base, &what, &mut progress)
        }
        None => {
            let ids = tokenizer.encode(text.as_deref().unwrap_or_default(), true, false)?;
            evaluate(&mut context, &ids, &what, save, &mut progress)
        }
    };
    let report = match (report, so_far) {
        (Err(RuntimeError::Interrupted), Some((done, all, perplexity))) => {
            anyhow::bail!("interrupted after {done} of {all} chunks, whose perplexity is {perplexity:.4}")
        }
        (report, _) => report?,
    };
    if args.json { print_json(&report) } else { Ok(print_text(&report)?) }
}

/// The file for the log-probabilities.
fn save(args: &Args, path: &Path) -> anyhow::Result<Output> {
    let mut read = outputs::model_files(&args.model.file()?);
    read.extend(args.file.clone());
    let write = WriteOptions::new(outputs::inputs(&read), Replace::if_told(args.overwrite));
    Ok(Output::create(path, &write)?)
}

fn print_json(report: &Report) -> anyhow::Result<()> {
    let value = serde_json::json!({
        "perplexity": report.nll.perplexity(),
        "error": report.nll.error(),
        "tokens": report.nll.count,
        "chunks": report.chunks,
        "divergence": report.divergence,
    });
    sink::json(&value)
}

fn print_text(report: &Report) -> Result<(), OutputError> {
    let (nll, n) = (&report.nll, report.chunks);
    outln!(
        "Final estimate: PPL = {:.4} +/- {:.5} ({} tokens of {n} chunks)",
        nll.perplexity(),
        nll.error(),
        nll.count
    )?;
    let Some(d) = &report.divergence else { return Ok(()) };
    let DivergenceSummary { mean, error, median, p99, max, .. } = d;
    outln!("PPL of the base:       {:.4} (ratio {:.6})", d.base_perplexity, nll.perplexity() / d.base_perplexity)?;
    outln!("KL divergence:         mean {mean:.6} +/- {error:.6}, median {median:.6}, 99 % {p99:.6}, max {max:.6}")?;
    outln!("same most likely:      {:.3} %", 100.0 * d.same_top)?;
    outln!("difference of p:       rms {:.4} %, max {:.3} %", 100.0 * d.rms_p_diff, 100.0 * d.max_p_diff)
}
