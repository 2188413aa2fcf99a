//! The model families that can be converted.
//!
//! A family is one file here and one entry of [`FAMILIES`]: how to recognise its `config.json`, and how to plan its
//! output files (keys, tensors and where their values come from). Everything else is common: reading, output types,
//! streaming, naming.

mod llama;
mod minicpmv4;
mod position_table;
mod processor;

use std::path::Path;

use ocelli_gguf::MetaValue;
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::error::ConvertError;
use crate::general::Name;
use crate::json::Section;
use crate::mixture::ModelFacts;
use crate::plan::FilePlan;
use crate::vocab::Vocab;

/// Every family, in the order in which they are asked.
const FAMILIES: &[Family] = &[minicpmv4::FAMILY, llama::FAMILY];

/// What a family says to a `config.json`.
pub(crate) enum Detection {
    /// Another family's.
    No,
    /// Its own.
    Yes,
    /// Of its kind, but a version that it does not know.
    Other(String),
}

/// One kind of checkpoint.
pub(crate) struct Family {
    /// The name shown to users.
    pub(crate) name: &'static str,
    /// The tensor whose rows are the vocabulary.
    pub(crate) embedding: &'static str,
    detect: fn(&Section) -> Result<Detection, ConvertError>,
    /// Plans the output files.
    pub(crate) plan: fn(&Job<'_>) -> Result<Plan, ConvertError>,
}

/// What a family plans from.
pub(crate) struct Job<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) config: &'a Section,
    /// The tokenizer, where the text file is wanted.
    pub(crate) vocab: Option<&'a Vocab>,
    /// `general.name` and `general.organization`.
    pub(crate) name: &'a Name,
    /// The `general.sampling.*` keys.
    pub(crate) sampling: &'a [(String, MetaValue)],
    /// Whether tensors with longrope factors are written.
    pub(crate) rope_factors: bool,
}

/// The planned output. Matrices of the text file are F32 until types are chosen; those of the vision file have the
/// formats of an F16 file.
pub(crate) struct Plan {
    /// `None` without a tokenizer.
    pub(crate) text: Option<FilePlan>,
    pub(crate) facts: ModelFacts,
    /// `None` for a model that sees nothing.
    pub(crate) vision: Option<FilePlan>,
    /// Where files disagree, and which was taken.
    pub(crate) warnings: Vec<String>,
}

/// The family that a configuration belongs to; `dir` is the checkpoint's folder.
pub(crate) fn detect(dir: &Path, config: &Section) -> Result<&'static Family, ConvertError> {
    let unsupported = |found| {
        let names: Vec<_> = FAMILIES.iter().map(|f| f.name).collect();
        ConvertError::UnsupportedModel { path: dir.to_owned(), found, supported: names.join(" and ") }
    };
    for family in FAMILIES {
        match (family.detect)(config)? {
            Detection::No => {}
            Detection::Yes => return Ok(family),
            Detection::Other(found) => return Err(unsupported(found)),
        }
    }
    let list = architectures(config)?;
    let architecture = if list.is_empty() { "a model of no named architecture".to_owned() } else { list.join(", ") };
    let model_type = text(config, "model_type")?.unwrap_or_else(|| "none".to_owned());
    Err(unsupported(format!("{} (model_type {})", shown(&architecture), shown(&model_type))))
}

/// Fails when `config.json` claims more of something than any tensor of the checkpoint has: what is made for that many
/// must not be larger than the weights.
pub(crate) fn check_count(job: &Job<'_>, key: &str, count: u32) -> Result<(), ConvertError> {
    let most = job.checkpoint.largest_dimension();
    if u64::from(count) <= most {
        return Ok(());
    }
    let found = format!("{count}, but no tensor of the checkpoint has more than {most} rows or columns");
    Err(job.config.error(key, found, "the size that the weights have"))
}

/// The `architectures` list.
fn architectures(config: &Section) -> Result<Vec<String>, ConvertError> {
    Ok(match config.get("architectures")? {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    })
}

/// A text; anything else counts as absent.
fn text(config: &Section, key: &str) -> Result<Option<String>, ConvertError> {
    Ok(config.get(key)?.as_ref().and_then(Value::as_str).map(str::to_owned))
}

/// A text from a file, short and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}
