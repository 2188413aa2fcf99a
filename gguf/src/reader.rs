//! The reader: a whole file, or just its header, as checked borrowed views.

use std::{
    collections::{HashMap, hash_map},
    fs::File,
    io::Read,
    path::Path,
};

use crate::{
    GgufError, Item, Metadata, TensorInfo, Value,
    cursor::Cursor,
    tensor::{place, read_infos},
};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Alignment of tensor data in files that do not say otherwise.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Key that changes the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Longest header [`read_header`] reads into memory. The largest vocabularies take a few tens of MiB.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;

/// A parsed GGUF file: every count, length, offset and shape in it has been checked.
///
/// Tensor data may have gaps and any order, as long as it is aligned, inside the file and free of overlaps. (Other
/// readers insist on the exact running sum; files in the wild with unused space between tensors are harmless.)
#[derive(Debug, Clone)]
pub struct Gguf<'a> {
    version: u32,
    alignment: u64,
    metadata: Metadata<'a>,
    tensors: Vec<TensorInfo<'a>>,
    index: HashMap<&'a str, usize>,
    data_start: u64,
    file_len: u64,
    bytes: Option<&'a [u8]>,
}

impl<'a> Gguf<'a> {
    /// Parses a whole file.
    ///
    /// # Errors
    /// When anything in the header is wrong or tensor data lies outside `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut gguf = Self::parse_header(bytes, bytes.len() as u64)?;
        gguf.bytes = Some(bytes);
        Ok(gguf)
    }

    /// Parses the header from the first bytes of a file of `file_len` bytes. Everything is checked as by
    /// [`Self::parse`], but [`Self::data`] is not available.
    ///
    /// # Errors
    /// As [`Self::parse`]; [`GgufError::NeedMore`] when the prefix ends before the header does.
    pub fn parse_header(prefix: &'a [u8], file_len: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(prefix, file_len);
        let header = || Item::Header;
        let magic = prefix.get(..MAGIC.len()).unwrap_or(prefix);
        if magic != MAGIC {
            return Err(GgufError::NotGguf { found: magic.to_vec() });
        }
        cursor.take(MAGIC.len() as u64, header)?;
        let version = cursor.u32(header)?;
        if !matches!(version, 2 | 3) {
            return Err(if matches!(version.swap_bytes(), 1..=3) {
                GgufError::BigEndian { version }
            } else {
                GgufError::Version { version }
            });
        }
        let n_tensors_offset = cursor.offset();
        let n_tensors = cursor.u64(header)?;
        let n_kv_offset = cursor.offset();
        let n_kv = cursor.u64(header)?;

        let metadata = Metadata::read(&mut cursor, n_kv, n_kv_offset)?;
        let alignment = alignment_of(&metadata)?;
        let infos = read_infos(&mut cursor, n_tensors, n_tensors_offset)?;
        let data_start = cursor.offset().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        let tensors = place(infos, data_start, alignment, file_len)?;
        let index = index_by_name(&tensors)?;
        Ok(Self { version, alignment, metadata, tensors, index, data_start, file_len, bytes: None })
    }

    /// The format version: 2 or 3.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensor data in bytes.
    #[must_use]
    pub const fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The metadata, in file order.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata<'a> {
        &self.metadata
    }

    /// The tensors, in the order of their descriptions.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.tensors
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        self.tensors.get(*self.index.get(name)?)
    }

    /// Where the data section begins.
    #[must_use]
    pub const fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Size of the whole file in bytes.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The bytes of a tensor of this file.
    ///
    /// # Errors
    /// [`GgufError::NoData`] after [`Self::parse_header`]; [`GgufError::DataOutside`] for a description that is not
    /// from this file.
    pub fn data(&self, tensor: &TensorInfo<'_>) -> Result<&'a [u8], GgufError> {
        let bytes = self.bytes.ok_or_else(|| GgufError::NoData { name: tensor.name.to_owned() })?;
        let range = usize::try_from(tensor.offset).ok().zip(usize::try_from(tensor.end()).ok());
        range.and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| GgufError::DataOutside {
            item: Item::Tensor(tensor.name.to_owned()),
            offset: tensor.offset,
            n_bytes: tensor.n_bytes,
            file_len: self.file_len,
        })
    }
}

fn alignment_of(metadata: &Metadata<'_>) -> Result<u64, GgufError> {
    match metadata.entry(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(entry) => match entry.value {
            Value::U32(a) if a.is_power_of_two() => Ok(u64::from(a)),
            other => {
                let value = match other {
                    Value::U32(_) => other.to_string(),
                    _ => other.describe(),
                };
                Err(GgufError::Alignment { offset: entry.offset, value })
            }
        },
    }
}

fn index_by_name<'a>(tensors: &[TensorInfo<'a>]) -> Result<HashMap<&'a str, usize>, GgufError> {
    let mut index = HashMap::with_capacity(tensors.len());
    for (i, tensor) in tensors.iter().enumerate() {
        match index.entry(tensor.name) {
            hash_map::Entry::Vacant(free) => free.insert(i),
            hash_map::Entry::Occupied(first) => {
                return Err(GgufError::Duplicate {
                    item: Item::Tensor(tensor.name.to_owned()),
                    offset: tensor.info_offset,
                    first: tensors.get(*first.get()).map_or(0, |t| t.info_offset),
                });
            }
        };
    }
    Ok(index)
}

/// The header of a file, read without mapping or reading its tensor data. Owns its bytes and lends views.
#[derive(Debug, Clone)]
pub struct HeaderBuf {
    prefix: Vec<u8>,
    file_len: u64,
}

impl HeaderBuf {
    /// The parsed header. Parses anew on each call: keep the view.
    ///
    /// # Errors
    /// None in practice: the same bytes parsed when the buffer was made.
    pub fn view(&self) -> Result<Gguf<'_>, GgufError> {
        Gguf::parse_header(&self.prefix, self.file_len)
    }

    /// Size of the whole file in bytes.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.file_len
    }
}

/// Reads just enough of the file at `path` to parse its header, and checks it.
///
/// # Errors
/// When the file cannot be read or is not a sound GGUF file. The error names the file.
pub fn read_header(path: &Path) -> Result<HeaderBuf, GgufError> {
    read_header_from(path).map_err(|e| e.in_file(path))
}

fn read_header_from(path: &Path) -> Result<HeaderBuf, GgufError> {
    let io = |context: &str| {
        let context = context.to_owned();
        move |error| GgufError::Io { context, error }
    };
    // Looked at before it is opened: a pipe without a writer would be waited for.
    if !path.metadata().map_err(io("cannot open the file"))?.is_file() {
        let error = std::io::Error::other("not a regular file");
        return Err(io("cannot read a header from it")(error));
    }
    let file = File::open(path).map_err(io("cannot open the file"))?;
    let file_len = file.metadata().map_err(io("cannot find the file's size"))?.len();
    let mut prefix = Vec::new();
    let mut want = 1 << 20;
    loop {
        let missing = file_len.min(want).saturating_sub(prefix.len() as u64);
        let got = (&file).take(missing).read_to_end(&mut prefix).map_err(io("cannot read the header"))?;
        match Gguf::parse_header(&prefix, file_len) {
            Ok(_) => return Ok(HeaderBuf { prefix, file_len }),
            Err(GgufError::NeedMore { needed, .. }) if got as u64 == missing => {
                // Doubling keeps the total parsing work linear in the header's size.
                want = needed.max(want.saturating_mul(2)).min(MAX_HEADER_BYTES);
                if needed > MAX_HEADER_BYTES {
                    return Err(GgufError::HeaderTooLong { limit: MAX_HEADER_BYTES });
                }
            }
            Err(error) => return Err(error),
        }
    }
}
