//! Byte-level BPE: the merge engine of the `tokenizers` crate over the file's vocabulary and merge list.
//!
//! The engine's tables are built from tokens written in GPT-2's byte alphabet, in which every byte is one printable
//! character. Words come from [`pre`](super::pre), never from the crate, so no regular expression is involved.
//!
//! Building those tables takes some tenths of a second for 150,000 tokens. It happens on a thread of its own, while the
//! weights are mapped and the context is set up; the first text waits for it. What can be wrong with a vocabulary is
//! found before.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use tokenizers::models::bpe::{BpeConfig, BpeScratch, PipelineBPE};
use tokenizers::pipeline::{Model, PipelineToken};

use super::TokenizerError;
use super::pre::{self, Pre};
use super::vocab::{Vocab, excerpt};

/// The engine and the rules that cut its words.
pub(super) struct Bpe {
    engine: Engine,
    pre: Pre,
    n_tokens: u32,
    missing: Vec<u8>,
    /// Working memory kept between calls; a second concurrent caller makes its own.
    scratch: Mutex<Option<BpeScratch>>,
}

impl Bpe {
    /// `merges` holds the file's lines `left right`, best first.
    pub(super) fn new<'a>(
        vocab: &Vocab,
        merges: impl Iterator<Item = &'a str>,
        pre: Pre,
        ignore_merges: bool,
    ) -> Result<Self, TokenizerError> {
        let merges = parse_merges(vocab, merges)?;
        if hottest_pairs(vocab, &merges) >= MAX_HOT_PAIRS {
            return Err(TokenizerError::Bpe { reason: "its first merges form an impossible grid of pairs".into() });
        }
        let mut table: ahash::AHashMap<String, u32> =
            vocab.iter().filter(|(_, text)| is_spelled(text)).map(|(id, text)| (text.to_owned(), id)).collect();
        // The engine insists on a token per byte. Some published vocabularies lack a few control bytes; those get ids
        // past the end of the table, which `encode` drops.
        let n_tokens = u32::try_from(vocab.len()).unwrap_or(u32::MAX);
        let mut missing = Vec::new();
        for byte in 0..=255u8 {
            let spelled = char_of(byte).to_string();
            if vocab.id(&spelled).is_none() {
                table.insert(spelled, n_tokens.saturating_add(byte.into()));
                missing.push(byte);
            }
        }
        let config = BpeConfig {
            vocab: table,
            merges: merges.iter().map(|m| (vocab.text(m.left).to_owned(), vocab.text(m.right).to_owned())).collect(),
            byte_level: true,
            ignore_merges,
            ..BpeConfig::default()
        };
        Ok(Self { engine: Engine::start(config), pre, n_tokens, missing, scratch: Mutex::new(None) })
    }

    /// Bytes that no token spells; [`Self::encode`] leaves them out.
    pub(super) fn missing_bytes(&self) -> &[u8] {
        &self.missing
    }

    /// Appends the ids of `text` to `out`.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let model = self.engine.get()?;
        let kept = self.scratch.try_lock().ok().and_then(|mut s| s.take());
        let mut scratch = kept.unwrap_or_else(|| model.init_scratch());
        let mut tokens: Vec<PipelineToken> = Vec::new();
        let mut outcome = Ok(());
        pre::split(self.pre, text, &mut |word| {
            if outcome.is_ok() {
                outcome = model.tokenize_pipeline(word, &mut scratch, &mut tokens);
            }
        });
        out.extend(tokens.iter().map(|token| token.id()).filter(|&id| id < self.n_tokens));
        if let Ok(mut kept) = self.scratch.try_lock() {
            *kept = Some(scratch);
        }
        outcome.map_err(|e| TokenizerError::Bpe { reason: e.to_string() })
    }
}

type Built = Result<PipelineBPE, String>;

/// The merge engine, being built or ready.
struct Engine {
    ready: OnceLock<Built>,
    building: Mutex<Option<JoinHandle<Built>>>,
}

impl Engine {
    /// Begins to build it on another thread, or builds it here when the system gives none.
    fn start(config: BpeConfig) -> Self {
        let slot = Arc::new(Mutex::new(Some(config)));
        let job = {
            let slot = Arc::clone(&slot);
            move || {
                let config = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                config.map_or_else(|| Err("its tables were built twice".into()), build)
            }
        };
        let ready = OnceLock::new();
        let building = std::thread::Builder::new().name("ocelli-bpe".into()).spawn(job).ok();
        if building.is_none()
            && let Some(config) = slot.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            let _ = ready.set(build(config));
        }
        Self { ready, building: Mutex::new(building) }
    }

    /// The engine, once it is there.
    fn get(&self) -> Result<&PipelineBPE, TokenizerError> {
        let built = self.ready.get_or_init(|| {
            let building = self.building.lock().unwrap_or_else(PoisonError::into_inner).take();
            building.and_then(|thread| thread.join().ok()).unwrap_or_else(|| Err(UNBUILDABLE.into()))
        });
        built.as_ref().map_err(|reason| TokenizerError::Bpe { reason: reason.clone() })
    }
}

const UNBUILDABLE: &str = "its tables cannot be built";

fn build(config: BpeConfig) -> Built {
    // The crate trusts its caller: it asserts instead of reporting when a crafted vocabulary defeats its perfect hashing.
    // The closure owns all it touches, so nothing half-built survives an unwinding.
    catch_unwind(AssertUnwindSafe(move || PipelineBPE::from_config(config)))
        .map_err(|_| UNBUILDABLE.to_owned())?
        .map_err(|e| e.to_string())
}

/// One line of the merge list as ids.
struct Merge {
    left: u32,
    right: u32,
    product: u32,
}

fn parse_merges<'a>(vocab: &Vocab, lines: impl Iterator<Item = &'a str>) -> Result<Vec<Merge>, TokenizerError> {
    let mut seen = HashSet::new();
    let mut merges = Vec::new();
    let mut whole = String::new();
    for (index, line) in lines.enumerate() {
        // The left part may itself begin with a blank in files of other tools, hence the search from its second byte.
        let bad = |reason| TokenizerError::BadMerge { index, line: excerpt(line), reason };
        let space = line.bytes().skip(1).position(|b| b == b' ').ok_or_else(|| bad("it has no second part"))? + 1;
        let (left, right) = (&line[..space], &line[space + 1..]);
        let part = |text: &str| {
            if is_spelled(text) { vocab.id(text) } else { None }.ok_or_else(|| bad("a part is not in the vocabulary"))
        };
        let (left_id, right_id) = (part(left)?, part(right)?);
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        let product = vocab.id(&whole).ok_or_else(|| bad("its result is not in the vocabulary"))?;
        // The first mention of a pair is the one that counts.
        if seen.insert((left_id, right_id)) {
            merges.push(Merge { left: left_id, right: right_id, product });
        }
    }
    Ok(merges)
}

/// The engine numbers tokens anew, those that no merge produces first, then products by rank, and keeps pairs of the
/// first 512 in a grid that holds fewer than this many.
const MAX_HOT_PAIRS: usize = 65_535;
const GRID: u32 = 512;

/// How many merges fall into that grid. Real vocabularies stay below 20,000.
fn hottest_pairs(vocab: &Vocab, merges: &[Merge]) -> usize {
    let produced: HashSet<u32> = merges.iter().map(|m| m.product).collect();
    let alphabet = vocab.iter().filter(|(id, text)| is_spelled(text) && !produced.contains(id)).map(|(id, _)| id);
    let mut counted = HashSet::new();
    let products = merges.iter().map(|m| m.product).filter(|&p| counted.insert(p));
    let grid: HashSet<u32> = alphabet.chain(products).take(GRID as usize).collect();
    merges.iter().filter(|m| grid.contains(&m.left) && grid.contains(&m.right)).count()
}

/// Whether `text` is written in the byte alphabet throughout.
fn is_spelled(text: &str) -> bool {
    text.chars().all(|c| byte_of(c).is_some())
}

/// The byte that `c` stands for in GPT-2's byte alphabet: printable Latin-1 characters stand for themselves, the
/// other 68 bytes, in order, for U+0100 onwards.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The inverse of [`byte_of`].
pub(super) fn char_of(byte: u8) -> char {
    match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0x00..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap_or_default(),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(byte) - 0x7f).unwrap_or_default(),
        0xad => '\u{143}',
    }
}
