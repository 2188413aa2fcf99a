//! Llama-shaped text models on the CPU.

pub mod tokenizer;
