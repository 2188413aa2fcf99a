//! Lists the metadata and tensors of a GGUF file: `cargo run --example dump FILE`.

use ocelli_gguf::{HeaderSet, Value};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: dump FILE.gguf")?;
    let headers = HeaderSet::read(path.as_ref())?;
    let set = headers.view()?;
    for entry in set.metadata() {
        match entry.value {
            Value::String(text) => println!("{} = {text:?}", entry.key),
            other => println!("{} = {other}", entry.key),
        }
    }
    for (part, t) in set.tensors_by_part() {
        println!("{part} {} {} [{}] {} bytes at {}", t.name, t.ty, t.dims, t.n_bytes, t.offset);
    }
    Ok(())
}
