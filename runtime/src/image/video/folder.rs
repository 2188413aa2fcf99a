//! A folder of pictures as a video: every picture is a frame, in the natural order of their names.

use std::cmp::Ordering;
use std::path::Path;

use super::{Frame, ImageError, Job, sample, video_error};
use crate::image::decode::read;

const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];

pub(super) fn frames(path: &Path, job: &mut Job<'_>) -> Result<(), ImageError> {
    let open = |source| ImageError::Open { path: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(open)? {
        let name = entry.map_err(open)?.file_name();
        let extension = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if EXTENSIONS.contains(&extension.as_str()) && !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    if names.is_empty() {
        let known = EXTENSIONS.join(", ");
        return Err(video_error(format!("the folder has no pictures; frames are files that end in: {known}")));
    }
    names.sort_by(|a, b| natural(a.as_encoded_bytes(), b.as_encoded_bytes()));
    let chosen = sample(names.len(), 1.0, 1.0, job.options.max_frames);
    for &index in &chosen {
        job.check_interrupt()?;
        let Some(name) = names.get(index) else { break };
        let image = read(&path.join(name), &job.decode_options())?;
        job.deliver(Frame { index, seconds: None, image }, chosen.len())?;
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
