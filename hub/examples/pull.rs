//! Fetches a model by name and prints where its files are: `cargo run -p ocelli-hub --example pull -- USER/REPO:Q4_K_M`.

use std::error::Error;
use std::io::Write as _;

use ocelli_hub::{Config, Hub, Name, Silent};

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("which model? give USER/REPO[:QUANT]")?;
    let config = Config::from_vars(|variable| std::env::var_os(variable))?;
    let Name::Repo(model) = Name::parse(&name, &config.endpoint)? else {
        return Err(format!("{name} is a path, not a model of the hub").into());
    };
    let hub = Hub::new(&config)?;
    let files = match hub.cached(&model) {
        Some(files) => files,
        None => hub.fetch(&hub.plan(&model, &Silent)?, &Silent)?,
    };
    let mut out = std::io::stdout().lock();
    for path in files.text.iter().chain(&files.vision) {
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}
