//! Reading of safetensors checkpoints, single or sharded, without mapping them into memory.
//!
//! ```text
//! u64 N (little endian) │ N bytes JSON: name → {dtype, shape, data_offsets: [begin, end]} │ data
//! ```
//!
//! Offsets count from the end of the JSON. Each header is checked completely when the checkpoint is opened: every
//! range lies in the file, matches shape × dtype, and the ranges tile the data without overlap or hole. After that a
//! tensor is read strip by strip with [`Checkpoint::read_at`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::ConvertError;
use crate::json;

/// Largest header accepted, the limit of the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// Name of an unsharded checkpoint.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Name of the list of shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Data type of a checkpoint tensor that can be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceType {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl SourceType {
    /// Bytes of one value.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Bytes per value of any dtype of the container format.
fn dtype_size(name: &str) -> Option<u64> {
    Some(match name {
        "F64" | "I64" | "U64" => 8,
        "F32" | "I32" | "U32" => 4,
        "F16" | "BF16" | "I16" | "U16" => 2,
        "BOOL" | "I8" | "U8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
        _ => return None,
    })
}

/// Place and type of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape, outermost dimension first, as the checkpoint stores it.
    pub shape: Vec<u64>,
    /// dtype as the file spells it.
    dtype: String,
    /// Index of the file it lies in; shards are sorted by name.
    pub shard: usize,
    offset: u64,
    n_bytes: u64,
}

impl SourceTensor {
    /// Bytes of the whole tensor.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

/// Weights that are computed when they are read.
pub(crate) trait Generate: std::fmt::Debug + Send + Sync {
    /// Fills `out` with the bytes of tensor `name` from byte `offset` on; the range lies inside the tensor.
    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]);
}

/// An opened checkpoint folder: the table of its tensors and the files behind it.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<(PathBuf, Mutex<File>)>,
    generator: Option<Box<dyn Generate>>,
    tensors: BTreeMap<String, SourceTensor>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and checks every header.
    ///
    /// # Errors
    /// [`ConvertError::MissingFile`] for a missing shard or a folder without weights, [`ConvertError::Damaged`] for a
    /// header that does not describe its file.
    pub fn open(dir: &Path) -> Result<Self, ConvertError> {
        let (files, index) = shard_files(dir)?;
        let mut this = Self { dir: dir.to_owned(), shards: Vec::new(), generator: None, tensors: BTreeMap::new() };
        for file in files {
            this.add_shard(dir.join(file))?;
        }
        if let Some(index) = index {
            this.check_index(&dir.join(INDEX), &index)?;
        }
        Ok(this)
    }

    /// A checkpoint whose weights are computed instead of read: tensors as name, shape and shard, all of type `ty`.
    /// The folder `dir` holds the other files.
    pub(crate) fn generated(
        dir: &Path,
        ty: SourceType,
        tensors: impl IntoIterator<Item = (String, Vec<u64>, usize)>,
        generator: Box<dyn Generate>,
    ) -> Self {
        let dtype = match ty {
            SourceType::F32 => "F32",
            SourceType::F16 => "F16",
            SourceType::Bf16 => "BF16",
        };
        let entry = |(name, shape, shard): (String, Vec<u64>, usize)| {
            let n_bytes = shape.iter().fold(ty.size() as u64, |n, d| n.saturating_mul(*d));
            (name.clone(), SourceTensor { name, shape, dtype: dtype.to_owned(), shard, offset: 0, n_bytes })
        };
        let tensors = tensors.into_iter().map(entry).collect();
        Self { dir: dir.to_owned(), shards: Vec::new(), generator: Some(generator), tensors }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All tensors by name.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, SourceTensor> {
        &self.tensors
    }

    /// The tensor's type, if it holds plain weights.
    ///
    /// # Errors
    /// [`ConvertError::Dtype`].
    pub fn weight_type(&self, tensor: &SourceTensor) -> Result<SourceType, ConvertError> {
        match tensor.dtype.as_str() {
            "F32" => Ok(SourceType::F32),
            "F16" => Ok(SourceType::F16),
            "BF16" => Ok(SourceType::Bf16),
            other => Err(ConvertError::Dtype {
                path: self.shards.get(tensor.shard).map_or_else(|| self.dir.clone(), |(path, _)| path.clone()),
                tensor: tensor.name.clone(),
                dtype: other.to_owned(),
            }),
        }
    }

    /// Fills `out` with the tensor's bytes from byte `offset` on.
    ///
    /// # Errors
    /// [`ConvertError::Io`] when reading fails, [`ConvertError::Damaged`] when the range is not inside the tensor.
    pub fn read_at(&self, tensor: &SourceTensor, offset: u64, out: &mut [u8]) -> Result<(), ConvertError> {
        let end = u64::try_from(out.len()).ok().and_then(|n| offset.checked_add(n));
        if end.is_none_or(|end| end > tensor.n_bytes) {
            return Err(self.out_of_range(tensor));
        }
        if let Some(generator) = &self.generator {
            generator.read_at(&tensor.name, offset, out);
            return Ok(());
        }
        let Some((path, file)) = self.shards.get(tensor.shard) else { return Err(self.out_of_range(tensor)) };
        let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(tensor.offset + offset))
            .and_then(|_| file.read_exact(out))
            .map_err(ConvertError::io("read", path))
    }

    fn out_of_range(&self, tensor: &SourceTensor) -> ConvertError {
        ConvertError::Damaged { path: self.dir.clone(), what: format!("a read outside tensor {}", tensor.name) }
    }

    fn add_shard(&mut self, path: PathBuf) -> Result<(), ConvertError> {
        let damaged = |what: String| ConvertError::Damaged { path: path.clone(), what };
        let mut file = File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => ConvertError::MissingFile {
                path: path.clone(),
                remedy: format!("{INDEX} lists it as a part of the checkpoint; download it"),
            },
            _ => ConvertError::Io { action: "open", path: path.clone(), source: e },
        })?;
        let len = file.metadata().map_err(ConvertError::io("read", &path))?.len();
        let mut prefix = [0u8; 8];
        if len < 8 {
            return Err(damaged(format!("{len} bytes are too few for a safetensors file")));
        }
        file.read_exact(&mut prefix).map_err(ConvertError::io("read", &path))?;
        let header = u64::from_le_bytes(prefix);
        if header > MAX_HEADER {
            return Err(damaged(format!("the header claims {header} bytes, the limit is {MAX_HEADER}")));
        }
        let data_start = 8 + header;
        if data_start > len {
            return Err(damaged(format!("the header claims {header} bytes, the file has {len}")));
        }
        let mut bytes = Vec::new();
        (&mut file).take(header).read_to_end(&mut bytes).map_err(ConvertError::io("read", &path))?;
        let entries = parse_header(&bytes).map_err(|e| damaged(format!("the header is not as it should be: {e}")))?;
        check_tiling(&entries, len - data_start).map_err(damaged)?;
        let shard = self.shards.len();
        for (name, entry) in entries {
            let [begin, end] = entry.data_offsets;
            let tensor = SourceTensor {
                name: name.clone(),
                shape: entry.shape,
                dtype: entry.dtype,
                shard,
                offset: data_start + begin,
                n_bytes: end - begin,
            };
            if let Some(old) = self.tensors.insert(name, tensor) {
                return Err(damaged(format!("tensor {} is already in another shard", old.name)));
            }
        }
        self.shards.push((path, Mutex::new(file)));
        Ok(())
    }

    /// Compares the list of shards with what the shards hold.
    fn check_index(&self, path: &Path, index: &BTreeMap<String, String>) -> Result<(), ConvertError> {
        for (name, file) in index {
            let Some(tensor) = self.tensors.get(name) else {
                return Err(ConvertError::Damaged {
                    path: path.to_owned(),
                    what: format!("it places tensor {name} in {file}, which does not hold it"),
                });
            };
            let holder = self.shards.get(tensor.shard).and_then(|(p, _)| p.file_name()).unwrap_or_default();
            if holder != file.as_str() {
                return Err(ConvertError::Damaged {
                    path: path.to_owned(),
                    what: format!("it places tensor {name} in {file}, but {} holds it", holder.display()),
                });
            }
        }
        Ok(())
    }
}

/// The shard files of a folder in name order, and the index's map if there is one.
#[allow(clippy::type_complexity)]
fn shard_files(dir: &Path) -> Result<(Vec<String>, Option<BTreeMap<String, String>>), ConvertError> {
    if !dir.is_dir() {
        return Err(ConvertError::MissingFile {
            path: dir.to_owned(),
            remedy: "give the folder of a Hugging Face checkpoint".into(),
        });
    }
    let index_path = dir.join(INDEX);
    let Some(index) = json::read_optional(&index_path)? else {
        if dir.join(SINGLE).is_file() {
            return Ok((vec![SINGLE.to_owned()], None));
        }
        let remedy = if dir.join("pytorch_model.bin").is_file() || dir.join("pytorch_model.bin.index.json").is_file() {
            "the weights are in the pickle format; save the model with safe_serialization=True".to_owned()
        } else {
            format!("a checkpoint needs it, or {INDEX} and the shards that it lists")
        };
        return Err(ConvertError::MissingFile { path: dir.join(SINGLE), remedy });
    };
    let bad = |found: String| ConvertError::Config {
        path: index_path.clone(),
        key: "weight_map".into(),
        found,
        expected: "an object from tensor names to file names in the same folder".into(),
    };
    let map = match index.get("weight_map") {
        Some(serde_json::Value::Object(map)) => map,
        Some(other) => return Err(bad(json::kind(other).into())),
        None => return Err(bad("missing".into())),
    };
    let mut out = BTreeMap::new();
    for (name, file) in map {
        let Some(file) = file.as_str() else { return Err(bad(format!("{} for {name}", json::kind(file)))) };
        // Only plain names: a checkpoint must not reach outside its folder.
        let plain = Path::new(file).file_name().is_some_and(|n| n == file);
        if !plain || file.contains(['/', '\\']) {
            return Err(bad(format!("`{file}` for {name}")));
        }
        out.insert(name.clone(), file.to_owned());
    }
    let mut files: Vec<String> = out.values().cloned().collect();
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Err(bad("empty".into()));
    }
    Ok((files, Some(out)))
}

#[derive(Debug, serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's tensors in the order of their data. Duplicate names stay visible, unlike in a map.
fn parse_header(bytes: &[u8]) -> Result<Vec<(String, Entry)>, serde_json::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(String, Entry)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                if name == "__metadata__" {
                    map.next_value::<IgnoredAny>()?;
                } else {
                    out.push((name, map.next_value::<Entry>()?));
                }
            }
            Ok(out)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut entries = json.deserialize_map(Entries)?;
    json.end()?;
    entries.sort_by(|(na, a), (nb, b)| a.data_offsets.cmp(&b.data_offsets).then_with(|| na.cmp(nb)));
    Ok(entries)
}

/// Checks that the entries, sorted by offset, cover `data` bytes exactly once and match their shapes.
fn check_tiling(entries: &[(String, Entry)], data: u64) -> Result<(), String> {
    let mut names = std::collections::HashSet::with_capacity(entries.len());
    let mut at = 0u64;
    for (name, entry) in entries {
        if !names.insert(name.as_str()) {
            return Err(format!("tensor {name} is listed twice"));
        }
        let [begin, end] = entry.data_offsets;
        if begin > end || end > data {
            return Err(format!("tensor {name} claims bytes {begin}..{end}, there are {data}"));
        }
        if begin < at {
            return Err(format!(
                "tensor {name} begins at byte {begin}, inside the tensor before it, which ends at {at}"
            ));
        }
        if begin > at {
            return Err(format!("bytes {at}..{begin} before tensor {name} belong to no tensor"));
        }
        let size =
            dtype_size(&entry.dtype).ok_or_else(|| format!("tensor {name} has unknown dtype {}", entry.dtype))?;
        let want = entry.shape.iter().try_fold(size, |n, d| n.checked_mul(*d));
        if want != Some(end - begin) {
            return Err(format!(
                "tensor {name} is {} bytes, but {:?} of {} is not",
                end - begin,
                entry.shape,
                entry.dtype
            ));
        }
        at = end;
    }
    if at != data {
        return Err(format!("{} bytes after the last tensor belong to none", data - at));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
