//! Chat templates of strangers, rendered by the program itself as the worker.

mod honest;
mod hostile;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hostile::{End, Row};
use ocelli_text::template::{ChatTemplate, Message, RenderOptions, TemplateError, Worker};

/// Tests that look at the processes of this one take turns.
static TURN: Mutex<()> = Mutex::new(());

fn worker() -> Worker {
    Worker::at(env!("CARGO_BIN_EXE_ocelli"))
}

fn turns() -> Vec<Message> {
    vec![Message::new("system", "Be brief."), Message::new("user", "Hi"), Message::new("assistant", "Yes.")]
}

fn render(worker: &Worker, source: &str) -> Result<String, TemplateError> {
    let options = RenderOptions { bos_token: "<s>", eos_token: "</s>", ..RenderOptions::default() };
    ChatTemplate::from_choice(source, Some(worker))?.render(&turns(), &options)
}

/// What is wrong with how `row` ended.
fn fault(worker: &Worker, row: &Row, longest: &AtomicU64) -> Option<String> {
    let (name, source, end) = row;
    let started = Instant::now();
    let outcome = render(worker, source);
    let took = started.elapsed();
    longest.fetch_max(u64::try_from(took.as_millis()).unwrap(), Ordering::Relaxed);
    let text = match outcome {
        _ if took > Duration::from_secs(5) => Some(format!("took {took:?}")),
        Ok(text) if *end == End::Refused => Some(format!("made a prompt of {} bytes", text.len())),
        Ok(text) => (text.len() > 4 << 20).then(|| "made a longer prompt than the limit".to_owned()),
        Err(error) if !error.is_about_the_template() => Some(format!("blames something else: {error}")),
        Err(error) => {
            let told = error.to_string();
            let is_good = told.contains("chat format") && told.len() < 600 && !told.contains(char::is_control);
            (!is_good).then_some(told)
        }
    };
    text.map(|text| format!("{name}: {text}"))
}

/// The caller's deadline alone ends most of these; that workers limit themselves is the next test's matter.
#[test]
fn hostile_templates_end() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (worker, rows) = (worker().with_deadline(Duration::from_millis(400)), hostile::rows());
    let names: BTreeSet<_> = rows.iter().map(|(name, ..)| name).collect();
    assert_eq!(names.len(), rows.len(), "every row has a name of its own");
    let (next, longest, faults) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    let render = || {
        while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            faults.lock().unwrap().extend(fault(&worker, row, &longest));
        }
    };
    let memory = watch::memory(|| {
        std::thread::scope(|scope| {
            (0..6).for_each(|_| drop(scope.spawn(render)));
        });
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), rows.len(), faults.join("\n"));
    assert!(memory.caller < 64, "{memory:?} in MiB");
    println!("{} rows, the longest of {longest:?} ms, {memory:?} in MiB", rows.len());
}

/// With hours to answer in, what ends a worker is its own limits of computation, memory and stack.
#[cfg(target_os = "linux")]
#[test]
fn a_worker_limits_itself() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = worker().with_deadline(Duration::from_secs(9999));
    let shared = "{% set n = namespace(x=[0]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
    let walked = render(&worker, &format!("{shared}{{{{ {{n.x: 1}} }}}}"));
    assert!(matches!(walked, Err(TemplateError::TooSlow)), "{walked:?}");
    let signs = render(&worker, &format!("{{{{ {}1 }}}}", "-".repeat(300_000)));
    assert!(matches!(signs, Err(TemplateError::TooMuchMemory)), "{signs:?}");
    let memory = watch::memory(|| {
        for _ in 0..3 {
            let padded = render(&worker, "{% set s = 'ab ' * 3000000 %}{{ s.replace('b', s) }}");
            assert!(matches!(padded, Err(TemplateError::TooMuchMemory)), "{padded:?}");
        }
    });
    assert!(memory.caller < 64 && (64..320).contains(&memory.worker), "{memory:?} in MiB");
}

/// What processes take, as Linux tells.
#[cfg(target_os = "linux")]
mod watch {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    use super::Memory;

    /// A number from /proc/…/status; sizes are in KiB.
    fn status(process: &str, key: &str) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// The processes this one has started and not yet reaped.
    fn children() -> Vec<String> {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// What `work` takes; no process it starts is left.
    pub(crate) fn memory(work: impl FnOnce()) -> Memory {
        let before = status("self", "VmHWM").unwrap();
        let (largest, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let resident = children().iter().filter_map(|process| status(process, "VmHWM")).max();
                    largest.fetch_max(resident.unwrap_or(0), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            done.store(true, Ordering::Relaxed);
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        assert_eq!(children(), [""; 0], "processes left behind");
        Memory { caller: (status("self", "VmHWM").unwrap() - before) >> 10, worker: largest.into_inner() >> 10 }
    }
}

/// Elsewhere nothing is watched.
#[cfg(not(target_os = "linux"))]
mod watch {
    pub(crate) fn memory(work: impl FnOnce()) -> super::Memory {
        work();
        super::Memory::default()
    }
}

/// Growth of this process and size of its largest worker, in MiB.
#[derive(Debug, Default)]
struct Memory {
    caller: u64,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    worker: u64,
}
