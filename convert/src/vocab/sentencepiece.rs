//! Vocabularies from `tokenizer.model`, with the overlays that Hugging Face adds.

use std::path::Path;

use super::hf::Sources;
use super::proto::{self, ModelType};
use super::{TokenType, Vocab, VocabConfig, VocabError, VocabModel, added_token, files};

/// Score of added tokens.
const ADDED_SCORE: f32 = -1000.0;
/// Score of rows that no token uses.
const UNUSED_SCORE: f32 = -10000.0;

/// Reads `tokenizer.model`, if there is one.
pub(super) fn load(dir: &Path, config: &VocabConfig, sources: &Sources) -> Result<Option<Vocab>, VocabError> {
    let path = dir.join("tokenizer.model");
    let Some(bytes) = files::read(&path, files::MAX_MODEL)? else { return Ok(None) };
    let model = proto::parse(&bytes, &path)?;
    if model.model_type != ModelType::Bpe {
        let what = format!("the SentencePiece model type is {}, not BPE", model.model_type);
        return Err(VocabError::Unsupported { path, what });
    }
    let n_pieces = model.pieces.len();
    let added = added_tokens(dir, sources)?;
    let needed = added.iter().filter_map(|a| usize::try_from(a.id).ok()).map(|id| id.saturating_add(1)).max();
    let n = config.vocab_size.unwrap_or_else(|| needed.unwrap_or(0).max(n_pieces));
    if n_pieces > n {
        return Err(VocabError::TooManyTokens { path, tokens: n_pieces, vocab_size: n });
    }

    let mut vocab = blank(n, config.vocab_size.is_none())?;
    for (id, piece) in model.pieces.iter().enumerate() {
        set(&mut vocab, id, piece.text.clone(), piece.score, piece.kind);
    }
    for token in &added {
        let id = usize::try_from(token.id).ok().filter(|id| *id < n).ok_or_else(|| VocabError::IdOutOfRange {
            path: token.file.clone(),
            what: format!("token {:?}", token.text),
            id: token.id,
            vocab_size: n,
        })?;
        set(&mut vocab, id, token.text.clone(), ADDED_SCORE, token.kind);
    }

    vocab.add_space_prefix = sources.add_prefix_space().or((!model.add_dummy_prefix).then_some(false));
    if model.has_charsmap || model.remove_extra_whitespaces {
        vocab.notes.push(format!(
            "tokenizer.model normalises text (rule {:?}{}); GGUF's llama tokenizer does not, so unusual text can give other tokens",
            model.normalizer,
            if model.remove_extra_whitespaces { ", removes repeated spaces" } else { "" }
        ));
    }
    if !vocab.types.contains(&TokenType::Byte) {
        vocab.notes.push("the tokenizer has no byte tokens, so characters outside its vocabulary are lost".into());
    }
    Ok(Some(vocab))
}

/// A vocabulary of `n` unused entries.
fn blank(n: usize, derived: bool) -> Result<Vocab, VocabError> {
    // Without vocab_size, n comes from ids in a file: bound it before allocating.
    if derived && n > 1 << 24 {
        return Err(VocabError::Config {
            key: "vocab_size".into(),
            problem: format!("missing, and a token id of {} is implausible", n - 1),
        });
    }
    Ok(Vocab {
        model: VocabModel::Llama,
        pre: "default".into(),
        tokens: (0..n).map(|i| format!("[PAD{i}]")).collect(),
        scores: vec![UNUSED_SCORE; n],
        types: vec![TokenType::Unused; n],
        merges: Vec::new(),
        special: Default::default(),
        add_space_prefix: None,
        templates: Default::default(),
        notes: Vec::new(),
    })
}

/// Replaces entry `id`, which exists.
fn set(vocab: &mut Vocab, id: usize, text: String, score: f32, kind: TokenType) {
    if let (Some(t), Some(s), Some(k)) = (vocab.tokens.get_mut(id), vocab.scores.get_mut(id), vocab.types.get_mut(id)) {
        (*t, *s, *k) = (text, score, kind);
    }
}

/// A token that replaces an entry of the model or follows the last one.
struct Added {
    id: i64,
    text: String,
    kind: TokenType,
    file: std::path::PathBuf,
}

/// The overlays, in the order they are applied: `added_tokens.json`, then `added_tokens_decoder`.
fn added_tokens(dir: &Path, sources: &Sources) -> Result<Vec<Added>, VocabError> {
    let mut out = Vec::new();
    let path = dir.join("added_tokens.json");
    for (text, id) in files::read_object(&path, files::MAX_JSON)?.unwrap_or_default() {
        let id = id.as_i64().ok_or_else(|| {
            files::json_error(&path, format!("the id of token {text:?} must be a number, found {id}"))
        })?;
        out.push(Added { id, text, kind: TokenType::UserDefined, file: path.clone() });
    }
    for token in sources.added_tokens_decoder()? {
        let (text, kind) = added_token(&token.content, token.special);
        out.push(Added { id: token.id, text, kind, file: sources.config_path.clone() });
    }
    Ok(out)
}
