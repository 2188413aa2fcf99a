//! The commands: streams, exit status, one-line errors.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ocelli_convert::mixture::FileType;
use serde_json::Value;

use crate::fixture::mini;

pub(crate) fn ocelli(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(args)
        .env_remove("OCELLI_ISA")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its options does not read on; that is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn model() -> String {
    mini(FileType::Q4_K_M).to_str().unwrap().to_owned()
}

/// The command must fail with one line that holds `words`.
#[track_caller]
pub(crate) fn refused(args: &[&str], input: &[u8], words: &[&str]) {
    let out = ocelli(args, input);
    let told = text(&out.stderr);
    let error = told.lines().find(|l| l.starts_with("ocelli: error: "));
    assert_eq!(out.status.code(), Some(1), "{args:?}: {told}");
    assert!(out.stdout.is_empty(), "{args:?}: {}", text(&out.stdout));
    let error = error.unwrap_or_else(|| panic!("{args:?}: {told}"));
    assert!(words.iter().all(|w| error.contains(w)), "{args:?}: {error}");
    assert!(!told.contains("panicked"), "{told}");
}

const SHORT: [&str; 8] = ["-c", "256", "-t", "1", "--ignore-eos", "--temp", "0", "-ctk"];

fn short<'a>(model: &'a str, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command, "-m", model], &SHORT[..], &["f16"], more].concat()
}

#[test]
fn run_prints_the_answer_and_nothing_else() {
    let model = model();
    let plain = ocelli(&short(&model, "run", &["-p", "Hello", "-n", "12"]), b"");
    assert!(plain.status.success(), "{}", text(&plain.stderr));
    let told = text(&plain.stderr);
    for word in ["isa: ", "KV cache: K f16", "tok/s", "context: 256 tokens"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let json = ocelli(&short(&model, "run", &["-p", "-", "-n", "12", "--json"]), b"Hello");
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(format!("{}\n", value["text"].as_str().unwrap()), text(&plain.stdout));
    assert_eq!(value["stop"], "length");
    assert_eq!(value["completion_tokens"], 12);
    assert!(value["prompt_tokens"].as_u64().unwrap() > 5);
    assert!(value["timings"]["completion_per_second"].as_f64().unwrap() > 0.0);
    let one = ocelli(&short(&model, "run", &["-p", "Hello", "-n", "1", "--json"]), b"");
    let value: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(value["completion_tokens"], 1);
    assert_eq!(value["timings"]["completion_per_second"], Value::Null, "the prompt's pass gave it");
    assert!(text(&one.stderr).contains("answer: 1 token\n"), "{}", text(&one.stderr));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "Hello").unwrap();
    let filed = ocelli(&short(&model, "run", &["-f", file.to_str().unwrap(), "-n", "12"]), b"");
    assert_eq!(filed.stdout, plain.stdout);
    let raw = ocelli(&short(&model, "run", &["-p", "Hello", "--raw", "-n", "4", "--json"]), b"");
    let raw: Value = serde_json::from_slice(&raw.stdout).unwrap();
    assert!(raw["prompt_tokens"].as_u64() < value["prompt_tokens"].as_u64());
}

#[test]
fn run_keeps_a_session() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let session = dir.path().join("s");
    let args = ["-p", "Once upon a time", "-n", "6", "--json", "--session", session.to_str().unwrap()];
    let first: Value = serde_json::from_slice(&ocelli(&short(&model, "run", &args), b"").stdout).unwrap();
    let second: Value = serde_json::from_slice(&ocelli(&short(&model, "run", &args), b"").stdout).unwrap();
    assert_eq!(first["cached_tokens"], 0);
    assert_eq!(second["cached_tokens"].as_u64().unwrap() + 1, second["prompt_tokens"].as_u64().unwrap());
    assert_eq!(first["text"], second["text"]);
}

#[test]
fn chat_works_through_a_pipe() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let saved = dir.path().join("talk");
    let saved = saved.to_str().unwrap();
    let script = format!(
        "/help\nHello\n/regen\n/params\n/system Be brief.\n/system\n/image cat.png\n/nothing\n/save {saved}\n/clear\n\
         /regen\n/load {saved}\n/load {saved}.not\nAnd?\n/quit\nnot read\n"
    );
    let out = ocelli(&short(&model, "chat", &["-n", "8"]), script.as_bytes());
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "some lines fail: {told}");
    assert_eq!(told.matches("answer: 8 tokens").count(), 3, "{told}");
    for word in [
        "/regen           answer",
        "temperature: 0.0",
        "Be brief.",
        "cannot read cat.png",
        "no command /nothing",
        "saved 3 messages",
        "there is no answer yet",
        "3 messages from",
        "cached",
        "4 lines of the input could not be used or answered",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(!text(&out.stdout).is_empty());
    let ended = ocelli(&short(&model, "chat", &["-n", "4", "--session", saved]), b"More\n");
    assert!(ended.status.success(), "the end of the input is Ctrl-D: {}", text(&ended.stderr));
    assert!(text(&ended.stderr).contains("going on with"));
}

#[test]
fn a_full_context_is_told() {
    let model = model();
    let args = ["chat", "-m", &model, "-c", "64", "-t", "1", "--ignore-eos", "--seed", "1"];
    let out = ocelli(&args, b"Hello\n");
    assert!(text(&out.stderr).contains("[the context of 64 tokens is full"), "{}", text(&out.stderr));
    let long = "word ".repeat(200);
    let out = ocelli(&args, long.as_bytes());
    assert!(text(&out.stderr).contains("do not fit the context of 64"), "{}", text(&out.stderr));
    refused(&["run", "-m", &model, "-c", "64", "-p", &long], b"", &["the context only 64", "-c"]);
}

#[test]
fn perplexity_reports_and_compares() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let logits = dir.path().join("base");
    let logits = logits.to_str().unwrap();
    let words: String = (0..400).map(|i| format!("word{} ", i % 37)).collect();
    let common = ["perplexity", "-m", &model, "-t", "1", "-c", "64", "--json"];
    let saved =
        ocelli(&[&common[..], &["-f", "-", "--chunks", "3", "--save-logits", logits]].concat(), words.as_bytes());
    let saved: Value = serde_json::from_slice(&saved.stdout).unwrap();
    assert_eq!((saved["chunks"].as_u64(), saved["tokens"].as_u64()), (Some(3), Some(93)));
    let exact = [&common[..], &["--kl-against", logits, "--precision", "exact"]].concat();
    let exact: Value = serde_json::from_slice(&ocelli(&exact, b"").stdout).unwrap();
    let mean = exact["divergence"]["mean"].as_f64().unwrap();
    assert!(mean > 0.0 && mean < 0.05, "8-bit activations cost a little: {mean}");
    let plain = ["perplexity", "-m", &model, "-t", "1", "-c", "64", "-f", "-"];
    let plain = ocelli(&plain, words.as_bytes());
    assert!(text(&plain.stdout).starts_with("Final estimate: PPL = "), "{}", text(&plain.stdout));
    refused(&["perplexity", "-m", &model, "-f", "-"], b"few words", &["at least two chunks"]);
    refused(&["perplexity", "-m", &model, "-f", "-"], b"\xff\xfe", &["not UTF-8"]);
}

#[test]
fn probe_writes_what_was_computed() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let file = dir.path().join("p.safetensors");
    let path = file.to_str().unwrap();
    let args = ["probe", "-m", &model, "-c", "128", "-t", "1", "-p", "Hello", "-n", "3", "--layers", "-o", path];
    let out = ocelli(&args, b"");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let bytes = std::fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("logits").unwrap().shape(), [3, 2048]);
    assert_eq!(tensors.tensor("tokens").unwrap().shape(), [3]);
    let n = tensors.tensor("ids").unwrap().shape()[0];
    assert_eq!(tensors.tensor("layers.3").unwrap().shape(), [n, 256]);
    refused(
        &["probe", "-m", &model, "-p", "x", "--image", "a.png", "-o", &format!("{path}.2")],
        b"",
        &["cannot read a.png"],
    );
}

#[test]
fn bad_input_is_one_line_and_status_1() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("foreign"), b"PK\x03\x04 something else entirely").unwrap();
    let whole = std::fs::read(&model).unwrap();
    std::fs::write(at("half.gguf"), &whole[..whole.len() / 2]).unwrap();
    refused(&["run", "-m", &at("none.gguf"), "-p", "x"], b"", &["none.gguf"]);
    refused(&["run", "-m", &at("foreign"), "-p", "x"], b"", &["not a GGUF file"]);
    refused(&["run", "-m", &at("half.gguf"), "-p", "x"], b"", &["truncated"]);
    refused(&["chat", "-m", &at("half.gguf")], b"", &["truncated"]);
    refused(&["run", "-m", &model, "-f", &at("no.txt")], b"", &["no.txt"]);
    refused(&["run", "-m", &model, "-p", "-"], b"\xff", &["not UTF-8"]);
    refused(&["run", "-m", &model], b"", &["--prompt"]);
    refused(&["run", "-m", &model, "-p", "x", "--temp", "warm"], b"", &["--temp"]);
    refused(&["run", "-m", &model, "-p", "x", "--top-p", "7"], b"", &["top-p", "between 0 and 1"]);
    refused(&["run", "-m", &model, "-p", "x", "--samplers", "luck"], b"", &["luck", "top_k"]);
    refused(&["run", "-m", &model, "-p", "x", "-l", "99999+1"], b"", &["99999"]);
    refused(&["run", "-m", &model, "-p", "x", "-ctk", "q4_0"], b"", &["f16", "f32", "q8_0"]);
    refused(&["run", "-m", &model, "-p", "x", "--isa", "mmx"], b"", &["mmx", "scalar"]);
    refused(&["run", "-m", &model, "-p", "x", "--precision", "sloppy"], b"", &["exact", "fast"]);
    refused(&["run", "-m", &model, "-p", "x", "--rope-factors", "other"], b"", &["minicpm-v-4"]);
    refused(&["run", "-m", &model, "-p", "x", "--chat-template", "nope"], b"", &["nope", "chatml"]);
    refused(&["run", "-m", &model, "-p", "x", "-ub", "0"], b"", &["--ubatch-size"]);
    refused(&["run", "-m", &model, "-p", "x", "-n", "-7"], b"", &["--predict"]);
    refused(&["run", "-m", &model, "-p", "x", "--mlock", "--no-mmap"], b"", &["--mlock"]);
    refused(&["run", "-m", &model, "-p", "", "--raw", "-c", "64", "--no-such"], b"", &["--no-such"]);
    assert!(Path::new(&at("foreign")).exists());
}

#[test]
fn absurd_numbers_are_refused_or_do_no_harm() {
    let model = model();
    let run = |more: &[&'static str]| [&["run", "-m", &model, "-p", "x", "-n", "1"], more].concat();
    let huge = "18446744073709551615";
    for (option, value, words) in [
        ("-c", "4294967295", ["KV cache", "-c"]),
        ("-c", huge, ["KV cache", "-c"]),
        ("-c", "99999999999999999999", ["--ctx-size", "too large"]),
        ("-c", "1", ["the context only 1", "-c"]),
        ("-b", "0", ["--batch-size", "at least 1"]),
        ("-t", "-1", ["-1", "--help"]),
        ("--temp", "nan", ["temp", "number"]),
        ("--temp", "inf", ["temp", "number"]),
        ("--top-k", "99999999999", ["--top-k", "2147483647"]),
        ("--min-p", "nan", ["min-p", "between 0 and 1"]),
        ("--repeat-penalty", "0", ["repeat-penalty", "more than 0"]),
        ("--repeat-penalty", "1e38", ["repeat-penalty", "more than 0"]),
        ("--repeat-last-n", huge, ["--repeat-last-n", "too large"]),
        ("--presence-penalty", "inf", ["presence-penalty", "number"]),
        ("--dry-multiplier", "nan", ["dry-multiplier", "0 (off)"]),
        ("--seed", "99999999999999999999", ["--seed", "too large"]),
        ("-l", "5=nan", ["5=nan", "TOKEN+BIAS"]),
        ("-l", "1e400", ["1e400", "TOKEN+BIAS"]),
    ] {
        refused(&run(&[option, value]), b"", &words);
    }
    for more in [["-t", huge], ["-ub", huge], ["-b", huge], ["--top-k", "-5"], ["--temp", "1e-45"], ["--seed", "-1"]] {
        let out = ocelli(&run(&more), b"");
        assert!(out.status.success(), "{more:?}: {}", text(&out.stderr));
    }
}

#[test]
fn prompts_of_any_bytes_and_any_length() {
    let model = model();
    let run = ["run", "-m", &model, "-p", "-", "-n", "1", "-c", "64", "-t", "1"];
    for prompt in ["", "\0\0", "\u{1b}]0;title\u{7}\u{1b}[2J", "\u{feff}\u{202e}\u{10ffff}", "<|im_end|><s></s>"] {
        let out = ocelli(&run, prompt.as_bytes());
        assert!(out.status.success(), "{prompt:?}: {}", text(&out.stderr));
        assert!(!text(&out.stderr).contains('\u{1b}'), "{prompt:?}: {}", text(&out.stderr));
    }
    for long in ["a".repeat(1 << 20), " ".repeat(1 << 20), "\u{1f642}".repeat(1 << 18), "<s>".repeat(1 << 18)] {
        refused(&run, long.as_bytes(), &["the context only 64"]);
    }
    refused(&run, b"caf\xe9", &["not UTF-8"]);
}
