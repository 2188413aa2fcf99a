//! The command: arguments, streams and exit status.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::checkpoint::Fixture;

fn ocelli(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ocelli")).args(args).current_dir(dir).output().unwrap()
}

#[test]
fn json_summary_and_refusal() {
    let dir = tempfile::tempdir().unwrap();
    Fixture::minicpmv(&json!({})).write(dir.path(), "tiny");
    let args = ["convert", "tiny/", "--outtype", "q4_0", "--vision-outtype", "Q8_0", "--threads", "1", "--json"];
    let out = ocelli(dir.path(), &args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let summary: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(summary["model"], "MiniCPM-V 4.0");
    for (i, (part, name)) in [("text", "tiny-Q4_0.gguf"), ("vision", "mmproj-tiny-Q8_0.gguf")].into_iter().enumerate() {
        let file = &summary["files"][i];
        let len = std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(file["path"].as_str().unwrap().ends_with(name), "{file}");
        assert_eq!((file["part"].as_str(), file["bytes"].as_u64()), (Some(part), Some(len)));
    }
    let out = ocelli(dir.path(), &args);
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(text.contains("tiny-Q4_0.gguf") && text.contains("--overwrite"), "{text}");
    assert!(out.stdout.is_empty());
}

#[test]
fn bad_types_list_the_good_ones() {
    let dir = tempfile::tempdir().unwrap();
    for (option, good) in [("--outtype", "Q4_K_M"), ("--vision-outtype", "q8_0")] {
        let out = ocelli(dir.path(), &["convert", "x", option, "Q9"]);
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && text.contains("Q9") && text.contains(good), "{text}");
    }
}

/// `.` has a name too.
#[test]
fn current_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::llama(&json!({})).write(dir.path(), "here");
    let out = ocelli(&path, &["convert", ".", "--outtype", "Q8_0", "--outdir", "../out"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(dir.path().join("out/here-Q8_0.gguf").is_file());
}
