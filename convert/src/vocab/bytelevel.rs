//! Byte-level BPE vocabularies from `tokenizer.json`.

use super::hf::{self, Merge, Sources, TokenizerFile};
use super::{TokenType, Vocab, VocabConfig, VocabError, VocabModel, pre};

/// Reads a byte-level vocabulary.
pub(super) fn load(config: &VocabConfig, sources: &Sources, file: &TokenizerFile) -> Result<Vocab, VocabError> {
    let pre = match &config.pre {
        Some(name) => name.clone(),
        None => pre::recognise(sources, file)?.to_owned(),
    };
    let slots = hf::slots(config, sources, file)?;
    let (mut tokens, mut types) = (Vec::with_capacity(slots.texts.len()), Vec::with_capacity(slots.texts.len()));
    for (id, (text, added)) in slots.texts.into_iter().zip(slots.added).enumerate() {
        let (text, kind) = match (text, added) {
            (None, _) => (format!("[PAD{id}]"), TokenType::Unused),
            (Some(text), Some(kind)) => (text, kind),
            (Some(text), None) => (text, TokenType::Normal),
        };
        tokens.push(text);
        types.push(kind);
    }
    Ok(Vocab {
        model: VocabModel::Gpt2,
        pre,
        tokens,
        scores: Vec::new(),
        types,
        merges: file.model.merges.iter().map(merge_text).collect(),
        special: Default::default(),
        add_space_prefix: sources.add_prefix_space(),
        templates: Default::default(),
        notes: Vec::new(),
    })
}

/// A merge as GGUF stores it: both sides with one space between, spaces within a side in byte-level spelling.
fn merge_text(merge: &Merge) -> String {
    match merge {
        Merge::Text(text) => text.clone(),
        Merge::Pair(left, right) => format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ")),
    }
}
