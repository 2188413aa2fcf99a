//! Session files, prompts and options made to break a runtime: checksums and lengths are right, contents are not.

use std::path::Path;

use ocelli_convert::mixture::FileType;
use ocelli_engine::{Chat, Session, Watch};
use ocelli_image::Profile;
use ocelli_runtime::{Precision, RuntimeError};
use ocelli_text::sampler::{SamplerChain, SamplerOverrides};
use sha2::{Digest, Sha256};

use crate::fixture::{load, mini, new_context, options};

/// Offsets of a session file's fields, and what follows them.
const N_TOKENS: usize = 64;
const NOTE_LEN: usize = 72;
const TOKENS: usize = 80;

struct Silent;

impl Watch for Silent {
    fn text(&mut self, _: &str) {}
}

fn chat() -> Chat {
    let (model, assets) = load(&mini(FileType::F16));
    Chat::new(
        Session::new(new_context(model, &options(128, Precision::Exact)).unwrap()),
        assets,
        false,
        Profile::Reference,
    )
}

/// Says something short; only the kind of outcome is of interest.
fn say(chat: &mut Chat) -> Result<usize, RuntimeError> {
    let mut params = chat.assets().sampling.clone();
    SamplerOverrides { temperature: Some(0.0), ..SamplerOverrides::default() }.apply(&mut params);
    let mut chain = SamplerChain::new(params, &chat.assets().tokenizer).unwrap();
    chat.say("And now?", &[], &mut chain, 3, &mut Silent).map(|done| done.tokens.len())
}

/// A sound session taken apart.
#[derive(Clone)]
struct Saved {
    head: Vec<u8>,
    tokens: Vec<u32>,
    marks: Vec<u8>,
    note: Vec<u8>,
    cache: Vec<u8>,
}

impl Saved {
    fn new(path: &Path) -> Self {
        let mut chat = chat();
        say(&mut chat).unwrap();
        chat.save(path).unwrap();
        let bytes = std::fs::read(path).unwrap();
        let long = |at: usize| usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
        let (n_tokens, note_len) = (long(N_TOKENS), long(NOTE_LEN));
        let marks = TOKENS + 4 * n_tokens;
        let note = marks + 8 * n_tokens;
        Self {
            head: bytes[..TOKENS].to_vec(),
            tokens: bytes[TOKENS..marks].as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            marks: bytes[marks..note].to_vec(),
            note: bytes[note..note + note_len].to_vec(),
            cache: bytes[note + note_len..bytes.len() - 32].to_vec(),
        }
    }

    fn with_note(&self, note: &[u8]) -> Self {
        let mut head = self.head.clone();
        head[NOTE_LEN..NOTE_LEN + 8].copy_from_slice(&(note.len() as u64).to_le_bytes());
        Self { head, note: note.to_vec(), ..self.clone() }
    }

    fn with_lengths(&self, n_tokens: u64, note: u64) -> Self {
        let mut head = self.head.clone();
        head[N_TOKENS..N_TOKENS + 8].copy_from_slice(&n_tokens.to_le_bytes());
        head[NOTE_LEN..NOTE_LEN + 8].copy_from_slice(&note.to_le_bytes());
        Self { head, ..self.clone() }
    }

    /// Writes it with the checksum that its contents ask for.
    fn write(&self, path: &Path) {
        let mut bytes = self.head.clone();
        bytes.extend(self.tokens.iter().flat_map(|t| t.to_le_bytes()));
        bytes.extend_from_slice(&self.marks);
        bytes.extend_from_slice(&self.note);
        bytes.extend_from_slice(&self.cache);
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn sessions_with_lengths_that_lie() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.session");
    let saved = Saved::new(&path);
    let (n, note) = (saved.tokens.len() as u64, saved.note.len() as u64);
    let mut chat = chat();
    for (n_tokens, note_len) in [
        (u64::MAX, note),
        (1 << 62, note),
        (u64::MAX / 4, note),
        (n + 1, note),
        (0, note),
        (n, u64::MAX),
        (n, u64::MAX - 79),
        (n, 1 << 63),
        (n, note + 1),
        (0, 0),
    ] {
        saved.with_lengths(n_tokens, note_len).write(&path);
        let text = chat.load(&path).unwrap_err().to_string();
        assert!(text.contains("damaged") && text.contains("talk.session"), "{n_tokens} {note_len}: {text}");
    }
    // A length that fits, but moves the border between tokens and note.
    let per_token = 4 + 8 + saved.cache.len() as u64 / n;
    saved.with_lengths(n - 1, note + per_token).write(&path);
    let text = chat.load(&path).unwrap_err().to_string();
    assert!(text.contains("no conversation"), "{text}");
    assert!(chat.session().tokens().is_empty() && chat.messages().is_empty());
    saved.write(&path);
    chat.load(&path).unwrap();
    assert_eq!(chat.session().tokens(), saved.tokens);
    assert!(say(&mut chat).is_ok());
}

#[test]
fn sessions_with_tokens_outside_the_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.session");
    let saved = Saved::new(&path);
    let mut chat = chat();
    for id in [2048, i32::MAX as u32, 1 << 31, u32::MAX] {
        let mut bad = saved.clone();
        bad.tokens[1] = id;
        bad.write(&path);
        let error = chat.load(&path).unwrap_err();
        assert!(matches!(error, RuntimeError::Token { id: found, n_vocab: 2048 } if found == id), "{error}");
    }
}

/// A note of that JSON, with the keys that every conversation has.
fn note(json: &str) -> Vec<u8> {
    let json = json.replacen(r#"{""#, r#"{"images": [], "profile": "reference", "spans": [], ""#, 1);
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}

#[test]
fn sessions_with_notes_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.session");
    let saved = Saved::new(&path);
    let mut chat = chat();
    let deep = "[".repeat(200_000);
    for json in [
        "",
        "\u{0}",
        "[]",
        "{",
        &deep,
        r#"{"messages": [], "text": "x"}"#,
        r#"{"messages": {}, "text": "", "ids": []}"#,
        r#"{"messages": [{"role": 1, "content": "x"}], "text": "", "ids": []}"#,
        r#"{"messages": [{"role": "user"}], "text": "", "ids": []}"#,
        r#"{"messages": [], "text": "x", "ids": [-1]}"#,
        r#"{"messages": [], "text": "x", "ids": [4294967296]}"#,
        r#"{"messages": [], "text": "x", "ids": [2048]}"#,
        r#"{"messages": [], "text": "x", "ids": [1.5]}"#,
    ] {
        saved.with_note(&note(json)).write(&path);
        let error = chat.load(&path).expect_err(&json[..json.len().min(60)]).to_string();
        assert!(error.contains("no conversation") && error.contains("talk.session"), "{error}");
        assert!(chat.session().tokens().is_empty(), "nothing of a refused conversation stays");
    }
    for bytes in [&b"\xff\xfe{}"[..], b"", &u64::MAX.to_le_bytes(), &[&3u64.to_le_bytes()[..], b"{}"].concat()] {
        saved.with_note(bytes).write(&path);
        assert!(chat.load(&path).is_err());
    }
    // Sound in form, at odds with the cached tokens: the next turn goes by the text, whatever was cached.
    for json in [
        r#"{"messages": [], "text": "", "ids": []}"#,
        r#"{"messages": [{"role": "user", "content": "x"}], "text": "nothing like it", "ids": [5, 5, 5]}"#,
        r#"{"messages": [{"role": "\u001b[2J", "content": "{{ 7 * 7 }}"}], "text": "", "ids": [1, 2, 3]}"#,
    ] {
        saved.with_note(&note(json)).write(&path);
        chat.load(&path).unwrap();
        if let Err(error) = say(&mut chat) {
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
        chat.clear();
        assert!(say(&mut chat).is_ok(), "{json}");
    }
}

#[test]
fn sessions_whose_keys_are_not_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.session");
    let mut saved = Saved::new(&path);
    saved.cache.fill(0xff);
    saved.write(&path);
    let mut chat = chat();
    chat.load(&path).unwrap();
    let text = say(&mut chat).unwrap_err().to_string();
    assert!(text.contains("not numbers"), "{text}");
    chat.clear();
    assert!(say(&mut chat).is_ok(), "a cleared conversation holds nothing of it");
}
