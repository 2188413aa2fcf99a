//! Two small trained tokenizers against what independent programs make of them, and directories written on the spot.
//!
//! `tests/vocab/*/expected.json` was written by the GGUF ecosystem's own Python conversion code.

use std::fs;

use super::*;

/// A directory with the given files.
fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn config(text: &str) -> VocabConfig {
    VocabConfig::from_json(&serde_json::from_str(text).unwrap()).unwrap()
}

/// A fixture's vocabulary and the expected one.
fn fixture(name: &str) -> (Vocab, Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocab").join(name);
    let config = config(&fs::read_to_string(dir.join("config.json")).unwrap());
    let expected = serde_json::from_slice(&fs::read(dir.join("expected.json")).unwrap()).unwrap();
    (load(&dir, &config).unwrap(), expected)
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

fn types(vocab: &Vocab) -> Vec<i64> {
    vocab.types.iter().map(|t| *t as i64).collect()
}

fn numbers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect()
}

/// All ids and flags that the other program finds, and its order.
fn check_special(vocab: &Vocab, expected: &Value) {
    let ids: Vec<(&str, u64)> = vocab.special.ids.iter().map(|(k, id)| (k.name(), u64::from(*id))).collect();
    let wanted: Vec<(&str, u64)> =
        expected["ids"].as_object().unwrap().iter().map(|(k, id)| (k.as_str(), id.as_u64().unwrap())).collect();
    assert_eq!(ids[..wanted.len()], wanted[..]);
    let add: Vec<(&str, bool)> = vocab.special.add.iter().map(|(k, add)| (k.name(), *add)).collect();
    let wanted: Vec<(&str, bool)> =
        expected["add"].as_object().unwrap().iter().map(|(k, add)| (k.as_str(), add.as_bool().unwrap())).collect();
    assert_eq!(add, wanted);
}

#[test]
fn sentencepiece_arrays_equal_the_independent_ones() {
    let (vocab, expected) = fixture("spm");
    assert_eq!(vocab.model, VocabModel::Llama);
    assert_eq!(vocab.pre, "default");
    assert_eq!(vocab.tokens, strings(&expected["tokens"]));
    assert_eq!(types(&vocab), numbers(&expected["types"]));
    let scores: Vec<f32> = expected["scores"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    assert_eq!(vocab.scores, scores);
    check_special(&vocab, &expected);
    // Named in tokenizer_config.json only: found in the vocabulary, where the other program finds nothing.
    assert_eq!(vocab.special.id(SpecialKind::Unk), Some(0));
    assert_eq!(vocab.add_space_prefix, Some(true));
    assert_eq!(vocab.templates.default.as_deref(), Some("D"));
    assert_eq!(vocab.templates.named, [("tool_use".to_owned(), "T".to_owned())]);
    let keys: Vec<String> = vocab.metadata().into_iter().map(|(key, _)| key).collect();
    let wanted = [
        "ggml.add_space_prefix",
        "ggml.model",
        "ggml.pre",
        "ggml.tokens",
        "ggml.scores",
        "ggml.token_type",
        "ggml.bos_token_id",
        "ggml.eos_token_id",
        "ggml.padding_token_id",
        "ggml.unknown_token_id",
        "ggml.add_bos_token",
        "ggml.add_eos_token",
        "chat_template.tool_use",
        "chat_templates",
        "chat_template",
    ];
    assert_eq!(keys, wanted.map(|key| format!("tokenizer.{key}")));
}

#[test]
fn byte_level_arrays_equal_the_independent_ones() {
    let (vocab, expected) = fixture("byte");
    assert_eq!(vocab.model, VocabModel::Gpt2);
    assert_eq!(vocab.pre, "llama-bpe");
    assert_eq!(vocab.tokens, strings(&expected["tokens"]));
    assert_eq!(types(&vocab), numbers(&expected["types"]));
    assert_eq!(vocab.merges, strings(&expected["merges"]));
    assert!(vocab.scores.is_empty());
    check_special(&vocab, &expected);
    // The list of stop ids, which the other program ignores.
    assert_eq!(vocab.special.id(SpecialKind::Eot), Some(402));
    assert_eq!(vocab.templates.default.as_deref(), Some("{{ messages }}"));
}

/// A `tokenizer.json` of the SentencePiece kind.
fn json_tokenizer(merges: &str, added: &str) -> String {
    format!(
        r#"{{"added_tokens": {added}, "normalizer": {{"type": "Prepend", "prepend": "▁"}}, "pre_tokenizer": null,
        "model": {{"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "merges": {merges},
        "vocab": {{"<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4, "ba": 5, "aba": 6, "▁": 7}}}}}}"#
    )
}

#[test]
fn scores_are_rebuilt_from_merges_in_both_spellings() {
    let added = r#"[{"id": 8, "content": "<|x|>", "special": false}, {"id": 9, "content": "p▁q", "special": false}]"#;
    for merges in [r#"["b a", "a b", "ab a", "a ba"]"#, r#"[["b", "a"], ["a", "b"], ["ab", "a"], ["a", "ba"]]"#] {
        let dir = dir(&[("tokenizer.json", &json_tokenizer(merges, added))]);
        let vocab = load(dir.path(), &config(r#"{"vocab_size": 11}"#)).unwrap();
        assert_eq!(vocab.scores, [-5.0, -5.0, -5.0, -5.0, -1.0, 0.0, -2.0, -5.0, -5.0, -5.0, -5.0]);
        assert_eq!(types(&vocab), [2, 6, 1, 1, 1, 1, 1, 1, 3, 4, 5]);
        assert_eq!(vocab.tokens[8..], ["<|x|>", "p q", "[PAD10]"]);
        assert_eq!(vocab.add_space_prefix, None);
    }
}

#[test]
fn mismatches_are_refused_with_the_ids() {
    let message = |files: &[(&str, &str)], config_text: &str| {
        load(dir(files).path(), &config(config_text)).unwrap_err().to_string()
    };
    let json = json_tokenizer("[]", "[]");
    let error = message(&[("tokenizer.json", &json)], r#"{"vocab_size": 4}"#);
    assert!(error.contains("vocab_size") && error.contains("4 entries"), "{error}");

    let twice = json_tokenizer("[]", r#"[{"id": 8, "content": "ab", "special": true}]"#);
    let error = message(&[("tokenizer.json", &twice)], "{}");
    assert!(error.contains("\"ab\"") && error.contains("ids 4 and 8"), "{error}");

    let error = message(&[("tokenizer.json", &json)], r#"{"bos_token_id": 99}"#);
    assert!(error.contains("bos_token_id") && error.contains("99"), "{error}");

    let unigram = r#"{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}"#;
    let error = message(&[("tokenizer.json", unigram)], "{}");
    assert!(error.contains("Unigram") && error.contains("byte-level BPE"), "{error}");

    let split = r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Sequence",
        "pretokenizers": [{"type": "Split", "pattern": {"Regex": "odd"}, "behavior": "Isolated"},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}}"#;
    let error = message(&[("tokenizer.json", split)], "{}");
    assert!(error.contains("odd") && error.contains("llama-bpe") && error.contains("--pre"), "{error}");
    let named = VocabConfig { pre: Some("qwen2".into()), ..config("{}") };
    assert_eq!(load(dir(&[("tokenizer.json", split)]).path(), &named).unwrap().pre, "qwen2");
    let named = VocabConfig { pre: Some("nonsense".into()), ..config("{}") };
    assert!(matches!(load(dir(&[]).path(), &named), Err(VocabError::BadPre { .. })));
}

#[test]
fn missing_tokenizer_names_the_files_looked_for() {
    let error = load(dir(&[("vocab.json", "{}")]).path(), &VocabConfig::default()).unwrap_err().to_string();
    for part in ["tokenizer.model", "tokenizer.json", "vocab.json"] {
        assert!(error.contains(part), "{error}");
    }
}

/// Every cut and every flipped byte of a model file gives an answer, never a panic or a huge allocation.
#[test]
fn damaged_model_files_are_survived() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocab/spm/tokenizer.model");
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        if let Err(error) = proto::parse(&whole[..cut], &path) {
            assert!(error.to_string().contains("byte "), "{error}");
        }
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x81;
        let _ = proto::parse(&bytes, &path).map(|model| assert!(!model.pieces.is_empty()));
    }
    let error = proto::parse(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &path).unwrap_err().to_string();
    assert!(error.contains("only 0 bytes are left"), "{error}");
}

#[test]
fn templates_come_from_the_first_place_that_has_one() {
    let config = |text: &str| serde_json::from_str::<Value>(text).unwrap().as_object().cloned();
    let dir = dir(&[("chat_template.jinja", "J"), ("chat_template.json", r#"{"chat_template": "S"}"#)]);
    fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    fs::write(dir.path().join("additional_chat_templates/rag.jinja"), "R").unwrap();
    let of = |c: &str| template::load(dir.path(), config(c).as_ref()).unwrap();
    assert_eq!(of(r#"{"chat_template": "C"}"#).default.as_deref(), Some("C"));
    assert_eq!(of("{}").default.as_deref(), Some("J"));
    assert_eq!(of("{}").named, [("rag".to_owned(), "R".to_owned())]);
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    assert_eq!(of("{}").default.as_deref(), Some("S"));
}
