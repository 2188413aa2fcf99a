//! Stored bytes and expanded values of ordinary and extreme rows, compared with vectors from an independent program.
//!
//! `vectors/README.md` says how they are made. `QUANT_VECTORS` points the test at another set, for example a larger
//! one.

use std::path::PathBuf;

use ocelli_quant::{GgmlType, QuantError};
use sha2::{Digest, Sha256};

fn digest(bytes: &[u8], chars: usize) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    hex[..chars].to_owned()
}

#[test]
fn every_vector() {
    let dir = std::env::var_os("QUANT_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"), PathBuf::from);
    let inputs: Vec<f32> = std::fs::read(dir.join("inputs.bin"))
        .unwrap()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let manifest = std::fs::read_to_string(dir.join("manifest.txt")).unwrap();
    let mut case = "";
    let (mut at, mut rows, mut cols) = (0, 0, 0);
    let (mut checked, mut wrong) = (0, Vec::new());
    for line in manifest.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["case", name, "at", a, "rows", r, "cols", c] = words[..] {
            case = name;
            (at, rows, cols) = (a.parse().unwrap(), r.parse().unwrap(), c.parse().unwrap());
            continue;
        }
        let [format, kind, importance, stored, expanded] = words[..] else { panic!("bad line {line:?}") };
        let ty = GgmlType::from_name(format).unwrap();
        let start: usize = importance.parse().unwrap();
        let importance = (kind != "none").then(|| &inputs[start..start + cols]);
        let row_bytes = ty.row_bytes(cols).unwrap();
        let (mut bytes, mut values) = (vec![0xa5; rows * row_bytes], vec![0f32; rows * cols]);
        let mut overflow = false;
        for r in 0..rows {
            let row = &inputs[at + r * cols..][..cols];
            let bytes = &mut bytes[r * row_bytes..][..row_bytes];
            match ty.quantize_row(row, importance, bytes) {
                Ok(()) => {}
                Err(QuantError::Overflow { .. }) => overflow = true,
                Err(other) => panic!("{case} {format} {kind}: {other}"),
            }
            ty.dequantize_row(bytes, &mut values[r * cols..][..cols]).unwrap();
        }
        let value_bytes: Vec<u8> =
            values.iter().flat_map(|v| if v.is_nan() { f32::NAN } else { *v }.to_le_bytes()).collect();
        checked += 1;
        if digest(&bytes, stored.len()) != stored {
            wrong.push(format!("{case} {format} {kind}: stored bytes"));
        } else if digest(&value_bytes, expanded.len()) != expanded {
            wrong.push(format!("{case} {format} {kind}: expanded values"));
        }
        // An overflow is reported exactly where a stored scale is infinite or NaN, which shows in what it expands to.
        if overflow != values.iter().any(|v| !v.is_finite()) && ty != GgmlType::F32 {
            wrong.push(format!("{case} {format} {kind}: overflow reported: {overflow}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 100, "only {checked} vectors");
}
