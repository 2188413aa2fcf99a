//! Lines of a conversation: an editor with history and completion on a terminal, plain lines otherwise.
//!
//! Lines are read on a thread of their own, one whenever one is wanted, so that a signal is heard while nobody types and
//! while a pipe is silent. What was typed or pasted ahead waits in the editor's buffer or in the terminal.

use std::borrow::Cow;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Editor, Helper};

use crate::sink::{self, errln};

/// Bytes of a line from a pipe, at most; no context holds so much text.
const MAX_LINE: usize = 16 << 20;

/// What came next.
#[derive(Debug)]
pub(crate) enum Next {
    /// A line.
    Line(String),
    /// A line that cannot be used, and why.
    Unusable(String),
    /// The end of the input.
    End,
    /// A signal that ends the program.
    Signal,
}

/// Where lines come from.
pub(crate) struct Input {
    /// Asks the reading thread for a line.
    want: Sender<()>,
    read: Receiver<anyhow::Result<Next>>,
    signal: Sender<anyhow::Result<Next>>,
    /// How the terminal was before the editor changed it; `None` for a pipe.
    terminal: Option<Termios>,
}

impl Input {
    /// `commands` are completed at the start of a line, and file names behind those that end with a blank.
    pub(crate) fn new(commands: &'static [&'static str]) -> anyhow::Result<Self> {
        let (want, wanted) = channel();
        let (signal, read) = channel();
        let found = signal.clone();
        let terminal = is_terminal().then(|| tcgetattr(std::io::stdin())).transpose();
        let terminal = terminal.context("cannot use the terminal")?;
        let is_terminal = terminal.is_some();
        let work = move || {
            let mut source = match Source::new(is_terminal, commands) {
                Ok(source) => source,
                Err(error) => return drop(found.send(Err(error))),
            };
            while wanted.recv().is_ok() && found.send(source.next()).is_ok() {}
        };
        std::thread::Builder::new().name("input".to_owned()).spawn(work).context("cannot read lines")?;
        Ok(Self { want, read, signal, terminal })
    }

    /// Tells the conversation about signals; for [`crate::signals::watch`].
    pub(crate) fn on_signal(&self) -> impl Fn() + Send + Sync + 'static {
        let signal = self.signal.clone();
        // Once nobody reads lines any more, nobody needs to be told.
        move || drop(signal.send(Ok(Next::Signal)))
    }

    /// Whether a person types the lines.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// The next line; waits for it or for a signal.
    pub(crate) fn next(&mut self) -> anyhow::Result<Next> {
        if self.is_terminal() {
            // The editor writes by itself; what was answered must be out before.
            let _ = std::io::Write::flush(&mut std::io::stdout());
        }
        if crate::signals::ending() || self.want.send(()).is_err() {
            return Ok(Next::Signal);
        }
        let next = self.read.recv().context("cannot read lines")?;
        if let (Ok(Next::Signal), Some(terminal)) = (&next, &self.terminal) {
            // The editor is still waiting for a key. A terminal that is gone needs nothing.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, terminal);
            if sink::out_is_terminal() {
                let _ = sink::drawing("\x1b[?2004l\n");
            }
        }
        next
    }
}

/// Whether a person types the lines.
fn is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// What the reading thread reads from.
enum Source {
    /// A person at a terminal.
    Editor(Box<Editor<Commands, DefaultHistory>>),
    /// A program or a file; whether its first line is still to come.
    Pipe { first: bool },
}

impl Source {
    fn new(is_terminal: bool, commands: &'static [&'static str]) -> anyhow::Result<Self> {
        if !is_terminal {
            return Ok(Self::Pipe { first: true });
        }
        errln!("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves");
        let mut editor = Editor::new().context("cannot use the terminal")?;
        editor.set_helper(Some(Commands { commands, files: FilenameCompleter::new() }));
        Ok(Self::Editor(Box::new(editor)))
    }

    fn next(&mut self) -> anyhow::Result<Next> {
        let editor = match self {
            Self::Editor(editor) => editor,
            Self::Pipe { first } => {
                return read_pipe(&mut std::io::stdin().lock(), std::mem::take(first))
                    .context("cannot read standard input");
            }
        };
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        editor.add_history_entry(line.as_str()).context("cannot keep the line")?;
                    }
                    return Ok(Next::Line(line));
                }
                // Ctrl-C at the prompt drops the line and nothing else.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(Next::End),
                Err(error) => return Err(error).context("cannot read the terminal"),
            }
        }
    }
}

/// One line of a pipe or file, without its end. What cannot be used is read to its end all the same, so that the next line
/// is the next one.
fn read_pipe(pipe: &mut impl BufRead, first: bool) -> std::io::Result<Next> {
    let (mut line, mut len) = (Vec::new(), 0usize);
    loop {
        let read = match pipe.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let end = read.iter().position(|b| *b == b'\n');
        let n = end.map_or(read.len(), |at| at + 1);
        if n == 0 && len == 0 {
            return Ok(Next::End);
        }
        len = len.saturating_add(n);
        if len <= MAX_LINE {
            line.extend_from_slice(&read[..n]);
        }
        pipe.consume(n);
        if end.is_some() || n == 0 {
            break;
        }
    }
    if len > MAX_LINE {
        return Ok(Next::Unusable(format!("a line of {len} bytes is too long; {} MiB are allowed", MAX_LINE >> 20)));
    }
    // Some editors put a mark in front of the first line of a file.
    let text = line.strip_prefix("\u{feff}".as_bytes()).filter(|_| first).unwrap_or(&line);
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    Ok(match std::str::from_utf8(text) {
        Err(error) => {
            let at = error.valid_up_to();
            Next::Unusable(format!("a line is not UTF-8 text (byte {at} of it); convert the input to UTF-8"))
        }
        Ok(text) if text.contains('\0') => {
            Next::Unusable("a line holds a NUL byte, which no text does; convert the input to UTF-8".to_owned())
        }
        Ok(text) => Next::Line(text.to_owned()),
    })
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
            // Names of files are shown before anybody chose one, and written as they are when one is chosen.
            files.retain(|file| sink::line(&file.replacement) == file.replacement.as_str());
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
impl Highlighter for Commands {
    /// What was pasted is shown without what could steer the terminal. The line itself keeps it.
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        if line.contains(sink::steers_page) {
            Cow::Owned(line.replace(sink::steers_page, ""))
        } else {
            Cow::Borrowed(line)
        }
    }

    fn highlight_char(&self, line: &str, _: usize, _: CmdKind) -> bool {
        line.contains(sink::steers_page)
    }
}
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

    /// All lines of `bytes`, read in pieces of three bytes.
    fn lines(bytes: &[u8]) -> Vec<Result<String, String>> {
        let mut pipe = std::io::BufReader::with_capacity(3, bytes);
        let mut all = Vec::new();
        loop {
            match read_pipe(&mut pipe, all.is_empty()).unwrap() {
                Next::Line(line) => all.push(Ok(line)),
                Next::Unusable(why) => all.push(Err(why)),
                Next::End | Next::Signal => return all,
            }
        }
    }

    #[test]
    fn lines_of_any_system_and_any_bytes_are_read() {
        let plain: Vec<_> = ["one", "", "two", "three\rfour", "last"].map(|l| Ok(l.to_owned())).into();
        assert_eq!(lines(b"one\r\n\r\ntwo\nthree\rfour\nlast"), plain);
        assert_eq!(lines("\u{feff}a\n\u{feff}b\n".as_bytes()), [Ok("a".to_owned()), Ok("\u{feff}b".to_owned())]);
        let found = lines(b"good\nca\xff\n\0x\n\xe2\x82\nagain\n");
        assert_eq!((&found[0], &found[4], found.len()), (&Ok("good".to_owned()), &Ok("again".to_owned()), 5));
        assert!(found[1].as_ref().is_err_and(|why| why.contains("byte 2")), "{found:?}");
        assert!(found[2].as_ref().is_err_and(|why| why.contains("NUL")), "{found:?}");
        let long = [&vec![b'x'; MAX_LINE][..], b"\nshort"].concat();
        let found = lines(&long);
        assert!(found[0].as_ref().is_err_and(|why| why.contains("too long")), "{:?}", found.len());
        assert_eq!(found[1..], [Ok("short".to_owned())]);
        assert!(lines(b"").is_empty());
    }
}
