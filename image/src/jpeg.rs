//! JPEG: baseline, extended and progressive with Huffman coding and 8 bits, by the `image` crate.

use std::io::Cursor;

use ::image::codecs::jpeg::JpegDecoder;
use ::image::{ColorType, ImageDecoder};

use super::container::Format;
use super::decode::{Limits, convert_error, inner_limits, spread_grey};
use super::{ImageError, Rgb8, zeroed};

/// Scans times pixels: each scan of a progressive file can touch them all. 16 scans at the largest size, thousands for
/// a picture of a megapixel; encoders make about ten.
const MAX_SCANNED_PIXELS: u64 = 1 << 30;

/// What the segments of a JPEG say.
#[derive(Default)]
struct Outline {
    /// Marker, bits per sample, height, width and number of components of the frame.
    frame: Option<(u8, u8, u16, u16, u8)>,
    hierarchical: bool,
    scans: u64,
    /// Whether there is an end marker behind a scan. Decoders fill up what is missing with grey, in silence.
    whole: bool,
}

/// Walks all segments, stepping over those before the first scan (a thumbnail in them has an end marker of its own)
/// and searching scans for what follows them.
fn outline(bytes: &[u8]) -> Outline {
    let mut found = Outline::default();
    let mut at = 2;
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        if first != 0xff || marker == 0xff {
            at += 1; // fill bytes; and whatever stands between segments, which decoders skip
            continue;
        }
        match marker {
            0xd9 => {
                found.whole = found.scans > 0;
                break;
            }
            0x00 | 0x01 | 0xd0..=0xd8 => {
                at += 2;
                continue;
            }
            _ => {}
        }
        let Some(length) = bytes.get(at + 2..).and_then(<[u8]>::first_chunk) else { break };
        let length = usize::from(u16::from_be_bytes(*length));
        let content = bytes.get(at + 4..).unwrap_or_default();
        match marker {
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                if let Some(&[bits, h0, h1, w0, w1, components]) = content.first_chunk()
                    && found.frame.is_none()
                {
                    let (height, width) = (u16::from_be_bytes([h0, h1]), u16::from_be_bytes([w0, w1]));
                    found.frame = Some((marker, bits, height, width, components));
                }
            }
            0xde => found.hierarchical = true,
            0xda => found.scans += 1,
            _ => {}
        }
        at += 2 + length.max(2);
        if marker == 0xda {
            let scan = bytes.get(at..).unwrap_or_default();
            let end = scan.windows(2).position(|w| w[0] == 0xff && !matches!(w[1], 0 | 0xd0..=0xd7 | 0xff));
            at += end.unwrap_or(scan.len());
        }
    }
    found
}

/// Width and height by the frame header.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    outline(bytes).frame.map(|(_, _, height, width, _)| (width.into(), height.into()))
}

/// The pixels.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let outline = outline(bytes);
    if let Some(frame) = outline.frame {
        check_kind(frame.0, frame.1, frame.4, outline.hierarchical)?;
        limits.check_size(frame.3.into(), frame.2.into())?;
        let scanned = outline.scans.saturating_mul(u64::from(frame.2) * u64::from(frame.3));
        if scanned > MAX_SCANNED_PIXELS {
            return Err(ImageError::Limit {
                what: format!("{} scans of {}x{} pixels", outline.scans, frame.3, frame.2),
                limit: "scanned pixels",
                allowed: MAX_SCANNED_PIXELS,
                remedy: "save the picture again as an ordinary JPEG or PNG",
            });
        }
    }
    if !outline.whole {
        let problem = "its end marker is missing".to_owned();
        return Err(ImageError::Damaged { format: Format::Jpeg.name(), problem });
    }
    let error = |e| convert_error(e, Format::Jpeg);
    let mut decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(error)?;
    decoder.set_limits(inner_limits(limits)).map_err(error)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width.into(), height.into())?;
    let (width, height) = (width as usize, height as usize);
    let color = decoder.color_type();
    let length = (width * height).checked_mul(usize::from(color.bytes_per_pixel()));
    let mut data = zeroed(width, height, length.ok_or(ImageError::NoMemory { width, height, bytes: usize::MAX })?)?;
    decoder.read_image(&mut data).map_err(error)?;
    let rgb = match color {
        ColorType::Rgb8 => data,
        ColorType::L8 => spread_grey(&data, 1, (width, height), |p| p[0])?,
        other => return Err(unsupported(format!("its pixels are {other:?}"))),
    };
    Rgb8::new(width, height, rgb)
}

/// Refuses by name what the decoder does not know, so that nobody takes a sound file for a damaged one.
fn check_kind(marker: u8, bits: u8, components: u8, hierarchical: bool) -> Result<(), ImageError> {
    let kind = match marker {
        _ if hierarchical => "it is a hierarchical JPEG",
        0xc3 => "it is a lossless JPEG",
        0xc5..=0xc7 | 0xcd..=0xcf => "it is a hierarchical JPEG",
        0xcb => "it is a lossless JPEG with arithmetic coding",
        0xc9 | 0xca => "it is a JPEG with arithmetic coding",
        _ => "",
    };
    if !kind.is_empty() {
        return Err(unsupported(format!("{kind}, which is not supported")));
    }
    if bits != 8 {
        return Err(unsupported(format!("it is a JPEG of {bits} bits per sample, of which only 8 are supported")));
    }
    match components {
        1 | 3 | 4 => Ok(()),
        n => Err(unsupported(format!("it is a JPEG of {n} components, of which only 1, 3 and 4 are supported"))),
    }
}

fn unsupported(problem: String) -> ImageError {
    ImageError::Unsupported { format: Format::Jpeg.name(), problem }
}
