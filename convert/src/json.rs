//! Small JSON files of a checkpoint: bounded reading, and typed access whose errors name file and key.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::ConvertError;

/// Largest configuration file read; real ones are kilobytes, shard lists a few megabytes.
const MAX_BYTES: u64 = 64 << 20;

/// Reads a JSON object, or `None` when the file does not exist.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Map<String, Value>>, ConvertError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ConvertError::Io { action: "open", path: path.to_owned(), source: e }),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(ConvertError::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ConvertError::Damaged {
            path: path.to_owned(),
            what: format!("it is larger than {MAX_BYTES} bytes"),
        });
    }
    match serde_json::from_slice(&bytes).map_err(|source| ConvertError::Json { path: path.to_owned(), source })? {
        Value::Object(map) => Ok(Some(map)),
        other => Err(ConvertError::Config {
            path: path.to_owned(),
            key: ".".into(),
            found: kind(&other).into(),
            expected: "an object".into(),
        }),
    }
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

/// A JSON object that remembers where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    path: PathBuf,
    prefix: String,
    map: Map<String, Value>,
}

impl Section {
    /// Reads `dir/file`, which must exist.
    pub(crate) fn read(dir: &Path, file: &str, remedy: &str) -> Result<Self, ConvertError> {
        let path = dir.join(file);
        match read_optional(&path)? {
            Some(map) => Ok(Self { path, prefix: String::new(), map }),
            None => Err(ConvertError::MissingFile { path, remedy: remedy.to_owned() }),
        }
    }

    /// Reads `dir/file`; a missing file is an empty object.
    pub(crate) fn read_or_empty(dir: &Path, file: &str) -> Result<Self, ConvertError> {
        let path = dir.join(file);
        let map = read_optional(&path)?.unwrap_or_default();
        Ok(Self { path, prefix: String::new(), map })
    }

    /// The value of `key`; null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// The object under `key`; a missing one is empty.
    pub(crate) fn section(&self, key: &str) -> Result<Self, ConvertError> {
        let map = match self.get(key) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(other) => return Err(self.error(key, kind(other), "an object")),
        };
        Ok(Self { path: self.path.clone(), prefix: format!("{}{key}.", self.prefix), map })
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, found: impl Into<String>, expected: impl Into<String>) -> ConvertError {
        ConvertError::Config {
            path: self.path.clone(),
            key: format!("{}{key}", self.prefix),
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

    /// A string, if present.
    pub(crate) fn str(&self, key: &str) -> Result<Option<&str>, ConvertError> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, v, "a string"))).transpose()
    }

    /// A boolean, if present.
    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, ConvertError> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.wrong(key, v, "true or false"))).transpose()
    }

    /// A finite number, if present.
    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, ConvertError> {
        self.get(key)
            .map(|v| v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, v, "a number")))
            .transpose()
    }

    /// A whole number, if present.
    pub(crate) fn i32(&self, key: &str) -> Result<Option<i32>, ConvertError> {
        self.get(key)
            .map(|v| {
                let whole = v.as_i64().and_then(|n| i32::try_from(n).ok());
                whole.ok_or_else(|| self.wrong(key, v, "a whole number"))
            })
            .transpose()
    }

    /// The whole object.
    pub(crate) fn to_value(&self) -> Value {
        Value::Object(self.map.clone())
    }

    /// A positive integer below 2³¹, if present: a size, as every reader of GGUF files can hold it.
    pub(crate) fn size(&self, key: &str) -> Result<Option<u32>, ConvertError> {
        self.get(key)
            .map(|v| {
                // Some tools write sizes as 2560.0.
                let whole =
                    v.as_u64().or_else(|| v.as_f64().filter(|x| x.fract() == 0.0 && *x >= 1.0).map(|x| x as u64));
                whole
                    .and_then(|n| u32::try_from(n).ok())
                    .filter(|n| (1..=0x7fff_ffff).contains(n))
                    .ok_or_else(|| self.wrong(key, v, "a positive integer below 2^31"))
            })
            .transpose()
    }

    /// A positive integer that must be present.
    pub(crate) fn need_size(&self, key: &str) -> Result<u32, ConvertError> {
        self.size(key)?.ok_or_else(|| self.error(key, "missing", "a positive integer"))
    }

    /// A list of finite numbers, if present.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ConvertError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.wrong(key, value, "a list of numbers");
        let list = value.as_array().ok_or_else(wrong)?;
        list.iter().map(|x| x.as_f64().filter(|x| x.is_finite()).ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
    }
}

#[cfg(test)]
impl Section {
    /// A section for tests.
    pub(crate) fn from_value(value: Value) -> Self {
        let Value::Object(map) = value else { panic!("not an object: {value}") };
        Self { path: "config.json".into(), prefix: String::new(), map }
    }
}
