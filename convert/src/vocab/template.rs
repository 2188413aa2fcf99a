//! Chat templates: copied verbatim from the first of four places that has one.

use std::path::Path;

use serde_json::Value;

use super::{VocabError, files};
use crate::json::Object;
use crate::read;

/// The chat templates of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    /// `tokenizer.chat_template`.
    pub default: Option<String>,
    /// `tokenizer.chat_template.NAME`, names reduced to ASCII letters, digits and `_`.
    pub named: Vec<(String, String)>,
}

impl ChatTemplates {
    fn add(&mut self, name: &str, text: String) {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name == "default" {
            self.default = Some(text);
        } else if let Some((_, old)) = self.named.iter_mut().find(|(n, _)| *n == name) {
            *old = text;
        } else if !name.is_empty() {
            self.named.push((name, text));
        }
    }
}

/// `chat_template.jinja` with `additional_chat_templates/`; without it `chat_template.json`; without that
/// `chat_template` of `tokenizer_config.json`. Null and empty templates count as absent.
pub(super) fn load(
    dir: &Path,
    config: Option<&Object>,
    warnings: &mut Vec<String>,
) -> Result<ChatTemplates, VocabError> {
    let mut found: Vec<(&str, ChatTemplates)> = Vec::new();
    let mut out = ChatTemplates { named: additional(&dir.join("additional_chat_templates"))?, default: None };
    if let Some(text) = read::text(&dir.join("chat_template.jinja"), files::MAX_TEMPLATE)? {
        found.push(("chat_template.jinja", ChatTemplates { default: Some(text), named: Vec::new() }));
    }
    let legacy = Object::read(&dir.join("chat_template.json"))?;
    for (file, object) in [("chat_template.json", legacy.as_ref()), ("tokenizer_config.json", config)] {
        if let Some(object) = object
            && let Some(value) = object.value("chat_template")?
        {
            found.push((file, from_value(&value, object.path())?));
        }
    }
    found.retain(|(_, templates)| {
        templates.default.as_ref().is_some_and(|text| !text.trim().is_empty()) || !templates.named.is_empty()
    });
    let mut sources = found.into_iter();
    let Some((taken, first)) = sources.next() else { return Ok(out) };
    for (file, other) in sources {
        let differ = |a: &Option<String>, b: &Option<String>| {
            a.as_deref().zip(b.as_deref()).is_some_and(|(a, b)| a.trim_end() != b.trim_end())
        };
        if differ(&first.default, &other.default) {
            warnings.push(format!("{taken} and {file} hold different chat templates: {taken} was taken"));
        }
    }
    out.default = first.default;
    for (name, text) in first.named {
        if !out.named.iter().any(|(n, _)| *n == name) {
            out.named.push((name, text));
        }
    }
    Ok(out)
}

/// The templates of a folder, each under its file's name.
fn additional(dir: &Path) -> Result<Vec<(String, String)>, VocabError> {
    let mut out = ChatTemplates::default();
    if dir.is_dir() {
        let io = |source| VocabError::Io { path: dir.to_owned(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(io)? {
            paths.push(entry.map_err(io)?.path());
        }
        paths.retain(|path| path.extension().is_some_and(|e| e == "jinja"));
        paths.sort();
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(text) = read::text(&path, files::MAX_TEMPLATE)? {
                out.add(&name, text);
            }
        }
    }
    Ok(out.named)
}

/// A template, or a list of `{name, template}`.
fn from_value(value: &Value, path: &Path) -> Result<ChatTemplates, VocabError> {
    let mut out = ChatTemplates::default();
    match value {
        Value::Null => {}
        Value::String(text) => out.default = Some(text.clone()),
        Value::Array(list) => {
            for (i, entry) in list.iter().enumerate() {
                let field = |key: &str| entry.get(key).and_then(Value::as_str);
                match (field("name"), field("template")) {
                    (Some(name), Some(text)) => out.add(name, text.to_owned()),
                    _ => {
                        let problem = format!("chat_template, entry {i}: expected the keys name and template");
                        return Err(files::json_error(path, problem));
                    }
                }
            }
        }
        _ => return Err(files::json_error(path, "chat_template must be a text or a list of named templates")),
    }
    Ok(out)
}
