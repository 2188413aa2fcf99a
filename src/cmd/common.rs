//! Options shared by the commands that run a model, spelled as llama.cpp spells them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ocelli_engine::{Assets, Completion, Watch};
use ocelli_quant::GgmlType;
use ocelli_runtime::kv::KV_TYPES;
use ocelli_runtime::memory::human;
use ocelli_runtime::{
    BuiltinFactors, Context, ContextOptions, Exec, FileOptions, LoadOptions, Model, Precision, RuntimeError,
};
use ocelli_text::sampler::{Order, SamplerChain, SamplerOverrides, parse_logit_bias};
use ocelli_text::template::Worker;

use super::names;
use super::usage::Usage;
use crate::bundled::Bundled;
use crate::cache_folder;
use crate::isa;
use crate::signals::{self, CtrlC};
use crate::sink::{self, OutputError, errln};

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PrecisionArg {
    /// Dequantise to f32, f32 arithmetic: for comparison with float implementations
    Exact,
    /// 8-bit activations; weights of 16 bits in fixed point
    Fast,
}

impl PrecisionArg {
    pub(crate) fn precision(self) -> Precision {
        match self {
            Self::Exact => Precision::Exact,
            Self::Fast => Precision::Fast,
        }
    }

    /// The format of cached keys and values where none is asked for: in exact work, rounding them would be the largest error.
    pub(crate) fn kv_type(self) -> GgmlType {
        match self {
            Self::Exact => GgmlType::F32,
            Self::Fast => GgmlType::F16,
        }
    }
}

pub(crate) fn kv_type(name: &str) -> Result<GgmlType, String> {
    KV_TYPES.into_iter().find(|t| t.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known: Vec<_> = KV_TYPES.iter().map(|t| t.name().to_lowercase()).collect();
        format!("the cache can be {}", known.join(", "))
    })
}

/// Which model, and how it is run.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Model file (.gguf), the first part of a split one is enough, or the name of a model, which is fetched if it is not
    /// here (see `ocelli pull --help`); if not given, the one that OCELLI_MODEL names, else the small model that Ocelli brings
    #[arg(short = 'm', long = "model", value_name = "FILE|NAME")]
    pub(crate) model: Option<PathBuf>,
    /// [-hf] Model of a repository at the hub
    #[arg(long, value_name = "USER/REPO[:QUANT]", conflicts_with = "model")]
    pub(crate) hf_repo: Option<String>,
    /// [-hff] This file of the repository
    #[arg(long, value_name = "FILE", requires = "hf_repo")]
    pub(crate) hf_file: Option<String>,
    /// Context in tokens; 0: as long as the model was trained for
    #[arg(short = 'c', long = "ctx-size", value_name = "N", default_value_t = 0)]
    pub(crate) ctx_size: usize,
    /// Threads for one token at a time; 0: physical cores
    #[arg(short = 't', long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// [-tb] Threads for prompts; 0: as -t
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads_batch: usize,
    /// Upper bound of -ub
    #[arg(short = 'b', long, value_name = "N", default_value_t = 2048)]
    pub(crate) batch_size: usize,
    /// [-ub] Prompt tokens computed together
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) ubatch_size: usize,
    /// [-ctk] Format of cached keys [default: f16, with --precision exact f32]
    #[arg(long, value_name = "TYPE", value_parser = kv_type)]
    pub(crate) cache_type_k: Option<GgmlType>,
    /// [-ctv] Format of cached values [default: f16, with --precision exact f32]
    #[arg(long, value_name = "TYPE", value_parser = kv_type)]
    pub(crate) cache_type_v: Option<GgmlType>,
    /// Lock the mapped file in memory
    #[arg(long)]
    pub(crate) mlock: bool,
    /// Read the file into memory instead of mapping it
    #[arg(long)]
    pub(crate) no_mmap: bool,
    /// Page the whole file in before starting
    #[arg(long)]
    pub(crate) populate: bool,
    /// Instruction set of the kernels (also OCELLI_ISA); the best one this machine has if not given
    #[arg(long, value_name = "NAME")]
    pub(crate) isa: Option<String>,
    /// How products are computed
    #[arg(long, value_name = "MODE", default_value = "fast")]
    pub(crate) precision: PrecisionArg,
    /// Use these rope factors in place of the file's: minicpm-v-4
    #[arg(long, value_name = "NAME")]
    pub(crate) rope_factors: Option<String>,
}

impl ModelArgs {
    /// The model's file: the one that was named, fetched if need be, or the bundled model's.
    pub(crate) fn file(&self) -> anyhow::Result<PathBuf> {
        match self.name()? {
            Some(name) => Ok(names::find(&name)?.text),
            None => Ok(Bundled::open()?.model()),
        }
    }

    /// What was named on the command line, else in the environment.
    fn name(&self) -> anyhow::Result<Option<PathBuf>> {
        match (&self.hf_repo, &self.model) {
            (Some(repo), _) => names::of_repo(repo, self.hf_file.as_deref()).map(Some),
            (None, Some(model)) => Ok(Some(model.clone())),
            (None, None) => Ok(names::of_environment()),
        }
    }

    pub(crate) fn load_options(&self) -> anyhow::Result<LoadOptions> {
        Ok(LoadOptions {
            file: FileOptions {
                mmap: !self.no_mmap,
                populate: self.populate,
                mlock: self.mlock,
                identities: cache_folder::identities(),
            },
            rope_factors: self.rope_factors.as_deref().map(BuiltinFactors::from_name).transpose()?,
        })
    }

    pub(crate) fn context_options(&self) -> ContextOptions {
        ContextOptions {
            n_ctx: self.ctx_size,
            n_batch: self.batch_size,
            n_ubatch: self.ubatch_size,
            n_threads: self.threads,
            n_threads_batch: self.threads_batch,
            type_k: self.cache_type_k.unwrap_or(self.precision.kv_type()),
            type_v: self.cache_type_v.unwrap_or(self.precision.kv_type()),
            precision: self.precision.precision(),
            ..ContextOptions::default()
        }
    }
}

/// How the next token is chosen. What is not given comes from the model file, else from the defaults shown.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Temperature; 0: always the most likely token [default: 0.8]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,
    /// Keep the K most likely tokens; 0: all [default: 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(crate) top_k: Option<i32>,
    /// Keep the most likely tokens that together reach P; 1: all [default: 0.95]
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Keep tokens at least P times as likely as the best one; 0: all [default: 0.05]
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Locally typical sampling; 1: off [default: 1]
    #[arg(long, alias = "typical-p", value_name = "P")]
    pub(crate) typical: Option<f32>,
    /// Keep tokens within N standard deviations of the best logit; negative: off [default: -1]
    #[arg(long, alias = "top-nsigma", value_name = "N", allow_negative_numbers = true)]
    pub(crate) top_n_sigma: Option<f32>,
    /// Divide the logits of recent tokens by this; 1: off [default: 1]
    #[arg(long, value_name = "X")]
    pub(crate) repeat_penalty: Option<f32>,
    /// How many tokens count as recent; -1: all of the context [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) repeat_last_n: Option<i32>,
    /// Taken from the logit of every recent token [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Taken from the logit of a recent token for each time it occurred [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// DRY: strength; 0: off [default: 0]
    #[arg(long, value_name = "X")]
    pub(crate) dry_multiplier: Option<f32>,
    /// DRY: base of the penalty's growth [default: 1.75]
    #[arg(long, value_name = "X")]
    pub(crate) dry_base: Option<f32>,
    /// DRY: longest repetition without penalty [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) dry_allowed_length: Option<i32>,
    /// DRY: tokens looked back; -1: all of the context [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) dry_penalty_last_n: Option<i32>,
    /// DRY: text that ends a repetition; may be given several times, `none` for no breakers
    #[arg(long, value_name = "TEXT")]
    pub(crate) dry_sequence_breaker: Vec<String>,
    /// XTC: probability of removing the most likely tokens [default: 0]
    #[arg(long, value_name = "P")]
    pub(crate) xtc_probability: Option<f32>,
    /// XTC: likelihood above which tokens may be removed [default: 0.1]
    #[arg(long, value_name = "P")]
    pub(crate) xtc_threshold: Option<f32>,
    /// Mirostat version: 0 off, 1 or 2 [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) mirostat: Option<i32>,
    /// Mirostat: learning rate, eta [default: 0.1]
    #[arg(long, value_name = "X")]
    pub(crate) mirostat_lr: Option<f32>,
    /// Mirostat: target entropy, tau [default: 5]
    #[arg(long, value_name = "X")]
    pub(crate) mirostat_ent: Option<f32>,
    /// Dynamic temperature: temperatures from T − X to T + X; 0: off [default: 0]
    #[arg(long, value_name = "X")]
    pub(crate) dynatemp_range: Option<f32>,
    /// Dynamic temperature: exponent [default: 1]
    #[arg(long, value_name = "X")]
    pub(crate) dynatemp_exp: Option<f32>,
    /// Seed of the random numbers; -1: another one every time [default: -1]
    #[arg(short = 's', long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<i64>,
    /// Change a token's logit: `ID+BIAS` or `ID-BIAS`; may be given several times
    #[arg(short = 'l', long, value_name = "ID±BIAS")]
    pub(crate) logit_bias: Vec<String>,
    /// Never end an answer before -n tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Order of the samplers, separated by `;`
    #[arg(long, value_name = "NAMES")]
    pub(crate) samplers: Option<String>,
}

impl SamplingArgs {
    /// What was asked for, leaving the rest to the model file.
    fn overrides(&self) -> anyhow::Result<SamplerOverrides> {
        let seed = match self.seed {
            None | Some(-1) => None,
            Some(seed) => {
                let negative = |_| Usage("--seed is -1 (another one every time) or a number from 0".to_owned());
                Some(u64::try_from(seed).map_err(negative)?)
            }
        };
        let mirostat = self.mirostat.map(u32::try_from).transpose();
        let mirostat = mirostat.map_err(|_| Usage("--mirostat is 0 (off), 1 or 2".to_owned()))?;
        let biases = self.logit_bias.iter().map(|text| parse_logit_bias(text)).collect::<Result<Vec<_>, _>>()?;
        let breakers = match self.dry_sequence_breaker.as_slice() {
            [] => None,
            [one] if one == "none" => Some(Vec::new()),
            some => Some(some.to_vec()),
        };
        Ok(SamplerOverrides {
            seed,
            order: self.samplers.as_deref().map(Order::parse).transpose()?,
            temperature: self.temp,
            dynatemp_range: self.dynatemp_range,
            dynatemp_exponent: self.dynatemp_exp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical,
            top_n_sigma: self.top_n_sigma,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            penalty_last_n: self.repeat_last_n,
            penalty_repeat: self.repeat_penalty,
            penalty_freq: self.frequency_penalty,
            penalty_present: self.presence_penalty,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_penalty_last_n: self.dry_penalty_last_n,
            dry_sequence_breakers: breakers,
            mirostat,
            mirostat_tau: self.mirostat_ent,
            mirostat_eta: self.mirostat_lr,
            logit_bias: (!biases.is_empty()).then_some(biases),
            ignore_eos: self.ignore_eos.then_some(true),
        })
    }

    /// A chain with the model's recommendations and what was asked for.
    pub(crate) fn chain(&self, assets: &Assets) -> anyhow::Result<SamplerChain> {
        let mut params = assets.sampling.clone();
        self.overrides()?.apply(&mut params);
        Ok(SamplerChain::new(params, &assets.tokenizer)?)
    }
}

/// Loads the model and sets its context up, telling on stderr what is used.
pub(crate) fn open(args: &ModelArgs, chat_template: Option<&str>) -> anyhow::Result<(Context, Assets)> {
    load(args, &args.context_options(), chat_template, super::template::worker())
}

/// As [`open`], with other options of the context, for texts that no chat template makes.
pub(crate) fn open_raw(args: &ModelArgs, options: &ContextOptions) -> anyhow::Result<(Context, Assets)> {
    load(args, options, None, None)
}

fn load(
    args: &ModelArgs,
    options: &ContextOptions,
    chat_template: Option<&str>,
    worker: Option<&Worker>,
) -> anyhow::Result<(Context, Assets)> {
    let kernels = isa::kernels(args.isa.as_deref())?;
    let file = args.file()?;
    let started = Instant::now();
    let read = Model::load(&file, &args.load_options()?, |meta| Assets::read(meta, chat_template, worker));
    let (model, assets) = read.map_err(|error| match (error, chat_template) {
        // A fault of the template that was asked for is not the model's.
        (RuntimeError::InFile { source, .. }, Some(choice)) if matches!(*source, RuntimeError::Template(_)) => {
            anyhow::Error::new(*source).context(format!("--chat-template {choice}"))
        }
        (error, _) => error.into(),
    })?;
    let loaded = started.elapsed();
    for note in model.warnings().iter().chain(assets.tokenizer.notes()) {
        errln!("ocelli: warning: {note}");
    }
    let exec = Arc::new(Exec::for_context(kernels, options));
    let context = Context::new(Arc::new(model), exec, options)?;
    describe(&context, loaded)?;
    Ok((context, assets))
}

/// The lines at the start: model, machine, context, cache.
fn describe(context: &Context, loaded: Duration) -> anyhow::Result<()> {
    let model = context.model();
    let (config, shape) = (model.config(), context.kv_shape());
    let name = config.name.as_deref().unwrap_or("unnamed");
    let size = human(model.weights().file_bytes());
    errln!("model: {} ({}), {size}, loaded in {:.2} s", name, config.arch, loaded.as_secs_f64());
    let (one, many) = context.threads();
    let threads = if one == many { one.to_string() } else { format!("{one} (prompts: {many})") };
    let precision = match context.precision() {
        Precision::Exact => "exact",
        Precision::Fast => "fast",
    };
    errln!(
        "isa: {}, threads: {threads}, precision: {precision}, rope factors: {}",
        context.isa(),
        context.rope().factors()
    );
    let (k, v) = context.kv_bytes();
    if context.n_ctx() > config.n_ctx_train {
        errln!(
            "ocelli: warning: the context of {} tokens is longer than the {} the model was trained for",
            context.n_ctx(),
            config.n_ctx_train
        );
    }
    errln!(
        "context: {} tokens, KV cache: K {} {}, V {} {}",
        context.n_ctx(),
        shape.type_k.name().to_lowercase(),
        human(k),
        shape.type_v.name().to_lowercase(),
        human(v)
    );
    Ok(())
}

/// Bytes of a text, at most: two hundred times what the longest context holds.
const MAX_TEXT: u64 = 256 << 20;

/// The whole text of `path`, `-` being standard input; a byte-order mark is not part of it.
///
/// # Errors
/// When it cannot be read, is longer than [`MAX_TEXT`], or is no UTF-8.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut name = path.display().to_string();
    // A device or a pipe may have no end.
    if path.as_os_str() == "-" {
        name = "standard input".to_owned();
        std::io::stdin().lock().take(MAX_TEXT + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_TEXT + 1).read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", path.display()))?;
    }
    if bytes.len() as u64 > MAX_TEXT {
        anyhow::bail!("{name}: longer than the {} MiB that a text may have; give a part of it", MAX_TEXT >> 20);
    }
    ocelli_convert::read::decode_text(bytes).map_err(|fault| anyhow::anyhow!("{name}: {fault}"))
}

/// Makes signals stop what looks at `interrupt` and end the program; see [`signals`].
pub(crate) fn watch_signals(interrupt: &Arc<AtomicBool>) -> anyhow::Result<()> {
    signals::watch(interrupt, CtrlC::Ends, || {})
}

/// Writes an answer to stdout as it comes; where stdout is gone, stops the answer.
pub(crate) struct Stream {
    interrupt: Arc<AtomicBool>,
    broken: Option<OutputError>,
    shown: bool,
}

impl Stream {
    /// Stops through `interrupt`; writes nothing where `shown` is false.
    pub(crate) fn new(interrupt: &Arc<AtomicBool>, shown: bool) -> Self {
        Self { interrupt: Arc::clone(interrupt), broken: None, shown }
    }

    /// Ends the line; fails if stdout did.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.text("\n");
        self.broken.map_or(Ok(()), |e| Err(e.into()))
    }
}

impl Watch for Stream {
    fn text(&mut self, text: &str) {
        if !self.shown || self.broken.is_some() {
            return;
        }
        if let Err(error) = sink::out(text) {
            self.broken = Some(error);
            self.interrupt.store(true, Ordering::Relaxed);
        }
    }
}

/// `-n` as a count: -1 is as many as fit.
pub(crate) fn n_predict(n: i64) -> anyhow::Result<usize> {
    match n {
        -1 => Ok(usize::MAX),
        n => Ok(usize::try_from(n)
            .map_err(|_| Usage("-n/--predict is -1 (as many as fit) or a number from 0".to_owned()))?),
    }
}

/// `prompt: 12 tokens (3 cached), 40.1 tok/s; answer: 30 tokens, 11.9 tok/s`; without a rate where nothing was computed.
pub(crate) fn rates(done: &Completion) -> String {
    let cached = if done.prefill.reused > 0 { format!(" ({} cached)", done.prefill.reused) } else { String::new() };
    let tokens = |n: usize| format!("{n} token{}", if n == 1 { "" } else { "s" });
    let rate = |rate: Option<f64>| rate.map(|rate| format!(", {rate:.1} tok/s")).unwrap_or_default();
    format!(
        "prompt: {}{cached}{}; answer: {}{}",
        tokens(done.n_prompt),
        rate(done.prompt_rate()),
        tokens(done.tokens.len()),
        rate(done.answer_rate())
    )
}
