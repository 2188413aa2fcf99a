//! Which tensor gets which format: the mixtures of `llama-quantize`, rule for rule.
//!
//! A file type such as `Q4_K_M` names a default format and a set of rules by tensor kind, layer, head grouping and
//! number of experts. [`choose_types`] applies them to a list of tensors **in the order of the output file**
//! ([`tensor_order`] sorts it), because "layer i" of a rule is a count of the tensors of that kind met so far, not
//! the number in the name.
//!
//! Order of decision for a tensor that may be quantised at all ([`is_quantizable`]):
//!
//! 1. the type asked for the token embedding, 2. the type asked for the output tensor: both final;
//! 3. a target that is no quantised format: the target;
//! 4. the first matching `PATTERN=TYPE`;
//! 5. the rules of the mixture, or with `pure` the default format;
//! 6. after 4 and 5, a format whose blocks divide the row length.
//!
//! The counters of step 5 advance only when the rules are asked, so an override of some `attn_v` or `ffn_down`
//! tensors shifts the pattern for the later ones. This is what existing files were made with, so it is kept.

mod file_type;
mod overrides;
mod rules;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use ocelli_quant::GgmlType;
use thiserror::Error;

pub use file_type::FileType;
pub use overrides::{TensorOverride, TypeOptions, parse_type};

/// What can be wrong with a choice of types.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MixtureError {
    /// No such file type.
    #[error("unknown file type {given:?}; valid are {} (or their file-type numbers)", FileType::list())]
    UnknownFileType {
        /// What was asked for.
        given: String,
    },
    /// No such tensor format.
    #[error("unknown tensor type {given:?}; valid are {}", type_names())]
    UnknownTensorType {
        /// What was asked for.
        given: String,
    },
    /// Not of the form `PATTERN=TYPE`.
    #[error("malformed tensor type {given:?}; expected PATTERN=TYPE, for example attn_v=q8_0")]
    MalformedOverride {
        /// What was given.
        given: String,
    },
    /// A pattern that does not compile.
    #[error("tensor type pattern {pattern:?} is no valid regular expression: {source}")]
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// What the regular expression parser says.
        source: Box<regex::Error>,
    },
    /// Mixture-of-experts rules need the layer number and the name has none, or one out of range.
    #[error("tensor {name}: the layer number must follow \"blk.\" and be less than block_count = {n_layer}")]
    Layer {
        /// Name of the tensor.
        name: String,
        /// Layers of the model.
        n_layer: u32,
    },
    /// An architecture with rules of its own.
    #[error("architecture {arch:?} has type rules of its own that are not supported; --pure works for every model")]
    Architecture {
        /// `general.architecture`.
        arch: String,
    },
}

fn type_names() -> String {
    GgmlType::ALL.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ")
}

/// What the rules need to know about a model; zero where a file does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub arch: String,
    /// `<arch>.block_count`; 0 for a vision file (`clip`), whose layers the rules do not know.
    pub n_layer: u32,
    /// Query heads (of the first layer).
    pub n_head: u32,
    /// Key/value heads (of the first layer).
    pub n_head_kv: u32,
    /// `<arch>.expert_count`.
    pub n_expert: u32,
}

impl ModelFacts {
    /// Query heads per key/value head, 0 when unknown.
    #[must_use]
    pub fn n_gqa(&self) -> u32 {
        self.n_head.checked_div(self.n_head_kv).unwrap_or(0)
    }

    /// The 80-layer models with grouped heads, which the rules know as "70B".
    fn is_70b(&self) -> bool {
        match self.arch.as_str() {
            "llama" => self.n_layer == 80 && self.n_head != self.n_head_kv,
            "qwen2" | "deci" | "olmo" => self.n_layer == 80,
            "jais2" => self.n_layer == 68,
            _ => false,
        }
    }
}

/// A tensor as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct TensorFacts<'a> {
    /// GGUF name.
    pub name: &'a str,
    /// Dimensions, row length first.
    pub dims: &'a [u64],
}

/// The decision about one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeChoice {
    /// The format to write, or `None`: never quantised, keep what it is.
    pub ty: Option<GgmlType>,
    /// The format the rules asked for, when the row length does not allow it.
    pub instead_of: Option<GgmlType>,
    /// This result is useless without an importance matrix (2-bit tensors of `Q2_K_S`).
    pub needs_imatrix: bool,
}

/// Decides the format of every tensor of a file.
///
/// `tensors` is the complete list in output order (see [`tensor_order`]).
///
/// # Errors
/// [`MixtureError::Architecture`] and [`MixtureError::Layer`].
pub fn choose_types(
    file_type: FileType,
    model: &ModelFacts,
    options: &TypeOptions,
    tensors: &[TensorFacts<'_>],
) -> Result<Vec<TypeChoice>, MixtureError> {
    rules::Chooser::new(file_type, model, options, tensors).all(tensors)
}

/// Number of dimensions that count: trailing ones do not.
#[must_use]
pub fn effective_dims(dims: &[u64]) -> usize {
    dims.iter().rposition(|&d| d > 1).map_or(1, |last| last + 1)
}

/// Whether a tensor is one that quantisation touches: a weight matrix, not a norm, an embedding of positions or
/// patches, an expert router or one of the small tensors of other architectures.
#[must_use]
pub fn is_quantizable(tensor: &TensorFacts<'_>) -> bool {
    const EXACT: [&str; 2] = ["position_embd.weight", "token_types.weight"];
    const PARTS: [&str; 34] = [
        "_norm.weight",
        "ffn_gate_inp.weight",
        "ffn_gate_tid2eid.weight",
        "altup",
        "laurel",
        "per_layer_model_proj",
        "ssm_conv1d",
        "shortconv.conv.weight",
        "indexer.k_proj.weight",
        "indexer.q_proj.weight",
        "time_mix_first.weight",
        "time_mix_w0.weight",
        "time_mix_w1.weight",
        "time_mix_w2.weight",
        "time_mix_v0.weight",
        "time_mix_v1.weight",
        "time_mix_v2.weight",
        "time_mix_a0.weight",
        "time_mix_a1.weight",
        "time_mix_a2.weight",
        "time_mix_g1.weight",
        "time_mix_g2.weight",
        "time_mix_decay_w1.weight",
        "time_mix_decay_w2.weight",
        "time_mix_lerp_fused.weight",
        "attn_rel_b.weight",
        ".position_embd",
        "sam.pos_embd",
        "sam.neck.",
        "sam.net_",
        ".rel_pos",
        ".patch_embd",
        ".patch_merger",
        "a.rvq.codebook",
    ];
    effective_dims(tensor.dims) >= 2
        && tensor.name.ends_with("weight")
        && !tensor.name.contains("mm.a.code_embd")
        && !EXACT.contains(&tensor.name)
        && !PARTS.iter().any(|part| tensor.name.contains(part))
}

/// Layer number of a name `blk.N.…`; names without one sort before all layers.
fn layer_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("blk.")?;
    let digits = rest.split_once(|c: char| !c.is_ascii_digit()).map_or(rest, |(digits, _)| digits);
    digits.parse().ok()
}

/// The order of tensors in a quantised file: names without layer number first, then by layer, then by name.
#[must_use]
pub fn tensor_order(a: &str, b: &str) -> Ordering {
    layer_of(a).cmp(&layer_of(b)).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}
