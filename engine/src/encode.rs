//! Pictures encoded between the steps of answers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use ocelli_image::Rgb8;
use ocelli_runtime::RuntimeError;
use ocelli_runtime::vision::{Encoding, VisionEncoder};

use crate::job::Job;

/// Slices of a picture to be encoded: one block of the vision tower a piece, for one slice where answers wait and for as
/// many as a batch takes where none do. The rows are those of [`VisionEncoder::encode`], bit for bit.
#[derive(Debug)]
pub struct EncodeJob {
    /// Shared by jobs: each holds its own residual stream, so they can take turns.
    encoder: Arc<Mutex<VisionEncoder>>,
    encoding: Encoding<'static>,
    sender: Sender<Result<Vec<f32>, RuntimeError>>,
    cancel: Arc<AtomicBool>,
}

/// The rows that an [`EncodeJob`] will make. Dropping it cancels the job.
#[derive(Debug)]
pub struct EncodedRows {
    receiver: Receiver<Result<Vec<f32>, RuntimeError>>,
    cancel: Arc<AtomicBool>,
}

impl EncodeJob {
    /// A job for `slices`, whose sides are multiples of the patch size, and where its result will be.
    ///
    /// # Errors
    /// When a slice has sides that cannot be cut into patches.
    pub fn new(encoder: &Arc<Mutex<VisionEncoder>>, slices: Vec<Rgb8>) -> Result<(Self, EncodedRows), RuntimeError> {
        let slices = slices.into_iter().map(Cow::Owned).collect();
        let encoding = encoder.lock().unwrap_or_else(PoisonError::into_inner).start(slices)?;
        let (sender, receiver) = mpsc::channel();
        let cancel = Arc::<AtomicBool>::default();
        let rows = EncodedRows { receiver, cancel: Arc::clone(&cancel) };
        Ok((Self { encoder: Arc::clone(encoder), encoding, sender, cancel }, rows))
    }

    /// Tells whoever listens; nobody may.
    fn tell(&self, how: Result<Vec<f32>, RuntimeError>) {
        let _ = self.sender.send(how);
    }
}

impl Job for EncodeJob {
    fn step(&mut self, alone: bool) -> Result<bool, RuntimeError> {
        let slices_at_once = if alone { usize::MAX } else { 1 };
        let mut encoder = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        encoder.step(&mut self.encoding, slices_at_once, None)?;
        drop(encoder);
        let Some(rows) = self.encoding.take_rows() else { return Ok(false) };
        self.tell(Ok(rows));
        Ok(true)
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn end(self: Box<Self>, how: Result<(), RuntimeError>) {
        // Rows were told when they were ready.
        if let Err(error) = how {
            self.tell(Err(error));
        }
    }
}

impl EncodedRows {
    /// Waits for the rows: `query_num` of `projection_dim` values for each slice, one slice after the other.
    ///
    /// # Errors
    /// That of the job; [`RuntimeError::Interrupted`] when it was cancelled or never begun.
    pub fn wait(self) -> Result<Vec<f32>, RuntimeError> {
        self.receiver.recv().unwrap_or(Err(RuntimeError::Interrupted))
    }

    /// Ends the job before its next piece.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Drop for EncodedRows {
    fn drop(&mut self) {
        self.cancel();
    }
}
