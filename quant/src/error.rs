/// What can go wrong when rows are quantised or expanded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A row that does not divide into blocks.
    #[error(
        "a row of {len} weights does not divide into {format} blocks of {block}; choose a format whose block length divides the row"
    )]
    RowLength {
        /// Name of the format.
        format: &'static str,
        /// Its block length in weights.
        block: usize,
        /// The row's length in weights.
        len: usize,
    },
    /// A byte buffer of the wrong size.
    #[error("{format}: expected {want} bytes for the row, got {got}")]
    ByteLength {
        /// Name of the format.
        format: &'static str,
        /// Bytes needed.
        want: usize,
        /// Bytes given.
        got: usize,
    },
    /// An importance vector that does not match the row.
    #[error("importance vector has {got} values, the row has {want}")]
    ImportanceLength {
        /// Row length.
        want: usize,
        /// Length of the vector.
        got: usize,
    },
    /// NaN or infinity in the input.
    #[error("{value} at index {index}: only finite values can be stored")]
    NotFinite {
        /// Index in the row.
        index: usize,
        /// The value found.
        value: f32,
    },
    /// Weights whose scale does not fit in the format.
    #[error(
        "the weights from index {index} on are too large for {format}: their scale overflows; store this tensor as F32 or BF16"
    )]
    Overflow {
        /// Name of the format.
        format: &'static str,
        /// Index in the row of the first weight of the block.
        index: usize,
    },
}
