//! Whole models: every test of the plan in every setting, one model after the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use ocelli_convert::mixture::FileType;
use ocelli_engine::bench::{batch, batch_work};
use ocelli_engine::{Scheduler, SchedulerOptions};
use ocelli_runtime::bench::{Measured, Picture, Repeat, encode, first_token, text, text_work, vision_work};
use ocelli_runtime::vision::{VisionEncoder, VisionModel, VisionOptions};
use ocelli_runtime::{Context, FileOptions, LoadOptions, Model, RuntimeError};

use ocelli_runtime::bench::measure::Samples;

use super::machine::Machine;
use super::output::{self, Fields, Format};
use super::parallel::TogetherRow;
use super::plan::{Plan, Setting};
use super::row::{ModelInfo, Row, Test, markdown, speed};
use super::{ModelsArgs, against, going_on, parallel, synthetic};
use crate::cmd::names;
use crate::cmd::usage::usage;
use crate::progress::{self, Bar};
use crate::sink::{self, errln};

/// A model to measure and its vision file.
struct Subject {
    text: PathBuf,
    vision: Option<PathBuf>,
}

/// Runs everything and prints the rows. Interrupted, it prints those that are done.
pub(super) fn run(args: &ModelsArgs) -> anyhow::Result<()> {
    let plan = Plan::new(args).map_err(usage)?;
    // Takes over Ctrl-C.
    let bar = Bar::new(false)?;
    let subjects = subjects(args, &bar)?;
    let machine = Machine::measure(plan.settings.iter().map(|s| (s.isa, s.threads)))?;
    let mut bench = Bench { args, plan: &plan, machine: &machine, rows: Vec::new() };
    let mut done = Ok(());
    for subject in &subjects {
        let first = bench.rows.len();
        done = bench.model(subject);
        if done.is_ok()
            && plan.parallel.is_empty()
            && let Some(program) = against::program(args.against.as_deref())
        {
            done = against::add(&program, &subject.text, args, &plan, &mut bench.rows[first..]);
        }
        if done.is_err() {
            break;
        }
    }
    if !streamed(args) && (done.is_ok() || !bench.rows.is_empty()) {
        print(args.format(), &bench.rows, &machine)?;
    }
    done
}

/// Whether rows are printed one by one, as soon as they are known.
fn streamed(args: &ModelsArgs) -> bool {
    args.format() == Format::Jsonl && (!args.parallel.is_empty() || against::program(args.against.as_deref()).is_none())
}

fn subjects(args: &ModelsArgs, bar: &Bar) -> anyhow::Result<Vec<Subject>> {
    let given = args.mmproj.as_deref().map(names::find_vision).transpose()?;
    let mut subjects = Vec::with_capacity(args.model.len() + args.synthetic.len());
    for name in &args.model {
        subjects.push(Subject { text: names::find(name)?.text, vision: given.clone() });
    }
    for name in &args.synthetic {
        let (text, vision) = synthetic::files(name, bar)?;
        let vision = given.clone().or((!args.no_mmproj).then_some(vision));
        subjects.push(Subject { text, vision });
    }
    Ok(subjects)
}

fn print(format: Format, rows: &[Fields], machine: &Machine) -> anyhow::Result<()> {
    let text = match format {
        Format::Md => {
            let build = env!("CARGO_PKG_VERSION");
            let table = if rows.iter().any(|row| row.contains_key("pl")) { parallel::markdown } else { markdown };
            format!("{}\n{}\nbuild: ocelli {build}\n", machine.text(), table(rows))
        }
        Format::Csv => output::csv(rows)?,
        Format::Json => output::json(rows)?,
        Format::Jsonl => output::json_lines(rows)?,
    };
    Ok(output::print(format, &text)?)
}

struct Bench<'a> {
    args: &'a ModelsArgs,
    plan: &'a Plan,
    machine: &'a Machine,
    rows: Vec<Fields>,
}

impl Bench<'_> {
    fn file_options(&self) -> FileOptions {
        FileOptions { mmap: !self.args.no_mmap, ..FileOptions::default() }
    }

    fn repeat(&self) -> Repeat {
        Repeat { times: self.args.repetitions as usize, warm_up: !self.args.no_warmup }
    }

    fn model(&mut self, subject: &Subject) -> anyhow::Result<()> {
        let load = LoadOptions { file: self.file_options(), rope_factors: None };
        let mut file_type = None;
        let (model, ()) = Model::load(&subject.text, &load, |meta| {
            file_type = meta.u64("general.file_type")?;
            Ok(())
        })?;
        let info = ModelInfo {
            filename: subject.text.display().to_string(),
            label: label(&model, file_type),
            bytes: model.weights().tensor_bytes(),
            parameters: model.weights().parameters(),
            load_mode: if self.args.no_mmap { "none" } else { "mmap" },
        };
        let model = Arc::new(model);
        if !self.plan.parallel.is_empty() {
            return self.plan.settings.iter().try_for_each(|setting| self.together(&info, &model, setting));
        }
        let vision = match &subject.vision {
            Some(path) => Some(self.vision_model(path, &model)?),
            None => None,
        };
        for setting in &self.plan.settings {
            self.setting(&info, &model, vision.as_ref(), setting)?;
        }
        Ok(())
    }

    fn vision_model(&self, path: &Path, text: &Model) -> anyhow::Result<Arc<VisionModel>> {
        let vision = VisionModel::load(path, self.file_options())?;
        let (found, wanted) = (vision.config().projection_dim, text.config().n_embd);
        if found != wanted {
            anyhow::bail!(
                "--mmproj: {} makes image rows of {found} values, the text model takes {wanted}; use the vision file that \
                 was made with this model",
                path.display()
            );
        }
        Ok(Arc::new(vision))
    }

    /// All tests in one setting.
    fn setting(
        &mut self,
        info: &ModelInfo,
        model: &Arc<Model>,
        vision: Option<&Arc<VisionModel>>,
        setting: &Setting,
    ) -> anyhow::Result<()> {
        going_on()?;
        let pictures = match vision {
            Some(vision) => {
                let square = |side: &usize| Picture::square(vision, *side).context("--image-size");
                self.plan.image_sizes.iter().map(square).collect::<anyhow::Result<Vec<_>>>()?
            }
            None => Vec::new(),
        };
        let shown = vision.into_iter().flat_map(|vision| pictures.iter().map(|picture| picture.positions(vision)));
        let n_ctx = self.plan.tests.iter().map(|t| t.positions()).chain(shown).max().unwrap_or(0).max(1);
        let exec = Arc::new(self.machine.exec(setting.isa)?);
        let context = Context::new(Arc::clone(model), Arc::clone(&exec), &self.plan.context(setting, n_ctx))?;
        let mut context = context.with_interrupt(progress::interrupt());
        let repeat = self.repeat();
        let (mut read, mut rates) = (self.machine.reader(setting.isa, setting.threads)?, Vec::new());
        for test in &self.plan.tests {
            let measured = interrupted(text(&mut context, test, repeat, &mut || rates.push(read())))?;
            let work = text_work(&context, test)?;
            self.keep(info, setting, Test::Text(*test), &measured, work, &mut rates)?;
        }
        let Some(vision) = vision else { return Ok(()) };
        let options =
            VisionOptions { n_threads: setting.threads, precision: self.plan.precision, ..VisionOptions::default() };
        let mut encoder = VisionEncoder::new(Arc::clone(vision), exec, &options)?;
        let flag = progress::interrupt();
        for (picture, &side) in pictures.iter().zip(&self.plan.image_sizes) {
            let slices = picture.slices();
            let measured = interrupted(encode(&mut encoder, picture, repeat, &mut || rates.push(read()), &flag))?;
            let work = vision_work(&encoder, picture, None)?;
            self.keep(info, setting, Test::Encode { side, slices }, &measured, work, &mut rates)?;
            let pause = &mut || rates.push(read());
            let measured = interrupted(first_token(&mut encoder, &mut context, picture, repeat, pause, &flag))?;
            let work = vision_work(&encoder, picture, Some(&context))?;
            let positions = picture.positions(vision);
            self.keep(info, setting, Test::FirstToken { side, slices, positions }, &measured, work, &mut rates)?;
        }
        Ok(())
    }

    /// All tests of sequences that run together, in one setting.
    fn together(&mut self, info: &ModelInfo, model: &Arc<Model>, setting: &Setting) -> anyhow::Result<()> {
        going_on()?;
        let exec = Arc::new(self.machine.exec(setting.isa)?);
        let context = Context::new(Arc::clone(model), exec, &self.plan.parallel_context(setting))?;
        let context = context.with_interrupt(progress::interrupt());
        let options = SchedulerOptions { n_parallel: context.n_parallel(), ..SchedulerOptions::default() };
        let mut scheduler = Scheduler::new(context, options);
        let mut read = self.machine.reader(setting.isa, setting.threads)?;
        let limits =
            self.machine.limits(setting.isa, setting.threads).context("the limits of a setting are missing")?;
        // The rates of one sequence, which come first.
        let first = self.rows.len();
        for test in &self.plan.parallel {
            let mut rates = Vec::new();
            let measured = interrupted(batch(&mut scheduler, test, self.repeat(), &mut || rates.push(read())))?;
            let work = batch_work(scheduler.context(), test)?;
            let alone = parallel::alone(&self.rows[first..], test);
            let (model, plan, reads) = (info, self.plan, Samples::new(rates));
            let fields =
                TogetherRow { model, plan, setting, test, measured: &measured, work, limits, reads, alone }.fields();
            errln!(
                "{}, {}, {} threads: {}: {}",
                info.label,
                setting.isa,
                setting.threads,
                test.name(),
                parallel::speed(&fields)
            );
            self.add(fields)?;
        }
        Ok(())
    }

    fn add(&mut self, fields: Fields) -> anyhow::Result<()> {
        if streamed(self.args) {
            sink::json(&fields)?;
        }
        self.rows.push(fields);
        Ok(())
    }

    /// Adds a row, telling about it. Takes the rates of reading that were measured beside it.
    fn keep(
        &mut self,
        model: &ModelInfo,
        setting: &Setting,
        test: Test,
        measured: &Measured,
        work: ocelli_runtime::bench::measure::Work,
        rates: &mut Vec<f64>,
    ) -> anyhow::Result<()> {
        let limits =
            self.machine.limits(setting.isa, setting.threads).context("the limits of a setting are missing")?;
        let reads = Samples::new(std::mem::take(rates));
        let fields = Row { model, plan: self.plan, setting, test, measured, work, limits, reads }.fields();
        let unit = if matches!(test, Test::Text(_)) { " t/s" } else { "" };
        errln!(
            "{}, {}, {} threads: {} {}{unit}, {:.1} % of the roofline",
            model.label,
            setting.isa,
            setting.threads,
            test.name(),
            speed(&fields),
            output::number(&fields, "roofline_pct")
        );
        self.add(fields)
    }
}

/// In other words when somebody asked to stop.
fn interrupted<T>(measured: Result<T, RuntimeError>) -> anyhow::Result<T> {
    match measured {
        Err(RuntimeError::Interrupted) => anyhow::bail!("interrupted"),
        other => Ok(other?),
    }
}

/// `llama 3.6B Q4_K_M`.
fn label(model: &Model, file_type: Option<u64>) -> String {
    let named = FileType::ALL.iter().find(|t| Some(u64::from(t.code())) == file_type).map(|t| t.name());
    let parameters = model.weights().parameters() as f64;
    let size =
        if parameters >= 1e9 { format!("{:.1}B", parameters / 1e9) } else { format!("{:.0}M", parameters / 1e6) };
    format!("{} {size} {}", model.config().arch, named.unwrap_or("mixed"))
}
