//! Files that lie: each class of attack on GGUF readers, tried with a file that does it.
//!
//! The files are built here and kept under `tests/corpus/`, with the exact error text each must give in
//! `expected.tsv`, so that other programs can use them too. `OCELLI_BLESS=1 cargo test -p ocelli-gguf --test
//! malformed` writes the folder anew after a change of this list.

mod common;

use std::{fmt::Write as _, fs, path::PathBuf};

use common::{ARRAY, BOOL, F32, I32, Raw, STRING, U8, U32, U64, one_tensor};
use ocelli_gguf::{Gguf, GgufError, Item, TensorType};

type Check = fn(&GgufError) -> bool;

/// File name, content, and the error it must give.
struct Case(&'static str, Vec<u8>, Check);

macro_rules! is {
    ($($pattern:tt)+) => {
        |e| matches!(e, $($pattern)+)
    };
}

/// Not GGUF, or not a version that can be read.
fn foreign() -> Vec<Case> {
    vec![
        Case("empty", vec![], is!(GgufError::NotGguf { .. })),
        Case("magic-short", b"GGU".to_vec(), is!(GgufError::NotGguf { .. })),
        Case("magic-zip", b"PK\x03\x04rest of an archive".to_vec(), is!(GgufError::NotGguf { .. })),
        Case("version-missing", b"GGUF\x03".to_vec(), is!(GgufError::Truncated { item: Item::Header, .. })),
        Case("version-0", Raw::header(0, 0, 0).0, is!(GgufError::Version { version: 0 })),
        Case("version-1", Raw::header(1, 0, 0).0, is!(GgufError::Version { version: 1 })),
        Case("version-4", Raw::header(4, 0, 0).0, is!(GgufError::Version { version: 4 })),
        Case("big-endian", Raw::header(3 << 24, 0, 0).0, is!(GgufError::BigEndian { .. })),
        Case("counts-missing", Raw(b"GGUF".to_vec()).u32(3).u64(1).0, is!(GgufError::Truncated { .. })),
    ]
}

/// Counts and lengths far beyond the file: nothing may be allocated or walked for them.
fn counts() -> Vec<Case> {
    let string_of = |len: u64| Raw::header(3, 0, 1).str("k").u32(STRING).u64(len).raw(b"abc").0;
    let array_of = |ty: u32, len: u64| Raw::header(3, 0, 1).str("k").u32(ARRAY).u32(ty).u64(len).raw(&[0; 16]).0;
    vec![
        Case("count-keys-max", Raw::header(3, 0, u64::MAX).0, is!(GgufError::Count { .. })),
        Case(
            "count-keys-one-too-many",
            Raw::header(3, 0, 2).kv_u32("k", 1).0,
            is!(GgufError::Count { claimed: 2, .. }),
        ),
        Case("count-keys-negative", Raw::header(3, 0, 1 << 63).0, is!(GgufError::Count { .. })),
        Case("count-tensors-max", Raw::header(3, u64::MAX, 0).0, is!(GgufError::Count { .. })),
        Case("count-tensors-4g", Raw::header(3, 1 << 32, 0).data(64).0, is!(GgufError::Count { .. })),
        Case("key-length-max", Raw::header(3, 0, 1).u64(u64::MAX).data(16).0, is!(GgufError::NameLength { .. })),
        Case("key-length-65536", Raw::header(3, 0, 1).u64(65_536).data(16).0, is!(GgufError::NameLength { .. })),
        Case("key-empty", Raw::header(3, 0, 1).str("").u32(U32).u32(1).0, is!(GgufError::NameLength { len: 0, .. })),
        Case("key-beyond-end", Raw::header(3, 0, 1).u64(60_000).data(16).0, is!(GgufError::Truncated { .. })),
        Case("string-length-max", string_of(u64::MAX), is!(GgufError::Truncated { item: Item::Key(_), .. })),
        Case("string-length-negative", string_of(1 << 63), is!(GgufError::Truncated { item: Item::Key(_), .. })),
        Case("string-length-1g", string_of(1 << 30), is!(GgufError::Truncated { item: Item::Key(_), .. })),
        Case("string-length-one-too-many", string_of(4), is!(GgufError::Truncated { needed: 4, available: 3, .. })),
        Case("array-count-max", array_of(U8, u64::MAX), is!(GgufError::Count { .. })),
        Case("array-count-wraps", array_of(U64, (1 << 61) + 1), is!(GgufError::Count { .. })),
        Case("array-count-one-too-many", array_of(F32, 5), is!(GgufError::Count { possible: 4, .. })),
        Case("array-strings-4g", array_of(STRING, 1 << 32), is!(GgufError::Count { possible: 2, .. })),
        Case("array-strings-short", array_of(STRING, 2).split_last().unwrap().1.to_vec(), is!(GgufError::Count { .. })),
        Case(
            "array-string-length-max",
            Raw::header(3, 0, 1).str("k").u32(ARRAY).u32(STRING).u64(2).str("a").u64(u64::MAX).0,
            is!(GgufError::Truncated { .. }),
        ),
        Case("tensor-name-max", Raw::header(3, 1, 0).u64(u64::MAX).data(32).0, is!(GgufError::NameLength { .. })),
        Case(
            "tensor-name-64",
            Raw::header(3, 1, 0).info(&"n".repeat(64), &[1], 0, 0).pad(32).data(4).0,
            is!(GgufError::NameLength { len: 64, .. }),
        ),
        Case("tensor-dims-5", one_tensor(&[1; 5], 0, 0, 4), is!(GgufError::DimCount { n_dims: 5, .. })),
        Case(
            "tensor-dims-4g",
            Raw::header(3, 1, 0).str("w").u32(u32::MAX).data(64).0,
            is!(GgufError::DimCount { n_dims: u32::MAX, .. }),
        ),
        // A header shorter than its own counts demand, in 43 bytes.
        Case(
            "tiny-43-bytes",
            Raw::header(3, 0, 1).str("k").u32(ARRAY).raw(&[0; 6]).0,
            is!(GgufError::Truncated { .. }),
        ),
    ]
}

/// Types and values that are not what they claim to be.
fn types() -> Vec<Case> {
    let nested = Raw::header(3, 0, 1).str("k").u32(ARRAY).u32(ARRAY).u64(1).u32(ARRAY).u64(1).data(16).0;
    let deep = (0..4000).fold(Raw::header(3, 0, 1).str("k").u32(ARRAY), |raw, _| raw.u32(ARRAY).u64(1)).0;
    vec![
        Case(
            "value-type-13",
            Raw::header(3, 0, 1).str("k").u32(13).u64(0).0,
            is!(GgufError::ValueType { code: 13, .. }),
        ),
        Case("value-type-max", Raw::header(3, 0, 1).str("k").u32(u32::MAX).u64(0).0, is!(GgufError::ValueType { .. })),
        Case(
            "array-type-13",
            Raw::header(3, 0, 1).str("k").u32(ARRAY).u32(13).u64(1).u64(0).0,
            is!(GgufError::ValueType { code: 13, .. }),
        ),
        Case("array-nested", nested, is!(GgufError::NestedArray { .. })),
        Case("array-nested-deep", deep, is!(GgufError::NestedArray { .. })),
        Case("bool-2", Raw::header(3, 0, 1).str("k").u32(BOOL).u8(2).0, is!(GgufError::Bool { value: 2, .. })),
        Case(
            "bool-array-255",
            Raw::header(3, 0, 1).str("k").u32(ARRAY).u32(BOOL).u64(3).raw(&[0, 1, 255]).0,
            is!(GgufError::Bool { value: 255, .. }),
        ),
        Case("utf8-key", Raw::header(3, 0, 1).u64(2).raw(b"k\xff").u32(U32).u32(0).0, is!(GgufError::Utf8 { .. })),
        Case(
            "utf8-value",
            Raw::header(3, 0, 1).str("general.name").u32(STRING).u64(3).raw(b"a\xc3(").0,
            is!(GgufError::Utf8 { .. }),
        ),
        Case(
            "utf8-token",
            Raw::header(3, 0, 1).str("tokens").u32(ARRAY).u32(STRING).u64(2).str("a").u64(1).raw(b"\x80").0,
            is!(GgufError::Utf8 { .. }),
        ),
        Case(
            "utf8-tensor-name",
            Raw::header(3, 1, 0).u64(1).raw(b"\xfe").u32(1).u64(1).u32(0).u64(0).pad(32).data(4).0,
            is!(GgufError::Utf8 { item: Item::TensorIndex(0), .. }),
        ),
        Case(
            "duplicate-key",
            Raw::header(3, 0, 3).kv_u32("k", 1).kv_u32("l", 1).kv_u32("k", 2).0,
            is!(GgufError::Duplicate { item: Item::Key(_), .. }),
        ),
        Case(
            "duplicate-tensor",
            Raw::header(3, 2, 0).info("w", &[8], 0, 0).info("w", &[8], 0, 32).pad(32).data(64).0,
            is!(GgufError::Duplicate { item: Item::Tensor(_), .. }),
        ),
        Case(
            "tensor-type-withdrawn",
            one_tensor(&[32], 4, 0, 20),
            is!(GgufError::TensorType { code: TensorType(4), .. }),
        ),
        Case("tensor-type-unknown", one_tensor(&[32], 99, 0, 20), is!(GgufError::TensorType { .. })),
        Case("tensor-type-max", one_tensor(&[32], u32::MAX, 0, 20), is!(GgufError::TensorType { .. })),
    ]
}

/// Alignments that divide by zero, are no power of two or have the wrong type.
fn alignments() -> Vec<Case> {
    let with = |ty: u32, value: &[u8]| {
        Raw::header(3, 1, 1).str("general.alignment").u32(ty).raw(value).info("w", &[8], 0, 0).pad(32).data(32).0
    };
    vec![
        Case("alignment-0", with(U32, &[0; 4]), is!(GgufError::Alignment { .. })),
        Case("alignment-33", with(U32, &33u32.to_le_bytes()), is!(GgufError::Alignment { .. })),
        Case("alignment-u64", with(U64, &32u64.to_le_bytes()), is!(GgufError::Alignment { .. })),
        Case("alignment-i32", with(I32, &(-32i32).to_le_bytes()), is!(GgufError::Alignment { .. })),
        Case("alignment-2g", with(U32, &(1u32 << 31).to_le_bytes()), is!(GgufError::DataOutside { .. })),
    ]
}

/// Shapes whose size wraps around.
fn overflows() -> Vec<Case> {
    let size = |e: &GgufError| matches!(e, GgufError::SizeOverflow { .. });
    vec![
        // 2^32 * 2^32 = 2^64, which wraps to nothing.
        Case("size-wraps-to-0", one_tensor(&[1 << 32, 1 << 32], 0, 0, 32), size),
        // (2^62 + 8) * 4 wraps to 32 bytes.
        Case("size-wraps-to-32-bytes", one_tensor(&[(1 << 62) + 8], 0, 0, 32), size),
        Case("size-product-wraps-to-8", one_tensor(&[8, (1 << 61) + 1], 0, 0, 32), size),
        Case("size-dim-negative", one_tensor(&[u64::MAX], 0, 0, 32), size),
        Case("size-two-dims-negative", one_tensor(&[u64::MAX, u64::MAX], 24, 0, 32), size),
        Case("size-i64-max-plus-1", one_tensor(&[1 << 31, 1 << 32], 24, 0, 32), size),
        Case("size-i64-max", one_tensor(&[i64::MAX as u64], 24, 0, 32), |e| matches!(e, GgufError::DataOutside { .. })),
        Case("size-f64-overflows-bytes", one_tensor(&[1 << 60], 28, 0, 32), size),
        // A size that the padding to the alignment would push over the edge.
        Case("size-padding-wraps", one_tensor(&[i64::MAX as u64 - 6], 24, 0, 32), |e| {
            matches!(e, GgufError::DataOutside { .. })
        }),
        Case("row-not-blocks-q8_0", one_tensor(&[33], 8, 0, 68), is!(GgufError::RowLength { block: 32, .. })),
        Case("row-not-blocks-q4_k", one_tensor(&[128, 2], 12, 0, 144), is!(GgufError::RowLength { block: 256, .. })),
    ]
}

/// Data outside the file, on top of other data, or not aligned.
fn places() -> Vec<Case> {
    let two = |b_offset: u64, data: usize| {
        Raw::header(3, 2, 0).info("a", &[16], 0, 0).info("b", &[16], 0, b_offset).pad(32).data(data).0
    };
    vec![
        Case("data-missing", Raw::header(3, 1, 0).info("w", &[8], 0, 0).0, is!(GgufError::DataOutside { .. })),
        Case("data-one-byte-short", one_tensor(&[8], 0, 0, 31), is!(GgufError::DataOutside { .. })),
        Case("data-offset-beyond-end", one_tensor(&[8], 0, 1 << 40, 64), is!(GgufError::DataOutside { .. })),
        Case("data-offset-wraps", one_tensor(&[8], 0, u64::MAX - 31, 64), is!(GgufError::DataOutside { .. })),
        // Offset and size together wrap around to a place inside the file.
        Case(
            "data-offset-and-size-wrap",
            one_tensor(&[(i64::MAX as u64) & !31], 24, 1 << 63, 64),
            is!(GgufError::DataOutside { .. }),
        ),
        Case("data-offset-misaligned", one_tensor(&[8], 0, 4, 64), is!(GgufError::Misaligned { .. })),
        Case("data-overlap-same", two(0, 128), is!(GgufError::Overlap { .. })),
        Case("data-overlap-part", two(32, 128), is!(GgufError::Overlap { .. })),
        Case(
            "tensor-info-cut",
            Raw::header(3, 1, 0).str("weight-name").u32(1).u64(8).0,
            is!(GgufError::Truncated { .. }),
        ),
        Case(
            "key-value-cut",
            Raw::header(3, 0, 1).str("kkkkk").u32(U64).raw(&[0; 7]).0,
            is!(GgufError::Truncated { .. }),
        ),
    ]
}

fn all_cases() -> Vec<Case> {
    [foreign(), counts(), types(), alignments(), overflows(), places()].into_iter().flatten().collect()
}

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

#[test]
fn every_malformed_file_is_refused_with_its_error() {
    let mut wrong = String::new();
    for Case(name, bytes, check) in all_cases() {
        match Gguf::parse(&bytes) {
            Ok(gguf) => writeln!(wrong, "{name}: accepted: {gguf:?}").unwrap(),
            Err(error) if !check(&error) => writeln!(wrong, "{name}: {error:?}").unwrap(),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_corpus_holds_these_files_and_their_error_texts() {
    let dir = corpus();
    let index: String = all_cases()
        .iter()
        .map(|Case(name, bytes, _)| format!("{name}.gguf\t{}\n", Gguf::parse(bytes).expect_err(name)))
        .collect();
    if std::env::var_os("OCELLI_BLESS").is_some() {
        for Case(name, bytes, _) in all_cases() {
            fs::write(dir.join(format!("{name}.gguf")), bytes).unwrap();
        }
        fs::write(dir.join("expected.tsv"), &index).unwrap();
    }
    assert_eq!(fs::read_to_string(dir.join("expected.tsv")).unwrap(), index);
    for Case(name, bytes, _) in all_cases() {
        assert!(fs::read(dir.join(format!("{name}.gguf"))).unwrap() == bytes, "{name}.gguf differs from the list");
    }
    let files = fs::read_dir(&dir).unwrap().count();
    assert_eq!(files, all_cases().len() + 1, "a file in the corpus is not in the list");
}

/// Every error says where: a byte offset, or the version or first bytes for a file that is no usable GGUF at all.
#[test]
fn every_error_names_a_place() {
    for Case(name, bytes, _) in all_cases() {
        let text = Gguf::parse(&bytes).expect_err(name).to_string();
        assert!(text.contains("offset") || text.contains("version") || text.contains("begins with"), "{name}: {text}");
        assert!(!text.contains('\n'), "{name}: more than one line");
    }
}

/// A claim is never allocated: the address space of the process does not grow by what these files claim, which is a
/// gigabyte at the very least.
#[cfg(target_os = "linux")]
#[test]
fn claims_are_not_allocated() {
    fn peak_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmPeak:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
    let cases = counts();
    let before = peak_kib();
    for Case(name, bytes, _) in &cases {
        assert!(Gguf::parse(bytes).is_err(), "{name}");
    }
    // Other tests of this process may start threads meanwhile, with 64 MiB of reserved heap each.
    assert!(peak_kib() - before < 700 << 10);
}
