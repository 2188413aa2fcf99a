//! Lines of a conversation: an editor with history and completion on a terminal, plain lines otherwise.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use crate::sink::{self, errln};
use anyhow::Context as _;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Editor, Helper};

/// Where lines come from.
pub(crate) enum Input {
    /// A person at a terminal.
    Editor(Box<Editor<Commands, DefaultHistory>>),
    /// A program or a file.
    Pipe,
}

impl Input {
    /// `commands` are completed at the start of a line, and file names behind those that end with a blank.
    pub(crate) fn new(commands: &'static [&'static str]) -> anyhow::Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        errln!("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves");
        let mut editor = Editor::new().context("cannot use the terminal")?;
        editor.set_helper(Some(Commands { commands, files: FilenameCompleter::new() }));
        Ok(Self::Editor(Box::new(editor)))
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<String>> {
        let editor = match self {
            Self::Editor(editor) => editor,
            Self::Pipe => return read_pipe(),
        };
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        editor.add_history_entry(line.as_str()).context("cannot keep the line")?;
                    }
                    return Ok(Some(line));
                }
                // Ctrl-C at the prompt drops the line and nothing else.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error).context("cannot read the terminal"),
            }
        }
    }
}

fn read_pipe() -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    if std::io::stdin().lock().read_until(b'\n', &mut line).context("cannot read standard input")? == 0 {
        return Ok(None);
    }
    let line = String::from_utf8(line).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("standard input is not UTF-8 text (byte {at} of a line); convert it to UTF-8")
    })?;
    Ok(Some(line))
}

/// Completes commands and the files they take.
pub(crate) struct Commands {
    commands: &'static [&'static str],
    files: FilenameCompleter,
}

impl Commands {
    /// Whether a file name is being written at the end of `line`.
    fn wants_file(&self, line: &str) -> bool {
        self.commands.iter().any(|c| c.ends_with(' ') && line.starts_with(c))
    }
}

impl Completer for Commands {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Self::Candidate>)> {
        let start = line.get(..pos).unwrap_or(line);
        if self.wants_file(start) {
            let (from, mut files) = self.files.complete_path(start, pos)?;
            // Names of files are shown before anybody chose one.
            files.iter_mut().for_each(|file| file.display = sink::line(&file.display).into_owned());
            return Ok((from, files));
        }
        let fitting = self.commands.iter().filter(|c| start.starts_with('/') && c.starts_with(start));
        Ok((0, fitting.map(|c| Pair { display: (*c).to_owned(), replacement: (*c).to_owned() }).collect()))
    }
}

impl Hinter for Commands {
    type Hint = String;
}
impl Highlighter for Commands {}
impl Validator for Commands {}
impl Helper for Commands {}

/// The paths in what follows a command: separated by blanks, which quotes or a backslash keep; `~` is the home folder.
/// A text that names an existing file as it stands is that one path, blanks and all.
///
/// # Errors
/// When a quote is not closed, or there is no path.
pub(crate) fn paths(text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let whole = with_home(text);
    if !text.is_empty() && whole.exists() {
        return Ok(vec![whole]);
    }
    let mut paths = Vec::new();
    let (mut word, mut quote, mut open) = (String::new(), None, false);
    // A tilde that was quoted or escaped is a file name.
    let mut plain = true;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('"' | '\'', None) => {
                plain &= open;
                (quote, open) = (Some(c), true);
            }
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => {
                plain &= open;
                word.extend(chars.next());
                open = true;
            }
            (c, None) if c.is_whitespace() => {
                if open {
                    paths.push(path(&word, plain));
                }
                word.clear();
                (open, plain) = (false, true);
            }
            (c, _) => {
                word.push(c);
                open = true;
            }
        }
    }
    if let Some(quote) = quote {
        anyhow::bail!("a {quote} is not closed");
    }
    if open {
        paths.push(path(&word, plain));
    }
    if paths.is_empty() {
        anyhow::bail!("give a file name");
    }
    Ok(paths)
}

fn path(word: &str, plain: bool) -> PathBuf {
    if plain { with_home(word) } else { PathBuf::from(word) }
}

fn with_home(word: &str) -> PathBuf {
    let rest = if word == "~" { Some("") } else { word.strip_prefix("~/") };
    match (rest, std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        paths(text).unwrap().into_iter().map(|p| p.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn paths_are_cut_at_blanks_outside_quotes() {
        assert_eq!(words("a.png  b.png"), ["a.png", "b.png"]);
        assert_eq!(words(r#""my cat.png" 'it is "big".jpg' a\ b.gif"#), ["my cat.png", "it is \"big\".jpg", "a b.gif"]);
        assert_eq!(words(r#"pre"fix ed".png"#), ["prefix ed.png"]);
        assert!(paths("").is_err() && paths("  ").is_err());
        assert!(paths("\"open").unwrap_err().to_string().contains("not closed"));
    }

    #[test]
    fn a_tilde_is_the_home_folder() {
        let home = std::env::home_dir().unwrap();
        assert_eq!(paths("~/x.png y~.png").unwrap(), [home.join("x.png"), PathBuf::from("y~.png")]);
        assert_eq!(words("'~/x.png'"), ["~/x.png"]);
    }

    #[test]
    fn an_existing_file_with_blanks_needs_no_quotes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a b.png");
        std::fs::write(&file, b"x").unwrap();
        assert_eq!(paths(file.to_str().unwrap()).unwrap(), [file]);
    }

    #[test]
    fn commands_and_files_are_completed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("picture.png"), b"x").unwrap();
        let commands = Commands { commands: &["/clear", "/image ", "/help"], files: FilenameCompleter::new() };
        let history = DefaultHistory::new();
        let context = rustyline::Context::new(&history);
        let complete = |line: &str| -> Vec<String> {
            let (_, found) = commands.complete(line, line.len(), &context).unwrap();
            found.into_iter().map(|p| p.replacement).collect()
        };
        assert_eq!(complete("/im"), ["/image "]);
        assert_eq!(complete("/"), ["/clear", "/image ", "/help"]);
        assert_eq!(complete("hello"), [""; 0]);
        let start = format!("/image {}/pic", dir.path().display());
        assert_eq!(complete(&start).len(), 1);
        assert!(complete(&start)[0].ends_with("picture.png"));
    }
}
