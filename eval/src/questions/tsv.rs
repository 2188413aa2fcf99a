//! Tables of VLMEvalKit: a row a question, pictures as base64 in a field.
//!
//! Opening a table goes through it once and keeps where each row begins; a row is read again when it is asked. A field
//! of pictures that has at most 64 characters names the row that holds the picture.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use csv::{ByteRecord, Position, Reader, ReaderBuilder};

use super::rules::Wording;
use super::{Conversation, EvalError, Item, Picture, PromptStyle, Rules, Turn, folder_of, inside, list};

/// Bytes of a row, at most: several pictures of the largest size that is decoded.
const MAX_ROW: u64 = 256 << 20;

/// A field of pictures up to this length names another row.
const MAX_REFERENCE: usize = 64;

/// Rotations of a question have its index and a multiple of this.
const ROTATION: u64 = 1_000_000;

/// Texts that mean "nothing here" wherever a value is optional, as the tables' usual reader (pandas) takes them.
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// A file that gives up when one row takes too many bytes.
#[derive(Debug)]
struct Bounded {
    file: File,
    /// Bytes that may still be read; set anew for every row.
    left: Rc<Cell<u64>>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left.get() == 0 {
            return Err(std::io::Error::other(format!("it goes on for more than {} MiB", MAX_ROW >> 20)));
        }
        let n = self.file.read(buffer)?;
        self.left.set(self.left.get().saturating_sub(n as u64));
        Ok(n)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

/// Where the columns are.
#[derive(Debug)]
struct Columns {
    index: usize,
    question: usize,
    answer: usize,
    image: Option<usize>,
    image_path: Option<usize>,
    hint: Option<usize>,
    task: Option<usize>,
    category: Option<usize>,
    second: Option<usize>,
    options: Vec<(char, usize)>,
}

impl Columns {
    fn find(path: &Path, header: &[String], rules: Rules) -> Result<Self, EvalError> {
        let at = |name: &str| header.iter().position(|found| found.eq_ignore_ascii_case(name));
        let missing = |column| {
            let found = header.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
            EvalError::Column { path: path.to_owned(), column, rules: rules.name(), found }
        };
        let need = |column: &'static str| at(column).ok_or_else(|| missing(column));
        let letters = ('A'..='Z').filter_map(|letter| {
            let at = header.iter().position(|found| found.strip_prefix(letter) == Some(""))?;
            Some((letter, at))
        });
        let columns = Self {
            index: need("index")?,
            question: need("question")?,
            answer: need("answer")?,
            image: at("image"),
            image_path: at("image_path"),
            hint: at("hint"),
            task: rules.task_columns().iter().find_map(|name| at(name)),
            category: at("category"),
            second: at("l2-category").or_else(|| at("l2_category")),
            options: letters.collect(),
        };
        if columns.image.is_none() && columns.image_path.is_none() {
            return Err(missing("image"));
        }
        if rules.is_multiple_choice() && columns.options.len() < 2 {
            return Err(missing(if columns.options.is_empty() { "A" } else { "B" }));
        }
        if rules == Rules::OcrBench && columns.category.is_none() {
            return Err(missing("category"));
        }
        Ok(columns)
    }
}

/// What is kept of a row.
#[derive(Debug)]
struct Row {
    at: Position,
    index: String,
}

/// An open table.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    reader: Reader<Bounded>,
    left: Rc<Cell<u64>>,
    max_row: u64,
    columns: Columns,
    rules: Rules,
    style: PromptStyle,
    rows: Vec<Row>,
    /// Rows by their index.
    by_index: HashMap<String, usize>,
}

/// A row that was read, with what is needed to name it.
struct Fields<'r> {
    path: &'r Path,
    record: &'r ByteRecord,
}

impl Fields<'_> {
    fn line(&self) -> u64 {
        self.record.position().map_or(0, Position::line)
    }

    fn wrong(&self, problem: String) -> EvalError {
        EvalError::Line { path: self.path.to_owned(), line: self.line(), problem }
    }

    fn text(&self, column: usize) -> Result<&str, EvalError> {
        let bytes = self.record.get(column).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|e| {
            self.wrong(format!("field {} is not UTF-8 text (byte {}); convert the file", column + 1, e.valid_up_to()))
        })
    }

    /// The text of a column that a table or a row may lack.
    fn optional(&self, column: Option<usize>) -> Result<Option<&str>, EvalError> {
        let text = column.map(|column| self.text(column)).transpose()?;
        Ok(text.filter(|text| !MISSING.contains(text)))
    }
}

impl Table {
    /// Opens the table at `path` and checks all its rows.
    pub(super) fn open(path: &Path, rules: Rules, style: PromptStyle) -> Result<(Self, Vec<Item>), EvalError> {
        Self::open_within(path, rules, style, MAX_ROW)
    }

    /// As [`Table::open`], with rows of `max_row` bytes at most.
    pub(super) fn open_within(
        path: &Path,
        rules: Rules,
        style: PromptStyle,
        max_row: u64,
    ) -> Result<(Self, Vec<Item>), EvalError> {
        let file = File::open(path).map_err(|source| EvalError::Open { path: path.to_owned(), source })?;
        let left = Rc::new(Cell::new(max_row));
        let bounded = Bounded { file, left: Rc::clone(&left) };
        let mut reader = ReaderBuilder::new().delimiter(b'\t').buffer_capacity(1 << 16).from_reader(bounded);
        let header = reader.byte_headers().map_err(|e| unreadable(path, 1, &e))?;
        if header.get(0).is_some_and(|name| name.starts_with(b"\xff\xfe") || name.starts_with(b"\xfe\xff")) {
            let problem = "is UTF-16 text; save the file as UTF-8".to_owned();
            return Err(EvalError::Line { path: path.to_owned(), line: 1, problem });
        }
        let header: Vec<String> = header
            .iter()
            .map(|name| String::from_utf8_lossy(name).trim_start_matches('\u{feff}').trim().to_owned())
            .collect();
        let columns = Columns::find(path, &header, rules)?;
        let (rows, by_index) = (Vec::new(), HashMap::new());
        let mut table = Self { path: path.to_owned(), reader, left, max_row, columns, rules, style, rows, by_index };
        let items = table.scan()?;
        Ok((table, items))
    }

    /// Goes through all rows: finds where they are, checks what can be checked without the others, then the rest.
    fn scan(&mut self) -> Result<Vec<Item>, EvalError> {
        let mut record = ByteRecord::new();
        let mut found: Vec<(String, Option<String>)> = Vec::new();
        let mut references: Vec<(u64, String)> = Vec::new();
        let mut holders: HashMap<String, bool> = HashMap::new();
        while self.read(&mut record)? {
            let fields = Fields { path: &self.path, record: &record };
            let index = fields.text(self.columns.index)?.trim().to_owned();
            let category = fields.optional(self.columns.category)?;
            let task = match fields.optional(self.columns.task)? {
                Some(task) => task.to_owned(),
                None => self.rules.name().to_owned(),
            };
            self.turn(&fields)?;
            found.push((task, self.rules.group(category, fields.optional(self.columns.second)?)));
            if let Some(field) = fields.optional(self.columns.image)? {
                let refers = field.len() <= MAX_REFERENCE;
                holders.insert(index.clone(), !refers);
                if refers {
                    references.push((fields.line(), field.trim().to_owned()));
                } else {
                    encoded(field)
                        .and_then(|all| all.iter().try_for_each(|one| decoded(one).map(drop)))
                        .map_err(|problem| fields.wrong(problem))?;
                }
            } else {
                self.named(&fields)?;
            }
            if let Some(first) = self.by_index.insert(index.clone(), self.rows.len()) {
                let first = self.rows.get(first).map_or(0, |row| row.at.line());
                return Err(fields.wrong(format!("has the index `{}` of line {first}", index.escape_debug())));
            }
            let at = record.position().cloned().unwrap_or_else(Position::new);
            self.rows.push(Row { at, index });
        }
        if self.rows.is_empty() {
            return Err(EvalError::Empty { path: self.path.clone() });
        }
        for (line, index) in references {
            let problem = match holders.get(&index) {
                Some(true) => continue,
                Some(false) => format!("takes its picture from row `{index}`, which has none of its own"),
                None => format!(
                    "has the picture `{}`: too short for one, and no index of a row that holds it",
                    index.escape_debug()
                ),
            };
            return Err(EvalError::Line { path: self.path.clone(), line, problem });
        }
        self.items(found)
    }

    /// Rows that count together.
    fn items(&self, found: Vec<(String, Option<String>)>) -> Result<Vec<Item>, EvalError> {
        let item = |row: usize, (task, group)| Item { task, group, rows: vec![row] };
        if !self.rules.is_circular() {
            return Ok(found.into_iter().enumerate().map(|(row, kind)| item(row, kind)).collect());
        }
        let wrong = |row: &Row, problem| EvalError::Line { path: self.path.clone(), line: row.at.line(), problem };
        let mut items: Vec<Item> = Vec::new();
        let mut by_base: HashMap<u64, usize> = HashMap::new();
        let mut rotated = Vec::new();
        for ((row, kind), known) in found.into_iter().enumerate().zip(&self.rows) {
            let index: u64 = known.index.parse().map_err(|_| {
                wrong(known, format!("has the index `{}`; here it is a number", known.index.escape_debug()))
            })?;
            if index < ROTATION {
                by_base.insert(index, items.len());
                items.push(item(row, kind));
            } else {
                rotated.push((row, index % ROTATION, known));
            }
        }
        for (row, base, known) in rotated {
            let Some(item) = by_base.get(&base).and_then(|at| items.get_mut(*at)) else {
                return Err(wrong(known, format!("is a rotation of question {base}, which is not in the file")));
            };
            item.rows.push(row);
        }
        Ok(items)
    }

    /// Reads the next row; `false` at the end.
    fn read(&mut self, record: &mut ByteRecord) -> Result<bool, EvalError> {
        self.left.set(self.max_row);
        let line = self.reader.position().line();
        self.reader.read_byte_record(record).map_err(|e| unreadable(&self.path, line, &e))
    }

    /// Reads a row that [`Table::scan`] found.
    fn read_row(&mut self, row: usize) -> Result<ByteRecord, EvalError> {
        let gone = || EvalError::Row { row };
        let known = self.rows.get(row).ok_or_else(gone)?;
        self.left.set(self.max_row);
        self.reader.seek(known.at.clone()).map_err(|e| unreadable(&self.path, known.at.line(), &e))?;
        let mut record = ByteRecord::new();
        let there = self.reader.read_byte_record(&mut record);
        let there = there.map_err(|e| unreadable(&self.path, known.at.line(), &e))?;
        let index = record.get(self.columns.index).map(|index| index.trim_ascii() == known.index.as_bytes());
        if there && index == Some(true) { Ok(record) } else { Err(gone()) }
    }

    /// The conversation of a row.
    pub(super) fn conversation(&mut self, row: usize) -> Result<Conversation, EvalError> {
        let record = self.read_row(row)?;
        let holder = {
            let fields = Fields { path: &self.path, record: &record };
            let field = fields.optional(self.columns.image)?;
            field
                .filter(|field| field.len() <= MAX_REFERENCE)
                .and_then(|field| self.by_index.get(field.trim()).copied())
        };
        let other = holder.map(|row| self.read_row(row)).transpose()?;
        let fields = Fields { path: &self.path, record: &record };
        let held = Fields { path: &self.path, record: other.as_ref().unwrap_or(&record) };
        let pictures = match held.optional(self.columns.image)? {
            Some(field) => Self::held(field).map_err(|problem| held.wrong(problem))?,
            None => self.named(&fields)?,
        };
        Ok(Conversation {
            id: fields.text(self.columns.index)?.trim().to_owned(),
            place: format!("{}, line {}", self.path.display(), fields.line()),
            pictures,
            is_video: false,
            turns: vec![self.turn(&fields)?],
        })
    }

    /// What a row asks.
    fn turn(&self, fields: &Fields<'_>) -> Result<Turn, EvalError> {
        let category = fields.optional(self.columns.category)?;
        let (question, answer) = (fields.text(self.columns.question)?, fields.text(self.columns.answer)?);
        if answer.trim().is_empty() {
            return Err(fields.wrong("has no answer; use a split whose answers are public".to_owned()));
        }
        let mut options = Vec::new();
        if self.rules.is_multiple_choice() {
            for (letter, column) in &self.columns.options {
                if let Some(text) = fields.optional(Some(*column))? {
                    options.push((*letter, text.to_owned()));
                }
            }
            if !options.iter().any(|(letter, _)| answer.strip_prefix(*letter) == Some("")) {
                return Err(
                    fields.wrong(format!("expects `{}`, which is no letter of an option", answer.escape_debug()))
                );
            }
        }
        let answers = match list::parse(answer).filter(|_| !self.rules.is_multiple_choice()) {
            Some(answers) if answers.is_empty() => {
                return Err(fields.wrong("has an empty list of answers".to_owned()));
            }
            Some(answers) => answers,
            None => vec![answer.to_owned()],
        };
        let hint = fields.optional(self.columns.hint)?;
        let Wording { before, question, after_steps } = self.style.word(self.rules, question, hint, &options);
        let metric = self.rules.metric(category);
        Ok(Turn { before: before.to_owned(), question, answers, metric, options, after_steps })
    }

    /// The pictures that a field holds.
    fn held(field: &str) -> Result<Vec<Picture>, String> {
        encoded(field)?.iter().map(|one| decoded(one).map(Picture::Bytes)).collect()
    }

    /// The pictures that a row names by their files.
    fn named(&self, fields: &Fields<'_>) -> Result<Vec<Picture>, EvalError> {
        let Some(field) = fields.optional(self.columns.image_path)? else {
            return Err(fields.wrong("has no picture".to_owned()));
        };
        let names = list::parse(field).unwrap_or_else(|| vec![field.to_owned()]);
        let files = names.iter().map(|name| inside(folder_of(&self.path), name).map(Picture::File));
        files.collect::<Result<_, _>>().map_err(|problem| fields.wrong(problem))
    }
}

fn unreadable(path: &Path, line: u64, error: &csv::Error) -> EvalError {
    let line = error.position().map_or(line, Position::line);
    let problem = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} fields where the first line has {expected_len}; get the file again")
        }
        _ => format!("cannot be read: {error}"),
    };
    EvalError::Line { path: path.to_owned(), line, problem }
}

/// The texts of a field of pictures: one, or a list.
fn encoded(field: &str) -> Result<Vec<String>, String> {
    if !field.starts_with('[') {
        return Ok(vec![field.to_owned()]);
    }
    match list::parse(field) {
        Some(all) if !all.is_empty() => Ok(all),
        _ => Err("has a list of pictures that is cut short or empty; get the file again".to_owned()),
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, String> {
    let bare: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(bare).map_err(|e| format!("has a picture that is no base64 ({e}); get the file again"))
}
