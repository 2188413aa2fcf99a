//! safetensors to GGUF, re-quantisation, synthetic checkpoints.
#![forbid(unsafe_code)]

pub mod checkpoint;
mod error;
#[expect(dead_code, reason = "used by the model families")]
mod json;
pub mod mixture;
pub mod output;
pub mod progress;
pub mod vocab;

pub use error::{ConvertError, TensorMismatch};
