//! The model families that can be converted.
//!
//! A family is one file here and one entry of [`FAMILIES`]: how to recognise its `config.json`, and how to plan its
//! output files (keys, tensors and where their values come from). Everything else is common: reading, output types,
//! streaming, naming.

mod llama;
mod minicpmv4;
mod position_table;

use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::error::ConvertError;
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
    detect: fn(&Section) -> Detection,
    /// Plans the output files.
    pub(crate) plan: fn(&Job<'_>) -> Result<Plan, ConvertError>,
}

/// What a family plans from.
pub(crate) struct Job<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) config: &'a Section,
    pub(crate) vocab: &'a Vocab,
    /// `general.name`.
    pub(crate) title: &'a str,
    /// Whether tensors with longrope factors are written.
    pub(crate) rope_factors: bool,
}

/// The planned output. Matrices of the text file are F32 until types are chosen; those of the vision file have the
/// formats of an F16 file.
pub(crate) struct Plan {
    pub(crate) text: FilePlan,
    pub(crate) facts: ModelFacts,
    pub(crate) vision: Option<FilePlan>,
}

/// The family that a configuration belongs to.
pub(crate) fn detect(checkpoint: &Checkpoint, config: &Section) -> Result<&'static Family, ConvertError> {
    let unsupported = |found| {
        let names: Vec<_> = FAMILIES.iter().map(|f| f.name).collect();
        ConvertError::UnsupportedModel { path: checkpoint.dir().to_owned(), found, supported: names.join(" and ") }
    };
    for family in FAMILIES {
        match (family.detect)(config) {
            Detection::No => {}
            Detection::Yes => return Ok(family),
            Detection::Other(found) => return Err(unsupported(found)),
        }
    }
    let list = architectures(config);
    let architecture = if list.is_empty() { "no architecture".to_owned() } else { list.join(", ") };
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("none");
    Err(unsupported(format!("{architecture} (model_type {model_type})")))
}

/// The `architectures` list.
fn architectures(config: &Section) -> Vec<&str> {
    match config.get("architectures") {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
