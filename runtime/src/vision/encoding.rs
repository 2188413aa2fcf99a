//! Slices on their way through an encoder, in batches, step by step.

use std::borrow::Cow;
use std::sync::Arc;

use ocelli_image::Rgb8;

use super::encoder::patches;
use super::pass::{Residual, Slice};
use super::{VisionConfig, VisionModel};
use crate::RuntimeError;

/// Patches of a batch, at most, unless one slice alone has more. A slice of 448 × 448 pixels has 1,024; weights are
/// unpacked once per batch, which costs little at that number, and buffers grow with it.
const BATCH_PATCHES: usize = 1280;

/// Slices of a batch, at most.
const BATCH_SLICES: usize = 16;

/// Slices that are being encoded: [`VisionEncoder::start`](super::VisionEncoder::start) begins,
/// [`VisionEncoder::step`](super::VisionEncoder::step) goes on, [`Encoding::take_rows`] gives the result.
///
/// It holds the slices, the rows that are ready, and the residual stream of the batch at hand; everything else that a step
/// needs belongs to the encoder.
#[derive(Debug)]
pub struct Encoding<'s> {
    model: Arc<VisionModel>,
    slices: Vec<Cow<'s, Rgb8>>,
    /// Patches of every slice: from top to bottom, and from left to right.
    sizes: Vec<(usize, usize)>,
    /// Results, slices × `query_num` × `projection_dim`.
    rows: Vec<f32>,
    /// Slices that are through.
    finished: usize,
    /// The next ones, if they have been begun.
    batch: Option<Batch>,
}

/// Slices that go through the steps together.
#[derive(Debug)]
pub(super) struct Batch {
    /// Number of its first slice.
    pub(super) first: usize,
    len: usize,
    /// The step that comes next.
    pub(super) step: usize,
    pub(super) residual: Residual,
}

impl<'s> Encoding<'s> {
    pub(super) fn new(model: Arc<VisionModel>, slices: Vec<Cow<'s, Rgb8>>) -> Result<Self, RuntimeError> {
        let config = model.config();
        let sizes = slices.iter().map(|pixels| patches(config, pixels)).collect::<Result<_, _>>()?;
        let rows = vec![0f32; slices.len() * rows_len(config)];
        Ok(Self { model, slices, sizes, rows, finished: 0, batch: None })
    }

    /// Whether all slices are through.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.finished == self.slices.len()
    }

    /// Steps that have been computed, and how many there are: those of all slices, whatever their batches.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        let steps = self.model.graph().steps();
        let under_way = self.batch.as_ref().map_or(0, |batch| batch.len * batch.step);
        (self.finished * steps + under_way, self.slices.len() * steps)
    }

    /// `query_num` rows of `projection_dim` values for each slice, one slice after the other; `None` before all are
    /// through. They are handed over, not copied: a second call finds none.
    pub fn take_rows(&mut self) -> Option<Vec<f32>> {
        self.is_done().then(|| std::mem::take(&mut self.rows))
    }

    pub(super) fn model(&self) -> &Arc<VisionModel> {
        &self.model
    }

    /// The batch at hand, or a new one of up to `slices` slices with buffers from `residual`; `None` when all are through.
    /// It is the caller's until it is put back, so that a step which fails leaves no batch that is half computed.
    pub(super) fn take_batch(&mut self, slices: usize, residual: impl FnOnce() -> Residual) -> Option<Batch> {
        if self.is_done() {
            return None;
        }
        Some(self.batch.take().unwrap_or_else(|| {
            let mut left = BATCH_PATCHES;
            let fits = self.sizes[self.finished..].iter().take(slices.min(BATCH_SLICES)).take_while(|(rows, cols)| {
                let room = left.checked_sub(rows * cols);
                left = room.unwrap_or(0);
                room.is_some()
            });
            Batch { first: self.finished, len: fits.count().max(1), step: 0, residual: residual() }
        }))
    }

    /// Takes back a batch after a step that was not its last.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.batch = Some(Batch { step: batch.step + 1, ..batch });
    }

    /// Counts the slices of a batch as through; gives its buffers.
    pub(super) fn finish_batch(&mut self, batch: Batch) -> Residual {
        self.finished += batch.len;
        batch.residual
    }

    /// The slices of a batch, and where their results belong.
    pub(super) fn parts(&mut self, batch: &Batch) -> (Vec<Slice<'_>>, &mut [f32]) {
        let range = batch.first..batch.first + batch.len;
        let mut first = 0;
        let slices = self.slices[range.clone()].iter().zip(&self.sizes[range.clone()]);
        let slices = slices.map(|(pixels, &(rows, cols))| {
            let slice = Slice { pixels, rows, cols, first };
            first += slice.len();
            slice
        });
        let per_slice = rows_len(self.model.config());
        (slices.collect(), &mut self.rows[range.start * per_slice..range.end * per_slice])
    }
}

/// Values of one slice's result.
fn rows_len(config: &VisionConfig) -> usize {
    config.query_num * config.projection_dim
}
