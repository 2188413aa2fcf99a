//! Typed views of the tensors in a model file.
//!
//! A [`Loader`] hands each architecture the tensors it asks for, after checking that the name exists, the shape is the
//! one the configuration implies, and the format can be used. What it returns are positions in the file, not copies:
//! the bytes stay where they are mapped. The loader's end refuses files with tensors that nobody asked for, because
//! a model run without one of its tensors answers wrongly and says nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use ocelli_gguf::{GgufSet, TensorInfo};
use ocelli_quant::GgmlType;

use crate::{Config, ModelFile, RuntimeError, identity};

/// Where a tensor lies: file, first byte, length. Only a [`Loader`] makes them, from offsets the reader has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    file: usize,
    start: usize,
    len: usize,
}

/// A matrix in the file: `rows` outputs, each a row of `cols` weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    place: Place,
    ty: GgmlType,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// Storage format.
    #[must_use]
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// A vector of f32: mapped where the file holds f32 at an aligned place (every file of a usual converter), otherwise
/// expanded once.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector(Storage);

#[derive(Debug, Clone, PartialEq)]
enum Storage {
    Mapped(Place),
    Owned(Vec<f32>),
}

/// The files of a model. All [`Matrix`] and [`Vector`] values of the model refer to it.
#[derive(Debug)]
pub struct Weights {
    files: Vec<Arc<ModelFile>>,
    places: Vec<Place>,
    types: BTreeSet<GgmlType>,
    matrices: Vec<(String, Matrix)>,
    parameters: u64,
}

impl Weights {
    fn slice(&self, place: Place) -> &[u8] {
        &self.files[place.file].bytes()[place.start..place.start + place.len]
    }

    /// The stored bytes of `matrix`, row after row.
    #[must_use]
    pub fn bytes(&self, matrix: &Matrix) -> &[u8] {
        self.slice(matrix.place)
    }

    /// The stored bytes of one row.
    ///
    /// # Panics
    /// When `row` is not below [`Matrix::rows`].
    #[must_use]
    pub fn row(&self, matrix: &Matrix, row: usize) -> &[u8] {
        assert!(row < matrix.rows);
        let len = matrix.place.len / matrix.rows;
        &self.bytes(matrix)[row * len..(row + 1) * len]
    }

    /// The values of `vector`.
    #[must_use]
    pub fn vector<'w>(&'w self, vector: &'w Vector) -> &'w [f32] {
        match &vector.0 {
            Storage::Owned(values) => values,
            // Alignment and length were checked when the vector was made.
            Storage::Mapped(place) => bytemuck::cast_slice(self.slice(*place)),
        }
    }

    /// The formats of all matrices.
    pub fn types(&self) -> impl Iterator<Item = GgmlType> + '_ {
        self.types.iter().copied()
    }

    /// All matrices in use, by name, in the order they were asked for.
    #[must_use]
    pub fn matrices(&self) -> &[(String, Matrix)] {
        &self.matrices
    }

    /// Values of all tensors of the files.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Bytes of all tensors of the files, without headers and gaps.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.places.iter().map(|p| p.len as u64).sum()
    }

    /// A hash of all bytes of all files: another model, or one that somebody changed anywhere, has another. It is computed
    /// when it is first asked for, unless [`crate::FileOptions::identities`] remembers it.
    ///
    /// # Errors
    /// When a file is changed while it is in use.
    pub fn identity(&self) -> Result<[u8; 32], RuntimeError> {
        identity::of_parts(self.files.iter().map(|file| &**file))
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes().len() as u64).sum()
    }
}

/// Finds and checks tensors while an architecture with hyperparameters `C` is set up.
pub struct Loader<'a, C = Config> {
    files: &'a [Arc<ModelFile>],
    gguf: &'a GgufSet<'a>,
    arch: String,
    config: C,
    used: HashSet<&'a str>,
    types: BTreeSet<GgmlType>,
    matrices: Vec<(String, Matrix)>,
}

impl<'a, C> Loader<'a, C> {
    /// `gguf` is the parsed form of `files`, in order; `arch` is what errors call the model.
    pub(crate) fn new(files: &'a [Arc<ModelFile>], gguf: &'a GgufSet<'a>, arch: String, config: C) -> Self {
        Self { files, gguf, arch, config, used: HashSet::new(), types: BTreeSet::new(), matrices: Vec::new() }
    }

    /// The model's hyperparameters.
    #[must_use]
    pub fn config(&self) -> &C {
        &self.config
    }

    /// Whether the file has a tensor called `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// The shape of the tensor `name`, innermost dimension first.
    #[must_use]
    pub fn dims(&self, name: &str) -> Option<&'a [u64]> {
        let gguf: &'a GgufSet<'a> = self.gguf;
        gguf.tensor(name).map(|t| &*t.dims)
    }

    fn find(&mut self, name: &str, dims: &[usize]) -> Result<Option<Found<'a>>, RuntimeError> {
        let Some((file, info)) = self.gguf.located(name) else { return Ok(None) };
        self.used.insert(info.name);
        let same = info.dims.len() == dims.len() && info.dims.iter().zip(dims).all(|(a, b)| *a == *b as u64);
        if !same {
            return Err(RuntimeError::TensorShape {
                name: name.to_owned(),
                found: shape_text(info.dims.iter().copied()),
                expected: shape_text(dims.iter().map(|d| *d as u64)),
            });
        }
        let ty = info.ty.ggml().ok_or_else(|| RuntimeError::TensorType {
            name: name.to_owned(),
            found: info.ty.to_string(),
            expected: format!("one of {}", GgmlType::ALL.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ")),
        })?;
        let data = self.gguf.data(name)?;
        Ok(Some(Found { place: Place { file, start: to_usize(info.offset), len: data.len() }, ty, data }))
    }

    /// The matrix `name` of `rows` outputs and `cols` inputs.
    ///
    /// # Errors
    /// When it is missing, has another shape, or is stored in a format this build does not have.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, RuntimeError> {
        self.optional_matrix(name, rows, cols)?.ok_or_else(|| RuntimeError::MissingTensor { name: name.to_owned() })
    }

    /// The tensor `name` of shape `dims` (innermost first) as a matrix whose rows are all dimensions but the last, one
    /// after the other: the kernel of a convolution.
    ///
    /// # Errors
    /// As [`Loader::matrix`], and when its format stores blocks that do not end where a row ends.
    pub fn kernel(&mut self, name: &str, dims: &[usize]) -> Result<Matrix, RuntimeError> {
        let missing = || RuntimeError::MissingTensor { name: name.to_owned() };
        let found = self.find(name, dims)?.ok_or_else(missing)?;
        let Some((rows, inner)) = dims.split_last() else { return Err(missing()) };
        let cols = inner.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        if found.ty.row_bytes(cols).ok().and_then(|b| b.checked_mul(*rows)) != Some(found.data.len()) {
            return Err(RuntimeError::TensorType {
                name: name.to_owned(),
                found: found.ty.name().to_owned(),
                expected: "F32, F16 or BF16".to_owned(),
            });
        }
        Ok(self.keep(name, Matrix { place: found.place, ty: found.ty, rows: *rows, cols }))
    }

    /// As [`Loader::matrix`], `None` when it is missing.
    ///
    /// # Errors
    /// When it has another shape or a format this build does not have.
    pub fn optional_matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Option<Matrix>, RuntimeError> {
        let Some(found) = self.find(name, &[cols, rows])? else { return Ok(None) };
        Ok(Some(self.keep(name, Matrix { place: found.place, ty: found.ty, rows, cols })))
    }

    fn keep(&mut self, name: &str, matrix: Matrix) -> Matrix {
        self.types.insert(matrix.ty);
        self.matrices.push((name.to_owned(), matrix));
        matrix
    }

    /// The vector `name` of `len` values.
    ///
    /// # Errors
    /// When it is missing, has another shape, or is stored quantised.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<Vector, RuntimeError> {
        self.optional_vector(name, len)?.ok_or_else(|| RuntimeError::MissingTensor { name: name.to_owned() })
    }

    /// As [`Loader::vector`], `None` when it is missing.
    ///
    /// # Errors
    /// When it has another shape or is stored quantised.
    pub fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vector>, RuntimeError> {
        let Some(found) = self.find(name, &[len])? else { return Ok(None) };
        if found.ty.is_quantized() {
            return Err(RuntimeError::TensorType {
                name: name.to_owned(),
                found: found.ty.name().to_owned(),
                expected: "F32, F16 or BF16".to_owned(),
            });
        }
        let in_place = cfg!(target_endian = "little")
            && found.ty == GgmlType::F32
            && bytemuck::try_cast_slice::<u8, f32>(found.data).is_ok();
        if in_place {
            return Ok(Some(Vector(Storage::Mapped(found.place))));
        }
        let mut values = vec![0f32; len];
        found.ty.dequantize_row(found.data, &mut values).map_err(|e| RuntimeError::TensorType {
            name: name.to_owned(),
            found: e.to_string(),
            expected: "F32, F16 or BF16".to_owned(),
        })?;
        Ok(Some(Vector(Storage::Owned(values))))
    }

    /// The values of the vector `name`, copied: for tensors that are folded into tables at load.
    ///
    /// # Errors
    /// As [`Loader::optional_vector`].
    pub fn optional_values(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, RuntimeError> {
        let Some(vector) = self.optional_vector(name, len)? else { return Ok(None) };
        Ok(Some(match vector.0 {
            Storage::Owned(values) => values,
            Storage::Mapped(place) => {
                let bytes = &self.files[place.file].bytes()[place.start..place.start + place.len];
                bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
        }))
    }

    /// Counts `name` as read although nothing of it is used.
    pub fn ignore(&mut self, name: &str) {
        if let Some(info) = self.gguf.tensor(name) {
            self.used.insert(info.name);
        }
    }

    /// Ends loading.
    ///
    /// # Errors
    /// When the file has tensors that were not asked for.
    pub(crate) fn finish(self) -> Result<Weights, RuntimeError> {
        let unused: Vec<&TensorInfo<'_>> = self.gguf.tensors().filter(|t| !self.used.contains(t.name)).collect();
        if let Some(first) = unused.first() {
            return Err(RuntimeError::UnusedTensor {
                name: first.name.to_owned(),
                arch: self.arch,
                more: unused.len(),
            });
        }
        let places = self
            .gguf
            .tensors_by_part()
            .iter()
            .map(|(file, t)| Place { file: *file, start: to_usize(t.offset), len: to_usize(t.n_bytes) })
            .collect();
        // The reader has checked that the values of every tensor can be counted.
        let parameters = self.gguf.tensors().map(|t| t.dims.iter().product::<u64>()).sum();
        Ok(Weights { files: self.files.to_vec(), places, types: self.types, matrices: self.matrices, parameters })
    }
}

struct Found<'a> {
    place: Place,
    ty: GgmlType,
    data: &'a [u8],
}

fn shape_text(dims: impl Iterator<Item = u64>) -> String {
    let dims: Vec<_> = dims.map(|d| d.to_string()).collect();
    format!("{{{}}}", dims.join(", "))
}

/// Offsets and lengths that the reader has checked against a file in memory fit `usize`.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
