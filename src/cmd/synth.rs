//! `ocelli synth`: a checkpoint with random weights, to test with and to measure a machine.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::synth::{self, Preset, SynthOptions};

use crate::progress::Bar;

/// Options of `ocelli synth`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Size of the model.
    #[arg(long, value_enum)]
    preset: PresetArg,
    /// Chooses the random weights: the same seed gives the same bytes everywhere.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder to write to; it is made if need be.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How weights are stored.
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// Number of weight files [default: 2 for minicpm-v-4, otherwise 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    shards: Option<u32>,
    /// Replace files that exist already.
    #[arg(long)]
    overwrite: bool,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

/// A preset as clap sees it.
#[derive(Debug, Clone, Copy)]
struct PresetArg(Preset);

impl ValueEnum for PresetArg {
    fn value_variants<'a>() -> &'a [Self] {
        const { &[PresetArg(Preset::Mini), PresetArg(Preset::Small), PresetArg(Preset::MiniCpmV4)] }
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    Bf16,
    F16,
    F32,
}

impl From<Dtype> for SourceType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::Bf16,
            Dtype::F16 => Self::F16,
            Dtype::F32 => Self::F32,
        }
    }
}

/// Writes the checkpoint and says what was written.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let options = SynthOptions {
        preset: args.preset.0,
        seed: args.seed,
        dtype: args.dtype.into(),
        shards: args.shards.map(|n| n as usize),
        overwrite: args.overwrite,
    };
    let started = std::time::Instant::now();
    let report = synth::write_checkpoint(&args.out, &options, &Bar::new(false)?)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let value = serde_json::json!({
            "preset": options.preset.name(),
            "seed": options.seed,
            "files": report.files,
            "tensors": report.tensors,
            "parameters": report.parameters,
            "bytes": report.bytes,
            "seconds": seconds,
        });
        println!("{value}");
    } else {
        for file in &report.files {
            println!("{}", file.display());
        }
        println!(
            "{} tensors, {} parameters, {:.1} MB of weights in {seconds:.1} s",
            report.tensors,
            report.parameters,
            report.bytes as f64 / 1e6
        );
    }
    Ok(())
}
