//! A model with its working memory: cache and buffers. Runs tokens, gives logits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ocelli_kernels::{HalfWeights, JoinTimes, Kernels, Pool, Precision};
use ocelli_quant::GgmlType;

use crate::batch::Batch;
use crate::kv::{KvPool, KvShape, Sequence};
use crate::layers::{LayerProbe, Pass, Workspace};
use crate::nn::Engine;
use crate::prompt::PromptView;
use crate::rope::Rope;
use crate::{Exec, Model, RuntimeError, memory, threads};

/// How a context is set up. `None` and 0 mean: choose.
#[derive(Debug, Clone)]
pub struct ContextOptions {
    /// Positions of one conversation, at most (`-c`); 0: as many as the model was trained for.
    pub n_ctx: usize,
    /// Positions of all conversations together; at least as many as one may have.
    pub n_positions: usize,
    /// Conversations that are computed together, at most.
    pub n_parallel: usize,
    /// Upper bound of `n_ubatch` (`-b`).
    pub n_batch: usize,
    /// Tokens computed together (`-ub`).
    pub n_ubatch: usize,
    /// Threads for one token (`-t`), of those there are; 0: physical cores.
    pub n_threads: usize,
    /// Threads for several tokens (`-tb`), of those there are; 0: as for one.
    pub n_threads_batch: usize,
    /// Format of the keys (`-ctk`).
    pub type_k: GgmlType,
    /// Format of the values (`-ctv`).
    pub type_v: GgmlType,
    /// How products are computed.
    pub precision: Precision,
    /// How products with F16 and BF16 weights are computed in the mode `Fast`. With [`HalfWeights::Fastest`] the last bits of such
    /// a model's logits depend on how many rows are computed together; with the other choices, and for all other weights,
    /// they do not.
    pub half_weights: HalfWeights,
}

impl ContextOptions {
    /// Threads for one token and for several, 0 resolved.
    #[must_use]
    pub fn threads(&self) -> (usize, usize) {
        let one = threads::or_physical_cores(self.n_threads);
        (one, if self.n_threads_batch == 0 { one } else { self.n_threads_batch })
    }
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self {
            n_ctx: 0,
            n_positions: 0,
            n_parallel: 1,
            n_batch: 2048,
            n_ubatch: 512,
            n_threads: 0,
            n_threads_batch: 0,
            type_k: GgmlType::F16,
            type_v: GgmlType::F16,
            precision: Precision::Fast,
            half_weights: HalfWeights::Fastest,
        }
    }
}

/// Is given the index and the logits of every token whose logits are wanted.
pub type EachLogits<'e> = dyn FnMut(usize, &[f32]) -> Result<(), RuntimeError> + 'e;

/// A model with its working memory: cache and buffers. Runs tokens, gives logits.
#[derive(Debug)]
pub struct Context {
    model: Arc<Model>,
    exec: Arc<Exec>,
    precision: Precision,
    half_weights: HalfWeights,
    /// For one token and for several: the threads of `exec`, some or all of them.
    pool: Pool,
    pool_batch: Pool,
    rope: Rope,
    pub(crate) kv: KvPool,
    ws: Workspace,
    n_ctx: usize,
    n_ubatch: usize,
    n_parallel: usize,
    /// Rows of logits that the last pass left in the workspace.
    n_logits: usize,
    /// Reused by [`Context::decode`] and the like.
    batch: Batch,
    interrupt: Arc<AtomicBool>,
}

impl Context {
    /// Sets up a context for `model` that computes with `exec`.
    ///
    /// # Errors
    /// When an option makes no sense or memory is short.
    pub fn new(model: Arc<Model>, exec: Arc<Exec>, options: &ContextOptions) -> Result<Self, RuntimeError> {
        let config = model.config();
        let n_ctx = if options.n_ctx == 0 { config.n_ctx_train } else { options.n_ctx };
        let at_least_one = |option, value| {
            let problem = "must be at least 1".to_owned();
            if value == 0 { Err(RuntimeError::Option { option, problem }) } else { Ok(value) }
        };
        let n_batch = at_least_one("-b/--batch-size", options.n_batch)?.min(n_ctx);
        // A pass has at least room for a row of every conversation.
        let n_parallel = at_least_one("-np/--parallel", options.n_parallel)?;
        let n_ubatch = at_least_one("-ub/--ubatch-size", options.n_ubatch)?.min(n_batch).max(n_parallel);
        // One conversation alone always fits.
        let n_positions = options.n_positions.max(n_ctx);
        let rope = Rope::new(&config.rope, model.rope_factors(), n_ctx)?;
        let shape = KvShape::of(config, n_positions, options.type_k, options.type_v);
        // Together, for pages are only taken when they are first written: each alone would find the other's still free.
        let kv_bytes = shape.bytes()?.and_then(|(k, v)| k.checked_add(v));
        let all = kv_bytes.and_then(|kv| kv.checked_add(Workspace::bytes(config, n_ubatch, n_parallel)?));
        memory::check(
            format!("the KV cache of {n_positions} positions with the workspace for {n_ubatch} tokens"),
            all,
        )?;
        let kv = KvPool::new(shape, exec.kernels(), options.precision, config.n_head)?;
        let ws = Workspace::new(config, model.weights(), options.precision, n_ubatch, n_parallel, n_ctx)?;
        let (one, batch) = options.threads();
        Ok(Self {
            precision: options.precision,
            half_weights: options.half_weights,
            pool: exec.limited(one),
            pool_batch: exec.limited(batch),
            exec,
            rope,
            kv,
            ws,
            n_ctx,
            n_ubatch,
            n_parallel,
            n_logits: 0,
            batch: Batch::new(),
            interrupt: Arc::default(),
            model,
        })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What the context computes with.
    #[must_use]
    pub fn exec(&self) -> &Arc<Exec> {
        &self.exec
    }

    /// Positions a sequence may have.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Conversations computed together, at most.
    #[must_use]
    pub fn n_parallel(&self) -> usize {
        self.n_parallel
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
        self.exec.kernels()
    }

    /// Name of the instruction set in use.
    #[must_use]
    pub fn isa(&self) -> &'static str {
        self.kernels().name()
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

    /// The pool of keys and values.
    #[must_use]
    pub fn kv(&self) -> &KvPool {
        &self.kv
    }

    pub(crate) fn kv_mut(&mut self) -> &mut KvPool {
        &mut self.kv
    }

    /// An empty sequence that takes no part in the prefix cache.
    #[must_use]
    pub fn new_sequence(&self) -> Sequence {
        self.kv.new_sequence(self.n_ctx, false)
    }

    /// A sequence that begins with as much of `prompt` as the prefix cache knows, but for its last position, and whose own
    /// positions will be found by others.
    #[must_use]
    pub fn find_sequence<'p>(&self, prompt: impl Into<PromptView<'p>>) -> Sequence {
        self.kv.find(prompt.into(), self.n_ctx)
    }

    /// A second sequence that shares the first `len` positions of `seq`; nothing is computed or copied.
    #[must_use]
    pub fn fork(&self, seq: &Sequence, len: usize) -> Sequence {
        self.kv.fork(seq, len, self.n_ctx)
    }

    /// Adds `tokens` to the end of `seq` and to `batch`, with the logits of those from index `wanted` on. After
    /// [`Context::forward`] the caller commits or reverts the sequence.
    ///
    /// # Errors
    /// When a token is not in the vocabulary, the sequence would be longer than a context, or the pool is full; nothing has
    /// changed then.
    pub fn append<'p>(
        &mut self,
        batch: &mut Batch,
        seq: &mut Sequence,
        tokens: impl Into<PromptView<'p>>,
        wanted: usize,
    ) -> Result<(), RuntimeError> {
        let tokens = tokens.into();
        self.check(seq, tokens)?;
        self.kv.append(seq, tokens)?;
        batch.push(seq, tokens, wanted);
        Ok(())
    }

    /// Runs all rows of `batch` through the model and computes the logits wanted: see [`Context::logits_of`].
    ///
    /// # Errors
    /// [`RuntimeError::Interrupted`] when `stop` says so between two layers.
    pub fn forward(&mut self, batch: &Batch, stop: &dyn Fn() -> bool) -> Result<(), RuntimeError> {
        self.layers(batch, stop, None)?;
        self.output(batch.n_wanted(), &mut |_, _| Ok(()))
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
    /// first call and where it failed.
    #[must_use]
    pub fn logits(&self) -> Option<&[f32]> {
        self.logits_of(self.n_logits.checked_sub(1)?)
    }

    /// The logits of wanted row `row` of the last [`Context::forward`]; `None` where there is no such row. Of more rows than
    /// conversations are computed together, only the last ones are there.
    #[must_use]
    pub fn logits_of(&self, row: usize) -> Option<&[f32]> {
        let n_vocab = self.model.config().n_vocab;
        (row < self.n_logits).then(|| &self.ws.logits[row * n_vocab..(row + 1) * n_vocab])
    }

    fn check(&self, seq: &Sequence, tokens: PromptView<'_>) -> Result<(), RuntimeError> {
        let (n_vocab, n_embd) = (self.model.config().n_vocab, self.model.config().n_embd);
        if let Some(found) = tokens.foreign_width(n_embd) {
            return Err(RuntimeError::ImageWidth { found, n_embd });
        }
        if let Some(id) = tokens.tokens().iter().copied().find(|id| *id as usize >= n_vocab) {
            return Err(RuntimeError::Token { id, n_vocab });
        }
        let wanted = seq.end() + tokens.len();
        if wanted > self.n_ctx {
            return Err(RuntimeError::ContextFull { wanted, n_ctx: self.n_ctx });
        }
        Ok(())
    }

    fn run(
        &mut self,
        seq: &mut Sequence,
        tokens: PromptView<'_>,
        from: usize,
        mut probe: Option<&mut dyn LayerProbe>,
        each: &mut EachLogits<'_>,
    ) -> Result<(), RuntimeError> {
        self.check(seq, tokens)?;
        let before = seq.len();
        let mut batch = std::mem::take(&mut self.batch);
        let done = self.run_all(&mut batch, seq, tokens, from, &mut probe, each);
        self.batch = batch;
        if done.is_err() {
            seq.revert();
            seq.truncate(before);
        }
        done
    }

    fn run_all(
        &mut self,
        batch: &mut Batch,
        seq: &mut Sequence,
        tokens: PromptView<'_>,
        from: usize,
        probe: &mut Option<&mut dyn LayerProbe>,
        each: &mut EachLogits<'_>,
    ) -> Result<(), RuntimeError> {
        let interrupt = Arc::clone(&self.interrupt);
        let mut done = 0;
        while done < tokens.len() {
            let chunk = tokens.part(done..tokens.len().min(done + self.n_ubatch));
            let wanted = from.saturating_sub(done).min(chunk.len());
            batch.clear();
            self.append(batch, seq, chunk, wanted)?;
            let probe = probe.as_mut().map(|p| &mut **p as &mut dyn LayerProbe);
            self.layers(batch, &|| interrupt.load(Ordering::Relaxed), probe)?;
            self.output(batch.n_wanted(), &mut |row, logits| each(done + wanted + row, logits))?;
            seq.commit();
            done += chunk.len();
        }
        Ok(())
    }

    /// Runs a batch through the layers. Afterwards the residual stream begins with the wanted rows.
    fn layers(
        &mut self,
        batch: &Batch,
        stop: &dyn Fn() -> bool,
        mut probe: Option<&mut dyn LayerProbe>,
    ) -> Result<(), RuntimeError> {
        self.n_logits = 0;
        let model = &*self.model;
        let (config, graph) = (model.config(), model.graph());
        let (n, n_embd) = (batch.len(), config.n_embd);
        let pool = if n == 1 { &self.pool } else { &self.pool_batch };
        let engine = Engine {
            pool,
            kernels: self.exec.kernels(),
            precision: self.precision,
            weights: model.weights(),
            half_weights: self.half_weights,
            int8: None,
        };
        let x = &mut self.ws.x[..n * n_embd];
        engine.look_up(&graph.token_embd, batch.ids(), x)?;
        batch.overlay(x, n_embd);
        let mut pass = Pass {
            config,
            engine,
            ws: &mut self.ws,
            kv: &mut self.kv,
            rope: &self.rope,
            batch,
            n,
            keep_all: probe.is_some(),
            dropped: false,
        };
        pass.prepare_rope();
        for il in 0..config.n_layer {
            if stop() {
                return Err(RuntimeError::Interrupted);
            }
            graph.layers.layer(il, &mut pass)?;
            if let Some(probe) = &mut probe {
                // Probes see one sequence at a time.
                let first = batch.positions().first().map_or(0, |at| *at as usize);
                probe.layer(il, first, &pass.ws.x[..pass.n * n_embd]);
            }
        }
        if !pass.dropped {
            batch.gather(&mut pass.ws.x, n_embd);
        }
        Ok(())
    }

    /// Final norm and output matrix for the first `n` rows of the residual stream, some rows at a time.
    fn output(&mut self, n: usize, each: &mut EachLogits<'_>) -> Result<(), RuntimeError> {
        let model = &*self.model;
        let (n_embd, n_vocab, ws) = (model.config().n_embd, model.config().n_vocab, &mut self.ws);
        let at_once = ws.logits.len() / n_vocab;
        for start in (0..n).step_by(at_once) {
            let rows = (n - start).min(at_once);
            let pool = if rows == 1 { &self.pool } else { &self.pool_batch };
            let weights = model.weights();
            let engine = Engine {
                pool,
                kernels: self.exec.kernels(),
                precision: self.precision,
                weights,
                half_weights: self.half_weights,
                int8: None,
            };
            let (x, h) = (&ws.x[start * n_embd..(start + rows) * n_embd], &mut ws.h[..rows * n_embd]);
            engine.norm(&model.graph().output_norm, x, h)?;
            engine.prepare(&mut ws.acts, h, None, &[&model.graph().output])?;
            let logits = &mut ws.logits[..rows * n_vocab];
            engine.multiply(&ws.acts, &mut [(&model.graph().output, &mut *logits)])?;
            for (row, logits) in logits.chunks_exact(n_vocab).enumerate() {
                each(start + row, logits)?;
            }
            self.n_logits = rows;
        }
        Ok(())
    }
}
