//! Work beside the answers: it takes the same processors, but is neither prompt nor answer.

use std::fmt::Debug;

use ocelli_runtime::RuntimeError;

/// Work that a [`Scheduler`](crate::Scheduler) does in pieces, between its forward passes: beside answers in what a step
/// leaves of the pause, and at least one piece a step; without answers for as long as prompts take, or a pause. Jobs are
/// done one after the other, the oldest first. One that fails ends alone.
pub trait Job: Debug + Send {
    /// Computes the next piece; `true` when it was the last. Nothing interrupts a piece, so it is to be short when it is not
    /// `alone`, that is, when answers wait for it. `alone`, pieces may be of the size that is most efficient.
    ///
    /// # Errors
    /// Ends the job with the error.
    fn step(&mut self, alone: bool) -> Result<bool, RuntimeError>;

    /// Whether nobody wants the result any more. Asked before every piece.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// The last call: after the last piece, after one that failed, or with [`RuntimeError::Interrupted`] when the job
    /// was cancelled or the engine ends. Whoever waits for the job is told from here.
    fn end(self: Box<Self>, how: Result<(), RuntimeError>);
}
