//! A checked reading position in the (possibly partial) bytes of a file.

use crate::{GgufError, Item};

/// Reads little-endian values and never past the end.
///
/// `bytes` may be a prefix of the file: running out of it while the file goes on is [`GgufError::NeedMore`], running
/// out of the file itself is [`GgufError::Truncated`].
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
    file_len: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], file_len: u64) -> Self {
        Self { bytes, pos: 0, file_len }
    }

    /// Absolute offset of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        self.pos as u64
    }

    /// Bytes from here to the end of the file, which may be more than are at hand.
    pub(crate) fn remaining(&self) -> u64 {
        self.file_len.saturating_sub(self.offset())
    }

    pub(crate) fn take(&mut self, n: u64, item: impl FnOnce() -> Item) -> Result<&'a [u8], GgufError> {
        let available = self.remaining();
        if n > available {
            return Err(GgufError::Truncated { item: item(), offset: self.offset(), needed: n, available });
        }
        let rest = self.bytes.get(self.pos..).unwrap_or_default();
        match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.pos += taken.len();
                Ok(taken)
            }
            // No overflow: n is at most the rest of the file.
            None => Err(GgufError::NeedMore { given: self.bytes.len() as u64, needed: self.offset() + n }),
        }
    }

    fn array<const N: usize>(&mut self, item: impl FnOnce() -> Item) -> Result<[u8; N], GgufError> {
        let taken = self.take(N as u64, item)?;
        let mut out = [0; N];
        out.copy_from_slice(taken);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, item: impl FnOnce() -> Item) -> Result<u8, GgufError> {
        self.array(item).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, item: impl FnOnce() -> Item) -> Result<u16, GgufError> {
        self.array(item).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, item: impl FnOnce() -> Item) -> Result<u32, GgufError> {
        self.array(item).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, item: impl FnOnce() -> Item) -> Result<u64, GgufError> {
        self.array(item).map(u64::from_le_bytes)
    }

    /// A string with its length in front.
    pub(crate) fn string(&mut self, item: impl Fn() -> Item) -> Result<&'a str, GgufError> {
        let len = self.u64(&item)?;
        let start = self.offset();
        let bytes = self.take(len, &item)?;
        std::str::from_utf8(bytes).map_err(|e| GgufError::Utf8 { item: item(), offset: start + e.valid_up_to() as u64 })
    }
}
