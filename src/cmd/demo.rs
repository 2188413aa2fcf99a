//! `ocelli demo`: the whole way from a checkpoint to an answer on a model small enough to make up on the spot.
//!
//! Each step is an ordinary command line, printed and then run as a process of its own, so that a newcomer sees what to
//! type and gets exactly that.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};

/// Options of `ocelli demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the model is made [default: ocelli/demo in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The text that the model continues
    #[arg(short, long, default_value = "The picture shows")]
    prompt: String,
    /// Tokens to generate
    #[arg(short, long, default_value_t = 24)]
    n_predict: u32,
}

/// Makes a checkpoint up, converts it, looks at the result and runs it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find the running program")?;
    let dir = match args.dir {
        Some(dir) => dir,
        None => cache_folder()?.join("ocelli").join("demo"),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let path = |name: &str| -> anyhow::Result<String> {
        let path = dir.join(name);
        Ok(path.to_str().with_context(|| format!("{}: not UTF-8, choose another --dir", path.display()))?.to_owned())
    };
    let (checkpoint, folder) = (path("checkpoint")?, path("files")?);
    let (text, n) = (path("files/demo-Q4_K_M.gguf")?, args.n_predict.to_string());
    let steps: [&[&str]; 4] = [
        &["synth", "--preset", "mini", "--out", &checkpoint, "--overwrite"],
        &["convert", &checkpoint, "--outtype", "Q4_K_M", "--name", "demo", "--outdir", &folder, "--overwrite"],
        &["inspect", &text],
        &["run", "-m", &text, "-p", &args.prompt, "-n", &n, "--temp", "0"],
    ];
    for step in steps {
        println!("\n$ ocelli {}", step.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        let status = Command::new(&program).args(step).status().context("cannot start the next step")?;
        ensure!(status.success(), "the step above failed");
    }
    println!(
        "\nThe weights are random, so the answer is noise: what you saw is the pipeline. Every step above works the"
    );
    println!(
        "same on the real checkpoint; `ocelli convert --help` and `ocelli chat --help` are the next places to look."
    );
    Ok(())
}

/// The user's cache folder as desktop systems define it.
fn cache_folder() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .context("there is no cache folder (neither XDG_CACHE_HOME nor HOME is set): name a folder with --dir")
}

/// `word` as it would have to be typed.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=+,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("a-b/c.gguf"), "a-b/c.gguf");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
