//! Llama-shaped text models on the CPU: GGUF in, text out.
//!
//! ```text
//! Exec      kernels and threads, shared by everything that computes
//! Model     mapped weights, hyperparameters, one of the registered architectures
//! Context   a model with cache and buffers: tokens in, logits out
//! Session   one conversation in a context: computes only what is new, saves and restores
//! ```
//!
//! [`ocelli_text`] turns a conversation into a prompt, text into ids and back, and logits into the next id; [`ocelli_image`]
//! turns pictures and videos into slices. [`Chat`] holds a whole conversation. [`perplexity`], [`eval`], [`probe`] and [`mod@bench`] measure
//! a model; [`kv`] is the paged cache, [`rope`] the rotary embedding, [`weights`] the checked view of a file's tensors.
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
