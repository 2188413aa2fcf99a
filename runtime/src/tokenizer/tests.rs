//! Unit tests of the pieces; whole vocabularies are compared in `tests/tokenizer.rs`.

use super::bpe::{byte_of, char_of};
use super::pre::{self, Pre};

fn words(pre: Pre, text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    pre::split(pre, text, &mut |word| words.push(word));
    assert_eq!(words.concat(), text, "{pre:?} loses text");
    assert!(words.iter().all(|w| !w.is_empty()), "{pre:?} makes empty words of {text:?}");
    words
}

#[test]
fn byte_alphabet_is_a_bijection() {
    for byte in 0..=255u8 {
        assert_eq!(byte_of(char_of(byte)), Some(byte), "byte {byte:#x}");
    }
    let known: Vec<(u8, char)> = vec![(b'!', '!'), (b' ', 'Ġ'), (b'\n', 'Ċ'), (0x7f, 'ġ'), (0xad, 'Ń'), (0xff, 'ÿ')];
    for (byte, c) in known {
        assert_eq!(char_of(byte), c);
    }
    assert_eq!(byte_of('中'), None);
    assert_eq!(byte_of(' '), None);
}

#[test]
fn gpt2_words() {
    for (text, expected) in [
        ("Hello world", vec!["Hello", " world"]),
        ("it's we'll  I'M", vec!["it", "'s", " we", "'ll", " ", " I", "'", "M"]),
        ("a   b", vec!["a", "  ", " b"]),
        ("tail  ", vec!["tail", "  "]),
        ("x \n\n y", vec!["x", " \n\n", " y"]),
        ("12 345", vec!["12", " 345"]),
        ("中文，é!?", vec!["中文", "，", "é", "!?"]),
    ] {
        assert_eq!(words(Pre::Gpt2, text), expected);
    }
}

#[test]
fn llama3_words() {
    for (text, expected) in [
        ("I'LL go", vec!["I", "'LL", " go"]),
        ("12345 6", vec!["123", "45", " ", "6"]),
        ("(word) .\n\nx", vec!["(word", ")", " .\n\n", "x"]),
        ("a  \n  b", vec!["a", "  \n", " ", " b"]),
        ("end ", vec!["end", " "]),
    ] {
        assert_eq!(words(Pre::Llama3, text), expected);
    }
    assert_eq!(words(Pre::Qwen2, "12345 6"), ["1", "2", "3", "4", "5", " ", "6"]);
}

#[test]
fn staged_rules() {
    assert_eq!(words(Pre::DigitsGpt2, "a12 34"), ["a", "1", "2", " ", "3", "4"]);
    assert_eq!(words(Pre::Falcon, "a12345`b` $x"), ["a", "123", "45", "`", "b", "`", " ", "$", "x"]);
    assert_eq!(words(Pre::Default, "a12345 x!"), ["a", "123", "45", " x", "!"]);
    assert_eq!(words(Pre::DeepseekLlm, "Hi 中文  \n12a"), ["Hi", " ", "中文", "  ", "\n", "12", "a"]);
    assert_eq!(words(Pre::DeepseekCoder, "Hi, 中文 12"), ["Hi", ",", " ", "中文", " ", "1", "2"]);
}

#[test]
fn every_known_name_is_found_and_listed() {
    let names = pre::known_names();
    for name in names.split(", ") {
        assert!(pre::lookup(name).is_some(), "{name}");
    }
    assert!(pre::lookup("llama-bpe").is_some_and(|s| s.ignore_merges && s.add_bos));
    assert!(pre::lookup("no-such").is_none());
}
