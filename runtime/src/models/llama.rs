//! `llama`: RMS norm, grouped-query attention with interleaved rope, SwiGLU; no gates, caps or sliding windows.

use super::TextModel;
use crate::RuntimeError;
use crate::layers::{Attention, Mlp, Pass};
use crate::nn::Norm;
use crate::weights::Loader;

#[derive(Debug)]
struct Layer {
    attn_norm: Norm,
    attention: Attention,
    ffn_norm: Norm,
    mlp: Mlp,
}

#[derive(Debug)]
struct Llama {
    layers: Vec<Layer>,
}

pub(super) fn load(loader: &mut Loader<'_>) -> Result<Box<dyn TextModel>, RuntimeError> {
    // Every layer must find its tensors in the file, so a false layer count ends at the first one missing.
    let mut layers = Vec::new();
    for il in 0..loader.config().n_layer {
        layers.push(Layer {
            attn_norm: Norm::rms(loader, &format!("blk.{il}.attn_norm"))?,
            attention: Attention::load(loader, il)?,
            ffn_norm: Norm::rms(loader, &format!("blk.{il}.ffn_norm"))?,
            mlp: Mlp::load(loader, il)?,
        });
        // Written by some old converters: the angles that are computed here anyway.
        loader.ignore(&format!("blk.{il}.attn_rot_embd.weight"));
    }
    Ok(Box::new(Llama { layers }))
}

impl TextModel for Llama {
    fn layer(&self, il: usize, pass: &mut Pass<'_>) -> Result<(), RuntimeError> {
        let layer = &self.layers[il];
        layer.attention.run(il, &layer.attn_norm, pass)?;
        layer.mlp.run(&layer.ffn_norm, pass)
    }
}
