//! Fetching one file over several connections, through redirects, cuts and servers that stall.

use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::choice::ModelFile;
use crate::config::Timing;
use crate::error::HubError;
use crate::http::{Answer, Client, broken_body, protocol};
use crate::hub::Watch;
use crate::journal::Partial;
use crate::retry::{Fault, Patience};
use crate::url::Url;
use crate::verify;

/// Bytes read and written at a time.
const BLOCK: usize = 128 << 10;

/// A file of a repository, and where the hub has it.
pub(crate) struct Remote<'a> {
    pub(crate) repo: &'a str,
    pub(crate) commit: &'a str,
    pub(crate) file: &'a ModelFile,
    /// `/resolve/` address.
    pub(crate) url: Url,
}

/// Fetches what is missing of `remote`, verifies it, and names it `blob`. The caller holds its lock.
pub(crate) fn fetch(client: &Client, remote: &Remote<'_>, blob: &Path, watch: &dyn Watch) -> Result<(), HubError> {
    let file = remote.file;
    let partial = Partial::open(blob, file.size, client.config().segment)?;
    let resumed = partial.arrived();
    fill(client, remote, &partial, watch)?;
    watch.verifying(&file.path);
    match verify::check(file, partial.path(), watch) {
        Ok(()) => {}
        // After a loss of power the journal may have said more than the file held. Nothing tells which bytes are wrong.
        Err(HubError::Checksum { .. }) if resumed > 0 => {
            partial.reset()?;
            fill(client, remote, &partial, watch)?;
            watch.verifying(&file.path);
            discard_wrong(verify::check(file, partial.path(), watch), &partial)?;
        }
        other => discard_wrong(other, &partial)?,
    }
    partial.finish(blob)
}

/// Bytes with a wrong checksum must not be gone on with.
fn discard_wrong(checked: Result<(), HubError>, partial: &Partial) -> Result<(), HubError> {
    if matches!(checked, Err(HubError::Checksum { .. })) {
        partial.reset()?;
    }
    checked
}

/// What the connections of one file share.
struct Shared<'a> {
    client: &'a Client,
    remote: &'a Remote<'a>,
    partial: &'a Partial,
    watch: &'a dyn Watch,
    /// Segments up to this one are taken.
    next: AtomicUsize,
    /// The address that the hub last redirected to.
    storage: Mutex<Option<Url>>,
    /// The server does not answer to ranges: one connection reads the whole file.
    whole: AtomicBool,
    stop: AtomicBool,
    failed: Mutex<Option<HubError>>,
}

fn fill(client: &Client, remote: &Remote<'_>, partial: &Partial, watch: &dyn Watch) -> Result<(), HubError> {
    watch.begin(&remote.file.path, remote.file.size, partial.arrived());
    let shared = Shared {
        client,
        remote,
        partial,
        watch,
        next: AtomicUsize::new(0),
        storage: Mutex::new(None),
        whole: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        failed: Mutex::new(None),
    };
    let open = (0..partial.segments()).filter(|&i| partial.missing(i).is_some()).count();
    let connections = open.min(client.config().connections.max(1));
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                if let Err(error) = shared.work() {
                    shared.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    shared.stop.store(true, Ordering::Relaxed);
                }
            });
        }
    });
    if let Some(error) = shared.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Ok(())
}

impl Shared<'_> {
    /// Fills segments until none is left.
    fn work(&self) -> Result<(), HubError> {
        let timing = &self.client.config().timing;
        let mut patience = Patience::new(timing, self.watch);
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.partial.segments() {
                return Ok(());
            }
            while let Some(range) = self.partial.missing(index) {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if self.watch.cancelled() {
                    return Err(HubError::Cancelled);
                }
                let before = self.partial.missing(index);
                let tried = self.attempt(range, timing);
                if self.partial.missing(index) != before && !is_stall(&tried) {
                    patience.progressed();
                }
                if let Err(fault) = tried {
                    // A signed address that expired, or a storage that fails: the hub names another.
                    self.storage.lock().unwrap_or_else(PoisonError::into_inner).take();
                    patience.failed(fault, &|| self.stop.load(Ordering::Relaxed))?;
                }
            }
        }
    }

    /// One request for a range, the second bound not included.
    fn attempt(&self, (first, end): (u64, u64), timing: &Timing) -> Result<(), Fault> {
        let known = self.storage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let url = known.as_ref().unwrap_or(&self.remote.url);
        let answer = self.client.get(url, Some((first, end - 1)), self.remote.repo)?;
        self.compare(&answer)?;
        if !self.client.is_hub(&answer.url) {
            *self.storage.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.url.clone());
        }
        let size = self.remote.file.size;
        let url = answer.url.clone();
        if answer.status == 206 {
            let range = answer.header("content-range").and_then(content_range);
            if range != Some((first, end - 1, size)) {
                return Err(protocol(&url, format!("other bytes than {first} to {} of {size}", end - 1)));
            }
            return self.receive(answer, first, end, timing);
        }
        // All of the file from its first byte on, whatever was asked for.
        if let Some(length) = answer.body.content_length().filter(|&length| length != size) {
            return Err(protocol(&url, format!("a file of {length} bytes where the hub lists {size}")));
        }
        if first > 0 || end < size {
            if self.whole.swap(true, Ordering::Relaxed) {
                // Another connection receives everything already.
                return self.wait_for_whole();
            }
            let received = self.receive(answer, 0, size, timing);
            self.whole.store(false, Ordering::Relaxed);
            return received;
        }
        self.receive(answer, 0, size, timing)
    }

    fn wait_for_whole(&self) -> Result<(), Fault> {
        while self.whole.load(Ordering::Relaxed) && !self.stop.load(Ordering::Relaxed) {
            if self.watch.cancelled() {
                return Err(Fault::Final(HubError::Cancelled));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }

    /// Compares what the hub says on its own answers with its listing.
    fn compare(&self, answer: &Answer) -> Result<(), Fault> {
        let (said, file) = (&answer.metadata, self.remote.file);
        let contradicts = |what: String| protocol(&self.remote.url, format!("{what}, unlike its list of files"));
        if let Some(commit) = said.commit.as_deref().filter(|&commit| commit != self.remote.commit) {
            return Err(contradicts(format!("the commit {}", shown(commit))));
        }
        if let Some(etag) = said.etag.as_deref().map(plain_etag).filter(|&etag| etag != file.etag) {
            return Err(contradicts(format!("the checksum {}", shown(etag))));
        }
        if let Some(size) = said.size.as_deref().filter(|size| size.parse() != Ok(file.size)) {
            return Err(contradicts(format!("a size of {} bytes", shown(size))));
        }
        Ok(())
    }

    /// Writes what arrives, from byte `at` of the file up to `end`.
    fn receive(&self, answer: Answer, mut at: u64, end: u64, timing: &Timing) -> Result<(), Fault> {
        let url = answer.url;
        let mut reader = answer.body.into_reader();
        let mut block = vec![0; BLOCK];
        let (mut since, mut received) = (Instant::now(), 0);
        while at < end {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.watch.cancelled() {
                return Err(Fault::Final(HubError::Cancelled));
            }
            let most = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
            let n = reader.read(&mut block[..most]).map_err(|error| broken_body(&url, &error))?;
            if n == 0 {
                let error = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection ended too early");
                return Err(broken_body(&url, &error));
            }
            let new = self.partial.put(at, &block[..n]).map_err(Fault::Final)?;
            self.watch.advance(new);
            at += n as u64;
            received += n as u64;
            let window = since.elapsed();
            if window >= timing.stall {
                if (received as f64) < timing.floor as f64 * window.as_secs_f64() {
                    let (url, floor) = (url.to_string(), timing.floor);
                    return Err(Fault::Again(HubError::Stalled { url, floor, window: timing.stall }, None));
                }
                (since, received) = (Instant::now(), 0);
            }
        }
        Ok(())
    }
}

fn is_stall(tried: &Result<(), Fault>) -> bool {
    matches!(tried, Err(Fault::Again(HubError::Stalled { .. }, _)))
}

/// First byte, last byte and size of `bytes 0-99/1000`.
fn content_range(header: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, size.trim().parse().ok()?))
}

/// An ETag without its quotes and mark of weakness.
fn plain_etag(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

/// The beginning of a header's value.
fn shown(value: &str) -> String {
    value.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_etags_are_read_strictly() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((0, 99, 1000)));
        for bad in ["", "bytes */1000", "bytes 0-99/*", "0-99/1000", "bytes -1-99/1000", "bytes 0-99", "bytes a-b/c"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(plain_etag("W/\"abc\""), "abc");
        assert_eq!(plain_etag("\"abc\""), "abc");
    }
}
