//! Reads any bytes as a file of saved logits, to its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_eval::perplexity::LogitsReader;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("logits");
    std::fs::write(&path, bytes).expect("a temporary file");
    for n_vocab in [1, 3, 4, 1000] {
        let Ok(mut reader) = LogitsReader::open(&path, n_vocab) else { continue };
        assert!(reader.tokens().iter().all(|id| (*id as usize) < n_vocab));
        assert!(reader.n_ctx() > 0 && reader.tokens().len() * 4 <= bytes.len());
        let scored = reader.tokens().len() / reader.n_ctx() * (reader.n_ctx() - 1 - reader.n_ctx() / 2);
        for _ in 0..scored {
            assert_eq!(reader.next_log_probs().expect("its length was checked").len(), n_vocab);
        }
    }
});
