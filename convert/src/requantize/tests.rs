//! What cannot be seen from outside the crate: cancelling, strips, key order. Byte identity is tested in the
//! workspace's `tests/quantize.rs`.

use std::sync::atomic::{AtomicU64, Ordering};

use ocelli_gguf::{GgufWriter, MetaValue, TensorType, read_header};

use super::*;
use crate::imatrix::Imatrix;
use crate::progress::{Progress, Silent};

/// A model with one matrix of `rows` rows of 256 F32 weights, each with the value `value(row)`.
fn model(dir: &Path, rows: u64, value: impl Fn(u64) -> f32) -> PathBuf {
    let mut writer = GgufWriter::new();
    let pairs: [(&str, MetaValue); 7] = [
        ("general.architecture", "llama".into()),
        ("general.file_type", 0u32.into()),
        ("llama.block_count", 1u32.into()),
        ("llama.attention.head_count", 4u32.into()),
        ("quantize.imatrix.file", "older".into()),
        ("general.quantization_version", 1u32.into()),
        ("last.key", 7u8.into()),
    ];
    for (key, value) in pairs {
        writer.kv(key, value).unwrap();
    }
    writer.tensor("output_norm.weight", &[256], TensorType::F32).unwrap();
    writer.tensor("blk.0.ffn_up.weight", &[256, rows, 1], TensorType::F32).unwrap();
    let mut sink = writer.start(Vec::new()).unwrap();
    sink.write_tensor("output_norm.weight", &[0; 1024]).unwrap();
    let bytes: Vec<u8> = (0..rows).flat_map(|r| [value(r).to_le_bytes(); 256].concat()).collect();
    sink.write_tensor("blk.0.ffn_up.weight", &bytes).unwrap();
    let path = dir.join("in.gguf");
    std::fs::write(&path, sink.finish().unwrap()).unwrap();
    path
}

fn options(name: &str) -> Options {
    Options::new(Target::Type(FileType::parse(name).unwrap()))
}

fn make(path: &Path, name: &str, out: &Path, progress: &dyn Progress) -> Result<(), ConvertError> {
    let source = Source::open(path)?;
    Plan::new(&source, &options(name), None)?.write(out, 2, false, progress).map(drop)
}

/// Counts the work and stops after some of it.
struct Stopper {
    after: u64,
    seen: AtomicU64,
}

impl Progress for Stopper {
    fn advance(&self, bytes: u64) {
        self.seen.fetch_add(bytes, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.after
    }
}

#[test]
fn cancelling_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(dir.path(), 5000, |_| 0.5);
    let out = dir.path().join("out.gguf");
    let stopper = Stopper { after: 2 << 20, seen: AtomicU64::new(0) };
    assert!(matches!(make(&path, "Q8_0", &out, &stopper), Err(ConvertError::Cancelled)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the input is there");
    let counter = Stopper { after: u64::MAX, seen: AtomicU64::new(0) };
    make(&path, "Q8_0", &out, &counter).unwrap();
    assert_eq!(counter.seen.into_inner(), 1024 + 5000 * 1024, "all source bytes were reported");
}

#[test]
fn rows_stay_in_order_over_many_strips() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(dir.path(), 4097, |r| r as f32);
    let out = dir.path().join("out.gguf");
    make(&path, "BF16", &out, &Silent).unwrap();
    make(&out, "F32", &dir.path().join("back.gguf"), &Silent).unwrap();
    let bytes = std::fs::read(dir.path().join("back.gguf")).unwrap();
    let header = read_header(&dir.path().join("back.gguf")).unwrap();
    let gguf = header.view().unwrap();
    let tensor = gguf.tensor("blk.0.ffn_up.weight").unwrap();
    assert_eq!(tensor.dims.len(), 2, "trailing dimensions of one are dropped");
    let start = usize::try_from(tensor.offset).unwrap();
    for r in 0..4097usize {
        let at = start + r * 1024 + 4 * (r % 256);
        let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert!((value - r as f32).abs() <= r as f32 / 256.0, "row {r} holds {value}");
    }
}

#[test]
fn keys_set_anew_move_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(dir.path(), 2, |_| 1.0);
    let imatrix_path = dir.path().join("i.dat");
    let name = b"blk.0.ffn_up.weight";
    let values = [1f32.to_le_bytes(); 256].concat();
    let bytes = [&[1, 0, 0, 0, 19, 0, 0, 0], &name[..], &[1, 0, 0, 0, 0, 1, 0, 0], &values, &[5, 0, 0, 0]].concat();
    std::fs::write(&imatrix_path, bytes).unwrap();
    let imatrix = Imatrix::read(&imatrix_path).unwrap();
    let source = Source::open(&path).unwrap();
    let plan = Plan::new(&source, &options("Q4_K_M"), Some(&imatrix)).unwrap();
    let keys: Vec<_> = plan.parts()[0].pairs.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "general.architecture",
            "llama.block_count",
            "llama.attention.head_count",
            "last.key",
            "general.quantization_version",
            "general.file_type",
            "quantize.imatrix.file",
            "quantize.imatrix.entries_count",
            "quantize.imatrix.chunks_count",
        ]
    );
    assert!(plan.unused_importances().is_empty());
}

#[test]
fn overflowing_weights_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(dir.path(), 4, |r| if r == 2 { 1e8 } else { 1.0 });
    for ty in ["F16", "Q8_0", "Q4_K_M"] {
        let error = make(&path, ty, &dir.path().join("out.gguf"), &Silent).expect_err(ty).to_string();
        assert!(error.contains("blk.0.ffn_up.weight") && error.contains("index 512"), "{ty}: {error}");
    }
    make(&path, "BF16", &dir.path().join("out.gguf"), &Silent).unwrap();
}

#[test]
fn a_copy_keeps_types_and_guesses_the_file_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(dir.path(), 4, |_| 1.0);
    let source = Source::open(&path).unwrap();
    let plan = Plan::new(&source, &Options::new(Target::Copy), None).unwrap();
    assert!(plan.tensors().iter().all(|t| !t.is_converted()));
    assert_eq!(plan.source_bytes(), plan.target_bytes());
}

#[test]
fn a_model_without_layer_count_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = GgufWriter::new();
    writer.kv("general.architecture", "llama").unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, writer.start(Vec::new()).unwrap().finish().unwrap()).unwrap();
    let source = Source::open(&path).unwrap();
    let error = Plan::new(&source, &options("Q4_K_M"), None).expect_err("no key").to_string();
    assert!(error.contains("llama.block_count"), "{error}");
}
