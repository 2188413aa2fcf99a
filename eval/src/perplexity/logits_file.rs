//! Files of saved log-probabilities, in the format of llama-perplexity, so that either program can be the base.
//!
//! ```text
//! "_logits_" | n_ctx i32 | n_vocab i32 | n_chunk i32 | tokens i32 × n_chunk·n_ctx
//! then per scored position (n_ctx − 1 − n_ctx/2 per chunk):
//!   scale f32 | lowest log-probability f32 | codes u16 × n_vocab rounded up to even
//! log-probability = scale · code + lowest; the range ends 16 nats below the largest
//! ```

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use ocelli_files::{FileError, Output};

use super::stats::log_sum_exp;
use ocelli_runtime::RuntimeError;

const MAGIC: &[u8; 8] = b"_logits_";

fn record_len(n_vocab: usize) -> usize {
    8 + 2 * n_vocab.next_multiple_of(2)
}

/// Writes a file of log-probabilities, which appears when it is complete.
#[derive(Debug)]
pub struct LogitsWriter {
    path: PathBuf,
    out: BufWriter<Output>,
    record: Vec<u8>,
}

impl LogitsWriter {
    /// Starts a file for the chunks of `tokens`, each `n_ctx` long.
    ///
    /// # Errors
    /// When the file cannot be made, or a count does not fit the format.
    pub fn create(output: Output, n_ctx: usize, n_vocab: usize, tokens: &[u32]) -> Result<Self, RuntimeError> {
        let fit = |n: usize| i32::try_from(n).map_err(|_| evaluation(format!("{n} does not fit a logits file")));
        let path = output.path().to_owned();
        let mut out = BufWriter::new(output);
        let mut head = MAGIC.to_vec();
        for n in [n_ctx, n_vocab, tokens.len() / n_ctx.max(1)] {
            head.extend_from_slice(&fit(n)?.to_le_bytes());
        }
        head.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
        out.write_all(&head).map_err(|source| write_error(&path, source))?;
        Ok(Self { path, out, record: vec![0; record_len(n_vocab)] })
    }

    /// Appends one position's `logits`.
    ///
    /// # Errors
    /// When writing fails or the logits are not finite.
    pub fn push(&mut self, logits: &[f32]) -> Result<(), RuntimeError> {
        let (max, _, lse) = log_sum_exp(logits).ok_or_else(|| evaluation("the logits are not finite".to_owned()))?;
        let lowest = logits.iter().copied().fold(max, f32::min).max(max - 16.0);
        let scale = (max - lowest) / 65535.0;
        self.record.fill(0);
        self.record[..4].copy_from_slice(&scale.to_le_bytes());
        self.record[4..8].copy_from_slice(&((f64::from(lowest) - lse) as f32).to_le_bytes());
        if scale > 0.0 {
            for (code, logit) in self.record[8..].as_chunks_mut::<2>().0.iter_mut().zip(logits) {
                // Between 0 and 65535 by the choice of scale; `as` saturates at the last rounding.
                *code = (((logit - lowest).max(0.0) / scale).round_ties_even() as u16).to_le_bytes();
            }
        }
        self.out.write_all(&self.record).map_err(|source| write_error(&self.path, source))
    }

    /// Completes the file under its name.
    ///
    /// # Errors
    /// When writing or renaming fails.
    pub fn finish(self) -> Result<(), RuntimeError> {
        let file = self.out.into_inner().map_err(|e| write_error(&self.path, e.into_error()))?;
        Ok(file.commit()?)
    }
}

/// Reads such a file position by position.
#[derive(Debug)]
pub struct LogitsReader {
    path: PathBuf,
    input: BufReader<File>,
    n_ctx: usize,
    tokens: Vec<u32>,
    record: Vec<u8>,
    log_probs: Vec<f32>,
}

impl LogitsReader {
    /// Opens `path` and checks its header against the file's length and the model's vocabulary.
    ///
    /// # Errors
    /// When it cannot be read, is no logits file, is truncated, or belongs to another vocabulary.
    pub fn open(path: &Path, n_vocab: usize) -> Result<Self, RuntimeError> {
        let io = |source| RuntimeError::Open { path: path.to_owned(), source };
        let bad = |what: &str| evaluation(format!("{}: {what}", path.display()));
        // Looked at before it is opened: a pipe without a writer would be waited for.
        if !path.metadata().map_err(io)?.is_file() {
            return Err(bad("is not a regular file"));
        }
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut input = BufReader::new(file);
        let mut head = [0u8; 20];
        input.read_exact(&mut head).map_err(|_| bad("is too short for a file of saved logits"))?;
        if head[..8] != MAGIC[..] {
            return Err(bad("is no file of saved logits (written by --save-logits)"));
        }
        let field = |i: usize| {
            let bytes = [head[8 + 4 * i], head[9 + 4 * i], head[10 + 4 * i], head[11 + 4 * i]];
            u64::try_from(i32::from_le_bytes(bytes)).ok().filter(|n| *n > 0)
        };
        let (Some(n_ctx), Some(vocab), Some(n_chunk)) = (field(0), field(1), field(2)) else {
            return Err(bad("is damaged: a count in its header is not positive"));
        };
        if vocab != n_vocab as u64 {
            return Err(bad(&format!("was saved with a vocabulary of {vocab} tokens; this model has {n_vocab}")));
        }
        let scored = n_ctx - 1 - n_ctx / 2;
        let n_tokens = n_ctx.checked_mul(n_chunk);
        let wanted = n_tokens.and_then(|n| n.checked_mul(4)).and_then(|tokens| {
            let records = n_chunk.checked_mul(scored)?.checked_mul(record_len(n_vocab) as u64)?;
            tokens.checked_add(records)?.checked_add(20)
        });
        if wanted.is_none_or(|wanted| wanted > len) {
            return Err(bad("is truncated; save it again"));
        }
        // Now known to be at most a quarter of the file's length.
        let mut bytes = vec![0u8; usize::try_from(n_tokens.unwrap_or(0) * 4).map_err(|_| bad("is too large"))?];
        input.read_exact(&mut bytes).map_err(io)?;
        let tokens: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        if let Some(id) = tokens.iter().copied().find(|t| *t as usize >= n_vocab) {
            return Err(RuntimeError::Token { id, n_vocab });
        }
        let n_ctx = usize::try_from(n_ctx).map_err(|_| bad("is too large"))?;
        Ok(Self {
            path: path.to_owned(),
            input,
            n_ctx,
            tokens,
            record: vec![0; record_len(n_vocab)],
            log_probs: vec![0.0; n_vocab],
        })
    }

    /// Tokens of one chunk.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The tokens of all chunks.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The next position's log-probabilities.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub fn next_log_probs(&mut self) -> Result<&[f32], RuntimeError> {
        self.input
            .read_exact(&mut self.record)
            .map_err(|source| RuntimeError::Open { path: self.path.clone(), source })?;
        let float =
            |i: usize| f32::from_le_bytes([self.record[i], self.record[i + 1], self.record[i + 2], self.record[i + 3]]);
        let (scale, lowest) = (float(0), float(4));
        for (p, code) in self.log_probs.iter_mut().zip(self.record[8..].as_chunks::<2>().0) {
            *p = scale * f32::from(u16::from_le_bytes(*code)) + lowest;
        }
        Ok(&self.log_probs)
    }
}

fn evaluation(problem: String) -> RuntimeError {
    RuntimeError::Evaluation { problem }
}

fn write_error(path: &Path, source: std::io::Error) -> RuntimeError {
    match FileError::unwrap(source) {
        Ok(error) => RuntimeError::Output(error),
        Err(source) => RuntimeError::Write { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(path: &Path) -> Output {
        let options = ocelli_files::WriteOptions::new(ocelli_files::Inputs::none(), ocelli_files::Replace::Never);
        Output::create(path, &options).unwrap()
    }

    fn saved(dir: &Path) -> PathBuf {
        let path = dir.join("base.logits");
        let tokens = [1, 2, 0, 1];
        let mut out = LogitsWriter::create(output(&path), 4, 3, &tokens).unwrap();
        out.push(&[1.0, -1.0, 3.0]).unwrap();
        out.finish().unwrap();
        path
    }

    #[test]
    fn what_is_saved_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = saved(dir.path());
        let mut base = LogitsReader::open(&path, 3).unwrap();
        assert_eq!((base.n_ctx(), base.tokens()), (4, &[1, 2, 0, 1][..]));
        let lse = (1f64.exp() + (-1f64).exp() + 3f64.exp()).ln();
        let got = base.next_log_probs().unwrap();
        for (got, logit) in got.iter().zip([1.0, -1.0, 3.0]) {
            assert!((f64::from(*got) - (logit - lse)).abs() < 1e-4, "{got}");
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = saved(dir.path());
        let good = std::fs::read(&path).unwrap();
        let refuse = |bytes: &[u8], n_vocab| {
            std::fs::write(&path, bytes).unwrap();
            LogitsReader::open(&path, n_vocab).unwrap_err().to_string()
        };
        assert!(refuse(&good[..10], 3).contains("too short"));
        assert!(refuse(&good[..good.len() - 1], 3).contains("truncated"));
        assert!(refuse(&good, 4).contains("vocabulary of 3"));
        let mut other = good.clone();
        other[0] = b'x';
        assert!(refuse(&other, 3).contains("no file of saved logits"));
        let mut negative = good.clone();
        negative[11] = 0xff;
        assert!(refuse(&negative, 3).contains("not positive"));
        let mut huge = good.clone();
        huge[16..20].copy_from_slice(&i32::MAX.to_le_bytes());
        assert!(refuse(&huge, 3).contains("truncated"));
        let mut token = good;
        token[20..24].copy_from_slice(&9u32.to_le_bytes());
        assert!(refuse(&token, 3).contains("token id 9"));
    }

    #[test]
    fn logits_that_are_not_finite_are_not_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut out = LogitsWriter::create(output(&path), 4, 3, &[0; 4]).unwrap();
        assert!(out.push(&[f32::NAN, 0.0, 0.0]).is_err());
        drop(out);
        assert!(!path.exists());
    }
}
