//! What was generated, and the penalties that follow from it.

use std::collections::{HashMap, VecDeque};

use super::params::{SamplerError, SamplerParams};
use super::steps::Candidates;
use crate::tokenizer::Tokenizer;

/// A window that takes the last `limit` tokens.
fn limit_of(last_n: i32) -> usize {
    usize::try_from(last_n).unwrap_or(usize::MAX)
}

/// Repeat, frequency and presence penalties over a window of tokens.
#[derive(Debug)]
pub(super) struct Penalties {
    limit: usize,
    repeat: f32,
    freq: f32,
    present: f32,
    window: VecDeque<u32>,
    /// Occurrences in the window, by token.
    counts: Vec<u32>,
}

impl Penalties {
    pub(super) fn new(params: &SamplerParams, all_generated: bool, n_tokens: usize) -> Self {
        let limit = if all_generated { usize::MAX } else { limit_of(params.penalty_last_n) };
        let off = params.penalty_repeat == 1.0 && params.penalty_freq == 0.0 && params.penalty_present == 0.0;
        Self {
            limit: if off { 0 } else { limit },
            repeat: params.penalty_repeat,
            freq: params.penalty_freq,
            present: params.penalty_present,
            window: VecDeque::with_capacity(limit.min(1 << 16)),
            counts: if off { Vec::new() } else { vec![0; n_tokens] },
        }
    }

    pub(super) fn accept(&mut self, token: u32) {
        if self.limit == 0 {
            return;
        }
        if self.window.len() >= self.limit
            && let Some(old) = self.window.pop_front()
            && let Some(count) = self.counts.get_mut(old as usize)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.counts.get_mut(token as usize) {
            *count += 1;
            self.window.push_back(token);
        }
    }

    pub(super) fn reset(&mut self) {
        self.window.clear();
        self.counts.fill(0);
    }

    pub(super) fn apply(&self, c: &mut Candidates) {
        if self.limit == 0 || self.window.is_empty() {
            return;
        }
        for x in &mut c.list {
            let count = self.counts.get(x.id as usize).copied().unwrap_or(0);
            if count == 0 {
                continue;
            }
            // Dividing a negative logit would make the token likelier.
            if x.logit <= 0.0 {
                x.logit *= self.repeat;
            } else {
                x.logit /= self.repeat;
            }
            x.logit -= count as f32 * self.freq + self.present;
        }
        c.sorted = false;
    }
}

/// Longest tail of a breaker that spans tokens.
const MAX_TAIL: usize = 20;
/// Longest breaker looked at, in bytes.
const MAX_BREAKER: usize = 40;

/// DRY: a token that would continue a sequence already seen is penalised by
/// multiplier · base^(length of the sequence − allowed length).
#[derive(Debug)]
pub(super) struct Dry {
    multiplier: f32,
    base: f32,
    allowed: usize,
    limit: usize,
    /// First token of a breaker → the tokens that must follow for it to be one; empty = the token alone is one.
    breakers: HashMap<u32, Vec<Vec<u32>>>,
    window: VecDeque<u32>,
    /// `z[k]`: how many tokens before position −k repeat the end of the window.
    z: Vec<usize>,
    /// Longest sequence that each token would continue.
    longest: Vec<u32>,
    touched: Vec<u32>,
}

impl Dry {
    /// `None` when it is off.
    pub(super) fn new(params: &SamplerParams, tokenizer: &Tokenizer) -> Result<Option<Self>, SamplerError> {
        let limit = limit_of(params.dry_penalty_last_n);
        if params.dry_multiplier == 0.0 || params.dry_base < 1.0 || limit == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            multiplier: params.dry_multiplier,
            base: params.dry_base,
            allowed: usize::try_from(params.dry_allowed_length).unwrap_or(0),
            limit,
            breakers: breakers(&params.dry_sequence_breakers, tokenizer)?,
            window: VecDeque::new(),
            z: Vec::new(),
            longest: vec![0; tokenizer.n_tokens()],
            touched: Vec::new(),
        }))
    }

    pub(super) fn accept(&mut self, token: u32) {
        if self.window.len() >= self.limit {
            self.window.pop_front();
        }
        self.window.push_back(token);
    }

    pub(super) fn reset(&mut self) {
        self.window.clear();
    }

    #[cfg(test)]
    pub(super) fn set_breaker(&mut self, token: u32) {
        self.breakers = HashMap::from([(token, vec![Vec::new()])]);
    }

    /// Whether a token is a breaker all by itself.
    pub(super) fn breaks_alone(&self, token: u32) -> bool {
        self.breakers.get(&token).is_some_and(|tails| tails.iter().any(Vec::is_empty))
    }

    /// The token `back` places before the end.
    fn nth_last(&self, back: usize) -> Option<u32> {
        self.window.len().checked_sub(back + 1).and_then(|i| self.window.get(i)).copied()
    }

    /// Tokens since the last breaker.
    fn since_breaker(&self) -> usize {
        for back in 0..self.window.len() {
            let Some(tails) = self.nth_last(back).and_then(|t| self.breakers.get(&t)) else { continue };
            let whole = |tail: &&Vec<u32>| {
                tail.len() <= back && tail.iter().enumerate().all(|(i, &t)| self.nth_last(back - i - 1) == Some(t))
            };
            if let Some(longest) = tails.iter().filter(whole).map(Vec::len).max() {
                return back - longest;
            }
        }
        self.window.len()
    }

    /// How long a repetition ends at each earlier place: `z[k]` is the length of the common suffix of the window and
    /// of the window without its last k tokens. The Z function of the reversed window, linear in its length.
    fn common_suffixes(&mut self) {
        let n = self.window.len();
        self.z.clear();
        self.z.resize(n, 0);
        let (mut left, mut right) = (0, 0);
        for k in 1..n {
            let mut len = if k < right { self.z[k - left].min(right - k) } else { 0 };
            while k + len < n && self.nth_last(len) == self.nth_last(k + len) {
                len += 1;
            }
            self.z[k] = len;
            if k + len > right {
                (left, right) = (k, k + len);
            }
        }
    }

    pub(super) fn apply(&mut self, c: &mut Candidates) {
        let n = self.window.len();
        if n <= self.allowed {
            return;
        }
        let limit = self.since_breaker();
        if limit < self.allowed {
            return;
        }
        self.common_suffixes();
        for k in 1..n {
            let repeat = self.z[k].min(limit);
            if repeat < self.allowed {
                continue;
            }
            // The token after that earlier occurrence would continue the repetition.
            let Some(next) = self.nth_last(k - 1) else { continue };
            let repeat = u32::try_from(repeat).unwrap_or(u32::MAX - 1) + 1;
            if let Some(longest) = self.longest.get_mut(next as usize) {
                if *longest == 0 {
                    self.touched.push(next);
                }
                *longest = (*longest).max(repeat);
            }
        }
        // The greatest exponent whose power is a finite f32.
        let most = if self.base > 1.000_001 { (f32::MAX.ln() / self.base.ln()).floor() } else { f32::MAX };
        for x in &mut c.list {
            let longest = self.longest.get(x.id as usize).copied().unwrap_or(0);
            if longest == 0 || self.breaks_alone(x.id) {
                continue;
            }
            let exponent = ((longest - 1) as f32 - self.allowed as f32).min(most);
            x.logit -= self.multiplier * self.base.powf(exponent);
        }
        c.sorted = false;
        for token in self.touched.drain(..) {
            if let Some(longest) = self.longest.get_mut(token as usize) {
                *longest = 0;
            }
        }
    }
}

/// All ways the breakers can lie in tokens: inside one, or beginning at the end of one and going on in the next.
fn breakers(texts: &[String], tokenizer: &Tokenizer) -> Result<HashMap<u32, Vec<Vec<u32>>>, SamplerError> {
    let mut found: HashMap<u32, Vec<Vec<u32>>> = HashMap::new();
    for text in texts.iter().filter(|t| !t.is_empty()) {
        let cut = (0..=text.len().min(MAX_BREAKER)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let text = &text[..cut];
        for id in 0..u32::try_from(tokenizer.n_tokens()).unwrap_or(u32::MAX) {
            let piece = tokenizer.piece(id, true);
            let piece: &[u8] = &piece;
            if piece.windows(text.len()).any(|w| w == text.as_bytes()) {
                found.entry(id).or_default().push(Vec::new());
                continue;
            }
            for head in (1..text.len()).filter(|&i| text.is_char_boundary(i)) {
                if piece.ends_with(&text.as_bytes()[..head]) {
                    let mut tail = tokenizer.encode(&text[head..], false, false)?;
                    tail.truncate(MAX_TAIL);
                    let tails = found.entry(id).or_default();
                    if !tails.contains(&tail) {
                        tails.push(tail);
                    }
                }
            }
        }
    }
    Ok(found)
}
