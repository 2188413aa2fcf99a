//! A folder of pictures as a video: every picture is a frame, in the natural order of their names.

use std::cmp::Ordering;
use std::path::Path;

use super::{Frame, ImageError, Job, check_work, sample, video_error};
use crate::decode::{decode_with_notes, read_as, size};
use crate::open::{Pipes, open as open_file, read_up_to};

/// The start of a file in which its size is looked for beforehand.
const HEADER_BYTES: u64 = 64 << 10;

/// The most pictures that are looked at; days of film.
const MAX_PICTURES: usize = 1 << 20;

const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];

pub(super) fn frames(path: &Path, job: &mut Job<'_>) -> Result<(), ImageError> {
    let open = |source| ImageError::Open { path: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(open)? {
        let name = entry.map_err(open)?.file_name();
        let extension = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if EXTENSIONS.contains(&extension.as_str()) && !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
            if names.len() > MAX_PICTURES {
                return Err(video_error(format!("the folder has more than {MAX_PICTURES} pictures; divide it")));
            }
        }
    }
    if names.is_empty() {
        let known = EXTENSIONS.join(", ");
        return Err(video_error(format!("the folder has no pictures; frames are files that end in: {known}")));
    }
    names.sort_by(|a, b| natural(a.as_encoded_bytes(), b.as_encoded_bytes()));
    let chosen = sample(names.len(), 1.0, 1.0, job.options.max_frames);
    let chosen: Vec<_> = chosen.into_iter().filter_map(|index| Some((index, path.join(names.get(index)?)))).collect();
    // By the headers first, so that what is too much is refused before anything is decoded.
    let mut pixels = 0u64;
    for (_, path) in &chosen {
        job.check_interrupt()?;
        let open = |source| ImageError::Open { path: path.clone(), source };
        let (file, metadata) = open_file(path, Pipes::Refuse).map_err(open)?;
        let start = read_up_to(file, &metadata, HEADER_BYTES).map_err(open)?;
        if let Some((width, height)) = size(&start) {
            job.options.limits.check_size(width.into(), height.into()).map_err(|e| e.in_file(path))?;
            pixels += u64::from(width) * u64::from(height);
        }
    }
    check_work(pixels, chosen.len(), job.options.max_work_pixels)?;
    pixels = 0;
    for (index, path) in &chosen {
        job.check_interrupt()?;
        let bytes = read_as(path, &job.options.limits, Pipes::Refuse)?;
        let (image, note) = decode_with_notes(&bytes, &job.decode_options()).map_err(|e| e.in_file(path))?;
        pixels += image.width() as u64 * image.height() as u64;
        check_work(pixels, chosen.len(), job.options.max_work_pixels)?;
        job.deliver(Frame { index: *index, seconds: None, image, note }, chosen.len())?;
    }
    Ok(())
}

/// Compares names so that runs of digits count as numbers: `f2` before `f10`.
pub(super) fn natural(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let whole = a.cmp(b);
    while let (Some(&x), Some(&y)) = (a.first(), b.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (m, n) = (take_number(&mut a), take_number(&mut b));
            m.len().cmp(&n.len()).then(m.cmp(n))
        } else {
            (a, b) = (&a[1..], &b[1..]);
            x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase())
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    // Names that differ only in case or leading zeroes still have one order.
    a.len().cmp(&b.len()).then(whole)
}

/// Takes the leading digits off, and gives them without leading zeroes.
fn take_number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeroes = digits.iter().take_while(|&&c| c == b'0').count();
    &digits[zeroes..]
}
