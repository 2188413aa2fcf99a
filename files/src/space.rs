//! Whether there is room, before the work begins.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{FileError, Output, sys};

/// Fails when the file system of a folder has less room than the `outputs` in it need; each comes with its final size
/// in bytes. Devices and pipes need none. Where the system cannot say, a full disk shows as a failing write.
///
/// # Errors
/// [`FileError::NoSpace`], or [`FileError::Open`] when the file system cannot be asked.
pub fn check_space<'a>(outputs: impl IntoIterator<Item = (&'a Output, u64)>) -> Result<(), FileError> {
    let mut needed: BTreeMap<&Path, u64> = BTreeMap::new();
    for (output, bytes) in outputs {
        if let Some(folder) = output.folder() {
            let sum = needed.entry(folder).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
    for (folder, needed) in needed {
        match sys::free_space(folder).map_err(FileError::open(folder))? {
            Some(available) if available < needed => {
                return Err(FileError::NoSpace { folder: folder.to_owned(), needed, available });
            }
            _ => {}
        }
    }
    Ok(())
}
