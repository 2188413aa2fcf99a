//! Pictures into embeddings: the vision file (mmproj) of a model, and what computes with it.
//!
//! ```text
//! VisionModel     mapped weights, hyperparameters, one of the registered architectures
//! VisionEncoder   a model with threads and buffers: slices in, rows of embeddings out
//! Encoding        slices on their way through an encoder, step by step
//! ```
//!
//! An architecture is one folder with a `load` function, which takes its tensors and returns a `VisionGraph`, and one
//! line in `ARCHITECTURES`. The text model knows nothing of all this: it is given rows.

mod config;
mod encoder;
mod encoding;
mod error;
mod minicpmv;
mod model;
mod parts;
mod pass;
pub mod positions;
mod tower;

#[cfg(test)]
mod tests;

pub use config::VisionConfig;
pub use encoder::{VisionEncoder, VisionOptions, VisionProbe};
pub use encoding::Encoding;
pub use error::VisionError;
pub use model::VisionModel;
pub use positions::Positions;

use parts::Parts;
use pass::Pass;

use crate::RuntimeError;
use crate::nn::Engine;

/// Takes an architecture's tensors, and what they say about sizes into the configuration.
type Load = fn(&mut Parts<'_, '_>, &mut VisionConfig) -> Result<Box<dyn VisionGraph>, RuntimeError>;

/// One registered architecture.
struct Architecture {
    /// `clip.projector_type`.
    projector: &'static str,
    load: Load,
}

/// All architectures. A new one is one folder and one line.
const ARCHITECTURES: &[Architecture] = &[Architecture { projector: "resampler", load: minicpmv::load }];

/// Which rows meet a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// One for every patch.
    Patches,
    /// One for every embedding that a slice becomes.
    Queries,
    /// None: it is looked up, or used once per encoder.
    None,
}

/// The graph of a loaded vision model.
pub(crate) trait VisionGraph: std::fmt::Debug + Send + Sync {
    /// What does not depend on the picture, computed once per encoder.
    fn constants(&self, engine: &Engine<'_>, config: &VisionConfig) -> Result<Vec<f32>, RuntimeError>;

    /// Steps in which a batch is encoded; at least one.
    fn steps(&self) -> usize;

    /// Which rows meet the matrix called `name` when a slice is encoded.
    fn reader(&self, name: &str) -> Reader;

    /// Products of two values in attention, for a slice of `patches` patches.
    fn attention(&self, config: &VisionConfig, patches: usize) -> f64;

    /// Step `number` of encoding the slices of the pass. The first begins with their pixels, the next go on with the
    /// residual rows, and the last makes [`VisionConfig::query_num`] rows per slice of them.
    fn step(&self, pass: &mut Pass<'_>, number: usize) -> Result<(), RuntimeError>;
}

/// The architecture with that projector.
fn find(projector: &str) -> Result<&'static Architecture, VisionError> {
    ARCHITECTURES.iter().find(|a| a.projector == projector).ok_or_else(|| VisionError::Projector {
        found: projector.to_owned(),
        known: ARCHITECTURES.iter().map(|a| a.projector).collect(),
    })
}
