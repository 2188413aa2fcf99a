//! Which blocks of the pool are free, which sequence uses which, and which are kept to be found again.
//!
//! ```text
//! free ──take──> used by sequences ──last one lets go──> kept, if the prefix cache knows its content ──> free
//!                        ^──────────────found again──────────────┘      (least recently used first)
//! ```
//!
//! A block may stand in several sequences (a shared beginning). Writing asks for a block of one's own first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::index::{Content, PrefixIndex};

/// Positions in one block: what suits the tiles of the attention kernels.
pub const BLOCK_LEN: usize = ocelli_kernels::KvLayout::BLOCK_LEN;

/// The books of a pool of blocks. They hold no keys or values.
#[derive(Debug)]
pub(super) struct Blocks {
    users: Vec<u32>,
    free: Vec<u32>,
    /// Blocks without a user whose content the index knows.
    kept: usize,
    index: PrefixIndex,
}

/// The books, shared by the pool and the sequences in it, which return their blocks by themselves.
#[derive(Debug, Clone)]
pub(super) struct Books(Arc<Mutex<Blocks>>);

impl Books {
    pub(super) fn new(n_blocks: usize) -> Self {
        Self(Arc::new(Mutex::new(Blocks::new(n_blocks))))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Blocks> {
        // Every change below is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks {
    fn new(n_blocks: usize) -> Self {
        // Popped from the end: the first block handed out is block 0. The count is bounded by the caller's memory
        // check, far below u32.
        let n = u32::try_from(n_blocks).unwrap_or(u32::MAX);
        Self { users: vec![0; n as usize], free: (0..n).rev().collect(), kept: 0, index: PrefixIndex::new(n as usize) }
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// Blocks that [`Blocks::take`] can give: free ones, and kept ones.
    pub(super) fn n_available(&self) -> usize {
        self.free.len() + self.kept
    }

    /// Blocks that hold nothing anybody could want.
    pub(super) fn n_free(&self) -> usize {
        self.free.len()
    }

    /// A block for one user, emptied if need be of what was kept longest without being of use.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            self.drop_one()?;
        }
        let block = self.free.pop()?;
        self.users[block as usize] = 1;
        Some(block)
    }

    /// Lets go of the kept block that was of use longest ago.
    fn drop_one(&mut self) -> Option<()> {
        let droppable = |b: &u32| self.users[*b as usize] == 0 && self.index.len_of(*b) > 0 && self.index.is_leaf(*b);
        // The count fits u32.
        let block = (0..self.users.len() as u32).filter(droppable).min_by_key(|b| self.index.used(*b))?;
        self.index.remove(block);
        self.kept -= 1;
        self.free.push(block);
        Some(())
    }

    /// Lets go of everything kept.
    pub(super) fn drop_kept(&mut self) {
        while self.drop_one().is_some() {}
    }

    /// One more user of a block.
    pub(super) fn share(&mut self, block: u32) {
        let users = &mut self.users[block as usize];
        self.kept -= usize::from(*users == 0 && self.index.len_of(block) > 0);
        *users += 1;
    }

    /// One user of a block less.
    pub(super) fn release(&mut self, block: u32) {
        let users = &mut self.users[block as usize];
        *users -= 1;
        if *users == 0 {
            if self.index.len_of(block) > 0 {
                self.kept += 1;
            } else {
                self.free.push(block);
            }
        }
    }

    /// Whether positions of `block` from `len` on may be written by its user: nobody else uses it, and no entry of the index
    /// has content there.
    pub(super) fn is_writable(&self, block: u32, len: usize) -> bool {
        self.users[block as usize] == 1 && self.index.len_of(block) <= len
    }

    /// Makes `block` writable from `len` on by giving up what the index has there, for a user who needs all that is available;
    /// `false` where others use the block.
    pub(super) fn give_up(&mut self, block: u32, len: usize) -> bool {
        if self.users[block as usize] != 1 {
            return false;
        }
        // Nobody uses what goes on from the block: such a user would use the block as well.
        while !self.index.is_leaf(block) {
            if self.drop_one().is_none() {
                return false;
            }
        }
        self.index.shorten(block, len);
        true
    }

    /// Takes the blocks that hold the longest known beginning of `content` into use, appending them to `path`; gives the number
    /// of positions.
    pub(super) fn find(&mut self, content: Content<'_>, path: &mut Vec<u32>) -> usize {
        let (first, mut at) = (path.len(), 0);
        while at < content.tokens.len() {
            let rest = content.part(at, content.tokens.len());
            let parent = path[first..].last().copied();
            let Some((block, common)) = self.index.best_child(parent, rest) else { break };
            path.push(block);
            at += common;
            if common < BLOCK_LEN {
                break;
            }
        }
        for block in &path[first..] {
            self.share(*block);
        }
        self.index.touch(&path[first..]);
        at
    }

    /// How many of the full blocks that [`Blocks::find`] would find are in use.
    pub(super) fn in_use(&self, content: Content<'_>) -> usize {
        let (mut n, mut parent) = (0, None);
        while let Some((block, BLOCK_LEN)) =
            self.index.best_child(parent, content.part((n * BLOCK_LEN).min(content.tokens.len()), content.tokens.len()))
        {
            if self.users[block as usize] == 0 {
                break;
            }
            n += 1;
            parent = Some(block);
        }
        n
    }

    /// Makes block `number` of `path` findable by `content`, the positions that it holds. Where a block with the same content
    /// is known, `path` gets that in its place.
    pub(super) fn keep(&mut self, path: &mut [u32], number: usize, content: Content<'_>) {
        let parent = number.checked_sub(1).map(|i| path[i]);
        // Behind a block that is not in the tree, nothing can be found.
        if parent.is_some_and(|p| self.index.len_of(p) < BLOCK_LEN) {
            return;
        }
        let block = path[number];
        if let Some(same) = self.index.insert(parent, block, content) {
            // A shorter content than what is there would hide it from its user; its own block is as good.
            self.share(same);
            path[number] = same;
            self.release(block);
        }
        self.index.touch(&path[..=number]);
    }
}

#[cfg(test)]
impl Blocks {
    /// Checks the books against each other and against the sequences there are.
    pub(super) fn check(&self, paths: &[&[u32]]) {
        let mut users = vec![0u32; self.users.len()];
        for block in paths.iter().flat_map(|p| p.iter()) {
            users[*block as usize] += 1;
        }
        assert_eq!(users, self.users, "use counts are those of the sequences");
        let mut seen = vec![false; self.users.len()];
        for block in &self.free {
            assert!(!std::mem::replace(&mut seen[*block as usize], true), "block {block} is free once");
            assert_eq!((users[*block as usize], self.index.len_of(*block)), (0, 0), "block {block} is free");
        }
        let kept = (0..users.len()).filter(|b| users[*b] == 0 && !seen[*b]).count();
        assert_eq!(kept, self.kept, "every block is free, used or kept");
        let known = (0..users.len() as u32).filter(|b| self.index.len_of(*b) > 0).count();
        assert_eq!(self.index.reachable(), known, "every entry can be reached");
    }
}
