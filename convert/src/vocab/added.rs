//! Tokens that were added to a vocabulary, from each of the files that can name them.
//!
//! `tokenizer.json` lists them with ids, `added_tokens_decoder` of `tokenizer_config.json` does, and the older
//! `added_tokens.json`. Whatever any of them says is taken; one text with two ids, or one id with two texts, is refused.

use std::collections::HashMap;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::hf::{Sources, TokenizerFile};
use super::{VocabConfig, VocabError, files};
use crate::checkpoint::room_for_one;
use crate::json::Object;

/// Unused ids between the tokens that are tolerated where `vocab_size` does not say how many there are.
const MAX_HOLES: usize = 1 << 16;

/// The oldest of the files.
pub(super) const LISTED: &str = "added_tokens.json";

/// A token as a file lists it.
#[derive(Debug)]
pub(super) struct AddedToken {
    pub(super) id: i64,
    pub(super) content: String,
    pub(super) special: Option<bool>,
    /// Whether it takes the blanks beside it with it, or is found between words only.
    pub(super) has_conditions: bool,
}

/// A token as all files together have it.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) text: String,
    pub(super) special: bool,
    /// The file that names it.
    pub(super) source: &'static str,
}

/// The fields that count, with or without an id.
#[derive(serde::Deserialize)]
struct Fields {
    id: Option<i64>,
    content: Option<String>,
    special: Option<bool>,
    lstrip: Option<bool>,
    rstrip: Option<bool>,
    single_word: Option<bool>,
}

impl Fields {
    fn has_conditions(&self) -> bool {
        [self.lstrip, self.rstrip, self.single_word].contains(&Some(true))
    }
}

/// `added_tokens` of a `tokenizer.json`.
pub(super) fn list(path: &Path, raw: &RawValue) -> Result<Vec<AddedToken>, VocabError> {
    struct List(Vec<AddedToken>);
    impl<'de> Deserialize<'de> for List {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Items;
            impl<'de> Visitor<'de> for Items {
                type Value = List;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a list")
                }

                fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
                    let mut out = Vec::new();
                    while let Some(fields) = seq.next_element::<Fields>()? {
                        let bad = |what| A::Error::custom(format!("entry {}: {what}", out.len()));
                        let id = fields.id.ok_or_else(|| bad("no number under \"id\""))?;
                        let has_conditions = fields.has_conditions();
                        let content = fields.content.ok_or_else(|| bad("no text under \"content\""))?;
                        room_for_one(&mut out);
                        out.push(AddedToken { id, content, special: fields.special, has_conditions });
                    }
                    Ok(List(out))
                }
            }
            deserializer.deserialize_seq(Items)
        }
    }
    let List(list) =
        serde_json::from_str(raw.get()).map_err(|e| files::json_error(path, format!("added_tokens: {e}")))?;
    Ok(list)
}

/// `added_tokens_decoder` of a `tokenizer_config.json`: id → content and whether it is special.
pub(super) fn decoder(config: Option<&Object>) -> Result<Vec<AddedToken>, VocabError> {
    struct Map(Vec<AddedToken>);
    impl<'de> Deserialize<'de> for Map {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Entries;
            impl<'de> Visitor<'de> for Entries {
                type Value = Map;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Map, A::Error> {
                    let mut out = Vec::new();
                    while let Some(key) = map.next_key::<String>()? {
                        let bad = |what| A::Error::custom(format!("entry {key:?}: {what}"));
                        let id = key.trim().parse().map_err(|_| bad("the key must be a token id"))?;
                        let fields = map.next_value::<Fields>()?;
                        let has_conditions = fields.has_conditions();
                        let content = fields.content.ok_or_else(|| bad("no text under \"content\""))?;
                        room_for_one(&mut out);
                        out.push(AddedToken { id, content, special: fields.special, has_conditions });
                    }
                    Ok(Map(out))
                }
            }
            deserializer.deserialize_map(Entries)
        }
    }
    let Some((config, raw)) = config.and_then(|c| Some((c, c.raw("added_tokens_decoder")?))) else {
        return Ok(Vec::new());
    };
    let Map(list) = serde_json::from_str(raw.get())
        .map_err(|e| files::json_error(config.path(), format!("added_tokens_decoder: {e}")))?;
    Ok(list)
}

/// Entries of the vocabulary: as many as the configuration says, else as many as there are ids. `base` is the number of
/// ids without added tokens, `known` the number of tokens among them.
pub(super) fn size(
    config: &VocabConfig,
    sources: &Sources,
    base: usize,
    known: usize,
    path: &Path,
) -> Result<usize, VocabError> {
    if let Some(n) = config.vocab_size {
        return Ok(n);
    }
    let ids = sources.tokenizer.iter().flat_map(|t| &t.added).chain(&sources.decoder).map(|token| token.id);
    let listed = sources.listed.iter().flat_map(|table| table.iter().map(|(_, id)| i64::from(id)));
    let mut n = base;
    let mut known = known;
    for id in ids.chain(listed) {
        known += 1;
        n = n.max(usize::try_from(id).map_or(0, |id| id.saturating_add(1)));
    }
    // The ids come from a file: they must not make a table that nothing in the file fills.
    if n > known.saturating_add(MAX_HOLES) {
        return Err(files::json_error(path, format!("a token id of {} is implausible among {known} tokens", n - 1)));
    }
    Ok(n)
}

/// All added tokens, sorted by id.
pub(super) fn collect(n: usize, sources: &Sources, warnings: &mut Vec<String>) -> Result<Vec<Added>, VocabError> {
    let mut all =
        All { n, sources, list: Vec::new(), by_id: HashMap::new(), by_text: HashMap::new(), flags: Vec::new() };
    for token in sources.tokenizer.iter().flat_map(|t| &t.added) {
        all.add("tokenizer.json", token.id, &token.content, token.special)?;
    }
    for token in &sources.decoder {
        all.add("tokenizer_config.json", token.id, &token.content, token.special)?;
    }
    for (text, id) in sources.listed.iter().flat_map(|table| table.iter()) {
        all.add(LISTED, i64::from(id), text, None)?;
    }
    let mut conditional = sources.tokenizer.iter().flat_map(|t| &t.added).chain(&sources.decoder);
    if let Some(token) = conditional.find(|token| token.has_conditions) {
        warnings.push(format!(
            "token {:?} is found with lstrip, rstrip or single_word in Hugging Face, which GGUF files cannot say: texts with \
             blanks beside such tokens may get other ids",
            token.content
        ));
    }
    let All { mut list, flags, .. } = all;
    if let Some((text, special, old, new)) = flags.first() {
        let more = if flags.len() > 1 { format!(" (and {} more)", flags.len() - 1) } else { String::new() };
        let is = if *special { "is" } else { "is not" };
        warnings.push(format!("token {text:?}{more} {is} special in {new}, unlike in {old}: {new} was taken"));
    }
    list.sort_unstable_by_key(|token| token.id);
    Ok(list)
}

struct All<'a> {
    n: usize,
    sources: &'a Sources,
    list: Vec<Added>,
    by_id: HashMap<u32, usize>,
    by_text: HashMap<String, usize>,
    /// Tokens that are special in one file only: text, flag taken, the other file, the file taken.
    flags: Vec<(String, bool, &'static str, &'static str)>,
}

impl All<'_> {
    fn add(&mut self, source: &'static str, id: i64, text: &str, special: Option<bool>) -> Result<(), VocabError> {
        let id =
            u32::try_from(id).ok().filter(|id| (*id as usize) < self.n).ok_or_else(|| VocabError::IdOutOfRange {
                path: self.sources.dir.join(source),
                what: format!("token {text:?}"),
                id,
                vocab_size: self.n,
            })?;
        if let Some(known) = self.by_text.get(text).and_then(|at| self.list.get_mut(*at)) {
            if known.id != id {
                return Err(two_ids(self.sources, text, (known.id, known.source), (id, source)));
            }
            if let Some(special) = special.filter(|special| *special != known.special) {
                if known.source != source {
                    self.flags.push((text.to_owned(), special, known.source, source));
                }
                known.special = special;
            }
            return Ok(());
        }
        if let Some(known) = self.by_id.get(&id).and_then(|at| self.list.get(*at)) {
            return Err(two_texts(self.sources, id, (&known.text, known.source), (text, source)));
        }
        self.by_id.insert(id, self.list.len());
        self.by_text.insert(text.to_owned(), self.list.len());
        self.list.push(Added { id, text: text.to_owned(), special: special.unwrap_or(false), source });
        Ok(())
    }
}

const REMEDY: &str = "the files are of different models or versions; download all of them from the same place";

fn two_ids(sources: &Sources, text: &str, a: (u32, &str), b: (u32, &str)) -> VocabError {
    VocabError::Disagreement {
        dir: sources.dir.clone(),
        what: format!("token {text:?} has the id {} in {} and {} in {}", a.0, a.1, b.0, b.1),
        remedy: REMEDY,
    }
}

fn two_texts(sources: &Sources, id: u32, a: (&str, &str), b: (&str, &str)) -> VocabError {
    VocabError::Disagreement {
        dir: sources.dir.clone(),
        what: format!("token {id} is {:?} in {} and {:?} in {}", a.0, a.1, b.0, b.1),
        remedy: REMEDY,
    }
}

/// Fails when the vocabulary of `tokenizer.json` has an added token under another id, or has another text, `there`,
/// under its id.
pub(super) fn check_against_vocabulary(
    token: &Added,
    there: Option<&str>,
    file: &TokenizerFile,
    sources: &Sources,
) -> Result<(), VocabError> {
    let vocabulary = "the vocabulary of tokenizer.json";
    if let Some(id) = file.model.vocab.get(&token.text).filter(|id| *id != token.id) {
        return Err(two_ids(sources, &token.text, (id, vocabulary), (token.id, token.source)));
    }
    match there.filter(|text| *text != token.text) {
        Some(text) => Err(two_texts(sources, token.id, (text, vocabulary), (&token.text, token.source))),
        None => Ok(()),
    }
}

/// The texts that the files call special without giving an id: all `*_token` keys and the lists of further ones.
pub(super) fn special_texts(sources: &Sources) -> Result<Vec<String>, VocabError> {
    let mut out = Vec::new();
    // The map counts where tokenizer_config.json has no list with ids, as in the reference.
    let map = sources.special_map.as_ref().filter(|_| sources.decoder.is_empty());
    for object in sources.config.iter().chain(map) {
        for key in object.keys() {
            let many = matches!(key, "additional_special_tokens" | "extra_special_tokens");
            if !many && !key.ends_with("_token") {
                continue;
            }
            match object.value(key)? {
                Some(Value::Array(list)) if many => out.extend(list.iter().filter_map(token_text)),
                Some(Value::Object(map)) if many => out.extend(map.values().filter_map(token_text)),
                Some(value) => out.extend(token_text(&value)),
                None => {}
            }
        }
    }
    Ok(out)
}

/// The text of a token that is given as a text or as an object.
pub(super) fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}
