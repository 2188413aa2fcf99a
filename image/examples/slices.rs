//! Cuts a picture as the reference implementation of MiniCPM-V does: `cargo run -p ocelli-image --example slices -- FILE`.

use std::{error::Error, io::Write as _, path::Path};

use ocelli_image::{DecodeOptions, Rgb8, SliceOptions, read, slice};

fn main() -> Result<(), Box<dyn Error>> {
    let picture = match std::env::args().nth(1) {
        Some(file) => read(Path::new(&file), &DecodeOptions::default())?,
        None => Rgb8::black(1280, 720)?,
    };
    // The default profile is the reference one: slices of about 448x448 pixels, at most 9 tiles.
    let options = SliceOptions::default();
    let (width, height) = (picture.width(), picture.height());
    let sliced = slice(&picture, &options)?;

    let mut out = std::io::stdout().lock();
    let (columns, rows) = sliced.grid.unwrap_or_default();
    writeln!(out, "{width}x{height}, {} profile: an overview and {} tiles", options.profile, columns * rows)?;
    for (i, slice) in sliced.slices.iter().enumerate() {
        let what = if i == 0 { "overview".to_owned() } else { format!("tile {i} of {columns}x{rows}") };
        writeln!(out, "{what}: {}x{}", slice.width(), slice.height())?;
    }
    Ok(())
}
