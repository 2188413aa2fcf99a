//! Whoever leaves frees what it had, at the next step.

use std::cell::Cell;
use std::process::Command;
use std::time::Duration;

use ocelli_convert::mixture::FileType;
use ocelli_engine::{Answer, Choice, Generation, Prefill, Queue, Stop};
use ocelli_runtime::{ContextOptions, Prompt, RuntimeError};

use crate::fixture::{Random, Request, mini, options, scheduler};

/// Set in the process that measures its own memory.
const BY_ITSELF: &str = "OCELLI_TEST_BY_ITSELF";

/// Memory of this process in KiB, where the system tells.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

/// Runs by itself in a second process, where no other test takes memory.
#[test]
fn a_thousand_that_leave_cost_neither_blocks_nor_memory() {
    if std::env::var_os(BY_ITSELF).is_none() {
        let name = "cancel::a_thousand_that_leave_cost_neither_blocks_nor_memory";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let out = command.args([name, "--exact", "--nocapture"]).env(BY_ITSELF, "1").output().unwrap();
        let told = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{told}{}", String::from_utf8_lossy(&out.stderr));
        assert!(told.contains("1 passed"), "it did not run: {told}");
        return;
    }
    let loaded = mini(FileType::Q4_K_M);
    let options = ContextOptions { n_positions: 640, ..options(256, 3) };
    let mut scheduler = scheduler(&loaded, &options, Duration::ZERO);
    let (mut random, mut queue) = (Random(21), Queue::new());
    let (mut started, mut warm, mut at) = (0, None, [0; 3]);
    while started < 1000 {
        let mut switches = Vec::new();
        for _ in 0..random.within(1, 5) {
            let request = Request { seed: Some(random.next()), ..Request::new(Prompt::default(), 100) };
            let n = random.within(1, 200);
            let mut generation = Request { prompt: random.ids(n).into(), ..request }.generation(&loaded.1);
            switches.push(generation.answer().cancelled.clone());
            queue.push(generation);
            started += 1;
        }
        for _ in 0..random.within(0, 6) {
            scheduler.step(&mut queue);
        }
        switches.iter().for_each(|switch| switch.set(true));
        let step = scheduler.step(&mut queue);
        assert_eq!((step.prompt_rows, step.answer_rows, queue.len()), (0, 0, 0), "after {started}: the next step");
        while let Some((mut generation, how)) = queue.take_ended() {
            let ended = how.unwrap();
            assert!(ended.stop == Stop::Interrupted && generation.answer().seen.len() == ended.tokens);
            at[if ended.read { 2 } else { usize::from(ended.prefill != Prefill::default()) }] += 1;
        }
        let kv = scheduler.context().kv();
        assert_eq!(kv.n_available_blocks(), kv.n_blocks(), "after {started}");
        if started >= 500 {
            warm = warm.or_else(resident);
        }
    }
    assert!(at.iter().all(|n| *n > 50), "waiting, reading and answering: {at:?}");
    if let (Some(warm), Some(now)) = (warm, resident()) {
        assert!(now <= warm + 1024, "{warm} KiB after 500, {now} KiB after 1000");
    }
}

#[test]
fn dropping_the_queue_frees_everything() {
    let loaded = mini(FileType::Q4_K_M);
    let mut scheduler = scheduler(&loaded, &options(256, 3), Duration::ZERO);
    for steps in 0..8 {
        let mut queue = Queue::new();
        for i in 0..5 {
            queue.push(Request::new(Random(i).ids(100), if i == 0 { 1 } else { 50 }).generation(&loaded.1));
        }
        for _ in 0..steps {
            scheduler.step(&mut queue);
        }
        drop(queue);
        let kv = scheduler.context().kv();
        assert_eq!(kv.n_available_blocks(), kv.n_blocks(), "after {steps} steps");
    }
}

/// Leaves when it has been asked so many times whether it has.
struct Leaving {
    left: Cell<usize>,
    chosen: usize,
}

impl Answer for Leaving {
    fn choose(&mut self, _: &[f32]) -> Result<Choice, RuntimeError> {
        self.chosen += 1;
        Ok(Choice::Token(5))
    }

    fn is_cancelled(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left == 0
    }
}

#[test]
fn a_pass_that_nobody_wants_ends_between_layers_and_leaves_nothing_half_done() {
    let loaded = mini(FileType::Q4_K_M);
    let prompt: Prompt = Random(31).ids(100).into();
    let mut scheduler = scheduler(&loaded, &options(256, 2), Duration::ZERO);
    let leaving = |left| Generation::new(&prompt, 5, Leaving { left: Cell::new(left), chosen: 0 });
    // Once before the step; then before each of four layers.
    for left in 1..=4 {
        let mut queue = Queue::new();
        queue.push(leaving(left));
        scheduler.step(&mut queue);
        let (mut generation, how) = queue.take_ended().expect("it ends in the same step");
        assert_eq!((how.unwrap().prefill.evaluated, generation.answer().chosen), (0, 0), "left at {left}");
    }
    // With somebody beside it, the pass is completed.
    let mut queue = Queue::new();
    queue.push(leaving(2));
    queue.push(leaving(usize::MAX));
    scheduler.step(&mut queue);
    scheduler.step(&mut queue);
    let (mut first, how) = queue.take_ended().unwrap();
    // It was cancelled in the middle of a pass, and still got the token of that pass.
    assert_eq!((how.unwrap().stop, first.answer().chosen), (Stop::Interrupted, 1));
    while !queue.is_empty() {
        scheduler.step(&mut queue);
    }
    let (mut second, how) = queue.take_ended().unwrap();
    assert_eq!((how.unwrap().stop, second.answer().chosen), (Stop::Length, 5));
}
