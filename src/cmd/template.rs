//! What the command adds to the library's chat templates: the process that renders them, and the option that helps when
//! one is at fault.

use std::sync::OnceLock;

use ocelli_runtime::RuntimeError;
use ocelli_text::template::{TemplateError, Worker, known_formats};

static WORKER: OnceLock<Worker> = OnceLock::new();

/// Keeps what `main` got from the library for [`worker`].
pub(crate) fn set_worker(worker: Worker) {
    // Set once, at the start of `main`.
    let _ = WORKER.set(worker);
}

/// The worker that this program is.
pub(crate) fn worker() -> Option<&'static Worker> {
    WORKER.get()
}

/// `line`, which tells `error`, with the option that chooses another chat template, if that would help.
pub(crate) fn with_remedy(error: &anyhow::Error, mut line: String) -> String {
    let is_template = error.chain().any(|cause| {
        let template = match cause.downcast_ref() {
            Some(RuntimeError::Template(template)) => Some(template),
            _ => cause.downcast_ref::<TemplateError>(),
        };
        template.is_some_and(TemplateError::is_about_the_template)
    });
    if is_template {
        line.push_str(&format!(" with --chat-template NAME|FILE (names: {})", known_formats()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_named_where_it_helps() {
        let of = |error: TemplateError| {
            let error = anyhow::Error::new(RuntimeError::from(error)).context("answering");
            with_remedy(&error, format!("{error:#}"))
        };
        let slow = of(TemplateError::TooSlow);
        assert!(slow.contains("choose another chat format with --chat-template NAME|FILE (names: chatml"), "{slow}");
        let large = of(TemplateError::InputTooLarge { what: "it is too long" });
        assert!(!large.contains("--chat-template"), "{large}");
        assert_eq!(with_remedy(&anyhow::anyhow!("disk on fire"), "x".to_owned()), "x");
    }
}
