//! Tokenizer files of a Hugging Face directory as GGUF arrays.
//!
//! ```text
//! tokenizer.model (SentencePiece BPE) ─┐
//! tokenizer.json  (BPE with ▁)         ├─► tokens, scores, types        model "llama"
//! tokenizer.json  (byte-level BPE)     ──► tokens, types, merges, pre   model "gpt2"
//! tokenizer_config.json, config.json, generation_config.json ─► special ids, add flags
//! chat_template.jinja and three other places ─► chat templates
//! ```
//!
//! `tokenizer.model` supplies the tokens where both it and `tokenizer.json` exist, because it holds the true scores; the
//! two must be the same vocabulary. Added tokens are taken from every file that names them. From a
//! `tokenizer.json` alone the scores are rebuilt: merging by descending score gives the same tokens as the list of
//! merges if a token's score is minus the rank of the first merge that makes it.

mod added;
mod bytelevel;
mod error;
mod files;
mod hf;
mod merges;
mod pre;
mod proto;
mod sentencepiece;
mod special;
mod template;

use std::path::Path;

use ocelli_gguf::{MetaArray, MetaValue};
use serde_json::Value;

use crate::json::Section;

pub use error::VocabError;
pub use pre::KNOWN as KNOWN_PRE_TOKENIZERS;
pub use special::{SpecialKind, SpecialTokens};
pub use template::ChatTemplates;

/// Kind of a token, with GGUF's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenType {
    /// Ordinary text.
    Normal = 1,
    /// Stands for text the vocabulary cannot express.
    Unknown = 2,
    /// Structure rather than text, for example `<s>`.
    Control = 3,
    /// Added text that is matched before anything else.
    UserDefined = 4,
    /// A row of the embedding that no text reaches.
    Unused = 5,
    /// One byte, `<0xHH>`.
    Byte = 6,
}

/// Which algorithm the arrays are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VocabModel {
    /// SentencePiece-like: merge by score, spaces as "▁".
    Llama,
    /// Byte-level BPE: pre-split by regular expressions, merge by rank.
    Gpt2,
}

impl VocabModel {
    /// The value of `tokenizer.ggml.model`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Gpt2 => "gpt2",
        }
    }
}

/// What the model's configuration says about its vocabulary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VocabConfig {
    /// `vocab_size`: rows of the embedding. `None`: as many as there are tokens.
    pub vocab_size: Option<usize>,
    /// `<kind>_token_id` keys that hold one number.
    pub ids: Vec<(SpecialKind, u32)>,
    /// All ids that end a generation: `eos_token_id`, a number or a list.
    pub stop_ids: Vec<u32>,
    /// The pre-tokenizer to write for a byte-level vocabulary instead of the recognised one.
    pub pre: Option<String>,
}

impl VocabConfig {
    /// As [`VocabConfig::from_json`], from a file.
    pub(crate) fn from_section(config: &Section) -> Result<Self, crate::ConvertError> {
        let text = config.section("text_config").ok();
        let mut map = serde_json::Map::new();
        let ids = SpecialKind::CONFIGURED.map(|kind| format!("{}_token_id", kind.name()));
        for key in ids.iter().map(String::as_str).chain(["vocab_size"]) {
            let value = match config.get(key)? {
                Some(value) => Some(value),
                None => text.as_ref().map(|text| text.get(key)).transpose()?.flatten(),
            };
            map.extend(value.map(|value| (key.to_owned(), value)));
        }
        Ok(Self::from_json(&Value::Object(map))?)
    }

    /// Takes what concerns the vocabulary from `config.json` (its top level, then its `text_config`).
    ///
    /// # Errors
    /// [`VocabError::Config`] when `vocab_size` or a token id has a type or value it cannot have.
    pub fn from_json(config: &Value) -> Result<Self, VocabError> {
        let text = config.get("text_config");
        let find =
            |key: &str| config.get(key).filter(|v| !v.is_null()).or_else(|| text?.get(key)).filter(|v| !v.is_null());
        let bad = |key: &str, problem: String| VocabError::Config { key: key.to_owned(), problem };
        let mut out = Self::default();
        if let Some(value) = find("vocab_size") {
            let size = value.as_u64().and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0);
            let size = size.ok_or_else(|| bad("vocab_size", format!("expected a positive number, found {value}")))?;
            out.vocab_size = Some(size as usize);
        }
        for kind in SpecialKind::CONFIGURED {
            let key = format!("{}_token_id", kind.name());
            match find(&key) {
                Some(Value::Array(list)) if kind == SpecialKind::Eos => out.stop_ids = special::stop_list(&key, list)?,
                Some(value) => {
                    if let Some(id) = special::optional_id(&key, value)? {
                        out.ids.push((kind, id));
                        if kind == SpecialKind::Eos {
                            out.stop_ids.push(id);
                        }
                    }
                }
                None => {}
            }
        }
        Ok(out)
    }
}

/// A vocabulary in GGUF's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocab {
    /// The algorithm.
    pub model: VocabModel,
    /// `tokenizer.ggml.pre`.
    pub pre: String,
    /// Token texts by id.
    pub tokens: Vec<String>,
    /// Scores by id; empty for [`VocabModel::Gpt2`].
    pub scores: Vec<f32>,
    /// Types by id.
    pub types: Vec<TokenType>,
    /// Merges, first merged first; empty for [`VocabModel::Llama`].
    pub merges: Vec<String>,
    /// Ids with a meaning of their own.
    pub special: SpecialTokens,
    /// `tokenizer.ggml.add_space_prefix`, where the checkpoint says so.
    pub add_space_prefix: Option<bool>,
    /// Chat templates.
    pub templates: ChatTemplates,
    /// What a user should know: parts of the tokenizer that GGUF cannot express, ids that were ignored.
    pub notes: Vec<String>,
    /// Where files disagree, and which was taken.
    pub warnings: Vec<String>,
}

/// Reads the tokenizer of the checkpoint in `dir`.
///
/// # Errors
/// When there is no tokenizer, a file is damaged or too large, the tokenizer is of a kind GGUF's `llama` and `gpt2`
/// models cannot express, its ids do not fit `config`, or two tokens have the same text.
pub fn load(dir: &Path, config: &VocabConfig) -> Result<Vocab, VocabError> {
    if let Some(name) = &config.pre {
        pre::check_name(name)?;
    }
    let sources = hf::Sources::read(dir)?;
    let mut vocab = if let Some(vocab) = sentencepiece::load(dir, config, &sources)? {
        vocab
    } else if let Some(file) = &sources.tokenizer {
        file.need_bpe()?;
        if file.model.byte_fallback() {
            hf::load(config, &sources, file)?
        } else {
            bytelevel::load(config, &sources, file)?
        }
    } else {
        let hint = if dir.join("vocab.json").is_file() {
            "; vocab.json alone is not enough, save the tokenizer as tokenizer.json with the tokenizers library first"
        } else {
            ""
        };
        return Err(VocabError::Missing {
            dir: dir.to_owned(),
            looked_for: "tokenizer.model (SentencePiece) and tokenizer.json",
            hint,
        });
    };
    check_unique(&vocab.tokens)?;
    mark_special(&mut vocab, &sources)?;
    special::resolve(&mut vocab, config, &sources)?;
    vocab.templates = template::load(dir, sources.config.as_ref(), &mut vocab.warnings)?;
    Ok(vocab)
}

impl Vocab {
    /// A vocabulary without tokens.
    fn empty(model: VocabModel, pre: &str) -> Self {
        Self {
            model,
            pre: pre.to_owned(),
            tokens: Vec::new(),
            scores: Vec::new(),
            types: Vec::new(),
            merges: Vec::new(),
            special: Default::default(),
            add_space_prefix: None,
            templates: Default::default(),
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The `tokenizer.*` entries in the order they are written.
    #[must_use]
    pub fn metadata(&self) -> Vec<(String, MetaValue)> {
        let mut out: Vec<(String, MetaValue)> = Vec::new();
        let mut put = |key: &str, value: MetaValue| out.push((format!("tokenizer.{key}"), value));
        if let Some(add) = self.add_space_prefix {
            put("ggml.add_space_prefix", MetaValue::Bool(add));
        }
        put("ggml.model", MetaValue::String(self.model.name().to_owned()));
        put("ggml.pre", MetaValue::String(self.pre.clone()));
        put("ggml.tokens", MetaValue::Array(MetaArray::String(self.tokens.clone())));
        if !self.scores.is_empty() {
            put("ggml.scores", MetaValue::Array(MetaArray::F32(self.scores.clone())));
        }
        let types = self.types.iter().map(|t| *t as i32).collect();
        put("ggml.token_type", MetaValue::Array(MetaArray::I32(types)));
        if !self.merges.is_empty() {
            put("ggml.merges", MetaValue::Array(MetaArray::String(self.merges.clone())));
        }
        for (kind, id) in &self.special.ids {
            if let Some(key) = kind.key() {
                put(key, MetaValue::U32(*id));
            }
        }
        for (kind, add) in &self.special.add {
            if matches!(kind, SpecialKind::Bos | SpecialKind::Eos | SpecialKind::Sep) {
                put(&format!("ggml.add_{}_token", kind.name()), MetaValue::Bool(*add));
            }
        }
        for (name, text) in &self.templates.named {
            put(&format!("chat_template.{name}"), MetaValue::String(text.clone()));
        }
        if !self.templates.named.is_empty() {
            let names = self.templates.named.iter().map(|(name, _)| name.clone()).collect();
            put("chat_templates", MetaValue::Array(MetaArray::String(names)));
        }
        if let Some(text) = &self.templates.default {
            put("chat_template", MetaValue::String(text.clone()));
        }
        out
    }
}

/// Checks that every text leads back to one id. By sorting: a table of texts would take more than the vocabulary.
fn check_unique(tokens: &[String]) -> Result<(), VocabError> {
    let text = |id: u32| tokens.get(id as usize).map_or("", String::as_str);
    let mut order: Vec<u32> = (0..u32::try_from(tokens.len()).unwrap_or(u32::MAX)).collect();
    order.sort_unstable_by(|a, b| text(*a).cmp(text(*b)).then(a.cmp(b)));
    let twice = order.windows(2).filter_map(|pair| match pair {
        [a, b] if text(*a) == text(*b) => Some((*b, *a)),
        _ => None,
    });
    match twice.min() {
        Some((second, first)) => Err(VocabError::DuplicateText {
            text: text(second).to_owned(),
            first: first as usize,
            second: second as usize,
        }),
        None => Ok(()),
    }
}

/// Makes control tokens of those that a file calls special without giving an id.
fn mark_special(vocab: &mut Vocab, sources: &hf::Sources) -> Result<(), VocabError> {
    let texts: std::collections::HashSet<String> = added::special_texts(sources)?.into_iter().collect();
    for (text, kind) in vocab.tokens.iter().zip(&mut vocab.types) {
        if matches!(kind, TokenType::Normal | TokenType::UserDefined) && texts.contains(text) {
            *kind = TokenType::Control;
        }
    }
    Ok(())
}

/// Whether an added token is a control token although the checkpoint does not mark it as special.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// Text and type of an added token: user-defined texts are matched against the raw text, so their "▁" is a space.
fn added_token(text: &str, special: bool) -> (String, TokenType) {
    if special || looks_special(text) {
        (text.to_owned(), TokenType::Control)
    } else {
        (text.replace('▁', " "), TokenType::UserDefined)
    }
}

#[cfg(test)]
mod tests;
