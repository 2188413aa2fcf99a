//! Chat templates: from a list of messages to the text of a prompt.
//!
//! A model file carries its format as a Jinja template: a program from an untrusted source. It runs in an interpreter
//! that knows no files, no network and no other templates, with a budget for its work, a limit on its depth and a limit
//! on its output (`engine`). Because no budget of an interpreter covers all that a hostile template can do, it does so
//! in a process of its own, whose time, memory and stack the system limits (`worker`). Only the formats that this
//! crate brings run in the caller's process; there, a conversation comes in as values of limited size, number and depth
//! (`wire`), never as part of a template.
//!
//! The dialect is the one Hugging Face models are published with: block tags swallow the line end behind and the blanks
//! before them, Python's methods exist on strings and dictionaries, and there are `raise_exception`, `strftime_now`,
//! `tojson`, `namespace` and loop controls.

mod builtin;
mod engine;
mod error;
mod json;
mod wire;
mod worker;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ocelli_gguf::Metadata;

use engine::{Engine, MAX_SOURCE};
use error::one_line;
use wire::Messages;

pub use error::TemplateError;
pub use worker::{Worker, run_if_asked};

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

/// A chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    origin: Origin,
    place: Place,
}

/// Where a template is rendered.
enum Place {
    /// In this process, because this program's authors wrote it.
    Here(Box<Engine>),
    /// In another, or nowhere if there is none.
    Elsewhere(Option<Worker>),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(_) => f.write_str("Here"),
            Self::Elsewhere(worker) => f.debug_tuple("Elsewhere").field(worker).finish(),
        }
    }
}

impl ChatTemplate {
    /// The template a model file carries, or ChatML if it has none.
    ///
    /// A model's template is rendered by `worker` (see [`run_if_asked`]), which also checks here that it is one. Without a
    /// worker it is neither checked nor rendered: [`Self::render`] refuses.
    ///
    /// # Errors
    /// When the key is not text or the template cannot be compiled.
    pub fn from_metadata(meta: &Metadata<'_>, worker: Option<&Worker>) -> Result<Self, TemplateError> {
        match meta.str("tokenizer.chat_template")? {
            Some(source) => Self::untrusted(source, Origin::Model, worker),
            None => Self::here(builtin::CHATML, Origin::Builtin("chatml")),
        }
    }

    /// A known name, template text (recognised by its tags), or a file. What is no known name is rendered by `worker`, as
    /// [`Self::from_metadata`] describes.
    ///
    /// # Errors
    /// When it is none of these or cannot be compiled.
    pub fn from_choice(choice: &str, worker: Option<&Worker>) -> Result<Self, TemplateError> {
        if let Some(known) = builtin::BUILTINS.iter().find(|b| b.name.eq_ignore_ascii_case(choice)) {
            return Self::here(known.source, Origin::Builtin(known.name));
        }
        if choice.contains("{{") || choice.contains("{%") {
            return Self::untrusted(choice, Origin::Text, worker);
        }
        let path = Path::new(choice);
        let unknown =
            |reason| TemplateError::UnknownChoice { choice: one_line(choice), known: builtin::names(), reason };
        let file = File::open(path).map_err(unknown)?;
        let bytes = file.metadata().map_err(unknown)?.len();
        // A device or a pipe does not tell its length, and may have no end.
        let mut source = Vec::new();
        file.take(MAX_SOURCE as u64 + 1).read_to_end(&mut source).map_err(unknown)?;
        if source.len() > MAX_SOURCE {
            return Err(TemplateError::TooLong { bytes: bytes.max(source.len() as u64) });
        }
        let source = String::from_utf8(source).map_err(|_| TemplateError::NotText { path: path.to_owned() })?;
        Self::untrusted(&source, Origin::File(path.to_owned()), worker)
    }

    /// A template of the caller's own, rendered in the caller's process, where a hostile one could take all memory, hang
    /// or overflow the stack: for text that the program's authors wrote, and for tests of the interpreter.
    ///
    /// # Errors
    /// When it cannot be compiled.
    pub fn trusted(source: &str) -> Result<Self, TemplateError> {
        Self::here(source, Origin::Text)
    }

    fn here(source: &str, origin: Origin) -> Result<Self, TemplateError> {
        check_length(source)?;
        Ok(Self { source: source.to_owned(), origin, place: Place::Here(Box::new(Engine::compile(source)?)) })
    }

    fn untrusted(source: &str, origin: Origin, worker: Option<&Worker>) -> Result<Self, TemplateError> {
        check_length(source)?;
        if let Some(worker) = worker {
            worker.check(source)?;
        }
        Ok(Self { source: source.to_owned(), origin, place: Place::Elsewhere(worker.cloned()) })
    }

    /// The prompt for `messages`.
    ///
    /// # Errors
    /// When the template refuses the conversation, exceeds a limit, or is wrong; when it is untrusted and there is no worker.
    pub fn render(&self, messages: &[Message], options: &RenderOptions<'_>) -> Result<String, TemplateError> {
        self.render_encoded(&wire::encode(Messages::Typed(messages), options)?)
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
        self.render_encoded(&wire::encode(Messages::Json(messages), options)?)
    }

    fn render_encoded(&self, variables: &[u8]) -> Result<String, TemplateError> {
        match &self.place {
            Place::Here(engine) => {
                let variables = wire::decode(variables);
                engine.render(variables.ok_or(TemplateError::InputTooLarge { what: "it cannot be encoded" })?)
            }
            Place::Elsewhere(Some(worker)) => worker.render(&self.source, variables),
            Place::Elsewhere(None) => Err(TemplateError::NoWorker { known: builtin::names() }),
        }
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

fn check_length(source: &str) -> Result<(), TemplateError> {
    let bytes = source.len();
    if bytes > MAX_SOURCE { Err(TemplateError::TooLong { bytes: bytes as u64 }) } else { Ok(()) }
}
