//! SentencePiece's `tokenizer.model`: just enough of the protobuf wire format to read it.
//!
//! A message is a run of fields, each a varint tag `number << 3 | kind` followed by the value: kind 0 a varint,
//! 1 eight bytes, 2 a varint length and that many bytes, 5 four bytes. Unknown fields are skipped.
//!
//! ```text
//! ModelProto      1 repeated SentencePiece   2 TrainerSpec   3 NormalizerSpec
//! SentencePiece   1 string piece   2 float score   3 enum type (default NORMAL)
//! TrainerSpec     3 enum model_type (default UNIGRAM)   35 bool byte_fallback
//! NormalizerSpec  1 string name   2 bytes precompiled_charsmap   3 bool add_dummy_prefix (default true)
//!                 4 bool remove_extra_whitespaces (default true)
//! ```

use std::path::Path;

use super::{TokenType, VocabError};

/// One entry of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: TokenType,
}

/// What a `tokenizer.model` says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    pub(super) model_type: ModelType,
    pub(super) byte_fallback: bool,
    pub(super) normalizer: String,
    pub(super) has_charsmap: bool,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
}

/// The segmentation algorithm of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelType {
    Unigram,
    Bpe,
    Word,
    Char,
    Other(u64),
}

impl std::fmt::Display for ModelType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unigram => f.write_str("unigram"),
            Self::Bpe => f.write_str("BPE"),
            Self::Word => f.write_str("word"),
            Self::Char => f.write_str("character"),
            Self::Other(code) => write!(f, "number {code}"),
        }
    }
}

/// The value of one field.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

/// A message being read; `base` is where it starts in the file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    base: usize,
}

/// An offset in the file and what is wrong there.
type Problem = (usize, String);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], base: usize) -> Self {
        Self { bytes, at: 0, base }
    }

    fn problem(&self, what: impl Into<String>) -> Problem {
        (self.base + self.at, what.into())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Problem> {
        let left = self.bytes.get(self.at..).unwrap_or_default();
        let Some(taken) = left.get(..n) else {
            return Err(self.problem(format!("a field of {n} bytes, but only {} bytes are left", left.len())));
        };
        self.at += n;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = match self.take(1)? {
                [byte] => *byte,
                _ => return Err(self.problem("the file ends inside a number")),
            };
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.problem("a number longer than 64 bits"))
    }

    /// The next field and the offset at which its value starts, or `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>, usize)>, Problem> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 {
            return Err(self.problem("field number 0; this is not a SentencePiece model"));
        }
        let start = self.at;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).map_err(|_| self.problem(format!("a field of {len} bytes")))?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Fixed32(self.take(4)?.try_into().map_err(|_| self.problem("a short float"))?),
            kind => return Err(self.problem(format!("unknown wire kind {kind}; this is not a SentencePiece model"))),
        };
        let start = match field {
            Field::Bytes(bytes) => self.at - bytes.len(),
            _ => start,
        };
        Ok(Some((number, field, self.base + start)))
    }
}

/// Reads a `tokenizer.model`. `path` is for messages.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Model, VocabError> {
    parse_model(bytes).map_err(|(offset, problem)| VocabError::Proto { path: path.to_owned(), offset, problem })
}

fn parse_model(bytes: &[u8]) -> Result<Model, Problem> {
    let mut model = Model {
        pieces: Vec::new(),
        model_type: ModelType::Unigram,
        byte_fallback: false,
        normalizer: String::new(),
        has_charsmap: false,
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
    };
    let mut reader = Reader::new(bytes, 0);
    while let Some((number, field, at)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(piece)) => model.pieces.push(parse_piece(piece, at)?),
            (2, Field::Bytes(spec)) => parse_trainer(spec, at, &mut model)?,
            (3, Field::Bytes(spec)) => parse_normalizer(spec, at, &mut model)?,
            (1..=3, _) => return Err((at, format!("field {number} is not a message"))),
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err((0, "no vocabulary pieces; this is not a SentencePiece model".into()));
    }
    Ok(model)
}

fn parse_piece(bytes: &[u8], base: usize) -> Result<Piece, Problem> {
    let mut reader = Reader::new(bytes, base);
    let (mut text, mut score, mut kind) = (None, 0.0, TokenType::Normal);
    while let Some((number, field, at)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => {
                let piece = std::str::from_utf8(bytes).map_err(|e| (at, format!("piece text: {e}")))?;
                text = Some(piece.to_owned());
            }
            (2, Field::Fixed32(bytes)) => score = f32::from_le_bytes(bytes),
            (3, Field::Varint(code)) => {
                kind = match code {
                    // User-defined pieces are ordinary tokens in GGUF; only added tokens are user-defined there.
                    1 | 4 => TokenType::Normal,
                    2 => TokenType::Unknown,
                    3 => TokenType::Control,
                    5 => TokenType::Unused,
                    6 => TokenType::Byte,
                    _ => return Err((at, format!("piece type {code}; known are 1 to 6"))),
                }
            }
            (1..=3, _) => return Err((at, format!("piece field {number} has the wrong wire kind"))),
            _ => {}
        }
    }
    let text = text.ok_or((base, "a piece without text".to_owned()))?;
    if !score.is_finite() {
        return Err((base, format!("piece {text:?} has the score {score}")));
    }
    Ok(Piece { text, score, kind })
}

fn parse_trainer(bytes: &[u8], base: usize, model: &mut Model) -> Result<(), Problem> {
    let mut reader = Reader::new(bytes, base);
    while let Some((number, field, _)) = reader.next()? {
        match (number, field) {
            (3, Field::Varint(code)) => {
                model.model_type = match code {
                    1 => ModelType::Unigram,
                    2 => ModelType::Bpe,
                    3 => ModelType::Word,
                    4 => ModelType::Char,
                    _ => ModelType::Other(code),
                }
            }
            (35, Field::Varint(flag)) => model.byte_fallback = flag != 0,
            _ => {}
        }
    }
    Ok(())
}

fn parse_normalizer(bytes: &[u8], base: usize, model: &mut Model) -> Result<(), Problem> {
    let mut reader = Reader::new(bytes, base);
    while let Some((number, field, at)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(name)) => {
                let name = std::str::from_utf8(name).map_err(|e| (at, format!("normalizer name: {e}")))?;
                model.normalizer = name.to_owned();
            }
            (2, Field::Bytes(map)) => model.has_charsmap = !map.is_empty(),
            (3, Field::Varint(flag)) => model.add_dummy_prefix = flag != 0,
            (4, Field::Varint(flag)) => model.remove_extra_whitespaces = flag != 0,
            _ => {}
        }
    }
    Ok(())
}
