//! Writing of a made-up checkpoint, strip by strip.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::preset::Preset;
use super::tokenizer::Tokenizer;
use super::weights::{SynthTensor, SynthWeights};
use super::{files, tokenizer_files};
use crate::ConvertError;
use crate::checkpoint::SourceType;
use crate::output::{OutputFile, check_space, commit_all};
use crate::progress::Progress;

/// Values computed and written at a time.
const STRIP: usize = 4 << 20;
/// Values computed by one task of a strip.
const CHUNK: usize = 64 << 10;

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynthOptions {
    /// The sizes.
    pub preset: Preset,
    /// Chooses the random weights.
    pub seed: u64,
    /// How weights are stored.
    pub dtype: SourceType,
    /// Number of weight files; `None` is the preset's own.
    pub shards: Option<usize>,
    /// Whether existing files may be replaced.
    pub overwrite: bool,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthReport {
    /// Every file, weights first.
    pub files: Vec<PathBuf>,
    /// Tensors in the checkpoint.
    pub tensors: usize,
    /// Weights in the checkpoint.
    pub parameters: u64,
    /// Bytes of weights.
    pub bytes: u64,
}

/// Writes a checkpoint into the folder `dir`, which is made if need be.
///
/// # Errors
/// [`ConvertError::Exists`] for a file that may not be replaced, [`ConvertError::DiskFull`], [`ConvertError::Io`],
/// [`ConvertError::Cancelled`]. Nothing is left of an unfinished checkpoint.
pub fn write_checkpoint(
    dir: &Path,
    options: &SynthOptions,
    progress: &dyn Progress,
) -> Result<SynthReport, ConvertError> {
    std::fs::create_dir_all(dir).map_err(ConvertError::io("create", dir))?;
    let weights = SynthWeights::new(options.preset, options.seed);
    let size = options.dtype.size();
    let parameters: usize = weights.tensors().iter().map(SynthTensor::len).sum();
    check_space(dir, (parameters * size) as u64 + (64 << 20))?;

    let shards = split(weights.tensors(), options.shards.unwrap_or(options.preset.shards()));
    let mut outputs = Vec::new();
    let mut weight_map = BTreeMap::new();
    let mut done = 0;
    for (i, shard) in shards.iter().enumerate() {
        let name = shard_name(i, shards.len());
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), Value::from(name.clone()))));
        let mut file = OutputFile::create(&dir.join(&name), options.overwrite)?;
        let values: usize = shard.iter().map(SynthTensor::len).sum();
        progress.begin(&name, (values * size) as u64);
        write_shard(&mut file, shard, &weights, options.dtype, (done, weights.tensors().len()), progress)?;
        progress.end();
        done += shard.len();
        outputs.push(file);
    }
    let mut small = small_files(options);
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": parameters * size}, "weight_map": sorted(weight_map)});
        small.push(("model.safetensors.index.json", pretty(&index)));
    }
    for (name, bytes) in small {
        let mut file = OutputFile::create(&dir.join(name), options.overwrite)?;
        file.file().write_all(&bytes).map_err(ConvertError::io("write", &dir.join(name)))?;
        outputs.push(file);
    }
    let files = commit_all(outputs)?;
    remove_stale(dir, &files)?;
    Ok(SynthReport {
        files,
        tensors: weights.tensors().len(),
        parameters: parameters as u64,
        bytes: (parameters * size) as u64,
    })
}

/// Everything but the weights: configuration and tokenizer.
pub(super) fn small_files(options: &SynthOptions) -> Vec<(&'static str, Vec<u8>)> {
    let tokenizer = Tokenizer::new(options.preset.text().vocab_size);
    vec![
        ("config.json", pretty(&files::config(options.preset, options.dtype))),
        ("generation_config.json", pretty(&files::generation(options.preset))),
        ("preprocessor_config.json", pretty(&files::preprocessor(options.preset))),
        ("tokenizer.model", tokenizer_files::model(&tokenizer)),
        ("tokenizer.json", pretty(&tokenizer_files::json(&tokenizer))),
        ("tokenizer_config.json", pretty(&tokenizer_files::config(&tokenizer))),
        ("special_tokens_map.json", pretty(&tokenizer_files::special_map(&tokenizer))),
    ]
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn sorted(map: BTreeMap<String, Value>) -> Map<String, Value> {
    map.into_iter().collect()
}

fn shard_name(i: usize, n: usize) -> String {
    if n == 1 { "model.safetensors".into() } else { format!("model-{:05}-of-{n:05}.safetensors", i + 1) }
}

/// Cuts the list of tensors into at most `n` runs of about equal size.
pub(super) fn split(tensors: &[SynthTensor], n: usize) -> Vec<&[SynthTensor]> {
    let n = n.clamp(1, tensors.len().max(1));
    let total: usize = tensors.iter().map(SynthTensor::len).sum();
    let mut out = Vec::new();
    let mut rest = tensors;
    let mut before = 0;
    for i in 1..=n {
        let goal = total / n * i;
        let mut take = 0;
        // Every run gets a tensor, and leaves one for each run after it.
        while take < rest.len() && (i == n || ((before < goal || take == 0) && rest.len() - take > n - i)) {
            before += rest.get(take).map_or(0, SynthTensor::len);
            take += 1;
        }
        let (run, tail) = rest.split_at(take);
        out.push(run);
        rest = tail;
    }
    out
}

/// Weight files of an earlier checkpoint with another number of shards would contradict the new ones.
fn remove_stale(dir: &Path, written: &[PathBuf]) -> Result<(), ConvertError> {
    for entry in std::fs::read_dir(dir).map_err(ConvertError::io("read", dir))? {
        let path = entry.map_err(ConvertError::io("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let weights =
            name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"));
        if weights && !written.contains(&path) {
            std::fs::remove_file(&path).map_err(ConvertError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// The header of a safetensors file: its length and the table of tensors, padded to eight bytes.
fn header(tensors: &[SynthTensor], dtype: SourceType) -> Vec<u8> {
    let name = match dtype {
        SourceType::F32 => "F32",
        SourceType::F16 => "F16",
        SourceType::Bf16 => "BF16",
    };
    let mut table = Map::new();
    table.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.len() * dtype.size();
        table.insert(tensor.name.clone(), json!({"dtype": name, "shape": tensor.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut text = Value::Object(table).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.append(&mut text);
    out
}

/// Writes one weight file. While a strip is written the next one is computed.
fn write_shard(
    output: &mut OutputFile,
    tensors: &[SynthTensor],
    weights: &SynthWeights,
    dtype: SourceType,
    (first, count): (usize, usize),
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    let path = output.path().to_owned();
    output.file().write_all(&header(tensors, dtype)).map_err(ConvertError::io("write", &path))?;
    let (mut ready, mut next): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    for (i, tensor) in tensors.iter().enumerate() {
        progress.tensor(&tensor.name, first + i, count);
        let mut start = 0;
        while start < tensor.len() {
            if progress.cancelled() {
                return Err(ConvertError::Cancelled);
            }
            let n = STRIP.min(tensor.len() - start);
            let file = output.file();
            let (written, ()) =
                rayon::join(|| file.write_all(&ready), || encode_strip(weights, tensor, start, n, dtype, &mut next));
            written.map_err(ConvertError::io("write", &path))?;
            progress.advance(ready.len() as u64);
            std::mem::swap(&mut ready, &mut next);
            start += n;
        }
    }
    output.file().write_all(&ready).map_err(ConvertError::io("write", &path))?;
    progress.advance(ready.len() as u64);
    Ok(())
}

/// Computes values `start..start + n` of a tensor as they are stored.
pub(super) fn encode_strip(
    weights: &SynthWeights,
    tensor: &SynthTensor,
    start: usize,
    n: usize,
    dtype: SourceType,
    out: &mut Vec<u8>,
) {
    let size = dtype.size();
    out.resize(n * size, 0);
    out.par_chunks_mut(CHUNK * size).enumerate().for_each(|(i, bytes)| {
        let mut values = vec![0.0_f32; bytes.len() / size];
        weights.fill(tensor, start + i * CHUNK, &mut values);
        match dtype {
            SourceType::F32 => {
                for (b, v) in bytes.chunks_exact_mut(4).zip(&values) {
                    b.copy_from_slice(&v.to_le_bytes());
                }
            }
            SourceType::F16 => {
                for (b, v) in bytes.chunks_exact_mut(2).zip(&values) {
                    b.copy_from_slice(&f16::from_f32(*v).to_le_bytes());
                }
            }
            SourceType::Bf16 => {
                for (b, v) in bytes.chunks_exact_mut(2).zip(&values) {
                    b.copy_from_slice(&bf16::from_f32(*v).to_le_bytes());
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
