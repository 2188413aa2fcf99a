//! Llama-shaped text models and their vision towers on the CPU: a GGUF file on its way through the kernels.
//!
//! ```text
//! Exec           kernels and threads, shared by everything that computes
//! Model          mapped weights, hyperparameters, one of the registered architectures
//! Context        a model with threads, cache and buffers: rows of conversations in, logits out
//! VisionEncoder  a vision model with buffers: slices of pictures in, rows of embeddings out
//! Media          pictures and videos, read, sliced, encoded, remembered
//! ```
//!
//! [`kv`] is the pool of keys and values with its prefix cache, [`rope`] the rotary embedding, [`weights`] the checked view of a
//! file's tensors. Who talks to whom, and when, is the business of the crate `ocelli-engine`.
#![deny(unsafe_code)]

mod batch;
pub mod bench;
mod config;
mod context;
mod error;
mod exec;
pub mod identity;
mod image_cache;
pub mod kv;
mod layers;
pub mod media;
pub mod memory;
#[allow(unsafe_code)]
mod mmap;
mod model;
mod models;
mod nn;
mod prompt;
pub mod rope;
pub mod session_file;
mod threads;
pub mod vision;
mod vision_file;
pub mod weights;

pub use batch::Batch;
pub use config::Config;
pub use context::{Context, ContextOptions, EachLogits};
pub use error::RuntimeError;
pub use exec::Exec;
pub use identity::IdentityCache;
pub use image_cache::ImageCache;
#[doc(hidden)]
pub use image_cache::decode as decode_image_file;
pub use kv::Sequence;
pub use layers::LayerProbe;
pub use mmap::{FileOptions, ModelFile};
pub use model::{BuiltinFactors, LoadOptions, Model, architectures};
pub use ocelli_kernels::{HalfWeights, Kernels, Precision};
pub use prompt::{Attachment, ImageEmbedding, Prompt, PromptView};
pub use threads::physical_cores;
pub use vision_file::find_beside;
