//! MiniCPM-V 4.0: a SigLIP tower and a resampler that turns any number of patches into 64 rows.

mod resampler;

use resampler::Resampler;

use super::parts::Parts;
use super::pass::Pass;
use super::tower::Tower;
use super::{Reader, VisionConfig, VisionError, VisionGraph};
use crate::RuntimeError;
use crate::nn::Engine;

/// `clip.minicpmv_version` of MiniCPM-V 4.0.
const VERSION: i64 = 5;

#[derive(Debug)]
struct MiniCpmV {
    tower: Tower,
    resampler: Resampler,
}

pub(super) fn load(parts: &mut Parts<'_, '_>, config: &mut VisionConfig) -> Result<Box<dyn VisionGraph>, RuntimeError> {
    version(config.minicpmv_version)?;
    if !parts.meta.contains("clip.use_gelu") {
        let text = "key `clip.use_gelu` is missing: the tanh-GELU of this model is used, other readers may use another";
        parts.warn(text.to_owned());
    }
    let resampler = Resampler::load(parts, config)?;
    let tower = Tower::load(parts, config)?;
    Ok(Box::new(MiniCpmV { tower, resampler }))
}

/// Other versions have other resamplers, other widths and another prompt layout.
fn version(found: Option<i64>) -> Result<(), VisionError> {
    let found = match found {
        Some(VERSION) => return Ok(()),
        Some(1) => "MiniCPM-V 2".to_owned(),
        Some(2) => "MiniCPM-Llama3-V 2.5".to_owned(),
        Some(3) => "MiniCPM-V 2.6".to_owned(),
        Some(4) => "MiniCPM-o 2.6".to_owned(),
        Some(6) => "MiniCPM-V 4.5 or MiniCPM-o 4.0".to_owned(),
        Some(100_045) => "MiniCPM-o 4.5".to_owned(),
        Some(other) => format!("no known model (`clip.minicpmv_version` is {other})"),
        None => "MiniCPM-Llama3-V 2.5 (which is what no `clip.minicpmv_version` stands for)".to_owned(),
    };
    Err(VisionError::Version { found })
}

impl VisionGraph for MiniCpmV {
    fn constants(&self, engine: &Engine<'_>, config: &VisionConfig) -> Result<Vec<f32>, RuntimeError> {
        self.resampler.queries(engine, config)
    }

    fn steps(&self) -> usize {
        // The resampler is one more.
        self.tower.steps() + 1
    }

    fn reader(&self, name: &str) -> Reader {
        match name {
            "resampler.query" | "resampler.attn.q.weight" | "v.position_embd.weight" => Reader::None,
            "resampler.attn.out.weight" | "resampler.proj.weight" => Reader::Queries,
            _ => Reader::Patches,
        }
    }

    fn attention(&self, config: &VisionConfig, patches: usize) -> f64 {
        let tower = 2.0 * config.n_layer as f64 * (patches * patches) as f64 * config.n_embd as f64;
        tower + 2.0 * (config.query_num * patches) as f64 * config.projection_dim as f64
    }

    fn step(&self, pass: &mut Pass<'_>, number: usize) -> Result<(), RuntimeError> {
        if number == 0 {
            self.tower.embed(pass)?;
        }
        if number < self.tower.steps() {
            return self.tower.step(pass, number);
        }
        self.tower.finish(pass)?;
        pass.show_tower();
        self.resampler.run(pass)
    }
}
