//! Command lines as llama.cpp's users type them, in the form that the argument parser understands.
//!
//! Three things are done before the parser sees a line. Options of several letters behind one dash (`-ctk`), which it would
//! read as bundles of one-letter options, become what they stand for. What llama.cpp has and this program does without is
//! passed over with a note, and what it cannot do is refused with a remedy. And the value of an option is never taken for an
//! option: `-p -sys` prompts "-sys". Which options take a value is asked of the parser itself, so the two cannot disagree.

mod table;

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;

use clap::{Arg, Command};

use table::{Meaning, Row, TABLE, Values};

/// A line that the parser understands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Spelled {
    /// The arguments.
    pub(crate) args: Vec<OsString>,
    /// Options that were passed over, as they were typed.
    pub(crate) without_effect: Vec<String>,
}

/// Respells `args`, the first of which is the program's name, for the parser `root`, which must have been built.
///
/// # Errors
/// One sentence about an option that is not one, or cannot be had here.
pub(crate) fn spell(args: impl Iterator<Item = OsString>, root: &Command) -> Result<Spelled, String> {
    let mut line =
        Line { rest: args.peekable(), command: root, path: root.get_name().to_owned(), done: Spelled::default() };
    line.done.args.extend(line.rest.next());
    let mut positional = false;
    while let Some(arg) = line.rest.next() {
        if arg == "--" {
            line.done.args.push(arg);
            break;
        }
        let Some(text) = arg.to_str().filter(|text| text.len() > 1 && text.starts_with('-')) else {
            match line.command.find_subcommand(&arg) {
                Some(command) if !positional => {
                    line.path = format!("{} {}", line.path, command.get_name());
                    line.command = command;
                }
                _ => positional = true,
            }
            line.done.args.push(arg);
            continue;
        };
        if text.starts_with("--") { line.long(&arg, text)? } else { line.short(&arg, text)? }
    }
    line.done.args.extend(line.rest);
    Ok(line.done)
}

/// A line that is being read.
struct Line<'c, I: Iterator<Item = OsString>> {
    rest: Peekable<I>,
    /// The command whose options come.
    command: &'c Command,
    /// Its name as it is typed.
    path: String,
    done: Spelled,
}

impl<I: Iterator<Item = OsString>> Line<'_, I> {
    /// `--name` or `--name=value`.
    fn long(&mut self, arg: &OsStr, text: &str) -> Result<(), String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match (has_long(self.command, name), row(name)) {
            (Some(known), _) if value.is_none() => self.with_values(name, known),
            (None, Some(row)) => return self.row(row, name, value.map(OsString::from)),
            _ => self.done.args.push(arg.to_owned()),
        }
        Ok(())
    }

    /// What begins with one dash.
    fn short(&mut self, arg: &OsStr, text: &str) -> Result<(), String> {
        let mut letters = text[1..].chars();
        let own = letters.next().and_then(|letter| has_short(self.command, letter));
        let attached = letters.as_str();
        if let (Some(own), "") = (own, attached) {
            self.with_values(text, own);
            return Ok(());
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        if let Some(row) = row(name) {
            return self.row(row, name, value.map(OsString::from));
        }
        if own.is_some_and(takes_value) && could_be_value(attached) {
            self.done.args.push(arg.to_owned());
            return Ok(());
        }
        // `-ub512`
        let split = text.char_indices().skip(2).map(|(at, _)| text.split_at(at));
        let mut split =
            split.filter(|(_, value)| is_number(value)).filter_map(|(name, value)| Some((name, row(name)?, value)));
        match split.find(|(_, row, _)| row.values != Values::None) {
            Some((name, row, value)) => self.row(row, name, Some(value.into())),
            None => Err(self.unknown(text)),
        }
    }

    fn unknown(&self, name: &str) -> String {
        format!("`{}` is not an option of `{}`; `--help` lists the options", name.escape_debug(), self.path)
    }

    /// An option of the command, and what it takes.
    fn with_values(&mut self, name: &str, arg: &Arg) {
        let values = if takes_value(arg) { arg.get_num_args().map_or(1, |n| n.min_values()) } else { 0 };
        if values != 1 {
            // Of several, the parser tells values from options itself; the only such option takes names of files.
            self.done.args.push(name.into());
            self.done.args.extend(self.rest.by_ref().take(values));
            return;
        }
        match self.rest.next() {
            Some(value) => self.push(name, value),
            None => self.done.args.push(name.into()),
        }
    }

    /// The option `name` with a value that is one, whatever it looks like.
    fn push(&mut self, name: &str, value: OsString) {
        let mut whole = OsString::from(name);
        if value != "-" && value.as_encoded_bytes().starts_with(b"-") {
            whole.push("=");
            whole.push(value);
            self.done.args.push(whole);
        } else {
            self.done.args.extend([whole, value]);
        }
    }

    /// An option of the table.
    fn row(&mut self, row: &Row, name: &str, attached: Option<OsString>) -> Result<(), String> {
        let runs = runs_models(self.command);
        match row.meaning {
            Meaning::Refused(remedy) if runs => return Err(format!("{name}: {remedy}")),
            Meaning::SameOrNoEffect(long) if has_long(self.command, long).is_none() && runs => {}
            Meaning::NoEffect | Meaning::Chooses(_) if runs => {}
            Meaning::Same(long, _) | Meaning::SameOrNoEffect(long) => {
                let remedy = if let Meaning::Same(_, remedy) = row.meaning { remedy } else { "" };
                let Some(known) = has_long(self.command, long) else {
                    let told = runs && !remedy.is_empty();
                    return Err(if told { format!("{name}: {remedy}") } else { self.unknown(name) });
                };
                match attached {
                    Some(value) => self.push(long, value),
                    None => self.with_values(long, known),
                }
                return Ok(());
            }
            _ => return Err(self.unknown(name)),
        }
        let value = match (attached, row.values) {
            (Some(value), _) => Some(value),
            (None, Values::None) => None,
            (None, Values::One) => Some(self.rest.next().ok_or_else(|| format!("{name} needs a value"))?),
            (None, Values::Maybe(words)) => self.next_of(words),
        };
        match row.meaning {
            Meaning::Chooses(all) => {
                let Some(value) = value else { return Ok(()) };
                let known = || all.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
                let Some((_, flag)) = all.iter().find(|(word, _)| value == *word) else {
                    return Err(format!(
                        "{name}: `{}` is unknown; known are {}",
                        value.to_string_lossy().escape_debug(),
                        known()
                    ));
                };
                match *flag {
                    "" => {}
                    flag if has_long(self.command, flag).is_some() => self.done.args.push(flag.into()),
                    flag => return Err(format!("{name} {}: `{}` has no {flag}", value.to_string_lossy(), self.path)),
                }
            }
            _ if self.done.without_effect.iter().all(|seen| seen != name) => {
                self.done.without_effect.push(name.to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// The next argument if it is one of `words`.
    fn next_of(&mut self, words: &[&str]) -> Option<OsString> {
        self.rest.next_if(|next| words.iter().any(|word| next == word))
    }
}

/// The row with that name.
fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

/// Options for running a model are those of the commands that can say how precisely.
fn runs_models(command: &Command) -> bool {
    has_long(command, "--precision").is_some()
}

fn has_long<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    let name = name.strip_prefix("--")?;
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    })
}

fn has_short(command: &Command, letter: char) -> Option<&Arg> {
    command.get_arguments().find(|arg| {
        arg.get_short() == Some(letter) || arg.get_all_short_aliases().is_some_and(|all| all.contains(&letter))
    })
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether what follows a letter is meant as its value: `-t4`, `-n-1`, `-m./x.gguf`, `-p=x`. Words are not: they are
/// rather the rest of an option's name.
fn could_be_value(text: &str) -> bool {
    is_number(text) || text.starts_with(['=', '.', '~']) || text.contains(['/', '\\', '.'])
}

#[cfg(test)]
mod tests;
