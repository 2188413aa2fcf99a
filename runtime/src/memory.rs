//! Large buffers, and the question whether there is the memory for them.

use std::ops::{Deref, DerefMut};

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions};

use ocelli_memory::NoMemory;

use crate::RuntimeError;

pub use ocelli_memory::{Left, Source, human, left};

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
    Ok(ocelli_memory::check(what, bytes, remedy)?)
}

/// The error for `bytes` that a text model's memory cannot have.
pub(crate) fn too_large(what: String, bytes: u64) -> RuntimeError {
    too_little(what, bytes, SMALLER_TEXT)
}

/// The error for `bytes` that there are not.
pub(crate) fn too_little(what: String, bytes: u64, remedy: &'static str) -> RuntimeError {
    NoMemory::refused(what, bytes, remedy).into()
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
    fn the_remedy_is_told() {
        let text = check("the KV cache", Some(1 << 62)).unwrap_err().to_string();
        assert!(["the KV cache", "4.0 EiB", "(-c)"].iter().all(|w| text.contains(w)), "{text}");
        assert!(check_or("the workspace", Some(1 << 62), "buy more").unwrap_err().to_string().ends_with("; buy more"));
    }
}
