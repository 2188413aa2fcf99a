//! The prefix cache: which blocks hold which beginnings.
//!
//! Entries form a tree. A path from the root spells the positions of a prefix, block by block: an entry's content is the ids
//! and marks of its block, and its parent the block before. Two sequences share a block exactly when everything up to its
//! end is the same, image rows included. Contents are compared, not digests, so nothing can be made to collide.
//!
//! ```text
//! root ── [system prompt, 64] ── [picture, 64] ── [question A, 17]
//!                            └── [question B, 64] ── [answer, 5]
//! ```
//!
//! Only full blocks have children. The last, partly filled block of an ended sequence is an entry as well, so that a
//! conversation goes on from the very token it stopped at.

use super::BLOCK_LEN;

/// No block: the root, and the end of a list.
const NONE: u32 = u32::MAX;

/// What is known of one block.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Positions of its content; 0: not in the tree.
    len: usize,
    parent: u32,
    first_child: u32,
    /// The other children of its parent.
    next: u32,
    previous: u32,
    /// When it was last of use, for the choice of what to drop.
    used: u64,
}

impl Entry {
    const ABSENT: Self = Self { len: 0, parent: NONE, first_child: NONE, next: NONE, previous: NONE, used: 0 };
}

/// The blocks that are found again by what they hold.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    entries: Vec<Entry>,
    /// Blocks × [`BLOCK_LEN`].
    tokens: Vec<u32>,
    marks: Vec<u64>,
    first_root: u32,
    clock: u64,
}

/// Ids and marks of consecutive positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'c> {
    pub(super) tokens: &'c [u32],
    pub(super) marks: &'c [u64],
}

impl Content<'_> {
    pub(super) fn part(&self, from: usize, to: usize) -> Self {
        Self { tokens: &self.tokens[from..to], marks: &self.marks[from..to] }
    }

    fn common(&self, other: Self) -> usize {
        let own = self.tokens.iter().zip(self.marks);
        own.zip(other.tokens.iter().zip(other.marks)).take_while(|(a, b)| a == b).count()
    }
}

impl PrefixIndex {
    pub(super) fn new(n_blocks: usize) -> Self {
        Self {
            entries: vec![Entry::ABSENT; n_blocks],
            tokens: vec![0; n_blocks * BLOCK_LEN],
            marks: vec![0; n_blocks * BLOCK_LEN],
            first_root: NONE,
            clock: 0,
        }
    }

    /// Whether `block` is in the tree, and with how many positions.
    pub(super) fn len_of(&self, block: u32) -> usize {
        self.entries[block as usize].len
    }

    /// Whether nothing in the tree goes on from `block`.
    pub(super) fn is_leaf(&self, block: u32) -> bool {
        self.entries[block as usize].first_child == NONE
    }

    /// When `block` was last of use.
    pub(super) fn used(&self, block: u32) -> u64 {
        self.entries[block as usize].used
    }

    fn content(&self, block: u32) -> Content<'_> {
        let (start, len) = (block as usize * BLOCK_LEN, self.len_of(block));
        Content { tokens: &self.tokens[start..start + len], marks: &self.marks[start..start + len] }
    }

    fn children(&self, parent: Option<u32>) -> impl Iterator<Item = u32> {
        let some = |block: u32| (block != NONE).then_some(block);
        let first = parent.map_or(self.first_root, |p| self.entries[p as usize].first_child);
        std::iter::successors(some(first), move |b| some(self.entries[*b as usize].next))
    }

    /// The child of `parent` that has most in common with `content` from the start on, and how much.
    pub(super) fn best_child(&self, parent: Option<u32>, content: Content<'_>) -> Option<(u32, usize)> {
        let mut best = None;
        for child in self.children(parent) {
            let common = self.content(child).common(content);
            if common > best.map_or(0, |(_, most)| most) {
                best = Some((child, common));
            }
        }
        best
    }

    /// Calls a path of use, from its end to its start, so that a block is never dropped before what goes on from it.
    pub(super) fn touch(&mut self, path: &[u32]) {
        for block in path.iter().rev() {
            self.clock += 1;
            self.entries[*block as usize].used = self.clock;
        }
    }

    /// Puts `block` with `content` behind `parent`. A block that is there already with a part of it grows to the new content.
    ///
    /// Gives the block that holds the same content in the same place, if there is one: the caller should use that.
    pub(super) fn insert(&mut self, parent: Option<u32>, block: u32, content: Content<'_>) -> Option<u32> {
        let len = content.tokens.len();
        if self.len_of(block) >= len {
            return None;
        }
        let same = self.children(parent).find(|b| {
            let there = self.content(*b);
            *b != block && there.tokens.len() >= len && there.common(content) == len
        });
        if same.is_some() {
            return same;
        }
        if self.len_of(block) > 0 {
            self.remove(block);
        }
        let start = block as usize * BLOCK_LEN;
        self.tokens[start..start + len].copy_from_slice(content.tokens);
        self.marks[start..start + len].copy_from_slice(content.marks);
        let first = parent.map_or(self.first_root, |p| self.entries[p as usize].first_child);
        self.clock += 1;
        self.entries[block as usize] = Entry {
            len,
            parent: parent.unwrap_or(NONE),
            first_child: NONE,
            next: first,
            previous: NONE,
            used: self.clock,
        };
        if first != NONE {
            self.entries[first as usize].previous = block;
        }
        match parent {
            Some(p) => self.entries[p as usize].first_child = block,
            None => self.first_root = block,
        }
        None
    }

    /// Cuts the content of a leaf to `len` positions; none: takes it out.
    pub(super) fn shorten(&mut self, block: u32, len: usize) {
        if len == 0 {
            self.remove(block);
        } else {
            self.entries[block as usize].len = len.min(self.len_of(block));
        }
    }

    /// Takes a leaf out of the tree.
    pub(super) fn remove(&mut self, block: u32) {
        let entry = std::mem::replace(&mut self.entries[block as usize], Entry::ABSENT);
        if entry.len == 0 {
            return;
        }
        match (entry.previous, entry.parent) {
            (NONE, NONE) => self.first_root = entry.next,
            (NONE, parent) => self.entries[parent as usize].first_child = entry.next,
            (previous, _) => self.entries[previous as usize].next = entry.next,
        }
        if entry.next != NONE {
            self.entries[entry.next as usize].previous = entry.previous;
        }
    }
}

#[cfg(test)]
impl PrefixIndex {
    /// Entries that can be reached from the root; every one of them has a full parent.
    pub(super) fn reachable(&self) -> usize {
        let (mut todo, mut n) = (vec![None], 0);
        while let Some(parent) = todo.pop() {
            for child in self.children(parent) {
                assert!(parent.is_none_or(|p| self.len_of(p) == BLOCK_LEN));
                n += 1;
                todo.push(Some(child));
            }
        }
        n
    }
}
