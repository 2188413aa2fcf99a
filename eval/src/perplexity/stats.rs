//! The arithmetic of an evaluation: negative log-likelihood of the tokens, and divergence between two models.

/// Perplexity so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Nll {
    /// Tokens scored.
    pub count: u64,
    sum: f64,
    sum_squares: f64,
}

impl Nll {
    /// Adds one token's negative log-likelihood, in nats.
    pub fn add(&mut self, nll: f64) {
        self.count += 1;
        self.sum += nll;
        self.sum_squares += nll * nll;
    }

    /// Mean negative log-likelihood per token.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// `exp` of the mean.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Standard error of [`Nll::perplexity`]: that of the mean, carried through the exponential.
    #[must_use]
    pub fn error(&self) -> f64 {
        standard_error(self.count, self.sum, self.sum_squares) * self.perplexity()
    }
}

fn standard_error(count: u64, sum: f64, sum_squares: f64) -> f64 {
    if count < 2 {
        return 0.0;
    }
    let n = count as f64;
    let mean = sum / n;
    ((sum_squares / n - mean * mean).max(0.0) / (n - 1.0)).sqrt()
}

/// Largest logit, its index, and `ln Σ exp(logit)`. `None` for an empty row or one that is not finite.
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> Option<(f32, usize, f64)> {
    let (top, max) = logits
        .iter()
        .copied()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |(i, m), (j, v)| if v > m { (j, v) } else { (i, m) });
    let sum: f64 = logits.iter().map(|v| f64::from((v - max).exp())).sum();
    let lse = f64::from(max) + sum.ln();
    lse.is_finite().then_some((max, top, lse))
}

/// Divergence of a model from a base whose log-probabilities were saved.
#[derive(Debug, Clone, Default)]
pub struct Divergence {
    values: Vec<f32>,
    sum: f64,
    sum_squares: f64,
    same_top: u64,
    p_diff_squares: f64,
    max_p_diff: f64,
    base: Nll,
}

impl Divergence {
    /// Adds one position: our `logits`, the base's log-probabilities and the token that followed.
    /// `None` (and nothing added) when the logits are not finite.
    pub fn add(&mut self, logits: &[f32], base_log_probs: &[f32], next: usize) -> Option<()> {
        let (_, top, lse) = log_sum_exp(logits)?;
        let mut kl = 0f64;
        let (mut base_top, mut base_max) = (0, f32::NEG_INFINITY);
        for (i, (logit, base)) in logits.iter().zip(base_log_probs).enumerate() {
            if *base > base_max {
                (base_top, base_max) = (i, *base);
            }
            // The saved range ends 16 nats below the top; what lies under it was cut off and carries no weight.
            if *base > -16.0 {
                kl += f64::from(base.exp()) * (f64::from(*base) - f64::from(*logit) + lse);
            }
        }
        let base_nll = -f64::from(*base_log_probs.get(next)?);
        let p_diff = (f64::from(*logits.get(next)?) - lse).exp() - (-base_nll).exp();
        self.base.add(base_nll);
        self.p_diff_squares += p_diff * p_diff;
        self.max_p_diff = self.max_p_diff.max(p_diff.abs());
        self.same_top += u64::from(top == base_top);
        self.sum += kl;
        self.sum_squares += kl * kl;
        self.values.push(kl as f32);
        Some(())
    }

    /// The figures so far, `None` before the first position.
    #[must_use]
    pub fn summary(&self) -> Option<DivergenceSummary> {
        let count = self.base.count;
        if count == 0 {
            return None;
        }
        let mut sorted = self.values.clone();
        sorted.sort_by(f32::total_cmp);
        let n = count as f64;
        let at = |q: f64| f64::from(sorted[((sorted.len() - 1) as f64 * q).round() as usize]);
        Some(DivergenceSummary {
            count,
            base_perplexity: self.base.perplexity(),
            mean: self.sum / n,
            error: standard_error(count, self.sum, self.sum_squares),
            median: at(0.5),
            p99: at(0.99),
            max: at(1.0),
            same_top: self.same_top as f64 / n,
            rms_p_diff: (self.p_diff_squares / n).sqrt(),
            max_p_diff: self.max_p_diff,
        })
    }
}

/// Figures of a comparison. Divergences are Kullback–Leibler, base against this model, in nats.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct DivergenceSummary {
    /// Positions compared.
    pub count: u64,
    /// Perplexity of the base on the same tokens.
    pub base_perplexity: f64,
    /// Mean divergence.
    pub mean: f64,
    /// Standard error of the mean.
    pub error: f64,
    /// Median divergence.
    pub median: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest divergence.
    pub max: f64,
    /// Share of positions with the same most likely token.
    pub same_top: f64,
    /// Root mean square difference of the probability of the token that followed.
    pub rms_p_diff: f64,
    /// Largest such difference.
    pub max_p_diff: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_logits_have_the_vocabulary_as_perplexity() {
        let mut nll = Nll::default();
        for _ in 0..10 {
            let (_, _, lse) = log_sum_exp(&[0.5; 100]).unwrap();
            nll.add(lse - 0.5);
        }
        assert!((nll.perplexity() - 100.0).abs() < 1e-3);
        assert!(nll.error() < 1e-3);
        assert_eq!(log_sum_exp(&[]), None);
        assert_eq!(log_sum_exp(&[0.0, f32::NAN]), None);
    }

    #[test]
    fn error_is_that_of_the_mean() {
        let mut nll = Nll::default();
        for v in [1.0, 3.0] {
            nll.add(v);
        }
        // Variance 1 (population), divided by n − 1 = 1.
        assert!((nll.error() - 2f64.exp()).abs() < 1e-9);
    }

    #[test]
    fn divergence_of_two_coins() {
        let (p, q) = ([0.5f32.ln(), 0.5f32.ln()], [0.25f32.ln(), 0.75f32.ln()]);
        let mut d = Divergence::default();
        d.add(&q, &p, 1).unwrap();
        d.add(&p, &p, 0).unwrap();
        let s = d.summary().unwrap();
        let kl = 0.5 * (2f64.ln() + (2.0 / 3.0f64).ln());
        assert!((s.max - kl).abs() < 1e-6 && (s.mean - kl / 2.0).abs() < 1e-6, "{s:?}");
        assert_eq!(s.same_top, 0.5);
        assert!((s.max_p_diff - 0.25).abs() < 1e-6);
        assert!((s.base_perplexity - 2.0).abs() < 1e-6);
    }
}
