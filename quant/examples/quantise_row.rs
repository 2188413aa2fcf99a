//! Stores a row of weights as Q4_K and reads it back: `cargo run -p ocelli-quant --example quantise_row`.

use std::{error::Error, io::Write as _};

use ocelli_quant::GgmlType;

fn main() -> Result<(), Box<dyn Error>> {
    let format = GgmlType::Q4_K;
    // Two blocks of 256 weights that look like those of a model: small, around zero, none like the next.
    let row: Vec<f32> =
        (0..2 * format.block_len()).map(|i| 0.02 * (i as f32 * 1.7).sin() * (i as f32 * 0.13).cos()).collect();

    let mut stored = vec![0; format.row_bytes(row.len())?];
    format.quantize_row(&row, None, &mut stored)?;
    let mut back = vec![0.0; row.len()];
    format.dequantize_row(&stored, &mut back)?;

    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let error = square(&mut row.iter().zip(&back).map(|(a, b)| a - b)) / square(&mut row.iter().copied());
    let bits = 8.0 * stored.len() as f64 / row.len() as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} weights in {} bytes of {format}: {bits} bits each", row.len(), stored.len())?;
    writeln!(out, "relative error {:.2} %", 100.0 * error.sqrt())?;
    Ok(())
}
