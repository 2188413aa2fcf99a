//! Fetching a model from the hub, and what a user sees of it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use ocelli_hub::{Files, Hub, HubError, Plan, RepoModel, Watch};

use super::inspect::bytes;
use crate::signals;
use crate::sink::{self, errln};

/// Time between two lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Fetches what is missing of a model. A model that this build cannot run is refused before, unless `any` is fine.
///
/// Ctrl-C may simply end the program: nothing that arrived is lost.
pub(crate) fn fetch(hub: &Hub, model: &RepoModel, any: bool) -> anyhow::Result<Files> {
    let bar = Bar::new();
    let plan = match hub.plan(model, &bar) {
        Err(HubError::CheckpointOnly { repo }) => bail!(
            "{repo} has no GGUF files, only a checkpoint (safetensors); download the whole repository \
             (`hf download {repo}`) and convert that folder with `ocelli convert FOLDER --outtype Q4_K_M`"
        ),
        plan => plan?,
    };
    check_architecture(&plan, any)?;
    if plan.choice.vision.is_none() {
        errln!("ocelli: note: {} has no vision file, so the model will not see pictures", model.repo);
    }
    go_on(hub, &plan, &bar)
}

/// Fetches the vision file that belongs to a model, without the model.
pub(crate) fn fetch_vision(hub: &Hub, model: &RepoModel) -> anyhow::Result<PathBuf> {
    let bar = Bar::new();
    let plan = hub.plan(model, &bar)?;
    let plan = hub.only_vision(plan).with_context(|| format!("{model} has no vision file"))?;
    let files = go_on(hub, &plan, &bar)?;
    files.text.into_iter().next().context("the model has no files")
}

/// Fetches what a plan names, telling what that is.
fn go_on(hub: &Hub, plan: &Plan, bar: &Bar) -> anyhow::Result<Files> {
    let model = &plan.model;
    for note in &plan.choice.notes {
        errln!("ocelli: note: {note}");
    }
    if plan.missing > 0 {
        let names: Vec<&str> =
            plan.choice.text.iter().take(1).chain(&plan.choice.vision).map(|file| file.path.as_str()).collect();
        let parts = match plan.choice.text.len() {
            1 => String::new(),
            n => format!(" in {n} parts"),
        };
        let there = match plan.bytes - plan.missing {
            0 => String::new(),
            there => format!(", {} of it there already", bytes(there)),
        };
        errln!(
            "fetching {} of {model}{parts}: {}{there}, into {}",
            names.join(" and "),
            bytes(plan.bytes),
            hub.repo(model).folder().display()
        );
    }
    Ok(hub.fetch(plan, bar)?)
}

fn check_architecture(plan: &Plan, any: bool) -> anyhow::Result<()> {
    let known = ocelli_runtime::architectures();
    if let Some(found) = plan.architecture.as_deref().filter(|found| !any && !known.contains(found)) {
        bail!(
            "{} is a model of architecture `{}`, which this version does not run (it runs {}); `ocelli pull --any` fetches it \
             all the same",
            plan.model.repo,
            found.escape_debug(),
            known.join(", ")
        );
    }
    Ok(())
}

/// Shows a download on stderr: a bar on a terminal, a line now and then elsewhere.
struct Bar {
    bar: ProgressBar,
    terminal: bool,
    lines: Mutex<Lines>,
}

struct Lines {
    file: String,
    began: Instant,
    at_first: u64,
    last: Instant,
}

impl Bar {
    fn new() -> Self {
        let now = Instant::now();
        let lines = Mutex::new(Lines { file: String::new(), began: now, at_first: 0, last: now });
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let terminal = sink::err_is_terminal();
        if terminal {
            let template = "{prefix} [{bar:24}] {percent:>3}% {bytes}/{total_bytes} {speed} {left} {msg}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let style = style
                .progress_chars("=> ")
                .with_key("speed", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
                    let _ = write!(w, "{:.1} MB/s", state.per_sec() / 1e6);
                })
                .with_key("left", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
                    let _ = write!(w, "{} left", clock(state.eta()));
                });
            bar.set_style(style);
        }
        Self { bar, terminal, lines }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

impl Watch for Bar {
    fn begin(&self, file: &str, bytes: u64, arrived: u64) {
        let now = Instant::now();
        *self.lines() = Lines { file: file.to_owned(), began: now, at_first: arrived, last: now };
        self.bar.reset();
        self.bar.set_length(bytes);
        self.bar.set_position(arrived);
        // What was there already says nothing about the rate.
        self.bar.reset_eta();
        if self.terminal {
            self.bar.set_prefix(sink::line(file).into_owned());
            self.bar.set_message("");
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        }
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.terminal {
            return;
        }
        let mut lines = self.lines();
        if lines.last.elapsed() < LINE_EVERY {
            return;
        }
        lines.last = Instant::now();
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let rate = done.saturating_sub(lines.at_first) as f64 / lines.began.elapsed().as_secs_f64().max(1e-3);
        let left = Duration::from_secs_f64(all.saturating_sub(done) as f64 / rate.max(1.0));
        let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
        errln!("{}: {percent}%, {:.1} MB/s, {} left", lines.file, rate / 1e6, clock(left));
    }

    fn verifying(&self, _: &str) {
        self.bar.set_message("verifying");
    }

    fn finished(&self, _: &str) {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }

    fn waiting(&self, file: &str) {
        self.bar.suspend(|| errln!("ocelli: note: another process is downloading {file}; waiting for it"));
    }

    fn cancelled(&self) -> bool {
        signals::ending()
    }

    fn retrying(&self, reason: &str, pause: Duration) {
        // Short pauses are not worth a line.
        if pause >= Duration::from_secs(1) {
            let seconds = pause.as_secs_f64();
            self.bar.suspend(|| errln!("ocelli: note: trying again in {seconds:.0} s: {reason}"));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
