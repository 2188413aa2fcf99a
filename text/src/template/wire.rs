//! What a template is given, as bytes: from the caller's values to the interpreter's, in this process or another.
//!
//! ```text
//! value   tag u8: null, false, true | i64 | u64 | f64 | text | list: n u32, values | map: n u32, (text, value)
//! text    bytes u32, UTF-8                                                     all numbers little-endian
//! ```
//!
//! Size, count and depth are limited while the bytes are made, before any of them reaches an interpreter.

use minijinja::Value;
use serde_json::Value as Json;

use super::error::TemplateError;
use super::{Content, Message, Part, RenderOptions};

/// Most bytes of messages and variables together.
pub(super) const MAX_INPUT: usize = 16 << 20;
/// Most values in them: each takes some hundred bytes in the interpreter.
pub(super) const MAX_VALUES: usize = 1 << 18;
/// Deepest nesting of lists and maps.
pub(super) const MAX_DEPTH: usize = 64;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const SIGNED: u8 = 3;
const UNSIGNED: u8 = 4;
const FLOAT: u8 = 5;
const TEXT: u8 = 6;
const LIST: u8 = 7;
const MAP: u8 = 8;

/// A template's variables as a map.
pub(super) fn encode(messages: Messages<'_>, options: &RenderOptions<'_>) -> Result<Vec<u8>, TemplateError> {
    let mut out = Encoder::default();
    out.begin(MAP, 4 + options.variables.len())?;
    out.text("messages")?;
    match messages {
        Messages::Typed(messages) => {
            out.begin(LIST, messages.len())?;
            messages.iter().try_for_each(|message| out.message(message))?;
        }
        Messages::Json(json) => out.json(json, 1)?,
    }
    for (name, text) in [("bos_token", options.bos_token), ("eos_token", options.eos_token)] {
        out.text(name)?;
        out.string(text)?;
    }
    out.text("add_generation_prompt")?;
    out.tag(if options.add_generation_prompt { TRUE } else { FALSE })?;
    for (name, value) in &options.variables {
        out.text(name)?;
        out.json(value, 1)?;
    }
    Ok(out.bytes)
}

/// The conversation to encode.
#[derive(Clone, Copy)]
pub(super) enum Messages<'a> {
    Typed(&'a [Message]),
    Json(&'a Json),
}

#[derive(Default)]
struct Encoder {
    bytes: Vec<u8>,
    values: usize,
}

impl Encoder {
    fn put(&mut self, bytes: &[u8]) -> Result<(), TemplateError> {
        if bytes.len() > MAX_INPUT - self.bytes.len() {
            return Err(TemplateError::InputTooLarge { what: "it is too long" });
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn tag(&mut self, tag: u8) -> Result<(), TemplateError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(TemplateError::InputTooLarge { what: "it has too many values" });
        }
        self.put(&[tag])
    }

    /// A length; none that fits the limit of bytes is beyond a `u32`.
    fn count(&mut self, n: usize) -> Result<(), TemplateError> {
        let n = u32::try_from(n).map_err(|_| TemplateError::InputTooLarge { what: "it is too long" })?;
        self.put(&n.to_le_bytes())
    }

    fn begin(&mut self, tag: u8, n: usize) -> Result<(), TemplateError> {
        self.tag(tag)?;
        self.count(n)
    }

    fn text(&mut self, text: &str) -> Result<(), TemplateError> {
        self.count(text.len())?;
        self.put(text.as_bytes())
    }

    fn string(&mut self, text: &str) -> Result<(), TemplateError> {
        self.tag(TEXT)?;
        self.text(text)
    }

    fn field(&mut self, name: &str, text: &str) -> Result<(), TemplateError> {
        self.text(name)?;
        self.string(text)
    }

    fn message(&mut self, message: &Message) -> Result<(), TemplateError> {
        self.begin(MAP, 2)?;
        self.field("role", &message.role)?;
        match &message.content {
            Content::Text(text) => self.field("content", text),
            Content::Parts(parts) => {
                self.text("content")?;
                self.begin(LIST, parts.len())?;
                parts.iter().try_for_each(|part| self.part(part))
            }
        }
    }

    fn part(&mut self, part: &Part) -> Result<(), TemplateError> {
        match part {
            Part::Text(text) => {
                self.begin(MAP, 2)?;
                self.field("type", "text")?;
                self.field("text", text)
            }
            Part::Image => {
                self.begin(MAP, 1)?;
                self.field("type", "image")
            }
        }
    }

    fn json(&mut self, value: &Json, depth: usize) -> Result<(), TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::InputTooLarge { what: "it is nested too deeply" });
        }
        match value {
            Json::Null => self.tag(NULL),
            Json::Bool(flag) => self.tag(if *flag { TRUE } else { FALSE }),
            Json::Number(n) => {
                let (tag, bytes) = match (n.as_i64(), n.as_u64()) {
                    (Some(n), _) => (SIGNED, n.to_le_bytes()),
                    (None, Some(n)) => (UNSIGNED, n.to_le_bytes()),
                    (None, None) => (FLOAT, n.as_f64().unwrap_or(f64::NAN).to_le_bytes()),
                };
                self.tag(tag)?;
                self.put(&bytes)
            }
            Json::String(text) => self.string(text),
            Json::Array(items) => {
                self.begin(LIST, items.len())?;
                items.iter().try_for_each(|item| self.json(item, depth + 1))
            }
            Json::Object(fields) => {
                self.begin(MAP, fields.len())?;
                fields.iter().try_for_each(|(name, value)| {
                    self.text(name)?;
                    self.json(value, depth + 1)
                })
            }
        }
    }
}

/// The value that `bytes` hold, all of them; `None` where they hold none.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Value> {
    let value = value(&mut bytes, 0)?;
    bytes.is_empty().then_some(value)
}

/// Takes the first `n` bytes of `bytes`.
pub(super) fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

/// Takes a number.
pub(super) fn number(bytes: &mut &[u8]) -> Option<usize> {
    let n = u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?);
    usize::try_from(n).ok()
}

fn eight(bytes: &mut &[u8]) -> Option<[u8; 8]> {
    take(bytes, 8)?.try_into().ok()
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let n = number(bytes)?;
    std::str::from_utf8(take(bytes, n)?).ok()
}

fn value(bytes: &mut &[u8], depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match take(bytes, 1)?[0] {
        NULL => Value::from(()),
        FALSE => Value::from(false),
        TRUE => Value::from(true),
        SIGNED => Value::from(i64::from_le_bytes(eight(bytes)?)),
        UNSIGNED => Value::from(u64::from_le_bytes(eight(bytes)?)),
        FLOAT => Value::from(f64::from_le_bytes(eight(bytes)?)),
        TEXT => Value::from(text(bytes)?),
        LIST => {
            // Every value has a byte at least: no count that the bytes do not back is walked to its end.
            let n = number(bytes)?;
            (0..n).map(|_| value(bytes, depth + 1)).collect::<Option<Vec<_>>>()?.into()
        }
        MAP => {
            let n = number(bytes)?;
            let pair = |_| Some((text(bytes)?, value(bytes, depth + 1)?));
            Value::from_pairs((0..n).map(pair).collect::<Option<Vec<_>>>()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::engine::Engine;
    use super::*;

    #[test]
    fn values_arrive_as_they_were() {
        let value = json!({
            "null": null, "yes": true, "no": false, "min": i64::MIN, "max": u64::MAX, "fraction": 0.012345678901234,
            "tiny": 1e-7, "text": "ä\u{0}\u{fdd0}", "list": [[], {}, [1, "2"]], "b": 1, "a": 2
        });
        let options = RenderOptions { variables: vec![("v".to_owned(), value.clone())], ..RenderOptions::default() };
        let bytes = encode(Messages::Json(&json!([])), &options).unwrap();
        let found = decode(&bytes).unwrap().get_attr("v").unwrap();
        let printed = Engine::compile("{{ v|tojson }}").unwrap().render(decode(&bytes).unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Json>(&printed).unwrap(), value);
        let names: Vec<_> = found.try_iter().unwrap().map(|k| k.to_string()).collect();
        assert_eq!(names, value.as_object().unwrap().keys().cloned().collect::<Vec<_>>(), "the order of fields");
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_none(), "{cut}");
        }
        assert!(decode(&[&bytes[..], &[0]].concat()).is_none());
        assert!(decode(&[LIST, 255, 255, 255, 255]).is_none());
        assert!(decode(&[[LIST, 1, 0, 0, 0].repeat(100_000), vec![NULL]].concat()).is_none());
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_copied() {
        let refused = |messages: &Json| match encode(Messages::Json(messages), &RenderOptions::default()) {
            Err(TemplateError::InputTooLarge { what }) => what,
            other => panic!("{:?}", other.map(|bytes| bytes.len())),
        };
        let nested = |depth| (1..depth).fold(json!([]), |inner, _| Json::Array(vec![inner]));
        assert_eq!(refused(&nested(MAX_DEPTH + 1)), "it is nested too deeply");
        let deepest = encode(Messages::Json(&nested(MAX_DEPTH)), &RenderOptions::default()).unwrap();
        assert!(decode(&deepest).is_some());
        assert_eq!(refused(&json!(vec![0; MAX_VALUES])), "it has too many values");
        assert_eq!(refused(&json!("x".repeat(MAX_INPUT))), "it is too long");
        assert_eq!(refused(&json!({"x".repeat(MAX_INPUT): 1})), "it is too long");
        let long = [Message::new("user", "x".repeat(MAX_INPUT))];
        let typed = encode(Messages::Typed(&long), &RenderOptions::default());
        assert!(matches!(typed, Err(TemplateError::InputTooLarge { .. })));
    }
}
