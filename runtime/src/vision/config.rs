//! Hyperparameters of a vision file, read from its `clip.*` keys.
//!
//! Every value comes from an untrusted file: a [`VisionConfig`] only exists with values inside the bounds checked here.
//! That they agree with the tensors is checked tensor by tensor when the graph is loaded.

use ocelli_gguf::Metadata;

use super::VisionError;
use crate::RuntimeError;

/// Largest accepted width. Real towers stay far below; the bound keeps products of two widths inside 64 bits.
const MAX_WIDTH: usize = 1 << 20;

/// Largest accepted number of layers.
const MAX_LAYERS: usize = 1000;

/// Largest accepted side of a slice in pixels.
const MAX_IMAGE: usize = 1 << 16;

/// Largest accepted side of a patch in pixels.
const MAX_PATCH: usize = 256;

/// Largest accepted head; the bound of the attention kernel.
const MAX_HEAD_DIM: usize = 512;

/// Hyperparameters of a vision tower and of what follows it.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Kind of projector behind the tower (`clip.projector_type`).
    pub projector: String,
    /// `clip.minicpmv_version`, if any.
    pub minicpmv_version: Option<i64>,
    /// Side in pixels that slices are made for (`image_size`): 448.
    pub image_size: usize,
    /// Side of a patch in pixels (`patch_size`): 14.
    pub patch_size: usize,
    /// Width of the tower (`embedding_length`): 1152.
    pub n_embd: usize,
    /// Width inside its feed-forward (`feed_forward_length`): 4304.
    pub n_ff: usize,
    /// Its heads (`attention.head_count`): 16 of 72 values.
    pub n_head: usize,
    /// Its layers (`block_count`): 27.
    pub n_layer: usize,
    /// `attention.layer_norm_epsilon`, default 1e-6.
    pub layer_norm_eps: f32,
    /// What is subtracted from each colour (`image_mean`), in 0…1.
    pub image_mean: [f32; 3],
    /// What each colour is divided by then (`image_std`).
    pub image_std: [f32; 3],
    /// Learned positions along each axis, from the tensors: 70.
    pub grid: usize,
    /// Embeddings that a slice becomes (rows of `resampler.query`): 64.
    pub query_num: usize,
    /// Width of those embeddings, the hidden size of the text model, from the tensors: 2560.
    pub projection_dim: usize,
}

impl VisionConfig {
    /// Reads the keys. What the tensors say (grid, queries, output width) is 0 until the graph is loaded.
    ///
    /// # Errors
    /// When the file is no vision file, a key is missing without a default, or has a value that no model can have.
    pub(crate) fn read(meta: &Metadata<'_>) -> Result<Self, RuntimeError> {
        let arch = meta.required("general.architecture", meta.str("general.architecture"))?;
        if arch != "clip" {
            return Err(VisionError::NotVision { found: arch.to_owned() }.into());
        }
        if meta.bool("clip.has_vision_encoder")? == Some(false) {
            return Err(bad("clip.has_vision_encoder", "is false: the file has no vision part".to_owned()));
        }
        let config = Self {
            projector: projector(meta)?,
            minicpmv_version: meta.i64("clip.minicpmv_version")?,
            image_size: size(meta, "image_size", MAX_IMAGE)?,
            patch_size: size(meta, "patch_size", MAX_PATCH)?,
            n_embd: size(meta, "embedding_length", MAX_WIDTH)?,
            n_ff: size(meta, "feed_forward_length", MAX_WIDTH)?,
            n_head: size(meta, "attention.head_count", MAX_WIDTH)?,
            n_layer: size(meta, "block_count", MAX_LAYERS)?,
            layer_norm_eps: eps(meta)?,
            image_mean: colours(meta, "clip.vision.image_mean", |_| true)?,
            image_std: colours(meta, "clip.vision.image_std", |v| v > 0.0)?,
            grid: 0,
            query_num: 0,
            projection_dim: 0,
        };
        let heads = "clip.vision.attention.head_count";
        if !config.n_embd.is_multiple_of(config.n_head) {
            return Err(bad(
                heads,
                format!("is {}, which does not divide the width of {}", config.n_head, config.n_embd),
            ));
        }
        if config.head_dim() > MAX_HEAD_DIM {
            return Err(bad(heads, format!("makes heads of {} values; at most {MAX_HEAD_DIM}", config.head_dim())));
        }
        activation(meta)?;
        Ok(config)
    }

    /// Values of a head of the tower.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Values of a patch: three colours.
    #[must_use]
    pub fn patch_len(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }
}

fn bad(key: &str, problem: String) -> RuntimeError {
    RuntimeError::Metadata { key: key.to_owned(), problem }
}

/// The projector's name. Files from before there was a key for it have one flag per kind.
fn projector(meta: &Metadata<'_>) -> Result<String, RuntimeError> {
    for key in ["clip.projector_type", "clip.vision.projector_type"] {
        if let Some(name) = meta.str(key)? {
            return Ok(name.to_owned());
        }
    }
    if meta.bool("clip.has_minicpmv_projector")? == Some(true) {
        return Ok("resampler".to_owned());
    }
    Err(bad("clip.projector_type", "is missing".to_owned()))
}

/// A count from 1 to `max`.
fn size(meta: &Metadata<'_>, suffix: &str, max: usize) -> Result<usize, RuntimeError> {
    let key = format!("clip.vision.{suffix}");
    let value = meta.u64(&key)?.ok_or_else(|| bad(&key, "is missing".to_owned()))?;
    let fits = usize::try_from(value).ok().filter(|v| (1..=max).contains(v));
    fits.ok_or_else(|| bad(&key, format!("is {value}, outside 1 to {max}")))
}

fn eps(meta: &Metadata<'_>) -> Result<f32, RuntimeError> {
    let key = "clip.vision.attention.layer_norm_epsilon";
    let value = meta.f32(key)?.unwrap_or(1e-6);
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(bad(key, format!("is {value}; it must be a finite number above zero")))
}

/// Three finite numbers, 0.5 each by default.
fn colours(meta: &Metadata<'_>, key: &str, accept: fn(f32) -> bool) -> Result<[f32; 3], RuntimeError> {
    let Some(values) = meta.array_f32(key)? else { return Ok([0.5; 3]) };
    let values: Vec<f32> = values.take(4).collect();
    match <[f32; 3]>::try_from(values.as_slice()) {
        Ok(three) if three.iter().all(|v| v.is_finite() && accept(*v)) => Ok(three),
        _ => Err(bad(key, format!("is {values:?}; it must be three usable numbers, one per colour"))),
    }
}

/// Only the tanh-GELU is run; `use_gelu` says that in the words of the first converters.
fn activation(meta: &Metadata<'_>) -> Result<(), RuntimeError> {
    if meta.bool("clip.use_silu")? == Some(true) {
        return Err(bad("clip.use_silu", "is true; only towers with the tanh-GELU can be run".to_owned()));
    }
    if meta.bool("clip.use_gelu")? == Some(false) {
        let problem = "is false, which stands for the quick GELU; only towers with the tanh-GELU can be run";
        return Err(bad("clip.use_gelu", problem.to_owned()));
    }
    Ok(())
}
