//! Saved conversations: tokens, their keys and values, and whatever the program wants to keep beside them.
//!
//! ```text
//! "OCELLISN" | version u32 | model and rope fingerprint, 32 bytes
//! n_layer u32 | n_head_kv u32 | head_dim u32 | type_k u32 | type_v u32
//! n_tokens u64 | note length u64 | tokens u32 × n_tokens | marks u64 × n_tokens | note
//! per layer: keys of all positions, head by head; values likewise
//! SHA-256 of everything before
//! ```
//!
//! Marks tell image rows from tokens, and one image from another. All numbers are little-endian. The length is known from the first fields, and the checksum is verified over the
//! whole file before anything is taken from it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ocelli_files::{FileError, FileKind, Inputs, Output, Replace, WriteOptions};
use sha2::{Digest, Sha256};

use crate::kv::{KvPool, KvShape, Sequence};
use crate::prompt::PromptView;
use crate::{Context, RuntimeError};

const MAGIC: &[u8; 8] = b"OCELLISN";
const KIND: FileKind = FileKind { name: "a saved conversation", magic: MAGIC };
/// 3: the fingerprint covers every byte of the model. Up to 2 it covered a part, and notes did not name the vision file.
const VERSION: u32 = 3;
const HEAD_LEN: usize = 8 + 4 + 32 + 5 * 4 + 2 * 8;
const SUM_LEN: u64 = 32;

/// Longest note accepted, in bytes.
const MAX_NOTE: u64 = 1 << 32;

fn shape_words(shape: &KvShape) -> [u32; 5] {
    // Widths and layer counts are bounded far below u32 by the configuration.
    [shape.n_layer as u32, shape.n_head_kv as u32, shape.head_dim as u32, shape.type_k.id(), shape.type_v.id()]
}

fn head(fingerprint: &[u8; 32], shape: &KvShape, n_tokens: usize, note: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_LEN);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(fingerprint);
    head.extend(shape_words(shape).iter().flat_map(|w| w.to_le_bytes()));
    head.extend_from_slice(&(n_tokens as u64).to_le_bytes());
    head.extend_from_slice(&(note as u64).to_le_bytes());
    head
}

/// A writer that keeps the checksum of what went through it.
struct Summed<W> {
    out: W,
    sum: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Writes the first `keep` tokens of `seq`, their part of the cache and `note` to `path`, for its owner only. Of files that
/// exist, it replaces saved conversations and empty ones.
///
/// # Errors
/// When the file cannot be written; the old one, if any, is untouched then.
pub fn save(
    path: &Path,
    fingerprint: &[u8; 32],
    kv: &KvPool,
    seq: &Sequence,
    keep: usize,
    note: &[u8],
) -> Result<(), RuntimeError> {
    let failed = |error| match FileError::unwrap(error) {
        Ok(error) => RuntimeError::Output(error),
        Err(source) => RuntimeError::Write { path: path.to_owned(), source },
    };
    let keep = keep.min(seq.len());
    let (tokens, marks) = (&seq.tokens()[..keep], &seq.marks()[..keep]);
    let options = WriteOptions::new(Inputs::none(), Replace::Only(KIND)).private();
    let file = Output::create(path, &options)?;
    let mut out = Summed { out: BufWriter::with_capacity(1 << 20, file), sum: Sha256::new() };
    let body = |out: &mut Summed<_>| -> std::io::Result<()> {
        out.write_all(&head(fingerprint, kv.shape(), tokens.len(), note.len()))?;
        for token in tokens {
            out.write_all(&token.to_le_bytes())?;
        }
        for mark in marks {
            out.write_all(&mark.to_le_bytes())?;
        }
        out.write_all(note)?;
        kv.for_each_run(seq, tokens.len(), |run| out.write_all(run))
    };
    body(&mut out).map_err(failed)?;
    let Summed { out: mut buffered, sum } = out;
    buffered.write_all(&sum.finalize()).map_err(failed)?;
    let file = buffered.into_inner().map_err(|e| failed(e.into_error()))?;
    Ok(file.commit()?)
}

/// A session file that was found sound and fitting; its keys and values are not yet read.
#[derive(Debug)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    file: BufReader<File>,
    tokens: Vec<u32>,
    marks: Vec<u64>,
    /// What was saved beside the cache.
    pub note: Vec<u8>,
}

impl Checked {
    /// Opens `path` and checks everything that can be wrong with it.
    ///
    /// # Errors
    /// When the file is missing, damaged, of another model or other KV types, or longer than the context.
    pub fn open(path: &Path, fingerprint: &[u8; 32], context: &Context) -> Result<Self, RuntimeError> {
        let io = |source| RuntimeError::Open { path: path.to_owned(), source };
        let bad = |problem: String| RuntimeError::Session { path: path.to_owned(), problem };
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(io)?);
        let len = file.get_ref().metadata().map_err(io)?.len();
        let (n_tokens, note) = check_head(&mut file, len, fingerprint, context.kv_shape()).map_err(bad)?;
        let (n_ctx, n_vocab) = (context.n_ctx(), context.model().config().n_vocab);
        if n_tokens > n_ctx {
            return Err(bad(format!(
                "holds {n_tokens} tokens, more than the context of {n_ctx}; use a larger context (-c)"
            )));
        }
        check_sum(&mut file, len).map_err(bad)?;
        file.seek(SeekFrom::Start(HEAD_LEN as u64)).map_err(io)?;
        let mut bytes = vec![0u8; n_tokens * 4];
        file.read_exact(&mut bytes).map_err(io)?;
        let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let mut bytes = vec![0u8; n_tokens * 8];
        file.read_exact(&mut bytes).map_err(io)?;
        let marks: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        if let Some(id) = tokens.iter().copied().find(|t| *t as usize >= n_vocab) {
            return Err(RuntimeError::Token { id, n_vocab });
        }
        let mut bytes = vec![0u8; note];
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, tokens, marks, note: bytes })
    }

    /// Reads the session into the empty `seq`; gives the note.
    ///
    /// # Errors
    /// When the file cannot be read on, or the pool is full; `seq` is still empty then.
    pub fn read(mut self, context: &mut Context, seq: &mut Sequence) -> Result<Vec<u8>, RuntimeError> {
        let kv = context.kv_mut();
        kv.append(seq, PromptView::marked(&self.tokens, &self.marks))?;
        let file = &mut self.file;
        let done = kv.for_each_run_mut(seq, self.tokens.len(), |run| file.read_exact(run));
        if let Err(source) = done {
            seq.revert();
            return Err(RuntimeError::Open { path: self.path, source });
        }
        seq.commit();
        Ok(self.note)
    }
}

/// Checks the fields and the length they imply; gives the numbers of tokens and of note bytes.
fn check_head(
    file: &mut impl Read,
    len: u64,
    fingerprint: &[u8; 32],
    shape: &KvShape,
) -> Result<(usize, usize), String> {
    const DAMAGED: &str = "is damaged or incomplete; remove it and start a new one";
    let mut head = [0u8; HEAD_LEN];
    // Whatever does not even begin like one is somebody's file, not a damaged session to be removed.
    let mut start = Vec::new();
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|e| format!("cannot be read: {e}"))?;
    if !MAGIC.starts_with(&start) {
        return Err("is no session file; give another name".to_owned());
    }
    head[..start.len()].copy_from_slice(&start);
    file.read_exact(&mut head[start.len()..]).map_err(|_| DAMAGED.to_owned())?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    if word(8) != VERSION {
        return Err(if word(8) < VERSION {
            "was saved by an older version, which could not tell for certain with which model; start a new one"
                .to_owned()
        } else {
            "was saved by a newer version of this program; use that, or start a new one".to_owned()
        });
    }
    if head[12..44] != fingerprint[..] {
        return Err("was saved with another model (or this one was changed) or other rope settings; use the model it was saved with".to_owned());
    }
    let found: [u32; 5] = std::array::from_fn(|i| word(44 + 4 * i));
    let want = shape_words(shape);
    if found[..3] != want[..3] {
        return Err("was saved with a model of another shape; use the model it was saved with".to_owned());
    }
    if found[3..] != want[3..] {
        let name = |id| ocelli_quant::GgmlType::from_id(id).map_or("unknown".to_owned(), |t| t.name().to_lowercase());
        return Err(format!(
            "was saved with KV types {} and {}; start with -ctk {} -ctv {}",
            name(found[3]),
            name(found[4]),
            name(found[3]),
            name(found[4])
        ));
    }
    let (n_tokens, note) = (long(64), long(72));
    let per_token = shape.bytes_per_position().map_err(|e| e.to_string())?;
    let whole = per_token
        .checked_add(4 + 8)
        .and_then(|b| b.checked_mul(n_tokens))
        .and_then(|b| b.checked_add(note))
        .and_then(|b| b.checked_add(HEAD_LEN as u64 + SUM_LEN));
    match (whole, usize::try_from(n_tokens), usize::try_from(note)) {
        (Some(whole), Ok(n_tokens), Ok(note_len)) if whole == len && note <= MAX_NOTE => Ok((n_tokens, note_len)),
        _ => Err(DAMAGED.to_owned()),
    }
}

fn check_sum(file: &mut (impl Read + Seek), len: u64) -> Result<(), String> {
    let run = |file: &mut dyn Read| -> std::io::Result<bool> {
        let mut sum = Sha256::new();
        let mut left = len - SUM_LEN;
        let mut buffer = vec![0u8; 1 << 16];
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact(&mut buffer[..n])?;
            sum.update(&buffer[..n]);
            left -= n as u64;
        }
        let mut stored = [0u8; SUM_LEN as usize];
        file.read_exact(&mut stored)?;
        Ok(sum.finalize()[..] == stored[..])
    };
    file.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    match run(file) {
        Ok(true) => Ok(()),
        Ok(false) => Err("is damaged: its checksum does not match; remove it and start a new one".to_owned()),
        Err(e) => Err(format!("cannot be read: {e}")),
    }
}
