//! What can be wrong with a chat template, or with a conversation that one is to render.

use std::io;
use std::path::PathBuf;

use ocelli_gguf::GgufError;

use super::engine::{MAX_OUTPUT, MAX_SOURCE};
use super::wire::{MAX_DEPTH, MAX_INPUT, MAX_VALUES};
use super::worker::MEMORY;

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
    #[error("the chat template {} is not UTF-8 text; choose another chat format", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Too long.
    #[error("the chat template is {bytes} bytes long, at most {MAX_SOURCE} are accepted; choose another chat format")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// Not valid Jinja, or Jinja this build does not know.
    #[error("the chat template cannot be read (line {line}): {reason}; choose another chat format")]
    Syntax {
        /// Line of the template.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The template itself refused the conversation.
    #[error(
        "the chat template refuses this conversation: {message}; change the messages or choose another chat format"
    )]
    Raised {
        /// Its message.
        message: String,
    },
    /// It loops, or makes too much.
    #[error("the chat template does not come to an end within its limits (line {line}); choose another chat format")]
    TooExpensive {
        /// Line of the template.
        line: usize,
    },
    /// Its process was ended because of the time it took.
    #[error("the chat template does not come to an end in the time it is given; choose another chat format")]
    TooSlow,
    /// Its process ran into the limit of memory, or of its stack.
    #[error(
        "the chat template needs more than {} MiB of memory or nests too deeply; choose another chat format",
        MEMORY >> 20
    )]
    TooMuchMemory,
    /// Its output is too long.
    #[error(
        "the chat template makes a prompt of more than {MAX_OUTPUT} bytes; shorten the conversation or choose another \
         chat format"
    )]
    OutputTooLong,
    /// Anything else.
    #[error("the chat template fails (line {line}): {reason}; choose another chat format")]
    Failed {
        /// Line of the template.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Messages and variables that no template is given.
    #[error(
        "the conversation is too large for a chat template: {what}, at most {MAX_INPUT} bytes, {MAX_VALUES} values and \
         {MAX_DEPTH} levels are accepted; shorten it"
    )]
    InputTooLarge {
        /// What there is too much of.
        what: &'static str,
    },
    /// An untrusted template in a program without a worker.
    #[error(
        "the chat template is not one of the known formats and may only run in a worker process, which this program has \
         not set up (template::run_if_asked); choose a known format: {known}"
    )]
    NoWorker {
        /// Known names.
        known: String,
    },
    /// The worker process could not be started or limited, or does not speak the protocol.
    #[error("the chat template cannot be rendered in a worker process ({}): {problem}", program.display())]
    Worker {
        /// The program that was started.
        program: PathBuf,
        /// What went wrong.
        problem: String,
    },
}

impl TemplateError {
    /// Whether the template is at fault, so that another chat format would help.
    #[must_use]
    pub fn is_about_the_template(&self) -> bool {
        !matches!(
            self,
            Self::Gguf(_)
                | Self::UnknownChoice { .. }
                | Self::InputTooLarge { .. }
                | Self::NoWorker { .. }
                | Self::Worker { .. }
        )
    }
}

/// Text of a template or its author, fit for one line of a terminal.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(300).is_some() {
        line.push('…');
    }
    line
}
