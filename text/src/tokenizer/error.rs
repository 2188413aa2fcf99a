//! Why a vocabulary cannot be used.

/// A vocabulary that is missing, of an unknown kind, or damaged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key is mistyped.
    #[error(transparent)]
    Gguf(#[from] ocelli_gguf::GgufError),
    /// No vocabulary at all.
    #[error(
        "the file has no vocabulary (key `tokenizer.ggml.model` is missing); give the text model's file, not the vision file"
    )]
    NoTokenizer,
    /// `tokenizer.ggml.model` names an algorithm that is not implemented.
    #[error("tokenizer model `{found}` (key `tokenizer.ggml.model`) is not supported; supported: {known}")]
    UnknownModel {
        /// The name found.
        found: String,
        /// The names that work.
        known: &'static str,
    },
    /// `tokenizer.ggml.pre` names unknown rules.
    #[error(
        "unknown word rules `{found}` (key `tokenizer.ggml.pre`); known: {known}. Convert the model again with one of these names if its tokenizer follows the same rules"
    )]
    UnknownPre {
        /// The name found.
        found: String,
        /// The names that work.
        known: String,
    },
    /// A required key is missing.
    #[error("key `{key}` is missing, so the vocabulary cannot be used; convert the model again")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// The number of tokens is not sane.
    #[error("the vocabulary (key `tokenizer.ggml.tokens`) has {found} tokens; 1 to {limit} are possible")]
    VocabSize {
        /// Number of tokens.
        found: usize,
        /// Most that are accepted.
        limit: usize,
    },
    /// All texts together are too long.
    #[error("the token texts (key `tokenizer.ggml.tokens`) take {bytes} bytes, more than 4 GiB; the file is damaged")]
    VocabTooLong {
        /// Their length.
        bytes: usize,
    },
    /// One text is too long.
    #[error("token {id} (key `tokenizer.ggml.tokens`) is {bytes} bytes long, at most {limit} are accepted")]
    TokenTooLong {
        /// The token.
        id: usize,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Two ids with the same text.
    #[error(
        "tokens {first} and {second} (key `tokenizer.ggml.tokens`) have the same text `{text}`; the file is damaged"
    )]
    DuplicateToken {
        /// The first id.
        first: usize,
        /// The second id.
        second: usize,
        /// Their text.
        text: String,
    },
    /// Parallel arrays of different lengths.
    #[error("key `{key}` has {found} entries for {expected} tokens; the file is damaged")]
    ArrayLength {
        /// The key of the array.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        expected: usize,
    },
    /// An array of the wrong element type.
    #[error("key `{key}` must be an array of {expected}; the file is damaged")]
    ArrayType {
        /// The key of the array.
        key: &'static str,
        /// The element type needed.
        expected: &'static str,
    },
    /// A score that cannot be compared.
    #[error("the score of token {id} (key `tokenizer.ggml.scores`) is not a number; the file is damaged")]
    BadScore {
        /// The token.
        id: usize,
    },
    /// A special id beyond the table.
    #[error("key `{key}` is {id}, but the vocabulary has only {n_tokens} tokens; the file is damaged")]
    IdOutOfRange {
        /// The key.
        key: &'static str,
        /// Its value.
        id: u32,
        /// The number of tokens.
        n_tokens: usize,
    },
    /// A token must be added that the file does not name.
    #[error("the model wants a token added (`{flag}`) but does not name it: key `{key}` is missing")]
    MissingSpecial {
        /// The key that asks for it.
        flag: &'static str,
        /// The key that is missing.
        key: &'static str,
    },
    /// No token for a byte.
    #[error("the vocabulary has no byte token `{text}`, so not every text could be encoded; convert the model again")]
    MissingByteToken {
        /// The text of the token.
        text: String,
    },
    /// A bad line of the merge list.
    #[error("merge {index} (key `tokenizer.ggml.merges`), `{line}`, cannot be used: {reason}; the file is damaged")]
    BadMerge {
        /// Its position.
        index: usize,
        /// The line, shortened.
        line: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The merge engine refuses the vocabulary.
    #[error("the byte-level vocabulary cannot be used: {reason}")]
    Bpe {
        /// What is wrong.
        reason: String,
    },
}
