//! Parses any bytes as a GGUF file, whole and by prefix, and walks everything that was accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_gguf::{Gguf, GgufError, Value};

fuzz_target!(|bytes: &[u8]| {
    // A header that needs more bytes must say how many, and never more than the file has.
    let half = &bytes[..bytes.len() / 2];
    if let Err(GgufError::NeedMore { given, needed }) = Gguf::parse_header(half, bytes.len() as u64) {
        assert!(given == half.len() as u64 && needed > given && needed <= bytes.len() as u64);
    }
    let gguf = match Gguf::parse(bytes) {
        Ok(gguf) => gguf,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for entry in gguf.metadata() {
        if let Value::Array(array) = entry.value {
            assert_eq!(array.iter().count(), array.len());
        }
        let meta = gguf.metadata();
        assert_eq!(meta.get(entry.key).map(Value::ty), Some(entry.value.ty()));
        let _ = (meta.u32(entry.key), meta.i32(entry.key), meta.f32(entry.key), meta.str(entry.key));
    }
    let mut end = gguf.data_start();
    let mut tensors: Vec<_> = gguf.tensors().iter().filter(|t| t.n_bytes > 0).collect();
    tensors.sort_by_key(|t| t.offset);
    for tensor in tensors {
        assert!(tensor.offset >= end);
        end = tensor.end();
        assert_eq!(gguf.data(tensor).expect("inside the file").len() as u64, tensor.n_bytes);
        let _ = tensor.n_rows();
    }
    assert!(end <= bytes.len() as u64 || gguf.tensors().iter().all(|t| t.n_bytes == 0));
});
