//! Tests against small tokenizer directories written on the spot.

use std::fs;

use super::*;

/// A directory with the given files.
fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[expect(dead_code)]
fn config(text: &str) -> VocabConfig {
    VocabConfig::from_json(&serde_json::from_str(text).unwrap()).unwrap()
}

#[test]
fn missing_tokenizer_names_the_files_looked_for() {
    let dir = dir(&[("vocab.json", "{}")]);
    let error = load(dir.path(), &VocabConfig::default()).unwrap_err().to_string();
    for part in ["tokenizer.model", "tokenizer.json", "vocab.json"] {
        assert!(error.contains(part), "{error}");
    }
}
