//! Pictures and videos for a vision model: bytes in, slices of the sizes that the vision tower wants out.
//!
//! ```text
//!   file ──► decode ──► orientation ──► Rgb8 ──► plan ──► slice ──► overview, tile 0, tile 1, …
//!   video ──► frames ──────────────────► Rgb8 ─────┘        │
//!                                                        resize
//!
//!   decode   PNG, JPEG, WebP, GIF, BMP -> Rgb8, within limits that are checked before memory is claimed, on a thread
//!            whose panic is an error
//!   video    ffmpeg, GIF, animated WebP or a folder of frames -> the sampled frames
//!   slice    Rgb8 -> overview and tiles, by the rules of the published code or those of llama.cpp
//!   resize   bicubic with antialiasing in fixed point, equal to Pillow's bit for bit
//! ```
//!
//! Pixels stay 8-bit up to the tower: normalising them is the tower's first step.
#![forbid(unsafe_code)]

mod bmp;
mod container;
mod decode;
mod error;
mod gif;
mod guard;
mod jpeg;
mod open;
mod orientation;
mod png;
pub mod resize;
mod slice;
pub mod video;
mod webp;

pub use decode::{
    DecodeNote, DecodeOptions, Grey16, Limits, Orientation, decode, decode_with_notes, may_be_noted, read, read_file,
};
pub use error::ImageError;
pub use guard::DECODE_THREAD;
pub use resize::PassOrder;
pub use slice::{Content, MAX_SLICE_NUMS, Plan, Profile, SliceOptions, Sliced, Tiles, plan, slice};

/// The longest side that an [`Rgb8`] can have. Sizes derived from it fit an `i64`, and products of two an `f64`.
pub const MAX_SIDE: usize = 1 << 20;

/// A picture of 8-bit red, green and blue: rows from the top, pixels from the left, 3 bytes each, no padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb8 {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl Rgb8 {
    /// Takes `data` of `width * height * 3` bytes.
    ///
    /// # Errors
    /// [`ImageError::Size`] when a side is 0 or above [`MAX_SIDE`], or `data` has another length.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self, ImageError> {
        let bytes = byte_len(width, height)?;
        if data.len() != bytes {
            let problem = format!("needs {bytes} bytes, not {}", data.len());
            return Err(ImageError::Size { width, height, problem });
        }
        Ok(Self { width, height, data })
    }

    /// A black picture.
    ///
    /// # Errors
    /// As [`Rgb8::new`], and [`ImageError::NoMemory`].
    pub fn black(width: usize, height: usize) -> Result<Self, ImageError> {
        let data = zeroed(width, height, byte_len(width, height)?)?;
        Ok(Self { width, height, data })
    }

    /// Pixels in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// All pixels.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Gives the pixels away.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// A copy of the `width` x `height` pixels whose first is at (`x`, `y`).
    ///
    /// # Errors
    /// [`ImageError::Size`] when that is not inside the picture.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<Self, ImageError> {
        let inside = |from: usize, len: usize, all: usize| from.checked_add(len).is_some_and(|end| end <= all);
        if !inside(x, width, self.width) || !inside(y, height, self.height) {
            let problem = format!("at ({x}, {y}) is not inside {}x{}", self.width, self.height);
            return Err(ImageError::Size { width, height, problem });
        }
        let mut out = Self::black(width, height)?;
        let rows = self.data.chunks_exact(3 * self.width).skip(y);
        for (to, from) in out.data.chunks_exact_mut(3 * width).zip(rows) {
            to.copy_from_slice(&from[3 * x..3 * (x + width)]);
        }
        Ok(out)
    }

    /// Copies `other` into this picture with its first pixel at (`x`, `y`); what sticks out is left away.
    fn paste(&mut self, other: &Self, x: usize, y: usize) {
        let width = other.width.min(self.width.saturating_sub(x));
        let rows = self.data.chunks_exact_mut(3 * self.width).skip(y);
        for (to, from) in rows.zip(other.data.chunks_exact(3 * other.width)) {
            if width > 0 {
                to[3 * x..3 * (x + width)].copy_from_slice(&from[..3 * width]);
            }
        }
    }
}

impl std::fmt::Debug for Rgb8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb8({}x{})", self.width, self.height)
    }
}

/// The bytes of a picture of that size.
fn byte_len(width: usize, height: usize) -> Result<usize, ImageError> {
    let size = |problem: String| ImageError::Size { width, height, problem };
    if width == 0 || height == 0 {
        return Err(size("has no pixels".into()));
    }
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(size(format!("has a side above {MAX_SIDE}")));
    }
    width
        .checked_mul(height)
        .and_then(|n| n.checked_mul(3))
        .filter(|&n| isize::try_from(n).is_ok())
        .ok_or_else(|| size("is larger than the address space".into()))
}

/// `bytes` zeroes for a picture of that size, or an error where the system would end the program. Whether there is room
/// is tried first, because only the infallible way gets pages that cost nothing before they are written to: a file that
/// claims many pixels and has few of them does not fill the memory.
fn zeroed(width: usize, height: usize, bytes: usize) -> Result<Vec<u8>, ImageError> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| ImageError::NoMemory { width, height, bytes })?;
    Ok(vec![0; bytes])
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod pillow_tests;
#[cfg(test)]
mod tests;
