//! What is done where `ulimit` leaves the process little memory.

use std::num::NonZeroUsize;

use anyhow::Context as _;

/// What a command without workers needs.
const MIN_BYTES: u64 = 1 << 20;

/// Under a limit of the process's own, makes sure that there is the memory for what every command needs, and for the threads
/// of rayon if `workers` are needed: started when they are first used, they could only panic. Without such a limit there is
/// nothing to do.
///
/// # Errors
/// When there is too little.
pub(crate) fn prepare(workers: bool) -> anyhow::Result<()> {
    if ocelli_memory::left_to_process().is_none() {
        return Ok(());
    }
    // Before there is any other thread.
    ocelli_kernels::share_arena();
    let threads = if workers { std::thread::available_parallelism().map_or(1, NonZeroUsize::get) } else { 0 };
    // At least something must be left beside what is kept back for small allocations.
    let bytes = ocelli_memory::threads(threads).map(|bytes| bytes.max(MIN_BYTES));
    ocelli_memory::check("the program itself", bytes, "raise the limit")?;
    if workers {
        let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        built.context("cannot start the worker threads; raise the limit")?;
    }
    Ok(())
}
