//! Jobs beside answers: who gets how much of a step, what becomes of failed and cancelled ones, and a picture that is
//! encoded while somebody is answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::mixture::FileType;
use ocelli_convert::progress::Silent;
use ocelli_convert::synth::{Preset, SynthOptions, write_checkpoint};
use ocelli_convert::{ConvertOptions, convert};
use ocelli_engine::{
    Answer, Assets, Choice, EncodeJob, Engine, Generation, Job, Queue, Scheduler, SchedulerOptions, Step,
};
use ocelli_image::Rgb8;
use ocelli_runtime::vision::{VisionEncoder, VisionModel, VisionOptions};
use ocelli_runtime::{
    Context, ContextOptions, Exec, FileOptions, Kernels, LoadOptions, Model, Precision, RuntimeError, find_beside,
};
use tempfile::TempDir;

struct Files {
    _dir: TempDir,
    text: Arc<Model>,
    assets: Arc<Assets>,
    vision: Arc<VisionModel>,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let synth = SynthOptions { preset: Preset::Mini, seed: 5, dtype: SourceType::Bf16, shards: None, overwrite: false };
    write_checkpoint(&dir.path().join("mini"), &synth, &Silent).unwrap();
    let options =
        ConvertOptions { file_type: FileType::F16, outdir: dir.path().to_owned(), ..ConvertOptions::default() };
    let path = &convert(&dir.path().join("mini"), &options, &Silent).unwrap().files[0].path;
    let (text, assets) = Model::load(path, &LoadOptions::default(), |meta| Assets::read(meta, None, None)).unwrap();
    let vision = VisionModel::load(&find_beside(path, 256).unwrap(), FileOptions::default()).unwrap();
    Files { _dir: dir, text: Arc::new(text), assets: Arc::new(assets), vision: Arc::new(vision) }
});

const PAUSE: Duration = Duration::from_millis(60);

fn exec() -> Arc<Exec> {
    Arc::new(Exec::new(Kernels::best(), 1))
}

fn scheduler(pause: Duration) -> Scheduler {
    let options =
        ContextOptions { n_ctx: 2048, n_positions: 4096, n_parallel: 3, n_threads: 1, ..ContextOptions::default() };
    let context = Context::new(Arc::clone(&FILES.text), exec(), &options).unwrap();
    Scheduler::new(context, SchedulerOptions { n_parallel: 3, pause })
}

/// Says always the same, for ever.
struct Endless;

impl Answer for Endless {
    fn choose(&mut self, _: &[f32]) -> Result<Choice, RuntimeError> {
        Ok(Choice::Token(7))
    }
}

fn answer(n_prompt: u32) -> Generation<Endless> {
    let prompt: Vec<u32> = (0..n_prompt).map(|i| 3 + i * 7 % 1000).collect();
    Generation::new(&prompt.into(), 2000, Endless)
}

/// What fake jobs are seen to do, in order.
type Log = Arc<Mutex<Vec<(&'static str, String)>>>;

/// Sleeps for every piece.
#[derive(Debug)]
struct Sleeper {
    name: &'static str,
    pieces: usize,
    piece: Duration,
    fails: bool,
    cancel: Arc<AtomicBool>,
    log: Log,
}

impl Sleeper {
    fn new(name: &'static str, pieces: usize, ms: u64, log: &Log) -> Box<Self> {
        let piece = Duration::from_millis(ms);
        Box::new(Self { name, pieces, piece, fails: false, cancel: Arc::default(), log: Arc::clone(log) })
    }
}

impl Job for Sleeper {
    fn step(&mut self, alone: bool) -> Result<bool, RuntimeError> {
        std::thread::sleep(self.piece);
        self.log.lock().unwrap().push((self.name, if alone { "alone" } else { "beside" }.to_owned()));
        if self.fails {
            return Err(RuntimeError::EmptyPrompt);
        }
        self.pieces -= 1;
        Ok(self.pieces == 0)
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn end(self: Box<Self>, how: Result<(), RuntimeError>) {
        let how = how.map_or_else(|error| error.to_string(), |()| "done".to_owned());
        self.log.lock().unwrap().push((self.name, how));
    }
}

/// Steps until the answers in `queue` are under way and their rate is known.
fn warm(scheduler: &mut Scheduler, queue: &mut Queue<Endless>) {
    for _ in 0..8 {
        scheduler.step(queue);
    }
}

#[test]
fn jobs_take_what_is_left_of_the_pause_beside_answers() {
    let mut scheduler = scheduler(PAUSE);
    let (mut queue, log) = (Queue::new(), Log::default());
    queue.push(answer(10));
    warm(&mut scheduler, &mut queue);
    queue.push_job(Sleeper::new("short", 1000, 4, &log));
    let steps: Vec<Step> = (0..12).map(|_| scheduler.step(&mut queue)).collect();
    for (i, step) in steps.iter().enumerate() {
        assert_eq!((step.answer_rows, step.prompt_rows), (1, 0));
        // Each sleeps 4 ms at least, and none begins that is expected to end after the pause.
        assert!((1..=15).contains(&step.job_steps), "step {i}: {step:?}");
    }
    // More than one a step, unless the machine is very slow.
    assert!(steps.iter().map(|step| step.job_steps).sum::<usize>() >= 24, "{steps:?}");
    assert!(log.lock().unwrap().iter().all(|(_, what)| what == "beside"));
}

#[test]
fn a_piece_longer_than_the_pause_goes_on_one_a_step() {
    let mut scheduler = scheduler(Duration::from_millis(5));
    let (mut queue, log) = (Queue::new(), Log::default());
    queue.push(answer(10));
    warm(&mut scheduler, &mut queue);
    queue.push_job(Sleeper::new("long", 6, 12, &log));
    for _ in 0..6 {
        let step = scheduler.step(&mut queue);
        assert_eq!((step.answer_rows, step.job_steps), (1, 1));
    }
    assert_eq!(queue.jobs(), 0);
    assert_eq!(log.lock().unwrap().last().unwrap().1, "done");
}

#[test]
fn prompts_and_jobs_share_what_answers_leave() {
    let mut scheduler = scheduler(PAUSE);
    let (mut queue, log) = (Queue::new(), Log::default());
    queue.push(answer(10));
    warm(&mut scheduler, &mut queue);
    queue.push_job(Sleeper::new("job", 100_000, 1, &log));
    queue.push(answer(1500));
    let (mut steps, mut left) = (0, 1500);
    while left > 0 {
        let step = scheduler.step(&mut queue);
        assert!(step.answer_rows > 0 && step.job_steps > 0 && step.prompt_rows > 0, "{step:?}");
        left -= step.prompt_rows;
        steps += 1;
        // 16 rows a step at least.
        assert!(steps < 100);
    }
}

#[test]
fn without_answers_jobs_are_alone_and_a_step_still_ends() {
    let mut scheduler = scheduler(PAUSE);
    let (mut queue, log) = (Queue::<Endless>::new(), Log::default());
    assert!(scheduler.step(&mut queue).is_idle());
    queue.push_job(Sleeper::new("job", 1000, 5, &log));
    assert!(!queue.is_empty());
    for _ in 0..3 {
        let step = scheduler.step(&mut queue);
        assert!(!step.is_idle() && (1..=20).contains(&step.job_steps), "{step:?}");
    }
    assert!(log.lock().unwrap().iter().all(|(_, what)| what == "alone"));
    // While a prompt is read, nobody waits for a token; from then on, somebody does.
    queue.push(answer(1000));
    while scheduler.step(&mut queue).answer_rows == 0 {}
    log.lock().unwrap().clear();
    scheduler.step(&mut queue);
    assert!(log.lock().unwrap().iter().all(|(_, what)| what == "beside"));
    queue.interrupt_all();
    assert!(queue.is_empty());
    assert_eq!(log.lock().unwrap().last().unwrap().1, RuntimeError::Interrupted.to_string());
}

#[test]
fn jobs_are_done_in_order_and_end_alone() {
    let mut scheduler = scheduler(PAUSE);
    let (mut queue, log) = (Queue::new(), Log::default());
    queue.push(answer(10));
    let mut failing = Sleeper::new("failing", 9, 1, &log);
    failing.fails = true;
    let cancelled = Sleeper::new("cancelled", 9, 1, &log);
    cancelled.cancel.store(true, Ordering::Relaxed);
    let cancelled_later = Sleeper::new("cancelled later", 100_000, 1, &log);
    let cancel = Arc::clone(&cancelled_later.cancel);
    for job in [Sleeper::new("first", 3, 1, &log), failing, cancelled, Sleeper::new("last", 2, 1, &log)] {
        queue.push_job(job);
    }
    queue.push_job(cancelled_later);
    while queue.jobs() > 1 {
        scheduler.step(&mut queue);
    }
    scheduler.step(&mut queue);
    cancel.store(true, Ordering::Relaxed);
    let step = scheduler.step(&mut queue);
    assert_eq!((queue.jobs(), step.job_steps, queue.running()), (0, 0, 1));
    let mut seen: Vec<(&str, String)> = log.lock().unwrap().clone();
    seen.iter_mut()
        .filter(|(_, what)| what == "alone" || what == "beside")
        .for_each(|(_, what)| "piece".clone_into(what));
    seen.dedup();
    let (interrupted, failed) = (RuntimeError::Interrupted.to_string(), RuntimeError::EmptyPrompt.to_string());
    let want = [
        ("cancelled", interrupted.as_str()),
        ("first", "piece"),
        ("first", "done"),
        ("failing", "piece"),
        ("failing", failed.as_str()),
        ("last", "piece"),
        ("last", "done"),
        ("cancelled later", "piece"),
        ("cancelled later", interrupted.as_str()),
    ];
    assert_eq!(seen.iter().map(|(name, what)| (*name, what.as_str())).collect::<Vec<_>>(), want);
}

fn encoder() -> VisionEncoder {
    let options = VisionOptions { n_threads: 1, precision: Precision::Fast, ..VisionOptions::default() };
    VisionEncoder::new(Arc::clone(&FILES.vision), exec(), &options).unwrap()
}

/// Slices of noise, of differing sizes.
fn slices(n: usize) -> Vec<Rgb8> {
    let patch = FILES.vision.config().patch_size;
    let mut state = 1u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let sides = (0..n).map(|i| ((4 + i % 3) * patch, (6 - i % 4) * patch));
    sides.map(|(w, h)| Rgb8::new(w, h, (0..w * h * 3).map(|_| byte()).collect()).unwrap()).collect()
}

fn encoded(slices: &[Rgb8]) -> Vec<f32> {
    let slices: Vec<&Rgb8> = slices.iter().collect();
    encoder().encode(&slices, None, &mut |_, _| {}, &AtomicBool::new(false)).unwrap()
}

#[test]
fn answers_go_on_while_a_picture_is_encoded() {
    // No pause at all: one piece a step.
    let mut scheduler = scheduler(Duration::ZERO);
    let mut queue = Queue::new();
    queue.push(answer(10));
    warm(&mut scheduler, &mut queue);
    let (ten, two, encoder) = (slices(10), slices(2), Arc::new(Mutex::new(encoder())));
    let (job, rows) = EncodeJob::new(&encoder, ten.clone()).unwrap();
    let (other, other_rows) = EncodeJob::new(&encoder, two.clone()).unwrap();
    queue.push_job(Box::new(job));
    queue.push_job(Box::new(other));
    let (mut tokens, mut pieces) = (0, 0);
    while queue.jobs() > 0 {
        let step = scheduler.step(&mut queue);
        assert_eq!(step.answer_rows, 1);
        tokens += step.answer_rows;
        pieces += step.job_steps;
    }
    // A token for every block of every slice.
    assert_eq!(pieces, 12 * (FILES.vision.config().n_layer + 1));
    assert_eq!(tokens, pieces);
    assert!(rows.wait().unwrap() == encoded(&ten));
    assert!(other_rows.wait().unwrap() == encoded(&two));
}

#[test]
fn an_engine_encodes_and_forgets_what_nobody_wants() {
    let assets = Arc::clone(&FILES.assets);
    let engine = Engine::start(scheduler(PAUSE), assets).unwrap();
    let (three, encoder) = (slices(3), Arc::new(Mutex::new(encoder())));
    let (unwanted, rows) = EncodeJob::new(&encoder, slices(50)).unwrap();
    drop(rows);
    engine.submit(Box::new(unwanted));
    let (job, rows) = EncodeJob::new(&encoder, three.clone()).unwrap();
    engine.submit(Box::new(job));
    assert!(rows.wait().unwrap() == encoded(&three));
    let (job, rows) = EncodeJob::new(&encoder, slices(50)).unwrap();
    rows.cancel();
    engine.submit(Box::new(job));
    assert!(matches!(rows.wait(), Err(RuntimeError::Interrupted)));
    let crooked = Rgb8::new(3, 5, vec![0; 45]).unwrap();
    assert!(matches!(EncodeJob::new(&encoder, vec![crooked]), Err(RuntimeError::Vision(_))));
    // An engine that ends tells those who wait.
    let told = Arc::new(AtomicUsize::new(0));
    #[derive(Debug)]
    struct Waiting(Arc<AtomicUsize>);
    impl Job for Waiting {
        fn step(&mut self, _: bool) -> Result<bool, RuntimeError> {
            Ok(false)
        }

        fn end(self: Box<Self>, how: Result<(), RuntimeError>) {
            assert!(matches!(how, Err(RuntimeError::Interrupted)));
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    for _ in 0..2 {
        engine.submit(Box::new(Waiting(Arc::clone(&told))));
    }
    drop(engine);
    assert_eq!(told.load(Ordering::Relaxed), 2);
}
