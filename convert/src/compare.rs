//! Whether a file would be written again as it is: what is written is compared instead.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

/// A sink that fails at the first byte that is not the file's.
pub(crate) struct Compare {
    file: BufReader<File>,
    buffer: Vec<u8>,
    left: u64,
    different: bool,
}

impl Compare {
    /// Compares with the regular file at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        Ok(Self { file: BufReader::with_capacity(1 << 20, file), buffer: Vec::new(), left, different: false })
    }

    /// Bytes of the file that nothing has been compared with yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Whether a difference was found, and not only an error of reading.
    pub(crate) fn different(&self) -> bool {
        self.different
    }
}

impl Write for Compare {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // In pieces, so that the buffer stays small.
        let bytes = bytes.get(..bytes.len().min(1 << 20)).unwrap_or_default();
        let fits = bytes.len() as u64 <= self.left;
        self.buffer.resize(if fits { bytes.len() } else { 0 }, 0);
        self.file.read_exact(&mut self.buffer)?;
        if self.buffer != bytes {
            self.different = true;
            return Err(io::Error::other("the file there is another"));
        }
        self.left -= bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_different_shorter_longer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abcdef").unwrap();
        let with = |parts: &[&[u8]]| {
            let mut compare = Compare::open(file.path()).unwrap();
            let equal = parts.iter().all(|part| match compare.write_all(part) {
                Ok(()) => true,
                Err(_) => {
                    assert!(compare.different());
                    false
                }
            });
            equal && compare.left() == 0
        };
        assert!(with(&[b"abc", b"", b"def"]));
        assert!(!with(&[b"abc", b"dex"]));
        assert!(!with(&[b"abc"]));
        assert!(!with(&[b"abcdef", b"g"]));
    }
}
