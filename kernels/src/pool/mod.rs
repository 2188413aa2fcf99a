//! A small thread pool for loops that are started hundreds of times per token.
//!
//! Workers spin for a few microseconds after a job and then park, so that back-to-back jobs meet without a system
//! call and an idle program costs nothing. A job is one closure that every worker calls with its number; the calling
//! thread is worker 0. Starting a job allocates nothing. Each worker owns a fixed piece of scratch memory.
//!
//! A [`Pool`] is a handle: [`Pool::limited`] makes another one on the same threads, whose jobs use fewer of them. The
//! others sleep on.
//!
//! Invariants:
//! * one job at a time: the gate serialises callers, and a call from inside a job panics instead of dead-locking;
//! * `run` returns only after every worker has left the closure, so the closure may borrow from the caller's stack;
//! * a panic in any worker reaches the caller once all workers have finished, and the pool stays usable.
//!
//! Between [`Pool::measure_joins`] and [`Pool::join_times`] every thread adds up the time it spends inside jobs, in a
//! counter of its own cache line. Switched off, that is one load of a flag that nobody writes, per thread and job.

mod shares;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use shares::Shares;

/// Scratch bytes of each worker: a panel of weights in half a typical second-level cache, with room for the pieces
/// of an attention tile.
pub const SCRATCH_BYTES: usize = 640 * 1024;

/// Turns of the spin loop before a thread parks: some tens of microseconds.
const SPINS: u32 = 2_000;

/// The largest number of threads a pool accepts.
pub const MAX_THREADS: usize = 256;

type Job = *const (dyn Fn(usize, &mut [u8]) + Sync);

thread_local! {
    /// Whether this thread is inside a job.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Memory of one worker, aligned for any vector load.
#[repr(C, align(64))]
struct Line([u8; 64]);

struct Scratch(UnsafeCell<Box<[Line]>>);

impl Scratch {
    fn new() -> Self {
        Self(UnsafeCell::new((0..SCRATCH_BYTES / 64).map(|_| Line([0; 64])).collect()))
    }
}

/// A counter that shares its cache line with nothing.
#[derive(Default)]
#[repr(align(64))]
struct Nanos(AtomicU64);

impl Nanos {
    fn add(&self, started: Instant) {
        let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}

/// Where the time of a pool's jobs went, since [`Pool::measure_joins`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JoinTimes {
    /// Jobs that all threads took part in.
    pub jobs: u64,
    /// From the start of a job until its caller went on, added up over jobs.
    pub wall: Duration,
    /// The same, times the threads that took part.
    pub available: Duration,
    /// Time that threads spent inside jobs, added up over threads.
    pub busy: Duration,
    /// Threads of the pool.
    pub threads: usize,
}

impl JoinTimes {
    /// Time that threads spent waiting while a job ran: for its start to reach them, and for its last thread to finish.
    /// Added up over threads.
    #[must_use]
    pub fn lost(&self) -> Duration {
        self.available.saturating_sub(self.busy)
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            jobs: self.jobs + other.jobs,
            wall: self.wall + other.wall,
            available: self.available + other.available,
            busy: self.busy + other.busy,
            threads: self.threads.max(other.threads),
        }
    }
}

/// The number of threads in an epoch's word; above it the jobs are counted.
const THREADS_BITS: u32 = 16;

/// Whether worker `index` takes part in the job that `word` stands for.
fn takes_part(word: u64, index: usize) -> bool {
    word & ((1 << THREADS_BITS) - 1) > index as u64
}

struct Shared {
    /// Number of the latest job, and how many threads take part in it; workers compare it with the last one they ran. One
    /// word, so that a worker which takes no part knows that without reading the cells below.
    epoch: AtomicU64,
    /// The latest job. Written only while no worker runs, before `epoch` is advanced.
    job: UnsafeCell<Option<Job>>,
    /// Workers still inside the latest job, not counting the caller.
    pending: AtomicUsize,
    /// The thread that waits in `run`. Written like `job`.
    caller: UnsafeCell<Option<Thread>>,
    caller_parked: AtomicBool,
    parked: Box<[AtomicBool]>,
    scratch: Box<[Scratch]>,
    /// Items of [`Pool::for_each_near`]. Dealt out while no worker runs, before `epoch` is advanced.
    shares: Shares,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Whether jobs are timed. Written only while no job runs.
    timed: AtomicBool,
    /// Time of each worker inside jobs.
    busy: Box<[Nanos]>,
    /// Time of jobs, the same times their threads, and their number.
    wall: Nanos,
    available: Nanos,
    jobs: AtomicU64,
}

// SAFETY: `job`, `caller` and `scratch` are the only fields that are not `Sync` by themselves. The first two are
// written only by the thread that holds the gate while `pending` is 0, and read by workers that take part after they have
// seen the later `epoch` (release/acquire), before they decrement `pending`; scratch `i` is touched only by the one thread that is worker `i` of the running job.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw job pointer is never used outside `run`, which outlives every use.
unsafe impl Send for Shared {}

/// The threads behind all handles of a pool. They end with the last handle.
struct Workers {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    gate: Mutex<()>,
}

/// Threads that run one closure together; see the [module](self). Clones share the threads.
#[derive(Clone)]
pub struct Pool {
    workers: Arc<Workers>,
    /// Threads that take part in a job, from 1 to as many as there are.
    threads: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller among them; 0 counts as 1, and the number is capped at
    /// [`MAX_THREADS`]. When the system refuses a thread the pool is smaller: ask [`Pool::threads`].
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, MAX_THREADS);
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            pending: AtomicUsize::new(0),
            caller: UnsafeCell::new(None),
            caller_parked: AtomicBool::new(false),
            parked: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            scratch: (0..threads).map(|_| Scratch::new()).collect(),
            shares: Shares::new(threads),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            timed: AtomicBool::new(false),
            busy: (0..threads).map(|_| Nanos::default()).collect(),
            wall: Nanos::default(),
            available: Nanos::default(),
            jobs: AtomicU64::new(0),
        });
        let handles: Vec<_> = (1..threads)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("ocelli-{index}")).spawn(move || worker(&shared, index)).ok()
            })
            .collect();
        let threads = handles.len() + 1;
        Self { workers: Arc::new(Workers { shared, handles, gate: Mutex::new(()) }), threads }
    }

    /// The same pool with jobs of at most `threads` threads; 0 counts as 1. No thread is started or ended.
    #[must_use]
    pub fn limited(&self, threads: usize) -> Self {
        let threads = threads.clamp(1, self.workers.handles.len() + 1);
        Self { workers: Arc::clone(&self.workers), threads }
    }

    /// Threads that take part in a job, the caller among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `job(worker, scratch)` once on every thread and returns when all calls have returned.
    ///
    /// `worker` is in `0..self.threads()`; `scratch` is that worker's own memory, [`SCRATCH_BYTES`] long, aligned to
    /// 64 bytes, with whatever the last job left in it. Callers on different threads take turns.
    ///
    /// # Panics
    /// When called from inside a job (of any pool), and with the job's own panic if it panics.
    pub fn run(&self, job: impl Fn(usize, &mut [u8]) + Sync) {
        self.run_after(|| {}, job);
    }

    /// As [`Pool::run`]; `before` is called first, while no other job runs.
    fn run_after(&self, before: impl FnOnce(), job: impl Fn(usize, &mut [u8]) + Sync) {
        assert!(!INSIDE.get(), "a job must not start another job on a pool");
        let _turn = self.workers.gate.lock().unwrap_or_else(PoisonError::into_inner);
        before();
        let shared = &*self.workers.shared;
        let started = shared.timed.load(Ordering::Relaxed).then(Instant::now);
        let job: &(dyn Fn(usize, &mut [u8]) + Sync) = &job;
        let others = &self.workers.handles[..self.threads - 1];
        if others.is_empty() {
            // SAFETY: this thread holds the gate, hence it is the only worker 0.
            let own = unsafe { timed_call(job, shared, 0) };
            shared.count(started, self.threads);
            if let Err(panic) = own {
                resume_unwind(panic);
            }
            return;
        }
        // SAFETY: only the lifetime changes. `pending` reaches 0 before this function returns, after which no worker
        // uses the pointer.
        let erased: Job = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize, &mut [u8]) + Sync + '_), Job>(std::ptr::from_ref(job))
        };
        // SAFETY: the gate is held and `pending` is 0, so no worker reads these cells now.
        unsafe {
            *shared.job.get() = Some(erased);
            *shared.caller.get() = Some(std::thread::current());
        }
        shared.pending.store(others.len(), Ordering::Relaxed);
        // Sequentially consistent against `parked`: either the worker sees the new epoch before it parks, or this
        // thread sees that it is parked.
        shared.next(self.threads);
        for (index, handle) in others.iter().enumerate() {
            if shared.parked[index + 1].load(Ordering::SeqCst) {
                handle.thread().unpark();
            }
        }
        // SAFETY: this thread holds the gate, hence it is the only worker 0.
        let own = unsafe { timed_call(job, shared, 0) };
        self.wait();
        shared.count(started, self.threads);
        let other = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        if let Some(panic) = other {
            resume_unwind(panic);
        }
    }

    /// Calls `each(item, scratch)` for every item in `0..items`. Threads take the next item when they are free, so
    /// the caller must not depend on which thread runs which item. One item or one thread runs in place.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn for_each(&self, items: usize, each: impl Fn(usize, &mut [u8]) + Sync) {
        if items == 0 {
            return;
        }
        let next = AtomicUsize::new(0);
        let take = |scratch: &mut [u8]| {
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= items {
                    break;
                }
                each(item, scratch);
            }
        };
        if items == 1 {
            self.alone(|scratch| take(scratch));
        } else {
            self.run(|_, scratch| take(scratch));
        }
    }

    /// As [`Pool::for_each`], for items that lie one behind the other in memory: every thread walks through a share of
    /// neighbours, and takes half of what another has left when it is done. Memory is read fastest in long pieces: what the
    /// processor or a kernel asks for ahead belongs to the item that this thread takes next.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn for_each_near(&self, items: usize, each: impl Fn(usize, &mut [u8]) + Sync) {
        let threads = self.threads();
        let n = match u32::try_from(items) {
            Ok(n) if items > 1 && threads > 1 => n,
            _ => return self.for_each(items, each),
        };
        let shares = &self.workers.shared.shares;
        self.run_after(
            || shares.deal(n, threads),
            |worker, scratch| {
                while let Some(item) = shares.next(worker) {
                    each(item, scratch);
                }
            },
        );
    }

    /// Runs `job` on the calling thread with the scratch of worker 0, waking nobody.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn alone(&self, job: impl Fn(&mut [u8]) + Sync) {
        assert!(!INSIDE.get(), "a job must not start another job on a pool");
        let _turn = self.workers.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: this thread holds the gate, hence no job runs and it is the only worker 0.
        if let Err(panic) = unsafe { call(&|_: usize, scratch: &mut [u8]| job(scratch), &self.workers.shared, 0) } {
            resume_unwind(panic);
        }
    }

    /// Starts timing jobs from zero, or ends it.
    pub fn measure_joins(&self, on: bool) {
        let _turn = self.workers.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.workers.shared;
        for counter in shared.busy.iter().chain([&shared.wall, &shared.available]) {
            counter.0.store(0, Ordering::Relaxed);
        }
        shared.jobs.store(0, Ordering::Relaxed);
        // The next job's epoch publishes this to the workers.
        shared.timed.store(on, Ordering::Relaxed);
    }

    /// What was measured since the last [`Pool::measure_joins`]; zeros where that was not switched on.
    #[must_use]
    pub fn join_times(&self) -> JoinTimes {
        let _turn = self.workers.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.workers.shared;
        let time = |nanos: &Nanos| Duration::from_nanos(nanos.0.load(Ordering::Relaxed));
        JoinTimes {
            jobs: shared.jobs.load(Ordering::Relaxed),
            wall: time(&shared.wall),
            available: time(&shared.available),
            busy: shared.busy.iter().map(time).sum(),
            threads: self.threads,
        }
    }

    /// Waits until no worker is inside the job.
    fn wait(&self) {
        let shared = &*self.workers.shared;
        for _ in 0..SPINS {
            if shared.pending.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        shared.caller_parked.store(true, Ordering::SeqCst);
        // For emulators, as in `next_epoch`.
        fence(Ordering::SeqCst);
        while shared.pending.load(Ordering::SeqCst) != 0 {
            std::thread::park();
        }
        shared.caller_parked.store(false, Ordering::Relaxed);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.next(self.handles.len() + 1);
        for handle in self.handles.drain(..) {
            handle.thread().unpark();
            // A worker catches the panics of jobs, so there is nothing to report here.
            let _ = handle.join();
        }
    }
}

/// Runs the job as worker `index`, catching a panic.
///
/// # Safety
/// No other thread may be worker `index` at the same time.
unsafe fn call(
    job: &(dyn Fn(usize, &mut [u8]) + Sync),
    shared: &Shared,
    index: usize,
) -> Result<(), Box<dyn Any + Send>> {
    let lines: *mut Box<[Line]> = shared.scratch[index].0.get();
    // SAFETY: the caller is the only user of this worker's scratch; a `Line` is 64 plain bytes, so the slice of
    // lines is a slice of `SCRATCH_BYTES` bytes.
    let scratch = unsafe { std::slice::from_raw_parts_mut((*lines).as_mut_ptr().cast::<u8>(), SCRATCH_BYTES) };
    INSIDE.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| job(index, scratch)));
    INSIDE.set(false);
    result
}

/// As [`call`], adding the time to the worker's counter where jobs are timed.
///
/// # Safety
/// As [`call`].
unsafe fn timed_call(
    job: &(dyn Fn(usize, &mut [u8]) + Sync),
    shared: &Shared,
    index: usize,
) -> Result<(), Box<dyn Any + Send>> {
    let started = shared.timed.load(Ordering::Relaxed).then(Instant::now);
    // SAFETY: the contract of this function.
    let result = unsafe { call(job, shared, index) };
    if let Some(started) = started {
        shared.busy[index].add(started);
    }
    result
}

impl Shared {
    /// Begins the next epoch, in which `threads` threads take part. Only whoever holds the gate or is the last one calls it.
    fn next(&self, threads: usize) {
        let count = (self.epoch.load(Ordering::Relaxed) >> THREADS_BITS) + 1;
        // A number of threads is at most `MAX_THREADS`, and jobs of 2⁴⁸ take centuries.
        self.epoch.store(count << THREADS_BITS | threads as u64, Ordering::SeqCst);
    }

    /// Counts a job of `threads` threads that began at `started`, if jobs are timed.
    fn count(&self, started: Option<Instant>, threads: usize) {
        if let Some(started) = started {
            let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.wall.0.fetch_add(ns, Ordering::Relaxed);
            self.available.0.fetch_add(ns.saturating_mul(threads as u64), Ordering::Relaxed);
            self.jobs.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The life of worker `index`: wait for the next epoch, run its job, report.
fn worker(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = next_epoch(shared, index, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the new epoch was read with acquire ordering, so the job written before it is visible, and `run`
        // does not write it again before this worker has decremented `pending`.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job {
            // SAFETY: `run` keeps the closure alive until `pending` is 0; this is the only thread with this index.
            if let Err(panic) = unsafe { timed_call(&*job, shared, index) } {
                *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
        // SAFETY: as for `job`. Cloned first: after the decrement `run` may return and write the cell again.
        let caller = unsafe { (*shared.caller.get()).clone() };
        if shared.pending.fetch_sub(1, Ordering::SeqCst) == 1
            && shared.caller_parked.load(Ordering::SeqCst)
            && let Some(caller) = caller
        {
            caller.unpark();
        }
    }
}

/// Waits, spinning and then parked, for an epoch after `seen` in which worker `index` takes part.
fn next_epoch(shared: &Shared, index: usize, seen: u64) -> u64 {
    let is_next = |epoch: u64| epoch != seen && takes_part(epoch, index);
    for _ in 0..SPINS {
        let epoch = shared.epoch.load(Ordering::Acquire);
        if is_next(epoch) {
            return epoch;
        }
        std::hint::spin_loop();
    }
    shared.parked[index].store(true, Ordering::SeqCst);
    // Redundant by the language's rules, which order the store before the load below. Some emulators of AArch64 let the
    // pair of instructions that it becomes (stlr, ldar) pass each other, and a wake-up gets lost.
    fence(Ordering::SeqCst);
    let epoch = loop {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        if is_next(epoch) {
            break epoch;
        }
        std::thread::park();
    };
    shared.parked[index].store(false, Ordering::Relaxed);
    epoch
}

#[cfg(test)]
mod tests;
