//! A small random model in any format, requests to it, and what they get alone and in company.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::mixture::FileType;
use ocelli_convert::progress::Silent;
use ocelli_convert::synth::{Preset, SynthOptions, write_checkpoint};
use ocelli_convert::{ConvertOptions, convert};
use ocelli_engine::{Answer, Assets, Choice, Ended, Generation, Queue, Scheduler, SchedulerOptions, Step, Stop};
use ocelli_runtime::{
    Context, ContextOptions, Exec, ImageEmbedding, Kernels, LoadOptions, Model, Precision, Prompt, RuntimeError,
};
use ocelli_text::sampler::SamplerChain;

/// A model, its vocabulary, and the kernels it is to run with.
pub(crate) type Loaded = (Arc<Model>, Arc<Assets>, Kernels);

static MODELS: LazyLock<Mutex<HashMap<(&'static str, FileType), Loaded>>> = LazyLock::new(Mutex::default);

/// The random model of `preset`, stored as `file_type`; made once per run.
fn synth(preset: Preset, file_type: FileType) -> Loaded {
    let mut models = MODELS.lock().unwrap();
    if let Some(known) = models.get(&(preset.name(), file_type)) {
        return known.clone();
    }
    // A folder of this process: the checks start several at a time.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let checkpoint = dir.path().join(preset.name());
    let options = SynthOptions { preset, seed: 7, dtype: SourceType::Bf16, shards: None, overwrite: false };
    write_checkpoint(&checkpoint, &options, &Silent).unwrap();
    let options = ConvertOptions { file_type, outdir: dir.path().to_owned(), ..ConvertOptions::default() };
    let report = convert(&checkpoint, &options, &Silent).unwrap();
    let loaded = load(&report.files[0].path);
    models.insert((preset.name(), file_type), loaded.clone());
    loaded
}

fn load(path: &Path) -> Loaded {
    let read = |meta: &ocelli_gguf::Metadata<'_>| Assets::read(meta, None, None);
    let (model, assets) = Model::load(path, &LoadOptions::default(), read).unwrap();
    (Arc::new(model), Arc::new(assets), Kernels::best())
}

/// The smallest model.
pub(crate) fn mini(file_type: FileType) -> Loaded {
    synth(Preset::Mini, file_type)
}

/// A larger one, with 16 query heads for its only KV head.
pub(crate) fn small(file_type: FileType) -> Loaded {
    synth(Preset::Small, file_type)
}

/// One thread, `n_ctx` positions for each of `n_parallel` conversations.
pub(crate) fn options(n_ctx: usize, n_parallel: usize) -> ContextOptions {
    ContextOptions {
        n_ctx,
        n_positions: n_ctx * n_parallel,
        n_parallel,
        n_ubatch: 128,
        n_threads: 1,
        precision: Precision::Fast,
        ..ContextOptions::default()
    }
}

pub(crate) fn scheduler((model, _, kernels): &Loaded, options: &ContextOptions, pause: Duration) -> Scheduler {
    let exec = Arc::new(Exec::for_context(*kernels, options));
    let context = Context::new(Arc::clone(model), exec, options).unwrap();
    Scheduler::new(context, SchedulerOptions { n_parallel: options.n_parallel, pause })
}

/// Numbers that look random (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// From `low` to `high`, both included.
    pub(crate) fn within(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// In one of `n` cases.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.within(1, n) == 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.within(0, all.len() - 1)]
    }

    /// Ordinary tokens of the vocabulary.
    pub(crate) fn ids(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.within(3, 1900) as u32).collect()
    }

    /// A picture of `rows` random rows.
    pub(crate) fn picture(&mut self, rows: usize, n_embd: usize) -> Arc<ImageEmbedding> {
        let mut key = [0; 32];
        key.iter_mut().for_each(|byte| *byte = self.next() as u8);
        let mut value = || (self.next() % 2001) as f32 / 1000.0 - 1.0;
        let rows_of = (0..rows * n_embd).map(|_| value()).collect();
        let size = (10, 10);
        Arc::new(ImageEmbedding { key, model: [0; 32], size, grid: None, queries: rows, n_embd, rows: rows_of })
    }
}

/// What somebody wants.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) prompt: Prompt,
    pub(crate) n_predict: usize,
    /// Draws with this seed; greedy without one.
    pub(crate) seed: Option<u64>,
    /// The step before which it arrives.
    pub(crate) arrives: usize,
    /// The step before which it is cancelled.
    pub(crate) leaves: Option<usize>,
}

impl Request {
    pub(crate) fn new(prompt: impl Into<Prompt>, n_predict: usize) -> Self {
        Self { prompt: prompt.into(), n_predict, seed: None, arrives: 0, leaves: None }
    }

    pub(crate) fn generation(&self, assets: &Assets) -> Generation<Listener> {
        Generation::new(&self.prompt, self.n_predict, Listener::new(self.seed, assets))
    }
}

/// Who chooses tokens, and writes down what was seen.
pub(crate) struct Listener {
    chain: Option<SamplerChain>,
    /// Which of several it is.
    pub(crate) number: usize,
    /// A digest of all logits at every token chosen, and what was chosen.
    pub(crate) seen: Vec<(u64, u32)>,
    pub(crate) cancelled: Rc<Cell<bool>>,
    /// Fails, once so many tokens have been chosen.
    pub(crate) fails_at: Option<usize>,
    /// Chooses a token that does not exist, once so many tokens have been chosen.
    pub(crate) errs_at: Option<usize>,
}

impl Listener {
    pub(crate) fn new(seed: Option<u64>, assets: &Assets) -> Self {
        let chain = seed.map(|seed| {
            let mut params = assets.sampling.clone();
            params.penalty_repeat = 1.1;
            params.seed = Some(seed);
            SamplerChain::new(params, &assets.tokenizer).unwrap()
        });
        Self { chain, number: 0, seen: Vec::new(), cancelled: Rc::default(), fails_at: None, errs_at: None }
    }
}

fn digest(logits: &[f32]) -> u64 {
    logits.iter().fold(0xcbf2_9ce4_8422_2325, |acc, x| (acc ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3))
}

impl Answer for Listener {
    fn choose(&mut self, logits: &[f32]) -> Result<Choice, RuntimeError> {
        if self.fails_at == Some(self.seen.len()) {
            return Err(RuntimeError::EmptyPrompt);
        }
        let id = match &mut self.chain {
            Some(chain) => {
                let id = chain.sample(logits)?;
                chain.accept(id);
                id
            }
            None => logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32,
        };
        let id = if self.errs_at == Some(self.seen.len()) { logits.len() as u32 } else { id };
        self.seen.push((digest(logits), id));
        Ok(Choice::Token(id))
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }
}

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seen: Vec<(u64, u32)>,
    pub(crate) how: Result<Ended, RuntimeError>,
}

impl Outcome {
    pub(crate) fn of(generation: Generation<Listener>, how: Result<Ended, RuntimeError>) -> Self {
        Self { seen: generation.into_answer().seen, how }
    }

    pub(crate) fn stop(&self) -> Stop {
        self.how.as_ref().unwrap().stop
    }
}

/// `request` in a context of its own, its prompt in one piece.
pub(crate) fn alone(loaded: &Loaded, shared: &ContextOptions, request: &Request) -> Outcome {
    let options = ContextOptions { n_positions: 0, n_parallel: 1, n_ubatch: 512, n_threads: 1, ..shared.clone() };
    let mut scheduler = scheduler(loaded, &options, Duration::from_secs(3600));
    let mut queue = Queue::new();
    queue.push(request.generation(&loaded.1));
    loop {
        scheduler.step(&mut queue);
        if let Some((generation, how)) = queue.take_ended() {
            return Outcome::of(generation, how);
        }
    }
}

/// All of `requests` in one context, in their order. `each` sees every step.
pub(crate) fn together(
    (_, assets, _): &Loaded,
    scheduler: &mut Scheduler,
    requests: &[Request],
    mut each: impl FnMut(&Step, &Queue<Listener>),
) -> Vec<Outcome> {
    let mut queue = Queue::new();
    let mut switches: Vec<Option<Rc<Cell<bool>>>> = requests.iter().map(|_| None).collect();
    let mut outcomes: Vec<Option<Outcome>> = requests.iter().map(|_| None).collect();
    for step in 0.. {
        assert!(step < 20_000, "the queue does not get empty");
        for (number, request) in requests.iter().enumerate() {
            if request.arrives == step {
                let mut generation = request.generation(assets);
                generation.answer().number = number;
                switches[number] = Some(Rc::clone(&generation.answer().cancelled));
                queue.push(generation);
            }
            if let Some(switch) = switches[number].as_ref().filter(|_| request.leaves == Some(step)) {
                switch.set(true);
            }
        }
        let done = scheduler.step(&mut queue);
        each(&done, &queue);
        while let Some((mut generation, how)) = queue.take_ended() {
            let number = generation.answer().number;
            outcomes[number] = Some(Outcome::of(generation, how));
        }
        if queue.is_empty() && requests.iter().all(|request| request.arrives <= step) {
            break;
        }
    }
    outcomes.into_iter().map(Option::unwrap).collect()
}

/// That `outcome` is what the request gets alone, as far as it went; `case` says how to run it again.
#[track_caller]
pub(crate) fn assert_same(outcome: &Outcome, alone: &Outcome, case: &str) {
    let got = outcome.how.as_ref().unwrap_or_else(|error| panic!("{case}: {error}"));
    let want = alone.how.as_ref().unwrap_or_else(|error| panic!("{case}, alone: {error}"));
    let n = outcome.seen.len();
    if got.stop != Stop::Interrupted {
        assert_eq!((got.stop, n), (want.stop, alone.seen.len()), "{case}: ended otherwise");
    }
    let first = outcome.seen.iter().zip(&alone.seen).position(|(a, b)| a != b);
    assert_eq!(first, None, "{case}: the first token whose logits differ, of {n}");
    assert!(n <= alone.seen.len(), "{case}: more tokens than alone");
}
