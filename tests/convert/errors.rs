//! What is refused, with which words, and that nothing is left behind.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use ocelli_convert::mixture::FileType;
use ocelli_convert::progress::{Progress, Silent};
use ocelli_convert::{ConvertError, ConvertOptions, convert};
use ocelli_files::FileError;
use safetensors::Dtype;
use serde_json::json;

use super::checkpoint::Fixture;
use super::options;

/// Converts and expects a failure whose message has all `words`; the output folder stays empty.
#[track_caller]
fn refused(checkpoint: &Path, words: &[&str]) -> ConvertError {
    let out = tempfile::tempdir().unwrap();
    let error = convert(checkpoint, &options(out.path(), FileType::Q4_K_M), &Silent).unwrap_err();
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} lacks {word:?}");
    }
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "files were left behind");
    error
}

#[test]
fn tensors_that_do_not_match_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::minicpmv(&json!({}));
    fixture.tensors.remove("llm.model.layers.1.mlp.up_proj.weight");
    fixture.add("llm.model.layers.7.mlp.up_proj.weight", &[2, 2]);
    fixture.add("vpm.post_layernorm.bias", &[65]);
    let error = refused(
        &fixture.write(dir.path(), "m"),
        &[
            "missing",
            "layers.1.mlp.up_proj.weight [512, 256]",
            "layers.7",
            "found [65], expected [64]",
            "MiniCPM-V 4.0",
        ],
    );
    let ConvertError::Tensors(mismatch) = error else { panic!("{error}") };
    assert_eq!((mismatch.missing.len(), mismatch.unexpected.len(), mismatch.shapes.len()), (1, 1, 1));
}

#[test]
fn buffers_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::minicpmv(&json!({}));
    fixture.add("llm.model.layers.0.self_attn.rotary_emb.inv_freq", &[64]);
    fixture.add("vpm.embeddings.position_ids", &[1, 16]);
    convert(&fixture.write(dir.path(), "m"), &options(dir.path(), FileType::Q8_0), &Silent).unwrap();
}

#[test]
fn other_models() {
    let dir = tempfile::tempdir().unwrap();
    let with = |extra: serde_json::Value| Fixture::minicpmv(&extra).write(dir.path(), "m");
    refused(&with(json!({"version": "2.6"})), &["MiniCPM-V 2.6", "MiniCPM-V 4.0"]);
    refused(&with(json!({"version": null})), &["version", "MiniCPM-V 4.0"]);
    refused(
        &with(json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})),
        &["Qwen3ForCausalLM", "qwen3"],
    );
    refused(&with(json!({"scale_emb": 12})), &["scale_emb", "12"]);
    refused(&with(json!({"quantization_config": {"bits": 4}})), &["quantization_config", "original"]);
    // Version as a string is the same model.
    convert(&with(json!({"version": "4.0"})), &options(dir.path(), FileType::Q8_0), &Silent).unwrap();
}

#[test]
fn configurations_that_lie() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::llama(&json!({}));
    for (key, value, word) in [
        ("num_hidden_layers", json!(4_000_000_000u32), "tensors"),
        ("num_hidden_layers", json!(2_000_000_000u32), "2000000000"),
        ("hidden_size", json!(-64), "-64"),
        ("hidden_size", json!("64"), "positive integer"),
        ("num_key_value_heads", json!(3), "divisor"),
        ("head_dim", json!(15), "even"),
        ("hidden_act", json!("relu"), "silu"),
        ("rope_scaling", json!({"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}), "long_factor"),
    ] {
        let old = fixture.config.clone();
        fixture.config[key] = value;
        let path = fixture.write(dir.path(), "m");
        let out = tempfile::tempdir().unwrap();
        let error = convert(&path, &options(out.path(), FileType::F16), &Silent).unwrap_err().to_string();
        assert!(
            error.contains(key.split('.').next().unwrap()) && (error.contains(word) || error.contains("below")),
            "{error}"
        );
        fixture.config = old;
    }
}

#[test]
fn missing_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::llama(&json!({})).write_sharded(dir.path(), "m");
    std::fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    refused(&path, &["model-00002-of-00002.safetensors", "download"]);
    let path = Fixture::llama(&json!({})).write(dir.path(), "n");
    std::fs::remove_file(path.join("tokenizer.model")).unwrap();
    refused(&path, &["tokenizer"]);
    std::fs::remove_file(path.join("config.json")).unwrap();
    refused(&path, &["config.json"]);
}

#[test]
fn truncated_shards() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::llama(&json!({})).write(dir.path(), "m");
    let file = path.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 10]).unwrap();
    refused(&path, &["model.safetensors", "download it again"]);
}

#[test]
fn weights_that_are_not_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::minicpmv(&json!({}));
    // Row 65 of a head of 128 moves to row 3: the message names the place in the checkpoint.
    let name = "llm.model.layers.0.self_attn.q_proj.weight";
    fixture.tensors.get_mut(name).unwrap().1[65 * 256 + 7] = f32::NAN;
    refused(&fixture.write(dir.path(), "m"), &[name, "NaN", &(65 * 256 + 7).to_string()]);
    let mut fixture = Fixture::minicpmv(&json!({}));
    fixture.tensors.get_mut("resampler.proj").unwrap().1[3 * 256 + 5] = f32::INFINITY;
    refused(&fixture.write(dir.path(), "m"), &["resampler.proj", "inf", &(3 * 256 + 5).to_string()]);
}

#[test]
fn weights_beyond_half_precision() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::llama(&json!({}));
    fixture.dtype = Dtype::F32;
    fixture.tensors.get_mut("lm_head.weight").unwrap().1[12] = -70000.0;
    let path = fixture.write(dir.path(), "m");
    let error = convert(&path, &options(dir.path(), FileType::F16), &Silent).unwrap_err().to_string();
    assert!(
        error.contains("lm_head.weight") && error.contains("-70000 at index 12") && error.contains("BF16"),
        "{error}"
    );
    convert(&path, &options(dir.path(), FileType::BF16), &Silent).unwrap();
}

#[test]
fn existing_files_and_bad_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::llama(&json!({})).write(dir.path(), "m");
    let mut options = options(dir.path(), FileType::Q8_0);
    let file = dir.path().join("m-Q8_0.gguf");
    std::fs::write(&file, b"mine").unwrap();
    let error = convert(&path, &options, &Silent).unwrap_err();
    assert!(matches!(&error, ConvertError::Output(FileError::Exists { path }) if *path == file), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    options.overwrite = true;
    convert(&path.join("."), &options, &Silent).unwrap();
    assert_ne!(std::fs::read(&file).unwrap(), b"mine");
    let options = ConvertOptions { name: Some("../x".into()), ..options };
    assert!(matches!(convert(&path, &options, &Silent), Err(ConvertError::Name { .. })));
}

/// Asks to stop once `after` tensors have begun.
struct StopAfter {
    after: usize,
    seen: AtomicUsize,
}

impl Progress for StopAfter {
    fn tensor(&self, _: &str, _: usize, _: usize) {
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.after
    }
}

#[test]
fn cancelling_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({})).write(dir.path(), "m");
    // At once, inside the text file, inside the vision file.
    for after in [0, 5, 40] {
        let out = tempfile::tempdir().unwrap();
        let stop = StopAfter { after, seen: AtomicUsize::new(0) };
        let error = convert(&path, &options(out.path(), FileType::Q4_0), &stop).unwrap_err();
        assert!(matches!(error, ConvertError::Cancelled), "{error}");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}

/// A count that the weights do not bear out is one line, at once, and makes no table of that size.
#[test]
fn counts_that_no_tensor_bears_out() {
    let dir = tempfile::tempdir().unwrap();
    let huge = json!(2_000_000_000u32);
    for key in ["vocab_size", "hidden_size", "head_dim", "num_attention_heads", "intermediate_size", "query_num"] {
        let mut fixture = Fixture::minicpmv(&json!({}));
        fixture.config[key] = huge.clone();
        if key == "hidden_size" {
            // As the resampler wants it.
            fixture.config[key] = json!(2_000_000_000u32 / 128 * 128);
        }
        let path = fixture.write(dir.path(), "m");
        let started = std::time::Instant::now();
        let error = refused(&path, &[]).to_string();
        assert!(started.elapsed().as_secs_f64() < 2.0, "{key} took {:?}", started.elapsed());
        let named = error.contains(key) || error.contains("2000000000") || error.contains("shape");
        assert!(named, "{key}: {error}");
    }
    for (section, key) in
        [("vision_config", "image_size"), ("vision_config", "num_channels"), ("vision_config", "hidden_size")]
    {
        let mut fixture = Fixture::minicpmv(&json!({}));
        fixture.config[section][key] = huge.clone();
        refused(&fixture.write(dir.path(), "m"), &["wrong shape"]);
    }
    let mut fixture = Fixture::minicpmv(&json!({}));
    fixture.config["vocab_size"] = huge;
    let error = refused(&fixture.write(dir.path(), "m"), &["vocab_size", "2000000000", "300 rows"]).to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    fixture.tensors.remove("llm.model.embed_tokens.weight");
    refused(&fixture.write(dir.path(), "m"), &["vocab_size", "2000000000"]);
}
