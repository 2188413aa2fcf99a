//! Keys that every text file has: names, size label, sampling defaults.

use std::path::{Component, Path};

use ocelli_gguf::MetaValue;

use crate::error::ConvertError;
use crate::json::Section;

/// The key with the number of the mixture.
pub(crate) const FILE_TYPE: &str = "general.file_type";
/// The key with the version of the block layouts.
pub(crate) const QUANTIZATION_VERSION: &str = "general.quantization_version";
/// The version of the block layouts that this project writes.
pub(crate) const QUANTIZATION_VERSION_VALUE: u32 = 2;

/// How a key of `generation_config.json` is stored.
enum Kind {
    Text,
    Integer,
    Number,
}

/// Sampling defaults: key in the file, then the keys of `generation_config.json` in order of preference.
const SAMPLING: &[(&str, Kind, &[&str])] = &[
    ("sequence", Kind::Text, &["sequence"]),
    ("top_k", Kind::Integer, &["top_k"]),
    ("top_p", Kind::Number, &["top_p"]),
    ("min_p", Kind::Number, &["min_p"]),
    ("xtc_probability", Kind::Number, &["xtc_probability"]),
    ("xtc_threshold", Kind::Number, &["xtc_threshold"]),
    ("temp", Kind::Number, &["temperature"]),
    ("penalty_last_n", Kind::Integer, &["penalty_last_n"]),
    ("penalty_repeat", Kind::Number, &["penalty_repeat", "repetition_penalty"]),
    ("mirostat", Kind::Integer, &["mirostat"]),
    ("mirostat_tau", Kind::Number, &["mirostat_tau"]),
    ("mirostat_eta", Kind::Number, &["mirostat_eta"]),
];

/// The sampling defaults of `generation_config.json`, if there is one.
pub(crate) fn sampling(dir: &Path) -> Result<Vec<(String, MetaValue)>, ConvertError> {
    let section = Section::read_or_empty(dir, "generation_config.json")?;
    let mut out = Vec::new();
    for (key, kind, names) in SAMPLING {
        let Some(name) = names.iter().find(|n| section.get(n).is_some()) else { continue };
        let value = match kind {
            Kind::Text => section.str(name)?.map(MetaValue::from),
            Kind::Integer => section.i32(name)?.map(MetaValue::from),
            Kind::Number => section.f64(name)?.map(|v| MetaValue::from(v as f32)),
        };
        out.extend(value.map(|v| (format!("general.sampling.{key}"), v)));
    }
    Ok(out)
}

/// The number of parameters as people write it: `3.6B`, `13M`, two digits at least.
pub(crate) fn size_label(parameters: u64) -> String {
    let n = parameters as f64;
    let (scaled, unit) = match n {
        _ if n > 1e12 => (n * 1e-12, "T"),
        _ if n > 1e9 => (n * 1e-9, "B"),
        _ if n > 1e6 => (n * 1e-6, "M"),
        _ => (n * 1e-3, "K"),
    };
    let whole = scaled.round_ties_even();
    let decimals = match whole {
        w if w >= 10.0 => 0,
        w if w >= 1.0 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$}{unit}")
}

/// The name of the last folder of `dir`, resolved so that `.` and `..` have one too.
pub(crate) fn folder_name(dir: &Path) -> Option<String> {
    let last = |p: &Path| match p.components().next_back() {
        Some(Component::Normal(name)) => name.to_str().map(str::to_owned),
        _ => None,
    };
    last(dir).or_else(|| last(&dir.canonicalize().ok()?))
}

/// Checks that `name` can begin a file name.
pub(crate) fn check_name(name: &str) -> Result<&str, ConvertError> {
    let bad = name.is_empty()
        || name.starts_with('.')
        || name.len() > 200
        || name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'));
    if bad { Err(ConvertError::Name { name: name.to_owned() }) } else { Ok(name) }
}

/// A title made of a folder name: hyphens become spaces, words in lower case get a capital, except version numbers
/// (`v2.5`) and words that begin with a digit.
pub(crate) fn title(name: &str) -> String {
    let words = name.trim().replace('-', " ");
    let words: Vec<String> = words.split_whitespace().map(title_word).collect();
    words.join(" ")
}

fn title_word(word: &str) -> String {
    let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
    let version = word
        .strip_prefix('v')
        .is_some_and(|rest| rest.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit())));
    if !lower || version || word.starts_with(|c: char| c.is_ascii_digit()) {
        return word.to_owned();
    }
    // A capital after anything that is no letter, as in "Qwen2.5".
    let mut out = String::with_capacity(word.len());
    let mut inside = false;
    for c in word.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_labels() {
        for (n, label) in [
            (3_605_834_240, "3.6B"),
            (134_515_008, "135M"),
            (13_000_000_001, "13B"),
            (1_234_567, "1.2M"),
            (999_999, "1000K"),
            (500, "0.50K"),
            (9_960_000_000, "10B"),
        ] {
            assert_eq!(size_label(n), label, "{n}");
        }
    }

    #[test]
    fn titles() {
        for (name, want) in [
            ("model", "Model"),
            ("MiniCPM-V-4", "MiniCPM V 4"),
            ("my-llama-v1.5", "My Llama v1.5"),
            ("tiny-1b", "Tiny 1b"),
            ("smollm2-135m-instruct", "Smollm2 135m Instruct"),
        ] {
            assert_eq!(title(name), want);
        }
    }

    #[test]
    fn names_of_folders() {
        assert_eq!(folder_name(Path::new("/a/b/")).as_deref(), Some("b"));
        assert_eq!(folder_name(Path::new("b/.")).as_deref(), Some("b"));
        let here = std::env::current_dir().unwrap();
        let want = here.file_name().unwrap().to_str().unwrap();
        assert_eq!(folder_name(Path::new(".")).as_deref(), Some(want));
        assert!(check_name("a-b.c").is_ok());
        for bad in ["", ".", "..", "a/b", "a\nb", ".hidden"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sampling_defaults() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sampling(dir.path()).unwrap().is_empty());
        let file = dir.path().join("generation_config.json");
        std::fs::write(
            &file,
            r#"{"temperature": 0.5, "top_k": 100, "top_p": null, "repetition_penalty": 1.05, "do_sample": true}"#,
        )
        .unwrap();
        let want: Vec<(String, MetaValue)> = vec![
            ("general.sampling.top_k".into(), 100i32.into()),
            ("general.sampling.temp".into(), 0.5f32.into()),
            ("general.sampling.penalty_repeat".into(), 1.05f32.into()),
        ];
        assert_eq!(sampling(dir.path()).unwrap(), want);
        std::fs::write(&file, r#"{"top_k": "many"}"#).unwrap();
        let error = sampling(dir.path()).unwrap_err().to_string();
        assert!(error.contains("top_k") && error.contains("many"), "{error}");
    }
}
