//! How much memory the machine has left, asked before anything large is allocated, and large buffers themselves.

mod limit;

use std::ops::{Deref, DerefMut};
use std::path::Path;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions};

use crate::RuntimeError;

pub use limit::{Left, Source};

/// Zeroed bytes in large pages where the system gives them: thousands of page faults less at first use, and rows that lie far
/// apart need few translations of addresses.
#[derive(Debug, Default)]
pub(crate) struct Large(Option<MmapMut>);

impl Large {
    /// `bytes` zeros; `None` without the memory for them.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        if bytes == 0 {
            return Some(Self(None));
        }
        let map = MmapOptions::new().len(bytes).map_anon().ok()?;
        // Advice only: without it, pages are small.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Some(Self(Some(map)))
    }
}

impl Deref for Large {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Large {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

/// [`Large`] as floats.
#[derive(Debug, Default)]
pub(crate) struct Floats(Large);

impl Floats {
    /// `n` zeros; `None` without the memory for them.
    pub(crate) fn new(n: usize) -> Option<Self> {
        Large::new(n.checked_mul(size_of::<f32>())?).map(Self)
    }
}

// A mapping begins where a page does, and its length is a number of floats; nothing may begin anywhere.
impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        if self.0.is_empty() { &[] } else { bytemuck::cast_slice(&self.0) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        if self.0.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(&mut self.0) }
    }
}

/// What this process may still take: the least of what the machine has available and of the limits that its control
/// groups and its own resource limits set. `None` where the system does not say.
#[must_use]
pub fn left() -> Option<Left> {
    limit::left(Path::new("/"))
}

/// What helps when a text model's memory is too large.
const SMALLER_TEXT: &str = "use a smaller context (-c), a smaller batch (-ub) or q8_0 KV types (-ctk, -ctv)";

/// Refuses `bytes` (`None`: beyond 64 bits) when they are more than is [`left`], for something that the options
/// of a text model make smaller.
///
/// # Errors
/// [`RuntimeError::NoMemory`] naming `what`.
pub fn check(what: impl Into<String>, bytes: Option<u64>) -> Result<(), RuntimeError> {
    check_or(what, bytes, SMALLER_TEXT)
}

/// As [`check`]; `remedy` tells the user what to do.
///
/// # Errors
/// [`RuntimeError::NoMemory`] naming `what`.
pub fn check_or(what: impl Into<String>, bytes: Option<u64>, remedy: &'static str) -> Result<(), RuntimeError> {
    let left = left();
    let fits = match (bytes, &left) {
        (None, _) => false,
        (Some(bytes), Some(left)) => bytes <= left.bytes,
        (Some(bytes), None) => isize::try_from(bytes).is_ok(),
    };
    if fits { Ok(()) } else { Err(refusal(what.into(), bytes.unwrap_or(u64::MAX), left.as_ref(), remedy)) }
}

/// The error for `bytes` that a text model's memory cannot have.
pub(crate) fn too_large(what: String, bytes: u64) -> RuntimeError {
    too_little(what, bytes, SMALLER_TEXT)
}

/// The error for `bytes` that there are not.
pub(crate) fn too_little(what: String, bytes: u64, remedy: &'static str) -> RuntimeError {
    // The system refused although more seemed to be left: then that figure says nothing.
    let left = left().filter(|left| left.bytes < bytes);
    refusal(what, bytes, left.as_ref(), remedy)
}

fn refusal(what: String, bytes: u64, left: Option<&Left>, remedy: &'static str) -> RuntimeError {
    let left = left.map_or_else(|| "the memory available".to_owned(), Left::to_string);
    RuntimeError::NoMemory { what, bytes, left, remedy }
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
    fn large_buffers_are_zeros_of_any_size() {
        for n in [0, 1, 1000, 3 << 20] {
            let mut floats = Floats::new(n).unwrap();
            assert_eq!(floats.len(), n);
            assert!(floats.iter().all(|v| *v == 0.0));
            floats.fill(2.5);
            assert_eq!(floats.iter().sum::<f32>(), 2.5 * n as f32);
        }
        assert!(Floats::default().is_empty());
        assert!(Floats::new(usize::MAX).is_none() && Large::new(usize::MAX).is_none());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(check("a test", Some(1)).is_ok());
        let text = check("the KV cache", Some(1 << 62)).unwrap_err().to_string();
        assert!(["the KV cache", "4.0 EiB", "(-c)"].iter().all(|w| text.contains(w)), "{text}");
        let text = check_or("the workspace", Some(1 << 62), "buy more").unwrap_err().to_string();
        assert!(text.ends_with("; buy more") && text.contains("more than the "), "{text}");
        assert!(cfg!(not(target_os = "linux")) || text.contains("iB "), "what is left is told: {text}");
        assert!(check("a test", None).is_err());
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(1 << 30), "1.0 GiB");
    }
}
