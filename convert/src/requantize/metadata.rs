//! The keys of a re-quantised file, and what the source's keys say about the model.

use ocelli_gguf::{GgufError, MetaValue, Metadata, TensorInfo};

use super::Target;
use crate::imatrix::Imatrix;
use crate::mixture::{FileType, ModelFacts};

const FILE_TYPE: &str = "general.file_type";
const QUANTIZATION_VERSION: &str = "general.quantization_version";
/// Version of the block layouts.
const QUANTIZATION_VERSION_VALUE: u32 = 2;
/// Longest text stored about an importance matrix, in bytes.
const MAX_NOTE_BYTES: usize = 127;
/// Marks a file type that was inferred from the tensors.
const GUESSED: u32 = 1024;

/// What the type rules need to know, from the metadata.
pub(super) fn model_facts(meta: &Metadata<'_>) -> Result<ModelFacts, GgufError> {
    let arch = meta.required("general.architecture", meta.str("general.architecture"))?.to_owned();
    if arch == "clip" {
        // The rules know a vision file by its tensor names alone.
        return Ok(ModelFacts { arch, ..ModelFacts::default() });
    }
    let key = |name: &str| format!("{arch}.{name}");
    let n_layer = meta.required(&key("block_count"), meta.u32(&key("block_count")))?;
    let n_head = first_u32(meta, &key("attention.head_count"))?;
    let n_head_kv = first_u32(meta, &key("attention.head_count_kv"))?;
    Ok(ModelFacts {
        n_layer,
        n_head: n_head.unwrap_or(0),
        n_head_kv: n_head_kv.or(n_head).unwrap_or(0),
        n_expert: meta.u32(&key("expert_count"))?.unwrap_or(0),
        arch,
    })
}

/// A number, or the first of an array with one number per layer.
fn first_u32(meta: &Metadata<'_>, key: &str) -> Result<Option<u32>, GgufError> {
    match meta.array(key) {
        Ok(Some(array)) => {
            let first = array.integers().and_then(|mut values| values.next());
            Ok(first.and_then(|v| u32::try_from(v).ok()))
        }
        _ => meta.u32(key),
    }
}

/// The number to store as `general.file_type`.
pub(super) fn file_type_code(
    target: Target,
    meta: &Metadata<'_>,
    tensors: &[&TensorInfo<'_>],
) -> Result<u32, GgufError> {
    match target {
        Target::Type(ty) => Ok(ty.code()),
        Target::Copy => Ok(meta.u32(FILE_TYPE)?.unwrap_or_else(|| guess(tensors) | GUESSED)),
    }
}

/// The file type whose format most tensors have; on a tie the first to reach the count.
fn guess(tensors: &[&TensorInfo<'_>]) -> u32 {
    let mut counts = std::collections::HashMap::new();
    let mut best = (0u32, None);
    for tensor in tensors {
        let n = counts.entry(tensor.ty).or_insert(0u32);
        *n += 1;
        if *n > best.0 {
            best = (*n, tensor.ty.name());
        }
    }
    best.1.and_then(|name| FileType::parse(name).ok()).unwrap_or(FileType::F32).code()
}

/// The keys of the first (or only) output file: those of the source, then what was decided now. A key that is set
/// anew moves to the end.
pub(super) fn output_pairs(meta: &Metadata<'_>, file_type: u32, imatrix: Option<&Imatrix>) -> Vec<(String, MetaValue)> {
    let mut set: Vec<(String, MetaValue)> = vec![
        (QUANTIZATION_VERSION.to_owned(), QUANTIZATION_VERSION_VALUE.into()),
        (FILE_TYPE.to_owned(), file_type.into()),
    ];
    if let Some(imatrix) = imatrix {
        let mut note = |key: &str, value: MetaValue| set.push((format!("quantize.imatrix.{key}"), value));
        note("file", cut(&imatrix.path().to_string_lossy()).into());
        if let Some(dataset) = imatrix.datasets().first() {
            note("dataset", cut(dataset).into());
        }
        note("entries_count", u32::try_from(imatrix.len()).unwrap_or(u32::MAX).into());
        if let Some(chunks) = u32::try_from(imatrix.chunks()).ok().filter(|n| *n > 0) {
            note("chunks_count", chunks.into());
        }
    }
    let is_kept = |key: &str| !is_split_key(key) && !set.iter().any(|(k, _)| k == key);
    let mut pairs = meta.to_owned_pairs();
    pairs.retain(|(key, _)| is_kept(key));
    pairs.append(&mut set);
    pairs
}

fn is_split_key(key: &str) -> bool {
    use ocelli_gguf::split::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
    [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key)
}

/// The keys that every part of a split model ends with.
pub(super) fn split_pairs(no: u16, count: u16, n_tensors: i32) -> Vec<(String, MetaValue)> {
    use ocelli_gguf::split::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS};
    vec![
        (SPLIT_NO.to_owned(), no.into()),
        (SPLIT_COUNT.to_owned(), count.into()),
        (SPLIT_TENSORS.to_owned(), n_tensors.into()),
    ]
}

/// `text` up to the length that is stored, without half a character at the end.
fn cut(text: &str) -> String {
    let end = (0..=MAX_NOTE_BYTES.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}
