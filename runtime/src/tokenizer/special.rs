//! Cutting special tokens out of a text before it is encoded.
//!
//! Longer tokens win over shorter ones wherever they stand; among tokens of one length the leftmost wins. Tokens are
//! therefore grouped by length, and each group is searched at once, so the time depends on the length of the text
//! and the number of different lengths, not on the number of tokens.

use aho_corasick::{AhoCorasick, Input};

use super::TokenizerError;

/// A piece of a prompt: text to encode, or a special token that stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// One special token.
#[derive(Debug, Clone)]
pub(super) struct Special<'a> {
    pub(super) id: u32,
    pub(super) text: &'a str,
    /// White space after it is dropped.
    pub(super) strip_after: bool,
}

/// Searchers for a set of special tokens, longest first.
pub(super) struct Partition {
    groups: Vec<Group>,
}

struct Group {
    search: AhoCorasick,
    /// Id and `strip_after`, by pattern number.
    tokens: Vec<(u32, bool)>,
}

impl Partition {
    pub(super) fn new(mut specials: Vec<Special<'_>>) -> Result<Self, TokenizerError> {
        specials.sort_by_key(|s| (std::cmp::Reverse(s.text.len()), s.id));
        let mut groups = Vec::new();
        for same in specials.chunk_by(|a, b| a.text.len() == b.text.len()) {
            let search = AhoCorasick::new(same.iter().map(|s| s.text))
                .map_err(|e| TokenizerError::Specials { reason: e.to_string() })?;
            groups.push(Group { search, tokens: same.iter().map(|s| (s.id, s.strip_after)).collect() });
        }
        Ok(Self { groups })
    }

    /// `text` as fragments in order, none of them empty.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(text));
        }
        let mut next = Vec::new();
        for group in &self.groups {
            let unchanged = fragments.iter().all(|f| match f {
                Fragment::Text(text) => !group.search.is_match(*text),
                Fragment::Token(_) => true,
            });
            if unchanged {
                continue;
            }
            for &fragment in &fragments {
                match fragment {
                    Fragment::Text(text) => group.split(text, &mut next),
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
    fn split<'a>(&self, text: &'a str, out: &mut Vec<Fragment<'a>>) {
        let mut at = 0;
        while let Some(found) = self.search.find(Input::new(text).range(at..)) {
            if at < found.start() {
                out.push(Fragment::Text(&text[at..found.start()]));
            }
            let Some(&(id, strip_after)) = self.tokens.get(found.pattern().as_usize()) else { break };
            out.push(Fragment::Token(id));
            at = found.end();
            if strip_after {
                let blanks = |b: &u8| matches!(b, b' ' | 0x09..=0x0d);
                at += text.as_bytes()[at..].iter().take_while(|b| blanks(b)).count();
            }
        }
        if at < text.len() {
            out.push(Fragment::Text(&text[at..]));
        }
    }
}
