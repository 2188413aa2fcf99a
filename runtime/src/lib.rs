//! Llama-shaped text models on the CPU.
