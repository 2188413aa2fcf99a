//! What can be wrong with a GGUF file, or with what is to be written into one.

use std::{fmt, path::PathBuf};

use crate::{TensorType, ValueType};

/// The part of a file an error speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// Magic, version and counts.
    Header,
    /// The metadata key with this index, whose name is not known (yet).
    KeyIndex(u64),
    /// The metadata value of this key.
    Key(String),
    /// The tensor with this index, whose name is not known (yet).
    TensorIndex(u64),
    /// This tensor.
    Tensor(String),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("file header"),
            Self::KeyIndex(i) => write!(f, "metadata key #{i}"),
            Self::Key(key) => write!(f, "key `{}`", key.escape_debug()),
            Self::TensorIndex(i) => write!(f, "tensor #{i}"),
            Self::Tensor(name) => write!(f, "tensor `{}`", name.escape_debug()),
        }
    }
}

/// An unusable GGUF file, a missing or mistyped metadata value, or a wrong use of the writer.
///
/// Offsets are in bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it begins with the bytes {found:02x?} where `GGUF` (47 47 55 46) is expected")]
    NotGguf {
        /// The bytes found, fewer than four in a very short file.
        found: Vec<u8>,
    },
    /// A file for big-endian machines.
    #[error(
        "big-endian GGUF file (version field {version:#010x}); only little-endian files can be read: convert it on, or for, a little-endian machine"
    )]
    BigEndian {
        /// The version field as read.
        version: u32,
    },
    /// A version this reader does not know.
    #[error("GGUF version {version} cannot be read, only 2 and 3; convert the model again with a current converter")]
    Version {
        /// The version found.
        version: u32,
    },
    /// The file ends inside an item.
    #[error(
        "{item}: file is truncated: {needed} bytes needed at offset {offset}, {available} left; download or copy it again"
    )]
    Truncated {
        /// Where.
        item: Item,
        /// Offset of the first missing value.
        offset: u64,
        /// Bytes the value takes.
        needed: u64,
        /// Bytes from `offset` to the end of the file.
        available: u64,
    },
    /// Only a prefix of the file was given, and its header is longer. Not a fault of the file.
    #[error("the first {given} bytes do not hold the whole header; at least {needed} are needed")]
    NeedMore {
        /// Bytes given.
        given: u64,
        /// Bytes needed to get further, at least.
        needed: u64,
    },
    /// The header is implausibly long.
    #[error("the header is longer than {limit} bytes; this is no usable model file")]
    HeaderTooLong {
        /// The limit.
        limit: u64,
    },
    /// A count that the bytes left in the file cannot hold.
    #[error(
        "{item}: {claimed} {what} claimed at offset {offset}, but the {available} bytes left hold at most {possible}"
    )]
    Count {
        /// Where.
        item: Item,
        /// What is counted.
        what: &'static str,
        /// The count in the file.
        claimed: u64,
        /// The most that can follow.
        possible: u64,
        /// Bytes left.
        available: u64,
        /// Offset of the count.
        offset: u64,
    },
    /// A key or tensor name that is too short or too long.
    #[error("{item}: name of {len} bytes at offset {offset}; allowed are {allowed}")]
    NameLength {
        /// Where.
        item: Item,
        /// Length found.
        len: u64,
        /// Allowed lengths.
        allowed: &'static str,
        /// Offset of the name's length field.
        offset: u64,
    },
    /// Text that is not UTF-8.
    #[error("{item}: text at offset {offset} is not UTF-8")]
    Utf8 {
        /// Where.
        item: Item,
        /// Offset of the first bad byte.
        offset: u64,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("{item}: boolean at offset {offset} is {value}, must be 0 or 1")]
    Bool {
        /// Where.
        item: Item,
        /// Offset of the byte.
        offset: u64,
        /// The byte.
        value: u8,
    },
    /// An unknown metadata value type.
    #[error("{item}: unknown value type {code} at offset {offset}; known are 0 to 12")]
    ValueType {
        /// Where.
        item: Item,
        /// Offset of the code.
        offset: u64,
        /// The code.
        code: u32,
    },
    /// An array of arrays.
    #[error("{item}: array of arrays at offset {offset}; nested arrays are not part of any known GGUF key")]
    NestedArray {
        /// Where.
        item: Item,
        /// Offset of the element type.
        offset: u64,
    },
    /// A key or tensor name that occurs twice.
    #[error("{item} at offset {offset} occurs twice, first at offset {first}")]
    Duplicate {
        /// Which.
        item: Item,
        /// Offset of the second occurrence.
        offset: u64,
        /// Offset of the first.
        first: u64,
    },
    /// An alignment that is no power of two.
    #[error("key `general.alignment` at offset {offset}: {value} is not a u32 power of two")]
    Alignment {
        /// Offset of the value.
        offset: u64,
        /// The value, as text.
        value: String,
    },
    /// More than four dimensions.
    #[error("{item}: {n_dims} dimensions at offset {offset}; at most 4 are allowed")]
    DimCount {
        /// Which tensor.
        item: Item,
        /// Offset of the dimension count.
        offset: u64,
        /// The count.
        n_dims: u32,
    },
    /// Dimensions whose product, or the size in bytes, does not fit 63 bits.
    #[error("{item}: dimensions {dims:?} at offset {offset} are too large: the size overflows")]
    SizeOverflow {
        /// Which tensor.
        item: Item,
        /// Offset of the first dimension.
        offset: u64,
        /// The dimensions.
        dims: Vec<u64>,
    },
    /// A tensor format whose layout is not known.
    #[error("{item}: tensor type code {} at offset {offset} {}", code.0, if code.is_withdrawn() { "was withdrawn from GGUF; convert the model again" } else { "is not known to this version" })]
    TensorType {
        /// Which tensor.
        item: Item,
        /// Offset of the code.
        offset: u64,
        /// The code.
        code: TensorType,
    },
    /// Rows that do not divide into blocks.
    #[error("{item}: rows of {row} weights (offset {offset}) do not divide into {ty} blocks of {block}")]
    RowLength {
        /// Which tensor.
        item: Item,
        /// Offset of the dimensions.
        offset: u64,
        /// The row length.
        row: u64,
        /// The format.
        ty: TensorType,
        /// Its block length.
        block: u64,
    },
    /// A data offset that is not a multiple of the alignment.
    #[error("{item}: data offset {data_offset} (given at offset {offset}) is no multiple of the alignment {alignment}")]
    Misaligned {
        /// Which tensor.
        item: Item,
        /// Where the offset is stored.
        offset: u64,
        /// The offset stored, relative to the data section.
        data_offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Data that would lie beyond the end of the file.
    #[error(
        "{item}: {n_bytes} bytes of data at offset {offset} do not fit in the file of {file_len} bytes; it is truncated or damaged: download or copy it again"
    )]
    DataOutside {
        /// Which tensor.
        item: Item,
        /// Absolute offset of the data (saturated).
        offset: u64,
        /// Size of the data.
        n_bytes: u64,
        /// Size of the file.
        file_len: u64,
    },
    /// Two tensors that share bytes.
    #[error("{item}: data at offset {offset} overlaps tensor `{}`, which ends at offset {other_end}", other.escape_debug())]
    Overlap {
        /// The tensor that begins later.
        item: Item,
        /// Absolute offset of its data.
        offset: u64,
        /// The tensor that begins earlier.
        other: String,
        /// Where that one's data ends.
        other_end: u64,
    },
    /// The value of a key has another type than asked for.
    #[error("key `{key}` (offset {offset}) is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// Offset of the value.
        offset: u64,
        /// What is there.
        found: String,
        /// What was wanted.
        expected: &'static str,
    },
    /// An integer that does not fit the type asked for.
    #[error("key `{key}` (offset {offset}) is {value}, which does not fit {expected}")]
    OutOfRange {
        /// The key.
        key: String,
        /// Offset of the value.
        offset: u64,
        /// The value, as text.
        value: String,
        /// The type wanted.
        expected: &'static str,
    },
    /// A required key is missing.
    #[error("key `{key}` is missing; the file is incomplete: convert the model again")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A required tensor is missing.
    #[error("tensor `{name}` is missing; the file is incomplete: convert the model again")]
    MissingTensor {
        /// The tensor's name.
        name: String,
    },
    /// Tensor data was asked for, but only the header was given.
    #[error("tensor `{name}`: only the header of the file was read, not its data")]
    NoData {
        /// The tensor's name.
        name: String,
    },
    /// A split file whose name does not tell the names of the other parts.
    #[error("{}: part {no} of {count} of a split model, but the name does not end in `-{no:05}-of-{count:05}.gguf`; give all parts their original names", path.display())]
    SplitName {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        no: u32,
        /// The number of parts.
        count: u32,
    },
    /// A part of a split model is not there.
    #[error("{}: part {no} of {count} of the split model is missing; all parts must lie in one directory", path.display())]
    SplitMissing {
        /// The file looked for.
        path: PathBuf,
        /// Its number, from 1.
        no: u32,
        /// The number of parts.
        count: u32,
    },
    /// Fewer parts of a split model were given than there are.
    #[error("the model is split into {count} files, but {given} was given; all parts are needed")]
    SplitIncomplete {
        /// Parts given.
        given: usize,
        /// Parts there are.
        count: u64,
    },
    /// A part of a split model that does not belong to the others.
    #[error("part {no} of the split model: `{key}` is {found}, expected {expected}; the parts are not of one model")]
    SplitMismatch {
        /// The part's number, from 1.
        no: u32,
        /// The key that differs.
        key: &'static str,
        /// What it says, `missing` if it is not there.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// An error inside one file of several.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it. Part of the message, therefore not its `source` too.
        error: Box<GgufError>,
    },
    /// Reading or writing failed.
    #[error("{context}: {error}")]
    Io {
        /// What was being done.
        context: String,
        /// The system's error. Part of the message, therefore not its `source` too.
        error: std::io::Error,
    },
    /// A key or tensor was added to a writer twice.
    #[error("{item} was added twice")]
    WriteDuplicate {
        /// Which.
        item: Item,
    },
    /// A name, value or shape that cannot be written.
    #[error("{item} cannot be written: {problem}")]
    WriteInvalid {
        /// Which.
        item: Item,
        /// Why not.
        problem: String,
    },
    /// Tensors were given to a sink in another order than announced.
    #[error("tensor `{found}` was written where {expected} was announced")]
    WriteOrder {
        /// The name given.
        found: String,
        /// The tensor announced at this place.
        expected: String,
    },
    /// A tensor got more or fewer bytes than announced.
    #[error("tensor `{name}`: {got} bytes written, {want} announced")]
    WriteLength {
        /// The tensor.
        name: String,
        /// Bytes given so far.
        got: u64,
        /// Bytes announced.
        want: u64,
    },
}

impl GgufError {
    /// Wraps the error with the name of the file it is about.
    #[must_use]
    pub fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            // These name their file already.
            already @ (Self::File { .. } | Self::SplitName { .. } | Self::SplitMissing { .. }) => already,
            error => Self::File { path: path.to_owned(), error: Box::new(error) },
        }
    }
}

pub(crate) fn wrong_type(key: &str, offset: u64, found: String, expected: &'static str) -> GgufError {
    GgufError::WrongType { key: key.to_owned(), offset, found, expected }
}

/// How an error text calls a value of type `ty`.
pub(crate) fn type_text(ty: ValueType) -> String {
    match ty {
        ValueType::String => "a string".to_owned(),
        ValueType::Bool => "a bool".to_owned(),
        other if other.name().starts_with(['f', 'i']) => format!("an {other} value"),
        other => format!("a {other} value"),
    }
}
