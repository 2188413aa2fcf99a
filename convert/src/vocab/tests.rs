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
    assert!(error.contains("\"ab\"") && error.contains("id 4 in") && error.contains("8 in"), "{error}");

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
    let dir = dir(&[("chat_template.jinja", "\u{feff}J"), ("chat_template.json", r#"{"chat_template": "S"}"#)]);
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("additional_chat_templates")).unwrap();
    fs::write(at("additional_chat_templates/rag.jinja"), "R").unwrap();
    let of = |c: &str| {
        fs::write(at("tokenizer_config.json"), c).unwrap();
        let config = crate::json::Object::read(&at("tokenizer_config.json")).unwrap();
        let mut warnings = Vec::new();
        let templates = template::load(dir.path(), config.as_ref(), &mut warnings).unwrap();
        (templates.default.unwrap_or_default(), templates.named, warnings)
    };
    let named = [("rag".to_owned(), "R".to_owned())];
    let (default, also, warnings) = of(r#"{"chat_template": "C"}"#);
    assert_eq!((default.as_str(), also.as_slice()), ("J", &named[..]));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("chat_template.jinja was taken") && warnings[1].contains("tokenizer_config.json"));
    fs::remove_file(at("chat_template.json")).unwrap();
    for same in [r#"{"chat_template": "J\n"}"#, r#"{"chat_template": null}"#, r#"{"chat_template": ""}"#, "{}"] {
        assert_eq!(of(same), ("J".to_owned(), named.to_vec(), Vec::new()), "{same}");
    }
    fs::remove_file(at("chat_template.jinja")).unwrap();
    fs::write(at("chat_template.json"), r#"{"chat_template": "S"}"#).unwrap();
    let (default, _, warnings) = of(r#"{"chat_template": [{"name": "default", "template": "C"}]}"#);
    assert_eq!((default.as_str(), warnings.len()), ("S", 1));
    fs::write(at("chat_template.json"), r#"{"chat_template": null}"#).unwrap();
    let (default, also, warnings) =
        of(r#"{"chat_template": [{"name": "default", "template": "C"}, {"name": "x", "template": "X"}]}"#);
    assert_eq!((default.as_str(), also.len(), warnings.len()), ("C", 2, 0));
}

/// A SentencePiece model of the given pieces, each with a type.
fn pieces(list: &[(&str, u8)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (rank, (text, kind)) in list.iter().enumerate() {
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend_from_slice(text.as_bytes());
        piece.push(0x15);
        piece.extend_from_slice(&(-(rank as f32)).to_le_bytes());
        piece.extend_from_slice(&[0x18, *kind]);
        out.extend_from_slice(&[0x0a, piece.len() as u8]);
        out.extend_from_slice(&piece);
    }
    out.extend_from_slice(&[0x12, 2, 0x18, 2]);
    out
}

const PIECES: &[(&str, u8)] = &[("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<0x41>", 6), ("a", 1), ("ab", 1)];

/// A `tokenizer.json` with [`PIECES`] as its vocabulary, `more` of it, and added tokens.
fn same_pieces(more: &str, added: &str) -> String {
    let vocab: Vec<String> = PIECES.iter().enumerate().map(|(id, (text, _))| format!("\"{text}\": {id}")).collect();
    let vocab = vocab.join(", ");
    format!(
        r#"{{"added_tokens": {added}, "normalizer": {{"type": "Prepend", "prepend": "▁"}},
        "model": {{"type": "BPE", "byte_fallback": true, "vocab": {{{vocab}{more}}}, "merges": []}}}}"#
    )
}

/// Loads `tokenizer.model` with [`PIECES`] and further files, for a vocabulary of ten.
fn with_model(files: &[(&str, &str)]) -> Result<Vocab, VocabError> {
    let dir = dir(files);
    fs::write(dir.path().join("tokenizer.model"), pieces(PIECES)).unwrap();
    load(dir.path(), &config(r#"{"vocab_size": 10}"#))
}

/// An added token is found wherever it is named, and only there.
#[test]
fn added_tokens_come_from_every_file_that_names_them() {
    let listed = r#"[{"id": 6, "content": "<|x|>", "special": true}, {"id": 7, "content": "y", "special": false}]"#;
    let json = same_pieces("", listed);
    let decoder = r#"{"added_tokens_decoder": {"6": {"content": "<|x|>", "special": true}, "7": {"content": "y"}}}"#;
    let list = r#"{"<|x|>": 6, "y": 7}"#;
    let map = r#"{"additional_special_tokens": ["y", {"content": "<|x|>"}]}"#;
    for files in [
        &[("tokenizer.json", json.as_str())][..],
        &[("tokenizer_config.json", decoder)],
        &[("added_tokens.json", list)],
        &[("tokenizer.json", json.as_str()), ("tokenizer_config.json", decoder), ("added_tokens.json", list)],
        &[("tokenizer.json", json.as_str()), ("tokenizer_config.json", "\u{feff}{\"add_bos_token\": true}")],
    ] {
        let vocab = with_model(files).unwrap();
        assert_eq!(vocab.tokens[6..], ["<|x|>", "y", "[PAD8]", "[PAD9]"], "{files:?}");
        // The list alone says nothing about special tokens.
        let first = if files.len() == 1 && files[0].0 == "added_tokens.json" { 4 } else { 3 };
        assert_eq!(types(&vocab)[6..], [first, 4, 5, 5], "{files:?}");
        assert_eq!(vocab.warnings, Vec::<String>::new(), "{files:?}");
    }
    // Lists without ids say which are special; the map only where nothing newer does.
    for (files, want) in [
        (&[("added_tokens.json", list), ("special_tokens_map.json", map)][..], 3),
        (&[("tokenizer_config.json", decoder), ("special_tokens_map.json", map)], 4),
        (&[("added_tokens.json", list), ("tokenizer_config.json", r#"{"extra_special_tokens": {"image": "y"}}"#)], 3),
        (&[("added_tokens.json", list), ("tokenizer_config.json", r#"{"image_token": "y"}"#)], 3),
    ] {
        assert_eq!(types(&with_model(files).unwrap())[7], want, "{files:?}");
    }
    let split = r#"{"added_tokens_decoder": {"7": {"content": "y", "special": true}}}"#;
    let vocab = with_model(&[("tokenizer.json", &json), ("tokenizer_config.json", split)]).unwrap();
    assert_eq!(types(&vocab)[6..8], [3, 3]);
    assert!(vocab.warnings[0].contains("\"y\" is special in tokenizer_config.json"), "{:?}", vocab.warnings);
}

#[test]
fn vocabularies_that_contradict_each_other_are_refused() {
    let x =
        |id: u32, text: &str| same_pieces("", &format!(r#"[{{"id": {id}, "content": "{text}", "special": true}}]"#));
    let decoder = |id: u32, text: &str| format!(r#"{{"added_tokens_decoder": {{"{id}": {{"content": "{text}"}}}}}}"#);
    let renamed = same_pieces("", "[]").replace("\"ab\": 5", "\"ba\": 5");
    let shorter = same_pieces("", "[]").replace(", \"ab\": 5", "");
    let unigram = r#"{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}"#;
    for (files, words) in [
        (
            vec![("tokenizer.json", x(6, "<x>")), ("tokenizer_config.json", decoder(7, "<x>"))],
            ["id 6 in tokenizer.json", "7 in tokenizer_config.json"],
        ),
        (
            vec![("tokenizer.json", x(6, "<x>")), ("tokenizer_config.json", decoder(6, "<y>"))],
            ["\"<x>\" in tokenizer.json", "\"<y>\" in tokenizer_config.json"],
        ),
        (
            vec![("tokenizer_config.json", decoder(6, "<x>")), ("added_tokens.json", r#"{"<x>": 8}"#.into())],
            ["id 6", "8 in added_tokens.json"],
        ),
        (vec![("tokenizer.json", x(6, "ab"))], ["id 5 in the vocabulary", "6 in tokenizer.json"]),
        (vec![("tokenizer.json", x(5, "<x>"))], ["token 5 is \"ab\"", "\"<x>\" in tokenizer.json"]),
        (
            vec![("tokenizer.json", renamed)],
            ["tokenizer.model and tokenizer.json", "token 5 is \"ab\" in the first and \"ba\""],
        ),
        (
            vec![("tokenizer.json", same_pieces(", \"new\": 6", "[]"))],
            ["tokenizer.model and tokenizer.json", "\"new\""],
        ),
        (vec![("tokenizer.json", shorter)], ["different vocabularies", "\"ab\""]),
        (vec![("tokenizer.json", unigram.into())], ["different vocabularies", "Unigram"]),
        (vec![("tokenizer_config.json", decoder(10, "<x>"))], ["<x>", "10 entries"]),
        (vec![("added_tokens.json", r#"{"<x>": 6, "<x>": 7}"#.into())], ["two ids", "6 and 7"]),
    ] {
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let error = with_model(&files).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    }
}

/// A piece that both newer files call by another name has been renamed, which is no contradiction.
#[test]
fn renamed_pieces_are_taken_with_a_warning() {
    let json = same_pieces("", r#"[{"id": 5, "content": "<x>", "special": true}]"#).replace("\"ab\"", "\"<x>\"");
    let vocab = with_model(&[("tokenizer.json", &json)]).unwrap();
    assert_eq!((vocab.tokens[5].as_str(), vocab.types[5]), ("<x>", TokenType::Control));
    assert!(vocab.warnings[0].contains("\"ab\" in tokenizer.model and \"<x>\" in tokenizer.json"));
}

/// GGUF files cannot say that a token takes blanks beside it with it; whoever converts is told.
#[test]
fn conditions_of_tokens_are_told() {
    for (flag, told) in [("lstrip", 1), ("rstrip", 1), ("single_word", 1), ("normalized", 0)] {
        let listed = format!(r#"[{{"id": 6, "content": "<|x|>", "special": true, "{flag}": true}}]"#);
        let dir = dir(&[("tokenizer.json", same_pieces("", &listed).as_str())]);
        fs::write(dir.path().join("tokenizer.model"), pieces(PIECES)).unwrap();
        let warnings = load(dir.path(), &config(r#"{"vocab_size": 10}"#)).unwrap().warnings;
        let about = warnings.iter().filter(|w| w.contains("<|x|>") && w.contains("lstrip")).count();
        assert_eq!(about, told, "{flag}: {warnings:?}");
    }
}

#[test]
fn special_tokens_that_files_see_differently() {
    let special = |files: &[(&str, &str)], config_text: &str| {
        let dir = dir(files);
        fs::write(dir.path().join("tokenizer.model"), pieces(PIECES)).unwrap();
        let vocab = load(dir.path(), &config(config_text)).unwrap();
        let id = |kind| vocab.special.id(kind);
        ([id(SpecialKind::Bos), id(SpecialKind::Eos), id(SpecialKind::Eot)], vocab.warnings)
    };
    let named = ("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#);
    let (ids, warnings) = special(&[named], r#"{"vocab_size": 10, "bos_token_id": 4, "eos_token_id": 2}"#);
    assert_eq!(ids, [Some(1), Some(2), None]);
    assert!(warnings.len() == 1 && warnings[0].contains("bos_token_id is 4"), "{warnings:?}");
    // A number and a list mean the same; the generation's own goes first.
    for (stops, want) in [("[2, 5]", Some(5)), ("5", Some(5)), ("2", None), ("[2]", None), ("null", None)] {
        let generation = format!(r#"{{"eos_token_id": {stops}}}"#);
        let (ids, _) = special(&[named, ("generation_config.json", &generation)], r#"{"vocab_size": 10}"#);
        assert_eq!(ids, [Some(1), Some(2), want], "{stops}");
    }
    let generation = ("generation_config.json", r#"{"eos_token_id": 2}"#);
    let (ids, warnings) = special(&[named, generation], r#"{"vocab_size": 10, "eos_token_id": [2, 5]}"#);
    assert_eq!(ids[2], None);
    assert!(warnings.len() == 1 && warnings[0].contains("generation_config.json"), "{warnings:?}");
    let (ids, warnings) = special(&[named, generation], r#"{"vocab_size": 10, "eos_token_id": [2]}"#);
    assert_eq!((ids[1], warnings), (Some(2), Vec::new()));
    let (_, warnings) =
        special(&[named, ("generation_config.json", r#"{"eos_token_id": 5}"#)], r#"{"vocab_size": 10}"#);
    assert!(warnings.len() == 1 && warnings[0].contains("all of them end an answer"), "{warnings:?}");
    // The map of the older format goes first where there is no list with ids.
    let map = ("special_tokens_map.json", r#"{"bos_token": "a"}"#);
    let (ids, warnings) = special(&[named, map], r#"{"vocab_size": 10}"#);
    assert_eq!(ids[0], Some(4));
    assert!(warnings[0].contains("special_tokens_map.json was taken"), "{warnings:?}");
    let newer = r#"{"bos_token": "<s>", "added_tokens_decoder": {"1": {"content": "<s>", "special": true}}}"#;
    let (ids, warnings) = special(&[("tokenizer_config.json", newer), map], r#"{"vocab_size": 10}"#);
    assert_eq!(ids[0], Some(1));
    assert!(warnings[0].contains("tokenizer_config.json was taken"), "{warnings:?}");
    let (_, warnings) = special(&[("tokenizer_config.json", r#"{"pad_token": "<gone>"}"#)], r#"{"vocab_size": 10}"#);
    assert!(warnings[0].contains("<gone>") && warnings[0].contains("left out"), "{warnings:?}");
}

#[test]
fn flags_that_files_see_differently() {
    let post = |text: &str| {
        let with = r#""post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}},
            {"Sequence": {"id": "A"}}], "pair": []}, "normalizer""#;
        text.replace("\"normalizer\"", with)
    };
    let json = post(&same_pieces("", "[]"));
    let vocab = with_model(&[("tokenizer.json", &json), ("tokenizer_config.json", r#"{"bos_token": "<s>"}"#)]).unwrap();
    assert_eq!((vocab.special.adds(SpecialKind::Bos), vocab.warnings.len()), (Some(true), 0));
    let says = r#"{"bos_token": "<s>", "add_bos_token": false, "add_prefix_space": false}"#;
    let vocab = with_model(&[("tokenizer.json", &json), ("tokenizer_config.json", says)]).unwrap();
    assert_eq!((vocab.special.adds(SpecialKind::Bos), vocab.add_space_prefix), (Some(false), Some(false)));
    let text = vocab.warnings.join("\n");
    assert!(text.contains("add_bos_token is false") && text.contains("add_prefix_space is false"), "{text}");
    // The tokenizer's own file against the model it was made from.
    let never = same_pieces("", "[]").replace("{\"type\": \"Prepend\", \"prepend\": \"▁\"}", "null");
    let vocab = with_model(&[("tokenizer.json", &never)]).unwrap();
    assert_eq!(vocab.add_space_prefix, Some(false));
    assert!(vocab.warnings[0].contains("tokenizer.json was taken"), "{:?}", vocab.warnings);
}

/// Ids come from files: they make no table that nothing fills.
#[test]
fn ids_without_tokens_make_no_table() {
    let json = same_pieces("", r#"[{"id": 16000000, "content": "<x>", "special": true}]"#);
    let dir = dir(&[("tokenizer.json", &json)]);
    let error = load(dir.path(), &VocabConfig::default()).unwrap_err().to_string();
    assert!(error.contains("16000000 is implausible"), "{error}");
}
