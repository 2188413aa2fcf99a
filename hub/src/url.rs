//! Addresses: parsing, redirects, origins.

use std::fmt;

/// Longest address that is followed.
const MAX_URL_BYTES: usize = 8 << 10;

/// An `http` or `https` address. The text after the host is kept as it came: a signed query must go out unchanged.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    https: bool,
    /// Lower case, without a port.
    host: String,
    port: u16,
    /// Begins with `/`, with the query, without the fragment.
    rest: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_URL_BYTES {
            return Err(format!("the address has {} bytes, more than {MAX_URL_BYTES}", text.len()));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("an address has only visible ASCII characters".to_owned());
        }
        let (scheme, after) = text.split_once("://").ok_or("an address begins with https:// or http://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("an address begins with https:// or http://".to_owned()),
        };
        let end = after.find(['/', '?', '#']).unwrap_or(after.len());
        let (authority, rest) = after.split_at(end);
        if authority.contains('@') {
            return Err("an address must not hold a user name or password".to_owned());
        }
        // A colon inside brackets belongs to an IPv6 address.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.parse().map_err(|_| "the port of the address is not a number below 65536")?,
        };
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if host.is_empty() || !host.chars().all(good) {
            return Err("the address has no valid host".to_owned());
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        Ok(Self { https, host: host.to_ascii_lowercase(), port, rest })
    }

    /// The address that `location` means in an answer from here.
    pub(crate) fn join(&self, location: &str) -> Result<Self, String> {
        let scheme = if self.https { "https" } else { "http" };
        let origin = self.origin();
        // A colon before any slash is a scheme, be it a known one or not.
        let has_scheme = location.find(':').is_some_and(|colon| !location[..colon].contains(['/', '?', '#']));
        if has_scheme {
            Self::parse(location)
        } else if location.starts_with("//") {
            Self::parse(&format!("{scheme}:{location}"))
        } else if location.starts_with('/') {
            Self::parse(&format!("{origin}{location}"))
        } else if location.starts_with('?') {
            Self::parse(&format!("{origin}{}{location}", self.path()))
        } else {
            let path = self.path();
            let folder = &path[..=path.rfind('/').unwrap_or(0)];
            Self::parse(&format!("{origin}{folder}{location}"))
        }
    }

    fn path(&self) -> &str {
        self.rest.split('?').next().unwrap_or_default()
    }

    /// Scheme, host and port, which together decide who may see a token.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let default = if self.https { 443 } else { 80 };
        if self.port == default {
            format!("{scheme}://{}", self.host)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }

    /// Host and port to connect to.
    pub(crate) fn address(&self) -> (&str, u16) {
        (self.host.trim_matches(['[', ']']), self.port)
    }

    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    /// The whole address, for a request.
    pub(crate) fn full(&self) -> String {
        format!("{}{}", self.origin(), self.rest)
    }
}

/// Without the query, which may hold a signature.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Encodes a path for an address: everything but unreserved characters and slashes.
pub(crate) fn encode_path(path: &str) -> String {
    path.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_and_queries_stay_as_they_are() {
        let base = Url::parse("https://hub.example/u/r/resolve/main/x.gguf?download=true").unwrap();
        let joined = |location: &str| base.join(location).map(|url| url.full());
        assert_eq!(joined("/api/resolve-cache/x").unwrap(), "https://hub.example/api/resolve-cache/x");
        assert_eq!(joined("y.gguf").unwrap(), "https://hub.example/u/r/resolve/main/y.gguf");
        assert_eq!(joined("?a=1").unwrap(), "https://hub.example/u/r/resolve/main/x.gguf?a=1");
        assert_eq!(joined("//cdn.example/x").unwrap(), "https://cdn.example/x");
        let signed = "https://cdn.example/a%2Fb?X-Sig=a%2Bb%3D%3D&e=1~2&f=(x)'*";
        assert_eq!(joined(signed).unwrap(), signed);
        assert_eq!(joined("http://cdn.example:8080/x#part").unwrap(), "http://cdn.example:8080/x");
        for bad in [
            "ftp://x/y",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://a@b/c",
            "https://",
            "/a b",
            "/a\r\nX: y",
        ] {
            assert!(joined(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text| Url::parse(text).unwrap().origin();
        assert_eq!(origin("https://Hub.example:443/x"), origin("HTTPS://hub.example"));
        assert_ne!(origin("https://hub.example"), origin("http://hub.example"));
        assert_ne!(origin("http://127.0.0.1:1/"), origin("http://127.0.0.1:2/"));
        assert_eq!(Url::parse("http://[::1]:80/x").unwrap().full(), "http://[::1]/x");
        assert_eq!(Url::parse("https://cdn/x?sig=secret").unwrap().to_string(), "https://cdn/x");
    }
}
