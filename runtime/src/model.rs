//! A loaded model: mapped weights, hyperparameters, tokenizer and what its file recommends.

use std::path::Path;
use std::sync::Arc;

use ocelli_gguf::{Gguf, GgufSet, Metadata, split};

use crate::models::{self, Graph};
use crate::rope::{MINICPM_V_4_FACTORS, MINICPM_V_4_N_CTX_ORIG, Rope, RopeFactors, RopeScaling};
use crate::weights::{Loader, Weights};
use crate::{Config, FileOptions, ModelFile, RuntimeError};

/// How a model is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// How the files come into memory.
    pub file: FileOptions,
    /// Rope factors to use in place of the file's.
    pub rope_factors: Option<BuiltinFactors>,
}

/// Rope factors that this build knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltinFactors {
    /// Those of MiniCPM-V 4.0.
    MiniCpmV4,
}

impl BuiltinFactors {
    /// The names `--rope-factors` takes.
    pub const NAMES: [&'static str; 1] = ["minicpm-v-4"];

    /// The factors called `name`.
    ///
    /// # Errors
    /// When there are none; the message lists those there are.
    pub fn from_name(name: &str) -> Result<Self, RuntimeError> {
        match name {
            "minicpm-v-4" => Ok(Self::MiniCpmV4),
            _ => Err(RuntimeError::Option {
                option: "--rope-factors",
                problem: format!("`{}` is unknown; known are {}", name.escape_debug(), Self::NAMES.join(", ")),
            }),
        }
    }
}

/// A model ready to run. Contexts share it.
#[derive(Debug)]
pub struct Model {
    config: Config,
    weights: Weights,
    graph: Graph,
    factors: RopeFactors,
    warnings: Vec<String>,
}

impl Model {
    /// Loads the model at `path` (any part of a split one), and calls `more` with its metadata, from which the caller
    /// takes what it needs besides the model itself: tokenizer, chat template, recommended sampling.
    ///
    /// Weights are not read: they stay mapped and are paged in as they are used.
    ///
    /// # Errors
    /// When a file is missing or damaged, the architecture is not one this build runs, metadata and tensors
    /// contradict each other, or `more` fails.
    pub fn load<T>(
        path: &Path,
        options: &LoadOptions,
        more: impl FnOnce(&Metadata<'_>) -> Result<T, RuntimeError>,
    ) -> Result<(Self, T), RuntimeError> {
        let files = open_parts(path, options.file)?;
        let parts = files
            .iter()
            .map(|f| Gguf::parse(f.bytes()).map_err(|e| RuntimeError::from(e).in_file(f.path())))
            .collect::<Result<_, _>>()?;
        let gguf = GgufSet::new(parts).map_err(|e| RuntimeError::from(e).in_file(path))?;
        let load = || {
            let model = Self::from_gguf(&files, &gguf, options)?;
            Ok((model, more(gguf.metadata())?))
        };
        load().map_err(|e: RuntimeError| e.in_file(path))
    }

    fn from_gguf(files: &[Arc<ModelFile>], gguf: &GgufSet<'_>, options: &LoadOptions) -> Result<Self, RuntimeError> {
        let meta = gguf.metadata();
        models::check(meta.required("general.architecture", meta.str("general.architecture"))?)?;
        let mut config = Config::read(meta)?;
        let mut loader = Loader::new(files, gguf, config.arch.clone(), config.clone());
        let graph = models::load(&mut loader)?;
        let mut factors = models::rope_factors(&mut loader)?;
        let weights = loader.finish()?;
        let mut warnings = Vec::new();
        match options.rope_factors {
            Some(BuiltinFactors::MiniCpmV4) => use_minicpm_v_4(&mut config, &mut factors)?,
            None => warnings.extend(missing_factors(&config, &factors)),
        }
        // Factor lists are checked here, where the file is known, and used when a context chooses one.
        Rope::new(&config.rope, &factors, config.n_ctx_train)?;
        Ok(Self { config, weights, graph, factors, warnings })
    }

    /// Hyperparameters.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Rope factors in use: the file's, or those asked for.
    #[must_use]
    pub fn rope_factors(&self) -> &RopeFactors {
        &self.factors
    }

    /// What a user should know about this file, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// The architectures this build runs.
#[must_use]
pub fn architectures() -> Vec<&'static str> {
    models::names()
}

pub(crate) fn open_parts(path: &Path, options: FileOptions) -> Result<Vec<Arc<ModelFile>>, RuntimeError> {
    let paths = split::part_paths(path)?;
    paths.iter().map(|p| ModelFile::open(p, options).map(Arc::new)).collect()
}

fn use_minicpm_v_4(config: &mut Config, factors: &mut RopeFactors) -> Result<(), RuntimeError> {
    if config.rope.n_rot != 2 * MINICPM_V_4_FACTORS.len() {
        let problem = format!(
            "minicpm-v-4 has {} factors, but the heads of this model have {} rotating pairs; it is another model",
            MINICPM_V_4_FACTORS.len(),
            config.rope.n_rot / 2
        );
        return Err(RuntimeError::Option { option: "--rope-factors", problem });
    }
    let list = MINICPM_V_4_FACTORS.to_vec();
    *factors = RopeFactors { long: Some(list.clone()), short: Some(list), freqs: None };
    config.rope.scaling = RopeScaling::LongRope;
    config.rope.n_ctx_orig = MINICPM_V_4_N_CTX_ORIG;
    Ok(())
}

/// What is wrong when a model needs factors and its file has none.
fn missing_factors(config: &Config, factors: &RopeFactors) -> Option<String> {
    if !factors.is_empty() {
        return None;
    }
    if config.is_minicpm_v_4() {
        return Some(
            "this is MiniCPM-V 4.0, but the file lacks the rope factor tensors that its converter should have written; \
             answers get worse with every position: add --rope-factors minicpm-v-4, or convert the model again"
                .to_owned(),
        );
    }
    (config.rope.scaling == RopeScaling::LongRope).then(|| {
        "the file asks for longrope but has no factor tensors (rope_factors_long/_short.weight); running without \
         factors: convert the model again if its answers are poor"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::RopeConfig;

    fn minicpm_v_4() -> Config {
        Config {
            arch: "llama".to_owned(),
            name: None,
            n_layer: 32,
            n_ctx_train: 32768,
            n_embd: 2560,
            n_ff: 10240,
            n_head: 32,
            n_head_kv: 2,
            head_dim: 128,
            n_vocab: 73448,
            rms_eps: 1e-6,
            rope: RopeConfig {
                n_rot: 128,
                freq_base: 10000.0,
                scaling: RopeScaling::LongRope,
                factor: 1.0,
                attn_factor: 1.0,
                n_ctx_orig: 32768,
                beta_fast: 32.0,
                beta_slow: 1.0,
            },
        }
    }

    #[test]
    fn a_published_minicpm_v_4_without_factors_is_recognised() {
        let config = minicpm_v_4();
        let warning = missing_factors(&config, &RopeFactors::default()).unwrap();
        assert!(warning.contains("--rope-factors minicpm-v-4"), "{warning}");
        let present = RopeFactors { short: Some(vec![1.0; 64]), ..RopeFactors::default() };
        assert_eq!(missing_factors(&config, &present), None);
        let mut other = minicpm_v_4();
        other.n_vocab = 32000;
        let warning = missing_factors(&other, &RopeFactors::default()).unwrap();
        assert!(!warning.contains("--rope-factors"), "{warning}");
        other.rope.scaling = RopeScaling::None;
        assert_eq!(missing_factors(&other, &RopeFactors::default()), None);
    }

    #[test]
    fn supplied_factors_replace_the_files() {
        let (mut config, mut factors) = (minicpm_v_4(), RopeFactors::default());
        config.rope.scaling = RopeScaling::None;
        use_minicpm_v_4(&mut config, &mut factors).unwrap();
        assert_eq!((config.rope.scaling, config.rope.n_ctx_orig), (RopeScaling::LongRope, 32786));
        assert_eq!(factors.long.as_deref(), Some(&MINICPM_V_4_FACTORS[..]));
        config.rope.n_rot = 64;
        let error = use_minicpm_v_4(&mut config, &mut factors).unwrap_err().to_string();
        assert!(error.contains("32 rotating pairs"), "{error}");
        assert!(BuiltinFactors::from_name("qwen").unwrap_err().to_string().contains("minicpm-v-4"));
    }
}
