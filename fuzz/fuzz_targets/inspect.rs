//! Describes any bytes as `ocelli inspect` does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_convert::inspect::inspect_file;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Ok(report) = inspect_file(&path, true) {
        serde_json::to_string(&report).expect("a report is JSON");
    }
});
