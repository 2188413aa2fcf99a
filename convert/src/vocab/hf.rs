//! `tokenizer.json` and `tokenizer_config.json`, and vocabularies of the SentencePiece kind made from them alone.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::added::{self, AddedToken};
use super::files::{self, json_error};
use super::merges::Merges;
use super::{TokenType, Vocab, VocabConfig, VocabError, VocabModel, added_token};
use crate::json::{self, Object};
use crate::text_table::TextTable;

/// The JSON files that more than one part of the conversion needs.
pub(super) struct Sources {
    pub(super) dir: PathBuf,
    pub(super) config: Option<Object>,
    pub(super) config_path: PathBuf,
    pub(super) tokenizer: Option<TokenizerFile>,
    pub(super) generation: Option<Object>,
    pub(super) generation_path: PathBuf,
    /// `special_tokens_map.json`.
    pub(super) special_map: Option<Object>,
    /// `added_tokens_decoder` of `tokenizer_config.json`.
    pub(super) decoder: Vec<AddedToken>,
    /// `added_tokens.json`: texts and ids.
    pub(super) listed: Option<TextTable>,
}

/// `tokenizer.json`, as far as it concerns GGUF.
pub(super) struct TokenizerFile {
    pub(super) path: PathBuf,
    /// The type of the model; only that of BPE is read.
    pub(super) kind: String,
    pub(super) model: Bpe,
    pub(super) added: Vec<AddedToken>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
}

/// The BPE model of a `tokenizer.json`.
#[derive(Deserialize, Default)]
pub(super) struct Bpe {
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) vocab: TextTable,
    #[serde(default)]
    pub(super) merges: Merges,
}

impl Bpe {
    /// Whether unknown characters become byte tokens: a vocabulary of the SentencePiece kind.
    pub(super) fn byte_fallback(&self) -> bool {
        self.byte_fallback == Some(true)
    }

    /// Whether words that are tokens are not merged piece by piece.
    pub(super) fn ignore_merges(&self) -> bool {
        self.ignore_merges == Some(true)
    }
}

impl Sources {
    pub(super) fn read(dir: &Path) -> Result<Self, VocabError> {
        let config_path = dir.join("tokenizer_config.json");
        let generation_path = dir.join("generation_config.json");
        let config = Object::read(&config_path)?;
        let listed_path = dir.join("added_tokens.json");
        let listed = match json::text(&listed_path, files::MAX_JSON)? {
            Some(text) => Some(json::typed(&listed_path, &text)?),
            None => None,
        };
        Ok(Self {
            dir: dir.to_owned(),
            decoder: added::decoder(config.as_ref())?,
            config,
            tokenizer: TokenizerFile::read(dir.join("tokenizer.json"))?,
            generation: Object::read(&generation_path)?,
            special_map: Object::read(&dir.join("special_tokens_map.json"))?,
            listed,
            config_path,
            generation_path,
        })
    }

    /// A key of `tokenizer_config.json`; null counts as absent.
    pub(super) fn config_value(&self, key: &str) -> Result<Option<Value>, VocabError> {
        match &self.config {
            Some(config) => Ok(config.value(key)?),
            None => Ok(None),
        }
    }

    /// `add_prefix_space`, where it is set.
    pub(super) fn add_prefix_space(&self) -> Result<Option<bool>, VocabError> {
        Ok(self.config_value("add_prefix_space")?.and_then(|v| v.as_bool()))
    }
}

impl TokenizerFile {
    fn read(path: PathBuf) -> Result<Option<Self>, VocabError> {
        #[derive(Deserialize)]
        struct Root<'a> {
            #[serde(borrow)]
            added_tokens: Option<&'a RawValue>,
            #[serde(borrow)]
            normalizer: Option<&'a RawValue>,
            #[serde(borrow)]
            pre_tokenizer: Option<&'a RawValue>,
            #[serde(borrow)]
            post_processor: Option<&'a RawValue>,
            #[serde(borrow)]
            model: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Kind {
            r#type: Option<String>,
        }
        let Some(text) = json::text(&path, files::MAX_TOKENIZER_JSON)? else { return Ok(None) };
        if !text.trim_start().starts_with('{') {
            return Err(json_error(&path, "the top level must be a JSON object"));
        }
        let root: Root<'_> = json::typed(&path, &text)?;
        let part = |key: &str, raw: Option<&RawValue>| raw.map_or(Ok(Value::Null), |raw| json::small(&path, key, raw));
        let added = match root.added_tokens {
            Some(raw) => added::list(&path, raw)?,
            None => Vec::new(),
        };
        let raw_model = root.model.map_or("{}", RawValue::get);
        // Files from before the key existed hold only BPE models.
        let kind = json::typed::<Kind>(&path, raw_model)?.r#type.unwrap_or_else(|| "BPE".to_owned());
        let model = if kind == "BPE" {
            serde_json::from_str(raw_model).map_err(|e| json_error(&path, format!("model: {e}")))?
        } else {
            Bpe::default()
        };
        Ok(Some(Self {
            kind,
            model,
            added,
            normalizer: part("normalizer", root.normalizer)?,
            pre_tokenizer: part("pre_tokenizer", root.pre_tokenizer)?,
            post_processor: part("post_processor", root.post_processor)?,
            path,
        }))
    }

    /// Fails unless the model is BPE and has tokens.
    pub(super) fn need_bpe(&self) -> Result<(), VocabError> {
        if self.kind != "BPE" {
            let kind: String = self.kind.chars().take(40).collect();
            return Err(VocabError::Unsupported {
                path: self.path.clone(),
                what: format!("the model type is {}, not BPE", kind.escape_debug()),
            });
        }
        if self.model.vocab.is_empty() {
            return Err(json_error(&self.path, "model: the vocabulary is empty"));
        }
        Ok(())
    }

    /// Whether the tokenizer puts "▁" before the text, by its normaliser or its pre-tokenizer.
    pub(super) fn prepends_space(&self) -> bool {
        let normalizer = steps(&self.normalizer, "normalizers")
            .iter()
            .any(|step| step.get("type").and_then(Value::as_str) == Some("Prepend"));
        let metaspace = steps(&self.pre_tokenizer, "pretokenizers").iter().any(|step| {
            step.get("type").and_then(Value::as_str) == Some("Metaspace")
                && step.get("prepend_scheme").and_then(Value::as_str) != Some("never")
                && step.get("add_prefix_space").and_then(Value::as_bool) != Some(false)
        });
        normalizer || metaspace
    }
}

/// One entry per id: what the vocabulary and the added tokens say, or `None` for a hole.
pub(super) struct Slots {
    pub(super) texts: Vec<Option<String>>,
    pub(super) added: Vec<Option<TokenType>>,
}

/// Lays the vocabulary and the added tokens out by id.
pub(super) fn slots(
    config: &VocabConfig,
    sources: &Sources,
    file: &TokenizerFile,
    warnings: &mut Vec<String>,
) -> Result<Slots, VocabError> {
    let n_base = file.model.vocab.iter().map(|(_, id)| id as usize + 1).max().unwrap_or(0);
    let n = added::size(config, sources, n_base, file.model.vocab.len(), &file.path)?;
    let out_of_range = |text: &str, id: u32| VocabError::IdOutOfRange {
        path: file.path.clone(),
        what: format!("token {text:?}"),
        id: i64::from(id),
        vocab_size: n,
    };
    // Before the table is made: ids that are too large are the usual sign of files that do not belong together.
    if let Some((text, id)) = file.model.vocab.iter().find(|(_, id)| *id as usize >= n) {
        return Err(out_of_range(text, id));
    }
    let added = added::collect(n, sources, warnings)?;
    let mut slots = Slots { texts: vec![None; n], added: vec![None; n] };
    for (text, id) in file.model.vocab.iter() {
        let slot = slots.texts.get_mut(id as usize).ok_or_else(|| out_of_range(text, id))?;
        if let Some(other) = slot.replace(text.to_owned()) {
            let (first, second) = if *other < *text { (other, text.to_owned()) } else { (text.to_owned(), other) };
            return Err(VocabError::DuplicateId { path: file.path.clone(), id, first, second });
        }
    }
    for token in added {
        let id = token.id as usize;
        let there = slots.texts.get(id).and_then(Option::as_deref);
        added::check_against_vocabulary(&token, there, file, sources)?;
        let (text, kind) = added_token(&token.text, token.special);
        if let (Some(slot), Some(added)) = (slots.texts.get_mut(id), slots.added.get_mut(id)) {
            *slot = Some(text);
            *added = Some(kind);
        }
    }
    Ok(slots)
}

/// A vocabulary of the SentencePiece kind from `tokenizer.json` alone.
pub(super) fn load(config: &VocabConfig, sources: &Sources, file: &TokenizerFile) -> Result<Vocab, VocabError> {
    let mut warnings = Vec::new();
    let slots = slots(config, sources, file, &mut warnings)?;
    let n = slots.texts.len();
    // Nothing is merged into a token without a merge of its own unless no other merge is possible.
    let unmerged = -(file.model.merges.len() as f32) - 1.0;
    let mut scores = vec![unmerged; n];
    for (rank, result) in file.model.merges.results().enumerate() {
        let id = file.model.vocab.get(result);
        if let Some(score) = id.and_then(|id| scores.get_mut(id as usize)).filter(|score| **score == unmerged) {
            *score = -(rank as f32);
        }
    }
    let mut vocab = Vocab::empty(VocabModel::Llama, "default");
    vocab.warnings = warnings;
    vocab.tokens.reserve_exact(n);
    vocab.types.reserve_exact(n);
    for (id, (text, added)) in slots.texts.into_iter().zip(slots.added).enumerate() {
        let (text, kind) = match (text, added) {
            (None, _) => (format!("[PAD{id}]"), TokenType::Unused),
            (Some(text), Some(kind)) => (text, kind),
            (Some(text), None) if is_byte(&text) => (text, TokenType::Byte),
            (Some(text), None) if file.model.unk_token.as_ref() == Some(&text) => (text, TokenType::Unknown),
            (Some(text), None) => (text, TokenType::Normal),
        };
        if kind != TokenType::Normal
            && let Some(score) = scores.get_mut(id)
        {
            *score = unmerged;
        }
        vocab.tokens.push(text);
        vocab.types.push(kind);
    }
    vocab.scores = scores;
    vocab.add_space_prefix = space_prefix(sources, file.prepends_space(), "tokenizer.json", &mut vocab.warnings)?;
    if !vocab.types.contains(&TokenType::Byte) {
        vocab.notes.push("the tokenizer has no byte tokens, so characters outside its vocabulary are lost".into());
    }
    Ok(vocab)
}

/// `tokenizer.ggml.add_space_prefix`: what `tokenizer_config.json` says, else what `file` does, where it is not the
/// usual "yes".
pub(super) fn space_prefix(
    sources: &Sources,
    file_says: bool,
    file: &str,
    warnings: &mut Vec<String>,
) -> Result<Option<bool>, VocabError> {
    let configured = sources.add_prefix_space()?;
    if let Some(says) = configured.filter(|says| *says != file_says) {
        warnings.push(format!(
            "add_prefix_space is {says} in tokenizer_config.json, {file} says {file_says}: {says} was taken"
        ));
    }
    Ok(configured.or((!file_says).then_some(false)))
}

/// Whether `text` is `<0xHH>`.
fn is_byte(text: &str) -> bool {
    text.strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The steps of a sequence, or the one step itself; nested sequences are opened.
pub(super) fn steps<'a>(value: &'a Value, list_key: &str) -> Vec<&'a Value> {
    match (value.get("type").and_then(Value::as_str), value.get(list_key)) {
        (Some("Sequence"), Some(Value::Array(list))) => list.iter().flat_map(|step| steps(step, list_key)).collect(),
        _ if value.is_null() => Vec::new(),
        _ => vec![value],
    }
}
