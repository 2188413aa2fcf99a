//! What can go wrong when a checkpoint is converted or a file re-quantised.

use std::path::{Path, PathBuf};

use ocelli_files::FileError;
use ocelli_gguf::GgufError;
use ocelli_memory::NoMemory;
use ocelli_quant::{GgmlType, QuantError};

use crate::imatrix::ImatrixError;
use crate::read::ReadError;

/// Failure of a conversion. Every message names the file, tensor or key, what was found, and a remedy where one exists.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Reading or writing failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create` …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A name or pattern that no tensor has: what it was given for would not happen.
    #[error("{what} `{}` matches no {among}; the nearest are {nearest}", pattern.escape_debug())]
    NoMatch {
        /// Whose it is: `tensor type pattern` …
        what: &'static str,
        /// As it was given.
        pattern: String,
        /// Where it was looked for.
        among: &'static str,
        /// The names that are most like it.
        nearest: String,
    },
    /// A file that a checkpoint must have is not there.
    #[error("{} is missing: {remedy}", path.display())]
    MissingFile {
        /// The file looked for.
        path: PathBuf,
        /// What it is for and how to get it.
        remedy: String,
    },
    /// A configuration file that cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something other than the folder of a checkpoint.
    #[error("{} is {found}; {remedy}", path.display())]
    NotACheckpoint {
        /// What was given.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What to do with it.
        remedy: String,
    },
    /// Two files of the checkpoint contradict each other, and no choice between them is safe.
    #[error("{}: {what}; {remedy}", path.display())]
    Disagreement {
        /// The checkpoint folder.
        path: PathBuf,
        /// Which files, and where they differ.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A half that the model does not have.
    #[error("{} holds {model}, which has no vision part", path.display())]
    NoVision {
        /// The checkpoint folder.
        path: PathBuf,
        /// The model.
        model: &'static str,
    },
    /// A safetensors file whose header does not describe its data.
    #[error("{}: {what}; the file is damaged or incomplete, download it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// A tensor in a data type that holds no plain weights.
    #[error(
        "{}: tensor {tensor} has dtype {dtype}; F32, F16 and BF16 weights can be converted, so use the original, not a \
         quantised, checkpoint",
        path.display()
    )]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype as the file spells it.
        dtype: String,
    },
    /// A configuration key that is missing or has a value that cannot be used.
    #[error("{}: `{key}` is {found}, expected {expected}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, with dots between levels.
        key: String,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A checkpoint of a model that this converter does not know.
    #[error("{} holds {found}; this converter knows {supported}", path.display())]
    UnsupportedModel {
        /// The checkpoint folder.
        path: PathBuf,
        /// What the configuration says it is.
        found: String,
        /// The models that can be converted.
        supported: String,
    },
    /// The checkpoint's tensors are not those the configuration asks for.
    #[error("{0}")]
    Tensors(Box<TensorMismatch>),
    /// A weight that no format can hold.
    #[error("tensor {tensor}: {value} at index {index}; {remedy}")]
    Weight {
        /// The tensor's name in the checkpoint.
        tensor: String,
        /// Index in the row-major tensor.
        index: u64,
        /// The value found.
        value: f32,
        /// What to do.
        remedy: &'static str,
    },
    /// An output type that does not exist.
    #[error("unknown type `{given}`; choose one of {valid}")]
    UnknownType {
        /// What was asked for.
        given: String,
        /// The valid spellings.
        valid: String,
    },
    /// A checkpoint that does not say what it is called.
    #[error("{} is named by a hash, and nothing in it tells the model's name; give it a name", path.display())]
    NoName {
        /// The checkpoint folder.
        path: PathBuf,
    },
    /// A name from which no file name can be made.
    #[error("`{name}` cannot be used in a file name; give a plain one with --name")]
    Name {
        /// The name.
        name: String,
    },
    /// An output that cannot or must not be written.
    #[error(transparent)]
    Output(#[from] FileError),
    /// A tokenizer that cannot be carried over.
    #[error(transparent)]
    Vocab(#[from] crate::vocab::VocabError),
    /// A choice of types that cannot be made.
    #[error(transparent)]
    Mixture(#[from] crate::mixture::MixtureError),
    /// The GGUF writer refused the file, or could not write it.
    #[error(transparent)]
    Gguf(GgufError),
    /// A tensor could not be quantised.
    #[error("tensor {tensor}: {source}")]
    Quant {
        /// The tensor.
        tensor: String,
        /// Why.
        source: QuantError,
    },
    /// An importance matrix that cannot be used.
    #[error(transparent)]
    Imatrix(#[from] ImatrixError),
    /// An importance list that is not as long as the rows it is for.
    #[error(
        "{}: {found} importances for tensor {tensor}, which needs {expected}; the matrix belongs to another model",
        path.display()
    )]
    ImatrixSize {
        /// The importance matrix.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Values found.
        found: usize,
        /// Values needed.
        expected: u64,
    },
    /// A format that cannot be made well without importances.
    #[error("tensor {tensor} as {ty} needs an importance matrix; give one with --imatrix or choose a larger type")]
    NeedsImatrix {
        /// The tensor.
        tensor: String,
        /// The format.
        ty: String,
    },
    /// Quantised data that would be quantised again.
    #[error(
        "tensor {tensor} is quantised already ({ty}) and would lose quality twice; start from an F16, BF16 or F32 file, \
         or give --allow-requantize"
    )]
    Requantize {
        /// The tensor.
        tensor: String,
        /// Its format.
        ty: GgmlType,
    },
    /// A format that can be copied but not read.
    #[error("tensor {tensor} is {ty}, which cannot be converted; start from an F16, BF16 or F32 file")]
    SourceFormat {
        /// The tensor.
        tensor: String,
        /// Its format.
        ty: String,
    },
    /// Rows that do not divide into the blocks of a format that was asked for.
    #[error("tensor {tensor}: rows of {row} weights do not divide into {ty} blocks of {block}; choose another type")]
    RowLength {
        /// The tensor.
        tensor: String,
        /// Weights per row.
        row: u64,
        /// The format.
        ty: String,
        /// Weights per block.
        block: u64,
    },
    /// A choice of types for single tensors that would change nothing.
    #[error("{what} has no effect on {target}, whose types are fixed; make a quantised file, or leave that choice out")]
    NoEffect {
        /// The choice.
        what: String,
        /// The kind of file that is made: `a copy`, `a file of type F16`.
        target: String,
    },
    /// The work does not fit into memory.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The worker threads could not be started.
    #[error("cannot start the worker threads: {0}; try a smaller --threads")]
    Threads(String),
    /// The observer asked to stop; nothing was left behind.
    #[error("cancelled; no output file was written")]
    Cancelled,
}

impl From<GgufError> for ConvertError {
    /// A failing output says itself what was being written.
    fn from(error: GgufError) -> Self {
        let GgufError::Io { context, error } = error else { return Self::Gguf(error) };
        match FileError::unwrap(error) {
            Ok(error) => Self::Output(error),
            Err(error) => Self::Gguf(GgufError::Io { context, error }),
        }
    }
}

impl ConvertError {
    /// Wraps an input/output failure with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The difference between the tensors a configuration asks for and those a checkpoint has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMismatch {
    /// The checkpoint folder.
    pub path: PathBuf,
    /// The model that was expected.
    pub model: String,
    /// Tensors asked for that are not there, with the shape expected.
    pub missing: Vec<(String, Vec<u64>)>,
    /// Tensors that are there and belong to nothing.
    pub unexpected: Vec<String>,
    /// Tensors of the wrong shape: name, found, expected.
    pub shapes: Vec<(String, Vec<u64>, Vec<u64>)>,
}

impl TensorMismatch {
    /// Whether there is no difference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.shapes.is_empty()
    }
}

/// Names shown of each kind of difference before "and N more".
const SHOWN: usize = 5;

fn list<T>(f: &mut std::fmt::Formatter<'_>, title: &str, items: &[T], show: impl Fn(&T) -> String) -> std::fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {title} ({}):", items.len())?;
    for item in items.iter().take(SHOWN) {
        write!(f, "\n    {}", show(item))?;
    }
    if items.len() > SHOWN {
        write!(f, "\n    and {} more", items.len() - SHOWN)?;
    }
    Ok(())
}

impl std::fmt::Display for TensorMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the tensors in {} are not those of {} as config.json describes it:",
            self.path.display(),
            self.model
        )?;
        list(f, "missing", &self.missing, |(name, shape)| format!("{name} {shape:?}"))?;
        list(f, "unexpected", &self.unexpected, Clone::clone)?;
        list(f, "wrong shape", &self.shapes, |(name, found, want)| {
            format!("{name}: found {found:?}, expected {want:?}")
        })?;
        write!(
            f,
            "\n  check that config.json belongs to these safetensors files and that every shard was downloaded; merge \
             adapters into the model first"
        )
    }
}
