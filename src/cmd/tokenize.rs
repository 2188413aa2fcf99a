//! `ocelli tokenize`: how a model cuts a text into tokens. Reads only the header of the model file.

use std::io::Write;
use std::path::PathBuf;

use super::names;
use crate::sink::{self, errln};
use anyhow::Context;
use ocelli_gguf::read_header;
use ocelli_text::tokenizer::Tokenizer;

/// Options of `ocelli tokenize`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("text").required(true))]
pub(crate) struct Args {
    /// Model file (GGUF; the first part of a split model is enough) or name of a model.
    #[arg(short, long, value_name = "FILE|NAME")]
    model: PathBuf,
    /// The text.
    #[arg(short, long, value_name = "TEXT", group = "text", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the text from a file (`-` for standard input).
    #[arg(short, long, value_name = "FILE", group = "text")]
    file: Option<PathBuf>,
    /// Read the text from standard input.
    #[arg(long, group = "text")]
    stdin: bool,
    /// Print only the ids, as `[1, 2, 3]`.
    #[arg(long, conflicts_with = "json")]
    ids: bool,
    /// Add no BOS (or EOS) token, even if the model wants one.
    #[arg(long)]
    no_bos: bool,
    /// Treat control tokens in the text, such as `<|im_start|>`, as ordinary text.
    #[arg(long)]
    no_parse_special: bool,
    /// Also print the number of tokens.
    #[arg(long)]
    show_count: bool,
    /// Print one JSON object with the id and text of each token (bytes where a token is not whole characters).
    #[arg(long)]
    json: bool,
}

/// Prints the tokens of a text.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let model = names::find(&args.model)?.text;
    let shown = model.display();
    let header = read_header(&model).with_context(|| format!("cannot read {shown}"))?;
    let gguf = header.view().with_context(|| format!("cannot read {shown}"))?;
    let tokenizer = Tokenizer::from_gguf(&gguf).with_context(|| format!("cannot use the vocabulary of {shown}"))?;
    for note in tokenizer.notes() {
        errln!("ocelli: note: {note}");
    }
    let text = read_text(&args)?;
    let ids = tokenizer.encode(&text, !args.no_bos, !args.no_parse_special)?;

    if args.json {
        let tokens: Vec<_> = ids
            .iter()
            .map(|&id| {
                let piece = tokenizer.piece(id, true);
                match std::str::from_utf8(&piece) {
                    Ok(text) => serde_json::json!({ "id": id, "piece": text }),
                    Err(_) => serde_json::json!({ "id": id, "piece": piece.as_ref() }),
                }
            })
            .collect();
        return sink::json(&serde_json::json!({ "tokens": tokens, "count": ids.len() }));
    }
    let mut out = Vec::new();
    if args.ids {
        let list: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "[{}]", list.join(", "))?;
    } else {
        for &id in &ids {
            write!(out, "{id:6} -> '")?;
            // Raw bytes: a token need not be whole characters, and together they are the text again.
            out.write_all(&tokenizer.piece(id, true))?;
            writeln!(out, "'")?;
        }
    }
    if args.show_count {
        writeln!(out, "Total number of tokens: {}", ids.len())?;
    }
    Ok(sink::out_bytes(&out)?)
}

fn read_text(args: &Args) -> anyhow::Result<String> {
    if let Some(text) = &args.prompt {
        return Ok(text.clone());
    }
    let path = args.file.as_deref().unwrap_or("-".as_ref());
    super::common::read_text(path)
}
