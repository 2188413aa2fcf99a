use serde_json::json;

use super::*;

/// Writes a safetensors file from a header and `data` bytes of payload.
fn write(path: &Path, header: &str, data: usize) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data).map(|i| i as u8));
    std::fs::write(path, bytes).unwrap();
}

fn open_with(header: &str, data: usize) -> Result<Checkpoint, ConvertError> {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(SINGLE), header, data);
    Checkpoint::open(dir.path())
}

#[track_caller]
fn refused(header: &str, data: usize, words: &[&str]) {
    let error = open_with(header, data).unwrap_err();
    assert!(matches!(error, ConvertError::Damaged { .. }), "{error:?}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} lacks {word:?}");
    }
}

#[test]
fn reads_ranges_of_every_dtype() {
    let header = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"BF16","shape":[2,2],"data_offsets":[16,24]},
        "a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},
        "ids":{"dtype":"I64","shape":[1],"data_offsets":[24,32]}}   "#;
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(SINGLE), header, 32);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let b = &checkpoint.tensors()["b"];
    assert_eq!((b.shape.as_slice(), checkpoint.weight_type(b).unwrap()), (&[2, 2][..], SourceType::Bf16));
    let mut out = [0u8; 4];
    checkpoint.read_at(b, 2, &mut out).unwrap();
    assert_eq!(out, [18, 19, 20, 21]);
    assert!(checkpoint.read_at(b, 5, &mut out).is_err(), "reads past the tensor's end are refused");
    let error = checkpoint.weight_type(&checkpoint.tensors()["ids"]).unwrap_err().to_string();
    assert!(error.contains("ids") && error.contains("I64"), "{error}");
}

#[test]
fn refuses_headers_that_lie() {
    refused(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        12,
        &["b", "inside"],
    );
    refused(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 4, &["a", "0..8", "4"]);
    refused(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8, &["a", "[3]"]);
    refused(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8, &["8..0"]);
    refused(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12, &["0..4"]);
    refused(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 12, &["4 bytes after"]);
    refused(r#"{"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]}}"#, 8, &["Q9"]);
    refused(
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#,
        0,
        &["4611686018427387904"],
    );
    refused(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#, 8, &["header"]);
    refused(
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        8,
        &["twice"],
    );
    refused("{", 0, &["header"]);
    refused("[]", 0, &["header"]);
}

#[test]
fn refuses_impossible_header_lengths() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SINGLE);
    for bytes in [&[][..], &[1, 2, 3], &u64::MAX.to_le_bytes(), &1000u64.to_le_bytes(), &(100_000_001u64).to_le_bytes()]
    {
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Checkpoint::open(dir.path()), Err(ConvertError::Damaged { .. })), "{bytes:?}");
    }
}

fn sharded(dir: &Path, map: &serde_json::Value) {
    write(&dir.join("model-1.safetensors"), r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#, 4);
    write(&dir.join("model-2.safetensors"), r#"{"b":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#, 4);
    std::fs::write(dir.join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
}

#[test]
fn reads_shards() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), &json!({"a": "model-1.safetensors", "b": "model-2.safetensors"}));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.tensors()["a"].shard, 0);
    assert_eq!(checkpoint.tensors()["b"].shard, 1);
}

#[test]
fn checks_shards_against_the_index() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), &json!({"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}));
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("tensor c"));
    sharded(dir.path(), &json!({"a": "model-2.safetensors", "b": "model-1.safetensors"}));
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("tensor a"));
    sharded(dir.path(), &json!({"a": "../model-1.safetensors"}));
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("../model-1"));
    sharded(dir.path(), &json!({"a": 5}));
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("expected the name of a file"));
    sharded(dir.path(), &json!({}));
    assert!(matches!(Checkpoint::open(dir.path()), Err(ConvertError::Config { .. })));
    sharded(dir.path(), &json!({"a": "model-1.safetensors", "b": "model-2.safetensors"}));
    std::fs::remove_file(dir.path().join("model-2.safetensors")).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, ConvertError::MissingFile { path, .. } if path.ends_with("model-2.safetensors")),
        "{error}"
    );
}

#[test]
fn says_what_a_folder_lacks() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains(INDEX));
    std::fs::write(dir.path().join("pytorch_model.bin"), b"").unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("safe_serialization"));
    assert!(Checkpoint::open(&dir.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
}

/// Writes a single file beside the shards of [`sharded`].
fn single(dir: &Path, header: &str, data: usize) {
    write(&dir.join(SINGLE), header, data);
}

#[test]
fn a_single_file_goes_before_an_index() {
    let both = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}}"#;
    let map = json!({"a": "model-1.safetensors", "b": "model-2.safetensors"});
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), &map);
    single(dir.path(), both, 8);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut byte = [0u8];
    checkpoint.read_at(&checkpoint.tensors()["b"], 0, &mut byte).unwrap();
    assert_eq!(byte, [4], "read from the single file, not from the shard");
    assert!(checkpoint.notes()[0].contains(INDEX) && checkpoint.notes()[0].contains("was taken"));
    // Shards that are gone are not needed, and an index of the single file itself says nothing else.
    std::fs::remove_file(dir.path().join("model-2.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().notes().len(), 1);
    std::fs::write(dir.path().join(INDEX), json!({"weight_map": {"a": SINGLE, "b": SINGLE}}).to_string()).unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap().notes().is_empty());
}

#[test]
fn a_single_file_of_another_model_than_the_index() {
    let header = |name: &str, shape: u32, end: u32| {
        format!(
            r#"{{"a":{{"dtype":"F16","shape":[2],"data_offsets":[0,4]}},"{name}":{{"dtype":"F16","shape":[{shape}],"data_offsets":[4,{end}]}}}}"#
        )
    };
    for (name, shape, word) in [("c", 2, "tensor b"), ("b", 3, "[3] in model.safetensors and [2]")] {
        let dir = tempfile::tempdir().unwrap();
        sharded(dir.path(), &json!({"a": "model-1.safetensors", "b": "model-2.safetensors"}));
        let end = 4 + 2 * shape;
        single(dir.path(), &header(name, shape, end), end as usize);
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(matches!(error, ConvertError::Disagreement { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(word) && text.contains(INDEX) && text.contains("remove"), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path(), &json!({"a": "model-1.safetensors"}));
    single(dir.path(), &header("b", 2, 8), 8);
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("does not list it"));
}

#[test]
fn pointers_links_and_pipes_in_place_of_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SINGLE);
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n").unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("git lfs pull"));
    std::fs::rename(&path, dir.path().join(INDEX)).unwrap();
    assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("git lfs pull"));
    std::fs::remove_file(dir.path().join(INDEX)).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("gone"), &path).unwrap();
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("a link to a file that is gone"));
        std::fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if made.is_ok_and(|status| status.success()) {
            assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("a device or pipe"));
        }
    }
}
