//! What a worker denies itself before it reads a template.

/// Limits this process to what one rendering may cost.
///
/// # Errors
/// When the system does not grant a limit.
#[cfg(unix)]
pub(super) fn set() -> std::io::Result<()> {
    use rustix::process::Resource;

    /// Seconds of computation; one more before the kernel kills a process that would catch the signal.
    const SECONDS: u64 = 1;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, Signal};
        // Without a parent there is nobody to enforce the deadline.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        memory()?;
        // Its memory holds a conversation, which a handler for core dumps would keep.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    lower(Resource::Cpu, SECONDS, SECONDS + 1)?;
    lower(Resource::Core, 0, 0)?;
    // Nothing in a template writes files; the zone's rules for the date are read from a few.
    lower(Resource::Fsize, 0, 0)?;
    lower(Resource::Nofile, 16, 16)?;
    Ok(())
}

/// Nothing here limits a process; the caller's deadline does.
#[cfg(not(unix))]
pub(super) fn set() -> std::io::Result<()> {
    Ok(())
}

/// Lowers a limit; one that is lower already stays.
#[cfg(unix)]
fn lower(resource: rustix::process::Resource, current: u64, maximum: u64) -> std::io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let least = |limit: Option<u64>, wanted: u64| Some(limit.map_or(wanted, |limit| limit.min(wanted)));
    let new = rustix::process::Rlimit { current: least(now.current, current), maximum: least(now.maximum, maximum) };
    Ok(rustix::process::setrlimit(resource, new)?)
}

/// Bounds what is written to (the heap, stacks of threads) and, in case a kernel counts that differently, the address
/// space. In it, an allocator may keep ranges for a thread that nothing is written to.
#[cfg(target_os = "linux")]
fn memory() -> std::io::Result<()> {
    use rustix::process::Resource;

    use super::MEMORY;

    /// Address space kept by the allocator for two threads, at most.
    const RESERVED: u64 = 256 << 20;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    // Without /proc the sizes at the start are not known; a program has less than this.
    let of = |key: &str, usual: u64| kib(key).map_or(usual, |n| n << 10);
    let (data, space) = (of("VmData:", 16 << 20) + MEMORY, of("VmSize:", 128 << 20) + MEMORY + RESERVED);
    lower(Resource::Data, data, data)?;
    lower(Resource::As, space, space)
}
