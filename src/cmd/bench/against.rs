//! llama-bench on the same files: its rates and the ratios become fields of our rows.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail};

use super::compare::{self, key};
use super::output::{Fields, number};
use super::plan::Plan;
use super::{ModelsArgs, going_on};
use crate::sink::errln;

/// The program to measure against: that of the option, else that of the environment.
pub(super) fn program(option: Option<&Path>) -> Option<PathBuf> {
    let named = std::env::var_os("OCELLI_LLAMA_BENCH").filter(|v| !v.is_empty()).map(PathBuf::from);
    option.map(Path::to_owned).or(named)
}

/// Runs `program` on `model` with the tests of `plan` and adds its figures to `rows`, which are about that model.
pub(super) fn add(
    program: &Path,
    model: &Path,
    args: &ModelsArgs,
    plan: &Plan,
    rows: &mut [Fields],
) -> anyhow::Result<()> {
    going_on()?;
    let options = options(model, args, plan);
    errln!("running {} {}", program.display(), options.join(" "));
    let output = output(program, &options).with_context(|| format!("--against: cannot run {}", program.display()))?;
    going_on()?;
    if !output.status.success() {
        bail!("--against: {} failed ({}); its messages are above", program.display(), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let theirs = compare::parse(&text)
        .with_context(|| format!("--against: {} did not print the rows of a llama-bench", program.display()))?;
    merge(rows, &theirs);
    Ok(())
}

/// What a program says on standard output; its messages are passed on as they come.
fn output(program: &Path, options: &[String]) -> std::io::Result<Output> {
    let (out, err) = (Stdio::piped(), Stdio::piped());
    let mut child = Command::new(program).args(options).stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
    let messages = child.stderr.take();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in messages.into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n')).map_while(Result::ok) {
                errln!("{}", String::from_utf8_lossy(&line));
            }
        });
        child.wait_with_output()
    })
}

/// Our options, as llama-bench spells them.
fn options(model: &Path, args: &ModelsArgs, plan: &Plan) -> Vec<String> {
    fn list<T: ToString + PartialEq>(values: impl Iterator<Item = T>) -> String {
        let values = super::lists::distinct(values.collect());
        values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
    }
    let prompts = plan.tests.iter().filter(|t| t.n_gen == 0).map(|t| t.n_prompt);
    let gens = plan.tests.iter().filter(|t| t.n_prompt == 0).map(|t| t.n_gen);
    let both = plan.tests.iter().filter(|t| t.n_prompt > 0 && t.n_gen > 0);
    let mut options: Vec<String> = ["-m", &model.to_string_lossy()].map(str::to_owned).to_vec();
    let mut put = |name: &str, value: String| options.extend([name.to_owned(), value]);
    let or_zero = |text: String| if text.is_empty() { "0".to_owned() } else { text };
    put("-p", or_zero(list(prompts)));
    put("-n", or_zero(list(gens)));
    for pair in super::lists::distinct(both.map(|t| (t.n_prompt, t.n_gen)).collect()) {
        put("-pg", format!("{},{}", pair.0, pair.1));
    }
    put("-d", list(plan.tests.iter().map(|t| t.depth)));
    put("-t", list(plan.settings.iter().map(|s| s.threads)));
    put("-b", plan.batch.to_string());
    put("-ub", list(plan.settings.iter().map(|s| s.ubatch)));
    put("-ctk", list(plan.settings.iter().map(|s| s.type_k.name().to_lowercase())));
    put("-ctv", list(plan.settings.iter().map(|s| s.type_v.name().to_lowercase())));
    put("-r", args.repetitions.to_string());
    put("-o", "json".to_owned());
    if args.no_warmup {
        options.push("--no-warmup".to_owned());
    }
    options
}

/// Adds the figures of the rows about the same work.
fn merge(rows: &mut [Fields], theirs: &[Fields]) {
    for row in rows.iter_mut() {
        let Some(other) = theirs.iter().find(|other| key(other) == key(row)) else { continue };
        let ratio = number(other, "avg_ns") / number(row, "avg_ns").max(1e-9);
        row.insert("against_avg_ts".to_owned(), number(other, "avg_ts").into());
        row.insert("against_stddev_ts".to_owned(), number(other, "stddev_ts").into());
        row.insert("against_build".to_owned(), other.get("build_commit").cloned().unwrap_or_default());
        row.insert("against_ratio".to_owned(), ratio.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_join_the_rows_about_the_same_work() {
        let row = |n_prompt: u32, n_gen: u32, ns: f64| -> Fields {
            let value = json!({"model_filename": "/x/m.gguf", "n_threads": 2, "type_k": "f16", "type_v": "f16",
                "n_prompt": n_prompt, "n_gen": n_gen, "n_depth": 0, "avg_ns": ns, "avg_ts": 1e9 / ns,
                "stddev_ts": 0.5, "build_commit": "abc"});
            value.as_object().unwrap().clone()
        };
        let mut ours = [row(512, 0, 1e9), row(0, 128, 2e9)];
        merge(&mut ours, &[row(512, 0, 3e9)]);
        assert_eq!(number(&ours[0], "against_ratio"), 3.0);
        assert_eq!(ours[0]["against_build"], "abc");
        assert!(!ours[1].contains_key("against_ratio"));
    }
}
