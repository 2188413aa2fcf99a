//! How large the files of a tokenizer may be, and errors about their content.

use std::path::PathBuf;

use super::VocabError;

/// Largest `tokenizer.model`. The largest known ones (256 000 pieces) have 4 MiB.
pub(super) const MAX_MODEL: u64 = 64 << 20;
/// Largest `tokenizer.json`. The largest known ones have about 35 MiB.
pub(super) const MAX_TOKENIZER_JSON: u64 = 256 << 20;
/// Largest `added_tokens.json`.
pub(super) const MAX_JSON: u64 = 32 << 20;
/// Largest chat template.
pub(super) const MAX_TEMPLATE: u64 = 4 << 20;

/// An error about the content of a file.
pub(super) fn json_error(path: impl Into<PathBuf>, problem: impl Into<String>) -> VocabError {
    VocabError::Json { path: path.into(), problem: problem.into() }
}
