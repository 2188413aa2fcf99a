//! What goes into an output file: metadata, and tensors with the place their values come from.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use ocelli_gguf::MetaValue;
use ocelli_quant::GgmlType;

use crate::checkpoint::{Checkpoint, SourceTensor};
use crate::error::{ConvertError, TensorMismatch};

/// Fills `out` with the values of one row.
pub(crate) type RowFn = dyn Fn(u64, &mut [f32]) + Send + Sync;

/// Where a tensor's values come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// Consecutive values of a checkpoint tensor, from the one at index `first` on.
    Rows {
        /// The tensor.
        tensor: SourceTensor,
        /// Index of the first value taken.
        first: u64,
    },
    /// All rows, re-ordered inside each head of `head_rows` rows: row `2i` of the result is row `i`, row `2i + 1` is
    /// row `i + head_rows / 2`. Checkpoints rotate elements `i` and `i + head_rows / 2` together, GGUF files hold the
    /// two side by side. For a vector (a bias) the elements are re-ordered alike.
    Interleaved {
        /// The tensor.
        tensor: SourceTensor,
        /// Rows of one head, even.
        head_rows: u64,
    },
    /// A matrix with rows and columns exchanged.
    Transposed {
        /// The tensor.
        tensor: SourceTensor,
    },
    /// Values that are computed, row by row.
    Computed(Arc<RowFn>),
}

impl Source {
    /// The checkpoint tensor behind it, if any.
    #[must_use]
    pub(crate) fn tensor(&self) -> Option<&SourceTensor> {
        match self {
            Self::Rows { tensor, .. } | Self::Interleaved { tensor, .. } | Self::Transposed { tensor } => Some(tensor),
            Self::Computed(_) => None,
        }
    }

    /// Fixed values, as one row.
    #[must_use]
    pub(crate) fn values(values: Vec<f32>) -> Self {
        Self::Computed(Arc::new(move |_, out| {
            for (o, v) in out.iter_mut().zip(&values) {
                *o = *v;
            }
        }))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows { tensor, first } => write!(f, "values of {} from {first}", tensor.name),
            Self::Interleaved { tensor, head_rows } => write!(f, "{} interleaved by {head_rows}", tensor.name),
            Self::Transposed { tensor } => write!(f, "{} transposed", tensor.name),
            Self::Computed(_) => f.write_str("computed"),
        }
    }
}

/// A tensor of an output file.
#[derive(Debug, Clone)]
pub(crate) struct PlannedTensor {
    /// GGUF name.
    pub(crate) name: String,
    /// Dimensions, innermost first.
    pub(crate) dims: Vec<u64>,
    /// Format to write.
    pub(crate) ty: GgmlType,
    /// Where the values come from.
    pub(crate) source: Source,
}

impl PlannedTensor {
    /// A tensor of the given shape, outermost dimension first; the format is F32 until one is chosen.
    #[must_use]
    pub(crate) fn new(name: impl Into<String>, shape: &[u64], source: Source) -> Self {
        Self { name: name.into(), dims: shape.iter().rev().copied().collect(), ty: GgmlType::F32, source }
    }

    /// Rows in the sense of the pipeline: the outermost dimension, 1 for a vector.
    #[must_use]
    pub(crate) fn rows(&self) -> u64 {
        if self.dims.len() > 1 { self.dims.last().copied().unwrap_or(1) } else { 1 }
    }

    /// Values per row; saturates, which no checked shape reaches.
    #[must_use]
    pub(crate) fn cols(&self) -> u64 {
        let inner = if self.dims.len() > 1 { self.dims.get(..self.dims.len() - 1) } else { Some(&self.dims[..]) };
        inner.unwrap_or_default().iter().fold(1, |n, d| n.saturating_mul(*d))
    }
}

/// An output file.
#[derive(Debug, Clone, Default)]
pub(crate) struct FilePlan {
    /// Keys in order.
    pub(crate) metadata: Vec<(String, MetaValue)>,
    /// Tensors in order.
    pub(crate) tensors: Vec<PlannedTensor>,
}

impl FilePlan {
    /// Adds a key.
    pub(crate) fn kv(&mut self, key: impl Into<String>, value: impl Into<MetaValue>) {
        self.metadata.push((key.into(), value.into()));
    }
}

/// Most missing tensors that are listed.
const MAX_MISSING: usize = 100_000;

/// Takes tensors out of a checkpoint by name and shape, and keeps the account of what is missing or left over.
pub(crate) struct Picker<'a> {
    checkpoint: &'a Checkpoint,
    taken: HashSet<String>,
    mismatch: TensorMismatch,
    refused: Option<ConvertError>,
}

impl<'a> Picker<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, model: impl Into<String>) -> Self {
        let mismatch = TensorMismatch {
            path: checkpoint.dir().to_owned(),
            model: model.into(),
            missing: Vec::new(),
            unexpected: Vec::new(),
            shapes: Vec::new(),
        };
        Self { checkpoint, taken: HashSet::new(), mismatch, refused: None }
    }

    /// The tensor called `name`, which must have `shape` (outermost first) and hold plain weights. `None` has been
    /// noted and surfaces in [`Picker::finish`].
    pub(crate) fn pick(&mut self, name: &str, shape: &[u64]) -> Option<SourceTensor> {
        let Some(tensor) = self.checkpoint.tensors().get(name) else {
            // A configuration can ask for many times the tensors that are there.
            if self.mismatch.missing.len() < MAX_MISSING {
                self.mismatch.missing.push((name.to_owned(), shape.to_owned()));
            }
            return None;
        };
        self.taken.insert(name.to_owned());
        if tensor.shape != shape {
            self.mismatch.shapes.push((name.to_owned(), tensor.shape.clone(), shape.to_owned()));
            return None;
        }
        if let Err(error) = self.checkpoint.weight_type(tensor) {
            self.refused.get_or_insert(error);
            return None;
        }
        Some(tensor.clone())
    }

    /// Fails with everything that was missing, left over or of the wrong shape. `ignore` names tensors that may be
    /// left over.
    pub(crate) fn finish(mut self, ignore: impl Fn(&str) -> bool) -> Result<(), ConvertError> {
        let left = self.checkpoint.tensors().keys().filter(|n| !self.taken.contains(*n) && !ignore(n));
        self.mismatch.unexpected = left.cloned().collect();
        if !self.mismatch.is_empty() {
            return Err(ConvertError::Tensors(Box::new(self.mismatch)));
        }
        self.refused.map_or(Ok(()), Err)
    }
}
