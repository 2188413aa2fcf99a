//! Writing of a made-up checkpoint, strip by strip.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use ocelli_files::{FileError, Inputs, NewFolder, Output, Replace, WriteOptions, check_space, commit_all};
use ocelli_memory::NoMemory;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::preset::Preset;
use super::tokenizer::Tokenizer;
use super::weights::{SynthTensor, SynthWeights};
use super::{files, tokenizer_files};
use crate::ConvertError;
use crate::checkpoint::{self, SourceType};
use crate::progress::Progress;

/// Values computed and written at a time.
const STRIP: usize = 4 << 20;
/// More bytes than the header of a weight file has.
const HEADER: u64 = 1 << 20;
/// Values computed by one task of a strip.
const CHUNK: usize = 64 << 10;
/// Memory that making the tokenizer's files takes for each of its tokens, at most.
const TOKEN_BYTES: u64 = 1 << 10;

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
/// Weight files of another checkpoint would contradict the new ones. Without `overwrite`, a folder that has any is
/// refused; with it, those that the new checkpoint takes the place of are removed once it is complete: the index, the
/// shards that it lists, and `model.safetensors`. Nothing else is.
///
/// # Errors
/// [`ConvertError::Output`] for a file that may not be replaced or not enough room, [`ConvertError::Io`],
/// [`ConvertError::Cancelled`]. Nothing is left of an unfinished checkpoint.
pub fn write_checkpoint(
    dir: &Path,
    options: &SynthOptions,
    progress: &dyn Progress,
) -> Result<SynthReport, ConvertError> {
    let folder = NewFolder::make(dir).map_err(ConvertError::io("create", dir))?;
    // One strip is written while the next is computed; every thread computes a chunk as f32 first.
    let (strips, threads) = (2 * STRIP * options.dtype.size(), rayon::current_num_threads());
    let chunks = threads * CHUNK * size_of::<f32>();
    check_memory(options, ocelli_memory::sum([Some((strips + chunks) as u64), ocelli_memory::threads(threads)]))?;
    let weights = SynthWeights::new(options.preset, options.seed);
    let size = options.dtype.size();
    let parameters: usize = weights.tensors().iter().map(SynthTensor::len).sum();
    let shards = split(weights.tensors(), options.shards.unwrap_or(options.preset.shards()));

    let mut small: Vec<(String, Vec<u8>)> =
        small_files(options).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    if shards.len() > 1 {
        let names = |(i, shard): (usize, &&[SynthTensor])| {
            let name = shard_name(i, shards.len());
            shard.iter().map(|t| (t.name.clone(), Value::from(name.clone()))).collect::<Vec<_>>()
        };
        let weight_map = shards.iter().enumerate().flat_map(names).collect();
        let index = json!({"metadata": {"total_size": parameters * size}, "weight_map": sorted(weight_map)});
        small.push((checkpoint::INDEX.to_owned(), pretty(&index)));
    }
    let names =
        (0..shards.len()).map(|i| shard_name(i, shards.len())).chain(small.iter().map(|(name, _)| name.clone()));
    let files: Vec<PathBuf> = names.map(|name| dir.join(name)).collect();
    let superseded = superseded(dir, &files, options.overwrite)?;
    let mut outputs =
        Output::create_all(&files, &WriteOptions::new(Inputs::none(), Replace::if_told(options.overwrite)))?;
    let bytes = |shard: &[SynthTensor]| shard.iter().map(|t| t.len() * size).sum::<usize>() as u64;
    let sizes = shards.iter().map(|shard| bytes(shard) + HEADER).chain(small.iter().map(|(_, b)| b.len() as u64));
    check_space(outputs.iter().zip(sizes))?;

    let mut done = 0;
    let (weight_files, small_files) = outputs.split_at_mut(shards.len());
    for ((i, shard), output) in shards.iter().enumerate().zip(weight_files) {
        progress.begin(&shard_name(i, shards.len()), bytes(shard));
        write_shard(output, shard, &weights, options.dtype, (done, weights.tensors().len()), progress)?;
        progress.end();
        done += shard.len();
    }
    for ((_, bytes), output) in small.iter().zip(small_files) {
        output.put(bytes)?;
    }
    if progress.cancelled() {
        return Err(ConvertError::Cancelled);
    }
    commit_all(outputs)?;
    folder.keep();
    for path in superseded {
        std::fs::remove_file(&path).map_err(ConvertError::io("remove", &path))?;
    }
    Ok(SynthReport {
        files,
        tensors: weights.tensors().len(),
        parameters: parameters as u64,
        bytes: (parameters * size) as u64,
    })
}

/// Whether there is the memory to make the small files and, beside them, for `weights` bytes.
pub(super) fn check_memory(options: &SynthOptions, weights: Option<u64>) -> Result<(), NoMemory> {
    let tokens = options.preset.text().vocab_size as u64;
    let bytes = ocelli_memory::sum([weights, tokens.checked_mul(TOKEN_BYTES)]);
    let what = format!("a checkpoint of {}", options.preset.name());
    ocelli_memory::check(what, bytes, "close other programs, or raise the limit")
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

/// The weight files in `dir` that a checkpoint of the files `written` takes the place of.
///
/// # Errors
/// [`ConvertError::Output`] where there are weight files of any kind, but nothing may be replaced.
fn superseded(dir: &Path, written: &[PathBuf], overwrite: bool) -> Result<Vec<PathBuf>, ConvertError> {
    let listed = checkpoint::listed_files(dir);
    let mut superseded = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(ConvertError::io("read", dir))? {
        let entry = entry.map_err(ConvertError::io("read", dir))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let weights = name.starts_with("model") && (name.ends_with(".safetensors") || name == checkpoint::INDEX);
        if !weights || path.is_dir() || written.contains(&path) {
            continue;
        }
        if !overwrite {
            return Err(FileError::Exists { path }.into());
        }
        let of_checkpoint = [checkpoint::SINGLE, checkpoint::INDEX].contains(&&*name) || listed.contains(&name);
        if of_checkpoint {
            superseded.push(path);
        }
    }
    Ok(superseded)
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
    output: &mut Output,
    tensors: &[SynthTensor],
    weights: &SynthWeights,
    dtype: SourceType,
    (first, count): (usize, usize),
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    output.put(&header(tensors, dtype))?;
    let (mut ready, mut next): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    for (i, tensor) in tensors.iter().enumerate() {
        progress.tensor(&tensor.name, first + i, count);
        let mut start = 0;
        while start < tensor.len() {
            if progress.cancelled() {
                return Err(ConvertError::Cancelled);
            }
            let n = STRIP.min(tensor.len() - start);
            let (written, ()) =
                rayon::join(|| output.put(&ready), || encode_strip(weights, tensor, start, n, dtype, &mut next));
            written?;
            progress.advance(ready.len() as u64);
            std::mem::swap(&mut ready, &mut next);
            start += n;
        }
    }
    output.put(&ready)?;
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
