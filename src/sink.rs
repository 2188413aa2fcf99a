//! The two ways out of the program: standard output and standard error.
//!
//! Everything a person or a script reads passes through this file, so that two promises hold everywhere. Text that came
//! from elsewhere (answers, metadata, names, other programs' messages) cannot steer a terminal: standard output is
//! escaped when it is a terminal, standard error and JSON always. And a stream that is full or closed never ends the
//! program by a panic: standard error is written as well as it can be, standard output returns an error, and a reader
//! that left (`| head`) is told apart from a disk that is full.
//!
//! Printing macros of the standard library are denied elsewhere by the lints of the workspace.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::LazyLock;

use serde::Serialize;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(crate) struct OutputError(#[source] io::Error);

impl OutputError {
    /// Whether the reader has seen enough, which is no fault.
    pub(crate) fn reader_left(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Whether `error` is only a reader of standard output that has seen enough.
pub(crate) fn reader_left(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<OutputError>().is_some_and(OutputError::reader_left))
}

/// Whether standard output is a terminal.
pub(crate) fn out_is_terminal() -> bool {
    static TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());
    *TERMINAL
}

/// Whether standard error is a terminal.
pub(crate) fn err_is_terminal() -> bool {
    static TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stderr().is_terminal());
    *TERMINAL
}

/// Writes text to standard output, escaped when it is a terminal.
pub(crate) fn out(text: &str) -> Result<(), OutputError> {
    raw(if out_is_terminal() { page(text) } else { Cow::Borrowed(text) }.as_bytes())
}

/// Writes bytes that need not be text to standard output: as they are, but readable on a terminal.
pub(crate) fn out_bytes(bytes: &[u8]) -> Result<(), OutputError> {
    if !out_is_terminal() {
        return raw(bytes);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    out(&text)
}

/// Writes what this program itself draws, colours included, to standard output.
pub(crate) fn drawing(text: &str) -> Result<(), OutputError> {
    raw(text.as_bytes())
}

/// Writes one line of JSON to standard output.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(json_text(&(serde_json::to_string(value)? + "\n"))?)
}

/// Writes JSON that is text already to standard output.
pub(crate) fn json_text(text: &str) -> Result<(), OutputError> {
    raw(page(text).as_bytes())
}

/// The one place where standard output is written. Each call reaches the stream, so an error is seen where it happens.
fn raw(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(OutputError)
}

/// Writes one line to standard error. A log that is full or gone must not cost the answer, so failures are passed over.
pub(crate) fn err_line(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let _ = io::stderr().lock().write_all(format!("{}\n", shortened(&line(&text))).as_bytes());
}

/// Writes text of several lines to standard error.
pub(crate) fn err_page(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{}\n", page(text)).as_bytes());
}

/// Characters of a line on standard error, at most: what a file holds may be quoted in it.
const MAX_LINE: usize = 2000;

/// The beginning and the end of a line that is too long to be read.
pub(crate) fn shortened(line: &str) -> Cow<'_, str> {
    let n = line.chars().count();
    if n <= MAX_LINE {
        return Cow::Borrowed(line);
    }
    let (first, last) = (MAX_LINE / 2, MAX_LINE / 4);
    let start: String = line.chars().take(first).collect();
    let end: String = line.chars().skip(n - last).collect();
    Cow::Owned(format!("{start} … ({} characters left out) … {end}", n - first - last))
}

/// Text for one line: whatever could steer a terminal or begin another line is escaped.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\t' && steers(c))
}

/// Text for several lines: line ends and tabs stay.
pub(crate) fn page(text: &str) -> Cow<'_, str> {
    escape(text, steers_page)
}

/// Whether a character of a text of several lines could steer a terminal.
pub(crate) fn steers_page(c: char) -> bool {
    !matches!(c, '\n' | '\t') && steers(c)
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and the controls of writing direction, which can
/// make text look like another.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escaped characters look as JSON spells them, `\u001b`, so that escaped JSON stays JSON with the same value. A carriage
/// return in front of a line end is dropped: it shows nothing.
fn escape(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if !hidden(c) {
            safe.push(c);
        } else if c != '\r' || chars.peek() != Some(&'\n') {
            // Writing to a string does not fail. All of these characters have at most four hexadecimal digits.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        }
    }
    Cow::Owned(safe)
}

/// Writes a formatted line to standard output: `outln!("{name}: {size}")?`.
macro_rules! outln {
    ($($arg:tt)*) => { $crate::sink::out(&(format!($($arg)*) + "\n")) };
}

/// Writes a formatted line to standard error: `errln!("{name}: {size}")`.
macro_rules! errln {
    ($($arg:tt)*) => { $crate::sink::err_line(format_args!($($arg)*)) };
}

pub(crate) use {errln, outln};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_spelled_out() {
        assert_eq!(page("\u{1b}[2J\u{7}a\u{9b}31m\u{7f}"), r"\u001b[2J\u0007a\u009b31m\u007f");
        assert_eq!(page("\u{202e}txt.exe\u{2066}\u{61c}"), r"\u202etxt.exe\u2066\u061c");
        assert_eq!(page("two\nlines\tand a tab"), "two\nlines\tand a tab");
        assert_eq!(line("two\nlines\tand a tab"), "two\\u000alines\tand a tab");
        assert_eq!(page("over\rwritten, ended\r\n"), "over\\u000dwritten, ended\n");
        assert_eq!(page("Zoë 東京 👩‍🚀 שלום"), "Zoë 東京 👩‍🚀 שלום");
    }

    #[test]
    fn every_control_character_is_escaped_or_known() {
        for code in
            (0..0x20).chain(0x7f..0xa0).chain(0x2028..0x202f).chain(0x2066..0x206a).chain([0x61c, 0x200e, 0x200f])
        {
            let c = char::from_u32(code).unwrap();
            let text = c.to_string();
            assert_eq!(page(&text) == text, matches!(c, '\n' | '\t'), "{code:x}");
            assert_eq!(line(&text) == text, c == '\t', "{code:x}");
        }
    }

    #[test]
    fn lines_have_an_end() {
        let long = format!("begin {} end", "x".repeat(1 << 20));
        let short = shortened(&long);
        assert!(
            short.chars().count() < MAX_LINE && short.starts_with("begin x") && short.ends_with("x end"),
            "{short}"
        );
        assert!(short.contains("characters left out"));
        assert_eq!(shortened("as it is"), "as it is");
    }

    /// Escaped JSON is JSON with the same value.
    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ "text": "\u{1b}]0;x\u{7}\u{9d}\u{202e}\u{7f}\r\n", "\u{85}": 1 });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let safe = page(&text);
            assert!(!safe.contains(|c| c != '\n' && steers(c)));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }
}
