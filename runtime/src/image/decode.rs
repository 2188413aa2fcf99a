//! Files to pixels, as Pillow's `Image.open(file).convert("RGB")` gives them.
//!
//! The `image` crate decodes; here the format is found by its first bytes, the limits are held against the header
//! before memory is claimed, and the pixels are brought to RGB by Pillow's rules: alpha is dropped and not blended, 16
//! bits per channel keep their high byte, and 16-bit grey is cut off at 255 ([`Grey16`]).

use std::io::{Cursor, Read};
use std::path::Path;

use ::image::codecs::{bmp::BmpDecoder, gif::GifDecoder, jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use ::image::{ColorType, DynamicImage, ImageDecoder, metadata};

use super::container::{self, Format};
use super::{ImageError, Rgb8, zeroed};

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

/// Reads and decodes the picture in a file.
///
/// # Errors
/// Those of [`decode`], naming the file, and [`ImageError::Open`].
pub fn read(path: &Path, options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    decode(&read_file(path, &options.limits)?, options).map_err(|e| e.in_file(path))
}

/// The bytes of a file within the limits. Pipes are read too, as far as the limit goes.
pub(crate) fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let open = |source| ImageError::Open { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(open)?;
    let metadata = file.metadata().map_err(open)?;
    if metadata.is_file() {
        limits.check_bytes(metadata.len()).map_err(|e| e.in_file(path))?;
    }
    let mut bytes = Vec::new();
    file.take(limits.max_file_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(open)?;
    limits.check_bytes(bytes.len() as u64).map_err(|e| e.in_file(path))?;
    Ok(bytes)
}

/// Decodes the picture in `bytes`; of an animation, the first frame.
///
/// # Errors
/// [`ImageError`] for what is no picture, is damaged or cut short, or is beyond the limits.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8, ImageError> {
    options.limits.check_bytes(bytes.len() as u64)?;
    let format = container::format(bytes)?;
    if format == Format::Png
        && let Some((width, height)) = container::png_size(bytes)
    {
        // Its decoder has a limit of its own on sizes, and a less helpful message.
        options.limits.check_size(width.into(), height.into())?;
    }
    let mut decoder = open(bytes, format, &options.limits)?;
    let (width, height) = decoder.dimensions();
    options.limits.check_size(width.into(), height.into())?;
    container::check(bytes, format, width, height)?;
    let orientation = match options.orientation {
        Orientation::Ignore => metadata::Orientation::NoTransforms,
        Orientation::Apply => orientation(bytes, format, decoder.as_mut()),
    };

    let (width, height) = (width as usize, height as usize);
    let pixels = width * height; // checked: at most MAX_SIDE squared
    let color = decoder.color_type();
    let length = pixels.checked_mul(usize::from(color.bytes_per_pixel()));
    let length = length.ok_or(ImageError::NoMemory { width, height, bytes: usize::MAX })?;
    let mut data = zeroed(width, height, length)?;
    decoder.read_image_boxed(&mut data).map_err(|e| convert_error(e, format))?;

    let clip = options.grey16 == Grey16::Clip && format == Format::Png && container::png_is_grey(bytes);
    let rgb = to_rgb(data, color, clip, format, (width, height))?;
    let image = Rgb8::new(width, height, rgb)?;
    if orientation == metadata::Orientation::NoTransforms { Ok(image) } else { turn(image, orientation) }
}

/// What a decoder may claim beside the picture: for profiles and texts, and for frames of a GIF that exceed its screen.
pub(super) fn inner_limits(limits: &Limits) -> ::image::Limits {
    let mut inner = ::image::Limits::no_limits();
    inner.max_alloc = Some(limits.max_pixels.saturating_mul(16).clamp(1 << 20, 1 << 30));
    inner
}

/// A decoder that has read the header.
fn open<'a>(bytes: &'a [u8], format: Format, limits: &Limits) -> Result<Box<dyn ImageDecoder + 'a>, ImageError> {
    let reader = Cursor::new(bytes);
    let error = |e| convert_error(e, format);
    let inner = inner_limits(limits);
    let mut decoder: Box<dyn ImageDecoder + 'a> = match format {
        Format::Png => return Ok(Box::new(PngDecoder::with_limits(reader, inner).map_err(error)?)),
        Format::Jpeg => {
            if !container::jpeg_is_whole(bytes) {
                let problem = "its end marker is missing".to_owned();
                return Err(ImageError::Damaged { format: format.name(), problem });
            }
            Box::new(JpegDecoder::new(reader).map_err(error)?)
        }
        Format::WebP => return Ok(Box::new(WebPDecoder::new(reader).map_err(error)?)),
        Format::Gif => Box::new(GifDecoder::new(reader).map_err(error)?),
        Format::Bmp => return Ok(Box::new(BmpDecoder::new(reader).map_err(error)?)),
    };
    decoder.set_limits(inner).map_err(error)?;
    Ok(decoder)
}

/// What the file says about the camera; nothing, where that cannot be read.
fn orientation(bytes: &[u8], format: Format, decoder: &mut dyn ImageDecoder) -> metadata::Orientation {
    let chunk = match format {
        Format::WebP => container::webp_exif(bytes).map(<[u8]>::to_vec),
        Format::Png | Format::Jpeg => decoder.exif_metadata().ok().flatten(),
        Format::Gif | Format::Bmp => None,
    };
    chunk
        .and_then(|chunk| metadata::Orientation::from_exif_chunk(&chunk))
        .unwrap_or(metadata::Orientation::NoTransforms)
}

/// Brings what a decoder wrote to RGB, in place where a pixel does not grow.
fn to_rgb(
    mut data: Vec<u8>,
    color: ColorType,
    clip_grey: bool,
    format: Format,
    size: (usize, usize),
) -> Result<Vec<u8>, ImageError> {
    let high = usize::from(cfg!(target_endian = "little"));
    let grey = |data: &[u8], step: usize, value: &dyn Fn(&[u8]) -> u8| {
        let mut rgb = zeroed(size.0, size.1, data.len() / step * 3)?;
        for (to, from) in rgb.chunks_exact_mut(3).zip(data.chunks_exact(step)) {
            to.fill(value(from));
        }
        Ok(rgb)
    };
    let wide = |from: &[u8]| match from {
        [a, b, ..] if clip_grey => u8::try_from(u16::from_ne_bytes([*a, *b])).unwrap_or(u8::MAX),
        _ => from[high],
    };
    match color {
        ColorType::Rgb8 => {}
        ColorType::Rgba8 => compact(&mut data, 4, [0, 1, 2]),
        ColorType::Rgb16 => compact(&mut data, 6, [high, high + 2, high + 4]),
        ColorType::Rgba16 => compact(&mut data, 8, [high, high + 2, high + 4]),
        ColorType::L8 => return grey(&data, 1, &|p| p[0]),
        ColorType::La8 => return grey(&data, 2, &|p| p[0]),
        ColorType::L16 => return grey(&data, 2, &wide),
        ColorType::La16 => return grey(&data, 4, &wide),
        _ => {
            let problem = format!("pixels of type {color:?}");
            return Err(ImageError::Unsupported { format: format.name(), problem });
        }
    }
    Ok(data)
}

/// A picture without its alpha.
pub(super) fn rgba_to_rgb(image: ::image::RgbaImage) -> Result<Rgb8, ImageError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut data = image.into_raw();
    compact(&mut data, 4, [0, 1, 2]);
    Rgb8::new(width, height, data)
}

/// Keeps three bytes of every `step`, those at the offsets `keep`.
fn compact(data: &mut Vec<u8>, step: usize, keep: [usize; 3]) {
    let pixels = data.len() / step;
    for i in 0..pixels {
        let [r, g, b] = keep.map(|offset| data[step * i + offset]);
        data[3 * i..3 * i + 3].copy_from_slice(&[r, g, b]);
    }
    data.truncate(3 * pixels);
    data.shrink_to_fit();
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
mod tests;
