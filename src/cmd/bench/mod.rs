//! `ocelli bench`: how fast models and kernels run, and how near that is to what the machine could do.

mod against;
mod compare;
mod kernels;
mod lists;
mod machine;
mod models;
mod output;
mod plan;
mod plot;
mod row;
mod synthetic;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::usage::bail_usage;
use crate::progress;
use output::Format;

/// Options of `ocelli bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    models: ModelsArgs,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Time every kernel × format × instruction set × shape of the model, and draw the roofline.
    Kernels(kernels::Args),
}

/// What is measured with whole models. Lists may be separated by commas, given repeatedly, or be ranges
/// (FIRST-LAST, FIRST-LAST+STEP, FIRST-LAST*FACTOR).
#[derive(Debug, clap::Args)]
struct ModelsArgs {
    /// Model file (.gguf) or name of a model; may be given several times
    #[arg(short = 'm', long = "model", value_name = "FILE|NAME")]
    model: Vec<PathBuf>,
    /// Use a model with random weights: minicpm-v-4, small or mini, with `:TYPE` for another type than Q4_K_M; kept in the cache folder
    #[arg(long, value_name = "PRESET[:TYPE]")]
    synthetic: Vec<String>,
    /// [-mm] Vision file (mmproj .gguf): measure encoding and the time to the first token, too
    #[arg(long, value_name = "FILE", conflicts_with = "no_mmproj")]
    mmproj: Option<PathBuf>,
    /// Leave the vision file of a synthetic model out
    #[arg(long)]
    no_mmproj: bool,
    /// Sides of the square pictures in pixels, list
    #[arg(long, value_name = "N", default_value = "448")]
    image_size: Vec<String>,
    /// Tokens of the prompt, list; 0: no such test
    #[arg(short = 'p', long, value_name = "N", default_value = "512")]
    n_prompt: Vec<String>,
    /// Tokens generated, list; 0: no such test
    #[arg(short = 'n', long, value_name = "N", default_value = "128")]
    n_gen: Vec<String>,
    /// [-pg] A prompt and what is generated behind it, timed together; may be given several times
    #[arg(long, value_name = "PROMPT,TOKENS")]
    n_prompt_gen: Vec<String>,
    /// Positions in the cache before, list
    #[arg(short = 'd', long, value_name = "N", default_value = "0")]
    n_depth: Vec<String>,
    /// Threads, list; 0: physical cores
    #[arg(short = 't', long, value_name = "N", default_value = "0")]
    threads: Vec<String>,
    /// Upper bound of -ub
    #[arg(short = 'b', long, value_name = "N", default_value_t = 2048)]
    batch_size: usize,
    /// [-ub] Prompt tokens computed together, list
    #[arg(long, value_name = "N", default_value = "512")]
    ubatch_size: Vec<String>,
    /// [-ctk] Formats of cached keys, list [default: f16, with --precision exact f32]
    #[arg(long, value_name = "TYPE")]
    cache_type_k: Vec<String>,
    /// [-ctv] Formats of cached values, list [default: f16, with --precision exact f32]
    #[arg(long, value_name = "TYPE")]
    cache_type_v: Vec<String>,
    /// Instruction sets, list; `all` of this machine or the `best` one, which it is if not given
    #[arg(long, value_name = "NAME")]
    isa: Vec<String>,
    /// How products are computed
    #[arg(long, value_name = "MODE", default_value = "fast")]
    precision: super::common::PrecisionArg,
    /// Samples of each test
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// No run to warm up
    #[arg(long)]
    no_warmup: bool,
    /// Read files into memory instead of mapping them
    #[arg(long)]
    no_mmap: bool,
    /// How rows are written
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "md")]
    output: Format,
    /// The same as -o json
    #[arg(long)]
    json: bool,
    /// Run this llama-bench on the same files with the same options afterwards, and print ratios (also OCELLI_LLAMA_BENCH)
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// Print the ratios between the rows of two files written with -o json or by llama-bench; nothing is measured
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"], conflicts_with_all = ["model", "synthetic"])]
    compare: Vec<PathBuf>,
    /// Print the rows of a file written with -o json in another form; nothing is measured
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["model", "synthetic", "compare"])]
    show: Option<PathBuf>,
}

impl ModelsArgs {
    fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// Measures, or compares what was measured.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(What::Kernels(args)) = &args.what {
        return kernels::run(args);
    }
    let args = &args.models;
    if let [first, second] = args.compare.as_slice() {
        return compare::run(first, second, args.format());
    }
    if let Some(path) = &args.show {
        return show(path, args.format());
    }
    if args.model.is_empty() && args.synthetic.is_empty() {
        bail_usage!(
            "no model; give -m FILE or --synthetic minicpm-v-4 (or `bench kernels`, or --compare A.json B.json)"
        );
    }
    models::run(args)
}

/// Prints the rows of a file.
fn show(path: &Path, format: Format) -> anyhow::Result<()> {
    let rows = compare::read(path)?;
    let text = match format {
        Format::Md => {
            let (of_kernels, of_models): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.contains_key("kernel"));
            let mut text = machine::text_of(of_models.iter().chain(&of_kernels));
            for (rows, table) in [(&of_models, row::markdown as fn(&[_]) -> _), (&of_kernels, kernels::markdown)] {
                if !rows.is_empty() {
                    text.push_str(&format!("\n{}", table(rows)));
                }
            }
            text
        }
        Format::Csv => output::csv(&rows)?,
        Format::Json => output::json(&rows)?,
        Format::Jsonl => output::json_lines(&rows)?,
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the rows")
}

/// Fails once Ctrl-C was pressed.
fn going_on() -> anyhow::Result<()> {
    if progress::interrupted() {
        bail!("interrupted");
    }
    Ok(())
}
