//! Decodes files of cached image embeddings with a right checksum.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_runtime::decode_image_file;
use sha2::{Digest, Sha256};

/// Where the key lies.
const KEY: std::ops::Range<usize> = 12..44;

fuzz_target!(|body: &[u8]| {
    let key: [u8; 32] = body.get(KEY).and_then(|key| key.try_into().ok()).unwrap_or_default();
    let file = [body, &Sha256::digest(body)[..]].concat();
    if let Some(image) = decode_image_file(&file, &key) {
        assert_eq!(image.rows.len(), image.n_rows() * image.n_embd);
        assert!(image.rows.len() * 4 <= body.len());
    }
    assert!(decode_image_file(body, &key).is_none(), "a wrong checksum");
});
