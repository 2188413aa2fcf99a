//! `ocelli eval`: how many questions about pictures a model answers rightly.

mod answers;
mod report;
mod settings;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context as _;
use ocelli_files::Inputs;
use ocelli_runtime::eval::{Conversation, Dataset, Item, Picture, PromptStyle, Rules, converse, greedy};
use ocelli_runtime::media::{Media, Origin, Shown};
use ocelli_runtime::memory::human;
use ocelli_runtime::{Assets, Attachment, RuntimeError, Session, Stop};
use ocelli_text::sampler::SamplerChain;

use super::common::{self, ModelArgs};
use super::usage::{bail_usage, usage};
use super::vision::{ShowArgs, Vision, VisionArgs};
use crate::outputs;
use crate::sink::{self, errln};
use answers::{Answers, Existing, Given};
use report::{Progress, Report};
use settings::Settings;

/// Bytes of a file that is not checked at once.
const LARGE: u64 = 64 << 20;

/// Options of `ocelli eval`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The questions: conversations as lines of JSON (.jsonl), or a table of VLMEvalKit (.tsv)
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Questions (conversations) of each task, at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only these tasks, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// How a table is scored: OCRBench, MMBench, MMStar, AI2D, ChartQA, DocVQA or TextVQA [default: by the file's name]
    #[arg(long, value_name = "NAME", value_parser = rules)]
    rules: Option<Rules>,
    /// How a table's questions are worded: minicpm-v (short answers), minicpm-v-4 (steps first where MiniCPM-V 4.0 was
    /// asked for them), dataset (VLMEvalKit's own) or plain
    #[arg(long, value_name = "NAME", default_value = "minicpm-v", value_parser = prompts)]
    prompts: PromptStyle,
    /// Longest answer in tokens [default: 64; for tables 256, or 2048 with --prompts minicpm-v-4]
    #[arg(short = 'n', long = "predict", alias = "n-predict", value_name = "N")]
    predict: Option<usize>,
    /// Write every answer to this file as soon as it is given, as lines of JSON
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Take over the answers that --answers holds already, and ask only what it lacks. The same model, vision file, options and
    /// questions must have made them
    #[arg(long, requires = "answers")]
    resume: bool,
    /// Replace the answers that --answers holds already
    #[arg(long, requires = "answers", conflicts_with = "resume")]
    overwrite: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Chat format: a known name, or a file with a Jinja template
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Tiles a frame of a video is cut into, at most [default: 1; llama.cpp's rules always use 9]
    #[arg(long, value_name = "N")]
    video_max_slices: Option<usize>,
    /// Keep encoded pictures in this folder, so that they cost nothing the next time
    #[arg(long, value_name = "DIR")]
    image_cache: Option<PathBuf>,
    /// Size of that folder in MiB; the pictures that were not used for longest go first
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    image_cache_size: u64,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    vision: VisionArgs,
}

fn rules(name: &str) -> Result<Rules, String> {
    Rules::from_name(name).map_err(|e| e.to_string())
}

fn prompts(name: &str) -> Result<PromptStyle, String> {
    PromptStyle::from_name(name).map_err(|e| e.to_string())
}

impl Args {
    fn show(&self) -> ShowArgs {
        ShowArgs {
            image: Vec::new(),
            video: Vec::new(),
            video_fps: 1.0,
            video_max_frames: 64,
            video_max_slices: self.video_max_slices,
            image_cache: self.image_cache.clone(),
            image_cache_size: self.image_cache_size,
        }
    }

    /// What is read: the questions and their pictures, and the model. Nothing is looked up where nothing is written.
    fn inputs(&self, data: &mut Dataset, items: &[Item]) -> anyhow::Result<Inputs> {
        let Some(answers) = &self.answers else { return Ok(Inputs::none()) };
        let mut read = outputs::model_files(&self.model.file()?);
        read.extend(self.vision.mmproj.iter().chain([&self.data]).cloned());
        read.extend(self.chat_template.iter().map(PathBuf::from));
        // Only a file that exists can be one of the pictures. What is wrong with a row is told when it is its turn.
        for row in items.iter().filter(|_| answers.exists()).flat_map(Item::rows) {
            for picture in data.conversation(*row).map(|row| row.pictures).unwrap_or_default() {
                if let Picture::File(path) = picture {
                    read.push(path);
                }
            }
        }
        Ok(outputs::inputs(&read))
    }

    fn existing(&self) -> Existing {
        match (self.resume, self.overwrite) {
            (true, _) => Existing::Resumed,
            (_, true) => Existing::Replaced,
            _ => Existing::Refused,
        }
    }

    fn n_predict(&self) -> usize {
        self.predict.unwrap_or(match self.data.extension().and_then(|e| e.to_str()) {
            Some(ending) if ending.eq_ignore_ascii_case("tsv") => match self.prompts {
                PromptStyle::MiniCpmV4 => 2048,
                _ => 256,
            },
            _ => 64,
        })
    }
}

/// Asks the questions of a file and prints how many were answered rightly.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    tell_if_large(&args.data);
    let mut data = Dataset::open(&args.data, args.rules, args.prompts)?;
    let items = data.select(&args.tasks, args.limit).map_err(|e| usage(e.into()))?;
    if items.is_empty() {
        bail_usage!("nothing is left to ask; use a --limit from 1");
    }
    let inputs = args.inputs(&mut data, &items)?;
    let mut answers = Answers::open(args.answers.as_deref(), args.existing(), inputs)?;
    let (context, assets) = common::open(&args.model, args.chat_template.as_deref())?;
    let sampler = greedy(&assets.tokenizer)?;
    let file = args.model.load_options()?.file;
    let mut vision = Vision::new(&args.vision, Some(&args.show()), &args.model.file()?, file, &context)?;
    let session = Session::new(context);
    common::watch_signals(session.interrupt())?;
    let mut settings = Settings::new(args, &session, &assets)?;
    if answers.has_pictures() {
        settings.set_vision(&vision.identity()?);
    }
    answers.check_settings(&settings)?;
    if !answers.is_empty() {
        for row in items.iter().flat_map(Item::rows) {
            answers.check_question(&data.conversation(*row)?)?;
        }
    }
    answers.start()?;
    let report = Report::new(data.rules());
    let n_predict = args.n_predict();
    let mut asking = Asking { data, session, assets, sampler, vision, settings, answers, report, n_predict };
    let stopped = asking.all(&items);
    asking.report.finish();
    let saved = asking.answers.finish();
    let shown = if args.json {
        sink::json(&asking.report.json(args, stopped.is_ok(), items.len(), &asking.session))
    } else {
        asking.report.print(stopped.is_ok()).map_err(anyhow::Error::from)
    };
    asking.report.tell_speed(asking.n_predict);
    saved?;
    shown?;
    let (done, all) = (asking.report.items, items.len());
    stopped.with_context(|| format!("stopped after {done} of {all} questions; the figures are of these"))
}

/// Says why nothing happens yet where checking a table takes seconds.
fn tell_if_large(path: &std::path::Path) {
    if let Some(bytes) = std::fs::metadata(path).ok().map(|m| m.len()).filter(|bytes| *bytes > LARGE) {
        errln!("checking {} ({})", path.display(), human(bytes));
    }
}

/// Everything that is needed to ask.
struct Asking {
    data: Dataset,
    session: Session,
    assets: Assets,
    sampler: SamplerChain,
    vision: Vision,
    settings: Settings,
    answers: Answers,
    report: Report,
    n_predict: usize,
}

impl Asking {
    /// Asks everything; what was answered before something went wrong is in the report.
    fn all(&mut self, items: &[Item]) -> anyhow::Result<()> {
        let mut progress = Progress::new(items.len());
        for item in items {
            self.item(item)?;
            progress.show(&self.report);
        }
        Ok(())
    }

    /// Asks what counts together: every turn of a conversation by itself, rotations as one.
    fn item(&mut self, item: &Item) -> anyhow::Result<()> {
        let mut scores = Vec::new();
        for row in item.rows() {
            let conversation = self.data.conversation(*row)?;
            let given = match self.answers.known(&conversation) {
                Some(known) => known,
                None => self.ask(&conversation).with_context(|| conversation.place.clone())?,
            };
            let row: Vec<f64> = conversation.turns.iter().zip(&given).map(|(turn, given)| turn.score(given)).collect();
            let answers = Given { conversation: &conversation, task: &item.task, answers: &given, scores: &row };
            self.answers.add(&answers, &self.settings)?;
            scores.extend(row);
        }
        if item.is_circular() {
            scores = vec![scores.into_iter().fold(1.0, f64::min)];
        }
        self.report.add(item, &scores);
        Ok(())
    }

    /// The model's answers to all turns of `conversation`.
    fn ask(&mut self, conversation: &Conversation) -> anyhow::Result<Vec<String>> {
        let shown = self.shown(conversation)?;
        let profile = self.vision.profile();
        let Self { session, assets, sampler, .. } = self;
        let given = converse(session, assets, sampler, profile, conversation, &shown, self.n_predict)?;
        for answer in &given {
            self.report.speed(answer);
            self.report.cut += usize::from(answer.stop == Stop::Length);
        }
        Ok(given.iter().map(|answer| answer.text.trim().to_owned()).collect())
    }

    /// Takes the pictures of a conversation in.
    fn shown(&mut self, conversation: &Conversation) -> anyhow::Result<Vec<Attachment>> {
        if conversation.pictures.is_empty() {
            return Ok(Vec::new());
        }
        let interrupt = std::sync::Arc::clone(self.session.interrupt());
        let media = self.vision.media()?;
        self.settings.set_vision(&media.identity()?);
        let started = Instant::now();
        let shown = take_in(media, conversation, &interrupt)?;
        for note in media.warnings() {
            errln!("ocelli: warning: {note}");
        }
        let encoded = shown.iter().filter(|s| matches!(s.origin, Origin::Encoded(_))).count();
        self.report.pictures(encoded, started.elapsed());
        let attach = if conversation.is_video { Shown::frame } else { Shown::numbered };
        Ok(shown.iter().map(attach).collect())
    }
}

fn take_in(media: &mut Media, conversation: &Conversation, interrupt: &AtomicBool) -> Result<Vec<Shown>, RuntimeError> {
    let mut files = Vec::new();
    let mut shown = Vec::new();
    for picture in &conversation.pictures {
        match picture {
            Picture::File(path) => files.push(path),
            Picture::Bytes(bytes) => shown.push(media.image_bytes(bytes, &mut (), interrupt)?),
        }
    }
    if !files.is_empty() {
        shown = match conversation.is_video {
            true => media.frames(&files, &mut (), interrupt)?,
            false => media.images(&files, &mut (), interrupt)?,
        };
    }
    Ok(shown)
}
