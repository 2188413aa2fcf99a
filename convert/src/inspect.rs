//! What a GGUF file or a folder holds, and the faults known to occur in such files, each with its remedy.
//!
//! Only headers are read, never tensor data, so that a file of any size is described in milliseconds. A file that
//! breaks the format is an error; one that is sound but will not work well is described with [`Fault`]s.
//!
//! - [`report`]: the description, which serialises to the JSON object that `docs/formats.md` documents;
//! - `text`, `tokenizer`, `vision`: what is read from the metadata, and the faults of each part;
//! - `folder`: folders of GGUF files, Hugging Face checkpoints, and which files belong together.

use std::path::Path;

use ocelli_gguf::{Array, GgufError, GgufSet, HeaderSet, Metadata, TensorType, Value};

use crate::error::ConvertError;
use crate::source;

mod folder;
pub mod report;
mod text;
mod tokenizer;
mod vision;

#[cfg(test)]
mod tests;

pub use report::{Fault, FileReport, FolderReport, Kind, Report, Severity};
use report::{FileType, TensorRow, TypeShare};

/// Why nothing can be said about a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The file breaks the format or cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A folder that cannot be read, or something that is neither a model nor a checkpoint: what it is.
    #[error(transparent)]
    Folder(#[from] ConvertError),
}

/// Describes a GGUF file, a folder of them, or a checkpoint folder.
///
/// # Errors
/// [`InspectError`] when the path is none of these. Files in a folder that cannot be read are part of its report.
pub fn inspect(path: &Path, with_tensors: bool) -> Result<Report, InspectError> {
    if path.is_dir() {
        return folder::inspect_folder(path, with_tensors).map(|r| Report::Folder(Box::new(r)));
    }
    inspect_file(path, with_tensors).map(|r| Report::File(Box::new(r)))
}

/// Describes the model in one GGUF file (or in the parts of a split one).
///
/// # Errors
/// When the file breaks the format.
pub fn inspect_file(path: &Path, with_tensors: bool) -> Result<FileReport, InspectError> {
    let headers = match HeaderSet::read(path) {
        Ok(headers) => headers,
        Err(error) => {
            return Err(match source::of_file(path) {
                Some(what) => what.into(),
                None => error.into(),
            });
        }
    };
    let set = headers.view()?;
    let mut report = describe(path, &headers, &set, with_tensors);
    folder::add_companions(path, &mut report);
    Ok(report)
}

fn describe(path: &Path, headers: &HeaderSet, set: &GgufSet<'_>, with_tensors: bool) -> FileReport {
    let mut probe = Probe { meta: set.metadata(), faults: Vec::new() };
    let architecture = probe.str("general.architecture").map(str::to_owned);
    let kind = kind_of(set, &mut probe, architecture.as_deref());
    let parameters = set.tensors().fold(0u64, |sum, t| sum.saturating_add(t.n_elements));
    let tensor_bytes = set.tensors().fold(0u64, |sum, t| sum.saturating_add(t.n_bytes));
    let first = set.parts().first();
    let mut report = FileReport {
        path: path.display().to_string(),
        parts: headers.paths().map(|p| p.display().to_string()).collect(),
        bytes: headers.total_len(),
        gguf_version: first.map_or(0, |g| g.version()),
        alignment: first.map_or(0, |g| g.alignment()),
        kind,
        architecture,
        name: probe.str("general.name").map(str::to_owned),
        size_label: probe.str("general.size_label").map(str::to_owned),
        file_type: probe.u64("general.file_type").map(|code| FileType { code, name: file_type_name(code) }),
        parameters,
        tensor_count: set.n_tensors(),
        tensor_bytes,
        bits_per_weight: (parameters > 0).then(|| tensor_bytes as f64 * 8.0 / parameters as f64),
        types: type_shares(set, tensor_bytes),
        text: None,
        tokenizer: None,
        chat_template: None,
        sampling: sampling(set.metadata()),
        vision: None,
        companions: Vec::new(),
        tensors: with_tensors.then(|| tensor_rows(set)),
        faults: Vec::new(),
    };
    match kind {
        Kind::Text => {
            report.text = Some(text::describe(set, &mut probe, report.architecture.as_deref().unwrap_or_default()));
            report.tokenizer = tokenizer::describe(set, &mut probe, report.text.as_ref());
            report.chat_template = tokenizer::template(set, &mut probe, true);
        }
        Kind::Vocabulary => {
            report.tokenizer = tokenizer::describe(set, &mut probe, None);
            report.chat_template = tokenizer::template(set, &mut probe, false);
        }
        Kind::Vision => report.vision = Some(vision::describe(set, &mut probe)),
        Kind::Imatrix | Kind::Adapter | Kind::Other => {}
    }
    if matches!(kind, Kind::Text | Kind::Vision) {
        unsupported_types(set, &mut probe);
    }
    report.faults = probe.faults;
    report
}

fn kind_of(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, architecture: Option<&str>) -> Kind {
    let general_type = probe.str("general.type");
    let meta = set.metadata();
    match (architecture, general_type) {
        (_, Some("imatrix")) => Kind::Imatrix,
        (_, Some("adapter")) => Kind::Adapter,
        (Some("clip"), _) => Kind::Vision,
        _ if set.n_tensors() == 0 && meta.contains(tokenizer::TOKENS) => Kind::Vocabulary,
        (Some(arch), _) if meta.contains(&format!("{arch}.block_count")) => Kind::Text,
        _ => Kind::Other,
    }
}

fn type_shares(set: &GgufSet<'_>, tensor_bytes: u64) -> Vec<TypeShare> {
    let mut shares: Vec<(TensorType, TypeShare)> = Vec::new();
    for tensor in set.tensors() {
        let at = shares.iter().position(|(ty, _)| *ty == tensor.ty).unwrap_or_else(|| {
            let name = tensor.ty.to_string();
            shares.push((tensor.ty, TypeShare { name, tensors: 0, parameters: 0, bytes: 0, share: 0.0 }));
            shares.len() - 1
        });
        if let Some((_, share)) = shares.get_mut(at) {
            share.tensors += 1;
            share.parameters = share.parameters.saturating_add(tensor.n_elements);
            share.bytes = share.bytes.saturating_add(tensor.n_bytes);
        }
    }
    let mut shares: Vec<TypeShare> = shares.into_iter().map(|(_, share)| share).collect();
    shares.sort_by_key(|s| std::cmp::Reverse(s.bytes));
    for share in &mut shares {
        share.share = if tensor_bytes == 0 { 0.0 } else { share.bytes as f64 / tensor_bytes as f64 };
    }
    shares
}

fn tensor_rows(set: &GgufSet<'_>) -> Vec<TensorRow> {
    let row = |(part, t): &(usize, ocelli_gguf::TensorInfo<'_>)| TensorRow {
        name: t.name.to_owned(),
        dims: t.dims.to_vec(),
        ty: t.ty.to_string(),
        parameters: t.n_elements,
        bytes: t.n_bytes,
        offset: t.offset,
        part: *part,
    };
    set.tensors_by_part().iter().map(row).collect()
}

/// The sampling defaults a file carries, under their short names.
fn sampling(meta: &Metadata<'_>) -> serde_json::Map<String, serde_json::Value> {
    let scalar = |value: &Value<'_>| match *value {
        // By way of text: 0.8 as stored is not 0.8 once widened, and nobody wrote 0.800000011920929.
        Value::F32(x) => x.to_string().parse::<f64>().ok().map(|x| serde_json::json!(x)),
        Value::String(s) => Some(serde_json::json!(s)),
        ref other => other.as_integer().and_then(|i| i64::try_from(i).ok()).map(|i| serde_json::json!(i)),
    };
    meta.iter().filter_map(|e| Some((e.key.strip_prefix("general.sampling.")?.to_owned(), scalar(&e.value)?))).collect()
}

fn unsupported_types(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>) {
    let mut names: Vec<String> = set.tensors().filter(|t| t.ty.ggml().is_none()).map(|t| t.ty.to_string()).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    if count > 0 {
        let known: Vec<&str> = ocelli_quant::GgmlType::ALL.iter().map(|t| t.name()).collect();
        probe.error(
            "unsupported-tensor-type",
            format!("{count} tensors are stored as {}, which cannot be computed with", names.join(", ")),
            format!("quantise an F16 or BF16 file of the model again; usable are {}", known.join(", ")),
        );
    }
}

/// The name of a `general.file_type` code.
fn file_type_name(code: u64) -> Option<&'static str> {
    // 1024 marks a code that was guessed from the tensors.
    Some(match code & !1024 {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    })
}

/// Reads metadata without giving up: a mistyped value is noted as a fault and counts as missing.
struct Probe<'m, 'a> {
    meta: &'m Metadata<'a>,
    faults: Vec<Fault>,
}

impl<'a> Probe<'_, 'a> {
    fn str(&mut self, key: &str) -> Option<&'a str> {
        let found = self.meta.str(key);
        self.noted(found)
    }

    fn u64(&mut self, key: &str) -> Option<u64> {
        let found = self.meta.u64(key);
        self.noted(found)
    }

    fn f32(&mut self, key: &str) -> Option<f32> {
        let found = self.meta.f32(key);
        self.noted(found)
    }

    fn bool(&mut self, key: &str) -> Option<bool> {
        let found = self.meta.bool(key);
        self.noted(found)
    }

    fn array(&mut self, key: &str) -> Option<Array<'a>> {
        let found = self.meta.array(key);
        self.noted(found)
    }

    fn noted<T>(&mut self, found: Result<Option<T>, GgufError>) -> Option<T> {
        found.unwrap_or_else(|error| {
            self.error("mistyped-key", error.to_string(), "convert the model again".to_owned());
            None
        })
    }

    fn error(&mut self, code: &'static str, what: String, remedy: String) {
        self.faults.push(Fault { code, severity: Severity::Error, what, remedy });
    }

    fn warning(&mut self, code: &'static str, what: String, remedy: String) {
        self.faults.push(Fault { code, severity: Severity::Warning, what, remedy });
    }
}

/// `a, b, c and 4 more`.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
