use std::fs::File;

use super::*;
use crate::plan::PlannedTensor;
use crate::progress::Silent;

fn workers() -> Workers {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    Workers { pool, codec: RowCodec::best() }
}

/// A checkpoint of one F32 tensor `w` whose values are their own indices.
fn checkpoint(dir: &std::path::Path, shape: &[u64]) -> Checkpoint {
    let n: u64 = shape.iter().product();
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":{shape:?},"data_offsets":[0,{}]}}}}"#, n * 4);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..n).flat_map(|i| (i as f32).to_le_bytes()));
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
    Checkpoint::open(dir).unwrap()
}

/// Writes one tensor and returns its values.
fn round_trip(
    shape: &[u64],
    out_shape: &[u64],
    source: impl Fn(crate::checkpoint::SourceTensor) -> Source,
) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path(), shape);
    let tensor = PlannedTensor::new("t", out_shape, source(checkpoint.tensors()["w"].clone()));
    let plan = FilePlan { metadata: Vec::new(), tensors: vec![tensor] };
    let path = dir.path().join("out");
    write_file(&plan, &checkpoint, &mut File::create(&path).unwrap(), &workers(), &Silent).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let gguf = ocelli_gguf::Gguf::parse(&bytes).unwrap();
    let data = gguf.data(gguf.tensor("t").unwrap()).unwrap();
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Larger than one strip, so that rows are taken from the right places of several.
#[test]
fn strips_join_seamlessly() {
    let (rows, cols) = (5000u64, 700u64);
    assert!(rows * cols * 4 > 3 * STRIP_BYTES);
    let values = round_trip(&[rows, cols], &[rows, cols], |tensor| Source::Rows { tensor, first: 0 });
    assert!(values.iter().enumerate().all(|(i, v)| *v == i as f32));
    let part = round_trip(&[rows, cols], &[2500, cols], |tensor| Source::Rows { tensor, first: 2500 * cols });
    assert!(part.iter().enumerate().all(|(i, v)| *v == (i as u64 + 2500 * cols) as f32));
}

#[test]
fn heads_are_interleaved_across_strips() {
    let (rows, cols, head) = (4800u64, 700u64, 96u64);
    let values = round_trip(&[rows, cols], &[rows, cols], |tensor| Source::Interleaved { tensor, head_rows: head });
    for r in 0..rows {
        let (first, j) = (r / head * head, r % head);
        let from = if j % 2 == 0 { first + j / 2 } else { first + head / 2 + j / 2 };
        assert_eq!(values[(r * cols) as usize], (from * cols) as f32, "row {r}");
    }
}

#[test]
fn matrices_are_transposed() {
    let values = round_trip(&[3, 5], &[5, 3], |tensor| Source::Transposed { tensor });
    assert_eq!(values, [0., 5., 10., 1., 6., 11., 2., 7., 12., 3., 8., 13., 4., 9., 14.]);
}

/// A disk that is full: the error is the writer's, and no thread is left waiting.
#[test]
fn write_errors_surface() {
    let full = std::path::Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path(), &[5000, 700]);
    let tensor = checkpoint.tensors()["w"].clone();
    let tensor = PlannedTensor::new("t", &[5000, 700], Source::Rows { tensor, first: 0 });
    let plan = FilePlan { metadata: Vec::new(), tensors: vec![tensor] };
    let mut out = File::options().write(true).open(full).unwrap();
    let error = write_file(&plan, &checkpoint, &mut out, &workers(), &Silent).unwrap_err();
    assert!(matches!(error, ConvertError::Gguf(_)), "{error}");
}
