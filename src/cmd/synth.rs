//! `ocelli synth`: a checkpoint with random weights, to test with and to measure a machine.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::mixture::FileType;
use ocelli_convert::synth::{self, Preset, SynthOptions};
use ocelli_convert::{ConvertOptions, VisionType};

use crate::isa;
use crate::progress::Bar;
use crate::sink::{self, errln, outln};

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
    /// Write the GGUF pair instead of a checkpoint, with the text file in this type: Q4_K_M, Q8_0, F16 …
    #[arg(long, value_name = "TYPE")]
    gguf: Option<FileType>,
    /// Type of the vision file of the GGUF pair: f16, q8_0, bf16 or f32.
    #[arg(long, value_name = "TYPE", default_value = "f16", requires = "gguf")]
    vision_outtype: VisionType,
    /// Replace files that exist already; the weight files of a checkpoint that stood there go with its index.
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

/// Says which GGUF files were written.
fn show_pair(args: &Args, report: &ocelli_convert::ConvertReport, seconds: f64) -> anyhow::Result<()> {
    if args.json {
        let files: Vec<_> = report
            .files
            .iter()
            .map(|file| serde_json::json!({"path": file.path, "bytes": file.bytes, "tensors": file.tensors}))
            .collect();
        let value = serde_json::json!({
            "preset": args.preset.0.name(), "seed": args.seed, "files": files, "seconds": seconds,
        });
        sink::json(&value)?;
        return Ok(());
    }
    for file in &report.files {
        outln!("{}  {:.1} MB, {} tensors", file.path.display(), file.bytes as f64 / 1e6, file.tensors)?;
    }
    errln!("written in {seconds:.1} s");
    Ok(())
}

/// Writes the checkpoint or the GGUF pair and says what was written.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let options = SynthOptions {
        preset: args.preset.0,
        seed: args.seed,
        dtype: args.dtype.into(),
        shards: args.shards.map(|n| n as usize),
        overwrite: args.overwrite,
    };
    let started = std::time::Instant::now();
    let bar = Bar::new(false)?;
    if let Some(file_type) = args.gguf {
        let convert = ConvertOptions {
            file_type,
            vision_type: args.vision_outtype,
            outdir: args.out.clone(),
            overwrite: args.overwrite,
            codec: isa::codec()?,
            ..ConvertOptions::default()
        };
        let report = synth::write_gguf(&options, &convert, &bar)?;
        drop(bar);
        for remark in &report.remarks {
            errln!("ocelli: note: {remark}");
        }
        return show_pair(args, &report, started.elapsed().as_secs_f64());
    }
    let report = synth::write_checkpoint(&args.out, &options, &bar)?;
    drop(bar);
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
        sink::json(&value)?;
    } else {
        for file in &report.files {
            outln!("{}", file.display())?;
        }
        outln!(
            "{} tensors, {} parameters, {:.1} MB of weights in {seconds:.1} s",
            report.tensors,
            report.parameters,
            report.bytes as f64 / 1e6
        )?;
    }
    Ok(())
}
