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

/// One line that says what was given and what to do, by `convert` and by `inspect`.
#[test]
fn what_is_no_checkpoint_gets_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(at.join(name).parent().unwrap()).unwrap();
        std::fs::write(at.join(name), bytes).unwrap();
    };
    write("adapter/adapter_config.json", br#"{"peft_type": "LORA"}"#);
    write("adapter/adapter_model.safetensors", b"");
    write("pickle/config.json", br#"{"architectures": ["LlamaForCausalLM"]}"#);
    write("pickle/pytorch_model.bin", b"PK");
    write(
        "awq/config.json",
        br#"{"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "awq"}}"#,
    );
    write("bert/config.json", br#"{"architectures": ["BertModel"], "model_type": "bert"}"#);
    write("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    write("weights.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    std::fs::create_dir(at.join("nothing")).unwrap();
    for (path, words, inspected) in [
        ("adapter", &["LORA adapter", "merge_and_unload"][..], true),
        ("pointer.safetensors", &["git lfs pull"], true),
        ("weights.safetensors", &["give the folder it lies in"], true),
        ("nothing", &["an empty folder"], true),
        ("nowhere/model", &["nowhere/model", "hf download"], false),
        ("pickle", &["pickle", "safe_serialization"], false),
        ("awq", &["awq", "original"], false),
        ("bert", &["BertModel", "MiniCPM-V 4.0", "LlamaForCausalLM"], false),
    ] {
        for command in ["convert", "inspect"] {
            if command == "inspect" && !inspected {
                continue;
            }
            let out = ocelli(at, &[command, path]);
            let text = String::from_utf8(out.stderr).unwrap();
            assert_eq!(out.status.code(), Some(1), "{command} {path}: {text}");
            assert_eq!(text.lines().count(), 1, "{command} {path}: {text}");
            for word in words {
                assert!(text.contains(word), "{command} {path}: {text:?} lacks {word:?}");
            }
        }
    }
    let out = ocelli(at, &["convert", "x", "--text-only", "--vision-only"]);
    assert!(!out.status.success());
}

#[test]
fn lists_of_types_may_begin_with_a_byte_order_mark() {
    let dir = tempfile::tempdir().unwrap();
    Fixture::llama(&json!({})).write(dir.path(), "tiny");
    assert!(ocelli(dir.path(), &["convert", "tiny", "--outtype", "f16"]).status.success());
    let quantize = |list: &[u8]| {
        std::fs::write(dir.path().join("list.txt"), list).unwrap();
        let args = ["quantize", "--tensor-type-file", "list.txt", "tiny-F16.gguf", "out.gguf", "Q8_0"];
        let out = ocelli(dir.path(), &args);
        (out.status.success(), String::from_utf8(out.stderr).unwrap())
    };
    let (done, text) = quantize(b"\xef\xbb\xbfattn_v=f16\n");
    assert!(done, "{text}");
    let bytes = std::fs::read(dir.path().join("out.gguf")).unwrap();
    let gguf = ocelli_gguf::Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensor("blk.0.attn_v.weight").unwrap().ty.ggml(), Some(ocelli_quant::GgmlType::F16));
    let (done, text) = quantize(b"\xff\xfea\0");
    assert!(!done && text.contains("UTF-16") && text.contains("list.txt"), "{text}");
}

#[test]
fn warnings_are_lines_and_part_of_the_summary() {
    let dir = tempfile::tempdir().unwrap();
    let path = Fixture::llama(&json!({})).write(dir.path(), "tiny");
    std::fs::write(path.join("generation_config.json"), r#"{"top_p": 7}"#).unwrap();
    let out = ocelli(dir.path(), &["convert", "tiny", "--outtype", "f16", "--json"]);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(
        text.lines().filter(|l| l.contains("warning: top_p is 7") && l.contains("left out")).count(),
        1,
        "{text}"
    );
    let summary: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(summary["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(summary["files"][0]["kept"], false);
}
