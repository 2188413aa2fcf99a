//! Pictures and videos on their way into a conversation: read, sliced, encoded in one batch, remembered.
//!
//! ```text
//! file ──digest──> key ──> rows in memory? ──> rows on disk? ──> decode ──> slice ──┐
//!                                                                        all slices of all pictures
//! Attachment <── rows <──────────────────────────────────────────────────── encode ─┘
//! ```
//!
//! The key is a digest of the file's bytes and of everything else that decides the rows (vision file, slicing, positions,
//! arithmetic), so a picture that was shown before is recognised without decoding it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::image_cache::{Cached, ImageCache};
use crate::prompt::{Attachment, ImageEmbedding};
use crate::vision::{Positions, VisionEncoder, VisionModel, VisionOptions, VisionProbe};
use crate::{Exec, Precision, RuntimeError};
use ocelli_image::resize::PassOrder;
use ocelli_image::video::{VideoOptions, each_frame};
use ocelli_image::{
    DecodeNote, DecodeOptions, Grey16, Orientation, Profile, Rgb8, SliceOptions, decode, decode_with_notes,
    may_be_noted, read_file, slice,
};

/// Rows kept in memory, in bytes; a sliced picture of the full-size model has 6.5 MB.
const MEMORY_BYTES: usize = 256 << 20;

/// How pictures are taken in.
#[derive(Debug, Clone)]
pub struct MediaOptions {
    /// Whose rules for slices, positions and layout.
    pub profile: Profile,
    /// Tiles a picture is cut into, at most.
    pub max_slice_nums: usize,
    /// Which version of Pillow the reference rules resize like.
    pub pass_order: PassOrder,
    /// How files are decoded.
    pub decode: DecodeOptions,
    /// How videos are sampled.
    pub video: VideoOptions,
    /// Tiles a frame of a video is cut into, at most.
    pub video_max_slice_nums: usize,
    /// Threads of the encoder, of those there are; 0: physical cores.
    pub n_threads: usize,
    /// How products are computed.
    pub precision: Precision,
    /// Where rows are kept on disk.
    pub cache: Option<ImageCache>,
}

impl MediaOptions {
    /// What `profile` does by itself. llama.cpp turns no picture as its camera was held, reads 16-bit grey as one would
    /// want, and slices the frames of a video like any picture.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        let like_llama_cpp = profile == Profile::LlamaCpp;
        Self {
            profile,
            max_slice_nums: 9,
            pass_order: PassOrder::default(),
            decode: DecodeOptions {
                orientation: if like_llama_cpp { Orientation::Ignore } else { Orientation::Apply },
                grey16: if like_llama_cpp { Grey16::HighByte } else { Grey16::Clip },
                ..DecodeOptions::default()
            },
            video: VideoOptions::default(),
            video_max_slice_nums: if like_llama_cpp { 9 } else { 1 },
            n_threads: 0,
            precision: Precision::Fast,
            cache: None,
        }
    }
}

/// Where a picture's rows came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// They were computed; the time is the picture's share of its batch.
    Encoded(Duration),
    /// They were in memory.
    Memory,
    /// They were on disk.
    Disk,
}

/// A picture that is ready to be shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its rows.
    pub image: Arc<ImageEmbedding>,
    /// Where they came from.
    pub origin: Origin,
}

impl Shown {
    /// The picture with a number that text can refer to.
    #[must_use]
    pub fn numbered(&self) -> Attachment {
        Attachment { image: Arc::clone(&self.image), numbered: true }
    }

    /// The picture as a frame of a video.
    #[must_use]
    pub fn frame(&self) -> Attachment {
        Attachment { image: Arc::clone(&self.image), numbered: false }
    }
}

/// Sees how far reading and encoding are.
pub trait MediaWatch {
    /// `done` frames of a video have been read, of `all` where that is known.
    fn frames(&mut self, done: usize, all: Option<usize>) {
        let _ = (done, all);
    }

    /// `done` steps of `all` for `slices` slices have been computed.
    fn encoding(&mut self, slices: usize, done: usize, all: usize) {
        let _ = (slices, done, all);
    }
}

impl MediaWatch for () {}

/// Is shown the slices of pictures and what the tower makes of them.
pub trait MediaProbe: VisionProbe {
    /// The pixels of one slice, in prompt order.
    fn slice(&mut self, pixels: &Rgb8);
}

/// Takes pictures in with one vision model.
#[derive(Debug)]
pub struct Media {
    model: Arc<VisionModel>,
    vision: VisionOptions,
    /// Made with the first picture that has to be encoded: what is remembered costs nothing.
    encoder: Option<VisionEncoder>,
    options: MediaOptions,
    /// Name of the kernels in use.
    exec: Arc<Exec>,
    /// Digest of everything but the picture that decides its rows; made with the first picture, for it reads the vision file.
    settings: OnceLock<[u8; 32]>,
    memory: HashMap<[u8; 32], Arc<ImageEmbedding>>,
    warnings: Vec<String>,
}

/// One picture of a batch.
enum Entry {
    Ready(Shown),
    /// Index of the first picture of the batch with the same key.
    Same(usize),
    Sliced(Pending),
}

struct Pending {
    key: [u8; 32],
    size: (usize, usize),
    grid: Option<(usize, usize)>,
    slices: Vec<Rgb8>,
}

impl Media {
    /// For pictures seen through `model`, computed with `exec`. The encoder starts with the first one that is not remembered.
    ///
    /// # Errors
    /// When an option is out of range.
    pub fn new(model: Arc<VisionModel>, exec: Arc<Exec>, options: MediaOptions) -> Result<Self, RuntimeError> {
        let positions = match options.profile {
            Profile::Reference => Positions::Reference,
            Profile::LlamaCpp => Positions::LlamaCpp,
        };
        let vision = VisionOptions { n_threads: options.n_threads, precision: options.precision, positions };
        let media = Self {
            model,
            vision,
            encoder: None,
            exec,
            settings: OnceLock::new(),
            options,
            memory: HashMap::new(),
            warnings: Vec::new(),
        };
        // Options are refused now, not with the first picture.
        for nums in [media.options.max_slice_nums, media.options.video_max_slice_nums] {
            ocelli_image::plan(1, 1, &media.slicing(nums))?;
        }
        Ok(media)
    }

    /// The vision model.
    #[must_use]
    pub fn model(&self) -> &Arc<VisionModel> {
        &self.model
    }

    /// The instruction set of the encoder; `None` while no picture had to be encoded.
    #[must_use]
    pub fn isa(&self) -> Option<&'static str> {
        self.encoder.as_ref().map(VisionEncoder::isa)
    }

    /// How pictures are taken in.
    #[must_use]
    pub fn options(&self) -> &MediaOptions {
        &self.options
    }

    /// What a user should know about the last batch, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Takes in the pictures of the files `paths`, in order; all of them are encoded in one batch of work.
    ///
    /// # Errors
    /// When a file cannot be read, is no picture or beyond the limits; nothing is remembered of the batch then.
    pub fn images(
        &mut self,
        paths: &[impl AsRef<Path>],
        watch: &mut dyn MediaWatch,
        interrupt: &AtomicBool,
    ) -> Result<Vec<Shown>, RuntimeError> {
        self.files(paths, self.options.max_slice_nums, watch, interrupt)
    }

    /// Takes in the pictures of the files `paths` as the frames of a video: with as many tiles as a frame may have.
    ///
    /// # Errors
    /// As [`Media::images`].
    pub fn frames(
        &mut self,
        paths: &[impl AsRef<Path>],
        watch: &mut dyn MediaWatch,
        interrupt: &AtomicBool,
    ) -> Result<Vec<Shown>, RuntimeError> {
        self.files(paths, self.options.video_max_slice_nums, watch, interrupt)
    }

    fn files(
        &mut self,
        paths: &[impl AsRef<Path>],
        nums: usize,
        watch: &mut dyn MediaWatch,
        interrupt: &AtomicBool,
    ) -> Result<Vec<Shown>, RuntimeError> {
        let mut entries = Vec::new();
        self.warnings.clear();
        for path in paths {
            self.take_file(path.as_ref(), nums, &mut entries)?;
        }
        self.encode(entries, watch, None, interrupt)
    }

    /// Takes in a picture that is in memory, as in its file.
    ///
    /// # Errors
    /// As [`Media::images`].
    pub fn image_bytes(
        &mut self,
        bytes: &[u8],
        watch: &mut dyn MediaWatch,
        interrupt: &AtomicBool,
    ) -> Result<Shown, RuntimeError> {
        let mut entries = Vec::new();
        self.warnings.clear();
        self.take_bytes(bytes, None, self.options.max_slice_nums, &mut entries)?;
        let mut shown = self.encode(entries, watch, None, interrupt)?;
        shown.pop().ok_or(RuntimeError::LostImage { index: 0 })
    }

    /// As [`Media::images`], showing every stage to `probe`; nothing is taken from memory or disk.
    ///
    /// # Errors
    /// As [`Media::images`].
    pub fn probe(
        &mut self,
        paths: &[impl AsRef<Path>],
        probe: &mut dyn MediaProbe,
        interrupt: &AtomicBool,
    ) -> Result<Vec<Shown>, RuntimeError> {
        let mut entries = Vec::new();
        self.warnings.clear();
        for path in paths {
            let bytes = read_file(path.as_ref(), &self.options.decode.limits)?;
            let decoded = decode_with_notes(&bytes, &self.options.decode);
            let (picture, note) = decoded.map_err(|e| e.in_file(path.as_ref()))?;
            self.warn(Some(path.as_ref()), note);
            let pending =
                self.cut(self.key(&bytes, self.options.max_slice_nums)?, &picture, self.options.max_slice_nums)?;
            pending.slices.iter().for_each(|pixels| probe.slice(pixels));
            entries.push(Entry::Sliced(pending));
        }
        self.encode(entries, &mut (), Some(probe), interrupt)
    }

    /// Takes in the frames of a video.
    ///
    /// # Errors
    /// When the video cannot be read, or as [`Media::images`].
    pub fn video(
        &mut self,
        path: &Path,
        watch: &mut dyn MediaWatch,
        interrupt: &AtomicBool,
    ) -> Result<Vec<Shown>, RuntimeError> {
        self.warnings.clear();
        let mut entries = Vec::new();
        let nums = self.options.video_max_slice_nums;
        let video = self.options.video.clone();
        let (mut failed, mut noted) = (None, false);
        let read = each_frame(path, &video, &mut |done, all| watch.frames(done, all), interrupt, &mut |frame| {
            // One frame's note stands for all: they come from one camera.
            if frame.note.is_some() && !std::mem::replace(&mut noted, true) {
                self.warn(Some(path), frame.note);
            }
            let mut digest = Sha256::new();
            digest.update(format!("{}x{}", frame.image.width(), frame.image.height()));
            digest.update(frame.image.data());
            let taken = self
                .key(&digest.finalize(), nums)
                .and_then(|key| self.take(key, &mut entries, |media| media.cut(key, &frame.image, nums)));
            if let Err(error) = taken {
                failed = Some(error);
                return Err(ocelli_image::ImageError::Interrupted);
            }
            Ok(())
        });
        match (failed, read) {
            (Some(error), _) => return Err(error),
            (None, Err(ocelli_image::ImageError::Interrupted)) => return Err(RuntimeError::Interrupted),
            (None, read) => read?,
        }
        self.encode(entries, watch, None, interrupt)
    }

    fn take_file(&mut self, path: &Path, nums: usize, entries: &mut Vec<Entry>) -> Result<(), RuntimeError> {
        let bytes = read_file(path, &self.options.decode.limits)?;
        self.take_bytes(&bytes, Some(path), nums, entries).map_err(|error| match error {
            RuntimeError::Image(image) => image.in_file(path).into(),
            other => other,
        })
    }

    fn take_bytes(
        &mut self,
        bytes: &[u8],
        path: Option<&Path>,
        nums: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), RuntimeError> {
        let key = self.key(bytes, nums)?;
        // Such a picture is decoded even if its rows are remembered: whoever sees it anew is to know what was done to it.
        let noted = if may_be_noted(bytes, &self.options.decode) {
            let (picture, note) = decode_with_notes(bytes, &self.options.decode)?;
            self.warn(path, note);
            Some(picture)
        } else {
            None
        };
        self.take(key, entries, |media| match noted {
            Some(picture) => media.cut(key, &picture, nums),
            None => media.cut(key, &decode(bytes, &media.options.decode)?, nums),
        })
    }

    /// Remembers what a user should know about a picture, once for each.
    fn warn(&mut self, path: Option<&Path>, note: Option<DecodeNote>) {
        let Some(note) = note else { return };
        let warning = path.map_or_else(|| note.to_string(), |path| format!("{}: {note}", path.display()));
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Adds the picture with that key to a batch; `cut` makes its slices if they are needed.
    fn take(
        &mut self,
        key: [u8; 32],
        entries: &mut Vec<Entry>,
        cut: impl FnOnce(&Self) -> Result<Pending, RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let twin = entries.iter().position(|e| matches!(e, Entry::Sliced(p) if p.key == key));
        let entry = match (twin, self.remembered(&key)) {
            (Some(first), _) => Entry::Same(first),
            (None, Some(shown)) => Entry::Ready(shown),
            (None, None) => Entry::Sliced(cut(self)?),
        };
        entries.push(entry);
        Ok(())
    }

    fn slicing(&self, max_slice_nums: usize) -> SliceOptions {
        let config = self.model.config();
        SliceOptions {
            profile: self.options.profile,
            max_slice_nums,
            scale_resolution: config.image_size,
            patch_size: config.patch_size,
            pass_order: self.options.pass_order,
        }
    }

    /// Identity of the vision model.
    ///
    /// # Errors
    /// When its file is changed while it is in use.
    pub fn identity(&self) -> Result<[u8; 32], RuntimeError> {
        self.model.weights().identity()
    }

    fn settings(&self) -> Result<[u8; 32], RuntimeError> {
        if let Some(made) = self.settings.get() {
            return Ok(*made);
        }
        let mut digest = Sha256::new();
        digest.update(self.identity()?);
        let MediaOptions { profile, precision, decode, pass_order, .. } = &self.options;
        digest.update(format!("{profile:?} {precision:?} {decode:?} {pass_order:?}"));
        digest.update(self.exec.kernels().name());
        Ok(*self.settings.get_or_init(|| digest.finalize().into()))
    }

    fn key(&self, content: &[u8], max_slice_nums: usize) -> Result<[u8; 32], RuntimeError> {
        let mut digest = Sha256::new();
        digest.update(self.settings()?);
        digest.update((max_slice_nums as u64).to_le_bytes());
        digest.update(content);
        Ok(digest.finalize().into())
    }

    fn cut(&self, key: [u8; 32], picture: &Rgb8, max_slice_nums: usize) -> Result<Pending, RuntimeError> {
        let sliced = slice(picture, &self.slicing(max_slice_nums))?;
        Ok(Pending { key, size: (picture.width(), picture.height()), grid: sliced.grid, slices: sliced.slices })
    }

    fn remembered(&mut self, key: &[u8; 32]) -> Option<Shown> {
        if let Some(image) = self.memory.get(key) {
            return Some(Shown { image: Arc::clone(image), origin: Origin::Memory });
        }
        let width = self.model.config().projection_dim;
        match self.options.cache.as_ref()?.get(key, width) {
            Cached::Hit(image) => {
                let image = Arc::new(image);
                self.remember(&image);
                Some(Shown { image, origin: Origin::Disk })
            }
            Cached::Miss => None,
            Cached::Damaged(path, why) => {
                self.warnings.push(format!("{} {why}; the picture is encoded anew", path.display()));
                None
            }
        }
    }

    /// Keeps rows in memory; when there are too many, those that no conversation shows go.
    fn remember(&mut self, image: &Arc<ImageEmbedding>) {
        let bytes = |image: &ImageEmbedding| image.rows.len() * size_of::<f32>();
        let total: usize = self.memory.values().map(|i| bytes(i)).sum();
        if total + bytes(image) > MEMORY_BYTES {
            self.memory.retain(|_, image| Arc::strong_count(image) > 1);
        }
        self.memory.insert(image.key, Arc::clone(image));
    }

    /// Encodes what has to be, all slices together.
    fn encode(
        &mut self,
        entries: Vec<Entry>,
        watch: &mut dyn MediaWatch,
        mut probe: Option<&mut dyn MediaProbe>,
        interrupt: &AtomicBool,
    ) -> Result<Vec<Shown>, RuntimeError> {
        let slices: Vec<&Rgb8> =
            entries.iter().flat_map(|e| if let Entry::Sliced(p) = e { p.slices.as_slice() } else { &[] }).collect();
        let (n_slices, mut started) = (slices.len(), Instant::now());
        let rows = if n_slices == 0 {
            Vec::new()
        } else {
            let mut encoder = match self.encoder.take() {
                Some(encoder) => encoder,
                None => VisionEncoder::new(Arc::clone(&self.model), Arc::clone(&self.exec), &self.vision)?,
            };
            started = Instant::now();
            let mut progress = |done, all| watch.encoding(n_slices, done, all);
            let probe: Option<&mut dyn VisionProbe> = match &mut probe {
                Some(probe) => Some(&mut **probe),
                None => None,
            };
            let rows = encoder.encode(&slices, probe, &mut progress, interrupt);
            self.encoder = Some(encoder);
            rows?
        };
        let time = started.elapsed();
        let config = self.model.config();
        let (queries, n_embd) = (config.query_num, config.projection_dim);
        let model = self.identity()?;
        let mut rows = rows.as_slice();
        let mut shown: Vec<Shown> = Vec::with_capacity(entries.len());
        for entry in entries {
            let next = match entry {
                Entry::Ready(shown) => shown,
                Entry::Same(first) => Shown { origin: Origin::Memory, ..shown[first].clone() },
                Entry::Sliced(Pending { key, size, grid, slices }) => {
                    let (own, rest) = rows.split_at(slices.len() * queries * n_embd);
                    rows = rest;
                    let image =
                        Arc::new(ImageEmbedding { key, model, size, grid, queries, n_embd, rows: own.to_vec() });
                    self.remember(&image);
                    self.keep(&image);
                    let share = time.mul_f64(slices.len() as f64 / n_slices as f64);
                    Shown { image, origin: Origin::Encoded(share) }
                }
            };
            shown.push(next);
        }
        Ok(shown)
    }

    /// Keeps rows on disk. A conversation does not fail because a cache cannot be written.
    fn keep(&mut self, image: &ImageEmbedding) {
        if let Some(Err(error)) = self.options.cache.as_ref().map(|cache| cache.put(image)) {
            self.warnings.push(format!("the picture is not kept: {error}"));
        }
    }
}
