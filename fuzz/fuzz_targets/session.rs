//! Resumes conversations from session files with a right checksum: any bytes, a sound file with changes, or a sound file
//! with any bytes for a note.
#![no_main]

use std::cell::RefCell;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ocelli_engine::Chat;
use ocelli_fuzz::{Bytes, chat};
use ocelli_text::sampler::SamplerChain;
use sha2::{Digest, Sha256};

struct Silent;

impl ocelli_engine::Watch for Silent {
    fn text(&mut self, _: &str) {}
}

/// A session of one turn, as saved.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("session");
    let mut chat = chat();
    let mut chain =
        SamplerChain::new(chat.assets().sampling.clone(), &chat.assets().tokenizer).expect("sound settings");
    chat.say("a", &[], &mut chain, 2, &mut Silent).expect("a turn");
    chat.save(&path).expect("it can be saved");
    std::fs::read(path).expect("it was saved")
});

thread_local! {
    static CHAT: RefCell<Chat> = RefCell::new(chat());
}

/// Replaces the checksum at the end by the right one.
fn sign(file: &mut Vec<u8>) {
    file.truncate(file.len().saturating_sub(32));
    let sum = Sha256::digest(&file);
    file.extend_from_slice(&sum);
}

/// The sound file with some bytes overwritten, removed or added.
fn changed(bytes: &mut Bytes) -> Vec<u8> {
    let mut file = SOUND.clone();
    while !bytes.is_empty() {
        let (how, at) = (bytes.byte(), bytes.number() as usize % file.len().max(1));
        // The header and what follows it is where most can be wrong.
        let at = if how & 0x80 == 0 { at % 256 } else { at };
        match how & 3 {
            0 | 1 => {
                let new = bytes.some(usize::from(how >> 2 & 15) + 1);
                let end = (at + new.len()).min(file.len());
                file[at..end].copy_from_slice(&new[..end - at]);
            }
            2 => {
                file.drain(at..(at + usize::from(bytes.byte())).min(file.len()));
            }
            _ => {
                let new = bytes.some(usize::from(how >> 2 & 15) + 1);
                file.splice(at..at, new.iter().copied());
            }
        }
        if file.is_empty() {
            break;
        }
    }
    sign(&mut file);
    file
}

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("session");
    CHAT.with_borrow_mut(|chat| {
        match bytes.byte() % 3 {
            0 => std::fs::write(&path, bytes.rest()).expect("a temporary file"),
            1 => std::fs::write(&path, changed(&mut bytes)).expect("a temporary file"),
            _ => {
                // Notes are a length, as much JSON, and the rows of pictures.
                std::fs::write(&path, &*SOUND).expect("a temporary file");
                chat.load(&path).expect("a sound file");
                let (rows, json) = (usize::from(bytes.byte()), bytes.rest());
                let (json, rows) = json.split_at(json.len().saturating_sub(rows));
                let note = [&(json.len() as u64).to_le_bytes()[..], json, rows].concat();
                chat.session().save(&path, &note).expect("it can be saved");
            }
        }
        match chat.load(&path) {
            Ok(()) => {
                // What was accepted can be used and saved.
                let _ = chat.prompt_ids();
                chat.save(&path).expect("it can be saved");
                chat.load(&path).expect("what was saved can be read");
                chat.clear();
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
});
