//! Lists the kernel tables of this build with, for each one that cannot run here, the reason.
//!
//! With names as arguments, succeeds only if all of them can run: a way for scripts to ask before forcing one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example or a test, not the command")]

use std::process::ExitCode;

use ocelli_kernels::Kernels;

fn main() -> ExitCode {
    let candidates = Kernels::candidates();
    for (name, why_not) in &candidates {
        println!("{name}: {}", why_not.unwrap_or("available"));
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let runs = |name: &String| candidates.iter().any(|(n, why_not)| n == name && why_not.is_none());
    if wanted.iter().all(runs) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
