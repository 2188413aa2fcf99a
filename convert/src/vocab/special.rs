//! Token ids with a meaning of their own, and whether some are added to every text.
//!
//! Precedence: texts named in `tokenizer_config.json` (or, where that lists no added tokens, in
//! `special_tokens_map.json`), looked up among the added tokens, then in the whole vocabulary; then the numbers in
//! `config.json`. The ids that end an answer (`eos_token_id` of `generation_config.json`, else of `config.json`) supply
//! what is still missing: the end-of-sequence id itself, and as end of turn and end of message the ids besides it.
//! Where files name different tokens for one purpose there is a warning.

use serde_json::Value;

use super::added;
use super::files::json_error;
use super::hf::{Sources, TokenizerFile};
use super::{Vocab, VocabConfig, VocabError};

/// What a special token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialKind {
    /// Beginning of a sequence.
    Bos,
    /// End of a sequence.
    Eos,
    /// Unknown text.
    Unk,
    /// Separator.
    Sep,
    /// Padding.
    Pad,
    /// Classification.
    Cls,
    /// Mask.
    Mask,
    /// End of a turn.
    Eot,
    /// End of a message.
    Eom,
}

impl SpecialKind {
    /// The kinds that a checkpoint's files name, in the order they are written.
    pub const CONFIGURED: [Self; 7] = [Self::Bos, Self::Eos, Self::Unk, Self::Sep, Self::Pad, Self::Cls, Self::Mask];

    /// The name in Hugging Face's keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
            Self::Unk => "unk",
            Self::Sep => "sep",
            Self::Pad => "pad",
            Self::Cls => "cls",
            Self::Mask => "mask",
            Self::Eot => "eot",
            Self::Eom => "eom",
        }
    }

    /// The GGUF key after `tokenizer.`; there is none for the classification token.
    pub(super) fn key(self) -> Option<&'static str> {
        Some(match self {
            Self::Bos => "ggml.bos_token_id",
            Self::Eos => "ggml.eos_token_id",
            Self::Unk => "ggml.unknown_token_id",
            Self::Sep => "ggml.seperator_token_id",
            Self::Pad => "ggml.padding_token_id",
            Self::Mask => "ggml.mask_token_id",
            Self::Eot => "ggml.eot_token_id",
            Self::Eom => "ggml.eom_token_id",
            Self::Cls => return None,
        })
    }
}

/// Special ids and add flags, in the order they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Ids by kind.
    pub ids: Vec<(SpecialKind, u32)>,
    /// Whether the token of a kind is added to every text.
    pub add: Vec<(SpecialKind, bool)>,
}

impl SpecialTokens {
    /// The id of a kind.
    #[must_use]
    pub fn id(&self, kind: SpecialKind) -> Option<u32> {
        self.ids.iter().find(|(k, _)| *k == kind).map(|(_, id)| *id)
    }

    /// Whether the token of a kind is added to every text, where the checkpoint says so.
    #[must_use]
    pub fn adds(&self, kind: SpecialKind) -> Option<bool> {
        self.add.iter().find(|(k, _)| *k == kind).map(|(_, add)| *add)
    }

    fn set_id(&mut self, kind: SpecialKind, id: u32) {
        if self.id(kind).is_none() {
            self.ids.push((kind, id));
        }
    }

    fn set_add(&mut self, kind: SpecialKind, add: bool) {
        match self.add.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, old)) => *old = add,
            None => self.add.push((kind, add)),
        }
    }

    fn default_add(&mut self, kind: SpecialKind, add: bool) {
        if self.adds(kind).is_none() {
            self.add.push((kind, add));
        }
    }
}

/// The number under `key`; −1 is an idiom for "none".
pub(super) fn optional_id(key: &str, value: &Value) -> Result<Option<u32>, VocabError> {
    if value.as_i64() == Some(-1) {
        return Ok(None);
    }
    match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(VocabError::Config { key: key.into(), problem: format!("expected a token id, found {value}") }),
    }
}

/// The numbers of the list under `key`.
pub(super) fn stop_list(key: &str, list: &[Value]) -> Result<Vec<u32>, VocabError> {
    let ids: Result<Vec<_>, _> = list.iter().map(|value| optional_id(key, value)).collect();
    Ok(ids?.into_iter().flatten().collect())
}

/// The texts that stand for each kind, as `tokenizer_config.json` and the post-processor give them.
#[derive(Default)]
struct Texts {
    of: Vec<(SpecialKind, String)>,
    has_config: bool,
}

impl Texts {
    fn get(&self, kind: SpecialKind) -> Option<&str> {
        self.of.iter().find(|(k, text)| *k == kind && !text.is_empty()).map(|(_, text)| text.as_str())
    }

    fn set(&mut self, kind: SpecialKind, text: &str) {
        self.of.retain(|(k, _)| *k != kind);
        self.of.push((kind, text.to_owned()));
    }

    fn is(&self, kinds: &[SpecialKind], text: &str) -> bool {
        kinds.iter().any(|kind| self.get(*kind) == Some(text))
    }
}

/// Fills `vocab.special`.
pub(super) fn resolve(vocab: &mut Vocab, config: &VocabConfig, sources: &Sources) -> Result<(), VocabError> {
    let mut special = SpecialTokens::default();
    let mut texts = configured_texts(sources, &mut vocab.warnings)?;
    let written = texts.of.clone();
    let mut kinds = SpecialKind::CONFIGURED.to_vec();
    if let Some(file) = &sources.tokenizer {
        read_post_processor(file, &mut texts, &mut special, &mut kinds);
    }
    let n = vocab.tokens.len();

    if sources.config.is_some() {
        for kind in &kinds {
            let key = format!("add_{}_token", kind.name());
            if let Some(add) = sources.config_value(&key)?.and_then(|v| v.as_bool()) {
                if let Some(other) = special.adds(*kind).filter(|other| *other != add) {
                    vocab.warnings.push(format!(
                        "{key} is {add} in tokenizer_config.json, the post-processor of tokenizer.json says {other}: \
                         {add} was taken"
                    ));
                }
                special.set_add(*kind, add);
            }
            let (Some(text), Some(file)) = (texts.get(*kind), &sources.tokenizer) else { continue };
            if let Some(token) = file.added.iter().find(|token| token.content == text) {
                let id = check(token.id, n, || (file.path.clone(), format!("{}_token {text:?}", kind.name())))?;
                special.set_id(*kind, id);
            }
        }
    }
    // Where a text stands in the vocabulary; several kinds may share a text, so there are few to look for.
    let place = |text: &str| vocab.tokens.iter().position(|t| t == text).and_then(|id| u32::try_from(id).ok());
    for (kind, id) in &config.ids {
        let file = || (sources.config_path.with_file_name("config.json"), format!("{}_token_id", kind.name()));
        let id = check(i64::from(*id), n, file)?;
        let named = written.iter().find(|(k, _)| k == kind).map(|(_, text)| (text, place(text)));
        // What ends an answer is compared below, with all the ids that do.
        if let Some((text, Some(other))) = named.filter(|(_, other)| *other != Some(id) && *kind != SpecialKind::Eos) {
            vocab.warnings.push(format!(
                "{}_token_id is {id} in config.json, but {}_token in tokenizer_config.json is {text:?}, {other}: {other} \
                 was taken",
                kind.name(),
                kind.name()
            ));
        }
        special.set_id(*kind, named.and_then(|(_, other)| other).unwrap_or(id));
    }
    for (kind, text) in &written {
        match place(text) {
            Some(id) => special.set_id(*kind, id),
            None => vocab.warnings.push(format!(
                "{}_token {text:?} of tokenizer_config.json is not in the vocabulary: it was left out",
                kind.name()
            )),
        }
    }
    add_stops(vocab, config, sources, &mut special)?;

    // Two model families whose files lack what their vocabulary needs; their vocabulary sizes identify them.
    match config.vocab_size {
        Some(49152) => special.set_add(SpecialKind::Bos, false),
        Some(32016) => special.set_id(SpecialKind::Eot, 32010),
        _ => {}
    }
    vocab.special = special;
    Ok(())
}

/// `id` as an index into a vocabulary of `n` tokens.
fn check(id: i64, n: usize, place: impl FnOnce() -> (std::path::PathBuf, String)) -> Result<u32, VocabError> {
    match u32::try_from(id) {
        Ok(small) if (small as usize) < n => Ok(small),
        _ => {
            let (path, what) = place();
            Err(VocabError::IdOutOfRange { path, what, id, vocab_size: n })
        }
    }
}

/// The texts of the special tokens, as `tokenizer_config.json` and `special_tokens_map.json` name them.
fn configured_texts(sources: &Sources, warnings: &mut Vec<String>) -> Result<Texts, VocabError> {
    let mut texts = Texts { of: Vec::new(), has_config: sources.config.is_some() };
    // The map is of the time before the list with ids; the reference does not look at it where there is such a list.
    let old_style = sources.decoder.is_empty();
    for kind in SpecialKind::CONFIGURED {
        let key = format!("{}_token", kind.name());
        let in_config = sources.config_value(&key)?.as_ref().and_then(added::token_text);
        let in_map = match &sources.special_map {
            Some(map) => map.value(&key)?.as_ref().and_then(added::token_text),
            None => None,
        };
        let (taken, file) = match (&in_config, &in_map) {
            (_, Some(text)) if old_style => (text, "special_tokens_map.json"),
            (Some(text), _) => (text, "tokenizer_config.json"),
            (None, Some(text)) => (text, "special_tokens_map.json"),
            (None, None) => continue,
        };
        if let (Some(a), Some(b)) = (&in_config, &in_map)
            && a != b
        {
            warnings.push(format!(
                "{key} is {a:?} in tokenizer_config.json and {b:?} in special_tokens_map.json: {file} was taken"
            ));
        }
        texts.set(kind, taken);
    }
    Ok(texts)
}

/// `eos_token_id` of `generation_config.json`, a number or a list.
fn generation_stops(sources: &Sources, n: usize) -> Result<Option<Vec<u32>>, VocabError> {
    let Some(generation) = &sources.generation else { return Ok(None) };
    let Some(value) = generation.value("eos_token_id")? else { return Ok(None) };
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let mut stops = Vec::new();
    for value in list.iter().filter(|value| value.as_i64() != Some(-1)) {
        let id = value.as_i64().ok_or_else(|| {
            json_error(&sources.generation_path, format!("eos_token_id: expected token ids, found {value}"))
        })?;
        stops.push(check(id, n, || (sources.generation_path.clone(), "eos_token_id".into()))?);
    }
    Ok(Some(stops))
}

/// Gives every stop id of the checkpoint a key that runtimes stop at.
fn add_stops(
    vocab: &mut Vocab,
    config: &VocabConfig,
    sources: &Sources,
    special: &mut SpecialTokens,
) -> Result<(), VocabError> {
    let n = vocab.tokens.len();
    let config_path = sources.config_path.with_file_name("config.json");
    let mut configured = Vec::new();
    for id in &config.stop_ids {
        configured.push(check(i64::from(*id), n, || (config_path.clone(), "eos_token_id".into()))?);
    }
    let stops = match generation_stops(sources, n)? {
        None => configured,
        Some(stops) => {
            let same = |a: &[u32], b: &[u32]| a.iter().all(|id| b.contains(id));
            let agree = same(&stops, &configured) && same(&configured, &stops);
            if !configured.is_empty() && !agree {
                vocab.warnings.push(format!(
                    "eos_token_id is {configured:?} in config.json and {stops:?} in generation_config.json: the latter \
                     was taken"
                ));
            }
            stops
        }
    };
    if let Some(eos) = special.id(SpecialKind::Eos).filter(|eos| !stops.is_empty() && !stops.contains(eos)) {
        let text = vocab.tokens.get(eos as usize).map_or("", String::as_str);
        vocab.warnings.push(format!(
            "eos_token {text:?} ({eos}) of the tokenizer is not among eos_token_id, {stops:?}: all of them end an answer"
        ));
    }
    if special.id(SpecialKind::Eos).is_none()
        && let Some(first) = stops.first()
    {
        special.set_id(SpecialKind::Eos, *first);
    }
    for id in stops {
        let taken = [SpecialKind::Eos, SpecialKind::Eot, SpecialKind::Eom].map(|kind| special.id(kind));
        if taken.contains(&Some(id)) {
            continue;
        }
        let text = vocab.tokens.get(id as usize).map_or("", String::as_str);
        let (first, second) = if matches!(text, "<|eom_id|>" | "<EOM>") {
            (SpecialKind::Eom, SpecialKind::Eot)
        } else {
            (SpecialKind::Eot, SpecialKind::Eom)
        };
        if special.id(first).is_none() {
            special.set_id(first, id);
        } else if special.id(second).is_none() {
            special.set_id(second, id);
        } else {
            vocab
                .notes
                .push(format!("stop token {id} ({text:?}) has no key left in GGUF; generation does not stop at it"));
        }
    }
    Ok(())
}

/// The id under `SpecialToken` of a template item.
fn special_text(item: &Value) -> Option<&str> {
    item.get("SpecialToken")?.get("id")?.as_str().filter(|text| !text.is_empty())
}

fn sequence_text(item: &Value) -> Option<&str> {
    item.get("Sequence")?.get("id")?.as_str()
}

/// Takes the add flags from the post-processor, and texts that `tokenizer_config.json` does not give.
fn read_post_processor(
    file: &TokenizerFile,
    texts: &mut Texts,
    special: &mut SpecialTokens,
    kinds: &mut Vec<SpecialKind>,
) {
    use SpecialKind::{Bos, Cls, Eos, Sep};
    for (kind, stand_in) in [(Bos, Cls), (Eos, Sep)] {
        if texts.get(kind).is_none()
            && let Some(text) = texts.get(stand_in).map(str::to_owned)
        {
            texts.set(kind, &text);
        }
    }
    let list = match file.post_processor.get("processors") {
        Some(Value::Array(list)) => list.iter().collect(),
        _ if file.post_processor.is_null() => Vec::new(),
        _ => vec![&file.post_processor],
    };
    for processor in list {
        match processor.get("type").and_then(Value::as_str) {
            Some("ByteLevel") => {
                special.default_add(Bos, false);
                special.default_add(Eos, false);
            }
            Some("RobertaProcessing") => {
                for kind in [Bos, Eos, Sep] {
                    special.set_add(kind, true);
                }
                for (kind, key) in [(Cls, "cls"), (Sep, "sep")] {
                    let text = processor.get(key).and_then(|pair| pair.get(0)).and_then(Value::as_str);
                    if texts.get(kind).is_none()
                        && let Some(text) = text
                    {
                        texts.set(kind, text);
                    }
                }
            }
            Some("TemplateProcessing") => read_template(processor, texts, special, kinds),
            _ => {}
        }
    }
}

fn read_template(processor: &Value, texts: &mut Texts, special: &mut SpecialTokens, kinds: &mut Vec<SpecialKind>) {
    use SpecialKind::{Bos, Cls, Eom, Eos, Eot, Sep};
    let list = |key: &str| processor.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (mut first, mut last) = (None, None);
    if let [head, .., tail] = list("single") {
        first = special_text(head);
        if let Some(text) = first {
            for kind in [Bos, Cls] {
                if texts.get(kind).is_none() && (kind == Bos || !texts.is(&[Bos], text)) {
                    texts.set(kind, text);
                }
            }
            special.set_add(Bos, texts.is(&[Bos, Cls], text));
        }
        last = special_text(tail);
        if let Some(text) = last {
            if !texts.is(&[Eos], text) {
                // The template's own end wins; what was the end becomes the end of a turn or message.
                let free = [Eot, Eom].into_iter().find(|kind| !kinds.contains(kind));
                if let (Some(kind), true, Some(old)) = (free, texts.has_config, texts.get(Eos).map(str::to_owned)) {
                    kinds.push(kind);
                    texts.set(kind, &old);
                }
                texts.set(Eos, text);
            }
            special.set_add(Eos, true);
        }
    }

    let pair = list("pair");
    let start = usize::from(first.is_some() && pair.first().and_then(special_text) == first);
    let end =
        pair.len() - usize::from(last.is_some() && pair.len() > start && pair.last().and_then(special_text) == last);
    if let Some([a, middle @ .., b]) = pair.get(start..end)
        && sequence_text(a) == Some("A")
        && sequence_text(b) == Some("B")
        && let Some(item) = middle.first()
    {
        let separates = |item: &Value| special_text(item).is_some_and(|text| texts.is(&[Sep, Eos], text));
        let mut add = separates(item) && last.is_none();
        if let [_, second] = middle {
            add |= separates(second);
        }
        special.set_add(Sep, add);
    }
}
