//! `ocelli bench kernels`: every kernel at the model's shapes, against the machine's limits.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ocelli_files::{Inputs, Output, Replace, WriteOptions};
use ocelli_memory::NoMemory;
use ocelli_quant::GgmlType;
use ocelli_runtime::bench::measure::{self, Limits, Plan, SHAPES, Shape, Timed};
use ocelli_runtime::bench::{Kernels, Pool, cpu_name, utc_now};
use serde_json::Value;

use super::lists::{distinct, numbers, words};
use super::machine::{self, Machine};
use super::output::{self, Fields, Format, Table, number, string};
use super::plan::{isas, threads};
use super::{going_on, plot};
use crate::cmd::usage::usage;
use crate::progress::{self, Bar};
use crate::sink::{self, errln};

/// Options of `ocelli bench kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Storage formats, list; all of this build if not given
    #[arg(long, value_name = "TYPE")]
    formats: Vec<String>,
    /// Instruction sets, list; `best` or `all` of this machine, which it is if not given
    #[arg(long, value_name = "NAME")]
    isa: Vec<String>,
    /// Tokens multiplied together, list
    #[arg(long, value_name = "N", default_value = "1,8,512")]
    tokens: Vec<String>,
    /// Matrices of the model, list of their names; all if not given, `none` for everything but products
    #[arg(long, value_name = "NAME")]
    shapes: Vec<String>,
    /// Only products of weights: no attention, norms, activations, quantising
    #[arg(long)]
    only_products: bool,
    /// Threads, list; 0: physical cores
    #[arg(short = 't', long, value_name = "N", default_value = "0")]
    threads: Vec<String>,
    /// Samples of each kernel
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Time that one run may take, about; larger matrices are timed on fewer rows
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    max_run_ms: u64,
    /// Draw the roofline with a mark for every kernel, as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Replace the file of --plot if it exists
    #[arg(long, requires = "plot")]
    overwrite: bool,
    /// How rows are written
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "md")]
    output: Format,
    /// The same as -o json
    #[arg(long)]
    json: bool,
}

/// Times everything that was asked for, prints the rows and draws the plot.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let plan = plan(args).map_err(usage)?;
    let isas = if args.isa.is_empty() { isas(&["all".to_owned()])? } else { isas(&args.isa)? };
    let threads = threads(&args.threads)?;
    let format = if args.json { Format::Json } else { args.output };
    // Takes over Ctrl-C.
    let _bar = Bar::new(false)?;
    let write = WriteOptions::new(Inputs::none(), Replace::if_told(args.overwrite));
    let plot = args.plot.as_deref().map(|path| Output::create(path, &write)).transpose().context("--plot")?;
    check_memory(&plan, args, &threads)?;
    let machine = Machine::measure(isas.iter().flat_map(|isa| threads.iter().map(move |t| (*isa, *t))))?;
    let mut rows = Vec::new();
    let mut done = Ok(());
    for limits in machine.all() {
        done = table(&machine.pool(limits.threads), &plan, limits, args.only_products, &mut |row| {
            tell(&row);
            if format == Format::Jsonl {
                sink::json(&row)?;
            }
            rows.push(row);
            Ok(())
        });
        if done.is_err() {
            break;
        }
    }
    if done.is_ok() || !rows.is_empty() {
        let text = match format {
            Format::Md => format!("{}\n{}", machine.text(), markdown(&rows)),
            Format::Csv => output::csv(&rows)?,
            Format::Json => output::json(&rows)?,
            Format::Jsonl => String::new(),
        };
        output::print(format, &text)?;
    }
    done?;
    match plot {
        Some(output) => plot::write(output, &cpu_name(), machine.all(), &rows),
        None => Ok(()),
    }
}

/// Whether there is the memory for everything that is timed.
fn check_memory(plan: &Plan, args: &Args, threads: &[usize]) -> Result<(), NoMemory> {
    let most = threads.iter().copied().max().unwrap_or(1);
    let bytes =
        ocelli_memory::sum([Some(Machine::MEMORY), plan.memory(!args.only_products), ocelli_memory::threads(most)]);
    ocelli_memory::check("timing kernels", bytes, "time fewer --tokens or smaller --shapes, or raise the limit")
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let known = || GgmlType::ALL.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
    let format = |name: &String| {
        let found = GgmlType::ALL.iter().find(|t| t.name().eq_ignore_ascii_case(name)).copied();
        found.with_context(|| format!("--formats: `{}` is unknown; known are {}", name.escape_debug(), known()))
    };
    let shape = |name: &String| {
        let found = SHAPES.iter().find(|s| s.name == name).copied();
        let known = || SHAPES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
        found.with_context(|| format!("--shapes: `{}` is unknown; known are {}, none", name.escape_debug(), known()))
    };
    let (formats, shapes) = (words(&args.formats), words(&args.shapes));
    let tokens = distinct(numbers("--tokens", &args.tokens)?);
    if tokens.contains(&0) {
        bail!("--tokens: must be at least 1");
    }
    if let Some(many) = tokens.iter().find(|t| **t > 8192) {
        bail!("--tokens: {many} is out of range; use at most 8192");
    }
    Ok(Plan {
        formats: match formats.as_slice() {
            [] => GgmlType::ALL.to_vec(),
            names => distinct(names.iter().map(format).collect::<anyhow::Result<_>>()?),
        },
        shapes: match shapes.as_slice() {
            [] => SHAPES.to_vec(),
            [one] if one == "none" => Vec::new(),
            names => distinct(names.iter().map(shape).collect::<anyhow::Result<Vec<Shape>>>()?),
        },
        tokens,
        repetitions: args.repetitions as usize,
        budget: Duration::from_millis(args.max_run_ms),
    })
}

/// Times everything with one table and number of threads.
fn table(
    pool: &Pool,
    plan: &Plan,
    limits: &Limits,
    only_products: bool,
    each: &mut dyn FnMut(Fields) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let kernels = Kernels::named(limits.isa)?;
    let mut failed = Ok(());
    let mut keep = |timed: Timed| {
        failed = each(fields(&timed, limits));
        failed.is_ok() && !progress::interrupted()
    };
    measure::products(pool, kernels, plan, &mut keep)?;
    if !only_products && !progress::interrupted() {
        measure::others(pool, kernels, plan, &mut keep)?;
    }
    failed?;
    going_on()
}

/// Codecs run on the calling thread alone.
fn alone(timed: &Timed) -> bool {
    matches!(timed.kernel, "quantize_row" | "dequantize_row")
}

fn fields(timed: &Timed, limits: &Limits) -> Fields {
    let mut fields = Fields::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    let times = &timed.times;
    // The median: a neighbour's noise only ever adds.
    let (seconds, work) = (times.median(), &timed.work);
    put("build_commit", format!("ocelli {}", env!("CARGO_PKG_VERSION")).into());
    put("cpu_info", cpu_name().into());
    put("kernel", timed.kernel.into());
    put("format", timed.format.into());
    put("isa", limits.isa.into());
    put("n_threads", limits.threads.into());
    put("threads_used", if alone(timed) { 1 } else { limits.threads }.into());
    put("shape", timed.shape.into());
    put("rows", timed.rows.into());
    put("cols", timed.cols.into());
    put("tokens", timed.tokens.into());
    put("test_time", utc_now().into());
    put("avg_ns", (times.mean() * 1e9).into());
    put("stddev_ns", (times.stddev() * 1e9).into());
    put("median_ns", (seconds * 1e9).into());
    put("samples_ns", times.seconds().iter().map(|s| s * 1e9).collect::<Vec<_>>().into());
    put("unit", work.unit().name().into());
    put("ops", work.ops().into());
    put("bytes", work.bytes.into());
    put("ops_per_byte", work.intensity().into());
    put("gops", (work.ops() / seconds / 1e9).into());
    put("gbs", (work.bytes / seconds / 1e9).into());
    put("cached", timed.cached.into());
    let (_, bound) = limits.least(work);
    let fair = !timed.cached || bound != measure::Bound::Memory;
    put("bound", if fair { bound.name() } else { "cache" }.into());
    // What stays in a cache is not held to the speed of memory.
    put("roofline_pct", if fair { (100.0 * limits.share(work, seconds)).into() } else { Value::Null });
    machine::fields(limits, &mut fields);
    fields
}

/// `gemm Q4_K ffn_gate 10240×2560 × 512`.
fn name(row: &Fields) -> String {
    let [kernel, format, shape] = ["kernel", "format", "shape"].map(|n| string(row, n));
    format!("{kernel} {format} {shape} × {}", number(row, "tokens"))
}

fn tell(row: &Fields) {
    errln!(
        "{}, {} threads: {}: {:.1} Gop/s, {:.1} GB/s",
        string(row, "isa"),
        number(row, "n_threads"),
        name(row),
        number(row, "gops"),
        number(row, "gbs")
    );
}

/// The rows as a table.
pub(super) fn markdown(rows: &[Fields]) -> String {
    let columns = [
        ("isa", false),
        ("threads", true),
        ("kernel", false),
        ("format", false),
        ("shape", false),
        ("rows × cols", true),
        ("tokens", true),
        ("time", true),
        ("Gop/s", true),
        ("GB/s", true),
        ("% of roofline", true),
    ];
    let mut table = Table::new(&columns);
    for row in rows {
        let count = |name| (number(row, name) as u64).to_string();
        let share = match row.get("roofline_pct").and_then(Value::as_f64) {
            Some(share) => format!("{share:.1} ({})", string(row, "bound")),
            None => format!("({})", string(row, "bound")),
        };
        table.row(vec![
            string(row, "isa").to_owned(),
            count("n_threads"),
            string(row, "kernel").to_owned(),
            string(row, "format").to_owned(),
            string(row, "shape").to_owned(),
            format!("{} × {}", count("rows"), count("cols")),
            count("tokens"),
            time(number(row, "median_ns")),
            format!("{:.1}", number(row, "gops")),
            format!("{:.1}", number(row, "gbs")),
            share,
        ]);
    }
    table.text()
}

/// `1.23 ms`.
fn time(ns: f64) -> String {
    if ns < 1e6 { format!("{:.2} µs", ns / 1e3) } else { format!("{:.2} ms", ns / 1e6) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use ocelli_runtime::bench::measure::{Peak, Samples, Unit, Work};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn planned(options: &[&str]) -> anyhow::Result<Plan> {
        plan(&Line::try_parse_from(["kernels"].iter().chain(options))?.args)
    }

    #[test]
    fn choices_and_defaults() {
        let all = planned(&[]).unwrap();
        assert_eq!((all.formats.len(), all.shapes.len()), (GgmlType::ALL.len(), SHAPES.len()));
        assert_eq!(all.tokens, [1, 8, 512]);
        let some = planned(&["--formats", "q4_k,F16", "--shapes", "output", "--tokens", "1-4*2"]).unwrap();
        assert_eq!((some.formats, some.shapes[0].name), (vec![GgmlType::Q4_K, GgmlType::F16], "output"));
        assert_eq!(some.tokens, [1, 2, 4]);
        assert!(planned(&["--shapes", "none"]).unwrap().shapes.is_empty());
        for (options, words) in [
            (["--formats", "Q9"], ["Q9", "Q4_K"]),
            (["--shapes", "door"], ["door", "ffn_gate"]),
            (["--tokens", "0"], ["--tokens", "at least 1"]),
            (["--tokens", "9000"], ["--tokens", "8192"]),
        ] {
            let error = planned(&options).unwrap_err().to_string();
            assert!(words.iter().all(|w| error.contains(w)), "{error}");
        }
    }

    #[test]
    fn rows_state_shares_and_admit_caches() {
        let peak = |unit, ops| Peak { unit, instructions: "", ops };
        let limits =
            Limits { isa: "avx2", threads: 2, peaks: vec![peak(Unit::Int8, 1e12), peak(Unit::F32, 1e11)], read: 1e10 };
        let mut timed = Timed {
            kernel: "gemm",
            format: "Q4_K",
            shape: "output",
            rows: 10,
            cols: 20,
            tokens: 512,
            work: Work::of(Unit::Int8, 5e11, 1e9),
            cached: false,
            times: Samples::new(vec![1.0, 1.0, 4.0]),
        };
        let row = fields(&timed, &limits);
        assert_eq!((number(&row, "gops"), number(&row, "gbs"), number(&row, "roofline_pct")), (500.0, 1.0, 50.0));
        assert_eq!((number(&row, "avg_ns"), number(&row, "median_ns")), (2e9, 1e9));
        assert_eq!((name(&row).as_str(), string(&row, "bound")), ("gemm Q4_K output × 512", "int8"));
        let table = markdown(std::slice::from_ref(&row));
        assert!(table.contains("|     10 × 20 |    512 | 1000.00 ms | 500.0 |  1.0 |   50.0 (int8) |"), "{table}");
        timed.work = Work::of(Unit::F32, 1.0, 1e9);
        timed.cached = true;
        let row = fields(&timed, &limits);
        assert_eq!((row["roofline_pct"].is_null(), string(&row, "bound")), (true, "cache"));
    }
}
