use super::super::vocab::{Arrays, TokenType};
use super::*;

/// The rule said plainly: for each length, longest first, the leftmost token of every piece of text that is left.
fn plainly<'a>(vocab: &Vocab, specials: &[Special], text: &'a str) -> Vec<Fragment<'a>> {
    let mut lengths: Vec<usize> = specials.iter().map(|s| vocab.text(s.id).len()).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut fragments = if text.is_empty() { Vec::new() } else { vec![Fragment::Text(text)] };
    for len in lengths.into_iter().rev() {
        let mut next = Vec::new();
        for fragment in fragments {
            let Fragment::Text(text) = fragment else {
                next.push(fragment);
                continue;
            };
            let (mut from, mut at) = (0, 0);
            while at < text.len() {
                let here = |s: &&Special| vocab.text(s.id).len() == len && text[at..].starts_with(vocab.text(s.id));
                let found = if text.is_char_boundary(at) { specials.iter().find(here) } else { None };
                let Some(special) = found else {
                    at += 1;
                    continue;
                };
                if from < at {
                    next.push(Fragment::Text(&text[from..at]));
                }
                next.push(Fragment::Token(special.id));
                at += len;
                if special.strip_after {
                    at += text[at..].bytes().take_while(|b| matches!(b, b' ' | 0x09..=0x0d)).count();
                }
                from = at;
            }
            if from < text.len() {
                next.push(Fragment::Text(&text[from..]));
            }
        }
        fragments = next;
    }
    fragments
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// Few letters, so that texts overlap and repeat; one has two bytes.
    fn text(&mut self, len: usize, letters: &[char]) -> String {
        (0..len).map(|_| letters[self.below(letters.len())]).collect()
    }
}

fn vocab(texts: &[String]) -> Vocab {
    let types = Some(vec![TokenType::Control; texts.len()]);
    Vocab::new(Arrays { texts: texts.iter().map(String::as_str).collect(), scores: None, types }).unwrap()
}

#[test]
fn fragments_are_those_of_the_plain_rule() {
    let mut random = Random(11);
    let mut found = 0;
    for round in 0..600 {
        let letters: &[char] = if round % 3 == 0 { &['a'] } else { &['a', 'b', ' ', 'é', '<'] };
        let n = 1 + random.below(12);
        let longest = [3, 9, 40][round % 3];
        let mut texts = Vec::new();
        for _ in 0..n {
            let len = 1 + random.below(longest);
            texts.push(random.text(len, letters));
        }
        texts.sort();
        texts.dedup();
        let vocab = vocab(&texts);
        let specials: Vec<_> = (0u32..)
            .take(texts.len())
            .map(|id| Special { id, strip_after: random.below(3) == 0, always: random.below(2) == 0 })
            .collect();
        let partition = Partition::new(&vocab, specials.clone());
        for len in [0, 1, 5, 30, 200] {
            // Pieces of tokens between other text, so that there is much to find, and nearly so.
            let mut text = random.text(len, letters);
            for _ in 0..random.below(6) {
                text += &texts[random.below(texts.len())];
                let rest = random.below(4);
                text += &random.text(rest, letters);
            }
            for control in [true, false] {
                let looked_for: Vec<_> = specials.iter().filter(|s| control || s.always).copied().collect();
                let right = plainly(&vocab, &looked_for, &text);
                assert_eq!(partition.split(&vocab, &text, control), right, "{texts:?} in {text:?}");
                found += right.iter().filter(|f| matches!(f, Fragment::Token(_))).count();
            }
        }
    }
    assert!(found > 10_000, "{found}");
}

/// Prompts made of what nearly is a token take no longer for each byte, whatever the tokens' length.
#[test]
fn nearly_tokens_cost_no_more() {
    let texts: Vec<String> = (1..=40).map(|i| "a".repeat(400 * i - 1) + "b").collect();
    let vocab = vocab(&texts);
    let specials = (0u32..40).map(|id| Special { id, strip_after: false, always: true }).collect();
    let partition = Partition::new(&vocab, specials);
    let prompt = "a".repeat(1 << 20);
    let started = std::time::Instant::now();
    assert_eq!(partition.split(&vocab, &prompt, true), [Fragment::Text(&prompt)]);
    // 40 passes over a megabyte; comparing 16 kB at every place would take hours.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    let whole = "a".repeat(400 * 40 - 1) + "b";
    let found = partition.split(&vocab, &whole, true);
    assert_eq!(found, [Fragment::Token(39)]);
}
