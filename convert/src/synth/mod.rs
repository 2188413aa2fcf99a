//! Made-up checkpoints: real names, shapes and files, random weights.
//!
//! Tests and benchmarks stand on them, and a machine can be measured without downloading the real model. The same
//! preset and seed give the same bytes on every machine, whatever the number of threads.

mod files;
mod gguf;
mod preset;
mod rng;
mod tokenizer;
mod tokenizer_files;
mod weights;
mod write;

pub use gguf::write_gguf;
pub use preset::{Preset, TextShape, VisionShape};
pub use weights::{SynthTensor, SynthWeights};
pub use write::{SynthOptions, SynthReport, write_checkpoint};
