//! Requests: who may see the token, where redirects may lead, what statuses mean.

use std::io::Read as _;
use std::net::ToSocketAddrs as _;

use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::config::Config;
use crate::error::HubError;
use crate::hub::Watch;
use crate::retry::{Fault, Patience, asked_wait};
use crate::url::Url;

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 8;

/// Longest JSON document, and longest explanation in an answer with an error.
const MAX_JSON_BYTES: u64 = 16 << 20;
const MAX_DETAIL: usize = 200;

/// Longest head of an answer.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Largest file of certificates.
const MAX_PEM_BYTES: u64 = 16 << 20;

/// What the hub itself says about a file, on its own answers.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) commit: Option<String>,
    pub(crate) etag: Option<String>,
    pub(crate) size: Option<String>,
}

/// An answer with status 200 or 206.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// Where it came from, after redirects.
    pub(crate) url: Url,
    pub(crate) metadata: Metadata,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }
}

/// A header as text; one that is not text is none.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Sends requests, the token to the hub only.
pub(crate) struct Client {
    agent: Agent,
    config: Config,
    hub: Url,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("hub", &self.hub).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(config: &Config) -> Result<Self, HubError> {
        let hub = Url::parse(&config.endpoint)
            .map_err(|reason| HubError::Setting { setting: "HF_ENDPOINT".to_owned(), reason })?;
        let timing = &config.timing;
        let mut agent = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("ocelli/", env!("CARGO_PKG_VERSION")))
            // A compressed answer has another length and another ETag than the file.
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEAD_BYTES)
            .max_idle_connections_per_host(config.connections.max(1))
            .timeout_resolve(Some(timing.connect))
            .timeout_connect(Some(timing.connect))
            .timeout_send_request(Some(timing.answer))
            .timeout_recv_response(Some(timing.answer))
            .timeout_per_read(Some(timing.stall));
        if let Some(path) = config.certificates.as_ref().filter(|_| hub.is_https()) {
            agent = agent.tls_config(TlsConfig::builder().root_certs(certificates(path)?).build());
        }
        Ok(Self { agent: agent.build().new_agent(), config: config.clone(), hub })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The address of `path` at the hub.
    pub(crate) fn at(&self, path: &str) -> Result<Url, HubError> {
        let text = format!("{}/{path}", self.config.endpoint);
        Url::parse(&text).map_err(|what| HubError::Protocol { url: self.config.endpoint.clone(), what })
    }

    /// Whether `url` belongs to the hub, so that it may see the token and may speak about files.
    pub(crate) fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.hub.origin()
    }

    /// Asks for `url`, or for a range of its bytes (the last included), following redirects.
    pub(crate) fn get(&self, url: &Url, range: Option<(u64, u64)>, repo: &str) -> Result<Answer, Fault> {
        let mut metadata = Metadata::default();
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&at, range)?;
            let headers = response.headers();
            if self.is_hub(&at) {
                let keep = |slot: &mut Option<String>, name| {
                    if slot.is_none() {
                        *slot = text(headers, name).map(str::to_owned);
                    }
                };
                keep(&mut metadata.commit, "x-repo-commit");
                keep(&mut metadata.etag, "x-linked-etag");
                keep(&mut metadata.size, "x-linked-size");
            }
            match response.status().as_u16() {
                status @ (200 | 206) => {
                    let (head, body) = response.into_parts();
                    return Ok(Answer { status, headers: head.headers, body, url: at, metadata });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let location = text(headers, "location").ok_or_else(|| protocol(&at, "a redirect to nowhere"))?;
                    let next = at.join(location).map_err(|what| protocol(&at, format!("a redirect: {what}")))?;
                    if at.is_https() && !next.is_https() {
                        return Err(protocol(&at, format!("a redirect from https to {next}, which is not encrypted")));
                    }
                    at = next;
                }
                _ => return Err(self.refused(&at, response, repo)),
            }
        }
        Err(protocol(url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn send(&self, url: &Url, range: Option<(u64, u64)>) -> Result<Response<Body>, Fault> {
        let mut request = self.agent.get(url.full());
        if let Some(token) = self.config.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header("authorization", token.bearer());
        }
        if let Some((first, last)) = range {
            request = request.header("range", format!("bytes={first}-{last}"));
        }
        request.call().map_err(|error| broken(url, &error))
    }

    /// Asks for a JSON document, with retries. Returns the address of the next page as well, if there is one.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &Url,
        repo: &str,
        watch: &dyn Watch,
    ) -> Result<(T, Option<Url>), HubError> {
        let mut patience = Patience::new(&self.config.timing, watch);
        loop {
            match self.get(url, None, repo).and_then(|answer| self.document(answer)) {
                Ok(found) => return Ok(found),
                Err(fault) => patience.failed(fault, &|| false)?,
            }
        }
    }

    fn document<T: serde::de::DeserializeOwned>(&self, answer: Answer) -> Result<(T, Option<Url>), Fault> {
        let url = answer.url.clone();
        let next = match answer.header("link").and_then(next_link) {
            None => None,
            Some(link) => Some(url.join(link).map_err(|what| protocol(&url, what))?),
        };
        let mut body = Vec::new();
        let mut reader = answer.body.into_reader();
        // The limit of one read does not stop a server that sends a byte now and then.
        let until = std::time::Instant::now() + self.config.timing.answer;
        let mut block = [0; 16 << 10];
        loop {
            match reader.read(&mut block).map_err(|error| broken_body(&url, &error))? {
                0 => break,
                n => body.extend_from_slice(&block[..n]),
            }
            if body.len() as u64 > MAX_JSON_BYTES {
                return Err(protocol(&url, format!("a document of more than {MAX_JSON_BYTES} bytes")));
            }
            if std::time::Instant::now() > until {
                let (window, floor) = (self.config.timing.answer, self.config.timing.floor);
                return Err(Fault::Again(HubError::Stalled { url: url.to_string(), floor, window }, None));
            }
        }
        let document =
            serde_json::from_slice(&body).map_err(|e| protocol(&url, format!("not the expected JSON: {e}")))?;
        Ok((document, next))
    }

    /// What a status other than success means.
    fn refused(&self, url: &Url, response: Response<Body>, repo: &str) -> Fault {
        let status = response.status().as_u16();
        let headers = response.headers();
        let detail = text(headers, "x-error-message").map(|m| m.chars().take(MAX_DETAIL).collect());
        let other = HubError::Status { url: url.to_string(), status, detail };
        let wait = asked_wait(text(headers, "retry-after"), text(headers, "ratelimit"));
        match status {
            429 => {
                let error = match wait {
                    Some(wait) => HubError::RateLimited { url: url.to_string(), wait },
                    None => other,
                };
                return Fault::Again(error, wait);
            }
            408 | 500..=599 => return Fault::Again(other, wait.filter(|&w| w <= self.config.timing.longest_wait)),
            // Storage has no notion of repositories; its signed addresses expire.
            _ if !self.is_hub(url) => return Fault::Expired(other),
            _ => {}
        }
        let (repo, endpoint, with_token) = (repo.to_owned(), self.config.endpoint.clone(), self.config.token.is_some());
        Fault::Final(match (status, text(headers, "x-error-code")) {
            (401 | 403, Some("GatedRepo")) => HubError::Gated { repo, endpoint, with_token },
            (401 | 403 | 404, Some("RepoNotFound")) => HubError::NoRepo { repo, endpoint, with_token },
            (404, Some("RevisionNotFound")) => {
                let revision = url.to_string().rsplit('/').next().unwrap_or_default().to_owned();
                HubError::NoRevision { repo, revision }
            }
            (401, _) if with_token => HubError::BadToken { endpoint },
            (401, _) => HubError::NoRepo { repo, endpoint, with_token },
            _ => other,
        })
    }
}

/// The address marked `rel="next"` in a `Link` header.
fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next")).then_some(address)
    })
}

pub(crate) fn protocol(url: &Url, what: impl Into<String>) -> Fault {
    Fault::Final(HubError::Protocol { url: url.to_string(), what: what.into() })
}

/// A request without an answer.
fn broken(url: &Url, error: &ureq::Error) -> Fault {
    let (again, unreachable) = match error {
        ureq::Error::HostNotFound => (true, true),
        ureq::Error::Io(e) => (true, is_unreachable(url, e)),
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => (true, true),
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => (true, false),
        _ => (false, false),
    };
    let error = HubError::Network { url: url.to_string(), reason: error.to_string(), unreachable };
    if again { Fault::Again(error, None) } else { Fault::Final(error) }
}

/// Whether there was no connection at all. That a name is unknown has no kind of its own among errors, so it is tried.
fn is_unreachable(url: &Url, error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        AddrNotAvailable, BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
        NetworkDown, NetworkUnreachable, TimedOut, UnexpectedEof,
    };
    match error.kind() {
        ConnectionRefused | HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable => true,
        BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof => false,
        _ => url.address().to_socket_addrs().is_err(),
    }
}

/// An answer that ended before its end.
pub(crate) fn broken_body(url: &Url, error: &std::io::Error) -> Fault {
    Fault::Again(HubError::Network { url: url.to_string(), reason: error.to_string(), unreachable: false }, None)
}

fn certificates(path: &std::path::Path) -> Result<RootCerts, HubError> {
    let wrong = |reason: String| HubError::Setting { setting: format!("SSL_CERT_FILE ({})", path.display()), reason };
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| wrong(e.to_string()))?;
    file.take(MAX_PEM_BYTES).read_to_end(&mut pem).map_err(|e| wrong(e.to_string()))?;
    let items = parse_pem(&pem).collect::<Result<Vec<_>, _>>().map_err(|e| wrong(e.to_string()))?;
    let certificates: Vec<Certificate<'static>> = items
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(wrong("it holds no certificates".to_owned()));
    }
    Ok(certificates.into())
}

#[cfg(test)]
mod tests {
    use super::next_link;

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(next_link("<https://h/x?cursor=a>; rel=\"next\""), Some("https://h/x?cursor=a"));
        assert_eq!(next_link("<a>; rel=\"prev\", <b>; title=x; rel=next"), Some("b"));
        for none in ["", "<a>", "<a; rel=\"next\"", "<a>; rel=\"nextish\""] {
            assert_eq!(next_link(none), None, "{none}");
        }
    }
}
