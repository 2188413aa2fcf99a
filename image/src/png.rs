//! PNG: the default picture, by the `png` crate.
//!
//! Profiles and texts are not inflated: neither decides a pixel, and a few bytes of them can unfold to a gigabyte.

use std::io::Cursor;

use ::png::{BitDepth, ColorType, Decoder, DecodingError, Limits as PngLimits, Transformations};

use super::container::{Format, png_chunks};
use super::decode::{Grey16, Limits, keep_rgb, spread_grey};
use super::{ImageError, Rgb8, zeroed};

/// The most that the decoder keeps of anything but pixels.
const MAX_CHUNK_BYTES: usize = 8 << 20;

/// Width and height by the header.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let &[w0, w1, w2, w3, h0, h1, h2, h3] = bytes.get(16..24)?.first_chunk()?;
    Some((u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3])))
}

/// Whether it is 16-bit grey without alpha.
pub(super) fn is_grey16(bytes: &[u8]) -> bool {
    bytes.get(24..26) == Some(&[16, 0])
}

/// Whether it is an animation (APNG).
pub(super) fn is_animated(bytes: &[u8]) -> bool {
    png_chunks(bytes).map(|(name, _)| name).take_while(|name| *name != b"IDAT").any(|name| name == b"acTL")
}

/// The pixels, and of 16-bit grey how many were cut off at 255.
pub(super) fn decode(bytes: &[u8], grey16: Grey16, limits: &Limits) -> Result<(Rgb8, usize), ImageError> {
    if let Some((width, height)) = size(bytes) {
        // The decoder has a limit of its own on sizes, and a less helpful message.
        limits.check_size(width.into(), height.into())?;
    }
    let whole = |palette: &[u8]| !palette.is_empty() && palette.len().is_multiple_of(3) && palette.len() <= 768;
    let mut palettes = png_chunks(bytes).filter(|(name, _)| *name == b"PLTE").map(|(_, palette)| palette);
    if bytes.get(25) == Some(&3)
        && let Some(palette) = palettes.find(|palette| !whole(palette))
    {
        let length = palette.len();
        return Err(damaged(format!("its palette has {length} bytes, not three for each of at most 256 colours")));
    }
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), PngLimits { bytes: MAX_CHUNK_BYTES });
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(convert)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    limits.check_size(width as u64, height as u64)?;
    let length = reader.output_buffer_size().ok_or(ImageError::NoMemory { width, height, bytes: usize::MAX })?;
    let mut data = zeroed(width, height, length)?;
    reader.next_frame(&mut data).map_err(convert)?;

    // Of 16 bits, which are big-endian, the first byte is the high one.
    let mut cut = 0;
    let rgb = match reader.output_color_type() {
        (ColorType::Rgb, BitDepth::Eight) => data,
        (ColorType::Rgba, BitDepth::Eight) => keep_rgb(data, 4, [0, 1, 2]),
        (ColorType::Rgb, BitDepth::Sixteen) => keep_rgb(data, 6, [0, 2, 4]),
        (ColorType::Rgba, BitDepth::Sixteen) => keep_rgb(data, 8, [0, 2, 4]),
        (ColorType::Grayscale, BitDepth::Eight) => spread_grey(&data, 1, (width, height), |p| p[0])?,
        (ColorType::GrayscaleAlpha, BitDepth::Eight) => spread_grey(&data, 2, (width, height), |p| p[0])?,
        (ColorType::Grayscale, BitDepth::Sixteen) => wide_grey(&data, 2, (width, height), grey16, &mut cut)?,
        (ColorType::GrayscaleAlpha, BitDepth::Sixteen) => {
            // A transparent colour makes alpha of plain grey, which stays plain grey to Pillow.
            let grey16 = if is_grey16(bytes) { grey16 } else { Grey16::HighByte };
            wide_grey(&data, 4, (width, height), grey16, &mut cut)?
        }
        (color, depth) => {
            let problem = format!("its pixels are {color:?} of {} bits", depth as u8);
            return Err(ImageError::Unsupported { format: Format::Png.name(), problem });
        }
    };
    Ok((Rgb8::new(width, height, rgb)?, cut))
}

fn wide_grey(
    data: &[u8],
    step: usize,
    size: (usize, usize),
    grey16: Grey16,
    cut: &mut usize,
) -> Result<Vec<u8>, ImageError> {
    spread_grey(data, step, size, |p| match (grey16, p[0]) {
        (Grey16::HighByte, high) => high,
        (Grey16::Clip, 0) => p[1],
        (Grey16::Clip, _) => {
            *cut += 1;
            u8::MAX
        }
    })
}

fn damaged(problem: String) -> ImageError {
    ImageError::Damaged { format: Format::Png.name(), problem }
}

fn convert(error: DecodingError) -> ImageError {
    match error {
        DecodingError::LimitsExceeded => damaged("a part of it claims more memory than the picture could need".into()),
        e => damaged(e.to_string()),
    }
}
