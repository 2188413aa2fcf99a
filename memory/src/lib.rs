//! How much memory this process may still take, asked before anything large is allocated.
//!
//! An allocation that the system refuses ends a Rust program with an abort, and passing the limit of a control group ends it
//! with a signal. Neither tells the user anything. Whoever is about to allocate much therefore adds up what it needs and
//! calls [`check`], whose error says what needed how much, which limit stands in the way, and what to do.

#![forbid(unsafe_code)]

mod limit;

use std::path::Path;

pub use limit::{Left, Source};

/// Address space that a thread takes: its stack as Rust makes it, guard pages, a stack for signals, thread-local storage.
pub const THREAD_BYTES: u64 = (2 << 20) + (256 << 10);

/// What is kept back of a process's own limits for the many small allocations of any work, beside the large buffers that are
/// counted: where such a limit is met, even the smallest is refused, and that ends the program.
const SMALL_BYTES: u64 = 12 << 20;

/// Something does not fit into memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} needs {}, more than {left}; {remedy}", human(*bytes))]
pub struct NoMemory {
    /// What was to be allocated.
    pub what: String,
    /// Its bytes (the largest u64 when beyond it).
    pub bytes: u64,
    /// How much there is, and what sets that limit.
    pub left: String,
    /// What to do.
    pub remedy: &'static str,
}

impl NoMemory {
    /// The error for `bytes` that the system refused.
    #[must_use]
    pub fn refused(what: impl Into<String>, bytes: u64, remedy: &'static str) -> Self {
        // Although more seems to be left: then that figure says nothing.
        let left = left().filter(|left| left.bytes < bytes);
        Self::new(what.into(), bytes, left.as_ref(), remedy)
    }

    fn new(what: String, bytes: u64, left: Option<&Left>, remedy: &'static str) -> Self {
        let left = left.map_or_else(|| "the memory available".to_owned(), Left::to_string);
        Self { what, bytes, left, remedy }
    }
}

/// What this process may still take: the least of what the machine has available and of the limits that its control
/// groups and its own resource limits set. `None` where the system does not say.
#[must_use]
pub fn left() -> Option<Left> {
    limit::left(Path::new("/"))
}

/// What the process's own resource limits (`ulimit -v`, `ulimit -d`) leave; `None` without any. Beyond them the system
/// refuses even the smallest allocation, and new threads; so some megabytes are kept back and do not count as left.
#[must_use]
pub fn left_to_process() -> Option<Left> {
    limit::left_to_process(Path::new("/"))
}

/// Refuses `bytes` (`None`: beyond 64 bits) when they are more than is [`left`]; `remedy` tells the user what to do.
///
/// # Errors
/// [`NoMemory`] naming `what`.
pub fn check(what: impl Into<String>, bytes: Option<u64>, remedy: &'static str) -> Result<(), NoMemory> {
    let left = left();
    let fits = match (bytes, &left) {
        (None, _) => false,
        (Some(bytes), Some(left)) => bytes <= left.bytes,
        (Some(bytes), None) => isize::try_from(bytes).is_ok(),
    };
    if fits { Ok(()) } else { Err(NoMemory::new(what.into(), bytes.unwrap_or(u64::MAX), left.as_ref(), remedy)) }
}

/// The sum of sizes; `None` beyond 64 bits.
#[must_use]
pub fn sum(parts: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    parts.into_iter().try_fold(0u64, |sum, part| sum.checked_add(part?))
}

/// What `n` threads take; see [`THREAD_BYTES`].
#[must_use]
pub fn threads(n: usize) -> Option<u64> {
    THREAD_BYTES.checked_mul(n as u64)
}

/// `bytes` for people: `1.5 GiB`.
#[must_use]
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused() {
        assert_eq!(check("a test", Some(1), "buy more"), Ok(()));
        let text = check("the workspace", Some(1 << 62), "buy more").unwrap_err().to_string();
        assert!(text.starts_with("the workspace needs 4.0 EiB, more than the "), "{text}");
        assert!(text.ends_with("; buy more"), "{text}");
        assert!(cfg!(not(target_os = "linux")) || text.contains("iB "), "what is left is told: {text}");
        assert!(check("a test", None, "buy more").is_err());
    }

    #[test]
    fn sums_do_not_wrap() {
        assert_eq!(sum([Some(1), Some(2)]), Some(3));
        assert_eq!(sum([Some(u64::MAX), Some(1)]), None);
        assert_eq!(sum([Some(1), None]), None);
        assert_eq!(threads(2), Some(2 * THREAD_BYTES));
        assert_eq!(threads(usize::MAX), None);
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(1 << 30), "1.0 GiB");
    }
}
