//! safetensors to GGUF, re-quantisation, synthetic checkpoints.
#![forbid(unsafe_code)]
