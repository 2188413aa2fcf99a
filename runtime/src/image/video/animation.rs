//! Animated GIF and WebP, decoded natively.
//!
//! How many frames there are and how long each is shown is read from the file's structure, without decoding. Frames
//! build on one another, so that all up to the last one wanted are then decoded in turn; the others are dropped.

use std::io::Cursor;
use std::path::Path;

use ::image::codecs::{gif::GifDecoder, webp::WebPDecoder};
use ::image::{AnimationDecoder, Frames, ImageDecoder};

use super::{Frame, ImageError, Job, sample};
use crate::image::container::{self, Format};
use crate::image::decode::{convert_error, decode, inner_limits, read_file, rgba_to_rgb};

pub(super) fn gif(path: &Path, job: &mut Job<'_>) -> Result<(), ImageError> {
    let bytes = read_file(path, &job.options.limits)?;
    let delays = container::gif_delays(&bytes)?;
    let mut decoder = GifDecoder::new(Cursor::new(&bytes)).map_err(|e| convert_error(e, Format::Gif))?;
    let (width, height) = decoder.dimensions();
    job.options.limits.check_size(width.into(), height.into())?;
    decoder.set_limits(inner_limits(&job.options.limits)).map_err(|e| convert_error(e, Format::Gif))?;
    deliver(decoder.into_frames(), Format::Gif, &delays, job)
}

pub(super) fn webp(path: &Path, job: &mut Job<'_>) -> Result<(), ImageError> {
    let bytes = read_file(path, &job.options.limits)?;
    let decoder = WebPDecoder::new(Cursor::new(&bytes)).map_err(|e| convert_error(e, Format::WebP))?;
    let (width, height) = decoder.dimensions();
    job.options.limits.check_size(width.into(), height.into())?;
    if !decoder.has_animation() {
        let image = decode(&bytes, &job.decode_options())?;
        return job.deliver(Frame { index: 0, seconds: Some(0.0), image }, 1);
    }
    container::check(&bytes, Format::WebP, width, height)?;
    deliver(decoder.into_frames(), Format::WebP, &container::webp_delays(&bytes), job)
}

#[allow(clippy::cast_precision_loss)]
fn deliver(decoded: Frames<'_>, format: Format, delays: &[u32], job: &mut Job<'_>) -> Result<(), ImageError> {
    // Programs that write no delay expect the tenth of a second that browsers make of it.
    let total_ms: u64 = delays.iter().map(|&ms| if ms <= 10 { 100 } else { u64::from(ms) }).sum();
    let avg_fps = delays.len() as f64 * 1000.0 / total_ms.max(1) as f64;
    let chosen = sample(delays.len(), avg_fps, job.options.fps, job.options.max_frames);
    let mut wanted = chosen.iter().copied().peekable();
    for (index, frame) in decoded.enumerate() {
        job.check_interrupt()?;
        let Some(&next) = wanted.peek() else { break };
        let frame = frame.map_err(|e| convert_error(e, format))?;
        if index == next {
            wanted.next();
            let image = rgba_to_rgb(frame.into_buffer())?;
            job.deliver(Frame { index, seconds: Some(index as f64 / avg_fps), image }, chosen.len())?;
        }
    }
    match wanted.peek() {
        None if !chosen.is_empty() => Ok(()),
        None => Err(ImageError::Damaged { format: format.name(), problem: "it has no frames".into() }),
        Some(missing) => {
            let problem = format!("frame {missing} of {} is missing", delays.len());
            Err(ImageError::Damaged { format: format.name(), problem })
        }
    }
}
