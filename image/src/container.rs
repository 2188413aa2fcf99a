//! What is looked up in a picture file without a decoder: its format, and its chunks or segments.

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

/// Name and content of the chunks of a PNG, as far as they are whole.
pub(super) fn png_chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_be_bytes(*rest.first_chunk()?)).ok()?;
        let name = rest.get(4..)?.first_chunk()?;
        let content = rest.get(8..)?.get(..length)?;
        rest = rest.get(12..)?.get(length..)?; // behind the checksum
        Some((name, content))
    })
}

/// Marker and content of the segments of a JPEG up to its first scan.
pub(super) fn jpeg_segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut at = 2;
    std::iter::from_fn(move || {
        loop {
            let &[0xff, marker] = bytes.get(at..at + 2)? else { return None };
            match marker {
                0xff => at += 1,
                0x01 | 0xd0..=0xd8 => at += 2,
                0xd9 | 0xda => return None,
                _ => {
                    let length = usize::from(u16::from_be_bytes(*bytes.get(at + 2..)?.first_chunk()?));
                    let content = bytes.get(at + 4..at + 2 + length)?;
                    at += 2 + length;
                    return Some((marker, content));
                }
            }
        }
    })
}

/// Four-letter name and content of the RIFF chunks in `bytes`, as far as they are whole.
pub(super) fn riff_chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_first_chunk::<8>()?;
        let (name, length) = header.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length.first_chunk()?)).ok()?;
        let content = rest.get(..length)?;
        bytes = rest.get(length.checked_add(length % 2)?..).unwrap_or_default();
        Some((name, content))
    })
}

/// The EXIF and the XMP block of a WebP. Its header must announce them, or readers do not look for them.
pub(super) fn webp_metadata(bytes: &[u8]) -> (Option<&[u8]>, Option<&[u8]>) {
    let mut found = (None, None);
    let mut chunks = riff_chunks(bytes.get(12..).unwrap_or_default());
    let Some((b"VP8X", &[flags, ..])) = chunks.next() else { return found };
    for (name, content) in chunks {
        match name {
            b"EXIF" if flags & 0x08 != 0 && found.0.is_none() => found.0 = Some(content),
            b"XMP " if flags & 0x04 != 0 && found.1.is_none() => found.1 = Some(content),
            _ => {}
        }
    }
    found
}
