//! How the camera was held, as Pillow's `ImageOps.exif_transpose` finds it: the orientation tag of the EXIF block, and
//! where that has none, `tiff:Orientation` of the XMP block.
//!
//! EXIF stands in JPEG's APP1 segments, PNG's eXIf chunk or, hexadecimal, a text chunk `Raw profile type exif`, and
//! WebP's EXIF chunk; XMP in APP1, a PNG text chunk `XML:com.adobe.xmp` and WebP's `XMP ` chunk. Nothing is an error
//! here: a block that cannot be read says nothing.

use std::borrow::Cow;
use std::io::Read;

use super::container::{Format, jpeg_segments, png_chunks, webp_metadata};

/// The most bytes a compressed text may have, as in Pillow.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// The orientation that a file gives, 2 to 8; nothing if it stands upright or does not say.
pub(super) fn orientation(bytes: &[u8], format: Format) -> Option<u8> {
    let (exif, xmp) = match format {
        Format::Png => png(bytes),
        Format::Jpeg => jpeg(bytes),
        Format::WebP => {
            let (exif, xmp) = webp_metadata(bytes);
            (exif.map(Cow::Borrowed), xmp.map(Cow::Borrowed))
        }
        Format::Gif | Format::Bmp => (None, None),
    };
    let number = exif.and_then(|block| exif_orientation(&block)).or_else(|| xmp_orientation(&xmp?));
    number.filter(|number| (2..=8).contains(number))
}

type Blocks<'a> = (Option<Cow<'a, [u8]>>, Option<Cow<'a, [u8]>>);

fn png(bytes: &[u8]) -> Blocks<'_> {
    let (mut exif, mut profile, mut xmp) = (None, None, None);
    for (name, content) in png_chunks(bytes) {
        if name == b"eXIf" {
            exif = Some(Cow::Borrowed(content));
        } else if let Some((key, text)) = png_text(name, content) {
            match key {
                b"Raw profile type exif" => profile = Some(text),
                b"XML:com.adobe.xmp" => xmp = Some(text),
                _ => {}
            }
        }
    }
    let exif = exif.or_else(|| from_hex(&profile?).map(Cow::Owned));
    (exif, xmp)
}

/// Key and text of a text chunk, where the key is one that is looked for.
fn png_text<'a>(name: &[u8], content: &'a [u8]) -> Option<(&'a [u8], Cow<'a, [u8]>)> {
    if ![b"tEXt", b"zTXt", b"iTXt"].iter().any(|known| *known == name) {
        return None;
    }
    let (key, rest) = split_at_zero(content)?;
    if ![&b"Raw profile type exif"[..], b"XML:com.adobe.xmp"].contains(&key) {
        return None;
    }
    let text = match (name, rest) {
        (b"tEXt", text) => Cow::Borrowed(text),
        (b"zTXt", [0, compressed @ ..]) => Cow::Owned(inflate(compressed)?),
        (b"iTXt", [flag @ (0 | 1), 0, rest @ ..]) => {
            let (_language, rest) = split_at_zero(rest)?;
            let (_translated, text) = split_at_zero(rest)?;
            if *flag == 1 { Cow::Owned(inflate(text)?) } else { Cow::Borrowed(text) }
        }
        _ => return None,
    };
    Some((key, text))
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn inflate(compressed: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(compressed).take(MAX_TEXT_BYTES + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= MAX_TEXT_BYTES).then_some(text)
}

/// The bytes of a raw profile: an empty line, its name, its length, and lines of hexadecimal digits.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.splitn(4, |&b| b == b'\n').nth(3)?;
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let digits: Option<Vec<u8>> = lines.iter().filter(|b| !b.is_ascii_whitespace()).map(|&b| digit(b)).collect();
    let (pairs, []) = digits.as_deref()?.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Several EXIF segments are one block that was too long for a segment; of several XMP segments the last counts.
fn jpeg(bytes: &[u8]) -> Blocks<'_> {
    let (mut exif, mut xmp) = (None::<Cow<'_, [u8]>>, None);
    for (marker, content) in jpeg_segments(bytes) {
        if marker != 0xe1 {
            continue;
        }
        if let Some(block) = content.strip_prefix(b"Exif\0\0") {
            match &mut exif {
                Some(first) => first.to_mut().extend_from_slice(block),
                None => exif = Some(Cow::Borrowed(block)),
            }
        } else if let Some(packet) = content.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
            xmp = Some(Cow::Borrowed(packet));
        }
    }
    (exif, xmp)
}

/// The orientation of the first directory of a TIFF structure, of any type that holds numbers. Pillow takes a single
/// byte for a text and not for a number, so that has no effect here either. Values that no `u8` is become 0.
fn exif_orientation(block: &[u8]) -> Option<u8> {
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let little = match block.get(..4)? {
        b"II*\0" | b"II\0*" => true,
        b"MM\0*" | b"MM*\0" => false,
        _ => return None,
    };
    let data = Ordered { block, little };
    let directory = usize::try_from(data.u32(4)?).ok()?;
    let count = usize::from(data.u16(directory)?);
    for entry in (0..count).map(|i| directory + 2 + 12 * i) {
        if data.u16(entry)? != 0x0112 {
            continue;
        }
        let size = match data.u16(entry + 2)? {
            6 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 => 8,
            _ => return Some(0),
        };
        let count = usize::try_from(data.u32(entry + 4)?).ok()?;
        if count == 0 {
            continue;
        }
        let inline = count.checked_mul(size)? <= 4;
        let at = if inline { entry + 8 } else { usize::try_from(data.u32(entry + 8)?).ok()? };
        return data.number(data.u16(entry + 2)?, at);
    }
    None
}

/// A TIFF structure in one of the two byte orders.
struct Ordered<'a> {
    block: &'a [u8],
    little: bool,
}

impl Ordered<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes: [u8; N] = *self.block.get(at..)?.first_chunk()?;
        if !self.little {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    /// A value of that type as a small number; 0 where it is none.
    fn number(&self, kind: u16, at: usize) -> Option<u8> {
        let whole = |value: f64| if value.fract() == 0.0 && (0.0..=8.0).contains(&value) { value } else { 0.0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let small = |value: f64| whole(value) as u8;
        Some(match kind {
            6 => self.bytes::<1>(at)?[0],
            3 | 8 => u8::try_from(self.u16(at)?).unwrap_or(0),
            4 | 9 | 13 => u8::try_from(self.u32(at)?).unwrap_or(0),
            16 => u8::try_from(self.bytes(at).map(u64::from_le_bytes)?).unwrap_or(0),
            11 => small(self.bytes(at).map(f32::from_le_bytes)?.into()),
            12 => small(self.bytes(at).map(f64::from_le_bytes)?),
            _ => small(f64::from(self.u32(at)?) / f64::from(self.u32(at.checked_add(4)?)?)),
        })
    }
}

/// The first `tiff:Orientation` of an XMP packet, as an attribute or as an element: its first digit.
fn xmp_orientation(packet: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = packet;
    while let Some(at) = rest.windows(NAME.len()).position(|w| w == NAME) {
        rest = rest.get(at + NAME.len()..)?;
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some([digit @ b'0'..=b'9', ..]) = value {
            return Some(digit - b'0');
        }
    }
    None
}

#[cfg(test)]
mod tests;
