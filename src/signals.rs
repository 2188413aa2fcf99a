//! Signals that end the program: Ctrl-C (SIGINT), `kill` or a shutdown (SIGTERM), a closed terminal (SIGHUP).
//!
//! A signal never ends the program by itself once [`watch`] was called. It is noted, the work at hand is told to stop, and
//! the command comes to its end as always: answers and sessions are saved, temporary files are removed. [`exit_status`] is
//! then what shells expect, 128 + the signal's number. A second signal ends the program at once; files that were being written then
//! stay as they were before.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The signal that ends the program; 0: none so far.
static ENDING: AtomicI32 = AtomicI32::new(0);

/// What Ctrl-C means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CtrlC {
    /// It ends the program.
    Ends,
    /// It stops the work at hand, for a person who goes on at the prompt.
    Stops,
}

/// Exit status after the signal that ended the program, if one did.
pub(crate) fn exit_status() -> Option<u8> {
    match ENDING.load(Ordering::SeqCst) {
        0 => None,
        signal => u8::try_from(128 + signal).ok(),
    }
}

/// Whether a signal has come that ends the program.
pub(crate) fn ending() -> bool {
    ENDING.load(Ordering::SeqCst) != 0
}

/// Clears a flag that [`watch`] sets, before new work. Once the program is ending, it stays set.
pub(crate) fn clear(interrupt: &AtomicBool) {
    interrupt.store(false, Ordering::SeqCst);
    // A signal that comes later than this look sets the flag after it was cleared.
    if ending() {
        interrupt.store(true, Ordering::SeqCst);
    }
}

/// What signals do; `None` while the system's own handling is in force.
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

struct Watch {
    interrupt: Arc<AtomicBool>,
    ctrl_c: CtrlC,
    ends: Box<dyn Fn() + Send>,
}

/// Watches for signals from now on: sets `interrupt`, and calls `ends` when the program is to end. Replaces what an earlier
/// call asked for. Signals that whoever started the program wants ignored (`nohup`, a background job) stay ignored.
///
/// # Errors
/// When the system gives no thread or refuses the handlers.
pub(crate) fn watch(
    interrupt: &Arc<AtomicBool>,
    ctrl_c: CtrlC,
    ends: impl Fn() + Send + 'static,
) -> anyhow::Result<()> {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    if watch.is_none() {
        start()?;
    }
    *watch = Some(Watch { interrupt: Arc::clone(interrupt), ctrl_c, ends: Box::new(ends) });
    Ok(())
}

/// Makes signals end the program at once, but leave no unfinished file, unless the command watches for them already.
///
/// # Errors
/// As [`watch`].
pub(crate) fn end_unless_watched() -> anyhow::Result<()> {
    let is_watched = WATCH.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    if is_watched { Ok(()) } else { watch(&Arc::default(), CtrlC::Ends, end) }
}

/// Starts the thread that hears signals.
fn start() -> anyhow::Result<()> {
    const FAILED: &str = "cannot watch for signals";
    let ignored = ignored();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !ignored.contains(signal));
    let mut signals = Signals::new(wanted).context(FAILED)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(heard))
        .context(FAILED)?;
    Ok(())
}

fn heard(signal: i32) {
    let watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(watch) = &*watch else { return };
    if signal == SIGINT && watch.ctrl_c == CtrlC::Stops && !ending() {
        watch.interrupt.store(true, Ordering::SeqCst);
        return;
    }
    if ENDING.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        // A second one: waiting is not wanted.
        end();
    }
    watch.interrupt.store(true, Ordering::SeqCst);
    ocelli_files::interrupt();
    (watch.ends)();
}

/// Ends the program without unwinding.
fn end() {
    ocelli_files::remove_unfinished();
    std::process::exit(exit_status().map_or(1, i32::from));
}

/// The signals that were ignored when the program started, where the system tells.
fn ignored() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| mask >> (signal - 1) & 1 == 1).collect()
}
