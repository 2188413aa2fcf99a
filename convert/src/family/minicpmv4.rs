//! MiniCPM-V 4.0: a Llama-shaped text model, a SigLIP vision tower and a resampler with learned queries.
//!
//! ```text
//! llm.*        → text file
//! vpm.*        → v.*           (the tower; its feed-forward names are swapped, see `LAYER`)
//! resampler.*  → resampler.*   (projection transposed, attention input split in three, position table added)
//! ```

use ocelli_quant::GgmlType;
use serde_json::Value;

use super::llama::{LlamaText, ignored};
use super::position_table::position_table;
use super::processor::{self, Processor};
use super::{Detection, Family, Job, Plan, architectures, text};
use crate::error::ConvertError;
use crate::general;
use crate::json::Section;
use crate::plan::{FilePlan, Picker, PlannedTensor, Source};

pub(super) const FAMILY: Family =
    Family { name: "MiniCPM-V 4.0", embedding: "llm.model.embed_tokens.weight", detect, plan };

/// `clip.minicpmv_version` of this model.
const VERSION_CODE: i32 = 5;
/// Longest side of a slice, in pixels.
const MAX_SLICE: u32 = 65_536;
/// Side of the resampler's position table, in patches.
const TABLE_SIDE: u32 = 70;
/// Width of a resampler head, fixed in the model's code.
const RESAMPLER_HEAD: u32 = 128;

fn detect(config: &Section) -> Result<Detection, ConvertError> {
    let is_ours = text(config, "model_type")?.as_deref() == Some("minicpmv")
        || architectures(config)?.iter().any(|a| a == "MiniCPMV");
    if !is_ours {
        return Ok(Detection::No);
    }
    let version = match config.get("version")? {
        Some(Value::Number(n)) => n.as_f64(),
        Some(Value::String(s)) => s.trim().parse().ok(),
        _ => None,
    };
    Ok(match version {
        Some(4.0) => Detection::Yes,
        Some(other) => Detection::Other(format!("MiniCPM-V {other:?}")),
        None => Detection::Other("a MiniCPM-V model whose config.json has no usable `version`".into()),
    })
}

fn plan(job: &Job<'_>) -> Result<Plan, ConvertError> {
    // Scales that other models of this house put on embeddings, residuals and logits. A llama file cannot carry them.
    for key in ["scale_emb", "scale_depth", "dim_model_base"] {
        if let Some(value) = job.config.f64(key)?.filter(|v| key != "scale_emb" || *v != 1.0) {
            return Err(job.config.error(key, value.to_string(), "absent, as in MiniCPM-V 4.0"));
        }
    }
    let mut warnings = Vec::new();
    let text = LlamaText::read(job, &mut warnings)?;
    let vision = Vision::read(job)?;
    let mut picker = Picker::new(job.checkpoint, FAMILY.name);
    let text_tensors = text.tensors(&mut picker, "llm.");
    let vision_tensors = vision.tensors(&mut picker);
    let tied = text.tied;
    picker.finish(|name| {
        ignored(name)
            || (tied && name == "llm.lm_head.weight")
            || matches!(name, "vpm.embeddings.position_ids" | "resampler.pos_embed")
    })?;
    let text_file = job.vocab.map(|vocab| text.file(job, vocab, text_tensors, |_| 0));
    let mut vision_file = FilePlan { metadata: Vec::new(), tensors: vision_tensors };
    let known = [
        ("image_size", "scale_resolution", vision.slice),
        ("query_num", "image_feature_size", vision.queries),
        ("vision_config.patch_size", "patch_size", vision.patch),
    ];
    let mut processor = processor::read(job.checkpoint.dir(), &known)?;
    warnings.append(&mut processor.warnings);
    vision.keys(processor, &mut vision_file);
    Ok(Plan { text: text_file, facts: text.facts(), vision: Some(vision_file), warnings })
}

/// The hyperparameters of tower and resampler.
#[derive(Debug, Clone)]
struct Vision {
    /// Width of the text model, which is also the resampler's.
    text_hidden: u32,
    hidden: u32,
    feed_forward: u32,
    layers: u32,
    heads: u32,
    channels: u32,
    patch: u32,
    /// Patches per side of the learned position grid.
    side: u32,
    norm_eps: f64,
    queries: u32,
    slice: u32,
}

/// One layer's parts: name in the checkpoint, name in the file, output and input width, in file order. The file's
/// `ffn_down` is the widening matrix: the names are swapped in every published file of this family, and readers tell
/// by the shape.
fn layer_map(hidden: u64, feed: u64) -> [(&'static str, &'static str, u64, Option<u64>); 8] {
    [
        ("self_attn.k_proj", "attn_k", hidden, Some(hidden)),
        ("self_attn.v_proj", "attn_v", hidden, Some(hidden)),
        ("self_attn.q_proj", "attn_q", hidden, Some(hidden)),
        ("self_attn.out_proj", "attn_out", hidden, Some(hidden)),
        ("layer_norm1", "ln1", hidden, None),
        ("mlp.fc1", "ffn_down", feed, Some(hidden)),
        ("mlp.fc2", "ffn_up", hidden, Some(feed)),
        ("layer_norm2", "ln2", hidden, None),
    ]
}

impl Vision {
    /// Reads `config.json`; what `vision_config` leaves out takes the defaults of the SigLIP so400m configuration.
    fn read(job: &Job<'_>) -> Result<Self, ConvertError> {
        let c = job.config;
        let v = c.section("vision_config")?;
        let text_hidden = c.need_size("hidden_size")?;
        if !text_hidden.is_multiple_of(RESAMPLER_HEAD) {
            let expected = format!("a multiple of {RESAMPLER_HEAD}, the width of a resampler head");
            return Err(c.error("hidden_size", text_hidden.to_string(), expected));
        }
        match v.str("hidden_act")?.as_deref() {
            None | Some("gelu_pytorch_tanh") => {}
            Some(other) => return Err(v.error("hidden_act", format!("`{other}`"), "gelu_pytorch_tanh")),
        }
        let size = |key: &str, default: u32| v.size(key).map(|n| n.unwrap_or(default));
        let (image, patch) = (size("image_size", 980)?, size("patch_size", 14)?);
        let hidden = size("hidden_size", 1152)?;
        let heads = size("num_attention_heads", 16)?;
        if !hidden.is_multiple_of(heads) {
            return Err(v.error(
                "num_attention_heads",
                heads.to_string(),
                format!("a divisor of hidden_size, {hidden}"),
            ));
        }
        if image < patch {
            return Err(v.error("image_size", image.to_string(), format!("at least the patch size, {patch}")));
        }
        let slice = c.size("image_size")?.unwrap_or(448);
        if !(patch..=MAX_SLICE).contains(&slice) {
            let expected = format!("the side of a slice in pixels, from the patch size {patch} to {MAX_SLICE}");
            return Err(c.error("image_size", slice.to_string(), expected));
        }
        Ok(Self {
            text_hidden,
            hidden,
            feed_forward: size("intermediate_size", 4304)?,
            layers: Self::layers(job, size("num_hidden_layers", 27)?)?,
            heads,
            channels: size("num_channels", 3)?,
            patch,
            side: image / patch,
            norm_eps: v.positive_f32("layer_norm_eps")?.unwrap_or(1e-6),
            queries: c.size("query_num")?.unwrap_or(64),
            slice,
        })
    }

    /// Layers in use. A model that drops the last one is saved without it; where the configuration does not say, the
    /// checkpoint does.
    fn layers(job: &Job<'_>, configured: u32) -> Result<u32, ConvertError> {
        let stored = job.checkpoint.tensors().len();
        if configured as usize > stored {
            let found = format!("{configured}, but the checkpoint has only {stored} tensors");
            return Err(job.config.error("vision_config.num_hidden_layers", found, "the layers in the checkpoint"));
        }
        let last = configured.saturating_sub(1);
        let dropped = match job.config.bool("drop_vision_last_layer")? {
            Some(dropped) => dropped,
            None => {
                !job.checkpoint.tensors().contains_key(&format!("vpm.encoder.layers.{last}.layer_norm1.weight"))
                    && last > 0
                    && job
                        .checkpoint
                        .tensors()
                        .contains_key(&format!("vpm.encoder.layers.{}.layer_norm1.weight", last - 1))
            }
        };
        Ok(if dropped { last } else { configured })
    }

    /// All tensors of the vision file, in its order and with the formats of an F16 file.
    fn tensors(&self, picker: &mut Picker<'_>) -> Vec<PlannedTensor> {
        let mut out = self.resampler(picker);
        out.extend(self.tower(picker));
        for tensor in &mut out {
            let matrix = tensor.dims.len() == 2 && tensor.name.ends_with(".weight");
            // The patch convolution is half precision even in an F32 file: its kernel exists in that type only.
            if matrix || tensor.dims.len() == 4 {
                tensor.ty = GgmlType::F16;
            }
        }
        out
    }

    fn resampler(&self, picker: &mut Picker<'_>) -> Vec<PlannedTensor> {
        let width = u64::from(self.text_hidden);
        let mut out = Vec::new();
        let mut rows = |picker: &mut Picker<'_>, from: &str, to: &str, stored: &[u64], part: Option<(u64, u64)>| {
            let Some(tensor) = picker.pick(from, stored) else { return };
            let mut shape = stored.to_vec();
            // One of `parts` equal parts along the outermost dimension.
            let (index, parts) = part.unwrap_or((0, 1));
            if let Some(rows) = shape.first_mut() {
                *rows /= parts;
            }
            let first = index * shape.iter().product::<u64>();
            out.push(PlannedTensor::new(to, &shape, Source::Rows { tensor, first }));
        };
        let whole = None;
        rows(picker, "resampler.query", "resampler.query", &[u64::from(self.queries), width], whole);
        let kv = [width, u64::from(self.hidden)];
        rows(picker, "resampler.kv_proj.weight", "resampler.kv.weight", &kv, whole);
        for (from, to, stored) in [
            ("resampler.attn.in_proj_weight", "weight", &[3 * width, width][..]),
            ("resampler.attn.in_proj_bias", "bias", &[3 * width]),
        ] {
            for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
                let name = format!("resampler.attn.{part}.{to}");
                rows(picker, from, &name, stored, Some((i as u64, 3)));
            }
        }
        rows(picker, "resampler.attn.out_proj.weight", "resampler.attn.out.weight", &[width, width], whole);
        rows(picker, "resampler.attn.out_proj.bias", "resampler.attn.out.bias", &[width], whole);
        for norm in ["ln_q", "ln_kv", "ln_post"] {
            for part in ["weight", "bias"] {
                let name = format!("resampler.{norm}.{part}");
                rows(picker, &name, &name, &[width], whole);
            }
        }
        // The position table and the projection come second and third in the file. The table is made only when the
        // checkpoint has a matrix as wide, so that it is not larger than the weights.
        let mut extra = Vec::new();
        if let Some(tensor) = picker.pick("resampler.proj", &[width, width]) {
            let table = position_table(self.text_hidden, TABLE_SIDE);
            let shape = [u64::from(TABLE_SIDE) * u64::from(TABLE_SIDE), width];
            extra.push(PlannedTensor::new("resampler.pos_embed_k", &shape, Source::Computed(table)));
            // The model computes x · proj; readers compute W · x with one row of W per output.
            extra.push(PlannedTensor::new("resampler.proj.weight", &[width, width], Source::Transposed { tensor }));
        }
        let at = out.len().min(1);
        out.splice(at..at, extra);
        out
    }

    fn tower(&self, picker: &mut Picker<'_>) -> Vec<PlannedTensor> {
        let (hidden, patch) = (u64::from(self.hidden), u64::from(self.patch));
        let mut out = Vec::new();
        let mut rows = |from: String, to: String, shape: &[u64]| {
            if let Some(tensor) = picker.pick(&from, shape) {
                out.push(PlannedTensor::new(to, shape, Source::Rows { tensor, first: 0 }));
            }
        };
        let embeddings = "vpm.embeddings";
        let kernel = [hidden, u64::from(self.channels), patch, patch];
        rows(format!("{embeddings}.patch_embedding.weight"), "v.patch_embd.weight".into(), &kernel);
        rows(format!("{embeddings}.patch_embedding.bias"), "v.patch_embd.bias".into(), &[hidden]);
        let grid = [u64::from(self.side) * u64::from(self.side), hidden];
        rows(format!("{embeddings}.position_embedding.weight"), "v.position_embd.weight".into(), &grid);
        for layer in 0..self.layers {
            for (from, to, wide, deep) in layer_map(hidden, u64::from(self.feed_forward)) {
                let shape: Vec<u64> = std::iter::once(wide).chain(deep).collect();
                let (from, to) = (format!("vpm.encoder.layers.{layer}.{from}"), format!("v.blk.{layer}.{to}"));
                rows(format!("{from}.weight"), format!("{to}.weight"), &shape);
                rows(format!("{from}.bias"), format!("{to}.bias"), &[wide]);
            }
        }
        for part in ["weight", "bias"] {
            rows(format!("vpm.post_layernorm.{part}"), format!("v.post_ln.{part}"), &[hidden]);
        }
        out
    }

    fn keys(&self, processor: Processor, plan: &mut FilePlan) {
        plan.kv("general.architecture", "clip");
        plan.kv("clip.has_text_encoder", false);
        plan.kv("clip.has_vision_encoder", true);
        plan.kv("clip.has_minicpmv_projector", true);
        plan.kv(general::FILE_TYPE, 1u32);
        plan.kv("general.description", "image encoder for MiniCPM-V");
        plan.kv("clip.projector_type", "resampler");
        plan.kv("clip.minicpmv_version", VERSION_CODE);
        plan.kv("clip.vision.image_size", self.slice);
        plan.kv("clip.vision.patch_size", self.patch);
        plan.kv("clip.vision.embedding_length", self.hidden);
        plan.kv("clip.vision.feed_forward_length", self.feed_forward);
        plan.kv("clip.vision.projection_dim", 0u32);
        plan.kv("clip.vision.attention.head_count", self.heads);
        plan.kv("clip.vision.attention.layer_norm_epsilon", self.norm_eps as f32);
        plan.kv("clip.vision.block_count", self.layers);
        plan.kv("clip.minicpmv_query_num", self.queries);
        plan.kv("clip.vision.image_mean", processor.mean);
        plan.kv("clip.vision.image_std", processor.std);
        plan.kv("clip.use_gelu", true);
    }
}
