//! Each fault is put into an otherwise good file and must be the only one found.

use std::{fs, path::PathBuf};

use ocelli_gguf::{GgufWriter, MetaArray, MetaValue, TensorType};
use tempfile::TempDir;

use super::{FileReport, Kind, Report, Severity, inspect, inspect_file};

/// Keys and tensors of a file to be written; tests change what they need.
#[derive(Clone)]
struct Model {
    keys: Vec<(String, MetaValue)>,
    tensors: Vec<(String, Vec<u64>, TensorType)>,
}

impl Model {
    fn set(mut self, key: &str, value: impl Into<MetaValue>) -> Self {
        let value = value.into();
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    fn unset(mut self, key: &str) -> Self {
        let before = self.keys.len();
        self.keys.retain(|(k, _)| k != key);
        assert!(self.keys.len() < before, "{key} was not there");
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], ty: TensorType) -> Self {
        self.tensors.retain(|(n, _, _)| n != name);
        self.tensors.push((name.to_owned(), dims.to_vec(), ty));
        self
    }

    fn without(mut self, name: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|(n, _, _)| n != name);
        assert!(self.tensors.len() < before, "{name} was not there");
        self
    }

    fn write(&self, dir: &TempDir, name: &str) -> PathBuf {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.keys {
            writer.kv(key, value.clone()).unwrap();
        }
        for (name, dims, ty) in &self.tensors {
            writer.tensor(name, dims, *ty).unwrap();
        }
        let path = dir.path().join(name);
        // Headers are all that is read, so the data may be a hole in the file.
        let total = writer.total_size().unwrap();
        let file = fs::File::create(&path).unwrap();
        drop(writer.start(&file).unwrap());
        file.set_len(total).unwrap();
        path
    }

    fn report(&self) -> FileReport {
        let dir = TempDir::new().unwrap();
        inspect_file(&self.write(&dir, "model.gguf"), false).unwrap()
    }

    fn codes(&self) -> Vec<&'static str> {
        let report = self.report();
        for fault in &report.faults {
            assert!(!fault.remedy.is_empty() && !fault.what.is_empty());
        }
        report.faults.iter().map(|f| f.code).collect()
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

/// A text model with one layer, two heads of eight for a width of 12, and a SentencePiece vocabulary.
fn text() -> Model {
    let mut tokens = strings(&["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "▁a", "b", "c"]);
    let mut scores = vec![0.0f32, 0.0, 0.0, -1000.0, -1000.0, -1.0, -2.0, -3.0];
    let mut types = vec![2i32, 3, 3, 3, 3, 1, 1, 1];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        scores.push(0.0);
        types.push(6);
    }
    let vocab = tokens.len() as u64;
    let mut model = Model { keys: Vec::new(), tensors: Vec::new() }
        .set("general.architecture", "llama")
        .set("general.type", "model")
        .set("general.name", "Test")
        .set("general.size_label", "1K")
        .set("general.file_type", 15u32)
        .set("general.sampling.temp", 0.5f32)
        .set("llama.block_count", 1u32)
        .set("llama.context_length", 4096u32)
        .set("llama.embedding_length", 12u32)
        .set("llama.feed_forward_length", 32u32)
        .set("llama.attention.head_count", 2u32)
        .set("llama.attention.head_count_kv", 1u32)
        .set("llama.attention.key_length", 8u32)
        .set("llama.rope.scaling.type", "longrope")
        .set("llama.rope.scaling.original_context_length", 2048u32)
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.pre", "default")
        .set("tokenizer.ggml.tokens", tokens)
        .set("tokenizer.ggml.scores", scores)
        .set("tokenizer.ggml.token_type", types)
        .set("tokenizer.ggml.bos_token_id", 1u32)
        .set("tokenizer.ggml.eos_token_id", 2u32)
        .set("tokenizer.chat_template", "{{ '<|im_start|>' + message }}")
        .tensor("rope_factors_long.weight", &[4], TensorType::F32)
        .tensor("rope_factors_short.weight", &[4], TensorType::F32)
        .tensor("token_embd.weight", &[12, vocab], TensorType::F16)
        .tensor("output_norm.weight", &[12], TensorType::F32);
    for (name, rows) in [("attn_q", 16), ("attn_k", 8), ("attn_v", 8), ("ffn_gate", 32), ("ffn_up", 32)] {
        model = model.tensor(&format!("blk.0.{name}.weight"), &[12, rows], TensorType::F16);
    }
    model
        .tensor("blk.0.attn_output.weight", &[16, 12], TensorType::F16)
        .tensor("blk.0.ffn_down.weight", &[32, 12], TensorType::Q8_0)
        .tensor("blk.0.attn_norm.weight", &[12], TensorType::F32)
        .tensor("blk.0.ffn_norm.weight", &[12], TensorType::F32)
}

/// A vision file with one layer whose output is `width` wide.
fn vision(width: u64) -> Model {
    let mut model = Model { keys: Vec::new(), tensors: Vec::new() }
        .set("general.architecture", "clip")
        .set("clip.has_vision_encoder", true)
        .set("clip.has_minicpmv_projector", true)
        .set("clip.projector_type", "resampler")
        .set("clip.minicpmv_version", 5i32)
        .set("clip.minicpmv_query_num", 4u32)
        .set("clip.vision.image_size", 448u32)
        .set("clip.vision.patch_size", 14u32)
        .set("clip.vision.embedding_length", 8u32)
        .set("clip.vision.attention.head_count", 2u32)
        .set("clip.vision.block_count", 1u32)
        .tensor("resampler.query", &[width, 4], TensorType::F32)
        .tensor("resampler.pos_embed_k", &[width, 9], TensorType::F32)
        .tensor("resampler.proj.weight", &[width, width], TensorType::F16)
        .tensor("resampler.kv.weight", &[8, width], TensorType::F16)
        .tensor("v.patch_embd.weight", &[14, 14, 3, 8], TensorType::F16)
        .tensor("v.patch_embd.bias", &[8], TensorType::F32)
        .tensor("v.position_embd.weight", &[8, 9], TensorType::F16);
    for part in ["attn.q", "attn.k", "attn.v", "attn.out", "ln_q", "ln_kv", "ln_post"] {
        let dims: &[u64] = if part.starts_with("attn") { &[width, width] } else { &[width] };
        model = model.tensor(&format!("resampler.{part}.weight"), dims, TensorType::F16);
        model = model.tensor(&format!("resampler.{part}.bias"), &[width], TensorType::F32);
    }
    for part in ["attn_q", "attn_k", "attn_v", "attn_out", "ln1", "ln2", "ffn_down", "ffn_up"] {
        model = model.tensor(&format!("v.blk.0.{part}.weight"), &[8, 8], TensorType::F16);
        model = model.tensor(&format!("v.blk.0.{part}.bias"), &[8], TensorType::F32);
    }
    model.tensor("v.post_ln.weight", &[8], TensorType::F32).tensor("v.post_ln.bias", &[8], TensorType::F32)
}

#[test]
fn a_good_text_model_is_described_without_faults() {
    let report = text().report();
    assert_eq!(report.faults, []);
    assert_eq!(report.kind, Kind::Text);
    assert_eq!(report.name.as_deref(), Some("Test"));
    assert_eq!(report.file_type.as_ref().unwrap().name, Some("Q4_K_M"));
    assert_eq!(report.sampling["temp"], 0.5);
    assert_eq!(report.tensor_count, report.types.iter().map(|t| t.tensors).sum::<usize>());
    assert_eq!(report.tensor_bytes, report.types.iter().map(|t| t.bytes).sum::<u64>());
    assert!((report.types.iter().map(|t| t.share).sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(report.types[0].name, "F16");
    let bits = report.bits_per_weight.unwrap();
    assert!((bits - 8.0 * report.tensor_bytes as f64 / report.parameters as f64).abs() < 1e-9);

    let shape = report.text.unwrap();
    assert_eq!(shape.head_dim, Some(8));
    assert_eq!(shape.vocab_size, Some(264));
    assert_eq!(shape.kv_bytes_per_token_f16, Some(2 * 2 * 8));
    assert!(shape.rope_factors && !shape.is_minicpm_v_4);
    let tokenizer = report.tokenizer.unwrap();
    assert_eq!(tokenizer.tokens, 264);
    let stop: Vec<_> = tokenizer.stop.iter().map(|t| (t.role.as_str(), t.id)).collect();
    assert_eq!(stop, [("eos", 2), ("by-text", 4)]);
    assert_eq!(report.chat_template.unwrap().family, "ChatML");
    assert!(report.tensors.is_none());
}

#[test]
fn rope_faults() {
    let no_factors = text().without("rope_factors_long.weight").without("rope_factors_short.weight");
    assert_eq!(no_factors.codes(), ["missing-rope-factors"]);
    let fault = no_factors.report().faults.remove(0);
    assert_eq!(fault.severity, Severity::Error);
    assert!(fault.remedy.contains("ocelli convert") && !fault.remedy.contains("--rope-factors"), "{}", fault.remedy);
    assert_eq!(text().without("rope_factors_short.weight").codes(), ["missing-rope-factors"]);
    let unscaled = no_factors.unset("llama.rope.scaling.type");
    assert_eq!(unscaled.codes(), [""; 0]);

    let short = text().tensor("rope_factors_long.weight", &[3], TensorType::F32);
    assert_eq!(short.codes(), ["wrong-rope-factors"]);
    assert_eq!(text().unset("llama.rope.scaling.original_context_length").codes(), ["missing-original-context"]);
    assert_eq!(text().set("llama.rope.scaling.type", "linear").codes(), ["unused-rope-factors"]);
}

/// The published shape is known even when the file does not say that the model was trained with longrope.
#[test]
fn minicpm_v_4_without_factors_is_recognised() {
    let mut model = text()
        .set("llama.block_count", 32u32)
        .set("llama.embedding_length", 2560u32)
        .set("llama.vocab_size", 73_448u32)
        .without("rope_factors_long.weight")
        .without("rope_factors_short.weight");
    let layer: Vec<_> = model.tensors.iter().filter(|(n, _, _)| n.starts_with("blk.0.")).cloned().collect();
    for i in 1..32 {
        for (name, dims, ty) in &layer {
            model = model.tensor(&name.replace("blk.0.", &format!("blk.{i}.")), dims, *ty);
        }
    }
    for model in [model.clone(), model.unset("llama.rope.scaling.type")] {
        assert_eq!(model.codes(), ["missing-rope-factors", "missing-vision-file"]);
        let report = model.report();
        assert!(report.text.unwrap().is_minicpm_v_4);
        assert!(report.faults[0].remedy.contains("--rope-factors minicpm-v-4"));
    }
}

#[test]
fn shape_faults() {
    // Without the key readers assume 12 / 2 = 6, and the factors fit neither.
    assert_eq!(text().unset("llama.attention.key_length").codes()[0], "missing-key-length");
    assert_eq!(text().set("llama.attention.key_length", 4u32).codes()[0], "wrong-key-length");
    assert_eq!(text().set("llama.attention.head_count", 3u32).codes(), ["wrong-head-count"]);
    assert_eq!(text().set("llama.attention.head_count", 0u32).codes(), ["wrong-head-count"]);
    assert_eq!(text().set("llama.block_count", u32::MAX).codes(), ["layer-count"]);
    assert_eq!(text().set("llama.block_count", 2u32).codes(), ["missing-tensors"]);
    assert_eq!(text().without("output_norm.weight").codes(), ["missing-tensors"]);
    assert_eq!(text().set("llama.context_length", "long").codes(), ["mistyped-key"]);
    let iq = text().tensor("blk.0.ffn_down.weight", &[256, 12], TensorType::IQ2_XS);
    assert_eq!(iq.codes(), ["unsupported-tensor-type"]);
    let other = text().set("general.architecture", "qwen9").set("qwen9.block_count", 1u32);
    assert_eq!(other.codes(), ["foreign-architecture"]);
}

#[test]
fn vocabulary_faults() {
    let n = 264;
    assert_eq!(text().set("tokenizer.ggml.scores", vec![-1000.0f32; n]).codes(), ["dummy-scores"]);
    let report = text().set("tokenizer.ggml.scores", vec![-1000.0f32; n]).report();
    assert!(report.faults[0].what.contains("-1000") && report.faults[0].remedy.contains("ocelli convert"));
    assert_eq!(text().unset("tokenizer.ggml.scores").codes(), ["missing-scores"]);
    assert_eq!(text().set("tokenizer.ggml.scores", vec![1u32; n]).codes(), ["mistyped-key"]);
    assert_eq!(text().set("tokenizer.ggml.token_type", vec![1i32; n - 1]).codes(), ["vocabulary-length"]);
    let shorter = text().tensor("token_embd.weight", &[12, 10], TensorType::F16);
    assert_eq!(shorter.codes(), ["vocabulary-length"]);
    assert_eq!(text().set("tokenizer.ggml.bos_token_id", 264u32).codes(), ["token-id-range"]);
    assert_eq!(text().set("tokenizer.ggml.bos_token_id", -1i32).codes(), ["mistyped-key"]);
    assert_eq!(text().unset("tokenizer.ggml.eos_token_id").codes(), ["missing-eos"]);
    assert_eq!(text().unset("tokenizer.chat_template").codes(), ["missing-chat-template"]);
    assert_eq!(text().set("tokenizer.chat_template", "<start_of_turn>").codes(), ["template-token"]);
    assert_eq!(text().unset("tokenizer.ggml.tokens").codes(), ["missing-tokenizer"]);
    assert_eq!(text().set("tokenizer.ggml.tokens", vec![1u32]).codes(), ["mistyped-key"]);

    let mut tokens = text();
    for (key, value) in &mut tokens.keys {
        if let (true, MetaValue::Array(MetaArray::String(t))) = (key == "tokenizer.ggml.tokens", value) {
            t[6] = "▁a".to_owned();
            t[100] = "x".to_owned();
        }
    }
    assert_eq!(tokens.codes(), ["duplicate-token", "missing-byte-tokens"]);
    let no_stop = text().unset("tokenizer.ggml.eos_token_id").set("tokenizer.ggml.model", "gpt2");
    let no_stop = no_stop.set("tokenizer.ggml.tokens", (0..n).map(|i| format!("t{i}")).collect::<Vec<_>>());
    assert_eq!(no_stop.set("tokenizer.chat_template", "plain").codes(), ["missing-stop-token"]);
}

#[test]
fn vision_faults() {
    let report = vision(12).report();
    assert_eq!(report.faults, []);
    assert_eq!(report.kind, Kind::Vision);
    let v = report.vision.unwrap();
    assert_eq!((v.output_width, v.queries, v.made_for), (Some(12), Some(4), Some("MiniCPM-V 4.0")));

    assert_eq!(vision(12).without("resampler.pos_embed_k").codes(), ["missing-pos-embed-k"]);
    assert_eq!(vision(12).set("clip.projector_type", "mlp").codes(), ["unknown-projector"]);
    assert_eq!(vision(12).unset("clip.projector_type").codes(), [""; 0]);
    assert_eq!(vision(12).set("clip.minicpmv_version", 3i32).codes(), ["other-minicpmv-version"]);
    assert_eq!(vision(12).set("clip.minicpmv_version", 77i32).codes(), ["unknown-minicpmv-version"]);
    assert_eq!(vision(12).set("clip.minicpmv_version", 5u32).codes(), ["minicpmv-version-type"]);
    assert_eq!(vision(12).unset("clip.minicpmv_version").codes(), ["missing-minicpmv-version"]);
    assert_eq!(vision(12).set("clip.minicpmv_query_num", 96u32).codes(), ["query-count"]);
    assert_eq!(vision(12).without("v.blk.0.ln2.bias").codes(), ["missing-tensors"]);
    assert_eq!(vision(12).set("clip.vision.block_count", u32::MAX).codes(), ["layer-count"]);
}

#[test]
fn text_and_vision_files_find_each_other() {
    let dir = TempDir::new().unwrap();
    let text_path = text().write(&dir, "m-Q4_K_M.gguf");
    let fits = vision(12).write(&dir, "mmproj-m-F16.gguf");
    let other = vision(16).write(&dir, "x.MMPROJ.gguf");
    fs::write(dir.path().join("mmproj-broken.gguf"), b"GGUF").unwrap();
    let found: Vec<_> =
        inspect_file(&text_path, false).unwrap().companions.into_iter().map(|c| (c.path, c.fits)).collect();
    let path = |p: &PathBuf| p.display().to_string();
    let broken = dir.path().join("mmproj-broken.gguf");
    assert_eq!(found, [(path(&broken), false), (path(&fits), true), (path(&other), false)]);

    let report = inspect_file(&fits, false).unwrap();
    assert_eq!(report.companions.len(), 1);
    assert!(report.companions[0].fits);
    let report = inspect_file(&other, false).unwrap();
    assert_eq!(report.companions[0].why, "it is 12 wide, this file 16");
    assert_eq!(report.faults[0].code, "wrong-text-model");

    // The folder lists them all, the broken one too.
    let Report::Folder(folder) = inspect(dir.path(), true).unwrap() else { panic!("a file was reported") };
    assert_eq!(folder.files.len(), 3);
    assert_eq!(folder.unreadable.len(), 1);
    assert!(folder.unreadable[0].error.contains("truncated"));
    assert_eq!(folder.files[0].tensors.as_ref().unwrap().len(), folder.files[0].tensor_count);
}

#[test]
fn a_model_with_image_tokens_misses_its_vision_file() {
    let mut model = text();
    for (key, value) in &mut model.keys {
        if let (true, MetaValue::Array(MetaArray::String(t))) = (key == "tokenizer.ggml.tokens", value) {
            t.splice(4..8, strings(&["<image>", "</image>", "<slice>", "</slice>"]));
        }
    }
    let model = model.set("tokenizer.ggml.scores", (0..264).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(model.codes(), ["missing-vision-file"]);
    let dir = TempDir::new().unwrap();
    vision(12).write(&dir, "mmproj.gguf");
    assert_eq!(inspect_file(&model.write(&dir, "m.gguf"), false).unwrap().faults, []);
}

#[test]
fn other_kinds_of_files() {
    let empty = Model { keys: Vec::new(), tensors: Vec::new() };
    assert_eq!(empty.report().kind, Kind::Other);
    assert_eq!(empty.clone().set("general.type", "imatrix").report().kind, Kind::Imatrix);
    assert_eq!(empty.set("general.type", "adapter").report().kind, Kind::Adapter);
    let mut vocabulary = text();
    vocabulary.tensors.clear();
    let report = vocabulary.report();
    assert_eq!((report.kind, report.faults.len()), (Kind::Vocabulary, 0));
    assert_eq!(report.bits_per_weight, None);
}

#[test]
fn checkpoints_and_their_parts() {
    let dir = TempDir::new().unwrap();
    assert!(inspect(dir.path(), false).unwrap_err().to_string().contains("an empty folder"));
    let config = r#"{"architectures": ["MiniCPMV"], "version": 4.0, "num_hidden_layers": 32, "hidden_size": 2560}"#;
    fs::write(dir.path().join("config.json"), config).unwrap();
    let checkpoint = || match inspect(dir.path(), false).unwrap() {
        Report::Folder(folder) => folder.checkpoint.unwrap(),
        other => panic!("{other:?}"),
    };
    let report = checkpoint();
    let codes: Vec<_> = report.faults.iter().map(|f| f.code).collect();
    assert_eq!(codes, ["checkpoint-weights", "missing-tokenizer", "missing-chat-template"]);
    assert!(report.next.contains("ocelli convert"), "{}", report.next);
    assert_eq!((report.layers, report.embedding_length, report.parameters), (Some(32), Some(2560), None));

    let header = br#"{"w":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header);
    weights.extend([0; 12]);
    let part = dir.path().join("model.safetensors");
    fs::write(&part, weights).unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template": "x"}"#).unwrap();
    let report = checkpoint();
    assert_eq!(report.faults, []);
    assert_eq!((report.parameters, report.bytes, report.tensor_count), (Some(6), Some(12), Some(1)));
    assert_eq!(report.chat_template.as_deref(), Some("tokenizer_config.json"));
    assert!(inspect(&part, false).unwrap_err().to_string().contains("give the folder it lies in"));
}
