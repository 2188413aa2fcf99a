//! From ids back to text, a token at a time.

use super::Tokenizer;

/// Turns ids into text as they are generated. A token may end in the middle of a character (byte tokens always do,
/// and a byte-level vocabulary cuts anywhere), so bytes are held back until they form whole characters.
///
/// Bytes that cannot become UTF-8 come out as U+FFFD, one for each longest invalid stretch, as
/// [`String::from_utf8_lossy`] does it.
#[derive(Debug, Clone, Default)]
pub struct TokenDecoder {
    special: bool,
    strip_space: bool,
    held: Vec<u8>,
    ready: String,
}

impl TokenDecoder {
    /// `special`: also render control tokens. `strip_space`: drop one blank at the very start, which is right for a
    /// whole text of a vocabulary that puts a blank in front of every text, and wrong for the continuation of one.
    #[must_use]
    pub fn new(special: bool, strip_space: bool) -> Self {
        Self { special, strip_space, ..Self::default() }
    }

    /// Takes the next token; returns the characters that are complete now, often none. An id outside the vocabulary
    /// has no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> &str {
        let piece = tokenizer.piece(id, self.special);
        let piece: &[u8] = &piece;
        let piece = if self.strip_space { piece.strip_prefix(b" ").unwrap_or(piece) } else { piece };
        self.strip_space = false;
        self.ready.clear();
        self.held.extend_from_slice(piece);
        let mut done = 0;
        loop {
            match std::str::from_utf8(&self.held[done..]) {
                Ok(rest) => {
                    self.ready.push_str(rest);
                    done = self.held.len();
                    break;
                }
                Err(error) => {
                    let (valid, rest) = self.held[done..].split_at(error.valid_up_to());
                    self.ready.push_str(&String::from_utf8_lossy(valid));
                    done += valid.len();
                    let Some(invalid) = error.error_len() else { break };
                    self.ready.push(char::REPLACEMENT_CHARACTER);
                    done += invalid.min(rest.len());
                }
            }
        }
        self.held.drain(..done);
        &self.ready
    }

    /// What is left when no more tokens come: nothing, or U+FFFD for an unfinished character. The decoder is then as
    /// new, but strips no further blank.
    pub fn finish(&mut self) -> &str {
        self.ready.clear();
        if !self.held.is_empty() {
            self.ready.push(char::REPLACEMENT_CHARACTER);
            self.held.clear();
        }
        &self.ready
    }

    /// Bytes of a character that is not complete yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.held
    }
}
