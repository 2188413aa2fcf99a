//! `ocelli inspect`: what a GGUF file or a folder holds, and what is wrong with it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ocelli_convert::inspect::{
    self, Fault, FileReport, Kind, Report, Severity,
    report::{CheckpointReport, SpecialToken, TextModel, Tokenizer, VisionModel},
};

use ocelli_gguf::{HeaderSet, MetaArray, MetaValue};
use serde_json::Value as Json;

use super::names;
use crate::sink;

/// Options of `ocelli inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A GGUF file (of a split model, any part), a folder of them, a checkpoint folder, or the name of a model that is here.
    #[arg(value_name = "PATH|NAME")]
    path: PathBuf,
    /// List every tensor with shape, format and place.
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Print the value of one metadata key, such as general.name.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["tensors", "template"])]
    key: Option<String>,
    /// Print the chat template.
    #[arg(long, conflicts_with_all = ["tensors", "json"])]
    template: bool,
}

/// Prints the report.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let path = names::find_here(&args.path)?;
    let key = args.template.then_some(CHAT_TEMPLATE).or(args.key.as_deref());
    if let Some(key) = key {
        return print_value(&path, key, args.json);
    }
    let report = inspect::inspect(&path, args.tensors)?;
    if args.json {
        return sink::json(&report);
    }
    let mut page = Page::default();
    match &report {
        Report::File(file) => page.file(file),
        Report::Folder(folder) => {
            if let Some(checkpoint) = &folder.checkpoint {
                page.checkpoint(&folder.path, checkpoint);
            }
            folder.files.iter().for_each(|file| page.file(file));
            for file in &folder.unreadable {
                page.title(&format!("{}: unreadable", file.path));
                page.row("error", &file.error);
            }
        }
        _ => anyhow::bail!("this kind of report can only be printed with --json"),
    }
    Ok(sink::out(&page.0)?)
}

/// The metadata key that holds a model's chat template.
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Prints what a file has under `key`: text as it is, an array with one element a line.
fn print_value(path: &Path, key: &str, json: bool) -> anyhow::Result<()> {
    let header = HeaderSet::read(path)?;
    let set = header.view()?;
    let Some(value) = set.metadata().get(key) else {
        let part = key.rsplit('.').next().unwrap_or(key);
        let near: Vec<&str> =
            set.metadata().iter().map(|entry| entry.key).filter(|known| known.contains(part)).collect();
        let near = if near.is_empty() { String::new() } else { format!("; it has {}", near.join(", ")) };
        anyhow::bail!("{} has no key `{}`{near}", path.display(), key.escape_debug());
    };
    let value = json_of(&MetaValue::from(value));
    if json {
        return sink::json(&value);
    }
    let shown = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let text = match &value {
        Json::Array(elements) => elements.iter().map(shown).collect::<Vec<_>>().join("\n"),
        one => shown(one),
    };
    Ok(sink::out(&format!("{text}\n"))?)
}

fn json_of(value: &MetaValue) -> Json {
    // The shortest digits that mean this value, not those of the nearest f64.
    let f32_of = |v: f32| v.to_string().parse::<f64>().map_or(Json::Null, Json::from);
    macro_rules! json {
        ($($variant:ident),+) => {
            match value {
                MetaValue::F32(v) => f32_of(*v),
                MetaValue::Array(MetaArray::F32(all)) => all.iter().copied().map(f32_of).collect(),
                $(MetaValue::$variant(v) => Json::from(v.clone()),
                MetaValue::Array(MetaArray::$variant(all)) => all.iter().cloned().map(Json::from).collect(),)+
            }
        };
    }
    json!(U8, I8, U16, I16, U32, I32, Bool, String, U64, I64, F64)
}

/// Text under construction. Every line is made safe on its way in: names in a file must not look like lines of ours.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0.push_str(&sink::shortened(&sink::line(text)));
        self.0.push('\n');
    }

    fn title(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(text);
    }

    fn row(&mut self, name: &str, value: &str) {
        self.line(&format!("  {name:<14} {value}"));
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.row(name, value);
        }
    }

    fn file(&mut self, file: &FileReport) {
        let kind = match file.kind {
            Kind::Text => "text model",
            Kind::Vision => "vision part of a model (mmproj)",
            Kind::Vocabulary => "vocabulary without weights",
            Kind::Imatrix => "importance matrix",
            Kind::Adapter => "adapter to a model",
            _ => "GGUF file",
        };
        self.title(&format!("{}: {kind}", file.path));
        self.optional("architecture", file.architecture.as_deref());
        self.optional("name", file.name.as_deref());
        self.optional("size label", file.size_label.as_deref());
        let parts = match file.parts.len() {
            0 | 1 => String::new(),
            n => format!(" in {n} parts"),
        };
        self.row(
            "file",
            &format!("{}{parts}, GGUF version {}, alignment {}", bytes(file.bytes), file.gguf_version, file.alignment),
        );
        if file.parts.len() > 1 {
            file.parts.iter().for_each(|part| self.row("", part));
        }
        if file.tensor_count > 0 {
            self.weights(file);
        }
        if let Some(text) = &file.text {
            self.text(text);
        }
        if let Some(vision) = &file.vision {
            self.vision(vision);
        }
        if let Some(tokenizer) = &file.tokenizer {
            self.tokenizer(tokenizer);
        }
        if let Some(template) = &file.chat_template {
            let named = match template.named.as_slice() {
                [] => String::new(),
                names => format!("; also {}", names.join(", ")),
            };
            self.row("chat template", &format!("{}, {} bytes{named}", template.family, template.bytes));
        }
        if !file.sampling.is_empty() {
            let defaults: Vec<String> = file.sampling.iter().map(|(key, value)| format!("{key} {value}")).collect();
            self.row("sampling", &defaults.join(", "));
        }
        for companion in &file.companions {
            let name = if companion.kind == Kind::Vision { "vision file" } else { "text model" };
            let fits = if companion.fits { "fits" } else { "does not fit" };
            self.row(name, &format!("{} {fits}: {}", companion.path, companion.why));
        }
        self.faults(&file.faults);
        self.tensors(file);
    }

    fn weights(&mut self, file: &FileReport) {
        let quantisation = file.file_type.as_ref().map(|t| match t.name {
            Some(name) => name.to_owned(),
            None => format!("file type {}", t.code),
        });
        let mut weights = format!("{} in {} tensors", count(file.parameters), file.tensor_count);
        if let Some(bits) = file.bits_per_weight {
            // Writing to a string does not fail.
            let _ = write!(weights, ", {bits:.2} bits per weight");
        }
        self.row("weights", &weights);
        self.optional("quantisation", quantisation.as_deref());
        for share in &file.types {
            let line = format!(
                "{:<8} {:>5} tensors {:>9} weights {:>10} {:>5.1} %",
                share.name,
                share.tensors,
                count(share.parameters),
                bytes(share.bytes),
                100.0 * share.share
            );
            self.row("", &line);
        }
    }

    fn text(&mut self, text: &TextModel) {
        let number = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
        self.row("context", &format!("{} tokens", number(text.context_length)));
        let shape = format!(
            "{} layers, {} wide, feed-forward {}, {} heads of {}, {} for keys and values",
            number(text.layers),
            number(text.embedding_length),
            number(text.feed_forward_length),
            number(text.heads),
            number(text.head_dim),
            number(text.kv_heads)
        );
        self.row("shape", &shape);
        if let Some(kv) = text.kv_bytes_per_token_f16 {
            self.row("kv cache", &format!("{} for each token at f16", bytes(kv)));
        }
        let base = text.rope_freq_base.map_or("default base".to_owned(), |b| format!("base {b}"));
        let scaling = match (text.rope_scaling.as_deref(), text.rope_factors) {
            (None, _) => "no scaling".to_owned(),
            (Some(kind), true) => format!("{kind} with factors"),
            (Some(kind), false) => format!("{kind} without factors"),
        };
        let original = text.rope_original_context_length.map_or(String::new(), |n| format!(", trained for {n} tokens"));
        self.row("rope", &format!("{base}, {scaling}{original}"));
    }

    fn vision(&mut self, vision: &VisionModel) {
        let number = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
        let made_for = match (vision.made_for, vision.minicpmv_version) {
            (Some(model), Some(version)) => format!(" for {model} (version {version})"),
            (_, Some(version)) => format!(", version {version}"),
            _ => String::new(),
        };
        self.row("projector", &format!("{}{made_for}", vision.projector.as_deref().unwrap_or("unknown")));
        let shape = format!(
            "{} layers, {} wide, {} heads; slices of {} pixels, patches of {}",
            number(vision.layers),
            number(vision.embedding_length),
            number(vision.heads),
            number(vision.image_size),
            number(vision.patch_size)
        );
        self.row("shape", &shape);
        let output =
            format!("{} embeddings for each slice, {} wide", number(vision.queries), number(vision.output_width));
        self.row("output", &output);
    }

    fn tokenizer(&mut self, tokenizer: &Tokenizer) {
        let model = match tokenizer.model.as_deref() {
            Some("llama") => "SentencePiece (llama)",
            Some("gpt2") => "byte-level BPE (gpt2)",
            Some(other) => other,
            None => "unknown kind",
        };
        let pre = tokenizer.pre.as_deref().map_or(String::new(), |pre| format!(", pre-tokenizer {pre}"));
        self.row("tokenizer", &format!("{model}{pre}, {} tokens", tokenizer.tokens));
        let show = |t: &SpecialToken| match &t.text {
            Some(text) => format!("{} {}", t.id, text.escape_debug()),
            None => format!("{} (outside the vocabulary)", t.id),
        };
        let special: Vec<String> = tokenizer.special.iter().map(|t| format!("{} {}", t.role, show(t))).collect();
        if !special.is_empty() {
            self.row("special", &special.join(", "));
        }
        let stop: Vec<String> = tokenizer.stop.iter().map(show).collect();
        if !stop.is_empty() {
            self.row("stops at", &stop.join(", "));
        }
    }

    fn faults(&mut self, faults: &[Fault]) {
        for fault in faults {
            let severity = if fault.severity == Severity::Error { "error" } else { "warning" };
            self.row(severity, &format!("{} [{}]", fault.what, fault.code));
            self.row("  remedy", &fault.remedy);
        }
        if faults.is_empty() {
            self.row("faults", "none known");
        }
    }

    fn tensors(&mut self, file: &FileReport) {
        let Some(tensors) = &file.tensors else { return };
        let width = tensors.iter().map(|t| t.name.chars().count()).max().unwrap_or(0);
        self.row("tensors", "name, format, dimensions (innermost first), bytes, offset");
        for t in tensors {
            let dims: Vec<String> = t.dims.iter().map(u64::to_string).collect();
            let part = if file.parts.len() > 1 { format!(" part {}", t.part + 1) } else { String::new() };
            let dims = dims.join(" × ");
            self.line(&format!("  {:<width$} {:<8} {dims:<18} {:>12} {:>12}{part}", t.name, t.ty, t.bytes, t.offset));
        }
    }

    fn checkpoint(&mut self, path: &str, checkpoint: &CheckpointReport) {
        self.title(&format!("{path}: Hugging Face checkpoint"));
        let model_type = checkpoint.model_type.as_deref().map_or(String::new(), |t| format!(" ({t})"));
        self.row("architecture", &format!("{}{model_type}", checkpoint.architectures.join(", ")));
        if let (Some(parameters), Some(size)) = (checkpoint.parameters, checkpoint.bytes) {
            let tensors = checkpoint.tensor_count.unwrap_or(0);
            self.row("weights", &format!("{} in {tensors} tensors, {}", count(parameters), bytes(size)));
        }
        let number = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
        let shape = format!(
            "{} layers, {} wide, context {}, vocabulary {}",
            number(checkpoint.layers),
            number(checkpoint.embedding_length),
            number(checkpoint.context_length),
            number(checkpoint.vocab_size)
        );
        self.row("text model", &shape);
        self.row("tokenizer", &checkpoint.tokenizer.join(", "));
        self.optional("chat template", checkpoint.chat_template.as_deref());
        self.faults(&checkpoint.faults);
        self.row("next", &checkpoint.next);
    }
}

/// `3.61 B`, `135 M`, `4608`.
fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

/// Sizes in powers of 1000, as files are listed.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}
