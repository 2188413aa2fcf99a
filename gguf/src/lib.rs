//! GGUF files: checked reader of borrowed views, streaming writer.
#![forbid(unsafe_code)]
