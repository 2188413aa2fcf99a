//! Steps in which answers go on allocate nothing once they are warm, however many answers there are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::mixture::FileType;
use ocelli_convert::progress::Silent;
use ocelli_convert::synth::{Preset, SynthOptions, write_checkpoint};
use ocelli_convert::{ConvertOptions, convert};
use ocelli_engine::{Answer, Assets, Choice, Generation, Queue, Scheduler, SchedulerOptions};
use ocelli_runtime::{Context, ContextOptions, Exec, Kernels, LoadOptions, Model, Precision, RuntimeError};
use ocelli_text::sampler::SamplerChain;

struct Counting;

static WATCHING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

fn count() {
    if WATCHING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches only atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `alloc` or `realloc` above, which got it from the same allocator.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as for `dealloc`; the promise about `new_size` is handed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Draws tokens and counts them.
struct Drawing<'a> {
    chain: SamplerChain,
    produced: &'a AtomicUsize,
}

impl Answer for Drawing<'_> {
    fn choose(&mut self, logits: &[f32]) -> Result<Choice, RuntimeError> {
        let token = self.chain.sample(logits)?;
        self.chain.accept(token);
        Ok(Choice::Token(token))
    }

    fn token(&mut self, id: u32) -> Choice {
        self.produced.fetch_add(1, Ordering::Relaxed);
        Choice::Token(id)
    }
}

#[test]
fn steps_of_answers_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let synth = SynthOptions { preset: Preset::Mini, seed: 3, dtype: SourceType::Bf16, shards: None, overwrite: false };
    write_checkpoint(&dir.path().join("mini"), &synth, &Silent).unwrap();
    let options =
        ConvertOptions { file_type: FileType::Q4_K_M, outdir: dir.path().to_owned(), ..ConvertOptions::default() };
    let path = &convert(&dir.path().join("mini"), &options, &Silent).unwrap().files[0].path;
    let (model, assets) = Model::load(path, &LoadOptions::default(), |meta| Assets::read(meta, None, None)).unwrap();
    let model = std::sync::Arc::new(model);
    for (precision, together) in [(Precision::Fast, 1), (Precision::Exact, 1), (Precision::Fast, 5)] {
        let options = ContextOptions {
            n_ctx: 1024,
            n_positions: 1024 * together,
            n_parallel: together,
            n_threads: 2,
            precision,
            ..ContextOptions::default()
        };
        let exec = std::sync::Arc::new(Exec::for_context(Kernels::best(), &options));
        let context = Context::new(model.clone(), exec, &options).unwrap();
        let schedule = SchedulerOptions { n_parallel: together, ..SchedulerOptions::default() };
        let mut scheduler = Scheduler::new(context, schedule);
        let (mut queue, produced) = (Queue::new(), AtomicUsize::new(0));
        for i in 0..together as u32 {
            let mut params = assets.sampling.clone();
            params.penalty_repeat = 1.1;
            params.seed = Some(5 + u64::from(i));
            let chain = SamplerChain::new(params, &assets.tokenizer).unwrap();
            let prompt: Vec<u32> = (0..600).map(|n| 3 + (n * (i + 1)) % 1500).collect();
            queue.push(Generation::new(&prompt.into(), 400, Drawing { chain, produced: &produced }));
        }
        // Prompts, and the first tokens, which warm what sizes itself on first use.
        while produced.load(Ordering::Relaxed) < 4 * together || scheduler.step(&mut queue).prompt_rows > 0 {
            scheduler.step(&mut queue);
        }
        let before = produced.load(Ordering::Relaxed);
        ALLOCATIONS.store(0, Ordering::Relaxed);
        WATCHING.store(true, Ordering::Relaxed);
        for _ in 0..150 {
            scheduler.step(&mut queue);
        }
        WATCHING.store(false, Ordering::Relaxed);
        assert_eq!(produced.load(Ordering::Relaxed) - before, 150 * together);
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "{precision:?}, {together} together");
    }
}
