//! Rendering in a process of its own.
//!
//! A template is a program from outside. What it costs inside single operations of the interpreter (comparing, hashing
//! or printing values that share their parts, dropping a list of any depth) no counter in the interpreter sees, so the
//! system does the counting: each rendering starts this program anew as a *worker*, which limits itself before it reads
//! anything, answers one request and ends.
//!
//! ```text
//! request   "ocelli-request01"  operation u8  source: bytes u32, UTF-8  variables (to the end; see `wire`)
//! reply     "ocelli-answer001"  outcome u8  line u32  text (to the end)
//! ```
//!
//! The caller writes the request to the worker's standard input and reads the reply from its standard output, no more
//! than a prompt may have, for no longer than the deadline; then the worker is killed, if it still runs, and reaped.

mod limits;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::engine::{Engine, MAX_OUTPUT, MAX_SOURCE};
use super::error::{TemplateError, one_line};
use super::wire::{MAX_INPUT, decode, number, take};

/// The only argument of a worker.
const ARGUMENT: &str = "--ocelli-template-worker";
/// Two marks, so that a program that repeats what it is sent gives no reply.
const REQUEST: &[u8; 16] = b"ocelli-request01";
const REPLY: &[u8; 16] = b"ocelli-answer001";
/// Longest time from start to reply. Honest templates take milliseconds; the rest is for machines that are busy.
const DEADLINE: Duration = Duration::from_secs(3);
/// Memory a worker may take beyond what it has at its start.
pub(super) const MEMORY: u64 = 256 << 20;
/// Stack of the thread that renders, which counts towards [`MEMORY`]. Nested calls are limited to far less; what ends
/// here is nesting that nothing else limits.
const STACK: usize = 16 << 20;

const MAX_REQUEST: usize = REQUEST.len() + 1 + 4 + MAX_SOURCE + MAX_INPUT;
const MAX_REPLY: usize = REPLY.len() + 1 + 4 + MAX_OUTPUT;

const CHECK: u8 = 0;
const RENDER: u8 = 1;

const DONE: u8 = 0;
const SYNTAX: u8 = 1;
const RAISED: u8 = 2;
const EXPENSIVE: u8 = 3;
const LONG: u8 = 4;
const FAILED: u8 = 5;
const UNUSABLE: u8 = 6;

/// A program that renders untrusted templates when it is started as a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    program: PathBuf,
    deadline: Duration,
}

/// Serves as a worker and ends the process, if that is what this process was started for; otherwise gives the worker
/// that this program can be. The first thing a program's `main` does: before it reads its arguments, starts threads or
/// looks at the machine, so that a worker starts fast and holds nothing but the template.
///
/// ```no_run
/// use ocelli_text::template::{ChatTemplate, Message, RenderOptions, run_if_asked};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let worker = run_if_asked();
///     let template = ChatTemplate::from_choice("{{ messages[0].content }}", Some(&worker))?;
///     println!("{}", template.render(&[Message::new("user", "Hi")], &RenderOptions::default())?);
///     Ok(())
/// }
/// ```
#[must_use]
pub fn run_if_asked() -> Worker {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == ARGUMENT) && args.next().is_none() {
        serve();
    }
    Worker::at(this_program())
}

/// The path to start this program by. On Linux the link to the running file, which stays right when the file is
/// replaced by another version.
fn this_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() {
        return link.to_owned();
    }
    std::env::current_exe().or(std::env::args_os().next().map(PathBuf::from).ok_or(())).unwrap_or_default()
}

impl Worker {
    /// The worker that another program is, whose `main` begins with [`run_if_asked`].
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), deadline: DEADLINE }
    }

    /// The same with another time from the start of a worker to its reply than three seconds. Whatever it is, a worker ends
    /// after a second of computation where the system can count that.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Whether `source` is a template.
    pub(super) fn check(&self, source: &str) -> Result<(), TemplateError> {
        self.call(CHECK, source, &[]).map(drop)
    }

    /// The text for `variables`, as [`super::wire`] writes them.
    pub(super) fn render(&self, source: &str, variables: &[u8]) -> Result<String, TemplateError> {
        self.call(RENDER, source, variables)
    }

    fn call(&self, operation: u8, source: &str, variables: &[u8]) -> Result<String, TemplateError> {
        let started = Instant::now();
        let problem = |problem: String| TemplateError::Worker { program: self.program.clone(), problem };
        let length = u32::try_from(source.len()).map_err(|_| TemplateError::TooLong { bytes: source.len() as u64 })?;
        let head = [&REQUEST[..], &[operation], &length.to_le_bytes()].concat();
        let mut child = Reaped(self.command().spawn().map_err(|e| problem(e.to_string()))?);
        let (Some(stdin), Some(stdout)) = (child.0.stdin.take(), child.0.stdout.take()) else {
            return Err(problem("its input or output is no pipe".to_owned()));
        };
        let reply = std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let parts = [&head, source.as_bytes(), variables];
            let talk = move || drop(sender.send(exchange(stdin, stdout, parts)));
            std::thread::Builder::new().spawn_scoped(scope, talk).map_err(|e| problem(e.to_string()))?;
            let reply = receiver.recv_timeout(self.deadline).map_err(|_| TemplateError::TooSlow);
            if reply.is_err() {
                // Ends both pipes, and with them the thread.
                let _ = child.0.kill();
            }
            reply
        })?;
        match read_reply(&reply) {
            Some(outcome) => outcome.map_err(problem)?,
            None if reply.is_empty() => Err(match child.ended(self.deadline.saturating_sub(started.elapsed())) {
                Some(status) => cause_of(status).unwrap_or_else(|| problem(format!("it ended with {status}"))),
                None => TemplateError::TooSlow,
            }),
            None => Err(problem("its reply is not that of a template worker".to_owned())),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // What a dying worker prints, parts of the template among it, is of no use to anybody.
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            // Ctrl-C in the terminal is for the caller, which may want to go on.
            command.process_group(0);
        }
        #[cfg(windows)]
        {
            use std::os::windows::process::CommandExt;
            /// No console window for a caller that has none.
            const CREATE_NO_WINDOW: u32 = 0x0800_0000;
            command.creation_flags(CREATE_NO_WINDOW);
        }
        command
    }
}

/// A process that neither outlives this value nor stays a zombie.
struct Reaped(Child);

impl Reaped {
    /// Waits for its end, for `patience` at most: its output has ended already.
    fn ended(&mut self, patience: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(status);
            }
            if started.elapsed() >= patience {
                return None;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a request and reads a reply. A worker that dies early breaks a pipe; why it died, its status tells.
fn exchange(mut stdin: ChildStdin, stdout: ChildStdout, parts: [&[u8]; 3]) -> Vec<u8> {
    let _ = parts.iter().try_for_each(|part| stdin.write_all(part));
    drop(stdin);
    let mut reply = Vec::new();
    let _ = stdout.take(MAX_REPLY as u64 + 1).read_to_end(&mut reply);
    reply
}

/// What the template did to be ended like this.
fn cause_of(status: ExitStatus) -> Option<TemplateError> {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;

        use rustix::process::Signal;
        let signal = status.signal()?;
        let is = |known: Signal| signal == known.as_raw();
        // The hard limit of time kills; so does the kernel when memory runs out, long before which the worker's own
        // limit has ended it.
        if is(Signal::XCPU) || is(Signal::KILL) {
            return Some(TemplateError::TooSlow);
        }
        [Signal::ABORT, Signal::SEGV, Signal::BUS].into_iter().any(is).then_some(TemplateError::TooMuchMemory)
    }
    #[cfg(windows)]
    {
        /// Codes of a stack overflow and of an abort, the end of a process that gets no memory.
        const EXHAUSTED: [u32; 2] = [0xc000_00fd, 0xc000_0409];
        let code = status.code()?.cast_unsigned();
        EXHAUSTED.contains(&code).then_some(TemplateError::TooMuchMemory)
    }
    #[cfg(not(any(unix, windows)))]
    {
        let _ = status;
        None
    }
}

/// Answers one request and ends the process.
fn serve() -> ! {
    // A panic becomes a reply. Nobody reads the message, and a trace of the stack would take longer than the template.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = limits::set().map_err(|e| format!("it cannot limit itself: {e}")).and_then(|()| answer());
    let reply = write_reply(outcome);
    let is_sent = std::io::stdout().lock().write_all(&reply).is_ok();
    std::process::exit(if is_sent { 0 } else { 1 })
}

fn answer() -> Result<Result<String, TemplateError>, String> {
    let mut request = Vec::new();
    std::io::stdin().lock().take(MAX_REQUEST as u64 + 1).read_to_end(&mut request).map_err(|e| e.to_string())?;
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || perform(&request));
    match thread.map_err(|e| e.to_string())?.join() {
        Ok(outcome) => outcome.ok_or_else(|| "it was sent no request".to_owned()),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            Ok(Err(TemplateError::Failed { line: 0, reason: format!("the interpreter gave up: {message}") }))
        }
    }
}

/// The outcome of a request, if it is one.
fn perform(request: &[u8]) -> Option<Result<String, TemplateError>> {
    let mut rest = request.strip_prefix(REQUEST)?;
    let operation = take(&mut rest, 1)?[0];
    let length = number(&mut rest)?;
    let source = std::str::from_utf8(take(&mut rest, length)?).ok()?;
    let engine = Engine::compile(source);
    match operation {
        CHECK => Some(engine.map(|_| String::new())),
        RENDER => {
            let variables = decode(rest)?;
            Some(engine.and_then(|engine| engine.render(variables)))
        }
        _ => None,
    }
}

fn write_reply(outcome: Result<Result<String, TemplateError>, String>) -> Vec<u8> {
    let (tag, line, text) = match outcome {
        Ok(Ok(text)) => (DONE, 0, text),
        Ok(Err(TemplateError::Syntax { line, reason })) => (SYNTAX, line, reason),
        Ok(Err(TemplateError::Raised { message })) => (RAISED, 0, message),
        Ok(Err(TemplateError::TooExpensive { line })) => (EXPENSIVE, line, String::new()),
        Ok(Err(TemplateError::OutputTooLong)) => (LONG, 0, String::new()),
        Ok(Err(TemplateError::Failed { line, reason })) => (FAILED, line, reason),
        Ok(Err(other)) => (FAILED, 0, other.to_string()),
        Err(problem) => (UNUSABLE, 0, problem),
    };
    let line = u32::try_from(line).unwrap_or(u32::MAX);
    [&REPLY[..], &[tag], &line.to_le_bytes(), text.as_bytes()].concat()
}

/// The outcome that a reply tells, or what is wrong with the worker; `None` for bytes that are no reply.
fn read_reply(reply: &[u8]) -> Option<Result<Result<String, TemplateError>, String>> {
    let mut rest = reply.strip_prefix(REPLY)?;
    let tag = take(&mut rest, 1)?[0];
    let line = number(&mut rest)?;
    if rest.len() > MAX_OUTPUT {
        return None;
    }
    let text = std::str::from_utf8(rest).ok()?;
    Some(Ok(match tag {
        DONE => Ok(text.to_owned()),
        SYNTAX => Err(TemplateError::Syntax { line, reason: one_line(text) }),
        RAISED => Err(TemplateError::Raised { message: one_line(text) }),
        EXPENSIVE => Err(TemplateError::TooExpensive { line }),
        LONG => Err(TemplateError::OutputTooLong),
        FAILED => Err(TemplateError::Failed { line, reason: one_line(text) }),
        UNUSABLE => return Some(Err(one_line(text))),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_arrive_as_they_were_sent() {
        let line = 7;
        let failures = [
            TemplateError::Syntax { line, reason: "a".to_owned() },
            TemplateError::Raised { message: "b".to_owned() },
            TemplateError::TooExpensive { line },
            TemplateError::OutputTooLong,
            TemplateError::Failed { line, reason: "c".to_owned() },
        ];
        for failure in failures {
            let told = failure.to_string();
            let found = read_reply(&write_reply(Ok(Err(failure)))).unwrap().unwrap().unwrap_err();
            assert_eq!(found.to_string(), told);
        }
        assert_eq!(read_reply(&write_reply(Ok(Ok("ä\n".to_owned())))).unwrap().unwrap().unwrap(), "ä\n");
        assert_eq!(read_reply(&write_reply(Err("no".to_owned()))).unwrap().unwrap_err(), "no");
    }

    #[test]
    fn garbage_is_no_reply() {
        let good = write_reply(Ok(Ok("text".to_owned())));
        for cut in 0..REPLY.len() + 5 {
            assert!(read_reply(&good[..cut]).is_none(), "{cut}");
        }
        assert!(read_reply(&[&REPLY[..], &[99, 0, 0, 0, 0]].concat()).is_none());
        assert!(read_reply(&[&good[..], &[0xff]].concat()).is_none());
        assert!(read_reply(&[&good[..], &vec![b'x'; MAX_OUTPUT]].concat()).is_none());
        assert!(read_reply(b"Usage: something else").is_none());
        assert!(read_reply(&[&REQUEST[..], &good[REPLY.len()..]].concat()).is_none());
    }

    #[test]
    fn requests_are_refused_unless_whole() {
        let variables = [8u8, 0, 0, 0, 0];
        let request = [&REQUEST[..], &[RENDER], &5u32.to_le_bytes(), b"{{1}}", &variables].concat();
        assert_eq!(perform(&request).unwrap().unwrap(), "1");
        assert!((0..request.len()).all(|cut| perform(&request[..cut]).is_none()));
    }
}
