//! What text layers and vision graphs are both made of: linear maps, norms, and the calls that compute with them.
//!
//! ```text
//! Linear, Norm    positions of weights in a file, and how products with them are computed
//! Inputs          rows in the forms that products take, and the values kept out of 8-bit codes
//! Int8            8-bit rows made of float matrices, for the fast mode
//! Engine          kernels, threads, precision and weights of one pass: prepares, multiplies, normalises
//! ```
//!
//! A product has two steps. [`Engine::prepare`] turns rows into the forms that its readers want; [`Engine::multiply`]
//! multiplies them with up to three matrices at once.

mod engine;
mod int8;
mod linear;
mod outliers;

pub(crate) use engine::{Engine, Keep};
pub(crate) use int8::Int8;
pub(crate) use linear::{Form, Linear, Norm};
pub(crate) use outliers::{Inputs, LIMIT, LIMIT_GELU};
