//! Builds a tokenizer from any metadata and puts a text through it: the first 64 bytes are the text, the rest is a
//! GGUF file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_gguf::Gguf;
use ocelli_text::tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    let Some((text, file)) = bytes.split_at_checked(64) else { return };
    let Ok(gguf) = Gguf::parse(file) else { return };
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { return };
    let text = String::from_utf8_lossy(text);
    for parse_special in [false, true] {
        if let Ok(ids) = tokenizer.encode(&text, true, parse_special) {
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_tokens()));
            let _ = tokenizer.decode(&ids, parse_special);
        }
    }
});
