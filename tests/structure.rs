//! What libraries leave to the program: the choice of everything that comes from the environment.

use std::path::{Path, PathBuf};

/// Rust files below `folder` that are not tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            found.push(path);
        }
    }
}

/// The lines of `source`, numbered from 1, that use variables of the environment, or folders that are found by them.
fn reads_environment(source: &str) -> Vec<usize> {
    let code = |line: &str| !line.trim_start().starts_with("//");
    let words = ["env::var", "env::home_dir", "env::temp_dir", "env::{", "env::*", "env as "];
    let reads = |line: &str| code(line) && words.iter().any(|word| line.contains(word));
    source.lines().enumerate().filter(|(_, line)| reads(line)).map(|(at, _)| at + 1).collect()
}

#[test]
fn reading_the_environment_is_recognised() {
    for line in [
        "let name = std::env::var(\"X\");",
        "env::vars_os()",
        "use std::env::{self, var};",
        "match std::env::var_os(name) {",
        "Config::from_vars(std::env::var_os)",
        "std::env::home_dir()",
    ] {
        assert_eq!(reads_environment(&format!("\n{line}\n")), [2], "{line}");
    }
    for line in ["/// As `std::env::var_os`.", "    // env::var", "std::env::args_os()", "env!(\"CARGO_PKG_VERSION\")"]
    {
        assert_eq!(reads_environment(line), [0; 0], "{line}");
    }
}

/// A library that reads a variable cannot be told otherwise by the program that uses it.
#[test]
fn no_library_reads_the_environment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path().join("src"));
    let libraries: Vec<_> =
        folders.filter(|src| src.join("lib.rs").exists() && !src.starts_with(root.join("fuzz"))).collect();
    assert!(libraries.len() >= 12, "only {libraries:?}");
    let mut found = Vec::new();
    for src in &libraries {
        let mut files = Vec::new();
        sources(src, &mut files);
        for path in files {
            let lines = reads_environment(&std::fs::read_to_string(&path).unwrap());
            found.extend(lines.iter().map(|line| format!("{}:{line}", path.strip_prefix(root).unwrap().display())));
        }
    }
    assert!(found.is_empty(), "libraries that read the environment: {found:?}");
}

/// Every command finds its kernels by one function, so that all honour the same names and refuse them with the same words.
#[test]
fn one_place_reads_the_instruction_set() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let naming = |path: &&PathBuf| std::fs::read_to_string(path).unwrap().contains("\"OCELLI_ISA\"");
    let places: Vec<_> = files.iter().filter(naming).map(|path| path.strip_prefix(root).unwrap()).collect();
    assert_eq!(places, [Path::new("src/isa.rs")]);
}
