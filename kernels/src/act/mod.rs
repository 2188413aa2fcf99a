//! Activations, quantised once per layer input and shared by all weights that read it.
//!
//! * `F32`: as they are; for [`Precision::Exact`], and for F32 weights in either mode.
//! * Fixed: 16 bits, one factor per 256, for F16 and BF16 weights where the table multiplies such numbers faster (see `fixed`):
//!   with more than a few tokens, or as [`HalfWeights`] says; otherwise those weights take `F32`, too.
//! * `Q8K`: one scale per 256, for super-block formats. With `A` the largest magnitude, `s = 127/A`,
//!   `q = round_half_even(x·s)`, `d = 1/s`. This is the arithmetic of GGUF runtimes' Q8_K up to a common sign of `q`
//!   and `d`, which cancels in every product. Sums of 16 and of 32 codes serve the formats' mins.
//! * `Q8B`: one scale per 32, for blocks of 32: `d = A/127` (kept in f32), `q = round_half_even(x·(127/A))`.
//!
//! Values below 1e-30 throughout a unit count as zeros, so that no scale overflows. Codes are −127…127, so that no kernel meets −128 as an activation.

mod rows;

use std::ops::Range;

use ocelli_quant::GgmlType;

use crate::error::{KernelError, check_len};
use crate::fixed;
use crate::matmul::{FEW_TOKENS, OutPtr};
use crate::pool::Pool;
use crate::select::Kernels;
use crate::table::{ActKind, Acts, Reach, index};
use rows::Rows;

/// A unit whose largest magnitude is below this is all zeros.
pub(crate) const TINY: f32 = 1e-30;

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Weights are expanded to f32 and multiplied with f32 activations: for parity with float implementations.
    Exact,
    /// Activations are quantised to 8 bits for quantised weights. F16 and BF16 weights and their activations become 16-bit
    /// fixed-point numbers where the instruction set multiplies those faster, which costs about as much precision as F16
    /// itself; F32 weights compute in f32.
    #[default]
    Fast,
}

/// How products with F16 and BF16 weights are computed in the mode `Fast`. The only products whose results may depend on how many tokens go
/// together are those of [`HalfWeights::Fastest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HalfWeights {
    /// As is faster: with up to [`FEW_TOKENS`] tokens as [`HalfWeights::F32`], with more as [`HalfWeights::FixedPoint`].
    #[default]
    Fastest,
    /// In f32: prompts take about twice as long.
    F32,
    /// As fixed-point numbers, where the instruction set has them, which takes longer for a few tokens.
    FixedPoint,
}

/// The forms of activations that a set of weights needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActNeeds {
    precision: Precision,
    f32: bool,
    half: bool,
    half_weights: HalfWeights,
    q8k: bool,
    q8b: bool,
    pairs: bool,
}

impl ActNeeds {
    /// The forms needed by weights of the formats `types`.
    #[must_use]
    pub fn new(precision: Precision, types: impl IntoIterator<Item = GgmlType>) -> Self {
        let f32 = precision == Precision::Exact;
        let half_weights = HalfWeights::default();
        let mut needs = Self { precision, f32, half: false, half_weights, q8k: false, q8b: false, pairs: false };
        if precision == Precision::Fast {
            for ty in types {
                match act_kind(ty) {
                    None if is_half(ty) => needs.half = true,
                    None => needs.f32 = true,
                    Some(ActKind::Q8K) => needs.q8k = true,
                    Some(ActKind::Q8B) => needs.q8b = true,
                }
            }
        }
        needs
    }

    /// The same, where F16 and BF16 weights are multiplied like this in [`Precision::Fast`].
    #[must_use]
    pub fn half_weights(self, half_weights: HalfWeights) -> Self {
        Self { half_weights, ..self }
    }

    /// Whether those weights are multiplied as fixed-point numbers with so many tokens, where the table can.
    fn is_fixed(self, tokens: usize) -> bool {
        self.half
            && match self.half_weights {
                HalfWeights::Fastest => tokens > FEW_TOKENS,
                HalfWeights::F32 => false,
                HalfWeights::FixedPoint => true,
            }
    }

    /// The same, where blocks of 32 share a scale two by two: for weights of which that is true as well
    /// ([`crate::WeightRef::in_pairs`]).
    #[must_use]
    pub fn in_pairs(self) -> Self {
        Self { pairs: true, ..self }
    }

    /// The same, where F32 weights count as F16 ones.
    #[must_use]
    pub fn rounded(self) -> Self {
        match self.precision {
            Precision::Exact => self,
            Precision::Fast => Self { f32: false, half: self.half || self.f32, ..self },
        }
    }
}

/// Whether weights of this format have no more precision than fixed-point numbers.
pub(crate) fn is_half(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::F16 | GgmlType::BF16)
}

/// The quantised form that a format's integer kernels take; the same in every table.
fn act_kind(ty: GgmlType) -> Option<ActKind> {
    Kernels::scalar().table.formats[index(ty)].int.map(|int| int.act)
}

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Codes that begin where a line of the cache does: kernels load whole lines.
#[derive(Debug, Default)]
struct Lines {
    codes: Vec<i8>,
    first: usize,
}

impl Lines {
    fn resize(&mut self, n: usize) {
        self.codes.resize(n + LINE, 0);
        self.first = self.codes.as_ptr().align_offset(LINE).min(LINE);
    }

    /// The first `n` codes.
    fn rows(&self, n: usize) -> &[i8] {
        &self.codes[self.first..][..n]
    }

    fn as_mut_ptr(&mut self) -> *mut i8 {
        self.codes[self.first..].as_mut_ptr()
    }
}

/// Quantised rows.
#[derive(Debug, Default)]
struct Codes {
    q: Lines,
    /// The same codes of a few tokens in another order, see [`Acts::crossed`].
    crossed: Lines,
    /// The same, 16 bits wide, for tables that want that; only beside one scale per 32.
    q16: Vec<i16>,
    d: Vec<f32>,
    sums16: Vec<i16>,
    sums32: Vec<i16>,
    /// What sums with raised weights begin with, see [`Acts::begin`].
    begin: Vec<i32>,
    /// The same of 64 codes that share a scale.
    begin_pairs: Vec<i32>,
    /// See [`Acts::reach`].
    reach: Vec<Reach>,
}

impl Codes {
    /// `more`: with what only some tables take, of units of 256 `reach`, of others `q16`.
    fn resize(&mut self, tokens: usize, depth: usize, unit: usize, more: bool, pairs: bool) {
        let (n, sums16) = (tokens.saturating_mul(depth), unit == 256);
        self.q.resize(n);
        self.crossed.resize(if sums16 { tokens.min(FEW_TOKENS).saturating_mul(depth) } else { 0 });
        self.d.resize(n / unit, 0.0);
        self.q16.resize(if sums16 || !more { 0 } else { n }, 0);
        self.reach.resize(if sums16 && more { n / 256 } else { 0 }, Reach::default());
        self.sums16.resize(if sums16 { n / 16 } else { 0 }, 0);
        self.sums32.resize(n / 32, 0);
        self.begin.resize(if sums16 { n / 16 } else { n / 32 }, 0);
        self.begin_pairs.resize(if pairs { n / 64 } else { 0 }, 0);
    }
}

/// Fixed-point rows.
#[derive(Debug, Default)]
struct Rows16 {
    /// Codes, an even number per row.
    q: Vec<i16>,
    /// A factor for every unit.
    factors: Vec<f32>,
}

/// Fixed-point rows, as products take them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FixedRows<'a> {
    pub(crate) q: &'a [i16],
    /// Distance between rows of codes.
    pub(crate) stride: usize,
    pub(crate) factors: &'a [f32],
    /// Distance between rows of factors.
    pub(crate) units: usize,
}

/// Activations of some tokens, in the forms that the weights about to read them need. Reuse one per layer input: it
/// grows to the largest size it has held and does not allocate after that.
#[derive(Debug, Default)]
pub struct ActBuf {
    tokens: usize,
    depth: usize,
    /// Values of a row that were filled in; zeros follow.
    width: usize,
    needs: Option<ActNeeds>,
    /// Whether `f32` and `fixed` are filled.
    filled: (bool, bool),
    f32: Vec<f32>,
    fixed: Rows16,
    q8k: Codes,
    q8b: Codes,
}

impl ActBuf {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer that will not allocate for up to `tokens` rows of `depth` in the forms of `needs`.
    #[must_use]
    pub fn with_capacity(tokens: usize, depth: usize, needs: ActNeeds) -> Self {
        let mut buf = Self::default();
        // Which form floats take depends on the table and on the number of tokens.
        buf.resize(tokens, depth, needs, (needs.f32 || needs.half, needs.half), (true, true));
        buf
    }

    /// Tokens held.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values per token.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Takes in `tokens` rows of `depth` values in the forms of `needs`, dividing the rows over the pool's threads.
    ///
    /// # Errors
    /// When `x` is not `tokens · depth` long, or a quantised form is needed and `depth` is not a multiple of its unit
    /// (256, 32, or 64 in pairs).
    pub fn fill(
        &mut self,
        pool: &Pool,
        kernels: Kernels,
        x: &[f32],
        tokens: usize,
        depth: usize,
        needs: ActNeeds,
    ) -> Result<(), KernelError> {
        check_len("activations", x.len(), tokens.saturating_mul(depth))?;
        self.fill_padded(pool, kernels, x, tokens, depth, needs)
    }

    /// As [`ActBuf::fill`], with zeros behind every row: `x` holds `tokens` rows of at most `depth` values each. For
    /// weights whose rows are padded to whole blocks.
    ///
    /// # Errors
    /// When `x` does not divide into `tokens` rows or they are longer than `depth`, and as [`ActBuf::fill`].
    pub fn fill_padded(
        &mut self,
        pool: &Pool,
        kernels: Kernels,
        x: &[f32],
        tokens: usize,
        depth: usize,
        needs: ActNeeds,
    ) -> Result<(), KernelError> {
        let width = self.begin(kernels, x.len(), tokens, depth, needs)?;
        let rows = Rows::of(self, kernels, needs);
        rows.over(pool, 0..tokens, |t| Some(&x[t * width..(t + 1) * width]));
        self.needs = Some(needs);
        Ok(())
    }

    /// As [`ActBuf::fill_padded`], where rows are made just before they are taken in, by the thread that does that: `make` is
    /// given the number of a token, its row of `x` and its row of `beside`, which holds rows of any width, perhaps 0. Rows
    /// of which it says no are not taken in: [`ActBuf::refill`] must do so.
    ///
    /// # Errors
    /// As [`ActBuf::fill_padded`], and when `beside` does not divide into `tokens` rows.
    #[expect(clippy::too_many_arguments, reason = "two inputs, their division and who makes them")]
    pub fn fill_made(
        &mut self,
        pool: &Pool,
        kernels: Kernels,
        x: &mut [f32],
        beside: &mut [f32],
        tokens: usize,
        depth: usize,
        needs: ActNeeds,
        make: impl Fn(usize, &mut [f32], &mut [f32]) -> bool + Sync,
    ) -> Result<(), KernelError> {
        let width = self.begin(kernels, x.len(), tokens, depth, needs)?;
        if tokens != 0 && !beside.len().is_multiple_of(tokens) {
            return Err(KernelError::Multiple { what: "rows beside activations", got: beside.len(), of: tokens });
        }
        let other = beside.len() / tokens.max(1);
        let (x, beside) = (OutPtr(x.as_mut_ptr()), OutPtr(beside.as_mut_ptr()));
        let rows = Rows::of(self, kernels, needs);
        rows.over(pool, 0..tokens, |t| {
            // SAFETY: both hold rows of these widths for every token, of which one turn takes each.
            let (row, beside) = unsafe {
                (
                    std::slice::from_raw_parts_mut(x.get().add(t * width), width),
                    std::slice::from_raw_parts_mut(beside.get().add(t * other), other),
                )
            };
            make(t, row, beside).then_some(&*row)
        });
        self.needs = Some(needs);
        Ok(())
    }

    /// Takes rows `range` of what was filled in again.
    ///
    /// # Errors
    /// When nothing was filled in, `x` has another length than then, or there are no such rows.
    pub fn refill(&mut self, pool: &Pool, kernels: Kernels, x: &[f32], range: Range<usize>) -> Result<(), KernelError> {
        let needs = self.needs.ok_or(KernelError::Empty { what: "set of activations" })?;
        check_len("activations", x.len(), self.tokens * self.width)?;
        if range.end > self.tokens {
            return Err(KernelError::TooLarge { what: "end of activations", got: range.end, limit: self.tokens });
        }
        let width = self.width;
        Rows::of(self, kernels, needs).over(pool, range, |t| Some(&x[t * width..(t + 1) * width]));
        Ok(())
    }

    /// Checks that `tokens` rows of `len` values in all can be taken in, and makes room; the width of a row.
    fn begin(
        &mut self,
        kernels: Kernels,
        len: usize,
        tokens: usize,
        depth: usize,
        needs: ActNeeds,
    ) -> Result<usize, KernelError> {
        self.needs = None;
        if tokens != 0 && !len.is_multiple_of(tokens) {
            return Err(KernelError::Multiple { what: "activations", got: len, of: tokens });
        }
        let limit = if tokens == 0 { 0 } else { tokens.saturating_mul(depth) };
        if len > limit {
            return Err(KernelError::TooLarge { what: "number of activations", got: len, limit });
        }
        for (need, unit) in [(needs.q8k, 256), (needs.q8b, if needs.pairs { 64 } else { 32 })] {
            if need && !depth.is_multiple_of(unit) {
                return Err(KernelError::Multiple { what: "activation depth", got: depth, of: unit });
            }
        }
        let fixed = needs.is_fixed(tokens) && kernels.table.fixed.is_some();
        self.filled = (needs.f32 || needs.half && !fixed, fixed);
        // One token is multiplied without a panel, and one thread takes it in while the others wait.
        let more = (!kernels.table.fast_bytes, kernels.table.reach.is_some() && tokens > 1);
        self.resize(tokens, depth, needs, self.filled, more);
        (self.tokens, self.depth, self.width) = (tokens, depth, len / tokens.max(1));
        Ok(self.width)
    }

    fn resize(
        &mut self,
        tokens: usize,
        depth: usize,
        needs: ActNeeds,
        (f32, fixed): (bool, bool),
        (wide, reach): (bool, bool),
    ) {
        let n = tokens.saturating_mul(depth);
        if f32 {
            self.f32.resize(n, 0.0);
        }
        if fixed {
            self.fixed.q.resize(tokens.saturating_mul(fixed::even(depth)), 0);
            self.fixed.factors.resize(tokens.saturating_mul(fixed::units(depth)), 0.0);
        }
        if needs.q8k {
            self.q8k.resize(tokens, depth, 256, reach, false);
        }
        if needs.q8b {
            self.q8b.resize(tokens, depth, 32, wide, needs.pairs);
        }
    }

    /// The f32 rows.
    pub(crate) fn as_f32(&self) -> Option<&[f32]> {
        self.needs.filter(|_| self.filled.0).map(|_| &self.f32[..self.tokens * self.depth])
    }

    /// The fixed-point rows.
    pub(crate) fn as_fixed(&self) -> Option<FixedRows<'_>> {
        let (stride, units) = (fixed::even(self.depth), fixed::units(self.depth));
        let (q, factors) = (&self.fixed.q[..], &self.fixed.factors[..]);
        self.needs.filter(|_| self.filled.1).map(|_| FixedRows { q, stride, factors, units })
    }

    /// The quantised rows of a kind; `None` when they were not filled, or when all products are to be exact.
    pub(crate) fn codes(&self, kind: ActKind) -> Option<Acts<'_>> {
        let needs = self.needs?;
        let (have, codes, unit) = match kind {
            ActKind::Q8K => (needs.q8k, &self.q8k, 256),
            ActKind::Q8B => (needs.q8b, &self.q8b, 32),
        };
        have.then(|| Acts {
            q: codes.q.rows(self.tokens * self.depth),
            crossed: match kind {
                ActKind::Q8K if self.tokens <= FEW_TOKENS => codes.crossed.rows(self.tokens * self.depth),
                _ => &[],
            },
            q16: &codes.q16,
            d: &codes.d,
            pairs: needs.pairs && kind == ActKind::Q8B,
            sums16: &codes.sums16,
            sums32: &codes.sums32,
            begin: &codes.begin,
            begin_pairs: &codes.begin_pairs,
            reach: &codes.reach,
            depth: self.depth,
            unit,
        })
    }

    /// Whether quantised weights are to be expanded to f32.
    pub(crate) fn exact(&self) -> bool {
        self.needs.is_some_and(|n| n.precision == Precision::Exact)
    }
}
