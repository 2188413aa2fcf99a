//! One row of a bench of models: the fields that llama-bench has, under its names, and ours behind them.

use ocelli_runtime::bench::measure::{Limits, Samples, Unit, Work};
use ocelli_runtime::bench::{Measured, TextTest, cpu_name, utc_now};
use serde_json::Value;

use super::machine;
use super::output::{Fields, Table, number, plus_minus, string};
use super::plan::{Plan, Setting};

/// What a row says about the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelInfo {
    pub(super) filename: String,
    /// Architecture, size and mixture: `llama 3.6B Q4_K_M`.
    pub(super) label: String,
    pub(super) bytes: u64,
    pub(super) parameters: u64,
    pub(super) load_mode: &'static str,
}

/// What was timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Text(TextTest),
    /// Encoding the slices of a square picture.
    Encode {
        side: usize,
        slices: usize,
    },
    /// Picture and question to the first token.
    FirstToken {
        side: usize,
        slices: usize,
        positions: usize,
    },
}

impl Test {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Text(test) => test.name(),
            Self::Encode { side, .. } => format!("encode {side}×{side}"),
            Self::FirstToken { side, .. } => format!("first token {side}×{side}+24"),
        }
    }

    /// What the rate counts: tokens, or pictures.
    fn amount(&self) -> f64 {
        match self {
            Self::Text(test) => test.tokens() as f64,
            Self::Encode { .. } | Self::FirstToken { .. } => 1.0,
        }
    }
}

/// A test that was run.
pub(super) struct Row<'a> {
    pub(super) model: &'a ModelInfo,
    pub(super) plan: &'a Plan,
    pub(super) setting: &'a Setting,
    pub(super) test: Test,
    pub(super) measured: &'a Measured,
    pub(super) work: Work,
    pub(super) limits: &'a Limits,
    /// Rates of reading, bytes per second, that were measured beside it.
    pub(super) reads: Samples,
}

/// The fields about the model and how it was set up.
pub(super) fn described(model: &ModelInfo, plan: &Plan, setting: &Setting) -> Fields {
    let mut fields = Fields::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("build_commit", format!("ocelli {}", env!("CARGO_PKG_VERSION")).into());
    put("cpu_info", cpu_name().into());
    put("backends", "CPU".into());
    put("model_filename", model.filename.clone().into());
    put("model_type", model.label.clone().into());
    put("model_size", model.bytes.into());
    put("model_n_params", model.parameters.into());
    put("n_batch", plan.batch.into());
    put("n_ubatch", setting.ubatch.into());
    put("n_threads", setting.threads.into());
    put("type_k", setting.type_k.name().to_lowercase().into());
    put("type_v", setting.type_v.name().to_lowercase().into());
    put("load_mode", model.load_mode.into());
    put("isa", setting.isa.into());
    put("precision", format!("{:?}", plan.precision).to_lowercase().into());
    fields
}

impl Row<'_> {
    /// All fields.
    pub(super) fn fields(&self) -> Fields {
        let mut fields = described(self.model, self.plan, self.setting);
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        let times = &self.measured.times;
        let text = if let Test::Text(test) = self.test { Some(test) } else { None };
        put("n_prompt", text.map_or(0, |t| t.n_prompt).into());
        put("n_gen", text.map_or(0, |t| t.n_gen).into());
        put("n_depth", text.map_or(0, |t| t.depth).into());
        put("test_time", utc_now().into());
        let rates = times.rates(self.test.amount());
        put("avg_ns", (times.mean() * 1e9).round().into());
        put("stddev_ns", (times.stddev() * 1e9).round().into());
        put("avg_ts", rates.mean().into());
        put("stddev_ts", rates.stddev().into());
        put("samples_ns", times.seconds().iter().map(|s| (s * 1e9).round()).collect::<Vec<_>>().into());
        put("samples_ts", rates.seconds().to_vec().into());
        put("test", self.test.name().into());
        if let Test::Encode { side, slices } | Test::FirstToken { side, slices, .. } = self.test {
            put("image_size", side.into());
            put("slices", slices.into());
        }
        if let Test::FirstToken { positions, .. } = self.test {
            put("positions", positions.into());
        }
        let (seconds, work) = (times.mean(), &self.work);
        // Others on the machine change what is left of memory's rate within seconds.
        let beside = if self.reads.seconds().is_empty() { self.limits.read } else { self.reads.median() };
        let limits = Limits { read: beside, ..self.limits.clone() };
        let (_, bound) = limits.least(work);
        put("roofline_pct", (100.0 * limits.share(work, seconds)).into());
        put("bound", bound.name().into());
        put("int8_gops", (work.int8 / seconds / 1e9).into());
        put("int16_gops", (work.int16 / seconds / 1e9).into());
        put("f32_gops", (work.f32 / seconds / 1e9).into());
        put("read_gbs", (work.bytes / seconds / 1e9).into());
        // Products of bytes alone against their peak, whatever else there is to do.
        let int8 = self.limits.peak(Unit::Int8).map(|p| 100.0 * work.int8 / seconds / p.ops);
        put("int8_peak_pct", int8.map_or(Value::Null, Value::from));
        put("read_peak_pct", (100.0 * work.bytes / seconds / beside).into());
        put("beside_read_gbs", (beside / 1e9).into());
        put("beside_read_samples_gbs", self.reads.seconds().iter().map(|r| r / 1e9).collect::<Vec<_>>().into());
        put("join_ms", (self.measured.lost().as_secs_f64() * 1e3).into());
        put("join_pct", (100.0 * self.measured.lost_share()).into());
        put("joins", (self.measured.joins.jobs / (times.seconds().len().max(1) as u64)).into());
        put("serial_pct", (100.0 * self.measured.serial_share()).into());
        machine::fields(self.limits, &mut fields);
        fields
    }
}

/// `57.25 ± 0.10`, or milliseconds for pictures.
pub(super) fn speed(fields: &Fields) -> String {
    if fields.contains_key("image_size") {
        let ms = |name| number(fields, name) / 1e6;
        return format!("{} ms", plus_minus(ms("avg_ns"), ms("stddev_ns")));
    }
    plus_minus(number(fields, "avg_ts"), number(fields, "stddev_ts"))
}

/// A column that is shown when some row has another value than the usual one.
pub(super) type Column = (&'static str, &'static str, fn(&Fields) -> String);

const OPTIONAL: [Column; 4] = [
    ("n_ubatch", "512", |f| (number(f, "n_ubatch") as u64).to_string()),
    ("type_k", "f16", |f| string(f, "type_k").to_owned()),
    ("type_v", "f16", |f| string(f, "type_v").to_owned()),
    ("precision", "fast", |f| string(f, "precision").to_owned()),
];

/// The columns in which some row has another value than the usual one.
pub(super) fn unusual(rows: &[Fields]) -> Vec<&'static Column> {
    OPTIONAL.iter().filter(|(_, usual, get)| rows.iter().any(|r| get(r) != *usual)).collect()
}

/// The rows as llama-bench shows them, with columns for the share of the roofline, what bounds it, and the share of
/// time that threads waited in joins; where rows were measured against another program, its rate and the ratio.
pub(super) fn markdown(rows: &[Fields]) -> String {
    let optional = unusual(rows);
    let against = rows.iter().any(|r| r.contains_key("against_ratio"));
    let mut columns = vec![("model", false), ("size", true), ("params", true), ("backend", false), ("threads", true)];
    columns.extend(optional.iter().map(|(name, ..)| (*name, true)));
    columns.extend([("test", true), ("t/s", true), ("% of roofline", true), ("joins", true)]);
    if against {
        columns.extend([("llama-bench", true), ("ratio", true)]);
    }
    let mut table = Table::new(&columns);
    for row in rows {
        let mut cells = vec![
            string(row, "model_type").to_owned(),
            format!("{:.2} GiB", number(row, "model_size") / f64::from(1 << 30)),
            format!("{:.2} B", number(row, "model_n_params") / 1e9),
            format!("CPU, {}", string(row, "isa")),
            (number(row, "n_threads") as u64).to_string(),
        ];
        cells.extend(optional.iter().map(|(.., get)| get(row)));
        cells.push(string(row, "test").to_owned());
        cells.push(speed(row));
        cells.push(format!("{:.1} ({})", number(row, "roofline_pct"), string(row, "bound")));
        cells.push(format!("{:.1} %", number(row, "join_pct")));
        if against {
            let known = row.contains_key("against_ratio");
            let show = |text: String| if known { text } else { String::new() };
            cells.push(show(plus_minus(number(row, "against_avg_ts"), number(row, "against_stddev_ts"))));
            cells.push(show(format!("{:.2}", number(row, "against_ratio"))));
        }
        table.row(cells);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use ocelli_quant::GgmlType;
    use ocelli_runtime::Precision;
    use ocelli_runtime::bench::JoinTimes;
    use ocelli_runtime::bench::measure::{Peak, Samples};
    use std::time::Duration;

    use super::*;

    fn row(test: Test) -> Fields {
        let model = ModelInfo {
            filename: "x.gguf".to_owned(),
            label: "llama 3.6B Q4_K_M".to_owned(),
            bytes: 2 << 30,
            parameters: 3_610_000_000,
            load_mode: "mmap",
        };
        let setting = Setting { isa: "avx2", threads: 2, ubatch: 512, type_k: GgmlType::F16, type_v: GgmlType::Q8_0 };
        let plan = Plan {
            settings: vec![setting.clone()],
            tests: Vec::new(),
            image_sizes: Vec::new(),
            precision: Precision::Fast,
            parallel: Vec::new(),
            batch: 2048,
        };
        let (wall, available) = (Duration::from_secs(18), Duration::from_secs(36));
        let joins = JoinTimes { jobs: 20, wall, available, busy: Duration::from_secs(34), threads: 2 };
        let measured = Measured { times: Samples::new(vec![10.0, 10.0]), joins };
        let peak = |unit, ops| Peak { unit, instructions: "some", ops };
        let peaks = vec![peak(Unit::Int8, 8e11), peak(Unit::F32, 1e11)];
        let limits = Limits { isa: "avx2", threads: 2, peaks, read: 3e10 };
        let work = Work::of(Unit::Int8, 4e12, 2e9);
        let (measured, limits) = (&measured, &limits);
        let reads = Samples::new(vec![1e10, 4e10, 2e10]);
        Row { model: &model, plan: &plan, setting: &setting, test, measured, work, limits, reads }.fields()
    }

    #[test]
    fn fields_are_those_of_llama_bench_and_ours() {
        let fields = row(Test::Text(TextTest { n_prompt: 512, n_gen: 0, depth: 0 }));
        for (name, want) in [
            ("avg_ns", 1e10),
            ("stddev_ns", 0.0),
            ("avg_ts", 51.2),
            ("n_prompt", 512.0),
            ("model_size", 2_147_483_648.0),
            ("roofline_pct", 50.0),
            ("int8_peak_pct", 50.0),
            ("int8_gops", 400.0),
            ("read_gbs", 0.2),
            ("read_peak_pct", 1.0),
            ("join_ms", 1000.0),
            ("join_pct", 5.0),
            ("serial_pct", 10.0),
            ("joins", 10.0),
            ("peak_int8_gops", 800.0),
            ("peak_read_gbs", 30.0),
            ("beside_read_gbs", 20.0),
        ] {
            assert!((number(&fields, name) - want).abs() < 1e-6, "{name}: {:?}", fields.get(name));
        }
        assert_eq!((string(&fields, "bound"), string(&fields, "type_v")), ("int8", "q8_0"));
        assert_eq!(fields["samples_ns"].as_array().unwrap().len(), 2);
        assert_eq!(fields["peak_bf16_gops"], Value::Null, "no instruction, no figure");
        assert!(string(&fields, "test_time").ends_with('Z'));
    }

    #[test]
    fn markdown_shows_what_is_unusual() {
        let mut text = row(Test::Text(TextTest { n_prompt: 0, n_gen: 128, depth: 4096 }));
        let encode = row(Test::Encode { side: 448, slices: 1 });
        let table = markdown(&[text.clone(), encode.clone()]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[0].contains("| type_v |") && !lines[0].contains("type_k") && !lines[0].contains("ratio"),
            "{table}"
        );
        assert!(lines[2].contains("| llama 3.6B Q4_K_M | 2.00 GiB | 3.61 B | CPU, avx2 |"), "{table}");
        assert!(lines[2].contains("tg128 @ d4096 |") && lines[2].contains("50.0 (int8) | 5.0 % |"), "{table}");
        assert!(lines[3].contains("encode 448×448 | 10000.00 ± 0.00 ms |"), "{table}");
        for (name, value) in [("against_ratio", 2.0), ("against_avg_ts", 6.4), ("against_stddev_ts", 0.1)] {
            text.insert(name.to_owned(), value.into());
        }
        let table = markdown(&[text, encode]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].ends_with("| llama-bench | ratio |"), "{table}");
        assert!(lines[2].ends_with("| 6.40 ± 0.10 |  2.00 |"), "{table}");
    }
}
