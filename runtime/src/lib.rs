//! Llama-shaped text models on the CPU: GGUF in, text out.
//!
//! ```text
//! Model     mapped weights, hyperparameters, one of the registered architectures
//! Context   a model with threads, cache and buffers: tokens in, logits out
//! Session   one conversation in a context: computes only what is new, saves and restores
//! ```
//!
//! [`ocelli_text`] turns a conversation into a prompt, text into ids and back, and logits into the next id; [`ocelli_image`]
//! turns pictures and videos into slices. [`Chat`] holds a whole conversation. [`perplexity`], [`eval`], [`probe`] and [`mod@bench`] measure
//! a model; [`kv`] is the paged cache, [`rope`] the rotary embedding, [`weights`] the checked view of a file's tensors.
#![deny(unsafe_code)]

pub mod bench;
mod chat;
mod chat_note;
mod config;
mod context;
mod error;
pub mod eval;
mod generate;
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
pub mod perplexity;
mod placement;
pub mod probe;
mod prompt;
pub mod rope;
mod session;
mod session_file;
mod threads;
pub mod vision;
mod vision_file;
pub mod weights;

pub use chat::{Chat, SavedChat, render};
pub use config::Config;
pub use context::{Context, ContextOptions, EachLogits, Sequence};
pub use error::RuntimeError;
pub use generate::{Assets, Completion, Watch, complete};
pub use identity::IdentityCache;
pub use image_cache::ImageCache;
#[doc(hidden)]
pub use image_cache::decode as decode_image_file;
pub use layers::LayerProbe;
pub use mmap::{FileOptions, ModelFile};
pub use model::{BuiltinFactors, LoadOptions, Model, architectures};
pub use ocelli_kernels::Precision;
pub use placement::{Attachment, compose, conversation_prompt, marker, text_prompt, without_markers};
pub use prompt::{ImageEmbedding, Prompt, PromptView};
pub use session::{Prefill, SavedSession, Session, SessionKind, Stop};
pub use threads::physical_cores;
pub use vision_file::find_beside;
