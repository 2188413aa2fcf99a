//! The tensors a vision graph is made of.

use ocelli_gguf::Metadata;

use crate::RuntimeError;
use crate::nn::{Form, Linear, Norm};
use crate::weights::{Loader, Matrix, Vector};

/// Takes a graph's tensors from the file.
pub(crate) struct Parts<'l, 'a> {
    loader: &'l mut Loader<'a, ()>,
    pub(crate) meta: &'l Metadata<'a>,
    /// Of every matrix that the loader was asked for, in order.
    forms: Vec<Form>,
    warnings: Vec<String>,
}

impl<'l, 'a> Parts<'l, 'a> {
    pub(super) fn new(loader: &'l mut Loader<'a, ()>, meta: &'l Metadata<'a>) -> Self {
        Self { loader, meta, forms: Vec::new(), warnings: Vec::new() }
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

    fn keep(&mut self, weight: Matrix, form: fn(usize) -> Form, bias: Option<Vector>) -> Linear {
        let form = form(self.forms.len());
        self.forms.push(form);
        Linear { weight, bias, form }
    }

    /// `name.weight` and `name.bias`, to be multiplied in 8 bits by the fast mode.
    pub(crate) fn linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, RuntimeError> {
        let weight = self.loader.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = self.loader.vector(&format!("{name}.bias"), rows)?;
        Ok(self.keep(weight, Form::Int8, Some(bias)))
    }

    /// As [`Parts::linear`], always multiplied in floats.
    pub(crate) fn float_linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, RuntimeError> {
        let bias = self.loader.vector(&format!("{name}.bias"), rows)?;
        let weight = self.loader.matrix(&format!("{name}.weight"), rows, cols)?;
        Ok(self.keep(weight, |_| Form::Float, Some(bias)))
    }

    /// As [`Parts::linear`], without a bias.
    pub(crate) fn unbiased(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, RuntimeError> {
        let weight = self.loader.matrix(&format!("{name}.weight"), rows, cols)?;
        Ok(self.keep(weight, Form::Int8, None))
    }

    /// The kernel of a convolution with its bias, always multiplied in floats.
    pub(crate) fn convolution(&mut self, name: &str, dims: &[usize]) -> Result<Linear, RuntimeError> {
        let weight = self.loader.kernel(&format!("{name}.weight"), dims)?;
        let bias = self.loader.vector(&format!("{name}.bias"), weight.rows())?;
        Ok(self.keep(weight, |_| Form::Float, Some(bias)))
    }

    /// A matrix whose rows are looked up.
    pub(crate) fn table(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, RuntimeError> {
        let weight = self.loader.matrix(name, rows, cols)?;
        Ok(self.keep(weight, |_| Form::Float, None))
    }

    /// `name.weight` and `name.bias` of a layer norm.
    pub(crate) fn norm(&mut self, name: &str, width: usize, eps: f32) -> Result<Norm, RuntimeError> {
        Norm::layer(self.loader, name, width, eps)
    }

    /// The forms of all matrices, in the order of [`crate::weights::Weights::matrices`], and warnings.
    pub(super) fn finish(self) -> (Vec<Form>, Vec<String>) {
        (self.forms, self.warnings)
    }
}
