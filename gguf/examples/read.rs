//! Lists the tensors of a GGUF file: `cargo run -p ocelli-gguf --example read -- FILE`. Only the header is read.

use std::{error::Error, io::Write as _, path::Path};

use ocelli_gguf::read_header;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("which file? give the path of a .gguf file")?;
    let header = read_header(Path::new(&path))?;
    let file = header.view()?;
    let name = file.metadata().str("general.architecture")?.unwrap_or("none");

    let mut out = std::io::stdout().lock();
    writeln!(out, "{path}: architecture {name}, {} keys, {} tensors", file.metadata().len(), file.tensors().len())?;
    for tensor in file.tensors() {
        writeln!(out, "{:<40} {:<6} {}", tensor.name, tensor.ty, tensor.dims)?;
    }
    Ok(())
}
