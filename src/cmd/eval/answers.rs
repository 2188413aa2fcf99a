//! The file of answers: a line of JSON for every conversation, written whole or not at all.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sink::errln;
use anyhow::{Context, bail};
use ocelli_files::{Inputs, Replace, Snapshot, WriteOptions};
use ocelli_runtime::eval::Conversation;
use serde::{Deserialize, Serialize};

/// Time between two states of the file on disk.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Bytes of a line, at most.
const MAX_LINE: u64 = 16 << 20;

/// What was answered in one conversation.
#[derive(Serialize)]
pub(super) struct Given<'g> {
    pub(super) id: &'g str,
    pub(super) task: &'g str,
    pub(super) answers: &'g [String],
    pub(super) scores: &'g [f64],
}

/// A line of an earlier file. Scores are computed anew.
#[derive(Deserialize)]
struct Earlier {
    id: String,
    answers: Vec<String>,
}

/// Collects answers for the file, if there is to be one.
pub(super) struct Answers {
    file: Option<Snapshot>,
    /// What an earlier run has and this one has not come to yet, by id: answers, and the line that holds them.
    earlier: BTreeMap<String, (Vec<String>, String)>,
    lines: String,
    saved: Instant,
}

impl Answers {
    /// For the file at `path`, whose answers are taken over where `resume` is set. Otherwise an existing file is replaced
    /// only where `overwrite` is set; `inputs` never are.
    pub(super) fn open(path: Option<&Path>, resume: bool, overwrite: bool, inputs: Inputs) -> anyhow::Result<Self> {
        let mut earlier = BTreeMap::new();
        let mut file = None;
        if let Some(path) = path {
            let options = WriteOptions::new(inputs, Replace::if_told(resume || overwrite));
            file = Some(Snapshot::open(path, options)?);
            if resume && path.exists() {
                earlier = read(path)?;
                errln!("going on with {}: {} conversations are answered", path.display(), earlier.len());
            }
        }
        Ok(Self { file, earlier, lines: String::new(), saved: Instant::now() })
    }

    /// The answers that an earlier run had from `conversation`.
    pub(super) fn known(&self, conversation: &Conversation) -> anyhow::Result<Option<Vec<String>>> {
        let Some((answers, _)) = self.earlier.get(&conversation.id) else { return Ok(None) };
        let turns = conversation.turns.len();
        if answers.len() != turns {
            bail!(
                "{}: the file of answers has {} for `{}`, which asks {turns} times; it belongs to other questions",
                conversation.place,
                answers.len(),
                conversation.id.escape_debug()
            );
        }
        Ok(Some(answers.clone()))
    }

    /// Adds the answers of one conversation.
    pub(super) fn add(&mut self, given: Given<'_>) {
        if self.file.is_some() {
            self.earlier.remove(given.id);
            // Texts and numbers always have a form in JSON, and writing to a string cannot fail.
            let _ = writeln!(self.lines, "{}", serde_json::to_value(given).unwrap_or_default());
        }
    }

    /// Brings the file up to date if that was not done for a while.
    pub(super) fn save_now_and_then(&mut self) -> anyhow::Result<()> {
        if self.saved.elapsed() >= SAVE_EVERY { self.save() } else { Ok(()) }
    }

    /// Brings the file up to date, keeping answers of an earlier run that did not come up in this one.
    pub(super) fn save(&mut self) -> anyhow::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut whole = self.lines.clone();
        for (_, line) in self.earlier.values() {
            // Writing to a string cannot fail.
            let _ = writeln!(whole, "{}", line.trim_end());
        }
        file.update(whole.as_bytes())?;
        self.saved = Instant::now();
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<BTreeMap<String, (Vec<String>, String)>> {
    let open = || format!("cannot read {}", path.display());
    let mut file = BufReader::new(std::fs::File::open(path).with_context(open)?);
    let mut earlier = BTreeMap::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).with_context(open)? == 0 {
            break;
        }
        let given: Earlier = serde_json::from_slice(&line)
            .with_context(|| format!("{}, line {number}: no answers of an evaluation", path.display()))?;
        earlier.insert(given.id, (given.answers, String::from_utf8_lossy(&line).into_owned()));
    }
    Ok(earlier)
}
