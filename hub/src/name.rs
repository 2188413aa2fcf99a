//! The ways to name a model.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::HubError;
use crate::url::Url;

/// A short name and the repository it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortName {
    /// What is typed.
    pub name: &'static str,
    /// `USER/REPO` with GGUF files.
    pub repo: &'static str,
}

/// Models that can be named without their repository.
pub const SHORT_NAMES: [ShortName; 5] = [
    ShortName { name: "minicpm-v-4", repo: "openbmb/MiniCPM-V-4-gguf" },
    ShortName { name: "minicpm-v-4.5", repo: "openbmb/MiniCPM-V-4_5-gguf" },
    ShortName { name: "minicpm-v-4.6", repo: "openbmb/MiniCPM-V-4.6-gguf" },
    ShortName { name: "minicpm-v-2.6", repo: "openbmb/MiniCPM-V-2_6-gguf" },
    ShortName { name: "minicpm-o-2.6", repo: "openbmb/MiniCPM-o-2_6-gguf" },
];

/// `USER/REPO`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoId(String);

impl RepoId {
    /// Takes `USER/REPO`, by the hub's rules for names.
    pub fn new(text: &str) -> Result<Self, String> {
        let Some((user, repo)) = text.split_once('/') else {
            return Err("a repository is USER/REPO".to_owned());
        };
        for part in [user, repo] {
            if part.is_empty() || part.len() > 96 {
                return Err("both parts of USER/REPO have 1 to 96 characters".to_owned());
            }
            if !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                return Err("USER/REPO has only letters, digits, `-`, `_` and `.`".to_owned());
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) || part.contains("--") || part.contains("..")
            {
                return Err("in USER/REPO no part begins or ends with `-` or `.`, or holds `--` or `..`".to_owned());
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder's name in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The repository that a folder of the cache belongs to.
    pub(crate) fn from_folder(name: &str) -> Option<Self> {
        Self::new(&name.strip_prefix("models--")?.replacen("--", "/", 1)).ok()
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A model in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoModel {
    /// Which repository.
    pub repo: RepoId,
    /// Branch, tag or commit; `main` if not given.
    pub revision: Option<String>,
    /// Quantisation tag, such as `Q4_K_M`.
    pub quant: Option<String>,
    /// This file, whatever its quantisation.
    pub file: Option<String>,
}

impl RepoModel {
    /// The model that a repository offers first.
    pub fn of(repo: RepoId) -> Self {
        Self { repo, revision: None, quant: None, file: None }
    }

    /// The revision that is asked for.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for RepoModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match self.file.as_ref().or(self.quant.as_ref()) {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

/// What a user names as a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A file or folder on this machine.
    Path(PathBuf),
    /// A model of the hub.
    Repo(RepoModel),
}

impl Name {
    /// Tells what `text` names, for a hub at `endpoint`.
    ///
    /// A file or folder that exists always wins. Then come `hf://USER/REPO[@REVISION][/FILE]`, addresses of a file of
    /// the hub, short names, and `USER/REPO[@REVISION][:TAG]`, where the tag is a quantisation or a file. Text that
    /// looks like a path (it begins with `/`, `.` or `~`, holds `\`, or ends in `.gguf` without naming a tag) is a path,
    /// so that a mistyped path is told as one.
    pub fn parse(text: &str, endpoint: &str) -> Result<Self, HubError> {
        if Path::new(text).exists() {
            return Ok(Self::Path(text.into()));
        }
        Self::parse_absent(text, endpoint)
    }

    /// As [`Name::parse`] for text that names nothing on this machine.
    fn parse_absent(text: &str, endpoint: &str) -> Result<Self, HubError> {
        let wrong = |reason: String| HubError::Name { name: text.to_owned(), reason };
        if let Some(rest) = text.strip_prefix("hf://") {
            return hf(rest).map(Self::Repo).map_err(wrong);
        }
        if text.contains("://") {
            return address(text, endpoint).map(Self::Repo).map_err(wrong);
        }
        let looks_like_path = text.is_empty()
            || text.starts_with(['/', '.', '~'])
            || text.contains('\\')
            || (text.to_ascii_lowercase().ends_with(".gguf") && !text.contains(':'));
        if looks_like_path {
            return Ok(Self::Path(text.into()));
        }
        let (name, tag) = match text.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (text, None),
        };
        let name = ["hf.co/", "huggingface.co/"].iter().find_map(|host| name.strip_prefix(host)).unwrap_or(name);
        let (name, revision) = split_revision(name).map_err(wrong)?;
        let short = SHORT_NAMES.iter().find(|short| short.name.eq_ignore_ascii_case(name));
        let repo = match short {
            Some(short) => RepoId::new(short.repo).map_err(wrong)?,
            None if !name.contains('/') => {
                let known: Vec<_> = SHORT_NAMES.iter().map(|short| short.name).collect();
                return Err(wrong(format!(
                    "there is no such file, and the short names are {}; other models are USER/REPO[:QUANT]",
                    known.join(", ")
                )));
            }
            None => RepoId::new(name).map_err(|reason| wrong(format!("there is no such file, and {reason}")))?,
        };
        let mut model = RepoModel { repo, revision, quant: None, file: None };
        match tag {
            None => {}
            Some(file) if file.to_ascii_lowercase().ends_with(".gguf") => {
                model.file = Some(repo_path(file).map_err(wrong)?);
            }
            Some(quant) => model.quant = Some(quant_tag(quant).map_err(wrong)?),
        }
        Ok(Self::Repo(model))
    }
}

/// `USER/REPO[@REVISION][/FILE]` or `USER/REPO[@REVISION][:QUANT]`.
fn hf(rest: &str) -> Result<RepoModel, String> {
    let rest = rest.strip_prefix("models/").unwrap_or(rest);
    let mut parts = rest.splitn(3, '/');
    let (Some(user), Some(repo)) = (parts.next(), parts.next()) else {
        return Err("a model of the hub is hf://USER/REPO or hf://USER/REPO/FILE".to_owned());
    };
    let (repo, quant) = match repo.split_once(':') {
        Some((repo, quant)) => (repo, Some(quant_tag(quant)?)),
        None => (repo, None),
    };
    let (repo, revision) = split_revision(repo)?;
    let file = parts.next().filter(|file| !file.is_empty()).map(repo_path).transpose()?;
    Ok(RepoModel { repo: RepoId::new(&format!("{user}/{repo}"))?, revision, quant, file })
}

/// `ENDPOINT/USER/REPO`, also with `/resolve/REVISION/FILE` or `/blob/REVISION/FILE`, as a browser shows it.
fn address(text: &str, endpoint: &str) -> Result<RepoModel, String> {
    let whole = Url::parse(text)?.full();
    let whole = whole.split('?').next().unwrap_or_default();
    let hubs = [endpoint, "https://huggingface.co", "https://hf.co"];
    let rest = hubs.iter().find_map(|hub| {
        let hub = Url::parse(hub).ok()?.full();
        whole.strip_prefix(hub.trim_end_matches('/'))?.strip_prefix('/')
    });
    let Some(rest) = rest else {
        return Err(format!(
            "only files of the hub at {endpoint} are fetched, since no other address says what checksum its file has; \
             download it yourself and name the file"
        ));
    };
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    let (user, repo, rest) = match parts.as_slice() {
        [user, repo, rest @ ..] => (user, repo, rest),
        _ => return Err(format!("a model of the hub is {endpoint}/USER/REPO")),
    };
    let repo = RepoId::new(&format!("{user}/{repo}"))?;
    match rest {
        [] => Ok(RepoModel::of(repo)),
        ["tree", revision] => Ok(RepoModel { revision: Some(check_revision(revision)?), ..RepoModel::of(repo) }),
        ["resolve" | "blob", revision, file @ ..] if !file.is_empty() => Ok(RepoModel {
            revision: Some(check_revision(revision)?),
            file: Some(repo_path(&decode(&file.join("/"))?)?),
            ..RepoModel::of(repo)
        }),
        _ => Err(format!("a file of the hub is {endpoint}/USER/REPO/resolve/REVISION/FILE")),
    }
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or("a `%` is not followed by two digits")?;
        bytes.push(byte);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "the path is not UTF-8".to_owned())
}

fn split_revision(name: &str) -> Result<(&str, Option<String>), String> {
    match name.split_once('@') {
        None => Ok((name, None)),
        Some((name, revision)) => Ok((name, Some(check_revision(revision)?))),
    }
}

/// A branch, tag or commit that can safely be part of an address and of a path.
pub(crate) fn check_revision(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let parts_good = text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'));
    if text.len() > 128 || !text.bytes().all(good) || !parts_good {
        return Err("a revision has letters, digits, `-`, `_`, `.` and `/` only".to_owned());
    }
    Ok(text.to_owned())
}

fn quant_tag(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
        return Err("a tag after `:` is a quantisation such as Q4_K_M, or a .gguf file of the repository".to_owned());
    }
    Ok(text.to_owned())
}

/// A path within a repository that can safely be one below a folder of ours.
pub(crate) fn repo_path(text: &str) -> Result<String, String> {
    let part_good = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.len() <= 255 && !part.ends_with(['.', ' '])
    };
    let char_bad = |c: char| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    if text.len() > 1024 || text.contains(char_bad) || !text.split('/').all(part_good) {
        let shown: String = text.chars().take(80).collect();
        return Err(format!("`{}` cannot be the path of a file in a repository", shown.escape_debug()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = "https://huggingface.co";

    fn repo(text: &str) -> String {
        match Name::parse(text, HUB) {
            Ok(Name::Repo(model)) => model.to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_names_its_repository() {
        for (text, meant) in [
            ("minicpm-v-4", "openbmb/MiniCPM-V-4-gguf"),
            ("MiniCPM-V-4:q8_0", "openbmb/MiniCPM-V-4-gguf:q8_0"),
            ("openbmb/MiniCPM-V-4-gguf", "openbmb/MiniCPM-V-4-gguf"),
            ("openbmb/MiniCPM-V-4-gguf:Q4_K_M", "openbmb/MiniCPM-V-4-gguf:Q4_K_M"),
            ("u/r@v1.0:F16", "u/r@v1.0:F16"),
            ("u/r:sub/x.gguf", "u/r:sub/x.gguf"),
            ("hf.co/u/r:Q8_0", "u/r:Q8_0"),
            ("hf://u/r", "u/r"),
            ("hf://u/r:Q8_0", "u/r:Q8_0"),
            ("hf://models/u/r@abc/sub/x.gguf", "u/r@abc:sub/x.gguf"),
            ("https://huggingface.co/u/r", "u/r"),
            ("https://huggingface.co/u/r/tree/v2", "u/r@v2"),
            ("https://huggingface.co/u/r/resolve/main/a%20b.gguf?download=true", "u/r@main:a b.gguf"),
            ("https://huggingface.co/u/r/blob/main/sub/x.gguf", "u/r@main:sub/x.gguf"),
        ] {
            assert_eq!(repo(text), meant, "{text}");
        }
        let own = Name::parse("http://127.0.0.1:9/hub/u/r/resolve/main/x.gguf", "http://127.0.0.1:9/hub").unwrap();
        assert!(matches!(own, Name::Repo(model) if model.file.as_deref() == Some("x.gguf")));
    }

    #[test]
    fn what_exists_or_looks_like_a_path_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("minicpm-v-4");
        std::fs::write(&file, "").unwrap();
        let existing = file.to_str().unwrap();
        assert_eq!(Name::parse(existing, HUB).unwrap(), Name::Path(file.clone()));
        for text in ["./u/r", "../r", "/u/r", "~/r", "model.gguf", "dir/model.GGUF", "C:\\x", ""] {
            assert_eq!(Name::parse(text, HUB).unwrap(), Name::Path(text.into()), "{text}");
        }
    }

    #[test]
    fn what_could_leave_the_cache_or_the_address_is_refused() {
        for text in [
            "unknown-model",
            "u/..",
            "../u:Q4",
            "u/r/x",
            "u/r:",
            "u/r:Q4 K",
            "u/r:../x.gguf",
            "u/r:/x.gguf",
            "u/r@../x",
            "u/r@a//b",
            "u/r@",
            "u/r@a\nb",
            "-u/r",
            "u/r--x",
            "u/r?x",
            "u/r#x",
            "hf://u",
            "hf://u/r/../x.gguf",
            "hf://u/r/a/./b.gguf",
            "hf://u/r/a\\b.gguf",
            "https://huggingface.co/u",
            "https://example.com/x.gguf",
            "https://huggingface.co/u/r/resolve/main/..%2Fx.gguf",
            "https://huggingface.co/u/r/resolve/main/%zz",
            "https://huggingface.co.evil.example/u/r",
            "https://huggingface.co@evil.example/u/r",
        ] {
            match Name::parse(text, HUB) {
                Err(HubError::Name { .. }) => {}
                Ok(Name::Path(_)) if text.starts_with('.') => {}
                other => panic!("{text:?}: {other:?}"),
            }
        }
        let error = Name::parse("minicpm-v", HUB).unwrap_err().to_string();
        assert!(error.contains("minicpm-v-4,") && error.contains("USER/REPO"), "{error}");
    }

    #[test]
    fn folders_of_the_cache_name_their_repository() {
        let id = RepoId::new("open-bmb/Mini_CPM-V-4.5").unwrap();
        assert_eq!(id.folder(), "models--open-bmb--Mini_CPM-V-4.5");
        assert_eq!(RepoId::from_folder(&id.folder()), Some(id));
        for bad in ["datasets--u--r", "models--u", "models--..--r", "models--u--r--x"] {
            assert_eq!(RepoId::from_folder(bad), None, "{bad}");
        }
    }
}
