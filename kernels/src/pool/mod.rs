//! A small thread pool for loops that are started hundreds of times per token.
//!
//! Workers spin for a few microseconds after a job and then park, so that back-to-back jobs meet without a system
//! call and an idle program costs nothing. A job is one closure that every worker calls with its number; the calling
//! thread is worker 0. Starting a job allocates nothing. Each worker owns a fixed piece of scratch memory.
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
        let threads = u32::try_from(self.threads).unwrap_or(u32::MAX);
        self.wall.saturating_mul(threads).saturating_sub(self.busy)
    }

    /// Both together, for what runs on two pools in turn.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            jobs: self.jobs + other.jobs,
            wall: self.wall + other.wall,
            busy: self.busy + other.busy,
            threads: self.threads.max(other.threads),
        }
    }
}

struct Shared {
    /// Number of the latest job; workers compare it with the last one they ran.
    epoch: AtomicUsize,
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
    /// Time of jobs, and their number.
    wall: Nanos,
    jobs: AtomicU64,
}

// SAFETY: `job`, `caller` and `scratch` are the only fields that are not `Sync` by themselves. The first two are
// written only by the thread that holds the gate while `pending` is 0, and read by workers after they have seen the
// later `epoch` (release/acquire); scratch `i` is touched only by the one thread that is worker `i` of the running job.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw job pointer is never used outside `run`, which outlives every use.
unsafe impl Send for Shared {}

/// Threads that run one closure together; see the [module](self).
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    gate: Mutex<()>,
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
            epoch: AtomicUsize::new(0),
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
            jobs: AtomicU64::new(0),
        });
        let workers = (1..threads)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("ocelli-{index}")).spawn(move || worker(&shared, index)).ok()
            })
            .collect();
        Self { shared, workers, gate: Mutex::new(()) }
    }

    /// Threads that take part in a job, the caller among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
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
        let _turn = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        before();
        let shared = &*self.shared;
        let started = shared.timed.load(Ordering::Relaxed).then(Instant::now);
        let job: &(dyn Fn(usize, &mut [u8]) + Sync) = &job;
        if self.workers.is_empty() {
            // SAFETY: this thread holds the gate, hence it is the only worker 0.
            let own = unsafe { timed_call(job, shared, 0) };
            shared.count(started);
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
        shared.pending.store(self.workers.len(), Ordering::Relaxed);
        // Sequentially consistent against `parked`: either the worker sees the new epoch before it parks, or this
        // thread sees that it is parked.
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (index, handle) in self.workers.iter().enumerate() {
            if shared.parked[index + 1].load(Ordering::SeqCst) {
                handle.thread().unpark();
            }
        }
        // SAFETY: this thread holds the gate, hence it is the only worker 0.
        let own = unsafe { timed_call(job, shared, 0) };
        self.wait();
        shared.count(started);
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
        let shares = &self.shared.shares;
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
        let _turn = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: this thread holds the gate, hence no job runs and it is the only worker 0.
        if let Err(panic) = unsafe { call(&|_: usize, scratch: &mut [u8]| job(scratch), &self.shared, 0) } {
            resume_unwind(panic);
        }
    }

    /// Starts timing jobs from zero, or ends it.
    pub fn measure_joins(&self, on: bool) {
        let _turn = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        for counter in shared.busy.iter().chain([&shared.wall]) {
            counter.0.store(0, Ordering::Relaxed);
        }
        shared.jobs.store(0, Ordering::Relaxed);
        // The next job's epoch publishes this to the workers.
        shared.timed.store(on, Ordering::Relaxed);
    }

    /// What was measured since the last [`Pool::measure_joins`]; zeros where that was not switched on.
    #[must_use]
    pub fn join_times(&self) -> JoinTimes {
        let _turn = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let time = |nanos: &Nanos| Duration::from_nanos(nanos.0.load(Ordering::Relaxed));
        JoinTimes {
            jobs: shared.jobs.load(Ordering::Relaxed),
            wall: time(&shared.wall),
            busy: shared.busy.iter().map(time).sum(),
            threads: self.threads(),
        }
    }

    /// Waits until no worker is inside the job.
    fn wait(&self) {
        let shared = &*self.shared;
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

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for handle in self.workers.drain(..) {
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
    /// Counts a job that began at `started`, if jobs are timed.
    fn count(&self, started: Option<Instant>) {
        if let Some(started) = started {
            self.wall.add(started);
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

/// Waits, spinning and then parked, until the epoch differs from `seen`.
fn next_epoch(shared: &Shared, index: usize, seen: usize) -> usize {
    for _ in 0..SPINS {
        let epoch = shared.epoch.load(Ordering::Acquire);
        if epoch != seen {
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
        if epoch != seen {
            break epoch;
        }
        std::thread::park();
    };
    shared.parked[index].store(false, Ordering::Relaxed);
    epoch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_once_per_job() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..300 {
                pool.run(|worker, scratch| {
                    assert_eq!(scratch.len(), SCRATCH_BYTES);
                    assert_eq!(scratch.as_ptr() as usize % 64, 0);
                    calls[worker].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 300));
        }
    }

    #[test]
    fn items_are_each_taken_once() {
        let pool = Pool::new(3);
        for items in [0, 1, 2, 7, 1000] {
            let taken: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(items, |item, _| {
                taken[item].fetch_add(1, Ordering::Relaxed);
            });
            assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn near_items_are_each_taken_once_however_long_they_take() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            for (items, slow) in [(0, 0), (1, 0), (2, 1), (7, 0), (40, 3), (41, 40), (3000, 5)] {
                let taken: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each_near(items, |item, _| {
                    if item == slow {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    taken[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == 1), "{threads} threads, {items} items");
            }
        }
    }

    #[test]
    fn jobs_after_a_pause_wake_parked_workers() {
        let pool = Pool::new(2);
        let sum = AtomicU64::new(0);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            pool.run(|worker, _| {
                sum.fetch_add(worker as u64 + 1, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), 9);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(2);
        for culprit in [0, 1] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|worker, _| assert!(worker != culprit, "worker {worker} failed"));
            }));
            let payload = caught.expect_err("the panic must arrive");
            let text = payload.downcast_ref::<String>().expect("a formatted panic carries a string");
            assert!(text.contains(&format!("worker {culprit} failed")), "{text}");
        }
        let calls = AtomicUsize::new(0);
        pool.run(|_, _| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn joins_are_timed_when_asked() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            let sleep = |worker: usize| std::thread::sleep(Duration::from_millis(if worker == 0 { 6 } else { 1 }));
            pool.run(|worker, _| sleep(worker));
            let none = JoinTimes { threads, ..JoinTimes::default() };
            assert_eq!(pool.join_times(), none, "nobody asked");
            pool.measure_joins(true);
            for _ in 0..3 {
                pool.run(|worker, _| sleep(worker));
            }
            pool.alone(|_| sleep(0));
            let times = pool.join_times();
            assert_eq!((times.jobs, times.threads), (3, threads));
            assert!(times.wall >= Duration::from_millis(18), "{times:?}");
            assert!(times.busy >= Duration::from_millis(18 + 3 * (threads as u64 - 1)), "{times:?}");
            assert!(times.busy <= times.wall * threads as u32, "{times:?}");
            assert_eq!(times.lost(), times.wall * threads as u32 - times.busy);
            pool.measure_joins(false);
            pool.run(|_, _| {});
            assert_eq!(pool.join_times(), none, "starts from zero, and does not count when off");
        }
    }

    #[test]
    fn nested_use_is_refused() {
        let pool = Pool::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(|_, _| pool.run(|_, _| {}))));
        assert!(caught.is_err());
        let other = Pool::new(1);
        assert!(catch_unwind(AssertUnwindSafe(|| pool.run(|_, _| other.run(|_, _| {})))).is_err());
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2);
        let inside = AtomicUsize::new(0);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(|_, _| {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                            total.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::SeqCst), 300);
    }
}
