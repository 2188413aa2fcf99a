//! `ocelli formats`: the tensor formats this build knows, with their block sizes.

use crate::sink::{self, outln};
use ocelli_quant::GgmlType;

/// Options of `ocelli formats`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

/// Prints every registered format.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.json {
        let rows: Vec<_> = GgmlType::ALL
            .iter()
            .map(|t| {
                serde_json::json!({
                    "name": t.name(), "id": t.id(), "block_len": t.block_len(), "block_bytes": t.block_bytes(),
                })
            })
            .collect();
        return sink::json(&rows);
    }
    outln!("{:<8} {:>4} {:>12} {:>12} {:>14}", "format", "code", "block length", "block bytes", "bits per weight")?;
    for t in GgmlType::ALL {
        let bits = 8.0 * t.block_bytes() as f64 / t.block_len() as f64;
        outln!("{:<8} {:>4} {:>12} {:>12} {:>14.4}", t.name(), t.id(), t.block_len(), t.block_bytes(), bits)?;
    }
    Ok(())
}
