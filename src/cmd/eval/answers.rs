//! The file of answers: a line of JSON for every conversation, added as soon as it is answered.
//!
//! Each line says what made it: a digest of the question and its pictures (`question`), and the model, the vision file and
//! the options (`run`). Only answers that this run would give as well are taken over from an earlier one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ocelli_eval::questions::Conversation;
use ocelli_files::{FileError, Inputs, Log, Replace, WriteOptions, write_file};
use serde_json::{Value, json};

use super::settings::Settings;
use crate::sink::errln;

/// Time between two moments at which everything is on the disk.
const SYNC_EVERY: Duration = Duration::from_secs(30);

/// Bytes of a line, at most.
const MAX_LINE: u64 = 16 << 20;

/// How every line begins.
const START: &[u8] = b"{\"id\":";

/// What becomes of a file that holds answers already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It is not touched; another name must be given.
    Refused,
    /// Its answers are taken over.
    Resumed,
    /// It is replaced.
    Replaced,
}

/// What was answered in one conversation.
pub(super) struct Given<'g> {
    pub(super) conversation: &'g Conversation,
    pub(super) task: &'g str,
    pub(super) answers: &'g [String],
    pub(super) scores: &'g [f64],
}

/// Collects answers for the file, if there is to be one.
pub(super) struct Answers {
    path: Option<PathBuf>,
    existing: Existing,
    /// All lines of the file.
    rows: Vec<Value>,
    /// Which of them has the answers to a conversation, by its id.
    by_id: HashMap<String, usize>,
    /// Bytes of the file up to the end of its last whole line, and whether a line feed is missing there.
    whole: u64,
    unended: bool,
    file: Option<Log>,
    inputs: Inputs,
    synced: Instant,
    /// Whether scores in the file are not those of this run, which may expect other answers.
    rescored: bool,
}

impl Answers {
    /// For the file at `path`. Nothing is written yet.
    pub(super) fn open(path: Option<&Path>, existing: Existing, inputs: Inputs) -> anyhow::Result<Self> {
        let mut answers = Self {
            path: path.map(Path::to_owned),
            existing,
            rows: Vec::new(),
            by_id: HashMap::new(),
            whole: 0,
            unended: false,
            file: None,
            inputs,
            synced: Instant::now(),
            rescored: false,
        };
        let Some(path) = path else { return Ok(answers) };
        match Log::check(path, &answers.options()) {
            Err(FileError::Exists { .. }) => {
                bail!("{} exists already: --resume goes on with its answers, --overwrite replaces them", path.display())
            }
            checked => checked?,
        }
        let Ok(meta) = path.metadata() else { return Ok(answers) };
        match existing {
            Existing::Resumed if !meta.is_file() => bail!("{} is not a regular file to --resume", path.display()),
            Existing::Resumed => answers.read(path)?,
            Existing::Refused | Existing::Replaced => {}
        }
        Ok(answers)
    }

    fn options(&self) -> WriteOptions {
        WriteOptions::new(self.inputs.clone(), Replace::if_told(self.existing != Existing::Refused))
    }

    fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        let open = || format!("cannot read {}", path.display());
        let mut file = BufReader::new(File::open(path).with_context(open)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).with_context(open)? == 0 {
                break;
            }
            let row = match serde_json::from_slice::<Value>(&line) {
                Ok(row) => row,
                Err(_) if self.is_cut_off(&line) => {
                    errln!(
                        "ocelli: warning: {}, line {number} is cut off: the program was ended while writing it; its \
                         conversation is asked again",
                        path.display()
                    );
                    break;
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{}, line {number}: no answers of an evaluation", path.display()));
                }
            };
            let Some(id) = row.get("id").and_then(Value::as_str).filter(|_| answers_of(&row).is_some()) else {
                bail!("{}, line {number}: no answers of an evaluation", path.display());
            };
            self.by_id.insert(id.to_owned(), self.rows.len());
            self.rows.push(row);
            self.whole += line.len() as u64;
            self.unended = !line.ends_with(b"\n");
        }
        errln!("going on with {}: {} conversations are answered", path.display(), self.by_id.len());
        Ok(())
    }

    /// Whether `line`, the last one, is the beginning of one that was being written. A foreign file is none.
    fn is_cut_off(&self, line: &[u8]) -> bool {
        let begins = line.starts_with(START) || START.starts_with(line);
        // Some file systems leave zeros where the machine lost its power.
        let zeros = !self.rows.is_empty() && line.iter().all(|byte| *byte == 0);
        !line.ends_with(b"\n") && (begins || zeros)
    }

    /// Whether the file has pictures' answers, for which the vision file matters.
    pub(super) fn has_pictures(&self) -> bool {
        self.rows.iter().any(|row| row.pointer("/run/vision").is_some_and(|vision| !vision.is_null()))
    }

    /// Refuses a file that another model, vision file or other options made.
    pub(super) fn check_settings(&self, settings: &Settings) -> anyhow::Result<()> {
        for (row, number) in self.rows.iter().zip(1..) {
            let made_by = row.get("run").filter(|_| row.get("question").is_some_and(Value::is_string));
            let problem = match made_by {
                None => "does not say which model and options made it".to_owned(),
                Some(made_by) => match settings.difference(made_by) {
                    None => continue,
                    Some(difference) => difference,
                },
            };
            bail!(
                "{}, line {number} {problem}; resume it as it was made, or give another file for --answers",
                self.path.as_deref().unwrap_or(Path::new("")).display()
            );
        }
        Ok(())
    }

    /// Refuses a file whose answer to `conversation` is one to another question.
    pub(super) fn check_question(&self, conversation: &Conversation) -> anyhow::Result<()> {
        let Some(row) = self.row(conversation) else { return Ok(()) };
        let same = row.get("question").and_then(Value::as_str) == Some(digest(conversation)?.as_str());
        let turns = answers_of(row).map_or(0, |answers| answers.len());
        if !same || turns != conversation.turns.len() {
            bail!(
                "{}: the answers in {} for `{}` are to another question: its text or a picture has changed; give another \
                 file for --answers",
                conversation.place,
                self.path.as_deref().unwrap_or(Path::new("")).display(),
                conversation.id
            );
        }
        Ok(())
    }

    /// Whether nothing was answered before.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn row(&self, conversation: &Conversation) -> Option<&Value> {
        self.rows.get(*self.by_id.get(&conversation.id)?)
    }

    /// The answers that an earlier run had from `conversation`.
    pub(super) fn known(&self, conversation: &Conversation) -> Option<Vec<String>> {
        answers_of(self.row(conversation)?)
    }

    /// Opens the file for writing; what is not to stay in it goes.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut file = Log::open(path, &self.options(), self.whole)?;
        if self.unended {
            file.append(b"\n")?;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Adds the answers of one conversation, or brings their scores up to date where the file has them.
    pub(super) fn add(&mut self, given: &Given<'_>, settings: &Settings) -> anyhow::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Some(row) = self.by_id.get(&given.conversation.id).and_then(|at| self.rows.get_mut(*at)) {
            let scores = json!(given.scores);
            if row.get("scores") != Some(&scores) {
                row["scores"] = scores;
                self.rescored = true;
            }
            return Ok(());
        }
        let row = json!({
            "id": given.conversation.id,
            "task": given.task,
            "answers": given.answers,
            "scores": given.scores,
            "question": digest(given.conversation)?,
            "run": settings.of(given.conversation),
        });
        file.append(format!("{row}\n").as_bytes())?;
        self.by_id.insert(given.conversation.id.clone(), self.rows.len());
        self.rows.push(row);
        if self.synced.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        if let Some(file) = &mut self.file {
            file.sync()?;
        }
        self.synced = Instant::now();
        Ok(())
    }

    /// Leaves the file complete, with the scores of this run.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        match &self.path {
            Some(path) if self.rescored => {
                let lines: String = self.rows.iter().map(|row| format!("{row}\n")).collect();
                Ok(write_file(path, lines.as_bytes(), &WriteOptions::new(self.inputs.clone(), Replace::Always))?)
            }
            _ => self.sync(),
        }
    }
}

/// The answers in a line of the file.
fn answers_of(row: &Value) -> Option<Vec<String>> {
    row.get("answers")?.as_array()?.iter().map(|answer| Some(answer.as_str()?.to_owned())).collect()
}

fn digest(conversation: &Conversation) -> anyhow::Result<String> {
    let digest = conversation.digest().with_context(|| conversation.place.clone())?;
    Ok(super::settings::hex(&digest))
}
