//! Reads any bytes as an importance matrix, in either of its two forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_convert::imatrix::Imatrix;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("imatrix");
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Ok(matrix) = Imatrix::read(&path) {
        for name in matrix.names() {
            assert!(matrix.get(name).is_some(), "{name} is listed but not there");
        }
    }
});
