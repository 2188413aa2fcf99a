//! Everything that is decided before the first byte is written.

use std::fs::File;
use std::path::{Path, PathBuf};

use ocelli_files::{Inputs, Output, Replace, WriteOptions, check_space, commit_all};
use ocelli_gguf::split::SplitName;
use ocelli_gguf::{GgufSet, GgufWriter, MetaValue, TensorInfo, TensorType};
use ocelli_kernels::quantize::RowCodec;
use ocelli_quant::GgmlType;

use super::pipeline::{self, Workers};
use super::{Options, Source, Target, metadata};
use crate::ConvertError;
use crate::imatrix::Imatrix;
use crate::mixture::{TensorFacts, TypeChoice, choose_types, effective_dims, is_quantizable, tensor_order};
use crate::nearest::nearest;
use crate::progress::Progress;

/// One tensor of the output.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TensorPlan<'a> {
    /// Name.
    pub name: String,
    /// Dimensions, row length first, without trailing ones.
    pub dims: Vec<u64>,
    /// Format in the source.
    pub source_type: TensorType,
    /// Format to write.
    pub target_type: TensorType,
    /// Bytes in the source.
    pub source_bytes: u64,
    /// Bytes to write.
    pub target_bytes: u64,
    /// Number of weights.
    pub n_elements: u64,
    /// The format the rules asked for, when the row length does not allow it.
    pub instead_of: Option<GgmlType>,
    /// The result would be useless without an importance matrix, and there is none for this tensor.
    pub lacks_importance: bool,
    /// Importance of each column, one list per expert.
    pub importance: Option<&'a [f32]>,
    /// File of the source the data is in, and where.
    pub(super) part: usize,
    pub(super) offset: u64,
}

impl TensorPlan<'_> {
    /// Whether the data is written in another format than it has.
    #[must_use]
    pub fn is_converted(&self) -> bool {
        self.source_type != self.target_type
    }

    /// Weights per row.
    pub(super) fn row_len(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    pub(super) fn n_rows(&self) -> u64 {
        self.n_elements.checked_div(self.row_len()).unwrap_or(0)
    }
}

/// One output file: its keys and the range of tensors it takes.
#[derive(Debug, Clone)]
pub struct OutputPart {
    /// Keys in order.
    pub pairs: Vec<(String, MetaValue)>,
    /// Its tensors, as a range of [`Plan::tensors`].
    pub tensors: std::ops::Range<usize>,
}

/// What will be written.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    tensors: Vec<TensorPlan<'a>>,
    parts: Vec<OutputPart>,
    inputs: Vec<PathBuf>,
    /// What else was read: importances, options.
    also_read: Vec<PathBuf>,
    allow_requantize: bool,
    keep_split: bool,
    codec: &'static RowCodec,
    unused: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Decides formats, sizes and keys. An importance matrix without entries counts as none.
    ///
    /// # Errors
    /// When metadata that the rules need is missing or mistyped, the rules do not know the model, or an importance
    /// list does not fit its tensor.
    pub fn new(source: &Source, options: &Options, imatrix: Option<&'a Imatrix>) -> Result<Self, ConvertError> {
        let view = source.view()?;
        let also_read = options.read_from.iter().cloned().chain(imatrix.map(|m| m.path().to_owned())).collect();
        let imatrix = imatrix.filter(|m| !m.is_empty());
        let mut located: Vec<&(usize, TensorInfo<'_>)> = view.tensors_by_part().iter().collect();
        if options.keep_split {
            located.sort_by_key(|(part, t)| (*part, t.offset));
        } else {
            located.sort_by(|a, b| tensor_order(a.1.name, b.1.name));
        }
        check_patterns(options, located.iter().map(|(_, t)| TensorFacts { name: t.name, dims: &t.dims }))?;
        let choices = choose(&view, &located, options, imatrix.is_some())?;
        let tensors = located
            .iter()
            .zip(&choices)
            .map(|((part, info), choice)| plan_tensor(*part, info, choice, imatrix))
            .collect::<Result<Vec<_>, _>>()?;
        let unused = imatrix.map_or_else(Vec::new, |m| {
            let used = |name: &str| tensors.iter().any(|t| t.importance.is_some() && t.name == name);
            m.names().filter(|name| !used(name)).map(str::to_owned).collect()
        });
        let infos: Vec<_> = located.iter().map(|(_, info)| info).collect();
        let file_type = metadata::file_type_code(options.target, view.metadata(), &infos)?;
        let pairs = metadata::output_pairs(view.metadata(), file_type, imatrix);
        let parts = output_parts(&tensors, pairs, view.parts().len(), options.keep_split)?;
        Ok(Self {
            tensors,
            parts,
            inputs: source.paths(),
            also_read,
            allow_requantize: options.allow_requantize,
            keep_split: options.keep_split,
            codec: options.codec,
            unused,
        })
    }

    /// The tensors, in output order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorPlan<'a>] {
        &self.tensors
    }

    /// The output files.
    #[must_use]
    pub fn parts(&self) -> &[OutputPart] {
        &self.parts
    }

    /// Entries of the importance matrix that no converted tensor uses.
    #[must_use]
    pub fn unused_importances(&self) -> &[String] {
        &self.unused
    }

    /// Bytes of tensor data in the source.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, t| sum.saturating_add(t.source_bytes))
    }

    /// Bytes of tensor data in the result.
    #[must_use]
    pub fn target_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, t| sum.saturating_add(t.target_bytes))
    }

    /// Number of weights.
    #[must_use]
    pub fn n_elements(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, t| sum.saturating_add(t.n_elements))
    }

    /// The files that [`Plan::write`] will make for `out`: itself, or with kept parts the names derived from it.
    ///
    /// # Errors
    /// [`ConvertError::Name`] when no part name can be derived.
    pub fn output_paths(&self, out: &Path) -> Result<Vec<PathBuf>, ConvertError> {
        if !self.keep_split {
            return Ok(vec![out.to_owned()]);
        }
        let name_error = || ConvertError::Name { name: out.display().to_string() };
        let count = self.parts.len();
        let stem = out.file_name().and_then(|n| n.to_str()).ok_or_else(name_error)?;
        let stem = stem.strip_suffix(".gguf").unwrap_or(stem);
        let first = out.with_file_name(format!("{stem}-00001-of-{count:05}.gguf"));
        let names = SplitName::parse(&first).ok_or_else(name_error)?;
        Ok((1..=names.count).map(|no| names.path(no)).collect())
    }

    /// Whether the plan can be carried out.
    ///
    /// # Errors
    /// For a quantised source without permission, a source format that cannot be read, or a missing importance
    /// matrix: the first tensor concerned.
    pub fn check(&self) -> Result<(), ConvertError> {
        for tensor in self.tensors.iter().filter(|t| t.is_converted()) {
            let name = || tensor.name.clone();
            let Some(source) = tensor.source_type.ggml() else {
                return Err(ConvertError::SourceFormat { tensor: name(), ty: tensor.source_type.to_string() });
            };
            if source.is_quantized() && !self.allow_requantize {
                return Err(ConvertError::Requantize { tensor: name(), ty: source });
            }
        }
        match self.tensors.iter().find(|t| t.lacks_importance) {
            Some(t) => Err(ConvertError::NeedsImatrix { tensor: t.name.clone(), ty: t.target_type.to_string() }),
            None => Ok(()),
        }
    }

    /// Writes the result to `out` with `threads` worker threads and returns the paths of the files made. Existing
    /// files are replaced only with `overwrite`, the source never.
    ///
    /// # Errors
    /// As [`Plan::check`]; when reading, converting or writing fails; [`ConvertError::Cancelled`]. Nothing is left
    /// behind then.
    pub fn write(
        &self,
        out: &Path,
        threads: usize,
        overwrite: bool,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, ConvertError> {
        self.check()?;
        let what = format!("making {} with {threads} threads", out.display());
        ocelli_memory::check(what, pipeline::memory(&self.tensors, threads), crate::convert::FEWER_THREADS)?;
        let paths = self.output_paths(out)?;
        let read = Inputs::of(self.inputs.iter().chain(&self.also_read));
        let mut outputs = Output::create_all(&paths, &WriteOptions::new(read, Replace::if_told(overwrite)))?;
        let writers = self.parts.iter().map(|part| self.header(part)).collect::<Result<Vec<_>, _>>()?;
        let sizes = writers.iter().map(GgufWriter::total_size).collect::<Result<Vec<_>, _>>()?;
        check_space(outputs.iter().zip(sizes))?;
        let inputs = self
            .inputs
            .iter()
            .map(|path| File::open(path).map_err(ConvertError::io("open", path)).map(|file| (path.as_path(), file)))
            .collect::<Result<Vec<_>, _>>()?;
        progress.begin(&out.display().to_string(), self.source_bytes());
        for ((part, writer), output) in self.parts.iter().zip(writers).zip(&mut outputs) {
            let range = part.tensors.clone();
            let tensors = self.tensors.get(range.clone()).unwrap_or_default();
            let counted = Counted { inner: progress, first: range.start, total: self.tensors.len() };
            pipeline::write_part(tensors, &inputs, writer, output, Workers { threads, codec: self.codec }, &counted)?;
        }
        progress.end();
        commit_all(outputs)?;
        Ok(paths)
    }

    fn header(&self, part: &OutputPart) -> Result<GgufWriter, ConvertError> {
        let mut writer = GgufWriter::new();
        for (key, value) in &part.pairs {
            writer.kv(key.as_str(), value.clone())?;
        }
        for tensor in self.tensors.get(part.tensors.clone()).unwrap_or_default() {
            writer.tensor(tensor.name.as_str(), &tensor.dims, tensor.target_type)?;
        }
        Ok(writer)
    }
}

/// Numbers the tensors of one part within the whole model.
struct Counted<'a> {
    inner: &'a dyn Progress,
    first: usize,
    total: usize,
}

impl Progress for Counted<'_> {
    fn tensor(&self, name: &str, index: usize, _count: usize) {
        self.inner.tensor(name, self.first + index, self.total);
    }

    fn advance(&self, bytes: u64) {
        self.inner.advance(bytes);
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }
}

/// Refuses patterns that match nothing that could be converted: whoever gave them expects something else.
fn check_patterns<'t>(
    options: &Options,
    tensors: impl Iterator<Item = TensorFacts<'t>> + Clone,
) -> Result<(), ConvertError> {
    let target = match options.target {
        Target::Copy => Some("a copy".to_owned()),
        Target::Type(ty) if !ty.default_type().is_quantized() => Some(format!("a file of type {ty}")),
        Target::Type(_) => None,
    };
    let types = &options.types;
    let pattern = types.overrides.first().map(|o| format!("tensor type pattern `{}`", o.pattern().escape_debug()));
    // These two count for every type of file, but a copy has the types that it had.
    let of_one = [("output.weight", types.output_tensor_type), ("token_embd.weight", types.token_embedding_type)];
    let of_one = of_one.iter().filter(|(_, ty)| options.target == Target::Copy && ty.is_some());
    let what = pattern.or_else(|| of_one.map(|(name, _)| format!("a type for {name}")).next());
    if let (Some(target), Some(what)) = (target, what) {
        return Err(ConvertError::NoEffect { what, target });
    }
    let names = || tensors.clone().filter(|t| is_quantizable(t)).map(|t| t.name);
    match options.types.overrides.iter().find(|o| !names().any(|name| o.matches(name))) {
        None => Ok(()),
        Some(unmatched) => Err(ConvertError::NoMatch {
            what: "tensor type pattern",
            pattern: unmatched.pattern().to_owned(),
            among: "tensor of this file that can be converted",
            nearest: nearest(unmatched.pattern(), names()),
        }),
    }
}

fn choose(
    view: &GgufSet<'_>,
    located: &[&(usize, TensorInfo<'_>)],
    options: &Options,
    has_imatrix: bool,
) -> Result<Vec<TypeChoice>, ConvertError> {
    let Target::Type(file_type) = options.target else {
        let keep = TypeChoice { ty: None, instead_of: None, needs_imatrix: false };
        return Ok(vec![keep; located.len()]);
    };
    let model = metadata::model_facts(view.metadata())?;
    let facts: Vec<_> = located.iter().map(|(_, t)| TensorFacts { name: t.name, dims: &t.dims }).collect();
    let mut types = options.types.clone();
    types.has_imatrix = has_imatrix;
    Ok(choose_types(file_type, &model, &types, &facts)?)
}

fn plan_tensor<'a>(
    part: usize,
    info: &TensorInfo<'_>,
    choice: &TypeChoice,
    imatrix: Option<&'a Imatrix>,
) -> Result<TensorPlan<'a>, ConvertError> {
    let target_type = choice.ty.map_or(info.ty, TensorType::from);
    let converted = target_type != info.ty;
    let importance = match imatrix.filter(|_| converted) {
        Some(imatrix) => importance_for(info, imatrix)?,
        None => None,
    };
    let dims: Vec<u64> = info.dims.iter().take(effective_dims(&info.dims)).copied().collect();
    let target_bytes = if converted { bytes_as(info, target_type)? } else { info.n_bytes };
    Ok(TensorPlan {
        name: info.name.to_owned(),
        dims: if dims.is_empty() { vec![1] } else { dims },
        source_type: info.ty,
        target_type,
        source_bytes: info.n_bytes,
        target_bytes,
        n_elements: info.n_elements,
        instead_of: choice.instead_of,
        // Without any matrix the choice alone decides, even for a tensor that has its format already.
        lacks_importance: choice.needs_imatrix && importance.is_none() && (converted || imatrix.is_none()),
        importance,
        part,
        offset: info.offset,
    })
}

/// The importances of a tensor's columns. A list of another length is an error, except for the token embedding, for
/// which such lists are common and meaningless.
fn importance_for<'a>(info: &TensorInfo<'_>, imatrix: &'a Imatrix) -> Result<Option<&'a [f32]>, ConvertError> {
    let Some(values) = imatrix.get(info.name) else { return Ok(None) };
    let want = info.dims.row_len().saturating_mul(info.dims.get(2).copied().unwrap_or(1));
    if values.len() as u64 == want {
        return Ok(Some(values));
    }
    if matches!(info.name, "token_embd.weight" | "per_layer_token_embd.weight") {
        return Ok(None);
    }
    Err(ConvertError::ImatrixSize {
        path: imatrix.path().to_owned(),
        tensor: info.name.to_owned(),
        found: values.len(),
        expected: want,
    })
}

fn bytes_as(info: &TensorInfo<'_>, ty: TensorType) -> Result<u64, ConvertError> {
    let misfit = || ConvertError::RowLength {
        tensor: info.name.to_owned(),
        row: info.dims.row_len(),
        ty: ty.to_string(),
        block: ty.block_len().unwrap_or(1),
    };
    let (block, bytes) = ty.block_len().zip(ty.block_bytes()).ok_or_else(misfit)?;
    if !info.dims.row_len().is_multiple_of(block) {
        return Err(misfit());
    }
    (info.n_elements / block).checked_mul(bytes).ok_or_else(misfit)
}

fn output_parts(
    tensors: &[TensorPlan<'_>],
    pairs: Vec<(String, MetaValue)>,
    n_parts: usize,
    keep_split: bool,
) -> Result<Vec<OutputPart>, ConvertError> {
    if !keep_split || n_parts < 2 {
        return Ok(vec![OutputPart { pairs, tensors: 0..tensors.len() }]);
    }
    let too_many = || ConvertError::Name { name: format!("{n_parts} parts") };
    let count = u16::try_from(n_parts).map_err(|_| too_many())?;
    let n_tensors = i32::try_from(tensors.len()).map_err(|_| too_many())?;
    let mut pairs = Some(pairs);
    let mut parts = Vec::new();
    let mut start = 0;
    for no in 0..count {
        let end = tensors.partition_point(|t| t.part <= usize::from(no));
        let mut own = pairs.take().unwrap_or_default();
        own.extend(metadata::split_pairs(no, count, n_tensors));
        parts.push(OutputPart { pairs: own, tensors: start..end });
        start = end;
    }
    Ok(parts)
}
