//! The steps of the chain, each a function on the list of candidates.
//!
//! Logits are f32 and so are probabilities, sums of probabilities too: that is what the published implementations of
//! these methods do, and what their defaults were tuned with.

use super::rng::Rng;

/// A token that may still be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f32,
    /// Valid after [`Candidates::softmax`].
    pub(super) p: f32,
}

/// The tokens that may still be chosen.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) list: Vec<Candidate>,
    /// Best first.
    pub(super) sorted: bool,
    /// Reused by [`typical_p`].
    keyed: Vec<(f32, Candidate)>,
}

/// Better logits first; of equals, the lower id.
fn better(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

impl Candidates {
    pub(super) fn with_capacity(n: usize) -> Self {
        Self { list: Vec::with_capacity(n), sorted: false, keyed: Vec::new() }
    }

    /// Takes the logits of a whole vocabulary. NaN counts as impossible.
    pub(super) fn fill(&mut self, logits: &[f32]) {
        self.list.clear();
        self.sorted = false;
        self.list.extend((0u32..).zip(logits).map(|(id, &logit)| Candidate {
            id,
            logit: if logit.is_nan() { f32::NEG_INFINITY } else { logit },
            p: 0.0,
        }));
    }

    pub(super) fn sort(&mut self) {
        if !self.sorted {
            self.list.sort_unstable_by(better);
            self.sorted = true;
        }
    }

    /// Keeps the best `k`, sorted.
    pub(super) fn keep_best(&mut self, k: usize) {
        if !self.sorted && k < self.list.len() {
            self.list.select_nth_unstable_by(k, better);
            self.list.truncate(k);
        }
        self.list.truncate(k);
        self.sort();
    }

    /// The best one.
    pub(super) fn best(&self) -> Option<Candidate> {
        if self.sorted { self.list.first().copied() } else { self.list.iter().min_by(|a, b| better(a, b)).copied() }
    }

    /// Fills in probabilities.
    pub(super) fn softmax(&mut self) {
        let Some(best) = self.best() else { return };
        let mut sum = 0.0f32;
        for c in &mut self.list {
            c.p = (c.logit - best.logit).exp();
            sum += c.p;
        }
        for c in &mut self.list {
            c.p /= sum;
        }
    }

    /// Draws one by its probability.
    pub(super) fn draw(&mut self, rng: &mut Rng) -> Option<Candidate> {
        self.softmax();
        let total: f64 = self.list.iter().map(|c| f64::from(c.p)).sum();
        let mut left = rng.unit() * total;
        let mut last = None;
        for c in self.list.iter().filter(|c| c.p > 0.0) {
            left -= f64::from(c.p);
            last = Some(*c);
            if left < 0.0 {
                break;
            }
        }
        last.or_else(|| self.best())
    }
}

pub(super) fn top_k(c: &mut Candidates, k: i32) {
    if let Ok(k @ 1..) = usize::try_from(k) {
        c.keep_best(k);
    }
}

/// Keeps the shortest list of most probable tokens whose sum reaches `p`.
pub(super) fn top_p(c: &mut Candidates, p: f32) {
    if p >= 1.0 {
        return;
    }
    c.softmax();
    // The mass nearly always lies in few tokens: look among the best 256 before sorting everything.
    let mut head = 256;
    if !c.sorted && c.list.len() > 4 * head {
        c.list.select_nth_unstable_by(head, better);
        c.list[..head].sort_unstable_by(better);
    } else {
        c.sort();
        head = c.list.len();
    }
    loop {
        let mut sum = 0.0f32;
        let reached = c.list[..head].iter().position(|x| {
            sum += x.p;
            sum >= p
        });
        match reached {
            Some(last) => c.list.truncate(last + 1),
            None if head < c.list.len() => {
                c.sort();
                head = c.list.len();
                continue;
            }
            None => {}
        }
        c.sorted = true;
        return;
    }
}

/// Keeps tokens with at least `p` times the best probability.
pub(super) fn min_p(c: &mut Candidates, p: f32) {
    let Some(best) = c.best().filter(|_| p > 0.0) else { return };
    let least = best.logit + p.ln();
    c.list.retain(|x| x.logit >= least);
}

/// Keeps, in the order of how little their surprise differs from the expected surprise, tokens up to a mass of `p`.
pub(super) fn typical_p(c: &mut Candidates, p: f32) {
    if p >= 1.0 {
        return;
    }
    c.softmax();
    let surprise = |x: &Candidate| -x.p.ln();
    let entropy: f32 = c.list.iter().filter(|x| x.p > 0.0).map(|x| x.p * surprise(x)).sum();
    c.keyed.clear();
    c.keyed.extend(c.list.iter().map(|x| ((surprise(x) - entropy).abs(), *x)));
    c.keyed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| better(&a.1, &b.1)));
    let mut sum = 0.0f32;
    let reached = c.keyed.iter().position(|(_, x)| {
        sum += x.p;
        sum > p
    });
    c.keyed.truncate(reached.map_or(c.keyed.len(), |last| last + 1));
    c.list.clear();
    c.list.extend(c.keyed.iter().map(|(_, x)| *x));
    c.sorted = false;
}

/// Forbids logits more than `n` standard deviations below the best; −∞ does not count for mean and deviation.
pub(super) fn top_n_sigma(c: &mut Candidates, n: f32) {
    let Some(best) = c.best().filter(|_| n > 0.0 && c.list.len() > 1) else { return };
    let finite = || c.list.iter().map(|x| x.logit).filter(|l| *l != f32::NEG_INFINITY);
    let count = finite().count().max(1) as f32;
    let mean = finite().sum::<f32>() / count;
    let deviation = (finite().map(|l| (l - mean) * (l - mean)).sum::<f32>() / count).sqrt();
    let least = best.logit - n * deviation;
    for x in &mut c.list {
        if x.logit < least {
            x.logit = f32::NEG_INFINITY;
        }
    }
}

/// With `probability`, removes all tokens that reach `threshold` but the least probable of them.
pub(super) fn xtc(c: &mut Candidates, probability: f32, threshold: f32, rng: &mut Rng) {
    if probability <= 0.0 || threshold > 0.5 || c.list.len() < 2 {
        return;
    }
    if rng.unit() > f64::from(probability) {
        return;
    }
    c.sort();
    c.softmax();
    let tops = c.list.iter().take_while(|x| x.p >= threshold).count();
    if tops > 1 {
        c.list.drain(..tops - 1);
    }
}

/// Divides logits by the temperature; 0 or less keeps only the best token.
pub(super) fn temperature(c: &mut Candidates, t: f32) {
    if t > 0.0 {
        for x in &mut c.list {
            x.logit /= t;
        }
    } else if let Some(best) = c.best() {
        c.list.clear();
        c.list.push(best);
        c.sorted = true;
    }
}

/// A temperature between `t − range` and `t + range`, the higher the more even the distribution is: the entropy, as a
/// part of the greatest possible one, to the power of `exponent`.
pub(super) fn dynamic_temperature(c: &mut Candidates, t: f32, range: f32, exponent: f32) {
    if range <= 0.0 {
        return temperature(c, t);
    }
    if c.list.len() <= 1 {
        return;
    }
    let (low, high) = ((t - range).max(0.0), t + range);
    c.softmax();
    let entropy: f32 = c.list.iter().filter(|x| x.p > 0.0).map(|x| -x.p * x.p.ln()).sum();
    let part = entropy / (c.list.len() as f32).ln();
    temperature(c, low + (high - low) * part.powf(exponent));
}

/// State of mirostat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mirostat {
    pub(super) tau: f32,
    pub(super) eta: f32,
    pub(super) mu: f32,
}

impl Mirostat {
    fn learn(&mut self, chosen: Option<Candidate>) -> Option<Candidate> {
        if let Some(c) = chosen {
            let surprise = -c.p.log2();
            let mu = self.mu - self.eta * (surprise - self.tau);
            self.mu = if mu.is_finite() { mu } else { 2.0 * self.tau };
        }
        chosen
    }

    /// Version 1: estimates the exponent of Zipf's law from the best 100 tokens and keeps as many as give the wanted
    /// surprise (Basu et al. 2021).
    pub(super) fn v1(&mut self, c: &mut Candidates, n_vocab: usize, rng: &mut Rng) -> Option<Candidate> {
        c.sort();
        c.softmax();
        let (mut ratio, mut square) = (0.0f32, 0.0f32);
        for (i, pair) in (1u16..100).zip(c.list.windows(2)) {
            let t = (f32::from(i + 1) / f32::from(i)).ln();
            let b = (pair[0].p / pair[1].p).ln();
            if b.is_finite() {
                ratio += t * b;
                square += t * t;
            }
        }
        let s = ratio / square;
        let excess = s - 1.0;
        let k = ((excess * self.mu.exp2()) / (1.0 - (n_vocab as f32).powf(-excess))).powf(1.0 / s);
        // `as` saturates, and NaN (a flat or one-sided distribution) becomes 0.
        c.keep_best((k as usize).max(1));
        let chosen = c.draw(rng);
        self.learn(chosen)
    }

    /// Version 2: keeps tokens whose surprise does not exceed μ.
    pub(super) fn v2(&mut self, c: &mut Candidates, rng: &mut Rng) -> Option<Candidate> {
        c.sort();
        c.softmax();
        let kept = c.list.iter().take_while(|x| -x.p.log2() <= self.mu).count();
        c.list.truncate(kept.max(1));
        let chosen = c.draw(rng);
        self.learn(chosen)
    }
}
