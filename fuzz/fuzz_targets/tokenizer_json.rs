//! Loads any bytes as a checkpoint's `tokenizer.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_convert::vocab::{self, VocabConfig};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("tokenizer.json"), bytes).expect("a temporary file");
    let config = serde_json::json!({"model_type": "llama", "vocab_size": 1000});
    let config = VocabConfig::from_json(&config).expect("a sound configuration");
    if let Ok(vocab) = vocab::load(dir.path(), &config) {
        let _ = vocab.metadata();
    }
});
