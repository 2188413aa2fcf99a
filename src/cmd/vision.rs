//! Options for pictures and videos, and what a user sees while they are taken in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ocelli_image::resize::PassOrder;
use ocelli_image::video::VideoOptions;
use ocelli_image::{DecodeOptions, ImageError, Limits, Orientation, Profile};
use ocelli_runtime::media::{Media, MediaOptions, MediaWatch, Origin, Shown};
use ocelli_runtime::memory::human;
use ocelli_runtime::vision::VisionModel;
use ocelli_runtime::{Attachment, Context, Exec, FileOptions, ImageCache, Precision, RuntimeError, find_beside};

use super::common::PrecisionArg;
use super::names;
use crate::sink::{self, errln};

/// Time between two lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Which vision file, and how pictures are taken in.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Vision")]
pub(crate) struct VisionArgs {
    /// [-mm] Vision file (mmproj .gguf), or the name of the model it belongs to; the one beside the model if not given
    #[arg(long, value_name = "FILE|NAME")]
    pub(crate) mmproj: Option<PathBuf>,
    /// How products of the vision tower are computed [default: as --precision]
    #[arg(long, value_name = "MODE")]
    pub(crate) vision_precision: Option<PrecisionArg>,
    /// Whose rules for slices and prompt: reference (the published model's) or llama.cpp
    #[arg(long, value_name = "NAME", default_value = "reference", value_parser = profile)]
    pub(crate) image_profile: Profile,
    /// Tiles a picture is cut into, at most (1: overview only); llama.cpp's rules always use 9
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub(crate) image_max_slices: usize,
    /// Version of Pillow whose pixels the reference rules are to give: 13 (and later) or 12 (and before)
    #[arg(long, value_name = "VERSION", default_value = "13", value_parser = pass_order)]
    pub(crate) image_pillow: PassOrder,
    /// Largest picture file in bytes
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_file_bytes)]
    pub(crate) image_max_file_bytes: u64,
    /// Most pixels of a picture; decoding takes 3 to 8 bytes of memory for each
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_pixels)]
    pub(crate) image_max_pixels: u64,
    /// Longest side of a picture
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_side)]
    pub(crate) image_max_side: u64,
    /// Largest ratio of a picture's sides
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_aspect_ratio)]
    pub(crate) image_max_aspect_ratio: u64,
}

/// Where image rows are kept, and how videos are sampled.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Vision")]
pub(crate) struct ShowArgs {
    /// Picture to ask about (PNG, JPEG, WebP, GIF, BMP); may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Video to ask about: a file for ffmpeg, an animated GIF or WebP, or a folder of pictures; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(crate) video: Vec<PathBuf>,
    /// Frames taken per second of video
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub(crate) video_fps: f64,
    /// Frames taken of a video, at most; beyond that evenly over its length
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) video_max_frames: usize,
    /// Tiles a frame is cut into, at most [default: 1; llama.cpp's rules always use 9]
    #[arg(long, value_name = "N")]
    pub(crate) video_max_slices: Option<usize>,
    /// Keep encoded pictures in this folder, so that they cost nothing the next time
    #[arg(long, value_name = "DIR")]
    pub(crate) image_cache: Option<PathBuf>,
    /// Size of that folder in MiB; the pictures that were not used for longest go first
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub(crate) image_cache_size: u64,
}

fn pass_order(version: &str) -> Result<PassOrder, String> {
    match version {
        "12" => Ok(PassOrder::HorizontalFirst),
        "13" => Ok(PassOrder::Pillow13),
        _ => Err("use 13 for that version and later ones, 12 for earlier ones".to_owned()),
    }
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::from_name(name).map_err(|e| e.to_string())
}

impl VisionArgs {
    /// How pictures are taken in.
    pub(crate) fn media_options(&self, threads: usize, precision: Precision) -> MediaOptions {
        let limits = Limits {
            max_file_bytes: self.image_max_file_bytes,
            max_pixels: self.image_max_pixels,
            max_side: self.image_max_side,
            max_aspect_ratio: self.image_max_aspect_ratio,
        };
        let chosen = MediaOptions::new(self.image_profile);
        MediaOptions {
            max_slice_nums: self.image_max_slices,
            decode: DecodeOptions { limits, ..chosen.decode },
            video: VideoOptions { limits, ..chosen.video.clone() },
            pass_order: self.image_pillow,
            n_threads: threads,
            precision: self.vision_precision.map_or(precision, PrecisionArg::precision),
            ..chosen
        }
    }
}

impl ShowArgs {
    fn apply(&self, options: &mut MediaOptions) -> anyhow::Result<()> {
        options.video =
            VideoOptions { fps: self.video_fps, max_frames: self.video_max_frames, ..options.video.clone() };
        if let Some(slices) = self.video_max_slices {
            options.video_max_slice_nums = slices;
        }
        if let Some(folder) = &self.image_cache {
            options.cache = Some(ImageCache::open(folder, self.image_cache_size.saturating_mul(1 << 20))?);
        }
        Ok(())
    }
}

/// The vision side of a conversation; its file is opened with the first picture.
pub(crate) struct Vision {
    file: Option<PathBuf>,
    model: PathBuf,
    n_embd: usize,
    load: FileOptions,
    options: MediaOptions,
    /// What the text model computes with.
    exec: Arc<Exec>,
    media: Option<Media>,
}

impl Vision {
    /// For the text model at `model`, which runs in `context`.
    pub(crate) fn new(
        args: &VisionArgs,
        show: Option<&ShowArgs>,
        model: &Path,
        load: FileOptions,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let (_, threads) = context.threads();
        let mut options = args.media_options(threads, context.precision());
        if let Some(show) = show {
            show.apply(&mut options)?;
        }
        let n_embd = context.model().config().n_embd;
        let exec = Arc::clone(context.exec());
        Ok(Self { file: args.mmproj.clone(), model: model.to_owned(), n_embd, load, options, exec, media: None })
    }

    /// Whose rules.
    pub(crate) fn profile(&self) -> Profile {
        self.options.profile
    }

    /// Pixels as they are stored, for comparison with programs that do not turn pictures.
    pub(crate) fn ignore_orientation(&mut self) {
        self.options.decode.orientation = Orientation::Ignore;
    }

    /// Opens the vision file if that has not been done, telling what is used.
    pub(crate) fn media(&mut self) -> anyhow::Result<&mut Media> {
        let media = match self.media.take() {
            Some(media) => media,
            None => self.open()?,
        };
        Ok(self.media.insert(media))
    }

    /// Identity of the vision file, which is opened if that has not been done.
    pub(crate) fn identity(&mut self) -> anyhow::Result<[u8; 32]> {
        Ok(self.media()?.identity()?)
    }

    fn open(&self) -> anyhow::Result<Media> {
        let path = match &self.file {
            Some(name) => names::find_vision(name)?,
            None => match names::vision_of(&self.model) {
                Some(path) => path,
                None => find_beside(&self.model, self.n_embd)?,
            },
        };
        let media = open_vision(&path, self.load, Arc::clone(&self.exec), self.options.clone())?;
        let width = media.model().config().projection_dim;
        if width != self.n_embd {
            anyhow::bail!(
                "{} makes image rows of {width} values, the text model takes {}; use the vision file that was made \
                 with this model",
                path.display(),
                self.n_embd
            );
        }
        Ok(media)
    }

    /// Takes pictures in, telling about each.
    pub(crate) fn images(&mut self, paths: &[PathBuf], interrupt: &AtomicBool) -> anyhow::Result<Vec<Attachment>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let media = self.media()?;
        let shown = media.images(paths, &mut Bar::new(), interrupt)?;
        tell_warnings(media);
        for (path, shown) in paths.iter().zip(&shown) {
            errln!("image {}: {}", path.display(), describe(shown));
        }
        Ok(shown.iter().map(Shown::numbered).collect())
    }

    /// Takes the frames of a video in, telling about them.
    pub(crate) fn video(&mut self, path: &Path, interrupt: &AtomicBool) -> anyhow::Result<Vec<Attachment>> {
        let media = self.media()?;
        let shown = media.video(path, &mut Bar::new(), interrupt)?;
        tell_warnings(media);
        let tokens: usize = shown.iter().map(|s| s.image.n_rows()).sum();
        let encoded = shown.iter().filter_map(|s| match s.origin {
            Origin::Encoded(time) => Some(time),
            Origin::Memory | Origin::Disk => None,
        });
        let (time, n) = encoded.fold((Duration::ZERO, 0), |(time, n), t| (time + t, n + 1));
        let (width, height) = shown.first().map_or((0, 0), |s| s.image.size);
        errln!(
            "video {}: {} frames of {width}×{height}, {tokens} tokens, {n} encoded in {:.1} s",
            path.display(),
            shown.len(),
            time.as_secs_f64()
        );
        Ok(shown.iter().map(Shown::frame).collect())
    }

    /// All pictures and videos of the command line, pictures first.
    pub(crate) fn shown(&mut self, args: &ShowArgs, interrupt: &AtomicBool) -> anyhow::Result<Vec<Attachment>> {
        let mut all = self.images(&args.image, interrupt)?;
        for path in &args.video {
            all.extend(self.video(path, interrupt)?);
        }
        Ok(all)
    }
}

/// Loads a vision file, telling on stderr what is used.
pub(crate) fn open_vision(
    path: &Path,
    load: FileOptions,
    exec: Arc<Exec>,
    options: MediaOptions,
) -> anyhow::Result<Media> {
    let started = Instant::now();
    let model = VisionModel::load(path, load)?;
    for note in model.warnings() {
        errln!("ocelli: warning: {note}");
    }
    let bytes = model.weights().file_bytes();
    let media = Media::new(Arc::new(model), exec, options).with_context(|| format!("cannot use {}", path.display()))?;
    errln!("vision: {}, {}, loaded in {:.2} s", path.display(), human(bytes), started.elapsed().as_secs_f64());
    Ok(media)
}

/// What a user should know about the last pictures.
pub(crate) fn tell_warnings(media: &Media) {
    for note in media.warnings() {
        errln!("ocelli: warning: {note}");
    }
}

/// `1344×1344, overview + 3×3 tiles, 640 tokens, encoded in 12.3 s`.
pub(crate) fn describe(shown: &Shown) -> String {
    let (image, (width, height)) = (&shown.image, shown.image.size);
    let slices = match image.grid {
        None => "1 slice".to_owned(),
        Some((cols, rows)) => format!("overview + {cols}×{rows} tiles"),
    };
    let origin = match shown.origin {
        Origin::Encoded(time) => format!("encoded in {:.1} s", time.as_secs_f64()),
        Origin::Memory => "seen before".to_owned(),
        Origin::Disk => "from the image cache".to_owned(),
    };
    format!("{width}×{height}, {slices}, {} tokens, {origin}", image.n_rows())
}

/// `line`, which tells `error`, with the option that raises the limit a picture exceeds, if there is one.
pub(crate) fn with_remedy(error: &anyhow::Error, mut line: String) -> String {
    let limit = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(error) => limit_of_runtime(error),
        None => cause.downcast_ref().and_then(limit_of_image),
    });
    if let Some(limit @ ("max_file_bytes" | "max_pixels" | "max_side" | "max_aspect_ratio")) = limit {
        let option = limit.replace('_', "-");
        line.push_str(&format!(", or raise the limit (--image-{option})"));
    }
    line
}

fn limit_of_runtime(error: &RuntimeError) -> Option<&'static str> {
    match error {
        RuntimeError::Image(error) => limit_of_image(error),
        RuntimeError::InFile { source, .. } => limit_of_runtime(source),
        _ => None,
    }
}

fn limit_of_image(error: &ImageError) -> Option<&'static str> {
    match error {
        ImageError::Limit { limit, .. } => Some(limit),
        ImageError::InFile { source, .. } => limit_of_image(source),
        _ => None,
    }
}

/// Shows reading and encoding on stderr: a bar on a terminal, a line now and then elsewhere.
pub(crate) struct Bar {
    bar: ProgressBar,
    terminal: bool,
    last: Instant,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let terminal = sink::err_is_terminal();
        if terminal {
            let style = ProgressStyle::with_template("{msg} [{bar:24}] {percent:>3}% {elapsed}, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        }
        Self { bar, terminal, last: Instant::now() }
    }

    fn show(&mut self, message: impl Fn() -> String, done: usize, all: Option<usize>) {
        if self.terminal {
            self.bar.set_message(message());
            if let Some(all) = all {
                self.bar.set_length(all as u64);
            }
            self.bar.set_position(done as u64);
        } else if self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            match all {
                Some(all) => errln!("{}: {}%", message(), (100 * done).checked_div(all).unwrap_or(100)),
                None => errln!("{}: {done}", message()),
            }
        }
    }
}

impl MediaWatch for Bar {
    fn frames(&mut self, done: usize, all: Option<usize>) {
        self.show(|| "reading frames".to_owned(), done, all);
    }

    fn encoding(&mut self, slices: usize, done: usize, all: usize) {
        let what = if slices == 1 { "slice" } else { "slices" };
        self.show(|| format!("encoding {slices} {what}"), done, Some(all));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_with_the_option_that_raises_them() {
        let limit = |limit| ImageError::Limit { what: String::new(), limit, allowed: 1, remedy: "scale it down" };
        let told = |error: ImageError| {
            let inner = ImageError::InFile { path: "a.png".into(), source: Box::new(error) };
            let error = anyhow::Error::new(RuntimeError::from(inner)).context("showing a picture");
            with_remedy(&error, format!("{error:#}"))
        };
        let pixels = told(limit("max_pixels"));
        assert!(pixels.ends_with("; scale it down, or raise the limit (--image-max-pixels)"), "{pixels}");
        assert!(with_remedy(&limit("max_side").into(), String::new()).ends_with("(--image-max-side)"));
        let in_model = RuntimeError::InFile { path: "x".into(), source: Box::new(limit("max_side").into()) };
        assert!(with_remedy(&in_model.into(), String::new()).ends_with("(--image-max-side)"));
        // No option raises these.
        for other in [limit("max_total_pixels"), ImageError::Empty] {
            let line = told(other);
            assert!(!line.contains("--image"), "{line}");
        }
    }
}
