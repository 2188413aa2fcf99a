//! Vocabularies from `tokenizer.model`, with the overlays that Hugging Face adds.

use std::path::Path;

use super::added::{self, Added};
use super::hf::{self, Sources, TokenizerFile};
use super::proto::{self, Model, ModelType};
use super::{TokenType, Vocab, VocabConfig, VocabError, VocabModel, added_token, files};
use crate::read;

/// Score of added tokens.
const ADDED_SCORE: f32 = -1000.0;
/// Score of rows that no token uses.
const UNUSED_SCORE: f32 = -10000.0;

/// Reads `tokenizer.model`, if there is one.
pub(super) fn load(dir: &Path, config: &VocabConfig, sources: &Sources) -> Result<Option<Vocab>, VocabError> {
    let path = dir.join("tokenizer.model");
    let Some(bytes) = read::bytes(&path, files::MAX_MODEL)? else { return Ok(None) };
    let model = proto::parse(&bytes, &path)?;
    if model.model_type != ModelType::Bpe {
        let what = format!("the SentencePiece model type is {}, not BPE", model.model_type);
        return Err(VocabError::Unsupported { path, what });
    }
    let n_pieces = model.pieces.len();
    let n = added::size(config, sources, n_pieces, n_pieces, &path)?;
    if n_pieces > n {
        return Err(VocabError::TooManyTokens { path, tokens: n_pieces, vocab_size: n });
    }
    let mut warnings = Vec::new();
    let added = added::collect(n, sources, &mut warnings)?;
    if let Some(file) = &sources.tokenizer {
        check_same_vocabulary(&model, &added, file, sources)?;
    }

    let mut vocab = blank(n);
    for (id, piece) in model.pieces.iter().enumerate() {
        set(&mut vocab, id, piece.text.clone(), piece.score, piece.kind);
    }
    let mut replaced = Vec::new();
    for token in &added {
        let id = token.id as usize;
        if let Some(piece) = model.pieces.get(id).filter(|piece| piece.text != token.text) {
            replaced
                .push(format!("{id} is {:?} in tokenizer.model and {:?} in {}", piece.text, token.text, token.source));
        }
        // The oldest of the files holds texts as they are, and does not say which are special.
        let listed = token.source == added::LISTED && !token.special;
        let (text, kind) =
            if listed { (token.text.clone(), TokenType::UserDefined) } else { added_token(&token.text, token.special) };
        set(&mut vocab, id, text, ADDED_SCORE, kind);
    }
    if let Some(first) = replaced.first() {
        let more = if replaced.len() > 1 { format!(" (and {} more)", replaced.len() - 1) } else { String::new() };
        warnings.push(format!("token {first}{more}: the latter was taken"));
    }

    let prefix = sources.tokenizer.as_ref().map(TokenizerFile::prepends_space);
    if let Some(says) = prefix.filter(|says| *says != model.add_dummy_prefix) {
        warnings.push(format!(
            "tokenizer.model says {} to a space before the text, tokenizer.json says {says}: tokenizer.json was taken",
            model.add_dummy_prefix
        ));
    }
    let (says, file) = prefix.map_or((model.add_dummy_prefix, "tokenizer.model"), |says| (says, "tokenizer.json"));
    vocab.add_space_prefix = hf::space_prefix(sources, says, file, &mut warnings)?;
    vocab.warnings = warnings;
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

/// Fails when `tokenizer.json` is another vocabulary than the model: a text with another id, or an id with another
/// text that no added token explains.
fn check_same_vocabulary(
    model: &Model,
    added: &[Added],
    file: &TokenizerFile,
    sources: &Sources,
) -> Result<(), VocabError> {
    let differ = |what: String| VocabError::Disagreement {
        dir: sources.dir.clone(),
        what: format!("tokenizer.model and tokenizer.json hold different vocabularies: {what}"),
        remedy: "move the one away that is not the model's (transformers takes tokenizer.json)",
    };
    if file.kind != "BPE" {
        let kind: String = file.kind.chars().take(40).collect();
        return Err(differ(format!("one is a BPE model, the other {}", kind.escape_debug())));
    }
    let added_at = |id: u32| added.binary_search_by_key(&id, |token| token.id).ok().and_then(|at| added.get(at));
    for (text, id) in file.model.vocab.iter() {
        let piece = model.pieces.get(id as usize).map(|piece| piece.text.as_str());
        if let Some(token) = added_at(id) {
            added::check_against_vocabulary(token, Some(text), file, sources)?;
        } else if piece != Some(text) {
            let there = piece.map_or_else(|| "is not there".to_owned(), |piece| format!("is {piece:?}"));
            return Err(differ(format!("token {id} {there} in the first and {text:?} in the second")));
        }
    }
    for (id, piece) in model.pieces.iter().enumerate() {
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        if file.model.vocab.get(&piece.text) != Some(id) && added_at(id).is_none() {
            return Err(differ(format!("token {id}, {:?} in the first, is not in the second", piece.text)));
        }
    }
    for token in added {
        added::check_against_vocabulary(token, None, file, sources)?;
    }
    Ok(())
}

/// A vocabulary of `n` unused entries.
fn blank(n: usize) -> Vocab {
    Vocab {
        tokens: (0..n).map(|i| format!("[PAD{i}]")).collect(),
        scores: vec![UNUSED_SCORE; n],
        types: vec![TokenType::Unused; n],
        ..Vocab::empty(VocabModel::Llama, "default")
    }
}

/// Replaces entry `id`, which exists.
fn set(vocab: &mut Vocab, id: usize, text: String, score: f32, kind: TokenType) {
    if let (Some(t), Some(s), Some(k)) = (vocab.tokens.get_mut(id), vocab.scores.get_mut(id), vocab.types.get_mut(id)) {
        (*t, *s, *k) = (text, score, kind);
    }
}
