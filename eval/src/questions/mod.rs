//! Judging a model by its answers: questions about pictures, expected answers, rules that score, and the sums.
//!
//! ```text
//! file ──Dataset──> items (one question, or several that count as one) ──> Conversation: pictures and turns
//!                                                                              │ converse: greedy, turn by turn
//! Tally <── score <── Turn::score(answer) <────────────────────────────────────┘
//! ```
//!
//! Two formats are read: conversations as lines of JSON ([`Dataset::open`] on `*.jsonl`), and the tab-separated tables
//! of VLMEvalKit (`*.tsv`), which hold pictures as base64 and are scored by the [`Rules`] of their benchmark. Tables are
//! gone through once when they are opened, to check every row and remember where it is; afterwards one row at a time is
//! in memory.

mod ask;
mod choice;
mod error;
mod jsonl;
mod list;
mod rules;
mod score;
mod tally;
mod tsv;
mod vqa;

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use ask::{content, converse, greedy};
pub use error::EvalError;
pub use rules::{PromptStyle, Rules};
pub use score::Metric;
use sha2::{Digest, Sha256};
pub use tally::{Count, Tally};

/// A picture of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// A file.
    File(PathBuf),
    /// The bytes of a picture file.
    Bytes(Vec<u8>),
}

/// One question and what answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Said before the pictures; empty in most prompts, and in every turn but the first.
    pub before: String,
    /// Said behind the pictures.
    pub question: String,
    /// Expected answers: any of them is right, or as the metric says. For multiple choice, a letter.
    pub answers: Vec<String>,
    /// How an answer is scored.
    pub metric: Metric,
    /// The letters and texts to choose from.
    pub options: Vec<(char, String)>,
    /// Whether only what follows the last `Answer:` is scored: for prompts that ask for steps first.
    pub after_steps: bool,
}

impl Turn {
    /// The score of `answer`, from 0 to 1.
    #[must_use]
    pub fn score(&self, answer: &str) -> f64 {
        let answer = match answer.rsplit_once("Answer:") {
            Some((_, last)) if self.after_steps => last,
            _ => answer,
        };
        score::score(self.metric, answer.trim(), &self.answers, &self.options)
    }
}

/// Pictures and the questions asked about them, one after the other in one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its name in the file.
    pub id: String,
    /// Where it stands: `data.jsonl, line 3`.
    pub place: String,
    /// Shown with the first question.
    pub pictures: Vec<Picture>,
    /// Whether the pictures are the frames of a video, shown without numbers and tiles.
    pub is_video: bool,
    /// Asked in order, each behind the model's own answers to those before.
    pub turns: Vec<Turn>,
}

impl Conversation {
    /// A digest of what is asked: pictures, their order and kind, and the words of every turn. What is expected as an answer
    /// is not part of it.
    ///
    /// # Errors
    /// When a picture cannot be read.
    pub fn digest(&self) -> Result<[u8; 32], EvalError> {
        // Lengths go first, so that no two lists of texts look alike.
        let mut whole = Sha256::new();
        let mut part = |bytes: &[u8]| {
            whole.update((bytes.len() as u64).to_le_bytes());
            whole.update(bytes);
        };
        part(if self.is_video { b"video" } else { b"images" });
        part(&(self.pictures.len() as u64).to_le_bytes());
        for picture in &self.pictures {
            match picture {
                Picture::Bytes(bytes) => part(&Sha256::digest(bytes)),
                Picture::File(path) => {
                    let open = |source| EvalError::Open { path: path.clone(), source };
                    let mut file = std::fs::File::open(path).map_err(open)?;
                    let mut digest = Sha256::new();
                    let mut buffer = vec![0u8; 1 << 16];
                    loop {
                        match file.read(&mut buffer) {
                            Ok(0) => break,
                            Ok(n) => digest.update(&buffer[..n]),
                            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                            Err(e) => return Err(open(e)),
                        }
                    }
                    part(&digest.finalize());
                }
            }
        }
        for turn in &self.turns {
            part(turn.before.as_bytes());
            part(turn.question.as_bytes());
        }
        Ok(whole.finalize().into())
    }
}

/// What counts together: one conversation, or the rotations of a multiple-choice question, which is right only if all
/// of them are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The line of the report that it belongs to.
    pub task: String,
    /// A second way to sort it, where the file has one.
    pub group: Option<String>,
    /// Numbers of its conversations in the file, from 0.
    rows: Vec<usize>,
}

impl Item {
    /// Conversations in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no conversation, which no file leads to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Numbers of its conversations in the file, for [`Dataset::conversation`].
    #[must_use]
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Whether its conversations are rotations of one question.
    #[must_use]
    pub fn is_circular(&self) -> bool {
        self.rows.len() > 1
    }
}

/// A file of questions, open and checked.
#[derive(Debug)]
pub struct Dataset {
    source: Source,
    items: Vec<Item>,
    rules: Option<Rules>,
}

#[derive(Debug)]
enum Source {
    Jsonl(Vec<Conversation>),
    Tsv(Box<tsv::Table>),
}

impl Dataset {
    /// Opens `path` and checks all of it but its pictures' contents. The rules of a table are `rules`, or found by the
    /// file's name; its prompts are worded as `style` says.
    ///
    /// # Errors
    /// When the file cannot be read, is of no known format, or anything in it is wrong; the message names the line.
    pub fn open(path: &Path, rules: Option<Rules>, style: PromptStyle) -> Result<Self, EvalError> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match ending.as_str() {
            "jsonl" | "ndjson" => {
                if rules.is_some() {
                    return Err(EvalError::Option {
                        option: "--rules",
                        problem: "is for tables; lines of JSON say themselves how they are scored (`score`)".to_owned(),
                    });
                }
                let (conversations, items) = jsonl::read(path)?;
                Ok(Self { source: Source::Jsonl(conversations), items, rules: None })
            }
            "tsv" => {
                let rules = match rules {
                    Some(rules) => rules,
                    None => Rules::of_file(path)?,
                };
                let (table, items) = tsv::Table::open(path, rules, style)?;
                Ok(Self { source: Source::Tsv(Box::new(table)), items, rules: Some(rules) })
            }
            _ => Err(EvalError::Format { path: path.to_owned() }),
        }
    }

    /// Everything in the file, in its order.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The rules of a table; lines of JSON have their own.
    #[must_use]
    pub fn rules(&self) -> Option<Rules> {
        self.rules
    }

    /// At most `limit` items of each of `tasks`, of all tasks if there are none.
    ///
    /// # Errors
    /// When a task is not in the file.
    pub fn select(&self, tasks: &[String], limit: Option<usize>) -> Result<Vec<Item>, EvalError> {
        let mut taken: HashMap<&str, usize> = HashMap::new();
        let mut known: Vec<&str> = Vec::new();
        for item in &self.items {
            taken.entry(&item.task).or_insert_with(|| {
                known.push(&item.task);
                0
            });
        }
        if let Some(unknown) = tasks.iter().find(|task| !taken.contains_key(task.as_str())) {
            let known = known.into_iter().map(|task| task.escape_debug().to_string()).collect();
            return Err(EvalError::Task { task: unknown.clone(), known });
        }
        let mut chosen = Vec::new();
        for item in self.items.iter().filter(|item| tasks.is_empty() || tasks.contains(&item.task)) {
            let n = taken.entry(&item.task).or_default();
            if limit.is_none_or(|limit| *n < limit) {
                *n += 1;
                chosen.push(item.clone());
            }
        }
        Ok(chosen)
    }

    /// The conversation of one of an item's rows.
    ///
    /// # Errors
    /// When the file has changed or cannot be read any more.
    pub fn conversation(&mut self, row: usize) -> Result<Conversation, EvalError> {
        match &mut self.source {
            Source::Jsonl(all) => all.get(row).cloned().ok_or(EvalError::Row { row }),
            Source::Tsv(table) => table.conversation(row),
        }
    }
}

/// `name` below `folder`, if it is a relative path that cannot lead out of it.
fn inside(folder: &Path, name: &str) -> Result<PathBuf, String> {
    use std::path::Component;
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    let path = Path::new(name);
    if name.is_empty() || name.contains('\0') {
        return Err(format!("the picture `{}` has no name of a file", name.escape_debug()));
    }
    if !path.components().all(plain) {
        return Err(format!(
            "the picture `{}` lies outside the file's own folder; name pictures by paths relative to it, without `..`",
            name.escape_debug()
        ));
    }
    let path = folder.join(path);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("the picture {} does not exist; put it there, or correct the name", path.display()))
    }
}

/// The folder that pictures are named relative to.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
