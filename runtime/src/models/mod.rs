//! The text architectures this build runs.
//!
//! An architecture is one file with a `load` function, which takes its tensors from a [`Loader`] and returns a
//! [`TextModel`], and one line in [`ARCHITECTURES`]. Token embedding, final norm and output matrix are the same for
//! all and are loaded here.

mod llama;

use std::fmt;

use crate::layers::Pass;
use crate::nn::{Linear, Norm};
use crate::weights::Loader;
use crate::{RuntimeError, rope};

/// One registered architecture.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    load: fn(&mut Loader<'_>) -> Result<Box<dyn TextModel>, RuntimeError>,
}

/// All architectures. A new one is one file and one line.
const ARCHITECTURES: &[Architecture] = &[Architecture { name: "llama", load: llama::load }];

/// The layers of a loaded model.
pub(crate) trait TextModel: fmt::Debug + Send + Sync {
    /// Runs layer `il` over the rows of `pass`: reads and writes the residual stream, appends to the KV cache.
    fn layer(&self, il: usize, pass: &mut Pass<'_>) -> Result<(), RuntimeError>;
}

/// A loaded model: what comes before and after the layers, and the layers.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) token_embd: Linear,
    pub(crate) output_norm: Norm,
    /// The same as `token_embd` when the file ties them.
    pub(crate) output: Linear,
    pub(crate) layers: Box<dyn TextModel>,
}

/// The names of the registered architectures.
pub(crate) fn names() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|a| a.name).collect()
}

/// Whether `arch` can be run.
///
/// # Errors
/// [`RuntimeError::Architecture`], listing those that can.
pub(crate) fn check(arch: &str) -> Result<(), RuntimeError> {
    find(arch).map(|_| ())
}

fn find(arch: &str) -> Result<&'static Architecture, RuntimeError> {
    // The architecture of vision files.
    if arch == "clip" {
        return Err(RuntimeError::VisionFile);
    }
    ARCHITECTURES
        .iter()
        .find(|a| a.name == arch)
        .ok_or_else(|| RuntimeError::Architecture { found: arch.to_owned(), known: names() })
}

/// Takes all tensors of the model from `loader`.
pub(crate) fn load(loader: &mut Loader<'_>) -> Result<Graph, RuntimeError> {
    let arch = find(&loader.config().arch)?;
    let (n_vocab, n_embd) = (loader.config().n_vocab, loader.config().n_embd);
    let token_embd = loader.matrix("token_embd.weight", n_vocab, n_embd)?;
    let output_norm = Norm::rms(loader, "output_norm")?;
    let output = loader.optional_matrix("output.weight", n_vocab, n_embd)?.unwrap_or(token_embd);
    let (token_embd, output) = (Linear::of(token_embd), Linear::of(output));
    let layers = (arch.load)(loader)?;
    Ok(Graph { token_embd, output_norm, output, layers })
}

/// The factor tensors that the file's kind of rope scaling uses.
pub(crate) fn rope_factors(loader: &mut Loader<'_>) -> Result<rope::RopeFactors, RuntimeError> {
    let n = loader.config().rope.n_rot / 2;
    let mut factors = rope::RopeFactors::default();
    if loader.config().rope.scaling == rope::RopeScaling::LongRope {
        factors.long = loader.optional_values("rope_factors_long.weight", n)?;
        factors.short = loader.optional_values("rope_factors_short.weight", n)?;
    } else {
        factors.freqs = loader.optional_values("rope_freqs.weight", n)?;
    }
    Ok(factors)
}
