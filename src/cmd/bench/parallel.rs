//! Rows of sequences that run together: the fields of llama-batched-bench under its names, and ours behind them.

use ocelli_engine::bench::{BatchMeasured, BatchTest};
use ocelli_runtime::bench::measure::{Limits, Samples, Work};
use ocelli_runtime::bench::{Measured, utc_now};
use serde_json::Value;

use super::machine;
use super::output::{Fields, Table, number, string};
use super::plan::{Plan, Setting};
use super::row::{ModelInfo, described, unusual};

/// A test that was run.
pub(super) struct TogetherRow<'a> {
    pub(super) model: &'a ModelInfo,
    pub(super) plan: &'a Plan,
    pub(super) setting: &'a Setting,
    pub(super) test: &'a BatchTest,
    pub(super) measured: &'a BatchMeasured,
    /// Of the prompts, and of the generation.
    pub(super) work: (Work, Work),
    pub(super) limits: &'a Limits,
    /// Rates of reading, bytes per second, that were measured beside it.
    pub(super) reads: Samples,
    /// Rates of prompt and generation of one sequence.
    pub(super) alone: Option<(f64, f64)>,
}

impl TogetherRow<'_> {
    /// All fields.
    pub(super) fn fields(&self) -> Fields {
        let mut fields = described(self.model, self.plan, self.setting);
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        let (test, prompt, generation) = (self.test, &self.measured.prompt, &self.measured.generation);
        put("test_time", utc_now().into());
        put("test", test.name().into());
        put("pp", test.n_prompt.into());
        put("tg", test.n_gen.into());
        put("pl", test.n_parallel.into());
        put("is_pp_shared", u8::from(test.shared).into());
        put("n_kv", test.n_kv().into());
        put("n_evaluated", self.measured.evaluated.into());
        let both = prompt.times.seconds().iter().zip(generation.times.seconds()).map(|(p, g)| p + g);
        let all = Samples::new(both.collect());
        let parts = [
            ("pp", &prompt.times, test.prompt_tokens()),
            ("tg", &generation.times, test.gen_tokens()),
            ("", &all, test.n_kv()),
        ];
        for (part, times, tokens) in parts {
            let name = |name: &str| if part.is_empty() { name.to_owned() } else { format!("{name}_{part}") };
            put(&name("t"), times.mean().into());
            let rates = times.rates(tokens as f64);
            put(&name("speed"), rates.mean().into());
            put(&name("stddev_speed"), rates.stddev().into());
            put(&name("samples_t"), times.seconds().to_vec().into());
        }
        // What rows of every kind have.
        let rates = all.rates(test.n_kv() as f64);
        put("avg_ns", (all.mean() * 1e9).round().into());
        put("stddev_ns", (all.stddev() * 1e9).round().into());
        put("avg_ts", rates.mean().into());
        put("stddev_ts", rates.stddev().into());
        let rate = |times: &Samples, tokens: usize| times.rates(tokens as f64).mean();
        let own = (rate(&prompt.times, test.prompt_tokens()), rate(&generation.times, test.gen_tokens()));
        let alone = self.alone.or((test.n_parallel == 1).then_some(own));
        put("pp_ratio", alone.map_or(Value::Null, |alone| (own.0 / alone.0).into()));
        put("tg_ratio", alone.map_or(Value::Null, |alone| (own.1 / alone.1).into()));
        let beside = if self.reads.seconds().is_empty() { self.limits.read } else { self.reads.median() };
        let limits = Limits { read: beside, ..self.limits.clone() };
        for (part, measured, work, passes) in
            [("pp", prompt, &self.work.0, 0), ("tg", generation, &self.work.1, test.n_gen)]
        {
            let (_, bound) = limits.least(work);
            put(&format!("{part}_roofline_pct"), (100.0 * limits.share(work, measured.times.mean())).into());
            put(&format!("{part}_bound"), bound.name().into());
            joins(part, measured, passes, &mut put);
        }
        put("beside_read_gbs", (beside / 1e9).into());
        machine::fields(self.limits, &mut fields);
        fields
    }
}

/// Where threads were: per repetition, and for generation per pass, too.
fn joins(part: &str, measured: &Measured, passes: usize, put: &mut impl FnMut(&str, Value)) {
    let times = measured.times.seconds().len().max(1) as u64;
    let (jobs, lost) = (measured.joins.jobs / times, measured.lost().as_secs_f64() * 1e3);
    put(&format!("{part}_joins"), jobs.into());
    put(&format!("{part}_join_ms"), lost.into());
    put(&format!("{part}_join_pct"), (100.0 * measured.lost_share()).into());
    put(&format!("{part}_serial_pct"), (100.0 * measured.serial_share()).into());
    if passes > 0 {
        put(&format!("{part}_pass_ms"), (measured.times.mean() * 1e3 / passes as f64).into());
        put(&format!("{part}_pass_joins"), (jobs as f64 / passes as f64).into());
        put(&format!("{part}_pass_join_ms"), (lost / passes as f64).into());
    }
}

/// The rates of one sequence in the same test, of prompt and generation.
pub(super) fn alone(rows: &[Fields], test: &BatchTest) -> Option<(f64, f64)> {
    let is = |row: &Fields, name: &str, value: usize| row.get(name).and_then(Value::as_u64) == Some(value as u64);
    let row = rows.iter().find(|r| is(r, "pl", 1) && is(r, "pp", test.n_prompt) && is(r, "tg", test.n_gen))?;
    Some((number(row, "speed_pp"), number(row, "speed_tg")))
}

/// Both rates, and what they are of one sequence's.
pub(super) fn speed(fields: &Fields) -> String {
    let ratio = fields.get("tg_ratio").and_then(Value::as_f64);
    let ratio = ratio.map_or(String::new(), |ratio| format!(", {ratio:.2} × one sequence"));
    format!("prompt {:.2} t/s, generation {:.2} t/s{ratio}", number(fields, "speed_pp"), number(fields, "speed_tg"))
}

/// The rows as llama-batched-bench shows them, with columns for the rate of generation over that of one sequence, the shares
/// of the roofline with what bounds them, and the share of time that threads waited in joins while generating.
pub(super) fn markdown(rows: &[Fields]) -> String {
    let optional = unusual(rows);
    let mut columns = vec![("model", false), ("threads", true)];
    columns.extend(optional.iter().map(|(name, ..)| (*name, true)));
    let shared = rows.iter().any(|row| number(row, "is_pp_shared") > 0.0);
    columns.push((if shared { "PP (shared)" } else { "PP" }, true));
    let rest = ["TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s"];
    columns.extend(rest.map(|name| (name, true)));
    columns.extend(["S_TG ratio", "PP % of roofline", "TG % of roofline", "TG joins"].map(|name| (name, true)));
    let mut table = Table::new(&columns);
    for row in rows {
        let mut cells = vec![string(row, "model_type").to_owned(), (number(row, "n_threads") as u64).to_string()];
        cells.extend(optional.iter().map(|(.., get)| get(row)));
        cells.extend(["pp", "tg", "pl", "n_kv"].map(|name| (number(row, name) as u64).to_string()));
        for part in ["_pp", "_tg", ""] {
            cells.push(format!("{:.3}", number(row, &format!("t{part}"))));
            cells.push(format!("{:.2}", number(row, &format!("speed{part}"))));
        }
        let ratio = row.get("tg_ratio").and_then(Value::as_f64);
        cells.push(ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
        for part in ["pp", "tg"] {
            let (share, bound) = (format!("{part}_roofline_pct"), format!("{part}_bound"));
            cells.push(format!("{:.1} ({})", number(row, &share), string(row, &bound)));
        }
        cells.push(format!("{:.1} %", number(row, "tg_join_pct")));
        table.row(cells);
    }
    table.text()
}
