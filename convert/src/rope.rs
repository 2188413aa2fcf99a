//! Rotary position settings of a checkpoint: which kind of scaling, with which numbers.
//!
//! Sources of the formulas: the `rope_utils` of Hugging Face transformers (kinds, default values, the attention factor
//! of longrope) and the llama 3 frequency scaling as published with that model.

use ocelli_gguf::MetaValue;

use crate::error::ConvertError;
use crate::json::Section;
use crate::plan::{PlannedTensor, Source};

/// Default base of the rotation frequencies.
const DEFAULT_THETA: f64 = 10_000.0;
/// The kinds that can be carried over.
const KINDS: &str = "default, linear, dynamic, yarn, longrope or llama3";

/// How positions beyond the original training length are handled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scaling {
    /// Plain rotation. `dynamic` scaling is plain up to the context length, so it is stored as none.
    None,
    /// All positions divided by a factor.
    Linear { factor: f64 },
    /// Interpolation by frequency band.
    Yarn {
        factor: f64,
        original: u32,
        ext_factor: Option<f64>,
        attn_factor: Option<f64>,
        beta_fast: Option<f64>,
        beta_slow: Option<f64>,
    },
    /// One divisor per frequency, a set for long and one for short sequences.
    LongRope { long: Vec<f32>, short: Vec<f32>, original: u32, attn_factor: f64 },
    /// One divisor per frequency, computed from four numbers.
    Llama3 { factors: Vec<f32> },
}

/// Rotary position settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    pub(crate) theta: f64,
    pub(crate) scaling: Scaling,
}

impl Rope {
    /// Reads the settings from `config.json`; `head_dim` elements of each head are rotated. `rope_scaling` goes before
    /// `rope_parameters`, the spelling of transformers 5, and what stands inside either before the top level, as in the
    /// reference.
    pub(crate) fn read(
        config: &Section,
        head_dim: u32,
        context: u32,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConvertError> {
        let (old, new) = (config.section("rope_scaling")?, config.section("rope_parameters")?);
        let is_old = old.keys().next().is_some();
        let (params, other) = if is_old { (old, new) } else { (new, old) };
        if let Some(key) = params.keys().find(|key| params.section(key).is_ok_and(|s| s.keys().next().is_some())) {
            return Err(params.error(key, "an object", "one set of settings for all layers"));
        }
        let type_key = if params.has("rope_type") { "rope_type" } else { "type" };
        if is_old && other.keys().next().is_some() && !same(&params, &other)? {
            warnings.push("rope_scaling and rope_parameters of config.json differ: rope_scaling was taken".into());
        }
        let (inside, outside) = (params.positive_f32("rope_theta")?, config.positive_f32("rope_theta")?);
        if let (Some(a), Some(b)) = (inside, outside)
            && a != b
        {
            warnings.push(format!(
                "rope_theta is {a} among the rope parameters of config.json and {b} beside: {a} was taken"
            ));
        }
        let theta = inside.or(outside).or(other.positive_f32("rope_theta")?).unwrap_or(DEFAULT_THETA);
        for section in [config, &params] {
            if let Some(part) = section.f64("partial_rotary_factor")?.filter(|p| *p != 1.0) {
                return Err(section.error("partial_rotary_factor", part.to_string(), "1: whole heads are rotated"));
            }
        }
        let original = match params.context("original_max_position_embeddings")? {
            Some(n) => Some(n),
            None => config.context("original_max_position_embeddings")?,
        };
        let scaling = match params.str(type_key)?.map(|kind| kind.to_lowercase()).as_deref() {
            None | Some("default" | "dynamic") => Scaling::None,
            Some("linear") => Scaling::Linear { factor: positive(&params, "factor", None)? },
            Some("yarn") => Scaling::Yarn {
                factor: positive(&params, "factor", None)?,
                original: original.unwrap_or(context),
                ext_factor: params.f64("extrapolation_factor")?,
                attn_factor: params.f64("attention_factor")?.or(params.f64("attn_factor")?),
                beta_fast: params.f64("beta_fast")?,
                beta_slow: params.f64("beta_slow")?,
            },
            Some("longrope" | "su") => longrope(&params, head_dim, context, original)?,
            Some("llama3") => Scaling::Llama3 { factors: llama3(&params, head_dim, theta)? },
            Some(other) => return Err(params.error(type_key, format!("`{other}`"), KINDS)),
        };
        Ok(Self { theta, scaling })
    }

    /// The `rope.scaling.*` keys, in the ecosystem's order. `factors`: whether [`Rope::tensors`] are written.
    pub(crate) fn scaling_keys(&self, factors: bool) -> Vec<(&'static str, MetaValue)> {
        let mut out: Vec<(&'static str, MetaValue)> = Vec::new();
        match &self.scaling {
            Scaling::None | Scaling::Llama3 { .. } => {}
            Scaling::Linear { factor } => {
                out.push(("llama.rope.scaling.type", "linear".into()));
                out.push(("llama.rope.scaling.factor", (*factor as f32).into()));
            }
            Scaling::Yarn { factor, original, ext_factor, attn_factor, beta_fast, beta_slow } => {
                out.push(("llama.rope.scaling.type", "yarn".into()));
                out.push(("llama.rope.scaling.factor", (*factor as f32).into()));
                out.push(("llama.rope.scaling.original_context_length", (*original).into()));
                let optional = [
                    ("llama.rope.scaling.yarn_ext_factor", ext_factor),
                    ("llama.rope.scaling.yarn_attn_factor", attn_factor),
                    ("llama.rope.scaling.yarn_beta_fast", beta_fast),
                    ("llama.rope.scaling.yarn_beta_slow", beta_slow),
                ];
                out.extend(optional.into_iter().filter_map(|(key, v)| v.map(|v| (key, (v as f32).into()))));
            }
            Scaling::LongRope { original, attn_factor, .. } => {
                out.push(("llama.rope.scaling.type", "longrope".into()));
                if factors {
                    out.push(("llama.rope.scaling.original_context_length", (*original).into()));
                    if *attn_factor != 1.0 {
                        out.push(("llama.rope.scaling.attn_factor", (*attn_factor as f32).into()));
                    }
                }
            }
        }
        out
    }

    /// The frequency divisors as tensors. Without `longrope` those of that kind are left out.
    pub(crate) fn tensors(&self, longrope: bool) -> Vec<PlannedTensor> {
        let tensor =
            |name, values: &[f32]| PlannedTensor::new(name, &[values.len() as u64], Source::values(values.to_vec()));
        match &self.scaling {
            Scaling::LongRope { long, short, .. } if longrope => {
                vec![tensor("rope_factors_long.weight", long), tensor("rope_factors_short.weight", short)]
            }
            Scaling::Llama3 { factors } => vec![tensor("rope_freqs.weight", factors)],
            _ => Vec::new(),
        }
    }
}

/// Whether every setting of one section is the same in the other; the kind has two spellings, and the base may be
/// beside.
fn same(a: &Section, b: &Section) -> Result<bool, ConvertError> {
    let of = |section: &Section, key: &str| match key {
        "type" | "rope_type" => Ok(section.get("rope_type")?.or(section.get("type")?)),
        _ => section.get(key),
    };
    for key in a.keys().chain(b.keys()).filter(|key| *key != "rope_theta") {
        let (left, right) = (of(a, key)?, of(b, key)?);
        let equal = match (left.as_ref().and_then(|v| v.as_f64()), right.as_ref().and_then(|v| v.as_f64())) {
            (Some(left), Some(right)) => left == right,
            _ => left == right,
        };
        if !equal {
            return Ok(false);
        }
    }
    Ok(true)
}

fn positive(params: &Section, key: &str, default: Option<f64>) -> Result<f64, ConvertError> {
    match params.f64(key)?.or(default) {
        Some(x) if x > 0.0 => Ok(x),
        Some(x) => Err(params.error(key, x.to_string(), "a positive number")),
        None => Err(params.error(key, "missing", "a positive number")),
    }
}

/// Longrope. The attention factor is the given one, else `sqrt(1 + ln f / ln original)` for a length ratio `f > 1`.
fn longrope(params: &Section, head_dim: u32, context: u32, original: Option<u32>) -> Result<Scaling, ConvertError> {
    let factors = |key: &str| -> Result<Vec<f32>, ConvertError> {
        let want = head_dim as usize / 2;
        let list =
            params.numbers(key)?.ok_or_else(|| params.error(key, "missing", format!("a list of {want} numbers")))?;
        if list.len() != want {
            return Err(params.error(key, format!("{} numbers", list.len()), format!("{want} (half of head_dim)")));
        }
        match list.iter().find(|x| **x as f32 <= 0.0 || !(**x as f32).is_finite()) {
            Some(bad) => Err(params.error(key, format!("a list with {bad}"), "positive numbers")),
            None => Ok(list.into_iter().map(|x| x as f32).collect()),
        }
    };
    let trained = original.unwrap_or(context);
    let ratio = match params.f64("factor")? {
        Some(factor) => factor,
        None => f64::from(context) / f64::from(trained),
    };
    let attn_factor = match params.f64("attention_factor")? {
        Some(factor) => factor,
        None if ratio <= 1.0 || trained < 2 => 1.0,
        None => (1.0 + ratio.ln() / f64::from(trained).ln()).sqrt(),
    };
    Ok(Scaling::LongRope {
        long: factors("long_factor")?,
        short: factors("short_factor")?,
        original: trained,
        attn_factor,
    })
}

/// Divisors of the llama 3 scheme: 1 for short wavelengths, `factor` for long ones, a blend between. In f32, as other
/// converters compute them.
fn llama3(params: &Section, head_dim: u32, theta: f64) -> Result<Vec<f32>, ConvertError> {
    let factor = positive(params, "factor", Some(8.0))? as f32;
    let low = positive(params, "low_freq_factor", Some(1.0))?;
    let high = positive(params, "high_freq_factor", Some(4.0))?;
    let original = f64::from(params.context("original_max_position_embeddings")?.unwrap_or(8192));
    if low >= high {
        return Err(params.error("low_freq_factor", low.to_string(), format!("less than high_freq_factor, {high}")));
    }
    let (long_wave, short_wave) = ((original / low) as f32, (original / high) as f32);
    let (low32, span) = (low as f32, (high - low) as f32);
    Ok((0..head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            let freq = 1.0 / theta.powf(f64::from(exponent)) as f32;
            let wave = std::f64::consts::TAU as f32 / freq;
            if wave < short_wave {
                1.0
            } else if wave > long_wave {
                factor
            } else {
                let smooth = (original as f32 / wave - low32) / span;
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: serde_json::Value, head_dim: u32, context: u32) -> Result<Rope, ConvertError> {
        Rope::read(&Section::from_value(&config), head_dim, context, &mut Vec::new())
    }

    #[test]
    fn plain_and_old_spellings() {
        let rope = read(json!({"rope_theta": 5e5}), 8, 100).unwrap();
        assert_eq!(rope, Rope { theta: 5e5, scaling: Scaling::None });
        let rope = read(json!({"rope_scaling": {"type": "linear", "factor": 4}}), 8, 100).unwrap();
        assert_eq!(rope, Rope { theta: 1e4, scaling: Scaling::Linear { factor: 4.0 } });
        let rope = read(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}), 8, 100).unwrap();
        assert_eq!(rope, Rope { theta: 7.0, scaling: Scaling::None });
    }

    #[test]
    fn longrope_needs_half_a_head_of_factors() {
        let config = |n: usize| {
            json!({"rope_scaling": {"rope_type": "longrope", "factor": 1.0,
            "original_max_position_embeddings": 32786, "long_factor": vec![2.0; n], "short_factor": vec![1.5; n]}})
        };
        let rope = read(config(4), 8, 32768).unwrap();
        let keys = rope.scaling_keys(true);
        assert_eq!(keys[0], ("llama.rope.scaling.type", "longrope".into()));
        assert_eq!(keys[1], ("llama.rope.scaling.original_context_length", 32786u32.into()));
        assert_eq!(keys.len(), 2);
        assert_eq!(rope.scaling_keys(false).len(), 1);
        let names: Vec<_> = rope.tensors(true).into_iter().map(|t| (t.name, t.dims)).collect();
        assert_eq!(
            names,
            [("rope_factors_long.weight".into(), vec![4]), ("rope_factors_short.weight".into(), vec![4])]
        );
        assert!(rope.tensors(false).is_empty());
        let error = read(config(5), 8, 32768).unwrap_err().to_string();
        assert!(error.contains("rope_scaling.long_factor") && error.contains("5 numbers"), "{error}");
    }

    #[test]
    fn longrope_attention_factor_follows_the_length_ratio() {
        let rope = read(
            json!({"original_max_position_embeddings": 4096, "rope_scaling": {"type": "su",
                "long_factor": [2.0], "short_factor": [1.0]}}),
            2,
            131_072,
        )
        .unwrap();
        let Scaling::LongRope { attn_factor, original, .. } = rope.scaling else { panic!("{rope:?}") };
        assert_eq!(original, 4096);
        // sqrt(1 + ln 32 / ln 4096) = sqrt(1 + 5/12)
        assert!((attn_factor - (17.0f64 / 12.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn llama3_bands() {
        let rope = read(
            json!({"rope_theta": 500_000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}),
            64,
            131_072,
        )
        .unwrap();
        let Scaling::Llama3 { factors } = &rope.scaling else { panic!("{rope:?}") };
        assert_eq!(factors.len(), 32);
        assert_eq!((factors[0], factors[31]), (1.0, 32.0));
        assert!(factors.windows(2).all(|w| w[0] <= w[1]));
        let blended: Vec<_> = factors.iter().filter(|f| **f > 1.0 && **f < 32.0).collect();
        assert!(!blended.is_empty());
        assert!(rope.scaling_keys(true).is_empty());
        assert_eq!(rope.tensors(false)[0].name, "rope_freqs.weight");
    }

    #[test]
    fn unknown_kinds_are_named() {
        let error = read(json!({"rope_scaling": {"rope_type": "spiral"}}), 8, 100).unwrap_err().to_string();
        assert!(error.contains("spiral") && error.contains("longrope"), "{error}");
    }
}
