//! Byte-level BPE vocabularies from `tokenizer.json`.

use super::hf::{self, Sources, TokenizerFile};
use super::{TokenType, Vocab, VocabConfig, VocabError, VocabModel, pre};

/// Reads a byte-level vocabulary.
pub(super) fn load(config: &VocabConfig, sources: &Sources, file: &TokenizerFile) -> Result<Vocab, VocabError> {
    let pre = match &config.pre {
        Some(name) => name.clone(),
        None => pre::recognise(sources, file)?.to_owned(),
    };
    let mut vocab = Vocab::empty(VocabModel::Gpt2, &pre);
    let slots = hf::slots(config, sources, file, &mut vocab.warnings)?;
    vocab.tokens.reserve_exact(slots.texts.len());
    vocab.types.reserve_exact(slots.texts.len());
    for (id, (text, added)) in slots.texts.into_iter().zip(slots.added).enumerate() {
        let (text, kind) = match (text, added) {
            (None, _) => (format!("[PAD{id}]"), TokenType::Unused),
            (Some(text), Some(kind)) => (text, kind),
            (Some(text), None) => (text, TokenType::Normal),
        };
        vocab.tokens.push(text);
        vocab.types.push(kind);
    }
    // As GGUF stores merges: both sides with one space between, spaces within a side in byte-level spelling.
    let spelled = |side: &str| side.replace(' ', "Ġ");
    vocab.merges =
        file.model.merges.iter().map(|(left, right)| format!("{} {}", spelled(left), spelled(right))).collect();
    vocab.add_space_prefix = sources.add_prefix_space()?;
    Ok(vocab)
}
