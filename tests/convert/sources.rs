//! Checkpoints in which one thing is said in several places.

use std::path::Path;

use ocelli_convert::mixture::FileType;
use ocelli_convert::progress::Silent;
use ocelli_convert::{ConvertError, ConvertOptions, ConvertReport, Part, convert};
use ocelli_gguf::Gguf;
use ocelli_text::sampler::SamplerParams;
use serde_json::{Value, json};

use super::checkpoint::Fixture;
use super::{options, read, same};

fn go(dir: &Path, checkpoint: &Path) -> Result<ConvertReport, ConvertError> {
    let options = ConvertOptions { overwrite: true, ..options(&dir.join("out"), FileType::F32) };
    convert(checkpoint, &options, &Silent)
}

fn put(checkpoint: &Path, file: &str, value: &Value) {
    std::fs::write(checkpoint.join(file), value.to_string()).unwrap();
}

/// An index left over from before the model was saved in one file; its shards hold other values.
#[test]
fn an_old_index_beside_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::llama(&json!({}));
    let mut old = Fixture::llama(&json!({}));
    for (_, values) in old.tensors.values_mut() {
        values.fill(0.0);
    }
    let path = old.write_sharded(dir.path(), "m");
    fixture.write(dir.path(), "m");
    let report = go(dir.path(), &path).unwrap();
    let bytes = read(&report.files[0].path);
    same(&Gguf::parse(&bytes).unwrap(), "token_embd.weight", &[64, 300], fixture.values("model.embed_tokens.weight"));
    assert!(report.warnings.iter().any(|w| w.contains("model.safetensors.index.json")), "{:?}", report.warnings);

    let mut other = Fixture::llama(&json!({}));
    other.add("lm_head.weight", &[301, 64]);
    let path = other.write_sharded(dir.path(), "n");
    fixture.write(dir.path(), "n");
    let error = go(dir.path(), &path).unwrap_err().to_string();
    assert!(error.contains("different models") && error.contains("lm_head.weight"), "{error}");
}

/// As transformers 5 saves: special tokens in `tokenizer.json` alone, the template in its own file; and every file
/// saved once more by an editor that marks the byte order.
#[test]
fn a_checkpoint_as_transformers_5_saves_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({"rope_scaling": null, "rope_parameters": {"rope_type": "default",
        "rope_theta": 5e5}, "rope_theta": null}))
    .write(dir.path(), "m");
    let mut vocab: serde_json::Map<String, Value> = [("<unk>", 0), ("<s>", 1), ("</s>", 2), ("▁a", 259), ("b", 260)]
        .map(|(text, id)| (text.to_owned(), json!(id)))
        .into_iter()
        .collect();
    vocab.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), json!(byte + 3))));
    let added = json!([{"id": 270, "content": "<|im_end|>", "special": true},
        {"id": 271, "content": "<|im_start|>", "special": true}]);
    let tokenizer = json!({"added_tokens": added, "normalizer": {"type": "Prepend", "prepend": "▁"},
        "model": {"type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": []}});
    put(&path, "tokenizer.json", &tokenizer);
    put(&path, "tokenizer_config.json", &json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": null}));
    std::fs::write(path.join("chat_template.jinja"), "{{ messages }}").unwrap();
    for name in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
    {
        let text = std::fs::read_to_string(path.join(name)).unwrap();
        std::fs::write(path.join(name), format!("\u{feff}{text}")).unwrap();
    }
    let report = go(dir.path(), &path).unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
    let bytes = read(&report.files[0].path);
    let gguf = Gguf::parse(&bytes).unwrap();
    let meta = gguf.metadata();
    let tokens = meta.array("tokenizer.ggml.tokens").unwrap().unwrap();
    let tokens: Vec<&str> = tokens.strings().unwrap().collect();
    assert_eq!(tokens[270..272], ["<|im_end|>", "<|im_start|>"]);
    assert_eq!(meta.str("tokenizer.chat_template").unwrap(), Some("{{ messages }}"));
    assert_eq!(meta.f32("llama.rope.freq_base").unwrap(), Some(5e5));
    assert_eq!(meta.u32("tokenizer.ggml.eot_token_id").unwrap(), Some(270));
    // UTF-16 is one line, not an error of the parser.
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(path.join("config.json"), utf16).unwrap();
    let error = go(dir.path(), &path).unwrap_err().to_string();
    assert!(error.contains("UTF-16") && error.contains("config.json"), "{error}");
}

#[test]
fn rope_settings_in_two_places() {
    let dir = tempfile::tempdir().unwrap();
    let base = |extra: Value| {
        let path = Fixture::llama(&extra).write(dir.path(), "m");
        let report = go(dir.path(), &path)?;
        let bytes = read(&report.files[0].path);
        let gguf = Gguf::parse(&bytes).unwrap();
        Ok::<_, ConvertError>((gguf.metadata().f32("llama.rope.freq_base").unwrap().unwrap(), report.warnings))
    };
    let linear = json!({"rope_type": "linear", "factor": 2.0});
    let both = json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": linear, "rope_theta": 7.0});
    assert_eq!(base(both).unwrap(), (7.0, Vec::new()));
    let differ = json!({"rope_scaling": {"type": "linear", "factor": 4}, "rope_parameters": linear, "rope_theta": 7.0});
    let (theta, warnings) = base(differ).unwrap();
    assert!(theta == 7.0 && warnings.len() == 1 && warnings[0].contains("rope_scaling was taken"), "{warnings:?}");
    let (theta, warnings) = base(json!({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 9.0}})).unwrap();
    assert!(theta == 9.0 && warnings.len() == 1 && warnings[0].contains("9 was taken"), "{warnings:?}");
    let layers = json!({"rope_parameters": {"full_attention": {"rope_theta": 9.0}}});
    assert!(base(layers).unwrap_err().to_string().contains("rope_parameters.full_attention"));
}

/// What is written is accepted by the runtime, what the runtime refuses is left out: neither list can drift.
#[test]
fn recommendations_are_what_the_runtime_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::llama(&json!({})).write(dir.path(), "m");
    let numbers = [-1e9, -2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 1e6, 2e6, 1e9];
    let unit = |x: f64| (0.0..=1.0).contains(&x);
    let huge = |x: f64| (0.0..=1e6).contains(&x);
    let whole = |x: f64| x.fract() == 0.0;
    let cases: [(&str, &dyn Fn(f64) -> bool); 11] = [
        ("temperature", &|x| x.abs() <= 1e6),
        ("top_k", &whole),
        ("top_p", &unit),
        ("min_p", &unit),
        ("xtc_probability", &unit),
        ("xtc_threshold", &unit),
        ("repetition_penalty", &|x| x > 0.0 && x <= 1e6),
        ("penalty_last_n", &|x| whole(x) && x >= -1.0),
        ("mirostat", &|x| [0.0, 1.0, 2.0].contains(&x)),
        ("mirostat_tau", &huge),
        ("mirostat_eta", &huge),
    ];
    for (key, accepted) in cases {
        for value in numbers {
            put(&path, "generation_config.json", &json!({key: value}));
            let report = go(dir.path(), &path).unwrap();
            let bytes = read(&report.files[0].path);
            let gguf = Gguf::parse(&bytes).unwrap();
            SamplerParams::from_metadata(gguf.metadata()).unwrap_or_else(|e| panic!("{key} {value}: {e}"));
            let written = gguf.metadata().iter().filter(|e| e.key.starts_with("general.sampling.")).count();
            assert_eq!(written, usize::from(accepted(value)), "{key} {value}");
            assert_eq!(report.warnings.len(), 1 - written, "{key} {value}: {:?}", report.warnings);
        }
    }
}

#[test]
fn a_model_in_the_hubs_cache() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = dir.path().join("models--openbmb--My-Model/snapshots");
    let path = Fixture::llama(&json!({})).write(&snapshots, "0123456789abcdef0123456789abcdef01234567");
    let report = go(dir.path(), &path).unwrap();
    assert!(report.files[0].path.ends_with("My-Model-F32.gguf"), "{:?}", report.files);
    let bytes = read(&report.files[0].path);
    let meta_of = Gguf::parse(&bytes).unwrap();
    assert_eq!(meta_of.metadata().str("general.name").unwrap(), Some("My Model"));
    assert_eq!(meta_of.metadata().str("general.organization").unwrap(), Some("openbmb"));
    let path = Fixture::llama(&json!({})).write(dir.path(), "0123456789abcdef0123456789abcdef01234567");
    assert!(matches!(go(dir.path(), &path), Err(ConvertError::NoName { .. })));
}

#[test]
fn one_part_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({})).write(dir.path(), "m");
    let only = |part, to: &str| {
        let options = ConvertOptions { only: Some(part), ..options(&dir.path().join(to), FileType::F16) };
        convert(&path, &options, &Silent)
    };
    let both = convert(&path, &options(&dir.path().join("both"), FileType::F16), &Silent).unwrap();
    for (part, to) in [(Part::Text, "text"), (Part::Vision, "vision")] {
        let report = only(part, to).unwrap();
        assert_eq!((report.files.len(), report.files[0].part), (1, part));
        let same = both.files.iter().find(|f| f.part == part).unwrap();
        assert!(read(&report.files[0].path) == read(&same.path));
        assert_eq!(std::fs::read_dir(dir.path().join(to)).unwrap().count(), 1);
    }
    // Without its tokenizer a model still has a vision part; one that sees nothing has none.
    std::fs::remove_file(path.join("tokenizer.model")).unwrap();
    only(Part::Vision, "again").unwrap();
    assert!(only(Part::Text, "again").is_err());
    let path = Fixture::llama(&json!({})).write(dir.path(), "n");
    let options = ConvertOptions { only: Some(Part::Vision), ..options(&dir.path().join("none"), FileType::F16) };
    assert!(matches!(convert(&path, &options, &Silent), Err(ConvertError::NoVision { .. })));
}

#[test]
fn an_equal_vision_file_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({})).write(dir.path(), "m");
    let out = dir.path().join("out");
    let first = convert(&path, &options(&out, FileType::F16), &Silent).unwrap();
    let vision = first.files[1].path.clone();
    let before = std::fs::metadata(&vision).unwrap().modified().unwrap();
    let second = convert(&path, &options(&out, FileType::Q8_0), &Silent).unwrap();
    assert_eq!([second.files[0].kept, second.files[1].kept], [false, true]);
    assert_eq!(second.files[1].path, vision);
    assert_eq!(std::fs::metadata(&vision).unwrap().modified().unwrap(), before);
    // One byte of a difference anywhere, or another length, and it is refused before anything is written.
    let whole = read(&vision);
    for (at, cut) in [(40, 0), (whole.len() / 2, 0), (whole.len() - 40, 0), (0, 32)] {
        let mut changed = whole[..whole.len() - cut].to_vec();
        if cut == 0 {
            changed[at] ^= 1;
        }
        std::fs::write(&vision, &changed).unwrap();
        let error = convert(&path, &options(&out, FileType::Q4_0), &Silent).unwrap_err();
        assert!(error.to_string().contains(&vision.display().to_string()), "{error}");
        assert!(read(&vision) == changed);
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3);
    }
}

/// What the runtime would refuse in the written file is refused before it is written.
#[test]
fn values_that_no_file_can_use_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (key, value) in [
        ("rope_theta", json!(1e39)),
        ("rope_theta", json!(-1)),
        ("rms_norm_eps", json!(1e300)),
        ("rms_norm_eps", json!(0)),
        ("rms_norm_eps", json!(1e-60)),
        ("max_position_embeddings", json!(2_147_483_647)),
    ] {
        let path = Fixture::llama(&json!({ key: value })).write(dir.path(), "m");
        let error = go(dir.path(), &path).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("config.json"), "{key} {value}: {error}");
    }
    for (extra, words) in [
        (json!({"image_size": 2_147_483_647}), ["image_size", "65536"]),
        (json!({"image_size": 1}), ["image_size", "65536"]),
    ] {
        let path = Fixture::minicpmv(&extra).write(dir.path(), "v");
        let error = go(dir.path(), &path).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{extra}: {error}");
    }
}
