//! Chat templates: from a list of messages to the text of a prompt.
//!
//! A model file carries its format as a Jinja template. It is a program from an untrusted source, so it runs in an
//! interpreter that knows no files, no network and no other templates, with a budget for its work and memory, a limit
//! on its depth and a limit on its output. The dialect is the one Hugging Face models are published with: block tags
//! swallow the line end behind and the blanks before them, Python's methods exist on strings and dictionaries, and
//! there are `raise_exception`, `strftime_now`, `tojson`, `namespace` and loop controls.

mod builtin;
mod json;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use ocelli_gguf::{GgufError, Metadata};

/// Work one rendering may do: about one unit per instruction and per 64 bytes made.
const FUEL: u64 = 1_000_000;
/// Longest prompt a template may make.
const MAX_OUTPUT: usize = 16 << 20;
/// Longest template accepted.
const MAX_SOURCE: usize = 1 << 20;
/// Deepest nesting of calls.
const MAX_DEPTH: usize = 100;

const NAME: &str = "chat";
const REMEDY: &str = "choose another format with --chat-template NAME|FILE";

/// A template that cannot be read or fails on a conversation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The key is mistyped.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Not a name, not a file, not a template.
    #[error("`{choice}` is neither a known chat format ({known}) nor a file with a template: {reason}")]
    UnknownChoice {
        /// What was asked for.
        choice: String,
        /// Known names.
        known: String,
        /// Why it is no file.
        reason: io::Error,
    },
    /// A template file that is not text.
    #[error("the chat template {} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Too long.
    #[error("the chat template is {bytes} bytes long, at most {MAX_SOURCE} are accepted; {REMEDY}")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// Not valid Jinja, or Jinja this runtime does not know.
    #[error("the chat template cannot be read (line {line}): {reason}; {REMEDY} (names: {})", builtin::names())]
    Syntax {
        /// Line of the template.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The template itself refused the conversation.
    #[error("the chat template refuses this conversation: {message}; change the messages or {REMEDY}")]
    Raised {
        /// Its message.
        message: String,
    },
    /// It loops, or makes too much.
    #[error("the chat template does not come to an end within its limits (line {line}); {REMEDY}")]
    TooExpensive {
        /// Line of the template.
        line: usize,
    },
    /// Its output is too long.
    #[error("the chat template makes a prompt of more than {MAX_OUTPUT} bytes; shorten the conversation or {REMEDY}")]
    OutputTooLong,
    /// Anything else.
    #[error("the chat template fails (line {line}): {reason}; {REMEDY} (names: {})", builtin::names())]
    Failed {
        /// Line of the template.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text.
    Text(String),
    /// Text and pictures in order, for templates that place the pictures themselves.
    Parts(Vec<Part>),
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Text: `{"type": "text", "text": …}`.
    Text(String),
    /// A picture: `{"type": "image"}`.
    Image,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What it says.
    pub content: Content,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()) }
    }

    fn to_value(&self) -> Value {
        let content = match &self.content {
            Content::Text(text) => Value::from(text.as_str()),
            Content::Parts(parts) => parts.iter().map(Part::to_value).collect(),
        };
        map([("role", Value::from(self.role.as_str())), ("content", content)])
    }
}

impl Part {
    fn to_value(&self) -> Value {
        match self {
            Self::Text(text) => map([("type", Value::from("text")), ("text", Value::from(text.as_str()))]),
            Self::Image => map([("type", Value::from("image"))]),
        }
    }
}

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::from_pairs(pairs)
}

/// What a template is told besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions<'a> {
    /// Text of the BOS token.
    pub bos_token: &'a str,
    /// Text of the EOS token.
    pub eos_token: &'a str,
    /// End with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables (`tools`, `enable_thinking`, …).
    pub variables: Vec<(String, serde_json::Value)>,
}

/// Where a template came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The model file.
    Model,
    /// A known format, by this name.
    Builtin(&'static str),
    /// A file of the user.
    File(PathBuf),
    /// Template text given directly.
    Text,
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    origin: Origin,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("origin", &self.origin).field("source", &self.source).finish()
    }
}

impl ChatTemplate {
    /// The template a model file carries, or ChatML if it has none.
    ///
    /// # Errors
    /// When the key is not text or the template cannot be compiled.
    pub fn from_metadata(meta: &Metadata<'_>) -> Result<Self, TemplateError> {
        match meta.str("tokenizer.chat_template")? {
            Some(source) => Self::compile(source, Origin::Model),
            None => Self::compile(builtin::CHATML, Origin::Builtin("chatml")),
        }
    }

    /// What `--chat-template` gives: a known name, template text (recognised by its tags), or a file.
    ///
    /// # Errors
    /// When it is none of these or cannot be compiled.
    pub fn from_choice(choice: &str) -> Result<Self, TemplateError> {
        if let Some(known) = builtin::BUILTINS.iter().find(|b| b.name.eq_ignore_ascii_case(choice)) {
            return Self::compile(known.source, Origin::Builtin(known.name));
        }
        if choice.contains("{{") || choice.contains("{%") {
            return Self::compile(choice, Origin::Text);
        }
        let path = Path::new(choice);
        let unknown =
            |reason| TemplateError::UnknownChoice { choice: one_line(choice), known: builtin::names(), reason };
        let bytes = std::fs::metadata(path).map_err(unknown)?.len();
        if bytes > MAX_SOURCE as u64 {
            return Err(TemplateError::TooLong { bytes });
        }
        let source = std::fs::read(path).map_err(unknown)?;
        let source = String::from_utf8(source).map_err(|_| TemplateError::NotText { path: path.to_owned() })?;
        Self::compile(&source, Origin::File(path.to_owned()))
    }

    fn compile(source: &str, origin: Origin) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(TemplateError::TooLong { bytes: source.len() as u64 });
        }
        let mut environment = environment();
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| TemplateError::Syntax { line: e.line().unwrap_or(0), reason: describe(&e) })?;
        Ok(Self { environment, source: source.to_owned(), origin })
    }

    /// The prompt for `messages`.
    ///
    /// # Errors
    /// When the template refuses the conversation, exceeds a limit, or is wrong.
    pub fn render(&self, messages: &[Message], options: &RenderOptions<'_>) -> Result<String, TemplateError> {
        self.render_value(messages.iter().map(Message::to_value).collect(), options)
    }

    /// As [`Self::render`] for messages as they come over the wire, with whatever further fields they have.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_json(
        &self,
        messages: &serde_json::Value,
        options: &RenderOptions<'_>,
    ) -> Result<String, TemplateError> {
        self.render_value(value_of(messages), options)
    }

    fn render_value(&self, messages: Value, options: &RenderOptions<'_>) -> Result<String, TemplateError> {
        let mut variables = vec![
            ("messages".to_owned(), messages),
            ("bos_token".to_owned(), Value::from(options.bos_token)),
            ("eos_token".to_owned(), Value::from(options.eos_token)),
            ("add_generation_prompt".to_owned(), Value::from(options.add_generation_prompt)),
        ];
        variables.extend(options.variables.iter().map(|(name, value)| (name.clone(), value_of(value))));
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let mut out = Capped { bytes: Vec::new(), full: false };
        let outcome = template.render_captured_to(Value::from_pairs(variables), &mut out).map(drop);
        if out.full {
            return Err(TemplateError::OutputTooLong);
        }
        outcome.map_err(failed)?;
        String::from_utf8(out.bytes).map_err(|_| TemplateError::OutputTooLong)
    }

    /// The template text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// Known formats, separated by `", "`.
#[must_use]
pub fn known_formats() -> String {
    builtin::names()
}

/// A rendered prompt without the BOS text some templates write, for tokenizers that add BOS themselves.
#[must_use]
pub fn without_bos<'a>(prompt: &'a str, bos_token: &str) -> &'a str {
    if bos_token.is_empty() { prompt } else { prompt.strip_prefix(bos_token).unwrap_or(prompt) }
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    if let Ok(syntax) = syntax.build() {
        env.set_syntax(syntax);
    }
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(MAX_DEPTH);
    env.set_debug(false);
    env.set_unknown_method_callback(methods);
    env.set_formatter(|out, state, value| match () {
        // Python's spellings.
        () if value.is_none() => Ok(out.write_str("None")?),
        () if value.kind() == minijinja::value::ValueKind::Bool => {
            Ok(out.write_str(if value.is_true() { "True" } else { "False" })?)
        }
        () => minijinja::escape_formatter(out, state, value),
    });
    env.add_filter("tojson", json::tojson);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    env.add_function("strftime_now", |format: &str| -> Result<String, Error> {
        jiff::fmt::strtime::format(format, &jiff::Zoned::now())
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
    });
    env
}

/// String methods of Python that templates use and the compatibility layer lacks.
fn methods(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let (Some(text), "removeprefix" | "removesuffix") = (value.as_str(), method) {
        let (part,): (&str,) = minijinja::value::from_args(args)?;
        let cut = if method == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
        return Ok(Value::from(cut.unwrap_or(text)));
    }
    unknown_method_callback(state, value, method, args)
}

/// Marks an error as raised by the template on purpose.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn failed(error: Error) -> TemplateError {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TemplateError::Raised { message: one_line(message) };
        }
        source = cause.source();
    }
    let line = error.line().unwrap_or(0);
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::TooExpensive { line },
        _ if error.to_string().contains("recursion limit") => TemplateError::TooExpensive { line },
        _ => TemplateError::Failed { line, reason: describe(&error) },
    }
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => one_line(&format!("{}: {detail}", error.kind())),
        None => one_line(&error.kind().to_string()),
    }
}

/// Text of a template or its author, fit for one line of a terminal.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(300).is_some() {
        line.push('…');
    }
    line
}

/// `{% generation %}` marks the assistant's words for training; it renders its body. The interpreter has no such
/// tag, so it becomes a condition that always holds.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // The search starts behind the opening mark: in `{%}` the two share a character.
        let Some(end) = rest[start + 2..].find("%}").map(|i| start + 2 + i) else { break };
        let inside = &rest[start + 2..end];
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(replacement) => {
                out.push_str(&rest[..start + 2]);
                out.push_str(&inside.replace(word, &format!(" {replacement} ")));
            }
            None => out.push_str(&rest[..end]),
        }
        out.push_str("%}");
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    out
}

fn value_of(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(s) => Value::from(s.as_str()),
        serde_json::Value::Array(items) => items.iter().map(value_of).collect(),
        serde_json::Value::Object(fields) => Value::from_pairs(fields.iter().map(|(k, v)| (k.as_str(), value_of(v)))),
    }
}

/// Collects output up to [`MAX_OUTPUT`].
struct Capped {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::Error::other("output too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
