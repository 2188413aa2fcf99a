//! Llama-shaped text models: `LlamaForCausalLM` checkpoints, and the text half of vision models.

use ocelli_gguf::MetaValue;

use super::{Detection, Family, Job, Plan, architectures, check_count};
use crate::checkpoint::SourceTensor;
use crate::error::ConvertError;
use crate::general;
use crate::json::Section;
use crate::mixture::ModelFacts;
use crate::plan::{FilePlan, Picker, PlannedTensor, Source};
use crate::rope::Rope;
use crate::vocab::Vocab;

pub(super) const FAMILY: Family =
    Family { name: "LlamaForCausalLM", embedding: "model.embed_tokens.weight", detect, plan };

fn detect(config: &Section) -> Result<Detection, ConvertError> {
    let is_ours = architectures(config)?.iter().any(|a| a == "LlamaForCausalLM");
    Ok(if is_ours { Detection::Yes } else { Detection::No })
}

fn plan(job: &Job<'_>) -> Result<Plan, ConvertError> {
    let mut warnings = Vec::new();
    let model = LlamaText::read(job, &mut warnings)?;
    let mut picker = Picker::new(job.checkpoint, FAMILY.name);
    let tensors = model.tensors(&mut picker, "");
    let tied = model.tied;
    picker.finish(|name| ignored(name) || (tied && name == "lm_head.weight"))?;
    // Shard by shard: the order of other converters, and the fastest to read.
    let order = |t: &SourceTensor| t.shard;
    let text = job.vocab.map(|vocab| model.file(job, vocab, tensors, order));
    Ok(Plan { text, facts: model.facts(), vision: None, warnings })
}

/// Buffers that some checkpoints store although they follow from the configuration.
pub(super) fn ignored(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attention.bias") || name.ends_with(".masked_bias")
}

/// The hyperparameters of a Llama-shaped model.
#[derive(Debug, Clone)]
pub(super) struct LlamaText {
    pub(super) hidden: u32,
    vocab: u32,
    context: u32,
    layers: u32,
    feed_forward: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    rms_eps: f64,
    rope: Rope,
    pub(super) tied: bool,
    attention_bias: bool,
    mlp_bias: bool,
}

/// Kind of a layer's tensor: how it is re-ordered.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Heads,
}

impl LlamaText {
    /// Reads `config.json`. Defaults are those of the Llama configuration class.
    pub(super) fn read(job: &Job<'_>, warnings: &mut Vec<String>) -> Result<Self, ConvertError> {
        let c = job.config;
        match c.str("hidden_act")?.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(c.error("hidden_act", format!("`{other}`"), "silu")),
        }
        let hidden = c.need_size("hidden_size")?;
        let heads = c.need_size("num_attention_heads")?;
        let kv_heads = c.size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(c.error("num_key_value_heads", kv_heads.to_string(), format!("a divisor of {heads} heads")));
        }
        let head_dim = c.size("head_dim")?.unwrap_or(hidden / heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(c.error("head_dim", head_dim.to_string(), "an even number: its halves are rotated together"));
        }
        check_count(job, if c.has("head_dim") { "head_dim" } else { "hidden_size" }, head_dim)?;
        let layers = c.need_size("num_hidden_layers")?;
        let stored = job.checkpoint.tensors().len();
        if layers as usize > stored {
            let found = format!("{layers}, but the checkpoint has only {stored} tensors");
            return Err(c.error("num_hidden_layers", found, "the number of layers in the checkpoint"));
        }
        let context = c.context("max_position_embeddings")?.unwrap_or(2048);
        let rms_eps = c.positive_f32("rms_norm_eps")?.unwrap_or(1e-6);
        Ok(Self {
            hidden,
            vocab: c.need_size("vocab_size")?,
            context,
            layers,
            feed_forward: c.need_size("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            rms_eps,
            rope: Rope::read(c, head_dim, context, warnings)?,
            tied: c.bool("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: c.bool("attention_bias")?.unwrap_or(false),
            mlp_bias: c.bool("mlp_bias")?.unwrap_or(false),
        })
    }

    /// What the mixtures' rules ask about the model.
    pub(super) fn facts(&self) -> ModelFacts {
        ModelFacts {
            arch: "llama".into(),
            n_layer: self.layers,
            n_head: self.heads,
            n_head_kv: self.kv_heads,
            n_expert: 0,
        }
    }

    /// All tensors taken from the checkpoint, whose names there begin with `prefix`.
    pub(super) fn tensors(&self, picker: &mut Picker<'_>, prefix: &str) -> Vec<PlannedTensor> {
        let (hidden, vocab) = (u64::from(self.hidden), u64::from(self.vocab));
        let mut out = Vec::new();
        let mut take = |from: String, to: String, shape: &[u64], kind: Kind| {
            let Some(tensor) = picker.pick(&from, shape) else { return };
            let source = match kind {
                Kind::Plain => Source::Rows { tensor, first: 0 },
                Kind::Heads => Source::Interleaved { tensor, head_rows: u64::from(self.head_dim) },
            };
            out.push(PlannedTensor::new(to, shape, source));
        };
        let embed = format!("{prefix}model.embed_tokens.weight");
        take(embed, "token_embd.weight".into(), &[vocab, hidden], Kind::Plain);
        take(format!("{prefix}model.norm.weight"), "output_norm.weight".into(), &[hidden], Kind::Plain);
        if !self.tied {
            take(format!("{prefix}lm_head.weight"), "output.weight".into(), &[vocab, hidden], Kind::Plain);
        }
        for layer in 0..self.layers {
            for (from, to, shape, kind) in self.layer_map() {
                take(format!("{prefix}model.layers.{layer}.{from}"), format!("blk.{layer}.{to}"), &shape, kind);
            }
        }
        out
    }

    /// Names in the checkpoint, names in the file, and shapes of one layer's tensors.
    fn layer_map(&self) -> Vec<(String, String, Vec<u64>, Kind)> {
        let hidden = u64::from(self.hidden);
        let feed = u64::from(self.feed_forward);
        let q = u64::from(self.heads) * u64::from(self.head_dim);
        let kv = u64::from(self.kv_heads) * u64::from(self.head_dim);
        let matrices = [
            ("self_attn.q_proj", "attn_q", q, hidden, Kind::Heads, self.attention_bias),
            ("self_attn.k_proj", "attn_k", kv, hidden, Kind::Heads, self.attention_bias),
            ("self_attn.v_proj", "attn_v", kv, hidden, Kind::Plain, self.attention_bias),
            ("self_attn.o_proj", "attn_output", hidden, q, Kind::Plain, self.attention_bias),
            ("mlp.gate_proj", "ffn_gate", feed, hidden, Kind::Plain, self.mlp_bias),
            ("mlp.up_proj", "ffn_up", feed, hidden, Kind::Plain, self.mlp_bias),
            ("mlp.down_proj", "ffn_down", hidden, feed, Kind::Plain, self.mlp_bias),
        ];
        let norms = [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")];
        let mut map = Vec::with_capacity(matrices.len() + norms.len());
        for (from, to) in norms {
            map.push((format!("{from}.weight"), format!("{to}.weight"), vec![hidden], Kind::Plain));
        }
        for (from, to, rows, cols, kind, bias) in matrices {
            map.push((format!("{from}.weight"), format!("{to}.weight"), vec![rows, cols], kind));
            if bias {
                map.push((format!("{from}.bias"), format!("{to}.bias"), vec![rows], kind));
            }
        }
        map
    }

    /// The text file: keys in the ecosystem's order; tensors sorted by `group`, then by name in the checkpoint, after
    /// the rotary factors.
    pub(super) fn file(
        &self,
        job: &Job<'_>,
        vocab: &Vocab,
        mut tensors: Vec<PlannedTensor>,
        group: impl Fn(&SourceTensor) -> usize,
    ) -> FilePlan {
        tensors.sort_by(|a, b| {
            let key = |t: &PlannedTensor| t.source.tensor().map(|s| (group(s), s.name.clone()));
            key(a).cmp(&key(b))
        });
        let mut plan = FilePlan::default();
        let parameters = tensors.iter().map(|t| t.rows().saturating_mul(t.cols())).fold(0, u64::saturating_add);
        plan.kv("general.architecture", "llama");
        plan.kv("general.type", "model");
        plan.metadata.extend_from_slice(job.sampling);
        plan.kv("general.name", job.name.title.as_str());
        if let Some(organization) = &job.name.organization {
            plan.kv("general.organization", organization.as_str());
        }
        plan.kv("general.size_label", general::size_label(parameters));
        self.keys(job, &mut plan);
        plan.metadata.extend(vocab.metadata());
        plan.tensors = self.rope.tensors(job.rope_factors);
        plan.tensors.append(&mut tensors);
        plan
    }

    fn keys(&self, job: &Job<'_>, plan: &mut FilePlan) {
        let mut put = |key: &str, value: MetaValue| plan.kv(key, value);
        put("llama.block_count", self.layers.into());
        put("llama.context_length", self.context.into());
        put("llama.embedding_length", self.hidden.into());
        put("llama.feed_forward_length", self.feed_forward.into());
        put("llama.attention.head_count", self.heads.into());
        put("llama.attention.head_count_kv", self.kv_heads.into());
        for (key, value) in self.rope.scaling_keys(job.rope_factors) {
            put(key, value);
        }
        put("llama.rope.freq_base", (self.rope.theta as f32).into());
        put("llama.attention.layer_norm_rms_epsilon", (self.rms_eps as f32).into());
        put("llama.attention.key_length", self.head_dim.into());
        put("llama.attention.value_length", self.head_dim.into());
        // Replaced when the types are chosen; the place is the ecosystem's.
        put(general::FILE_TYPE, 0u32.into());
        put("llama.vocab_size", self.vocab.into());
        put("llama.rope.dimension_count", self.head_dim.into());
        put(general::QUANTIZATION_VERSION, general::QUANTIZATION_VERSION_VALUE.into());
    }
}
