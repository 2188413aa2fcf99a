//! GGUF files: a checked reader of borrowed views and a streaming writer.
//!
//! ```text
//! "GGUF" · version · tensor count · key count
//! keys:     name · type · value                          … read as [`Metadata`]
//! tensors:  name · dimensions · format · data offset     … read as [`TensorInfo`]
//! zero padding to the alignment
//! data:     each tensor, padded with zeros to the alignment
//! ```
//!
//! All numbers are little-endian, strings carry their length (u64) in front, dimensions are listed innermost first,
//! data offsets count from the start of the data section.
//!
//! *Reading.* [`Gguf::parse`] takes the bytes of a whole file (usually a memory map), [`read_header`] reads no more
//! of a file than its header. Either way every count, length, type, offset and shape has been checked when a
//! [`Gguf`] is handed out, with arithmetic that cannot overflow and without allocating more than a small multiple of
//! the bytes that are really there. [`GgufSet`] joins the parts of a split model.
//!
//! *Writing.* [`GgufWriter`] collects metadata and tensor descriptions, then knows the size of the whole file and
//! writes the header; the [`TensorSink`] it turns into takes the data of each tensor in order.
#![forbid(unsafe_code)]

mod cursor;
mod error;
mod meta_value;
mod metadata;
mod reader;
pub mod split;
mod tensor;
mod types;
mod value;
mod writer;

pub use error::{GgufError, Item};
pub use meta_value::{MetaArray, MetaValue};
pub use metadata::{Entry, MAX_KEY_LEN, Metadata};
pub use reader::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Gguf, HeaderBuf, MAGIC, MAX_HEADER_BYTES, read_header};
pub use split::{GgufSet, HeaderSet};
pub use tensor::{Dims, MAX_DIMS, MAX_TENSOR_NAME, TensorInfo};
pub use types::{TensorType, ValueType};
pub use value::{Array, Strings, Value, Values};
pub use writer::{GgufWriter, PlannedTensor, TensorSink};
