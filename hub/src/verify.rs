//! Checksums as the hub gives them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::choice::ModelFile;
use crate::error::HubError;
use crate::hub::Watch;

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// Compares the bytes at `path` with the checksum that is the name of `file`'s blob: SHA-256 of the bytes, or for small
/// files SHA-1 of git's blob.
pub(crate) fn check(file: &ModelFile, path: &Path, watch: &dyn Watch) -> Result<(), HubError> {
    let found = if file.etag.len() == 64 {
        digest(Sha256::new(), path, watch)?
    } else {
        digest(Sha1::new_with_prefix(format!("blob {}\0", file.size)), path, watch)?
    };
    if found == file.etag {
        return Ok(());
    }
    Err(HubError::Checksum { file: file.path.clone(), expected: file.etag.clone(), found })
}

fn digest(mut digest: impl sha2::Digest, path: &Path, watch: &dyn Watch) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(HubError::io("open", path))?;
    let mut block = vec![0; BLOCK];
    loop {
        if watch.cancelled() {
            return Err(HubError::Cancelled);
        }
        match file.read(&mut block).map_err(HubError::io("read", path))? {
            0 => break,
            n => digest.update(&block[..n]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
