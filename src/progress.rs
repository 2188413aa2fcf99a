//! Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere, and Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::signals::{self, CtrlC};
use crate::sink::{self, errln};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use ocelli_convert::progress::Progress;

/// Time between two lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Set by Ctrl-C.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The flag that Ctrl-C sets after [`Bar::new`], for what computes.
pub(crate) fn interrupt() -> Arc<AtomicBool> {
    Arc::clone(&INTERRUPTED)
}

/// Whether Ctrl-C was pressed since [`Bar::new`].
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Shows the library's progress and cancels the work on Ctrl-C.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    visible: bool,
    lines: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    file: String,
    started: Instant,
    last: Instant,
}

impl Bar {
    /// A bar that is drawn once work begins. `quiet` shows nothing. Takes over Ctrl-C until the process ends.
    pub(crate) fn new(quiet: bool) -> anyhow::Result<Self> {
        signals::watch(&INTERRUPTED, CtrlC::Ends, || {})?;
        let mut bar = Self::leaving_ctrl_c();
        bar.visible = !quiet;
        Ok(bar)
    }

    /// A bar for work that Ctrl-C simply ends, or in a process that has its own use of it.
    pub(crate) fn leaving_ctrl_c() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let now = Instant::now();
        let lines = Mutex::new(Lines { file: String::new(), started: now, last: now });
        Self { bar, visible: true, lines }
    }

    fn is_terminal() -> bool {
        sink::err_is_terminal()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix} [{bar:24}] {percent:>3}% {bytes}/{total_bytes} {speed} {left} {msg}";
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
        .with_key("speed", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = write!(w, "{:.0} MB/s", state.per_sec() / 1e6);
        })
        .with_key("left", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = write!(w, "{} left", clock(state.eta()));
        })
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

impl Progress for Bar {
    fn begin(&self, file: &str, bytes: u64) {
        self.bar.reset();
        self.bar.set_length(bytes);
        let now = Instant::now();
        *self.lines() = Lines { file: file.to_owned(), started: now, last: now };
        if self.visible && Self::is_terminal() {
            self.bar.set_style(style());
            self.bar.set_prefix(sink::line(file).into_owned());
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        }
    }

    fn tensor(&self, name: &str, index: usize, count: usize) {
        self.bar.set_message(format!("{}/{count} {}", index + 1, sink::line(name)));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if !self.visible || Self::is_terminal() {
            return;
        }
        let mut lines = self.lines();
        if lines.last.elapsed() < LINE_EVERY {
            return;
        }
        lines.last = Instant::now();
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let per_second = done as f64 / lines.started.elapsed().as_secs_f64().max(1e-3);
        let left = Duration::from_secs_f64(total.saturating_sub(done) as f64 / per_second.max(1.0));
        errln!(
            "{}: {}% {:.0} MB/s, {} left, {}",
            lines.file,
            (done * 100).checked_div(total).unwrap_or(100),
            per_second / 1e6,
            clock(left),
            self.bar.message()
        );
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn cancelled(&self) -> bool {
        interrupted()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
