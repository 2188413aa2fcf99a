//! Videos to sampled frames: through `ffmpeg`, from a GIF or an animated WebP, or from a folder of pictures.
//!
//! Sampling follows the published examples for the model: every `round(avg_fps / fps)`-th frame, and if that leaves
//! more than `max_frames`, these spread evenly. Which frames are wanted is known before the first is decoded, so that
//! only they are ever held.

mod animation;
mod ffmpeg;
mod folder;
mod process;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::container::{self, Format};
use super::open::{Pipes, open, read_up_to};
use super::{DecodeNote, DecodeOptions, ImageError, Limits, Orientation, Rgb8, png};

/// The largest [`VideoOptions::max_frames`].
pub const MAX_FRAMES: usize = 1024;

/// How to sample a video.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoOptions {
    /// Frames per second of the video to take, above 0 and at most 1,000; 1. Folders have no rate: all count.
    pub fps: f64,
    /// Frames at most, 1 to [`MAX_FRAMES`]; 64. More are thinned out evenly.
    pub max_frames: usize,
    /// How large a frame may be, and how large the file of an animation or of a frame in a folder. Videos for `ffmpeg`
    /// may be of any length.
    pub limits: Limits,
    /// Pixels that [`frames`] holds at most in all frames together; 2²⁹, 64 frames of 3840x2160.
    pub max_total_pixels: u64,
    /// Pixels that are decoded and handed on at most, those of frames that others build on included; 2³⁰, 64 frames of
    /// 3840x2160 that each cover the canvas. It is held against the file's structure before anything is decoded. Of
    /// frames from `ffmpeg`, which are only handed on, there may be twice as many.
    pub max_work_pixels: u64,
    /// How long `ffprobe` and `ffmpeg` may give nothing, beside the time that the length of the file or of the part to
    /// the next frame accounts for (10 MB or 4 million pixels a second); 20 seconds.
    pub patience: Duration,
    /// The `ffmpeg` program: a name that is looked up in `PATH`, or a path.
    pub ffmpeg: PathBuf,
    /// The `ffprobe` program that comes with it.
    pub ffprobe: PathBuf,
}

impl Default for VideoOptions {
    fn default() -> Self {
        Self {
            fps: 1.0,
            max_frames: 64,
            limits: Limits::default(),
            max_total_pixels: 1 << 29,
            max_work_pixels: 1 << 30,
            patience: Duration::from_secs(20),
            ffmpeg: "ffmpeg".into(),
            ffprobe: "ffprobe".into(),
        }
    }
}

impl VideoOptions {
    fn check(&self) -> Result<(), ImageError> {
        if !(self.fps > 0.0 && self.fps <= 1000.0) {
            let problem = format!("{} frames per second are not possible; use more than 0, at most 1000", self.fps);
            return Err(ImageError::Option { option: "video fps", problem });
        }
        if !(1..=MAX_FRAMES).contains(&self.max_frames) {
            let problem = format!("{} is not possible; use 1 to {MAX_FRAMES}", self.max_frames);
            return Err(ImageError::Option { option: "video max frames", problem });
        }
        Ok(())
    }
}

/// One frame of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its number in the video, from 0.
    pub index: usize,
    /// Its time in the video, taking all frames for equally long; none in a folder.
    pub seconds: Option<f64>,
    /// Its pixels.
    pub image: Rgb8,
    /// What a user should know about it.
    pub note: Option<DecodeNote>,
}

/// All sampled frames of the video at `path`, in order. `progress` is told how many are done, and of how many.
///
/// # Errors
/// Those of [`each_frame`], and [`ImageError::Limit`] beyond [`VideoOptions::max_total_pixels`].
pub fn frames(
    path: &Path,
    options: &VideoOptions,
    progress: &mut dyn FnMut(usize, Option<usize>),
    interrupt: &AtomicBool,
) -> Result<Vec<Frame>, ImageError> {
    let mut frames = Vec::new();
    let mut pixels = 0u64;
    each_frame(path, options, progress, interrupt, &mut |frame| {
        pixels += frame.image.width() as u64 * frame.image.height() as u64;
        if pixels > options.max_total_pixels {
            let limit = ImageError::Limit {
                what: format!("{} frames have {pixels} pixels together", frames.len() + 1),
                limit: "max_total_pixels",
                allowed: options.max_total_pixels,
                remedy: "take fewer frames or scale the video down",
            };
            return Err(limit.in_file(path));
        }
        frames.push(frame);
        Ok(())
    })?;
    Ok(frames)
}

/// Hands the sampled frames of the video at `path` to `sink`, in order and one at a time; an error of `sink` ends it.
///
/// # Errors
/// [`ImageError::NoFfmpeg`] when that is needed and missing, [`ImageError::Interrupted`] once `interrupt` is set, and
/// whatever is wrong with the file, which is then named.
pub fn each_frame(
    path: &Path,
    options: &VideoOptions,
    progress: &mut dyn FnMut(usize, Option<usize>),
    interrupt: &AtomicBool,
    sink: &mut dyn FnMut(Frame) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    options.check()?;
    let error = |source| ImageError::Open { path: path.to_owned(), source };
    let mut job = Job { options, progress, interrupt, sink, done: 0 };
    let result = if std::fs::metadata(path).map_err(error)?.is_dir() {
        folder::frames(path, &mut job)
    } else {
        let (file, metadata) = open(path, Pipes::Refuse).map_err(error)?;
        let start = read_up_to(file, &metadata, 64 << 10).map_err(error)?;
        match container::format(&start) {
            Ok(Format::Gif) => animation::gif(path, &mut job),
            Ok(Format::WebP) => animation::webp(path, &mut job),
            Ok(Format::Png) if png::is_animated(&start) => ffmpeg::frames(path, metadata.len(), &mut job),
            Ok(still) => Err(video_error(format!("a {} picture is not a video; give it as an image", still.name()))),
            Err(ImageError::Empty) => Err(video_error("the video is empty (0 bytes)".into())),
            Err(_) => ffmpeg::frames(path, metadata.len(), &mut job),
        }
    };
    result.map_err(|e| e.in_file(path))
}

fn video_error(problem: String) -> ImageError {
    ImageError::Video { problem }
}

/// Refuses to decode and hand on more than `allowed` pixels for so many frames.
fn check_work(pixels: u64, frames: usize, allowed: u64) -> Result<(), ImageError> {
    if pixels <= allowed {
        return Ok(());
    }
    Err(ImageError::Limit {
        what: format!("{frames} frames take {pixels} pixels to decode"),
        limit: "max_work_pixels",
        allowed,
        remedy: "take fewer frames, or scale the video down or cut it",
    })
}

/// What every source of frames needs.
struct Job<'a> {
    options: &'a VideoOptions,
    progress: &'a mut dyn FnMut(usize, Option<usize>),
    interrupt: &'a AtomicBool,
    sink: &'a mut dyn FnMut(Frame) -> Result<(), ImageError>,
    done: usize,
}

impl Job<'_> {
    fn check_interrupt(&self) -> Result<(), ImageError> {
        if self.interrupt.load(Ordering::Relaxed) { Err(ImageError::Interrupted) } else { Ok(()) }
    }

    fn deliver(&mut self, frame: Frame, of: usize) -> Result<(), ImageError> {
        (self.sink)(frame)?;
        self.done += 1;
        (self.progress)(self.done, Some(of));
        Ok(())
    }

    /// Frames within pictures are upright as they are stored, except in a folder of photos.
    fn decode_options(&self) -> DecodeOptions {
        DecodeOptions { orientation: Orientation::Apply, limits: self.options.limits, ..DecodeOptions::default() }
    }
}

/// Numbers of the frames to take from `total` of them at `avg_fps` per second.
///
/// Every `round(avg_fps / fps)`-th (half to even, at least every one); if more than `max_frames` are left, of these the
/// ones at `int(i * gap + gap / 2)` with `gap = left / max_frames`.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub fn sample(total: usize, avg_fps: f64, fps: f64, max_frames: usize) -> Vec<usize> {
    let step = ((avg_fps / fps).round_ties_even() as usize).max(1);
    let left = total.div_ceil(step);
    if left <= max_frames {
        return (0..left).map(|i| i * step).collect();
    }
    let gap = left as f64 / max_frames as f64;
    (0..max_frames).map(|i| ((i as f64 * gap + gap / 2.0) as usize).min(left - 1) * step).collect()
}

#[cfg(test)]
mod hostile_tests;
#[cfg(all(test, unix))]
mod stand_in_tests;
#[cfg(test)]
mod tests;
