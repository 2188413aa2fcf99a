//! Both file forms, and files that lie.

use ocelli_gguf::GgufWriter;

use super::*;

/// One entry of the older form.
fn entry(name: &str, calls: i32, values: &[f32]) -> Vec<u8> {
    let mut bytes = i32::try_from(name.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.extend(calls.to_le_bytes());
    bytes.extend(i32::try_from(values.len()).unwrap().to_le_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

fn legacy(entries: &[Vec<u8>], tail: &[u8]) -> Vec<u8> {
    let mut bytes = i32::try_from(entries.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(entries.concat());
    bytes.extend(tail);
    bytes
}

fn read_bytes(bytes: &[u8]) -> Result<Imatrix, ImatrixError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Imatrix::read(file.path())
}

fn gguf(tensors: &[(&str, Vec<u64>, Vec<f32>)], keys: &[&str]) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.kv("general.type", "imatrix").unwrap();
    for key in keys {
        match *key {
            "imatrix.datasets" => writer.kv(*key, vec!["text".to_owned()]).unwrap(),
            _ => writer.kv(*key, 9u32).unwrap(),
        };
    }
    for (name, dims, _) in tensors {
        writer.tensor(*name, dims, TensorType::F32).unwrap();
    }
    let mut sink = writer.start(Vec::new()).unwrap();
    for (name, _, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        sink.write_tensor(name, &bytes).unwrap();
    }
    sink.finish().unwrap()
}

const KEYS: [&str; 3] = ["imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"];

#[test]
fn the_older_form_is_divided_by_its_calls() {
    let tail = [42i32.to_le_bytes().as_slice(), &4i32.to_le_bytes(), b"text"].concat();
    let bytes = legacy(&[entry("a.weight", 2, &[2.0, 5.0]), entry("b.weight", 0, &[3.0])], &tail);
    let imatrix = read_bytes(&bytes).unwrap();
    assert_eq!(imatrix.get("a.weight"), Some(&[1.0, 2.5][..]));
    assert_eq!(imatrix.get("b.weight"), Some(&[3.0][..]));
    assert_eq!((imatrix.chunks(), imatrix.datasets()), (42, &["text".to_owned()][..]));
    assert_eq!(imatrix.names().collect::<Vec<_>>(), ["a.weight", "b.weight"]);
}

#[test]
fn the_end_of_the_older_form_may_be_missing() {
    for tail in [&b""[..], b"\x01", b"\x05\0\0\0", b"\x05\0\0\0\x09\0\0\0abc"] {
        let imatrix = read_bytes(&legacy(&[entry("a", 1, &[1.0])], tail)).unwrap();
        assert_eq!(imatrix.len(), 1);
        assert_eq!(imatrix.datasets().len(), 0);
    }
}

#[test]
fn sums_are_divided_by_the_count_of_their_matrix() {
    let bytes = gguf(
        &[("w.in_sum2", vec![2, 3], vec![2.0, 4.0, 6.0, 8.0, 1.0, 1.0]), ("w.counts", vec![1, 3], vec![2.0, 4.0, 0.0])],
        &KEYS,
    );
    let imatrix = read_bytes(&bytes).unwrap();
    // The third matrix was never used: all its columns count alike.
    assert_eq!(imatrix.get("w"), Some(&[1.0, 2.0, 1.5, 2.0, 1.0, 1.0][..]));
    assert_eq!(imatrix.chunks(), 9);
}

#[test]
fn weights_are_selected_by_part_of_their_name() {
    let entries = ["blk.0.attn_v", "blk.1.attn_v", "blk.0.ffn_up"].map(|n| entry(n, 1, &[1.0]));
    let all = read_bytes(&legacy(&entries, b"")).unwrap();
    let select = |include: &[&str], exclude: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let mut imatrix = all.clone();
        imatrix.select(&own(include), &own(exclude)).map(|()| imatrix.len())
    };
    assert_eq!(select(&[], &[]).unwrap(), 3);
    assert_eq!(select(&["attn_v", "blk.1"], &[]).unwrap(), 2);
    assert_eq!(select(&[], &["attn_v"]).unwrap(), 1);
    for (include, exclude) in [(&["none"][..], &[][..]), (&["attn_v", "none"], &[]), (&[], &["none"])] {
        let text = select(include, exclude).unwrap_err().to_string();
        assert!(text.contains("`none`") && text.contains("attn_v"), "{text}");
    }
    assert!(matches!(select(&["a"], &["b"]), Err(ImatrixError::IncludeAndExclude)));
}

#[test]
fn lying_files_are_refused_quickly() {
    let good = legacy(&[entry("name", 1, &[1.0, 2.0])], b"");
    let with = |at: usize, value: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let two = |sums: u64, counts: u64| {
        let ones = |n| vec![1.0; usize::try_from(n).unwrap()];
        gguf(&[("w.in_sum2", vec![sums], ones(sums)), ("w.counts", vec![counts], ones(counts))], &KEYS)
    };
    for (what, bytes, part) in [
        ("empty file", vec![], "number of entries"),
        ("no entries", with(0, 0), "claims 0 entries"),
        ("negative entries", with(0, -1), "claims -1 entries"),
        ("more entries than there are", with(0, i32::MAX), "entry 2"),
        ("negative name", with(4, -5), "length -5"),
        ("long name", with(4, i32::MAX), "entry 1"),
        ("no values", with(16, 0), "claims 0 values"),
        ("many values", with(16, i32::MAX), "values of name"),
        ("NaN", legacy(&[entry("name", 1, &[1.0, f32::NAN])], b""), "NaN at column 1"),
        ("infinity", legacy(&[entry("name", 1, &[f32::INFINITY])], b""), "inf at column 0"),
        ("counts that do not divide", two(4, 3), "4 sums for 3 counts"),
        ("a lone tensor", gguf(&[("w.in_sum2", vec![1], vec![1.0])], &KEYS), "only one of its tensors"),
        ("no tensors", gguf(&[], &KEYS), "no entries"),
        ("a missing key", gguf(&[], &KEYS[..2]), "imatrix.chunk_size"),
    ] {
        let error = read_bytes(&bytes).expect_err(what).to_string();
        assert!(error.contains(part), "{what}: {error}");
    }
    assert!(read_bytes(&two(4, 2)).is_ok());
    // Every shorter file is refused, except where only the optional end is cut.
    for len in 0..good.len() {
        assert!(read_bytes(&good[..len]).is_err(), "{len} bytes");
    }
}
