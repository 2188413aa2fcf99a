//! Model files made to break a runtime: each is refused with a reason, and nothing panics.

use std::path::Path;

use ocelli_convert::mixture::FileType;
use ocelli_engine::Assets;
use ocelli_gguf::{MetaValue, TensorType};
use ocelli_quant::GgmlType;
use ocelli_runtime::{LoadOptions, Model, Precision, RuntimeError};

use crate::fixture::{Parts, mini, new_context, options, worker};

/// Loads the file and, if that works, sets a context up and runs a token.
fn open(path: &Path) -> Result<(), RuntimeError> {
    let (model, _) = Model::load(path, &LoadOptions::default(), |meta| Assets::read(meta, None, Some(&worker())))?;
    let mut context = new_context(model.into(), &options(64, Precision::Fast))?;
    let mut seq = context.new_sequence();
    context.decode(&mut seq, &[1])
}

fn refusal(edit: impl FnOnce(&mut Parts)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    let mut parts = Parts::of(&mini(FileType::F16));
    edit(&mut parts);
    parts.write(&path);
    let text = open(&path).expect_err("the file must be refused").to_string();
    assert!(text.contains("bad.gguf") && text.lines().count() == 1, "{text}");
    text
}

#[test]
fn the_unaltered_copy_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good.gguf");
    Parts::of(&mini(FileType::F16)).write(&path);
    open(&path).unwrap();
}

#[test]
fn keys_with_values_no_model_can_have() {
    let cases: Vec<(&str, Option<MetaValue>, &str)> = vec![
        ("llama.block_count", Some(0u32.into()), "block_count"),
        ("llama.block_count", Some(1_000_000_000u32.into()), "block_count"),
        ("llama.block_count", Some(5u32.into()), "blk.4."),
        ("llama.block_count", Some(3u32.into()), "blk.3."),
        ("llama.block_count", Some((-4i32).into()), "block_count"),
        ("llama.block_count", Some("four".to_owned().into()), "block_count"),
        ("llama.block_count", None, "missing"),
        ("llama.attention.head_count", Some(0u32.into()), "head_count"),
        ("llama.attention.head_count", Some(3u32.into()), "does not divide"),
        ("llama.attention.head_count", Some(8u32.into()), "blk.0.attn_q.weight"),
        ("llama.attention.head_count", Some(u64::MAX.into()), "head_count"),
        ("llama.attention.head_count", Some(vec![4u32, 4, 2, 4].into()), "differs between layers"),
        ("llama.attention.head_count_kv", Some(0u32.into()), "head_count_kv"),
        ("llama.attention.head_count_kv", Some(4u32.into()), "blk.0.attn_k.weight"),
        ("llama.attention.head_count_kv", Some(8u32.into()), "does not divide"),
        ("llama.attention.key_length", Some(0u32.into()), "key_length"),
        ("llama.attention.key_length", Some(64u32.into()), "value_length"),
        ("llama.attention.key_length", Some(f32::NAN.into()), "key_length"),
        ("llama.embedding_length", Some(0u32.into()), "embedding_length"),
        ("llama.embedding_length", Some(255u32.into()), "token_embd.weight"),
        ("llama.feed_forward_length", Some(u32::MAX.into()), "feed_forward_length"),
        ("llama.feed_forward_length", Some(769u32.into()), "blk.0.ffn_gate.weight"),
        ("llama.context_length", Some(0u32.into()), "context_length"),
        ("llama.vocab_size", Some(4096u32.into()), "vocab_size"),
        ("llama.rope.dimension_count", Some(64u32.into()), "dimension_count"),
        ("llama.rope.dimension_count", Some(0u32.into()), "dimension_count"),
        ("llama.rope.freq_base", Some(0f32.into()), "freq_base"),
        ("llama.rope.freq_base", Some(f32::NAN.into()), "freq_base"),
        ("llama.rope.scaling.type", Some("spiral".to_owned().into()), "none, linear, yarn, longrope"),
        ("llama.rope.scaling.attn_factor", Some(f32::INFINITY.into()), "attn_factor"),
        ("llama.attention.layer_norm_rms_epsilon", Some((-1f32).into()), "rms_epsilon"),
        ("llama.attention.layer_norm_rms_epsilon", None, "missing"),
        ("llama.block_count", Some(u64::MAX.into()), "block_count"),
        ("llama.embedding_length", Some(u64::MAX.into()), "embedding_length"),
        ("llama.context_length", Some(u64::MAX.into()), "context_length"),
        ("llama.context_length", Some((-1i64).into()), "context_length"),
        ("llama.vocab_size", Some(u64::MAX.into()), "vocab_size"),
        ("llama.vocab_size", Some(0u32.into()), "vocab_size"),
        ("llama.attention.key_length", Some(u32::MAX.into()), "key_length"),
        ("llama.attention.key_length", Some((1u64 << 62).into()), "key_length"),
        ("llama.attention.head_count_kv", Some(Vec::<u32>::new().into()), "0 values"),
        ("llama.attention.head_count_kv", Some(vec![-2i32; 4].into()), "negative"),
        ("llama.attention.head_count_kv", Some(vec![2f32; 4].into()), "no integers"),
        ("llama.rope.freq_base", Some(f32::INFINITY.into()), "freq_base"),
        ("llama.rope.scaling.factor", Some(f32::NAN.into()), "scaling.factor"),
        ("llama.rope.scaling.factor", Some((-1f32).into()), "scaling.factor"),
        ("llama.rope.scaling.original_context_length", Some(0u32.into()), "original_context_length"),
        ("llama.rope.scaling.yarn_beta_fast", Some(0f32.into()), "yarn_beta_fast"),
        ("llama.expert_count", Some(8u32.into()), "mixture-of-experts"),
        ("general.architecture", Some("mamba".to_owned().into()), "it runs: llama"),
        ("general.architecture", Some(1u32.into()), "general.architecture"),
        ("general.architecture", None, "general.architecture"),
        ("tokenizer.ggml.tokens", None, "tokenizer.ggml.tokens"),
        ("tokenizer.ggml.tokens", Some(vec![1u32, 2].into()), "tokens"),
        ("tokenizer.chat_template", Some("{% for".to_owned().into()), "template"),
        ("general.sampling.temp", Some("hot".to_owned().into()), "general.sampling.temp"),
    ];
    for (key, value, word) in cases {
        let shown = format!("{key} = {value:?}");
        let text = refusal(|parts| {
            parts.set(key, value);
        });
        assert!(text.contains(word), "{shown}: {text}");
    }
}

#[test]
fn tensors_that_contradict_the_keys() {
    let missing = refusal(|p| p.tensors.retain(|t| t.name != "blk.2.ffn_up.weight"));
    assert!(missing.contains("`blk.2.ffn_up.weight` is missing"), "{missing}");
    let unknown = refusal(|p| {
        let mut extra = p.tensors.iter().find(|t| t.name == "output_norm.weight").unwrap().clone();
        extra.name = "blk.0.ffn_gate.bias".to_owned();
        p.tensors.push(extra);
    });
    assert!(unknown.contains("`blk.0.ffn_gate.bias` is not one that a `llama` model reads"), "{unknown}");
    let transposed = refusal(|p| {
        let t = p.tensors.iter_mut().find(|t| t.name == "blk.1.ffn_down.weight").unwrap();
        t.dims.reverse();
    });
    assert!(transposed.contains("blk.1.ffn_down.weight") && transposed.contains("{256, 768}"), "{transposed}");
    let short_vocab = refusal(|p| {
        let t = p.tensors.iter_mut().find(|t| t.name == "token_embd.weight").unwrap();
        t.dims[1] -= 1;
        t.bytes.truncate(t.bytes.len() - 512);
    });
    assert!(short_vocab.contains("token_embd.weight") && short_vocab.contains("2047"), "{short_vocab}");
    let foreign = refusal(|p| {
        let t = p.tensors.iter_mut().find(|t| t.name == "blk.0.attn_q.weight").unwrap();
        t.ty = TensorType(24);
        t.bytes.truncate(t.bytes.len() / 2);
    });
    assert!(foreign.contains("blk.0.attn_q.weight") && foreign.contains("I8"), "{foreign}");
    let quantised_norm = refusal(|p| {
        let t = p.tensors.iter_mut().find(|t| t.name == "output_norm.weight").unwrap();
        t.ty = GgmlType::Q8_0.into();
        t.bytes = vec![0; 256 / 32 * 34];
    });
    assert!(quantised_norm.contains("output_norm.weight") && quantised_norm.contains("F32"), "{quantised_norm}");
    let factors = refusal(|p| {
        let t = p.tensors.iter_mut().find(|t| t.name == "rope_factors_short.weight").unwrap();
        t.bytes[..4].copy_from_slice(&0f32.to_le_bytes());
    });
    assert!(factors.contains("rope_factors_short"), "{factors}");
}

#[test]
fn files_that_are_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    let whole = std::fs::read(mini(FileType::F16)).unwrap();
    let refuse = |bytes: &[u8], word: &str| {
        std::fs::write(&path, bytes).unwrap();
        let text = open(&path).unwrap_err().to_string();
        assert!(text.contains(word) && text.contains("bad.gguf"), "{word}: {text}");
    };
    refuse(&[], "empty");
    refuse(b"not a model at all", "not a GGUF file");
    refuse(&whole[..whole.len() / 2], "truncated");
    refuse(&whole[..40], "the 16 bytes left");
    let missing = open(&dir.path().join("nothing.gguf")).unwrap_err().to_string();
    assert!(missing.contains("nothing.gguf"), "{missing}");
    let folder = open(dir.path()).unwrap_err().to_string();
    assert!(folder.contains("no regular file"), "{folder}");
}

#[test]
fn a_context_that_no_machine_has_memory_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.gguf");
    let mut parts = Parts::of(&mini(FileType::F16));
    parts.set("llama.context_length", Some(((1u32 << 26) - 1).into()));
    parts.write(&path);
    let (model, ()) = Model::load(&path, &LoadOptions::default(), |_| Ok(())).unwrap();
    let text = new_context(model.into(), &options(0, Precision::Fast)).unwrap_err().to_string();
    assert!(text.contains("KV cache") && text.contains("-c"), "{text}");
}

#[test]
fn weights_that_are_not_numbers_end_in_an_error_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nan.gguf");
    let mut parts = Parts::of(&mini(FileType::F16));
    let norm = parts.tensors.iter_mut().find(|t| t.name == "output_norm.weight").unwrap();
    norm.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    parts.write(&path);
    let (model, assets) =
        Model::load(&path, &LoadOptions::default(), |meta| Assets::read(meta, None, Some(&worker()))).unwrap();
    let mut context = new_context(model.into(), &options(64, Precision::Fast)).unwrap();
    let mut seq = context.new_sequence();
    context.decode(&mut seq, &[1, 5, 9]).unwrap();
    let mut chain = ocelli_text::sampler::SamplerChain::new(assets.sampling.clone(), &assets.tokenizer).unwrap();
    let text = chain.sample(context.logits().unwrap()).unwrap_err().to_string();
    assert!(text.contains("not numbers"), "{text}");
}

/// Whatever the limit of address space is, a command does its work or ends with a line that says what is missing: nothing is
/// aborted, and nothing panics.
#[cfg(target_os = "linux")]
#[test]
fn commands_end_well_where_address_space_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, path) = (concat!(env!("CARGO_MANIFEST_DIR"), "/models/ocelli-tiny"), dir.path().to_str().unwrap());
    let shell = |script: &str| {
        // The loader itself needs about 35 MiB; its failure is not ours.
        let script = format!("cd '{path}' && rm -rf out && mkdir out && {script}");
        let args = ["-c", &script, "sh", env!("CARGO_BIN_EXE_ocelli"), checkpoint];
        let out = std::process::Command::new("sh").args(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (status, told) =
        shell(r#""$1" convert "$2" --name t --outtype F16 && "$1" quantize t-F16.gguf t-Q4_K_M.gguf Q4_K_M"#);
    assert_eq!(status, Some(0), "{told}");
    // Each with a limit in MiB at which it does its work.
    for (command, enough) in [
        (r#"run -m t-Q4_K_M.gguf --image "$2/examples/shapes.png" -p x -n 1 -c 512"#, 600),
        ("chat -m t-Q4_K_M.gguf -c 512 </dev/null", 600),
        (r#"embed -m t-Q4_K_M.gguf "$2/examples/many.jpg" -o out/rows"#, 600),
        (r#"convert "$2" --outdir out --threads 3"#, 600),
        ("quantize t-F16.gguf out/q.gguf Q4_K_M 3", 600),
        ("synth --preset mini --out out/s", 600),
        ("synth --preset mini --gguf Q4_K_M --out out/s", 600),
        ("bench kernels --formats Q4_K --shapes attn_k --tokens 1 --only-products -r 1 --max-run-ms 1", 900),
        ("inspect t-Q4_K_M.gguf", 600),
        ("tokenize -m t-Q4_K_M.gguf -p x", 600),
    ] {
        // The last two before `enough` are among those where a reserve of 64 MiB for each thread left nothing.
        let limits = (42..110).step_by(9).chain([120, 176, 240, enough]);
        for mb in limits {
            let (status, told) = shell(&format!("ulimit -c 0; ulimit -v {}; exec \"$1\" {command}", mb << 10));
            let errors = told.lines().filter(|line| line.starts_with("ocelli: error: ")).count();
            let well =
                if mb == enough { status == Some(0) } else { matches!((status, errors), (Some(0), 0) | (Some(1), 1)) };
            assert!(
                well && !told.contains("panicked") && !told.contains("internal error"),
                "{command}, {mb} MiB: {status:?}, {told}"
            );
        }
    }
}
