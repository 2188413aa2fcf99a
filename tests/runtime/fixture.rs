//! A small random model, made once per test run, and altered copies of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::mixture::FileType;
use ocelli_convert::progress::Silent;
use ocelli_convert::synth::{Preset, SynthOptions, write_checkpoint};
use ocelli_convert::{ConvertOptions, convert};
use ocelli_engine::{Answer, Assets, Choice, Prefill, Session};
use ocelli_gguf::{Gguf, GgufWriter, MetaValue, TensorType};
use ocelli_runtime::{Context, ContextOptions, Exec, Kernels, LoadOptions, Model, Precision, Prompt, RuntimeError};
use ocelli_text::template::Worker;
use tempfile::TempDir;

/// Takes the most likely token, always.
#[derive(Debug, Default)]
pub(crate) struct Greedy(pub(crate) Vec<u32>);

impl Answer for Greedy {
    fn choose(&mut self, logits: &[f32]) -> Result<Choice, RuntimeError> {
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        Ok(Choice::Token(best as u32))
    }

    fn token(&mut self, id: u32) -> Choice {
        self.0.push(id);
        Choice::Token(id)
    }
}

/// Computes `prompt` in `session`, and no token behind it.
pub(crate) fn read(session: &mut Session, prompt: impl Into<Prompt>) -> Prefill {
    session.answer(&prompt.into(), 0, &mut Greedy::default()).unwrap().prefill
}

struct Made {
    dir: TempDir,
    files: HashMap<FileType, PathBuf>,
}

impl Made {
    fn new(preset: Preset) -> Mutex<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = SynthOptions { preset, seed: 7, dtype: SourceType::Bf16, shards: None, overwrite: false };
        write_checkpoint(&dir.path().join(preset.name()), &options, &Silent).unwrap();
        Mutex::new(Self { dir, files: HashMap::new() })
    }

    fn file(&mut self, preset: Preset, file_type: FileType) -> PathBuf {
        if let Some(path) = self.files.get(&file_type) {
            return path.clone();
        }
        let outdir = self.dir.path().to_owned();
        let options = ConvertOptions { file_type, outdir, overwrite: true, ..ConvertOptions::default() };
        let report = convert(&self.dir.path().join(preset.name()), &options, &Silent).unwrap();
        let path = report.files[0].path.clone();
        self.files.insert(file_type, path.clone());
        path
    }
}

static MINI: LazyLock<Mutex<Made>> = LazyLock::new(|| Made::new(Preset::Mini));
static SMALL: LazyLock<Mutex<Made>> = LazyLock::new(|| Made::new(Preset::Small));

/// The small model, stored as `file_type`.
pub(crate) fn mini(file_type: FileType) -> PathBuf {
    MINI.lock().unwrap().file(Preset::Mini, file_type)
}

/// A larger one, with 16 query heads for its KV head.
pub(crate) fn grouped(file_type: FileType) -> PathBuf {
    SMALL.lock().unwrap().file(Preset::Small, file_type)
}

/// A tensor on its way into an altered copy.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) ty: TensorType,
    pub(crate) bytes: Vec<u8>,
}

/// Everything in a file.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) pairs: Vec<(String, MetaValue)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Parts {
    pub(crate) fn of(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        let tensors = gguf
            .tensors()
            .iter()
            .map(|t| Tensor {
                name: t.name.to_owned(),
                dims: t.dims.to_vec(),
                ty: t.ty,
                bytes: gguf.data(t).unwrap().to_vec(),
            })
            .collect();
        Self { pairs: gguf.metadata().to_owned_pairs(), tensors }
    }

    /// Sets a key, or removes it.
    pub(crate) fn set(&mut self, key: &str, value: Option<MetaValue>) -> &mut Self {
        let old = self.pairs.iter().position(|(k, _)| k == key);
        match (old, value) {
            (Some(i), Some(value)) => self.pairs[i].1 = value,
            (Some(i), None) => drop(self.pairs.remove(i)),
            (None, Some(value)) => self.pairs.push((key.to_owned(), value)),
            (None, None) => {}
        }
        self
    }

    pub(crate) fn write(&self, path: &Path) {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.pairs {
            writer.kv(key.as_str(), value.clone()).unwrap();
        }
        for t in &self.tensors {
            writer.tensor(t.name.as_str(), &t.dims, t.ty).unwrap();
        }
        let mut sink = writer.start(Vec::new()).unwrap();
        for t in &self.tensors {
            sink.write_tensor(&t.name, &t.bytes).unwrap();
        }
        std::fs::write(path, sink.finish().unwrap()).unwrap();
    }
}

/// The program under test as what renders the templates of model files.
pub(crate) fn worker() -> Worker {
    Worker::at(env!("CARGO_BIN_EXE_ocelli"))
}

/// Loads `path` with its vocabulary, template and sampling.
pub(crate) fn load(path: &Path) -> (Arc<Model>, Assets) {
    let (model, assets) =
        Model::load(path, &LoadOptions::default(), |meta| Assets::read(meta, None, Some(&worker()))).unwrap();
    (Arc::new(model), assets)
}

/// A short context with one thread.
pub(crate) fn options(n_ctx: usize, precision: Precision) -> ContextOptions {
    ContextOptions { n_ctx, n_ubatch: 32, n_threads: 1, precision, ..ContextOptions::default() }
}

/// What a context with `options` computes with, by the best kernels.
pub(crate) fn exec(options: &ContextOptions) -> Arc<Exec> {
    Arc::new(Exec::for_context(Kernels::best(), options))
}

/// A context of its own threads.
pub(crate) fn new_context(model: Arc<Model>, options: &ContextOptions) -> Result<Context, RuntimeError> {
    Context::new(model, exec(options), options)
}

pub(crate) fn context(file_type: FileType, n_ctx: usize, precision: Precision) -> Context {
    new_context(load(&mini(file_type)).0, &options(n_ctx, precision)).unwrap()
}

/// Some ids of the vocabulary.
pub(crate) fn some_ids(n: usize, salt: usize) -> Vec<u32> {
    (0..n).map(|i| 3 + ((i * 7919 + salt * 104_729 + i * i * 31) % 1900) as u32).collect()
}

/// Largest difference.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
