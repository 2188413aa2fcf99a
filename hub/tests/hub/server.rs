//! A hub on loopback that speaks the real one's protocol, with a storage on another port and faults on demand.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// The commit of every repository.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(step).collect()
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// Whether it came to the storage's port.
    pub(crate) storage: bool,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Arc<Vec<u8>>,
    /// Part of the body that is sent.
    pub(crate) range: Option<(usize, usize)>,
    /// The connection ends after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// One byte at a time, with this pause.
    pub(crate) drip: Option<Duration>,
    /// Length that is claimed in place of the true one.
    pub(crate) claim: Option<usize>,
    /// Neither length nor end.
    pub(crate) endless: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self { status: 200, body: Arc::new(value.to_string().into_bytes()), ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

pub(crate) struct HubFile {
    pub(crate) bytes: Arc<Vec<u8>>,
    /// Kept in the storage, with its SHA-256 as ETag; otherwise sent by the hub itself.
    pub(crate) large: bool,
    etag: String,
}

impl HubFile {
    fn new(bytes: Vec<u8>) -> Self {
        let large = bytes.len() >= 1000;
        let etag = if large {
            hex(Sha256::digest(&bytes))
        } else {
            let blob = format!("blob {}\0", bytes.len());
            hex(Sha1::new_with_prefix(blob).chain_update(&bytes).finalize())
        };
        Self { bytes: Arc::new(bytes), large, etag }
    }

    pub(crate) fn etag(&self) -> String {
        self.etag.clone()
    }
}

type Hook = Box<dyn Fn(&Request) -> Option<Reply> + Send>;

/// What the servers do, and what they saw.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<(String, String), HubFile>,
    pub(crate) log: Vec<Request>,
    /// Answers in place of the usual ones.
    pub(crate) hook: Option<Hook>,
    /// Lengths after which the next answers of the storage are cut.
    pub(crate) cuts: VecDeque<usize>,
    /// Answers of the storage to ranges: none, as if it did not know them.
    pub(crate) no_ranges: bool,
    /// Bytes of the storage are not those of the file.
    pub(crate) corrupt: bool,
    /// Signatures of storage addresses below this number have expired.
    pub(crate) valid_from: usize,
    /// Signatures given out.
    pub(crate) signed: usize,
    /// Token that a repository wants.
    pub(crate) token: Option<String>,
    /// Entries of a page of a listing; 0: all.
    pub(crate) page: usize,
    /// Small files come through a relative redirect.
    pub(crate) relative: bool,
    storage: String,
    hub: String,
}

#[derive(Clone)]
pub(crate) struct FakeHub {
    state: Arc<Mutex<State>>,
    pub(crate) endpoint: String,
}

impl FakeHub {
    pub(crate) fn start() -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, storage) = (listen(), listen());
        let address = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
        let state = State { storage: address(&storage), hub: address(&hub), ..State::default() };
        let fake = Self { endpoint: state.hub.clone(), state: Arc::new(Mutex::new(state)) };
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let state = Arc::clone(&fake.state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || serve(&stream, &state, is_storage));
                }
            });
        }
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn add(&self, repo: &str, path: &str, bytes: Vec<u8>) {
        let file = HubFile::new(bytes);
        self.state().files.insert((repo.to_owned(), path.to_owned()), file);
    }

    pub(crate) fn hook(&self, hook: impl Fn(&Request) -> Option<Reply> + Send + 'static) {
        self.state().hook = Some(Box::new(hook));
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.state().log.clone()
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>, storage: bool) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader, storage) {
        let reply = {
            let mut state = state.lock().unwrap();
            state.log.push(request.clone());
            let hooked = state.hook.as_ref().and_then(|hook| hook(&request));
            match hooked {
                Some(reply) => reply,
                None if storage => from_storage(&mut state, &request),
                None => from_hub(&mut state, &request),
            }
        };
        if !write_reply(stream, &request, &reply) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>, storage: bool) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => return Some(Request { method, target, headers, storage }),
        };
    }
}

/// Whether the connection may be used again.
fn write_reply(mut stream: &TcpStream, request: &Request, reply: &Reply) -> bool {
    let (first, end) = reply.range.unwrap_or((0, reply.body.len()));
    let body = &reply.body[first..end];
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    if !reply.endless && !reply.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length")) {
        head += &format!("Content-Length: {}\r\n", reply.claim.unwrap_or(body.len()));
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    if stream.write_all(head.as_bytes()).is_err() {
        return false;
    }
    if request.method == "HEAD" {
        return true;
    }
    if reply.endless {
        while stream.write_all(&[b' '; 4096]).is_ok() {}
        return false;
    }
    let sent = &body[..reply.cut.unwrap_or(body.len()).min(body.len())];
    let written = match reply.drip {
        None => stream.write_all(sent).is_ok(),
        Some(pause) => sent.iter().all(|byte| {
            std::thread::sleep(pause);
            stream.write_all(&[*byte]).is_ok()
        }),
    };
    written && sent.len() == body.len() && reply.claim.is_none()
}

fn from_storage(state: &mut State, request: &Request) -> Reply {
    // As the real one: a token is an error here, and an address is only good with its signature, byte for byte.
    if request.header("authorization").is_some() {
        return Reply::status(400);
    }
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let number = query.strip_prefix("X-Sig=a%2Fb%2Bc%3D~(1)&n=").and_then(|n| n.parse::<usize>().ok());
    if number.is_none_or(|n| n < state.valid_from) {
        return Reply { body: Arc::new(b"<Error>Expired</Error>".to_vec()), ..Reply::status(403) };
    }
    let Some(file) = state.files.values().find(|f| path.ends_with(&f.etag())) else { return Reply::status(404) };
    let mut bytes = Arc::clone(&file.bytes);
    if state.corrupt {
        let mut wrong = bytes.to_vec();
        wrong[0] ^= 1;
        bytes = Arc::new(wrong);
    }
    // The storage's ETag is not the checksum.
    let mut reply = ranged(request, bytes, state.no_ranges).with("ETag", "\"storage-etag\"");
    // At least one byte is held back, so that a cut is one; the last bytes of a range come, so that it ends.
    let length = reply.range.map_or(reply.body.len(), |(first, end)| end - first);
    if length > 1_000 {
        reply.cut = state.cuts.pop_front().map(|cut| cut.min(length - 1));
    }
    reply
}

fn ranged(request: &Request, body: Arc<Vec<u8>>, no_ranges: bool) -> Reply {
    let size = body.len();
    let range = request.header("range").filter(|_| !no_ranges).and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
    match range {
        None => Reply { status: 200, body, ..Reply::default() },
        Some((first, last)) => {
            let first: usize = first.parse().unwrap();
            let last = last.parse::<usize>().unwrap_or(size - 1).min(size.saturating_sub(1));
            if first >= size {
                return Reply::status(416);
            }
            Reply { status: 206, body, range: Some((first, last + 1)), ..Reply::default() }
                .with("Content-Range", format!("bytes {first}-{last}/{size}"))
        }
    }
}

fn from_hub(state: &mut State, request: &Request) -> Reply {
    let path = request.path().to_owned();
    let refused =
        |status, code: &str| Reply::status(status).with("X-Error-Code", code).with("X-Error-Message", "refused");
    let sent = request.header("authorization").map(|a| a.trim_start_matches("Bearer ").to_owned());
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let parts: Vec<&str> = rest.split('/').collect();
        let [user, repo, rest @ ..] = parts.as_slice() else { return Reply::status(404) };
        let repo = format!("{user}/{repo}");
        if !state.files.keys().any(|(r, _)| *r == repo) {
            return refused(if sent.is_some() { 404 } else { 401 }, "RepoNotFound");
        }
        let files = state.files.iter().filter(|((r, _), _)| *r == repo);
        return match rest {
            [] | ["revision", "main" | COMMIT] => {
                let siblings: Vec<_> = files.map(|((_, path), _)| serde_json::json!({ "rfilename": path })).collect();
                Reply::json(&serde_json::json!({ "id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings }))
            }
            ["tree", "main" | COMMIT] => {
                let entries: Vec<_> = files.map(|((_, path), file)| entry(path, file)).collect();
                page(state, request, &entries)
            }
            ["revision" | "tree", ..] => refused(404, "RevisionNotFound"),
            _ => Reply::status(404),
        };
    }
    let path = path.trim_start_matches('/').replace("%20", " ");
    let Some((repo, rest)) = path.split_once("/resolve/") else { return Reply::status(404) };
    let Some((revision, file_path)) = rest.split_once('/') else { return Reply::status(404) };
    if let Some(wanted) = &state.token
        && sent.as_ref() != Some(wanted)
    {
        return refused(if sent.is_some() { 403 } else { 401 }, "GatedRepo");
    }
    if !["main", COMMIT].contains(&revision) {
        return refused(404, "RevisionNotFound");
    }
    let Some(file) = state.files.get(&(repo.to_owned(), file_path.to_owned())) else {
        return refused(404, "EntryNotFound").with("X-Repo-Commit", COMMIT);
    };
    let etag = format!("\"{}\"", file.etag());
    if !file.large {
        if state.relative && !request.target.contains("cached=1") {
            return Reply::status(307)
                .with("Location", format!("{}?cached=1", request.path()))
                .with("X-Repo-Commit", COMMIT);
        }
        return ranged(request, Arc::clone(&file.bytes), false).with("ETag", etag).with("X-Repo-Commit", COMMIT);
    }
    state.signed += 1;
    let location = format!("{}/repos/{}?X-Sig=a%2Fb%2Bc%3D~(1)&n={}", state.storage, file.etag(), state.signed);
    Reply::status(302)
        .with("Location", location)
        .with("X-Repo-Commit", COMMIT)
        .with("X-Linked-ETag", etag)
        .with("X-Linked-Size", file.bytes.len().to_string())
        .with("ETag", "\"of-the-redirect\"")
}

pub(crate) fn entry(path: &str, file: &HubFile) -> serde_json::Value {
    let size = file.bytes.len();
    if file.large {
        let lfs = serde_json::json!({ "oid": file.etag(), "size": size, "pointerSize": 134 });
        serde_json::json!({ "type": "file", "oid": hex(Sha1::digest(path)), "size": size, "path": path, "lfs": lfs })
    } else {
        serde_json::json!({ "type": "file", "oid": file.etag(), "size": size, "path": path })
    }
}

fn page(state: &State, request: &Request, entries: &[serde_json::Value]) -> Reply {
    let from = request.target.split_once("cursor=").map_or(0, |(_, n)| n.parse::<usize>().unwrap());
    let size = if state.page == 0 { entries.len() } else { state.page };
    let end = (from + size).min(entries.len());
    let mut reply = Reply::json(&serde_json::Value::from(entries[from..end].to_vec()));
    if end < entries.len() {
        let link = format!("<{}{}?recursive=true&cursor={end}>; rel=\"next\"", state.hub, request.path());
        reply = reply.with("Link", link);
    }
    reply
}
