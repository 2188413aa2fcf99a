//! What computes: the kernels of one instruction set, and threads.

use ocelli_kernels::{Kernels, Pool};

use crate::{ContextOptions, threads};

/// The kernels and the threads of a process. Contexts and vision encoders that share one, in an [`std::sync::Arc`], compute by
/// turns on the same threads, each with as many of them as its own options allow.
#[derive(Debug)]
pub struct Exec {
    kernels: Kernels,
    pool: Pool,
}

impl Exec {
    /// `kernels` on `n_threads` threads, the calling one among them; 0: as many as there are physical cores. Where the system
    /// refuses a thread there are fewer: ask [`Exec::n_threads`].
    #[must_use]
    pub fn new(kernels: Kernels, n_threads: usize) -> Self {
        Self::on(Pool::new(threads::or_physical_cores(n_threads)), kernels)
    }

    /// `kernels` on as many threads as a context with `options` may use.
    #[must_use]
    pub fn for_context(kernels: Kernels, options: &ContextOptions) -> Self {
        let (one, batch) = options.threads();
        Self::new(kernels, one.max(batch))
    }

    /// `kernels` on the threads of `pool`, which others may use as well.
    #[must_use]
    pub fn on(pool: Pool, kernels: Kernels) -> Self {
        Self { kernels, pool }
    }

    /// The table of kernels.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Threads there are.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.pool.threads()
    }

    /// The threads, at most `n_threads` of them; 0: at most as many as there are physical cores.
    pub(crate) fn limited(&self, n_threads: usize) -> Pool {
        self.pool.limited(threads::or_physical_cores(n_threads).min(self.n_threads()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_limit_the_threads_there_are() {
        let options = |n_threads, n_threads_batch| ContextOptions { n_threads, n_threads_batch, ..Default::default() };
        let exec = Exec::for_context(Kernels::scalar(), &options(1, 3));
        assert_eq!((exec.n_threads(), exec.kernels().name()), (3, "scalar"));
        assert_eq!([1, 2, 3, 64].map(|n| exec.limited(n).threads()), [1, 2, 3, 3]);
        assert_eq!(exec.limited(0).threads(), threads::physical_cores().min(3));
        assert_eq!(Exec::for_context(Kernels::scalar(), &options(2, 0)).n_threads(), 2);
        assert_eq!(Exec::new(Kernels::scalar(), 0).n_threads(), threads::physical_cores());
        // A handle with fewer threads than its pool has gives out no more of them.
        let part = Exec::on(exec.limited(2), Kernels::scalar());
        assert_eq!((part.n_threads(), part.limited(3).threads()), (2, 2));
    }
}
