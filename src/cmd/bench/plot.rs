//! The roofline as SVG: operations per second over operations per byte, both logarithmic.
//!
//! The roof of memory rises from the left, that of each multiplier is level; every kernel is a numbered mark, and the
//! list beside the plot says which number is which.

use anyhow::{Context as _, anyhow};
use ocelli_files::Output;
use ocelli_runtime::bench::measure::{Limits, Unit};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::output::{Fields, number, string};
use crate::sink::errln;

/// Width of the plot itself, and of a column of the list.
const PLOT: u32 = 900;
const COLUMN: u32 = 230;

/// Lines of a column of the list, their height, and the height of the whole.
const LINES: usize = 50;
const LINE: i32 = 14;
const HEIGHT: u32 = 760;

const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
];

/// A mark: operations per byte, operations per second, name, which limits it belongs to.
struct Mark {
    x: f64,
    y: f64,
    name: String,
    group: usize,
}

/// Draws the kernels `rows` under the roofs of `limits`.
pub(super) fn write(mut output: Output, machine: &str, limits: &[Limits], rows: &[Fields]) -> anyhow::Result<()> {
    let text = svg(machine, limits, rows)?;
    let path = output.path().to_owned();
    output.put(text.as_bytes()).and_then(|()| output.commit()).context("--plot")?;
    errln!("roofline: {}", path.display());
    Ok(())
}

/// The plot.
fn svg(machine: &str, limits: &[Limits], rows: &[Fields]) -> anyhow::Result<String> {
    let marks = marks(limits, rows);
    let columns = u32::try_from(marks.len().div_ceil(LINES).max(1)).context("--plot: too many kernels")?;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (PLOT + columns * COLUMN, HEIGHT)).into_drawing_area();
        draw(&root, machine, limits, &marks).map_err(|why| anyhow!("--plot: {why}"))?;
    }
    Ok(text)
}

fn marks(limits: &[Limits], rows: &[Fields]) -> Vec<Mark> {
    let mark = |row: &Fields| {
        let threads = number(row, "n_threads");
        let group =
            limits.iter().position(|l| l.isa == string(row, "isa") && (l.threads as f64 - threads).abs() < 0.5)?;
        let (x, y) = (number(row, "ops_per_byte"), number(row, "gops") * 1e9);
        let several = if limits.len() > 1 { format!(", {}×{threads}", string(row, "isa")) } else { String::new() };
        let [kernel, format, shape] = ["kernel", "format", "shape"].map(|n| string(row, n));
        let tokens = number(row, "tokens");
        let name = format!("{kernel} {format} {shape} ×{tokens}{several}");
        (x > 0.0 && y > 0.0).then_some(Mark { x, y, name, group })
    };
    rows.iter().filter_map(mark).collect()
}

type Failure = Box<dyn std::error::Error>;

fn draw(
    root: &DrawingArea<SVGBackend<'_>, Shift>,
    machine: &str,
    limits: &[Limits],
    marks: &[Mark],
) -> Result<(), Failure> {
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(PLOT);
    let peaks = || limits.iter().flat_map(|l| &l.peaks).map(|p| p.ops);
    let highest = peaks().chain(marks.iter().map(|m| m.y)).fold(1e9, f64::max) * 2.0;
    let lowest = marks.iter().map(|m| m.y).fold(highest / 100.0, f64::min) / 2.0;
    let from = marks.iter().map(|m| m.x).fold(0.1, f64::min) / 1.5;
    let to = marks.iter().map(|m| m.x).fold(1000.0, f64::max) * 1.5;
    let mut chart = ChartBuilder::on(&left)
        .caption(format!("Roofline: {machine}"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((from..to).log_scale(), (lowest..highest).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE.mix(0.0))
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("operations per byte")
        .y_desc("operations per second")
        .label_style(("sans-serif", 12))
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    for (group, each) in limits.iter().enumerate() {
        let colour = COLOURS[group % COLOURS.len()];
        roofs(&mut chart, each, colour, (from, to))?;
    }
    for (i, mark) in marks.iter().enumerate() {
        let colour = COLOURS[mark.group % COLOURS.len()];
        chart.draw_series([Circle::new((mark.x, mark.y), 3, colour.mix(0.8).filled())])?;
        let style = ("sans-serif", 9).into_font().color(&BLACK.mix(0.7));
        chart.draw_series([EmptyElement::at((mark.x, mark.y)) + Text::new((i + 1).to_string(), (4, -9), style)])?;
    }
    for (i, mark) in marks.iter().enumerate() {
        let column = i32::try_from(i / LINES).unwrap_or(i32::MAX);
        let line = i32::try_from(i % LINES).unwrap_or(0);
        let at = (column.saturating_mul(COLUMN.cast_signed()) + 6, 30 + line * LINE);
        let colour = COLOURS[mark.group % COLOURS.len()];
        let style = ("sans-serif", 10).into_font().color(&colour);
        right.draw_text(&format!("{} {}", i + 1, mark.name), &style, at)?;
    }
    root.present()?;
    Ok(())
}

type Chart<'c, 'b> = ChartContext<
    'c,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::combinators::LogCoord<f64>, plotters::coord::combinators::LogCoord<f64>>,
>;

/// The roofs of one table: memory up to the highest multiplier, each multiplier from where memory reaches it.
fn roofs(chart: &mut Chart<'_, '_>, limits: &Limits, colour: RGBColor, (from, to): (f64, f64)) -> Result<(), Failure> {
    let highest = limits.peaks.iter().map(|p| p.ops).fold(0.0, f64::max);
    let ridge = highest / limits.read.max(1.0);
    chart.draw_series(LineSeries::new([(from, from * limits.read), (ridge, highest)], colour.stroke_width(2)))?;
    let style = ("sans-serif", 11).into_font().color(&colour);
    let many = if limits.threads == 1 { "" } else { "s" };
    let label = format!("read {:.1} GB/s, {} thread{many}", limits.read / 1e9, limits.threads);
    let at = (from * 1.1, from * 1.1 * limits.read);
    chart.draw_series([EmptyElement::at(at) + Text::new(label, (8, 2), style.clone())])?;
    for unit in Unit::ALL {
        let Some(peak) = limits.peak(unit) else { continue };
        let start = (peak.ops / limits.read.max(1.0)).min(to);
        chart.draw_series(LineSeries::new([(start, peak.ops), (to, peak.ops)], colour.stroke_width(2)))?;
        let label = format!("{} {}, {:.0} Gop/s", limits.isa, unit.name(), peak.ops / 1e9);
        let at = (start.max(from), peak.ops);
        chart.draw_series([EmptyElement::at(at) + Text::new(label, (4, -13), style.clone())])?;
    }
    Ok(())
}

/// `100`, `5k`, `200G`.
fn short(value: f64) -> String {
    for (unit, name) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= unit {
            return format!("{}{name}", trimmed(value / unit));
        }
    }
    trimmed(value)
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use ocelli_files::{Inputs, Replace, WriteOptions};

    use ocelli_runtime::bench::measure::Peak;
    use serde_json::json;

    use super::*;

    fn limits(isa: &'static str) -> Limits {
        let peak = |unit, ops| Peak { unit, instructions: "", ops };
        Limits { isa, threads: 2, peaks: vec![peak(Unit::Int8, 6e11), peak(Unit::F32, 1e11)], read: 2e10 }
    }

    fn row(kernel: &str, isa: &str, intensity: f64, gops: f64) -> Fields {
        let value = json!({"kernel": kernel, "format": "Q4_K", "shape": "output", "tokens": 8, "isa": isa,
            "n_threads": 2, "ops_per_byte": intensity, "gops": gops});
        value.as_object().unwrap().clone()
    }

    #[test]
    fn every_kernel_has_a_mark_and_a_name() {
        let limits = [limits("avx2"), limits("scalar")];
        let mut rows: Vec<Fields> = (1..=60).map(|i| row("gemm", "avx2", f64::from(i), 100.0)).collect();
        rows.push(row("rmsnorm", "scalar", 0.5, 3.0));
        rows.push(row("gemv", "neon", 0.5, 3.0));
        let text = svg("Some <CPU> & more", &limits, &rows).unwrap();
        assert_eq!(text.matches("<circle").count(), 61, "the last belongs to no limits that were measured");
        for i in 1..=60 {
            assert!(text.contains(&format!("\n{i} gemm Q4_K output ×8, avx2×2\n")), "{i}");
        }
        assert!(text.contains("61 rmsnorm Q4_K output ×8, scalar×2"));
        for word in ["Some &lt;CPU&gt; &amp; more", "avx2 int8, 600 Gop/s", "scalar f32, 100 Gop/s", "read 20.0 GB/s"] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn the_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.svg");
        let output = Output::create(&path, &WriteOptions::new(Inputs::none(), Replace::Never)).unwrap();
        write(output, "CPU", &[limits("avx2")], &[row("gemm", "avx2", 10.0, 100.0)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn numbers_on_axes() {
        assert_eq!(["0.1", "10", "2k", "1.5G"], [0.1, 10.0, 2e3, 1.5e9].map(short).each_ref().map(String::as_str));
    }
}
