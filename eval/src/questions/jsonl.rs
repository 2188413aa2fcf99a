//! Conversations as lines of JSON.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use super::{Conversation, EvalError, Item, Metric, Picture, Turn, folder_of, inside};

/// Bytes of a line, at most. A conversation names its pictures and does not hold them.
const MAX_LINE: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    task: String,
    images: Option<Vec<String>>,
    video: Option<Vec<String>>,
    turns: Vec<Asked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    question: String,
    answers: Vec<String>,
    #[serde(default = "exact")]
    score: String,
    #[serde(default)]
    options: Vec<String>,
}

fn exact() -> String {
    Metric::Exact.name().to_owned()
}

/// All conversations of the file at `path`.
pub(super) fn read(path: &Path) -> Result<(Vec<Conversation>, Vec<Item>), EvalError> {
    let open = |source| EvalError::Open { path: path.to_owned(), source };
    let mut file = BufReader::new(std::fs::File::open(path).map_err(open)?);
    let (mut conversations, mut items) = (Vec::new(), Vec::new());
    let mut lines: HashMap<String, u64> = HashMap::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        let wrong = |problem| EvalError::Line { path: path.to_owned(), line, problem };
        bytes.clear();
        if file.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut bytes).map_err(open)? == 0 {
            break;
        }
        if bytes.len() as u64 > MAX_LINE {
            return Err(wrong(format!("is longer than {} MiB; pictures are named, not written here", MAX_LINE >> 20)));
        }
        if line == 1 && (bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")) {
            return Err(wrong("is UTF-16 text; save the file as UTF-8".to_owned()));
        }
        let text = bytes.strip_prefix("\u{feff}".as_bytes()).filter(|_| line == 1).unwrap_or(&bytes).trim_ascii();
        if text.is_empty() {
            continue;
        }
        let record: Record =
            serde_json::from_slice(text).map_err(|e| wrong(format!("is no conversation: {e}; see docs/eval.md")))?;
        if let Some(first) = lines.insert(record.id.clone(), line) {
            return Err(wrong(format!(
                "has the id `{}` of line {first}; give every line its own",
                record.id.escape_debug()
            )));
        }
        items.push(Item { task: record.task.clone(), group: None, rows: vec![conversations.len()] });
        conversations.push(record.conversation(path, line).map_err(wrong)?);
    }
    if conversations.is_empty() {
        return Err(EvalError::Empty { path: path.to_owned() });
    }
    Ok((conversations, items))
}

impl Record {
    fn conversation(self, path: &Path, line: u64) -> Result<Conversation, String> {
        let (names, is_video) = match (self.images, self.video) {
            (Some(_), Some(_)) => return Err("has both `images` and `video`; a conversation shows one of them".into()),
            (None, Some(frames)) => (frames, true),
            (images, None) => (images.unwrap_or_default(), false),
        };
        if is_video && names.is_empty() {
            return Err("has a `video` without frames".into());
        }
        if self.turns.is_empty() {
            return Err("asks nothing: `turns` is empty".into());
        }
        let folder = folder_of(path);
        let pictures = names.iter().map(|name| inside(folder, name).map(Picture::File)).collect::<Result<_, _>>()?;
        let turns = self.turns.into_iter().map(Asked::turn).collect::<Result<_, _>>()?;
        Ok(Conversation { id: self.id, place: format!("{}, line {line}", path.display()), pictures, is_video, turns })
    }
}

impl Asked {
    fn turn(self) -> Result<Turn, String> {
        let metric = Metric::from_name(&self.score).ok_or_else(|| {
            format!("has the score `{}`; choose from: {}", self.score.escape_debug(), Metric::names().join(", "))
        })?;
        if self.answers.is_empty() || self.answers.iter().any(String::is_empty) {
            return Err("has a question without an answer, or with an empty one".into());
        }
        let letters = 'A'..='Z';
        if self.options.len() > letters.clone().count() {
            return Err(format!("has {} options; there are letters for 26", self.options.len()));
        }
        let options: Vec<(char, String)> = letters.zip(self.options).collect();
        if metric == Metric::MultipleChoice {
            let known = |answer: &String| options.iter().any(|(letter, _)| answer.strip_prefix(*letter) == Some(""));
            if options.len() < 2 || options.iter().any(|(_, text)| text.is_empty()) {
                return Err("asks for a choice, and `options` does not list at least two texts".into());
            }
            if let Some(answer) = self.answers.iter().find(|answer| !known(answer)) {
                return Err(format!("expects `{}`, which is no letter of an option", answer.escape_debug()));
            }
        } else if !options.is_empty() {
            return Err(format!("has `options`, which the score `{}` does not look at", metric.name()));
        }
        Ok(Turn {
            before: String::new(),
            question: self.question,
            answers: self.answers,
            metric,
            options,
            after_steps: false,
        })
    }
}
