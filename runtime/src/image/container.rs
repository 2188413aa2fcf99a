//! What is looked up in a picture file without a decoder: its format, and facts that decoders do not check.

use super::ImageError;

/// A format that is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
        }
    }
}

/// The format by the first bytes; the name of the file does not matter.
pub(super) fn format(bytes: &[u8]) -> Result<Format, ImageError> {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if at(0, b"\x89PNG\r\n\x1a\n") {
        return Ok(Format::Png);
    }
    if at(0, b"\xff\xd8\xff") {
        return Ok(Format::Jpeg);
    }
    if at(0, b"RIFF") && at(8, b"WEBP") {
        return Ok(Format::WebP);
    }
    if at(0, b"GIF87a") || at(0, b"GIF89a") {
        return Ok(Format::Gif);
    }
    if at(0, b"BM") {
        return Ok(Format::Bmp);
    }
    if let Some((name, remedy)) = undecoded(bytes, at) {
        return Err(ImageError::UnsupportedFormat { name, remedy });
    }
    let start = bytes.get(..bytes.len().min(12)).unwrap_or_default();
    Err(ImageError::UnknownFormat { found: format!("the file begins with \"{}\"", start.escape_ascii()) })
}

/// Formats that people try, and what to convert them to.
fn undecoded(bytes: &[u8], at: impl Fn(usize, &[u8]) -> bool) -> Option<(&'static str, &'static str)> {
    const PHOTO: &str = "JPEG or PNG";
    let brand = |brands: &[&[u8]]| at(4, b"ftyp") && brands.iter().any(|brand| at(8, brand));
    let text = bytes.get(..bytes.len().min(512)).unwrap_or_default();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    let contains = |word: &[u8]| text.windows(word.len()).any(|w| w == word);
    if brand(&[b"avif", b"avis"]) {
        Some(("AVIF", PHOTO))
    } else if brand(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        Some(("HEIC", PHOTO))
    } else if at(0, b"II*\0") || at(0, b"MM\0*") || at(0, b"II+\0") || at(0, b"MM\0+") {
        Some(("TIFF", "PNG"))
    } else if at(0, b"\xff\x0a") || at(0, b"\0\0\0\x0cJXL ") {
        Some(("JPEG XL", PHOTO))
    } else if at(0, b"\0\0\0\x0cjP  ") || at(0, b"\xff\x4f\xff\x51") {
        Some(("JPEG 2000", PHOTO))
    } else if at(0, b"8BPS") {
        Some(("Photoshop", "PNG"))
    } else if at(0, b"qoif") {
        Some(("QOI", "PNG"))
    } else if at(0, b"\0\0\x01\0") {
        Some(("ICO", "PNG"))
    } else if at(0, b"%PDF-") {
        Some(("PDF", "PNG, one page each"))
    } else if text.starts_with(b"<svg") || (text.starts_with(b"<") && contains(b"<svg")) {
        Some(("SVG", "PNG"))
    } else if at(4, b"ftyp") || at(0, b"\x1a\x45\xdf\xa3") {
        Some(("video", "single pictures, or give it as a video"))
    } else {
        None
    }
}

/// Whether a PNG's pixels are grey without alpha (its IHDR says colour type 0).
pub(super) fn png_is_grey(bytes: &[u8]) -> bool {
    bytes.get(25) == Some(&0)
}

/// Width and height in the header of a PNG.
pub(super) fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let &[w0, w1, w2, w3, h0, h1, h2, h3] = bytes.get(16..24)?.first_chunk()?;
    Some((u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3])))
}

/// Whether the scan of a JPEG has an end marker. Decoders fill up what is missing with grey, in silence.
///
/// The marker segments up to the first scan are stepped over: a thumbnail in them has an end marker of its own.
pub(super) fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2) {
        match marker {
            0xff => at += 1,
            0xda => return bytes.get(at..).is_some_and(|scan| scan.windows(2).any(|w| w == [0xff, 0xd9])),
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
        }
    }
    // Not a sequence of segments: whatever it is, the decoder says so.
    at < bytes.len()
}

/// Refuses what a decoder would allocate for before it compares it with the header.
pub(super) fn check(bytes: &[u8], format: Format, width: u32, height: u32) -> Result<(), ImageError> {
    if format == Format::WebP { check_webp(bytes, width, height) } else { Ok(()) }
}

/// Four-letter name and content of the RIFF chunks in `bytes`, as far as they are whole.
fn riff_chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_at_checked(8)?;
        let (name, length) = header.split_at_checked(4)?;
        let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
        let content = rest.get(..length)?;
        bytes = rest.get(length.checked_add(length % 2)?..).unwrap_or_default();
        Some((name, content))
    })
}

/// The EXIF block of a WebP.
pub(super) fn webp_exif(bytes: &[u8]) -> Option<&[u8]> {
    let (_, content) = riff_chunks(bytes.get(12..)?).find(|(name, _)| *name == b"EXIF")?;
    Some(content.strip_prefix(b"Exif\0\0").unwrap_or(content))
}

/// Every bitstream of a WebP must have no more pixels than its canvas.
fn check_webp(bytes: &[u8], width: u32, height: u32) -> Result<(), ImageError> {
    let check = |name: &[u8], content: &[u8]| match bitstream_size(name, content) {
        Some((w, h)) if w > width || h > height => Err(ImageError::Damaged {
            format: Format::WebP.name(),
            problem: format!("a bitstream of {w}x{h} in a canvas of {width}x{height}"),
        }),
        _ => Ok(()),
    };
    for (name, content) in riff_chunks(bytes.get(12..).unwrap_or_default()) {
        check(name, content)?;
        if name == b"ANMF" {
            for (name, content) in riff_chunks(content.get(16..).unwrap_or_default()) {
                check(name, content)?;
            }
        }
    }
    Ok(())
}

/// Width and height that the start of a lossy or lossless bitstream gives.
fn bitstream_size(name: &[u8], content: &[u8]) -> Option<(u32, u32)> {
    match name {
        b"VP8 " => {
            let &[w0, w1, h0, h1] = content.get(6..10)?.first_chunk()?;
            let size = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some((size(w0, w1), size(h0, h1)))
        }
        b"VP8L" => {
            let bits = u32::from_le_bytes(*content.get(1..5)?.first_chunk()?);
            Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
        }
        _ => None,
    }
}

/// How long each frame of a WebP animation is shown, in milliseconds.
pub(super) fn webp_delays(bytes: &[u8]) -> Vec<u32> {
    let delay = |content: &[u8]| match content.get(12..15) {
        Some(&[a, b, c]) => u32::from_le_bytes([a, b, c, 0]),
        _ => 0,
    };
    let frames = riff_chunks(bytes.get(12..).unwrap_or_default()).filter(|(name, _)| *name == b"ANMF");
    frames.map(|(_, content)| delay(content)).collect()
}

/// How long each frame of a GIF is shown, in milliseconds.
///
/// # Errors
/// [`ImageError::Damaged`] when the file ends within a block or has an unknown one.
pub(super) fn gif_delays(bytes: &[u8]) -> Result<Vec<u32>, ImageError> {
    gif_blocks(bytes).ok_or_else(|| ImageError::Damaged {
        format: Format::Gif.name(),
        problem: "its blocks end before the file does, or after it".into(),
    })
}

/// Walks the blocks of a GIF (GIF89a specification, appendix A).
fn gif_blocks(bytes: &[u8]) -> Option<Vec<u32>> {
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let sub_blocks = |mut at: usize| loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    };
    let mut delays = Vec::new();
    let mut delay = 0;
    let mut at = 13 + table(*bytes.get(10)?);
    loop {
        match bytes.get(at) {
            Some(0x21) => {
                if let Some(&[0xf9, 4, _, low, high]) = bytes.get(at + 1..at + 6) {
                    delay = 10 * u32::from(u16::from_le_bytes([low, high]));
                }
                at = sub_blocks(at + 2)?;
            }
            Some(0x2c) => {
                let flags = *bytes.get(at + 9)?;
                at = sub_blocks(at + 11 + table(flags))?;
                delays.push(std::mem::take(&mut delay));
            }
            // Some writers leave the trailer out.
            Some(0x3b) | None => return Some(delays),
            Some(_) => return None,
        }
    }
}
