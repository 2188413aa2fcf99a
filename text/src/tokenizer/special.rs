//! Cutting special tokens out of a text before it is encoded.
//!
//! Longer tokens win over shorter ones wherever they stand; among tokens of one length the leftmost wins. Tokens are
//! therefore grouped by length, and the groups are searched one after the other, the longest first.
//!
//! A group is searched by hashing: a polynomial hash of every stretch of its length is looked up among the hashes of its
//! tokens, and what is found is compared with the token's text in the vocabulary. A token costs a few words here, however
//! long it is; no automaton is built, whose states would be as many as the bytes of all tokens. The hash of a stretch is
//! either computed where a token's first byte stands or rolled along the text, whichever is less work, so a pass takes
//! time linear in the text whatever a file or a prompt holds. The hash is keyed at random, so that nobody can choose
//! texts that only look like tokens.

use std::hash::{BuildHasher, RandomState};

use super::vocab::Vocab;

/// A piece of a prompt: text to encode, or a special token that stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// One special token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Special {
    pub(super) id: u32,
    /// White space after it is dropped.
    pub(super) strip_after: bool,
    /// It is found even where control tokens are not looked for.
    pub(super) always: bool,
}

/// Searchers for the special tokens of a vocabulary, longest first.
pub(super) struct Partition {
    base: u64,
    groups: Vec<Group>,
}

/// The tokens of one length.
struct Group {
    len: usize,
    /// The base to the power of `len`: what the byte that leaves a rolling hash has been multiplied by.
    leaving: u64,
    entries: Vec<Entry>,
    /// Indices of entries by hash, with open addressing.
    slots: Vec<u32>,
    /// Bytes that tokens begin with: of all, and of those that are always found.
    first: [ByteSet; 2],
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    special: Special,
}

const EMPTY: u32 = u32::MAX;

#[derive(Clone, Copy, Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }
}

/// Hashes are numbers modulo this prime.
const PRIME: u64 = (1 << 61) - 1;

fn reduce(n: u128) -> u64 {
    // Below 2¹²²: two folds bring it below 2⁶¹ + 1, a subtraction below the prime.
    let folded = (n & u128::from(PRIME)) + (n >> 61);
    let folded = (folded as u64 & PRIME) + (folded >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

/// `hash · base + byte`; a byte counts as one more than it is, so that zeros at the front count.
fn push(hash: u64, base: u64, byte: u8) -> u64 {
    reduce(u128::from(hash) * u128::from(base) + u128::from(byte) + 1)
}

fn hash_of(base: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash, byte| push(hash, base, *byte))
}

impl Partition {
    pub(super) fn new(vocab: &Vocab, mut specials: Vec<Special>) -> Self {
        let len = |special: &Special| vocab.text(special.id).len();
        specials.sort_unstable_by_key(|s| (std::cmp::Reverse(len(s)), s.id));
        let base = RandomState::new().hash_one("base") % (PRIME - 512) + 257;
        let groups = specials.chunk_by(|a, b| len(a) == len(b)).map(|same| Group::new(vocab, base, same)).collect();
        Self { base, groups }
    }

    /// `text` as fragments in order, none of them empty. Without `control`, only those are found that always are.
    pub(super) fn split<'a>(&self, vocab: &Vocab, text: &'a str, control: bool) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(text));
        }
        let mut next = Vec::new();
        for group in &self.groups {
            let search = Search { vocab, base: self.base, group, control };
            let unchanged = fragments.iter().all(|f| match f {
                Fragment::Text(text) => search.find(text.as_bytes(), 0).is_none(),
                Fragment::Token(_) => true,
            });
            if unchanged {
                continue;
            }
            for &fragment in &fragments {
                match fragment {
                    Fragment::Text(text) => search.split(text, &mut next),
                    token => next.push(token),
                }
            }
            std::mem::swap(&mut fragments, &mut next);
            next.clear();
        }
        fragments
    }
}

impl Group {
    fn new(vocab: &Vocab, base: u64, same: &[Special]) -> Self {
        let len = same.first().map_or(0, |s| vocab.text(s.id).len());
        let leaving = (0..len).fold(1, |power, _| reduce(u128::from(power) * u128::from(base)));
        let size = (2 * same.len()).next_power_of_two();
        let mut group = Self {
            len,
            leaving,
            entries: Vec::with_capacity(same.len()),
            slots: vec![EMPTY; size],
            first: [ByteSet::default(); 2],
        };
        for (index, special) in (0u32..).zip(same) {
            let text = vocab.text(special.id).as_bytes();
            let hash = hash_of(base, text);
            let mut slot = group.start(hash);
            while group.slots[slot] != EMPTY {
                slot = (slot + 1) & (size - 1);
            }
            group.slots[slot] = index;
            group.entries.push(Entry { hash, special: *special });
            if let Some(byte) = text.first() {
                group.first[0].insert(*byte);
                if special.always {
                    group.first[1].insert(*byte);
                }
            }
        }
        group
    }

    fn start(&self, hash: u64) -> usize {
        // The low bits of a number modulo a prime are as good as any.
        (hash & (self.slots.len() as u64 - 1)) as usize
    }
}

/// A search for the tokens of one length.
struct Search<'s> {
    vocab: &'s Vocab,
    base: u64,
    group: &'s Group,
    control: bool,
}

impl Search<'_> {
    /// The token that stands at the beginning of `window`, whose hash is `hash`.
    fn token(&self, window: &[u8], hash: u64) -> Option<Special> {
        let mut slot = self.group.start(hash);
        loop {
            let index = self.group.slots[slot];
            if index == EMPTY {
                return None;
            }
            let Entry { hash: found, special } = self.group.entries[index as usize];
            if found == hash && (self.control || special.always) && self.vocab.text(special.id).as_bytes() == window {
                return Some(special);
            }
            slot = (slot + 1) & (self.group.slots.len() - 1);
        }
    }

    /// Start and kind of the first token from `from` on.
    fn find(&self, text: &[u8], from: usize) -> Option<(usize, Special)> {
        let len = self.group.len;
        let rest = text.get(from..)?;
        let last = rest.len().checked_sub(len)?;
        let first = &self.group.first[usize::from(!self.control)];
        let starts = (0..=last).filter(|at| first.contains(rest[*at]));
        // A stretch hashed by itself costs `len` steps. Where tokens might begin so often that this would come to more than
        // two steps for each byte passed, the hash is rolled.
        let mut spent = 0;
        for at in starts {
            spent += len;
            if spent > 2 * at + 4 * len {
                return self.roll(rest, at).map(|(at, special)| (from + at, special));
            }
            let window = &rest[at..at + len];
            if let Some(special) = self.token(window, hash_of(self.base, window)) {
                return Some((from + at, special));
            }
        }
        None
    }

    /// As [`Self::find`], with a hash that is rolled along.
    fn roll(&self, text: &[u8], from: usize) -> Option<(usize, Special)> {
        let (len, base) = (self.group.len, self.base);
        let mut hash = hash_of(base, text.get(from..from + len)?);
        let mut at = from;
        loop {
            let window = &text[at..at + len];
            if let Some(special) = self.token(window, hash) {
                return Some((at, special));
            }
            let entering = *text.get(at + len)?;
            let leaving = reduce(u128::from(self.group.leaving) * (u128::from(text[at]) + 1));
            hash = push(hash, base, entering) + PRIME - leaving;
            if hash >= PRIME {
                hash -= PRIME;
            }
            at += 1;
        }
    }

    fn split<'a>(&self, text: &'a str, out: &mut Vec<Fragment<'a>>) {
        let mut at = 0;
        while let Some((start, special)) = self.find(text.as_bytes(), at) {
            if at < start {
                out.push(Fragment::Text(&text[at..start]));
            }
            out.push(Fragment::Token(special.id));
            at = start + self.group.len;
            if special.strip_after {
                let blanks = |b: &u8| matches!(b, b' ' | 0x09..=0x0d);
                at += text.as_bytes()[at..].iter().take_while(|b| blanks(b)).count();
            }
        }
        if at < text.len() {
            out.push(Fragment::Text(&text[at..]));
        }
    }
}

#[cfg(test)]
mod tests;
