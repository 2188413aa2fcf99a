//! The description of a file or folder. Its serialised form is a documented interface: add fields, never rename.

use serde::Serialize;

/// What a path is.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Report {
    /// A model in one GGUF file or the parts of a split one.
    File(Box<FileReport>),
    /// A folder.
    Folder(Box<FolderReport>),
}

/// A folder of GGUF files, or a checkpoint, or both.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FolderReport {
    /// The folder.
    pub path: String,
    /// The checkpoint in it, if there is a `config.json`.
    pub checkpoint: Option<CheckpointReport>,
    /// The GGUF models in it; parts of a split model count as one.
    pub files: Vec<FileReport>,
    /// GGUF files that cannot be read.
    pub unreadable: Vec<Unreadable>,
}

/// A file that cannot be read.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Unreadable {
    /// The file.
    pub path: String,
    /// Why.
    pub error: String,
}

/// A Hugging Face checkpoint folder.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// `architectures` of `config.json`.
    pub architectures: Vec<String>,
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// Layers of the text model.
    pub layers: Option<u64>,
    /// Width of the text model.
    pub embedding_length: Option<u64>,
    /// Context length in tokens.
    pub context_length: Option<u64>,
    /// Vocabulary size.
    pub vocab_size: Option<u64>,
    /// Weights in all safetensors files.
    pub parameters: Option<u64>,
    /// Bytes of these weights.
    pub bytes: Option<u64>,
    /// Number of tensors.
    pub tensor_count: Option<usize>,
    /// The tokenizer files found.
    pub tokenizer: Vec<String>,
    /// The file that holds the chat template.
    pub chat_template: Option<String>,
    /// What keeps it from being converted, or lessens the result.
    pub faults: Vec<Fault>,
    /// What to do with it.
    pub next: String,
}

/// What a GGUF file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// A text model.
    Text,
    /// The vision part of a model (mmproj).
    Vision,
    /// A vocabulary without weights.
    Vocabulary,
    /// An importance matrix for quantising.
    Imatrix,
    /// An adapter (LoRA) to a model.
    Adapter,
    /// Something else.
    Other,
}

/// A model in one GGUF file or the parts of a split one.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FileReport {
    /// The file asked about.
    pub path: String,
    /// All files of the model: just the one, or the parts of a split model in order.
    pub parts: Vec<String>,
    /// Size of all of them in bytes.
    pub bytes: u64,
    /// Version of the container.
    pub gguf_version: u32,
    /// Alignment of tensor data in bytes.
    pub alignment: u64,
    /// What it is for.
    pub kind: Kind,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// `general.name`.
    pub name: Option<String>,
    /// `general.size_label`.
    pub size_label: Option<String>,
    /// `general.file_type`.
    pub file_type: Option<FileType>,
    /// Number of weights.
    pub parameters: u64,
    /// Number of tensors.
    pub tensor_count: usize,
    /// Bytes of tensor data.
    pub tensor_bytes: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: Option<f64>,
    /// Tensor data by format, largest first.
    pub types: Vec<TypeShare>,
    /// The text model, for kind `text`.
    pub text: Option<TextModel>,
    /// The vocabulary.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template.
    pub chat_template: Option<ChatTemplate>,
    /// Sampling defaults (`general.sampling.*`), under their short names.
    pub sampling: serde_json::Map<String, serde_json::Value>,
    /// The vision tower, for kind `vision`.
    pub vision: Option<VisionModel>,
    /// Files beside it that might belong to it: vision files for a text model, text models for a vision file.
    pub companions: Vec<Companion>,
    /// All tensors, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<TensorRow>>,
    /// Known faults, worst first.
    pub faults: Vec<Fault>,
}

/// The quantisation a file says it has.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FileType {
    /// The code stored.
    pub code: u64,
    /// Its name, for example `Q4_K_M`; null when the code is not known.
    pub name: Option<&'static str>,
}

/// The tensors of one format.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TypeShare {
    /// The format.
    #[serde(rename = "type")]
    pub name: String,
    /// How many tensors.
    pub tensors: usize,
    /// How many weights.
    pub parameters: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Share of all tensor bytes, 0 to 1.
    pub share: f64,
}

/// One tensor.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TensorRow {
    /// Name.
    pub name: String,
    /// Dimensions, innermost first.
    pub dims: Vec<u64>,
    /// Format.
    #[serde(rename = "type")]
    pub ty: String,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes.
    pub bytes: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Index of the part it is in, from 0.
    pub part: usize,
}

/// The shape of a text model.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct TextModel {
    /// Context length in tokens.
    pub context_length: Option<u64>,
    /// Number of layers.
    pub layers: Option<u64>,
    /// Width of the residual stream.
    pub embedding_length: Option<u64>,
    /// Width of the feed-forward layers.
    pub feed_forward_length: Option<u64>,
    /// Query heads.
    pub heads: Option<u64>,
    /// Key and value heads.
    pub kv_heads: Option<u64>,
    /// Width of one head.
    pub head_dim: Option<u64>,
    /// Vocabulary size.
    pub vocab_size: Option<u64>,
    /// Bytes of key-value cache each token takes at 16 bits per value.
    pub kv_bytes_per_token_f16: Option<u64>,
    /// Base of the rotary embedding.
    pub rope_freq_base: Option<f32>,
    /// Kind of rope scaling.
    pub rope_scaling: Option<String>,
    /// Whether the long and short factors of `longrope` are there.
    pub rope_factors: bool,
    /// Context length above which the long factors apply.
    pub rope_original_context_length: Option<u64>,
    /// Whether it has the shape of MiniCPM-V 4.0's text model.
    pub is_minicpm_v_4: bool,
}

/// The vocabulary.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Tokenizer {
    /// `tokenizer.ggml.model`: `llama` is SentencePiece, `gpt2` byte-level BPE.
    pub model: Option<String>,
    /// `tokenizer.ggml.pre`: the rule that splits text into words.
    pub pre: Option<String>,
    /// Number of tokens.
    pub tokens: usize,
    /// Special tokens by role, for example `bos`.
    pub special: Vec<SpecialToken>,
    /// Tokens that end an answer.
    pub stop: Vec<SpecialToken>,
    /// Whether a BOS token is put in front; null when the file leaves it to the reader.
    pub add_bos: Option<bool>,
    /// Whether the tokens of MiniCPM-V's image and slice markers are there.
    pub has_image_tokens: bool,
}

/// A token with a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SpecialToken {
    /// The role.
    pub role: String,
    /// The id.
    pub id: u64,
    /// Its text; null when the id is outside the vocabulary.
    pub text: Option<String>,
}

/// The chat template.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ChatTemplate {
    /// The family it belongs to by its turn markers, for example `ChatML`.
    pub family: &'static str,
    /// Length in bytes.
    pub bytes: usize,
    /// Names of further templates in the file.
    pub named: Vec<String>,
}

/// The vision part of a model.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct VisionModel {
    /// Kind of projector.
    pub projector: Option<String>,
    /// `clip.minicpmv_version`.
    pub minicpmv_version: Option<i64>,
    /// The model family that version number stands for.
    pub made_for: Option<&'static str>,
    /// Image (slice) size in pixels.
    pub image_size: Option<u64>,
    /// Patch size in pixels.
    pub patch_size: Option<u64>,
    /// Width of the tower.
    pub embedding_length: Option<u64>,
    /// Layers of the tower.
    pub layers: Option<u64>,
    /// Heads of the tower.
    pub heads: Option<u64>,
    /// Embeddings per slice.
    pub queries: Option<u64>,
    /// Width of these embeddings: that of the text model it belongs to.
    pub output_width: Option<u64>,
}

/// A file that may belong to the one described.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Companion {
    /// The file.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Whether the widths match.
    pub fits: bool,
    /// Why, or why not.
    pub why: String,
}

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Severity {
    /// The model does not run, or gives wrong answers.
    Error,
    /// Something is missing or worse than it could be.
    Warning,
}

/// Something wrong with a file that is otherwise sound, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fault {
    /// Stable name for scripts, for example `missing-rope-factors`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}
