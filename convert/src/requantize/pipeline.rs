//! The stream of one output file: one thread reads ahead, workers convert, the caller's thread writes in order.
//!
//! ```text
//! free buffers ──▶ reader ──▶ workers (one per core) ──▶ re-ordering and writing ──▶ free buffers
//! ```
//!
//! The number of buffers bounds memory and read-ahead alike. A tensor that keeps its format skips the workers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use ocelli_gguf::{GgufWriter, TensorSink};
use ocelli_kernels::quantize::RowCodec;
use ocelli_quant::QuantError;

use super::TensorPlan;
use crate::ConvertError;
use crate::pipeline::resize;
use crate::progress::Progress;

/// Source bytes of one strip, about: some tens of milliseconds of work for the slow formats.
const STRIP_BYTES: u64 = 1 << 20;

/// Bytes that are collected before they are written.
const OUTPUT_BUFFER: usize = 1 << 20;

/// Some rows of one tensor: as read, and as converted.
#[derive(Debug, Default)]
struct Strip {
    tensor: usize,
    first_row: u64,
    source: Vec<u8>,
    target: Vec<u8>,
    last_of_tensor: bool,
}

/// A strip, or what went wrong with it, and its place in the order.
type Done = (u64, Result<Strip, ConvertError>);

/// Strips on their way with `threads` workers.
fn depth(threads: usize) -> usize {
    2 * threads + 2
}

/// Rows per strip of a tensor.
fn rows_per_strip(tensor: &TensorPlan<'_>) -> u64 {
    STRIP_BYTES.checked_div(source_row_bytes(tensor)).unwrap_or(1).max(1)
}

fn source_row_bytes(tensor: &TensorPlan<'_>) -> u64 {
    tensor.source_bytes.checked_div(tensor.n_rows()).unwrap_or(0)
}

/// Memory that writing `tensors` with `threads` workers takes at most; `None` beyond 64 bits.
pub(super) fn memory(tensors: &[TensorPlan<'_>], threads: usize) -> Option<u64> {
    let threads = threads.clamp(1, crate::convert::MAX_THREADS);
    let (mut source, mut target, mut row) = (0, 0, 0);
    for tensor in tensors {
        let rows = rows_per_strip(tensor).min(tensor.n_rows());
        source = source.max(rows.checked_mul(source_row_bytes(tensor))?);
        if tensor.is_converted() {
            target = target.max(rows.checked_mul(tensor.target_bytes.checked_div(tensor.n_rows()).unwrap_or(0))?);
            row = row.max(tensor.row_len());
        }
    }
    ocelli_memory::sum([
        source.checked_add(target)?.checked_mul(depth(threads) as u64),
        // Memory for one row: its values as f32, and the quantiser's scratch.
        row.checked_mul(4 * 4).and_then(|row| row.checked_mul(threads as u64)),
        // The workers and the reader.
        ocelli_memory::threads(threads + 1),
        Some(OUTPUT_BUFFER as u64),
    ])
}

/// How many workers there are, and what they convert rows with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workers {
    pub(super) threads: usize,
    pub(super) codec: &'static RowCodec,
}

/// Writes one file: header, then all `tensors`. `inputs` are the files their data lies in.
pub(super) fn write_part(
    tensors: &[TensorPlan<'_>],
    inputs: &[(&Path, File)],
    header: GgufWriter,
    out: &mut impl Write,
    Workers { threads, codec }: Workers,
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    let threads = threads.clamp(1, crate::convert::MAX_THREADS);
    let depth = depth(threads);
    let mut sink = header.start(BufWriter::with_capacity(OUTPUT_BUFFER, out))?;
    std::thread::scope(|scope| {
        let (free_tx, free) = sync_channel(depth);
        // One more than there are strips, so that no thread but the reader ever waits for room.
        let (work_tx, work) = sync_channel(depth + 1);
        let (done_tx, done) = sync_channel::<Done>(depth + 1);
        for _ in 0..depth {
            // Cannot fail: the channel has room and its other end lives.
            let _ = free_tx.send(Strip::default());
        }
        let spawn_error = |e: std::io::Error| ConvertError::Threads(e.to_string());
        let work = std::sync::Arc::new(Mutex::new(work));
        for _ in 0..threads {
            let (work, done_tx) = (work.clone(), done_tx.clone());
            let run = move || work_on(tensors, codec, &work, &done_tx);
            std::thread::Builder::new().spawn_scoped(scope, run).map_err(spawn_error)?;
        }
        let read = move || Reader { tensors, inputs, free, work: work_tx, done: done_tx }.run();
        std::thread::Builder::new().spawn_scoped(scope, read).map_err(spawn_error)?;
        // The closure owns its ends of the channels: leaving it, also by an error, ends all threads.
        collect(tensors, &done, &free_tx, &mut sink, progress)
    })?;
    sink.finish()?;
    Ok(())
}

/// Writes strips in order as they arrive.
fn collect<W: Write>(
    tensors: &[TensorPlan<'_>],
    done: &Receiver<Done>,
    free: &SyncSender<Strip>,
    sink: &mut TensorSink<W>,
    progress: &dyn Progress,
) -> Result<(), ConvertError> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    let mut begun = None;
    let mut finished = 0;
    while finished < tensors.len() {
        let Ok((order, strip)) = done.recv() else {
            return Err(ConvertError::Threads("a worker thread ended early".to_owned()));
        };
        early.insert(order, strip);
        while let Some(strip) = early.remove(&next) {
            if progress.cancelled() {
                return Err(ConvertError::Cancelled);
            }
            let strip = strip?;
            let Some(tensor) = tensors.get(strip.tensor) else { continue };
            if begun != Some(strip.tensor) {
                begun = Some(strip.tensor);
                progress.tensor(&tensor.name, strip.tensor, tensors.len());
                sink.begin(&tensor.name)?;
            }
            sink.write(if tensor.is_converted() { &strip.target } else { &strip.source })?;
            progress.advance(strip.source.len() as u64);
            finished += usize::from(strip.last_of_tensor);
            next += 1;
            // The reader may be through; then the buffer is simply dropped.
            let _ = free.send(strip);
        }
    }
    Ok(())
}

/// The reading end: fills free buffers with rows of all tensors, in order.
struct Reader<'a> {
    tensors: &'a [TensorPlan<'a>],
    inputs: &'a [(&'a Path, File)],
    free: Receiver<Strip>,
    work: SyncSender<(u64, Strip)>,
    done: SyncSender<Done>,
}

impl Reader<'_> {
    fn run(self) {
        let mut order = 0;
        for (index, tensor) in self.tensors.iter().enumerate() {
            let n_rows = tensor.n_rows();
            let (row_bytes, rows_per_strip) = (source_row_bytes(tensor), rows_per_strip(tensor));
            let mut first_row = 0;
            loop {
                // A closed channel means that the file is given up, for a reason reported elsewhere.
                let Ok(mut strip) = self.free.recv() else { return };
                let rows = rows_per_strip.min(n_rows - first_row);
                let last_of_tensor = first_row + rows >= n_rows;
                strip = Strip { tensor: index, first_row, last_of_tensor, ..strip };
                let read = self.fill(tensor, first_row * row_bytes, rows * row_bytes, &mut strip.source);
                let sent = match read {
                    Err(error) => self.done.send((order, Err(error))).is_ok(),
                    Ok(()) if tensor.is_converted() => self.work.send((order, strip)).is_ok(),
                    Ok(()) => self.done.send((order, Ok(strip))).is_ok(),
                };
                if !sent {
                    return;
                }
                order += 1;
                first_row += rows;
                if last_of_tensor {
                    break;
                }
            }
        }
    }

    fn fill(&self, tensor: &TensorPlan<'_>, at: u64, len: u64, buffer: &mut Vec<u8>) -> Result<(), ConvertError> {
        let Some((path, mut file)) = self.inputs.get(tensor.part).map(|(path, file)| (*path, file)) else {
            return Err(ConvertError::Threads(format!("no input file for tensor {}", tensor.name)));
        };
        let io = |source| ConvertError::Io { action: "read", path: path.to_owned(), source };
        let len = usize::try_from(len).map_err(|e| io(std::io::Error::other(e)))?;
        resize(buffer, len, &tensor.name)?;
        file.seek(SeekFrom::Start(tensor.offset.saturating_add(at))).map_err(io)?;
        file.read_exact(buffer).map_err(io)
    }
}

/// A worker: converts strips until there are no more.
fn work_on(
    tensors: &[TensorPlan<'_>],
    codec: &RowCodec,
    work: &Mutex<Receiver<(u64, Strip)>>,
    done: &SyncSender<Done>,
) {
    let mut row = Vec::new();
    loop {
        let received = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((order, mut strip)) = received else { return };
        let converted = match tensors.get(strip.tensor) {
            Some(tensor) => convert(tensor, codec, &mut strip, &mut row).map(|()| strip),
            None => Ok(strip),
        };
        if done.send((order, converted)).is_err() {
            return;
        }
    }
}

/// Converts the rows of a strip; `row` is scratch space.
fn convert(
    tensor: &TensorPlan<'_>,
    codec: &RowCodec,
    strip: &mut Strip,
    row: &mut Vec<f32>,
) -> Result<(), ConvertError> {
    let unknown =
        |ty: ocelli_gguf::TensorType| ConvertError::SourceFormat { tensor: tensor.name.clone(), ty: ty.to_string() };
    let source_type = tensor.source_type.ggml().ok_or_else(|| unknown(tensor.source_type))?;
    let target_type = tensor.target_type.ggml().ok_or_else(|| unknown(tensor.target_type))?;
    let quant = |source| ConvertError::Quant { tensor: tensor.name.clone(), source };
    let too_long = |_| ConvertError::Threads(format!("the rows of tensor {} are too long", tensor.name));
    let row_len = usize::try_from(tensor.row_len()).map_err(too_long)?;
    let source_bytes = source_type.row_bytes(row_len).map_err(quant)?;
    let target_bytes = target_type.row_bytes(row_len).map_err(quant)?;
    strip.target.clear();
    if source_bytes == 0 || target_bytes == 0 {
        return Ok(());
    }
    row.resize(row_len, 0.0);
    resize(&mut strip.target, strip.source.len() / source_bytes * target_bytes, &tensor.name)?;
    let targets = strip.target.chunks_exact_mut(target_bytes);
    for (index, (source, target)) in (strip.first_row..).zip(strip.source.chunks_exact(source_bytes).zip(targets)) {
        codec.dequantize_row(source_type, source, row).map_err(quant)?;
        let importance = importance_of_row(tensor, index, row_len);
        codec
            .quantize_row(target_type, row, importance, target)
            .map_err(|e| weight_error(tensor, index, row_len, e))?;
    }
    Ok(())
}

/// Importances of the matrix that a row belongs to: the third dimension counts expert matrices.
fn importance_of_row<'a>(tensor: &TensorPlan<'a>, row: u64, row_len: usize) -> Option<&'a [f32]> {
    let all = tensor.importance?;
    let rows_per_matrix = tensor.dims.get(1).copied().unwrap_or(1);
    let matrix = usize::try_from(row.checked_div(rows_per_matrix).unwrap_or(0)).ok()?;
    let start = matrix.checked_mul(row_len)?;
    all.get(start..start.checked_add(row_len)?)
}

/// Names the weight by its index in the whole tensor.
fn weight_error(tensor: &TensorPlan<'_>, row: u64, row_len: usize, error: QuantError) -> ConvertError {
    let in_tensor = |index: usize| row.saturating_mul(row_len as u64).saturating_add(index as u64);
    match error {
        QuantError::NotFinite { index, value } => ConvertError::Weight {
            tensor: tensor.name.clone(),
            index: in_tensor(index),
            value,
            remedy: "only finite weights can be converted; the source is broken",
        },
        QuantError::Overflow { format, index } => {
            let index = usize::try_from(in_tensor(index)).unwrap_or(usize::MAX);
            ConvertError::Quant { tensor: tensor.name.clone(), source: QuantError::Overflow { format, index } }
        }
        source => ConvertError::Quant { tensor: tensor.name.clone(), source },
    }
}
