//! Importance matrices: how much each input column of a weight matrix matters, measured on sample text.
//!
//! Two file forms are read, both untrusted: the GGUF form (`W.in_sum2` and `W.counts` tensors) and the older binary
//! one. Either way the result is one list of values per tensor, in the order of its columns; a stack of expert
//! matrices has one such list per expert, end to end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ocelli_gguf::{Gguf, GgufError, TensorInfo, TensorType, read_header};
use thiserror::Error;

use crate::nearest::nearest;

/// Bytes of a file in the older form, at most: ten times what the largest models make.
const MAX_LEGACY: u64 = 1 << 30;

#[cfg(test)]
mod tests;

/// What can be wrong with an importance matrix file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImatrixError {
    /// A part of a name that no entry has.
    #[error("no entry of {} has `{}` in its name; the nearest are {nearest}", path.display(), part.escape_debug())]
    NoMatch {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        part: String,
        /// The names that are most like it.
        nearest: String,
    },
    /// Its content does not fit into memory.
    #[error(transparent)]
    NoMemory(#[from] ocelli_memory::NoMemory),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A GGUF file that is not sound.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The contents are not those of an importance matrix.
    #[error("{}: {what}; make the file again with the tool that collects importance data", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the entry and offset where there is one.
        what: String,
    },
    /// Both an include and an exclude list were given.
    #[error("included and excluded weights cannot be combined; give one of the two lists")]
    IncludeAndExclude,
}

/// An importance matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imatrix {
    entries: BTreeMap<String, Vec<f32>>,
    datasets: Vec<String>,
    chunks: i32,
    path: PathBuf,
}

impl Imatrix {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or holds NaN or infinity.
    pub fn read(path: &Path) -> Result<Self, ImatrixError> {
        let mut magic = [0; 4];
        let io = |source| ImatrixError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        crate::read::check_memory(path, len)?;
        let is_gguf = match file.read_exact(&mut magic) {
            Ok(()) => magic == ocelli_gguf::MAGIC,
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => false,
            Err(e) => return Err(io(e)),
        };
        let mut imatrix = if is_gguf {
            read_gguf(path, &mut file)?
        } else {
            file.rewind().map_err(io)?;
            let mut bytes = Vec::new();
            file.take(MAX_LEGACY + 1).read_to_end(&mut bytes).map_err(io)?;
            if bytes.len() as u64 > MAX_LEGACY {
                return Err(ImatrixError::Content {
                    path: path.to_owned(),
                    what: "it is longer than any importance matrix".to_owned(),
                });
            }
            parse_legacy(&bytes).map_err(|what| ImatrixError::Content { path: path.to_owned(), what })?
        };
        imatrix.path = path.to_owned();
        imatrix.check_finite()?;
        Ok(imatrix)
    }

    /// Importances of the columns of tensor `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.entries.get(name).map(Vec::as_slice)
    }

    /// Names of all entries, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry, which is as good as no importance matrix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names of the texts it was measured on.
    #[must_use]
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Pieces of text it was measured on; 0 or negative when the file does not say.
    #[must_use]
    pub fn chunks(&self) -> i32 {
        self.chunks
    }

    /// The file it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps only entries whose name contains one of `include`, or drops those whose name contains one of `exclude`.
    ///
    /// # Errors
    /// [`ImatrixError::IncludeAndExclude`] when both lists have entries, [`ImatrixError::NoMatch`] for one that no name
    /// contains.
    pub fn select(&mut self, include: &[String], exclude: &[String]) -> Result<(), ImatrixError> {
        if !include.is_empty() && !exclude.is_empty() {
            return Err(ImatrixError::IncludeAndExclude);
        }
        for part in include.iter().chain(exclude) {
            if !self.names().any(|name| name.contains(part)) {
                return Err(ImatrixError::NoMatch {
                    path: self.path.clone(),
                    part: part.clone(),
                    nearest: nearest(part, self.names()),
                });
            }
        }
        let any = |list: &[String], name: &str| list.iter().any(|part| name.contains(part));
        self.entries.retain(|name, _| (include.is_empty() || any(include, name)) && !any(exclude, name));
        Ok(())
    }

    fn check_finite(&self) -> Result<(), ImatrixError> {
        for (name, values) in &self.entries {
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                let value = values.get(i).copied().unwrap_or(f32::NAN);
                let what = format!("entry {name} holds {value} at column {i}");
                return Err(ImatrixError::Content { path: self.path.clone(), what });
            }
        }
        Ok(())
    }
}

/// The two tensors of one entry.
#[derive(Default)]
struct Pair<'a> {
    sums: Option<TensorInfo<'a>>,
    counts: Option<TensorInfo<'a>>,
}

fn read_gguf(path: &Path, file: &mut File) -> Result<Imatrix, ImatrixError> {
    let content = |what: String| ImatrixError::Content { path: path.to_owned(), what };
    let header = read_header(path)?;
    let gguf = header.view().map_err(|e| e.in_file(path))?;
    let meta = gguf.metadata();
    let in_file = |e: GgufError| ImatrixError::Gguf(e.in_file(path));
    let missing = |key| content(format!("key {key} is missing, so this is no importance matrix"));
    let datasets = meta.array_str("imatrix.datasets").map_err(in_file)?.ok_or_else(|| missing("imatrix.datasets"))?;
    let chunks = meta.u32("imatrix.chunk_count").map_err(in_file)?.ok_or_else(|| missing("imatrix.chunk_count"))?;
    meta.u32("imatrix.chunk_size").map_err(in_file)?.ok_or_else(|| missing("imatrix.chunk_size"))?;

    let mut entries = BTreeMap::new();
    for (name, pair) in pairs_of(&gguf) {
        let (Some(sums), Some(counts)) = (pair.sums, pair.counts) else {
            return Err(content(format!("entry {name} has only one of its tensors .in_sum2 and .counts")));
        };
        let sums = read_f32s(path, file, &sums)?;
        let counts = read_f32s(path, file, &counts)?;
        let values = average(&sums, &counts)
            .ok_or_else(|| content(format!("entry {name} has {} sums for {} counts", sums.len(), counts.len())))?;
        entries.insert(name.to_owned(), values);
    }
    if entries.is_empty() {
        return Err(content("it has no entries".to_owned()));
    }
    Ok(Imatrix {
        entries,
        datasets: datasets.map(str::to_owned).collect(),
        chunks: i32::try_from(chunks).unwrap_or(i32::MAX),
        path: path.to_owned(),
    })
}

fn pairs_of<'a>(gguf: &Gguf<'a>) -> BTreeMap<&'a str, Pair<'a>> {
    let mut pairs: BTreeMap<&str, Pair<'_>> = BTreeMap::new();
    for tensor in gguf.tensors() {
        if let Some(name) = tensor.name.strip_suffix(".in_sum2") {
            pairs.entry(name).or_default().sums = Some(tensor.clone());
        } else if let Some(name) = tensor.name.strip_suffix(".counts") {
            pairs.entry(name).or_default().counts = Some(tensor.clone());
        }
    }
    pairs
}

fn read_f32s(path: &Path, file: &mut File, tensor: &TensorInfo<'_>) -> Result<Vec<f32>, ImatrixError> {
    let io = |source| ImatrixError::Io { path: path.to_owned(), source };
    let content = |what: String| ImatrixError::Content { path: path.to_owned(), what };
    if tensor.ty != TensorType::F32 {
        return Err(content(format!("tensor {} is {}, not F32", tensor.name, tensor.ty)));
    }
    let len = usize::try_from(tensor.n_bytes).map_err(|_| content(format!("tensor {} is too large", tensor.name)))?;
    // The header check has shown that the file holds this many bytes.
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(tensor.offset)).map_err(io)?;
    file.read_exact(&mut bytes).map_err(io)?;
    Ok(f32s(&bytes))
}

/// Sums divided by the count of their matrix; a matrix that was never used counts every column alike.
fn average(sums: &[f32], counts: &[f32]) -> Option<Vec<f32>> {
    if counts.is_empty() || sums.is_empty() || !sums.len().is_multiple_of(counts.len()) {
        return None;
    }
    let mut values = Vec::with_capacity(sums.len());
    for (sums, count) in sums.chunks_exact(sums.len() / counts.len()).zip(counts) {
        let count = count.round();
        values.extend(sums.iter().map(|s| if count > 0.0 { s / count } else { 1.0 }));
    }
    Some(values)
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The older form: `n_entries`, then per entry a name, a call count and the values; all integers are i32.
fn parse_legacy(bytes: &[u8]) -> Result<Imatrix, String> {
    let mut cursor = Legacy { bytes, offset: 0 };
    let n_entries = cursor.i32("the number of entries")?;
    if n_entries < 1 {
        return Err(format!("it claims {n_entries} entries, so it is no importance matrix in either form"));
    }
    let mut entries = BTreeMap::new();
    for i in 1..=n_entries {
        let len = cursor.i32(&format!("the name length of entry {i}"))?;
        let name = cursor.text(len, &format!("the name of entry {i}"))?;
        let calls = cursor.i32(&format!("the call count of {name}"))?;
        let n = cursor.i32(&format!("the number of values of {name}"))?;
        if n < 1 {
            return Err(format!("entry {name} claims {n} values"));
        }
        let n_bytes = usize::try_from(n).ok().and_then(|n| n.checked_mul(4));
        let n_bytes = n_bytes.ok_or_else(|| format!("entry {name} claims {n} values"))?;
        let mut values = f32s(cursor.take(n_bytes, &format!("the values of {name}"))?);
        if calls > 0 {
            let calls = calls as f32;
            values.iter_mut().for_each(|v| *v /= calls);
        }
        entries.insert(name, values);
    }
    // What follows is optional and may be cut off.
    let chunks = cursor.i32("the chunk count").unwrap_or(0);
    let dataset = cursor
        .i32("the length of the data set's name")
        .ok()
        .filter(|len| *len > 0)
        .and_then(|len| cursor.text(len, "the data set's name").ok());
    Ok(Imatrix { entries, datasets: dataset.into_iter().collect(), chunks, path: PathBuf::new() })
}

/// A position in the bytes of the older form.
struct Legacy<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Legacy<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], String> {
        let end = self.offset.checked_add(n);
        let taken = end.and_then(|end| self.bytes.get(self.offset..end));
        let rest = self.bytes.len() - self.offset.min(self.bytes.len());
        let taken =
            taken.ok_or_else(|| format!("{what} takes {n} bytes at offset {}, {rest} are left", self.offset))?;
        self.offset += n;
        Ok(taken)
    }

    fn i32(&mut self, what: &str) -> Result<i32, String> {
        let bytes = self.take(4, what)?;
        bytes.try_into().map(i32::from_le_bytes).map_err(|_| format!("{what} is cut off"))
    }

    /// Text of `len` bytes, up to the first NUL.
    fn text(&mut self, len: i32, what: &str) -> Result<String, String> {
        let n = usize::try_from(len).map_err(|_| format!("{what} has length {len} at offset {}", self.offset))?;
        let bytes = self.take(n, what)?;
        let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}
