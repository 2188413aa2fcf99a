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

use crate::error::ConvertError;
use crate::read::{self, ReadError};
use crate::source;

mod header;
mod index;

use header::Dtype;
pub(crate) use header::room_for_one;
use index::Index;

/// Largest header accepted, the limit of the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// Name of an unsharded checkpoint.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Name of the list of shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The weight files that the index of a folder lists; an index that cannot be read lists nothing.
pub(crate) fn listed_files(dir: &Path) -> Vec<String> {
    Index::read(&dir.join(INDEX)).ok().flatten().map(|index| index.files).unwrap_or_default()
}

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

/// Place and type of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape, outermost dimension first, as the checkpoint stores it.
    pub shape: Vec<u64>,
    dtype: Dtype,
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
    notes: Vec<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and checks every header. `model.safetensors` goes before the shards of an index,
    /// as in the reference.
    ///
    /// # Errors
    /// [`ConvertError::MissingFile`] for a missing shard or a folder without weights, [`ConvertError::Damaged`] for a
    /// header that does not describe its file, [`ConvertError::Disagreement`] when a single file and an index are there
    /// and belong to different models.
    pub fn open(dir: &Path) -> Result<Self, ConvertError> {
        if !dir.is_dir() {
            return Err(ConvertError::MissingFile {
                path: dir.to_owned(),
                remedy: "give the folder of a Hugging Face checkpoint".into(),
            });
        }
        // A link that leads nowhere counts as there, so that the message is about the link.
        let single = dir.join(SINGLE).symlink_metadata().is_ok();
        let index = Index::read(&dir.join(INDEX))?;
        match index {
            None if single => Self::from_files(dir, &[SINGLE.to_owned()]),
            None => Err(source::missing_weights(dir)),
            Some(index) if single && index.files != [SINGLE] => {
                let mut this = Self::from_files(dir, &[SINGLE.to_owned()])?;
                this.check_stale_index(&index)?;
                this.notes.push(format!(
                    "{SINGLE} and {INDEX} are both there: {SINGLE} was taken, as transformers does; remove the one that \
                     is out of date"
                ));
                Ok(this)
            }
            Some(index) => {
                let this = Self::from_files(dir, &index.files)?;
                this.check_index(&dir.join(INDEX), &index)?;
                Ok(this)
            }
        }
    }

    /// The tensors of the given files.
    fn from_files(dir: &Path, files: &[String]) -> Result<Self, ConvertError> {
        let mut this = Self {
            dir: dir.to_owned(),
            shards: Vec::new(),
            generator: None,
            tensors: BTreeMap::new(),
            notes: Vec::new(),
        };
        let mut all = Vec::new();
        for file in files {
            this.read_shard(dir.join(file), &mut all)?;
        }
        all.sort_unstable_by(|a, b| (&a.name, a.shard).cmp(&(&b.name, b.shard)));
        let twice = all.windows(2).find_map(|pair| match pair {
            [a, b] if a.name == b.name => Some((a, b)),
            _ => None,
        });
        if let Some((a, b)) = twice {
            let what = if a.shard == b.shard {
                format!("tensor {} is listed twice", a.name)
            } else {
                format!("tensor {} is already in another shard", a.name)
            };
            let path = this.shards.get(b.shard).map_or_else(|| dir.to_owned(), |(path, _)| path.clone());
            return Err(ConvertError::Damaged { path, what });
        }
        this.tensors = all.into_iter().map(|t| (t.name.clone(), t)).collect();
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
            SourceType::F32 => Dtype::F32,
            SourceType::F16 => Dtype::F16,
            SourceType::Bf16 => Dtype::BF16,
        };
        let entry = |(name, shape, shard): (String, Vec<u64>, usize)| {
            let n_bytes = shape.iter().fold(ty.size() as u64, |n, d| n.saturating_mul(*d));
            (name.clone(), SourceTensor { name, shape, dtype, shard, offset: 0, n_bytes })
        };
        let tensors = tensors.into_iter().map(entry).collect();
        Self { dir: dir.to_owned(), shards: Vec::new(), generator: Some(generator), tensors, notes: Vec::new() }
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

    /// The largest dimension of any tensor that has data: a bound for every size that the weights can bear out.
    pub(crate) fn largest_dimension(&self) -> u64 {
        let with_data = self.tensors.values().filter(|t| t.n_bytes > 0);
        with_data.flat_map(|t| &t.shape).copied().max().unwrap_or(0)
    }

    /// Where sources of the weights disagree, and which was taken.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tensor's type, if it holds plain weights.
    ///
    /// # Errors
    /// [`ConvertError::Dtype`].
    pub fn weight_type(&self, tensor: &SourceTensor) -> Result<SourceType, ConvertError> {
        match tensor.dtype {
            Dtype::F32 => Ok(SourceType::F32),
            Dtype::F16 => Ok(SourceType::F16),
            Dtype::BF16 => Ok(SourceType::Bf16),
            other => Err(ConvertError::Dtype {
                path: self.shards.get(tensor.shard).map_or_else(|| self.dir.clone(), |(path, _)| path.clone()),
                tensor: tensor.name.clone(),
                dtype: other.name().to_owned(),
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

    /// Opens one weight file and adds its tensors to `all`.
    fn read_shard(&mut self, path: PathBuf, all: &mut Vec<SourceTensor>) -> Result<(), ConvertError> {
        let damaged = |what: String| ConvertError::Damaged { path: path.clone(), what };
        let (mut file, len) = header::open(&path)?;
        let mut prefix = [0u8; 8];
        if len < 8 {
            return Err(damaged(format!("{len} bytes are too few for a safetensors file")));
        }
        file.read_exact(&mut prefix).map_err(ConvertError::io("read", &path))?;
        if read::is_lfs_pointer(&prefix) {
            return Err(ReadError::LfsPointer { path }.into());
        }
        let header = u64::from_le_bytes(prefix);
        if header > MAX_HEADER {
            return Err(damaged(format!("the header claims {header} bytes, the limit is {MAX_HEADER}")));
        }
        let data_start = 8 + header;
        if data_start > len {
            return Err(damaged(format!("the header claims {header} bytes, the file has {len}")));
        }
        read::check_memory(&path, header)?;
        let mut bytes = Vec::new();
        (&mut file).take(header).read_to_end(&mut bytes).map_err(ConvertError::io("read", &path))?;
        let shard = self.shards.len();
        let tensors = header::parse(&bytes, data_start, shard)
            .map_err(|e| damaged(format!("the header is not as it should be: {e}")))?;
        drop(bytes);
        header::check_tiling(&tensors, data_start, len - data_start).map_err(damaged)?;
        if all.is_empty() {
            *all = tensors
        } else {
            all.extend(tensors)
        }
        self.shards.push((path, Mutex::new(file)));
        Ok(())
    }

    /// Fails when the shards that an index lists are another model than the single file this one was read from.
    fn check_stale_index(&self, index: &Index) -> Result<(), ConvertError> {
        let disagree = |what: String| ConvertError::Disagreement {
            path: self.dir.clone(),
            what: format!("{SINGLE} and {INDEX} belong to different models: {what}"),
            remedy: format!("remove {SINGLE}, or {INDEX} with its shards, whichever is not the model's"),
        };
        for (name, file) in index.iter() {
            if !self.tensors.contains_key(name) {
                return Err(disagree(format!("{INDEX} places tensor {name} in {file}, {SINGLE} does not have it")));
            }
        }
        let listed: std::collections::HashSet<&str> = index.iter().map(|(name, _)| name).collect();
        if let Some(name) = self.tensors.keys().find(|name| !listed.contains(name.as_str())) {
            return Err(disagree(format!("{SINGLE} has tensor {name}, {INDEX} does not list it")));
        }
        // Shards that are gone or damaged are not needed; those that are there must hold tensors of the same shapes.
        for file in &index.files {
            let Ok(shard) = Self::from_files(&self.dir, std::slice::from_ref(file)) else { continue };
            for (name, other) in shard.tensors() {
                if let Some(own) = self.tensors.get(name).filter(|own| own.shape != other.shape) {
                    return Err(disagree(format!(
                        "tensor {name} is {:?} in {SINGLE} and {:?} in {file}",
                        own.shape, other.shape
                    )));
                }
            }
        }
        Ok(())
    }

    /// Compares the list of shards with what the shards hold.
    fn check_index(&self, path: &Path, index: &Index) -> Result<(), ConvertError> {
        for (name, file) in index.iter() {
            let Some(tensor) = self.tensors.get(name) else {
                return Err(ConvertError::Damaged {
                    path: path.to_owned(),
                    what: format!("it places tensor {name} in {file}, which does not hold it"),
                });
            };
            let holder = self.shards.get(tensor.shard).and_then(|(p, _)| p.file_name()).unwrap_or_default();
            if holder != file {
                return Err(ConvertError::Damaged {
                    path: path.to_owned(),
                    what: format!("it places tensor {name} in {file}, but {} holds it", holder.display()),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
