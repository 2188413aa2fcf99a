//! The `ocelli` command: argument parsing and terminal output; the work is done by the library crates.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cmd;
mod progress;

/// Run MiniCPM-V on a laptop CPU: convert, quantise, inspect, chat.
#[derive(Debug, Parser)]
#[command(name = "ocelli", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn a Hugging Face checkpoint into GGUF files.
    Convert(cmd::convert::Args),
    /// List the tensor formats that can be written.
    Formats(cmd::formats::Args),
    /// Say what a GGUF file or folder holds and what is wrong with it.
    Inspect(cmd::inspect::Args),
    /// Show how a model cuts a text into tokens.
    Tokenize(cmd::tokenize::Args),
    /// Write a checkpoint with random weights, to test with and to measure a machine.
    Synth(cmd::synth::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Convert(args) => cmd::convert::run(args),
        Command::Formats(args) => cmd::formats::run(&args),
        Command::Inspect(args) => cmd::inspect::run(&args),
        Command::Tokenize(args) => cmd::tokenize::run(args),
        Command::Synth(args) => cmd::synth::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ocelli: error: {error:#}");
            if progress::interrupted() { ExitCode::from(progress::EXIT_CANCELLED) } else { ExitCode::FAILURE }
        }
    }
}
