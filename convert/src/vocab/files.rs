//! Reading of tokenizer files, with a cap on each file's size.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::VocabError;

/// Largest `tokenizer.model`. The largest known ones (256 000 pieces) have 4 MiB.
pub(super) const MAX_MODEL: u64 = 64 << 20;
/// Largest `tokenizer.json`. The largest known ones have about 35 MiB.
pub(super) const MAX_TOKENIZER_JSON: u64 = 256 << 20;
/// Largest other JSON file.
pub(super) const MAX_JSON: u64 = 32 << 20;
/// Largest chat template.
pub(super) const MAX_TEMPLATE: u64 = 4 << 20;

/// The bytes of `path`, or `None` if there is no such file.
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, VocabError> {
    let io = |source| VocabError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let len = file.metadata().map_err(io)?.len();
    if len > limit {
        return Err(VocabError::TooLarge { path: path.to_owned(), len, limit });
    }
    // The size can change, or be unknown (a pipe), after it was asked for.
    let mut bytes = Vec::new();
    let got = file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if got as u64 > limit {
        return Err(VocabError::TooLarge { path: path.to_owned(), len: got as u64, limit });
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(json_error(
            path,
            "this is a Git LFS pointer, not the file itself; fetch the real file with `git lfs pull`",
        ));
    }
    Ok(Some(bytes))
}

/// The text of `path`, or `None` if there is no such file.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<Option<String>, VocabError> {
    let Some(bytes) = read(path, limit)? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(json_error(path, format!("not valid UTF-8: {error}"))),
    }
}

/// The parsed content of `path`, or `None` if there is no such file or it is empty.
pub(super) fn read_json(path: &Path, limit: u64) -> Result<Option<Value>, VocabError> {
    let Some(bytes) = read(path, limit)? else { return Ok(None) };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(json_error(path, format!("not valid JSON: {error}"))),
    }
}

/// As [`read_json`], and the top level must be an object.
pub(super) fn read_object(path: &Path, limit: u64) -> Result<Option<serde_json::Map<String, Value>>, VocabError> {
    match read_json(path, limit)? {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(json_error(path, "the top level must be a JSON object")),
    }
}

/// An error about the content of a file.
pub(super) fn json_error(path: impl Into<PathBuf>, problem: impl Into<String>) -> VocabError {
    VocabError::Json { path: path.into(), problem: problem.into() }
}
