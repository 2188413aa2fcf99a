//! What other processes leave and find: each case runs [`child`] in a process of its own.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ocelli_files::{Inputs, Output, Replace, TemporaryFolder, WriteOptions, remove_unfinished, write_file};

fn never() -> WriteOptions {
    WriteOptions::new(Inputs::none(), Replace::Never)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Does what `FILES_CHILD` says in the folder `FILES_DIR`, says `ready` on stdout and waits for stdin to end.
#[test]
#[ignore = "the other tests run it in a process of its own"]
fn child() {
    let (Ok(what), Ok(dir)) = (std::env::var("FILES_CHILD"), std::env::var("FILES_DIR")) else {
        panic!("FILES_CHILD and FILES_DIR are not set");
    };
    let at = |name: &str| Path::new(&dir).join(name);
    let mut out = std::io::stderr();
    let wait = || {
        writeln!(std::io::stderr(), "ready").unwrap();
        let _ = std::io::stdin().read_line(&mut String::new());
    };
    match what.as_str() {
        "hold" => {
            let mut output = Output::create(&at("held"), &never()).unwrap();
            output.write_all(b"half").unwrap();
            let folder = TemporaryFolder::new(Path::new(&dir)).unwrap();
            std::fs::write(folder.path().join("file"), b"half").unwrap();
            wait();
            output.commit().unwrap();
        }
        "exit" => {
            let mut output = Output::create(&at("a"), &never()).unwrap();
            output.write_all(b"half").unwrap();
            let folder = TemporaryFolder::new(Path::new(&dir)).unwrap();
            std::fs::write(folder.path().join("file"), b"half").unwrap();
            let ender = std::thread::spawn(|| {
                remove_unfinished();
                assert!(Output::create(Path::new("/nowhere"), &never()).is_err());
            });
            ender.join().unwrap();
            assert!(Output::create(&at("b"), &never()).is_err(), "nothing can be begun any more");
            assert!(output.commit().is_err(), "nor completed");
            std::process::exit(7);
        }
        "write" => {
            write_file(&at("public"), b"x", &never()).unwrap();
            write_file(&at("private"), b"x", &never().private()).unwrap();
        }
        "large" => {
            let error = write_file(&at("large"), &vec![1; 3 << 20], &never()).unwrap_err();
            writeln!(out, "{error}").unwrap();
        }
        other => panic!("{other} is unknown"),
    }
}

fn start(what: &str, dir: &Path, limits: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let script = format!("{limits} exec \"$0\" --exact child --ignored --nocapture --test-threads=1");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(program).env("FILES_CHILD", what).env("FILES_DIR", dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn until_ready(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
}

#[test]
fn leftovers_of_killed_processes_are_cleared_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut living = start("hold", dir.path(), "");
    until_ready(&mut living);
    let of_living = names(dir.path());
    assert_eq!(of_living.len(), 2);
    let mut killed = start("hold", dir.path(), "");
    until_ready(&mut killed);
    assert_eq!(names(dir.path()).len(), 4);
    killed.kill().unwrap();
    assert_eq!(killed.wait().unwrap().signal(), Some(9));
    assert_eq!(names(dir.path()).len(), 4, "nobody cleans up after SIGKILL at once");

    // Names that are not exactly ours, and things that are not ours to remove.
    let foreign = [
        ".ocelli-abc.partial",
        ".ocelli-abcdefg.partial",
        ".ocelli-abcde_.partial",
        "ocelli-abcdef.partial",
        ".ocelli-abcdef",
    ];
    for name in foreign {
        std::fs::write(dir.path().join(name), b"data").unwrap();
    }
    symlink("target", dir.path().join(".ocelli-linked.partial")).unwrap();
    std::fs::write(dir.path().join("target"), b"data").unwrap();

    write_file(&dir.path().join("new"), b"x", &never()).unwrap();
    let mut left: Vec<String> = foreign.iter().map(|n| (*n).to_owned()).collect();
    left.extend(of_living);
    left.extend([".ocelli-linked.partial", "target", "new"].map(str::to_owned));
    left.sort();
    assert_eq!(names(dir.path()), left);

    drop(living.stdin.take());
    assert!(living.wait().unwrap().success());
    assert_eq!(std::fs::read(dir.path().join("held")).unwrap(), b"half", "the living one was not disturbed");
    assert_eq!(names(dir.path()).len(), left.len() - 1);
}

/// A file of another user is not ours, whatever its name. Only root can make one.
#[test]
fn files_of_other_users_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".ocelli-abcdef.partial");
    std::fs::write(&path, b"data").unwrap();
    let is_other = std::os::unix::fs::chown(&path, Some(12345), None).is_ok();
    write_file(&dir.path().join("new"), b"x", &never()).unwrap();
    assert_eq!(path.exists(), is_other, "removed if and only if it is our own");
}

#[test]
fn an_end_without_unwinding_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let child = start("exit", dir.path(), "");
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(7), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
}

#[test]
fn new_files_have_the_permissions_that_the_mask_leaves() {
    for (mask, public, private) in
        [("022", 0o644, 0o600), ("077", 0o600, 0o600), ("002", 0o664, 0o600), ("277", 0o400, 0o400)]
    {
        let dir = tempfile::tempdir().unwrap();
        let done = start("write", dir.path(), &format!("umask {mask};")).wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let mode = |name: &str| dir.path().join(name).metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode("public"), mode("private")), (public, private), "umask {mask}");
    }
}

/// The shell counts in blocks of 512 or 1024 bytes.
#[test]
fn a_limit_of_file_sizes_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let done = start("large", dir.path(), "ulimit -f 1000;").wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{text}");
    assert!(text.contains("/large") && text.contains("too large") && text.contains("nothing was left"), "{text}");
    assert!(names(dir.path()).is_empty());
}
