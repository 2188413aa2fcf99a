//! The token loop allocates nothing once it is warm.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::mixture::FileType;
use ocelli_convert::progress::Silent;
use ocelli_convert::synth::{Preset, SynthOptions, write_checkpoint};
use ocelli_convert::{ConvertOptions, convert};
use ocelli_runtime::{Assets, Context, ContextOptions, LoadOptions, Model, Precision, Session, Stop};
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

#[test]
fn the_token_loop_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let synth = SynthOptions { preset: Preset::Mini, seed: 3, dtype: SourceType::Bf16, shards: None, overwrite: false };
    write_checkpoint(&dir.path().join("mini"), &synth, &Silent).unwrap();
    let options =
        ConvertOptions { file_type: FileType::Q4_K_M, outdir: dir.path().to_owned(), ..ConvertOptions::default() };
    let path = &convert(&dir.path().join("mini"), &options, &Silent).unwrap().files[0].path;
    let (model, assets) = Model::load(path, &LoadOptions::default(), |meta| Assets::read(meta, None, None)).unwrap();
    let model = std::sync::Arc::new(model);
    for precision in [Precision::Fast, Precision::Exact] {
        let options = ContextOptions { n_ctx: 1024, n_threads: 2, precision, ..ContextOptions::default() };
        let mut session = Session::new(Context::new(model.clone(), &options).unwrap());
        let mut params = assets.sampling.clone();
        params.penalty_repeat = 1.1;
        params.seed = Some(5);
        let mut chain = SamplerChain::new(params, &assets.tokenizer).unwrap();
        let prompt: Vec<u32> = (0..600).map(|i| 3 + i % 1500).collect();
        session.prefill(&prompt, &mut |_, _| {}).unwrap();
        let mut produced = 0;
        let mut run = |session: &mut Session, n| {
            let mut pick = |logits: &[f32]| {
                let token = chain.sample(logits)?;
                chain.accept(token);
                Ok(token)
            };
            session.generate(n, &|_| false, &mut pick, &mut |_| produced += 1).unwrap()
        };
        // The first tokens warm what sizes itself on first use.
        assert_eq!(run(&mut session, 4), Stop::Length);
        ALLOCATIONS.store(0, Ordering::Relaxed);
        WATCHING.store(true, Ordering::Relaxed);
        let stop = run(&mut session, 150);
        WATCHING.store(false, Ordering::Relaxed);
        assert_eq!((stop, produced), (Stop::Length, 154));
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "{precision:?}");
    }
}
