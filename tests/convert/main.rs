//! Conversion of tiny checkpoints, compared with what the checkpoint's own numbers say.

mod checkpoint;
mod cli;
mod errors;
mod sources;

use std::path::{Path, PathBuf};

use checkpoint::Fixture;
use ocelli_convert::mixture::FileType;
use ocelli_convert::progress::Silent;
use ocelli_convert::{ConvertOptions, ConvertReport, VisionType, convert};
use ocelli_gguf::{Gguf, Value};
use ocelli_quant::GgmlType;
use safetensors::Dtype;
use serde_json::json;

pub(crate) fn options(out: &Path, file_type: FileType) -> ConvertOptions {
    ConvertOptions { file_type, outdir: out.to_owned(), ..ConvertOptions::default() }
}

/// Converts `checkpoint` into `dir/out`.
fn run(dir: &Path, checkpoint: &Path, file_type: FileType, vision: VisionType) -> ConvertReport {
    let options = ConvertOptions { vision_type: vision, ..options(&dir.join("out"), file_type) };
    convert(checkpoint, &options, &Silent).unwrap()
}

pub(crate) fn read(path: &PathBuf) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// A tensor of a file as f32, with its dimensions and type.
fn tensor(gguf: &Gguf<'_>, name: &str) -> (Vec<u64>, GgmlType, Vec<f32>) {
    let info = gguf.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let ty = info.ty.ggml().unwrap();
    let dims: Vec<u64> = info.dims.to_vec();
    let mut out = vec![0f32; dims.iter().product::<u64>() as usize];
    ty.dequantize_row(gguf.data(info).unwrap(), &mut out).unwrap();
    (dims, ty, out)
}

fn names(gguf: &Gguf<'_>) -> Vec<String> {
    gguf.tensors().iter().map(|t| t.name.to_string()).collect()
}

#[track_caller]
pub(crate) fn same(gguf: &Gguf<'_>, name: &str, want_dims: &[u64], want: &[f32]) {
    let (dims, _, values) = tensor(gguf, name);
    assert_eq!(dims, want_dims, "{name}");
    assert!(values == want, "{name} has other values");
}

/// Row `2i` of a head is its row `i`, row `2i + 1` its row `i + half`; spelled out head by head.
fn interleave(values: &[f32], cols: usize, head: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for block in values.chunks(head * cols) {
        let (low, high) = block.split_at(block.len() / 2);
        for (a, b) in low.chunks(cols).zip(high.chunks(cols)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

#[test]
fn text_tensors_hold_the_checkpoints_values() {
    let dir = tempfile::tempdir().unwrap();
    for (dtype, sharded) in [(Dtype::BF16, false), (Dtype::F16, true), (Dtype::F32, false)] {
        let mut fixture = Fixture::minicpmv(&json!({}));
        fixture.dtype = dtype;
        let name = format!("m{dtype:?}");
        let path = if sharded { fixture.write_sharded(dir.path(), &name) } else { fixture.write(dir.path(), &name) };
        let report = run(dir.path(), &path, FileType::F32, VisionType::F32);
        assert_eq!(report.family, "MiniCPM-V 4.0");
        assert!(report.files[0].path.ends_with(format!("{name}-F32.gguf")));
        assert!(report.files[1].path.ends_with(format!("mmproj-{name}-F32.gguf")));
        let bytes = read(&report.files[0].path);
        assert_eq!(bytes.len() as u64, report.files[0].bytes);
        let gguf = Gguf::parse(&bytes).unwrap();
        same(&gguf, "token_embd.weight", &[256, 300], fixture.values("llm.model.embed_tokens.weight"));
        same(&gguf, "output.weight", &[256, 300], fixture.values("llm.lm_head.weight"));
        same(&gguf, "output_norm.weight", &[256], fixture.values("llm.model.norm.weight"));
        for i in 0..2 {
            let from = |part: &str| fixture.values(&format!("llm.model.layers.{i}.{part}.weight"));
            let to = |part: &str| format!("blk.{i}.{part}.weight");
            same(&gguf, &to("attn_q"), &[256, 512], &interleave(from("self_attn.q_proj"), 256, 128));
            same(&gguf, &to("attn_k"), &[256, 256], &interleave(from("self_attn.k_proj"), 256, 128));
            same(&gguf, &to("attn_v"), &[256, 256], from("self_attn.v_proj"));
            same(&gguf, &to("attn_output"), &[512, 256], from("self_attn.o_proj"));
            same(&gguf, &to("ffn_gate"), &[256, 512], from("mlp.gate_proj"));
            same(&gguf, &to("ffn_up"), &[256, 512], from("mlp.up_proj"));
            same(&gguf, &to("ffn_down"), &[512, 256], from("mlp.down_proj"));
            same(&gguf, &to("attn_norm"), &[256], from("input_layernorm"));
            same(&gguf, &to("ffn_norm"), &[256], from("post_attention_layernorm"));
        }
        let long: Vec<f32> = (0..64).map(|i| 1.0 + i as f32 / 4.0).collect();
        let short: Vec<f32> = (0..64).map(|i| 1.0 + i as f32 / 8.0).collect();
        same(&gguf, "rope_factors_long.weight", &[64], &long);
        same(&gguf, "rope_factors_short.weight", &[64], &short);
        assert_eq!(gguf.tensors().len(), 2 + 3 + 2 * 9);
    }
}

#[test]
fn vision_tensors_hold_the_checkpoints_values() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::minicpmv(&json!({}));
    let report = run(dir.path(), &fixture.write(dir.path(), "m"), FileType::F16, VisionType::F16);
    let bytes = read(&report.files[1].path);
    let gguf = Gguf::parse(&bytes).unwrap();
    let proj = fixture.values("resampler.proj");
    let transposed: Vec<f32> = (0..256 * 256).map(|i| proj[i % 256 * 256 + i / 256]).collect();
    same(&gguf, "resampler.proj.weight", &[256, 256], &transposed);
    same(&gguf, "resampler.query", &[256, 4], fixture.values("resampler.query"));
    same(&gguf, "resampler.kv.weight", &[64, 256], fixture.values("resampler.kv_proj.weight"));
    let weight = fixture.values("resampler.attn.in_proj_weight");
    let bias = fixture.values("resampler.attn.in_proj_bias");
    for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
        let name = format!("resampler.attn.{part}");
        same(&gguf, &format!("{name}.weight"), &[256, 256], &weight[i * 65536..(i + 1) * 65536]);
        same(&gguf, &format!("{name}.bias"), &[256], &bias[i * 256..(i + 1) * 256]);
    }
    same(&gguf, "v.patch_embd.weight", &[14, 14, 3, 64], fixture.values("vpm.embeddings.patch_embedding.weight"));
    same(&gguf, "v.position_embd.weight", &[64, 16], fixture.values("vpm.embeddings.position_embedding.weight"));
    // The names of the feed-forward matrices are swapped in files of this family.
    same(&gguf, "v.blk.1.ffn_down.weight", &[64, 80], fixture.values("vpm.encoder.layers.1.mlp.fc1.weight"));
    same(&gguf, "v.blk.1.ffn_up.weight", &[80, 64], fixture.values("vpm.encoder.layers.1.mlp.fc2.weight"));
    same(&gguf, "v.blk.0.attn_q.weight", &[64, 64], fixture.values("vpm.encoder.layers.0.self_attn.q_proj.weight"));
    same(&gguf, "v.post_ln.bias", &[64], fixture.values("vpm.post_layernorm.bias"));
    let (dims, ty, table) = tensor(&gguf, "resampler.pos_embed_k");
    assert_eq!((dims, ty), (vec![256, 4900], GgmlType::F32));
    // Patch in row 1, column 2; the first frequency of each quarter is 1.
    let row = &table[(70 + 2) * 256..(70 + 3) * 256];
    for (at, want) in [(0, 2f64.sin()), (64, 2f64.cos()), (128, 1f64.sin()), (192, 1f64.cos())] {
        assert!((f64::from(row[at]) - want).abs() < 1e-6);
    }
}

#[test]
fn vision_file_has_the_ecosystems_order_and_types() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({})).write(dir.path(), "m");
    let report = run(dir.path(), &path, FileType::F16, VisionType::F16);
    let bytes = read(&report.files[1].path);
    let gguf = Gguf::parse(&bytes).unwrap();
    let names = names(&gguf);
    assert_eq!(
        &names[..23],
        &[
            "resampler.query",
            "resampler.pos_embed_k",
            "resampler.proj.weight",
            "resampler.kv.weight",
            "resampler.attn.q.weight",
            "resampler.attn.k.weight",
            "resampler.attn.v.weight",
            "resampler.attn.q.bias",
            "resampler.attn.k.bias",
            "resampler.attn.v.bias",
            "resampler.attn.out.weight",
            "resampler.attn.out.bias",
            "resampler.ln_q.weight",
            "resampler.ln_q.bias",
            "resampler.ln_kv.weight",
            "resampler.ln_kv.bias",
            "resampler.ln_post.weight",
            "resampler.ln_post.bias",
            "v.patch_embd.weight",
            "v.patch_embd.bias",
            "v.position_embd.weight",
            "v.blk.0.attn_k.weight",
            "v.blk.0.attn_k.bias",
        ]
        .map(String::from)
    );
    assert_eq!(names.len(), 18 + 3 + 2 * 16 + 2);
    let keys: Vec<_> = gguf.metadata().iter().map(|e| e.key.to_owned()).collect();
    assert_eq!(
        keys,
        [
            "general.architecture",
            "clip.has_text_encoder",
            "clip.has_vision_encoder",
            "clip.has_minicpmv_projector",
            "general.file_type",
            "general.description",
            "clip.projector_type",
            "clip.minicpmv_version",
            "clip.vision.image_size",
            "clip.vision.patch_size",
            "clip.vision.embedding_length",
            "clip.vision.feed_forward_length",
            "clip.vision.projection_dim",
            "clip.vision.attention.head_count",
            "clip.vision.attention.layer_norm_epsilon",
            "clip.vision.block_count",
            "clip.minicpmv_query_num",
            "clip.vision.image_mean",
            "clip.vision.image_std",
            "clip.use_gelu",
        ]
    );
    assert!(matches!(gguf.metadata().get("clip.minicpmv_version"), Some(Value::I32(5))));
    assert_eq!(gguf.metadata().u32("clip.vision.image_size").unwrap(), Some(448));
    assert_eq!(gguf.metadata().u32("clip.vision.block_count").unwrap(), Some(2));
}

#[test]
fn vision_types_keep_embeddings_and_fall_back() {
    use GgmlType::{BF16, F16, F32, Q8_0};
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({})).write(dir.path(), "m");
    for (vision, code, matrix, odd, embedding) in [
        (VisionType::F16, 1, F16, F16, F16),
        (VisionType::F32, 0, F32, F32, F32),
        (VisionType::Bf16, 32, BF16, BF16, F16),
        (VisionType::Q8_0, 7, Q8_0, F16, F16),
    ] {
        let name = format!("{vision}");
        let options =
            ConvertOptions { vision_type: vision, name: Some(name), ..options(&dir.path().join("out"), FileType::F16) };
        let report = convert(&path, &options, &Silent).unwrap();
        let bytes = read(&report.files[1].path);
        let gguf = Gguf::parse(&bytes).unwrap();
        let ty = |name: &str| tensor(&gguf, name).1;
        assert_eq!(gguf.metadata().u32("general.file_type").unwrap(), Some(code), "{vision}");
        assert_eq!(ty("v.blk.0.attn_q.weight"), matrix, "{vision}");
        assert_eq!(ty("v.blk.0.ffn_down.weight"), matrix, "{vision}");
        assert_eq!(ty("v.blk.0.ffn_up.weight"), odd, "{vision}");
        assert_eq!(ty("resampler.proj.weight"), matrix, "{vision}");
        assert_eq!(ty("v.position_embd.weight"), embedding, "{vision}");
        assert_eq!(ty("v.patch_embd.weight"), F16, "{vision}");
        for name in ["resampler.query", "resampler.pos_embed_k", "v.blk.0.ln1.weight", "v.blk.0.attn_q.bias"] {
            assert_eq!(ty(name), F32, "{vision} {name}");
        }
        assert_eq!(report.remarks.iter().any(|r| r.contains("v.blk.0.ffn_up.weight")), vision == VisionType::Q8_0);
    }
}

#[test]
fn text_file_has_the_ecosystems_keys_and_order() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::minicpmv(&json!({"num_hidden_layers": 11}));
    let report = run(dir.path(), &fixture.write(dir.path(), "my-model"), FileType::F16, VisionType::F16);
    let bytes = read(&report.files[0].path);
    let gguf = Gguf::parse(&bytes).unwrap();
    let keys: Vec<_> = gguf.metadata().iter().map(|e| e.key.to_owned()).collect();
    assert_eq!(
        &keys[..27],
        &[
            "general.architecture",
            "general.type",
            "general.sampling.top_k",
            "general.sampling.temp",
            "general.name",
            "general.size_label",
            "llama.block_count",
            "llama.context_length",
            "llama.embedding_length",
            "llama.feed_forward_length",
            "llama.attention.head_count",
            "llama.attention.head_count_kv",
            "llama.rope.scaling.type",
            "llama.rope.scaling.original_context_length",
            "llama.rope.freq_base",
            "llama.attention.layer_norm_rms_epsilon",
            "llama.attention.key_length",
            "llama.attention.value_length",
            "general.file_type",
            "llama.vocab_size",
            "llama.rope.dimension_count",
            "general.quantization_version",
            "tokenizer.ggml.model",
            "tokenizer.ggml.pre",
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.scores",
            "tokenizer.ggml.token_type",
        ]
    );
    let meta = gguf.metadata();
    assert_eq!(meta.str("general.name").unwrap(), Some("My Model"));
    assert_eq!(meta.str("llama.rope.scaling.type").unwrap(), Some("longrope"));
    assert_eq!(meta.u32("llama.rope.scaling.original_context_length").unwrap(), Some(32786));
    assert_eq!(meta.u32("llama.attention.key_length").unwrap(), Some(128));
    assert_eq!(meta.u32("general.file_type").unwrap(), Some(1));
    assert_eq!(meta.f32("general.sampling.temp").unwrap(), Some(0.5));
    assert_eq!(meta.u32("tokenizer.ggml.eos_token_id").unwrap(), Some(2));
    assert_eq!(meta.u32("tokenizer.ggml.eot_token_id").unwrap(), Some(270));
    assert!(meta.str("tokenizer.chat_template").unwrap().unwrap().contains("messages"));
    let names = names(&gguf);
    assert_eq!(
        &names[..4],
        &["rope_factors_long.weight", "rope_factors_short.weight", "output.weight", "token_embd.weight"]
    );
    let layers: Vec<_> = names.iter().filter(|n| n.ends_with("attn_norm.weight")).collect();
    let order = [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9].map(|i| format!("blk.{i}.attn_norm.weight"));
    assert_eq!(layers, order.iter().collect::<Vec<_>>());
    let layer: Vec<_> =
        names[4..13].iter().map(|n| n.trim_start_matches("blk.0.").trim_end_matches(".weight")).collect();
    assert_eq!(
        layer,
        ["attn_norm", "ffn_down", "ffn_gate", "ffn_up", "ffn_norm", "attn_k", "attn_output", "attn_q", "attn_v"]
    );
    assert_eq!(names.last().map(String::as_str), Some("output_norm.weight"));
}

#[test]
fn mixtures_are_sorted_and_quantised_from_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::minicpmv(&json!({}));
    let report = run(dir.path(), &fixture.write(dir.path(), "m"), FileType::Q4_K_M, VisionType::F16);
    assert!(report.files[0].path.ends_with("m-Q4_K_M.gguf"));
    let bytes = read(&report.files[0].path);
    let gguf = Gguf::parse(&bytes).unwrap();
    let keys: Vec<_> = gguf.metadata().iter().map(|e| e.key.to_owned()).collect();
    assert_eq!(&keys[keys.len() - 2..], &["general.quantization_version", "general.file_type"]);
    assert_eq!(gguf.metadata().u32("general.file_type").unwrap(), Some(15));
    let names = names(&gguf);
    assert_eq!(
        &names[..7],
        &[
            "output.weight",
            "output_norm.weight",
            "rope_factors_long.weight",
            "rope_factors_short.weight",
            "token_embd.weight",
            "blk.0.attn_k.weight",
            "blk.0.attn_norm.weight",
        ]
    );
    let checked = [
        ("output.weight", GgmlType::Q6_K, fixture.values("llm.lm_head.weight").to_vec()),
        ("token_embd.weight", GgmlType::Q4_K, fixture.values("llm.model.embed_tokens.weight").to_vec()),
        (
            "blk.1.attn_q.weight",
            GgmlType::Q4_K,
            interleave(fixture.values("llm.model.layers.1.self_attn.q_proj.weight"), 256, 128),
        ),
        ("blk.1.ffn_down.weight", GgmlType::Q6_K, fixture.values("llm.model.layers.1.mlp.down_proj.weight").to_vec()),
    ];
    for (name, ty, values) in checked {
        let info = gguf.tensor(name).unwrap();
        assert_eq!(info.ty.ggml(), Some(ty), "{name}");
        let mut want = vec![0u8; ty.row_bytes(values.len()).unwrap()];
        ty.quantize_row(&values, None, &mut want).unwrap();
        assert!(gguf.data(info).unwrap() == want, "{name} has other bytes");
    }
}

#[test]
fn every_type_converts() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({})).write(dir.path(), "m");
    for &file_type in FileType::ALL {
        let report = run(dir.path(), &path, file_type, VisionType::F16);
        std::fs::remove_file(&report.files[1].path).unwrap();
        let bytes = read(&report.files[0].path);
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.metadata().u32("general.file_type").unwrap(), Some(file_type.code()));
        let (_, ty, values) = tensor(&gguf, "blk.0.attn_q.weight");
        assert_eq!(ty, file_type.default_type());
        assert!(values.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn llama_with_biases_and_tied_embeddings() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::llama(&json!({
        "attention_bias": true, "tie_word_embeddings": true, "rope_theta": 500_000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64},
    }));
    let report = run(dir.path(), &fixture.write(dir.path(), "tiny"), FileType::F32, VisionType::F16);
    assert_eq!((report.family, report.files.len()), ("LlamaForCausalLM", 1));
    let bytes = read(&report.files[0].path);
    let gguf = Gguf::parse(&bytes).unwrap();
    assert!(gguf.tensor("output.weight").is_none());
    let bias = fixture.values("model.layers.0.self_attn.q_proj.bias");
    same(&gguf, "blk.0.attn_q.bias", &[64], &interleave(bias, 1, 16));
    same(&gguf, "blk.0.attn_v.bias", &[32], fixture.values("model.layers.0.self_attn.v_proj.bias"));
    same(&gguf, "blk.0.attn_output.bias", &[64], fixture.values("model.layers.0.self_attn.o_proj.bias"));
    let (dims, _, factors) = tensor(&gguf, "rope_freqs.weight");
    assert_eq!((dims, factors[0], factors[7]), (vec![8], 1.0, 8.0));
    assert_eq!(gguf.metadata().u32("llama.attention.key_length").unwrap(), Some(16));
    assert!(gguf.metadata().get("llama.rope.scaling.type").is_none());
}

#[test]
fn rope_factors_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({})).write(dir.path(), "m");
    let options = ConvertOptions { rope_factors: false, ..options(dir.path(), FileType::F16) };
    let report = convert(&path, &options, &Silent).unwrap();
    let bytes = read(&report.files[0].path);
    let gguf = Gguf::parse(&bytes).unwrap();
    assert!(names(&gguf).iter().all(|n| !n.starts_with("rope_factors")));
    assert_eq!(gguf.metadata().str("llama.rope.scaling.type").unwrap(), Some("longrope"));
    assert!(gguf.metadata().get("llama.rope.scaling.original_context_length").is_none());
}

#[test]
fn threads_do_not_change_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::minicpmv(&json!({})).write(dir.path(), "m");
    let convert_with = |n: usize| {
        let options = ConvertOptions {
            threads: std::num::NonZeroUsize::new(n),
            overwrite: true,
            ..options(dir.path(), FileType::Q5_K_M)
        };
        read(&convert(&path, &options, &Silent).unwrap().files[0].path)
    };
    assert!(convert_with(1) == convert_with(3));
}
