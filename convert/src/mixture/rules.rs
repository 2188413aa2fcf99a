//! The rules of the mixtures, one function per kind of tensor.

use ocelli_quant::GgmlType;

use super::{FileType, MixtureError, ModelFacts, TensorFacts, TypeChoice, TypeOptions, is_quantizable, layer_of};

/// What a tensor is for, as far as the rules tell kinds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Output,
    TokenEmbedding,
    /// Values, also fused with queries and keys or compressed with keys: the most sensitive part of attention.
    AttentionV,
    AttentionK,
    AttentionOutput,
    FfnDown,
    Other,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::TokenEmbedding,
            _ if ["attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"].iter().any(|v| name.contains(v)) => {
                Self::AttentionV
            }
            _ if name.contains("attn_k.weight") => Self::AttentionK,
            _ if name.contains("attn_q.weight") => Self::Other,
            _ if name.contains("attn_output.weight") => Self::AttentionOutput,
            _ if name.contains("ffn_up") || name.contains("ffn_gate") => Self::Other,
            _ if name.contains("ffn_down") => Self::FfnDown,
            _ => Self::Other,
        }
    }
}

/// The layers that get more bits: the first and last eighth and every third in between.
fn more_bits(i: u32, n: u32) -> bool {
    let first = n / 8;
    i < first || u64::from(i) >= 7 * u64::from(n) / 8 || (i - first) % 3 == 2
}

/// Walks over the tensors of a file and keeps the counters that stand for layer numbers.
pub(super) struct Chooser<'a> {
    file_type: FileType,
    model: &'a ModelFacts,
    options: &'a TypeOptions,
    tied_embeddings: bool,
    n_attn_v: u32,
    i_attn_v: u32,
    i_ffn_down: u32,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(
        file_type: FileType,
        model: &'a ModelFacts,
        options: &'a TypeOptions,
        tensors: &[TensorFacts<'_>],
    ) -> Self {
        let kinds = || tensors.iter().map(|t| Kind::of(t.name));
        let n_attn_v = kinds().filter(|&k| k == Kind::AttentionV).count();
        Self {
            file_type,
            model,
            options,
            tied_embeddings: !kinds().any(|k| k == Kind::Output),
            n_attn_v: u32::try_from(n_attn_v).unwrap_or(u32::MAX),
            i_attn_v: 0,
            i_ffn_down: 0,
        }
    }

    pub(super) fn all(mut self, tensors: &[TensorFacts<'_>]) -> Result<Vec<TypeChoice>, MixtureError> {
        let own_rules = ["falcon", "glm5-next"].contains(&self.model.arch.as_str());
        if own_rules && !self.options.pure && self.file_type.default_type().is_quantized() {
            return Err(MixtureError::Architecture { arch: self.model.arch.clone() });
        }
        tensors.iter().map(|t| self.one(t)).collect()
    }

    fn one(&mut self, tensor: &TensorFacts<'_>) -> Result<TypeChoice, MixtureError> {
        let kind = Kind::of(tensor.name);
        if !is_quantizable(tensor) || (self.options.leave_output_tensor && kind == Kind::Output) {
            return Ok(TypeChoice { ty: None, instead_of: None, needs_imatrix: false });
        }
        let named = self.options.overrides.iter().find(|o| o.matches(tensor.name));
        let fixed = match kind {
            // The per-layer table follows the option too, unless a pattern names it.
            Kind::TokenEmbedding if tensor.name == "token_embd.weight" || named.is_none() => {
                self.options.token_embedding_type
            }
            Kind::Output => self.options.output_tensor_type,
            _ => None,
        };
        let default = self.file_type.default_type();
        let (ty, instead_of) = if let Some(ty) = fixed {
            (ty, None)
        } else if !default.is_quantized() {
            (default, None)
        } else {
            let wanted = match named {
                Some(named) => named.ty(),
                None if self.options.pure => default,
                None => self.by_rule(tensor, kind)?,
            };
            let fitting = fit_row(wanted, row_len(tensor));
            (fitting, (fitting != wanted).then_some(wanted))
        };
        // 2-bit weights of the small mixture are noise without importances, the two embeddings excepted.
        let needs_imatrix = self.file_type == FileType::Q2_K_S
            && ty == GgmlType::Q2_K
            && !matches!(kind, Kind::Output | Kind::TokenEmbedding);
        Ok(TypeChoice { ty: Some(ty), instead_of, needs_imatrix })
    }

    fn by_rule(&mut self, tensor: &TensorFacts<'_>, kind: Kind) -> Result<GgmlType, MixtureError> {
        Ok(match kind {
            Kind::Output => self.output(tensor),
            Kind::TokenEmbedding if self.tied_embeddings => self.output(tensor),
            Kind::AttentionV => {
                let ty = self.attn_v(self.i_attn_v);
                self.i_attn_v += 1;
                ty
            }
            Kind::AttentionK if self.model.n_expert == 8 => GgmlType::Q8_0,
            Kind::FfnDown => {
                let ty = self.ffn_down(self.ffn_layer(tensor.name)?);
                self.i_ffn_down += 1;
                ty
            }
            Kind::AttentionOutput => self.attn_output(),
            _ => self.file_type.default_type(),
        })
    }

    fn output(&self, tensor: &TensorFacts<'_>) -> GgmlType {
        let default = self.file_type.default_type();
        match self.options.output_tensor_type {
            Some(ty) => ty,
            None if !divides(default, row_len(tensor)) || default == GgmlType::Q8_0 => GgmlType::Q8_0,
            None => GgmlType::Q6_K,
        }
    }

    fn attn_v(&self, i: u32) -> GgmlType {
        if self.model.n_expert == 8 {
            return GgmlType::Q8_0;
        }
        let shared = self.model.n_gqa() >= 4;
        let ty = match self.file_type {
            FileType::Q2_K | FileType::Q2_K_S if shared => GgmlType::Q4_K,
            FileType::Q2_K => GgmlType::Q3_K,
            FileType::Q3_K_M if i >= 2 => GgmlType::Q4_K,
            FileType::Q3_K_M | FileType::Q3_K_L => GgmlType::Q5_K,
            FileType::IQ4_NL if shared => GgmlType::Q5_K,
            FileType::Q4_K_M | FileType::Q5_K_M if more_bits(i, self.n_attn_v) => GgmlType::Q6_K,
            FileType::Q4_K_S if i < 4 => GgmlType::Q5_K,
            other => other.default_type(),
        };
        // With eight query heads on one value head the tensor is small enough to be generous.
        let generous = self.model.is_70b() && matches!(ty, GgmlType::Q3_K | GgmlType::Q4_K);
        if generous { GgmlType::Q5_K } else { ty }
    }

    fn ffn_down(&self, i: u32) -> GgmlType {
        let n = self.model.n_layer;
        let first_eighth = i < n / 8;
        let imatrix = self.options.has_imatrix;
        match self.file_type {
            FileType::Q2_K => GgmlType::Q3_K,
            FileType::Q2_K_S if first_eighth => GgmlType::Q4_K,
            FileType::Q3_K_M if i < n / 16 => GgmlType::Q5_K,
            FileType::Q3_K_M => GgmlType::Q4_K,
            FileType::Q3_K_L => GgmlType::Q5_K,
            FileType::Q4_K_M | FileType::Q5_K_M if more_bits(i, n) => GgmlType::Q6_K,
            FileType::Q4_K_S if first_eighth => GgmlType::Q5_K,
            FileType::IQ4_NL if first_eighth && !imatrix => GgmlType::Q5_K,
            FileType::Q4_0 if first_eighth && imatrix => GgmlType::Q4_1,
            FileType::Q5_0 if first_eighth && imatrix => GgmlType::Q5_1,
            other => other.default_type(),
        }
    }

    /// Experts come as several tensors per layer, so with experts the layer is read from the name.
    fn ffn_layer(&self, name: &str) -> Result<u32, MixtureError> {
        if self.model.n_expert <= 1 {
            return Ok(self.i_ffn_down);
        }
        layer_of(name)
            .filter(|&i| i < self.model.n_layer)
            .ok_or_else(|| MixtureError::Layer { name: name.to_owned(), n_layer: self.model.n_layer })
    }

    fn attn_output(&self) -> GgmlType {
        let experts = self.model.n_expert == 8;
        match self.file_type {
            FileType::Q2_K
            | FileType::Q3_K_S
            | FileType::Q3_K_M
            | FileType::IQ4_NL
            | FileType::Q4_K_S
            | FileType::Q4_K_M
                if experts =>
            {
                GgmlType::Q5_K
            }
            FileType::Q2_K => GgmlType::Q3_K,
            FileType::Q3_K_M => GgmlType::Q4_K,
            FileType::Q3_K_L if !experts => GgmlType::Q5_K,
            other => other.default_type(),
        }
    }
}

fn row_len(tensor: &TensorFacts<'_>) -> u64 {
    tensor.dims.first().copied().unwrap_or(1)
}

fn divides(ty: GgmlType, row_len: u64) -> bool {
    row_len.is_multiple_of(ty.block_len() as u64)
}

/// `ty`, or where its blocks do not divide the row: the nearest larger format with blocks of 32, or else F16.
fn fit_row(ty: GgmlType, row_len: u64) -> GgmlType {
    if divides(ty, row_len) {
        return ty;
    }
    let small = match ty {
        GgmlType::Q2_K | GgmlType::Q3_K => GgmlType::Q4_0,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        other => other,
    };
    if divides(small, row_len) { small } else { GgmlType::F16 }
}
