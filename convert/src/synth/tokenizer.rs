//! A small SentencePiece BPE tokenizer, made on the spot.
//!
//! The pieces are learnt by byte-pair encoding from a short built-in text, so that common English words are one
//! token each; what the vocabulary has room for beyond that is filled with single characters of many scripts and with
//! words put together from syllables. Ids:
//!
//! ```text
//! 0 <unk>  1 <s>  2 </s>  3… 256 byte tokens  259… image markers
//! then merged pieces by falling score, then single characters, and as the last eight the added tokens
//! ```
//!
//! The list of merges holds every split of every merged piece into two known pieces, best score first. Merging by
//! that list and merging by score then give the same tokens.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The text the pieces are learnt from.
const CORPUS: &str = include_str!("corpus.txt");

/// Markers around images, tiles, references and image numbers; pieces of the model itself.
pub(super) const MARKERS: [&str; 12] = [
    "<image>",
    "</image>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "<slice>",
    "</slice>",
    "<image_id>",
    "</image_id>",
];

/// Tokens added behind the pieces: the last eight ids.
pub(super) const ADDED: [&str; 8] = [
    "<|im_end|>",
    "<|im_start|>",
    "<|tool_call|>",
    "<|execute_start|>",
    "<|execute_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
];

/// SentencePiece's type of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Byte = 6,
}

/// One piece.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// The whole tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tokenizer {
    /// The pieces of `tokenizer.model` by id; the added tokens follow them.
    pub(super) pieces: Vec<Piece>,
    /// Pairs of pieces, first merged first.
    pub(super) merges: Vec<(String, String)>,
}

impl Tokenizer {
    /// A tokenizer with `vocab_size` ids, of which the last eight are added tokens. Vocabularies below about a
    /// thousand have no room for words.
    pub(super) fn new(vocab_size: usize) -> Self {
        let piece = |text: String, kind| Piece { text, score: 0.0, kind };
        let mut pieces = vec![
            piece("<unk>".into(), PieceKind::Unknown),
            piece("<s>".into(), PieceKind::Control),
            piece("</s>".into(), PieceKind::Control),
        ];
        pieces.extend((0..=255_u8).map(|byte| piece(format!("<0x{byte:02X}>"), PieceKind::Byte)));
        pieces.extend(MARKERS.iter().map(|text| piece((*text).into(), PieceKind::UserDefined)));

        let room = vocab_size.saturating_sub(pieces.len() + ADDED.len());
        let (merged, chars) = plan(room);
        let mut known: HashSet<&str> = chars.iter().map(String::as_str).collect();
        known.extend(merged.iter().map(String::as_str));
        let merges = merged.iter().flat_map(|text| splits(text, &known)).collect();
        for (rank, text) in merged.iter().chain(&chars).enumerate() {
            pieces.push(Piece { text: text.clone(), score: -(rank as f32), kind: PieceKind::Normal });
        }
        Self { pieces, merges }
    }
}

/// Every way to cut `text` into two known pieces, the shortest left side first.
fn splits(text: &str, known: &HashSet<&str>) -> Vec<(String, String)> {
    let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
    cuts.filter(|(a, b)| known.contains(a) && known.contains(b)).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// `room` pieces: merged ones by falling score, and single characters.
fn plan(room: usize) -> (Vec<String>, Vec<String>) {
    let mut chars = base_chars();
    let alphabet = chars.len();
    let mut merged = learn(room.saturating_sub(alphabet));
    let mut known: HashSet<String> = chars.iter().chain(&merged).cloned().collect();
    let mut left = room.saturating_sub(alphabet + merged.len());
    // Of what is left, a third goes to single characters while there are any, the rest to made-up words.
    let mut push = |list: &mut Vec<String>, text: String, left: &mut usize| {
        if *left > 0 && known.insert(text.clone()) {
            list.push(text);
            *left -= 1;
        }
    };
    let mut for_chars = left / 3;
    for c in more_chars() {
        let before = for_chars;
        push(&mut chars, c.to_string(), &mut for_chars);
        left -= before - for_chars;
    }
    for text in syllable_words() {
        if left == 0 {
            break;
        }
        push(&mut merged, text, &mut left);
    }
    chars.truncate(room);
    (merged, chars)
}

/// Printable ASCII, the space marker and every other character of the built-in text, in code order.
fn base_chars() -> Vec<String> {
    let mut chars: Vec<char> = ('!'..='~').chain(['▁']).collect();
    chars.extend(CORPUS.chars().filter(|c| !c.is_whitespace()));
    chars.sort_unstable();
    chars.dedup();
    chars.into_iter().map(String::from).collect()
}

/// Characters of other scripts.
fn more_chars() -> impl Iterator<Item = char> {
    let ranges = ['À'..='ſ', 'Α'..='ω', 'А'..='я', '\u{3041}'..='\u{30ff}', '\u{3001}'..='\u{3015}', '！'..='～'];
    ranges.into_iter().flatten().chain('\u{4e00}'..='\u{9fa5}').filter(|c| c.is_alphanumeric() || *c > '\u{2fff}')
}

/// Made-up words, each of which can be built from shorter ones by merging.
fn syllable_words() -> impl Iterator<Item = String> {
    let syllables: Vec<String> =
        "bcdfghjklmnprstvwz".chars().flat_map(|c| "aeiou".chars().map(move |v| format!("{c}{v}"))).collect();
    let one = syllables.clone();
    let marked_one = one.clone();
    let two = pairs(syllables.clone(), syllables.clone());
    let marked_two = pairs(syllables.clone(), syllables.clone()).map(|word| format!("▁{word}"));
    let three = pairs(syllables.clone(), syllables.clone()).flat_map(move |word| {
        let syllables = syllables.clone();
        syllables.into_iter().map(move |s| format!("{word}{s}"))
    });
    let marked = marked_one.into_iter().map(|s| format!("▁{s}"));
    one.into_iter().chain(marked).chain(two).chain(marked_two).chain(three)
}

fn pairs(left: Vec<String>, right: Vec<String>) -> impl Iterator<Item = String> {
    left.into_iter().flat_map(move |a| {
        let right = right.clone();
        right.into_iter().map(move |b| format!("{a}{b}"))
    })
}

/// Byte-pair encoding of the built-in text: up to `limit` merged pieces, most frequent pair first, ties by text.
fn learn(limit: usize) -> Vec<String> {
    let mut symbols = Symbols::default();
    let mut words: BTreeMap<Vec<usize>, i64> = BTreeMap::new();
    for word in words_of(CORPUS) {
        *words.entry(word.chars().map(|c| symbols.id(&c.to_string())).collect()).or_default() += 1;
    }
    let mut words: Vec<(Vec<usize>, i64)> = words.into_iter().collect();
    let mut pairs: BTreeMap<(usize, usize), i64> = BTreeMap::new();
    for (word, count) in &words {
        count_pairs(&mut pairs, word, *count);
    }
    let n_chars = symbols.texts.len();
    while symbols.texts.len() < n_chars + limit {
        let best =
            pairs.iter().max_by(|(p, m), (q, n)| m.cmp(n).then_with(|| symbols.pair(**q).cmp(&symbols.pair(**p))));
        let Some((&(a, b), 1..)) = best else { break };
        let (left, right) = symbols.pair((a, b));
        let joined = format!("{left}{right}");
        let joined = symbols.id(&joined);
        for (word, count) in words.iter_mut().filter(|(word, _)| word.windows(2).any(|w| *w == [a, b])) {
            count_pairs(&mut pairs, word, -*count);
            merge_pair(word, (a, b), joined);
            count_pairs(&mut pairs, word, *count);
        }
    }
    symbols.texts.split_off(n_chars)
}

/// Numbers for texts, in the order in which they were first seen.
#[derive(Default)]
struct Symbols {
    texts: Vec<String>,
    ids: HashMap<String, usize>,
}

impl Symbols {
    fn id(&mut self, text: &str) -> usize {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        self.texts.push(text.to_owned());
        self.ids.insert(text.to_owned(), self.texts.len() - 1);
        self.texts.len() - 1
    }

    fn pair(&self, (a, b): (usize, usize)) -> (&str, &str) {
        let text = |id: usize| self.texts.get(id).map_or("", String::as_str);
        (text(a), text(b))
    }
}

/// Adds `count` for every pair of neighbours in `word`.
fn count_pairs(pairs: &mut BTreeMap<(usize, usize), i64>, word: &[usize], count: i64) {
    for pair in word.windows(2) {
        if let [a, b] = pair {
            let total = pairs.entry((*a, *b)).or_default();
            *total += count;
            if *total == 0 {
                pairs.remove(&(*a, *b));
            }
        }
    }
}

/// Joins every `pair` of neighbours, from the left.
fn merge_pair(word: &mut Vec<usize>, pair: (usize, usize), joined: usize) {
    let mut out: Vec<usize> = Vec::with_capacity(word.len());
    let mut open = false;
    for symbol in word.drain(..) {
        match out.last_mut() {
            Some(last) if open && symbol == pair.1 => {
                *last = joined;
                open = false;
            }
            _ => {
                open = symbol == pair.0;
                out.push(symbol);
            }
        }
    }
    *word = out;
}

/// The words of a text, each with "▁" for the space before it; letters never share a word with other characters.
fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for chunk in text.split_whitespace() {
        let mut word = String::from("▁");
        let mut letters = None;
        for c in chunk.chars() {
            let letter = c.is_alphabetic();
            if letters.is_some_and(|was| was != letter) {
                words.push(std::mem::take(&mut word));
            }
            letters = Some(letter);
            word.push(c);
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges by score, as SentencePiece does.
    fn tokenize(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let scores: HashMap<&str, f32> = tokenizer
            .pieces
            .iter()
            .filter(|p| p.kind == PieceKind::Normal)
            .map(|p| (p.text.as_str(), p.score))
            .collect();
        let mut symbols: Vec<String> = format!("▁{}", text.replace(' ', "▁")).chars().map(String::from).collect();
        loop {
            let mut best: Option<(f32, usize)> = None;
            for (i, pair) in symbols.windows(2).enumerate() {
                if let Some(score) = scores.get(pair.concat().as_str())
                    && best.is_none_or(|(b, _)| *score > b)
                {
                    best = Some((*score, i));
                }
            }
            let Some((_, i)) = best else { return symbols };
            let right = symbols.remove(i + 1);
            symbols[i].push_str(&right);
        }
    }

    #[test]
    fn has_exactly_the_ids_asked_for() {
        for n in [1024, 2048, 8192, 73448] {
            let tokenizer = Tokenizer::new(n);
            assert_eq!(tokenizer.pieces.len() + ADDED.len(), n);
            let texts: HashSet<&str> = tokenizer.pieces.iter().map(|p| p.text.as_str()).collect();
            assert_eq!(texts.len(), tokenizer.pieces.len());
        }
    }

    #[test]
    fn known_words_are_single_tokens() {
        let tokenizer = Tokenizer::new(8192);
        assert_eq!(tokenize(&tokenizer, "The picture shows a dog"), ["▁The", "▁picture", "▁shows", "▁a", "▁dog"]);
    }

    #[test]
    fn every_merged_piece_has_a_split() {
        let tokenizer = Tokenizer::new(73448);
        let made: HashSet<String> = tokenizer.merges.iter().map(|(a, b)| format!("{a}{b}")).collect();
        for piece in tokenizer.pieces.iter().filter(|p| p.kind == PieceKind::Normal && p.text.chars().count() > 1) {
            assert!(made.contains(&piece.text), "{}", piece.text);
        }
    }
}
