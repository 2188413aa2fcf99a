//! `tokenizer.json` and `tokenizer_config.json`, and vocabularies of the SentencePiece kind made from them alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::{self, json_error};
use super::{TokenType, Vocab, VocabConfig, VocabError, VocabModel, added_token};

/// The JSON files that more than one part of the conversion needs.
pub(super) struct Sources {
    pub(super) config: Option<Map<String, Value>>,
    pub(super) config_path: PathBuf,
    pub(super) tokenizer: Option<TokenizerFile>,
    pub(super) generation: Option<Map<String, Value>>,
    pub(super) generation_path: PathBuf,
}

/// `tokenizer.json`, as far as it concerns GGUF.
pub(super) struct TokenizerFile {
    pub(super) path: PathBuf,
    pub(super) model: Bpe,
    pub(super) added: Vec<AddedToken>,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
}

/// The BPE model of a `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct Bpe {
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    pub(super) vocab: HashMap<String, u32>,
    #[serde(default)]
    pub(super) merges: Vec<Merge>,
}

/// A merge in either of the two spellings.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Text(String),
    Pair(String, String),
}

impl Merge {
    /// Both sides, or `None` if the text has no single space.
    pub(super) fn sides(&self) -> Option<(&str, &str)> {
        match self {
            Self::Text(text) => text.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}

/// An entry of `added_tokens` or `added_tokens_decoder`.
pub(super) struct AddedToken {
    pub(super) id: i64,
    pub(super) content: String,
    pub(super) special: bool,
}

impl Sources {
    pub(super) fn read(dir: &Path) -> Result<Self, VocabError> {
        let config_path = dir.join("tokenizer_config.json");
        let generation_path = dir.join("generation_config.json");
        Ok(Self {
            config: files::read_object(&config_path, files::MAX_JSON)?,
            tokenizer: TokenizerFile::read(dir.join("tokenizer.json"), &dir.join("tokenizer.model"))?,
            generation: files::read_object(&generation_path, files::MAX_JSON)?,
            config_path,
            generation_path,
        })
    }

    /// A key of `tokenizer_config.json`.
    pub(super) fn config_value(&self, key: &str) -> Option<&Value> {
        self.config.as_ref()?.get(key)
    }

    /// `add_prefix_space`, where it is set.
    pub(super) fn add_prefix_space(&self) -> Option<bool> {
        self.config_value("add_prefix_space")?.as_bool()
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`: id → content and whether it is special.
    pub(super) fn added_tokens_decoder(&self) -> Result<Vec<AddedToken>, VocabError> {
        let map = match self.config_value("added_tokens_decoder") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(json_error(&self.config_path, "added_tokens_decoder must be an object")),
        };
        let entry = |(key, value): (&String, &Value)| {
            let bad =
                |what: &str| json_error(&self.config_path, format!("added_tokens_decoder, entry {key:?}: {what}"));
            Ok(AddedToken {
                id: key.trim().parse().map_err(|_| bad("the key must be a token id"))?,
                content: value
                    .get("content")
                    .and_then(Value::as_str)
                    .ok_or_else(|| bad("no text under \"content\""))?
                    .to_owned(),
                special: value.get("special").and_then(Value::as_bool).unwrap_or(false),
            })
        };
        map.iter().map(entry).collect()
    }
}

impl TokenizerFile {
    /// Reads `tokenizer.json`. When `tokenizer.model` exists it supplies the tokens, and a model that is not BPE is
    /// no error: only the added tokens and the post-processor are used.
    fn read(path: PathBuf, model_file: &Path) -> Result<Option<Self>, VocabError> {
        let Some(mut root) = files::read_object(&path, files::MAX_TOKENIZER_JSON)? else { return Ok(None) };
        let mut take = |key: &str| root.remove(key).unwrap_or(Value::Null);
        let added = read_added(&path, &take("added_tokens"))?;
        let (normalizer, pre_tokenizer) = (take("normalizer"), take("pre_tokenizer"));
        let (post_processor, model) = (take("post_processor"), take("model"));
        let model = if model_file.is_file() {
            Bpe {
                byte_fallback: true,
                ignore_merges: false,
                unk_token: None,
                vocab: HashMap::new(),
                merges: Vec::new(),
            }
        } else {
            read_model(&path, model)?
        };
        Ok(Some(Self { path, model, added, normalizer, pre_tokenizer, post_processor }))
    }
}

fn read_added(path: &Path, value: &Value) -> Result<Vec<AddedToken>, VocabError> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err(json_error(path, "added_tokens must be a list")),
    };
    let entry = |(i, value): (usize, &Value)| {
        let bad = |what: &str| json_error(path, format!("added_tokens, entry {i}: {what}"));
        Ok(AddedToken {
            id: value.get("id").and_then(Value::as_i64).ok_or_else(|| bad("no number under \"id\""))?,
            content: value
                .get("content")
                .and_then(Value::as_str)
                .ok_or_else(|| bad("no text under \"content\""))?
                .to_owned(),
            special: value.get("special").and_then(Value::as_bool).unwrap_or(false),
        })
    };
    list.iter().enumerate().map(entry).collect()
}

fn read_model(path: &Path, model: Value) -> Result<Bpe, VocabError> {
    // Files from before the key existed hold only BPE models.
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("BPE");
    if kind != "BPE" {
        return Err(VocabError::Unsupported {
            path: path.to_owned(),
            what: format!("the model type is {kind}, not BPE"),
        });
    }
    let model: Bpe = serde_json::from_value(model).map_err(|e| json_error(path, format!("model: {e}")))?;
    if model.vocab.is_empty() {
        return Err(json_error(path, "model: the vocabulary is empty"));
    }
    if let Some((rank, _)) = model.merges.iter().enumerate().find(|(_, m)| m.sides().is_none()) {
        return Err(json_error(path, format!("model: merge {rank} is not a pair of tokens")));
    }
    Ok(model)
}

/// One entry per id: what the vocabulary and the added tokens say, or `None` for a hole.
pub(super) struct Slots {
    pub(super) texts: Vec<Option<String>>,
    pub(super) added: Vec<Option<TokenType>>,
}

/// Lays the vocabulary and the added tokens out by id.
pub(super) fn slots(config: &VocabConfig, sources: &Sources, file: &TokenizerFile) -> Result<Slots, VocabError> {
    let decoder = sources.added_tokens_decoder()?;
    let overlays = || {
        let from_json = file.added.iter().map(|token| (token, &file.path));
        from_json.chain(decoder.iter().map(|token| (token, &sources.config_path)))
    };
    let n_base = file.model.vocab.values().max().map_or(0, |id| *id as usize + 1);
    let n_added = overlays().filter_map(|(token, _)| usize::try_from(token.id).ok()).max().map_or(0, |id| id + 1);
    let n = config.vocab_size.unwrap_or_else(|| n_base.max(n_added));
    if config.vocab_size.is_none() && n > 1 << 24 {
        return Err(json_error(&file.path, format!("a token id of {} is implausible", n - 1)));
    }
    let out_of_range = |path: &Path, text: &str, id: i64| VocabError::IdOutOfRange {
        path: path.to_owned(),
        what: format!("token {text:?}"),
        id,
        vocab_size: n,
    };

    let mut slots = Slots { texts: vec![None; n], added: vec![None; n] };
    for (text, id) in &file.model.vocab {
        let slot = slots.texts.get_mut(*id as usize).ok_or_else(|| out_of_range(&file.path, text, i64::from(*id)))?;
        if let Some(other) = slot.replace(text.clone()) {
            let (first, second) = if other < *text { (other, text.clone()) } else { (text.clone(), other) };
            return Err(VocabError::DuplicateId { path: file.path.clone(), id: *id, first, second });
        }
    }
    for (token, path) in overlays() {
        let id = usize::try_from(token.id).ok().filter(|id| *id < n);
        let id = id.ok_or_else(|| out_of_range(path, &token.content, token.id))?;
        let (text, kind) = added_token(&token.content, token.special);
        if let (Some(slot), Some(added)) = (slots.texts.get_mut(id), slots.added.get_mut(id)) {
            *slot = Some(text);
            *added = Some(kind);
        }
    }
    Ok(slots)
}

/// A vocabulary of the SentencePiece kind from `tokenizer.json` alone.
pub(super) fn load(config: &VocabConfig, sources: &Sources, file: &TokenizerFile) -> Result<Vocab, VocabError> {
    let slots = slots(config, sources, file)?;
    let n_merges = file.model.merges.len();
    let mut first_rank: HashMap<String, usize> = HashMap::with_capacity(n_merges);
    for (rank, merge) in file.model.merges.iter().enumerate() {
        if let Some((left, right)) = merge.sides() {
            first_rank.entry(format!("{left}{right}")).or_insert(rank);
        }
    }
    // Nothing is merged into a token without a merge of its own unless no other merge is possible.
    let unmerged = -(n_merges as f32) - 1.0;

    let mut vocab = Vocab {
        model: VocabModel::Llama,
        pre: "default".into(),
        tokens: Vec::with_capacity(slots.texts.len()),
        scores: Vec::with_capacity(slots.texts.len()),
        types: Vec::with_capacity(slots.texts.len()),
        merges: Vec::new(),
        special: Default::default(),
        add_space_prefix: None,
        templates: Default::default(),
        notes: Vec::new(),
    };
    for (id, (text, added)) in slots.texts.into_iter().zip(slots.added).enumerate() {
        let (text, score, kind) = match (text, added) {
            (None, _) => (format!("[PAD{id}]"), unmerged, TokenType::Unused),
            (Some(text), Some(kind)) => (text, unmerged, kind),
            (Some(text), None) if is_byte(&text) => (text, unmerged, TokenType::Byte),
            (Some(text), None) if file.model.unk_token.as_ref() == Some(&text) => (text, unmerged, TokenType::Unknown),
            (Some(text), None) => {
                let score = first_rank.get(&text).map_or(unmerged, |rank| -(*rank as f32));
                (text, score, TokenType::Normal)
            }
        };
        vocab.tokens.push(text);
        vocab.scores.push(score);
        vocab.types.push(kind);
    }
    vocab.add_space_prefix = sources.add_prefix_space().or((!prepends_space(file)).then_some(false));
    if !vocab.types.contains(&TokenType::Byte) {
        vocab.notes.push("the tokenizer has no byte tokens, so characters outside its vocabulary are lost".into());
    }
    Ok(vocab)
}

/// Whether `text` is `<0xHH>`.
fn is_byte(text: &str) -> bool {
    text.strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether the tokenizer puts "▁" before the text, by its normaliser or its pre-tokenizer.
fn prepends_space(file: &TokenizerFile) -> bool {
    let normalizer = steps(&file.normalizer, "normalizers")
        .iter()
        .any(|step| step.get("type").and_then(Value::as_str) == Some("Prepend"));
    let metaspace = steps(&file.pre_tokenizer, "pretokenizers").iter().any(|step| {
        step.get("type").and_then(Value::as_str) == Some("Metaspace")
            && step.get("prepend_scheme").and_then(Value::as_str) != Some("never")
            && step.get("add_prefix_space").and_then(Value::as_bool) != Some(false)
    });
    normalizer || metaspace
}

/// The steps of a sequence, or the one step itself; nested sequences are opened.
pub(super) fn steps<'a>(value: &'a Value, list_key: &str) -> Vec<&'a Value> {
    match (value.get("type").and_then(Value::as_str), value.get(list_key)) {
        (Some("Sequence"), Some(Value::Array(list))) => list.iter().flat_map(|step| steps(step, list_key)).collect(),
        _ if value.is_null() => Vec::new(),
        _ => vec![value],
    }
}
