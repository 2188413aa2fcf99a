//! `ocelli tokenize` as a user or a script meets it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ocelli_gguf::GgufWriter;
use tempfile::TempDir;

/// A vocabulary of `<unk>`, BOS, EOS, the 256 bytes, a few pieces and a marker.
fn model(dir: &TempDir) -> PathBuf {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(["\u{2581}", "a", "b", "ab", "\u{2581}ab", "<|im_end|>"].map(str::to_owned));
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.extend([1, 1, 1, 1, 1, 3]);
    let scores: Vec<f32> = (0..tokens.len()).map(|i| -(i as f32)).collect();
    let mut writer = GgufWriter::new();
    writer.kv("general.architecture", "llama").unwrap();
    writer.kv("tokenizer.ggml.model", "llama").unwrap();
    writer.kv("tokenizer.ggml.tokens", tokens).unwrap();
    writer.kv("tokenizer.ggml.scores", scores).unwrap();
    writer.kv("tokenizer.ggml.token_type", types).unwrap();
    let path = dir.path().join("vocab.gguf");
    std::fs::write(&path, writer.start(Vec::new()).unwrap().finish().unwrap()).unwrap();
    path
}

fn tokenize(model: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(["tokenize", "-m"])
        .arg(model)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The command may refuse without reading its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn stdout(model: &Path, args: &[&str], input: &str) -> String {
    let output = tokenize(model, args, input.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prints_what_it_is_asked_for() {
    let dir = TempDir::new().unwrap();
    let model = model(&dir);
    assert_eq!(stdout(&model, &["-p", "ab<|im_end|>", "--ids"], ""), "[1, 263, 264]\n");
    assert_eq!(stdout(&model, &["-p", "ab", "--no-bos", "--ids"], ""), "[263]\n");
    assert_eq!(
        stdout(&model, &["--stdin", "--show-count"], "ab"),
        "     1 -> '<s>'\n   263 -> ' ab'\nTotal number of tokens: 2\n"
    );
    assert_eq!(stdout(&model, &["-f", "-", "--ids", "--no-bos"], "ab"), "[263]\n");
    let plain = stdout(&model, &["-p", "<|im_end|>", "--ids", "--no-bos", "--no-parse-special"], "");
    assert!(!plain.contains("264"), "{plain}");
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&model, &["-p", "é", "--no-bos", "--json"], "")).unwrap();
    assert_eq!(json["count"], 3);
    assert_eq!(json["tokens"][0]["piece"], " ");
    assert_eq!(json["tokens"][1]["piece"], serde_json::json!([0xc3]));
}

#[test]
fn refuses_with_one_line() {
    let dir = TempDir::new().unwrap();
    let good = model(&dir);
    let text = dir.path().join("text");
    std::fs::write(&text, "no model").unwrap();
    let missing = dir.path().join("missing");
    for (model, args, input, expected) in [
        (&good, &["--stdin"][..], &b"ab\xff"[..], "standard input: not UTF-8 text (byte 2); save it as UTF-8"),
        (&good, &["-f", missing.to_str().unwrap()], b"", "missing"),
        (&text, &["-p", "a"], b"", "not a GGUF file"),
        (&missing, &["-p", "a"], b"", "missing"),
    ] {
        let output = tokenize(model, args, input);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        assert!(message.starts_with("ocelli: error: ") && message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    assert!(!tokenize(&good, &[], b"").status.success(), "a text is required");
}
