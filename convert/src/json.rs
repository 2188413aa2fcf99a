//! JSON files of a checkpoint, read at a cost of a few times their size, and typed access whose errors name file and
//! key.
//!
//! No tree of a whole file is ever built: a tree of `[[],[],…]` takes a hundred times the file. An [`Object`] keeps the
//! text of each value of its top level, and a value becomes a tree only when it is asked for and small. What is large
//! by nature (vocabularies, lists of tensors) is read by visitors of its own, into tables as large as the text.

use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ConvertError;
use crate::read::{self, ReadError};

/// Largest configuration file read; real ones are kilobytes.
const MAX_BYTES: u64 = 64 << 20;
/// Longest context of a model, in tokens.
const MAX_CONTEXT: u32 = 1 << 26;
/// Deepest nesting accepted.
const MAX_DEPTH: usize = 128;
/// Most keys of an object that is read key by key.
const MAX_KEYS: usize = 4096;
/// Most values in something that becomes a tree.
const MAX_NODES: usize = 10_000;

/// How deep a text nests, and about how many values it has: brackets and commas outside strings.
fn shape(text: &str) -> (usize, usize) {
    let (mut depth, mut deepest, mut nodes) = (0usize, 0usize, 1usize);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            b'[' | b'{' => {
                depth += 1;
                nodes += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => nodes += 1,
            _ => {}
        }
    }
    (deepest, nodes)
}

/// An error about the content of a file.
pub(crate) fn problem(path: &Path, problem: impl Into<String>) -> ReadError {
    ReadError::Json { path: path.to_owned(), problem: problem.into() }
}

/// The text of a JSON file, or `None` when the file does not exist or is empty. Its nesting is bounded.
pub(crate) fn text(path: &Path, limit: u64) -> Result<Option<String>, ReadError> {
    let Some(text) = read::text(path, limit)? else { return Ok(None) };
    let start = text.trim_start();
    if start.is_empty() {
        return Ok(None);
    }
    if start.starts_with('<') {
        return Err(ReadError::WebPage { path: path.to_owned() });
    }
    if shape(&text).0 > MAX_DEPTH {
        return Err(problem(path, format!("nested deeper than {MAX_DEPTH} levels; download the file again")));
    }
    Ok(Some(text))
}

/// Reads a value of a known type out of a JSON text.
pub(crate) fn typed<'de, T: Deserialize<'de>>(path: &Path, text: &'de str) -> Result<T, ReadError> {
    serde_json::from_str(text).map_err(|e| invalid(path, &e))
}

/// The error of the parser: text that is not JSON, or JSON of another type than it must have.
pub(crate) fn invalid(path: &Path, error: &serde_json::Error) -> ReadError {
    let what = if error.is_data() { "not as it should be" } else { "not valid JSON" };
    problem(path, format!("{what}: {error}; download the file again"))
}

/// A small value as a tree.
pub(crate) fn small(path: &Path, key: &str, raw: &RawValue) -> Result<Value, ReadError> {
    if shape(raw.get()).1 > MAX_NODES {
        return Err(problem(path, format!("`{key}` has more than {MAX_NODES} values, which no real file has")));
    }
    serde_json::from_str(raw.get()).map_err(|e| problem(path, format!("`{key}`: {e}")))
}

/// What kind of JSON value this is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The values of an object as text, each under its key.
struct Entries(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                use serde::de::Error;
                let mut out: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    match out.iter().find(|(k, _)| *k == key) {
                        Some((_, old)) if old.get() == value.get() => {}
                        // Readers differ in which of the two they take.
                        Some(_) => return Err(A::Error::custom(format!("`{key}` is there twice, with two values"))),
                        None if out.len() == MAX_KEYS => {
                            return Err(A::Error::custom(format!("more than {MAX_KEYS} keys in one object")));
                        }
                        None => out.push((key, value)),
                    }
                }
                Ok(Entries(out))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A JSON object that remembers where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    path: PathBuf,
    prefix: String,
    entries: Vec<(String, Box<RawValue>)>,
}

impl Object {
    /// Reads a file, or `None` when it does not exist or is empty.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, ReadError> {
        let Some(text) = text(path, MAX_BYTES)? else { return Ok(None) };
        Self::parse(path, String::new(), &text).map(Some)
    }

    fn parse(path: &Path, prefix: String, text: &str) -> Result<Self, ReadError> {
        let Entries(entries) = typed(path, text)?;
        Ok(Self { path: path.to_owned(), prefix, entries })
    }

    fn empty(path: PathBuf, prefix: String) -> Self {
        Self { path, prefix, entries: Vec::new() }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The text of a value; null counts as absent.
    pub(crate) fn raw(&self, key: &str) -> Option<&RawValue> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, raw)| &**raw).filter(|raw| raw.get() != "null")
    }

    /// A small value; null counts as absent.
    pub(crate) fn value(&self, key: &str) -> Result<Option<Value>, ReadError> {
        self.raw(key).map(|raw| small(&self.path, &format!("{}{key}", self.prefix), raw)).transpose()
    }

    /// The keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }
}

/// A JSON object whose values are asked for by type.
#[derive(Debug, Clone)]
pub(crate) struct Section(Object);

impl Section {
    /// Reads `dir/file`, which must exist.
    pub(crate) fn read(dir: &Path, file: &str, remedy: &str) -> Result<Self, ConvertError> {
        let path = dir.join(file);
        match Object::read(&path)? {
            Some(object) => Ok(Self(object)),
            None => Err(ConvertError::MissingFile { path, remedy: remedy.to_owned() }),
        }
    }

    /// Reads `dir/file`; a missing file is an empty object.
    pub(crate) fn read_or_empty(dir: &Path, file: &str) -> Result<Self, ConvertError> {
        let path = dir.join(file);
        Ok(Self(Object::read(&path)?.unwrap_or_else(|| Object::empty(path, String::new()))))
    }

    /// The keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys()
    }

    /// Whether `key` is there; null counts as absent.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.raw(key).is_some()
    }

    /// The value of `key`; null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Value>, ConvertError> {
        Ok(self.0.value(key)?)
    }

    /// The object under `key`; a missing one is empty.
    pub(crate) fn section(&self, key: &str) -> Result<Self, ConvertError> {
        let prefix = format!("{}{key}.", self.0.prefix);
        match self.0.raw(key) {
            None => Ok(Self(Object::empty(self.0.path.clone(), prefix))),
            Some(raw) if raw.get().starts_with('{') => Ok(Self(Object::parse(&self.0.path, prefix, raw.get())?)),
            Some(_) => {
                let found = self.get(key)?;
                Err(self.error(key, found.as_ref().map_or("missing", kind), "an object"))
            }
        }
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) -> ConvertError {
        ConvertError::Config {
            path: self.0.path.clone(),
            key: format!("{}{key}", self.0.prefix),
            found: found.into(),
            expected: expected.into(),
        }
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> ConvertError {
        let mut found = value.to_string();
        if found.len() > 80 {
            found = kind(value).to_owned();
        }
        self.error(key, found, expected)
    }

    fn take<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConvertError> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| self.wrong(key, &value, expected))
    }

    /// A string, if present.
    pub(crate) fn str(&self, key: &str) -> Result<Option<String>, ConvertError> {
        self.take(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    /// A boolean, if present.
    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, ConvertError> {
        self.take(key, "true or false", Value::as_bool)
    }

    /// A finite number, if present.
    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, ConvertError> {
        self.take(key, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// A positive integer below 2³¹, if present: a size, as every reader of GGUF files can hold it.
    pub(crate) fn size(&self, key: &str) -> Result<Option<u32>, ConvertError> {
        self.take(key, "a positive integer below 2^31", |v| {
            // Some tools write sizes as 2560.0.
            let whole = v.as_u64().or_else(|| v.as_f64().filter(|x| x.fract() == 0.0 && *x >= 1.0).map(|x| x as u64));
            whole.and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=0x7fff_ffff).contains(n))
        })
    }

    /// A number above zero that stays one as an f32, which is how GGUF files keep it, if present.
    pub(crate) fn positive_f32(&self, key: &str) -> Result<Option<f64>, ConvertError> {
        self.take(key, "a positive number of single precision", |v| {
            v.as_f64().filter(|x| (*x as f32).is_finite() && (*x as f32) > 0.0)
        })
    }

    /// A context length, if present: as long as a context can be made.
    pub(crate) fn context(&self, key: &str) -> Result<Option<u32>, ConvertError> {
        match self.size(key)? {
            Some(n) if n > MAX_CONTEXT => {
                Err(self.error(key, n.to_string(), format!("a number of tokens up to {MAX_CONTEXT}")))
            }
            n => Ok(n),
        }
    }

    /// A positive integer that must be present.
    pub(crate) fn need_size(&self, key: &str) -> Result<u32, ConvertError> {
        self.size(key)?.ok_or_else(|| self.error(key, "missing", "a positive integer"))
    }

    /// A list of finite numbers, if present.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ConvertError> {
        self.take(key, "a list of numbers", |v| {
            v.as_array()?.iter().map(|x| x.as_f64().filter(|x| x.is_finite())).collect()
        })
    }
}

#[cfg(test)]
impl Section {
    /// A section for tests.
    pub(crate) fn from_value(value: &Value) -> Self {
        Self(Object::parse(Path::new("config.json"), String::new(), &value.to_string()).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Object, ReadError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, text).unwrap();
        Object::read(&path).map(Option::unwrap)
    }

    #[test]
    fn nesting_and_numbers_of_values_are_bounded() {
        assert_eq!(shape(r#"{"a[": [1, "\"]"], "b": {}}"#), (2, 6));
        let deep = |n: usize| format!(r#"{{"a": {}{}}}"#, "[".repeat(n), "]".repeat(n));
        assert!(parse(&deep(100)).unwrap().value("a").unwrap().is_some());
        assert!(parse(&deep(200)).unwrap_err().to_string().contains("128"));
        assert!(parse(&deep(1_000_000)).unwrap_err().to_string().contains("128"));
        let wide = parse(&format!(r#"{{"a": [{}0], "b": 1}}"#, "0,".repeat(MAX_NODES))).unwrap();
        assert!(wide.value("a").unwrap_err().to_string().contains("`a` has more than"));
        assert_eq!(wide.value("b").unwrap(), Some(1.into()));
        let keys: Vec<String> = (0..=MAX_KEYS).map(|i| format!(r#""{i}": 0"#)).collect();
        assert!(parse(&format!("{{{}}}", keys.join(","))).unwrap_err().to_string().contains("keys"));
    }

    #[test]
    fn a_key_that_is_there_twice() {
        assert_eq!(parse(r#"{"a": 1, "a": 1}"#).unwrap().value("a").unwrap(), Some(1.into()));
        let error = parse(r#"{"a": 1, "a": 2}"#).unwrap_err().to_string();
        assert!(error.contains("`a` is there twice"), "{error}");
    }

    #[test]
    fn values_that_no_number_holds() {
        let object = Section(parse(r#"{"a": 1e999, "b": -1e999, "c": 99999999999999999999999}"#).unwrap());
        assert!(object.f64("a").unwrap_err().to_string().contains("`a`"));
        assert!(object.size("b").unwrap_err().to_string().contains("`b`"));
        assert!(object.size("c").unwrap_err().to_string().contains("`c`"));
    }

    #[test]
    fn what_is_not_an_object() {
        for (text, word) in [
            ("<!DOCTYPE html>", "web page"),
            ("[]", "an object"),
            ("{\"a\": ", "not valid JSON"),
            ("\u{feff}{}]", "not valid JSON"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(parse("\u{feff}{\"a\": 1}").unwrap().value("a").unwrap(), Some(1.into()));
    }
}
