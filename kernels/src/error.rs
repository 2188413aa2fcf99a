//! What can go wrong at the public edge of the kernels.

use ocelli_quant::QuantError;

/// A call that does not fit together. Lengths are checked once per call, before any kernel runs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A buffer of the wrong length.
    #[error("{what}: expected {want} elements, got {got}; size the buffer for the shapes of the call")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Elements needed.
        want: usize,
        /// Elements given.
        got: usize,
    },
    /// A product whose inner dimensions differ.
    #[error("a weight of {rows} rows × {cols} columns cannot take activations of depth {depth}")]
    Depth {
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
        /// Depth of the activations.
        depth: usize,
    },
    /// The activations were not prepared in the form that a weight needs.
    #[error("activations were not prepared for {format} weights; name that format in `ActNeeds` when filling them")]
    MissingActivations {
        /// The weight's format.
        format: &'static str,
    },
    /// A size that overflows or that no scratch can hold.
    #[error("{what} of {got} is beyond the limit of {limit}")]
    TooLarge {
        /// Which quantity.
        what: &'static str,
        /// Its value.
        got: usize,
        /// The largest value that works.
        limit: usize,
    },
    /// A size that must not be zero.
    #[error("an empty {what}: the size must be at least 1")]
    Empty {
        /// Which quantity.
        what: &'static str,
    },
    /// A size that must divide another one.
    #[error("{what}: {got} is not a multiple of {of}")]
    Multiple {
        /// Which quantity.
        what: &'static str,
        /// Its value.
        got: usize,
        /// What it must be a multiple of.
        of: usize,
    },
    /// A block table that does not cover the positions asked for, or names a block that does not exist.
    #[error("KV position {position} lies in no block: the table has {table} entries and the cache {blocks} blocks")]
    KvPosition {
        /// The first position that is not covered.
        position: usize,
        /// Entries in the block table.
        table: usize,
        /// Blocks in the cache.
        blocks: usize,
    },
    /// A segment that begins before the end of the one before it in the list.
    #[error(
        "segment {segment} begins at row {first_row}, before the end of the one before it, {end}; give segments in the order of their rows"
    )]
    SegmentRows {
        /// Number of the segment.
        segment: usize,
        /// Its first row.
        first_row: usize,
        /// The first row it could have.
        end: usize,
    },
    /// A key or value row that the cache's format cannot hold.
    #[error("keys or values of row {row} cannot be stored: {source}")]
    StoreRow {
        /// Number of the row in the call.
        row: usize,
        /// Why not.
        source: QuantError,
    },
    /// A kernel that was to be timed gave another answer than the scalar one.
    #[error(
        "the {isa} kernel for {format} gives {got} where the scalar one gives {want}: a fault of this build; please report it"
    )]
    WrongAnswer {
        /// The table.
        isa: &'static str,
        /// The storage format.
        format: &'static str,
        /// Its answer.
        got: f32,
        /// The scalar table's.
        want: f32,
    },
    /// A row that does not divide into blocks, or bytes of the wrong length.
    #[error(transparent)]
    Quant(#[from] QuantError),
}

/// An instruction set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// No table has that name.
    #[error("unknown instruction set {name:?}; {list}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The tables of this build: which are available, and why the others are not.
        list: String,
    },
    /// The table exists but this machine cannot run it.
    #[error("instruction set {name} is not available here: {reason}; {list}")]
    Unavailable {
        /// What was asked for.
        name: String,
        /// What the machine lacks.
        reason: String,
        /// The tables of this build: which are available, and why the others are not.
        list: String,
    },
}

/// Fails unless a buffer has exactly the length that the call needs.
pub(crate) fn check_len(what: &'static str, got: usize, want: usize) -> Result<(), KernelError> {
    if got == want { Ok(()) } else { Err(KernelError::Length { what, want, got }) }
}
