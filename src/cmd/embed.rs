//! `ocelli embed`: the rows that a vision file makes of pictures, in a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use ocelli_files::{Output, Replace, WriteOptions};
use ocelli_gguf::read_header;
use ocelli_runtime::media::Shown;
use ocelli_runtime::{Config, Exec, FileOptions, Precision, find_beside};
use safetensors::tensor::{Dtype, TensorView};

use super::common::{self, PrecisionArg};
use super::names;
use super::usage::bail_usage;
use super::vision::{Bar, VisionArgs, describe, open_vision, tell_warnings};
use crate::cache_folder;
use crate::isa;
use crate::outputs;
use crate::sink::{self, errln};

/// Options of `ocelli embed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pictures (PNG, JPEG, WebP, GIF, BMP)
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Model file (.gguf) or name of a model whose vision file is used, the one beside it if --mmproj is not given; if neither
    /// is given, the model that OCELLI_MODEL names
    #[arg(short = 'm', long = "model", value_name = "FILE|NAME")]
    model: Option<PathBuf>,
    /// File to write (safetensors): `images.<i>.emb`, rows × width, for every picture
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the output if it exists
    #[arg(long)]
    overwrite: bool,
    /// Also write `images.<i>.pooled`: the mean of a picture's rows
    #[arg(long)]
    pooled: bool,
    /// Threads; 0: physical cores
    #[arg(short = 't', long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// How products are computed
    #[arg(long, value_name = "MODE", default_value = "fast")]
    precision: PrecisionArg,
    /// Instruction set of the kernels (also OCELLI_ISA); the best one this machine has if not given
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// Take the pixels as they are stored, whatever orientation the camera noted
    #[arg(long)]
    ignore_orientation: bool,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    vision: VisionArgs,
}

/// Encodes the pictures and writes their rows.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let precision = match args.precision {
        PrecisionArg::Exact => Precision::Exact,
        PrecisionArg::Fast => Precision::Fast,
    };
    let mut options = args.vision.media_options(args.threads, precision);
    let exec = Arc::new(Exec::new(isa::kernels(args.isa.as_deref())?, args.threads));
    if args.ignore_orientation {
        options.decode.orientation = ocelli_image::Orientation::Ignore;
    }
    let mmproj = &vision_file(args)?;
    let interrupt = Arc::new(AtomicBool::new(false));
    common::watch_signals(&interrupt)?;
    let inputs = outputs::inputs(args.images.iter().chain([mmproj]));
    let output = Output::create(&args.output, &WriteOptions::new(inputs, Replace::if_told(args.overwrite)))?;
    let file = FileOptions { identities: cache_folder::identities(), ..FileOptions::default() };
    let mut media = open_vision(mmproj, file, exec, options)?;
    let shown = media.images(&args.images, &mut Bar::new(), &interrupt)?;
    tell_warnings(&media);
    write(output, &shown, args.pooled)?;
    for (path, shown) in args.images.iter().zip(&shown) {
        errln!("image {}: {}", path.display(), describe(shown));
    }
    if args.json {
        sink::json(&report(args, media.isa(), &shown))?;
    } else {
        errln!("{}: {} pictures", args.output.display(), shown.len());
    }
    Ok(())
}

/// The vision file that was given, or the one of the model.
fn vision_file(args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(mmproj) = &args.vision.mmproj {
        return names::find_vision(mmproj);
    }
    let Some(model) = args.model.clone().or_else(names::of_environment) else {
        bail_usage!("no vision file; give it with --mmproj FILE, or the model beside which it lies with -m FILE");
    };
    let text = names::find(&model)?.text;
    if let Some(vision) = names::vision_of(&text) {
        return Ok(vision);
    }
    let shown = text.display();
    let header = read_header(&text).with_context(|| format!("cannot read {shown}"))?;
    let gguf = header.view().with_context(|| format!("cannot read {shown}"))?;
    let config = Config::read(gguf.metadata()).with_context(|| format!("cannot use {shown}"))?;
    Ok(find_beside(&text, config.n_embd)?)
}

fn report(args: &Args, isa: Option<&str>, shown: &[Shown]) -> serde_json::Value {
    let images: Vec<_> = args
        .images
        .iter()
        .zip(shown)
        .map(|(path, shown)| {
            let image = &shown.image;
            serde_json::json!({
                "file": path.to_string_lossy(),
                "width": image.size.0,
                "height": image.size.1,
                "grid": image.grid,
                "slices": image.slices(),
                "rows": image.n_rows(),
                "n_embd": image.n_embd,
            })
        })
        .collect();
    serde_json::json!({ "output": args.output.to_string_lossy(), "isa": isa, "images": images })
}

/// The mean of all rows.
fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let n = rows.len() / width.max(1);
    let mut sums = vec![0f64; width];
    for row in rows.chunks_exact(width.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    sums.iter().map(|sum| (sum / n.max(1) as f64) as f32).collect()
}

fn write(mut output: Output, shown: &[Shown], pooled: bool) -> anyhow::Result<()> {
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let mut parts = Vec::new();
    for (i, image) in shown.iter().map(|s| &s.image).enumerate() {
        let shape = vec![image.n_rows(), image.n_embd];
        parts.push((format!("images.{i}.emb"), shape, bytes(&image.rows)));
        if pooled {
            let mean = mean(&image.rows, image.n_embd);
            parts.push((format!("images.{i}.pooled"), vec![image.n_embd], bytes(&mean)));
        }
    }
    let views = parts
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let whole = safetensors::serialize(views, None)?;
    output.put(&whole)?;
    Ok(output.commit()?)
}

#[cfg(test)]
mod tests {
    use super::mean;

    #[test]
    fn rows_are_averaged() {
        assert_eq!(mean(&[1.0, 2.0, 3.0, 6.0], 2), [2.0, 4.0]);
        assert_eq!(mean(&[], 3), [0.0; 3]);
    }
}
