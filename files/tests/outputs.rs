//! What an output may be, and what becomes of what stood there.
#![cfg(unix)]

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use ocelli_files::{
    FileError, FileKind, Inputs, Log, Output, Replace, WriteOptions, check_space, commit_all, write_file,
};

const SESSION: FileKind = FileKind { name: "a saved conversation", magic: b"OCELLISN" };

fn never() -> WriteOptions {
    WriteOptions::new(Inputs::none(), Replace::Never)
}

fn always() -> WriteOptions {
    WriteOptions::new(Inputs::none(), Replace::Always)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        names(self.0.path())
    }
}

#[test]
fn files_appear_only_on_commit() {
    let dir = Folder::new();
    let mut outputs = Output::create_all(&[dir.at("a"), dir.at("b")], &never()).unwrap();
    outputs[0].write_all(b"text").unwrap();
    assert!(!dir.at("a").exists());
    assert_eq!(dir.names().len(), 2, "temporary files lie beside their places");
    commit_all(outputs).unwrap();
    assert_eq!(dir.names(), ["a", "b"]);
    assert_eq!(read(dir.at("a")), b"text");
    assert_eq!(dir.at("a").metadata().unwrap().mode() & 0o111, 0);
}

#[test]
fn dropped_outputs_leave_nothing() {
    let dir = Folder::new();
    let mut output = Output::create(&dir.at("a"), &never()).unwrap();
    output.write_all(b"text").unwrap();
    drop(output);
    assert!(dir.names().is_empty());
}

#[test]
fn existing_files_need_permission_to_be_replaced() {
    let dir = Folder::new();
    let path = dir.file("a", b"old");
    assert!(matches!(Output::create(&path, &never()), Err(FileError::Exists { .. })));
    let mut new = Output::create(&path, &always()).unwrap();
    new.write_all(b"new").unwrap();
    assert_eq!(read(&path), b"old");
    new.commit().unwrap();
    assert_eq!(read(&path), b"new");
    let empty = dir.file("empty", b"");
    write_file(&empty, b"new", &never()).unwrap();
    assert_eq!(read(&empty), b"new", "an empty file has nothing to lose");
    assert_eq!(dir.names(), ["a", "empty"]);
}

#[test]
fn a_kind_replaces_only_its_own_kind() {
    let dir = Folder::new();
    let options = WriteOptions::new(Inputs::none(), Replace::Only(SESSION)).private();
    for (name, bytes) in [("cow.jpg", &b"\xff\xd8\xff\xe0"[..]), ("short", b"OCELLI"), ("other", b"OCELLIIM....")] {
        let path = dir.file(name, bytes);
        let error = Output::create(&path, &options).unwrap_err();
        assert!(matches!(error, FileError::OtherKind { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("is not a saved conversation"), "{text}");
        assert_eq!(read(&path), bytes);
    }
    let path = dir.file("talk", b"OCELLISN, long ago");
    write_file(&path, b"OCELLISN, today", &options).unwrap();
    assert_eq!(read(&path), b"OCELLISN, today");
    write_file(&dir.at("new"), b"OCELLISN", &options).unwrap();
    assert_eq!(dir.at("new").metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn links_are_followed_and_stay_links() {
    let dir = Folder::new();
    std::fs::create_dir(dir.at("far")).unwrap();
    dir.file("far/real", b"old");
    symlink("far/real", dir.at("link")).unwrap();
    symlink("link", dir.at("chain")).unwrap();
    symlink(dir.at("far").join("dangling-target"), dir.at("dangling")).unwrap();
    symlink("far", dir.at("folder-link")).unwrap();

    assert!(matches!(Output::create(&dir.at("chain"), &never()), Err(FileError::Exists { .. })));
    write_file(&dir.at("chain"), b"new", &always()).unwrap();
    assert_eq!(read(dir.at("far/real")), b"new");
    assert!(dir.at("chain").is_symlink() && dir.at("link").is_symlink());
    write_file(&dir.at("dangling"), b"made", &never()).unwrap();
    assert!(dir.at("dangling").is_symlink());
    assert_eq!(read(dir.at("far/dangling-target")), b"made");
    write_file(&dir.at("folder-link/inside"), b"in", &never()).unwrap();
    assert_eq!(names(&dir.at("far")), ["dangling-target", "inside", "real"]);

    symlink("round", dir.at("round")).unwrap();
    symlink("b", dir.at("a")).unwrap();
    symlink("a", dir.at("b")).unwrap();
    symlink("no/such/folder", dir.at("nowhere")).unwrap();
    for (name, what) in [("round", "circle"), ("a", "circle"), ("nowhere", "does not exist")] {
        let text = Output::create(&dir.at(name), &always()).unwrap_err().to_string();
        assert!(text.contains(what) && text.contains(name), "{text}");
    }
}

#[test]
fn folders_and_missing_folders_are_errors() {
    let dir = Folder::new();
    std::fs::create_dir(dir.at("sub")).unwrap();
    symlink("sub", dir.at("link")).unwrap();
    for name in ["sub", "sub/", "sub/.", "sub/..", "link", "new/"] {
        let error = Output::create(&dir.at(name), &always()).unwrap_err();
        assert!(matches!(error, FileError::Folder { .. }), "{name}: {error}");
    }
    let text = Output::create(&dir.at("no/file"), &always()).unwrap_err().to_string();
    assert!(text.contains("does not exist") && text.contains("/no"), "{text}");
    let text = Output::create(&dir.file("file", b"x").join("below"), &always()).unwrap_err().to_string();
    assert!(text.contains("file/below"), "{text}");
    let text = Output::create(Path::new(""), &always()).unwrap_err().to_string();
    assert!(text.contains("empty"), "{text}");
    assert_eq!(dir.names(), ["file", "link", "sub"]);
}

#[test]
fn an_input_is_refused_under_every_name() {
    let dir = Folder::new();
    let input = dir.file("p.png", b"picture");
    std::fs::create_dir(dir.at("sub")).unwrap();
    symlink(&input, dir.at("sub/link")).unwrap();
    symlink("sub/link", dir.at("chain")).unwrap();
    symlink(".", dir.at("here")).unwrap();
    std::fs::hard_link(&input, dir.at("hard")).unwrap();
    let aliases = ["p.png", "./p.png", "sub/../p.png", "sub/link", "chain", "here/p.png", "hard"];
    for given in aliases {
        let inputs = Inputs::of([dir.at(given)]);
        for alias in aliases {
            for replace in [Replace::Always, Replace::Never] {
                let error = Output::create(&dir.at(alias), &WriteOptions::new(inputs.clone(), replace)).unwrap_err();
                assert!(matches!(error, FileError::Input { .. }), "{alias}: {error}");
                let text = error.to_string();
                assert!(text.contains(alias) && text.contains(given), "{text}");
            }
        }
    }
    let folder = WriteOptions::new(Inputs::of([dir.0.path()]), Replace::Always);
    assert!(matches!(Output::create(&dir.at("hard"), &folder), Err(FileError::Input { .. })));
    write_file(&dir.at("new"), b"", &folder).unwrap();
    // Missing inputs and those that hold no data of their own are nobody's business here.
    let others = WriteOptions::new(Inputs::of(["/dev/null", "/no/such/file"]), Replace::Never);
    write_file(Path::new("/dev/null"), b"x", &others).unwrap();
    assert_eq!(read(&input), b"picture");
}

#[test]
fn two_outputs_are_two_files() {
    let dir = Folder::new();
    dir.file("a", b"");
    symlink("a", dir.at("link")).unwrap();
    std::fs::hard_link(dir.at("a"), dir.at("hard")).unwrap();
    symlink("new", dir.at("dangling")).unwrap();
    for (one, two) in [("a", "a"), ("a", "link"), ("hard", "link"), ("new", "dangling"), ("new", "./new")] {
        let error = Output::create_all(&[dir.at(one), dir.at(two)], &always()).unwrap_err();
        assert!(matches!(error, FileError::Twice { .. }), "{one} {two}: {error}");
    }
    commit_all(Output::create_all(&["/dev/null", "/dev/null"], &never()).unwrap()).unwrap();
    assert_eq!(dir.names(), ["a", "dangling", "hard", "link"]);
}

#[test]
fn hard_links_keep_the_old_content_and_modes_stay() {
    let dir = Folder::new();
    for mode in [0o600, 0o640, 0o664, 0o755] {
        let path = dir.file("a", b"old");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let _ = std::fs::remove_file(dir.at("other"));
        std::fs::hard_link(&path, dir.at("other")).unwrap();
        write_file(&path, b"new", &always()).unwrap();
        assert_eq!((read(&path), read(dir.at("other"))), (b"new".to_vec(), b"old".to_vec()));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, mode);
    }
    let session = dir.file("talk", b"OCELLISN");
    std::fs::set_permissions(&session, std::fs::Permissions::from_mode(0o600)).unwrap();
    let output = Output::create(&session, &always()).unwrap();
    let temporary = dir.names().into_iter().find(|n| n.ends_with(".partial")).unwrap();
    assert_eq!(dir.at(&temporary).metadata().unwrap().mode() & 0o077, 0, "private while temporary");
    drop(output);
}

/// A file that turns up between start and end is neither lost nor does it leave half of a pair.
#[test]
fn late_rivals_undo_everything() {
    let dir = Folder::new();
    let outputs = Output::create_all(&[dir.at("a"), dir.at("b")], &never()).unwrap();
    dir.file("b", b"rival");
    assert!(matches!(commit_all(outputs), Err(FileError::Exists { .. })));
    assert_eq!((dir.names(), read(dir.at("b"))), (vec!["b".to_owned()], b"rival".to_vec()));

    let empty = dir.file("c", b"");
    let output = Output::create(&empty, &never()).unwrap();
    std::fs::write(&empty, b"filled meanwhile").unwrap();
    assert!(matches!(output.commit(), Err(FileError::Exists { .. })));

    // What was replaced already comes back.
    let (a, d) = (dir.file("a", b"old a"), dir.at("d"));
    let mut outputs = Output::create_all(&[&a, &d], &always()).unwrap();
    outputs[0].write_all(b"new a").unwrap();
    fifo(&d);
    assert!(matches!(commit_all(outputs), Err(FileError::Changed { .. })));
    assert_eq!(read(&a), b"old a");
    assert!(d.symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(dir.names(), ["a", "b", "c", "d"]);
}

#[test]
fn an_input_that_turns_up_late_is_kept() {
    let dir = Folder::new();
    let input = dir.file("in", b"data");
    let options = WriteOptions::new(Inputs::of([&input]), Replace::Always);
    let output = Output::create(&dir.at("out"), &options).unwrap();
    std::fs::hard_link(&input, dir.at("out")).unwrap();
    assert!(matches!(output.commit(), Err(FileError::Input { .. })));
    assert_eq!(dir.names(), ["in", "out"]);
}

#[test]
fn pipes_are_written_through_whoever_comes_first() {
    let dir = Folder::new();
    let bytes: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    for reader_first in [true, false] {
        let path = dir.at(if reader_first { "first" } else { "later" });
        fifo(&path);
        let reader = |path: PathBuf| {
            std::thread::spawn(move || {
                let mut got = Vec::new();
                std::fs::File::open(path).unwrap().read_to_end(&mut got).unwrap();
                got
            })
        };
        let early = reader_first.then(|| reader(path.clone()));
        let mut output = Output::create(&path, &never()).unwrap();
        assert!(output.is_written_through());
        let late = early.unwrap_or_else(|| reader(path.clone()));
        output.write_all(&bytes).unwrap();
        output.commit().unwrap();
        assert!(late.join().unwrap() == bytes);
        assert!(path.symlink_metadata().unwrap().file_type().is_fifo());
    }
    assert_eq!(dir.names(), ["first", "later"]);
}

#[test]
fn devices_and_sockets_are_written_through() {
    let dir = Folder::new();
    symlink("/dev/null", dir.at("null")).unwrap();
    write_file(&dir.at("null"), b"text", &never()).unwrap();
    assert!(dir.at("null").is_symlink());
    let meta = Path::new("/dev/null").metadata().unwrap();
    assert!(meta.file_type().is_char_device());

    let socket = std::os::unix::net::UnixListener::bind(dir.at("socket")).unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = String::new();
        socket.accept().unwrap().0.read_to_string(&mut got).unwrap();
        got
    });
    write_file(&dir.at("socket"), b"text", &never()).unwrap();
    assert_eq!(reader.join().unwrap(), "text");
    assert_eq!(dir.names(), ["null", "socket"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_device_is_told() {
    let mut output = Output::create(Path::new("/dev/full"), &never()).unwrap();
    let error = FileError::unwrap(output.write_all(b"x").unwrap_err()).unwrap();
    let text = error.to_string();
    assert!(text.contains("/dev/full") && text.contains("No space left"), "{text}");
    let text = write_file(Path::new("/dev/full"), b"x", &never()).unwrap_err().to_string();
    assert!(text.contains("/dev/full") && text.contains("No space left"), "{text}");
}

#[test]
#[cfg(target_os = "linux")]
fn open_descriptors_are_appended_to() {
    use std::os::fd::AsRawFd as _;
    let dir = Folder::new();
    let path = dir.file("log", b"before ");
    let open = std::fs::File::options().append(true).open(&path).unwrap();
    let name = PathBuf::from(format!("/dev/fd/{}", open.as_raw_fd()));
    write_file(&name, b"after", &never()).unwrap();
    assert_eq!(read(&path), b"before after");
    let own = WriteOptions::new(Inputs::of([&path]), Replace::Always);
    assert!(matches!(Output::create(&name, &own), Err(FileError::Input { .. })));
    let (mut reader, writer) = std::io::pipe().unwrap();
    write_file(&PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd())), b"text", &never()).unwrap();
    drop(writer);
    let mut got = String::new();
    reader.read_to_string(&mut got).unwrap();
    assert_eq!(got, "text");
    assert_eq!(dir.names(), ["log"]);
}

#[test]
fn logs_grow_by_whole_pieces() {
    let dir = Folder::new();
    let old = dir.file("old", b"hours of work\n");
    assert!(matches!(Log::check(&old, &never()), Err(FileError::Exists { .. })));
    assert!(matches!(Log::open(&old, &never(), 0), Err(FileError::Exists { .. })));
    let beside = WriteOptions::new(Inputs::of([&old]), Replace::Always);
    assert!(matches!(Log::open(&old, &beside, 0), Err(FileError::Input { .. })));
    assert_eq!(read(&old), b"hours of work\n");

    let path = dir.at("new");
    Log::check(&path, &never()).unwrap();
    assert_eq!(dir.names(), ["old"], "a check makes nothing");
    let mut log = Log::open(&path, &never(), 0).unwrap();
    log.append(b"1\n").unwrap();
    log.append(b"2\n").unwrap();
    log.sync().unwrap();
    assert_eq!(read(&path), b"1\n2\n", "every piece is there at once");
    drop(log);
    let always = WriteOptions::new(Inputs::none(), Replace::Always);
    let mut log = Log::open(&path, &always, 2).unwrap();
    log.append(b"3\n").unwrap();
    assert_eq!(read(&path), b"1\n3\n");
    drop(Log::open(&path, &always, 0).unwrap());
    assert_eq!(read(&path), b"");
    assert_eq!(dir.names(), ["new", "old"]);
}

#[test]
fn logs_follow_links_and_write_through_pipes() {
    let dir = Folder::new();
    let link = dir.at("link");
    std::os::unix::fs::symlink("file", &link).unwrap();
    Log::open(&link, &never(), 0).unwrap().append(b"1\n").unwrap();
    assert!(link.is_symlink());
    assert_eq!(read(dir.at("file")), b"1\n");
    let path = dir.at("pipe");
    fifo(&path);
    let from = path.clone();
    let reader = std::thread::spawn(move || std::fs::read_to_string(from).unwrap());
    let mut log = Log::open(&path, &never(), 0).unwrap();
    for piece in ["1\n", "2\n", "3\n"] {
        log.append(piece.as_bytes()).unwrap();
    }
    drop(log);
    assert_eq!(reader.join().unwrap(), "1\n2\n3\n");
}

#[test]
fn space_is_checked_where_it_is_needed() {
    let dir = Folder::new();
    let outputs = Output::create_all(&[dir.at("a"), dir.at("b")], &never()).unwrap();
    check_space(outputs.iter().map(|o| (o, 1))).unwrap();
    let text = check_space(outputs.iter().map(|o| (o, u64::MAX / 2))).unwrap_err().to_string();
    assert!(text.contains(&(u64::MAX - 1).to_string()) && text.contains("free"), "{text}");
    let null = Output::create(Path::new("/dev/null"), &never()).unwrap();
    check_space([(&null, u64::MAX)]).unwrap();
}
