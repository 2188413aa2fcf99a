//! Chat templates: copied verbatim from whichever of the three places has them.

use std::path::Path;

use serde_json::{Map, Value};

use super::{VocabError, files};

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

/// `chat_template` of `tokenizer_config.json`; without it `chat_template.jinja` with `additional_chat_templates/`;
/// without that `chat_template.json`.
pub(super) fn load(dir: &Path, config: Option<&Map<String, Value>>) -> Result<ChatTemplates, VocabError> {
    if let Some(value) = config.and_then(|c| c.get("chat_template")) {
        return from_value(value, &dir.join("tokenizer_config.json"));
    }
    let mut out = ChatTemplates::default();
    if let Some(text) = files::read_text(&dir.join("chat_template.jinja"), files::MAX_TEMPLATE)? {
        out.default = Some(text);
        let extra = dir.join("additional_chat_templates");
        if extra.is_dir() {
            let io = |source| VocabError::Io { path: extra.clone(), source };
            let mut paths = Vec::new();
            for entry in std::fs::read_dir(&extra).map_err(io)? {
                paths.push(entry.map_err(io)?.path());
            }
            paths.retain(|path| path.extension().is_some_and(|e| e == "jinja"));
            paths.sort();
            for path in paths {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(text) = files::read_text(&path, files::MAX_TEMPLATE)? {
                    out.add(&name, text);
                }
            }
        }
        return Ok(out);
    }
    let path = dir.join("chat_template.json");
    match files::read_object(&path, files::MAX_JSON)?.as_ref().and_then(|map| map.get("chat_template")) {
        Some(value) => from_value(value, &path),
        None => Ok(out),
    }
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
