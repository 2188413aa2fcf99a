//! Opens any bytes as a safetensors checkpoint and reads the ends of each tensor.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_convert::checkpoint::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("model.safetensors"), bytes).expect("a temporary file");
    let Ok(checkpoint) = Checkpoint::open(dir.path()) else { return };
    for tensor in checkpoint.tensors().values() {
        let _ = checkpoint.weight_type(tensor);
        let n = tensor.n_bytes();
        assert!(n <= bytes.len() as u64);
        if n > 0 {
            checkpoint.read_at(tensor, n - 1, &mut [0]).expect("the last byte is inside");
        }
        assert!(checkpoint.read_at(tensor, n, &mut [0]).is_err());
    }
});
