//! GGUF to GGUF in other tensor formats: what `llama-quantize` does, with the same bytes, in bounded memory.
//!
//! [`Source::open`] reads the headers, [`Plan::new`] decides formats, sizes and metadata, [`Plan::write`] streams the
//! tensors through worker threads into new files that appear only when complete.
//!
//! The result is that of `llama-quantize` in tensor order, key order and every byte of data, with these intended
//! exceptions: files with a `general.alignment` other than 32 keep that alignment (the other program copies the key
//! but pads to 32, which no reader accepts), an explicit `general.alignment` of 32 is dropped as superfluous, and
//! strings with a NUL inside are kept whole.

mod metadata;
mod pipeline;
mod plan;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use ocelli_gguf::{GgufSet, HeaderSet};
use ocelli_kernels::quantize::RowCodec;

use crate::ConvertError;
use crate::mixture::{FileType, TypeOptions};

pub use plan::{OutputPart, Plan, TensorPlan};

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A file of this type.
    Type(FileType),
    /// The same tensors in the order and with the keys of a quantised file.
    Copy,
}

/// How to make it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file type, or a plain copy.
    pub target: Target,
    /// Choices for single tensors.
    pub types: TypeOptions,
    /// Allow sources that are quantised already, which loses quality twice.
    pub allow_requantize: bool,
    /// Write as many parts as were read, instead of one file.
    pub keep_split: bool,
    /// Files that these options were read from; no output may be one of them.
    pub read_from: Vec<PathBuf>,
    /// What expands and quantises rows; all codecs give the same bytes.
    pub codec: &'static RowCodec,
}

impl Options {
    /// Options for a file type with everything else at its default.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            types: TypeOptions::default(),
            allow_requantize: false,
            keep_split: false,
            read_from: Vec::new(),
            codec: RowCodec::best(),
        }
    }
}

/// The model to be re-quantised: the headers of one file or of all parts of a split one.
#[derive(Debug, Clone)]
pub struct Source {
    headers: HeaderSet,
}

impl Source {
    /// Reads the headers of the model that `path` is, or is the first part of.
    ///
    /// # Errors
    /// When a part is missing or not sound.
    pub fn open(path: &Path) -> Result<Self, ConvertError> {
        Ok(Self { headers: HeaderSet::read(path)? })
    }

    /// The files, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.headers.paths().map(Path::to_owned).collect()
    }

    fn view(&self) -> Result<GgufSet<'_>, ConvertError> {
        Ok(self.headers.view()?)
    }
}
