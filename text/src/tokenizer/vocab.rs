//! The token table of a GGUF file: texts, scores, types, special ids.
//!
//! Everything here comes from an untrusted file. Lengths of the parallel arrays must agree, ids must lie in the
//! table, texts must be unique and of sane length; afterwards every other part of the tokenizer may index freely
//! with an id below [`Vocab::len`].

use std::hash::{BuildHasher, RandomState};

use super::TokenizerError;

/// Longest token text accepted, in bytes. Real vocabularies stay below 1 KiB; the work of merging grows with it.
pub(super) const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Most tokens accepted. The largest published vocabularies have about 260,000.
pub(super) const MAX_TOKENS: usize = 4 << 20;

/// `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// Ordinary text.
    Normal,
    /// Stands for what cannot be encoded.
    Unknown,
    /// A marker such as BOS or `<|im_end|>`; never part of the text.
    Control,
    /// Always recognised in the text, never split.
    UserDefined,
    /// A hole in the table.
    Unused,
    /// One raw byte, written `<0xHH>`.
    Byte,
    /// A type number this build does not know.
    Undefined,
}

impl TokenType {
    /// From the number stored in the file.
    pub fn from_code(code: i64) -> Self {
        match code {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Undefined,
        }
    }
}

/// The parallel arrays as they stand in a file, before any check.
#[derive(Debug, Default)]
pub(super) struct Arrays<'a> {
    pub(super) texts: Vec<&'a str>,
    pub(super) scores: Option<Vec<f32>>,
    pub(super) types: Option<Vec<TokenType>>,
}

/// The checked table.
pub(super) struct Vocab {
    /// All texts, one after the other.
    blob: String,
    /// `blob[ends[id - 1]..ends[id]]` is the text of `id`.
    ends: Vec<u32>,
    scores: Vec<f32>,
    types: Vec<TokenType>,
    index: Index,
    longest: usize,
}

impl Vocab {
    pub(super) fn new(arrays: Arrays<'_>) -> Result<Self, TokenizerError> {
        let n = arrays.texts.len();
        if n == 0 || n > MAX_TOKENS {
            return Err(TokenizerError::VocabSize { found: n, limit: MAX_TOKENS });
        }
        let total: usize = arrays.texts.iter().map(|t| t.len().max(16)).sum();
        if u32::try_from(total).is_err() {
            return Err(TokenizerError::VocabTooLong { bytes: total });
        }
        let scores = match arrays.scores {
            Some(scores) if scores.len() != n => return Err(length("tokenizer.ggml.scores", scores.len(), n)),
            Some(scores) => scores,
            None => vec![0.0; n],
        };
        if let Some(id) = scores.iter().position(|s| s.is_nan()) {
            return Err(TokenizerError::BadScore { id });
        }
        let types = match arrays.types {
            Some(types) if types.len() != n => return Err(length("tokenizer.ggml.token_type", types.len(), n)),
            Some(types) => types,
            None => vec![TokenType::Normal; n],
        };

        let mut blob = String::with_capacity(total);
        let mut ends = Vec::with_capacity(n);
        let mut longest = 0;
        for (id, text) in arrays.texts.iter().enumerate() {
            if text.len() > MAX_TOKEN_BYTES {
                return Err(TokenizerError::TokenTooLong { id, bytes: text.len(), limit: MAX_TOKEN_BYTES });
            }
            if text.is_empty() {
                // An empty text could never be found in a prompt; it gets a name so that texts stay unique.
                blob.push_str(&format!("[EMPTY_{id}]"));
            } else {
                blob.push_str(text);
            }
            longest = longest.max(text.len());
            ends.push(u32::try_from(blob.len()).map_err(|_| TokenizerError::VocabTooLong { bytes: blob.len() })?);
        }
        let mut vocab = Self { blob, ends, scores, types, index: Index::with_capacity(n), longest };
        for id in 0..n {
            if let Err(first) = vocab.insert(id) {
                return Err(TokenizerError::DuplicateToken {
                    first,
                    second: id,
                    text: excerpt(vocab.text(u32::try_from(id).unwrap_or(u32::MAX))),
                });
            }
        }
        Ok(vocab)
    }

    fn insert(&mut self, id: usize) -> Result<(), usize> {
        let id = u32::try_from(id).map_err(|_| id)?;
        let hash = self.index.hasher.hash_one(self.text(id));
        let mut slot = self.index.start(hash);
        loop {
            match self.index.slots[slot] {
                EMPTY => {
                    self.index.slots[slot] = id;
                    return Ok(());
                }
                other if self.text(other) == self.text(id) => return Err(other as usize),
                _ => slot = self.index.next(slot),
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Length of the longest text in bytes.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The text of `id`, empty for an id outside the table.
    pub(super) fn text(&self, id: u32) -> &str {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return "" };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.blob[start as usize..end as usize]
    }

    pub(super) fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    pub(super) fn token_type(&self, id: u32) -> TokenType {
        self.types.get(id as usize).copied().unwrap_or(TokenType::Undefined)
    }

    pub(super) fn set_type(&mut self, id: u32, token_type: TokenType) {
        if let Some(slot) = self.types.get_mut(id as usize) {
            *slot = token_type;
        }
    }

    /// The id whose text is exactly `text`.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        if text.len() > self.longest && !text.starts_with("[EMPTY_") {
            return None;
        }
        let mut slot = self.index.start(self.index.hasher.hash_one(text));
        loop {
            match self.index.slots[slot] {
                EMPTY => return None,
                id if self.text(id) == text => return Some(id),
                _ => slot = self.index.next(slot),
            }
        }
    }

    /// Every id with its text, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.len()).filter_map(|id| u32::try_from(id).ok()).map(|id| (id, self.text(id)))
    }
}

fn length(key: &'static str, found: usize, expected: usize) -> TokenizerError {
    TokenizerError::ArrayLength { key, found, expected }
}

/// A token's text for a message: at most 40 characters, control characters escaped.
pub(super) fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    short.escape_debug().to_string()
}

const EMPTY: u32 = u32::MAX;

/// Text → id by open addressing: the texts themselves stay in the blob, so a table of ids is all that is needed.
/// Randomly keyed hashing keeps a hostile vocabulary from forcing long probe chains.
struct Index {
    slots: Vec<u32>,
    mask: usize,
    hasher: RandomState,
}

impl Index {
    fn with_capacity(n: usize) -> Self {
        let size = (2 * n).next_power_of_two().max(16);
        Self { slots: vec![EMPTY; size], mask: size - 1, hasher: RandomState::new() }
    }

    fn start(&self, hash: u64) -> usize {
        (hash & self.mask as u64) as usize
    }

    fn next(&self, slot: usize) -> usize {
        (slot + 1) & self.mask
    }
}
