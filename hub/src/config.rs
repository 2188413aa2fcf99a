//! Where the hub is, who asks, and where files are kept: the environment that Python's `huggingface_hub` reads as well.

use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::HubError;
use crate::url::Url;

/// Longest file that is read in search of a token.
const MAX_TOKEN_BYTES: u64 = 16 << 10;

/// An access token. Its text is sent to the hub and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token, without the white space around it; `None` where nothing is left.
    pub fn new(text: &str, setting: &str) -> Result<Option<Self>, HubError> {
        let text = text.trim();
        // Anything else could begin another header, and is no token.
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            let reason = "a token has only visible ASCII characters".to_owned();
            return Err(HubError::Setting { setting: setting.to_owned(), reason });
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How long is waited, and how often tried again.
#[derive(Debug, Clone)]
pub struct Timing {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of an answer, and for the whole of a short answer.
    pub answer: Duration,
    /// Longest silence within a file, and the window over which its rate is measured.
    pub stall: Duration,
    /// Bytes per second below which a connection is given up.
    pub floor: u64,
    /// Pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// Failures in a row, without a byte that arrived between them, after which it is given up.
    pub failures: u32,
    /// Longest wait that a server may ask for.
    pub longest_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(45),
            stall: Duration::from_secs(30),
            floor: 1024,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(20),
            failures: 6,
            longest_wait: Duration::from_secs(300),
        }
    }
}

/// Everything that a [`Hub`](crate::Hub) is told from outside.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Sent to the endpoint and to nothing else.
    pub token: Option<Token>,
    /// Folder of the cache, in `huggingface_hub`'s layout.
    pub cache: PathBuf,
    /// Answer from the cache only.
    pub offline: bool,
    /// Certificates to trust in place of the built-in ones, as a PEM file.
    pub certificates: Option<PathBuf>,
    /// Connections for one file.
    pub connections: usize,
    /// Bytes that one request asks for.
    pub segment: u64,
    /// Time limits.
    pub timing: Timing,
}

impl Config {
    /// For a hub at `endpoint` and a cache at `cache`, with defaults for the rest.
    pub fn new(endpoint: &str, cache: impl Into<PathBuf>) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/');
        Url::parse(endpoint).map_err(|reason| HubError::Setting { setting: "HF_ENDPOINT".to_owned(), reason })?;
        Ok(Self {
            endpoint: endpoint.to_owned(),
            token: None,
            cache: cache.into(),
            offline: false,
            certificates: None,
            connections: 4,
            segment: 32 << 20,
            timing: Timing::default(),
        })
    }

    /// From environment variables, which `var` looks up: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`,
    /// `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `SSL_CERT_FILE`, and `OCELLI_CACHE`, which moves
    /// the cache for Ocelli only.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let text = |name: &str| match var(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty())),
            Some(Err(_)) => Err(HubError::Setting { setting: name.to_owned(), reason: "it is not UTF-8".to_owned() }),
        };
        let home = var("HOME").or_else(|| var("USERPROFILE")).filter(|h| !h.is_empty()).map(PathBuf::from);
        let path = |name: &str| {
            let path = var(name).filter(|p| !p.is_empty()).map(PathBuf::from)?;
            match (path.strip_prefix("~"), &home) {
                (Ok(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(path),
            }
        };
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache").join("huggingface")));
        let cache = path("OCELLI_CACHE")
            .or_else(|| path("HF_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| HubError::Setting {
                setting: "HOME".to_owned(),
                reason: "it is not set; set it, or OCELLI_CACHE to a folder for models".to_owned(),
            })?;
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let token = match text("HF_TOKEN")? {
            Some(token) => Token::new(&token, "HF_TOKEN")?,
            None if is_true(text("HF_HUB_DISABLE_IMPLICIT_TOKEN")?) => None,
            None => match path("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token"))) {
                Some(file) => token_file(&file)?,
                None => None,
            },
        };
        Ok(Self {
            token,
            offline: is_true(text("HF_HUB_OFFLINE")?),
            certificates: path("SSL_CERT_FILE"),
            ..Self::new(&endpoint, cache)?
        })
    }
}

fn is_true(text: Option<String>) -> bool {
    text.is_some_and(|t| matches!(t.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

/// The token in a file; a file that does not exist is no token.
fn token_file(path: &Path) -> Result<Option<Token>, HubError> {
    let mut text = String::new();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(HubError::Io { action: "read the token in", path: path.to_owned(), source }),
    };
    file.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(HubError::io("read the token in", path))?;
    Token::new(&text, &format!("the token in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> Result<Config, HubError> {
        Config::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |vars: &[_]| with(vars).unwrap().cache;
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), Path::new("/h/hf/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        assert_eq!(cache(&[("HOME", "/h"), ("OCELLI_CACHE", "/o"), ("HF_HUB_CACHE", "/c")]), Path::new("/o"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HUB_CACHE", "")]), Path::new("/h/.cache/huggingface/hub"));
        let error = with(&[]).unwrap_err().to_string();
        assert!(error.contains("OCELLI_CACHE"), "{error}");
    }

    #[test]
    fn tokens_come_from_the_environment_or_a_file_and_are_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(with(&[("HF_HOME", home)]).unwrap().token, None);
        std::fs::write(folder.path().join("token"), " hf_secret\n").unwrap();
        let token = |text| Token::new(text, "x").unwrap();
        let config = with(&[("HF_HOME", home)]).unwrap();
        assert_eq!(config.token, token("hf_secret"));
        assert!(!format!("{config:?}").contains("secret"));
        assert_eq!(with(&[("HF_HOME", home), ("HF_TOKEN", " hf_other ")]).unwrap().token, token("hf_other"));
        assert_eq!(with(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap().token, None);
        let file = folder.path().join("elsewhere");
        std::fs::write(&file, "hf_file").unwrap();
        let config = with(&[("HF_HOME", home), ("HF_TOKEN_PATH", file.to_str().unwrap())]).unwrap();
        assert_eq!(config.token, token("hf_file"));
        let error = with(&[("HOME", "/h"), ("HF_TOKEN", "hf_secret\r\nHost: evil")]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }

    #[test]
    fn offline_and_the_endpoint_are_read_as_python_reads_them() {
        for (text, offline) in [("1", true), ("TRUE", true), ("yes", true), ("On", true), ("0", false), ("", false)] {
            assert_eq!(with(&[("HOME", "/h"), ("HF_HUB_OFFLINE", text)]).unwrap().offline, offline, "{text}");
        }
        let endpoint = |text: &str| with(&[("HOME", "/h"), ("HF_ENDPOINT", text)]).map(|c| c.endpoint);
        assert_eq!(endpoint("http://localhost:80/hub/").unwrap(), "http://localhost:80/hub");
        assert_eq!(endpoint("").unwrap(), "https://huggingface.co");
        for bad in ["huggingface.co", "ftp://x", "https://", "https://user:s3cr3t@host", "https://a b"] {
            let error = endpoint(bad).unwrap_err().to_string();
            assert!(error.contains("HF_ENDPOINT") && !error.contains("s3cr3t"), "{error}");
        }
    }
}
