//! One conversation's positions: their ids and marks, and the blocks with their keys and values.

use super::blocks::{BLOCK_LEN, Books};
use super::index::Content;

/// The positions of one conversation. Its blocks return to the pool when it is dropped.
#[derive(Debug)]
pub struct Sequence {
    books: Books,
    pub(super) blocks: Vec<u32>,
    tokens: Vec<u32>,
    /// One mark per token, as in a prompt.
    marks: Vec<u64>,
    /// Positions whose keys and values have been computed; those behind them are under way.
    computed: usize,
    /// Leading blocks that the prefix cache knows; `None`: this sequence takes no part in it.
    kept: Option<usize>,
}

impl Sequence {
    pub(super) fn new(books: Books, n_blocks: usize, n_ctx: usize, cached: bool) -> Self {
        Self {
            books,
            blocks: Vec::with_capacity(n_blocks),
            tokens: Vec::with_capacity(n_ctx),
            marks: Vec::with_capacity(n_ctx),
            computed: 0,
            kept: cached.then_some(0),
        }
    }

    /// The tokens computed so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.computed]
    }

    /// Their marks: see [`crate::Prompt`].
    pub(crate) fn marks(&self) -> &[u64] {
        &self.marks[..self.computed]
    }

    /// Positions computed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.computed
    }

    /// Whether nothing has been computed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.computed == 0
    }

    /// Positions, those under way included.
    pub(crate) fn end(&self) -> usize {
        self.tokens.len()
    }

    /// The blocks, in order of position; all are full but the last.
    pub(crate) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Adds positions that are going to be computed, for which there are blocks.
    pub(super) fn begin(&mut self, tokens: &[u32], marks: impl FnOnce(&mut Vec<u64>)) {
        self.tokens.extend_from_slice(tokens);
        marks(&mut self.marks);
    }

    /// Counts what is under way as computed, and lets others find it.
    pub fn commit(&mut self) {
        self.computed = self.tokens.len();
        self.keep_full();
    }

    /// Forgets what is under way.
    pub fn revert(&mut self) {
        self.truncate(self.computed);
    }

    fn keep_full(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        if (*kept + 1) * BLOCK_LEN > self.computed {
            return;
        }
        let content = Content { tokens: &self.tokens, marks: &self.marks };
        let mut books = self.books.lock();
        while (*kept + 1) * BLOCK_LEN <= self.computed {
            books.keep(&mut self.blocks, *kept, content.part(*kept * BLOCK_LEN, (*kept + 1) * BLOCK_LEN));
            *kept += 1;
        }
    }

    /// Takes the longest known beginning of `content` over from the prefix cache, into an empty sequence.
    pub(super) fn find(&mut self, content: Content<'_>) {
        let Some(kept) = &mut self.kept else { return };
        let found = self.books.lock().find(content, &mut self.blocks);
        self.tokens.extend_from_slice(&content.tokens[..found]);
        self.marks.extend_from_slice(&content.marks[..found]);
        self.computed = found;
        *kept = found / BLOCK_LEN;
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.tokens.len() {
            return;
        }
        self.keep_tail();
        let mut books = self.books.lock();
        for block in self.blocks.drain(len.div_ceil(BLOCK_LEN)..) {
            books.release(block);
        }
        self.tokens.truncate(len);
        self.marks.truncate(len);
        self.computed = self.computed.min(len);
        self.kept = self.kept.map(|kept| kept.min(len / BLOCK_LEN));
    }

    /// Lets others find the last, partly filled block.
    fn keep_tail(&mut self) {
        let Some(kept) = self.kept else { return };
        let from = kept * BLOCK_LEN;
        // What is under way may not have been computed.
        if from < self.computed && self.computed - from < BLOCK_LEN {
            let content = Content { tokens: &self.tokens, marks: &self.marks };
            self.books.lock().keep(&mut self.blocks, kept, content.part(from, self.computed));
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Whether `books` are those of this sequence.
    pub(super) fn is_of(&self, books: &Books) -> bool {
        self.books.is(books)
    }

    /// A second sequence of the same first `len` positions, at most all; nothing is computed or copied.
    pub(super) fn fork(&self, mut copy: Self, len: usize) -> Self {
        let len = len.min(self.computed);
        let mut books = self.books.lock();
        for block in &self.blocks[..len.div_ceil(BLOCK_LEN)] {
            books.share(*block);
            copy.blocks.push(*block);
        }
        copy.tokens.extend_from_slice(&self.tokens[..len]);
        copy.marks.extend_from_slice(&self.marks[..len]);
        copy.computed = len;
        drop(books);
        copy.kept = copy.kept.and(self.kept).map(|kept| kept.min(len / BLOCK_LEN));
        copy
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.clear();
    }
}
