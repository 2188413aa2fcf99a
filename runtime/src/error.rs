//! What can go wrong between a model file and its answer.

use std::path::PathBuf;

use ocelli_files::FileError;
use ocelli_gguf::GgufError;
use ocelli_kernels::KernelError;
use ocelli_memory::NoMemory;

use crate::vision::VisionError;
use ocelli_image::ImageError;
use ocelli_text::sampler::SamplerError;
use ocelli_text::template::TemplateError;
use ocelli_text::tokenizer::TokenizerError;

/// Everything the runtime refuses, with a reason and a remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder, a pipe or a device.
    #[error("{} is no regular file; give the path of a .gguf file", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
    },
    /// A file of no bytes.
    #[error("{} is empty; download or convert it again", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A file that is written while it is in use.
    #[error("{} was changed while it was in use; run this again when nothing writes to it", path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// `mlock` was refused.
    #[error("cannot lock {} in memory: {source}; raise the limit (`ulimit -l`) or leave --mlock out", path.display())]
    Mlock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `--mlock` locks a mapping, and there is none.
    #[error("--mlock locks the mapped file; it cannot be used with --no-mmap")]
    MlockWithoutMmap,
    /// Something does not fit into memory.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// An error in the model file at `path`.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<RuntimeError>,
    },
    /// The container is damaged or foreign.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A metadata key that is missing or has a value no model can have.
    #[error("key `{key}` {problem}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file holds another kind of model.
    #[error("architecture `{}` cannot be run by this build; it runs: {}", found.escape_debug(), known.join(", "))]
    Architecture {
        /// `general.architecture` of the file.
        found: String,
        /// The registered architectures.
        known: Vec<&'static str>,
    },
    /// The vision file in the place of the text file.
    #[error("this is a vision file (architecture `clip`); give it with --mmproj, and the text file with -m")]
    VisionFile,
    /// A tensor the model needs is not there.
    #[error(
        "tensor `{name}` is missing; the file is incomplete or of another architecture: convert or download it again"
    )]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor whose shape contradicts the metadata.
    #[error("tensor `{name}` has shape {found} where the metadata asks for {expected}")]
    TensorShape {
        /// Its name.
        name: String,
        /// The shape in the file, innermost first.
        found: String,
        /// The shape wanted.
        expected: String,
    },
    /// A tensor stored in a format that cannot be used there.
    #[error("tensor `{name}` is stored as {found}; here {expected} can be used")]
    TensorType {
        /// Its name.
        name: String,
        /// Its format.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A tensor nobody reads: running without it would give wrong answers in silence.
    #[error(
        "tensor `{name}` is not one that a `{arch}` model reads ({more} such in all); the file holds another kind of model"
    )]
    UnusedTensor {
        /// The first one's name.
        name: String,
        /// The architecture.
        arch: String,
        /// How many there are.
        more: usize,
    },
    /// Rope factors that do not fit the model.
    #[error("{name} {problem}")]
    RopeFactors {
        /// Which list.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A KV cache format that the head length does not divide into.
    #[error("KV type {ty} stores blocks of {block} values, but a head has {head_dim}; use f16 or f32")]
    KvType {
        /// The format.
        ty: &'static str,
        /// Its block length.
        block: usize,
        /// Elements of one head.
        head_dim: usize,
    },
    /// More tokens than a conversation may have.
    #[error("{wanted} tokens do not fit the context of {n_ctx}")]
    ContextFull {
        /// Tokens the sequence would have.
        wanted: usize,
        /// The context.
        n_ctx: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt has no tokens; say something")]
    EmptyPrompt,
    /// A forward pass that failed for all conversations in it.
    #[error("{problem}")]
    Pass {
        /// What was wrong.
        problem: String,
    },
    /// More positions than the pool of all conversations has left.
    #[error(
        "{need} more positions do not fit what is left of the KV cache, {have}; wait for another conversation to end, or give the cache more positions"
    )]
    PoolFull {
        /// Positions that were asked for, in whole blocks.
        need: usize,
        /// Positions left.
        have: usize,
    },
    /// A token id that is not in the vocabulary.
    #[error("token id {id} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A vision file that belongs to another text model.
    #[error(
        "the vision file makes image rows of {found} values, the text model takes {n_embd}; use the vision file that was made with this model"
    )]
    ImageWidth {
        /// Values of an image row.
        found: usize,
        /// Width of the text model.
        n_embd: usize,
    },
    /// A picture for a model without its vision file.
    #[error("{} answers text only, and its vision file was not found: {found}; give it with --mmproj FILE. It comes with the model (for MiniCPM-V 4.0: mmproj-model-f16.gguf of openbmb/MiniCPM-V-4-gguf on Hugging Face), or `ocelli convert` writes it from the checkpoint", model.display())]
    NoVisionFile {
        /// The text file.
        model: PathBuf,
        /// What lies beside it.
        found: String,
    },
    /// A vocabulary without the tokens that stand around images.
    #[error("this model's vocabulary has no token `{token}`, so it cannot be shown images; use a MiniCPM-V text file")]
    NoImageTokens {
        /// The token.
        token: &'static str,
    },
    /// A marker in a conversation whose image is not there any more.
    #[error("image {index} of the conversation is missing; show it again")]
    LostImage {
        /// Its index.
        index: usize,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A vocabulary that cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A chat template that cannot be used, or that refuses a conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Sampling that cannot work.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// A picture or video that cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A vision file or a picture that cannot be used.
    #[error(transparent)]
    Vision(#[from] VisionError),
    /// A matrix that has no 8-bit form.
    #[error("tensor `{name}` cannot be computed with in 8 bits: {problem}; use --precision exact")]
    NoInt8 {
        /// The tensor.
        name: String,
        /// Why.
        problem: String,
    },
    /// A kernel refused its arguments, which the checks at load should have prevented.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An option whose value makes no sense.
    #[error("{option}: {problem}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong, and what would do.
        problem: String,
    },
    /// A session file that cannot be used.
    #[error("session {}: {problem}", path.display())]
    Session {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        problem: String,
    },
    /// An output that cannot or must not be written.
    #[error(transparent)]
    Output(#[from] FileError),
    /// A folder that cannot be made or read.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A text or logits file that cannot be used for an evaluation.
    #[error("{problem}")]
    Evaluation {
        /// Why, and what to do.
        problem: String,
    },
}

impl RuntimeError {
    /// The same error, naming the model file it is about.
    #[must_use]
    pub fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            named @ (Self::Open { .. }
            | Self::NotAFile { .. }
            | Self::EmptyFile { .. }
            | Self::Changing { .. }
            | Self::InFile { .. }) => named,
            other => Self::InFile { path: path.to_owned(), source: Box::new(other) },
        }
    }
}
