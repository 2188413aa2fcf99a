//! Tiny checkpoints for the tests, written with an independent safetensors writer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// A checkpoint under construction: weights as f32, configuration, and the dtype to store.
pub(crate) struct Fixture {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    pub(crate) dtype: Dtype,
    seed: u64,
}

impl Fixture {
    fn empty(config: Value) -> Self {
        Self { config, tensors: BTreeMap::new(), dtype: Dtype::BF16, seed: 1 }
    }

    /// Adds a tensor of pseudo-random weights that every dtype holds exactly.
    pub(crate) fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        let n = shape.iter().product();
        let values = (0..n)
            .map(|_| {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Seven significant bits: exact in BF16 and F16.
                ((self.seed >> 57) as f32 - 64.0) / 64.0
            })
            .collect();
        self.tensors.insert(name.into(), (shape.to_vec(), values));
    }

    fn add_text(&mut self, prefix: &str) {
        let get = |key: &str| self.config[key].as_u64().unwrap() as usize;
        let (hidden, feed, vocab) = (get("hidden_size"), get("intermediate_size"), get("vocab_size"));
        let head = self.config["head_dim"].as_u64().map_or(hidden / get("num_attention_heads"), |d| d as usize);
        let (q, kv) = (get("num_attention_heads") * head, get("num_key_value_heads") * head);
        let layers = get("num_hidden_layers");
        let bias = self.config["attention_bias"] == true;
        let tied = self.config["tie_word_embeddings"] == true;
        self.add(format!("{prefix}model.embed_tokens.weight"), &[vocab, hidden]);
        self.add(format!("{prefix}model.norm.weight"), &[hidden]);
        if !tied {
            self.add(format!("{prefix}lm_head.weight"), &[vocab, hidden]);
        }
        for i in 0..layers {
            let layer = format!("{prefix}model.layers.{i}");
            for (name, rows, cols) in [("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)] {
                self.add(format!("{layer}.self_attn.{name}_proj.weight"), &[rows, cols]);
                if bias {
                    self.add(format!("{layer}.self_attn.{name}_proj.bias"), &[rows]);
                }
            }
            self.add(format!("{layer}.mlp.gate_proj.weight"), &[feed, hidden]);
            self.add(format!("{layer}.mlp.up_proj.weight"), &[feed, hidden]);
            self.add(format!("{layer}.mlp.down_proj.weight"), &[hidden, feed]);
            self.add(format!("{layer}.input_layernorm.weight"), &[hidden]);
            self.add(format!("{layer}.post_attention_layernorm.weight"), &[hidden]);
        }
    }

    /// A text-only Llama model.
    pub(crate) fn llama(extra: &Value) -> Self {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512,
            "bos_token_id": 1, "eos_token_id": 2,
        });
        merge(&mut config, extra);
        let mut this = Self::empty(config);
        this.add_text("");
        this
    }

    /// A MiniCPM-V 4.0 model, small in every direction but with its odd proportions: heads wider than
    /// hidden / heads, and a vision feed-forward that does not divide into blocks of 32.
    pub(crate) fn minicpmv(extra: &Value) -> Self {
        let mut config = json!({
            "architectures": ["MiniCPMV"], "model_type": "minicpmv", "version": 4.0,
            "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 300, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": [2, 270],
            "rope_scaling": {
                "rope_type": "longrope", "factor": 1.0, "original_max_position_embeddings": 32786,
                "long_factor": (0..64).map(|i| 1.0 + f64::from(i) / 4.0).collect::<Vec<_>>(),
                "short_factor": (0..64).map(|i| 1.0 + f64::from(i) / 8.0).collect::<Vec<_>>(),
            },
            "query_num": 4, "image_size": 448, "patch_size": 14, "drop_vision_last_layer": false,
            "vision_config": {
                "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
                "image_size": 56,
            },
        });
        merge(&mut config, extra);
        let mut this = Self::empty(config);
        this.add_text("llm.");
        let v = this.config["vision_config"].clone();
        let get = |key: &str| v[key].as_u64().unwrap() as usize;
        let (hidden, feed) = (get("hidden_size"), get("intermediate_size"));
        this.add("vpm.embeddings.patch_embedding.weight", &[hidden, 3, 14, 14]);
        this.add("vpm.embeddings.patch_embedding.bias", &[hidden]);
        this.add("vpm.embeddings.position_embedding.weight", &[16, hidden]);
        for i in 0..get("num_hidden_layers") {
            let layer = format!("vpm.encoder.layers.{i}");
            for (name, out, input) in [
                ("self_attn.q_proj", hidden, hidden),
                ("self_attn.k_proj", hidden, hidden),
                ("self_attn.v_proj", hidden, hidden),
                ("self_attn.out_proj", hidden, hidden),
                ("mlp.fc1", feed, hidden),
                ("mlp.fc2", hidden, feed),
            ] {
                this.add(format!("{layer}.{name}.weight"), &[out, input]);
                this.add(format!("{layer}.{name}.bias"), &[out]);
            }
            for norm in ["layer_norm1", "layer_norm2"] {
                this.add(format!("{layer}.{norm}.weight"), &[hidden]);
                this.add(format!("{layer}.{norm}.bias"), &[hidden]);
            }
        }
        this.add("vpm.post_layernorm.weight", &[hidden]);
        this.add("vpm.post_layernorm.bias", &[hidden]);
        let width = this.config["hidden_size"].as_u64().unwrap() as usize;
        this.add("resampler.query", &[4, width]);
        this.add("resampler.proj", &[width, width]);
        this.add("resampler.kv_proj.weight", &[width, hidden]);
        this.add("resampler.attn.in_proj_weight", &[3 * width, width]);
        this.add("resampler.attn.in_proj_bias", &[3 * width]);
        this.add("resampler.attn.out_proj.weight", &[width, width]);
        this.add("resampler.attn.out_proj.bias", &[width]);
        for norm in ["ln_q", "ln_kv", "ln_post"] {
            this.add(format!("resampler.{norm}.weight"), &[width]);
            this.add(format!("resampler.{norm}.bias"), &[width]);
        }
        this
    }

    /// Values of a tensor.
    pub(crate) fn values(&self, name: &str) -> &[f32] {
        &self.tensors[name].1
    }

    /// Writes a single-file checkpoint with a tokenizer to `dir/name`.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = self.write_config(dir, name);
        self.write_shard(&path.join("model.safetensors"), self.tensors.keys());
        path
    }

    /// Writes a checkpoint of two shards.
    pub(crate) fn write_sharded(&self, dir: &Path, name: &str) -> PathBuf {
        let path = self.write_config(dir, name);
        let (first, second): (Vec<_>, Vec<_>) = self.tensors.keys().enumerate().partition(|(i, _)| i % 2 == 0);
        let mut map = serde_json::Map::new();
        for (i, half) in [first, second].into_iter().enumerate() {
            let file = format!("model-{:05}-of-00002.safetensors", i + 1);
            self.write_shard(&path.join(&file), half.iter().map(|(_, n)| *n));
            map.extend(half.iter().map(|(_, n)| ((*n).clone(), Value::from(file.clone()))));
        }
        std::fs::write(path.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
        path
    }

    fn write_config(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(path.join("tokenizer.model"), tokenizer_model()).unwrap();
        let tokenizer_config = json!({
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true,
            "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
            "added_tokens_decoder": {
                "270": {"content": "<|im_end|>", "special": true}, "271": {"content": "<|im_start|>", "special": true},
            },
        });
        std::fs::write(path.join("tokenizer_config.json"), tokenizer_config.to_string()).unwrap();
        let generation = json!({"temperature": 0.5, "top_k": 100, "do_sample": true});
        std::fs::write(path.join("generation_config.json"), generation.to_string()).unwrap();
        path
    }

    fn write_shard<'a>(&'a self, path: &Path, names: impl Iterator<Item = &'a String>) {
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = names
            .map(|name| {
                let (shape, values) = &self.tensors[name];
                let bytes = match self.dtype {
                    Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                    Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                    other => panic!("{other:?}"),
                };
                (name.clone(), shape.clone(), bytes)
            })
            .collect();
        let views: Vec<(String, TensorView<'_>)> = bytes
            .iter()
            .map(|(name, shape, bytes)| (name.clone(), TensorView::new(self.dtype, shape.clone(), bytes).unwrap()))
            .collect();
        safetensors::serialize_to_file(views, None, path).unwrap();
    }
}

fn merge(config: &mut Value, extra: &Value) {
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
}

/// A SentencePiece BPE model of three special pieces, the 256 bytes and two letters.
fn tokenizer_model() -> Vec<u8> {
    let mut out = Vec::new();
    let mut piece = |text: &str, score: f32, kind: u8| {
        let mut message = vec![0x0a, text.len() as u8];
        message.extend_from_slice(text.as_bytes());
        message.push(0x15);
        message.extend_from_slice(&score.to_le_bytes());
        message.extend_from_slice(&[0x18, kind]);
        out.extend_from_slice(&[0x0a, message.len() as u8]);
        out.extend_from_slice(&message);
    };
    piece("<unk>", 0.0, 2);
    piece("<s>", 0.0, 3);
    piece("</s>", 0.0, 3);
    for byte in 0..=255 {
        piece(&format!("<0x{byte:02X}>"), 0.0, 6);
    }
    piece("▁a", -1.5, 1);
    piece("b", -2.5, 1);
    // TrainerSpec: model_type = BPE.
    out.extend_from_slice(&[0x12, 2, 0x18, 2]);
    out
}
