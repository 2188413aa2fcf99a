//! What can be wrong with a picture or a video.

use std::path::PathBuf;

/// A picture or video that cannot be used, with a reason and a remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// An error in the file at `path`.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ImageError>,
    },
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of no bytes.
    #[error("the picture is empty (0 bytes)")]
    Empty,
    /// No picture at all.
    #[error("no picture: {found}; known formats: PNG, JPEG, WebP, GIF, BMP")]
    UnknownFormat {
        /// What the file begins with.
        found: String,
    },
    /// A picture of a format that is recognised but not decoded.
    #[error("{name} pictures cannot be decoded; convert it to {remedy} (known formats: PNG, JPEG, WebP, GIF, BMP)")]
    UnsupportedFormat {
        /// The format.
        name: &'static str,
        /// What to convert it to.
        remedy: &'static str,
    },
    /// A picture that uses a part of its format that is not decoded.
    #[error("this {format} picture cannot be decoded: {problem}; save it again as an ordinary PNG or JPEG")]
    Unsupported {
        /// Its format.
        format: &'static str,
        /// What is not supported.
        problem: String,
    },
    /// A picture whose bytes contradict its format.
    #[error("the {format} picture is damaged or cut short: {problem}; get or save the file again")]
    Damaged {
        /// Its format.
        format: &'static str,
        /// What the decoder stumbled over.
        problem: String,
    },
    /// A decoder that panicked, which is a fault of the program.
    #[error("the decoder failed on this file; save the picture again as an ordinary PNG or JPEG, and please report it")]
    DecoderFailed,
    /// No thread to decode on.
    #[error("cannot start a thread to decode on: {source}; end other programs")]
    Thread {
        /// What the system said.
        source: std::io::Error,
    },
    /// Something beyond a limit of [`Limits`](super::Limits).
    #[error("{what}, more than the limit {limit} = {allowed}; {remedy}")]
    Limit {
        /// What was found.
        what: String,
        /// Name of the limit.
        limit: &'static str,
        /// Its value.
        allowed: u64,
        /// What to do to the file.
        remedy: &'static str,
    },
    /// Not enough memory for the pixels.
    #[error("no memory for {width}x{height} pixels ({bytes} bytes); use a smaller picture")]
    NoMemory {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// A size that no picture here can have, or data of another size.
    #[error("a picture of {width}x{height} pixels {problem}")]
    Size {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An option whose value makes no sense.
    #[error("{option}: {problem}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong, and what would do.
        problem: String,
    },
    /// A video or a folder of frames that cannot be used.
    #[error("{problem}")]
    Video {
        /// Why, and what to do.
        problem: String,
    },
    /// The program that decodes videos is not installed.
    #[error(
        "`{program}` was not found, and videos are decoded by ffmpeg; install it ({command}), or give a GIF, an animated \
         WebP or a folder of frames"
    )]
    NoFfmpeg {
        /// The program that was looked for.
        program: String,
        /// How to install it here.
        command: &'static str,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl ImageError {
    /// The same error, naming the file it is about.
    #[must_use]
    pub fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::InFile { .. } | Self::Open { .. } | Self::NoFfmpeg { .. } | Self::Interrupted => self,
            source => Self::InFile { path: path.to_owned(), source: Box::new(source) },
        }
    }
}
