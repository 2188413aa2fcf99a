//! From logits to the next token.
//!
//! A chain of steps narrows the candidates down or changes their logits; then one is drawn by its probability. Names,
//! meaning, defaults and order are those of llama.cpp's sampler chain:
//!
//! ```text
//! logit bias → penalties → dry → top_n_sigma → top_k → typ_p → top_p → min_p → xtc → temperature → draw
//! ```
//!
//! With mirostat the chain is bias → temperature → mirostat. The order `reference` is that of the reference
//! implementation of MiniCPM-V. Random numbers come from a generator of our own, so a seed means the same text in
//! every version; nothing is allocated while tokens are generated.

mod history;
mod params;
mod rng;
mod steps;

#[cfg(test)]
mod tests;

pub use params::{
    DEFAULT_ORDER, Order, REFERENCE_ORDER, SamplerError, SamplerKind, SamplerOverrides, SamplerParams, parse_logit_bias,
};

use history::{Dry, Penalties};
use rng::Rng;
use steps::{Candidates, Mirostat};

use crate::tokenizer::Tokenizer;

/// A configured chain with its memory of the tokens so far.
#[derive(Debug)]
pub struct SamplerChain {
    params: SamplerParams,
    seed: u64,
    n_tokens: usize,
    bias: Vec<(u32, f32)>,
    penalties: Penalties,
    dry: Option<Dry>,
    mirostat: Mirostat,
    rng: Rng,
    candidates: Candidates,
}

impl SamplerChain {
    /// A chain for the model whose vocabulary `tokenizer` is.
    ///
    /// # Errors
    /// When a parameter is impossible.
    pub fn new(params: SamplerParams, tokenizer: &Tokenizer) -> Result<Self, SamplerError> {
        params.validate()?;
        let n_tokens = tokenizer.n_tokens();
        let mut bias = params.logit_bias.clone();
        if let Some(&(id, _)) = bias.iter().find(|(id, _)| *id as usize >= n_tokens) {
            return Err(SamplerError::BiasOutOfRange { id, n_tokens });
        }
        if params.ignore_eos {
            bias.extend(tokenizer.end_of_generation().iter().map(|&id| (id, f32::NEG_INFINITY)));
        }
        let seed = params.seed.unwrap_or_else(rng::fresh_seed);
        let reference = params.order == Order::Reference;
        let uses_dry = params.order.steps().contains(&SamplerKind::Dry) && params.mirostat == 0;
        let dry = if uses_dry { Dry::new(&params, tokenizer)? } else { None };
        let mut chain = Self {
            seed,
            n_tokens,
            bias,
            penalties: Penalties::new(&params, reference, n_tokens),
            dry,
            mirostat: Mirostat { tau: params.mirostat_tau, eta: params.mirostat_eta, mu: 2.0 * params.mirostat_tau },
            rng: Rng::new(seed),
            candidates: Candidates::with_capacity(n_tokens),
            params,
        };
        chain.reset();
        Ok(chain)
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &SamplerParams {
        &self.params
    }

    /// The seed in use, drawn if none was given.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Forgets all tokens and starts the random numbers again.
    pub fn reset(&mut self) {
        self.forget_tokens();
        self.rng = Rng::new(self.seed);
    }

    /// Forgets all tokens, but lets the random numbers go on: for the next answer of a conversation.
    pub fn forget_tokens(&mut self) {
        self.penalties.reset();
        if let Some(dry) = &mut self.dry {
            dry.reset();
        }
        self.mirostat.mu = 2.0 * self.mirostat.tau;
    }

    /// Remembers a generated token for the penalties.
    pub fn accept(&mut self, token: u32) {
        self.penalties.accept(token);
        if let Some(dry) = &mut self.dry {
            dry.accept(token);
        }
    }

    /// Remembers a token of the prompt; the order `reference` looks at generated tokens only.
    pub fn accept_prompt(&mut self, token: u32) {
        if self.params.order != Order::Reference {
            self.accept(token);
        }
    }

    /// Chooses the next token from one logit per token of the vocabulary. It still has to be [accepted](Self::accept).
    ///
    /// # Errors
    /// When the number of logits is wrong or none of them is a number.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        if logits.len() != self.n_tokens {
            return Err(SamplerError::WrongLength { found: logits.len(), expected: self.n_tokens });
        }
        self.candidates.fill(logits);
        for &(id, bias) in &self.bias {
            if let Some(c) = self.candidates.list.get_mut(id as usize) {
                c.logit += bias;
            }
        }
        // +∞ would turn every probability into NaN.
        if !self.candidates.best().is_some_and(|best| best.logit.is_finite()) {
            return Err(SamplerError::NoLogits);
        }
        let chosen = match self.params.mirostat {
            0 => {
                self.narrow();
                self.candidates.draw(&mut self.rng)
            }
            version => {
                let p = &self.params;
                steps::dynamic_temperature(&mut self.candidates, p.temperature, p.dynatemp_range, p.dynatemp_exponent);
                if version == 1 {
                    self.mirostat.v1(&mut self.candidates, self.n_tokens, &mut self.rng)
                } else {
                    self.mirostat.v2(&mut self.candidates, &mut self.rng)
                }
            }
        };
        chosen.map(|c| c.id).ok_or(SamplerError::NoLogits)
    }

    /// Runs the steps of the chain.
    fn narrow(&mut self) {
        let (p, c) = (&self.params, &mut self.candidates);
        // When the best token is taken anyway, steps that always keep it need not run.
        let greedy = p.temperature <= 0.0
            && p.dynatemp_range <= 0.0
            && p.order.steps().contains(&SamplerKind::Temperature)
            && p.typical_p >= 1.0
            && p.xtc_probability <= 0.0;
        for step in p.order.steps() {
            match step {
                SamplerKind::Penalties => self.penalties.apply(c),
                SamplerKind::Dry => {
                    if let Some(dry) = &mut self.dry {
                        dry.apply(c);
                    }
                }
                _ if greedy => {}
                SamplerKind::TopNSigma => steps::top_n_sigma(c, p.top_n_sigma),
                SamplerKind::TopK => steps::top_k(c, p.top_k),
                SamplerKind::TypicalP => steps::typical_p(c, p.typical_p),
                SamplerKind::TopP => steps::top_p(c, p.top_p),
                SamplerKind::MinP => steps::min_p(c, p.min_p),
                SamplerKind::Xtc => steps::xtc(c, p.xtc_probability, p.xtc_threshold, &mut self.rng),
                SamplerKind::Temperature => {
                    steps::dynamic_temperature(c, p.temperature, p.dynatemp_range, p.dynatemp_exponent);
                }
            }
        }
        if greedy {
            steps::temperature(c, 0.0);
        }
    }
}
