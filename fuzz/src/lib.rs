//! What several fuzz targets need: choices made from bytes, and a small model to read its files with.
#![forbid(unsafe_code)]

/// Bytes of a fuzzer, taken from the front; behind their end come zeros.
#[derive(Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// Choices made from `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all bytes were taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number of four bytes.
    pub fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// One of `items`, which are at most 256.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        &items[usize::from(self.byte()) % items.len()]
    }

    /// The next bytes, at most `n`.
    pub fn some(&mut self, n: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        first
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.some(usize::MAX)
    }
}

/// Lets panics of third-party picture decoders pass: they happen on threads that are there for it, and are errors of the
/// picture. Panics elsewhere still end the fuzzer. For the `init` of a target, behind the fuzzer's own hook.
#[cfg(feature = "runtime")]
pub fn let_decoders_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(ocelli_image::DECODE_THREAD) {
            hook(panic);
        }
    }));
}

#[cfg(feature = "runtime")]
mod mini {
    use std::sync::{Arc, LazyLock};

    use ocelli_convert::checkpoint::SourceType;
    use ocelli_convert::progress::Silent;
    use ocelli_convert::synth::{Preset, SynthOptions, write_checkpoint};
    use ocelli_convert::{ConvertOptions, convert};
    use ocelli_engine::{Assets, Chat, Session};
    use ocelli_image::Profile;
    use ocelli_runtime::{Context, ContextOptions, Exec, Kernels, LoadOptions, Model};

    fn load() -> (Model, Assets) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let synth =
            SynthOptions { preset: Preset::Mini, seed: 7, dtype: SourceType::Bf16, shards: None, overwrite: false };
        write_checkpoint(&dir.path().join("mini"), &synth, &Silent).expect("a checkpoint can be made");
        let options = ConvertOptions { outdir: dir.path().to_owned(), ..ConvertOptions::default() };
        let report = convert(&dir.path().join("mini"), &options, &Silent).expect("it can be converted");
        // The file is mapped, so its name may go.
        let path = &report.files[0].path;
        Model::load(path, &LoadOptions::default(), |meta| Assets::read(meta, Some("chatml"), None))
            .expect("a sound model")
    }

    /// What comes with the small random model: its tokenizer and settings. The chat format is ChatML.
    #[must_use]
    pub fn assets() -> &'static Assets {
        static ASSETS: LazyLock<Assets> = LazyLock::new(|| load().1);
        &ASSETS
    }

    /// An empty conversation with the same model, whenever it is asked for, and a context of 64 tokens.
    ///
    /// # Panics
    /// When the model cannot be made.
    #[must_use]
    pub fn chat() -> Chat {
        let (model, assets) = load();
        let options = ContextOptions { n_ctx: 64, n_threads: 1, ..ContextOptions::default() };
        let exec = Arc::new(Exec::for_context(Kernels::best(), &options));
        let context = Context::new(Arc::new(model), exec, &options).expect("a context of 64 tokens");
        Chat::new(Session::new(context), assets, false, Profile::Reference)
    }
}
#[cfg(feature = "runtime")]
pub use mini::{assets, chat};
