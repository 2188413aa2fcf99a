//! Headers read from files, and models split over several files.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example or a test, not the command")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use ocelli_gguf::{GgufError, GgufSet, GgufWriter, HeaderSet, MetaValue, TensorType, read_header, split::part_paths};
use tempfile::TempDir;

/// A part with the given split keys and f32 tensors of eight values, all equal to the tensor's number.
fn part(no: u16, count: u16, total: i32, tensors: &[(&str, f32)]) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    if no == 0 {
        writer.kv("general.architecture", "llama").unwrap();
    }
    writer.kv("split.no", no).unwrap().kv("split.count", count).unwrap().kv("split.tensors.count", total).unwrap();
    finish(writer, tensors)
}

fn finish(mut writer: GgufWriter, tensors: &[(&str, f32)]) -> Vec<u8> {
    for (name, _) in tensors {
        writer.tensor(*name, &[8], TensorType::F32).unwrap();
    }
    let mut sink = writer.start(Vec::new()).unwrap();
    for (name, value) in tensors {
        sink.write_tensor(name, &value.to_le_bytes().repeat(8)).unwrap();
    }
    sink.finish().unwrap()
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn three_parts() -> [Vec<u8>; 3] {
    [part(0, 3, 4, &[]), part(1, 3, 4, &[("a", 1.0), ("b", 2.0), ("c", 3.0)]), part(2, 3, 4, &[("d", 4.0)])]
}

#[test]
fn parts_join_to_one_model() {
    let dir = TempDir::new().unwrap();
    let parts = three_parts();
    let paths: Vec<_> = (1..=3).map(|i| write(&dir, &format!("m-q4-0000{i}-of-00003.gguf"), &parts[i - 1])).collect();
    // Any part leads to all.
    for path in &paths {
        assert_eq!(part_paths(path).unwrap(), paths);
    }
    let headers = HeaderSet::read(&paths[0]).unwrap();
    assert_eq!(headers.total_len(), parts.iter().map(|p| p.len() as u64).sum::<u64>());
    let set = headers.view().unwrap();
    assert_eq!(set.metadata().str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(set.tensors().map(|t| t.name).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!(set.located("d").unwrap().0, 2);
    assert!(matches!(set.data("d"), Err(GgufError::NoData { .. })));

    let files: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let whole = GgufSet::parse(&files).unwrap();
    assert_eq!(whole.data("c").unwrap(), 3f32.to_le_bytes().repeat(8));
    assert_eq!(whole.data("d").unwrap(), 4f32.to_le_bytes().repeat(8));
    assert!(matches!(whole.data("e"), Err(GgufError::MissingTensor { .. })));
}

#[test]
fn a_missing_part_is_named() {
    let dir = TempDir::new().unwrap();
    let parts = three_parts();
    let first = write(&dir, "m-00001-of-00003.gguf", &parts[0]);
    write(&dir, "m-00003-of-00003.gguf", &parts[2]);
    let error = HeaderSet::read(&first).unwrap_err();
    assert!(matches!(&error, GgufError::SplitMissing { no: 2, count: 3, .. }), "{error}");
    assert!(error.to_string().contains("m-00002-of-00003.gguf: part 2 of 3"), "{error}");
    // A name that claims a great many parts fails at the first one that is missing.
    let liar = write(&dir, "x-00001-of-65535.gguf", &parts[0]);
    assert!(matches!(HeaderSet::read(&liar), Err(GgufError::SplitMissing { no: 2, .. })));
}

#[test]
fn a_renamed_part_is_refused() {
    let dir = TempDir::new().unwrap();
    let renamed = write(&dir, "model.gguf", &three_parts()[1]);
    let error = HeaderSet::read(&renamed).unwrap_err();
    assert!(error.to_string().contains("does not end in `-00002-of-00003.gguf`"), "{error}");
    let alone = three_parts();
    let error = GgufSet::parse(&[&alone[0]]).unwrap_err();
    assert!(matches!(error, GgufError::SplitIncomplete { given: 1, count: 3 }), "{error}");
    assert!(GgufSet::parse(&[]).is_err());
}

#[test]
fn parts_of_different_models_are_refused() {
    let refused = |parts: &[Vec<u8>], key: &str| {
        let files: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let error = GgufSet::parse(&files).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    };
    let [a, b, c] = three_parts();
    refused(&[b.clone(), a.clone(), c.clone()], "split.no");
    refused(&[a.clone(), b.clone(), b.clone()], "part 3");
    refused(&[a.clone(), b.clone()], "`split.count` is 3, expected 2");
    refused(&[a.clone(), b.clone(), part(2, 3, 4, &[])], "`split.tensors.count` is 4, expected 3");
    refused(&[a.clone(), b.clone(), part(2, 3, -1, &[("d", 0.0)])], "split.tensors.count");
    refused(&[a.clone(), b.clone(), finish(GgufWriter::new(), &[("d", 0.0)])], "`split.count` is missing");
    refused(&[a, b, part(2, 3, 4, &[("a", 9.0)])], "tensor `a`");
}

#[test]
fn merged_files_may_keep_the_keys() {
    for count in [0, 1] {
        let bytes = part(0, count, 1, &[("a", 1.0)]);
        assert_eq!(GgufSet::parse(&[&bytes]).unwrap().n_tensors(), 1);
    }
}

/// A header of several MiB takes more than one read; a sparse file of 100 GiB takes no memory.
#[test]
fn long_headers_and_huge_files() {
    let dir = TempDir::new().unwrap();
    let tokens: Vec<String> = (0..200_000).map(|i| format!("token number {i}")).collect();
    let mut writer = GgufWriter::new();
    writer.kv("tokenizer.ggml.tokens", tokens.clone()).unwrap();
    writer.kv("after", 1u32).unwrap();
    writer.tensor("w", &[1 << 30, 25], TensorType::F32).unwrap();
    let total = writer.total_size().unwrap();
    assert!(total > 100 << 30);
    let path = dir.path().join("huge.gguf");
    let sink = writer.start(File::create(&path).unwrap()).unwrap();
    assert!(matches!(sink.finish(), Err(GgufError::WriteLength { got: 0, .. })));
    // Without its data the file is truncated, and says so before a header is handed out.
    let error = read_header(&path).unwrap_err();
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    assert!(error.to_string().contains("tensor `w`"), "{error}");

    let Ok(()) = File::options().write(true).open(&path).unwrap().set_len(total) else {
        eprintln!("skipped: this file system has no sparse files of {total} bytes");
        return;
    };
    let header = read_header(&path).unwrap();
    let gguf = header.view().unwrap();
    assert!(gguf.metadata().array_str("tokenizer.ggml.tokens").unwrap().unwrap().eq(tokens));
    assert_eq!(gguf.metadata().u32("after").unwrap(), Some(1));
    assert_eq!(gguf.tensor("w").unwrap().n_bytes, 100 << 30);
}

#[test]
fn missing_files_and_directories() {
    let dir = TempDir::new().unwrap();
    for path in [dir.path(), &dir.path().join("none.gguf"), Path::new("/dev/null")] {
        let error = read_header(path).unwrap_err();
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    }
}

#[test]
fn the_writer_refuses_what_readers_refuse() {
    let mut w = GgufWriter::new();
    w.kv("k", 1u32).unwrap().tensor("t", &[32], TensorType::Q8_0).unwrap();
    let text = |r: Result<&mut GgufWriter, GgufError>| r.unwrap_err().to_string();
    assert_eq!(text(w.kv("k", 2u32)), "key `k` was added twice");
    assert_eq!(text(w.tensor("t", &[32], TensorType::Q8_0)), "tensor `t` was added twice");
    assert!(text(w.kv("", 1u32)).contains("0 bytes"));
    assert!(text(w.kv("k".repeat(65_536), 1u32)).contains("65536 bytes"));
    assert!(text(w.tensor("n".repeat(64), &[1], TensorType::F32)).contains("1 to 63"));
    assert!(text(w.tensor("a", &[], TensorType::F32)).contains("0 dimensions"));
    assert!(text(w.tensor("a", &[1; 5], TensorType::F32)).contains("5 dimensions"));
    assert!(text(w.tensor("a", &[33], TensorType::Q8_0)).contains("blocks of 32"));
    assert!(text(w.tensor("a", &[1 << 62, 2], TensorType::F32)).contains("overflows"));
    assert!(text(w.tensor("a", &[32], TensorType(4))).contains("not known"));
    for bad in [MetaValue::U32(0), MetaValue::U32(33), MetaValue::U64(64), MetaValue::U32(1 << 31)] {
        assert!(text(w.kv("general.alignment", bad)).contains("power of two"));
    }
    w.tensor("big", &[1 << 60, 4], TensorType::I8).unwrap();
    w.tensor("big2", &[1 << 60, 4], TensorType::I8).unwrap();
    assert!(w.total_size().unwrap_err().to_string().contains("2⁶³"));
}

#[test]
fn the_sink_counts_bytes_and_keeps_the_order() {
    let start = || {
        let mut w = GgufWriter::new();
        w.tensor("a", &[4], TensorType::F32).unwrap().tensor("b", &[2], TensorType::F32).unwrap();
        w.start(Vec::new()).unwrap()
    };
    assert!(matches!(start().begin("b"), Err(GgufError::WriteOrder { .. })));
    assert!(matches!(start().write(&[0]), Err(GgufError::WriteLength { .. })));
    assert!(matches!(start().write_tensor("a", &[0; 15]), Err(GgufError::WriteLength { got: 15, want: 16, .. })));
    assert!(matches!(start().write_tensor("a", &[0; 17]), Err(GgufError::WriteLength { got: 17, want: 16, .. })));
    assert!(matches!(start().finish(), Err(GgufError::WriteLength { got: 0, .. })));
    let mut sink = start();
    sink.write_tensor("a", &[0; 16]).unwrap();
    assert!(matches!(sink.write_tensor("a", &[0; 16]), Err(GgufError::WriteOrder { .. })));
    sink.write_tensor("b", &[0; 8]).unwrap();
    assert!(matches!(sink.begin("c"), Err(GgufError::WriteOrder { .. })));
    assert_eq!(sink.expected(), None);
    let total = sink.total_size();
    assert_eq!(sink.finish().unwrap().len() as u64, total);
}
