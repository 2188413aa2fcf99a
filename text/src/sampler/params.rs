//! Sampling parameters: defaults, what a model file recommends, what the user asks for, and what is possible.

use ocelli_gguf::{GgufError, Metadata};

/// One step of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SamplerKind {
    /// Repeat, frequency and presence penalties.
    Penalties,
    /// "Don't repeat yourself": a penalty that grows with the length of the sequence a token would repeat.
    Dry,
    /// Keeps logits within some standard deviations of the best.
    TopNSigma,
    /// Keeps the k most probable.
    TopK,
    /// Keeps tokens whose surprise is close to the expected one.
    TypicalP,
    /// Keeps the most probable ones that together reach p.
    TopP,
    /// Keeps those at least p times as probable as the best.
    MinP,
    /// Sometimes removes the most probable ones ("exclude top choices").
    Xtc,
    /// Divides logits by the temperature.
    Temperature,
}

/// Name as it appears in `--samplers`, and other spellings that are understood.
const NAMES: &[(SamplerKind, &[&str])] = &[
    (SamplerKind::Penalties, &["penalties"]),
    (SamplerKind::Dry, &["dry"]),
    (SamplerKind::TopNSigma, &["top_n_sigma", "top_nsigma"]),
    (SamplerKind::TopK, &["top_k"]),
    (SamplerKind::TypicalP, &["typ_p", "typical_p", "typical", "typ"]),
    (SamplerKind::TopP, &["top_p", "nucleus"]),
    (SamplerKind::MinP, &["min_p"]),
    (SamplerKind::Xtc, &["xtc"]),
    (SamplerKind::Temperature, &["temperature", "temp"]),
];

/// `penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature`.
pub const DEFAULT_ORDER: &[SamplerKind] = &[
    SamplerKind::Penalties,
    SamplerKind::Dry,
    SamplerKind::TopNSigma,
    SamplerKind::TopK,
    SamplerKind::TypicalP,
    SamplerKind::TopP,
    SamplerKind::MinP,
    SamplerKind::Xtc,
    SamplerKind::Temperature,
];

/// The order in which the reference implementation of MiniCPM-V samples.
pub const REFERENCE_ORDER: &[SamplerKind] =
    &[SamplerKind::Penalties, SamplerKind::Temperature, SamplerKind::TopK, SamplerKind::TopP];

impl SamplerKind {
    /// The name used in an order string.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self).and_then(|(_, names)| names.first()).copied().unwrap_or("?")
    }

    /// The names of all samplers, separated by `", "`.
    #[must_use]
    pub fn names() -> String {
        NAMES.iter().filter_map(|(_, names)| names.first().copied()).collect::<Vec<_>>().join(", ")
    }
}

/// The order of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// These steps, one after the other.
    Steps(Vec<SamplerKind>),
    /// [`REFERENCE_ORDER`], with the repeat penalty over all generated tokens and no prompt token.
    Reference,
}

impl Default for Order {
    fn default() -> Self {
        Self::Steps(DEFAULT_ORDER.to_vec())
    }
}

impl Order {
    /// From `a;b;c`, or `reference`.
    ///
    /// # Errors
    /// When a name is not known; the error lists the names.
    pub fn parse(text: &str) -> Result<Self, SamplerError> {
        if text.trim() == "reference" {
            return Ok(Self::Reference);
        }
        let mut steps = Vec::new();
        for name in text.split(';').map(str::trim).filter(|n| !n.is_empty()) {
            let spelled = name.to_ascii_lowercase().replace('-', "_");
            let known = NAMES.iter().find(|(_, names)| names.contains(&spelled.as_str()));
            let (kind, _) = known.ok_or_else(|| SamplerError::UnknownSampler {
                found: name.chars().take(40).collect::<String>().escape_debug().to_string(),
                known: SamplerKind::names(),
            })?;
            steps.push(*kind);
        }
        Ok(Self::Steps(steps))
    }

    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[SamplerKind] {
        match self {
            Self::Steps(steps) => steps,
            Self::Reference => REFERENCE_ORDER,
        }
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reference => f.write_str("reference"),
            Self::Steps(steps) => f.write_str(&steps.iter().map(|s| s.name()).collect::<Vec<_>>().join(";")),
        }
    }
}

/// Sampling that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// A recommendation in the file is mistyped.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An unknown name in an order.
    #[error("unknown sampler `{found}`; known: {known}, or `reference` alone")]
    UnknownSampler {
        /// The name.
        found: String,
        /// All names.
        known: String,
    },
    /// A value outside its range.
    #[error("sampling parameter {name} = {value} is not possible; it must be {expected}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A bias for a token that does not exist.
    #[error("logit bias for token {id}: the vocabulary has only {n_tokens} tokens")]
    BiasOutOfRange {
        /// The token.
        id: u32,
        /// Size of the vocabulary.
        n_tokens: usize,
    },
    /// A bias that cannot be read.
    #[error("`{found}` is not a logit bias; write TOKEN+BIAS or TOKEN-BIAS, for example 15043+1 or 2-inf")]
    BadBias {
        /// The text.
        found: String,
    },
    /// A DRY breaker cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// Not one logit per token.
    #[error("the model gives {found} logits for a vocabulary of {expected} tokens")]
    WrongLength {
        /// Number of logits.
        found: usize,
        /// Number of tokens.
        expected: usize,
    },
    /// No logit is a number.
    #[error("the model's logits are not numbers, so no token can be chosen; the model file may be damaged")]
    NoLogits,
}

/// All parameters of the chain. [`Default`] is what llama.cpp's tools use.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SamplerParams {
    /// Seed of the generator; `None` draws one.
    pub seed: Option<u64>,
    /// Order of the steps.
    pub order: Order,
    /// Temperature; 0 or less takes the most probable token.
    pub temperature: f32,
    /// Width of dynamic temperature around [`Self::temperature`]; 0 = off.
    pub dynatemp_range: f32,
    /// Exponent that maps entropy to dynamic temperature.
    pub dynatemp_exponent: f32,
    /// Most probable tokens kept; 0 or less = all.
    pub top_k: i32,
    /// Probability mass kept; 1 = all.
    pub top_p: f32,
    /// Least probability relative to the best; 0 = off.
    pub min_p: f32,
    /// Typical mass kept; 1 = off.
    pub typical_p: f32,
    /// Standard deviations kept below the best logit; 0 or less = off.
    pub top_n_sigma: f32,
    /// How often XTC acts; 0 = off.
    pub xtc_probability: f32,
    /// Probability from which XTC counts a token as a top choice; above 0.5 = off.
    pub xtc_threshold: f32,
    /// Tokens looked back for penalties; 0 = off, −1 = all.
    pub penalty_last_n: i32,
    /// Repeat penalty; 1 = off.
    pub penalty_repeat: f32,
    /// Frequency penalty; 0 = off.
    pub penalty_freq: f32,
    /// Presence penalty; 0 = off.
    pub penalty_present: f32,
    /// Strength of DRY; 0 = off.
    pub dry_multiplier: f32,
    /// Growth of the DRY penalty per repeated token.
    pub dry_base: f32,
    /// Repeats up to this length are free.
    pub dry_allowed_length: i32,
    /// Tokens looked back for DRY; 0 = off, −1 = all.
    pub dry_penalty_last_n: i32,
    /// Texts across which DRY sees no repetition.
    pub dry_sequence_breakers: Vec<String>,
    /// 0 = off, 1 or 2: the version of mirostat, which then replaces every step but the temperature.
    pub mirostat: u32,
    /// Mirostat's target surprise in bits.
    pub mirostat_tau: f32,
    /// Mirostat's learning rate.
    pub mirostat_eta: f32,
    /// Added to the logits of single tokens; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Forbids every token that ends generation.
    pub ignore_eos: bool,
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            seed: None,
            order: Order::default(),
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            penalty_last_n: 64,
            penalty_repeat: 1.0,
            penalty_freq: 0.0,
            penalty_present: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
            ignore_eos: false,
        }
    }
}

/// Declares [`SamplerOverrides`] and how it is applied.
macro_rules! overrides {
    ($($field:ident: $type:ty),* $(,)?) => {
        /// What the user asked for; `None` leaves a parameter as it is. Fields as in [`SamplerParams`].
        #[derive(Debug, Clone, Default, PartialEq)]
        #[allow(missing_docs)]
        pub struct SamplerOverrides {
            $(pub $field: Option<$type>,)*
        }

        impl SamplerOverrides {
            /// Puts every given value into `params`.
            pub fn apply(&self, params: &mut SamplerParams) {
                $(if let Some(value) = &self.$field {
                    params.$field = value.clone().into();
                })*
            }
        }
    };
}

overrides! {
    seed: u64,
    order: Order,
    temperature: f32,
    dynatemp_range: f32,
    dynatemp_exponent: f32,
    top_k: i32,
    top_p: f32,
    min_p: f32,
    typical_p: f32,
    top_n_sigma: f32,
    xtc_probability: f32,
    xtc_threshold: f32,
    penalty_last_n: i32,
    penalty_repeat: f32,
    penalty_freq: f32,
    penalty_present: f32,
    dry_multiplier: f32,
    dry_base: f32,
    dry_allowed_length: i32,
    dry_penalty_last_n: i32,
    dry_sequence_breakers: Vec<String>,
    mirostat: u32,
    mirostat_tau: f32,
    mirostat_eta: f32,
    logit_bias: Vec<(u32, f32)>,
    ignore_eos: bool,
}

impl SamplerParams {
    /// The defaults with what the model file recommends (`general.sampling.*`).
    ///
    /// # Errors
    /// When a recommendation is mistyped or impossible.
    pub fn from_metadata(meta: &Metadata<'_>) -> Result<Self, SamplerError> {
        let mut params = Self::default();
        SamplerOverrides {
            order: meta.str("general.sampling.sequence")?.map(Order::parse).transpose()?,
            temperature: meta.f32("general.sampling.temp")?,
            top_k: meta.i32("general.sampling.top_k")?,
            top_p: meta.f32("general.sampling.top_p")?,
            min_p: meta.f32("general.sampling.min_p")?,
            xtc_probability: meta.f32("general.sampling.xtc_probability")?,
            xtc_threshold: meta.f32("general.sampling.xtc_threshold")?,
            penalty_last_n: meta.i32("general.sampling.penalty_last_n")?,
            penalty_repeat: meta.f32("general.sampling.penalty_repeat")?,
            mirostat: meta.u32("general.sampling.mirostat")?,
            mirostat_tau: meta.f32("general.sampling.mirostat_tau")?,
            mirostat_eta: meta.f32("general.sampling.mirostat_eta")?,
            ..SamplerOverrides::default()
        }
        .apply(&mut params);
        params.validate()?;
        Ok(params)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Names the first parameter that is impossible.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let number = |name: &'static str, value: f32, low: f32, high: f32, expected: &'static str| {
            // Also refuses NaN.
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(SamplerError::OutOfRange { name, value: value.to_string(), expected })
            }
        };
        let count = |name: &'static str, value: i32, low: i32, expected: &'static str| {
            if value >= low {
                Ok(())
            } else {
                Err(SamplerError::OutOfRange { name, value: value.to_string(), expected })
            }
        };
        const UNIT: &str = "between 0 and 1";
        const HUGE: f32 = 1e6;
        number("temp", self.temperature, -HUGE, HUGE, "a number; 0 or less takes the most probable token")?;
        number("dynatemp-range", self.dynatemp_range, 0.0, HUGE, "0 (off) or more")?;
        number("dynatemp-exp", self.dynatemp_exponent, 0.0, HUGE, "0 or more")?;
        number("top-p", self.top_p, 0.0, 1.0, UNIT)?;
        number("min-p", self.min_p, 0.0, 1.0, UNIT)?;
        number("typical", self.typical_p, 0.0, 1.0, UNIT)?;
        number("top-n-sigma", self.top_n_sigma, -HUGE, HUGE, "a number; 0 or less is off")?;
        number("xtc-probability", self.xtc_probability, 0.0, 1.0, UNIT)?;
        number("xtc-threshold", self.xtc_threshold, 0.0, 1.0, UNIT)?;
        count("repeat-last-n", self.penalty_last_n, -1, "-1 (all), 0 (off) or more")?;
        number("repeat-penalty", self.penalty_repeat, f32::MIN_POSITIVE, HUGE, "more than 0 (1 is off)")?;
        number("frequency-penalty", self.penalty_freq, -HUGE, HUGE, "a number")?;
        number("presence-penalty", self.penalty_present, -HUGE, HUGE, "a number")?;
        number("dry-multiplier", self.dry_multiplier, 0.0, HUGE, "0 (off) or more")?;
        number("dry-base", self.dry_base, 0.0, HUGE, "0 or more (below 1 is off)")?;
        count("dry-allowed-length", self.dry_allowed_length, 0, "0 or more")?;
        count("dry-penalty-last-n", self.dry_penalty_last_n, -1, "-1 (all), 0 (off) or more")?;
        number("mirostat-ent", self.mirostat_tau, 0.0, HUGE, "0 or more")?;
        number("mirostat-lr", self.mirostat_eta, 0.0, HUGE, "0 or more")?;
        if self.mirostat > 2 {
            return Err(SamplerError::OutOfRange {
                name: "mirostat",
                value: self.mirostat.to_string(),
                expected: "0 (off), 1 or 2",
            });
        }
        for &(id, bias) in &self.logit_bias {
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(SamplerError::BadBias { found: format!("{id}+{bias}") });
            }
        }
        Ok(())
    }
}

/// Reads a logit bias `TOKEN+BIAS` or `TOKEN-BIAS`.
///
/// # Errors
/// When it is neither.
pub fn parse_logit_bias(text: &str) -> Result<(u32, f32), SamplerError> {
    let bad = || SamplerError::BadBias { found: text.chars().take(40).collect::<String>().escape_debug().to_string() };
    let sign = text.find(['+', '-']).ok_or_else(bad)?;
    let id = text[..sign].trim().parse().map_err(|_| bad())?;
    let bias: f32 = text[sign..].trim().parse().map_err(|_| bad())?;
    if bias.is_nan() || bias == f32::INFINITY { Err(bad()) } else { Ok((id, bias)) }
}
