//! A model with its working memory: threads, cache, buffers. Runs tokens, gives logits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ocelli_kernels::{JoinTimes, Kernels, Pool, Precision};
use ocelli_quant::GgmlType;

use crate::kv::{BlockTable, KvCache, KvShape};
use crate::layers::{LayerProbe, Pass, Workspace};
use crate::nn::Engine;
use crate::prompt::PromptView;
use crate::rope::Rope;
use crate::{Model, RuntimeError, memory, threads};

/// How a context is set up. `None` and 0 mean: choose.
#[derive(Debug, Clone)]
pub struct ContextOptions {
    /// Positions of the cache (`-c`); 0: as many as the model was trained for.
    pub n_ctx: usize,
    /// Upper bound of `n_ubatch` (`-b`).
    pub n_batch: usize,
    /// Tokens computed together (`-ub`).
    pub n_ubatch: usize,
    /// Threads for one token (`-t`); 0: physical cores.
    pub n_threads: usize,
    /// Threads for several tokens (`-tb`); 0: as for one.
    pub n_threads_batch: usize,
    /// Format of the keys (`-ctk`).
    pub type_k: GgmlType,
    /// Format of the values (`-ctv`).
    pub type_v: GgmlType,
    /// How products are computed.
    pub precision: Precision,
    /// The instruction set to use (`--isa`); `None`: `OCELLI_ISA` or the best.
    pub isa: Option<String>,
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self {
            n_ctx: 0,
            n_batch: 2048,
            n_ubatch: 512,
            n_threads: 0,
            n_threads_batch: 0,
            type_k: GgmlType::F16,
            type_v: GgmlType::F16,
            precision: Precision::Fast,
            isa: None,
        }
    }
}

/// The tokens of one conversation and where their keys and values lie.
#[derive(Debug)]
pub struct Sequence {
    pub(crate) table: BlockTable,
    pub(crate) tokens: Vec<u32>,
    /// One mark per token, as in a prompt.
    pub(crate) marks: Vec<u64>,
}

impl Sequence {
    /// The tokens computed so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// Is given the index and the logits of every token whose logits are wanted.
pub type EachLogits<'e> = dyn FnMut(usize, &[f32]) -> Result<(), RuntimeError> + 'e;

/// A model with its working memory: threads, cache, buffers. Runs tokens, gives logits.
#[derive(Debug)]
pub struct Context {
    model: Arc<Model>,
    kernels: Kernels,
    precision: Precision,
    /// For one token and for several: the same threads, of which one may use fewer.
    pool: Pool,
    pool_batch: Pool,
    rope: Rope,
    pub(crate) kv: KvCache,
    ws: Workspace,
    n_ctx: usize,
    n_ubatch: usize,
    /// Row of the workspace's logits that belongs to the last position, if it was wanted.
    last_logits: Option<usize>,
    interrupt: Arc<AtomicBool>,
}

impl Context {
    /// Sets up a context for `model`.
    ///
    /// # Errors
    /// When an option makes no sense, the instruction set is not there, or memory is short.
    pub fn new(model: Arc<Model>, options: &ContextOptions) -> Result<Self, RuntimeError> {
        let kernels = Kernels::select(options.isa.as_deref())?;
        let config = model.config();
        let n_ctx = if options.n_ctx == 0 { config.n_ctx_train } else { options.n_ctx };
        let at_least_one = |option, value| {
            let problem = "must be at least 1".to_owned();
            if value == 0 { Err(RuntimeError::Option { option, problem }) } else { Ok(value) }
        };
        let n_batch = at_least_one("-b/--batch-size", options.n_batch)?.min(n_ctx);
        let n_ubatch = at_least_one("-ub/--ubatch-size", options.n_ubatch)?.min(n_batch);
        let rope = Rope::new(&config.rope, model.rope_factors(), n_ctx)?;
        let shape = KvShape::of(config, n_ctx, options.type_k, options.type_v);
        // Together, for pages are only taken when they are first written: each alone would find the other's still free.
        let kv_bytes = shape.bytes()?.and_then(|(k, v)| k.checked_add(v));
        let all = kv_bytes.and_then(|kv| kv.checked_add(Workspace::bytes(config, n_ubatch)?));
        memory::check(format!("the KV cache of {n_ctx} positions with the workspace for {n_ubatch} tokens"), all)?;
        let kv = KvCache::new(shape, kernels, options.precision, config.n_head)?;
        let ws = Workspace::new(config, model.weights(), options.precision, n_ubatch, n_ctx)?;
        let n_threads = if options.n_threads == 0 { threads::physical_cores() } else { options.n_threads };
        let batch = if options.n_threads_batch == 0 { n_threads } else { options.n_threads_batch };
        let all_threads = Pool::new(n_threads.max(batch));
        Ok(Self {
            kernels,
            precision: options.precision,
            pool: all_threads.limited(n_threads),
            pool_batch: all_threads.limited(batch),
            rope,
            kv,
            ws,
            n_ctx,
            n_ubatch,
            last_logits: None,
            interrupt: Arc::default(),
            model,
        })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Positions a sequence may have.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Tokens computed together.
    #[must_use]
    pub fn n_ubatch(&self) -> usize {
        self.n_ubatch
    }

    /// While this is set, computing ends with [`RuntimeError::Interrupted`] after the layer at hand.
    #[must_use]
    pub fn interrupt_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt)
    }

    /// As it is, with `flag` in place of its own interrupt flag: for several contexts that end together.
    #[must_use]
    pub fn with_interrupt(self, flag: Arc<AtomicBool>) -> Self {
        Self { interrupt: flag, ..self }
    }

    /// Starts timing what threads lose in joins, from zero, or ends it.
    pub fn measure_joins(&self, on: bool) {
        self.pool_batch.measure_joins(on);
    }

    /// What was measured since [`Context::measure_joins`].
    #[must_use]
    pub fn join_times(&self) -> JoinTimes {
        let threads = self.pool.threads().max(self.pool_batch.threads());
        JoinTimes { threads, ..self.pool_batch.join_times() }
    }

    /// The table of kernels in use.
    #[must_use]
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Name of the instruction set in use.
    #[must_use]
    pub fn isa(&self) -> &'static str {
        self.kernels.name()
    }

    /// Threads for one token and for several.
    #[must_use]
    pub fn threads(&self) -> (usize, usize) {
        (self.pool.threads(), self.pool_batch.threads())
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The rotary frequencies in use.
    #[must_use]
    pub fn rope(&self) -> &Rope {
        &self.rope
    }

    /// Shape and formats of the cache.
    #[must_use]
    pub fn kv_shape(&self) -> &KvShape {
        self.kv.shape()
    }

    /// Bytes of all keys and of all values that the cache has room for.
    #[must_use]
    pub fn kv_bytes(&self) -> (u64, u64) {
        self.kv.bytes()
    }

    /// An empty sequence. Give it back with [`Context::clear`].
    #[must_use]
    pub fn new_sequence(&self) -> Sequence {
        Sequence {
            table: self.kv.new_table(),
            tokens: Vec::with_capacity(self.n_ctx),
            marks: Vec::with_capacity(self.n_ctx),
        }
    }

    /// Forgets all positions of `seq` from `len` on.
    pub fn truncate(&mut self, seq: &mut Sequence, len: usize) {
        self.kv.truncate(&mut seq.table, len);
        seq.tokens.truncate(len);
        seq.marks.truncate(len);
        self.last_logits = None;
    }

    /// Forgets everything of `seq`.
    pub fn clear(&mut self, seq: &mut Sequence) {
        self.truncate(seq, 0);
    }

    /// A second sequence that shares the first `len` positions of `seq`; nothing is computed or copied.
    pub fn fork(&mut self, seq: &Sequence, len: usize) -> Sequence {
        let mut copy = self.new_sequence();
        copy.table = self.kv.fork(&seq.table, len);
        let len = len.min(seq.tokens.len());
        copy.tokens.extend_from_slice(&seq.tokens[..len]);
        copy.marks.extend_from_slice(&seq.marks[..len]);
        copy
    }

    /// Appends `tokens` to `seq` and computes the logits of the last one; read them with [`Context::logits`].
    ///
    /// # Errors
    /// When a token is not in the vocabulary or the context would overflow; the sequence is unchanged then.
    pub fn decode<'p>(&mut self, seq: &mut Sequence, tokens: impl Into<PromptView<'p>>) -> Result<(), RuntimeError> {
        let tokens = tokens.into();
        let last = tokens.len().saturating_sub(1);
        self.run(seq, tokens, last, None, &mut |_, _| Ok(()))
    }

    /// As [`Context::decode`], handing the logits of every token from index `from` on to `each(index, logits)`.
    ///
    /// # Errors
    /// As [`Context::decode`], and whatever `each` fails with.
    pub fn decode_each(
        &mut self,
        seq: &mut Sequence,
        tokens: &[u32],
        from: usize,
        each: &mut EachLogits<'_>,
    ) -> Result<(), RuntimeError> {
        self.run(seq, tokens.into(), from, None, each)
    }

    /// As [`Context::decode`], showing the residual stream of all positions to `probe`.
    ///
    /// # Errors
    /// As [`Context::decode`].
    pub fn decode_probed<'p>(
        &mut self,
        seq: &mut Sequence,
        tokens: impl Into<PromptView<'p>>,
        probe: &mut dyn LayerProbe,
    ) -> Result<(), RuntimeError> {
        let tokens = tokens.into();
        let last = tokens.len().saturating_sub(1);
        self.run(seq, tokens, last, Some(probe), &mut |_, _| Ok(()))
    }

    /// The logits of the last token that [`Context::decode`] took, one per token of the vocabulary; `None` before the
    /// first call and after a sequence was shortened.
    #[must_use]
    pub fn logits(&self) -> Option<&[f32]> {
        let n_vocab = self.model.config().n_vocab;
        self.last_logits.map(|row| &self.ws.logits[row * n_vocab..(row + 1) * n_vocab])
    }

    fn run(
        &mut self,
        seq: &mut Sequence,
        tokens: PromptView<'_>,
        from: usize,
        mut probe: Option<&mut dyn LayerProbe>,
        each: &mut EachLogits<'_>,
    ) -> Result<(), RuntimeError> {
        let (n_vocab, n_embd) = (self.model.config().n_vocab, self.model.config().n_embd);
        if let Some(found) = tokens.foreign_width(n_embd) {
            return Err(RuntimeError::ImageWidth { found, n_embd });
        }
        if let Some(id) = tokens.tokens().iter().copied().find(|id| *id as usize >= n_vocab) {
            return Err(RuntimeError::Token { id, n_vocab });
        }
        let (old, wanted) = (seq.tokens.len(), seq.tokens.len() + tokens.len());
        if wanted > self.n_ctx {
            return Err(RuntimeError::ContextFull { wanted, n_ctx: self.n_ctx, shift: false });
        }
        self.kv.grow(&mut seq.table, tokens.len())?;
        self.last_logits = None;
        let done = self.run_all(seq, tokens, from, &mut probe, each);
        match done {
            Ok(()) => {
                seq.tokens.extend_from_slice(tokens.tokens());
                tokens.append_marks(&mut seq.marks);
            }
            Err(_) => self.kv.truncate(&mut seq.table, old),
        }
        done
    }

    fn run_all(
        &mut self,
        seq: &Sequence,
        tokens: PromptView<'_>,
        from: usize,
        probe: &mut Option<&mut dyn LayerProbe>,
        each: &mut EachLogits<'_>,
    ) -> Result<(), RuntimeError> {
        let mut done = 0;
        while done < tokens.len() {
            let chunk = tokens.part(done..tokens.len().min(done + self.n_ubatch));
            let wanted = from.saturating_sub(done).min(chunk.len());
            self.run_ubatch(&seq.table, seq.tokens.len() + done, chunk, wanted, probe)?;
            self.run_output(chunk.len() - wanted, &mut |row, logits| each(done + wanted + row, logits))?;
            done += chunk.len();
        }
        Ok(())
    }

    /// Runs one micro-batch through the layers. Afterwards the residual stream begins with the wanted rows.
    fn run_ubatch(
        &mut self,
        table: &BlockTable,
        first: usize,
        tokens: PromptView<'_>,
        wanted: usize,
        probe: &mut Option<&mut dyn LayerProbe>,
    ) -> Result<(), RuntimeError> {
        let model = &*self.model;
        let (config, graph) = (model.config(), model.graph());
        let (n, n_embd) = (tokens.len(), config.n_embd);
        let pool = if n == 1 { &self.pool } else { &self.pool_batch };
        let weights = model.weights();
        let engine = Engine { pool, kernels: self.kernels, precision: self.precision, weights, int8: None };
        let x = &mut self.ws.x[..n * n_embd];
        engine.look_up(&graph.token_embd, tokens.tokens(), x)?;
        tokens.overlay(x, n_embd);
        let mut pass = Pass {
            config,
            engine,
            ws: &mut self.ws,
            kv: &mut self.kv,
            table,
            rope: &self.rope,
            first,
            n,
            wanted,
            keep_all: probe.is_some(),
        };
        pass.prepare_rope();
        for il in 0..config.n_layer {
            if self.interrupt.load(Ordering::Relaxed) {
                return Err(RuntimeError::Interrupted);
            }
            graph.layers.layer(il, &mut pass)?;
            if let Some(probe) = probe {
                probe.layer(il, first, &pass.ws.x[..pass.n * n_embd]);
            }
        }
        let skipped = pass.n - (n - wanted);
        pass.ws.x.copy_within(skipped * n_embd..pass.n * n_embd, 0);
        Ok(())
    }

    /// Final norm and output matrix for the first `n` rows of the residual stream, some rows at a time.
    fn run_output(&mut self, n: usize, each: &mut EachLogits<'_>) -> Result<(), RuntimeError> {
        let model = &*self.model;
        let (n_embd, n_vocab, ws) = (model.config().n_embd, model.config().n_vocab, &mut self.ws);
        let at_once = ws.logits.len() / n_vocab;
        for start in (0..n).step_by(at_once) {
            let rows = (n - start).min(at_once);
            let pool = if rows == 1 { &self.pool } else { &self.pool_batch };
            let weights = model.weights();
            let engine = Engine { pool, kernels: self.kernels, precision: self.precision, weights, int8: None };
            let (x, h) = (&ws.x[start * n_embd..(start + rows) * n_embd], &mut ws.h[..rows * n_embd]);
            engine.norm(&model.graph().output_norm, x, h)?;
            engine.prepare(&mut ws.acts, h, None, &[&model.graph().output])?;
            let logits = &mut ws.logits[..rows * n_vocab];
            engine.multiply(&ws.acts, &mut [(&model.graph().output, &mut *logits)])?;
            for (row, logits) in logits.chunks_exact(n_vocab).enumerate() {
                each(start + row, logits)?;
            }
            self.last_logits = Some(rows - 1);
        }
        Ok(())
    }
}
