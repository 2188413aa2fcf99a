//! Names for the ways byte-level tokenizers split text before merging.
//!
//! GGUF names a pre-tokenizer (`tokenizer.ggml.pre`) instead of describing it. `tokenizer.json` describes it, so the
//! name is found by comparing the description with those of the tokenizers that the names stand for. Several names
//! stand for the same splitting rules; among these the choice follows the normaliser, `ignore_merges` and the
//! decoding option in `tokenizer_config.json`.

use serde_json::Value;

use super::VocabError;
use super::hf::{Sources, TokenizerFile, steps};

/// Names that are recognised or accepted from the user.
pub const KNOWN: &[&str] = &[
    "default",
    "llama-bpe",
    "smaug-bpe",
    "dbrx",
    "qwen2",
    "stablelm2",
    "gpt-2",
    "mpt",
    "olmo",
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
    "falcon",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "deepseek-r1-qwen",
    "tekken",
    "gpt-4o",
    "minicpm5",
];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// How the second rule of `deepseek-llm` begins; the rest lists the ranges of cased letters.
const DEEPSEEK_LLM_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-";

/// One step of a pre-tokenizer, reduced to what decides the splitting.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Split around every match of a regular expression.
    Split(String),
    /// Split digits off, each by itself or in runs.
    Digits { single: bool },
    /// Split runs of punctuation off.
    Punctuation,
    /// Map bytes to printable characters, with or without the splitting rules of GPT-2.
    Bytes { gpt2: bool },
    /// Anything else.
    Other(String),
}

/// Refuses a name that no reader of GGUF files knows.
pub(super) fn check_name(name: &str) -> Result<(), VocabError> {
    if KNOWN.contains(&name) {
        return Ok(());
    }
    Err(VocabError::BadPre { name: name.to_owned(), known: KNOWN.join(", ") })
}

/// The name of the pre-tokenizer in `file`.
pub(super) fn recognise(sources: &Sources, file: &TokenizerFile) -> Result<&'static str, VocabError> {
    let found: Vec<Step> = steps(&file.pre_tokenizer, "pretokenizers").into_iter().map(step).collect();
    if !found.iter().any(|s| matches!(s, Step::Bytes { .. })) {
        return Err(VocabError::Unsupported {
            path: file.path.clone(),
            what: "the BPE model has neither byte_fallback nor a ByteLevel pre-tokenizer".into(),
        });
    }
    let normalizers = steps(&file.normalizer, "normalizers");
    let nfc = normalizers.iter().any(|n| n.get("type").and_then(Value::as_str) == Some("NFC"));
    // StarCoder-like names differ only in whether decoding tidies spaces before punctuation.
    let tidy = sources.config_value("clean_up_tokenization_spaces")?.and_then(|v| v.as_bool()) == Some(true);
    let fim = file.model.vocab.get("<fim_prefix>").is_some() || file.added.iter().any(|t| t.content == "<fim_prefix>");
    let starcoder = file.added.iter().any(|t| t.content == "<file_sep>" || t.content == "<jupyter_text>");

    let splits: Vec<&str> = found
        .iter()
        .filter_map(|s| match s {
            Step::Split(regex) => Some(regex.as_str()),
            _ => None,
        })
        .collect();
    let plain = matches!(found.last(), Some(Step::Bytes { gpt2: false }));
    let name = match (found.as_slice(), splits.as_slice()) {
        ([Step::Bytes { gpt2: true }], _) => Some(if nfc { "mpt" } else { "gpt-2" }),
        ([Step::Digits { single: true }, Step::Bytes { gpt2: true }], _) => Some(match (nfc, fim, starcoder, tidy) {
            (true, ..) => "command-r",
            (false, true, false, _) => "refact",
            (false, _, _, true) | (false, true, true, _) => "starcoder",
            (false, false, ..) => "smollm",
        }),
        ([Step::Punctuation, Step::Bytes { gpt2: true }, Step::Digits { single: false }, Step::Split(three)], _)
            if is_three_digits(three) =>
        {
            Some("falcon")
        }
        ([Step::Punctuation, Step::Bytes { gpt2: true }, Step::Digits { single: false }], _) => Some("default"),
        ([Step::Split(_), Step::Bytes { gpt2: false }], [regex]) => match *regex {
            LLAMA3 if file.model.ignore_merges() => Some("llama-bpe"),
            LLAMA3 => Some("smaug-bpe"),
            QWEN2 => Some("qwen2"),
            TEKKEN => Some("tekken"),
            GPT4O => Some("gpt-4o"),
            _ => None,
        },
        (_, [r"\p{N}{1,3}", MINICPM5]) if plain => Some("minicpm5"),
        (_, [r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK3]) if plain => Some("deepseek-v3"),
        (_, ["[\r\n]", letters, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", cjk])
            if plain && letters.starts_with(DEEPSEEK_LLM_LETTERS) && is_cjk(cjk) =>
        {
            Some("deepseek-llm")
        }
        (_, ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", cjk]) if plain && is_cjk(cjk) => Some("deepseek-coder"),
        _ => None,
    };
    name.ok_or_else(|| VocabError::UnknownPre {
        path: file.path.clone(),
        found: shorten(&file.pre_tokenizer.to_string()),
        known: KNOWN.join(", "),
    })
}

fn is_three_digits(regex: &str) -> bool {
    matches!(regex, "[0-9][0-9][0-9]" | "[0-9]{3}")
}

fn is_cjk(regex: &str) -> bool {
    regex.starts_with("[一-龥ࠀ-一가-")
}

fn step(value: &Value) -> Step {
    let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    match value.get("type").and_then(Value::as_str) {
        Some("ByteLevel") if !flag("add_prefix_space", true) => Step::Bytes { gpt2: flag("use_regex", true) },
        Some("Digits") => Step::Digits { single: flag("individual_digits", false) },
        Some("Punctuation") => Step::Punctuation,
        Some("Split") => match value.get("pattern").and_then(|p| p.get("Regex")).and_then(Value::as_str) {
            // A real line feed in a pattern means the same as its escape.
            Some("[\\r\\n]") => Step::Split("[\r\n]".into()),
            Some(regex) if regex.contains(['\r', '\n']) && regex.len() > 8 => {
                Step::Split(regex.replace('\r', "\\r").replace('\n', "\\n"))
            }
            Some(regex) => Step::Split(regex.into()),
            None => Step::Other(value.to_string()),
        },
        _ => Step::Other(value.to_string()),
    }
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(300).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
