//! safetensors to GGUF, re-quantisation, synthetic checkpoints.
//!
//! [`convert()`] reads a Hugging Face checkpoint and writes GGUF files:
//!
//! ```text
//! config.json ──▶ family: which tensors, names, shapes, keys ─┐
//! tokenizer   ──▶ vocab:  arrays and special ids             ─┼─▶ plan ─▶ types ─▶ pipeline ─▶ files
//! safetensors ──▶ checkpoint: checked table of tensors       ─┘                      ▲
//!       └───────────────── strips of rows ───────────────────────────────────────────┘
//! ```
#![forbid(unsafe_code)]

pub mod checkpoint;
mod compare;
mod convert;
mod error;
mod family;
mod general;
pub mod imatrix;
pub mod inspect;
mod json;
pub mod mixture;
mod nearest;
mod pipeline;
mod plan;
pub mod progress;
pub mod read;
pub mod requantize;
mod rope;
mod source;
pub mod synth;
mod text_table;
mod types;
pub mod vocab;

pub use convert::{ConvertOptions, ConvertReport, Part, WrittenFile, convert};
pub use error::{ConvertError, TensorMismatch};
pub use types::VisionType;
