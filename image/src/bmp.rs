//! BMP, read as Pillow reads it.
//!
//! ```text
//! file header (14 bytes: BM … offset of the pixels)  header (12 to 124 bytes)  [3 masks]  [palette]  rows
//! ```
//!
//! Rows stand upside down unless the height is negative, and are padded to 4 bytes. Pixels of 1, 4 and 8 bits are
//! indices of a palette, packed or run-length coded; of 16, 24 and 32 bits, colours. Channels of 5 and 6 bits are
//! spread over 0 to 255 by `v * 255 / max`, rounded down. Alpha is dropped.

use super::container::Format;
use super::decode::Limits;
use super::{ImageError, Rgb8, byte_len, zeroed};

const FILE_HEADER: usize = 14;

/// How pixels are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Plain,
    Rle8,
    Rle4,
}

struct Header {
    width: usize,
    height: usize,
    /// Rows go from the top to the bottom.
    top_down: bool,
    bits: usize,
    coding: Coding,
    /// Bits of red, green and blue in a pixel of 16 or 32 bits.
    masks: [u32; 3],
    palette: Vec<[u8; 3]>,
    /// Where the pixels begin.
    pixels: usize,
}

/// Width and height by the header.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let (width, height) = if u32_at(bytes, FILE_HEADER)? == 12 {
        (u16_at(bytes, 18)?.into(), u16_at(bytes, 20)?.into())
    } else {
        (u32_at(bytes, 18)?, u32_at(bytes, 22)?.cast_signed().unsigned_abs())
    };
    Some((width, height))
}

/// The pixels.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let (width, height) = size(bytes).ok_or_else(|| damaged("its header is cut short"))?;
    limits.check_size(width.into(), height.into())?;
    let header = header(bytes, width as usize, height as usize)?;
    let (width, height) = (header.width, header.height);
    let mut data = zeroed(width, height, byte_len(width, height)?)?;
    let row_at = |y: usize| 3 * width * if header.top_down { y } else { height - 1 - y };
    if header.coding == Coding::Plain {
        // Padded to 4 bytes, which the last row may lack.
        let (stride, used) = ((width * header.bits).div_ceil(32) * 4, (width * header.bits).div_ceil(8));
        for y in 0..height {
            let start = header.pixels.checked_add(y * stride);
            let row = start.and_then(|start| bytes.get(start..)?.get(..used));
            let row = row.ok_or_else(|| damaged(&format!("row {y} of {height} is missing")))?;
            convert_row(&header, row, &mut data[row_at(y)..][..3 * width]);
        }
    } else {
        let indices = run_lengths(bytes, &header)?;
        for (y, row) in indices.chunks_exact(width).enumerate() {
            for (to, &index) in data[row_at(y)..][..3 * width].as_chunks_mut::<3>().0.iter_mut().zip(row) {
                *to = header.palette[usize::from(index)];
            }
        }
    }
    Rgb8::new(width, height, data)
}

fn header(bytes: &[u8], width: usize, height: usize) -> Result<Header, ImageError> {
    let cut = || damaged("its header is cut short");
    let long = |at| u32_at(bytes, at).ok_or_else(cut);
    let size = long(FILE_HEADER)? as usize;
    let mut after = FILE_HEADER + size;
    let old = size == 12;
    if ![12, 40, 52, 56, 64, 108, 124].contains(&size) {
        return Err(unsupported(format!("its header has {size} bytes, which no known version has")));
    }
    let bits = usize::from(u16_at(bytes, if old { 24 } else { 28 }).ok_or_else(cut)?);
    let (compression, colors) = if old { (0, 0) } else { (long(30)?, long(46)?) };
    let top_down = !old && long(22)?.cast_signed() < 0;
    if ![1, 4, 8, 16, 24, 32].contains(&bits) {
        return Err(unsupported(format!("it has {bits} bits per pixel; 1, 4, 8, 16, 24 and 32 are supported")));
    }
    let mut masks = if bits == 16 { [0x7c00, 0x3e0, 0x1f] } else { [0xff_0000, 0xff00, 0xff] };
    let coding = match compression {
        0 => Coding::Plain,
        1 if bits == 8 => Coding::Rle8,
        2 if bits == 4 => Coding::Rle4,
        3 | 6 if bits >= 16 => {
            let found = [long(54)?, long(58)?, long(62)?];
            if size == 40 {
                // Behind the short header; a fourth, for alpha, stands there with compression 6.
                after += if compression == 6 { 16 } else { 12 };
            }
            if bits != 24 && found != [0; 3] {
                masks = check_masks(found, bits)?;
            }
            Coding::Plain
        }
        4 => return Err(unsupported("it holds a JPEG".into())),
        5 => return Err(unsupported("it holds a PNG".into())),
        other => return Err(unsupported(format!("compression {other} with {bits} bits per pixel is not known"))),
    };
    let entry = if old { 3 } else { 4 };
    let colors = if colors == 0 && bits <= 8 { 1 << bits } else { colors as usize };
    let mut pixels = u32_at(bytes, 10).ok_or_else(cut)? as usize;
    let mut palette = Vec::new();
    if bits <= 8 {
        if colors > 1 << 16 {
            return Err(damaged(&format!("its palette has {colors} colours")));
        }
        let end = after + entry * colors;
        palette = colours(bytes.get(after..end).unwrap_or_default(), entry, colors, bits);
        // Some writers forget the palette when they note where the pixels begin.
        if pixels == FILE_HEADER + size {
            pixels += entry * colors;
        }
        after = end;
    }
    if pixels == 0 {
        pixels = after;
    }
    Ok(Header { width, height, top_down, bits, coding, masks, palette, pixels })
}

/// 256 colours. Indices beyond the palette are black, or grey where it is the beginning of a grey ramp.
fn colours(palette: &[u8], entry: usize, colors: usize, bits: usize) -> Vec<[u8; 3]> {
    let known = palette.chunks_exact(entry).map(|c| [c[2], c[1], c[0]]);
    let ramp = |step: u8| known.clone().zip((0..=u8::MAX).step_by(step.into())).all(|(c, grey)| c == [grey; 3]);
    let whole = palette.len() == entry * colors;
    let rest = |index: u8| match bits {
        1 if whole && colors <= 2 && ramp(255) => [255 * index.min(1); 3],
        8 if whole && colors > 2 && ramp(1) => [index; 3],
        _ => [0; 3],
    };
    let mut all: Vec<_> = known.clone().take(256).collect();
    let from = u8::try_from(all.len()).map_or(0..0, |n| usize::from(n)..256);
    all.extend(from.filter_map(|index| u8::try_from(index).ok()).map(rest));
    all
}

fn check_masks(masks: [u32; 3], bits: usize) -> Result<[u32; 3], ImageError> {
    let possible = |mask: u32| {
        let run = mask >> mask.trailing_zeros().min(31);
        run & run.wrapping_add(1) == 0 && (bits == 32 || mask <= 0xffff)
    };
    if masks.iter().all(|&mask| possible(mask)) {
        return Ok(masks);
    }
    let [r, g, b] = masks;
    Err(unsupported(format!("its colour masks {r:#x}, {g:#x} and {b:#x} are not runs of bits within a pixel")))
}

/// A channel of a pixel, spread over a byte.
fn channel(pixel: u32, mask: u32) -> u8 {
    let shift = mask.trailing_zeros().min(31);
    let (value, most) = (u64::from((pixel & mask) >> shift), u64::from(mask >> shift));
    u8::try_from(value * 255 / most.max(1)).unwrap_or(u8::MAX)
}

fn convert_row(header: &Header, row: &[u8], to: &mut [u8]) {
    let to = to.as_chunks_mut::<3>().0;
    let masked = |pixel: u32| header.masks.map(|mask| channel(pixel, mask));
    match header.bits {
        24 => to.iter_mut().zip(row.chunks_exact(3)).for_each(|(to, p)| *to = [p[2], p[1], p[0]]),
        32 if header.masks == [0xff_0000, 0xff00, 0xff] => {
            to.iter_mut().zip(row.as_chunks::<4>().0).for_each(|(to, p)| *to = [p[2], p[1], p[0]]);
        }
        32 => to.iter_mut().zip(row.as_chunks().0).for_each(|(to, p)| *to = masked(u32::from_le_bytes(*p))),
        16 => to.iter_mut().zip(row.as_chunks().0).for_each(|(to, p)| *to = masked(u16::from_le_bytes(*p).into())),
        bits => {
            // The first pixel is in the highest bits of a byte.
            let (per_byte, mask) = (8 / bits, u8::MAX >> (8 - bits));
            for (to, &byte) in to.chunks_mut(per_byte).zip(row) {
                for (i, to) in to.iter_mut().enumerate() {
                    *to = header.palette[usize::from(byte >> (8 - bits * (i + 1)) & mask)];
                }
            }
        }
    }
}

/// The indices of a run-length coded picture, in the order of the file.
///
/// As in Pillow, whose reading is the reference: a line that ends where it began is not skipped, a run stops at the end
/// of its row, and literal pixels go on in the next.
fn run_lengths(bytes: &[u8], header: &Header) -> Result<Vec<u8>, ImageError> {
    let (width, all) = (header.width, header.width * header.height);
    let mut data = Vec::new();
    data.try_reserve_exact(all).map_err(|_| ImageError::NoMemory { width, height: header.height, bytes: all })?;
    let nibble = |byte: u8, i: usize| if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
    let (mut at, mut x) = (header.pixels, 0);
    while data.len() < all {
        let cut = || damaged("its run lengths end early");
        let &[count, byte] = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(cut)?;
        at += 2;
        match (count, byte) {
            (0, 0) => {
                data.resize(data.len().next_multiple_of(width), 0);
                x = 0;
            }
            // The rest is background.
            (0, 1) => break,
            (0, 2) => {
                let &[right, up] = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(cut)?;
                at += 2;
                data.resize(all.min(data.len() + usize::from(right) + usize::from(up) * width), 0);
                x = data.len() % width;
            }
            (0, literal) => {
                let count = usize::from(literal).min(all - data.len());
                let stored = if header.coding == Coding::Rle4 { count.div_ceil(2) } else { count };
                let pixels = bytes.get(at..).and_then(|rest| rest.get(..stored)).ok_or_else(cut)?;
                match header.coding {
                    Coding::Rle4 => data.extend((0..count).map(|i| nibble(pixels[i / 2], i))),
                    _ => data.extend_from_slice(pixels),
                }
                x += usize::from(literal);
                at += stored + (at + stored) % 2;
            }
            (count, byte) => {
                let count = usize::from(count).min(width.saturating_sub(x)).min(all - data.len());
                match header.coding {
                    Coding::Rle4 => data.extend((0..count).map(|i| nibble(byte, i))),
                    _ => data.resize(data.len() + count, byte),
                }
                x += count;
            }
        }
    }
    data.resize(all, 0);
    Ok(data)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn damaged(problem: &str) -> ImageError {
    ImageError::Damaged { format: Format::Bmp.name(), problem: problem.to_owned() }
}

fn unsupported(problem: String) -> ImageError {
    ImageError::Unsupported { format: Format::Bmp.name(), problem }
}
