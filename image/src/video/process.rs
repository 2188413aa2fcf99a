//! A program in a process of its own, read by threads so that waiting for it can be interrupted and comes to an end.
//!
//! The program leads a process group, which is killed when the program is not to be waited for any longer. Should *this*
//! program be killed, a watchdog does it: a shell whose standard input is a pipe from here. When the pipe's end closes,
//! which the system sees to in any case, its `read` returns. The shell gets nothing but a process number.

use std::io::Read;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::{ImageError, Job, video_error};

/// How often a wait looks at the interrupt flag.
const POLL: Duration = Duration::from_millis(50);

/// How long a program may take to end when it has nothing more to give, and its messages to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The most of a program's messages that is kept.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// A program whose output is read by a thread. Dropping it ends the program.
pub(super) struct Running<T> {
    program: String,
    child: Child,
    #[cfg(unix)]
    watchdog: Option<Child>,
    items: Receiver<T>,
    messages: Receiver<Vec<u8>>,
}

impl<T: Send + 'static> Running<T> {
    /// Starts `command`; `read` gets its output and hands on what it makes of it.
    pub(super) fn start(
        mut command: Command,
        read: impl FnOnce(ChildStdout, &dyn Fn(T) -> Result<(), ()>) + Send + 'static,
    ) -> Result<Self, ImageError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => ImageError::NoFfmpeg { program: program.clone(), command: INSTALL },
            _ => video_error(format!("cannot start `{program}`: {e}")),
        })?;
        let (send, items) = sync_channel(1);
        let (send_messages, messages) = sync_channel(1);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        #[cfg_attr(not(unix), allow(unused_mut))]
        let mut running = Self {
            program,
            child,
            #[cfg(unix)]
            watchdog: None,
            items,
            messages,
        };
        #[cfg(unix)]
        running.watch()?;
        // These threads are not waited for: they end with the pipes, which a process that left the group could hold.
        if let Some(out) = stdout {
            std::thread::spawn(move || read(out, &|item| send.send(item).map_err(drop)));
        }
        if let Some(err) = stderr {
            std::thread::spawn(move || drop(send_messages.send(read_messages(err))));
        }
        Ok(running)
    }

    /// Starts the process that ends the program's group when this program ends.
    #[cfg(unix)]
    fn watch(&mut self) -> Result<(), ImageError> {
        const SCRIPT: &str = r#"trap "" HUP INT QUIT TERM; read -r line; kill -9 "-$1""#;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "sh", &self.child.id().to_string()]).env_clear().current_dir("/");
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut shell, 0);
        let shell = shell.spawn().map_err(|e| {
            video_error(format!("cannot start `/bin/sh`, which is to end `{}` with this program: {e}", self.program))
        })?;
        self.watchdog = Some(shell);
        Ok(())
    }

    /// The next thing read, if it comes before `patience` is over; nothing at the end.
    pub(super) fn next(&mut self, job: &Job<'_>, patience: Duration) -> Result<Option<T>, ImageError> {
        let started = Instant::now();
        loop {
            job.check_interrupt()?;
            match self.items.recv_timeout(POLL.min(patience)) {
                Ok(item) => return Ok(Some(item)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if started.elapsed() >= patience => {
                    return Err(video_error(format!(
                        "{} gave nothing for {:.0?} and was ended; convert the video to MP4 with H.264",
                        self.program, patience
                    )));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Waits for the end; an error with the program's last message if it failed, unless that does not matter.
    pub(super) fn finish(mut self, job: &Job<'_>, tolerant: bool) -> Result<(), ImageError> {
        // A reader that is still sending ends, and with it the pipe that the program writes to.
        self.items = sync_channel(0).1;
        let status = self.wait(job)?;
        if tolerant {
            return Ok(());
        }
        let Some(status) = status else {
            return Err(video_error(format!("{} did not end and was killed", self.program)));
        };
        let messages = self.messages.recv_timeout(LAST_WORDS).unwrap_or_default();
        job.check_interrupt()?;
        if status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&messages);
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let last = last.map_or_else(|| "it gave no reason".to_owned(), |line| line.escape_debug().to_string());
        Err(video_error(format!("{} failed ({status}): {last}", self.program)))
    }

    /// How the program ended, if it does soon.
    fn wait(&mut self, job: &Job<'_>) -> Result<Option<ExitStatus>, ImageError> {
        let started = Instant::now();
        loop {
            let status = self.ended();
            match status.map_err(|e| video_error(format!("cannot wait for {}: {e}", self.program)))? {
                None if started.elapsed() < LAST_WORDS => std::thread::sleep(POLL / 10),
                status => return Ok(status),
            }
            job.check_interrupt()?;
        }
    }
}

impl<T> Running<T> {
    /// Whether the program has ended; what it started ends with it.
    fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        #[cfg(unix)]
        {
            use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
            let leader = Pid::from_child(&self.child);
            // Looked at and not yet waited for: until then its number, which is the group's, cannot be another's.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if waitid(WaitId::Pid(leader), options)?.is_none() {
                return Ok(None);
            }
            let _ = kill_process_group(leader, Signal::KILL);
        }
        self.child.try_wait()
    }
}

impl<T> Drop for Running<T> {
    /// Ends the program and all it started, and the watchdog, and waits for both. All of it fails only where a process
    /// has ended by itself.
    fn drop(&mut self) {
        #[cfg(unix)]
        {
            // Once the leader has been waited for, its number can be another's.
            if matches!(self.ended(), Ok(None)) {
                let group = rustix::process::Pid::from_child(&self.child);
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
        }
        drop(self.child.kill());
        #[cfg(unix)]
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.kill());
            drop(watchdog.wait());
        }
        drop(self.child.wait());
    }
}

/// The end of what a program says, read to the last so that it never blocks.
fn read_messages(mut from: ChildStderr) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..n]);
        if kept.len() > 2 * MAX_MESSAGE_BYTES {
            kept.drain(..kept.len() - MAX_MESSAGE_BYTES);
        }
    }
    kept
}

/// How to install ffmpeg.
const INSTALL: &str = if cfg!(target_os = "macos") {
    "brew install ffmpeg"
} else if cfg!(target_os = "windows") {
    "winget install ffmpeg"
} else {
    "sudo apt install ffmpeg, sudo dnf install ffmpeg or sudo pacman -S ffmpeg"
};
