//! `ocelli inspect` as a user or a script meets it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use ocelli_gguf::{GgufWriter, TensorType};
use tempfile::TempDir;

fn inspect(args: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ocelli")).arg("inspect").args(args).arg(path).output().unwrap()
}

fn model(dir: &TempDir, name: &str) -> PathBuf {
    let mut writer = GgufWriter::new();
    writer.kv("general.architecture", "llama").unwrap();
    writer.kv("general.name", "red \u{1b}[31m\u{7} and\nmore").unwrap();
    writer.kv("llama.block_count", 0u32).unwrap();
    writer.kv("llama.rope.scaling.type", "longrope").unwrap();
    writer.tensor("token_embd.weight", &[32, 2], TensorType::Q8_0).unwrap();
    let mut sink = writer.start(Vec::new()).unwrap();
    sink.write_tensor("token_embd.weight", &[0; 68]).unwrap();
    let path = dir.path().join(name);
    fs::write(&path, sink.finish().unwrap()).unwrap();
    path
}

#[test]
fn text_for_people() {
    let dir = TempDir::new().unwrap();
    let output = inspect(&["--tensors"], &model(&dir, "m.gguf"));
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("m.gguf: text model"), "{text}");
    assert!(text.contains("[missing-rope-factors]") && text.contains("remedy"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("  token_embd.weight Q8_0") && l.contains("32 × 2")), "{text}");
    // A name in the file must not steer the terminal.
    assert!(text.contains(r"red \u001b[31m\u0007 and\u000amore"), "{text}");
    assert!(text.chars().all(|c| !c.is_control() || c == '\n'), "{text}");
}

#[test]
fn json_for_scripts() {
    let dir = TempDir::new().unwrap();
    let output = inspect(&["--json", "--tensors"], &model(&dir, "m.gguf"));
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["is"], "file");
    assert_eq!(report["kind"], "text");
    assert_eq!(report["name"], "red \u{1b}[31m\u{7} and\nmore");
    assert_eq!(report["types"][0]["type"], "Q8_0");
    assert_eq!(report["types"][0]["bytes"], 68);
    assert_eq!(report["tensors"][0]["dims"], serde_json::json!([32, 2]));
    let codes: Vec<_> = report["faults"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"missing-rope-factors") && codes.contains(&"missing-tokenizer"), "{codes:?}");

    let output = inspect(&["--json"], dir.path());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["is"], "folder");
    assert_eq!(report["files"].as_array().unwrap().len(), 1);
}

/// Whatever is given that is no sound file: one line on standard error, nothing on standard output, exit code 1.
#[test]
fn bad_files_fail_with_one_line() {
    let dir = TempDir::new().unwrap();
    let whole = fs::read(model(&dir, "m.gguf")).unwrap();
    let bad = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let files = [
        bad("empty.gguf", b""),
        bad("foreign.gguf", b"\x7fELF and so on"),
        bad("cut-header.gguf", &whole[..60]),
        bad("cut-data.gguf", &whole[..whole.len() - 40]),
        dir.path().join("absent.gguf"),
    ];
    for path in files {
        let output = inspect(&[], &path);
        assert_eq!(output.status.code(), Some(1), "{path:?}");
        assert!(output.stdout.is_empty(), "{path:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(text.starts_with("ocelli: error: ") && text.matches(name).count() == 1, "{text}");
    }
}
