//! How well a model predicts a text: perplexity, and divergence from another model's predictions.
//!
//! The text is cut into chunks of `n_ctx` tokens. Each chunk is run from an empty cache, its first token replaced by
//! BOS where the vocabulary adds one, and the tokens of its second half are scored, so that every scored token has at
//! least `n_ctx / 2` tokens before it: the figures compare with those of llama-perplexity.

mod logits_file;
mod stats;

pub use logits_file::{LogitsReader, LogitsWriter};
pub use stats::{Divergence, DivergenceSummary, Nll, log_sum_exp};

use ocelli_files::Output;

use ocelli_runtime::{Context, RuntimeError};

/// What to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation {
    /// Tokens per chunk.
    pub n_ctx: usize,
    /// Chunks to run at most; `None`: all.
    pub chunks: Option<usize>,
    /// Put in place of every chunk's first token.
    pub bos: Option<u32>,
}

/// Figures of an evaluation.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Chunks run.
    pub chunks: usize,
    /// Likelihood of the text.
    pub nll: Nll,
    /// Comparison with the base, when there was one.
    pub divergence: Option<DivergenceSummary>,
}

/// Runs `tokens` through `context` and saves the log-probabilities to `save`, if it is given; after every chunk `progress(chunks done, chunks in all, figures so far)` is
/// called.
///
/// # Errors
/// When the text is shorter than two chunks, the context too small, or the model gives numbers that are not finite.
pub fn evaluate(
    context: &mut Context,
    tokens: &[u32],
    what: &Evaluation,
    save: Option<Output>,
    progress: &mut dyn FnMut(usize, usize, &Nll),
) -> Result<Report, RuntimeError> {
    if what.n_ctx < 4 || tokens.len() < 2 * what.n_ctx {
        return Err(RuntimeError::Evaluation {
            problem: format!(
                "the text has {} tokens; at least two chunks of {} (-c, 4 or more) are needed: use a longer text or a \
                 smaller -c",
                tokens.len(),
                what.n_ctx
            ),
        });
    }
    let n_chunk = (tokens.len() / what.n_ctx).min(what.chunks.unwrap_or(usize::MAX));
    let tokens = &tokens[..n_chunk * what.n_ctx];
    let n_vocab = context.model().config().n_vocab;
    let mut save = save.map(|output| LogitsWriter::create(output, what.n_ctx, n_vocab, tokens)).transpose()?;
    let mut report = Report::default();
    run_chunks(
        context,
        tokens,
        what.n_ctx,
        what.bos,
        &mut |nll, logits, _| {
            report.nll.add(nll);
            save.as_mut().map_or(Ok(()), |save| save.push(logits))
        },
        &mut |done, nll| progress(done, n_chunk, nll),
    )?;
    if let Some(save) = save {
        save.finish()?;
    }
    report.chunks = n_chunk;
    Ok(report)
}

/// Runs the tokens of `base` through `context` and compares the predictions.
///
/// # Errors
/// As [`evaluate`], and when `base` cannot be read on.
pub fn compare(
    context: &mut Context,
    base: &mut LogitsReader,
    what: &Evaluation,
    progress: &mut dyn FnMut(usize, usize, &Nll),
) -> Result<Report, RuntimeError> {
    let n_ctx = base.n_ctx();
    let n_chunk = (base.tokens().len() / n_ctx).min(what.chunks.unwrap_or(usize::MAX));
    let tokens = base.tokens()[..n_chunk * n_ctx].to_vec();
    let mut report = Report::default();
    let mut divergence = Divergence::default();
    run_chunks(
        context,
        &tokens,
        n_ctx,
        what.bos,
        &mut |nll, logits, next| {
            report.nll.add(nll);
            divergence.add(logits, base.next_log_probs()?, next).ok_or_else(not_finite)
        },
        &mut |done, nll| progress(done, n_chunk, nll),
    )?;
    report.chunks = n_chunk;
    report.divergence = divergence.summary();
    Ok(report)
}

/// What happens at a scored position: negative log-likelihood, logits, and the token that followed.
type Scored<'s> = dyn FnMut(f64, &[f32], usize) -> Result<(), RuntimeError> + 's;

fn run_chunks(
    context: &mut Context,
    tokens: &[u32],
    n_ctx: usize,
    bos: Option<u32>,
    scored: &mut Scored<'_>,
    chunk_done: &mut dyn FnMut(usize, &Nll),
) -> Result<(), RuntimeError> {
    if n_ctx > context.n_ctx() {
        return Err(RuntimeError::ContextFull { wanted: n_ctx, n_ctx: context.n_ctx() });
    }
    let mut seq = context.new_sequence();
    let mut total = Nll::default();
    for (i, chunk) in tokens.chunks_exact(n_ctx).enumerate() {
        let mut input = chunk.to_vec();
        if let Some(bos) = bos {
            input[0] = bos;
        }
        seq.clear();
        // The last position predicts a token outside the chunk: it is run by nobody.
        input.truncate(n_ctx - 1);
        context.decode_each(&mut seq, &input, n_ctx / 2, &mut |at, logits| {
            let next = chunk[at + 1] as usize;
            let (_, _, lse) = log_sum_exp(logits).ok_or_else(not_finite)?;
            let logit = logits.get(next).copied().ok_or_else(not_finite)?;
            let nll = lse - f64::from(logit);
            total.add(nll);
            scored(nll, logits, next)
        })?;
        chunk_done(i + 1, &total);
    }
    Ok(())
}

fn not_finite() -> RuntimeError {
    RuntimeError::Evaluation {
        problem: "the model's logits are not finite numbers; the file is damaged or overflows its format".to_owned(),
    }
}
