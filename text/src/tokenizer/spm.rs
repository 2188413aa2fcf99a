//! SentencePiece-BPE: greedy merging by score.
//!
//! The text starts as one symbol per character. Among all adjacent pairs whose concatenation is a token, the one
//! with the highest score is merged, the leftmost of equals first, until none is left. What is then not a token is
//! written byte by byte.
//!
//! A general BPE engine cannot replace this loop: it ranks *pairs* of known symbols in a total order, while here
//! several tokens may share a score (then position decides), and a symbol that is not a token itself may still merge.
//!
//! A heap with lazy deletion makes it O(n log n): merging only ever lengthens or empties a symbol, so a queued pair
//! is out of date exactly when the two lengths no longer add up to the length it was queued with.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::vocab::Vocab;

const NONE: u32 = u32::MAX;

/// A stretch of the text; `len` 0 = merged into its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    prev: u32,
    next: u32,
}

/// Ordered by score, then leftmost first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    score: u32,
    left: Reverse<u32>,
    right: u32,
    len: usize,
}

/// Maps scores to integers of the same order (−0 and +0 are equal; the vocabulary holds no NaN).
fn score_key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// Appends the ids of `text` (already with "▁" for blanks) to `out`. `bytes[b]` is the id of the token for byte `b`.
pub(super) fn encode(vocab: &Vocab, bytes: &[u32; 256], text: &str, out: &mut Vec<u32>) {
    // Indices are u32: a fragment with more characters than that is cut, far beyond any context.
    let mut rest = text;
    while !rest.is_empty() {
        let cut = rest.char_indices().nth(NONE as usize - 1).map_or(rest.len(), |(at, _)| at);
        encode_piece(vocab, bytes, &rest[..cut], out);
        rest = &rest[cut..];
    }
}

fn encode_piece(vocab: &Vocab, bytes: &[u32; 256], text: &str, out: &mut Vec<u32>) {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (index, (start, c)) in (0u32..).zip(text.char_indices()) {
        symbols.push(Symbol { start, len: c.len_utf8(), prev: index.wrapping_sub(1), next: index + 1 });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }

    let mut queue = BinaryHeap::with_capacity(symbols.len());
    let consider = |symbols: &[Symbol], queue: &mut BinaryHeap<Candidate>, left: u32, right: u32| {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (&symbols[left as usize], &symbols[right as usize]);
        let len = a.len + b.len;
        if len > vocab.longest() {
            return;
        }
        if let Some(id) = vocab.id(&text[a.start..a.start + len]) {
            queue.push(Candidate { score: score_key(vocab.score(id)), left: Reverse(left), right, len });
        }
    };
    for (left, symbol) in (0u32..).zip(&symbols) {
        consider(&symbols, &mut queue, left, symbol.next);
    }

    while let Some(Candidate { left: Reverse(left), right, len, .. }) = queue.pop() {
        let (a, b) = (&symbols[left as usize], &symbols[right as usize]);
        if a.len == 0 || b.len == 0 || a.len + b.len != len {
            continue;
        }
        let (before, after) = (a.prev, b.next);
        symbols[left as usize].len = len;
        symbols[left as usize].next = after;
        symbols[right as usize].len = 0;
        if after != NONE {
            symbols[after as usize].prev = left;
        }
        consider(&symbols, &mut queue, before, left);
        consider(&symbols, &mut queue, left, after);
    }

    for symbol in symbols.iter().filter(|s| s.len > 0) {
        let piece = &text[symbol.start..symbol.start + symbol.len];
        match vocab.id(piece) {
            Some(id) => out.push(id),
            None => out.extend(piece.bytes().map(|b| bytes[usize::from(b)])),
        }
    }
}
