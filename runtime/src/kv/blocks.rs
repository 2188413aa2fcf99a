//! Which blocks of the cache are free, and which sequence uses which.
//!
//! The cache is cut into blocks of [`BLOCK_LEN`] positions. A [`BlockTable`] lists the blocks of one sequence in
//! order; a block may stand in several tables (a shared prefix), and is freed with its last user.

/// Positions in one block: what suits the tiles of the attention kernels.
pub const BLOCK_LEN: usize = ocelli_kernels::KvLayout::BLOCK_LEN;

/// Use counts of all blocks and the list of free ones.
#[derive(Debug)]
pub(crate) struct BlockPool {
    users: Vec<u32>,
    free: Vec<u32>,
}

impl BlockPool {
    pub(crate) fn new(n_blocks: usize) -> Self {
        // Popped from the end: the first block handed out is block 0. The count is bounded by the caller's memory
        // check, far below u32.
        let n = u32::try_from(n_blocks).unwrap_or(u32::MAX);
        Self { users: vec![0; n as usize], free: (0..n).rev().collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn n_free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.users[block as usize] = 1;
        Some(block)
    }

    pub(crate) fn share(&mut self, block: u32) {
        self.users[block as usize] += 1;
    }

    pub(crate) fn is_shared(&self, block: u32) -> bool {
        self.users[block as usize] > 1
    }

    pub(crate) fn release(&mut self, block: u32) {
        let users = &mut self.users[block as usize];
        *users -= 1;
        if *users == 0 {
            self.free.push(block);
        }
    }
}

/// The blocks of one sequence. Made by [`crate::kv::KvCache::new_table`]; give it back with
/// [`crate::kv::KvCache::clear`] when the sequence ends, or its blocks stay taken.
#[derive(Debug, Default)]
pub struct BlockTable {
    pub(crate) blocks: Vec<u32>,
    pub(crate) len: usize,
}

impl BlockTable {
    /// Positions stored.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The blocks, in order of position; all are full but the last.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }
}
