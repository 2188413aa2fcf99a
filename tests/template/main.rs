//! Chat templates of strangers, rendered by the program itself as the worker.

mod honest;
mod hostile;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hostile::{End, Row};
use ocelli_runtime::template::{ChatTemplate, Message, RenderOptions, TemplateError, Worker};

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

/// A row of /proc/…/status in KiB or as a bare number.
#[cfg(target_os = "linux")]
fn status(process: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The processes this one has started and not yet reaped.
#[cfg(target_os = "linux")]
fn children() -> Vec<String> {
    let own = u64::from(std::process::id());
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let processes = all.filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    processes.filter(|process| status(process, "PPid") == Some(own)).collect()
}

/// What is wrong with how `row` ended.
fn fault(worker: &Worker, row: &Row, longest: &AtomicU64) -> Option<String> {
    let (name, source, end) = row;
    let started = Instant::now();
    let outcome = render(worker, source);
    let took = started.elapsed();
    longest.fetch_max(u64::try_from(took.as_millis()).unwrap(), Ordering::Relaxed);
    if std::env::var_os("SHOW_ROWS").is_some() {
        println!("{:6.0} ms  {name}: {:?}", took.as_secs_f64() * 1e3, outcome.as_ref().map(String::len));
    }
    let text = match outcome {
        _ if took > Duration::from_secs(5) => Some(format!("took {took:?}")),
        Ok(text) if *end == End::Refused => Some(format!("made a prompt of {} bytes", text.len())),
        Ok(text) => (text.len() > 16 << 20).then(|| "made a longer prompt than the limit".to_owned()),
        Err(error) if !error.is_about_the_template() => Some(format!("blames something else: {error}")),
        Err(error) => {
            let told = error.to_string();
            let is_good = told.contains("chat format") && told.len() < 600 && !told.contains(char::is_control);
            (!is_good).then_some(told)
        }
    };
    text.map(|text| format!("{name}: {text}"))
}

#[test]
fn hostile_templates_end() {
    let (worker, rows) = (worker(), hostile::rows());
    let names: std::collections::BTreeSet<_> = rows.iter().map(|(name, ..)| name).collect();
    assert_eq!(names.len(), rows.len(), "every row has a name of its own");
    let (next, longest, largest) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (faults, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    #[cfg(target_os = "linux")]
    let before = status("self", "VmHWM").unwrap();
    std::thread::scope(|scope| {
        #[cfg(target_os = "linux")]
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let resident = children().iter().filter_map(|process| status(process, "VmHWM")).max();
                largest.fetch_max(resident.unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let render = || {
            while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                faults.lock().unwrap().extend(fault(&worker, row, &longest));
            }
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(render)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), rows.len(), faults.join("\n"));
    #[cfg(target_os = "linux")]
    {
        let grown = (status("self", "VmHWM").unwrap() - before) >> 10;
        assert!(grown < 64, "the caller grew by {grown} MiB");
        let largest = largest.into_inner() >> 10;
        assert!((64..320).contains(&largest), "the largest worker took {largest} MiB");
        println!("{} rows, longest {longest:?} ms, caller +{grown} MiB, worker {largest} MiB", rows.len());
    }
}
