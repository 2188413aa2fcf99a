//! Models split over several files: `NAME-00001-of-00003.gguf` and so on.
//!
//! Every part says its number (`split.no`, from 0), the number of parts (`split.count`) and the number of tensors in
//! all of them (`split.tensors.count`). Only the first part has the rest of the metadata; the tensors are distributed
//! in order, and offsets count anew in each file.

use std::{
    collections::{HashMap, hash_map},
    path::{Path, PathBuf},
};

use crate::{Gguf, GgufError, HeaderBuf, Item, Metadata, TensorInfo, read_header};

/// Key: number of the part, from 0.
pub const SPLIT_NO: &str = "split.no";
/// Key: number of parts.
pub const SPLIT_COUNT: &str = "split.count";
/// Key: number of tensors in all parts.
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// What the name of a part tells: `PREFIX-NNNNN-of-NNNNN.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SplitName {
    /// Directory and name up to the last dash before the number.
    prefix: PathBuf,
    /// Number of the part, from 1.
    pub no: u32,
    /// Number of parts.
    pub count: u32,
}

impl SplitName {
    /// Reads a path; `None` when it is not the name of a part.
    #[must_use]
    pub fn parse(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, no) = rest.rsplit_once('-')?;
        let number = |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse());
        let (no, count): (u32, u32) = (number(no)?.ok()?, number(count)?.ok()?);
        let in_range = 1 <= no && no <= count && count <= u32::from(u16::MAX);
        in_range.then(|| Self { prefix: path.with_file_name(prefix), no, count })
    }

    /// The path of part `no`, from 1.
    #[must_use]
    pub fn path(&self, no: u32) -> PathBuf {
        let mut name = self.prefix.clone().into_os_string();
        name.push(format!("-{no:05}-of-{:05}.gguf", self.count));
        PathBuf::from(name)
    }
}

/// The paths of all parts of the model that `path` belongs to; just `path` when its name is not that of a part.
///
/// # Errors
/// [`GgufError::SplitMissing`] naming the first part that is not there.
pub fn part_paths(path: &Path) -> Result<Vec<PathBuf>, GgufError> {
    let Some(name) = SplitName::parse(path) else { return Ok(vec![path.to_owned()]) };
    // Collecting stops at the first part that is missing, so a name that claims many parts costs nothing.
    (1..=name.count)
        .map(|no| {
            let part = name.path(no);
            if part.is_file() { Ok(part) } else { Err(GgufError::SplitMissing { path: part, no, count: name.count }) }
        })
        .collect()
}

/// A model in one or more files: the metadata of the first and the tensors of all.
///
/// A model in a single file is a set of one, so that callers need not tell the two apart.
#[derive(Debug, Clone)]
pub struct GgufSet<'a> {
    parts: Vec<Gguf<'a>>,
    tensors: Vec<(usize, TensorInfo<'a>)>,
    index: HashMap<&'a str, usize>,
}

impl<'a> GgufSet<'a> {
    /// Joins parts, given in order, after checking that they belong together.
    ///
    /// # Errors
    /// When numbers or counts do not match or a tensor occurs in two parts.
    pub fn new(parts: Vec<Gguf<'a>>) -> Result<Self, GgufError> {
        check_parts(&parts)?;
        let mut tensors = Vec::new();
        let mut index = HashMap::new();
        for (part, gguf) in parts.iter().enumerate() {
            for tensor in gguf.tensors() {
                match index.entry(tensor.name) {
                    hash_map::Entry::Vacant(free) => free.insert(tensors.len()),
                    hash_map::Entry::Occupied(first) => {
                        let first =
                            tensors.get(*first.get()).map_or(0, |(_, t): &(usize, TensorInfo<'_>)| t.info_offset);
                        let item = Item::Tensor(tensor.name.to_owned());
                        return Err(GgufError::Duplicate { item, offset: tensor.info_offset, first });
                    }
                };
                tensors.push((part, tensor.clone()));
            }
        }
        Ok(Self { parts, tensors, index })
    }

    /// Parses the bytes of all parts, in order, and joins them.
    ///
    /// # Errors
    /// As [`Gguf::parse`] and [`Self::new`].
    pub fn parse(files: &[&'a [u8]]) -> Result<Self, GgufError> {
        Self::new(files.iter().map(|bytes| Gguf::parse(bytes)).collect::<Result<_, _>>()?)
    }

    /// The metadata of the first part.
    #[must_use]
    pub fn metadata(&self) -> &Metadata<'a> {
        // `check_parts` refuses an empty set.
        self.parts[0].metadata()
    }

    /// The parts, in order.
    #[must_use]
    pub fn parts(&self) -> &[Gguf<'a>] {
        &self.parts
    }

    /// The number of tensors in all parts.
    #[must_use]
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// All tensors, in order. Their offsets are relative to the file they are in.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo<'a>> {
        self.tensors.iter().map(|(_, t)| t)
    }

    /// All tensors, each with the index of its part.
    #[must_use]
    pub fn tensors_by_part(&self) -> &[(usize, TensorInfo<'a>)] {
        &self.tensors
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        self.located(name).map(|(_, t)| t)
    }

    /// The tensor called `name`, with the index of its part.
    #[must_use]
    pub fn located(&self, name: &str) -> Option<(usize, &TensorInfo<'a>)> {
        self.tensors.get(*self.index.get(name)?).map(|(part, t)| (*part, t))
    }

    /// The bytes of the tensor called `name`.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`], or [`GgufError::NoData`] when only headers were read.
    pub fn data(&self, name: &str) -> Result<&'a [u8], GgufError> {
        let (part, tensor) = self.located(name).ok_or_else(|| GgufError::MissingTensor { name: name.to_owned() })?;
        let gguf = self.parts.get(part).ok_or_else(|| GgufError::NoData { name: name.to_owned() })?;
        gguf.data(tensor)
    }
}

/// The headers of all parts of a model, read without mapping or reading tensor data.
#[derive(Debug, Clone)]
pub struct HeaderSet {
    headers: Vec<(PathBuf, HeaderBuf)>,
}

impl HeaderSet {
    /// Reads the headers of the model that `path` is a part of (usually the first or only one).
    ///
    /// # Errors
    /// When a part is missing or not a sound GGUF file, or the parts do not belong together.
    pub fn read(path: &Path) -> Result<Self, GgufError> {
        let headers: Vec<_> = part_paths(path)?
            .into_iter()
            .map(|part| read_header(&part).map(|header| (part, header)))
            .collect::<Result<_, _>>()?;
        let set = Self { headers };
        match set.view() {
            Err(GgufError::SplitIncomplete { count, .. }) => {
                let no = match set.headers.first() {
                    Some((_, header)) => header.view()?.metadata().u32(SPLIT_NO)?.unwrap_or(0).saturating_add(1),
                    None => 1,
                };
                Err(GgufError::SplitName { path: path.to_owned(), no, count: u32::try_from(count).unwrap_or(u32::MAX) })
            }
            other => other.map(drop),
        }?;
        Ok(set)
    }

    /// The paths of the parts, in order.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.headers.iter().map(|(path, _)| path.as_path())
    }

    /// Size of all files in bytes.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.headers.iter().fold(0, |sum, (_, h)| sum.saturating_add(h.file_len()))
    }

    /// The joined view. Parses anew on each call: keep it.
    ///
    /// # Errors
    /// When the parts do not belong together.
    pub fn view(&self) -> Result<GgufSet<'_>, GgufError> {
        let parts = self.headers.iter().map(|(path, header)| header.view().map_err(|e| e.in_file(path)));
        GgufSet::new(parts.collect::<Result<_, _>>()?)
    }
}

fn check_parts(parts: &[Gguf<'_>]) -> Result<(), GgufError> {
    let mismatch = |no: usize, key: &'static str, found: Option<i64>, expected: u64| GgufError::SplitMismatch {
        no: u32::try_from(no).unwrap_or(u32::MAX),
        key,
        found: found.map_or("missing".to_owned(), |v| v.to_string()),
        expected: expected.to_string(),
    };
    let claimed = match parts.first() {
        Some(first) => first.metadata().u64(SPLIT_COUNT)?,
        None => Some(0),
    };
    if parts.is_empty() || (parts.len() == 1 && claimed.is_some_and(|count| count > 1)) {
        return Err(GgufError::SplitIncomplete { given: parts.len(), count: claimed.unwrap_or(1) });
    }
    // Merged files may keep the keys with a count of 0 or 1.
    if parts.len() == 1 {
        return Ok(());
    }
    let count = parts.len() as u64;
    let total: u64 = parts.iter().map(|p| p.tensors().len() as u64).sum();
    // Numbers first: they tell more about a mix-up than the sum of tensors does.
    for key in [SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS] {
        for (i, part) in parts.iter().enumerate() {
            let expected = match key {
                SPLIT_COUNT => count,
                SPLIT_NO => i as u64,
                _ => total,
            };
            // A negative number is as wrong as a missing one, and needs no words of its own.
            let found = part.metadata().i64(key)?;
            if found.and_then(|v| u64::try_from(v).ok()) != Some(expected) {
                return Err(mismatch(i + 1, key, found, expected));
            }
        }
    }
    Ok(())
}
