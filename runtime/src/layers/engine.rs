//! The kernels with what every call of them needs: table, threads, precision, weights.

use ocelli_kernels::{
    ActBuf, ActNeeds, Kernels, MatMul, Pool, Precision, RopePairs, WeightRef, matmul_many, matmul_swiglu, ops,
};

use super::Linear;
use crate::RuntimeError;
use crate::weights::{Matrix, Vector, Weights};

/// Products that share one input, at most: queries, keys and values.
const MAX_SHARED: usize = 3;

/// Borrowed for one pass; cheap to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Engine<'e> {
    pub(crate) pool: &'e Pool,
    pub(crate) kernels: Kernels,
    pub(crate) precision: Precision,
    pub(crate) weights: &'e Weights,
}

impl<'e> Engine<'e> {
    fn view(&self, matrix: &Matrix) -> Result<WeightRef<'e>, RuntimeError> {
        Ok(WeightRef::new(matrix.ty(), self.weights.bytes(matrix), matrix.rows(), matrix.cols())?)
    }

    /// Values of a row that `readers` take, and the forms.
    fn wanted(&self, readers: &[&Matrix]) -> (usize, ActNeeds) {
        let needs = ActNeeds::new(self.precision, readers.iter().map(|m| m.ty()));
        (readers.first().map_or(0, |m| m.cols()), needs)
    }

    /// Takes `n` rows into `acts` in the forms that `readers` want.
    pub(crate) fn prepare(
        &self,
        acts: &mut ActBuf,
        rows: &[f32],
        n: usize,
        readers: &[&Matrix],
    ) -> Result<(), RuntimeError> {
        let (depth, needs) = self.wanted(readers);
        Ok(acts.fill(self.pool, self.kernels, rows, n, depth, needs)?)
    }

    /// As [`Engine::prepare`], of rows that are made just before, while they are in the cache: `make` is given a row and that
    /// of `beside`.
    pub(crate) fn prepare_made(
        &self,
        acts: &mut ActBuf,
        rows: &mut [f32],
        beside: &mut [f32],
        n: usize,
        readers: &[&Matrix],
        make: impl Fn(&mut [f32], &mut [f32]) + Sync,
    ) -> Result<(), RuntimeError> {
        let (depth, needs) = self.wanted(readers);
        let make = |_: usize, row: &mut [f32], beside: &mut [f32]| {
            make(row, beside);
            true
        };
        Ok(acts.fill_made(self.pool, self.kernels, rows, beside, n, depth, needs, make)?)
    }

    /// Multiplies the rows of `acts` with up to three matrices.
    pub(crate) fn multiply(&self, acts: &ActBuf, products: &mut [(&Matrix, &mut [f32])]) -> Result<(), RuntimeError> {
        for chunk in products.chunks_mut(MAX_SHARED) {
            match chunk {
                [a] => matmul_many(self.pool, self.kernels, acts, &mut [self.product(a)?])?,
                [a, b] => matmul_many(self.pool, self.kernels, acts, &mut [self.product(a)?, self.product(b)?])?,
                [a, b, c] => {
                    let mut list = [self.product(a)?, self.product(b)?, self.product(c)?];
                    matmul_many(self.pool, self.kernels, acts, &mut list)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn product<'o>(&self, (matrix, out): &'o mut (&Matrix, &mut [f32])) -> Result<MatMul<'e, 'o>, RuntimeError> {
        Ok(MatMul { weight: self.view(matrix)?, out })
    }

    /// `out = silu(gate · acts) ⊙ (up · acts)`.
    pub(crate) fn gated(&self, gate: &Matrix, up: &Matrix, acts: &ActBuf, out: &mut [f32]) -> Result<(), RuntimeError> {
        Ok(matmul_swiglu(self.pool, self.kernels, &self.view(gate)?, &self.view(up)?, acts, out)?)
    }

    /// Adds the bias of `linear`, if it has one, to every row.
    pub(crate) fn add_bias(&self, linear: &Linear, rows: &mut [f32]) -> Result<(), RuntimeError> {
        let Some(bias) = &linear.bias else { return Ok(()) };
        let bias = self.weights.vector(bias);
        for row in rows.chunks_exact_mut(bias.len()) {
            ops::add(self.pool, self.kernels, row, bias)?;
        }
        Ok(())
    }

    /// `x += y`.
    pub(crate) fn add(&self, x: &mut [f32], y: &[f32]) -> Result<(), RuntimeError> {
        Ok(ops::add(self.pool, self.kernels, x, y)?)
    }

    /// `x += y`, of one row.
    pub(crate) fn add_row(&self, x: &mut [f32], y: &[f32]) {
        ops::add_row(self.kernels, x, y);
    }

    /// Normalises one row.
    pub(crate) fn rmsnorm_row(&self, x: &[f32], weight: &Vector, eps: f32, out: &mut [f32]) {
        ops::rmsnorm_row(self.kernels, x, self.weights.vector(weight), eps, out);
    }

    /// Normalises every row of `x` into `out`.
    pub(crate) fn rmsnorm(&self, x: &[f32], weight: &Vector, eps: f32, out: &mut [f32]) -> Result<(), RuntimeError> {
        Ok(ops::rmsnorm(self.pool, self.kernels, x, self.weights.vector(weight), eps, out)?)
    }

    /// Turns whole heads by the (cosine, sine) rows.
    pub(crate) fn rope(&self, x: &mut [f32], n_head: usize, head_dim: usize, rows: &[f32]) -> Result<(), RuntimeError> {
        Ok(ops::rope(self.pool, self.kernels, x, n_head, head_dim, head_dim, rows, RopePairs::Interleaved)?)
    }

    /// Expands the embedding rows of `ids`.
    pub(crate) fn embed(&self, matrix: &Matrix, ids: &[u32], out: &mut [f32]) -> Result<(), RuntimeError> {
        Ok(ops::lookup_rows(self.kernels, &self.view(matrix)?, ids, out)?)
    }
}
