//! Where `unsafe` may be: docs/security.md says it to readers, this list to the compiler's side of the fence.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crates without any: their roots forbid it, which nothing inside can undo.
const FORBIDDING: [&str; 11] = [
    "files/src/lib.rs",
    "memory/src/lib.rs",
    "quant/src/lib.rs",
    "gguf/src/lib.rs",
    "text/src/lib.rs",
    "image/src/lib.rs",
    "convert/src/lib.rs",
    "engine/src/lib.rs",
    "eval/src/lib.rs",
    "hub/src/lib.rs",
    "src/main.rs",
];

/// The files and folders that have some, and why.
const ALLOWED: [(&str, &str); 7] = [
    ("kernels/src/", "vector instructions, the thread pool's shared memory, and a setting of the C library"),
    ("kernels/tests/guarded.rs", "an allocator with inaccessible pages around everything"),
    ("runtime/src/mmap.rs", "the mapping of model files"),
    ("tests/no_allocation.rs", "an allocator that counts"),
    ("tests/vocabulary_memory.rs", "an allocator that counts"),
    ("convert/tests/checkpoint_memory.rs", "an allocator that counts"),
    ("benches/ggml/src/lib.rs", "calls of another library's C functions, for comparison"),
];

/// Rust files below `folder`, relative to the project, but not what is built.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Whether code, as opposed to comments and texts, has the word `unsafe`.
fn has_unsafe(source: &str) -> bool {
    let mut code = String::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            text_len(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\") {
            // An escaped character.
            rest.char_indices().skip(3).find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 1)
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

/// Bytes of the text in double quotes that `source` begins with.
fn text_len(source: &str) -> usize {
    let mut escaped = false;
    for (at, c) in source.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    source.len()
}

#[test]
fn code_is_told_from_comments_and_texts() {
    for code in [
        "unsafe { f() }",
        "let q = '\"'; unsafe fn g() {}",
        "/* no */ unsafe impl",
        "r#\"a\"b\"#; unsafe",
        "'\\''; unsafe",
    ] {
        assert!(has_unsafe(code), "{code}");
    }
    for other in [
        "// unsafe",
        "\"unsafe\"",
        "\"a\\\"unsafe\"",
        "/* unsafe */",
        "#![forbid(unsafe_code)]",
        "r#\"un\"safe unsafe\"#",
    ] {
        assert!(!has_unsafe(other), "{other}");
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(files.len() > 100, "only {} source files were found", files.len());
    let mut used = BTreeSet::new();
    let mut outside = Vec::new();
    for path in files {
        if !has_unsafe(&std::fs::read_to_string(&path).unwrap()) {
            continue;
        }
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        match ALLOWED.iter().find(|(place, _)| name.starts_with(place)) {
            Some((place, _)) => {
                used.insert(*place);
            }
            None => outside.push(name),
        }
    }
    assert!(outside.is_empty(), "unsafe code outside the places that have it: {outside:?}");
    let unused: Vec<_> = ALLOWED.iter().map(|(place, _)| *place).filter(|place| !used.contains(place)).collect();
    assert!(unused.is_empty(), "no unsafe code any more, take off the list: {unused:?}");
}

#[test]
fn crates_without_unsafe_code_forbid_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    for name in FORBIDDING {
        assert!(read(name).lines().any(|line| line == "#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
    }
    // One module of the runtime maps files: the rest of the crate is denied it.
    let runtime = read("runtime/src/lib.rs");
    assert!(runtime.lines().any(|line| line == "#![deny(unsafe_code)]"));
    let allowed: Vec<_> = runtime.split("#[allow(unsafe_code)]\n").skip(1).map(|rest| rest.lines().next()).collect();
    assert_eq!(allowed, [Some("mod mmap;")]);
    // Every crate root is one of these: a new crate has to be put in its place.
    let mut files = Vec::new();
    sources(root, &mut files);
    let roots: BTreeSet<_> = files
        .iter()
        .filter(|path| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs"))
        .map(|path| path.strip_prefix(root).unwrap().to_string_lossy().into_owned())
        .collect();
    let mut known: BTreeSet<_> = FORBIDDING.iter().map(|name| (*name).to_owned()).collect();
    known.extend(
        ["kernels/src/lib.rs", "runtime/src/lib.rs", "benches/ggml/src/lib.rs", "fuzz/src/lib.rs"].map(str::to_owned),
    );
    assert_eq!(roots, known);
    assert!(read("fuzz/src/lib.rs").contains("#![forbid(unsafe_code)]"));
}
