//! Weights of linear maps and of norms.

use crate::RuntimeError;
use crate::weights::{Loader, Matrix, Vector};

/// What the fast mode multiplies with a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Activations in the form that goes with the format of the file.
    Stored,
    /// Activations in f32, unless the matrix is quantised.
    Float,
    /// 8-bit codes, from which outliers are kept out. A float matrix is number so many of [`super::Int8`]; without that,
    /// rounded activations.
    Int8(usize),
}

/// `y = W x (+ b)`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Vector>,
    pub(crate) form: Form,
}

impl Linear {
    /// A matrix as it is in the file, without a bias.
    pub(crate) fn of(weight: Matrix) -> Self {
        Self { weight, bias: None, form: Form::Stored }
    }

    /// Takes `name.weight` of `rows` × `cols` and, if there is one, `name.bias`.
    pub(crate) fn load(loader: &mut Loader<'_>, name: &str, rows: usize, cols: usize) -> Result<Self, RuntimeError> {
        Ok(Self {
            bias: loader.optional_vector(&format!("{name}.bias"), rows)?,
            ..Self::of(loader.matrix(&format!("{name}.weight"), rows, cols)?)
        })
    }
}

/// A norm of rows.
#[derive(Debug, Clone)]
pub(crate) enum Norm {
    /// `x / rms(x) ⊙ weight`.
    Rms { weight: Vector, eps: f32 },
    /// `(x − mean(x)) / std(x) ⊙ weight + bias`.
    Layer { weight: Vector, bias: Vector, eps: f32 },
}

impl Norm {
    /// Takes `name.weight` of an RMS norm, with the model's epsilon.
    pub(crate) fn rms(loader: &mut Loader<'_>, name: &str) -> Result<Self, RuntimeError> {
        let (n_embd, eps) = (loader.config().n_embd, loader.config().rms_eps);
        Ok(Self::Rms { weight: loader.vector(&format!("{name}.weight"), n_embd)?, eps })
    }

    /// Takes `name.weight` and `name.bias` of a layer norm.
    pub(crate) fn layer<C>(
        loader: &mut Loader<'_, C>,
        name: &str,
        width: usize,
        eps: f32,
    ) -> Result<Self, RuntimeError> {
        let weight = loader.vector(&format!("{name}.weight"), width)?;
        Ok(Self::Layer { weight, bias: loader.vector(&format!("{name}.bias"), width)?, eps })
    }
}
