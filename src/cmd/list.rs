//! `ocelli list`: the models on this machine, whoever brought them.

use std::fmt::Write as _;
use std::path::Path;

use ocelli_convert::inspect::{Fault, FileReport, InspectError, Kind, Severity, inspect_file};
use ocelli_hub::{LocalModel, Store};
use serde::Serialize;

use super::inspect::bytes;
use super::names;
use crate::cache_folder;
use crate::sink;

/// What `clip.projector_type` a vision file must have to be used.
const PROJECTOR: &str = "resampler";

/// What supplies the rope factors that a file lacks.
const ROPE_FACTORS: &str = "--rope-factors minicpm-v-4";

/// Options of `ocelli list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    /// Say where models and caches lie, how to move them and how to remove them
    #[arg(long, conflicts_with = "json")]
    paths: bool,
}

/// One model, as it is listed.
#[derive(Serialize)]
struct Row {
    name: String,
    store: &'static str,
    quant: Option<String>,
    bytes: u64,
    path: String,
    parts: usize,
    vision: Option<String>,
    architecture: Option<String>,
    /// Whether this build can run it.
    runs: bool,
    /// Options that it needs.
    with: Option<&'static str>,
    /// Why not.
    why: Option<String>,
}

/// Prints the table.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.paths {
        return Ok(sink::out(&places()?)?);
    }
    let rows: Vec<Row> = names::stores()?.list().into_iter().map(describe).collect();
    if args.json {
        return sink::json(&rows);
    }
    Ok(sink::out(&table(&rows))?)
}

fn describe(model: LocalModel) -> Row {
    let report = inspect_file(model.path(), false);
    let (architecture, of_file) = match &report {
        Ok(report) => (report.architecture.clone(), quant_of(report)),
        Err(_) => (None, None),
    };
    let verdict = match report {
        Err(error) => Err(without_path(&error.to_string(), model.path())),
        Ok(report) => can_run(&report).and_then(|with| can_see(model.vision.as_deref()).map(|()| with)),
    };
    Row {
        store: model.store.title(),
        quant: model.quant.clone().or(of_file),
        bytes: model.bytes,
        path: model.path().display().to_string(),
        parts: model.text.len(),
        vision: model.vision.as_ref().map(|path| path.display().to_string()),
        architecture,
        runs: verdict.is_ok(),
        with: verdict.as_ref().ok().copied().flatten(),
        why: verdict.err(),
        name: model.name,
    }
}

/// A reader's complaint without the path that it begins with, since that is listed anyway.
fn without_path(error: &str, path: &Path) -> String {
    error.strip_prefix(&format!("{}: ", path.display())).unwrap_or(error).to_owned()
}

/// The quantisation that a file says of itself.
fn quant_of(report: &FileReport) -> Option<String> {
    report.file_type.as_ref().and_then(|t| t.name).map(str::to_owned)
}

/// `Ok` with the options that the model needs, or why it cannot be run.
fn can_run(report: &FileReport) -> Result<Option<&'static str>, String> {
    let known = ocelli_runtime::architectures();
    if report.kind != Kind::Text {
        return Err("not a text model".to_owned());
    }
    match report.architecture.as_deref() {
        Some(found) if known.contains(&found) => {}
        found => {
            let found = found.unwrap_or("unknown");
            return Err(format!("architecture {found} is not run (only {})", known.join(", ")));
        }
    }
    // Published files of MiniCPM-V 4.0 lack them; the program has them.
    let supplied = |fault: &Fault| fault.code == "missing-rope-factors" && fault.remedy.contains(ROPE_FACTORS);
    let mut errors = report.faults.iter().filter(|fault| fault.severity == Severity::Error);
    match errors.clone().find(|fault| !supplied(fault)) {
        Some(fault) => Err(fault.what.clone()),
        None => Ok(errors.next().map(|_| ROPE_FACTORS)),
    }
}

fn can_see(vision: Option<&Path>) -> Result<(), String> {
    let Some(path) = vision else { return Ok(()) };
    let told = |error: InspectError| format!("vision file: {}", without_path(&error.to_string(), path));
    let report = inspect_file(path, false).map_err(told)?;
    match report.vision.as_ref().and_then(|vision| vision.projector.as_deref()) {
        Some(PROJECTOR) => Ok(()),
        found => Err(format!("vision file: projector {} is not run (only {PROJECTOR})", found.unwrap_or("unknown"))),
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no models here yet; `ocelli pull minicpm-v-4` fetches one, `ocelli list --paths` says where is looked\n".to_owned();
    }
    let shown: Vec<[String; 6]> = rows
        .iter()
        .map(|row| {
            let vision = if row.vision.is_some() { "yes" } else { "no" };
            let runs = match (&row.why, row.with) {
                (Some(why), _) => format!("no: {why}"),
                (None, Some(with)) => format!("with {with}"),
                (None, None) => "yes".to_owned(),
            };
            let path = match row.parts {
                1 => row.path.clone(),
                n => format!("{} and {} more", row.path, n - 1),
            };
            let quant = row.quant.clone().unwrap_or_else(|| "?".to_owned());
            [row.name.clone(), quant, bytes(row.bytes), vision.to_owned(), runs, path]
                .map(|cell| sink::line(&cell).into_owned())
        })
        .collect();
    let heads = ["NAME", "QUANT", "SIZE", "VISION"].map(str::to_owned);
    let width = |column: usize| {
        let cells = shown.iter().map(|row| &row[column]).chain([&heads[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths = [0, 1, 2, 3].map(width);
    let mut page = String::new();
    let mut line = |cells: &[String], last: &str| {
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a string does not fail.
            let _ = write!(page, "{cell:<width$}  ");
        }
        page.push_str(last);
        page.push('\n');
    };
    line(&heads, "RUNS");
    for row in &shown {
        line(&row[..4], &row[4]);
        line(&[], &format!("    {}", row[5]));
    }
    page
}

fn places() -> anyhow::Result<String> {
    let stores = names::stores()?;
    let mut page = String::new();
    let own = &names::hub()?.config().cache;
    let mut line = |what: &str, path: &Path, how: &str| {
        let there = if path.exists() { "" } else { " (does not exist)" };
        let text = format!("{what}: {}{there}", path.display());
        page.push_str(&format!("{}\n    {how}\n", sink::line(&text)));
    };
    for (store, path) in stores.places() {
        let how = match store {
            Store::Hub if path == own => {
                "downloads go here; moved by OCELLI_CACHE (this program only), HF_HUB_CACHE or HF_HOME; removed by `ocelli rm NAME`, or all of it by deleting the folder"
            }
            Store::Hub => "read only; the cache of other programs that use the hub",
            Store::Ollama => "read only; moved by OLLAMA_MODELS; removed by `ollama rm`",
            Store::LmStudio => "read only; moved and removed in LM Studio",
            Store::LlamaCpp => "read only; moved by LLAMA_CACHE; removed by deleting its files",
            _ => "read only",
        };
        line(store.title(), path, how);
    }
    if let Some(folder) = cache_folder::folder() {
        line(
            "bundled model",
            &folder.join("models"),
            "made on first use; moved by XDG_CACHE_HOME; may be deleted, it is made again",
        );
    }
    Ok(page)
}
