//! Hyperparameters of a text model, read from GGUF metadata with the reader defaults of the format.
//!
//! Every value comes from an untrusted file. A [`Config`] therefore only exists with values inside the bounds checked
//! here; that they also agree with the tensors is checked tensor by tensor in [`crate::weights`].

use ocelli_gguf::{Array, Metadata, Value};

use crate::RuntimeError;
use crate::rope::{RopeConfig, RopeScaling};

/// Largest accepted width (embedding, feed-forward, heads × head length) and vocabulary. Real models stay far below;
/// the bound keeps every product of two of them inside 64 bits.
const MAX_WIDTH: usize = 1 << 24;

/// Largest accepted number of layers.
const MAX_LAYERS: usize = 4096;

/// Longest accepted context in tokens.
const MAX_CONTEXT: usize = 1 << 26;

/// Hyperparameters shared by Llama-shaped architectures.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub arch: String,
    /// `general.name`, if any.
    pub name: Option<String>,
    /// Layers (`block_count`).
    pub n_layer: usize,
    /// Context the model was trained for, in tokens (`context_length`).
    pub n_ctx_train: usize,
    /// Width of the residual stream (`embedding_length`).
    pub n_embd: usize,
    /// Width of the feed-forward (`feed_forward_length`).
    pub n_ff: usize,
    /// Query heads (`attention.head_count`).
    pub n_head: usize,
    /// Key and value heads (`attention.head_count_kv`, default `n_head`); divides `n_head`.
    pub n_head_kv: usize,
    /// Elements of one query, key or value head (`attention.key_length`, default `n_embd / n_head`).
    pub head_dim: usize,
    /// Tokens of the vocabulary (`vocab_size`, default the length of `tokenizer.ggml.tokens`).
    pub n_vocab: usize,
    /// `attention.layer_norm_rms_epsilon`.
    pub rms_eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
}

impl Config {
    /// Reads the keys of `general.architecture`.
    ///
    /// # Errors
    /// When a key is missing without a default, has the wrong type, or a value no model can have.
    pub fn read(meta: &Metadata<'_>) -> Result<Self, RuntimeError> {
        let arch = meta.required("general.architecture", meta.str("general.architecture"))?;
        let keys = Keys { meta, arch };
        let n_layer = keys.size("block_count", None, MAX_LAYERS)?;
        let n_embd = keys.size("embedding_length", None, MAX_WIDTH)?;
        let n_head = keys.per_layer_size("attention.head_count", None, n_layer)?;
        let n_head_kv = keys.per_layer_size("attention.head_count_kv", Some(n_head), n_layer)?;
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.bad(
                "attention.head_count_kv",
                format!("is {n_head_kv}, which does not divide the {n_head} query heads"),
            ));
        }
        let n_ctx_train = keys.size("context_length", None, MAX_CONTEXT)?;
        let head_dim = keys.head_dim(n_embd, n_head)?;
        let config = Self {
            arch: arch.to_owned(),
            name: meta.str("general.name")?.map(str::to_owned),
            n_layer,
            n_ctx_train,
            n_embd,
            n_ff: keys.per_layer_size("feed_forward_length", None, n_layer)?,
            n_head,
            n_head_kv,
            head_dim,
            n_vocab: keys.n_vocab()?,
            rms_eps: keys.rms_eps()?,
            rope: keys.rope(head_dim, n_ctx_train)?,
        };
        keys.refuse_experts()?;
        if config.n_head.checked_mul(config.head_dim).is_none_or(|width| width > MAX_WIDTH) {
            return Err(
                keys.bad("attention.head_count", format!("times head length ({n_head} × {head_dim}) is out of range"))
            );
        }
        Ok(config)
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Width of all key (or value) heads together.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.n_head_kv * self.head_dim
    }

    /// Whether the shape is that of MiniCPM-V 4.0's text model.
    #[must_use]
    pub fn is_minicpm_v_4(&self) -> bool {
        self.arch == "llama"
            && (self.n_embd, self.n_layer, self.n_ff) == (2560, 32, 10240)
            && (self.n_head, self.n_head_kv, self.head_dim) == (32, 2, 128)
            && self.n_vocab == 73448
    }
}

/// The metadata of one architecture, with the checks shared by its keys.
struct Keys<'m, 'a> {
    meta: &'m Metadata<'a>,
    arch: &'m str,
}

impl Keys<'_, '_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    fn bad(&self, suffix: &str, problem: String) -> RuntimeError {
        RuntimeError::Metadata { key: self.key(suffix), problem }
    }

    fn in_range(&self, suffix: &str, value: u64, max: usize) -> Result<usize, RuntimeError> {
        usize::try_from(value)
            .ok()
            .filter(|v| (1..=max).contains(v))
            .ok_or_else(|| self.bad(suffix, format!("is {value}, outside 1 to {max}")))
    }

    /// A count from 1 to `max`.
    fn size(&self, suffix: &str, default: Option<usize>, max: usize) -> Result<usize, RuntimeError> {
        let key = self.key(suffix);
        match (self.meta.u64(&key)?, default) {
            (Some(value), _) => self.in_range(suffix, value, max),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.bad(suffix, "is missing".to_owned())),
        }
    }

    /// A count that some files store once per layer; the layers must agree.
    fn per_layer_size(&self, suffix: &str, default: Option<usize>, n_layer: usize) -> Result<usize, RuntimeError> {
        let key = self.key(suffix);
        let Some(Value::Array(array)) = self.meta.get(&key) else {
            return self.size(suffix, default, MAX_WIDTH);
        };
        let value = self.uniform(suffix, array, n_layer)?;
        self.in_range(suffix, value, MAX_WIDTH)
    }

    fn uniform(&self, suffix: &str, array: &Array<'_>, n_layer: usize) -> Result<u64, RuntimeError> {
        let mut values = array.integers().ok_or_else(|| self.bad(suffix, "is an array of no integers".to_owned()))?;
        if array.len() != n_layer {
            return Err(self.bad(suffix, format!("has {} values for {n_layer} layers", array.len())));
        }
        let first = values.next().unwrap_or(0);
        if values.any(|v| v != first) {
            return Err(self.bad(suffix, "differs between layers, which this build does not run".to_owned()));
        }
        u64::try_from(first).map_err(|_| self.bad(suffix, format!("is {first}, a negative number")))
    }

    fn head_dim(&self, n_embd: usize, n_head: usize) -> Result<usize, RuntimeError> {
        let default = n_embd.is_multiple_of(n_head).then_some(n_embd / n_head);
        let head_dim = self.size("attention.key_length", default, MAX_WIDTH)?;
        let value_length = self.size("attention.value_length", Some(head_dim), MAX_WIDTH)?;
        if value_length != head_dim {
            let problem = format!("is {value_length} where keys have {head_dim}; only equal lengths can be run");
            return Err(self.bad("attention.value_length", problem));
        }
        Ok(head_dim)
    }

    fn n_vocab(&self) -> Result<usize, RuntimeError> {
        let n_tokens = match self.meta.get("tokenizer.ggml.tokens") {
            Some(Value::Array(tokens)) => Some(tokens.len()),
            _ => None,
        };
        let n_vocab = self.size("vocab_size", n_tokens, MAX_WIDTH)?;
        match n_tokens {
            Some(n) if n != n_vocab => {
                Err(self.bad("vocab_size", format!("is {n_vocab}, but tokenizer.ggml.tokens holds {n} tokens")))
            }
            _ => self.in_range("vocab_size", n_vocab as u64, MAX_WIDTH),
        }
    }

    /// A finite number above zero.
    fn positive(&self, suffix: &str, default: f32) -> Result<f32, RuntimeError> {
        let value = self.meta.f32(&self.key(suffix))?.unwrap_or(default);
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(self.bad(suffix, format!("is {value}; it must be a finite number above zero")))
        }
    }

    fn rms_eps(&self) -> Result<f32, RuntimeError> {
        let suffix = "attention.layer_norm_rms_epsilon";
        if !self.meta.contains(&self.key(suffix)) {
            return Err(self.bad(suffix, "is missing".to_owned()));
        }
        self.positive(suffix, 0.0)
    }

    fn rope(&self, head_dim: usize, n_ctx_train: usize) -> Result<RopeConfig, RuntimeError> {
        let n_rot = self.size("rope.dimension_count", Some(head_dim), MAX_WIDTH)?;
        if n_rot != head_dim || !n_rot.is_multiple_of(2) {
            let problem = format!("is {n_rot}; it must be even and equal the head length {head_dim}");
            return Err(self.bad("rope.dimension_count", problem));
        }
        let name = self.meta.str(&self.key("rope.scaling.type"))?.unwrap_or("linear");
        let scaling = RopeScaling::from_name(name).ok_or_else(|| {
            self.bad(
                "rope.scaling.type",
                format!("is `{}`; known are {}", name.escape_debug(), RopeScaling::NAMES.join(", ")),
            )
        })?;
        Ok(RopeConfig {
            n_rot,
            freq_base: self.positive("rope.freq_base", 10000.0)?,
            scaling,
            factor: self.rope_factor()?,
            attn_factor: self.positive("rope.scaling.attn_factor", 1.0)?,
            n_ctx_orig: self.size("rope.scaling.original_context_length", Some(n_ctx_train), MAX_CONTEXT)?,
            beta_fast: self.positive("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: self.positive("rope.scaling.yarn_beta_slow", 1.0)?,
        })
    }

    /// `rope.scaling.factor` or its older name; 0 is written by some converters for "none".
    fn rope_factor(&self) -> Result<f32, RuntimeError> {
        for suffix in ["rope.scaling.factor", "rope.scale_linear"] {
            match self.meta.f32(&self.key(suffix))? {
                None => {}
                Some(0.0) => return Ok(1.0),
                Some(_) => return self.positive(suffix, 1.0),
            }
        }
        Ok(1.0)
    }

    fn refuse_experts(&self) -> Result<(), RuntimeError> {
        match self.meta.u64(&self.key("expert_count"))? {
            None | Some(0) => Ok(()),
            Some(n) => Err(self.bad("expert_count", format!("is {n}; mixture-of-experts models cannot be run"))),
        }
    }
}
