//! How much memory the machine has left, asked before anything large is allocated.

use crate::RuntimeError;

/// Bytes the system could hand out without swapping, where it says so (Linux: `MemAvailable`).
#[must_use]
pub fn available() -> Option<u64> {
    parse_mem_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What helps when a text model's memory is too large.
const SMALLER_TEXT: &str = "use a smaller context (-c), a smaller batch (-ub) or q8_0 KV types (-ctk, -ctv)";

/// Refuses `bytes` (`None`: beyond 64 bits) when they are more than the system has left, for something that the options
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
    let fits = match (bytes, available()) {
        (None, _) => false,
        (Some(bytes), Some(left)) => bytes <= left,
        (Some(bytes), None) => isize::try_from(bytes).is_ok(),
    };
    if fits { Ok(()) } else { Err(no_memory(what.into(), bytes.unwrap_or(u64::MAX), remedy)) }
}

/// The error for `bytes` that a text model's memory cannot have.
pub(crate) fn too_large(what: String, bytes: u64) -> RuntimeError {
    no_memory(what, bytes, SMALLER_TEXT)
}

fn no_memory(what: String, bytes: u64, remedy: &'static str) -> RuntimeError {
    RuntimeError::NoMemory { what, bytes, remedy }
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
    fn meminfo_lines() {
        assert_eq!(parse_mem_available("MemTotal: 10 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_mem_available("MemTotal: 10 kB\n"), None);
        assert_eq!(parse_mem_available("MemAvailable: 99999999999999999999 kB"), None);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(check("a test", Some(1)).is_ok());
        let text = check("the KV cache", Some(1 << 62)).unwrap_err().to_string();
        assert!(["the KV cache", "4.0 EiB", "(-c)"].iter().all(|w| text.contains(w)), "{text}");
        let text = check_or("the workspace", Some(1 << 62), "buy more").unwrap_err().to_string();
        assert!(text.ends_with("available; buy more"), "{text}");
        assert!(check("a test", None).is_err());
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(1 << 30), "1.0 GiB");
    }
}
