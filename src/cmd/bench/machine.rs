//! The machine's limits, measured once per instruction set and number of threads.

use anyhow::Context as _;
use ocelli_runtime::Exec;
use ocelli_runtime::bench::measure::{Limits, Unit, reading_rate};
use ocelli_runtime::bench::{Kernels, Pool, Stretch, cpu_name};
use serde_json::Value;

use super::output::{Fields, Table, number, string};
use crate::sink::errln;

/// Numbers that are read to measure bandwidth: 256 MiB.
const WORDS: usize = 32 << 20;

/// Limits that were measured.
#[derive(Debug)]
pub(super) struct Machine {
    all: Vec<Limits>,
    memory: Stretch,
    /// The threads of everything that is measured, as many as the largest number asked for.
    pool: Pool,
}

impl Machine {
    /// Bytes that measuring takes.
    pub(super) const MEMORY: u64 = (WORDS * size_of::<u64>()) as u64;

    /// Measures for every pair of instruction set and number of threads.
    pub(super) fn measure(pairs: impl IntoIterator<Item = (&'static str, usize)>) -> anyhow::Result<Self> {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let pool = Pool::new(pairs.iter().map(|(_, threads)| *threads).max().unwrap_or(1));
        let memory =
            Stretch::new(WORDS).context("no memory to measure the rate of reading with; close other programs")?;
        let mut machine = Self { all: Vec::new(), memory, pool };
        for (isa, threads) in pairs {
            if machine.limits(isa, threads).is_some() {
                continue;
            }
            super::going_on()?;
            let pool = machine.pool.limited(threads);
            let mut limits = Limits::measure(&pool, Kernels::named(isa)?, machine.memory.words());
            // As asked for, even where the system gave fewer: rows are found by it.
            limits.threads = threads;
            errln!("{}", describe(&limits));
            machine.all.push(limits);
        }
        Ok(machine)
    }

    /// The limits for `isa` with `threads` threads.
    pub(super) fn limits(&self, isa: &str, threads: usize) -> Option<&Limits> {
        self.all.iter().find(|l| l.isa == isa && l.threads == threads)
    }

    /// Measures the rate of reading again and again, in bytes per second.
    pub(super) fn reader(&self, isa: &str, threads: usize) -> anyhow::Result<impl FnMut() -> f64> {
        let (pool, kernels) = (self.pool.limited(threads), Kernels::named(isa)?);
        Ok(move || reading_rate(&pool, kernels, self.memory.words()))
    }

    /// The kernels of `isa` on the threads that everything is measured with.
    pub(super) fn exec(&self, isa: &str) -> anyhow::Result<Exec> {
        Ok(Exec::on(self.pool.clone(), Kernels::named(isa)?))
    }

    /// At most `threads` of the threads that everything is measured with.
    pub(super) fn pool(&self, threads: usize) -> Pool {
        self.pool.limited(threads)
    }

    /// All limits.
    pub(super) fn all(&self) -> &[Limits] {
        &self.all
    }

    /// What was measured, for Markdown.
    pub(super) fn text(&self) -> String {
        let rows: Vec<Fields> = self
            .all
            .iter()
            .map(|limits| {
                let mut row = Fields::new();
                row.insert("cpu_info".to_owned(), cpu_name().into());
                row.insert("isa".to_owned(), limits.isa.into());
                row.insert("n_threads".to_owned(), limits.threads.into());
                fields(limits, &mut row);
                row
            })
            .collect();
        text_of(&rows)
    }
}

/// The machine and its limits as the rows of a bench tell them, for Markdown.
pub(super) fn text_of<'r>(rows: impl IntoIterator<Item = &'r Fields>) -> String {
    let mut columns = vec![("isa", false), ("threads", true)];
    columns.extend(Unit::ALL.map(|unit| (unit.name(), true)));
    columns.push(("read", true));
    let (mut table, mut known, mut names) = (Table::new(&columns), Vec::new(), Vec::new());
    for row in rows.into_iter().filter(|row| row.contains_key("peak_read_gbs")) {
        let mut cells = vec![string(row, "isa").to_owned(), (number(row, "n_threads") as u64).to_string()];
        cells.extend(Unit::ALL.map(|unit| {
            let peak = row.get(&format!("peak_{}_gops", unit.name())).and_then(Value::as_f64);
            peak.map_or("none".to_owned(), |gops| format!("{gops:.0} Gop/s"))
        }));
        cells.push(format!("{:.1} GB/s", number(row, "peak_read_gbs")));
        names.push(string(row, "cpu_info").to_owned());
        if !known.contains(&cells) {
            known.push(cells);
        }
    }
    known.into_iter().for_each(|cells| table.row(cells));
    let names = super::lists::distinct(names);
    format!("{}\n\n{}", names.join("; "), table.text())
}

fn peak(limits: &Limits, unit: Unit) -> String {
    limits.peak(unit).map_or("none".to_owned(), |peak| format!("{:.0} Gop/s", peak.ops / 1e9))
}

/// One line about what was measured.
fn describe(limits: &Limits) -> String {
    let peaks = Unit::ALL.map(|unit| format!("{} {}", unit.name(), peak(limits, unit)));
    format!(
        "limits: {}, {} threads: {}, read {:.1} GB/s",
        limits.isa,
        limits.threads,
        peaks.join(", "),
        limits.read / 1e9
    )
}

/// The limits as fields of a row.
pub(super) fn fields(limits: &Limits, row: &mut Fields) {
    for unit in Unit::ALL {
        let peak = limits.peak(unit);
        row.insert(format!("peak_{}_gops", unit.name()), peak.map_or(Value::Null, |p| (p.ops / 1e9).into()));
        let instructions = peak.map_or(Value::Null, |p| p.instructions.into());
        row.insert(format!("peak_{}_by", unit.name()), instructions);
    }
    row.insert("peak_read_gbs".to_owned(), (limits.read / 1e9).into());
}
