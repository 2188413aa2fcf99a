//! Judging a model: by its answers, by how well it foresees a text, and beside another implementation.
//!
//! ```text
//! questions     datasets of questions about pictures, rules that score answers, sums
//! perplexity    how well a model foresees a text; divergence from another model's logits
//! probe         what a model computes for a prompt, in a file
//! ```
#![forbid(unsafe_code)]

pub mod perplexity;
pub mod probe;
pub mod questions;
