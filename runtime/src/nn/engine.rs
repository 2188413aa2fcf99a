//! The kernels with what every call of them needs: threads, precision, weights.

use std::ops::Range;

use ocelli_kernels::{
    ActNeeds, AttnSpan, HalfWeights, KeptColumns, Kernels, MatMul, Pool, Precision, RopePairs, SpanHeads, SpanScratch,
    WeightRef, attention_spans, matmul_swiglu, matmul_with_columns, ops,
};

use super::int8::{self, Int8};
use super::outliers::Inputs;
use super::{Form, Linear, Norm};
use crate::RuntimeError;
use crate::weights::{Vector, Weights};

/// Products that share one input, at most: queries, keys and values.
const MAX_SHARED: usize = 3;

/// What is kept out of 8-bit codes: values more than `limit` times as large as the mean magnitude of their row, with
/// their columns, of each of `slices`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep<'k> {
    /// Ranges of rows, one behind the other. Rows behind them do not matter.
    pub(crate) slices: &'k [Range<usize>],
    pub(crate) limit: f32,
}

/// Borrowed for one pass; cheap to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Engine<'e> {
    pub(crate) pool: &'e Pool,
    pub(crate) kernels: Kernels,
    pub(crate) precision: Precision,
    /// How products with F16 and BF16 weights are computed in the mode `Fast`.
    pub(crate) half_weights: HalfWeights,
    pub(crate) weights: &'e Weights,
    /// 8-bit rows of float matrices, where products are computed with such.
    pub(crate) int8: Option<&'e Int8>,
}

impl<'e> Engine<'e> {
    /// The same, computing in f32.
    pub(crate) fn exact(self) -> Self {
        Self { precision: Precision::Exact, int8: None, ..self }
    }

    /// The matrix as it is in the file.
    fn stored(&self, linear: &Linear) -> Result<WeightRef<'e>, RuntimeError> {
        let matrix = &linear.weight;
        Ok(WeightRef::new(matrix.ty(), self.weights.bytes(matrix), matrix.rows(), matrix.cols())?)
    }

    /// The matrix as it is multiplied.
    fn view(&self, linear: &Linear) -> Result<WeightRef<'e>, RuntimeError> {
        match self.int8.and_then(|int8| int8.rows(linear)) {
            Some(rows) => Ok(int8::view(&linear.weight, rows)?),
            None => self.stored(linear),
        }
    }

    /// Takes `rows` into `inputs` in the forms that `readers`, at most three, want. Without `keep`, all values become codes.
    pub(crate) fn prepare(
        &self,
        inputs: &mut Inputs,
        rows: &mut [f32],
        keep: Option<Keep<'_>>,
        readers: &[&Linear],
    ) -> Result<(), RuntimeError> {
        self.prepare_made(inputs, rows, &mut [], keep, readers, |_, _, _| {})
    }

    /// As [`Engine::prepare`], where every row is made just before, while it is in the cache: `make` is given its number, the
    /// row, and that of `beside`.
    pub(crate) fn prepare_made(
        &self,
        inputs: &mut Inputs,
        rows: &mut [f32],
        beside: &mut [f32],
        keep: Option<Keep<'_>>,
        readers: &[&Linear],
        make: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) -> Result<(), RuntimeError> {
        let mut types = [int8::FORMAT; MAX_SHARED];
        let (mut depth, mut width, mut coded, mut float, mut pairs, mut stored) = (0, 0, false, true, false, true);
        let mut known: Vec<u32> = Vec::new();
        for (ty, reader) in types.iter_mut().zip(readers) {
            let view = self.view(reader)?;
            (*ty, depth, width) = (view.ty(), view.cols(), reader.weight.cols());
            coded |= matches!(reader.form, Form::Int8(_)) && view.ty().is_quantized();
            float &= reader.form == Form::Float && !view.ty().is_quantized();
            stored &= reader.form == Form::Stored;
            pairs |= view.is_in_pairs();
            known.extend_from_slice(self.int8.map_or(&[], |int8| int8.without(reader)));
        }
        known.sort_unstable();
        known.dedup();
        let n = rows.len() / width.max(1);
        let precision = if float { Precision::Exact } else { self.precision };
        let types = types.into_iter().take(readers.len());
        let mut needs = ActNeeds::new(precision, types).half_weights(self.half_weights);
        if !stored {
            needs = needs.rounded();
        }
        if pairs {
            needs = needs.in_pairs();
        }
        let Inputs { codes, kept } = inputs;
        // Nothing is looked for where nothing becomes codes.
        let keep = keep.filter(|_| coded && self.precision == Precision::Fast);
        let Keep { slices, limit } = keep.unwrap_or(Keep { slices: &[], limit: f32::INFINITY });
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

    /// Multiplies the rows of `inputs` with up to three matrices in one meeting of the threads, without biases. What was kept
    /// out of the codes is added by the thread that has just multiplied them.
    pub(crate) fn multiply(&self, inputs: &Inputs, products: &mut [(&Linear, &mut [f32])]) -> Result<(), RuntimeError> {
        for chunk in products.chunks_mut(MAX_SHARED) {
            // Text has none, and its passes allocate nothing.
            let mut weights = Vec::new();
            if inputs.kept.any() {
                for (linear, _) in chunk.iter() {
                    weights.push(self.stored(linear)?);
                }
            }
            let column = |(tokens, columns, x)| KeptColumns { weights: &weights, tokens, columns, x };
            let kept: Vec<KeptColumns<'_>> = inputs.kept.each().map(column).collect();
            let run =
                |list: &mut [MatMul<'_, '_>]| matmul_with_columns(self.pool, self.kernels, &inputs.codes, list, &kept);
            match chunk {
                [a] => run(&mut [self.product(a)?])?,
                [a, b] => run(&mut [self.product(a)?, self.product(b)?])?,
                [a, b, c] => run(&mut [self.product(a)?, self.product(b)?, self.product(c)?])?,
                _ => {}
            }
        }
        Ok(())
    }

    fn product<'o>(&self, (linear, out): &'o mut (&Linear, &mut [f32])) -> Result<MatMul<'e, 'o>, RuntimeError> {
        Ok(MatMul { weight: self.view(linear)?, out })
    }

    /// `out = silu(gate · inputs) ⊙ (up · inputs)`, of inputs of which nothing is kept out of the codes.
    pub(crate) fn gated(
        &self,
        gate: &Linear,
        up: &Linear,
        inputs: &Inputs,
        out: &mut [f32],
    ) -> Result<(), RuntimeError> {
        let (gate, up) = (self.view(gate)?, self.view(up)?);
        Ok(matmul_swiglu(self.pool, self.kernels, &gate, &up, &inputs.codes, out)?)
    }

    /// Adds the bias, if there is one, to every row.
    pub(crate) fn add_bias(&self, linear: &Linear, rows: &mut [f32]) -> Result<(), RuntimeError> {
        let Some(bias) = &linear.bias else { return Ok(()) };
        Ok(ops::add_bias(self.pool, self.kernels, rows, self.weights.vector(bias))?)
    }

    /// `x += y + bias`, without a bias `x += y`.
    pub(crate) fn add_biased(&self, linear: &Linear, x: &mut [f32], y: &[f32]) -> Result<(), RuntimeError> {
        match &linear.bias {
            Some(bias) => ops::add_biased(self.pool, self.kernels, x, y, self.weights.vector(bias))?,
            None => ops::add(self.pool, self.kernels, x, y)?,
        }
        Ok(())
    }

    /// As [`Engine::add_biased`], of one row.
    pub(crate) fn add_biased_row(&self, linear: &Linear, x: &mut [f32], y: &[f32]) {
        match &linear.bias {
            Some(bias) => ops::add_biased_row(self.kernels, x, y, self.weights.vector(bias)),
            None => ops::add_row(self.kernels, x, y),
        }
    }

    /// `x += y`.
    pub(crate) fn add(&self, x: &mut [f32], y: &[f32]) -> Result<(), RuntimeError> {
        Ok(ops::add(self.pool, self.kernels, x, y)?)
    }

    /// `x += y`, of one row.
    pub(crate) fn add_row(&self, x: &mut [f32], y: &[f32]) {
        ops::add_row(self.kernels, x, y);
    }

    /// `x = gelu(x + bias)`, the tanh form, of one row.
    pub(crate) fn gelu_row(&self, bias: &Vector, x: &mut [f32]) {
        ops::bias_gelu_row(self.kernels, x, self.weights.vector(bias));
    }

    /// Normalises one row.
    pub(crate) fn norm_row(&self, norm: &Norm, x: &[f32], out: &mut [f32]) {
        let vector = |v| self.weights.vector(v);
        match norm {
            Norm::Rms { weight, eps } => ops::rmsnorm_row(self.kernels, x, vector(weight), *eps, out),
            Norm::Layer { weight, bias, eps } => {
                ops::layer_norm_row(self.kernels, x, vector(weight), vector(bias), *eps, out);
            }
        }
    }

    /// Normalises every row of `x` into `out`.
    pub(crate) fn norm(&self, norm: &Norm, x: &[f32], out: &mut [f32]) -> Result<(), RuntimeError> {
        let vector = |v| self.weights.vector(v);
        match norm {
            Norm::Rms { weight, eps } => ops::rmsnorm(self.pool, self.kernels, x, vector(weight), *eps, out)?,
            Norm::Layer { weight, bias, eps } => {
                ops::layer_norm(self.pool, self.kernels, x, vector(weight), vector(bias), *eps, out)?;
            }
        }
        Ok(())
    }

    /// Turns whole heads by the (cosine, sine) rows.
    pub(crate) fn rope(&self, x: &mut [f32], n_head: usize, head_dim: usize, rows: &[f32]) -> Result<(), RuntimeError> {
        Ok(ops::rope(self.pool, self.kernels, x, n_head, head_dim, head_dim, rows, RopePairs::Interleaved)?)
    }

    /// Expands the rows `ids` of a table.
    pub(crate) fn look_up(&self, table: &Linear, ids: &[u32], out: &mut [f32]) -> Result<(), RuntimeError> {
        Ok(ops::lookup_rows(self.kernels, &self.stored(table)?, ids, out)?)
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
