//! What the machine can do at most: measured, not looked up.

use std::ops::{Add, AddAssign, Mul};
use std::time::{Duration, Instant};

use crate::pool::Pool;
use crate::select::Kernels;
use crate::table::PeakLoop;

/// Time of one round of a multiply loop: short enough to lie between two interruptions on a busy machine.
const ROUND: Duration = Duration::from_millis(2);

/// Rounds, of which the best counts.
const ROUNDS: usize = 50;

/// Numbers that one round of reading takes, 64 MiB: more than a last-level cache keeps of the round before.
const WORDS: usize = 8 << 20;

/// Passes over the memory that is read.
const PASSES: usize = 5;

/// What is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Bytes, summed in 32 bits.
    Int8,
    /// 16-bit integers, summed in 32 bits.
    Int16,
    /// bfloat16, summed in f32.
    Bf16,
    /// f32.
    F32,
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 4] = [Self::Int8, Self::Int16, Self::Bf16, Self::F32];

    /// `int8`, `int16`, `bf16`, `f32`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// How fast one unit is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// What is multiplied.
    pub unit: Unit,
    /// The instructions that were timed.
    pub instructions: &'static str,
    /// Operations per second, all threads together; a multiply-add counts two.
    pub ops: f64,
}

/// What a computation needs: operations by the unit that does them, and bytes of memory that have to be read (or
/// written) once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Operations on bytes; a multiply-add counts two.
    pub int8: f64,
    /// Operations on 16-bit integers.
    pub int16: f64,
    /// Operations on f32.
    pub f32: f64,
    /// Bytes.
    pub bytes: f64,
}

impl Work {
    /// `ops` operations of one unit, and `bytes`. No kernel uses bfloat16: its operations are those of f32.
    #[must_use]
    pub fn of(unit: Unit, ops: f64, bytes: f64) -> Self {
        let none = Self { bytes, ..Self::default() };
        match unit {
            Unit::Int8 => Self { int8: ops, ..none },
            Unit::Int16 => Self { int16: ops, ..none },
            Unit::Bf16 | Unit::F32 => Self { f32: ops, ..none },
        }
    }

    /// All operations.
    #[must_use]
    pub fn ops(&self) -> f64 {
        self.int8 + self.int16 + self.f32
    }

    /// The unit that most operations are done by.
    #[must_use]
    pub fn unit(&self) -> Unit {
        let units = [(Unit::F32, self.f32), (Unit::Int16, self.int16), (Unit::Int8, self.int8)];
        units
            .into_iter()
            .reduce(|most, each| if each.1 > most.1 { each } else { most })
            .map_or(Unit::F32, |(unit, _)| unit)
    }

    /// Operations per byte.
    #[must_use]
    pub fn intensity(&self) -> f64 {
        self.ops() / self.bytes.max(1.0)
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            int8: self.int8 + other.int8,
            int16: self.int16 + other.int16,
            f32: self.f32 + other.f32,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<f64> for Work {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self { int8: self.int8 * times, int16: self.int16 * times, f32: self.f32 * times, bytes: self.bytes * times }
    }
}

/// Which limit a computation meets first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The multipliers of this unit.
    Compute(Unit),
    /// Reading.
    Memory,
}

impl Bound {
    /// `int8`, `f32` or `memory`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute(unit) => unit.name(),
            Self::Memory => "memory",
        }
    }
}

/// Peaks of one table on this machine, with a number of threads.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// The table.
    pub isa: &'static str,
    /// Threads.
    pub threads: usize,
    /// What multiplies how fast. A unit that is missing has no instruction here.
    pub peaks: Vec<Peak>,
    /// Bytes read per second, all threads together.
    pub read: f64,
}

impl Limits {
    /// Measures with all threads of `pool`; takes some tenths of a second. `memory` is read: it must be several times
    /// as large as the last cache.
    #[must_use]
    pub fn measure(pool: &Pool, kernels: Kernels, memory: &[u64]) -> Self {
        let peaks = peaks(pool, &kernels.table.peaks);
        let read = bandwidth(pool, kernels, memory);
        Self { isa: kernels.name(), threads: pool.threads(), peaks, read }
    }

    /// The peak of `unit`, where there is an instruction for it.
    #[must_use]
    pub fn peak(&self, unit: Unit) -> Option<&Peak> {
        self.peaks.iter().find(|p| p.unit == unit)
    }

    fn seconds(&self, unit: Unit, ops: f64) -> f64 {
        self.peak(unit).map_or(0.0, |peak| ops / peak.ops.max(1.0))
    }

    /// The least time in seconds that `work` could take, and what bounds it.
    #[must_use]
    pub fn least(&self, work: &Work) -> (f64, Bound) {
        let parts = [(Unit::Int8, work.int8), (Unit::Int16, work.int16), (Unit::F32, work.f32)];
        let compute: f64 = parts.into_iter().map(|(unit, ops)| self.seconds(unit, ops)).sum();
        let memory = work.bytes / self.read.max(1.0);
        if compute >= memory { (compute, Bound::Compute(work.unit())) } else { (memory, Bound::Memory) }
    }

    /// The share of the roofline, 0…1, that `work` done in `seconds` reached.
    #[must_use]
    pub fn share(&self, work: &Work, seconds: f64) -> f64 {
        self.least(work).0 / seconds.max(1e-12)
    }
}

/// Operations per second of all threads: of each loop the best of some rounds. Loops take turns, so that a core that is taken
/// away for a while is there again for some rounds of each.
fn peaks(pool: &Pool, loops: &[PeakLoop]) -> Vec<Peak> {
    let mut state: Vec<_> = loops.iter().map(|each| (each, 64u64, 0f64)).collect();
    let mut rounds = 0;
    while rounds < ROUNDS {
        let mut short = false;
        for (each, turns, best) in &mut state {
            let started = Instant::now();
            // SAFETY: the loop is one of a table that was detected.
            pool.run(|_, _| unsafe { (each.run)(*turns) });
            let time = started.elapsed();
            let ops = *turns as f64 * each.ops as f64 * pool.threads() as f64;
            *best = best.max(ops / time.as_secs_f64().max(1e-9));
            // The machine may stand still for a moment: a short round that took long is no reason to keep rounds short.
            if time < ROUND && *turns < 1 << 40 {
                *turns *= 2;
                short = true;
            }
        }
        rounds += usize::from(!short);
    }
    state.into_iter().map(|(each, _, ops)| Peak { unit: each.unit, instructions: each.instructions, ops }).collect()
}

/// Bytes per second that all threads of `pool` read now, once over `memory`: what others on the machine leave changes from
/// one moment to the next.
#[must_use]
pub fn reading_rate(pool: &Pool, kernels: Kernels, memory: &[u64]) -> f64 {
    let per = memory.len().div_ceil(pool.threads()).max(1);
    let started = Instant::now();
    pool.run(|worker, _| {
        let part = memory.chunks(per).nth(worker).unwrap_or_default();
        // SAFETY: takes any slice; the table's features were detected.
        std::hint::black_box(unsafe { (kernels.table.read)(part) });
    });
    size_of_val(memory) as f64 / started.elapsed().as_secs_f64().max(1e-9)
}

/// The best rate of some passes over `memory`.
fn bandwidth(pool: &Pool, kernels: Kernels, memory: &[u64]) -> f64 {
    let round = |words: &[u64]| reading_rate(pool, kernels, words);
    (0..PASSES).flat_map(|_| memory.chunks(WORDS)).map(round).fold(0.0, f64::max)
}
