//! What can be wrong with a file of questions.

use std::path::PathBuf;

/// A file of questions that cannot be used, with a reason and a remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of another kind.
    #[error("{}: the format of questions is told by the ending: .jsonl (conversations as lines of JSON) or .tsv (a table of VLMEvalKit)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// A file with nothing in it.
    #[error("{} holds no question; make or download it again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A line that is wrong.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong, and what would do.
        problem: String,
    },
    /// A table without a column that its rules need.
    #[error("{} has no column `{column}`, which the rules {rules} need; it has: {found}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// The rules.
        rules: &'static str,
        /// The columns it has.
        found: String,
    },
    /// A table that no rules are known for.
    #[error("{}: the name tells no benchmark whose rules are known; name them with --rules: {}", path.display(), known.join(", "))]
    UnknownRules {
        /// The file.
        path: PathBuf,
        /// All rules.
        known: Vec<&'static str>,
    },
    /// A name among a few that is none of them.
    #[error("there are no {what} `{}`; choose from: {}", name.escape_debug(), known.join(", "))]
    Name {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
        /// All names.
        known: Vec<&'static str>,
    },
    /// A task that the file does not have.
    #[error("the file has no task `{}`; it has: {}", task.escape_debug(), known.join(", "))]
    Task {
        /// The name.
        task: String,
        /// The tasks in the file.
        known: Vec<String>,
    },
    /// A row that is not there.
    #[error("the file has no row {row}; it was changed while it was read")]
    Row {
        /// Its number, from 0.
        row: usize,
    },
    /// An option whose value makes no sense.
    #[error("{option} {problem}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong, and what would do.
        problem: String,
    },
}
