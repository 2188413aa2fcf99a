//! WebP: pictures by the `image` crate; the frames of animations by the same, but put together here as libwebp's
//! animation decoder does, which Pillow uses.
//!
//! Its rules: the canvas starts transparent black, whatever background the file asks for; a frame that covers all and
//! is not blended, or follows one that left nothing, is a key frame, drawn onto an empty canvas as it is; pixels of
//! other blended frames are mixed with those below in integers, except where the frame before was disposed of.

use std::io::Cursor;

use ::image::codecs::webp::WebPDecoder;
use ::image::{ColorType, ImageDecoder};

use super::container::{Format, riff_chunks};
use super::decode::{Limits, convert_error, keep_rgb};
use super::gif::{MAX_FRAMES, too_many_frames};
use super::{ImageError, Rgb8, byte_len, zeroed};

/// The structure of an animation.
pub(super) struct Animation<'a> {
    width: usize,
    height: usize,
    frames: Vec<Part<'a>>,
}

/// One frame: where it is on the canvas, and its chunks.
struct Part<'a> {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    delay_ms: u32,
    blended: bool,
    disposed: bool,
    alpha: Option<&'a [u8]>,
    /// `VP8 ` (lossy) or `VP8L`, and its content.
    bitstream: (&'a [u8; 4], &'a [u8]),
}

impl Part<'_> {
    fn area(&self) -> u64 {
        self.width as u64 * self.height as u64
    }

    fn has_alpha(&self) -> bool {
        self.alpha.is_some() || (self.bitstream.0 == b"VP8L" && self.bitstream.1.get(4).is_some_and(|b| b & 0x10 != 0))
    }
}

/// Width and height by the header.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let (name, content) = riff_chunks(bytes.get(12..)?).next()?;
    if name == b"VP8X" { Some((u24(content, 4)? + 1, u24(content, 7)? + 1)) } else { bitstream_size(name, content) }
}

/// Whether it is an animation by its header.
pub(super) fn is_animated(bytes: &[u8]) -> bool {
    bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & 2 != 0)
}

/// A picture that is no animation.
///
/// # Errors
/// [`ImageError`] for what is damaged or beyond the limits.
pub(super) fn still(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    if let Some((width, height)) = size(bytes) {
        limits.check_size(width.into(), height.into())?;
        // The decoder allocates for a bitstream before it compares it with the header.
        for (name, content) in riff_chunks(bytes.get(12..).unwrap_or_default()) {
            check_bitstream(name, content, |w, h| w <= width && h <= height, (width, height))?;
        }
    }
    let Pixels { data, channels, width, height } = pixels(bytes, limits)?;
    let data = if channels == 4 { keep_rgb(data, 4, [0, 1, 2]) } else { data };
    Rgb8::new(width, height, data)
}

/// The first frame of an animation.
///
/// # Errors
/// As [`Animation::parse`] and [`Player::next`].
pub(super) fn first(bytes: &[u8], limits: &Limits) -> Result<Rgb8, ImageError> {
    let animation = Animation::parse(bytes, 1, limits)?;
    let mut player = Player::new(&animation)?;
    player.next(limits)?;
    player.picture()
}

/// Pixels as the decoder gives them.
struct Pixels {
    data: Vec<u8>,
    /// Bytes of a pixel: 3, or 4 with alpha.
    channels: usize,
    width: usize,
    height: usize,
}

fn pixels(bytes: &[u8], limits: &Limits) -> Result<Pixels, ImageError> {
    let error = |e| convert_error(e, Format::WebP);
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(error)?;
    let (width, height) = decoder.dimensions();
    limits.check_size(width.into(), height.into())?;
    let channels = match decoder.color_type() {
        ColorType::Rgb8 => 3,
        ColorType::Rgba8 => 4,
        other => {
            let problem = format!("its pixels are {other:?}");
            return Err(ImageError::Unsupported { format: Format::WebP.name(), problem });
        }
    };
    let (width, height) = (width as usize, height as usize);
    let mut data = zeroed(width, height, byte_len(width, height)? / 3 * channels)?;
    decoder.read_image(&mut data).map_err(error)?;
    Ok(Pixels { data, channels, width, height })
}

impl<'a> Animation<'a> {
    /// Walks the chunks of a file as far as the first `most` frames, without decoding any.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] when frames contradict the canvas or their own bitstreams, and [`ImageError::Limit`].
    pub(super) fn parse(bytes: &'a [u8], most: usize, limits: &Limits) -> Result<Self, ImageError> {
        let (width, height) = size(bytes).ok_or_else(|| damaged("its header is cut short".to_owned()))?;
        limits.check_size(width.into(), height.into())?;
        let length = bytes.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |length| u32::from_le_bytes(*length));
        if u64::from(length) + 8 > bytes.len() as u64 {
            return Err(damaged(format!("it is to have {} bytes and has {}", u64::from(length) + 8, bytes.len())));
        }
        let mut animation = Self { width: width as usize, height: height as usize, frames: Vec::new() };
        let chunks = riff_chunks(bytes.get(12..).unwrap_or_default()).filter(|(name, _)| *name == b"ANMF");
        for (_, content) in chunks.take(most) {
            let index = animation.frames.len();
            if index == MAX_FRAMES {
                return Err(too_many_frames());
            }
            let frame = part(content).ok_or_else(|| damaged(format!("frame {index} has no pixels or no header")))?;
            let (w, h) = (frame.width, frame.height);
            if frame.x + w > animation.width || frame.y + h > animation.height {
                let problem = format!("frame {index} of {w}x{h} is not inside the canvas of {width}x{height}");
                return Err(damaged(problem));
            }
            let (name, content) = frame.bitstream;
            let same = |bw: u32, bh: u32| (bw as usize, bh as usize) == (w, h);
            check_bitstream(name, content, same, (w, h))?;
            animation.frames.push(frame);
        }
        if animation.frames.is_empty() { Err(damaged("it has no frames".to_owned())) } else { Ok(animation) }
    }

    /// How long each frame is shown, in milliseconds.
    pub(super) fn delays(&self) -> Vec<u32> {
        self.frames.iter().map(|f| f.delay_ms).collect()
    }

    /// The number of pixels that are decoded, mixed, disposed of and handed on for these frames.
    pub(super) fn work(&self, wanted: &[usize]) -> u64 {
        let canvas = self.width as u64 * self.height as u64;
        let last = wanted.last().copied().unwrap_or(0);
        let frames: u64 = self.frames.iter().take(last + 1).map(|f| f.area() * if f.disposed { 2 } else { 1 }).sum();
        frames + canvas * (wanted.len() as u64 + 1)
    }
}

/// A frame by its ANMF chunk.
fn part(content: &[u8]) -> Option<Part<'_>> {
    let at = |offset| u24(content, offset).map(|n| n as usize);
    let flags = *content.get(15)?;
    let (mut alpha, mut bitstream) = (None, None);
    for (name, content) in riff_chunks(content.get(16..)?) {
        match name {
            b"ALPH" if alpha.is_none() && bitstream.is_none() => alpha = Some(content),
            b"VP8 " | b"VP8L" if bitstream.is_none() => bitstream = Some((name, content)),
            _ => {}
        }
    }
    let bitstream = bitstream?;
    Some(Part {
        x: 2 * at(0)?,
        y: 2 * at(3)?,
        width: at(6)? + 1,
        height: at(9)? + 1,
        delay_ms: u24(content, 12)?,
        blended: flags & 2 == 0,
        disposed: flags & 1 == 1,
        alpha: alpha.filter(|_| bitstream.0 == b"VP8 "),
        bitstream,
    })
}

/// Draws the frames of an animation, one after the other.
pub(super) struct Player<'a> {
    animation: &'a Animation<'a>,
    next: usize,
    /// Red, green, blue and alpha of all pixels.
    canvas: Vec<u8>,
    after_key_frame: bool,
}

impl<'a> Player<'a> {
    /// # Errors
    /// [`ImageError::NoMemory`].
    pub(super) fn new(animation: &'a Animation<'a>) -> Result<Self, ImageError> {
        let (width, height) = (animation.width, animation.height);
        let canvas = zeroed(width, height, byte_len(width, height)? / 3 * 4)?;
        Ok(Self { animation, next: 0, canvas, after_key_frame: false })
    }

    /// Draws the next frame; whether there is one.
    ///
    /// # Errors
    /// [`ImageError::Damaged`], [`ImageError::NoMemory`].
    pub(super) fn next(&mut self, limits: &Limits) -> Result<bool, ImageError> {
        let Animation { width, height, frames } = self.animation;
        let Some(frame) = frames.get(self.next) else { return Ok(false) };
        let covers = |frame: &Part<'_>| (frame.width, frame.height) == (*width, *height);
        let before = self.next.checked_sub(1).and_then(|before| frames.get(before));
        let gone = before.filter(|before| before.disposed);
        let key_frame = before.is_none()
            || ((!frame.has_alpha() || !frame.blended) && covers(frame))
            || gone.is_some_and(|gone| covers(gone) || self.after_key_frame);
        let Pixels { data, channels, .. } = decode_frame(frame, self.next, limits)?;
        if key_frame {
            // What the frame covers is overwritten anyway.
            if !covers(frame) {
                self.canvas.fill(0);
            }
        } else if let Some(gone) = gone {
            for y in gone.y..gone.y + gone.height {
                self.canvas[4 * (y * width + gone.x)..][..4 * gone.width].fill(0);
            }
        }
        let mixed = frame.blended && !key_frame;
        for (y, row) in data.chunks_exact(channels * frame.width).enumerate() {
            let y = frame.y + y;
            // Where the frame before was disposed of, pixels are put as they are.
            let bare = gone.filter(|gone| (gone.y..gone.y + gone.height).contains(&y));
            let bare = bare.map_or(0..0, |gone| gone.x..gone.x + gone.width);
            let to = &mut self.canvas[4 * (y * width + frame.x)..][..4 * frame.width];
            for (x, (to, from)) in to.as_chunks_mut::<4>().0.iter_mut().zip(row.chunks_exact(channels)).enumerate() {
                let from = [from[0], from[1], from[2], from.get(3).copied().unwrap_or(u8::MAX)];
                *to = if mixed && !bare.contains(&(frame.x + x)) { mix(from, *to) } else { from };
            }
        }
        self.after_key_frame = key_frame;
        self.next += 1;
        Ok(true)
    }

    /// The canvas as it is now, without its alpha.
    ///
    /// # Errors
    /// [`ImageError::NoMemory`].
    pub(super) fn picture(&self) -> Result<Rgb8, ImageError> {
        let (width, height) = (self.animation.width, self.animation.height);
        let mut data = zeroed(width, height, byte_len(width, height)?)?;
        for (to, from) in data.as_chunks_mut::<3>().0.iter_mut().zip(self.canvas.as_chunks::<4>().0) {
            *to = [from[0], from[1], from[2]];
        }
        Rgb8::new(width, height, data)
    }
}

/// A pixel over another, in libwebp's integers: the factor is a fraction of 2²⁴, rounded down.
fn mix(over: [u8; 4], below: [u8; 4]) -> [u8; 4] {
    let alpha = u32::from(over[3]);
    match alpha {
        0 => return below,
        255 => return over,
        _ => {}
    }
    let rest = (u32::from(below[3]) * (256 - alpha)) >> 8;
    let sum = alpha + rest;
    let scale = (1 << 24) / sum;
    let byte = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
    let channel = |i: usize| byte(((u32::from(over[i]) * alpha + u32::from(below[i]) * rest) * scale) >> 24);
    [channel(0), channel(1), channel(2), byte(sum)]
}

/// The pixels of a frame: its chunks are wrapped as a file of their own.
fn decode_frame(frame: &Part<'_>, index: usize, limits: &Limits) -> Result<Pixels, ImageError> {
    let chunk = |name: &[u8; 4], content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes();
        [&name[..], &length, content, &[0][..content.len() % 2]].concat()
    };
    let (name, content) = frame.bitstream;
    let mut chunks = Vec::new();
    if let Some(alpha) = frame.alpha {
        let side = |n: usize| u32::try_from(n - 1).unwrap_or(u32::MAX).to_le_bytes();
        let (w, h) = (side(frame.width), side(frame.height));
        chunks.extend(chunk(b"VP8X", &[&[0x10, 0, 0, 0][..], &w[..3], &h[..3]].concat()));
        chunks.extend(chunk(b"ALPH", alpha));
    }
    let mut bitstream = chunk(name, content);
    if name == b"VP8L"
        && let Some(flags) = bitstream.get_mut(8 + 4)
    {
        // Its header may deny alpha that its pixels have, which is no more than a hint to libwebp.
        *flags |= 0x10;
    }
    chunks.extend(bitstream);
    let file = chunk(b"RIFF", &[b"WEBP", &chunks[..]].concat());
    let pixels = pixels(&file, limits)?;
    if (pixels.width, pixels.height) == (frame.width, frame.height) {
        Ok(pixels)
    } else {
        Err(damaged(format!("frame {index} is not of the size it should be")))
    }
}

fn check_bitstream(
    name: &[u8],
    content: &[u8],
    fits: impl Fn(u32, u32) -> bool,
    (width, height): (impl std::fmt::Display, impl std::fmt::Display),
) -> Result<(), ImageError> {
    match bitstream_size(name, content) {
        Some((w, h)) if !fits(w, h) => Err(damaged(format!("a bitstream of {w}x{h} in a frame of {width}x{height}"))),
        _ => Ok(()),
    }
}

/// Width and height that the start of a lossy or lossless bitstream gives.
fn bitstream_size(name: &[u8], content: &[u8]) -> Option<(u32, u32)> {
    match name {
        b"VP8 " => {
            let &[w0, w1, h0, h1] = content.get(6..)?.first_chunk()?;
            let size = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some((size(w0, w1), size(h0, h1)))
        }
        b"VP8L" => {
            let bits = u32::from_le_bytes(*content.get(1..)?.first_chunk()?);
            Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
        }
        _ => None,
    }
}

fn u24(bytes: &[u8], at: usize) -> Option<u32> {
    let &[a, b, c] = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes([a, b, c, 0]))
}

fn damaged(problem: String) -> ImageError {
    ImageError::Damaged { format: Format::WebP.name(), problem }
}
