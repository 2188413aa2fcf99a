//! Files to pixels, as Pillow's `Image.open(file).convert("RGB")` gives them.
//!
//! The format is found by the first bytes, and each has a module of its own: the limits are held against its header
//! before memory is claimed, and the pixels are brought to RGB by Pillow's rules: alpha is dropped and not blended, 16
//! bits per channel keep their high byte, and 16-bit grey is cut off at 255 ([`Grey16`]). Decoders run guarded, so that
//! a panic in one is an error.

use std::fmt;
use std::path::Path;

use ::image::{DynamicImage, metadata};

use super::container::{self, Format};
use super::guard::guarded;
use super::open::{Pipes, open, read_up_to};
use super::orientation::orientation;
use super::{ImageError, Rgb8, bmp, gif, jpeg, png, webp, zeroed};

/// Whether the orientation that a camera noted in the file (EXIF) turns the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Orientation {
    /// The picture stands as its viewer sees it: for people.
    #[default]
    Apply,
    /// The pixels as they are stored: as the published model's code and llama.cpp do.
    Ignore,
}

/// How 16-bit grey becomes 8-bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grey16 {
    /// Values above 255 become 255, so that most such pictures turn white: what Pillow does, and so the published
    /// model's code.
    #[default]
    Clip,
    /// The high byte: what llama.cpp's decoder does, and what one would want.
    HighByte,
}

/// How large a file and its picture may be. The header is held against them before memory for pixels is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file; 64 MiB.
    pub max_file_bytes: u64,
    /// Pixels; 2²⁶, about 67 million (a 50-megapixel photo passes). Decoding needs 3 to 8 bytes for each.
    pub max_pixels: u64,
    /// The longer side; 65,535.
    pub max_side: u64,
    /// The longer side over the shorter; 1,000. Beyond it a slice would have more than 1,024 patches in a row.
    pub max_aspect_ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_file_bytes: 64 << 20, max_pixels: 1 << 26, max_side: 65_535, max_aspect_ratio: 1_000 }
    }
}

impl Limits {
    /// Refuses a file of that many bytes if it is too long.
    pub(super) fn check_bytes(&self, bytes: u64) -> Result<(), ImageError> {
        let what = || format!("the file has {bytes} bytes");
        limit(bytes, self.max_file_bytes, "max_file_bytes", "save the picture smaller", what)
    }

    /// Refuses a picture of that size if it is too large.
    pub(super) fn check_size(&self, width: u64, height: u64) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            let size = |n| usize::try_from(n).unwrap_or(usize::MAX);
            let problem = "has no pixels".to_owned();
            return Err(ImageError::Size { width: size(width), height: size(height), problem });
        }
        let (long, short) = (width.max(height), width.min(height));
        let found = |unit: &str| format!("the picture of {width}x{height} has {unit}");
        let max_side = self.max_side.min(super::MAX_SIDE as u64);
        limit(long, max_side, "max_side", "scale the picture down", || found(&format!("a side of {long}")))?;
        let pixels = width.saturating_mul(height);
        limit(pixels, self.max_pixels, "max_pixels", "scale the picture down", || found(&format!("{pixels} pixels")))?;
        let ratio = long.div_ceil(short);
        let what = || found(&format!("an aspect ratio of {ratio}:1"));
        limit(ratio, self.max_aspect_ratio, "max_aspect_ratio", "crop the picture", what)
    }
}

fn limit(
    found: u64,
    allowed: u64,
    limit: &'static str,
    remedy: &'static str,
    what: impl Fn() -> String,
) -> Result<(), ImageError> {
    if found > allowed { Err(ImageError::Limit { what: what(), limit, allowed, remedy }) } else { Ok(()) }
}

/// How to decode a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DecodeOptions {
    /// What to do about EXIF orientation.
    pub orientation: Orientation,
    /// What to do about 16-bit grey.
    pub grey16: Grey16,
    /// How large it may be.
    pub limits: Limits,
}

/// What a user should know about a picture that was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeNote {
    /// It is 16-bit grey, and values above 255 became white ([`Grey16::Clip`]).
    Grey16Clipped {
        /// How many pixels that were.
        clipped: usize,
        /// How many pixels there are.
        pixels: usize,
    },
}

impl fmt::Display for DecodeNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Grey16Clipped { clipped, pixels } = self;
        let percent = (100 * clipped).div_ceil((*pixels).max(1));
        write!(
            f,
            "the picture is 16-bit grey, and {percent} % of its pixels turn white, as in the published model's code: \
             values above 255 are cut off; save it as 8-bit grey to keep them apart"
        )
    }
}

/// Reads and decodes the picture in a file.
///
/// # Errors
/// Those of [`decode`], naming the file, and [`ImageError::Open`].
pub fn read(path: &Path, options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    decode(&read_file(path, &options.limits)?, options).map_err(|e| e.in_file(path))
}

/// The bytes of a file within the limits. Pipes are read too, as far as the limit goes.
///
/// # Errors
/// [`ImageError::Open`], and [`ImageError::Limit`] for a file that is too long.
pub fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    read_as(path, limits, Pipes::Read)
}

/// As [`read_file`], of pipes only if they will do.
pub(super) fn read_as(path: &Path, limits: &Limits, pipes: Pipes) -> Result<Vec<u8>, ImageError> {
    let error = |source| ImageError::Open { path: path.to_owned(), source };
    let (file, metadata) = open(path, pipes).map_err(error)?;
    if metadata.is_file() {
        limits.check_bytes(metadata.len()).map_err(|e| e.in_file(path))?;
    }
    let bytes = read_up_to(file, &metadata, limits.max_file_bytes.saturating_add(1)).map_err(error)?;
    limits.check_bytes(bytes.len() as u64).map_err(|e| e.in_file(path))?;
    Ok(bytes)
}

/// Decodes the picture in `bytes`; of an animation, the first frame.
///
/// # Errors
/// [`ImageError`] for what is no picture, is damaged or cut short, or is beyond the limits.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    decode_with_notes(bytes, options).map(|(image, _)| image)
}

/// As [`decode`], with what a user should know about the result.
///
/// # Errors
/// As [`decode`].
pub fn decode_with_notes(bytes: &[u8], options: &DecodeOptions) -> Result<(Rgb8, Option<DecodeNote>), ImageError> {
    options.limits.check_bytes(bytes.len() as u64)?;
    let format = container::format(bytes)?;
    guarded(|| {
        let (image, clipped) = pixels(bytes, format, options)?;
        let pixels = image.width() * image.height();
        let note = (clipped > 0).then_some(DecodeNote::Grey16Clipped { clipped, pixels });
        let turned = match options.orientation {
            Orientation::Ignore => None,
            Orientation::Apply => orientation(bytes, format).and_then(metadata::Orientation::from_exif),
        };
        let image = if let Some(turned) = turned { turn(image, turned)? } else { image };
        Ok((image, note))
    })
}

/// The pixels as they are stored, and how many were cut off.
fn pixels(bytes: &[u8], format: Format, options: &DecodeOptions) -> Result<(Rgb8, usize), ImageError> {
    let limits = &options.limits;
    let image = match format {
        Format::Png => return png::decode(bytes, options.grey16, limits),
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::WebP if webp::is_animated(bytes) => webp::first(bytes, limits),
        Format::WebP => webp::still(bytes, limits),
        Format::Gif => gif::first(bytes, limits),
        Format::Bmp => bmp::decode(bytes, limits),
    };
    Ok((image?, 0))
}

/// Whether decoding these bytes can give a note.
#[must_use]
pub fn may_be_noted(bytes: &[u8], options: &DecodeOptions) -> bool {
    options.grey16 == Grey16::Clip && container::format(bytes).is_ok_and(|f| f == Format::Png) && png::is_grey16(bytes)
}

/// Width and height by the header, which may be all there is of the file.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    match container::format(bytes).ok()? {
        Format::Png => png::size(bytes),
        Format::Jpeg => jpeg::size(bytes),
        Format::WebP => webp::size(bytes),
        Format::Gif => gif::screen(bytes),
        Format::Bmp => bmp::size(bytes),
    }
}

/// What a decoder may claim beside the picture.
pub(super) fn inner_limits(limits: &Limits) -> ::image::Limits {
    let mut inner = ::image::Limits::no_limits();
    inner.max_alloc = Some(limits.max_pixels.saturating_mul(16).clamp(1 << 20, 1 << 30));
    inner
}

/// Pixels of one value each, `step` bytes apart, as grey.
pub(super) fn spread_grey(
    data: &[u8],
    step: usize,
    (width, height): (usize, usize),
    mut value: impl FnMut(&[u8]) -> u8,
) -> Result<Vec<u8>, ImageError> {
    let mut rgb = zeroed(width, height, data.len() / step * 3)?;
    for (to, from) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(data.chunks_exact(step)) {
        *to = [value(from); 3];
    }
    Ok(rgb)
}

/// Keeps three bytes of every `step`, those at the offsets `keep`, in place.
pub(super) fn keep_rgb(mut data: Vec<u8>, step: usize, keep: [usize; 3]) -> Vec<u8> {
    let pixels = data.len() / step;
    for i in 0..pixels {
        let [r, g, b] = keep.map(|offset| data[step * i + offset]);
        data[3 * i..3 * i + 3].copy_from_slice(&[r, g, b]);
    }
    data.truncate(3 * pixels);
    data.shrink_to_fit();
    data
}

fn turn(image: Rgb8, orientation: metadata::Orientation) -> Result<Rgb8, ImageError> {
    let (width, height) = (image.width(), image.height());
    let whole = || ImageError::Size { width, height, problem: "cannot be turned".into() };
    let (w, h) = (u32::try_from(width).map_err(|_| whole())?, u32::try_from(height).map_err(|_| whole())?);
    let mut turned = DynamicImage::ImageRgb8(::image::RgbImage::from_raw(w, h, image.into_data()).ok_or_else(whole)?);
    turned.apply_orientation(orientation);
    let turned = turned.into_rgb8();
    let (w, h) = turned.dimensions();
    Rgb8::new(w as usize, h as usize, turned.into_raw())
}

/// The decoder's error in our words.
pub(super) fn convert_error(error: ::image::ImageError, format: Format) -> ImageError {
    let format = format.name();
    match error {
        ::image::ImageError::Unsupported(e) => ImageError::Unsupported { format, problem: e.to_string() },
        ::image::ImageError::Limits(e) => ImageError::Damaged {
            format,
            problem: format!("a part of it claims more memory than the picture could need ({e})"),
        },
        e => ImageError::Damaged { format, problem: e.to_string() },
    }
}

#[cfg(test)]
pub(super) mod tests;
