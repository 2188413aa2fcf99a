//! The hub of this crate's tests as a program, for tests of other clients: offers the files of a folder as one repository,
//! `loopback_hub FOLDER USER/REPO`, prints its address, and runs until its standard input ends.

use std::error::Error;
use std::io::{Read as _, Write as _};

// Only some of what the tests need is needed here.
#[allow(dead_code)]
#[path = "../tests/hub/server.rs"]
mod server;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(repo)) = (args.next(), args.next()) else {
        return Err("usage: loopback_hub FOLDER USER/REPO".into());
    };
    let hub = server::FakeHub::start();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        hub.add(&repo, &entry.file_name().to_string_lossy(), std::fs::read(entry.path())?);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", hub.endpoint)?;
    out.flush()?;
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}
