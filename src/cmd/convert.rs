//! `ocelli convert`: a Hugging Face checkpoint to GGUF files.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use ocelli_convert::mixture::FileType;
use ocelli_convert::{ConvertError, ConvertOptions, ConvertReport, Part, VisionType, convert};

use crate::isa;
use crate::progress::Bar;
use crate::sink::{self, errln, outln};

/// Options of `ocelli convert`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the checkpoint: config.json, safetensors files, tokenizer.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Type of the text file, in any case: Q4_K_M, Q8_0, F16 …
    #[arg(long, value_name = "TYPE", default_value = "Q4_K_M", long_help = outtype_help())]
    outtype: FileType,
    /// Type of the vision file: f16, q8_0, bf16 or f32.
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    vision_outtype: VisionType,
    /// Folder for the output files; made if missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    outdir: PathBuf,
    /// Write the text file only.
    #[arg(long, conflicts_with = "vision_only")]
    text_only: bool,
    /// Write the vision file (mmproj) only.
    #[arg(long)]
    vision_only: bool,
    /// Beginning of the output files' names; the model's name, as its folder tells it, if not given.
    #[arg(long)]
    name: Option<String>,
    /// Replace output files that exist.
    #[arg(long)]
    overwrite: bool,
    /// Leave the longrope factor tensors out, for loaders that refuse them. Such a file computes wrong rotations.
    #[arg(long)]
    no_rope_factors: bool,
    /// Pre-tokenizer of a byte-level tokenizer, where it is not recognised: llama-bpe, qwen2, gpt-2 …
    #[arg(long, value_name = "NAME")]
    pre: Option<String>,
    /// Worker threads; as many as there are cores if not given.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

fn outtype_help() -> String {
    let mut out = "Type of the text file, in any case:\n".to_owned();
    for ty in FileType::ALL {
        out.push_str(&format!("\n  {:<8} {}", ty.name(), ty.about()));
    }
    out
}

/// Converts and reports.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let options = ConvertOptions {
        file_type: args.outtype,
        vision_type: args.vision_outtype,
        outdir: args.outdir,
        name: args.name,
        overwrite: args.overwrite,
        rope_factors: !args.no_rope_factors,
        pre: args.pre,
        threads: args.threads,
        codec: isa::codec()?,
        only: match (args.text_only, args.vision_only) {
            (true, _) => Some(Part::Text),
            (_, true) => Some(Part::Vision),
            _ => None,
        },
    };
    let started = Instant::now();
    let bar = Bar::new(false)?;
    let report = convert(&args.checkpoint, &options, &bar).map_err(advise)?;
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    for warning in &report.warnings {
        errln!("ocelli: warning: {warning}");
    }
    for remark in &report.remarks {
        errln!("ocelli: note: {remark}");
    }
    if args.json {
        sink::json(&json(&report, seconds))?;
        return Ok(());
    }
    for file in &report.files {
        let kept = if file.kept { " (kept: it was there already, the same)" } else { "" };
        outln!("{}  {:.1} MB, {} tensors{kept}", file.path.display(), file.bytes as f64 / 1e6, file.tensors)?;
    }
    errln!("{} converted in {seconds:.1} s", report.family);
    Ok(())
}

/// Adds the option that helps to errors that know none.
fn advise(error: ConvertError) -> anyhow::Error {
    let option = match &error {
        ConvertError::NoName { .. } => "--name NAME",
        _ => return error.into(),
    };
    anyhow::anyhow!("{error} ({option})")
}

fn json(report: &ConvertReport, seconds: f64) -> serde_json::Value {
    let files: Vec<_> = report
        .files
        .iter()
        .map(|file| {
            let part = match file.part {
                Part::Text => "text",
                Part::Vision => "vision",
            };
            serde_json::json!({
                "path": file.path, "part": part, "bytes": file.bytes, "tensors": file.tensors, "kept": file.kept,
            })
        })
        .collect();
    serde_json::json!({
        "model": report.family,
        "files": files,
        "seconds": seconds,
        "peak_rss_bytes": peak_rss(),
        "notes": report.remarks,
        "warnings": report.warnings,
    })
}

/// The most memory this process has had resident, where the system tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
