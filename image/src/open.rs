//! Opening what a path leads to without ever waiting for somebody to write to it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// Whether a pipe will do (as from `<(…)` in a shell), or only a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pipes {
    Read,
    Refuse,
}

/// How long a pipe may have no writer, and how long a writer may be silent.
const NO_WRITER: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(10);

/// Opens a file, or a pipe where that is wanted. What it is, is asked of the handle: between a look at the path and
/// opening it, another thing could take its place.
pub(super) fn open(path: &Path, pipes: Pipes) -> Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A named pipe without a writer would be waited for; a file does not mind.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    match kind(&metadata) {
        None => Ok((file, metadata)),
        Some(PIPE) if pipes == Pipes::Read => Ok((file, metadata)),
        Some("a folder") => Err(Error::new(ErrorKind::IsADirectory, "it is a folder, not a file")),
        Some(kind) => Err(Error::other(format!("it is {kind}, not a file; save the content to a file first"))),
    }
}

const PIPE: &str = "a named pipe";

/// What it is, if no regular file.
fn kind(metadata: &Metadata) -> Option<&'static str> {
    if metadata.is_file() {
        return None;
    }
    if metadata.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_fifo() {
            return Some(PIPE);
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    Some("a device")
}

/// Reads at most `most` bytes. A pipe is waited for, but not for ever.
pub(super) fn read_up_to(mut file: File, metadata: &Metadata, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if metadata.is_file() {
        file.take(most).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    let mut buffer = vec![0; 1 << 16];
    let mut since = Instant::now();
    let silent = |limit: Duration, what: &str| Err(Error::new(ErrorKind::TimedOut, format!("{what} for {limit:?}")));
    while (bytes.len() as u64) < most {
        match file.read(&mut buffer) {
            Ok(0) if !bytes.is_empty() => break,
            // Nobody has it open for writing, yet.
            Ok(0) if since.elapsed() > NO_WRITER => return silent(NO_WRITER, "it is a pipe that nobody wrote to"),
            Err(e) if e.kind() == ErrorKind::WouldBlock && since.elapsed() > SILENCE => {
                return silent(SILENCE, "it is a pipe whose writer said nothing");
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(e),
            Ok(0) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
            Ok(n) => {
                bytes.extend_from_slice(&buffer[..n]);
                since = Instant::now();
            }
        }
    }
    bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    Ok(bytes)
}
