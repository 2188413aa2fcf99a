//! What the commands do to the files they are told to write: devices, pipes, links, their own inputs, other people's
//! files; and what is left of them after a signal.
#![cfg(unix)]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A small model with its vision file and a checkpoint, made once.
static MADE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--gguf", "F16", "--out", "m"][..], &["--out", "checkpoint"]] {
        let out = ocelli(dir.path(), &[&["synth", "--preset", "mini"], args].concat());
        assert!(out.status.success(), "{}", stderr(&out));
    }
    dir
});

fn start(dir: &Path, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(args)
        .current_dir(dir)
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ocelli(dir: &Path, args: &[&str]) -> Output {
    start(dir, args).wait_with_output().unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A folder with a model, a vision file, a picture, a text and questions.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let made = MADE.path().join("m");
        for (from, to) in [("mini-F16.gguf", "m.gguf"), ("mmproj-mini-F16.gguf", "mmproj-m.gguf")] {
            std::fs::copy(made.join(from), folder.at(to)).unwrap();
        }
        let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ocelli-tiny/examples/shapes.png");
        std::fs::copy(picture, folder.at("p.png")).unwrap();
        std::fs::write(folder.at("t.txt"), "Some words and some more words. ".repeat(400)).unwrap();
        let question = r#"{"question": "What is it?", "answers": ["?"], "score": "exact"}"#;
        let line = format!(r#"{{"id": "1", "task": "t", "images": ["p.png"], "turns": [{question}]}}"#);
        std::fs::write(folder.at("q.jsonl"), line + "\n").unwrap();
        std::fs::write(folder.at("types.txt"), "ffn_down=Q8_0\n").unwrap();
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.at(name)).unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        ocelli(self.path(), args)
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> Output {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        out
    }

    /// The command fails with one line that holds `words`, and the folder is as it was.
    #[track_caller]
    fn refused(&self, args: &[&str], words: &[&str]) {
        // Reading a pipe would wait for a writer.
        let content = |name: &str| self.at(name).is_file().then(|| self.read(name));
        let state = || names(self.path()).into_iter().map(|n| (content(&n), n)).collect::<Vec<_>>();
        let before = state();
        let out = self.run(args);
        let told = stderr(&out);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {told}");
        let errors: Vec<_> = told.lines().filter(|line| line.starts_with("ocelli: error: ")).collect();
        assert!(errors.len() == 1 && words.iter().all(|word| errors[0].contains(word)), "{args:?}: {told}");
        assert!(state() == before, "{args:?} changed {:?}", names(self.path()));
    }
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// The command lines of all commands that write a file, up to the name of the file.
fn writers() -> Vec<Vec<&'static str>> {
    let line = |line: &'static str| line.split(' ').collect::<Vec<_>>();
    vec![
        line("embed p.png --mmproj mmproj-m.gguf -t 1 -o"),
        line("probe -m m.gguf -c 128 -t 1 -p Hello --image p.png -o"),
        line("perplexity -m m.gguf -c 32 --chunks 2 -t 1 -f t.txt --save-logits"),
        line("eval -m m.gguf -c 512 -t 1 -n 2 --data q.jsonl --answers"),
    ]
}

#[test]
fn own_inputs_are_refused_and_unchanged() {
    let dir = Folder::new();
    let with = |args: &[&'static str], output: &'static str| [args, &[output, "--overwrite"]].concat();
    let inputs = [
        &["p.png", "mmproj-m.gguf"][..],
        &["p.png", "m.gguf", "mmproj-m.gguf"],
        &["t.txt", "m.gguf"],
        &["q.jsonl", "p.png", "m.gguf", "mmproj-m.gguf"],
    ];
    for (command, inputs) in writers().iter().zip(inputs) {
        for input in inputs {
            dir.refused(&with(command, input), &["same file as the input", input]);
        }
        // Under other names: a link, a link to a link, a hard link.
        symlink(inputs[0], dir.at("link")).unwrap();
        symlink("link", dir.at("chain")).unwrap();
        std::fs::hard_link(dir.at(inputs[0]), dir.at("hard")).unwrap();
        for alias in ["link", "chain", "hard", "./hard"] {
            dir.refused(&with(command, alias), &[alias, inputs[0]]);
        }
        for alias in ["link", "chain", "hard"] {
            std::fs::remove_file(dir.at(alias)).unwrap();
        }
    }
    let quantize = ["quantize", "m.gguf", "types.txt", "Q8_0", "--tensor-type-file", "types.txt", "--overwrite"];
    dir.refused(&quantize, &["types.txt"]);
    dir.refused(&["quantize", "m.gguf", "./m.gguf", "Q8_0", "--overwrite"], &["./m.gguf"]);
    let checkpoint = MADE.path().join("checkpoint");
    symlink(checkpoint.join("model.safetensors"), dir.at("x-Q8_0.gguf")).unwrap();
    let convert = ["convert", checkpoint.to_str().unwrap(), "--name", "x", "--outtype", "Q8_0", "--overwrite"];
    dir.refused(&convert, &["x-Q8_0.gguf", "model.safetensors"]);
}

#[test]
fn existing_files_are_refused_before_the_work_and_replaced_when_told() {
    let dir = Folder::new();
    for command in writers() {
        std::fs::write(dir.at("mine"), "mine").unwrap();
        std::fs::set_permissions(dir.at("mine"), std::fs::Permissions::from_mode(0o640)).unwrap();
        dir.refused(&[&command[..], &["mine"]].concat(), &["mine exists already", "--overwrite"]);
        dir.succeeds(&[&command[..], &["mine", "--overwrite"]].concat());
        assert_ne!(dir.read("mine"), b"mine");
        assert_eq!(dir.at("mine").metadata().unwrap().mode() & 0o777, 0o640);
        // Empty files hold nothing, and what is new is for everyone whom the mask allows.
        std::fs::write(dir.at("empty"), "").unwrap();
        dir.succeeds(&[&command[..], &["empty"]].concat());
        assert!(!dir.read("empty").is_empty());
        dir.succeeds(&[&command[..], &["new"]].concat());
        assert_eq!(dir.at("new").metadata().unwrap().mode() & 0o700, 0o600);
        let shared = std::fs::metadata(dir.at("q.jsonl")).unwrap().mode() & 0o777;
        assert_eq!(dir.at("new").metadata().unwrap().mode() & 0o777, shared);
        for name in ["mine", "empty", "new"] {
            std::fs::remove_file(dir.at(name)).unwrap();
        }
    }
    std::fs::write(dir.at("plot.svg"), "mine").unwrap();
    dir.refused(&["bench", "kernels", "--plot", "plot.svg"], &["plot.svg exists already", "--overwrite"]);
    dir.refused(&["quantize", "m.gguf", "plot.svg", "Q8_0"], &["plot.svg exists already", "--overwrite"]);
}

#[test]
fn pipes_devices_and_links_are_written_through() {
    let dir = Folder::new();
    for command in &writers()[..2] {
        let to = |name: &str| dir.run(&[&command[..], &[name]].concat());
        assert!(to("file").status.success());
        let expected = dir.read("file");

        fifo(&dir.at("pipe"));
        let path = dir.at("pipe");
        let reader = std::thread::spawn(move || std::fs::read(path).unwrap());
        assert!(to("pipe").status.success());
        assert!(reader.join().unwrap() == expected);
        assert!(dir.at("pipe").symlink_metadata().unwrap().file_type().is_fifo());

        assert!(to("/dev/stdout").stdout == expected, "{command:?}");
        assert!(to("/dev/null").status.success());
        assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
        if cfg!(target_os = "linux") {
            dir.refused(&[&command[..], &["/dev/full"]].concat(), &["/dev/full", "No space left"]);
        }
        symlink("/dev/null", dir.at("null")).unwrap();
        assert!(to("null").status.success());
        assert!(dir.at("null").is_symlink());

        symlink("target", dir.at("dangling")).unwrap();
        assert!(to("dangling").status.success());
        assert!(dir.at("dangling").is_symlink() && dir.read("target") == expected);
        dir.refused(&[&command[..], &["dangling"]].concat(), &["dangling exists already"]);
        for name in ["file", "pipe", "null", "dangling", "target"] {
            std::fs::remove_file(dir.at(name)).unwrap();
        }
        dir.refused(&[&command[..], &["."]].concat(), &["is a folder"]);
        dir.refused(&[&command[..], &["no/file"]].concat(), &["does not exist"]);
    }
    // A whole model through a pipe.
    dir.succeeds(&["quantize", "m.gguf", "q.gguf", "Q8_0"]);
    fifo(&dir.at("pipe"));
    let path = dir.at("pipe");
    let reader = std::thread::spawn(move || std::fs::read(path).unwrap());
    dir.succeeds(&["quantize", "m.gguf", "pipe", "Q8_0"]);
    assert!(reader.join().unwrap() == dir.read("q.gguf"));
}

#[test]
fn a_session_replaces_nothing_but_a_session() {
    let dir = Folder::new();
    let picture = dir.read("p.png");
    let talk = |lines: &str| {
        let mut child = start(dir.path(), &["chat", "-m", "m.gguf", "-c", "256", "-t", "1", "-n", "2"]);
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        stderr(&child.wait_with_output().unwrap())
    };
    symlink("p.png", dir.at("link")).unwrap();
    let told = talk("Hello\n/save p.png\n/save link\n/save t.txt\n/save m.gguf\n/save talk\n/save talk\n");
    assert_eq!(told.matches("is not a saved conversation").count(), 4, "{told}");
    assert_eq!(told.matches("to talk").count(), 2, "{told}");
    assert!(dir.read("p.png") == picture && dir.at("link").is_symlink());
    assert_eq!(dir.at("talk").metadata().unwrap().mode() & 0o777, 0o600);
    assert!(dir.read("talk").starts_with(b"OCELLISN"));
    assert!(!names(dir.path()).iter().any(|name| name.ends_with(".partial")));
}

#[test]
fn synth_removes_only_what_its_checkpoint_takes_the_place_of() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join("c").join(name);
    let synth = |shards: &str, more: &[&str]| {
        ocelli(dir.path(), &[&["synth", "--preset", "mini", "--out", "c", "--shards", shards], more].concat())
    };
    assert!(synth("3", &[]).status.success());
    let mine =
        ["model-mine.safetensors", "model_old.safetensors", "model-00001-of-00009.safetensors", "cow.jpg", "notes"];
    for name in mine {
        std::fs::write(at(name), name).unwrap();
    }
    let before = names(&dir.path().join("c"));
    for shards in ["1", "2", "3"] {
        let out = synth(shards, &[]);
        assert!(!out.status.success() && stderr(&out).contains("--overwrite"), "{}", stderr(&out));
        assert_eq!(names(&dir.path().join("c")), before);
    }
    assert!(synth("1", &["--overwrite"]).status.success());
    let left = names(&dir.path().join("c"));
    assert!(mine.iter().all(|name| std::fs::read(at(name)).unwrap() == name.as_bytes()));
    assert!(at("model.safetensors").is_file());
    let shards = left.iter().filter(|name| name.contains("-of-00003") || name.ends_with("index.json")).count();
    assert_eq!((shards, left.len()), (0, 8 + mine.len()), "{left:?}");
    // Foreign weights alone are refused as well.
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("model-mine.safetensors"), "mine").unwrap();
    let out = ocelli(foreign.path(), &["synth", "--preset", "mini", "--out", "."]);
    assert!(!out.status.success() && stderr(&out).contains("model-mine.safetensors"), "{}", stderr(&out));
    assert_eq!(names(foreign.path()), ["model-mine.safetensors"]);
}

/// Whether a file or folder of unfinished work is in `dir`.
fn is_working(dir: &Path) -> bool {
    dir.is_dir() && names(dir).iter().any(|name| name.starts_with(".ocelli-") && name.ends_with(".partial"))
}

/// Waits for `child` to have unfinished work in `dir`, where it stays.
#[track_caller]
fn until_working(child: &mut Child, dir: &Path) {
    let started = Instant::now();
    while !is_working(dir) {
        if child.try_wait().unwrap().is_some() {
            let mut told = String::new();
            child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
            panic!("it ended: {told}");
        }
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was begun");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Child, signals: &[Signal]) {
    for signal in signals {
        // It may have ended at the first one.
        let _ = kill_process(Pid::from_child(child), *signal);
    }
}

/// Convert, synth and quantize write one of their files to a pipe that nobody reads, and so wait with the others
/// unfinished until a signal comes.
#[test]
fn signals_leave_nothing_and_the_next_run_clears_what_a_kill_left() {
    let checkpoint = MADE.path().join("checkpoint");
    let checkpoint = checkpoint.to_str().unwrap();
    let convert = ["convert", checkpoint, "--name", "x", "--outtype", "Q8_0", "--outdir", "out"];
    let synth = ["synth", "--preset", "mini", "--out", "out"];
    let gguf = ["synth", "--preset", "mini", "--gguf", "Q8_0", "--out", "out"];
    let cases = [(&convert[..], "mmproj-x-F16.gguf"), (&synth[..], "config.json"), (&gguf[..], "mmproj-mini-F16.gguf")];
    for (args, held) in cases {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        fifo(&out.join(held));
        let ends = [
            &[Signal::TERM][..],
            &[Signal::INT],
            &[Signal::HUP],
            &[Signal::INT, Signal::INT],
            &[Signal::TERM, Signal::INT],
        ];
        for signals in ends {
            let mut child = start(dir.path(), args);
            until_working(&mut child, &out);
            signal(&child, signals);
            let done = child.wait_with_output().unwrap();
            // Of two signals that come at once, the system may deliver either first.
            let codes: Vec<_> = signals.iter().map(|signal| Some(128 + signal.as_raw())).collect();
            assert!(codes.contains(&done.status.code()), "{args:?} {signals:?}: {} {}", done.status, stderr(&done));
            assert_eq!(names(&out), [held], "{args:?} {signals:?}");
        }
        let mut child = start(dir.path(), args);
        until_working(&mut child, &out);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_working(&out), "SIGKILL leaves something");
        std::fs::remove_file(out.join(held)).unwrap();
        let done = ocelli(dir.path(), args);
        assert!(done.status.success(), "{}", stderr(&done));
        assert!(!is_working(&out) && out.join(held).is_file(), "{:?}", names(&out));
    }
}

/// The work is real here: a signal comes in the middle of it, wherever that is.
#[test]
fn signals_in_the_middle_of_quantize_and_of_the_bundled_model_leave_nothing() {
    let dir = Folder::new();
    dir.succeeds(&["synth", "--preset", "small", "--gguf", "F16", "--out", "large"]);
    std::fs::create_dir(dir.at("out")).unwrap();
    let quantize = ["quantize", "large/small-F16.gguf", "out/q.gguf", "Q2_K", "-t", "1"];
    let bundled = ["run", "-p", "Hello", "-n", "1", "-t", "1"];
    for (args, folder) in [(&quantize[..], dir.at("out")), (&bundled[..], dir.at("cache/ocelli/models"))] {
        for signals in [&[Signal::TERM][..], &[Signal::INT, Signal::INT], &[Signal::KILL]] {
            let mut child = start(dir.path(), args);
            until_working(&mut child, &folder);
            signal(&child, signals);
            let done = child.wait_with_output().unwrap();
            assert!(!done.status.success(), "{args:?} was done before {signals:?}");
            assert_eq!(is_working(&folder), signals == [Signal::KILL], "{args:?} {signals:?}: {:?}", names(&folder));
        }
        assert!(dir.run(args).status.success());
        // What holds the bundled model has a lock beside it, for programs that start at once.
        let left: Vec<_> = names(&folder).into_iter().filter(|name| name != ".lock").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
