//! A vision model with buffers.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ocelli_kernels::{HalfWeights, JoinTimes, Kernels, Pool, Precision};

use super::encoding::Encoding;
use super::pass::{MIN_ROWS, Pass, Residual, Slice, Workspace};
use super::positions::MAX_AXIS;
use super::{Positions, VisionConfig, VisionError, VisionModel};
use crate::nn::{Engine, Int8};
use crate::{Exec, RuntimeError};
use ocelli_image::Rgb8;

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
    /// Buffers of the last batch that was through, for the next one.
    spare: Residual,
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
            spare: Residual::default(),
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

    /// Begins to encode `slices`, whose sides are multiples of the patch size, in steps: [`VisionEncoder::step`].
    ///
    /// # Errors
    /// When a slice has sides that cannot be cut into patches.
    pub fn start<'s>(&self, slices: Vec<Cow<'s, Rgb8>>) -> Result<Encoding<'s>, RuntimeError> {
        Encoding::new(Arc::clone(&self.model), slices)
    }

    /// Takes `encoding` one step further: one block of the tower, or the resampler, for a batch of slices. A batch is formed
    /// when the last one is through, of no more than `slices_at_once`; 0 is taken as 1. `true` when all are through.
    ///
    /// Encodings can take turns. After an error, an encoding goes on with the
    /// beginning of its batch.
    ///
    /// # Errors
    /// When memory is missing, a result is not finite, or the encoding was begun with another model.
    pub fn step(
        &mut self,
        encoding: &mut Encoding<'_>,
        slices_at_once: usize,
        probe: Option<&mut dyn VisionProbe>,
    ) -> Result<bool, RuntimeError> {
        if !Arc::ptr_eq(&self.model, encoding.model()) {
            return Err(VisionError::OtherModel.into());
        }
        let model = Arc::clone(&self.model);
        let (config, graph) = (model.config(), model.graph());
        let spare = &mut self.spare;
        let Some(mut batch) = encoding.take_batch(slices_at_once, || std::mem::take(spare)) else { return Ok(true) };
        let (slices, out) = encoding.parts(&batch);
        let n = slices.iter().map(Slice::len).sum::<usize>().max(MIN_ROWS);
        let out_rows = (slices.len() * config.query_num).max(MIN_ROWS);
        let mut ws = std::mem::take(&mut self.ws);
        ws.reserve(config, self.precision, n, out_rows)?;
        batch.residual.reserve(config, n, out_rows)?;
        let mut pass = Pass {
            engine: self.engine(),
            config,
            positions: self.positions,
            constants: &self.constants,
            ws: &mut ws,
            residual: &mut batch.residual,
            slices: &slices,
            n,
            out,
            probe: match probe {
                Some(probe) => Some(&mut *probe),
                None => None,
            },
            number: batch.first,
        };
        graph.step(&mut pass, batch.step)?;
        let finished = batch.step + 1 == graph.steps();
        let finite = !finished || pass.out.iter().all(|v| v.is_finite());
        self.ws = ws;
        if !finite {
            return Err(VisionError::NotFinite { name: self.model.not_finite(self.kernels()) }.into());
        }
        if finished {
            self.spare = encoding.finish_batch(batch);
        } else {
            encoding.put_back(batch);
        }
        Ok(encoding.is_done())
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
        let mut encoding = self.start(slices.iter().map(|slice| Cow::Borrowed(*slice)).collect())?;
        loop {
            let (done, all) = encoding.progress();
            progress(done, all);
            if interrupt.load(Ordering::Relaxed) {
                return Err(RuntimeError::Interrupted);
            }
            if let Some(rows) = encoding.take_rows() {
                return Ok(rows);
            }
            let probe: Option<&mut dyn VisionProbe> = match &mut probe {
                Some(probe) => Some(&mut **probe),
                None => None,
            };
            self.step(&mut encoding, usize::MAX, probe)?;
        }
    }
}

/// Patches from top to bottom and from left to right.
pub(super) fn patches(config: &VisionConfig, pixels: &Rgb8) -> Result<(usize, usize), VisionError> {
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
