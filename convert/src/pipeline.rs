//! The streaming conversion of tensors: read, encode and write overlap, and memory holds a few strips of rows.
//!
//! ```text
//! reader thread ──strips──▶ this thread + worker pool: to f32, re-order, quantise ──bytes──▶ writer thread
//! ```
//!
//! Strips are made in the order of the output file and stay in it; the rows of one strip are encoded in parallel.
//! Buffers travel back to the thread that fills them.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use half::bf16;
use half::f16;
use half::slice::HalfFloatSliceExt;
use ocelli_gguf::{GgufWriter, TensorSink};
use ocelli_kernels::quantize::RowCodec;
use ocelli_memory::NoMemory;
use ocelli_quant::QuantError;
use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, SourceType};
use crate::error::ConvertError;
use crate::plan::{FilePlan, PlannedTensor, Source};
use crate::progress::Progress;

/// Source bytes of one strip, about: large enough to keep every core busy, small enough to keep many in memory.
const STRIP_BYTES: u64 = 4 << 20;
/// Source bytes that one core encodes at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Strips waiting between two stages.
const QUEUE: usize = 2;
/// Buffers of one kind at most: those that wait, and one in the hands of the stage before and of the stage after.
const BUFFERS: u64 = QUEUE as u64 + 2;
/// Beside them one strip of a made-up checkpoint, whose weights are computed before they are handed over.
const COMPUTED: u64 = 1;
/// Threads beside the workers: reader and writer.
const THREADS: usize = 2;

/// Some rows of one tensor, as they stand in the checkpoint.
struct Strip {
    tensor: usize,
    first_row: u64,
    rows: u64,
    bytes: Vec<u8>,
}

/// Encoded rows of one tensor.
struct Encoded {
    tensor: usize,
    bytes: Vec<u8>,
}

/// The header of a file, from its plan.
pub(crate) fn header(plan: &FilePlan) -> Result<GgufWriter, ConvertError> {
    let mut writer = GgufWriter::new();
    for (key, value) in &plan.metadata {
        writer.kv(key.as_str(), value.clone())?;
    }
    for tensor in &plan.tensors {
        writer.tensor(tensor.name.as_str(), &tensor.dims, tensor.ty)?;
    }
    Ok(writer)
}

/// Bytes of source data behind a plan: the measure of work.
pub(crate) fn source_bytes(plan: &FilePlan) -> u64 {
    plan.tensors.iter().map(|t| t.rows().saturating_mul(work_per_row(t))).fold(0, u64::saturating_add)
}

/// Bytes of one source value.
fn source_type_size(source: &Source) -> u64 {
    // Computed values count as f32.
    source.tensor().map_or(4, |t| {
        let values = t.shape.iter().product::<u64>().max(1);
        (t.n_bytes() / values).max(1)
    })
}

/// Bytes of source data behind one row.
fn work_per_row(tensor: &PlannedTensor) -> u64 {
    tensor.cols().saturating_mul(source_type_size(&tensor.source))
}

/// Memory that writing the file of `plan` with `threads` workers takes at most; `None` beyond 64 bits.
pub(crate) fn memory(plan: &FilePlan, threads: usize) -> Option<u64> {
    let (mut source, mut target, mut cols) = (0, 0, 0);
    for tensor in &plan.tensors {
        let rows = strip_rows(tensor).min(tensor.rows());
        source = source.max(rows.checked_mul(work_per_row(tensor))?);
        let row_bytes = tensor.ty.row_bytes(usize::try_from(tensor.cols()).ok()?).ok()?;
        target = target.max(rows.checked_mul(row_bytes as u64)?);
        cols = cols.max(tensor.cols());
    }
    ocelli_memory::sum([
        (BUFFERS + COMPUTED).checked_mul(source),
        BUFFERS.checked_mul(target),
        // Memory for one row: its values as f32, and the quantiser's scratch.
        cols.checked_mul(4 * 4).and_then(|row| row.checked_mul(threads as u64)),
        ocelli_memory::threads(threads.checked_add(THREADS)?),
    ])
}

/// Makes `buffer`, a strip of `tensor`, `len` bytes long without taking more memory than that.
pub(crate) fn resize(buffer: &mut Vec<u8>, len: usize, tensor: &str) -> Result<(), ConvertError> {
    buffer.clear();
    let refused =
        |_| NoMemory::refused(format!("a strip of tensor {tensor}"), len as u64, crate::convert::FEWER_THREADS);
    buffer.try_reserve_exact(len).map_err(refused)?;
    buffer.resize(len, 0);
    Ok(())
}

/// The threads that quantise rows, and what they do it with.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(crate) pool: rayon::ThreadPool,
    pub(crate) codec: &'static RowCodec,
}

/// Writes a whole GGUF file: header, then every tensor of the plan.
///
/// # Errors
/// Whatever reading, encoding or writing reports; [`ConvertError::Cancelled`] when the observer asks to stop.
pub(crate) fn write_file<W: Write + Send>(
    plan: &FilePlan,
    checkpoint: &Checkpoint,
    out: &mut W,
    workers: &Workers,
    progress: &dyn Progress,
) -> Result<u64, ConvertError> {
    let sink = header(plan)?.start(out)?;
    let total = sink.total_size();
    std::thread::scope(|scope| {
        let (strip_tx, strip_rx) = sync_channel::<Result<Strip, ConvertError>>(QUEUE);
        let (used_tx, used_rx) = channel::<Vec<u8>>();
        let (done_tx, done_rx) = sync_channel::<Encoded>(QUEUE);
        let (free_tx, free_rx) = channel::<Vec<u8>>();
        let failed = |e: std::io::Error| ConvertError::Threads(e.to_string());
        let thread = std::thread::Builder::new;
        thread().spawn_scoped(scope, move || read_strips(plan, checkpoint, &strip_tx, &used_rx)).map_err(failed)?;
        let writer = thread().spawn_scoped(scope, move || write_strips(plan, sink, &done_rx, &free_tx));
        let writer = writer.map_err(failed)?;
        let encoder = Encoder { plan, checkpoint, workers, progress };
        let encoded = encoder.run(strip_rx, &used_tx, done_tx, &free_rx);
        // When the encoder fails the writer reports an incomplete tensor, which is only the consequence; when the
        // writer fails the encoder merely finds the channel closed and has no error.
        let written = writer.join().unwrap_or_else(|_| Err(ConvertError::Threads("the writing thread ended".into())));
        encoded.and(written)
    })?;
    Ok(total)
}

/// First stage: reads the strips of all tensors in order.
fn read_strips(
    plan: &FilePlan,
    checkpoint: &Checkpoint,
    out: &SyncSender<Result<Strip, ConvertError>>,
    used: &Receiver<Vec<u8>>,
) {
    for (index, tensor) in plan.tensors.iter().enumerate() {
        let step = strip_rows(tensor);
        let rows = tensor.rows();
        let mut first_row = 0;
        while first_row < rows {
            let n = step.min(rows - first_row);
            let buffer = used.try_recv().unwrap_or_default();
            let strip = read_strip(checkpoint, tensor, first_row, n, buffer).map(|bytes| Strip {
                tensor: index,
                first_row,
                rows: n,
                bytes,
            });
            let failed = strip.is_err();
            // A closed channel means that the encoder has given up, with an error of its own.
            if out.send(strip).is_err() || failed {
                return;
            }
            first_row += n;
        }
    }
}

/// Rows per strip: whole heads where rows change places in a head, everything where a matrix is transposed.
fn strip_rows(tensor: &PlannedTensor) -> u64 {
    let rows = (STRIP_BYTES / work_per_row(tensor).max(1)).max(1);
    match &tensor.source {
        Source::Interleaved { head_rows, .. } => rows.next_multiple_of((*head_rows).max(1)),
        Source::Transposed { .. } => u64::MAX,
        Source::Rows { .. } | Source::Computed(_) => rows,
    }
}

fn read_strip(
    checkpoint: &Checkpoint,
    tensor: &PlannedTensor,
    first_row: u64,
    rows: u64,
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>, ConvertError> {
    let (source, first) = match &tensor.source {
        Source::Computed(_) => return Ok(buffer),
        Source::Rows { tensor, first } => (tensor, *first),
        Source::Interleaved { tensor, .. } | Source::Transposed { tensor } => (tensor, 0),
    };
    let row_bytes = work_per_row(tensor);
    let start = first
        .checked_mul(source_type_size(&tensor.source))
        .and_then(|start| first_row.checked_mul(row_bytes)?.checked_add(start));
    let len = rows.checked_mul(row_bytes).and_then(|n| usize::try_from(n).ok());
    let (Some(start), Some(len)) = (start, len) else {
        let what = format!("tensor {} is too large for this machine", source.name);
        return Err(ConvertError::Damaged { path: checkpoint.dir().to_owned(), what });
    };
    resize(&mut buffer, len, &tensor.name)?;
    checkpoint.read_at(source, start, &mut buffer)?;
    Ok(buffer)
}

/// Second stage: turns checkpoint rows into stored rows.
struct Encoder<'a> {
    plan: &'a FilePlan,
    checkpoint: &'a Checkpoint,
    workers: &'a Workers,
    progress: &'a dyn Progress,
}

impl Encoder<'_> {
    fn run(
        &self,
        strips: Receiver<Result<Strip, ConvertError>>,
        used: &Sender<Vec<u8>>,
        out: SyncSender<Encoded>,
        free: &Receiver<Vec<u8>>,
    ) -> Result<(), ConvertError> {
        let mut current = None;
        for strip in strips {
            if self.progress.cancelled() {
                return Err(ConvertError::Cancelled);
            }
            let strip = strip?;
            let Some(tensor) = self.plan.tensors.get(strip.tensor) else { continue };
            if current != Some(strip.tensor) {
                current = Some(strip.tensor);
                self.progress.tensor(&tensor.name, strip.tensor, self.plan.tensors.len());
            }
            let mut bytes = free.try_recv().unwrap_or_default();
            self.encode(tensor, &strip, &mut bytes)?;
            self.progress.advance(strip.rows.saturating_mul(work_per_row(tensor)));
            if out.send(Encoded { tensor: strip.tensor, bytes }).is_err() {
                // The writer has failed and says why.
                return Ok(());
            }
            // The reader may have finished; then the buffer is simply dropped.
            let _ = used.send(strip.bytes);
        }
        Ok(())
    }

    fn encode(&self, tensor: &PlannedTensor, strip: &Strip, out: &mut Vec<u8>) -> Result<(), ConvertError> {
        let too_large = || ConvertError::Damaged {
            path: self.checkpoint.dir().to_owned(),
            what: format!("tensor {} is too large for this machine", tensor.name),
        };
        let quant = |source| ConvertError::Quant { tensor: tensor.name.clone(), source };
        let cols = usize::try_from(tensor.cols()).map_err(|_| too_large())?;
        let rows = usize::try_from(strip.rows).map_err(|_| too_large())?;
        let row_bytes = tensor.ty.row_bytes(cols).map_err(quant)?;
        resize(out, rows.checked_mul(row_bytes).ok_or_else(too_large)?, &tensor.name)?;
        if out.is_empty() {
            return Ok(());
        }
        let ty = tensor.source.tensor().map(|t| self.checkpoint.weight_type(t)).transpose()?;
        let view = View { tensor, strip, cols, rows, ty };
        let chunk_rows = (CHUNK_BYTES / cols.saturating_mul(4).max(1)).max(1);
        let codec = self.workers.codec;
        self.workers.pool.install(|| {
            out.par_chunks_mut(row_bytes * chunk_rows).enumerate().try_for_each_init(
                || vec![0f32; cols],
                |row, (chunk, bytes)| {
                    for (i, bytes) in bytes.chunks_exact_mut(row_bytes).enumerate() {
                        let r = chunk * chunk_rows + i;
                        view.load(r, row);
                        codec.quantize_row(tensor.ty, row, None, bytes).map_err(|e| view.error(r, row, e))?;
                    }
                    Ok(())
                },
            )
        })
    }
}

/// A strip seen as rows of the output tensor.
struct View<'a> {
    tensor: &'a PlannedTensor,
    strip: &'a Strip,
    cols: usize,
    rows: usize,
    ty: Option<SourceType>,
}

impl View<'_> {
    /// Loads row `r` of the strip as f32.
    fn load(&self, r: usize, out: &mut [f32]) {
        let size = self.ty.map_or(4, SourceType::size);
        match &self.tensor.source {
            Source::Computed(f) => f(self.strip.first_row + r as u64, out),
            Source::Rows { .. } => self.load_row(r, size, out),
            Source::Interleaved { head_rows, .. } => {
                let head = usize::try_from(*head_rows).unwrap_or(1);
                if self.tensor.dims.len() > 1 {
                    self.load_row(interleaved(r, head), size, out);
                } else {
                    for (i, o) in out.iter_mut().enumerate() {
                        *o = self.value(interleaved(i, head), size);
                    }
                }
            }
            Source::Transposed { .. } => {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = self.value(i * self.rows + r, size);
                }
            }
        }
    }

    fn load_row(&self, r: usize, size: usize, out: &mut [f32]) {
        let start = r * self.cols * size;
        let bytes = self.strip.bytes.get(start..start + self.cols * size).unwrap_or_default();
        match self.ty {
            Some(SourceType::F16) => {
                let mut halves = [f16::ZERO; 256];
                for (bytes, out) in bytes.chunks(512).zip(out.chunks_mut(256)) {
                    for (h, b) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *h = f16::from_le_bytes(*b);
                    }
                    if let Some(halves) = halves.get(..out.len()) {
                        halves.convert_to_f32_slice(out);
                    }
                }
            }
            Some(SourceType::Bf16) => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = bf16::from_le_bytes(*b).to_f32();
                }
            }
            Some(SourceType::F32) | None => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
        }
    }

    /// The value at a position of the strip. All positions lie in the strip, whose length was checked on reading;
    /// NaN, which no format takes, would show a mistake.
    fn value(&self, at: usize, size: usize) -> f32 {
        let bytes = self.strip.bytes.get(at * size..(at + 1) * size).unwrap_or_default();
        match (self.ty, bytes) {
            (Some(SourceType::F16), &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (Some(SourceType::Bf16), &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            (Some(SourceType::F32), &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => f32::NAN,
        }
    }

    /// Where column `col` of row `r` stands in the checkpoint tensor.
    fn source_index(&self, r: usize, col: usize) -> u64 {
        let cols = self.cols as u64;
        let row = self.strip.first_row + r as u64;
        match &self.tensor.source {
            Source::Computed(_) => row * cols + col as u64,
            Source::Rows { first, .. } => first + row * cols + col as u64,
            Source::Interleaved { head_rows, .. } => {
                let head = usize::try_from(*head_rows).unwrap_or(1);
                if self.tensor.dims.len() > 1 {
                    (self.strip.first_row + interleaved(r, head) as u64) * cols + col as u64
                } else {
                    interleaved(col, head) as u64
                }
            }
            Source::Transposed { .. } => col as u64 * self.rows as u64 + row,
        }
    }

    /// What went wrong in row `r`, in terms of the checkpoint.
    fn error(&self, r: usize, row: &[f32], error: QuantError) -> ConvertError {
        let (col, value, remedy) = match error {
            QuantError::NotFinite { index, value } => {
                (index, value, "only finite weights can be stored; the checkpoint is broken")
            }
            QuantError::Overflow { index, .. } => {
                let value = row.get(index).copied().unwrap_or_default();
                (index, value, "from here on the weights are too large for this type; use BF16 or F32")
            }
            source => return ConvertError::Quant { tensor: self.tensor.name.clone(), source },
        };
        let tensor = self.tensor.source.tensor().map_or(&self.tensor.name, |t| &t.name).clone();
        ConvertError::Weight { tensor, index: self.source_index(r, col), value, remedy }
    }
}

/// The place from which position `r` of interleaved heads is taken.
fn interleaved(r: usize, head: usize) -> usize {
    let (base, j) = (r / head * head, r % head);
    base + (j % 2) * (head / 2) + j / 2
}

/// Third stage: writes encoded strips in order.
fn write_strips<W: Write>(
    plan: &FilePlan,
    mut sink: TensorSink<W>,
    strips: &Receiver<Encoded>,
    free: &Sender<Vec<u8>>,
) -> Result<(), ConvertError> {
    let mut begun = 0;
    for strip in strips {
        while begun <= strip.tensor {
            if let Some(tensor) = plan.tensors.get(begun) {
                sink.begin(&tensor.name)?;
            }
            begun += 1;
        }
        sink.write(&strip.bytes)?;
        // The encoder may be at its end; then the buffer is simply dropped.
        let _ = free.send(strip.bytes);
    }
    sink.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests;
