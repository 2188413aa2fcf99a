//! The tensors of a made-up checkpoint and the values in them.
//!
//! Scales are chosen so that activations behave as in a trained network: the residual stream stays between 1 and 10,
//! attention is neither uniform nor one-hot, logits have a deviation near 2. Matrices that write to the residual
//! stream shrink with the number of layers. A few channels, the same in all layers, have norm weights 8 to 20 times
//! the usual, which is what makes int8 activations hard in real models; the matrices that read them are scaled back
//! by the root mean square of the norm weights.

use super::preset::{Preset, TextShape, VisionShape};
use super::rng::Stream;

/// How a tensor's values are distributed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Law {
    /// Normal with a deviation that varies by up to a quarter from row to row.
    Matrix { std: f32 },
    /// Near 1.
    Norm,
    /// Near 1, with a few large channels.
    NormOutliers,
    /// Normal around 0.
    Bias { std: f32 },
}

/// One tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthTensor {
    /// The checkpoint's name.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    law: Law,
}

impl SynthTensor {
    /// Values in the tensor.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Never: every tensor has values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All tensors of one made-up model; their values can be computed anywhere and in any order.
#[derive(Debug, Clone)]
pub struct SynthWeights {
    seed: u64,
    tensors: Vec<SynthTensor>,
}

impl SynthWeights {
    /// The model `preset` with random weights from `seed`.
    #[must_use]
    pub fn new(preset: Preset, seed: u64) -> Self {
        let mut list = List(Vec::new());
        text(&mut list, preset.text());
        resampler(&mut list, preset.text().hidden, preset.vision().hidden, preset.queries());
        vision(&mut list, preset.vision());
        Self { seed, tensors: list.0 }
    }

    /// The tensors, in the order in which they are stored.
    #[must_use]
    pub fn tensors(&self) -> &[SynthTensor] {
        &self.tensors
    }

    /// Computes the values of `tensor` from index `start` (row-major) on; `out` must not reach beyond its end.
    pub fn fill(&self, tensor: &SynthTensor, start: usize, out: &mut [f32]) {
        let stream = Stream::new(self.seed, &tensor.name);
        match tensor.law {
            Law::Matrix { std } => {
                let cols = tensor.shape.get(1..).map_or(1, |rest| rest.iter().product::<usize>()).max(1);
                let rows = Stream::new(self.seed ^ 0x726f_7773, &tensor.name);
                let mut at = start;
                let mut rest = out;
                while !rest.is_empty() {
                    let (row, col) = (at / cols, at % cols);
                    let (part, tail) = rest.split_at_mut((cols - col).min(rest.len()));
                    let scale = std * (0.75 + 0.5 * rows.uniform(row as u64));
                    for (i, value) in part.iter_mut().enumerate() {
                        *value = scale * stream.normal((at + i) as u64);
                    }
                    at += part.len();
                    rest = tail;
                }
            }
            Law::Norm | Law::NormOutliers => {
                for (i, value) in out.iter_mut().enumerate() {
                    *value = 1.0 + 0.1 * stream.normal((start + i) as u64);
                }
                if tensor.law == Law::NormOutliers {
                    for channel in outliers(self.seed, tensor.len()) {
                        let factor = 8.0 + 12.0 * stream.uniform((tensor.len() + channel) as u64);
                        if let Some(value) = channel.checked_sub(start).and_then(|i| out.get_mut(i)) {
                            *value *= factor;
                        }
                    }
                }
            }
            Law::Bias { std } => {
                for (i, value) in out.iter_mut().enumerate() {
                    *value = std * stream.normal((start + i) as u64);
                }
            }
        }
    }
}

/// How many channels of `dim` are large.
fn n_outliers(dim: usize) -> usize {
    (dim / 640).max(2)
}

/// The large channels of a stream of width `dim`: the same for every layer.
fn outliers(seed: u64, dim: usize) -> Vec<usize> {
    let stream = Stream::new(seed, "outlier channels");
    let mut channels = Vec::new();
    let mut i = 0;
    while channels.len() < n_outliers(dim).min(dim) {
        let channel = (stream.bits(i) % dim as u64) as usize;
        if !channels.contains(&channel) {
            channels.push(channel);
        }
        i += 1;
    }
    channels
}

/// Deviation that keeps unit inputs at unit scale.
fn unit(fan_in: usize) -> f32 {
    1.0 / (fan_in as f32).sqrt()
}

/// The same for inputs that have passed a norm with large channels: the factor's mean square over 8…20 is 208.
fn after_outliers(fan_in: usize) -> f32 {
    unit(fan_in) / (1.0 + 208.0 * n_outliers(fan_in) as f32 / fan_in as f32).sqrt()
}

/// Deviation for the output of a residual branch, of which there are two per layer.
fn residual(fan_in: usize, layers: usize) -> f32 {
    2.0 * unit(fan_in) / (2.0 * layers as f32).sqrt()
}

struct List(Vec<SynthTensor>);

impl List {
    fn add(&mut self, name: String, shape: &[usize], law: Law) {
        self.0.push(SynthTensor { name, shape: shape.to_vec(), law });
    }

    fn matrix(&mut self, name: String, rows: usize, cols: usize, std: f32) {
        self.add(name, &[rows, cols], Law::Matrix { std });
    }

    /// A matrix `{name}.weight` with a bias `{name}.bias`.
    fn linear(&mut self, name: &str, rows: usize, cols: usize, std: f32) {
        self.matrix(format!("{name}.weight"), rows, cols, std);
        self.add(format!("{name}.bias"), &[rows], Law::Bias { std: 0.05 });
    }

    /// Weight and bias of a layer norm.
    fn layer_norm(&mut self, name: &str, dim: usize, law: Law) {
        self.add(format!("{name}.weight"), &[dim], law);
        self.add(format!("{name}.bias"), &[dim], Law::Bias { std: 0.05 });
    }
}

fn text(list: &mut List, shape: TextShape) {
    let TextShape { vocab_size, hidden, intermediate, layers, heads, kv_heads, head_dim } = shape;
    let (n_q, n_kv) = (heads * head_dim, kv_heads * head_dim);
    list.matrix("llm.model.embed_tokens.weight".into(), vocab_size, hidden, 0.5);
    for i in 0..layers {
        let name = |rest: &str| format!("llm.model.layers.{i}.{rest}.weight");
        let read = after_outliers(hidden);
        list.add(name("input_layernorm"), &[hidden], Law::NormOutliers);
        // Scores get a deviation near 2, so that a head looks at some positions much more than at others.
        list.matrix(name("self_attn.q_proj"), n_q, hidden, 1.5 * read);
        list.matrix(name("self_attn.k_proj"), n_kv, hidden, 1.5 * read);
        list.matrix(name("self_attn.v_proj"), n_kv, hidden, read);
        list.matrix(name("self_attn.o_proj"), hidden, n_q, residual(n_q, layers));
        list.add(name("post_attention_layernorm"), &[hidden], Law::NormOutliers);
        list.matrix(name("mlp.gate_proj"), intermediate, hidden, read);
        list.matrix(name("mlp.up_proj"), intermediate, hidden, read);
        list.matrix(name("mlp.down_proj"), hidden, intermediate, residual(intermediate, layers));
    }
    list.add("llm.model.norm.weight".into(), &[hidden], Law::Norm);
    list.matrix("llm.lm_head.weight".into(), vocab_size, hidden, 2.0 * unit(hidden));
}

fn resampler(list: &mut List, hidden: usize, vision: usize, queries: usize) {
    list.matrix("resampler.query".into(), queries, hidden, 1.0);
    // Image embeddings enter the text model at the scale of its token embeddings.
    list.matrix("resampler.proj".into(), hidden, hidden, 0.5 * unit(hidden));
    list.matrix("resampler.kv_proj.weight".into(), hidden, vision, unit(vision));
    list.matrix("resampler.attn.in_proj_weight".into(), 3 * hidden, hidden, 1.2 * unit(hidden));
    list.add("resampler.attn.in_proj_bias".into(), &[3 * hidden], Law::Bias { std: 0.05 });
    list.linear("resampler.attn.out_proj", hidden, hidden, unit(hidden));
    for norm in ["ln_q", "ln_kv", "ln_post"] {
        list.layer_norm(&format!("resampler.{norm}"), hidden, Law::Norm);
    }
}

fn vision(list: &mut List, shape: VisionShape) {
    let VisionShape { hidden, intermediate, layers, heads: _, patch, grid } = shape;
    // Neighbouring pixels are alike, so a patch's values add up more than independent ones would.
    let std = 0.5 * unit(3 * patch * patch);
    list.add("vpm.embeddings.patch_embedding.weight".into(), &[hidden, 3, patch, patch], Law::Matrix { std });
    list.add("vpm.embeddings.patch_embedding.bias".into(), &[hidden], Law::Bias { std: 0.05 });
    list.matrix("vpm.embeddings.position_embedding.weight".into(), grid * grid, hidden, 0.5);
    for i in 0..layers {
        let name = |rest: &str| format!("vpm.encoder.layers.{i}.{rest}");
        let read = after_outliers(hidden);
        list.layer_norm(&name("layer_norm1"), hidden, Law::NormOutliers);
        list.linear(&name("self_attn.q_proj"), hidden, hidden, 1.5 * read);
        list.linear(&name("self_attn.k_proj"), hidden, hidden, 1.5 * read);
        list.linear(&name("self_attn.v_proj"), hidden, hidden, read);
        list.linear(&name("self_attn.out_proj"), hidden, hidden, residual(hidden, layers));
        list.layer_norm(&name("layer_norm2"), hidden, Law::NormOutliers);
        list.linear(&name("mlp.fc1"), intermediate, hidden, read);
        list.linear(&name("mlp.fc2"), hidden, intermediate, residual(intermediate, layers));
    }
    list.layer_norm("vpm.post_layernorm", hidden, Law::Norm);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_size_has_the_published_counts() {
        let weights = SynthWeights::new(Preset::MiniCpmV4, 0);
        let count = |prefix: &str| weights.tensors().iter().filter(|t| t.name.starts_with(prefix)).count();
        assert_eq!((count("llm."), count("vpm."), count("resampler.")), (291, 437, 13));
        let text = weights.tensors().iter().filter(|t| t.name.starts_with("llm.")).map(SynthTensor::len);
        assert_eq!(text.sum::<usize>(), 3_605_834_240);
    }

    #[test]
    fn values_do_not_depend_on_where_strips_are_cut() {
        let weights = SynthWeights::new(Preset::Mini, 7);
        for tensor in weights.tensors().iter().take(12) {
            let mut whole = vec![0.0; tensor.len()];
            weights.fill(tensor, 0, &mut whole);
            let mut pieces = vec![0.0; tensor.len()];
            for (i, piece) in pieces.chunks_mut(101).enumerate() {
                weights.fill(tensor, i * 101, piece);
            }
            assert_eq!(whole, pieces, "{}", tensor.name);
        }
    }

    #[test]
    fn norms_have_a_few_large_channels() {
        let weights = SynthWeights::new(Preset::Small, 3);
        for layer in [0, 5] {
            let name = format!("llm.model.layers.{layer}.input_layernorm.weight");
            let tensor = weights.tensors().iter().find(|t| t.name == name).unwrap();
            let mut values = vec![0.0; tensor.len()];
            weights.fill(tensor, 0, &mut values);
            let large: Vec<usize> = (0..values.len()).filter(|i| values[*i] > 4.0).collect();
            let mut expected = outliers(3, 768);
            expected.sort_unstable();
            assert_eq!(large, expected);
        }
    }
}
