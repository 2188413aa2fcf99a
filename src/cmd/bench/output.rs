//! Rows as Markdown, CSV, JSON or JSON lines.

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::sink::{self, OutputError};

/// A row: what a program reads. Markdown shows a selection of it.
pub(super) type Fields = Map<String, Value>;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A Markdown table
    Md,
    /// Comma-separated values, without the single samples
    Csv,
    /// One JSON array of objects
    Json,
    /// One JSON object per line, as soon as it is known
    Jsonl,
}

/// A Markdown table whose columns are aligned in the source, too.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Columns with their names; `true` for numbers, which are aligned to the right.
    pub(super) fn new(columns: &[(&str, bool)]) -> Self {
        Self { columns: columns.iter().map(|(name, right)| ((*name).to_owned(), *right)).collect(), rows: Vec::new() }
    }

    /// Adds a row with one text per column.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The whole table.
    pub(super) fn text(&self) -> String {
        let width = |i: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
            cells.chain([self.columns[i].0.chars().count(), 3]).max().unwrap_or(3)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = String>| {
            for (i, cell) in cells.enumerate() {
                let (fill, right) = (widths[i].saturating_sub(cell.chars().count()), self.columns[i].1);
                let fill = " ".repeat(fill);
                text.push_str("| ");
                text.push_str(&if right { fill + &cell } else { cell + &fill });
                text.push(' ');
            }
            text.push_str("|\n");
        };
        line(&mut self.columns.iter().map(|c| c.0.clone()));
        let rule = |(width, (_, right)): (&usize, &(String, bool))| {
            if *right { format!("{}:", "-".repeat(width - 1)) } else { "-".repeat(*width) }
        };
        line(&mut widths.iter().zip(&self.columns).map(rule));
        for row in &self.rows {
            line(&mut (0..self.columns.len()).map(|i| row.get(i).cloned().unwrap_or_default()));
        }
        text
    }
}

/// All rows as comma-separated values: a column for every field that some row has, in the order they appear. Lists are
/// left out.
pub(super) fn csv(rows: &[Fields]) -> anyhow::Result<String> {
    let mut columns: Vec<&str> = Vec::new();
    for (name, value) in rows.iter().flatten() {
        if !value.is_array() && !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&columns)?;
    for row in rows {
        writer.write_record(columns.iter().map(|name| match row.get(*name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }))?;
    }
    let bytes = writer.into_inner().context("cannot write comma-separated values")?;
    Ok(String::from_utf8(bytes)?)
}

/// All rows as one JSON array.
pub(super) fn json(rows: &[Fields]) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(rows)?))
}

/// One row as a line.
pub(super) fn json_line(row: &Fields) -> anyhow::Result<String> {
    Ok(serde_json::to_string(row)?)
}

/// All rows, one per line.
pub(super) fn json_lines(rows: &[Fields]) -> anyhow::Result<String> {
    rows.iter().map(|row| Ok(json_line(row)? + "\n")).collect()
}

/// Writes rows to standard output.
pub(super) fn print(format: Format, text: &str) -> Result<(), OutputError> {
    match format {
        Format::Md | Format::Csv => sink::out(text),
        Format::Json | Format::Jsonl => sink::json_text(text),
    }
}

/// `56.78 ± 0.12`.
pub(super) fn plus_minus(mean: f64, stddev: f64) -> String {
    format!("{mean:.2} ± {stddev:.2}")
}

/// A number of `fields`; 0 where it is missing or none.
pub(super) fn number(fields: &Fields, name: &str) -> f64 {
    fields.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// A text of `fields`; empty where it is missing or none.
pub(super) fn string<'f>(fields: &'f Fields, name: &str) -> &'f str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> Vec<Fields> {
        let row = |value: Value| value.as_object().unwrap().clone();
        vec![
            row(json!({"test": "pp512", "model": "a, \"b\"", "avg_ts": 57.25, "samples_ts": [1, 2], "bf16": null})),
            row(json!({"test": "tg128", "model": "ü", "avg_ts": 11.5, "more": true})),
        ]
    }

    #[test]
    fn csv_reads_back() {
        let text = csv(&rows()).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap(), vec!["test", "model", "avg_ts", "bf16", "more"]);
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(records[0], vec!["pp512", "a, \"b\"", "57.25", "", ""]);
        assert_eq!(records[1], vec!["tg128", "ü", "11.5", "", "true"]);
    }

    #[test]
    fn json_reads_back() {
        let back: Vec<Fields> = serde_json::from_str(&json(&rows()).unwrap()).unwrap();
        assert_eq!(back, rows());
        let line = json_line(&rows()[1]).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Fields>(&line).unwrap(), rows()[1]);
        assert_eq!((number(&rows()[0], "avg_ts"), string(&rows()[0], "test")), (57.25, "pp512"));
        assert_eq!((number(&rows()[0], "bf16"), string(&rows()[0], "avg_ts")), (0.0, ""));
    }

    #[test]
    fn markdown_columns_line_up() {
        let mut table = Table::new(&[("test", false), ("t/s", true)]);
        table.row(vec!["pp512".to_owned(), plus_minus(57.254, 0.1)]);
        table.row(vec!["tg128 @ d4096".to_owned()]);
        let text = table.text();
        assert_eq!(
            text,
            "| test          |          t/s |\n\
             | ------------- | -----------: |\n\
             | pp512         | 57.25 ± 0.10 |\n\
             | tg128 @ d4096 |              |\n"
        );
    }
}
