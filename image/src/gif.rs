//! GIF, frame by frame as Pillow shows it.
//!
//! The file is walked once without decoding anything: every frame's place, palette, disposal and share of the bytes is
//! known before the first pixel is. Frames are then drawn in turn onto one canvas.
//!
//! The rules that are Pillow's and not the format's: the canvas grows with a frame that exceeds it; a disposal method
//! of 0 leaves the one before in force; what is disposed of to the background takes the frame's transparent colour,
//! without its transparency; and indices become colours with the frame after the first one that has a palette.

use weezl::{BitOrder, LzwStatus, decode::Decoder};

use super::container::Format;
use super::decode::Limits;
use super::{ImageError, Rgb8, byte_len, zeroed};

/// The most frames of a file; hours of film.
pub(super) const MAX_FRAMES: usize = 1 << 17;

/// A file's structure.
pub(super) struct Gif<'a> {
    bytes: &'a [u8],
    screen: (usize, usize),
    background: u8,
    global: Option<&'a [u8]>,
    frames: Vec<Part>,
}

/// One frame: where it is on the canvas and in the file.
struct Part {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    /// Place of a palette of its own.
    local: Option<(u32, u16)>,
    interlaced: bool,
    /// Bits of an index before compression, the first of its data.
    bits: u8,
    /// Place of the blocks of compressed data, and what they hold together.
    data: usize,
    data_bytes: usize,
    transparent: Option<u8>,
    disposal: u8,
    delay_ms: u32,
}

impl Part {
    fn area(&self) -> u64 {
        self.width as u64 * self.height as u64
    }
}

/// Colours by index; none if an index is its own grey value.
#[derive(Clone, Copy)]
struct Palette<'a>(Option<&'a [u8]>);

impl<'a> Palette<'a> {
    /// A palette that is the beginning of the grey ramp is none.
    fn new(table: &'a [u8]) -> Self {
        let grey = table.chunks_exact(3).zip(0u8..).all(|(c, i)| c == [i; 3]);
        Self((!grey).then_some(table))
    }

    /// The colour of a pixel: black beyond the palette.
    fn pixel(self, index: u8) -> [u8; 3] {
        let at = 3 * usize::from(index);
        match self.0 {
            None => [index; 3],
            Some(table) => table.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default(),
        }
    }

    /// The colour of a disposed area: the first one beyond the palette.
    fn fill(self, index: u8) -> [u8; 3] {
        let known = self.0.is_none_or(|table| 3 * usize::from(index) + 3 <= table.len());
        self.pixel(if known { index } else { 0 })
    }
}

impl<'a> Gif<'a> {
    /// Walks the blocks of a file (GIF89a specification, appendix A), as far as the first `most` frames.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] when it ends within a block, and [`ImageError::Limit`] for more than [`MAX_FRAMES`].
    pub(super) fn parse(bytes: &'a [u8], most: usize) -> Result<Self, ImageError> {
        let cut = || damaged("it ends within a block".to_owned());
        let u16_at = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let side = |at| u16_at(at).map(usize::from).ok_or_else(cut);
        let &[flags, background, _] = bytes.get(10..).and_then(<[u8]>::first_chunk).ok_or_else(cut)?;
        let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3usize << ((flags & 7) + 1) };
        let global = bytes.get(13..13 + table(flags)).ok_or_else(cut)?;
        let mut gif = Self {
            bytes,
            screen: (side(6)?, side(8)?),
            background: if flags & 0x80 == 0 { 0 } else { background },
            global: Palette::new(global).0,
            frames: Vec::new(),
        };
        let mut at = 13 + global.len();
        let (mut transparent, mut delay_ms, mut disposal) = (None, 0, 0);
        while gif.frames.len() < most {
            match bytes.get(at) {
                Some(0x21) => {
                    if let Some(&[0xf9, 4, flags, low, high, index]) = bytes.get(at + 1..).and_then(<[u8]>::first_chunk)
                    {
                        delay_ms = 10 * u32::from(u16::from_le_bytes([low, high]));
                        transparent = if flags & 1 == 1 { Some(index) } else { transparent };
                        disposal = if flags & 0x1c == 0 { disposal } else { flags >> 2 & 7 };
                    }
                    at = sub_blocks(bytes, at + 2).ok_or_else(cut)?.0;
                }
                Some(0x2c) => {
                    let flags = *bytes.get(at + 9).ok_or_else(cut)?;
                    let own = table(flags);
                    let bits = *bytes.get(at + 10 + own).ok_or_else(cut)?;
                    let data = at + 11 + own;
                    let (end, data_bytes) = sub_blocks(bytes, data).ok_or_else(cut)?;
                    let local = if own == 0 { None } else { u32::try_from(at + 10).ok().zip(u16::try_from(own).ok()) };
                    let (x, y, width, height) = (side(at + 1)?, side(at + 3)?, side(at + 5)?, side(at + 7)?);
                    let interlaced = flags & 0x40 != 0;
                    if gif.frames.len() == MAX_FRAMES {
                        return Err(too_many_frames());
                    }
                    gif.frames.push(Part {
                        x,
                        y,
                        width,
                        height,
                        local,
                        interlaced,
                        bits,
                        data,
                        data_bytes,
                        transparent,
                        disposal,
                        delay_ms,
                    });
                    (transparent, delay_ms) = (None, 0);
                    at = end;
                }
                // Some writers leave the trailer out.
                Some(0x3b) | None => break,
                // What stands between blocks is skipped.
                Some(_) => at += 1,
            }
        }
        if gif.frames.is_empty() { Err(damaged("it has no frames".to_owned())) } else { Ok(gif) }
    }

    /// How long each frame is shown, in milliseconds.
    pub(super) fn delays(&self) -> Vec<u32> {
        self.frames.iter().map(|f| f.delay_ms).collect()
    }

    /// The size of the canvas when frame `last` is drawn.
    fn size(&self, last: usize) -> (usize, usize) {
        let frames = self.frames.iter().take(last + 1);
        frames.fold(self.screen, |(w, h), f| (w.max(f.x + f.width), h.max(f.y + f.height)))
    }

    /// Refuses the file if a frame up to the last one wanted has fewer bytes than its pixels need, or a canvas is too
    /// large; else the number of pixels that are decoded, disposed of and handed on.
    pub(super) fn work(&self, wanted: &[usize], limits: &Limits) -> Result<u64, ImageError> {
        let last = wanted.last().copied().unwrap_or(0);
        let (width, height) = self.size(last);
        limits.check_size(width as u64, height as u64)?;
        let canvas = width as u64 * height as u64;
        // The canvas is once turned from indices into colours.
        let mut work = canvas * (wanted.len() as u64 + 1);
        for (index, frame) in self.frames.iter().take(last + 1).enumerate() {
            if frame.area() > most_pixels(frame.data_bytes, frame.bits) {
                return Err(damaged(format!("frame {index} has too few bytes for {}x{}", frame.width, frame.height)));
            }
            work += frame.area() * if frame.disposal >= 2 { 3 } else { 1 };
        }
        Ok(work)
    }

    fn palette(&self, frame: &Part) -> Palette<'a> {
        let local = frame.local.and_then(|(at, length)| self.bytes.get(at as usize..)?.get(..length.into()));
        local.map_or(Palette(self.global), Palette::new)
    }
}

/// Where the blocks that begin there end, and how many bytes they hold.
fn sub_blocks(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut held = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some((at, held));
        }
        held += length;
    }
}

/// The pixels that so many bytes can hold: the k-th code is at least `bits + 1` bits long and stands for k pixels at
/// most, and no code for more than there can be codes.
fn most_pixels(bytes: usize, bits: u8) -> u64 {
    let codes = bytes as u64 * 8 / (u64::from(bits) + 1);
    let growing = codes.min(4096);
    growing * (growing + 1) / 2 + (codes - growing) * 4096
}

/// The size of the screen by the header.
pub(super) fn screen(bytes: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| Some(u32::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?)));
    side(6).zip(side(8))
}

/// The first frame.
///
/// # Errors
/// As [`Gif::parse`], [`Gif::work`] and [`Player::next`].
pub(super) fn first(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let gif = Gif::parse(bytes, 1)?;
    gif.work(&[0], limits)?;
    let mut player = Player::new(&gif);
    player.next()?;
    player.picture()
}

/// Draws the frames of a file, one after the other.
pub(super) struct Player<'a> {
    gif: &'a Gif<'a>,
    next: usize,
    size: (usize, usize),
    canvas: Canvas<'a>,
    /// Whether a frame had a palette; the next one then finds colours and not indices.
    coloured: bool,
    /// The transparent index of the first frame, as long as the canvas has indices.
    transparent: Option<u8>,
    disposal: Option<Disposal>,
}

/// The picture so far.
enum Canvas<'a> {
    Indices(Vec<u8>, Palette<'a>),
    Colours(Vec<u8>),
}

/// What a frame leaves for the next one to find in its place: pixels of the canvas' kind.
struct Disposal {
    frame: usize,
    pixels: Left,
}

enum Left {
    Index(u8),
    Colour([u8; 3]),
    /// What was there before, in the canvas' bytes per pixel.
    Before(Vec<u8>),
}

impl<'a> Player<'a> {
    pub(super) fn new(gif: &'a Gif<'a>) -> Self {
        let canvas = Canvas::Indices(Vec::new(), Palette(None));
        Self { gif, next: 0, size: gif.screen, canvas, coloured: false, transparent: None, disposal: None }
    }

    /// Draws the next frame; whether there is one.
    ///
    /// # Errors
    /// [`ImageError::Damaged`], [`ImageError::NoMemory`].
    pub(super) fn next(&mut self) -> Result<bool, ImageError> {
        let gif = self.gif;
        let Some(frame) = gif.frames.get(self.next) else { return Ok(false) };
        let palette = gif.palette(frame);
        let pixels = decompress(gif.bytes, frame, self.next)?;
        if self.next == 0 {
            self.grow(gif.size(0), &[frame.transparent.unwrap_or(0)])?;
            self.canvas = match std::mem::replace(&mut self.canvas, Canvas::Colours(Vec::new())) {
                // A grey palette of the first frame yields to the file's.
                Canvas::Indices(indices, _) => Canvas::Indices(indices, Palette(palette.0.or(gif.global))),
                colours @ Canvas::Colours(_) => colours,
            };
            self.transparent = frame.transparent;
            self.disposal = match (frame.disposal, frame.transparent) {
                (2, index) => Some(Left::Index(index.unwrap_or(gif.background))),
                (3.., Some(index)) => Some(Left::Index(index)),
                _ => None,
            }
            .map(|pixels| Disposal { frame: 0, pixels });
            self.draw(frame, &pixels, None, palette);
        } else {
            self.dispose();
            if self.coloured && matches!(self.canvas, Canvas::Indices(..)) {
                self.canvas = Canvas::Colours(self.colours()?);
            }
            let indexed = matches!(self.canvas, Canvas::Indices(..));
            let pixels_left = match frame.disposal {
                2 if indexed => {
                    let index = self.transparent.or(frame.transparent).unwrap_or(gif.background);
                    Some(Left::Index(index))
                }
                2 => Some(Left::Colour(palette.fill(frame.transparent.unwrap_or(gif.background)))),
                3.. => Some(Left::Before(self.copy(frame)?)),
                _ => None,
            };
            self.disposal = pixels_left.map(|pixels| Disposal { frame: self.next, pixels });
            let new = match (indexed, frame.transparent) {
                (true, _) => &[0][..],
                (false, Some(_)) => &[0; 3],
                (false, None) => &palette.pixel(0),
            };
            if let Canvas::Indices(_, first) = &mut self.canvas
                && self.size != gif.size(self.next)
                && palette.0.is_some()
            {
                // Indices on a canvas that has to grow get this frame's colours.
                *first = palette;
            }
            self.grow(gif.size(self.next), new)?;
            self.draw(frame, &pixels, frame.transparent, palette);
        }
        self.coloured |= palette.0.is_some();
        self.next += 1;
        Ok(true)
    }

    /// The canvas as it is now.
    pub(super) fn picture(&self) -> Result<Rgb8, ImageError> {
        Rgb8::new(self.size.0, self.size.1, self.colours()?)
    }

    fn colours(&self) -> Result<Vec<u8>, ImageError> {
        let mut data = zeroed(self.size.0, self.size.1, byte_len(self.size.0, self.size.1)?)?;
        match &self.canvas {
            Canvas::Colours(colours) => data.copy_from_slice(colours),
            Canvas::Indices(indices, palette) => {
                let table: Vec<[u8; 3]> = (0..=u8::MAX).map(|index| palette.pixel(index)).collect();
                for (to, &index) in data.as_chunks_mut::<3>().0.iter_mut().zip(indices) {
                    *to = table[usize::from(index)];
                }
            }
        }
        Ok(data)
    }

    /// Makes the canvas that large; what is new has the value `new`.
    fn grow(&mut self, size: (usize, usize), new: &[u8]) -> Result<(), ImageError> {
        let (old, step) = (self.size, new.len());
        let canvas = match &mut self.canvas {
            Canvas::Indices(data, _) | Canvas::Colours(data) => data,
        };
        if old == size && !canvas.is_empty() {
            return Ok(());
        }
        let mut grown = zeroed(size.0, size.1, byte_len(size.0, size.1)? / 3 * step)?;
        if new.iter().any(|&byte| byte != 0) {
            grown.chunks_exact_mut(step).for_each(|pixel| pixel.copy_from_slice(new));
        }
        if !canvas.is_empty() {
            for (to, from) in grown.chunks_exact_mut(step * size.0).zip(canvas.chunks_exact(step * old.0)) {
                to[..from.len()].copy_from_slice(from);
            }
        }
        (*canvas, self.size) = (grown, size);
        Ok(())
    }

    /// The pixels in the frame's place; zeroes beyond the canvas.
    fn copy(&self, frame: &Part) -> Result<Vec<u8>, ImageError> {
        let (canvas, step) = match &self.canvas {
            Canvas::Indices(data, _) => (data, 1),
            Canvas::Colours(data) => (data, 3),
        };
        if frame.area() == 0 {
            return Ok(Vec::new());
        }
        let mut copy = zeroed(frame.width, frame.height, frame.width * frame.height * step)?;
        let rows = canvas.chunks_exact(step * self.size.0).skip(frame.y);
        for (to, from) in copy.chunks_exact_mut(step * frame.width).zip(rows) {
            let from = from.get(step * frame.x..).unwrap_or_default();
            let n = from.len().min(to.len());
            to[..n].copy_from_slice(&from[..n]);
        }
        Ok(copy)
    }

    /// Leaves in the last frame's place what it wants to be left.
    fn dispose(&mut self) {
        let Some(disposal) = self.disposal.take() else { return };
        let Some(frame) = self.gif.frames.get(disposal.frame).filter(|frame| frame.area() > 0) else { return };
        let (canvas, step) = match &mut self.canvas {
            Canvas::Indices(data, _) => (data, 1),
            Canvas::Colours(data) => (data, 3),
        };
        let rows = canvas.chunks_exact_mut(step * self.size.0).skip(frame.y).take(frame.height);
        for (y, row) in rows.enumerate() {
            let row = &mut row[step * frame.x..step * (frame.x + frame.width)];
            match &disposal.pixels {
                Left::Index(index) => row.fill(*index),
                Left::Colour(colour) => row.as_chunks_mut::<3>().0.fill(*colour),
                Left::Before(before) => row.copy_from_slice(&before[y * row.len()..][..row.len()]),
            }
        }
    }

    /// Puts the frame's pixels onto the canvas, but not those of the index `skip`.
    fn draw(&mut self, frame: &Part, pixels: &[u8], skip: Option<u8>, palette: Palette<'_>) {
        if frame.area() == 0 {
            return;
        }
        let table: Vec<[u8; 3]> = (0..=u8::MAX).map(|index| palette.pixel(index)).collect();
        for (y, row) in row_order(frame.height, frame.interlaced).zip(pixels.chunks_exact(frame.width)) {
            let at = (frame.y + y) * self.size.0 + frame.x;
            match &mut self.canvas {
                Canvas::Indices(indices, _) => {
                    let to = indices[at..at + frame.width].iter_mut();
                    to.zip(row).filter(|(_, index)| Some(**index) != skip).for_each(|(to, &index)| *to = index);
                }
                Canvas::Colours(colours) => {
                    let to = colours[3 * at..3 * (at + frame.width)].as_chunks_mut::<3>().0.iter_mut();
                    let shown = to.zip(row).filter(|(_, index)| Some(**index) != skip);
                    shown.for_each(|(to, &index)| *to = table[usize::from(index)]);
                }
            }
        }
    }
}

/// Numbers of the rows in the order of the file.
fn row_order(height: usize, interlaced: bool) -> impl Iterator<Item = usize> {
    let passes = if interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)][..] } else { &[(0, 1)] };
    passes.iter().flat_map(move |&(first, step)| (first..height).step_by(step))
}

/// The indices of a frame, in the order of the file.
fn decompress(bytes: &[u8], frame: &Part, index: usize) -> Result<Vec<u8>, ImageError> {
    if frame.area() == 0 {
        return Ok(Vec::new());
    }
    if !(1..=11).contains(&frame.bits) {
        return Err(damaged(format!("frame {index} has indices of {} bits", frame.bits)));
    }
    let short = || damaged(format!("the data of frame {index} ends too early"));
    let mut pixels = zeroed(frame.width, frame.height, frame.width * frame.height)?;
    let mut decoder = Decoder::new(BitOrder::Lsb, frame.bits);
    let (mut at, mut filled) = (frame.data, 0);
    while filled < pixels.len() {
        let length = usize::from(*bytes.get(at).ok_or_else(short)?);
        let mut block = bytes.get(at + 1..).and_then(|rest| rest.get(..length)).ok_or_else(short)?;
        at += 1 + length;
        if block.is_empty() {
            return Err(short());
        }
        while filled < pixels.len() {
            let step = decoder.decode_bytes(block, &mut pixels[filled..]);
            filled += step.consumed_out;
            block = &block[step.consumed_in..];
            match step.status {
                Err(e) => return Err(damaged(format!("frame {index}: {e}"))),
                Ok(LzwStatus::Done) if filled < pixels.len() => return Err(short()),
                Ok(_) if step.consumed_in == 0 && step.consumed_out == 0 => break,
                Ok(_) => {}
            }
        }
    }
    Ok(pixels)
}

pub(super) fn too_many_frames() -> ImageError {
    ImageError::Limit {
        what: "the animation has more frames".to_owned(),
        limit: "frames of an animation",
        allowed: MAX_FRAMES as u64,
        remedy: "cut it into shorter ones",
    }
}

fn damaged(problem: String) -> ImageError {
    ImageError::Damaged { format: Format::Gif.name(), problem }
}
