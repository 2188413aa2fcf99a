//! Encodes pictures that are slices already, and writes the tower's result and the embeddings.
//!
//! ```text
//! vision_dump MMPROJ.gguf OUT.safetensors [--fast] [--llama.cpp] [--threads N] [--isa NAME] [--repeat N] PICTURE…
//! ```
//!
//! Sides must be multiples of the patch size. Tensors: `{i}.vit` of patches × width, `{i}.emb` of queries × width.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example or a test, not the command")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ocelli_files::{Inputs, Replace, WriteOptions, write_file};
use ocelli_image::{DecodeOptions, Rgb8};
use ocelli_runtime::vision::{Positions, VisionEncoder, VisionModel, VisionOptions, VisionProbe};
use ocelli_runtime::{Exec, FileOptions, Kernels, Precision};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Shape and values of a tensor.
type Dumped = (String, Vec<usize>, Vec<u8>);

struct Towers<'t> {
    width: usize,
    dumped: &'t mut Vec<Dumped>,
}

impl VisionProbe for Towers<'_> {
    fn vit(&mut self, slice: usize, patch_rows: usize, patch_cols: usize, rows: &[f32]) {
        self.dumped.push((format!("{slice}.vit"), vec![patch_rows * patch_cols, self.width], bytes(rows)));
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = VisionOptions { precision: Precision::Exact, ..VisionOptions::default() };
    let (mut kernels, mut files, mut repeat) = (Kernels::best(), Vec::new(), 1usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--fast" => options.precision = Precision::Fast,
            "--llama.cpp" => options.positions = Positions::LlamaCpp,
            "--threads" => options.n_threads = value()?.parse()?,
            "--isa" => kernels = Kernels::named(&value()?)?,
            "--repeat" => repeat = value()?.parse()?,
            _ => files.push(argument),
        }
    }
    let [mmproj, out, pictures @ ..] = files.as_slice() else { return Err("give MMPROJ OUT PICTURE…".into()) };
    let inputs = Inputs::of(pictures.iter().chain([mmproj]));
    let pictures: Vec<Rgb8> = pictures
        .iter()
        .map(|p| ocelli_image::read(Path::new(p), &DecodeOptions::default()))
        .collect::<Result<_, _>>()?;
    let slices: Vec<&Rgb8> = pictures.iter().collect();
    let start = Instant::now();
    let model = Arc::new(VisionModel::load(Path::new(mmproj), FileOptions::default())?);
    let mut encoder =
        VisionEncoder::new(Arc::clone(&model), Arc::new(Exec::new(kernels, options.n_threads)), &options)?;
    eprintln!("loaded in {:.2} s, isa {}", start.elapsed().as_secs_f64(), encoder.isa());
    let mut dumped = Vec::new();
    for turn in 0..repeat.max(1) {
        dumped.clear();
        let mut towers = Towers { width: model.config().n_embd, dumped: &mut dumped };
        let start = Instant::now();
        let rows = encoder.encode(&slices, Some(&mut towers), &mut |_, _| {}, &AtomicBool::new(false))?;
        eprintln!("encoded {} slices in {:.2} s (turn {turn})", slices.len(), start.elapsed().as_secs_f64());
        let (n, dim) = (model.config().query_num, model.config().projection_dim);
        for (i, rows) in rows.chunks_exact(n * dim).enumerate() {
            dumped.push((format!("{i}.emb"), vec![n, dim], bytes(rows)));
        }
    }
    let views =
        dumped.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let written = WriteOptions::new(inputs, Replace::Always);
    write_file(Path::new(out), &safetensors::serialize(views, None)?, &written)?;
    Ok(())
}
