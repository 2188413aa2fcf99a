//! Vocabulary and chat template, and the faults found in them.

use std::collections::HashMap;

use ocelli_gguf::{Array, GgufSet, ValueType};

use super::{
    Probe,
    report::{ChatTemplate, SpecialToken, TextModel, Tokenizer},
};

/// Key of the token texts.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// Roles and the keys of their ids. `seperator` is the spelling in files.
const ROLES: [(&str, &str); 9] = [
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("eot", "eot_token_id"),
    ("eom", "eom_token_id"),
    ("unk", "unknown_token_id"),
    ("pad", "padding_token_id"),
    ("sep", "seperator_token_id"),
    ("mask", "mask_token_id"),
    ("cls", "cls_token_id"),
];

/// Tokens that end an answer wherever they occur in a vocabulary.
const STOP_TEXTS: [&str; 9] =
    ["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<EOT>", "_<EOT>", "<|eom_id|>"];

/// What MiniCPM-V puts around image and slice embeddings.
const IMAGE_TEXTS: [&str; 4] = ["<image>", "</image>", "<slice>", "</slice>"];

/// Value of `token_type` for a token of plain text.
const NORMAL: i32 = 1;

pub(super) fn describe(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, text: Option<&TextModel>) -> Option<Tokenizer> {
    let model = probe.str("tokenizer.ggml.model").map(str::to_owned);
    let pre = probe.str("tokenizer.ggml.pre").map(str::to_owned);
    let Some(tokens) = probe.array(TOKENS) else {
        probe.error(
            "missing-tokenizer",
            "the file has no vocabulary: text cannot be turned into tokens".to_owned(),
            "convert the checkpoint again, with its tokenizer files in the folder".to_owned(),
        );
        return None;
    };
    let Some(strings) = tokens.strings() else {
        let what = format!("key `{TOKENS}` holds {} values, not strings", tokens.element_type());
        probe.error("mistyped-key", what, "convert the model again".to_owned());
        return None;
    };
    let texts: Vec<&str> = strings.collect();
    let ids = unique_ids(&texts, probe);
    check_lengths(set, probe, texts.len(), text);
    if model.as_deref() == Some("llama") {
        check_scores(probe);
        check_bytes(&ids, probe);
    }
    let special = special_tokens(&texts, probe);
    let stop = stop_tokens(&special, &ids, probe);
    Some(Tokenizer {
        model,
        pre,
        tokens: texts.len(),
        special,
        stop,
        add_bos: probe.bool("tokenizer.ggml.add_bos_token"),
        has_image_tokens: IMAGE_TEXTS.iter().all(|t| ids.contains_key(t)),
    })
}

fn unique_ids<'a>(texts: &[&'a str], probe: &mut Probe<'_, '_>) -> HashMap<&'a str, u64> {
    let mut ids = HashMap::new();
    let mut twice = None;
    for (text, id) in texts.iter().zip(0u64..) {
        if let Some(first) = ids.insert(*text, id) {
            twice.get_or_insert((*text, first, id));
        }
    }
    if let Some((text, first, second)) = twice {
        probe.warning(
            "duplicate-token",
            format!("token {first} and token {second} are both `{}`", text.escape_debug()),
            "convert the checkpoint again; other readers refuse such a vocabulary".to_owned(),
        );
    }
    ids
}

/// Scores, types and the embedding matrix must be as long as the list of tokens.
fn check_lengths(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, tokens: usize, text: Option<&TextModel>) {
    let again = || "convert the checkpoint again".to_owned();
    for key in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
        if let Some(array) = probe.array(key)
            && array.len() != tokens
        {
            let what = format!("key `{key}` has {} elements for {tokens} tokens", array.len());
            probe.error("vocabulary-length", what, again());
        }
    }
    let rows = set.tensor("token_embd.weight").and_then(|t| t.dims.get(1).copied());
    if text.is_some()
        && let Some(rows) = rows
        && rows != tokens as u64
    {
        let what = format!("the vocabulary has {tokens} tokens, the embedding matrix {rows} rows");
        probe.error("vocabulary-length", what, again());
    }
}

/// SentencePiece merges by score; without true scores text falls into other tokens than the model was trained on.
fn check_scores(probe: &mut Probe<'_, '_>) {
    let remedy = "convert the checkpoint again with `ocelli convert`, which derives true scores from tokenizer.model or \
                  tokenizer.json";
    let Some(scores) = probe.array("tokenizer.ggml.scores") else {
        let what = "a SentencePiece vocabulary without scores: text is split into wrong tokens";
        probe.error("missing-scores", what.to_owned(), remedy.to_owned());
        return;
    };
    let Some(scores) = scores.f32s() else {
        let what = format!("key `tokenizer.ggml.scores` holds {} values, not f32", scores.element_type());
        probe.error("mistyped-key", what, remedy.to_owned());
        return;
    };
    let types: Option<Vec<i32>> =
        probe.array("tokenizer.ggml.token_type").and_then(|a| a.i32s()).map(Iterator::collect);
    let is_normal = |i: usize| types.as_ref().is_none_or(|t| t.get(i).is_none_or(|t| *t == NORMAL));
    let mut normal = scores.enumerate().filter(|(i, _)| is_normal(*i)).map(|(_, score)| score);
    let (Some(first), Some(second)) = (normal.next(), normal.next()) else { return };
    if first == second && normal.all(|score| score == first) {
        let what = format!("every token has the dummy score {first}: text is split into wrong tokens");
        probe.error("dummy-scores", what, remedy.to_owned());
    }
}

/// Characters outside the vocabulary are spelled in bytes.
fn check_bytes(ids: &HashMap<&str, u64>, probe: &mut Probe<'_, '_>) {
    let missing = (0..=255u8).filter(|b| !ids.contains_key(format!("<0x{b:02X}>").as_str())).count();
    if missing > 0 {
        probe.warning(
            "missing-byte-tokens",
            format!("{missing} of the 256 byte tokens <0x00> to <0xFF> are missing: rare characters cannot be written"),
            "convert the checkpoint again".to_owned(),
        );
    }
}

fn special_tokens(texts: &[&str], probe: &mut Probe<'_, '_>) -> Vec<SpecialToken> {
    let mut special = Vec::new();
    for (role, key) in ROLES {
        let key = format!("tokenizer.ggml.{key}");
        let Some(id) = probe.u64(&key) else { continue };
        let text = usize::try_from(id).ok().and_then(|i| texts.get(i)).map(|t| (*t).to_owned());
        if text.is_none() {
            let what = format!("key `{key}` is {id}, but there are only {} tokens", texts.len());
            probe.error("token-id-range", what, "convert the checkpoint again".to_owned());
        }
        special.push(SpecialToken { role: role.to_owned(), id, text });
    }
    special
}

fn stop_tokens(special: &[SpecialToken], ids: &HashMap<&str, u64>, probe: &mut Probe<'_, '_>) -> Vec<SpecialToken> {
    let mut stop: Vec<SpecialToken> =
        special.iter().filter(|t| matches!(t.role.as_str(), "eos" | "eot" | "eom")).cloned().collect();
    for text in STOP_TEXTS {
        if let Some(id) = ids.get(text)
            && stop.iter().all(|t| t.id != *id)
        {
            stop.push(SpecialToken { role: "by-text".to_owned(), id: *id, text: Some(text.to_owned()) });
        }
    }
    let again = "convert the checkpoint again with `ocelli convert`".to_owned();
    if stop.is_empty() {
        let what = "neither an end-of-text key nor a known end-of-turn token: answers never end";
        probe.error("missing-stop-token", what.to_owned(), again);
    } else if special.iter().all(|t| t.role != "eos") {
        let what = "tokenizer.ggml.eos_token_id is missing: readers guess the token that ends a text";
        probe.warning("missing-eos", what.to_owned(), again);
    }
    stop
}

pub(super) fn template(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, is_needed: bool) -> Option<ChatTemplate> {
    let Some(text) = probe.str("tokenizer.chat_template") else {
        if is_needed {
            probe.warning(
                "missing-chat-template",
                "the file has no chat template: turns are not marked as the model was taught".to_owned(),
                "convert the checkpoint again with its chat template, or give one with `--chat-template`".to_owned(),
            );
        }
        return None;
    };
    let named = |a: Array<'_>| a.strings().map(|s| s.map(str::to_owned).collect()).unwrap_or_default();
    let named = match probe.array("tokenizer.chat_templates") {
        Some(a) if a.element_type() == ValueType::String => named(a),
        _ => Vec::new(),
    };
    let (family, marker) = family(text);
    if is_needed && let Some(marker) = marker {
        let tokens = set.metadata().array_str(TOKENS).ok().flatten();
        if tokens.is_some_and(|mut t| !t.any(|token| token == marker)) {
            probe.warning(
                "template-token",
                format!("the chat template uses {marker}, which is not in the vocabulary"),
                "convert the checkpoint again with the template and tokenizer of the same model".to_owned(),
            );
        }
    }
    Some(ChatTemplate { family, bytes: text.len(), named })
}

/// Tells families apart by the token that opens a turn.
fn family(template: &str) -> (&'static str, Option<&'static str>) {
    const FAMILIES: [(&str, &str, bool); 8] = [
        ("<|im_start|>", "ChatML", true),
        ("<|start_header_id|>", "Llama 3", true),
        ("<start_of_turn>", "Gemma", true),
        ("<|user|>", "Phi 3 / Zephyr", false),
        ("<用户>", "MiniCPM", false),
        ("[INST]", "Llama 2 / Mistral", false),
        ("<|start_of_role|>", "Granite", false),
        ("### Instruction:", "Alpaca", false),
    ];
    FAMILIES
        .iter()
        .find(|(marker, _, _)| template.contains(marker))
        .map_or(("custom", None), |(marker, family, is_token)| (*family, is_token.then_some(*marker)))
}
