//! Data and reporting shared by the kernel tests.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example or a test, not the command")]
#![allow(dead_code, reason = "every test file uses its own part")]

use std::io::Write as _;
use std::sync::Once;

use ocelli_kernels::{Kernels, Pool};
use ocelli_quant::GgmlType;

/// A small deterministic generator (xorshift).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in −1…1.
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub(crate) fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.signed() * scale).collect()
    }
}

/// The tables to test: those that this machine runs, and those that are emulated on it. Those that it does not run are named, and `REQUIRE_ISA=name`
/// turns a missing one into a failure.
pub(crate) fn tables() -> Vec<Kernels> {
    static REPORT: Once = Once::new();
    REPORT.call_once(|| {
        for (name, needs) in Kernels::candidates() {
            if let Some(needs) = needs {
                // Not by `eprintln!`, which the test runner shows of failed tests only.
                let _ = writeln!(std::io::stderr(), "\nskipped: {name} (this machine lacks it: {needs})");
            }
        }
        if let Ok(required) = std::env::var("REQUIRE_ISA") {
            for name in required.split(',').filter(|n| !n.is_empty()) {
                if let Err(error) = Kernels::named(name) {
                    panic!("REQUIRE_ISA: {error}");
                }
            }
        }
    });
    let mut all = Kernels::emulated();
    all.extend(Kernels::available());
    all
}

/// The tables other than the reference.
pub(crate) fn vector_tables() -> Vec<Kernels> {
    tables().into_iter().filter(|k| k.name() != "scalar").collect()
}

macro_rules! scale_offsets {
    ($($variant:ident $module:ident $ty:ident),+) => {
        /// Byte offsets of the half-precision scales of a block, so that arbitrary bytes can be made a legal block.
        fn scale_offsets(ty: GgmlType) -> &'static [usize] {
            use ocelli_quant::{Format, formats};
            match ty {
                $(GgmlType::$variant => <formats::$module::$ty as Format>::SCALES,)+
                other => panic!("{other} is not registered"),
            }
        }

        /// Whether weights of this format multiply as floats even in fast mode.
        pub(crate) fn computes_in_f32(ty: GgmlType) -> bool {
            use ocelli_quant::{Unpack, formats, panel::Unit};
            match ty {
                $(GgmlType::$variant => <<formats::$module::$ty as Unpack>::Unit as Unit>::LEN == 0,)+
                other => panic!("{other} is not registered"),
            }
        }
    };
}
ocelli_quant::for_each_format!(scale_offsets);

/// Whether weights of this format become fixed-point numbers in fast mode, where a table has those.
pub(crate) fn is_half(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::F16 | GgmlType::BF16)
}

/// How the stored bytes of a test weight are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fill {
    /// Random codes and integer scales; the float scales are random and small.
    Random,
    /// Every byte the same, float scales 1: the largest codes for 0xff.
    Byte(u8),
    /// Random codes and integer scales, float scales 1 and 0.5: sums are exact in f32.
    Integral,
    /// Random codes; the float scales are subnormal halves.
    Denormal,
}

/// A weight of `rows` × `cols` in format `ty`.
pub(crate) fn weight(ty: GgmlType, rows: usize, cols: usize, fill: Fill, rng: &mut Rng) -> Vec<u8> {
    let n = rows * ty.row_bytes(cols).expect("whole blocks");
    if computes_in_f32(ty) {
        let values: Vec<f32> = match fill {
            Fill::Random | Fill::Denormal => rng.vec(rows * cols, 1.0),
            Fill::Byte(b) => vec![f32::from(b as i8); rows * cols],
            Fill::Integral => (0..rows * cols).map(|_| rng.below(255) as f32 - 127.0).collect(),
        };
        let mut bytes = vec![0; n];
        ty.quantize_row(&values, None, &mut bytes).expect("finite");
        return bytes;
    }
    let mut bytes: Vec<u8> = match fill {
        Fill::Byte(b) => vec![b; n],
        _ => (0..n).map(|_| (rng.next() >> 24) as u8).collect(),
    };
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        for (i, at) in scale_offsets(ty).iter().enumerate() {
            let value = match fill {
                Fill::Random => half::f16::from_f32(0.001 + 0.02 * rng.signed().abs()),
                Fill::Byte(_) => half::f16::ONE,
                Fill::Integral => half::f16::from_f32(if i == 0 { 1.0 } else { 0.5 }),
                Fill::Denormal => half::f16::from_bits(1 + (rng.next() >> 60) as u16),
            };
            block[*at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// The weight's values, by the format's definition.
pub(crate) fn expand(ty: GgmlType, bytes: &[u8], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * cols];
    let row_bytes = ty.row_bytes(cols).expect("whole blocks");
    for (bytes, out) in bytes.chunks_exact(row_bytes.max(1)).zip(out.chunks_exact_mut(cols)) {
        ty.dequantize_row(bytes, out).expect("whole row");
    }
    out
}

pub(crate) fn pool() -> Pool {
    Pool::new(2)
}

/// Collects failures, so that one run shows all of them.
#[derive(Default)]
pub(crate) struct Failures(Vec<String>);

impl Failures {
    pub(crate) fn push(&mut self, text: String) {
        self.0.push(text);
    }

    pub(crate) fn check(self) {
        let shown: Vec<_> = self.0.iter().take(40).cloned().collect();
        assert!(self.0.is_empty(), "{} failures:\n{}", self.0.len(), shown.join("\n"));
    }
}
