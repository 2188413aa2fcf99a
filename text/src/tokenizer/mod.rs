//! Text to token ids and back, with the vocabulary that a GGUF file carries.
//!
//! ```text
//! prompt ── special tokens cut out ──┬─ special ──────────────────────────────────────────┬─ ids
//!                                    └─ text ─┬─ llama: " " → "▁", merge by score ────────┤
//!                                             └─ gpt2:  cut into words, merge by rank ────┘
//! ```
//!
//! `tokenizer.ggml.model` selects the algorithm: `llama` is SentencePiece-BPE with a score per token and byte tokens
//! for what it cannot spell; `gpt2` is byte-level BPE with a merge list and a named set of word rules
//! (`tokenizer.ggml.pre`).

mod bpe;
mod error;
pub mod pre;
mod roles;
mod special;
mod spm;
mod stream;
mod vocab;

#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;

use ocelli_gguf::{Gguf, Metadata};

pub use error::TokenizerError;
pub use roles::SpecialIds;
pub use stream::TokenDecoder;
pub use vocab::TokenType;

use bpe::Bpe;
use special::{Fragment, Partition, Special};
use vocab::{Arrays, Vocab};

/// `tokenizer.ggml.model` values that can be run.
const KNOWN_MODELS: &str = "llama, gpt2";

/// SentencePiece's stand-in for a blank.
const SPACE_MARK: &str = "\u{2581}";

/// The vocabulary and rules of one model.
pub struct Tokenizer {
    vocab: Vocab,
    algorithm: Algorithm,
    pre: String,
    /// Finds special tokens in text.
    specials: Partition,
    ids: SpecialIds,
    end_of_generation: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    notes: Vec<String>,
}

enum Algorithm {
    /// With the token of every byte.
    Spm(Box<[u32; 256]>),
    Bpe(Box<Bpe>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("model", &self.model())
            .field("pre", &self.pre)
            .field("n_tokens", &self.n_tokens())
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer that the metadata of a model file describes.
    ///
    /// # Errors
    /// When the file has no vocabulary, one of a kind that cannot be run, or one that contradicts itself.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, TokenizerError> {
        Self::from_metadata(gguf.metadata())
    }

    /// As [`Self::from_gguf`], from the metadata alone.
    ///
    /// # Errors
    /// As [`Self::from_gguf`].
    pub fn from_metadata(meta: &Metadata<'_>) -> Result<Self, TokenizerError> {
        let model = meta.str("tokenizer.ggml.model")?.ok_or(TokenizerError::NoTokenizer)?;
        if !matches!(model, "llama" | "gpt2") {
            return Err(TokenizerError::UnknownModel { found: vocab::excerpt(model), known: KNOWN_MODELS });
        }
        let spm = model == "llama";
        let mut notes = Vec::new();
        let pre_name = match meta.str("tokenizer.ggml.pre")? {
            Some(name) => name,
            None => {
                if !spm {
                    notes.push("the file does not say how words are cut (tokenizer.ggml.pre); using `default`".into());
                }
                "default"
            }
        };
        let settings = if spm { None } else { Some(pre_settings(pre_name)?) };

        let mut vocab = Vocab::new(read_arrays(meta)?)?;
        let ids = SpecialIds::read(meta, &mut vocab, spm)?;
        let end_of_generation = ids.end_of_generation(&mut vocab);
        let add_bos = meta.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(settings.map_or(spm, |s| s.add_bos));
        let add_eos = meta.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let add_space_prefix = meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(spm);
        for (wanted, id, flag, key) in [
            (add_bos, ids.bos, "tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"),
            (add_eos, ids.eos, "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id"),
        ] {
            if wanted && id.is_none() {
                return Err(TokenizerError::MissingSpecial { flag, key });
            }
        }

        let algorithm = match settings {
            None => Algorithm::Spm(byte_tokens(&vocab)?),
            Some(settings) => {
                let merges = meta
                    .array_str("tokenizer.ggml.merges")?
                    .ok_or(TokenizerError::MissingKey { key: "tokenizer.ggml.merges" })?;
                let bpe = Bpe::new(&vocab, merges, settings.pre, settings.ignore_merges)?;
                // C0, C1 and F5 to FF never occur in UTF-8.
                let lost: Vec<String> = bpe
                    .missing_bytes()
                    .iter()
                    .filter(|b| !matches!(b, 0xc0 | 0xc1 | 0xf5..=0xff))
                    .map(|b| format!("{b:02X}"))
                    .collect();
                if !lost.is_empty() {
                    let lost = lost.join(" ");
                    notes.push(format!("the vocabulary has no token for some bytes, which prompts will lose: {lost}"));
                }
                Algorithm::Bpe(Box::new(bpe))
            }
        };
        let name = meta.str("general.name").ok().flatten().unwrap_or_default();
        let specials = specials(&vocab, name);
        Ok(Self {
            pre: pre_name.to_owned(),
            vocab,
            algorithm,
            specials,
            ids,
            end_of_generation,
            add_bos,
            add_eos,
            add_space_prefix,
            notes,
        })
    }

    /// The ids of `text`. `add_special` puts BOS in front and EOS behind where the model wants them; `parse_special`
    /// recognises control tokens such as `<|im_start|>` in the text, which text that comes from a user should not.
    ///
    /// # Errors
    /// When the merge engine refuses the text, which no valid vocabulary makes it do.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        if add_special && self.add_bos {
            ids.extend(self.ids.bos);
        }
        let mut after_special = true;
        let mut marked = String::new();
        for fragment in self.specials.split(&self.vocab, text, parse_special) {
            match (fragment, &self.algorithm) {
                (Fragment::Token(id), _) => ids.push(id),
                (Fragment::Text(text), Algorithm::Bpe(bpe)) => bpe.encode(text, &mut ids)?,
                (Fragment::Text(text), Algorithm::Spm(bytes)) => {
                    marked.clear();
                    if self.add_space_prefix && after_special {
                        marked.push_str(SPACE_MARK);
                    }
                    for (i, part) in text.split(' ').enumerate() {
                        if i > 0 {
                            marked.push_str(SPACE_MARK);
                        }
                        marked.push_str(part);
                    }
                    spm::encode(&self.vocab, bytes, &marked, &mut ids);
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        if add_special && self.add_eos {
            ids.extend(self.ids.eos);
        }
        Ok(ids)
    }

    /// The text of a whole sequence. A blank at the start of the first token is taken away where [`Self::encode`] puts
    /// one (a sequence that begins with BOS keeps it: its first token is BOS); with `special` control tokens are
    /// rendered too.
    #[must_use]
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        let mut decoder = TokenDecoder::new(special, self.add_space_prefix);
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(self, id));
        }
        text.push_str(decoder.finish());
        text
    }

    /// The bytes of one token as they appear in text: not necessarily whole characters. Empty for an id outside the
    /// vocabulary, for unused ids and, unless `special`, for control tokens.
    #[must_use]
    pub fn piece(&self, id: u32, special: bool) -> Cow<'_, [u8]> {
        let text = self.vocab.text(id);
        match self.vocab.token_type(id) {
            TokenType::Control | TokenType::Unknown if !special => Cow::Borrowed(&[]),
            TokenType::Control | TokenType::Unknown | TokenType::UserDefined => Cow::Borrowed(text.as_bytes()),
            TokenType::Unused | TokenType::Undefined => Cow::Borrowed(&[]),
            TokenType::Byte => byte_value(text).map_or(Cow::Borrowed(text.as_bytes()), |b| Cow::Owned(vec![b])),
            TokenType::Normal => match self.algorithm {
                Algorithm::Spm(_) if text.contains(SPACE_MARK) => Cow::Owned(text.replace(SPACE_MARK, " ").into()),
                Algorithm::Spm(_) => Cow::Borrowed(text.as_bytes()),
                Algorithm::Bpe(_) => Cow::Owned(spelled_bytes(text)),
            },
        }
    }

    /// Number of tokens.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.vocab.len()
    }

    /// `tokenizer.ggml.model`: `llama` or `gpt2`.
    #[must_use]
    pub fn model(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Spm(_) => "llama",
            Algorithm::Bpe(_) => "gpt2",
        }
    }

    /// `tokenizer.ggml.pre`, `default` when the file has none.
    #[must_use]
    pub fn pre(&self) -> &str {
        &self.pre
    }

    /// The ids with a role: BOS, EOS and so on.
    #[must_use]
    pub fn ids(&self) -> &SpecialIds {
        &self.ids
    }

    /// Whether generation stops at this token.
    #[must_use]
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// All tokens at which generation stops, ascending.
    #[must_use]
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// Whether [`Self::encode`] puts BOS in front.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether [`Self::encode`] puts EOS behind.
    #[must_use]
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether a blank is put in front of every text that starts the prompt or follows a special token.
    #[must_use]
    pub fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// The id of the token written exactly so in the file, control tokens included.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text)
    }

    /// A token as it is written in the file; empty for an id outside the vocabulary.
    #[must_use]
    pub fn token_text(&self, id: u32) -> &str {
        self.vocab.text(id)
    }

    /// The type of a token.
    #[must_use]
    pub fn token_type(&self, id: u32) -> TokenType {
        self.vocab.token_type(id)
    }

    /// Things worth telling the user that are not errors.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

fn pre_settings(name: &str) -> Result<pre::PreSettings, TokenizerError> {
    pre::lookup(name)
        .ok_or_else(|| TokenizerError::UnknownPre { found: vocab::excerpt(name), known: pre::known_names() })
}

fn read_arrays<'a>(meta: &Metadata<'a>) -> Result<Arrays<'a>, TokenizerError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    const TYPES: &str = "tokenizer.ggml.token_type";
    let tokens =
        meta.array_str("tokenizer.ggml.tokens")?.ok_or(TokenizerError::MissingKey { key: "tokenizer.ggml.tokens" })?;
    let scores = match meta.array(SCORES)? {
        None => None,
        Some(array) => match (array.f32s(), array.i32s()) {
            (Some(scores), _) => Some(scores.collect()),
            // Some converters store whole numbers; f32 is what scores are compared in.
            (None, Some(scores)) => Some(scores.map(|s| s as f32).collect()),
            (None, None) => return Err(TokenizerError::ArrayType { key: SCORES, expected: "f32" }),
        },
    };
    let types = match meta.array(TYPES)? {
        None => None,
        Some(array) => {
            let codes = array.integers().ok_or(TokenizerError::ArrayType { key: TYPES, expected: "i32" })?;
            Some(codes.map(|c| TokenType::from_code(i64::try_from(c).unwrap_or(-1))).collect())
        }
    };
    Ok(Arrays { texts: tokens.collect(), scores, types })
}

/// The searchers for control tokens and for what is always found.
fn specials(vocab: &Vocab, model_name: &str) -> Partition {
    // The Phi-3 tokenizer drops white space after most of its markers, and its files have no key that says so.
    let name = model_name.to_lowercase();
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    let special = |(id, text): (u32, &str)| {
        let token_type = vocab.token_type(id);
        let is_special = matches!(token_type, TokenType::Control | TokenType::Unknown | TokenType::UserDefined);
        let strip_after = phi3 && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
        is_special.then_some(Special { id, strip_after, always: token_type == TokenType::UserDefined })
    };
    Partition::new(vocab, vocab.iter().filter_map(special).collect())
}

/// The value of a byte token's text `<0xHH>`.
fn byte_value(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

fn byte_tokens(vocab: &Vocab) -> Result<Box<[u32; 256]>, TokenizerError> {
    let mut ids = Box::new([0; 256]);
    for (byte, id) in (0u8..=255).zip(ids.iter_mut()) {
        let text = format!("<0x{byte:02X}>");
        *id = vocab.id(&text).ok_or(TokenizerError::MissingByteToken { text })?;
    }
    Ok(ids)
}

/// The bytes that a byte-level token spells; a character outside the byte alphabet stands for itself.
fn spelled_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match bpe::byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}
