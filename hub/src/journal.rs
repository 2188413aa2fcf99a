//! An unfinished file and the note of which of its bytes have arrived.
//!
//! The file is cut into segments; each is filled from its start. After bytes are written to the file, the length of
//! their segment is written to the journal beside it, so that a process may be killed at any point: the journal never
//! says more than the file holds. (After a loss of power it may; the checksum tells, and the file is fetched again.)
//!
//! ```text
//! journal: "OCELLIJ1" | file size u64 | segment size u64 | filled bytes u64 for each segment      little-endian
//! ```

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::HubError;

const MAGIC: [u8; 8] = *b"OCELLIJ1";
const HEADER: u64 = 24;

/// Most segments of a file, so that a journal stays small.
const MAX_SEGMENTS: u64 = 1 << 20;

/// A file that is being filled.
#[derive(Debug)]
pub(crate) struct Partial {
    data: File,
    journal: File,
    paths: [PathBuf; 2],
    size: u64,
    segment: u64,
    /// Filled bytes of each segment.
    filled: Vec<Mutex<u64>>,
}

/// The unfinished file and the journal of a blob.
fn paths(blob: &Path) -> [PathBuf; 2] {
    ["incomplete", "journal"].map(|end| {
        let mut name = blob.file_name().unwrap_or_default().to_owned();
        name.push(format!(".ocelli.{end}"));
        blob.with_file_name(name)
    })
}

/// Bytes of a blob of `size` bytes that have arrived, judging by its journal.
pub(crate) fn arrived(blob: &Path, size: u64) -> u64 {
    let [_, journal] = paths(blob);
    let filled = File::open(journal).ok().and_then(|mut file| read(&mut file, size));
    filled.map_or(0, |(_, filled)| filled.iter().sum())
}

/// Segment size and filled bytes, if the journal is one of a file of `size` bytes and nothing in it is impossible.
fn read(journal: &mut File, size: u64) -> Option<(u64, Vec<u64>)> {
    let mut header = [0; HEADER as usize];
    journal.read_exact(&mut header).ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let (stored, segment) = (number(8)?, number(16)?);
    if header[..8] != MAGIC || stored != size || segment == 0 || size.div_ceil(segment) > MAX_SEGMENTS {
        return None;
    }
    let mut lengths = Vec::new();
    // One byte more than there should be, which tells a journal of another shape.
    journal.take(size.div_ceil(segment) * 8 + 1).read_to_end(&mut lengths).ok()?;
    let filled: Vec<u64> = lengths.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let whole = lengths.len() as u64 == size.div_ceil(segment) * 8;
    let possible = filled.iter().zip(0u64..).all(|(&n, i)| n <= segment.min(size - i * segment));
    (whole && possible).then_some((segment, filled))
}

impl Partial {
    /// Goes on with the unfinished file of `blob`, or begins one.
    pub(crate) fn open(blob: &Path, size: u64, segment: u64) -> Result<Self, HubError> {
        let paths = paths(blob);
        let open = |path: &PathBuf| {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
            file.map_err(HubError::io("open", path))
        };
        let (data, mut journal) = (open(&paths[0])?, open(&paths[1])?);
        let length = data.metadata().map_err(HubError::io("read", &paths[0]))?.len();
        let known = read(&mut journal, size).filter(|_| length == size);
        let (segment, filled) = match known {
            Some(known) => known,
            None => {
                let segment = segment.max(1).max(size.div_ceil(MAX_SEGMENTS));
                (segment, vec![0; usize::try_from(size.div_ceil(segment)).unwrap_or(usize::MAX)])
            }
        };
        let partial =
            Self { data, journal, paths, size, segment, filled: filled.into_iter().map(Mutex::new).collect() };
        // Nothing was known: the journal is emptied before the file gets its length.
        if length != size || partial.arrived() == 0 {
            partial.reset()?;
        }
        Ok(partial)
    }

    /// Forgets everything that arrived.
    pub(crate) fn reset(&self) -> Result<(), HubError> {
        let mut bytes = Vec::with_capacity(HEADER as usize + self.filled.len() * 8);
        bytes.extend(MAGIC);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.segment.to_le_bytes());
        bytes.resize(HEADER as usize + self.filled.len() * 8, 0);
        for filled in &self.filled {
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        }
        self.journal
            .set_len(0)
            .and_then(|()| write_at(&self.journal, &bytes, 0))
            .map_err(HubError::io("write", &self.paths[1]))?;
        self.data.set_len(self.size).map_err(HubError::io("enlarge", &self.paths[0]))
    }

    pub(crate) fn segments(&self) -> usize {
        self.filled.len()
    }

    /// The bytes of a segment that are still missing, as first byte and byte after the last.
    pub(crate) fn missing(&self, index: usize) -> Option<(u64, u64)> {
        let start = index as u64 * self.segment;
        let end = self.size.min(start + self.segment);
        let filled = *self.filled.get(index)?.lock().unwrap_or_else(PoisonError::into_inner);
        (start + filled < end).then_some((start + filled, end))
    }

    /// All bytes that have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.filled.iter().map(|filled| *filled.lock().unwrap_or_else(PoisonError::into_inner)).sum()
    }

    /// Writes bytes that stand at `at` in the file, as far as they are new; returns how many were.
    ///
    /// Bytes beyond the first missing one of their segment are not taken, since a segment has no holes.
    pub(crate) fn put(&self, mut at: u64, mut bytes: &[u8]) -> Result<u64, HubError> {
        let mut new = 0;
        while !bytes.is_empty() && at < self.size {
            let index = at / self.segment;
            let end = self.size.min((index + 1) * self.segment);
            // Both fit: the first is at most `bytes.len()`, the second counts segments, which are in memory.
            let n = (end - at).min(bytes.len() as u64) as usize;
            let (here, rest) = bytes.split_at(n);
            new += self.put_within(index as usize, at, here)?;
            (at, bytes) = (at + n as u64, rest);
        }
        Ok(new)
    }

    fn put_within(&self, index: usize, at: u64, bytes: &[u8]) -> Result<u64, HubError> {
        let start = index as u64 * self.segment;
        let mut filled = self.filled[index].lock().unwrap_or_else(PoisonError::into_inner);
        let first = start + *filled;
        let Some(skip) = first.checked_sub(at).filter(|&skip| skip < bytes.len() as u64) else { return Ok(0) };
        let fresh = &bytes[skip as usize..];
        write_at(&self.data, fresh, first).map_err(HubError::io("write", &self.paths[0]))?;
        let length = *filled + fresh.len() as u64;
        write_at(&self.journal, &length.to_le_bytes(), HEADER + index as u64 * 8)
            .map_err(HubError::io("write", &self.paths[1]))?;
        *filled = length;
        Ok(fresh.len() as u64)
    }

    /// The file that is filled.
    pub(crate) fn path(&self) -> &Path {
        &self.paths[0]
    }

    /// Gives the verified file its name. The bytes reach the disk first, so that a name never stands for less.
    pub(crate) fn finish(self, blob: &Path) -> Result<(), HubError> {
        self.data.sync_data().map_err(HubError::io("write", &self.paths[0]))?;
        std::fs::rename(&self.paths[0], blob).map_err(HubError::io("name", blob))?;
        // Without its file a journal means nothing.
        let _ = std::fs::remove_file(&self.paths[1]);
        Ok(())
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        (bytes, at) = (&bytes[n..], at + n as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_once_and_survive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        let partial = Partial::open(&blob, 10, 4).unwrap();
        assert_eq!(partial.segments(), 3);
        assert_eq!(partial.put(4, b"ef").unwrap(), 2);
        assert_eq!(partial.put(7, b"h").unwrap(), 0, "a hole");
        assert_eq!(partial.put(0, b"abcdefg").unwrap(), 5);
        assert_eq!(partial.missing(1), Some((7, 8)));
        drop(partial);
        assert_eq!(arrived(&blob, 10), 7);
        assert_eq!(arrived(&blob, 11), 0);
        // Another segment size is not taken over in the middle of a file.
        let partial = Partial::open(&blob, 10, 7).unwrap();
        assert_eq!(partial.arrived(), 7);
        assert_eq!(partial.put(0, b"abcdefghijKLM").unwrap(), 3);
        assert!((0..3).all(|i| partial.missing(i).is_none()));
        partial.finish(&blob).unwrap();
        assert_eq!(std::fs::read(&blob).unwrap(), b"abcdefghij");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn damaged_journals_are_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blob");
        Partial::open(&blob, 10, 4).unwrap().put(0, b"abcdefghij").unwrap();
        let [data, journal] = paths(&blob);
        let good = std::fs::read(&journal).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x85;
            std::fs::write(&journal, &bad).unwrap();
            assert_eq!(arrived(&blob, 10), 0, "byte {at}");
            std::fs::write(&journal, &good[..at]).unwrap();
            assert_eq!(Partial::open(&blob, 10, 4).unwrap().arrived(), 0, "cut at {at}");
        }
        std::fs::write(&journal, &good).unwrap();
        std::fs::write(&data, b"abc").unwrap();
        assert_eq!(Partial::open(&blob, 10, 4).unwrap().arrived(), 0, "a shorter file");
        let empty = Partial::open(&folder.path().join("empty"), 0, 4).unwrap();
        assert_eq!((empty.segments(), empty.arrived()), (0, 0));
    }
}
