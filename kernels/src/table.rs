//! The table of kernels that one instruction set provides, and the arguments its functions take.
//!
//! A table exists only after detection has succeeded (see [`crate::select`]); its entries are `unsafe fn` because
//! they trust lengths that the safe functions of this crate have checked, and the features that the table's existence
//! proves. Storage formats differ only in their [`FormatKernels`]; nothing else in a table knows them.

use ocelli_quant::GgmlType;

use crate::fixed::FixedKernels;
use crate::measure::Unit;
use crate::transpose::Transpose;

/// Rows (lanes) of a panel of f32 weights, the same for every table: the panel's layout is `[depth][F32_LANES]`.
pub(crate) const F32_LANES: usize = 16;

/// One row: values to codes, scales, sums of 16 and sums of 32.
pub(crate) type QuantizeQ8k = unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i16], &mut [i16]);

/// One row: values to codes, scales and sums of 32, and whether every two scales are to be the same.
pub(crate) type QuantizeQ8b = unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i16], bool);

/// Codes of whole units of 256 to what each reaches.
pub(crate) type ReachOf = unsafe fn(&[i8], &mut [Reach]);

/// One row: input, weights, biases, epsilon, result.
pub(crate) type LayerNorm = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// A hand-tuned kernel for one token, in place of a format's generic one.
#[cfg(target_arch = "aarch64")]
pub(crate) type TunedGemv = (GgmlType, unsafe fn(&mut Gemv));

/// Activations of one super-block, as hand-tuned kernels take them.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(crate) struct SuperAct<'a> {
    pub(crate) q: &'a [i8; 256],
    pub(crate) sums16: &'a [i16; 16],
    pub(crate) sums32: &'a [i16; 8],
    pub(crate) d: f32,
}

/// Scales and mins of the 8 groups of a Q4_K or Q5_K block, a byte each: six bits, the first four whole, of the last four
/// the low nibbles in one place and the high bits above the first.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(crate) fn six_bits<const BYTES: usize>(b: &[u8; BYTES]) -> [u64; 2] {
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (s, m, n) = (word(4), word(8), word(12));
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    [
        join(s & 0x3f3f_3f3f, (n & 0x0f0f_0f0f) | (s >> 2 & 0x3030_3030)),
        join(m & 0x3f3f_3f3f, (n >> 4 & 0x0f0f_0f0f) | (m >> 2 & 0x3030_3030)),
    ]
}

/// Fills the slots of formats that have hand-tuned kernels.
#[cfg(target_arch = "aarch64")]
pub(crate) fn tune(mut formats: Vec<FormatKernels>, tuned: &[TunedGemv]) -> Vec<FormatKernels> {
    for (ty, gemv) in tuned {
        if let Some(int) = &mut formats[index(*ty)].int {
            int.gemv = *gemv;
        }
    }
    formats
}

/// Kernels of one instruction set.
#[derive(Debug)]
pub(crate) struct KernelTable {
    /// Name as in `--isa`.
    pub(crate) name: &'static str,
    /// Rows of an integer panel.
    pub(crate) mr: usize,
    /// Panels that the integer micro-tile takes at once, of consecutive rows.
    pub(crate) panels: usize,
    /// Tokens that one call of the integer micro-tile takes at full speed.
    pub(crate) nr: usize,
    /// One entry per format, indexed by `GgmlType as usize`.
    pub(crate) formats: Vec<FormatKernels>,
    /// `out[t][r] (+)= Σ_k rows[r][k]·x[t][k]` in f32, of rows of f32. The bits of a result do not depend on how many rows or
    /// tokens there are.
    pub(crate) rows_f32: unsafe fn(&RowsF32),
    /// `out[c][r] (+)= Σ_k panel[k][r]·x[c][k]` in f32.
    pub(crate) gemm_f32: unsafe fn(&GemmF32),
    /// Products of 16-bit fixed-point numbers, where they are faster than those of f32.
    pub(crate) fixed: Option<FixedKernels>,
    /// Whether products of signed bytes are faster still.
    pub(crate) fast_bytes: bool,
    /// `Σ a·b` in f32; equal lengths.
    pub(crate) dot_f32: unsafe fn(&[f32], &[f32]) -> f32,
    /// Quantises one row with one scale per 256: codes, scales, sums per 16, sums per 32.
    pub(crate) quantize_q8k: QuantizeQ8k,
    /// What every 256 codes reach, where GEMMs ask for it.
    pub(crate) reach: Option<ReachOf>,
    /// Quantises one row with one scale per 32: codes, scales, sums per 32.
    pub(crate) quantize_q8b: QuantizeQ8b,
    /// Writes a row, a multiple of 64 values, as blocks of Q8_0 whose every two share a scale: the codes and scales of
    /// `quantize_q8b`, the latter in half precision. Whether all values and scales were finite.
    pub(crate) q8_pairs: unsafe fn(&[f32], &mut [u8]) -> bool,
    /// `out = x·w / sqrt(mean(x²) + eps)`.
    pub(crate) rmsnorm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    /// `out = (x − mean(x))·w / sqrt(var(x) + eps) + b`, the variance being that of the row itself (divided by n).
    pub(crate) layer_norm: LayerNorm,
    /// `x[i] = gelu(x[i] + bias[i])`, the tanh form.
    pub(crate) bias_gelu: unsafe fn(&mut [f32], &[f32]),
    /// `x[i] += y[i] + bias[i]`.
    pub(crate) add_biased: unsafe fn(&mut [f32], &[f32], &[f32]),
    /// `gate[i] = silu(gate[i])·up[i]`.
    pub(crate) swiglu: unsafe fn(&mut [f32], &[f32]),
    /// `x[i] += y[i]`.
    pub(crate) add: unsafe fn(&mut [f32], &[f32]),
    /// Largest value; −∞ when empty.
    pub(crate) max: unsafe fn(&[f32]) -> f32,
    /// Sum and largest of the magnitudes; the largest knows nothing of what is no number.
    pub(crate) magnitudes: unsafe fn(&[f32]) -> (f32, f32),
    /// `x[i] = exp(x[i] − max)`; returns the sum.
    pub(crate) exp_sum: unsafe fn(&mut [f32], f32) -> f32,
    /// `x[i] *= s`.
    pub(crate) scale: unsafe fn(&mut [f32], f32),
    /// Rotates pairs (2i, 2i+1) of one head by (cos, sin) pairs.
    pub(crate) rope_interleaved: unsafe fn(&mut [f32], &[f32]),
    /// Rotates pairs (i, i + n/2) of one head by (cos, sin) pairs.
    pub(crate) rope_halves: unsafe fn(&mut [f32], &[f32]),
    /// Rounds f32 to half precision, little endian.
    pub(crate) f32_to_f16: unsafe fn(&[f32], &mut [u8]),
    /// Rows to columns.
    pub(crate) transpose: unsafe fn(&Transpose),
    /// The multiply instructions of this table on registers alone, for [`crate::measure`].
    pub(crate) peaks: Vec<PeakLoop>,
    /// Adds numbers up, with loads as wide as the registers, for [`crate::measure`].
    pub(crate) read: unsafe fn(&[u64]) -> u64,
}

/// A loop of a table's multiply instructions that touches no memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeakLoop {
    /// What is multiplied.
    pub(crate) unit: Unit,
    /// The instructions, for reports.
    pub(crate) instructions: &'static str,
    /// Operations of one turn; a multiply-add counts two.
    pub(crate) ops: u64,
    /// Runs that many turns.
    pub(crate) run: unsafe fn(u64),
}

/// Adds numbers up; inlined into a function of each table.
#[inline(always)]
pub(crate) fn sum_words(words: &[u64]) -> u64 {
    let (blocks, rest) = words.as_chunks::<32>();
    let mut sums = [0u64; 32];
    for block in blocks {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}

/// Kernels of one storage format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FormatKernels {
    /// The integer path; `None` for float formats, which always compute in f32.
    pub(crate) int: Option<IntKernels>,
    /// Expands whole blocks to f32, with the values of `GgmlType::dequantize_row`.
    pub(crate) dequantize: unsafe fn(&[u8], &mut [f32]),
    /// [`KernelTable::rows_f32`] straight from stored rows, with the same bits, of formats of which it takes less time.
    pub(crate) stored_f32: Option<unsafe fn(&RowsF32)>,
}

impl FormatKernels {
    /// Tokens up to which products in f32 are not worth expanding a strip of rows for all of them.
    pub(crate) fn few_floats(&self) -> usize {
        if self.stored_f32.is_some() { crate::FEW_TOKENS } else { FewKernel::ALONE.most }
    }
}

/// Integer kernels of one storage format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IntKernels {
    /// Which quantised activations it takes.
    pub(crate) act: ActKind,
    /// Weights in one unit: 256 or 32.
    pub(crate) unit: usize,
    /// Bytes that one unit of depth takes in a panel of `mr` rows.
    pub(crate) panel_unit_bytes: usize,
    /// One token: `out[r] = w[r]·x` for consecutive rows.
    pub(crate) gemv: unsafe fn(&mut Gemv),
    /// A few tokens at once.
    pub(crate) few: FewKernel,
    /// Unpacks up to `mr` rows of a depth range into a panel; missing rows become zeros.
    pub(crate) pack: unsafe fn(&mut Pack),
    /// Multiplies a panel with several tokens.
    pub(crate) gemm: unsafe fn(&Gemm),
}

/// How a few tokens are multiplied without a panel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FewKernel {
    /// Tokens up to which that takes less time than making a panel and multiplying it. At most [`crate::FEW_TOKENS`].
    pub(crate) most: usize,
    /// `None`: one token after the other.
    pub(crate) run: Option<unsafe fn(&Few)>,
}

impl FewKernel {
    /// One after the other over a strip of rows, which is in the cache then. Unpacking a strip costs about as much as this
    /// many products with it.
    pub(crate) const ALONE: Self = Self { most: 3, run: None };
}

/// What a table has of its own for several tokens, over one that serves all else.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Prompt {
    /// Bound on the tokens that are few: faster panels pay sooner.
    pub(crate) few: usize,
    pub(crate) panel_unit_bytes: usize,
    pub(crate) pack: unsafe fn(&mut Pack),
    pub(crate) gemm: unsafe fn(&Gemm),
}

#[cfg(target_arch = "x86_64")]
impl FormatKernels {
    /// Puts this GEMM, and the panels it takes, in the place of what several tokens took.
    pub(crate) fn use_prompt(&mut self, prompt: Option<Prompt>) {
        if let (Some(int), Some(Prompt { few, panel_unit_bytes, pack, gemm })) = (&mut self.int, prompt) {
            let few = FewKernel { most: int.few.most.min(few), ..int.few };
            *int = IntKernels { few, panel_unit_bytes, pack, gemm, ..*int };
        }
    }
}

/// Forms of quantised activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActKind {
    /// One scale per 256, for weights in super-blocks.
    Q8K,
    /// One scale per 32, for weights in blocks of 32.
    Q8B,
}

/// What signed codes of 8 bits are raised by.
pub(crate) const RAISED32: i32 = 128;

/// What Q6_K's codes are raised by.
pub(crate) const RAISED16: i32 = 32;

/// Quantised activations of consecutive tokens: rows of `depth` codes with their scales and sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acts<'a> {
    /// Codes −127…127, `depth` per token.
    pub(crate) q: &'a [i8],
    /// Of [`ActKind::Q8K`], where tokens are at most [`crate::FEW_TOKENS`], the same codes with the runs 0 … 7 of 32 of each
    /// super-block in the order 0, 2, 1, 3, 4, 6, 5, 7: that in which whole lines of nibbles come. Else empty.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AVX-512 takes runs in this order"))]
    pub(crate) crossed: &'a [i8],
    /// The same codes, 16 bits wide; empty for [`ActKind::Q8K`], and where [`KernelTable::fast_bytes`] says that bytes serve.
    pub(crate) q16: &'a [i16],
    /// One scale per unit (256 or 32 weights).
    pub(crate) d: &'a [f32],
    /// Whether every two of them are the same.
    pub(crate) pairs: bool,
    /// Sums of 16 codes; empty for [`ActKind::Q8B`].
    pub(crate) sums16: &'a [i16],
    /// Sums of 32 codes.
    pub(crate) sums32: &'a [i16],
    /// What sums of products begin with where weights are raised to be unsigned: [`RAISED32`] times the sums of 32 codes,
    /// or for [`ActKind::Q8K`] [`RAISED16`] times those of 16, with the opposite sign. Broadcast from memory where it is
    /// added, so that it costs no calculation; where weights are raised by less, shifted by so much.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 multiplies raised weights"))]
    pub(crate) begin: &'a [i32],
    /// The same of 64 codes, where those share a scale; else empty.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 takes two blocks at once"))]
    pub(crate) begin_pairs: &'a [i32],
    /// See [`KernelTable::reach`]; empty for [`ActKind::Q8B`], and where nobody asks.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 multiplies two sums at once"))]
    pub(crate) reach: &'a [Reach],
    /// Codes per token.
    pub(crate) depth: usize,
    /// Codes per scale.
    pub(crate) unit: usize,
}

impl<'a> Acts<'a> {
    /// The activations of tokens `from..from + n`.
    pub(crate) fn tokens(&self, from: usize, n: usize) -> Acts<'a> {
        let cut16 = if self.sums16.is_empty() { 0..0 } else { from * self.depth / 16..(from + n) * self.depth / 16 };
        let begin = if self.unit == 256 { self.depth / 16 } else { self.depth / 32 };
        let wide = if self.q16.is_empty() { 0..0 } else { from * self.depth..(from + n) * self.depth };
        let crossed = if self.crossed.is_empty() { 0..0 } else { from * self.depth..(from + n) * self.depth };
        let reach = if self.reach.is_empty() { 0..0 } else { from * self.depth / 256..(from + n) * self.depth / 256 };
        Acts {
            q: &self.q[from * self.depth..(from + n) * self.depth],
            crossed: &self.crossed[crossed],
            q16: &self.q16[wide],
            d: &self.d[from * self.depth / self.unit..(from + n) * self.depth / self.unit],
            sums16: &self.sums16[cut16],
            sums32: &self.sums32[from * self.depth / 32..(from + n) * self.depth / 32],
            begin: &self.begin[from * begin..(from + n) * begin],
            begin_pairs: if self.pairs { &self.begin_pairs[from * begin / 2..(from + n) * begin / 2] } else { &[] },
            reach: &self.reach[reach],
            ..*self
        }
    }
}

/// How large sums of some of 256 codes are, and with them those of products with weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The largest sum of the positive ones, or of the magnitudes of the negative ones, among 32.
    pub(crate) one_sign32: u16,
    /// The largest sum of the magnitudes of 16.
    pub(crate) all16: u16,
}

/// One token times consecutive stored rows.
#[derive(Debug)]
pub(crate) struct Gemv<'a> {
    /// `out.len()` rows of `row_bytes`.
    pub(crate) rows: &'a [u8],
    /// Bytes of one row, a whole number of blocks that holds `acts.depth` weights.
    pub(crate) row_bytes: usize,
    /// Activations of one token.
    pub(crate) acts: Acts<'a>,
    /// See [`Few::piece`].
    pub(crate) piece: usize,
    /// One result per row.
    pub(crate) out: &'a mut [f32],
}

/// A few tokens times consecutive stored rows.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 multiplies a few tokens at once"))]
pub(crate) struct Few<'a> {
    /// Whole rows of `row_bytes`.
    pub(crate) rows: &'a [u8],
    /// Bytes of one row, a whole number of blocks that holds `acts.depth` weights.
    pub(crate) row_bytes: usize,
    /// Activations.
    pub(crate) acts: Acts<'a>,
    /// Tokens of `acts`.
    pub(crate) tokens: usize,
    /// Units of depth that a panel holds: a result is the sum of those of so many units each, the last perhaps of fewer.
    pub(crate) piece: usize,
    /// Result of row 0 and the first token; row r of token t is at `t·out_stride + r`.
    pub(crate) out: *mut f32,
    /// Distance between tokens in the result.
    pub(crate) out_stride: usize,
}

/// f32 tokens times consecutive rows of floats, as they are stored or expanded.
#[derive(Debug)]
pub(crate) struct RowsF32<'a> {
    /// Whole rows of `row_bytes`.
    pub(crate) rows: &'a [u8],
    /// Bytes of one row, which holds `cols` weights; not 0.
    pub(crate) row_bytes: usize,
    /// First value of the first token.
    pub(crate) x: *const f32,
    /// Distance between tokens.
    pub(crate) x_stride: usize,
    /// Values of a token.
    pub(crate) cols: usize,
    /// Tokens.
    pub(crate) tokens: usize,
    /// Result of row 0 and the first token; row r of token t is at `t·out_stride + r`.
    pub(crate) out: *mut f32,
    /// Distance between tokens in the result.
    pub(crate) out_stride: usize,
    /// Whether to add to the result instead of storing it.
    pub(crate) accumulate: bool,
}

impl RowsF32<'_> {
    /// Stores the result of row `r` and token `t`, or adds it.
    ///
    /// # Safety
    /// There must be a place for it.
    #[inline(always)]
    pub(crate) unsafe fn put(&self, r: usize, t: usize, result: f32) {
        // SAFETY: promised by the caller.
        unsafe {
            let out = self.out.add(t * self.out_stride + r);
            *out = if self.accumulate { *out + result } else { result };
        }
    }
}

/// A piece of weights to unpack.
#[derive(Debug)]
pub(crate) struct Pack<'a> {
    /// Stored rows, starting at the first block of the depth range of the first row.
    pub(crate) rows: &'a [u8],
    /// Distance between rows in bytes.
    pub(crate) row_bytes: usize,
    /// Rows present, 1…mr.
    pub(crate) n_rows: usize,
    /// Units of depth.
    pub(crate) units: usize,
    /// `units · panel_unit_bytes` bytes, aligned to 64.
    pub(crate) panel: &'a mut [u8],
}

/// A panel, or several of consecutive rows, times tokens.
#[derive(Debug)]
pub(crate) struct Gemm<'a> {
    /// What `pack` wrote, panel behind panel.
    pub(crate) panel: &'a [u8],
    /// Bytes of one panel.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 takes two panels at once"))]
    pub(crate) next: usize,
    /// Rows present, 1…mr·panels.
    pub(crate) n_rows: usize,
    /// First unit of depth that the panel covers.
    pub(crate) unit0: usize,
    /// Units of depth in the panel.
    pub(crate) units: usize,
    /// All tokens to multiply with, at full depth.
    pub(crate) acts: Acts<'a>,
    /// Result of row 0 and the first token; row r of token t is at `t·out_stride + r`.
    pub(crate) out: *mut f32,
    /// Distance between tokens in the result.
    pub(crate) out_stride: usize,
    /// Where results are in the end, if that is not at `out`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 asks for lines to write to"))]
    pub(crate) end: Lines,
    /// Whether to add to the result instead of storing it.
    pub(crate) accumulate: bool,
    /// Whether blocks have the same scale two by two, in the panel and in the activations; `unit0` and `units` are even then.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 takes two blocks at once"))]
    pub(crate) pairs: bool,
    /// Stored rows that will be wanted next, to be asked for meanwhile; they may be anything.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 asks for them"))]
    pub(crate) later: &'a [u8],
}

/// Where floats of several tokens will be written: those of token `t` from `at + t·stride` on. An address, never more.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 asks for them"))]
pub(crate) struct Lines {
    pub(crate) at: *const f32,
    pub(crate) stride: usize,
}

#[cfg(target_arch = "x86_64")]
impl Lines {
    /// Asks for the lines of `n` floats of each of `N` tokens from `t` on, so that they are there when they are written: tokens
    /// lie far apart, in lines that no near cache has. Affects nothing but caches.
    #[inline(always)]
    pub(crate) fn claim<const N: usize>(self, t: usize, n: usize) {
        for c in 0..N {
            let first = self.at.wrapping_add((t + c) * self.stride);
            for float in (0..n).step_by(F32_LANES) {
                // SAFETY: no more than a hint. By its name, because the intrinsic asks for lines to be read.
                unsafe {
                    let line = first.wrapping_add(float);
                    std::arch::asm!("prefetchw [{0}]", in(reg) line, options(readonly, nostack, preserves_flags));
                }
            }
        }
    }
}

/// A panel of f32 weights times f32 rows.
#[derive(Debug)]
pub(crate) struct GemmF32 {
    /// `depth` rows of at least [`F32_LANES`] floats.
    pub(crate) panel: *const f32,
    /// Distance between depth steps in the panel.
    pub(crate) panel_stride: usize,
    /// Lanes to store, 1…[`F32_LANES`].
    pub(crate) n_rows: usize,
    /// Depth.
    pub(crate) depth: usize,
    /// First activation row.
    pub(crate) x: *const f32,
    /// Distance between activation rows.
    pub(crate) x_stride: usize,
    /// Activation rows.
    pub(crate) cols: usize,
    /// Result of lane 0 and the first activation row.
    pub(crate) out: *mut f32,
    /// Distance between activation rows in the result.
    pub(crate) out_stride: usize,
    /// Whether to add to the result instead of storing it.
    pub(crate) accumulate: bool,
}

/// Asks for bytes that will be read before long. Affects nothing but caches.
#[inline(always)]
pub fn fetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: no more than a hint on both.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) line.as_ptr(), options(readonly, nostack, preserves_flags));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = line;
    }
}

/// Where `N` rows begin that lie `stride` apart. Written as a loop: a closure is not always inlined where the function
/// around it has more features, and a call in a tile would spill all its registers.
#[inline(always)]
pub(crate) fn rows_from<T, const N: usize>(first: *const T, stride: usize) -> [*const T; N] {
    let mut rows = [first; N];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = first.wrapping_add(i * stride);
    }
    rows
}

/// Tokens of the next tile: where a tile and a part of one are left, two of like size, for a tile of one token takes
/// nearly as long as one of two.
#[cfg(any(target_arch = "x86_64", test))]
pub(crate) fn tile_tokens(most: usize, left: usize) -> usize {
    if left > most && left < 2 * most { left.div_ceil(2) } else { left.min(most) }
}

/// Index of a format in [`KernelTable::formats`].
pub(crate) fn index(ty: GgmlType) -> usize {
    ty as usize
}

#[cfg(test)]
mod tests {
    use super::tile_tokens;

    #[test]
    fn tiles_cover_all_tokens_without_a_lone_one_where_it_can_be_helped() {
        for most in [3, 4, 6, 8, 12] {
            for tokens in 1..100 {
                let (mut left, mut least) = (tokens, usize::MAX);
                while left > 0 {
                    let n = tile_tokens(most, left);
                    assert!((1..=most).contains(&n) && n <= left, "{n} of {left}");
                    left -= n;
                    least = least.min(n);
                }
                assert!(tokens == 1 || least > 1, "{tokens} tokens, tiles of {most}");
            }
        }
    }
}
