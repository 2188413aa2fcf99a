//! Conversations with the bundled model that end in every way: signals, closed terminals, full disks, lines that are no text.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ocelli_convert::mixture::FileType;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::Value;

use crate::cli::text;
use crate::fixture::mini;

/// More than any answer takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(120);

const SIGNALS: [(Signal, i32); 3] = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];

fn ocelli(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocelli"));
    command.args(args).env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command.env_remove("OCELLI_ISA").env("TERM", "xterm");
    command
}

fn chat(more: &[&str]) -> Command {
    ocelli(&[&["chat", "--temp", "0", "-t", "1"], more].concat())
}

fn output(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refuses its options does not read on; that is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn status(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > LONG {
            child.kill().unwrap();
            panic!("the program does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program at a pipe that stays open.
struct Piped {
    child: Child,
    input: Option<ChildStdin>,
    told: BufReader<ChildStderr>,
}

impl Piped {
    fn new(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (input, told) = (child.stdin.take(), BufReader::new(child.stderr.take().unwrap()));
        Self { child, input, told }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input.as_ref().unwrap(), "{line}").unwrap();
    }

    /// Reads what is told up to a line with `word`; gives all of it.
    fn until(&mut self, word: &str) -> String {
        let mut all = String::new();
        loop {
            let start = all.len();
            assert_ne!(self.told.read_line(&mut all).unwrap(), 0, "the program ended before `{word}`: {all}");
            if all[start..].contains(word) {
                return all;
            }
        }
    }

    /// Waits for the beginning of an answer.
    fn hear(&mut self) {
        self.child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }

    fn end(mut self) -> (Option<i32>, String) {
        let status = status(&mut self.child);
        let mut rest = String::new();
        self.told.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

/// The messages in a session file, which is only looked at.
fn messages(session: &Path) -> usize {
    let before = std::fs::read(session).unwrap();
    let out = output(chat(&["--session", session.to_str().unwrap()]), b"");
    let told = text(&out.stderr);
    assert!(out.status.success(), "{told}");
    assert_eq!(std::fs::read(session).unwrap(), before, "where nothing is said, nothing is saved");
    let at = told.split(": ").find_map(|part| part.split_once(" message")?.0.parse().ok());
    at.unwrap_or_else(|| panic!("{told}"))
}

/// Refuses `command` with `words`, and leaves `file` alone.
#[track_caller]
fn refused(command: Command, file: &Path, words: &[&str]) {
    let before = std::fs::read(file).unwrap();
    let out = output(command, b"Hello\n");
    let told = text(&out.stderr);
    let error = told.lines().find(|line| line.starts_with("ocelli: error: ")).unwrap_or_else(|| panic!("{told}"));
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    assert!(std::fs::read(file).unwrap() == before, "{words:?}: the file has changed");
}

#[test]
fn every_signal_ends_a_piped_conversation_and_saves_it() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in SIGNALS {
        let session = dir.path().join(code.to_string());
        let session_arg = session.to_str().unwrap();
        // At a prompt that is fed by a silent pipe.
        let mut piped = Piped::new(chat(&["-n", "4", "--session", session_arg]));
        piped.say("What is this?");
        piped.until("[prompt: ");
        send(&piped.child, signal);
        let (status, told) = piped.end();
        assert_eq!(status, Some(code), "{told}");
        assert_eq!(messages(&session), 2, "{signal:?}");
        // In the middle of an answer, which is kept as far as it came.
        let mut piped = Piped::new(chat(&["--ignore-eos", "--session", session_arg]));
        piped.until("going on with");
        piped.say("And that?");
        piped.hear();
        send(&piped.child, signal);
        let (status, told) = piped.end();
        assert_eq!(status, Some(code), "{told}");
        assert!(told.contains("[stopped]") && told.contains("saved 4 messages"), "{told}");
        assert_eq!(messages(&session), 4, "{signal:?}");
        // And goes on.
        let out = output(chat(&["-n", "4", "--session", session_arg]), b"More?\n");
        assert!(out.status.success() && text(&out.stderr).contains(" cached)"), "{}", text(&out.stderr));
        assert_eq!(messages(&session), 6, "{signal:?}");
    }
}

#[test]
fn every_turn_is_saved_when_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let session = dir.path().join("talk");
    let mut piped = Piped::new(chat(&["-n", "4", "--session", session.to_str().unwrap()]));
    for turn in 1..=2 {
        piped.say("Hello");
        piped.until("[prompt: ");
        // Told after the line before was dealt with altogether.
        piped.say("/params");
        piped.until("temperature");
        assert!(session.is_file(), "after turn {turn}");
    }
    piped.child.kill().unwrap();
    piped.child.wait().unwrap();
    assert_eq!(messages(&session), 4);
    assert_eq!(std::fs::metadata(&session).unwrap().permissions().mode() & 0o777, 0o600);
    let entries = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(entries, 1, "nothing else is left");
    let out = output(chat(&["--session", dir.path().join("none/talk").to_str().unwrap()]), b"");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("does not exist; create it first"), "{}", text(&out.stderr));
}

#[test]
fn a_conversation_that_cannot_be_saved_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    for comes_back in [true, false] {
        std::fs::create_dir(&folder).unwrap();
        let mut piped = Piped::new(chat(&["-n", "4", "--session", folder.join("talk").to_str().unwrap()]));
        piped.until("context: ");
        piped.say("/params");
        piped.until("temperature");
        std::fs::remove_dir(&folder).unwrap();
        for _ in 0..2 {
            piped.say("Hello");
            piped.until("[prompt: ");
            piped.until("warning: the conversation is not saved: ");
        }
        if comes_back {
            std::fs::create_dir(&folder).unwrap();
        }
        piped.input = None;
        let (status, told) = piped.end();
        assert_eq!(status, Some(i32::from(!comes_back)), "{told}");
        if comes_back {
            assert_eq!(messages(&folder.join("talk")), 4);
            std::fs::remove_dir_all(&folder).unwrap();
        } else {
            assert!(told.contains("error: the conversation is not saved"), "{told}");
        }
    }
}

#[test]
fn run_goes_on_with_a_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let (session, prompt) = (dir.path().join("talk"), dir.path().join("prompt"));
    let (talk, single) = (session.to_str().unwrap(), prompt.to_str().unwrap());
    let out = output(chat(&["-n", "8", "--session", talk]), b"What is a star?\n");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let run = |more: &[&str]| ocelli(&[&["run", "--temp", "0", "-t", "1", "-n", "8", "-p", "And now?"], more].concat());
    let out = output(run(&["--json", "--session", talk]), b"");
    let told = text(&out.stderr);
    assert!(told.contains("going on with the conversation in") && told.contains("2 messages"), "{told}");
    let in_run: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(in_run["cached_tokens"].as_u64().unwrap() > 8, "with its context: {in_run}");
    assert_eq!(messages(&session), 4);
    // As if it had been said in the chat.
    let out = output(chat(&["-n", "8"]), b"What is a star?\nAnd now?\n");
    let said = text(&out.stdout);
    let in_chat = said.trim_end().rsplit('\n').next().unwrap();
    assert_eq!(in_run["text"].as_str().unwrap().rsplit('\n').next().unwrap(), in_chat, "{said}");

    refused(run(&["--raw", "--session", talk]), &session, &["talk", "--raw"]);
    refused(run(&["--chat-template", "zephyr", "--session", talk]), &session, &["talk", "another chat template"]);
    refused(chat(&["--chat-template", "zephyr", "--session", talk]), &session, &["talk", "another chat template"]);
    refused(run(&["-ctk", "q8_0", "--session", talk]), &session, &["talk", "-ctk f16"]);
    let other = mini(FileType::Q4_K_M);
    let other = other.to_str().unwrap();
    refused(run(&["-m", other, "--session", talk]), &session, &["talk", "another model"]);
    refused(chat(&["-m", other, "--session", talk]), &session, &["talk", "another model"]);
    // What `run` keeps by itself is no conversation.
    assert!(output(run(&["--session", single]), b"").status.success());
    refused(chat(&["--session", single]), &prompt, &["prompt", "no conversation"]);
    std::fs::write(&session, "my notes").unwrap();
    refused(chat(&["--session", talk]), &session, &["talk", "session file"]);
    refused(run(&["--session", talk]), &session, &["talk", "session file"]);
}

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/trained/images").join(name)
}

#[test]
fn pictures_of_another_vision_file_do_not_join_a_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let session = dir.path().join("talk");
    let (talk, shown) = (session.to_str().unwrap(), picture("colour-00001-0.png"));
    let script = format!("/image {}\nWhat colour is it?\n", shown.display());
    let out = output(chat(&["-n", "4", "-c", "512", "--session", talk]), script.as_bytes());
    let told = text(&out.stderr);
    assert!(out.status.success(), "{told}");
    let mmproj = told.split("vision: ").nth(1).unwrap().split(',').next().unwrap();
    let mut parts = crate::fixture::Parts::of(Path::new(mmproj));
    for tensor in &mut parts.tensors {
        tensor.bytes[0] ^= 1;
    }
    let other = dir.path().join("mmproj.gguf");
    parts.write(&other);
    let mmproj = ["-c", "512", "--session", talk, "--mmproj", other.to_str().unwrap()];
    refused(chat(&mmproj), &session, &["talk", "another vision file"]);
    refused(ocelli(&[&["run", "-p", "And?"], &mmproj[..]].concat()), &session, &["talk", "another vision file"]);
    let out = output(ocelli(&["run", "-p", "And?", "-n", "4", "-c", "512", "--session", talk]), b"");
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(messages(&session), 4);
}

#[test]
fn lines_that_fail_do_not_end_a_piped_conversation() {
    let input = b"\xef\xbb\xbfHello\r\n\r\nca\xff\nx\0y\n/nothing\nWhat is \xe2\x98\x85?\r\nlast";
    let out = output(chat(&["-n", "4"]), input);
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert_eq!(told.matches("[prompt: ").count(), 3, "{told}");
    for words in ["not UTF-8 text (byte 2", "NUL", "no command /nothing", "3 lines of the input"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let plain = output(chat(&["-n", "4"]), "Hello\nWhat is \u{2605}?\nlast\n".as_bytes());
    assert!(plain.status.success());
    assert_eq!(text(&plain.stdout), text(&out.stdout), "line ends and marks are no part of a message");
}

#[test]
fn pictures_that_do_not_fit_are_dropped_with_their_message() {
    let shown = picture("colour-00001-0.png");
    let shown = shown.display();
    let script = format!("/image {shown} {shown} {shown}\n/images\nWhat?\n/images\nHi\n/image {shown}\n/images none\n");
    let out = output(chat(&["-n", "4", "-c", "64"]), script.as_bytes());
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains("3 pictures (60 tokens) with the next message"), "{told}");
    let refusal = told.lines().find(|line| line.contains("do not fit the context of 64")).unwrap();
    assert!(refusal.contains("3 pictures (60 tokens) were dropped: show fewer"), "{refusal}");
    assert_eq!(told.matches("no pictures wait").count(), 2, "{told}");
    assert_eq!(told.matches("[prompt: ").count(), 1, "the next message is answered: {told}");
}

#[test]
fn an_interrupted_run_prints_and_saves_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in SIGNALS {
        for json in [false, true] {
            let session = dir.path().join(format!("{code}-{json}"));
            let args = ["run", "--temp", "0", "-t", "1", "--ignore-eos", "-p", "Hello", "--session"];
            let more = [session.to_str().unwrap(), "--json"];
            let mut piped = Piped::new(ocelli(&[&args[..], &more[..1 + usize::from(json)]].concat()));
            if json {
                piped.until("context: ");
                std::thread::sleep(Duration::from_secs(1));
            } else {
                piped.hear();
            }
            send(&piped.child, signal);
            let mut said = String::new();
            piped.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
            let (status, told) = piped.end();
            assert_eq!(status, Some(code), "{told}");
            assert!(session.is_file(), "{told}");
            if json {
                let value: Value = serde_json::from_str(&said).unwrap();
                assert_eq!(value["stop"], "interrupted");
                assert!(!value["text"].as_str().unwrap().is_empty());
            }
        }
    }
}

#[test]
fn a_measurement_ends_with_the_figures_so_far() {
    let words = "red green blue star circle ".repeat(20_000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    std::fs::write(&file, words).unwrap();
    let logits = dir.path().join("logits");
    let args = ["perplexity", "-t", "1", "-f", file.to_str().unwrap(), "--save-logits", logits.to_str().unwrap()];
    let mut piped = Piped::new(ocelli(&args));
    piped.until("[1/");
    send(&piped.child, Signal::TERM);
    let (status, told) = piped.end();
    assert_eq!(status, Some(143), "{told}");
    assert!(told.contains("interrupted after ") && told.contains("whose perplexity is"), "{told}");
}

/// A program at a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    /// What the terminal shows.
    shown: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn new(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(name).unwrap();
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        drop(slave);
        let keys = File::from(master);
        let (mut screen, (send, shown)) = (keys.try_clone().unwrap(), channel());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A terminal whose program has ended reads as an error.
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                if send.send(bytes[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keys, shown, seen: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `n` times `word` is shown in all.
    fn until(&mut self, word: &str, n: usize) {
        let started = Instant::now();
        while self.seen.matches(word).count() < n {
            assert!(started.elapsed() < LONG, "{n} × `{word}`: {}", self.seen);
            if let Ok(bytes) = self.shown.recv_timeout(Duration::from_millis(100)) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            } else if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{status} before {n} × `{word}`: {}", self.seen);
            }
        }
    }
}

/// What shows that the editor waits for a line: brackets around pasted text are switched on.
const PROMPT: &str = "\u{1b}[?2004h";

#[test]
fn lines_that_come_at_once_are_all_answered() {
    let mut terminal = Terminal::new(chat(&["-n", "4"]));
    terminal.until(PROMPT, 1);
    terminal.press("line one\rline two\rline three\r");
    terminal.until("[prompt: ", 3);
    terminal.until(PROMPT, 4);
    // Between brackets, line ends are part of one message.
    terminal.press("\u{1b}[200~first\nsecond\u{1b}[201~\r/quit\r");
    assert!(status(&mut terminal.child).success(), "{}", terminal.seen);
    terminal.until("[prompt: ", 4);
    std::thread::sleep(Duration::from_millis(200));
    while let Ok(bytes) = terminal.shown.try_recv() {
        terminal.seen.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert_eq!(terminal.seen.matches("[prompt: ").count(), 4, "{}", terminal.seen);
}

#[test]
fn lines_typed_during_an_answer_wait_for_its_end() {
    let mut terminal = Terminal::new(chat(&["--ignore-eos", "-n", "400"]));
    terminal.until(PROMPT, 1);
    terminal.press("one\r");
    // The editor leaves the terminal before the answer begins.
    terminal.until("\u{1b}[?2004l", 1);
    terminal.press("two\rthree\r");
    terminal.until("answer: 400 tokens", 3);
    terminal.until(PROMPT, 4);
    terminal.press("/quit\r");
    assert!(status(&mut terminal.child).success(), "{}", terminal.seen);
}

#[test]
fn a_terminal_conversation_survives_signals_and_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let session = dir.path().join("talk");
    let talk = session.to_str().unwrap();
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        for more in [&["-n", "4"][..], &["--ignore-eos"]] {
            let mut terminal = Terminal::new(chat(&[more, &["--session", talk]].concat()));
            terminal.until(PROMPT, 1);
            terminal.press("Hello\r");
            if more[0] == "-n" {
                terminal.until(PROMPT, 2);
            } else {
                terminal.until("\u{1b}[?2004l", 1);
                std::thread::sleep(Duration::from_secs(1));
            }
            send(&terminal.child, signal);
            assert_eq!(status(&mut terminal.child).code(), Some(code), "{}", terminal.seen);
            let echo = tcgetattr(&terminal.keys)
                .map(|modes| modes.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON));
            assert_ne!(echo, Ok(false), "the terminal is left as it was");
            assert_eq!(messages(&session), 2);
            std::fs::remove_file(&session).unwrap();
        }
    }
    let mut terminal = Terminal::new(chat(&["-n", "4", "--session", talk]));
    terminal.until(PROMPT, 1);
    terminal.press("Hello\r");
    terminal.until(PROMPT, 2);
    // Ctrl-C at the prompt, and one from elsewhere, end nothing.
    terminal.press("\u{3}");
    terminal.until(PROMPT, 3);
    send(&terminal.child, Signal::INT);
    terminal.press("Again\r");
    terminal.until("[prompt: ", 2);
    terminal.until(PROMPT, 4);
    terminal.press("/quit\r");
    assert!(status(&mut terminal.child).success(), "{}", terminal.seen);
    assert_eq!(messages(&session), 4);
}
