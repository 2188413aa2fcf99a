//! What leaves the program: streams that are full or closed, readers that leave, and text that could steer a terminal.
#![cfg(unix)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ocelli_convert::mixture::FileType;
use ocelli_gguf::{MetaArray, MetaValue};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::{Parts, mini};

/// What a hostile file would write to a terminal: a title, a cleared screen, one-byte C1 forms, a reversed name, a bell.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{9d}x\u{9c}\u{202e}gpj.\u{2066}\u{7f}\r";

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocelli"));
    command.args(args).env_remove("OCELLI_ISA").stdin(Stdio::null());
    command
}

fn steers(text: &str) -> Option<char> {
    text.chars().find(|c| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}

#[track_caller]
fn assert_harmless(bytes: &[u8]) -> &str {
    let text = std::str::from_utf8(bytes).unwrap();
    assert_eq!(steers(text), None, "{text:?}");
    text
}

/// Files to work on: a sound model, a hostile one, a text, a folder.
struct Files {
    dir: TempDir,
    model: String,
    hostile: String,
    words: String,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = mini(FileType::Q4_K_M);
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let words = "When in the course of events a reader leaves, nothing is lost. ".repeat(4000);
        std::fs::write(at("words.txt"), words).unwrap();
        hostile(&model, &dir.path().join("hostile.gguf"));
        Self { model: model.to_str().unwrap().to_owned(), hostile: at("hostile.gguf"), words: at("words.txt"), dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Command lines of every command that prints to standard output.
    fn printing(&self) -> Vec<Vec<&str>> {
        let (model, words) = (&*self.model, &*self.words);
        vec![
            vec!["formats"],
            vec!["formats", "--json"],
            vec!["--help"],
            vec!["run", "--help"],
            vec!["--version"],
            vec!["inspect", model],
            vec!["inspect", model, "--json", "--tensors"],
            vec!["tokenize", "-m", model, "-f", words],
            vec!["tokenize", "-m", model, "-f", words, "--json"],
            vec!["run", "-m", model, "-p", "Hello", "-n", "3", "-c", "128", "-t", "1", "--temp", "0"],
            vec!["run", "-m", model, "-p", "Hello", "-n", "3", "-c", "128", "-t", "1", "--temp", "0", "--json"],
            vec!["perplexity", "-m", model, "-f", words, "-c", "64", "--chunks", "1", "-t", "1"],
            vec!["quantize", "--dry-run", "--allow-requantize", model, "Q8_0"],
        ]
    }
}

/// A copy of `model` whose name, and every token but the special ones, would steer a terminal.
fn hostile(model: &Path, copy: &Path) {
    let mut parts = Parts::of(model);
    parts.set("general.name", Some(HOSTILE.into()));
    let (_, tokens) = parts.pairs.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens").unwrap();
    let MetaValue::Array(MetaArray::String(tokens)) = tokens else { panic!("tokens are strings") };
    for (i, token) in tokens.iter_mut().enumerate().filter(|(_, token)| !token.contains('<')) {
        *token = format!("{HOSTILE}{i}");
    }
    parts.write(copy);
}

/// Runs with standard output or error being a terminal, and returns what arrives there.
fn on_terminal(command: &mut Command, attach: fn(&mut Command, Stdio)) -> (Vec<u8>, Output) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = OpenOptions::new().read(true).write(true).open(name).unwrap();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    attach(command, Stdio::from(slave.try_clone().unwrap()));
    let reader = std::thread::spawn(move || {
        let (mut master, mut seen, mut chunk) = (File::from(master), Vec::new(), [0; 4096]);
        // The end of the other side shows as an error.
        while let Ok(n @ 1..) = master.read(&mut chunk) {
            seen.extend_from_slice(&chunk[..n]);
        }
        seen
    });
    let child = command.spawn().unwrap();
    // The terminal ends when its last writer is gone; the command keeps one until it is replaced.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    drop(slave);
    let output = child.wait_with_output().unwrap();
    (reader.join().unwrap(), output)
}

/// A terminal shows `\n` as `\r\n`.
fn shown(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

#[test]
fn a_full_standard_output_is_an_error_of_one_line() {
    let files = Files::new();
    for args in files.printing() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = program(&args).stdout(full).output().unwrap();
        let told = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {told}");
        let errors = told.lines().filter(|l| l.starts_with("ocelli: error: cannot write to standard output: "));
        assert_eq!(errors.count(), 1, "{args:?}: {told}");
    }
}

#[test]
fn a_full_or_closed_log_costs_nothing() {
    let files = Files::new();
    for args in files.printing() {
        let plain = program(&args).output().unwrap();
        assert!(plain.status.success(), "{args:?}");
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = program(&args).stderr(full).output().unwrap();
        assert!(out.status.success(), "{args:?}");
        if !args.contains(&"--json") || args[0] != "run" {
            assert_eq!(out.stdout, plain.stdout, "{args:?}");
        }
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = program(&args).stderr(writer).output().unwrap();
        assert!(out.status.success(), "{args:?}: nobody reads the log");
    }
    // What goes wrong is still seen in the exit status.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(program(&["run", "-m", "none.gguf", "-p", "x"]).stderr(full).status().unwrap().code(), Some(1));
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(program(&["run", "--no-such"]).stderr(full).status().unwrap().code(), Some(2));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let files = Files::new();
    for args in files.printing() {
        for both in [false, true] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut command = program(&args);
            if both {
                command.stderr(writer.try_clone().unwrap());
            }
            let out = command.stdout(writer).output().unwrap();
            let told = String::from_utf8(out.stderr).unwrap();
            assert_eq!(out.status.code(), Some(0), "{args:?}: {told}");
            assert!(!told.contains("error"), "{args:?}: {told}");
        }
    }
}

#[test]
fn what_a_model_says_cannot_steer_a_terminal() {
    let files = Files::new();
    let run =
        ["run", "-m", &files.hostile, "-p", "x", "-n", "4", "-c", "128", "-t", "1", "--temp", "0", "--ignore-eos"];
    let plain = program(&run).output().unwrap();
    let told = assert_harmless(&plain.stderr);
    assert!(told.contains(r"\u001b]0;owned\u0007"), "the name is shown: {told}");
    let answer = String::from_utf8(plain.stdout).unwrap();
    assert!(answer.contains(HOSTILE), "a file gets the answer as it is: {answer:?}");

    let (seen, out) = on_terminal(&mut program(&run), |command, terminal| _ = command.stdout(terminal));
    assert!(out.status.success());
    let seen = shown(seen);
    assert_harmless(seen.as_bytes());
    assert!(seen.contains(r"\u001b[2J\u009b31m"), "{seen}");
    let (seen, _) = on_terminal(&mut program(&run), |command, terminal| _ = command.stderr(terminal));
    assert_harmless(shown(seen).as_bytes());

    let json = program(&[&run[..], &["--json"]].concat()).output().unwrap();
    let value: Value = serde_json::from_str(assert_harmless(&json.stdout)).unwrap();
    assert_eq!(value["text"].as_str().unwrap().trim_end(), answer.trim_end_matches('\n').trim_end());

    for more in [&["--ids"][..], &["--json"], &["--show-count"]] {
        let args = [&["tokenize", "-m", &files.hostile, "-p", "x y\u{e9}"], more].concat();
        let (seen, out) = on_terminal(&mut program(&args), |command, terminal| _ = command.stdout(terminal));
        assert!(out.status.success());
        assert_harmless(shown(seen).as_bytes());
    }
    for more in [&[][..], &["--json"], &["--tensors"]] {
        let args = [&["inspect", &files.hostile], more].concat();
        assert_harmless(&program(&args).output().unwrap().stdout);
    }
}

#[test]
fn names_and_options_cannot_steer_a_terminal_or_begin_a_line() {
    let files = Files::new();
    let name = format!("{HOSTILE}\nocelli: error: something else.gguf");
    let path = files.at(&name);
    std::fs::write(&path, b"not a model").unwrap();
    let path = path.to_str().unwrap();
    let picture = files.at("\u{1b}[31m.png");
    std::fs::write(&picture, b"no picture").unwrap();
    for args in [
        &["run", "-m", path, "-p", "x"][..],
        &["inspect", path],
        &["convert", path],
        &["quantize", path, "Q8_0"],
        &["tokenize", "-m", path, "-p", "x"],
        &["tokenize", "-m", &files.model, "-f", &format!("{name}.txt")],
        &["embed", "--mmproj", path, path, "-o", "out"],
        &["run", "-m", &files.model, "-p", "x", "--image", picture.to_str().unwrap()],
        &["run", "-m", &files.model, "-p", "x", "--samplers", HOSTILE],
        &["run", "-m", &files.model, "-p", "x", "--chat-template", HOSTILE],
        &["run", &name],
        &[&name],
    ] {
        let out = program(args).current_dir(files.dir.path()).output().unwrap();
        assert!(!out.status.success(), "{args:?}");
        let told = assert_harmless(&out.stderr);
        assert_eq!(told.lines().filter(|l| l.starts_with("ocelli: error: ")).count(), 1, "{told}");
        assert_harmless(&out.stdout);
    }
}

/// A conversation: what was said before, and what a command is told, come back escaped too.
#[test]
fn a_conversation_cannot_steer_a_terminal() {
    let files = Files::new();
    let mut child = program(&["chat", "-m", &files.hostile, "-n", "3", "-c", "256", "-t", "1", "--temp", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = format!("hello\n/system {HOSTILE}\n/system\n/{HOSTILE}\n/load {HOSTILE}\n/image {HOSTILE}\n");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let told = assert_harmless(&out.stderr);
    assert!(told.matches(r"\u001b]0;owned").count() >= 4, "{told}");
}
