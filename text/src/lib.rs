//! Text around a language model: what comes before the first layer and after the last one.
//!
//! ```text
//!   messages ──► template ──► prompt ──► tokenizer ──► ids ──► (the model) ──► logits
//!                                                                                │
//!   text     ◄── tokenizer::TokenDecoder ◄── id ◄── sampler::SamplerChain ◄──────┘
//!
//!   tokenizer   the vocabulary of a GGUF file: SentencePiece or byte-level BPE, special tokens, UTF-8 across tokens
//!   template    Jinja chat templates; those of model files run in a worker process of limited time and memory
//!   sampler     llama.cpp's chain of samplers, from logits to the next token, reproducible by its seed
//! ```
//!
//! All three take what they need from the metadata of a GGUF file, and none of them knows a model: there are no tensors,
//! no kernels and no caches here.
#![forbid(unsafe_code)]

pub mod sampler;
pub mod template;
pub mod tokenizer;

pub use sampler::{SamplerChain, SamplerError, SamplerParams};
pub use template::{ChatTemplate, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
