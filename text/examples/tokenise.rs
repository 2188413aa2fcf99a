//! Cuts a sentence into tokens and puts it together again: `cargo run -p ocelli-text --example tokenise -- "SENTENCE"`.
//! The vocabulary, made here, has the letters and a few longer pieces; bytes that it cannot spell have tokens too.

use std::{error::Error, io::Write as _};

use ocelli_gguf::{Gguf, GgufWriter};
use ocelli_text::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let sentence = std::env::args().nth(1).unwrap_or_else(|| "the owl sees the cat – ¡ojo!".to_owned());
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(('a'..='z').map(String::from));
    tokens.extend(["▁", "th", "he", "the", "▁the", "ow", "owl", "▁owl", "se", "at"].map(String::from));
    let types: Vec<i32> =
        (0..tokens.len()).map(|id| [2, 3, 3].get(id).copied().unwrap_or(if id < 259 { 6 } else { 1 })).collect();
    // Pairs are merged in the order of their score.
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();

    let mut file = GgufWriter::new();
    file.kv("tokenizer.ggml.model", "llama".to_owned())?.kv("tokenizer.ggml.tokens", tokens.clone())?;
    file.kv("tokenizer.ggml.token_type", types)?.kv("tokenizer.ggml.scores", scores)?;
    let bytes = file.start(Vec::new())?.finish()?;
    let tokenizer = Tokenizer::from_gguf(&Gguf::parse(&bytes)?)?;

    let ids = tokenizer.encode(&sentence, false, false)?;
    let pieces: Vec<&str> = ids.iter().filter_map(|&id| tokens.get(id as usize).map(String::as_str)).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{sentence:?} has {} tokens: {}", ids.len(), pieces.join(" "))?;
    writeln!(out, "decoded: {:?}", tokenizer.decode(&ids, false))?;
    Ok(())
}
