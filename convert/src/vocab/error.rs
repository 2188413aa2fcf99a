//! What can be wrong with the tokenizer files of a checkpoint.

use std::path::PathBuf;

/// A tokenizer that cannot be turned into GGUF arrays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabError {
    /// No tokenizer file at all.
    #[error(
        "{}: no tokenizer found; looked for {looked_for}{hint}. Copy the tokenizer files of the original checkpoint into this directory",
        dir.display()
    )]
    Missing {
        /// The checkpoint directory.
        dir: PathBuf,
        /// Names of the files looked for.
        looked_for: &'static str,
        /// Further advice, empty if none.
        hint: &'static str,
    },
    /// A folder could not be read.
    #[error("{}: cannot read: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] crate::read::ReadError),
    /// Two files of the tokenizer contradict each other, and no choice between them is safe.
    #[error("{}: {what}; {remedy}", dir.display())]
    Disagreement {
        /// The checkpoint directory.
        dir: PathBuf,
        /// Which files, and where they differ.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A value has another type than it must have.
    #[error("{}: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column when known.
        problem: String,
    },
    /// `tokenizer.model` is not a readable SentencePiece file.
    #[error("{}: byte {offset}: {problem}", path.display())]
    Proto {
        /// The file.
        path: PathBuf,
        /// Where the offending field starts.
        offset: usize,
        /// What is wrong.
        problem: String,
    },
    /// The tokenizer works in a way that GGUF's `llama` and `gpt2` models cannot express.
    #[error("{}: {what}; supported are SentencePiece BPE models and byte-level BPE models", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A token id does not fit the vocabulary.
    #[error(
        "{}: {what} has id {id}, but the vocabulary has {vocab_size} entries (vocab_size of config.json); the tokenizer and config.json do not belong together",
        path.display()
    )]
    IdOutOfRange {
        /// The file.
        path: PathBuf,
        /// The entry: a token text or a key.
        what: String,
        /// The id it claims.
        id: i64,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// The tokenizer has more tokens than the model has embedding rows.
    #[error(
        "{}: {tokens} tokens, but config.json says vocab_size {vocab_size}; the tokenizer belongs to another model",
        path.display()
    )]
    TooManyTokens {
        /// The file.
        path: PathBuf,
        /// Tokens in the file.
        tokens: usize,
        /// Embedding rows of the model.
        vocab_size: usize,
    },
    /// Two ids have the same text, so that one of them could never be found again.
    #[error("token text {text:?} occurs twice, with ids {first} and {second}; token texts must be unique")]
    DuplicateText {
        /// The text.
        text: String,
        /// The lower id.
        first: usize,
        /// The higher id.
        second: usize,
    },
    /// Two texts claim one id.
    #[error("{}: token id {id} is claimed by both {first:?} and {second:?}", path.display())]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// The id.
        id: u32,
        /// One text.
        first: String,
        /// The other text.
        second: String,
    },
    /// The way text is split before merging is not one of those that have a name in GGUF.
    #[error(
        "{}: the pre-tokenizer {found} is not one of those known: {known}. If it behaves like one of them, say so with --pre NAME",
        path.display()
    )]
    UnknownPre {
        /// The file.
        path: PathBuf,
        /// What was found, shortened.
        found: String,
        /// The names that can be recognised.
        known: String,
    },
    /// `--pre` names something unknown.
    #[error("unknown pre-tokenizer {name:?}; known are {known}")]
    BadPre {
        /// The name given.
        name: String,
        /// The names that are accepted.
        known: String,
    },
    /// A value of `config.json` is unusable.
    #[error("config.json: {key}: {problem}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
}
