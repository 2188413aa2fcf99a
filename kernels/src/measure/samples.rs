//! Times of the same work.

/// Times of the same work, in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// In the order they were taken.
    #[must_use]
    pub fn new(seconds: Vec<f64>) -> Self {
        Self(seconds)
    }

    /// The seconds, in the order they were taken.
    #[must_use]
    pub fn seconds(&self) -> &[f64] {
        &self.0
    }

    /// `amount` per second, for every sample.
    #[must_use]
    pub fn rates(&self, amount: f64) -> Self {
        Self(self.0.iter().map(|s| amount / s.max(1e-12)).collect())
    }

    /// Arithmetic mean; 0 without samples.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.iter().sum::<f64>() / self.0.len() as f64 }
    }

    /// Standard deviation of the sample (divided by n − 1); 0 with fewer than two.
    #[must_use]
    pub fn stddev(&self) -> f64 {
        if self.0.len() < 2 {
            return 0.0;
        }
        let mean = self.mean();
        let sum: f64 = self.0.iter().map(|s| (s - mean).powi(2)).sum();
        (sum / (self.0.len() - 1) as f64).sqrt()
    }

    /// The middle one, or the mean of the two in the middle; 0 without samples.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            n if n % 2 == 1 => sorted[half],
            _ => f64::midpoint(sorted[half - 1], sorted[half]),
        }
    }
}
