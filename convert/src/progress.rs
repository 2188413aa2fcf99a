//! How long work reports on itself and is asked to stop.

/// Receives progress from a conversion or re-quantisation and can cancel it.
///
/// The library calls these from the thread that runs the work, a few times per second at most. All methods have a
/// default, so that `impl Progress for X {}` is a silent, never cancelling observer.
pub trait Progress: Sync {
    /// A file is about to be written; `bytes` is the amount of work, in bytes of source data.
    fn begin(&self, file: &str, bytes: u64) {
        let _ = (file, bytes);
    }

    /// Work on tensor number `index` (from 0) of `count` begins.
    fn tensor(&self, name: &str, index: usize, count: usize) {
        let _ = (name, index, count);
    }

    /// `bytes` more bytes of source data are done.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The file is complete.
    fn end(&self) {}

    /// Polled between strips of rows; `true` stops the work, which then removes what it wrote.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that shows nothing and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
