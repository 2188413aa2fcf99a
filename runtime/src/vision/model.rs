//! A loaded vision file.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ocelli_gguf::{Gguf, GgufSet};
use ocelli_kernels::measure::{Unit, Work};
use ocelli_kernels::quantize::RowCodec;
use ocelli_kernels::{Kernels, Pool};

use super::parts::Parts;
use super::{Reader, VisionConfig, VisionGraph, find};
use crate::model::open_parts;
use crate::nn::{Form, Int8};
use crate::weights::{Loader, Matrix, Weights};
use crate::{FileOptions, ModelFile, RuntimeError};

/// A vision model ready to run. Encoders share it.
#[derive(Debug)]
pub struct VisionModel {
    config: VisionConfig,
    weights: Weights,
    /// Of every matrix of the weights.
    forms: Vec<Form>,
    graph: Box<dyn VisionGraph>,
    warnings: Vec<String>,
    /// 8-bit forms of float matrices, made for the first encoder that wants them.
    int8: Mutex<Option<Arc<Int8>>>,
}

impl VisionModel {
    /// Loads the vision file at `path` (any part of a split one). Weights are not read: they stay mapped.
    ///
    /// # Errors
    /// When a file is missing or damaged, is no vision file, belongs to a model that this build does not run, or its
    /// metadata and tensors contradict each other.
    pub fn load(path: &Path, options: FileOptions) -> Result<Self, RuntimeError> {
        let files = open_parts(path, options)?;
        let parts = files
            .iter()
            .map(|f| Gguf::parse(f.bytes()).map_err(|e| RuntimeError::from(e).in_file(f.path())))
            .collect::<Result<_, _>>()?;
        let gguf = GgufSet::new(parts).map_err(|e| RuntimeError::from(e).in_file(path))?;
        Self::from_gguf(&files, &gguf).map_err(|e| e.in_file(path))
    }

    fn from_gguf(files: &[Arc<ModelFile>], gguf: &GgufSet<'_>) -> Result<Self, RuntimeError> {
        let mut config = VisionConfig::read(gguf.metadata())?;
        let architecture = find(&config.projector)?;
        let mut loader = Loader::new(files, gguf, format!("clip, {}", config.projector), ());
        let mut parts = Parts::new(&mut loader, gguf.metadata());
        let graph = (architecture.load)(&mut parts, &mut config)?;
        let (forms, warnings) = parts.finish();
        let weights = loader.finish()?;
        Ok(Self { config, weights, forms, graph, warnings, int8: Mutex::new(None) })
    }

    /// Hyperparameters.
    #[must_use]
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What a user should know about this file, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What one slice of `patches` patches needs of the machine at least: every product and every score once, every weight
    /// once. `fast`: the table that fast products are computed with.
    pub(crate) fn work(&self, patches: usize, fast: Option<Kernels>) -> Work {
        let mut work = Work::default();
        for ((name, matrix), form) in self.weights.matrices().iter().zip(&self.forms) {
            let rows = match self.graph.reader(name) {
                Reader::Patches => patches,
                Reader::Queries => self.config.query_num,
                Reader::None => continue,
            };
            let weights = matrix.rows() as f64 * matrix.cols() as f64;
            let int8 = matches!(form, Form::Int8(_));
            let ops = 2.0 * rows as f64 * weights;
            let bytes = self.weights.bytes(matrix).len() as f64;
            work += match fast {
                Some(_) if matrix.ty().is_quantized() => Work::of(Unit::Int8, ops, bytes),
                // As rows of Q8_0.
                Some(kernels) if int8 && kernels.fast_bytes() => Work::of(Unit::Int8, ops, weights * 34.0 / 32.0),
                Some(kernels) if int8 && kernels.fixed_point() => Work::of(Unit::Int16, ops, bytes),
                _ => Work::of(Unit::F32, ops, bytes),
            };
        }
        let unit = if fast.is_some_and(|k| k.fixed_point()) { Unit::Int16 } else { Unit::F32 };
        work += Work::of(unit, 2.0 * self.graph.attention(&self.config, patches), 0.0);
        work
    }

    /// The name of the first matrix that holds a value which is not finite.
    pub(super) fn not_finite(&self, kernels: Kernels) -> Option<String> {
        let codec = RowCodec::of(kernels);
        let damaged = |matrix: &Matrix| {
            let mut values = vec![0f32; matrix.cols()];
            (0..matrix.rows()).any(|r| {
                // Rows of a loaded matrix have the length of its type.
                codec.dequantize_row(matrix.ty(), self.weights.row(matrix, r), &mut values).is_err()
                    || !values.iter().all(|v| v.is_finite())
            })
        };
        self.weights.matrices().iter().find(|(_, matrix)| damaged(matrix)).map(|(name, _)| name.clone())
    }

    pub(super) fn graph(&self) -> &dyn VisionGraph {
        &*self.graph
    }

    /// The 8-bit forms, made by the threads of `pool` if they are not there yet.
    pub(super) fn int8(&self, kernels: Kernels, pool: &Pool) -> Result<Arc<Int8>, RuntimeError> {
        let mut int8 = self.int8.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*int8 {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(Int8::new(&self.weights, &self.forms, kernels, pool)?);
        *int8 = Some(Arc::clone(&made));
        Ok(made)
    }
}
