//! Joins two or three parts cut from any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_gguf::GgufSet;

fuzz_target!(|bytes: &[u8]| {
    // The first two bytes say where to cut.
    let [a, b, rest @ ..] = bytes else { return };
    let cut = |at: u8| rest.len() * usize::from(at) / 256;
    let (first, second) = (cut(*a).min(cut(*b)), cut(*a).max(cut(*b)));
    let parts = [&rest[..first], &rest[first..second], &rest[second..]];
    for files in [&parts[..], &parts[..2], &[rest][..]] {
        let Ok(set) = GgufSet::parse(files) else { continue };
        for tensor in set.tensors() {
            assert_eq!(set.data(tensor.name).expect("inside its part").len() as u64, tensor.n_bytes);
        }
    }
});
