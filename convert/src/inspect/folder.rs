//! Folders: GGUF files, checkpoints, and which files belong together.

use std::path::{Path, PathBuf};

use ocelli_gguf::{HeaderSet, split::SplitName};
use serde_json::Value;

use super::{
    InspectError, inspect_file,
    report::{CheckpointReport, Companion, Fault, FileReport, FolderReport, Kind, Severity, Unreadable},
    vision,
};
use crate::{checkpoint::Checkpoint, error::ConvertError, family, general, json::Section, source, vocab};

/// Files looked at in search of those that belong to a model.
const MAX_NEIGHBOURS: usize = 64;

pub(super) fn inspect_folder(dir: &Path, with_tensors: bool) -> Result<FolderReport, InspectError> {
    let mut report =
        FolderReport { path: dir.display().to_string(), checkpoint: None, files: Vec::new(), unreadable: Vec::new() };
    for path in gguf_files(dir).map_err(ConvertError::io("read", dir))? {
        match inspect_file(&path, with_tensors) {
            Ok(file) => report.files.push(file),
            Err(e) => report.unreadable.push(Unreadable { path: path.display().to_string(), error: e.to_string() }),
        }
    }
    match source::check(dir) {
        Ok(()) => report.checkpoint = Some(checkpoint(dir)?),
        Err(e) if report.files.is_empty() && report.unreadable.is_empty() => return Err(e.into()),
        // Of GGUF files, which have been described.
        Err(_) => {}
    }
    Ok(report)
}

/// The GGUF models in a folder by name; of split ones, the first part.
fn gguf_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && path.is_file();
        if is_gguf && SplitName::parse(&path).is_none_or(|name| name.no == 1) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file's name says that it is a vision file.
fn is_mmproj_name(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().to_ascii_lowercase().contains("mmproj"))
}

/// Finds vision files beside a text model, and text models beside a vision file.
pub(super) fn add_companions(path: &Path, report: &mut FileReport) {
    let wanted = match report.kind {
        Kind::Text => Kind::Vision,
        Kind::Vision => Kind::Text,
        _ => return,
    };
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files = gguf_files(dir).unwrap_or_default();
    let is_candidate = |p: &PathBuf| {
        p.file_name() != path.file_name()
            && is_mmproj_name(p) == (wanted == Kind::Vision)
            && !report.parts.contains(&p.display().to_string())
    };
    let own_width = width(report.text.as_ref().and_then(|t| t.embedding_length), report.vision.as_ref());
    let companions: Vec<Companion> = files
        .iter()
        .filter(|p| is_candidate(p))
        .take(MAX_NEIGHBOURS)
        .filter_map(|p| companion(p, wanted, own_width))
        .collect();
    report.companions = companions;

    let wants_vision = report.text.as_ref().is_some_and(|t| t.is_minicpm_v_4)
        || report.tokenizer.as_ref().is_some_and(|t| t.has_image_tokens);
    if report.kind == Kind::Text && wants_vision && !report.companions.iter().any(|c| c.fits) {
        report.faults.push(Fault {
            code: "missing-vision-file",
            severity: Severity::Warning,
            what: "no vision file that fits lies beside the model: it can read text, not images".to_owned(),
            remedy: "put the model's mmproj-*.gguf into the same folder; `ocelli convert` writes both".to_owned(),
        });
    }
    if report.kind == Kind::Vision && !report.companions.is_empty() && !report.companions.iter().any(|c| c.fits) {
        report.faults.push(Fault {
            code: "wrong-text-model",
            severity: Severity::Warning,
            what: "none of the text models beside this vision file fits it".to_owned(),
            remedy: "put it beside the text model it was converted with".to_owned(),
        });
    }
    report.faults.sort_by_key(|f| f.severity);
}

fn width(text: Option<u64>, vision: Option<&super::report::VisionModel>) -> Option<u64> {
    text.or_else(|| vision.and_then(|v| v.output_width))
}

fn companion(path: &Path, wanted: Kind, own_width: Option<u64>) -> Option<Companion> {
    let shown = path.display().to_string();
    let headers = match HeaderSet::read(path) {
        Ok(headers) => headers,
        Err(e) => return Some(Companion { path: shown, kind: wanted, fits: false, why: e.to_string() }),
    };
    let set = headers.view().ok()?;
    let arch = set.metadata().str("general.architecture").ok().flatten()?;
    let their_width = match (wanted, arch) {
        (Kind::Vision, "clip") => vision::output_width(&set),
        (Kind::Vision, _) | (_, "clip") => return None,
        _ => set.metadata().u64(&format!("{arch}.embedding_length")).ok().flatten(),
    };
    let (fits, why) = match (own_width, their_width) {
        (Some(own), Some(theirs)) if own == theirs => (true, format!("both are {own} wide")),
        (Some(own), Some(theirs)) => (false, format!("it is {theirs} wide, this file {own}")),
        _ => (false, "its width is not known".to_owned()),
    };
    Some(Companion { path: shown, kind: wanted, fits, why })
}

fn checkpoint(dir: &Path) -> Result<CheckpointReport, ConvertError> {
    let config = Section::read(dir, "config.json", "download it from the model's page")?;
    // MiniCPM-V keeps the text model's numbers at the top level, other families in a section of their own.
    let nested = if config.has("text_config") { "text_config" } else { "llm_config" };
    let text = config.section(nested).ok();
    let value = |section: &Section, key: &str| section.get(key).ok().flatten();
    let number = |key: &str| {
        value(&config, key).or_else(|| text.as_ref().and_then(|text| value(text, key))).and_then(|v| v.as_u64())
    };
    let architectures: Vec<String> = value(&config, "architectures")
        .as_ref()
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let mut faults = Vec::new();
    let mut fault = |code, severity, what: String, remedy: &str| {
        faults.push(Fault { code, severity, what, remedy: remedy.to_owned() });
    };
    let weights = match Checkpoint::open(dir) {
        Ok(weights) => Some(weights),
        Err(e) => {
            let remedy = "complete the checkpoint's download, or remove what does not belong to it";
            fault("checkpoint-weights", Severity::Error, e.to_string(), remedy);
            None
        }
    };
    let tensors = || weights.iter().flat_map(|w| w.tensors().values());
    let tokenizer: Vec<String> = ["tokenizer.model", "tokenizer.json", "tokenizer_config.json"]
        .into_iter()
        .filter(|f| dir.join(f).is_file())
        .map(str::to_owned)
        .collect();
    if !tokenizer.iter().any(|f| f == "tokenizer.model" || f == "tokenizer.json") {
        let what = "neither tokenizer.model nor tokenizer.json is there".to_owned();
        fault("missing-tokenizer", Severity::Error, what, "download the tokenizer files of the checkpoint");
    }
    let chat_template = template_file(dir);
    if chat_template.is_none() {
        let what = "no chat template in tokenizer_config.json, chat_template.jinja or chat_template.json".to_owned();
        fault("missing-chat-template", Severity::Warning, what, "download the file that holds it");
    }
    let family = family::detect(dir, &config);
    if family.is_ok()
        && let Err(e) = source::check_unquantised(&config)
    {
        fault("quantised-checkpoint", Severity::Error, e.to_string(), "download the original model");
    }
    let mut disagree: Vec<String> = weights.iter().flat_map(|w| w.notes()).cloned().collect();
    if family.is_ok() && tokenizer.iter().any(|f| f != "tokenizer_config.json") {
        disagree.extend(general::sampling(dir).map_or_else(|e| vec![e.to_string()], |(_, warnings)| warnings));
        // Its length is that of the embedding, which is known only from the weights.
        let rows = match (&weights, &family) {
            (Some(weights), Ok(family)) => {
                let embedding = weights.tensors().get(family.embedding).filter(|t| t.n_bytes() > 0);
                embedding.and_then(|t| usize::try_from(*t.shape.first()?).ok())
            }
            _ => None,
        };
        if let Some(rows) = rows {
            let read = vocab::VocabConfig::from_section(&config).and_then(|config| {
                let config = vocab::VocabConfig { vocab_size: Some(rows), ..config };
                Ok(vocab::load(dir, &config)?)
            });
            match read {
                Ok(vocab) => disagree.extend(vocab.warnings),
                Err(e) => {
                    let remedy = "complete the tokenizer's files from the place the weights are from";
                    fault("checkpoint-tokenizer", Severity::Error, e.to_string(), remedy);
                }
            }
        }
    }
    for what in disagree {
        fault("files-disagree", Severity::Warning, what, "remove what is out of date");
    }
    let next = match family {
        Ok(_) => format!("`ocelli convert {}` makes GGUF files of it", dir.display()),
        Err(e) => format!("a model that cannot be converted: {e}"),
    };
    let product = |shape: &[u64]| shape.iter().fold(1u64, |p, d| p.saturating_mul(*d));
    Ok(CheckpointReport {
        model_type: value(&config, "model_type").and_then(|v| v.as_str().map(str::to_owned)),
        layers: number("num_hidden_layers"),
        embedding_length: number("hidden_size"),
        context_length: number("max_position_embeddings"),
        vocab_size: number("vocab_size"),
        parameters: weights.is_some().then(|| tensors().fold(0u64, |n, t| n.saturating_add(product(&t.shape)))),
        bytes: weights.is_some().then(|| tensors().fold(0u64, |n, t| n.saturating_add(t.n_bytes()))),
        tensor_count: weights.as_ref().map(|w| w.tensors().len()),
        architectures,
        tokenizer,
        chat_template,
        faults,
        next,
    })
}

/// Which of the usual places holds the chat template that is taken.
fn template_file(dir: &Path) -> Option<String> {
    let has_key = |file: &str| Section::read_or_empty(dir, file).is_ok_and(|section| section.has("chat_template"));
    let places = ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"];
    let found = places.into_iter().find(|f| match *f {
        "chat_template.jinja" => dir.join(f).is_file(),
        other => has_key(other),
    });
    found.map(str::to_owned)
}
