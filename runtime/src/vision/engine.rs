//! The kernels with what every call of them needs, and the tensors a vision graph is made of.

use std::ops::Range;

use ocelli_gguf::Metadata;
use ocelli_kernels::{
    ActNeeds, AttnSpan, KeptColumns, Kernels, MatMul, Pool, Precision, SpanHeads, SpanScratch, WeightRef,
    attention_spans, matmul_with_columns, ops,
};

use super::int8::{self, Int8};
use super::outliers::Inputs;
use crate::RuntimeError;
use crate::weights::{Loader, Matrix, Vector, Weights};

/// A matrix of the file, and whether fast products with it are those of 8-bit weights.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(super) name: String,
    pub(super) matrix: Matrix,
    pub(super) int8: bool,
}

/// `y = W x (+ b)`; the matrix is number `slot` of the model's list.
#[derive(Debug)]
pub(crate) struct Linear {
    slot: usize,
    pub(crate) bias: Option<Vector>,
}

/// Weights and biases of a layer norm.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Vector,
    bias: Vector,
}

/// Takes a graph's tensors from the file.
pub(crate) struct Parts<'l, 'a> {
    loader: &'l mut Loader<'a, ()>,
    pub(crate) meta: &'l Metadata<'a>,
    matrices: Vec<Stored>,
    warnings: Vec<String>,
}

impl<'l, 'a> Parts<'l, 'a> {
    pub(super) fn new(loader: &'l mut Loader<'a, ()>, meta: &'l Metadata<'a>) -> Self {
        Self { loader, meta, matrices: Vec::new(), warnings: Vec::new() }
    }

    /// The shape of a tensor, innermost dimension first.
    pub(crate) fn dims(&self, name: &str) -> Result<&'a [u64], RuntimeError> {
        self.loader.dims(name).ok_or_else(|| RuntimeError::MissingTensor { name: name.to_owned() })
    }

    /// Counts a tensor as read.
    pub(crate) fn ignore(&mut self, name: &str) {
        self.loader.ignore(name);
    }

    /// Tells the user something about the file.
    pub(crate) fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    fn keep(&mut self, name: String, matrix: Matrix, int8: bool, bias: Option<Vector>) -> Linear {
        self.matrices.push(Stored { name, matrix, int8 });
        Linear { slot: self.matrices.len() - 1, bias }
    }

    /// `name.weight` and `name.bias`, to be multiplied in 8 bits by the fast mode.
    pub(crate) fn linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, RuntimeError> {
        let linear = self.unbiased(name, rows, cols)?;
        Ok(Linear { bias: Some(self.loader.vector(&format!("{name}.bias"), rows)?), ..linear })
    }

    /// As [`Parts::linear`], always multiplied in floats.
    pub(crate) fn float_linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, RuntimeError> {
        let bias = self.loader.vector(&format!("{name}.bias"), rows)?;
        let weight = format!("{name}.weight");
        let matrix = self.loader.matrix(&weight, rows, cols)?;
        Ok(self.keep(weight, matrix, false, Some(bias)))
    }

    /// As [`Parts::linear`], without a bias.
    pub(crate) fn unbiased(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, RuntimeError> {
        let name = format!("{name}.weight");
        let matrix = self.loader.matrix(&name, rows, cols)?;
        Ok(self.keep(name, matrix, true, None))
    }

    /// The kernel of a convolution with its bias, always multiplied in floats.
    pub(crate) fn convolution(&mut self, name: &str, dims: &[usize]) -> Result<Linear, RuntimeError> {
        let weight = format!("{name}.weight");
        let matrix = self.loader.kernel(&weight, dims)?;
        let bias = self.loader.vector(&format!("{name}.bias"), matrix.rows())?;
        Ok(self.keep(weight, matrix, false, Some(bias)))
    }

    /// A matrix whose rows are looked up.
    pub(crate) fn table(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, RuntimeError> {
        let matrix = self.loader.matrix(name, rows, cols)?;
        Ok(self.keep(name.to_owned(), matrix, false, None))
    }

    /// `name.weight` and `name.bias` of a layer norm.
    pub(crate) fn norm(&mut self, name: &str, width: usize) -> Result<Norm, RuntimeError> {
        let weight = self.loader.vector(&format!("{name}.weight"), width)?;
        Ok(Norm { weight, bias: self.loader.vector(&format!("{name}.bias"), width)? })
    }

    pub(super) fn finish(self) -> (Vec<Stored>, Vec<String>) {
        (self.matrices, self.warnings)
    }
}

/// Borrowed for one pass; cheap to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Engine<'e> {
    pub(super) pool: &'e Pool,
    pub(super) kernels: Kernels,
    pub(super) precision: Precision,
    pub(super) weights: &'e Weights,
    pub(super) matrices: &'e [Stored],
    pub(super) int8: Option<&'e Int8>,
}

impl<'e> Engine<'e> {
    /// The same, computing in f32.
    pub(crate) fn exact(self) -> Self {
        Self { precision: Precision::Exact, int8: None, ..self }
    }

    /// The matrix as it is in the file.
    fn stored(&self, linear: &Linear) -> Result<WeightRef<'e>, RuntimeError> {
        let matrix = &self.matrices[linear.slot].matrix;
        Ok(WeightRef::new(matrix.ty(), self.weights.bytes(matrix), matrix.rows(), matrix.cols())?)
    }

    /// The matrix as it is multiplied.
    fn view(&self, linear: &Linear) -> Result<WeightRef<'e>, RuntimeError> {
        match self.int8.and_then(|int8| int8.rows(linear.slot)) {
            Some(rows) => Ok(int8::view(&self.matrices[linear.slot].matrix, rows)?),
            None => self.stored(linear),
        }
    }

    /// Takes `n` rows into `inputs` in the forms that `readers`, at most 3, want. Where there are products of 8-bit codes,
    /// values more than `limit` times as large as the mean magnitude of their row are kept out of the codes, with
    /// their columns, of each of `slices`, which are ranges of rows one behind the other. Rows behind them do not matter.
    pub(crate) fn prepare(
        &self,
        inputs: &mut Inputs,
        rows: &mut [f32],
        slices: &[Range<usize>],
        limit: f32,
        readers: &[&Linear],
    ) -> Result<(), RuntimeError> {
        self.prepare_made(inputs, rows, &mut [], slices, limit, readers, |_, _, _| {})
    }

    /// As [`Engine::prepare`], where every row is made just before, while it is in the cache: `make` is given its number, the
    /// row, and that of `beside`.
    #[expect(clippy::too_many_arguments, reason = "rows with their division, who makes and who reads them")]
    pub(crate) fn prepare_made(
        &self,
        inputs: &mut Inputs,
        rows: &mut [f32],
        beside: &mut [f32],
        slices: &[Range<usize>],
        limit: f32,
        readers: &[&Linear],
        make: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) -> Result<(), RuntimeError> {
        let mut types = [int8::FORMAT; 3];
        let (mut depth, mut width, mut coded, mut float, mut pairs) = (0, 0, false, true, false);
        let mut known: Vec<u32> = Vec::new();
        for (ty, reader) in types.iter_mut().zip(readers) {
            let (view, stored) = (self.view(reader)?, &self.matrices[reader.slot]);
            (*ty, depth, width) = (view.ty(), view.cols(), stored.matrix.cols());
            coded |= self.precision == Precision::Fast && stored.int8 && view.ty().is_quantized();
            float &= !stored.int8 && !view.ty().is_quantized();
            pairs |= view.is_in_pairs();
            known.extend_from_slice(self.int8.map_or(&[], |int8| int8.without(reader.slot)));
        }
        known.sort_unstable();
        known.dedup();
        let n = rows.len() / width.max(1);
        let precision = if float { Precision::Exact } else { self.precision };
        let mut needs = ActNeeds::new(precision, types.into_iter().take(readers.len())).rounded();
        if pairs {
            needs = needs.in_pairs();
        }
        let Inputs { codes, kept } = inputs;
        // Nothing is looked for where nothing becomes codes.
        let slices = if coded { slices } else { &[] };
        kept.begin(slices, width);
        codes.fill_made(self.pool, self.kernels, rows, beside, n, depth, needs, |t, row, beside| {
            make(t, row, beside);
            let slice = slices.partition_point(|slice| slice.end <= t);
            // Codes of a slice in which something was found would be made twice.
            slice == slices.len() || kept.look(self.kernels, slice, row, limit) && known.is_empty()
        })?;
        for slice in kept.take(rows, width, slices, &known) {
            codes.refill(self.pool, self.kernels, rows, slice)?;
        }
        kept.put_back(rows, width);
        Ok(())
    }

    /// `W · inputs` without the bias.
    pub(crate) fn multiply(&self, inputs: &Inputs, linear: &Linear, out: &mut [f32]) -> Result<(), RuntimeError> {
        self.multiply_some(inputs, [linear], [out])
    }

    /// Three products of the same rows in one meeting of the threads.
    pub(crate) fn multiply3(
        &self,
        inputs: &Inputs,
        linears: [&Linear; 3],
        out: [&mut [f32]; 3],
    ) -> Result<(), RuntimeError> {
        self.multiply_some(inputs, linears, out)
    }

    /// What was kept out of the codes is added by the thread that has just multiplied the codes.
    fn multiply_some<const N: usize>(
        &self,
        inputs: &Inputs,
        linears: [&Linear; N],
        out: [&mut [f32]; N],
    ) -> Result<(), RuntimeError> {
        let (mut products, mut weights) = (Vec::with_capacity(N), Vec::with_capacity(N));
        for (linear, out) in linears.into_iter().zip(out) {
            products.push(MatMul { weight: self.view(linear)?, out });
            weights.push(self.stored(linear)?);
        }
        let kept: Vec<KeptColumns<'_>> = inputs
            .kept
            .each()
            .map(|(tokens, columns, x)| KeptColumns { weights: &weights, tokens, columns, x })
            .collect();
        Ok(matmul_with_columns(self.pool, self.kernels, &inputs.codes, &mut products, &kept)?)
    }

    /// Adds the bias, if there is one, to every row.
    pub(crate) fn bias(&self, linear: &Linear, rows: &mut [f32]) -> Result<(), RuntimeError> {
        let Some(bias) = &linear.bias else { return Ok(()) };
        Ok(ops::add_bias(self.pool, self.kernels, rows, self.weights.vector(bias))?)
    }

    /// `x += y + bias`.
    pub(crate) fn add_biased(&self, linear: &Linear, x: &mut [f32], y: &[f32]) -> Result<(), RuntimeError> {
        match &linear.bias {
            Some(bias) => ops::add_biased(self.pool, self.kernels, x, y, self.weights.vector(bias))?,
            None => ops::add(self.pool, self.kernels, x, y)?,
        }
        Ok(())
    }

    /// As [`Engine::add_biased`], of one row.
    pub(crate) fn add_row(&self, linear: &Linear, x: &mut [f32], y: &[f32]) {
        match &linear.bias {
            Some(bias) => ops::add_biased_row(self.kernels, x, y, self.weights.vector(bias)),
            None => ops::add_row(self.kernels, x, y),
        }
    }

    /// `x = gelu(x + bias)`, the tanh form, of one row.
    pub(crate) fn gelu_row(&self, bias: &Vector, x: &mut [f32]) {
        ops::bias_gelu_row(self.kernels, x, self.weights.vector(bias));
    }

    /// Normalises one row.
    pub(crate) fn norm_row(&self, norm: &Norm, eps: f32, x: &[f32], out: &mut [f32]) {
        let (weight, bias) = (self.weights.vector(&norm.weight), self.weights.vector(&norm.bias));
        ops::layer_norm_row(self.kernels, x, weight, bias, eps, out);
    }

    /// Normalises every row of `x` into `out`.
    pub(crate) fn norm(&self, norm: &Norm, eps: f32, x: &[f32], out: &mut [f32]) -> Result<(), RuntimeError> {
        let (weight, bias) = (self.weights.vector(&norm.weight), self.weights.vector(&norm.bias));
        Ok(ops::layer_norm(self.pool, self.kernels, x, weight, bias, eps, out)?)
    }

    /// Expands the rows `ids` of a table.
    pub(crate) fn look_up(&self, table: &Linear, ids: &[u32], out: &mut [f32]) -> Result<(), RuntimeError> {
        let view = self.stored(table)?;
        Ok(ops::lookup_rows(self.kernels, &view, ids, out)?)
    }

    /// Attention within spans.
    #[expect(clippy::too_many_arguments, reason = "three inputs, their division, a scratch and a result")]
    pub(crate) fn attend(
        &self,
        scratch: &mut SpanScratch,
        heads: SpanHeads,
        spans: &[AttnSpan],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &mut [f32],
    ) -> Result<(), RuntimeError> {
        Ok(attention_spans(self.pool, self.kernels, self.precision, scratch, heads, spans, q, k, v, out)?)
    }
}
