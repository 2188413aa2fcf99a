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

/// The command must fail with one line that holds `words`, for a file, the machine or the work is at fault.
#[track_caller]
pub(crate) fn refused(args: &[&str], input: &[u8], words: &[&str]) {
    fails(1, args, input, words);
}

/// The command must fail with one line that holds `words`, for its arguments cannot be.
#[track_caller]
pub(crate) fn misused(args: &[&str], words: &[&str]) {
    fails(2, args, b"", words);
}

#[track_caller]
fn fails(status: i32, args: &[&str], input: &[u8], words: &[&str]) {
    let out = ocelli(args, input);
    let told = text(&out.stderr);
    let error = told.lines().find(|l| l.starts_with("ocelli: error: "));
    assert_eq!(out.status.code(), Some(status), "{args:?}: {told}");
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
    refused(&["perplexity", "-m", &model, "-f", "-"], b"\xff\xfe", &["UTF-16"]);
    refused(&["perplexity", "-m", &model, "-f", "-"], b"caf\xe9", &["not UTF-8"]);
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
fn bad_input_is_one_line_and_bad_arguments_have_their_own_status() {
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
    misused(&["run", "-m", &model], &["--prompt"]);
    misused(&["run", "-m", &model, "-p", "x", "--temp", "warm"], &["--temp"]);
    misused(&["run", "-m", &model, "-p", "x", "--top-p", "7"], &["top-p", "between 0 and 1"]);
    misused(&["run", "-m", &model, "-p", "x", "--samplers", "luck"], &["luck", "top_k"]);
    misused(&["run", "-m", &model, "-p", "x", "-l", "99999+1"], &["99999"]);
    misused(&["run", "-m", &model, "-p", "x", "-ctk", "q4_0"], &["f16", "f32", "q8_0"]);
    misused(&["run", "-m", &model, "-p", "x", "--isa", "mmx"], &["mmx", "scalar"]);
    misused(&["run", "-m", &model, "-p", "x", "--precision", "sloppy"], &["exact", "fast"]);
    misused(&["run", "-m", &model, "-p", "x", "--rope-factors", "other"], &["minicpm-v-4"]);
    misused(&["run", "-m", &model, "-p", "x", "--chat-template", "nope"], &["nope", "chatml"]);
    misused(&["run", "-m", &model, "-p", "x", "-ub", "0"], &["--ubatch-size"]);
    misused(&["run", "-m", &model, "-p", "x", "-n", "-7"], &["--predict"]);
    misused(&["run", "-m", &model, "-p", "x", "--mlock", "--no-mmap"], &["--mlock"]);
    misused(&["run", "-m", &model, "-p", "", "--raw", "-c", "64", "--no-such"], &["--no-such"]);
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
        // What the machine or the context has no room for is not a fault of the arguments.
        let status = if words[0].contains("KV cache") || words[0].contains("context only") { 1 } else { 2 };
        fails(status, &run(&[option, value]), b"", &words);
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

/// What llama.cpp's users type: nothing of it is misread, and only what cannot be had ends the program.
#[test]
fn options_of_llama_cpp() {
    let model = model();
    let run = |more: &[&str]| {
        let common = ["run", "-m", &model, "-c", "128", "-t", "1", "--temp", "0", "--ignore-eos", "--json", "-n", "2"];
        let out = ocelli(&[&common[..], more].concat(), b"");
        let told = text(&out.stderr).to_owned();
        assert!(out.status.success(), "{more:?}: {told}");
        let json: Value = serde_json::from_slice(&out.stdout).unwrap();
        (json["text"].clone(), json["prompt_tokens"].clone(), told)
    };
    let plain = run(&["-p", "-sys"]);
    let (answer, tokens, told) = run(&["-p=-sys", "-ngl", "99", "-fa", "-cnv", "--no-mmproj-offload"]);
    assert_eq!((answer, tokens), (plain.0.clone(), plain.1.clone()), "the prompt is the same text");
    let note = "ocelli: note: no effect in this program: -ngl, -fa, -cnv, --no-mmproj-offload";
    assert_eq!(told.lines().filter(|l| *l == note).count(), 1, "{told}");
    assert!(!plain.2.contains("no effect"), "{}", plain.2);
    assert_eq!(run(&["--prompt", "-sys", "-fa", "off", "-ub64"]).1, plain.1);
    assert_ne!(run(&["-p", "x", "-sys", "Be brief."]).1, run(&["-p", "x"]).1);
    misused(&["run", "-hf", "no-repository", "-p", "hi"], &["no-repository", "USER/REPO"]);
    misused(&["run", "-hft", "x", "-p", "hi"], &["-hft", "HF_TOKEN"]);
    misused(&["run", "-p", "hi", "--lora", "x"], &["--lora", "merge"]);
    misused(&["run", "-m", &model, "-p", "hi", "-xyz"], &["`-xyz`", "ocelli run"]);
    misused(&["run", "-m", &model, "-p", "hi", "-hV"], &["`-hV`"]);
    misused(&["nonsense"], &["nonsense"]);
    let bare = ocelli(&[], b"");
    assert_eq!(bare.status.code(), Some(2), "a missing command");
    assert_eq!(ocelli(&["--help"], b"").status.code(), Some(0));
}

/// A pipe without a writer is not waited for where a model belongs.
#[test]
#[cfg(unix)]
fn pipes_are_no_models() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe").to_str().unwrap().to_owned();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let model = model();
    refused(&["run", "-m", &pipe, "-p", "x"], b"", &["pipe", "regular file"]);
    refused(&["inspect", &pipe], b"", &["pipe"]);
    refused(&["tokenize", "-m", &pipe, "-p", "x"], b"", &["pipe", "regular file"]);
    refused(&["perplexity", "-m", &model, "--kl-against", &pipe], b"", &["pipe", "regular file"]);
}

/// A text that has no end is refused before it fills the memory.
#[test]
#[cfg(unix)]
fn endless_texts_are_refused() {
    let model = model();
    let zero = "/dev/zero";
    refused(&["run", "-m", &model, "-p", "x", "--chat-template", zero], b"", &["chat template", "bytes long"]);
    refused(&["run", "-m", &model, "-f", zero], b"", &[zero, "MiB"]);
    refused(&["perplexity", "-m", &model, "-f", zero], b"", &[zero, "MiB"]);
    refused(&["tokenize", "-m", &model, "-f", zero], b"", &[zero, "MiB"]);
    refused(&["quantize", "--imatrix", zero, &model, "Q4_0"], b"", &[zero]);
}

/// In exact work keys and values are kept as they are computed, unless they are to be rounded.
#[test]
fn exact_work_keeps_keys_and_values_in_f32() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let commands: [&[&str]; 4] = [
        &["run", "-p", "x", "-n", "1"],
        &["chat", "-n", "1"],
        &["perplexity", "-f", "-", "--chunks", "2"],
        &["probe", "-p", "x", "-o", &at("p"), "--overwrite"],
    ];
    let words = "word ".repeat(300);
    for command in commands {
        for (more, cache) in [
            (&["--precision", "exact"][..], ["K f32 ", "V f32 "]),
            (&["--precision", "exact", "-ctk", "f16"], ["K f16 ", "V f32 "]),
            (&["--precision", "exact", "-ctk", "q8_0", "-ctv", "f16"], ["K q8_0 ", "V f16 "]),
            (&[], ["K f16 ", "V f16 "]),
        ] {
            let out = ocelli(&[command, &["-m", &model, "-c", "64", "-t", "1"], more].concat(), words.as_bytes());
            let told = text(&out.stderr);
            assert!(cache.iter().all(|word| told.contains(word)), "{command:?} {more:?}: {told}");
        }
    }
}

/// More than the process may have is refused in a line that says what sets the limit.
#[cfg(target_os = "linux")]
#[test]
fn limits_of_memory_are_kept() {
    let model = model();
    let shell = |script: &str| {
        let out = Command::new("sh").args(["-c", script, "sh", env!("CARGO_BIN_EXE_ocelli"), &model]).output().unwrap();
        (out.status.code(), text(&out.stderr).to_owned())
    };
    let run = |n_ctx: &str| format!("exec \"$1\" run -m \"$2\" -p x -n 1 -t 1 -c {n_ctx}");
    let (status, told) = shell(&format!("ulimit -v 3000000; {}", run("1500000")));
    let error = told.lines().find(|l| l.starts_with("ocelli: error: ")).unwrap_or_else(|| panic!("{status:?}: {told}"));
    assert!(status == Some(1) && error.contains("KV cache") && error.contains("`ulimit -v`"), "{error}");
    let (status, told) = shell(&format!("ulimit -v 3000000; {}", run("256")));
    assert_eq!(status, Some(0), "{told}");

    // A real control group, where this machine lets a test make one.
    let Some(group) = control_group(768 << 20) else {
        println!("skipped: no control group with a memory limit can be made here");
        return;
    };
    let enter = format!("echo $$ > {}/cgroup.procs || exit 99; ", group.display());
    let (refused, fits) = (shell(&format!("{enter}{}", run("1500000"))), shell(&format!("{enter}{}", run("256"))));
    std::fs::remove_dir(&group).unwrap();
    assert_ne!(refused.0, Some(99), "{}", refused.1);
    let file = group.file_name().unwrap().to_str().unwrap();
    let error = refused.1.lines().find(|l| l.starts_with("ocelli: error: ")).unwrap_or_else(|| panic!("{refused:?}"));
    assert!(["KV cache", "container or service", file].iter().all(|w| error.contains(w)), "{error}");
    assert_eq!((refused.0, fits.0), (Some(1), Some(0)), "{}", fits.1);
}

/// A new group below this process's own with that limit, of whichever version.
#[cfg(target_os = "linux")]
fn control_group(limit: u64) -> Option<std::path::PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let name = format!("ocelli-test-{}", std::process::id());
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, own) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let (top, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        let group = Path::new(top).join(own).join(&name);
        std::fs::create_dir(&group).ok()?;
        if std::fs::write(group.join(file), limit.to_string()).is_err() {
            std::fs::remove_dir(&group).ok()?;
            return None;
        }
        Some(group)
    })
}
