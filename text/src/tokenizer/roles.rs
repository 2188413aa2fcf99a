//! Tokens with a role: begin and end of text, end of turn, fill-in-the-middle markers.
//!
//! A role's id comes from its key; where the key is missing, some roles are recognised by the texts that models are
//! known to use. A token recognised this way is treated as a control token even if the file calls it ordinary text,
//! because a file that forgot the key tends to have the wrong type too.

use ocelli_gguf::Metadata;

use super::TokenizerError;
use super::vocab::{TokenType, Vocab};

/// Ids of the tokens with a role, where the model has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpecialIds {
    /// Begin of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    /// End of a message.
    pub eom: Option<u32>,
    /// Stands for unknown text.
    pub unknown: Option<u32>,
    /// Separator.
    pub separator: Option<u32>,
    /// Padding.
    pub padding: Option<u32>,
    /// Mask.
    pub mask: Option<u32>,
    /// Before the text in front of a gap to fill.
    pub fim_prefix: Option<u32>,
    /// Before the text behind the gap.
    pub fim_suffix: Option<u32>,
    /// Where the gap is filled.
    pub fim_middle: Option<u32>,
    /// Padding in fill-in-the-middle prompts.
    pub fim_padding: Option<u32>,
    /// Before a repository's name.
    pub fim_repository: Option<u32>,
    /// Between files.
    pub fim_separator: Option<u32>,
}

const EOT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<end_of_utterance>",
];
const EOM: &[&str] = &["<|eom_id|>"];
const FIM_PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<\u{ff5c}fim\u{2581}begin\u{ff5c}>",
    "<PRE>",
    "\u{2581}<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<\u{ff5c}fim\u{2581}hole\u{ff5c}>",
    "<SUF>",
    "\u{2581}<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<\u{ff5c}fim\u{2581}end\u{ff5c}>",
    "<MID>",
    "\u{2581}<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PADDING: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REPOSITORY: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEPARATOR: &[&str] = &["<|file_sep|>"];

/// Texts at which generation always stops.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];

impl SpecialIds {
    pub(super) fn read(meta: &Metadata<'_>, vocab: &mut Vocab, spm: bool) -> Result<Self, TokenizerError> {
        let n_tokens = vocab.len();
        let key = |key: &'static str| -> Result<Option<u32>, TokenizerError> {
            match meta.u32(key)? {
                Some(id) if id as usize >= n_tokens => Err(TokenizerError::IdOutOfRange { key, id, n_tokens }),
                id => Ok(id),
            }
        };
        let default = |id: u32| (spm && (id as usize) < n_tokens).then_some(id);
        let mut ids = Self {
            bos: key("tokenizer.ggml.bos_token_id")?.or(default(1)),
            eos: key("tokenizer.ggml.eos_token_id")?.or(default(2)),
            eot: key("tokenizer.ggml.eot_token_id")?,
            eom: key("tokenizer.ggml.eom_token_id")?,
            unknown: key("tokenizer.ggml.unknown_token_id")?.or(default(0)),
            separator: key("tokenizer.ggml.seperator_token_id")?,
            padding: key("tokenizer.ggml.padding_token_id")?,
            mask: key("tokenizer.ggml.mask_token_id")?,
            fim_prefix: key("tokenizer.ggml.fim_pre_token_id")?.or(key("tokenizer.ggml.prefix_token_id")?),
            fim_suffix: key("tokenizer.ggml.fim_suf_token_id")?.or(key("tokenizer.ggml.suffix_token_id")?),
            fim_middle: key("tokenizer.ggml.fim_mid_token_id")?.or(key("tokenizer.ggml.middle_token_id")?),
            fim_padding: key("tokenizer.ggml.fim_pad_token_id")?,
            fim_repository: key("tokenizer.ggml.fim_rep_token_id")?,
            fim_separator: key("tokenizer.ggml.fim_sep_token_id")?,
        };
        for (slot, texts) in [
            (&mut ids.eot, EOT),
            (&mut ids.eom, EOM),
            (&mut ids.fim_prefix, FIM_PREFIX),
            (&mut ids.fim_suffix, FIM_SUFFIX),
            (&mut ids.fim_middle, FIM_MIDDLE),
            (&mut ids.fim_padding, FIM_PADDING),
            (&mut ids.fim_repository, FIM_REPOSITORY),
            (&mut ids.fim_separator, FIM_SEPARATOR),
        ] {
            if slot.is_none()
                && let Some(id) = texts.iter().find_map(|text| vocab.id(text))
            {
                *slot = Some(id);
                vocab.set_type(id, TokenType::Control);
            }
        }
        Ok(ids)
    }

    /// All tokens that end generation, ascending: the roles that mean an end, the fill-in-the-middle markers that
    /// only follow a finished answer, and tokens with a text that means an end.
    pub(super) fn end_of_generation(&self, vocab: &mut Vocab) -> Vec<u32> {
        let roles =
            [self.eos, self.eot, self.eom, self.fim_padding, self.fim_repository, self.fim_separator].into_iter();
        let mut ids: Vec<u32> = roles.flatten().collect();
        for text in END_OF_GENERATION {
            if let Some(id) = vocab.id(text) {
                vocab.set_type(id, TokenType::Control);
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}
