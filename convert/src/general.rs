//! Keys that every text file has: names, size label, sampling defaults.

use std::path::{Component, Path};

use ocelli_gguf::MetaValue;
use serde_json::Value;

use crate::error::ConvertError;
use crate::json::{self, Section};

/// The key with the number of the mixture.
pub(crate) const FILE_TYPE: &str = "general.file_type";
/// The key with the version of the block layouts.
pub(crate) const QUANTIZATION_VERSION: &str = "general.quantization_version";
/// The version of the block layouts that this project writes.
pub(crate) const QUANTIZATION_VERSION_VALUE: u32 = 2;

/// How a key of `generation_config.json` is stored, and which values a runtime accepts.
enum Kind {
    /// Names of samplers, separated by `;`.
    Sequence,
    /// A whole number from the first to the second.
    Integer(i32, i32),
    /// A number from the first to the second.
    Number(f32, f32),
}

/// The largest number that runtimes take for a parameter without an upper bound.
const HUGE: f32 = 1e6;

/// Sampling defaults: key in the file, how it is stored, then the keys of `generation_config.json` in order of
/// preference.
const SAMPLING: &[(&str, Kind, &[&str])] = &[
    ("sequence", Kind::Sequence, &["sequence"]),
    ("top_k", Kind::Integer(i32::MIN, i32::MAX), &["top_k"]),
    ("top_p", Kind::Number(0.0, 1.0), &["top_p"]),
    ("min_p", Kind::Number(0.0, 1.0), &["min_p"]),
    ("xtc_probability", Kind::Number(0.0, 1.0), &["xtc_probability"]),
    ("xtc_threshold", Kind::Number(0.0, 1.0), &["xtc_threshold"]),
    ("temp", Kind::Number(-HUGE, HUGE), &["temperature"]),
    ("penalty_last_n", Kind::Integer(-1, i32::MAX), &["penalty_last_n"]),
    ("penalty_repeat", Kind::Number(f32::MIN_POSITIVE, HUGE), &["penalty_repeat", "repetition_penalty"]),
    ("mirostat", Kind::Integer(0, 2), &["mirostat"]),
    ("mirostat_tau", Kind::Number(0.0, HUGE), &["mirostat_tau"]),
    ("mirostat_eta", Kind::Number(0.0, HUGE), &["mirostat_eta"]),
];

/// The samplers that a sequence may name.
const SAMPLERS: &[&str] =
    &["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "typical_p", "top_p", "min_p", "xtc", "temperature", "temp"];

/// Sampling keys, and the warnings that go with them.
pub(crate) type Sampling = (Vec<(String, MetaValue)>, Vec<String>);

/// The sampling defaults of `generation_config.json`, if there is one. Values that no runtime accepts are left out,
/// each with a warning: a model must not be useless for a recommendation.
pub(crate) fn sampling(dir: &Path) -> Result<Sampling, ConvertError> {
    let section = Section::read_or_empty(dir, "generation_config.json")?;
    let (mut out, mut warnings) = (Vec::new(), Vec::new());
    for (key, kind, names) in SAMPLING {
        let mut found = None;
        for name in *names {
            if let Some(value) = section.get(name)? {
                found = Some((*name, value));
                break;
            }
        }
        let Some((name, value)) = found else { continue };
        match kind.read(&value) {
            Some(value) => out.push((format!("general.sampling.{key}"), value)),
            None => {
                let mut shown = value.to_string();
                if shown.len() > 80 {
                    shown = json::kind(&value).to_owned();
                }
                warnings.push(format!("{name} is {shown} in generation_config.json, not {kind}: it was left out"));
            }
        }
    }
    Ok((out, warnings))
}

impl Kind {
    /// The value as it is stored, if it is acceptable.
    fn read(&self, value: &Value) -> Option<MetaValue> {
        match *self {
            Self::Sequence => {
                let text = value.as_str()?;
                let known = |name: &str| SAMPLERS.contains(&name.trim());
                text.split(';').all(known).then(|| MetaValue::from(text))
            }
            Self::Integer(low, high) => {
                // Some tools write whole numbers as 50.0.
                let x = value.as_f64().filter(|x| x.fract() == 0.0)?;
                (f64::from(low)..=f64::from(high)).contains(&x).then_some(MetaValue::from(x as i32))
            }
            Self::Number(low, high) => {
                let x = value.as_f64()? as f32;
                (low..=high).contains(&x).then_some(MetaValue::from(x))
            }
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Sequence => f.write_str("a list of samplers separated by `;`"),
            Self::Integer(i32::MIN, _) => f.write_str("a whole number"),
            Self::Integer(low, i32::MAX) => write!(f, "a whole number from {low}"),
            Self::Integer(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::Number(low, _) if low > 0.0 => f.write_str("a number above 0"),
            Self::Number(low, HUGE) if low < 0.0 => f.write_str("a number"),
            Self::Number(low, HUGE) => write!(f, "a number from {low}"),
            Self::Number(low, high) => write!(f, "a number from {low} to {high}"),
        }
    }
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

/// What a model is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// The beginning of the output files' names.
    pub(crate) file: String,
    /// `general.name`.
    pub(crate) title: String,
    /// `general.organization`: who published it, where the folder says.
    pub(crate) organization: Option<String>,
}

impl Name {
    /// A name given by the user, taken as it is.
    pub(crate) fn given(name: &str) -> Self {
        Self { file: name.to_owned(), title: name.to_owned(), organization: None }
    }

    /// The name of the model in a folder: that of the folder, but of the model's page for a folder of the Hub's cache
    /// (`models--org--name/snapshots/<hash>`). A hash is no name: the configuration's `_name_or_path` may help.
    pub(crate) fn of_folder(dir: &Path) -> Result<Self, ConvertError> {
        // `.` and `..` have a name once they are resolved; a link keeps the name it was given, unless that is a hash.
        let resolved = || dir.canonicalize().ok();
        for path in std::iter::once(dir.to_owned()).chain(std::iter::once_with(resolved).flatten()) {
            let Some(last) = last_name(&path) else { continue };
            if let Some(name) = Self::of_cache(&last) {
                return Ok(name);
            }
            if !is_hash(&last) {
                if last == "snapshots" {
                    continue;
                }
                return Ok(Self { title: title(&last), file: last, organization: None });
            }
            let mut above = path.ancestors().skip(1).take(2).filter_map(last_name);
            if let Some(name) = above.find_map(|name| Self::of_cache(&name)) {
                return Ok(name);
            }
        }
        let no_name = || ConvertError::NoName { path: dir.to_owned() };
        let config = Section::read_or_empty(dir, "config.json")?;
        let origin = config.get("_name_or_path")?.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let mut parts = origin.trim_end_matches(['/', '\\']).rsplit(['/', '\\']);
        let last = parts.next().filter(|name| check_name(name).is_ok() && !is_hash(name)).ok_or_else(no_name)?;
        Ok(Self { file: last.to_owned(), title: title(last), organization: None })
    }

    /// The name in `models--org--name`.
    fn of_cache(folder: &str) -> Option<Self> {
        let (org, name) = folder.strip_prefix("models--")?.split_once("--").filter(|(_, name)| !name.is_empty())?;
        Some(Self { file: name.to_owned(), title: title(name), organization: Some(org.to_owned()) })
    }
}

/// The last folder of a path, if it has a name.
fn last_name(path: &Path) -> Option<String> {
    match path.components().next_back() {
        Some(Component::Normal(name)) => name.to_str().map(str::to_owned),
        _ => None,
    }
}

/// Whether a name is the hash of a commit: 40 or 64 hexadecimal digits.
fn is_hash(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && name.bytes().all(|b| b.is_ascii_hexdigit())
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
        let file = |path: &str| Name::of_folder(Path::new(path)).unwrap().file;
        assert_eq!((file("/a/b/"), file("b/.")), ("b".to_owned(), "b".to_owned()));
        let here = std::env::current_dir().unwrap();
        assert_eq!(file("."), here.file_name().unwrap().to_str().unwrap());
        assert!(check_name("a-b.c").is_ok());
        for bad in ["", ".", "..", "a/b", "a\nb", ".hidden"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn folders_of_the_hubs_cache() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let hub = |path: String| {
            let name = Name::of_folder(Path::new(&path)).unwrap();
            (name.file, name.title, name.organization.unwrap_or_default())
        };
        let want = ("MiniCPM-V-4".to_owned(), "MiniCPM V 4".to_owned(), "openbmb".to_owned());
        let cache = "/cache/models--openbmb--MiniCPM-V-4";
        for path in [
            "",
            "/",
            "/snapshots/0123456789abcdef0123456789abcdef01234567",
            "/snapshots/0123456789abcdef0123456789abcdef01234567/",
        ] {
            assert_eq!(hub(format!("{cache}{path}")), want, "{path}");
        }
        let name = Name::of_folder(Path::new("models--gpt2/snapshots/main")).unwrap();
        assert_eq!(name.file, "main");

        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join(hash);
        std::fs::create_dir(&inner).unwrap();
        let error = Name::of_folder(&inner).unwrap_err();
        assert!(matches!(error, ConvertError::NoName { .. }), "{error}");
        std::fs::write(inner.join("config.json"), r#"{"_name_or_path": "openbmb/MiniCPM-V-4/"}"#).unwrap();
        assert_eq!(Name::of_folder(&inner).unwrap().file, "MiniCPM-V-4");
    }

    /// A link has the name it was given; one that is called by a hash has that of its target.
    #[cfg(unix)]
    #[test]
    fn links_to_folders() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("models--a--b/snapshots").join(hash);
        std::fs::create_dir_all(&real).unwrap();
        for (link, want) in [("mine", "mine"), ("fedcba98765432100123456789abcdef01234567", "b")] {
            let link = dir.path().join(link);
            std::os::unix::fs::symlink(&real, &link).unwrap();
            assert_eq!(Name::of_folder(&link).unwrap().file, want);
        }
    }

    #[test]
    fn sampling_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
            sampling(dir.path()).unwrap()
        };
        assert_eq!(sampling(dir.path()).unwrap(), (Vec::new(), Vec::new()));
        let (keys, warnings) = read(
            r#"{"temperature": 0.5, "top_k": 100.0, "top_p": null, "repetition_penalty": 1.05, "do_sample": true}"#,
        );
        let want: Vec<(String, MetaValue)> = vec![
            ("general.sampling.top_k".into(), 100i32.into()),
            ("general.sampling.temp".into(), 0.5f32.into()),
            ("general.sampling.penalty_repeat".into(), 1.05f32.into()),
        ];
        assert_eq!((keys, warnings), (want, Vec::new()));
        for (key, value) in [
            ("top_k", "\"many\""),
            ("top_k", "0.5"),
            ("top_k", "3000000000"),
            ("top_p", "1.5"),
            ("top_p", "-0.1"),
            ("min_p", "[0.1]"),
            ("temperature", "1e30"),
            ("temperature", "1e300"),
            ("repetition_penalty", "0"),
            ("repetition_penalty", "-1.0"),
            ("mirostat", "3"),
            ("sequence", "\"top_k;best\""),
        ] {
            let (keys, warnings) = read(&format!(r#"{{"{key}": {value}, "xtc_threshold": 0.25}}"#));
            assert_eq!(keys, [("general.sampling.xtc_threshold".to_owned(), 0.25f32.into())], "{key} {value}");
            assert!(warnings.len() == 1 && warnings[0].contains(key), "{warnings:?}");
        }
    }
}
