//! The `ocelli` command: argument parsing and terminal output; the work is done by the library crates.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::sink::errln;

mod bundled;
mod cache_folder;
mod cmd;
mod isa;
mod memory_limit;
mod outputs;
mod progress;
mod signals;
mod sink;
mod told;

/// Run MiniCPM-V on a laptop CPU: convert, quantise, inspect, chat.
#[derive(Debug, Parser)]
#[command(name = "ocelli", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the model that Ocelli brings about a picture: a first look.
    Demo(cmd::demo::Args),
    /// Talk with a model in the terminal.
    Chat(cmd::chat::Args),
    /// Answer one prompt on stdout.
    Run(cmd::run::Args),
    /// Measure how well a model predicts a text, or how far it is from another model.
    Perplexity(cmd::perplexity::Args),
    /// Measure how fast models run, or single kernels, and how near that is to what the machine could do.
    Bench(Box<cmd::bench::Args>),
    /// Ask a model questions about pictures and count the right answers.
    ///
    /// Decoding is greedy, always. docs/eval.md tells the formats of questions and how answers are scored.
    Eval(cmd::eval::Args),
    /// Turn pictures into the rows that a text model takes, in a file.
    Embed(cmd::embed::Args),
    /// Write what a model computes for a prompt to a file, for comparison.
    Probe(cmd::probe::Args),
    /// Turn a Hugging Face checkpoint into GGUF files.
    Convert(cmd::convert::Args),
    /// List the tensor formats that can be written.
    Formats(cmd::formats::Args),
    /// Fetch a model by name from the Hugging Face hub.
    Pull(cmd::pull::Args),
    /// List the models on this machine, those of other programs too, and whether they can be run.
    List(cmd::list::Args),
    /// Remove models from the cache.
    Rm(cmd::rm::Args),
    /// Say what a GGUF file or folder holds and what is wrong with it.
    #[command(visible_alias = "show")]
    Inspect(cmd::inspect::Args),
    /// Show how a model cuts a text into tokens.
    Tokenize(cmd::tokenize::Args),
    /// Write a checkpoint with random weights, to test with and to measure a machine.
    Synth(cmd::synth::Args),
    /// Make a smaller GGUF file from an F16, BF16 or F32 one.
    Quantize(cmd::quantize::Args),
}

impl Command {
    /// Whether rayon's global threads are used: they scale pictures, make up weights and hash files of models.
    fn uses_workers(&self) -> bool {
        match self {
            Self::Demo(_)
            | Self::Chat(_)
            | Self::Run(_)
            | Self::Perplexity(_)
            | Self::Bench(_)
            | Self::Eval(_)
            | Self::Embed(_)
            | Self::Probe(_)
            | Self::Tokenize(_)
            | Self::Synth(_) => true,
            Self::Convert(_)
            | Self::Formats(_)
            | Self::Pull(_)
            | Self::List(_)
            | Self::Rm(_)
            | Self::Inspect(_)
            | Self::Quantize(_) => false,
        }
    }
}

/// Exit status for what went wrong with files, the machine or the work.
const EXIT_FAILURE: u8 = 1;

/// Exit status for a command line that cannot be understood, as shells and clap have it.
const EXIT_USAGE: u8 = 2;

/// Threads that decode pictures bear this name. What panics there is a fault of the picture, and told as an error.
const DECODER: &str = "decode";

fn main() -> ExitCode {
    // Before anything else: a worker has milliseconds for all it does.
    cmd::template::set_worker(ocelli_text::template::run_if_asked());
    std::panic::set_hook(Box::new(report_panic));
    let mut parser = Cli::command();
    parser.build();
    let spelled = match cmd::spelling::spell(std::env::args_os(), &parser) {
        Ok(spelled) => spelled,
        Err(problem) => {
            errln!("ocelli: error: {problem}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let cli = match Cli::try_parse_from(spelled.args) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    if !spelled.without_effect.is_empty() {
        errln!("ocelli: note: no effect in this program: {}", spelled.without_effect.join(", "));
    }
    let code = match memory_limit::prepare(cli.command.uses_workers()).and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough (`| head`) is no error.
        Err(error) if sink::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            errln!("ocelli: error: {}", told::line(&error));
            ExitCode::from(if cmd::usage::is_usage(&error) { EXIT_USAGE } else { EXIT_FAILURE })
        }
    };
    // Whoever sent a signal is told that it was heard, whatever was saved or said on the way out.
    signals::exit_status().map_or(code, ExitCode::from)
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => cmd::demo::run(args),
        Command::Chat(args) => cmd::chat::run(&args),
        Command::Run(args) => cmd::run::run(&args),
        Command::Perplexity(args) => cmd::perplexity::run(&args),
        Command::Bench(args) => cmd::bench::run(&args),
        Command::Eval(args) => cmd::eval::run(&args),
        Command::Embed(args) => cmd::embed::run(&args),
        Command::Probe(args) => cmd::probe::run(&args),
        Command::Convert(args) => cmd::convert::run(args),
        Command::Formats(args) => cmd::formats::run(&args),
        Command::Pull(args) => cmd::pull::run(&args),
        Command::List(args) => cmd::list::run(&args),
        Command::Rm(args) => cmd::rm::run(&args),
        Command::Inspect(args) => cmd::inspect::run(&args),
        Command::Tokenize(args) => cmd::tokenize::run(args),
        Command::Synth(args) => cmd::synth::run(&args),
        Command::Quantize(args) => cmd::quantize::run(&args),
    }
}

/// A panic is a fault of this program, and says how to report it.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    if thread.name() == Some(DECODER) {
        return;
    }
    let what = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
    errln!(
        "ocelli: internal error{place}: {what}; this is a fault of Ocelli {}: please report it at {}/issues with the command line",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_PKG_REPOSITORY")
    );
}

/// Shows help where it was asked for; otherwise says in one line what is wrong with the options.
fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                errln!("ocelli: error: cannot write to standard output: {error}");
                ExitCode::FAILURE
            }
            _ => ExitCode::SUCCESS,
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(EXIT_USAGE);
    }
    let text = error.render().to_string();
    let told = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<_> = told.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let told = told.join(" ");
    errln!("ocelli: error: {}; `--help` lists the options", told.strip_prefix("error: ").unwrap_or(&told));
    ExitCode::from(EXIT_USAGE)
}
