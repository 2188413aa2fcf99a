//! A vision model with buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ocelli_kernels::{HalfWeights, JoinTimes, Kernels, Pool, Precision};

use super::pass::{MIN_ROWS, Pass, Slice, Workspace};
use super::positions::MAX_AXIS;
use super::{Positions, VisionConfig, VisionError, VisionModel};
use crate::nn::{Engine, Int8};
use crate::{Exec, RuntimeError};
use ocelli_image::Rgb8;

/// Patches of a batch, at most, unless one slice alone has more. A slice of 448 × 448 pixels has 1,024; weights are
/// unpacked once per batch, which costs little at that number, and buffers grow with it.
const BATCH_PATCHES: usize = 1280;

/// Slices of a batch, at most.
const BATCH_SLICES: usize = 16;

/// Patches of a slice, at most: eight times as many as the slicing rules make.
const MAX_PATCHES: usize = 8192;

/// How an encoder computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VisionOptions {
    /// Threads, of those there are; 0: physical cores.
    pub n_threads: usize,
    /// `Exact`: f32 throughout. `Fast`: the products of tower and resampler with 8-bit weights and activations, or in
    /// 16-bit fixed point where the instruction set multiplies that no slower.
    pub precision: Precision,
    /// Whose rule places patches among the learned positions.
    pub positions: Positions,
}

/// Is shown what an encoder computes on the way.
pub trait VisionProbe {
    /// The tower's result for slice number `slice` of the call after its last norm: `patch_rows` × `patch_cols` rows.
    fn vit(&mut self, slice: usize, patch_rows: usize, patch_cols: usize, rows: &[f32]);
}

/// Turns slices of pictures into rows for the text model.
///
/// All slices of a call go through together, in batches of as many as fit some thousand patches, so that memory does not
/// grow with their number. A slice's rows depend on nothing but the slice: not on its batch nor on the threads.
#[derive(Debug)]
pub struct VisionEncoder {
    model: Arc<VisionModel>,
    exec: Arc<Exec>,
    /// The threads of `exec`, some or all of them.
    pool: Pool,
    precision: Precision,
    positions: Positions,
    int8: Option<Arc<Int8>>,
    constants: Vec<f32>,
    ws: Workspace,
}

impl VisionEncoder {
    /// Computes what is the same for every picture, with `exec` as everything later. In the fast mode, the first
    /// encoder of a model also turns its float matrices into 8 bits, where those are what the instruction set multiplies fastest.
    ///
    /// # Errors
    /// When a weight is not finite or memory is missing.
    pub fn new(model: Arc<VisionModel>, exec: Arc<Exec>, options: &VisionOptions) -> Result<Self, RuntimeError> {
        let (kernels, pool) = (exec.kernels(), exec.limited(options.n_threads));
        let int8 = match options.precision {
            Precision::Fast if kernels.fast_bytes() => Some(model.int8(kernels, &pool)?),
            Precision::Exact | Precision::Fast => None,
        };
        let mut encoder = Self {
            model,
            exec,
            pool,
            precision: options.precision,
            positions: options.positions,
            int8,
            constants: Vec::new(),
            ws: Workspace::default(),
        };
        encoder.constants = encoder.model.graph().constants(&encoder.engine(), encoder.model.config())?;
        Ok(encoder)
    }

    /// What the encoder computes with.
    #[must_use]
    pub fn exec(&self) -> &Arc<Exec> {
        &self.exec
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<VisionModel> {
        &self.model
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Starts timing what threads lose in joins, from zero, or ends it.
    pub fn measure_joins(&self, on: bool) {
        self.pool.measure_joins(on);
    }

    /// What was measured since [`VisionEncoder::measure_joins`].
    #[must_use]
    pub fn join_times(&self) -> JoinTimes {
        self.pool.join_times()
    }

    /// The table of kernels in use.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.exec.kernels()
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> &'static str {
        self.kernels().name()
    }

    fn engine(&self) -> Engine<'_> {
        Engine {
            pool: &self.pool,
            kernels: self.exec.kernels(),
            precision: self.precision,
            weights: self.model.weights(),
            half_weights: HalfWeights::Fastest,
            int8: self.int8.as_deref(),
        }
    }

    /// Encodes `slices`, whose sides are multiples of the patch size: `query_num` rows of `projection_dim` values for
    /// each, one slice after the other. `progress` is told how many steps of how many are done; once `interrupt` is
    /// set, the call ends within one step of a batch.
    ///
    /// # Errors
    /// When a slice has sides that cannot be cut into patches, memory is missing, a result is not finite, or `interrupt` is
    /// set.
    pub fn encode(
        &mut self,
        slices: &[&Rgb8],
        mut probe: Option<&mut dyn VisionProbe>,
        progress: &mut dyn FnMut(usize, usize),
        interrupt: &AtomicBool,
    ) -> Result<Vec<f32>, RuntimeError> {
        let model = Arc::clone(&self.model);
        let (config, graph) = (model.config(), model.graph());
        let batches = batches(config, slices)?;
        let per_slice = config.query_num * config.projection_dim;
        let mut out = vec![0f32; slices.len() * per_slice];
        let (mut done, total) = (0, slices.len() * graph.steps());
        let mut watch = |steps: usize| {
            done += steps;
            progress(done, total);
            if interrupt.load(Ordering::Relaxed) { Err(RuntimeError::Interrupted) } else { Ok(()) }
        };
        watch(0)?;
        let mut ws = std::mem::take(&mut self.ws);
        let mut results = out.as_mut_slice();
        let mut number = 0;
        for batch in &batches {
            let (here, rest) = results.split_at_mut(batch.len() * per_slice);
            results = rest;
            let n = batch.iter().map(Slice::len).sum::<usize>().max(MIN_ROWS);
            ws.reserve(config, self.precision, n, (batch.len() * config.query_num).max(MIN_ROWS))?;
            graph.run(&mut Pass {
                engine: self.engine(),
                config,
                positions: self.positions,
                constants: &self.constants,
                ws: &mut ws,
                slices: batch,
                n,
                out: here,
                probe: match &mut probe {
                    Some(probe) => Some(&mut **probe),
                    None => None,
                },
                number,
                watch: &mut watch,
            })?;
            number += batch.len();
        }
        self.ws = ws;
        if !out.iter().all(|v| v.is_finite()) {
            return Err(VisionError::NotFinite { name: self.model.not_finite(self.kernels()) }.into());
        }
        Ok(out)
    }
}

/// Cuts the slices into batches, in order.
fn batches<'s>(config: &VisionConfig, slices: &[&'s Rgb8]) -> Result<Vec<Vec<Slice<'s>>>, VisionError> {
    let mut batches: Vec<Vec<Slice<'_>>> = Vec::new();
    for pixels in slices {
        let (rows, cols) = patches(config, pixels)?;
        let fits = batches.last().and_then(|batch| {
            let first = batch.last().map_or(0, |s| s.first + s.len());
            (batch.len() < BATCH_SLICES && first + rows * cols <= BATCH_PATCHES).then_some(first)
        });
        let slice = Slice { pixels, rows, cols, first: fits.unwrap_or(0) };
        match batches.last_mut().filter(|_| fits.is_some()) {
            Some(batch) => batch.push(slice),
            None => batches.push(vec![slice]),
        }
    }
    Ok(batches)
}

/// Patches from top to bottom and from left to right.
fn patches(config: &VisionConfig, pixels: &Rgb8) -> Result<(usize, usize), VisionError> {
    let (width, height, size) = (pixels.width(), pixels.height(), config.patch_size);
    let problem = |problem: String| VisionError::Slice { problem: format!("{width}x{height} pixels {problem}") };
    if !width.is_multiple_of(size) || !height.is_multiple_of(size) || width == 0 || height == 0 {
        return Err(problem(format!("cannot be cut into patches of {size}x{size}; slice the picture first")));
    }
    let (rows, cols) = (height / size, width / size);
    if rows > MAX_AXIS || cols > MAX_AXIS || rows * cols > MAX_PATCHES {
        let limit = format!("make {rows}x{cols} patches; at most {MAX_AXIS} along a side and {MAX_PATCHES} in all");
        return Err(problem(format!("{limit}: slice the picture first")));
    }
    Ok((rows, cols))
}
