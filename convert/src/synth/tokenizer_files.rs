//! The tokenizer's files: `tokenizer.model`, `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`.

use serde_json::{Map, Value, json};

use super::tokenizer::{ADDED, MARKERS, PieceKind, Tokenizer};

/// ChatML: every turn between `<|im_start|>` with the role and `<|im_end|>`.
const CHAT_TEMPLATE: &str = "{%- for message in messages -%}\n\
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}\n\
    {%- endfor -%}\n\
    {%- if add_generation_prompt -%}\n\
    {{- '<|im_start|>assistant\\n' -}}\n\
    {%- endif -%}\n";

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.raw_varint(field << 3);
        self.raw_varint(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.raw_varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }
}

/// `tokenizer.model`.
pub(super) fn model(tokenizer: &Tokenizer) -> Vec<u8> {
    let mut out = Message::default();
    for piece in &tokenizer.pieces {
        let mut message = Message::default();
        message.bytes(1, piece.text.as_bytes());
        message.float(2, piece.score);
        if piece.kind != PieceKind::Normal {
            message.varint(3, piece.kind as u64);
        }
        out.bytes(1, &message.0);
    }
    let mut trainer = Message::default();
    trainer.varint(3, 2); // model_type: BPE
    trainer.varint(4, tokenizer.pieces.len() as u64); // vocab_size
    for marker in MARKERS {
        trainer.bytes(31, marker.as_bytes()); // user_defined_symbols
    }
    trainer.varint(35, 1); // byte_fallback
    trainer.varint(40, 0); // unk_id
    trainer.varint(41, 1); // bos_id
    trainer.varint(42, 2); // eos_id
    trainer.varint(43, u64::MAX); // pad_id −1: none
    out.bytes(2, &trainer.0);
    let mut normalizer = Message::default();
    normalizer.bytes(1, b"identity");
    normalizer.varint(3, 1); // add_dummy_prefix
    normalizer.varint(4, 0); // remove_extra_whitespaces
    normalizer.varint(5, 1); // escape_whitespaces
    out.bytes(3, &normalizer.0);
    out.0
}

/// The special tokens with their ids: structure, image markers, added tokens.
fn specials(tokenizer: &Tokenizer) -> Vec<(usize, &str)> {
    let structure =
        tokenizer.pieces.iter().enumerate().filter(|(_, piece)| {
            matches!(piece.kind, PieceKind::Unknown | PieceKind::Control | PieceKind::UserDefined)
        });
    let added = ADDED.iter().enumerate().map(|(i, text)| (tokenizer.pieces.len() + i, *text));
    structure.map(|(id, piece)| (id, piece.text.as_str())).chain(added).collect()
}

/// One entry of a list of added tokens, without its id.
fn added_entry(text: &str) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("content".into(), text.into());
    for key in ["single_word", "lstrip", "rstrip", "normalized"] {
        entry.insert(key.into(), false.into());
    }
    entry.insert("special".into(), true.into());
    entry
}

/// `tokenizer.json`.
pub(super) fn json(tokenizer: &Tokenizer) -> Value {
    let vocab: Map<String, Value> =
        tokenizer.pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), id.into())).collect();
    let merges: Vec<Value> = tokenizer.merges.iter().map(|(a, b)| format!("{a} {b}").into()).collect();
    let added: Vec<Value> = specials(tokenizer)
        .into_iter()
        .map(|(id, text)| {
            let mut entry = Map::new();
            entry.insert("id".into(), id.into());
            entry.append(&mut added_entry(text));
            Value::Object(entry)
        })
        .collect();
    let bos = |type_id: u32| json!({"SpecialToken": {"id": "<s>", "type_id": type_id}});
    let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos(0), sequence("A", 0)],
            "pair": [bos(0), sequence("A", 0), bos(1), sequence("B", 1)],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": "<unk>",
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges
        }
    })
}

/// `tokenizer_config.json`.
pub(super) fn config(tokenizer: &Tokenizer) -> Value {
    let specials = specials(tokenizer);
    let decoder: Map<String, Value> =
        specials.iter().map(|(id, text)| (id.to_string(), Value::Object(added_entry(text)))).collect();
    let additional: Vec<&str> = specials.iter().skip(3).map(|(_, text)| *text).collect();
    json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": additional,
        "bos_token": "<s>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": "</s>",
        "legacy": true,
        "model_max_length": 1_000_000,
        "pad_token": null,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": false,
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": "<unk>",
        "use_default_system_prompt": false
    })
}

/// `special_tokens_map.json`.
pub(super) fn special_map(tokenizer: &Tokenizer) -> Value {
    let additional: Vec<&str> = specials(tokenizer).into_iter().skip(3).map(|(_, text)| text).collect();
    json!({
        "additional_special_tokens": additional,
        "bos_token": Value::Object(map_entry("<s>")),
        "eos_token": Value::Object(map_entry("</s>")),
        "unk_token": Value::Object(map_entry("<unk>"))
    })
}

fn map_entry(text: &str) -> Map<String, Value> {
    let mut entry = added_entry(text);
    entry.remove("special");
    entry
}
