//! The Rust side of `tests/interop.py`: writes a file of all value types, or prints everything in a file as JSON.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example or a test, not the command")]

use std::{fmt::Write as _, fs};

use ocelli_gguf::{Gguf, GgufWriter, MetaArray, MetaValue, TensorType, Value};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", path, alignment] => Ok(fs::write(path, sample(alignment.parse()?)?)?),
        ["read", path] => {
            println!("{}", to_json(&Gguf::parse(&fs::read(path)?)?)?);
            Ok(())
        }
        _ => Err("usage: interop write FILE ALIGNMENT | read FILE".into()),
    }
}

fn sample(alignment: u32) -> Result<Vec<u8>> {
    let mut w = GgufWriter::new();
    w.kv("general.architecture", "llama")?.kv("general.alignment", alignment)?;
    w.kv("t.u8", u8::MAX)?.kv("t.i8", i8::MIN)?.kv("t.u16", u16::MAX)?.kv("t.i16", i16::MIN)?;
    w.kv("t.u32", u32::MAX)?.kv("t.i32", i32::MIN)?.kv("t.u64", u64::MAX)?.kv("t.i64", i64::MIN)?;
    w.kv("t.f32", 0.375f32)?.kv("t.f64", -1e-200f64)?.kv("t.bool", true)?.kv("t.string", "ein ▁ \"Wort\" 😀\n")?;
    w.kv("t.strings", vec!["a".to_owned(), String::new(), "▁ü".to_owned()])?;
    w.kv("t.u32s", vec![1u32, 2, 3])?.kv("t.i32s", vec![-1i32, 2])?.kv("t.f32s", vec![0.5f32, -0.25])?;
    w.kv("t.bools", MetaValue::Array(MetaArray::Bool(vec![true, false])))?;
    let dims: [(&str, &[u64], TensorType); 5] = [
        ("one", &[7], TensorType::F32),
        ("two", &[64, 3], TensorType::Q8_0),
        ("three", &[5, 2, 3], TensorType::F16),
        ("four", &[3, 2, 2, 2], TensorType::F32),
        ("k", &[256, 2], TensorType::Q4_K),
    ];
    for (name, dims, ty) in dims {
        w.tensor(name, dims, ty)?;
    }
    let planned = w.tensors().to_vec();
    let mut sink = w.start(Vec::new())?;
    for t in &planned {
        let bytes: Vec<u8> = (0..t.n_bytes).map(|i| (i % 60) as u8).collect();
        sink.write_tensor(&t.name, &bytes)?;
    }
    Ok(sink.finish()?)
}

/// The shape the Python side builds: `{"fields": {key: [[types], value]}, "tensors": {name: [type, dims, offset, hex]}}`.
fn to_json(gguf: &Gguf<'_>) -> Result<String> {
    let python_name = |v: &Value<'_>| v.ty().name().to_uppercase();
    let mut fields = Vec::new();
    for entry in gguf.metadata() {
        let (types, value) = match entry.value {
            Value::Array(a) => {
                let element = a.iter().next().map(|v| full_name(&python_name(&v))).unwrap_or_default();
                let values: Vec<String> = a.iter().map(|v| scalar(&v)).collect();
                (format!("\"ARRAY\", \"{element}\""), format!("[{}]", values.join(", ")))
            }
            ref v => (format!("\"{}\"", full_name(&python_name(v))), scalar(v)),
        };
        fields.push(format!("{}: [[{types}], {value}]", quote(entry.key)));
    }
    let mut tensors = Vec::new();
    for t in gguf.tensors() {
        let hex = gguf.data(t)?.iter().fold(String::new(), |mut s, b| {
            // Writing to a string does not fail.
            let _ = write!(s, "{b:02x}");
            s
        });
        tensors.push(format!("{}: [\"{}\", {:?}, {}, \"{hex}\"]", quote(t.name), t.ty, t.dims, t.offset));
    }
    Ok(format!("{{\"fields\": {{{}}}, \"tensors\": {{{}}}}}", fields.join(", "), tensors.join(", ")))
}

/// The Python package's name of a value type.
fn full_name(short: &str) -> String {
    let (kind, bits) = short.split_at(1);
    match (kind, bits) {
        ("U", _) => format!("UINT{bits}"),
        ("I", _) => format!("INT{bits}"),
        ("F", _) => format!("FLOAT{bits}"),
        ("S", _) => "STRING".to_owned(),
        _ => short.to_owned(),
    }
}

fn scalar(v: &Value<'_>) -> String {
    match v {
        Value::String(s) => quote(s),
        Value::F32(x) => format!("{:e}", f64::from(*x)),
        Value::F64(x) => format!("{x:e}"),
        other => other.to_string(),
    }
}

fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}
