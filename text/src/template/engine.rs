//! The interpreter: compiles a template and renders it, with budgets for its work and a limit on its output.
//!
//! The budgets count instructions and what most operations make. They do not see all work: comparing, hashing, printing
//! and dropping values that share their parts, or nesting of any depth, are single steps. They give the common faults
//! a message with a line; whatever the template does is bounded by the process it runs in.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::error::{TemplateError, one_line};
use super::json;

/// Work one rendering may do: about one unit per instruction and per 64 bytes made.
const FUEL: u64 = 1_000_000;
/// Longest prompt a template may make.
pub(super) const MAX_OUTPUT: usize = 4 << 20;
/// Longest template accepted.
pub(super) const MAX_SOURCE: usize = 1 << 20;
/// Deepest nesting of calls.
const MAX_CALLS: usize = 100;

const NAME: &str = "chat";

/// A compiled template.
pub(super) struct Engine {
    environment: Environment<'static>,
}

impl Engine {
    pub(super) fn compile(source: &str) -> Result<Self, TemplateError> {
        let mut environment = environment();
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| TemplateError::Syntax { line: e.line().unwrap_or(0), reason: describe(&e) })?;
        Ok(Self { environment })
    }

    /// The text for `variables`, a map.
    pub(super) fn render(&self, variables: Value) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let mut out = Capped { bytes: Vec::new(), full: false };
        let outcome = template.render_captured_to(variables, &mut out).map(drop);
        if out.full {
            return Err(TemplateError::OutputTooLong);
        }
        outcome.map_err(failed)?;
        // Values hold text, so no output is anything else.
        String::from_utf8(out.bytes)
            .map_err(|_| TemplateError::Failed { line: 0, reason: "it makes bytes that are not UTF-8 text".to_owned() })
    }
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
    env.set_recursion_limit(MAX_CALLS);
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
