//! Ratios between two lists of rows: of two runs of `ocelli bench`, or of one and llama-bench.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::output::{self, Fields, Format, Table, number, string};
use crate::sink::errln;

/// A pair of rows about the same work.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    pub(super) what: String,
    /// Nanoseconds, first and second file.
    pub(super) ns: (f64, f64),
    /// Tokens per second, where the rows have them.
    pub(super) rate: Option<(f64, f64)>,
}

impl Pair {
    /// How many times as fast as the first the second is.
    pub(super) fn ratio(&self) -> f64 {
        self.ns.0 / self.ns.1.max(1e-9)
    }
}

/// The rows of a file that `ocelli bench -o json`, `-o jsonl` or llama-bench wrote.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Fields>> {
    let text = crate::cmd::common::read_text(path)?;
    parse(&text).with_context(|| {
        format!("{} holds no rows of a bench; make it with `ocelli bench … -o json` or -o jsonl", path.display())
    })
}

/// The rows in the output of a bench.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Fields>> {
    let rows: Vec<Fields> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)?
    } else {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(serde_json::from_str).collect::<Result<_, _>>()?
    };
    if !rows.iter().any(|row| row.contains_key("avg_ns")) {
        bail!("no row has a time (avg_ns)");
    }
    Ok(rows)
}

/// What a row is about, whoever measured it.
pub(super) fn key(row: &Fields) -> String {
    let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or(0);
    if row.contains_key("kernel") {
        let [kernel, format, shape] = ["kernel", "format", "shape"].map(|name| string(row, name));
        let [tokens, threads] = ["tokens", "n_threads"].map(number);
        return format!("{kernel} {format} {shape} × {tokens}, {threads} threads");
    }
    let file = string(row, "model_filename");
    let file = Path::new(file).file_name().map_or(file.into(), |name| name.to_string_lossy());
    let test = match string(row, "test") {
        "" => {
            let count = |name| usize::try_from(number(name)).unwrap_or(usize::MAX);
            let (n_prompt, n_gen, depth) = (count("n_prompt"), count("n_gen"), count("n_depth"));
            ocelli_runtime::bench::TextTest { n_prompt, n_gen, depth }.name()
        }
        test => test.to_owned(),
    };
    let [k, v] = ["type_k", "type_v"].map(|name| string(row, name).to_lowercase());
    let cache = if (k.as_str(), v.as_str()) == ("f16", "f16") || k.is_empty() {
        String::new()
    } else {
        format!(", K {k}, V {v}")
    };
    format!("{file} {test}, {} threads{cache}", number("n_threads"))
}

/// Keys of all rows; where one of `rows` would not be unique, the instruction set is part of it.
fn keys(rows: &[Fields]) -> Vec<String> {
    let mut times: HashMap<String, usize> = HashMap::new();
    rows.iter().for_each(|row| *times.entry(key(row)).or_default() += 1);
    rows.iter()
        .map(|row| {
            let key = key(row);
            if times.get(&key).is_some_and(|n| *n > 1) { format!("{key}, {}", string(row, "isa")) } else { key }
        })
        .collect()
}

/// All pairs, in the order of `a`.
pub(super) fn pairs(a: &[Fields], b: &[Fields]) -> anyhow::Result<Vec<Pair>> {
    let (a_keys, b_keys) = (keys(a), keys(b));
    let second: HashMap<&str, &Fields> = b_keys.iter().map(String::as_str).zip(b).collect();
    let pairs: Vec<Pair> = a_keys
        .iter()
        .zip(a)
        .filter_map(|(what, a)| {
            let b = second.get(what.as_str())?;
            let rates = (number(a, "avg_ts"), number(b, "avg_ts"));
            let rate = (rates.0 > 0.0 && rates.1 > 0.0).then_some(rates);
            let ns = (number(a, "avg_ns"), number(b, "avg_ns"));
            (ns.0 > 0.0 && ns.1 > 0.0).then(|| Pair { what: what.clone(), ns, rate })
        })
        .collect();
    if pairs.is_empty() {
        let some = |keys: &[String]| keys.iter().take(4).map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        bail!("no row is about the same work in both; the first has {}, the second {}", some(&a_keys), some(&b_keys));
    }
    Ok(pairs)
}

/// Prints the ratios of the rows of two files.
pub(super) fn run(first: &Path, second: &Path, format: Format) -> anyhow::Result<()> {
    let (a, b) = (read(first)?, read(second)?);
    let pairs = pairs(&a, &b).with_context(|| format!("{} and {}", first.display(), second.display()))?;
    let unmatched = a.len() + b.len() - 2 * pairs.len();
    if unmatched > 0 {
        errln!("ocelli: note: {unmatched} rows are in one of the files only");
    }
    output::print(format, &show(&pairs, format)?)?;
    Ok(())
}

fn show(pairs: &[Pair], format: Format) -> anyhow::Result<String> {
    let fields = |pair: &Pair| -> Fields {
        let mut fields = Fields::new();
        fields.insert("test".to_owned(), pair.what.clone().into());
        for (name, value) in [("first_ns", pair.ns.0), ("second_ns", pair.ns.1), ("ratio", pair.ratio())] {
            fields.insert(name.to_owned(), value.into());
        }
        fields
    };
    let all: Vec<Fields> = pairs.iter().map(fields).collect();
    Ok(match format {
        Format::Json => output::json(&all)?,
        Format::Jsonl => output::json_lines(&all)?,
        Format::Csv => output::csv(&all)?,
        Format::Md => {
            let mut table = Table::new(&[("test", false), ("first", true), ("second", true), ("ratio", true)]);
            for pair in pairs {
                let show = |ns: f64, rate: Option<f64>| match rate {
                    Some(rate) => format!("{rate:.2} t/s"),
                    None => format!("{:.4} ms", ns / 1e6),
                };
                let (first, second) = (pair.rate.map(|r| r.0), pair.rate.map(|r| r.1));
                table.row(vec![
                    pair.what.clone(),
                    show(pair.ns.0, first),
                    show(pair.ns.1, second),
                    format!("{:.3}", pair.ratio()),
                ]);
            }
            table.text()
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> Fields {
        value.as_object().unwrap().clone()
    }

    fn ours(test: &str, isa: &str, ns: f64) -> Fields {
        let (n_prompt, n_gen) = if test == "pp8" { (8, 0) } else { (0, 4) };
        row(json!({
            "model_filename": "/a/x.gguf", "test": test, "isa": isa, "n_threads": 2, "type_k": "f16", "type_v": "f16",
            "n_prompt": n_prompt, "n_gen": n_gen, "n_depth": 0, "avg_ns": ns, "avg_ts": 8e9 / ns,
        }))
    }

    #[test]
    fn rows_about_the_same_work_are_paired() {
        let a = [ours("pp8", "avx2", 2e9), ours("tg4", "avx2", 1e9)];
        // As llama-bench writes it: no name of the test, another folder.
        let b = [row(json!({
            "model_filename": "y/x.gguf", "n_threads": 2, "type_k": "f16", "type_v": "f16", "n_prompt": 8, "n_gen": 0,
            "n_depth": 0, "avg_ns": 4_000_000_000u64, "avg_ts": 2.0,
        }))];
        let found = pairs(&a, &b).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "x.gguf pp8, 2 threads");
        assert_eq!((found[0].ratio(), found[0].rate), (0.5, Some((4.0, 2.0))));
        assert_eq!(pairs(&b, &a).unwrap()[0].ratio(), 2.0);
        let text = show(&found, Format::Md).unwrap();
        assert!(text.contains("| 4.00 t/s | 2.00 t/s | 0.500 |"), "{text}");
        let back: Value = serde_json::from_str(&show(&found, Format::Json).unwrap()).unwrap();
        assert_eq!(back[0]["ratio"], 0.5);
    }

    #[test]
    fn instruction_sets_tell_equal_tests_apart_only_where_they_must() {
        let a = [ours("pp8", "avx2", 2e9), ours("pp8", "scalar", 8e9)];
        let b = [ours("pp8", "scalar", 4e9), ours("pp8", "avx2", 1e9)];
        let found = pairs(&a, &b).unwrap();
        assert_eq!(found.iter().map(Pair::ratio).collect::<Vec<_>>(), [2.0, 2.0]);
        let one = [ours("pp8", "neon", 1e9)];
        assert_eq!(pairs(&a[..1], &one).unwrap()[0].ratio(), 2.0, "another machine");
    }

    #[test]
    fn nothing_in_common_is_an_error() {
        let other = [row(json!({"kernel": "gemm", "format": "Q4_K", "shape": "output", "tokens": 8, "n_threads": 1,
            "avg_ns": 5.0}))];
        let error = pairs(&[ours("pp8", "avx2", 1.0)], &other).unwrap_err().to_string();
        assert!(error.contains("x.gguf pp8") && error.contains("gemm Q4_K output × 8"), "{error}");
        assert!(parse("[]").is_err() && parse("{\"a\": 1}").is_err() && parse("words").is_err());
        assert_eq!(parse("{\"avg_ns\": 1}\n\n{\"avg_ns\": 2}\n").unwrap().len(), 2);
    }
}
