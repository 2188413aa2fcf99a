//! Pre-splitting of text for byte-level BPE.
//!
//! A byte-level vocabulary is trained on text that was first cut into words by a fixed set of rules, named by
//! `tokenizer.ggml.pre`; merges never cross a cut. The rules are published as regular expressions. They are written
//! here as scanners over characters instead of being handed to a regex engine: every rule is a choice between runs
//! of character classes, so one pass with one character of look-ahead decides it, whereas a backtracking engine goes
//! quadratic on long runs of blanks (`\s+$`, `\s+(?!\S)`), which a prompt may contain.
//!
//! Some names apply several expressions one after the other. Each one sees the pieces the former left, cuts out its
//! matches and keeps what lies between them as pieces, so `^`, `$` and look-ahead are relative to a piece.
//!
//! Classes are Unicode general categories: `\p{L}`, `\p{N}`, `\p{P}`, and `\s` is the `White_Space` property.

use unicode_general_category::{GeneralCategory as G, get_general_category};

/// A set of splitting rules, chosen by `tokenizer.ggml.pre`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pre {
    /// `default`: what files without a name get.
    Default,
    /// `llama-bpe` and its aliases: Llama 3.
    Llama3,
    /// `qwen2`: as Llama 3, but digits stand alone.
    Qwen2,
    /// `gpt-2`, `mpt`.
    Gpt2,
    /// `smollm`, `starcoder`, `refact`, `command-r`: GPT-2 after isolating every digit.
    DigitsGpt2,
    /// `deepseek-llm`.
    DeepseekLlm,
    /// `deepseek-coder`.
    DeepseekCoder,
    /// `falcon`.
    Falcon,
}

/// One row per accepted name: the rules, whether a word that is itself a token skips the merges, and whether a
/// file that does not say so gets a BOS.
struct Known {
    name: &'static str,
    pre: Pre,
    ignore_merges: bool,
    add_bos: bool,
}

const fn known(name: &'static str, pre: Pre) -> Known {
    Known { name, pre, ignore_merges: false, add_bos: false }
}

const fn known_llama3(name: &'static str) -> Known {
    Known { name, pre: Pre::Llama3, ignore_merges: true, add_bos: true }
}

const KNOWN: &[Known] = &[
    known("default", Pre::Default),
    known_llama3("llama-bpe"),
    known_llama3("llama3"),
    known_llama3("llama-v3"),
    known("qwen2", Pre::Qwen2),
    known("gpt-2", Pre::Gpt2),
    known("mpt", Pre::Gpt2),
    known("smollm", Pre::DigitsGpt2),
    known("starcoder", Pre::DigitsGpt2),
    known("refact", Pre::DigitsGpt2),
    known("command-r", Pre::DigitsGpt2),
    known("deepseek-llm", Pre::DeepseekLlm),
    known("deepseek-coder", Pre::DeepseekCoder),
    known("falcon", Pre::Falcon),
];

/// What a `tokenizer.ggml.pre` name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreSettings {
    /// The splitting rules.
    pub pre: Pre,
    /// A word that is a token becomes that token, whatever the merges say.
    pub ignore_merges: bool,
    /// BOS is added when the file does not say.
    pub add_bos: bool,
}

/// Looks a name up; `None` when it is not a known one.
pub fn lookup(name: &str) -> Option<PreSettings> {
    KNOWN.iter().find(|k| k.name == name).map(|k| PreSettings {
        pre: k.pre,
        ignore_merges: k.ignore_merges,
        add_bos: k.add_bos,
    })
}

/// All accepted names, separated by `", "`.
pub fn known_names() -> String {
    KNOWN.iter().map(|k| k.name).collect::<Vec<_>>().join(", ")
}

/// Calls `word` with each piece of `text`, in order; the pieces concatenate to `text`.
pub fn split<'a>(pre: Pre, text: &'a str, word: &mut dyn FnMut(&'a str)) {
    match pre {
        Pre::Gpt2 => gpt2(text, word),
        Pre::Llama3 => llama3(text, 3, word),
        Pre::Qwen2 => llama3(text, 1, word),
        Pre::DigitsGpt2 => isolate(text, number_one, &mut |piece, matched| {
            if matched { word(piece) } else { gpt2(piece, word) }
        }),
        Pre::Default => isolate(text, default_punctuation_run, &mut |piece, matched| {
            // The later expressions also look inside pieces that an earlier one cut out; a run of punctuation
            // holds nothing for them but the GPT-2 rules may still divide it.
            let _ = matched;
            gpt2(piece, &mut |piece| {
                isolate(piece, number_run, &mut |piece, _| isolate(piece, ascii_digits_three, &mut |p, _| word(p)));
            });
        }),
        Pre::Falcon => isolate(text, falcon_punctuation_run, &mut |piece, _| {
            gpt2(piece, &mut |piece| isolate(piece, ascii_digits_three, &mut |p, _| word(p)));
        }),
        Pre::DeepseekLlm => isolate(text, newline_one, &mut |piece, _| {
            isolate(piece, deepseek_letters, &mut |piece, _| {
                isolate(piece, deepseek_punctuation, &mut |piece, _| {
                    trailing_blank(piece, &mut |piece| {
                        isolate(piece, cjk_run, &mut |piece, _| isolate(piece, number_run, &mut |p, _| word(p)));
                    });
                });
            });
        }),
        Pre::DeepseekCoder => isolate(text, newline_one, &mut |piece, _| {
            isolate(piece, spaced_letters, &mut |piece, _| {
                isolate(piece, spaced_punctuation, &mut |piece, _| {
                    isolate(piece, cjk_run, &mut |piece, _| isolate(piece, number_one, &mut |p, _| word(p)));
                });
            });
        }),
    }
}

fn is_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    matches!(
        get_general_category(c),
        G::UppercaseLetter | G::LowercaseLetter | G::TitlecaseLetter | G::ModifierLetter | G::OtherLetter
    )
}

fn is_number(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_digit();
    }
    matches!(get_general_category(c), G::DecimalNumber | G::LetterNumber | G::OtherNumber)
}

fn is_punctuation(c: char) -> bool {
    matches!(
        get_general_category(c),
        G::ConnectorPunctuation
            | G::DashPunctuation
            | G::OpenPunctuation
            | G::ClosePunctuation
            | G::InitialPunctuation
            | G::FinalPunctuation
            | G::OtherPunctuation
    )
}

fn is_other(c: char) -> bool {
    !c.is_whitespace() && !is_letter(c) && !is_number(c)
}

/// Byte length of the longest prefix of `text` whose characters all satisfy `class`.
fn run(text: &str, class: fn(char) -> bool) -> usize {
    text.char_indices().find(|&(_, c)| !class(c)).map_or(text.len(), |(i, _)| i)
}

/// Cuts `text` at every match of `rule`, which says how many bytes match at the start of its argument (0 = none);
/// reports pieces in order with whether they are matches.
fn isolate<'a>(text: &'a str, rule: fn(&str) -> usize, piece: &mut dyn FnMut(&'a str, bool)) {
    let mut start = 0;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let matched = rule(&text[at..]);
        if matched == 0 {
            at += c.len_utf8();
            continue;
        }
        if start < at {
            piece(&text[start..at], false);
        }
        piece(&text[at..at + matched], true);
        at += matched;
        start = at;
    }
    if start < text.len() {
        piece(&text[start..], false);
    }
}

/// Length of an English contraction (`'s 't 're 've 'm 'll 'd`) at the start of `text`.
fn contraction(text: &str, fold_case: bool) -> usize {
    let mut chars = text.chars();
    if chars.next() != Some('\'') {
        return 0;
    }
    let mut next = || chars.next().map(|c| if fold_case { c.to_ascii_lowercase() } else { c });
    match next() {
        Some('s' | 't' | 'm' | 'd') => 2,
        Some('r' | 'v') if next() == Some('e') => 3,
        Some('l') if next() == Some('l') => 3,
        _ => 0,
    }
}

/// `\s+(?!\S)|\s+` at the start of `text`, which begins with `blanks` > 0 bytes of white space: everything up to the
/// last blank before a word, which is left for the word, or the whole run at the end of the text.
fn blank_run(text: &str, blanks: usize) -> usize {
    if blanks == text.len() {
        return blanks;
    }
    match text[..blanks].char_indices().next_back() {
        Some((last, _)) if last > 0 => last,
        _ => blanks,
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2<'a>(mut text: &'a str, word: &mut dyn FnMut(&'a str)) {
    while !text.is_empty() {
        let take = gpt2_one(text);
        word(&text[..take]);
        text = &text[take..];
    }
}

fn gpt2_one(text: &str) -> usize {
    let short = contraction(text, false);
    if short > 0 {
        return short;
    }
    let space = usize::from(text.starts_with(' '));
    for class in [is_letter, is_number, is_other] {
        let n = run(&text[space..], class);
        if n > 0 {
            return space + n;
        }
    }
    blank_run(text, run(text, char::is_whitespace))
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,D}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
/// with D = `digits`.
fn llama3<'a>(mut text: &'a str, digits: usize, word: &mut dyn FnMut(&'a str)) {
    while let Some(first) = text.chars().next() {
        let take = llama3_one(text, first, digits);
        word(&text[..take]);
        text = &text[take..];
    }
}

fn llama3_one(text: &str, first: char, digits: usize) -> usize {
    let short = contraction(text, true);
    if short > 0 {
        return short;
    }
    // One leading character of any kind but line end and digit may belong to a run of letters.
    let lead = if is_letter(first) { 0 } else { first.len_utf8() };
    if !matches!(first, '\r' | '\n') && !is_number(first) {
        let n = run(&text[lead..], is_letter);
        if n > 0 {
            return lead + n;
        }
    }
    if is_number(first) {
        return text.chars().take(digits).take_while(|&c| is_number(c)).map(char::len_utf8).sum();
    }
    let space = usize::from(first == ' ');
    let n = run(&text[space..], is_other);
    if n > 0 {
        let end = space + n;
        return end + run(&text[end..], |c| matches!(c, '\r' | '\n'));
    }
    let blanks = run(text, char::is_whitespace);
    match text[..blanks].rfind(['\r', '\n']) {
        Some(line_end) => line_end + 1,
        None => blank_run(text, blanks),
    }
}

fn number_one(text: &str) -> usize {
    text.chars().next().filter(|&c| is_number(c)).map_or(0, char::len_utf8)
}

fn number_run(text: &str) -> usize {
    run(text, is_number)
}

fn newline_one(text: &str) -> usize {
    usize::from(text.starts_with(['\r', '\n']))
}

fn ascii_digits_three(text: &str) -> usize {
    match text.as_bytes() {
        [a, b, c, ..] if [a, b, c].iter().all(|d| d.is_ascii_digit()) => 3,
        _ => 0,
    }
}

/// `[\p{P}\$\+<=>\^~\|]+`
fn default_punctuation_run(text: &str) -> usize {
    run(text, |c| matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|') || is_punctuation(c))
}

/// As [`default_punctuation_run`] with the grave accent.
fn falcon_punctuation_run(text: &str) -> usize {
    run(text, |c| matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|' | '`') || is_punctuation(c))
}

/// `\s?X+`: a run of `class`, with one blank before it.
fn spaced(text: &str, class: fn(char) -> bool) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    let lead = if first.is_whitespace() && !class(first) { first.len_utf8() } else { 0 };
    let n = run(&text[lead..], class);
    if n > 0 { lead + n } else { 0 }
}

fn spaced_letters(text: &str) -> usize {
    spaced(text, is_letter)
}

fn spaced_punctuation(text: &str) -> usize {
    spaced(text, is_punctuation)
}

/// `[一-龥ࠀ-一가-퟿]+`, which takes in everything from U+0800 on, the ideographic space U+3000 among it.
fn cjk_run(text: &str) -> usize {
    run(text, |c| matches!(c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}'))
}

fn deepseek_letters(text: &str) -> usize {
    spaced(text, is_deepseek_letter)
}

fn deepseek_punctuation(text: &str) -> usize {
    spaced(
        text,
        |c| matches!(c, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '\u{2018}'..='\u{201f}' | '\u{3000}'..='。'),
    )
}

/// `\s+$`: cuts the white space at the end of `text` off.
fn trailing_blank<'a>(text: &'a str, word: &mut dyn FnMut(&'a str)) {
    let kept = text.trim_end().len();
    for piece in [&text[..kept], &text[kept..]] {
        if !piece.is_empty() {
            word(piece);
        }
    }
}

/// The letter ranges that `deepseek-llm` lists instead of a category: cased scripts of the Basic Multilingual Plane
/// and a few beyond.
fn is_deepseek_letter(c: char) -> bool {
    DEEPSEEK_LETTERS
        .binary_search_by(|&(first, last)| {
            if last < c {
                std::cmp::Ordering::Less
            } else if first > c {
                std::cmp::Ordering::Greater
            } else {
                std::cmp::Ordering::Equal
            }
        })
        .is_ok()
}

const DEEPSEEK_LETTERS: &[(char, char)] = &[
    ('\u{41}', '\u{5a}'),
    ('\u{61}', '\u{7a}'),
    ('\u{b5}', '\u{b5}'),
    ('\u{c0}', '\u{d6}'),
    ('\u{d8}', '\u{f6}'),
    ('\u{f8}', '\u{1ba}'),
    ('\u{1bc}', '\u{1bf}'),
    ('\u{1c4}', '\u{293}'),
    ('\u{295}', '\u{2af}'),
    ('\u{370}', '\u{373}'),
    ('\u{376}', '\u{377}'),
    ('\u{37b}', '\u{37d}'),
    ('\u{37f}', '\u{37f}'),
    ('\u{386}', '\u{386}'),
    ('\u{388}', '\u{38a}'),
    ('\u{38c}', '\u{38c}'),
    ('\u{38e}', '\u{3a1}'),
    ('\u{3a3}', '\u{3f5}'),
    ('\u{3f7}', '\u{481}'),
    ('\u{48a}', '\u{52f}'),
    ('\u{531}', '\u{556}'),
    ('\u{10a0}', '\u{10c5}'),
    ('\u{13a0}', '\u{13f5}'),
    ('\u{13f8}', '\u{13fd}'),
    ('\u{1c90}', '\u{1cba}'),
    ('\u{1cbd}', '\u{1cbf}'),
    ('\u{1d00}', '\u{1d2b}'),
    ('\u{1d6b}', '\u{1d77}'),
    ('\u{1d79}', '\u{1d9a}'),
    ('\u{1e00}', '\u{1f15}'),
    ('\u{1f18}', '\u{1f1d}'),
    ('\u{1f20}', '\u{1f45}'),
    ('\u{1f48}', '\u{1f4d}'),
    ('\u{1f50}', '\u{1f57}'),
    ('\u{1f59}', '\u{1f59}'),
    ('\u{1f5b}', '\u{1f5b}'),
    ('\u{1f5d}', '\u{1f5d}'),
    ('\u{1f5f}', '\u{1f7d}'),
    ('\u{1f80}', '\u{1fb4}'),
    ('\u{1fb6}', '\u{1fbc}'),
    ('\u{1fbe}', '\u{1fbe}'),
    ('\u{1fc2}', '\u{1fc4}'),
    ('\u{1fc6}', '\u{1fcc}'),
    ('\u{1fd0}', '\u{1fd3}'),
    ('\u{1fd6}', '\u{1fdb}'),
    ('\u{1fe0}', '\u{1fec}'),
    ('\u{1ff2}', '\u{1ff4}'),
    ('\u{1ff6}', '\u{1ffc}'),
    ('\u{2102}', '\u{2102}'),
    ('\u{2107}', '\u{2107}'),
    ('\u{210a}', '\u{2113}'),
    ('\u{2115}', '\u{2115}'),
    ('\u{2119}', '\u{211d}'),
    ('\u{2124}', '\u{2124}'),
    ('\u{2126}', '\u{2126}'),
    ('\u{2128}', '\u{2128}'),
    ('\u{212a}', '\u{212d}'),
    ('\u{212f}', '\u{2134}'),
    ('\u{2139}', '\u{2139}'),
    ('\u{213c}', '\u{213f}'),
    ('\u{2145}', '\u{2149}'),
    ('\u{214e}', '\u{214e}'),
    ('\u{2183}', '\u{2184}'),
    ('\u{2c00}', '\u{2c7b}'),
    ('\u{2c7e}', '\u{2ce4}'),
    ('\u{2ceb}', '\u{2cee}'),
    ('\u{2cf2}', '\u{2cf3}'),
    ('\u{a640}', '\u{a66d}'),
    ('\u{a680}', '\u{a69b}'),
    ('\u{a722}', '\u{a76f}'),
    ('\u{a771}', '\u{a787}'),
    ('\u{a78b}', '\u{a78e}'),
    ('\u{ab70}', '\u{abbf}'),
    ('\u{fb00}', '\u{fb06}'),
    ('\u{fb13}', '\u{fb17}'),
    ('\u{ff21}', '\u{ff3a}'),
    ('\u{ff41}', '\u{ff5a}'),
    ('\u{10400}', '\u{1044f}'),
    ('\u{104b0}', '\u{104d3}'),
    ('\u{104d8}', '\u{104fb}'),
    ('\u{10c80}', '\u{10cb2}'),
    ('\u{10cc0}', '\u{10cf2}'),
    ('\u{118a0}', '\u{118df}'),
    ('\u{1e900}', '\u{1e943}'),
];
