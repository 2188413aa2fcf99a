//! Prompts and generation.

use ocelli_kernels::measure::{Unit, Work};
use ocelli_kernels::{JoinTimes, KvLayout, Precision, attention_unit};

use super::{Measured, Repeat, repeated};
use crate::{Context, RuntimeError, Sequence};

/// What is timed behind `depth` positions: a prompt, then single tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TextTest {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens generated.
    pub n_gen: usize,
    /// Positions in the cache before.
    pub depth: usize,
}

impl TextTest {
    /// `pp512`, `tg128`, `pp512+tg128`, with ` @ d4096` behind that many positions.
    #[must_use]
    pub fn name(&self) -> String {
        let mut parts = Vec::new();
        if self.n_prompt > 0 {
            parts.push(format!("pp{}", self.n_prompt));
        }
        if self.n_gen > 0 {
            parts.push(format!("tg{}", self.n_gen));
        }
        let name = parts.join("+");
        if self.depth > 0 { format!("{name} @ d{}", self.depth) } else { name }
    }

    /// Tokens that count for the rate.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.n_prompt + self.n_gen
    }

    /// Positions that it needs.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.depth.saturating_add(self.n_prompt).saturating_add(self.n_gen)
    }
}

/// Random ids of the vocabulary, the same for the same seed.
#[must_use]
pub fn random_ids(context: &Context, n: usize, seed: u64) -> Vec<u32> {
    let n_vocab = context.model().config().n_vocab.max(1) as u64;
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Below the size of a vocabulary, which fits 32 bits.
        ((state >> 33) % n_vocab) as u32
    };
    (0..n).map(|_| next()).collect()
}

struct State<'c> {
    context: &'c mut Context,
    seq: Sequence,
}

/// Times `test`; `pause` is called before each run that counts.
///
/// # Errors
/// When the test does not fit the context, or the context is interrupted.
pub fn text(
    context: &mut Context,
    test: &TextTest,
    repeat: Repeat,
    pause: &mut dyn FnMut(),
) -> Result<Measured, RuntimeError> {
    let depth = test.depth;
    let filling = random_ids(context, depth, 1);
    let prompt = random_ids(context, test.n_prompt, 2);
    let tokens = random_ids(context, test.n_gen, 3);
    let seq = context.new_sequence();
    let mut state = State { context, seq };
    let prepare = |s: &mut State<'_>| {
        // The filling stays from run to run: what comes behind it does not change it.
        s.seq.truncate(depth);
        if s.seq.tokens().len() < depth {
            s.seq.clear();
            s.context.decode(&mut s.seq, filling.as_slice())?;
        }
        Ok(())
    };
    let once = |s: &mut State<'_>| {
        if !prompt.is_empty() {
            s.context.decode(&mut s.seq, prompt.as_slice())?;
        }
        tokens.iter().try_for_each(|token| s.context.decode(&mut s.seq, &[*token]))
    };
    let joins = |s: &State<'_>, on: bool| -> JoinTimes {
        let times = s.context.join_times();
        s.context.measure_joins(on);
        times
    };
    repeated(&mut state, repeat, pause, prepare, once, joins)
}

/// What `test` needs of the machine at least: every product and every score once, every weight once per micro-batch,
/// the cached keys and values once per micro-batch and layer. Norms, rope, softmax and activations are left out.
///
/// # Errors
/// When the cache's formats do not fit the heads.
pub fn text_work(context: &Context, test: &TextTest) -> Result<Work, RuntimeError> {
    let mut work = Work::default();
    let mut at = test.depth;
    let mut left = test.n_prompt;
    while left > 0 {
        let n = left.min(context.n_ubatch());
        left -= n;
        work += batch_work(context, at, n, usize::from(left == 0))?;
        at += n;
    }
    for _ in 0..test.n_gen {
        work += batch_work(context, at, 1, 1)?;
        at += 1;
    }
    Ok(work)
}

/// Rows of one conversation in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassRows {
    /// Positions of the conversation before them.
    pub at: usize,
    /// Rows.
    pub n: usize,
    /// Rows at the end whose logits are wanted.
    pub wanted: usize,
}

/// `n` tokens behind `at` positions, of which `wanted` (0 or 1) logits are wanted.
pub(super) fn batch_work(context: &Context, at: usize, n: usize, wanted: usize) -> Result<Work, RuntimeError> {
    pass_work(context, &[PassRows { at, n, wanted }])
}

/// What one pass over rows of several conversations needs of the machine at least, as [`text_work`] counts it. Every
/// conversation reads keys and values of its own.
///
/// # Errors
/// When the cache's formats do not fit the heads.
pub fn pass_work(context: &Context, parts: &[PassRows]) -> Result<Work, RuntimeError> {
    let model = context.model();
    let (config, weights, graph) = (model.config(), model.weights(), model.graph());
    let last = format!("blk.{}.", config.n_layer.saturating_sub(1));
    let (n, wanted) = parts.iter().fold((0, 0), |(n, wanted), part| (n + part.n, wanted + part.wanted));
    let mut work = Work::default();
    for (name, matrix) in weights.matrices() {
        let rows = if *matrix == graph.output.weight {
            wanted
        } else if *matrix == graph.token_embd.weight {
            0
        } else if name.starts_with(&last) && !reads_every_token(name) {
            wanted
        } else {
            n
        };
        // Tied matrices are asked for once and used as the output.
        if rows == 0 {
            continue;
        }
        let ops = 2.0 * rows as f64 * matrix.rows() as f64 * matrix.cols() as f64;
        let unit = match context.precision() {
            Precision::Fast => context.kernels().unit(matrix.ty(), rows),
            Precision::Exact => Unit::F32,
        };
        work += Work::of(unit, ops, weights.bytes(matrix).len() as f64);
    }
    let layers = config.n_layer.saturating_sub(1) as f64;
    let shape = context.kv_shape();
    let layout = KvLayout::new(shape.type_k, shape.type_v, shape.n_head_kv, shape.head_dim, KvLayout::BLOCK_LEN)?;
    let group = config.n_head / config.n_head_kv;
    let unit = attention_unit(context.kernels(), context.precision(), &layout, group);
    for part in parts {
        let pairs = |from: usize| -> f64 { (from..part.n).map(|t| (part.at + t + 1) as f64).sum() };
        let scores = layers * pairs(0) + pairs(part.n - part.wanted);
        work += Work::of(unit, 4.0 * scores * (config.n_head * config.head_dim) as f64, 0.0);
        work.bytes += shape.bytes_per_position()? as f64 * (part.at + part.n) as f64;
    }
    Ok(work)
}

/// Whether the last layer needs this product for all tokens: keys and values are for those to come, and queries are
/// computed with them.
fn reads_every_token(name: &str) -> bool {
    ["attn_q", "attn_k", "attn_v"].iter().any(|part| name.contains(part))
}
