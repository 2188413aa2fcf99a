//! Rotary position embedding: one angle per pair of a head, and the cos/sin rows that the kernels take.
//!
//! Pair `i` of a head turns by `p · inv_freq[i]` at position `p`, with `inv_freq[i] = base^(−2i/n_rot)` changed by
//! what the file asks for:
//!
//! * factor tensors (`rope_factors_long`/`_short`, `rope_freqs`): divided by factor `i`;
//! * `linear`: divided by the scaling factor;
//! * `yarn`: between the two, pair by pair (Peng et al. 2023, "YaRN", equations for the ramp between `beta_fast` and
//!   `beta_slow` rotations over the original context).
//!
//! cos and sin are multiplied by the attention factor. The arithmetic follows the reference model's single precision:
//! `inv_freq` rounded to f32, angle = f32 product, so that a long position turns by the same rounded angle.

use crate::RuntimeError;

/// `rope.scaling.type` of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeScaling {
    /// No scaling.
    None,
    /// Every frequency divided by the factor.
    Linear,
    /// YaRN's ramp between scaled and unscaled frequencies.
    Yarn,
    /// One factor per pair, from the short or the long list.
    LongRope,
}

impl RopeScaling {
    /// The names a file may use.
    pub const NAMES: [&'static str; 4] = ["none", "linear", "yarn", "longrope"];

    /// The scaling called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "linear" => Some(Self::Linear),
            "yarn" => Some(Self::Yarn),
            "longrope" => Some(Self::LongRope),
            _ => None,
        }
    }

    /// Its spelling in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Linear => "linear",
            Self::Yarn => "yarn",
            Self::LongRope => "longrope",
        }
    }
}

/// What a file says about its rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Elements of a head that turn; even.
    pub n_rot: usize,
    /// `rope.freq_base`.
    pub freq_base: f32,
    /// `rope.scaling.type`.
    pub scaling: RopeScaling,
    /// `rope.scaling.factor` (linear and yarn only); 1 when absent.
    pub factor: f32,
    /// `rope.scaling.attn_factor`; 1 when absent.
    pub attn_factor: f32,
    /// `rope.scaling.original_context_length`; the model's context length when absent.
    pub n_ctx_orig: usize,
    /// YaRN's `beta_fast` (32) in rotations.
    pub beta_fast: f32,
    /// YaRN's `beta_slow` (1) in rotations.
    pub beta_slow: f32,
}

/// Factor lists of a file (or of `--rope-factors`), one number per pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RopeFactors {
    /// Used when the context is longer than the original one.
    pub long: Option<Vec<f32>>,
    /// Used otherwise.
    pub short: Option<Vec<f32>>,
    /// `rope_freqs.weight`, used whatever the context.
    pub freqs: Option<Vec<f32>>,
}

impl RopeFactors {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.long.is_none() && self.short.is_none() && self.freqs.is_none()
    }

    fn choose(&self, n_ctx: usize, n_ctx_orig: usize) -> (Option<&[f32]>, &'static str) {
        if let Some(freqs) = &self.freqs {
            return (Some(freqs), "rope_freqs");
        }
        let (list, name) = if n_ctx > n_ctx_orig { (&self.long, "long") } else { (&self.short, "short") };
        (list.as_deref(), if list.is_some() { name } else { "none" })
    }
}

/// The frequencies of one context, ready to fill cos/sin rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    inv_freq: Vec<f32>,
    magnitude: f32,
    factors: &'static str,
}

impl Rope {
    /// The frequencies for a context of `n_ctx` tokens.
    ///
    /// # Errors
    /// When a factor list has not `n_rot / 2` finite positive numbers.
    pub fn new(config: &RopeConfig, factors: &RopeFactors, n_ctx: usize) -> Result<Self, RuntimeError> {
        let n_pairs = config.n_rot / 2;
        for (name, list) in [
            ("rope_factors_long", &factors.long),
            ("rope_factors_short", &factors.short),
            ("rope_freqs", &factors.freqs),
        ] {
            if let Some(list) = list {
                check_factors(name, list, n_pairs)?;
            }
        }
        let (chosen, name) = factors.choose(n_ctx, config.n_ctx_orig);
        let scale = match config.scaling {
            RopeScaling::Linear | RopeScaling::Yarn => 1.0 / config.factor,
            RopeScaling::None | RopeScaling::LongRope => 1.0,
        };
        let ramp = (config.scaling == RopeScaling::Yarn).then(|| Ramp::new(config));
        let inv_freq = (0..n_pairs)
            .map(|i| {
                let power = config.freq_base.powf(2.0 * i as f32 / config.n_rot as f32);
                let factor = chosen.map_or(1.0, |list| list[i]);
                let plain = 1.0 / (factor * power);
                match &ramp {
                    None => plain * scale,
                    Some(ramp) => {
                        let keep = ramp.unscaled_share(i);
                        plain * scale * (1.0 - keep) + plain * keep
                    }
                }
            })
            .collect();
        let magnitude = match config.scaling {
            RopeScaling::Yarn => config.attn_factor * (1.0 + 0.1 * config.factor.ln()),
            _ => config.attn_factor,
        };
        Ok(Self { inv_freq, magnitude, factors: name })
    }

    /// Pairs of a head.
    #[must_use]
    pub fn n_pairs(&self) -> usize {
        self.inv_freq.len()
    }

    /// Which factor list is in use: `long`, `short`, `rope_freqs` or `none`.
    #[must_use]
    pub fn factors(&self) -> &'static str {
        self.factors
    }

    /// Angle per position of each pair, in radians.
    #[must_use]
    pub fn inv_freq(&self) -> &[f32] {
        &self.inv_freq
    }

    /// The attention factor: what every cosine and sine is multiplied by.
    #[must_use]
    pub fn magnitude(&self) -> f32 {
        self.magnitude
    }

    /// Fills one row of `n_pairs` (cosine, sine) pairs per position; `rows` is `[positions.len(), 2·n_pairs]`, row-major.
    pub fn fill(&self, positions: &[u32], rows: &mut [f32]) {
        for (position, row) in positions.iter().zip(rows.chunks_exact_mut(2 * self.n_pairs())) {
            let position = *position as f32;
            for (pair, inv) in row.as_chunks_mut::<2>().0.iter_mut().zip(&self.inv_freq) {
                let (sine, cosine) = f64::from(position * inv).sin_cos();
                *pair = [cosine as f32 * self.magnitude, sine as f32 * self.magnitude];
            }
        }
    }
}

fn check_factors(name: &'static str, list: &[f32], n_pairs: usize) -> Result<(), RuntimeError> {
    if list.len() != n_pairs {
        return Err(RuntimeError::RopeFactors {
            name,
            problem: format!("has {} values where the head has {n_pairs} rotating pairs", list.len()),
        });
    }
    if let Some((i, v)) = list.iter().enumerate().find(|(_, v)| !(v.is_finite() && **v > 0.0)) {
        return Err(RuntimeError::RopeFactors {
            name,
            problem: format!("holds {v} at index {i}; factors are positive"),
        });
    }
    Ok(())
}

/// YaRN's linear ramp over pair indices.
struct Ramp {
    low: f32,
    high: f32,
}

impl Ramp {
    fn new(config: &RopeConfig) -> Self {
        let n = config.n_rot as f32;
        // The pair whose wave makes `turns` rotations over the original context.
        let pair = |turns: f32| {
            n * (config.n_ctx_orig as f32 / (turns * std::f32::consts::TAU)).ln() / (2.0 * config.freq_base.ln())
        };
        Self { low: pair(config.beta_fast).floor().max(0.0), high: pair(config.beta_slow).ceil().min(n - 1.0) }
    }

    fn unscaled_share(&self, pair: usize) -> f32 {
        1.0 - ((pair as f32 - self.low) / (self.high - self.low).max(0.001)).clamp(0.0, 1.0)
    }
}

/// The 64 longrope factors of MiniCPM-V 4.0 (`rope_scaling` of its `config.json`; the long and the short list are the
/// same), for published files that lack the factor tensors.
pub const MINICPM_V_4_FACTORS: [f32; 64] = [
    0.997_799_7,
    1.014_658_3,
    1.034_968,
    1.059_429_3,
    1.088_881_5,
    1.124_330_2,
    1.166_977,
    1.218_256_8,
    1.279_877_2,
    1.353_866_7,
    1.442_625_9,
    1.548_985_4,
    1.676_265_8,
    1.828_340_8,
    2.009_695_5,
    2.225_479,
    2.481_536_4,
    2.784_416,
    3.141_328_8,
    3.560_047_9,
    4.048_719_4,
    4.615_569_6,
    5.268_481_7,
    6.014_438_6,
    6.858_83,
    7.804_668_4,
    8.851_768_5,
    9.996_005,
    11.228_766,
    12.536_757,
    13.902_258,
    15.303_885,
    16.717_838,
    18.119_465,
    19.484_964,
    20.792_957,
    22.025_719,
    23.169_954,
    24.217_054,
    25.162_893,
    26.007_284,
    26.753_24,
    27.406_153,
    27.973_003,
    28.461_676,
    28.880_394,
    29.237_307,
    29.540_186,
    29.796_244,
    30.012_028,
    30.193_382,
    30.345_457,
    30.472_738,
    30.579_098,
    30.667_856,
    30.741_846,
    30.803_467,
    30.854_746,
    30.897_392,
    30.932_84,
    30.962_294,
    30.986_755,
    31.007_065,
    31.023_924,
];

/// `original_max_position_embeddings` of MiniCPM-V 4.0, as published.
pub const MINICPM_V_4_N_CTX_ORIG: usize = 32786;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scaling: RopeScaling) -> RopeConfig {
        RopeConfig {
            n_rot: 128,
            freq_base: 10000.0,
            scaling,
            factor: 1.0,
            attn_factor: 1.0,
            n_ctx_orig: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
        }
    }

    #[test]
    fn minicpm_v_4_frequencies() {
        let list = MINICPM_V_4_FACTORS.to_vec();
        let factors = RopeFactors { long: Some(list.clone()), short: Some(list), freqs: None };
        let rope = Rope::new(&config(RopeScaling::LongRope), &factors, 100).unwrap();
        // Reference values of the model's specification.
        for (i, want) in [(0, 1.002_205_1), (1, 0.853_454_1), (2, 0.724_557_8), (63, 3.722_230_7e-6)] {
            let got = rope.inv_freq()[i];
            assert!((got / want - 1.0).abs() < 3e-7, "pair {i}: {got} {want}");
        }
        assert_eq!(rope.factors(), "short");
    }

    #[test]
    fn context_decides_between_short_and_long() {
        let factors = RopeFactors { long: Some(vec![2.0; 64]), short: Some(vec![1.0; 64]), freqs: None };
        let rope = |n_ctx| Rope::new(&config(RopeScaling::LongRope), &factors, n_ctx).unwrap();
        assert_eq!(rope(4096).factors(), "short");
        assert_eq!(rope(4097).factors(), "long");
        assert_eq!(rope(4096).inv_freq()[0], 1.0);
        assert_eq!(rope(4097).inv_freq()[0], 0.5);
        let only_long = RopeFactors { short: None, ..factors.clone() };
        assert_eq!(Rope::new(&config(RopeScaling::LongRope), &only_long, 4096).unwrap().factors(), "none");
    }

    #[test]
    fn linear_and_rope_freqs_both_divide() {
        let mut linear = config(RopeScaling::Linear);
        linear.factor = 4.0;
        let freqs = RopeFactors { freqs: Some(vec![8.0; 64]), ..RopeFactors::default() };
        let rope = Rope::new(&linear, &freqs, 10).unwrap();
        assert_eq!(rope.inv_freq()[0], 1.0 / 32.0);
        assert_eq!(rope.factors(), "rope_freqs");
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_scales_slow_ones() {
        let mut yarn = config(RopeScaling::Yarn);
        yarn.factor = 4.0;
        let rope = Rope::new(&yarn, &RopeFactors::default(), 16384).unwrap();
        let plain = Rope::new(&config(RopeScaling::None), &RopeFactors::default(), 16384).unwrap();
        assert_eq!(rope.inv_freq()[0], plain.inv_freq()[0]);
        assert!((rope.inv_freq()[63] / plain.inv_freq()[63] - 0.25).abs() < 1e-6);
        // Pairs 20 and 46 bound the ramp for 32 and 1 rotations over 4,096 positions.
        let ratio = |i: usize| rope.inv_freq()[i] / plain.inv_freq()[i];
        assert_eq!(ratio(20), 1.0);
        assert!(ratio(21) < 1.0 && ratio(45) > 0.25);
        let mut row = vec![0.0; 128];
        rope.fill(&[0], &mut row);
        assert!((row[0] - (1.0 + 0.1 * 4f32.ln())).abs() < 1e-6);
    }

    #[test]
    fn attention_factor_scales_cos_and_sin() {
        let mut c = config(RopeScaling::LongRope);
        c.attn_factor = 1.5;
        let rope = Rope::new(&c, &RopeFactors::default(), 10).unwrap();
        let mut rows = vec![0.0; 256];
        rope.fill(&[6, 7], &mut rows);
        assert!((rows[128] - 1.5 * 7f32.cos()).abs() < 1e-6);
        assert!((rows[129] - 1.5 * 7f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn wrong_factors_are_refused() {
        let refuse = |list: Vec<f32>| {
            let factors = RopeFactors { short: Some(list), ..RopeFactors::default() };
            Rope::new(&config(RopeScaling::LongRope), &factors, 10).unwrap_err().to_string()
        };
        assert!(refuse(vec![1.0; 40]).contains("40"), "length");
        assert!(refuse(vec![0.0; 64]).contains("index 0"), "zero");
        assert!(refuse(vec![f32::NAN; 64]).contains("NaN"), "NaN");
    }
}
