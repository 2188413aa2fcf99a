//! Image rows on disk, so that a picture shown again costs nothing, in this conversation or another.
//!
//! One file per picture, named after its key:
//!
//! ```text
//! "OCELLIIM" | version u32 | key, 32 bytes | identity of the vision model, 32 bytes | width u64 | height u64
//! columns u32 | rows u32 | queries u32 | n_embd u32 | values f32 × …
//! SHA-256 of everything before
//! ```
//!
//! All numbers are little-endian; columns and rows of the grid are 0 when there is none. Reading a file makes it the
//! youngest; when the files together exceed the bound, the oldest go. Several programs can share a folder: files are
//! written under another name and renamed, and a file that is gone is no error.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ocelli_files::{Inputs, Output, Replace, WriteOptions};
use sha2::{Digest, Sha256};

use crate::RuntimeError;
use crate::prompt::ImageEmbedding;

const MAGIC: &[u8; 8] = b"OCELLIIM";
/// 2: key and identity cover every byte of the vision model, of which version 1 covered a part.
const VERSION: u32 = 2;
const HEAD_LEN: usize = 8 + 4 + 2 * 32 + 2 * 8 + 4 * 4;
const SUM_LEN: usize = 32;
const ENDING: &str = "ocelli-image";

/// A folder of image rows, bounded in size.
#[derive(Debug, Clone)]
pub struct ImageCache {
    folder: PathBuf,
    max_bytes: u64,
}

/// What was found in the cache.
#[derive(Debug)]
pub(crate) enum Cached {
    /// The rows.
    Hit(ImageEmbedding),
    /// Nothing.
    Miss,
    /// A file that cannot be used, and why.
    Damaged(PathBuf, String),
}

impl ImageCache {
    /// A cache in `folder`, which is made if need be, of at most `max_bytes`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path, max_bytes: u64) -> Result<Self, RuntimeError> {
        std::fs::create_dir_all(folder).map_err(|source| RuntimeError::Write { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned(), max_bytes })
    }

    fn path(&self, key: &[u8; 32]) -> PathBuf {
        let name: String = key.iter().map(|b| format!("{b:02x}")).collect();
        self.folder.join(format!("{name}.{ENDING}"))
    }

    /// The rows kept under `key`, for a text model of width `n_embd`.
    pub(crate) fn get(&self, key: &[u8; 32], n_embd: usize) -> Cached {
        let path = self.path(key);
        // A file longer than the whole cache may be cannot be one of ours.
        let bytes = match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Cached::Miss,
            Err(e) => return Cached::Damaged(path, e.to_string()),
            Ok(meta) if !meta.is_file() => return Cached::Damaged(path, "is not a regular file".to_owned()),
            Ok(meta) if meta.len() > self.max_bytes => return Cached::Damaged(path, "is too long".to_owned()),
            Ok(_) => match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) => return Cached::Damaged(path, e.to_string()),
            },
        };
        match decode(&bytes, key).filter(|image| image.n_embd == n_embd) {
            None if is_older(&bytes) => Cached::Damaged(path, "was kept by an older version".to_owned()),
            None => Cached::Damaged(path, "is no image of this program, or damaged".to_owned()),
            Some(image) => {
                // Where the time cannot be set, the order of leaving is less good and nothing else.
                let _ =
                    std::fs::File::options().append(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
                Cached::Hit(image)
            }
        }
    }

    /// Keeps `image`, and lets the oldest go where there is no room. An image larger than the cache is not kept.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn put(&self, image: &ImageEmbedding) -> Result<(), RuntimeError> {
        let path = self.path(&image.key);
        let failed = |source| RuntimeError::Write { path: path.clone(), source };
        let bytes = encode(image);
        if bytes.len() as u64 > self.max_bytes {
            return Ok(());
        }
        // The cache's own files, whoever else may read the folder.
        let options = WriteOptions::new(Inputs::none(), Replace::Always).private().unsynced();
        let mut output = Output::create(&path, &options)?;
        if output.is_written_through() {
            return Err(failed(std::io::Error::other("it is not a regular file")));
        }
        output.put(&bytes)?;
        output.commit()?;
        self.shrink(&path).map_err(failed)
    }

    /// Removes the oldest files until the rest fits, but not `keep`.
    fn shrink(&self, keep: &Path) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != ENDING) {
                continue;
            }
            // Another program may have removed it meanwhile.
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            files.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), path, meta.len()));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, _, len)| len).sum();
        for (_, path, len) in files.iter().filter(|(_, path, _)| path != keep) {
            if total <= self.max_bytes {
                break;
            }
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => total -= len,
            }
        }
        Ok(())
    }
}

fn encode(image: &ImageEmbedding) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_LEN + 4 * image.rows.len() + SUM_LEN);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&image.key);
    bytes.extend_from_slice(&image.model);
    for side in [image.size.0, image.size.1] {
        bytes.extend_from_slice(&(side as u64).to_le_bytes());
    }
    let (cols, rows) = image.grid.unwrap_or((0, 0));
    for n in [cols, rows, image.queries, image.n_embd] {
        // All four are bounded far below u32 by the slicing rules and the models' limits.
        bytes.extend_from_slice(&(n as u32).to_le_bytes());
    }
    bytes.extend(image.rows.iter().flat_map(|v| v.to_le_bytes()));
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn is_older(bytes: &[u8]) -> bool {
    let version = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk()).map(|b| u32::from_le_bytes(*b));
    version.is_some_and(|version| version < VERSION)
}

/// The image that a file of the cache holds, if it is sound and kept under `key`.
#[must_use]
pub fn decode(bytes: &[u8], key: &[u8; 32]) -> Option<ImageEmbedding> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_LEN)?)?;
    let (head, values) = body.split_at_checked(HEAD_LEN)?;
    let word = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
    if head[..8] != MAGIC[..] || word(8)? != VERSION || head[12..44] != key[..] || Sha256::digest(body)[..] != *sum {
        return None;
    }
    let side = |at| usize::try_from(long(at)?).ok();
    let count = |at| usize::try_from(word(at)?).ok();
    let (cols, rows) = (count(92)?, count(96)?);
    let image = ImageEmbedding {
        key: *key,
        model: *head[44..].first_chunk()?,
        size: (side(76)?, side(84)?),
        grid: (cols != 0 && rows != 0).then_some((cols, rows)),
        queries: count(100)?,
        n_embd: count(104)?,
        rows: values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    };
    let slices = cols.checked_mul(rows)?.checked_add(1)?;
    let len = slices.checked_mul(image.queries)?.checked_mul(image.n_embd)?.checked_mul(4)?;
    (len == values.len()).then_some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(seed: u8) -> ImageEmbedding {
        let mut image = ImageEmbedding {
            key: [seed; 32],
            model: [9; 32],
            size: (640, 480),
            grid: Some((2, 1)),
            queries: 4,
            n_embd: 8,
            rows: vec![],
        };
        image.rows = (0..image.n_rows() * 8).map(|i| i as f32 * 0.25).collect();
        image
    }

    fn hit(cache: &ImageCache, seed: u8) -> bool {
        match cache.get(&[seed; 32], 8) {
            Cached::Hit(found) => {
                assert_eq!(found, image(seed));
                true
            }
            Cached::Miss => false,
            Cached::Damaged(path, why) => panic!("{}: {why}", path.display()),
        }
    }

    #[test]
    fn what_is_kept_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ImageCache::open(&dir.path().join("a/b"), 1 << 20).unwrap();
        assert!(!hit(&cache, 1));
        cache.put(&image(1)).unwrap();
        assert!(hit(&cache, 1));
        assert!(!hit(&cache, 2));
        assert!(matches!(cache.get(&[1; 32], 16), Cached::Damaged(..)), "rows of another model");
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let one = encode(&image(1)).len() as u64;
        let cache = ImageCache::open(dir.path(), 3 * one).unwrap();
        std::fs::write(dir.path().join("not-ours.txt"), vec![0; 4096]).unwrap();
        let long_ago = |seed: u8, age: u64| {
            let file = std::fs::File::options().append(true).open(cache.path(&[seed; 32])).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        };
        for seed in 1..=3 {
            cache.put(&image(seed)).unwrap();
            long_ago(seed, 1000 - u64::from(seed));
        }
        assert!(hit(&cache, 1), "which makes it the youngest");
        cache.put(&image(4)).unwrap();
        assert_eq!([1, 2, 3, 4].map(|seed| hit(&cache, seed)), [true, false, true, true]);
        assert!(dir.path().join("not-ours.txt").exists());
        let small = ImageCache::open(dir.path(), one - 1).unwrap();
        small.put(&image(9)).unwrap();
        assert!(!cache.path(&[9; 32]).exists(), "an image larger than the cache is not kept");
    }

    #[test]
    fn damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ImageCache::open(dir.path(), 1 << 20).unwrap();
        let good = encode(&image(1));
        for bytes in [&good[..good.len() - 1], &good[..20], b"", &[&good[..], &[0; 4]].concat()] {
            std::fs::write(cache.path(&[1; 32]), bytes).unwrap();
            assert!(matches!(cache.get(&[1; 32], 8), Cached::Damaged(..)));
        }
        let mut flipped = good.clone();
        flipped[100] ^= 1;
        std::fs::write(cache.path(&[1; 32]), &flipped).unwrap();
        assert!(matches!(cache.get(&[1; 32], 8), Cached::Damaged(..)));
        let older = [&good[..8], &1u32.to_le_bytes(), &good[12..]].concat();
        std::fs::write(cache.path(&[1; 32]), older).unwrap();
        assert!(matches!(cache.get(&[1; 32], 8), Cached::Damaged(_, why) if why.contains("older version")));
        std::fs::write(cache.path(&[2; 32]), &good).unwrap();
        assert!(matches!(cache.get(&[2; 32], 8), Cached::Damaged(..)), "another picture's rows");
        cache.put(&image(1)).unwrap();
        assert!(hit(&cache, 1), "a damaged file is replaced");
    }
}
