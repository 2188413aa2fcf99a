//! Products of stored weights with activations.
//!
//! One token goes straight over the stored blocks (GEMV), and so do a few, where making a panel would cost more than it
//! saves: up to four at once where the table has a kernel for that, otherwise one after the other over the same strip of
//! rows, which is in the cache then. Several tokens go through a real quantised GEMM: a thread takes a strip of rows,
//! unpacks it once into a panel in its scratch memory, and multiplies the panel with all tokens. Weights are never copied
//! anywhere else.
//!
//! A result depends on its row of weights, its token, the precision and the table, and on nothing else, to the bit: both ways
//! add up the same numbers in the same order, and how rows and tokens are cut, or dealt out to threads, depends on no sum. The
//! exception is one of choice, [`HalfWeights::Fastest`](crate::HalfWeights::Fastest).

use ocelli_quant::GgmlType;

use crate::act::{ActBuf, FixedRows, is_half};
use crate::columns::KeptColumns;
use crate::error::{KernelError, check_len};
use crate::fixed::{FixedKernels, Panel16, Staged, UNIT, even};
use crate::pool::{Pool, SCRATCH_BYTES};
use crate::select::Kernels;
use crate::table::{
    Acts, F32_LANES, Few, FormatKernels, Gemm, Gemv, IntKernels, KernelTable, Lines, Pack, RowsF32, index,
};

/// Scratch kept for both results that become one in [`matmul_swiglu`]: rows of a result lie far apart, often in the same few
/// places of a cache, and would be gone when they are wanted again.
const PARTNER_BYTES: usize = 128 * 1024;

/// Products that [`matmul_many`] takes at once.
pub const MAX_PRODUCTS: usize = 8;

/// Scratch for panels.
const PANEL_BYTES: usize = SCRATCH_BYTES - PARTNER_BYTES;

/// Most tokens that any format on any table multiplies straight from the stored blocks, without a panel; and that
/// [`HalfWeights::Fastest`](crate::HalfWeights::Fastest) multiplies in f32.
pub const FEW_TOKENS: usize = 16;

/// Bytes of rows in a turn without a panel: with half as many, reading them begins to take longer.
const TURN_BYTES: usize = 32 * 1024;

/// Depth of rows that are expanded to f32, at most. A multiple of every block length.
const F32_DEPTH: usize = 64 * 1024;

/// Bytes of expanded rows for a few tokens, in the first cache.
const NEAR_BYTES: usize = 16 * 1024;

/// The same for many, in the second.
const FAR_BYTES: usize = 256 * 1024;

/// Rows of a strip that is expanded.
const F32_ROWS: usize = 48;

/// A stored matrix: `rows` rows of `cols` weights, each a whole number of blocks.
#[derive(Debug, Clone, Copy)]
pub struct WeightRef<'a> {
    ty: GgmlType,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
    row_bytes: usize,
    pairs: bool,
}

impl<'a> WeightRef<'a> {
    /// Views `bytes` as a matrix.
    ///
    /// # Errors
    /// When `cols` is 0 or does not divide into blocks or `bytes` is not exactly `rows` rows long.
    pub fn new(ty: GgmlType, bytes: &'a [u8], rows: usize, cols: usize) -> Result<Self, KernelError> {
        if cols == 0 {
            return Err(KernelError::Empty { what: "row of a weight" });
        }
        let row_bytes = ty.row_bytes(cols)?;
        let limit = isize::MAX as usize;
        let want = rows.checked_mul(row_bytes).ok_or(KernelError::TooLarge { what: "row count", got: rows, limit })?;
        check_len("weight bytes", bytes.len(), want)?;
        Ok(Self { ty, bytes, rows, cols, row_bytes, pairs: false })
    }

    /// Views `bytes` as a matrix of Q8_0 whose blocks have the same scale two by two, as
    /// [`crate::quantize::quantize_pairs`] makes them. Products with activations of which that is true as well
    /// ([`crate::ActNeeds::in_pairs`]) take less time. Where it is not true of the bytes, results are wrong.
    ///
    /// # Errors
    /// As [`WeightRef::new`], and when rows are an odd number of blocks.
    pub fn in_pairs(bytes: &'a [u8], rows: usize, cols: usize) -> Result<Self, KernelError> {
        if !cols.is_multiple_of(64) {
            return Err(KernelError::Multiple { what: "row of blocks in pairs", got: cols, of: 64 });
        }
        Ok(Self { pairs: true, ..Self::new(GgmlType::Q8_0, bytes, rows, cols)? })
    }

    /// Whether every two blocks have the same scale.
    #[must_use]
    pub fn is_in_pairs(&self) -> bool {
        self.pairs
    }

    /// Storage format.
    #[must_use]
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Rows, the length of a result.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, the length of an input.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of one row.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn row(&self, row: usize) -> Result<&'a [u8], KernelError> {
        if row >= self.rows {
            return Err(KernelError::TooLarge { what: "row", got: row, limit: self.rows.saturating_sub(1) });
        }
        Ok(&self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes])
    }
}

/// One product of [`matmul_many`].
#[derive(Debug)]
pub struct MatMul<'w, 'o> {
    /// The weight.
    pub weight: WeightRef<'w>,
    /// tokens × rows results.
    pub out: &'o mut [f32],
}

/// `out[t][r] = Σ_k weight[r][k]·act[t][k]` for all tokens of `act`.
///
/// # Errors
/// When the shapes do not fit, or `act` was not filled for the weight's format.
pub fn matmul(
    pool: &Pool,
    kernels: Kernels,
    weight: &WeightRef<'_>,
    act: &ActBuf,
    out: &mut [f32],
) -> Result<(), KernelError> {
    matmul_many(pool, kernels, act, &mut [MatMul { weight: *weight, out }])
}

/// Several products that share their activations, in one meeting of the threads.
///
/// # Errors
/// As [`matmul`]; nothing has been computed then.
pub fn matmul_many(
    pool: &Pool,
    kernels: Kernels,
    act: &ActBuf,
    products: &mut [MatMul<'_, '_>],
) -> Result<(), KernelError> {
    matmul_with_columns(pool, kernels, act, products, &[])
}

/// As [`matmul_many`]; to the results of some tokens products with a few columns of other weights are added, in f32. A row
/// of a result depends on nothing but what belongs to its token: not on other tokens, nor on the number of threads.
///
/// # Errors
/// As [`matmul_many`], and where lengths of `kept` do not fit, a column does not exist, or there are more than
/// [`crate::MAX_COLUMNS`].
pub fn matmul_with_columns(
    pool: &Pool,
    kernels: Kernels,
    act: &ActBuf,
    products: &mut [MatMul<'_, '_>],
    kept: &[KeptColumns<'_>],
) -> Result<(), KernelError> {
    let tokens = act.tokens();
    if products.len() > MAX_PRODUCTS {
        return Err(KernelError::TooLarge { what: "number of products", got: products.len(), limit: MAX_PRODUCTS });
    }
    let mut list: [Option<(Strips<'_>, OutPtr)>; MAX_PRODUCTS] = [const { None }; MAX_PRODUCTS];
    let mut items = 0;
    let (mut rows, n) = ([0; MAX_PRODUCTS], products.len());
    for (rows, p) in rows.iter_mut().zip(products.iter()) {
        *rows = p.weight.rows;
    }
    for kept in kept {
        kept.check(tokens, &rows[..n])?;
    }
    for (entry, p) in list.iter_mut().zip(products) {
        check_len("matmul result", p.out.len(), tokens.saturating_mul(p.weight.rows))?;
        let strips = Strips::new(kernels.table, &p.weight, act, pool.threads())?;
        items += strips.count();
        *entry = Some((strips, OutPtr(p.out.as_mut_ptr())));
    }
    pool.for_each_near(if tokens == 0 { 0 } else { items }, |mut item, scratch| {
        for (number, (strips, out)) in list.iter().flatten().enumerate() {
            if item < strips.count() {
                let ((r0, r1), rows) = (strips.rows(item), strips.weight.rows);
                // SAFETY: `out` is tokens × rows long (checked above); strips are disjoint, each taken once. What is kept
                // was checked, too.
                unsafe {
                    strips.compute(r0, r1, 0, tokens, Place::at(out.get().add(r0), rows), scratch);
                    for kept in kept {
                        kept.add(kernels, number, (r0, r1), out.get(), rows, scratch);
                    }
                }
                return;
            }
            item -= strips.count();
        }
    });
    Ok(())
}

/// `out[t][r] = silu(gate[r]·act[t]) · (up[r]·act[t])`: the first half of a gated MLP in one meeting of the threads.
///
/// # Errors
/// As [`matmul`], and when the two weights differ in shape.
pub fn matmul_swiglu(
    pool: &Pool,
    kernels: Kernels,
    gate: &WeightRef<'_>,
    up: &WeightRef<'_>,
    act: &ActBuf,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let (table, tokens, rows) = (kernels.table, act.tokens(), gate.rows);
    check_len("rows of the up projection", up.rows, rows)?;
    check_len("gated MLP result", out.len(), tokens.saturating_mul(rows))?;
    let mut gates = Strips::new(table, gate, act, pool.threads())?;
    let mut ups = Strips::new(table, up, act, pool.threads())?;
    // Both run over the rows of the same strip, which must suit both formats.
    let step = gates.step.min(ups.step);
    (gates.step, ups.step) = (step, step);
    let items = if tokens == 0 { 0 } else { gates.count() };
    let out = OutPtr(out.as_mut_ptr());
    pool.for_each_near(items, |item, scratch| {
        let (r0, r1) = gates.rows(item);
        let n = r1 - r0;
        let (panel, partner) = scratch.split_at_mut(PANEL_BYTES);
        let block = PARTNER_BYTES / 8 / n;
        let gate: *mut f32 = partner.as_mut_ptr().cast();
        let up = gate.wrapping_add(block * n);
        for t0 in (0..tokens).step_by(block) {
            let t1 = tokens.min(t0 + block);
            // SAFETY: the result holds tokens × rows values, and the partners `block` × n each; strips are disjoint. The
            // table's features were detected.
            unsafe {
                gates.compute(r0, r1, t0, t1, Place::at(gate, n), panel);
                let end = Lines { at: out.get().add(t0 * rows + r0), stride: rows };
                ups.compute(r0, r1, t0, t1, Place { end, ..Place::at(up, n) }, panel);
                let all = std::slice::from_raw_parts_mut(gate, (t1 - t0) * n);
                (table.swiglu)(all, std::slice::from_raw_parts(up, all.len()));
                for (t, row) in (t0..t1).zip(all.chunks_exact(n)) {
                    out.get().add(t * rows + r0).copy_from_nonoverlapping(row.as_ptr(), n);
                }
            }
        }
    });
    Ok(())
}

/// A result that several threads write in disjoint pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutPtr<T = f32>(pub(crate) *mut T);

// SAFETY: users write disjoint elements only, plain numbers.
unsafe impl<T: Copy + Send> Sync for OutPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Copy + Send> Send for OutPtr<T> {}

impl<T> OutPtr<T> {
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

/// Where the results of a strip go: row r of token t to `out + t·stride + r`.
#[derive(Debug, Clone, Copy)]
struct Place {
    out: *mut f32,
    stride: usize,
    /// Where they are in the end.
    end: Lines,
}

impl Place {
    /// Where they stay.
    fn at(out: *mut f32, stride: usize) -> Self {
        Self { out, stride, end: Lines { at: out, stride } }
    }
}

/// How the rows of one product are computed and cut.
struct Strips<'a> {
    table: &'static KernelTable,
    weight: WeightRef<'a>,
    path: Path<'a>,
    /// Rows of a strip.
    step: usize,
    /// Whether a strip is multiplied without a panel.
    few: bool,
    /// Units of depth whose products are added up before they are added to a result, for integers.
    piece: usize,
    /// Whether blocks of weights and activations share a scale two by two.
    pairs: bool,
}

enum Path<'a> {
    Int(IntKernels, Acts<'a>),
    Fixed(FormatKernels, FixedKernels, FixedRows<'a>),
    Float(FormatKernels, &'a [f32]),
}

impl<'a> Strips<'a> {
    fn new(
        table: &'static KernelTable,
        weight: &WeightRef<'a>,
        act: &'a ActBuf,
        threads: usize,
    ) -> Result<Self, KernelError> {
        if act.depth() != weight.cols {
            return Err(KernelError::Depth { rows: weight.rows, cols: weight.cols, depth: act.depth() });
        }
        let format = table.formats[index(weight.ty)];
        let missing = KernelError::MissingActivations { format: weight.ty.name() };
        let path = match format.int {
            Some(int) if !act.exact() => Path::Int(int, act.codes(int.act).ok_or(missing)?),
            // F32 weights are rounded only where nothing else was prepared.
            _ => match (act.as_fixed(), table.fixed, act.as_f32()) {
                (Some(rows), Some(fixed), x) if is_half(weight.ty) || x.is_none() => Path::Fixed(format, fixed, rows),
                (.., x) => Path::Float(format, x.ok_or(missing)?),
            },
        };
        let most = match &path {
            Path::Int(int, _) => int.few.most,
            Path::Fixed(..) => 0,
            Path::Float(format, _) => format.few_floats(),
        };
        debug_assert!(most <= FEW_TOKENS);
        // Sums of two blocks at once are those of panels.
        let pairs = weight.pairs && matches!(&path, Path::Int(_, acts) if acts.pairs);
        let few = act.tokens() <= most && !pairs;
        let piece = match &path {
            Path::Int(int, _) => {
                // Of as many panels as a strip may have, though it may have fewer.
                let most = PANEL_BYTES / int.panel_unit_bytes / table.panels;
                if pairs { most & !1 } else { most }.max(1)
            }
            _ => 0,
        };
        let step = if few {
            // Some turns per thread to even out, but of at least 16 rows, unless that is more than a turn's bytes: at the end
            // threads wait for half of one. Turns follow each other in memory.
            let turn = ((TURN_BYTES / weight.row_bytes + 4) & !7).clamp(8, 64);
            (weight.rows / (threads * 8)).clamp(turn.min(16), turn) & !7
        } else {
            match &path {
                Path::Int(..) => table.mr * table.panels,
                Path::Fixed(..) => F32_LANES,
                // Tiles take two, three or four rows.
                Path::Float(..) => (FAR_BYTES / size_of::<f32>() / weight.cols / 12 * 12).clamp(12, F32_ROWS),
            }
        };
        Ok(Self { table, weight: *weight, path, step, few, piece, pairs })
    }

    fn count(&self) -> usize {
        self.weight.rows.div_ceil(self.step)
    }

    fn rows(&self, item: usize) -> (usize, usize) {
        (item * self.step, self.weight.rows.min((item + 1) * self.step))
    }

    /// Computes rows `r0..r1` (at most one strip) for tokens `t0..t1`, which are the first row and token of `place`.
    ///
    /// # Safety
    /// `place` must be valid for those writes and not be accessed by other threads. `scratch` is a worker's scratch
    /// memory, at least [`PANEL_BYTES`] long and aligned to 64.
    unsafe fn compute(&self, r0: usize, r1: usize, t0: usize, t1: usize, place: Place, scratch: &mut [u8]) {
        let Place { out, stride, .. } = place;
        let w = &self.weight;
        let rows = &w.bytes[r0 * w.row_bytes..r1 * w.row_bytes];
        match &self.path {
            // SAFETY: rows are whole (checked by `WeightRef::new`), `out` is promised, and the table is detected.
            Path::Int(int, acts) if self.few => unsafe {
                match int.few.run {
                    Some(few) if t1 - t0 > 1 => {
                        let (tokens, row_bytes, piece) = (t1 - t0, w.row_bytes, self.piece);
                        let acts = acts.tokens(t0, tokens);
                        few(&Few { rows, row_bytes, acts, tokens, piece, out, out_stride: stride });
                    }
                    _ => {
                        for t in t0..t1 {
                            let out = std::slice::from_raw_parts_mut(out.add((t - t0) * stride), r1 - r0);
                            let (row_bytes, piece) = (w.row_bytes, self.piece);
                            (int.gemv)(&mut Gemv { rows, row_bytes, acts: acts.tokens(t, 1), piece, out });
                        }
                    }
                }
            },
            // SAFETY: promised by the caller.
            Path::Int(int, acts) => unsafe {
                let later = self.later(r0);
                self.compute_int(int, acts.tokens(t0, t1 - t0), rows, later, r1 - r0, place, scratch);
            },
            // SAFETY: promised by the caller.
            Path::Fixed(format, fixed, acts) => unsafe {
                self.compute_fixed(format, fixed, acts, t0, t1, rows, r1 - r0, out, stride, scratch);
            },
            // SAFETY: promised by the caller.
            Path::Float(format, x) => unsafe {
                self.compute_float(format, &x[t0 * w.cols..t1 * w.cols], rows, out, stride, scratch);
            },
        }
    }

    /// The integer GEMM of one strip.
    ///
    /// # Safety
    /// As [`Strips::compute`].
    #[expect(clippy::too_many_arguments, reason = "a rectangle, its place and its scratch")]
    unsafe fn compute_int(
        &self,
        int: &IntKernels,
        acts: Acts<'_>,
        rows: &[u8],
        later: &[u8],
        n_rows: usize,
        place: Place,
        scratch: &mut [u8],
    ) {
        let (units, mr) = (self.weight.cols / int.unit, self.table.mr);
        let panels = n_rows.div_ceil(mr);
        let (pairs, per) = (self.pairs, self.piece);
        let block_bytes = self.weight.row_bytes / units;
        for unit0 in (0..units).step_by(per) {
            let n = per.min(units - unit0);
            let next = n * int.panel_unit_bytes;
            let scratch = &mut scratch[..panels * next];
            for (p, panel) in scratch.chunks_exact_mut(next).enumerate() {
                let (rows, n_rows) = (&rows[p * mr * self.weight.row_bytes..], mr.min(n_rows - p * mr));
                let rows = &rows[unit0 * block_bytes..];
                // SAFETY: every row of the strip holds units `unit0..unit0 + n`; the panel has the promised size and
                // alignment; the table's features were detected.
                unsafe { (int.pack)(&mut Pack { rows, row_bytes: self.weight.row_bytes, n_rows, units: n, panel }) };
            }
            // SAFETY: the panels were just made; `out` is the caller's promise; the table's features were detected.
            unsafe {
                (int.gemm)(&Gemm {
                    panel: scratch,
                    next,
                    n_rows,
                    unit0,
                    units: n,
                    acts,
                    out: place.out,
                    out_stride: place.stride,
                    end: place.end,
                    accumulate: unit0 != 0,
                    pairs,
                    later: if unit0 == 0 { later } else { &[] },
                });
            }
        }
    }

    /// The rows of the strip that this thread takes after that from row `r0` on, but for the last of its share.
    fn later(&self, r0: usize) -> &'a [u8] {
        let w = &self.weight;
        let from = w.rows.min(r0 + self.step);
        &w.bytes[from * w.row_bytes..w.rows.min(from + self.step) * w.row_bytes]
    }

    /// The fixed-point GEMM of one strip: expands its rows unit by unit, and multiplies panels of as many units as fit.
    ///
    /// # Safety
    /// As [`Strips::compute`].
    #[expect(clippy::too_many_arguments, reason = "a rectangle, its place and its scratch")]
    unsafe fn compute_fixed(
        &self,
        format: &FormatKernels,
        fixed: &FixedKernels,
        acts: &FixedRows<'_>,
        t0: usize,
        t1: usize,
        rows: &[u8],
        n_rows: usize,
        out: *mut f32,
        stride: usize,
        scratch: &mut [u8],
    ) {
        let w = &self.weight;
        let (block_len, block_bytes) = (w.ty.block_len(), w.ty.block_bytes());
        const LANES: usize = (UNIT / 2 + 1) * F32_LANES;
        const DEPTH: usize = PANEL_BYTES / size_of::<f32>() / LANES * UNIT;
        // SAFETY: the scratch is aligned to 64 and as long; f32 has no invalid bits.
        let lanes = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<f32>(), DEPTH / UNIT * LANES) };
        let (factors, panel) = lanes.split_at_mut(DEPTH / UNIT * F32_LANES);
        let (mut staged, mut values) = (Staged::new(), [0f32; UNIT]);
        staged.end(n_rows);
        for k0 in (0..w.cols).step_by(DEPTH) {
            let k1 = w.cols.min(k0 + DEPTH);
            let places = panel.chunks_exact_mut(UNIT / 2 * F32_LANES).zip(factors.chunks_exact_mut(F32_LANES));
            for (k, (panel, factors)) in (k0..k1).step_by(UNIT).zip(places) {
                let depth = UNIT.min(k1 - k);
                let (b0, b1) = (k / block_len * block_bytes, (k + depth) / block_len * block_bytes);
                for r in 0..n_rows {
                    let bytes = &rows[r * w.row_bytes..(r + 1) * w.row_bytes];
                    // SAFETY: the bytes are the whole blocks of `depth` weights; the table's features were detected.
                    unsafe {
                        (format.dequantize)(&bytes[b0..b1], &mut values[..depth]);
                        staged.take(fixed, r, &values[..depth]);
                    }
                }
                staged.lay_out(self.table, depth, panel, factors);
            }
            // SAFETY: the panel and its factors are there for `k0..k1`; tokens `t0..t1` have codes for all columns, rounded
            // up to pairs; `out` is the caller's promise; the table's features were detected.
            unsafe {
                (fixed.gemm)(&Panel16 {
                    panel: panel.as_ptr(),
                    panel_stride: F32_LANES,
                    factors: factors.as_ptr(),
                    next: 0,
                    next_factors: 0,
                    n_rows,
                    depth: even(k1 - k0),
                    x: acts.q.as_ptr().add(t0 * acts.stride + k0),
                    x_stride: acts.stride,
                    x_factors: acts.factors.as_ptr().add(t0 * acts.units + k0 / UNIT),
                    x_factor_stride: acts.units,
                    cols: t1 - t0,
                    out,
                    out_stride: stride,
                    accumulate: k0 != 0,
                    later: &[],
                });
            }
        }
    }

    /// The f32 products of one strip: straight from stored floats, or of rows that are expanded first, as many at a time as
    /// stay in the cache. A row is one sum over its depth, but for the longest, which are one of each [`F32_DEPTH`].
    ///
    /// # Safety
    /// As [`Strips::compute`].
    unsafe fn compute_float(
        &self,
        format: &FormatKernels,
        x: &[f32],
        rows: &[u8],
        out: *mut f32,
        stride: usize,
        scratch: &mut [u8],
    ) {
        let (w, table) = (&self.weight, self.table);
        let all = RowsF32 {
            rows,
            row_bytes: w.row_bytes,
            x: x.as_ptr(),
            x_stride: w.cols,
            cols: w.cols,
            tokens: x.len() / w.cols,
            out,
            out_stride: stride,
            accumulate: false,
        };
        if let Some(stored) = format.stored_f32.filter(|_| self.few || w.cols > F32_DEPTH) {
            // SAFETY: rows and tokens are whole; the caller promises the results; the table's features were detected.
            return unsafe { stored(&all) };
        }
        let budget = if self.few { NEAR_BYTES } else { FAR_BYTES };
        let (block_len, block_bytes) = (w.ty.block_len(), w.ty.block_bytes());
        for k0 in (0..w.cols).step_by(F32_DEPTH) {
            let depth = F32_DEPTH.min(w.cols - k0);
            let (b0, b1) = (k0 / block_len * block_bytes, (k0 + depth) / block_len * block_bytes);
            let per = (budget / size_of::<f32>() / depth).max(1);
            for (part, rows) in rows.chunks(per * w.row_bytes).enumerate() {
                let n = rows.len() / w.row_bytes;
                const { assert!(F32_DEPTH * size_of::<f32>() <= PANEL_BYTES && FAR_BYTES <= PANEL_BYTES) };
                // SAFETY: the scratch is aligned to 64 and at least as long (asserted above); f32 has no invalid bits.
                let expanded = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<f32>(), n * depth) };
                for (values, row) in expanded.chunks_exact_mut(depth).zip(rows.chunks_exact(w.row_bytes)) {
                    // SAFETY: the bytes are the whole blocks of `depth` weights; the table's features were detected.
                    unsafe { (format.dequantize)(&row[b0..b1], values) };
                }
                // SAFETY: as many bytes as those floats have.
                let rows = unsafe { std::slice::from_raw_parts(scratch.as_ptr(), n * depth * size_of::<f32>()) };
                // SAFETY: `n` rows of `depth` floats; tokens have as many values from `k0` on; the caller promises the
                // results; the table's features were detected.
                unsafe {
                    (table.rows_f32)(&RowsF32 {
                        rows,
                        row_bytes: depth * size_of::<f32>(),
                        x: all.x.add(k0),
                        cols: depth,
                        out: out.add(part * per),
                        accumulate: k0 != 0,
                        ..all
                    });
                }
            }
        }
    }
}
