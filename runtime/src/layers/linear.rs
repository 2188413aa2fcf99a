//! A matrix with an optional bias.

use crate::RuntimeError;
use crate::weights::{Loader, Matrix, Vector};

/// `y = W x (+ b)`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Vector>,
}

impl Linear {
    /// Takes `name.weight` of `rows` × `cols` and, if there is one, `name.bias`.
    pub(crate) fn load(loader: &mut Loader<'_>, name: &str, rows: usize, cols: usize) -> Result<Self, RuntimeError> {
        Ok(Self {
            weight: loader.matrix(&format!("{name}.weight"), rows, cols)?,
            bias: loader.optional_vector(&format!("{name}.bias"), rows)?,
        })
    }
}
