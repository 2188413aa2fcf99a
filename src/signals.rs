//! Ctrl-C, SIGTERM and SIGHUP: one handler for the process, which leaves no unfinished file when it ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;

use crate::progress::EXIT_CANCELLED;

/// What a signal does; `None` while the system's own handling is in force.
static ACTION: Mutex<Option<Action>> = Mutex::new(None);

/// What a signal does.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Ends the program.
    End,
    /// Sets a flag.
    Set {
        /// The flag.
        flag: Arc<AtomicBool>,
        /// Whether the program ends when the flag is set already.
        twice_ends: bool,
    },
}

/// Makes signals do `action` from now on.
pub(crate) fn on_signal(action: Action) -> anyhow::Result<()> {
    let mut current = ACTION.lock().unwrap_or_else(PoisonError::into_inner);
    if current.is_none() {
        ctrlc::set_handler(handle).context("cannot watch for Ctrl-C")?;
    }
    *current = Some(action);
    Ok(())
}

/// Makes signals end the program without leaving a file, unless the command has them do something already.
pub(crate) fn end_unless_watched() -> anyhow::Result<()> {
    let watched = ACTION.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    if watched { Ok(()) } else { on_signal(Action::End) }
}

/// Runs on a thread of its own.
fn handle() {
    let action = ACTION.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ocelli_files::interrupt();
    match action {
        Some(Action::Set { flag, twice_ends }) => {
            // A second signal means that waiting for the work to stop is not wanted.
            if flag.swap(true, Ordering::Relaxed) && twice_ends {
                end();
            }
        }
        Some(Action::End) | None => end(),
    }
}

/// Ends the program without unwinding.
fn end() {
    ocelli_files::remove_unfinished();
    std::process::exit(i32::from(EXIT_CANCELLED));
}
