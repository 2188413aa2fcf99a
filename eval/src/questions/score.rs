//! From an answer to a number between 0 and 1.

use super::{choice, vqa};

/// How an answer is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Metric {
    /// The answer equals one of the expected ones, byte by byte.
    Exact,
    /// The answer holds one of the expected ones; case does not count, and line feeds are blanks.
    Contains,
    /// As [`Metric::Contains`] for formulas: case counts, blanks do not.
    ContainsFormula,
    /// The option that the answer chooses is the expected one.
    MultipleChoice,
    /// Average normalised Levenshtein similarity: the share of characters that need no edit, 0 below a half.
    Anls,
    /// Numbers within 5 %, other answers but for case.
    Relaxed,
    /// Soft agreement with ten people, of which three make an answer right.
    Vqa,
}

/// All metrics with their names.
const NAMES: [(Metric, &str); 7] = [
    (Metric::Exact, "exact"),
    (Metric::Contains, "contains"),
    (Metric::ContainsFormula, "contains-formula"),
    (Metric::MultipleChoice, "multiple-choice"),
    (Metric::Anls, "anls"),
    (Metric::Relaxed, "relaxed"),
    (Metric::Vqa, "vqa"),
];

impl Metric {
    /// Its name in files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(metric, _)| *metric == self).map_or("?", |(_, name)| name)
    }

    /// The metric of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(metric, _)| *metric)
    }

    /// All names.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(_, name)| *name).collect()
    }
}

/// Similarities below this count as 0.
const ANLS_THRESHOLD: f64 = 0.5;

/// Share by which a number may miss.
const RELAXED_CHANGE: f64 = 0.05;

/// The score of `answer`, from 0 to 1.
pub(super) fn score(metric: Metric, answer: &str, expected: &[String], options: &[(char, String)]) -> f64 {
    let any = |right: &dyn Fn(&str) -> bool| f64::from(u8::from(expected.iter().any(|e| right(e))));
    match metric {
        Metric::Exact => any(&|e| e == answer),
        Metric::Contains => {
            let flat = |text: &str| text.to_lowercase().trim().replace('\n', " ");
            let answer = flat(answer);
            any(&|e| answer.contains(&flat(e)))
        }
        Metric::ContainsFormula => {
            let bare = |text: &str| text.trim().replace(['\n', ' '], "");
            let answer = bare(answer);
            any(&|e| answer.contains(&bare(e)))
        }
        Metric::MultipleChoice => {
            let chosen = choice::chosen(answer, options).map(String::from);
            any(&|e| chosen.as_deref() == Some(e))
        }
        Metric::Anls => expected.iter().map(|e| similarity(answer, e)).fold(0.0, f64::max),
        Metric::Relaxed => any(&|e| relaxed(answer, e)),
        Metric::Vqa => vqa::accuracy(answer, expected),
    }
}

/// Normalised Levenshtein similarity of two texts but for case and amounts of blanks; 0 below [`ANLS_THRESHOLD`].
fn similarity(a: &str, b: &str) -> f64 {
    let flat = |text: &str| -> Vec<char> {
        let words: Vec<_> = text.split_whitespace().map(str::to_lowercase).collect();
        words.join(" ").chars().collect()
    };
    let (a, b) = (flat(a), flat(b));
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 1.0;
    }
    let share = |edits: usize| 1.0 - edits as f64 / longer as f64;
    // Lengths alone may tell, before quadratic work on a text somebody else wrote.
    if share(a.len().abs_diff(b.len())) < ANLS_THRESHOLD {
        return 0.0;
    }
    let similarity = share(edits(&a, &b));
    if similarity < ANLS_THRESHOLD { 0.0 } else { similarity }
}

/// Levenshtein distance: insertions, deletions and replacements that make one text of the other.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row[1..].iter_mut().zip(b) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        row[0] = i + 1;
    }
    row[b.len()]
}

/// Whether two numbers are within 5 % of the expected one, or two texts the same but for case. `12%` is 0.12.
fn relaxed(answer: &str, expected: &str) -> bool {
    match (number(answer), number(expected)) {
        (Some(found), Some(wanted)) if wanted != 0.0 => ((found - wanted) / wanted).abs() <= RELAXED_CHANGE,
        _ => answer.to_lowercase() == expected.to_lowercase(),
    }
}

fn number(text: &str) -> Option<f64> {
    match text.strip_suffix('%') {
        Some(percent) => percent.trim_end_matches('%').trim().parse::<f64>().ok().map(|n| n / 100.0),
        None => text.trim().parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(metric: Metric, answer: &str, expected: &[&str]) -> f64 {
        let expected: Vec<_> = expected.iter().map(|e| (*e).to_owned()).collect();
        score(metric, answer, &expected, &[])
    }

    #[test]
    fn exact_is_byte_by_byte() {
        assert_eq!(by(Metric::Exact, "red", &["blue", "red"]), 1.0);
        for wrong in ["Red", "red.", "red circle", ""] {
            assert_eq!(by(Metric::Exact, wrong, &["blue", "red"]), 0.0, "{wrong}");
        }
    }

    #[test]
    fn contains_looks_past_case_and_lines() {
        assert_eq!(by(Metric::Contains, "The word is\nCENTRE stage.", &["is centre"]), 1.0);
        assert_eq!(by(Metric::Contains, "CENTRE", &["center", " Centre\n"]), 1.0);
        assert_eq!(by(Metric::Contains, "cent re", &["centre"]), 0.0);
        let formula = |answer| by(Metric::ContainsFormula, answer, &["\\frac { a } { B }"]);
        assert_eq!(formula("$$\\frac{a} {B}$$"), 1.0);
        assert_eq!(formula("\\frac{a}\n{B}"), 1.0);
        assert_eq!(formula("\\frac{a}{b}"), 0.0, "case counts");
    }

    /// Levenshtein's classic pair, and answers worked out by hand.
    #[test]
    fn anls_by_hand() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(edits(&chars("kitten"), &chars("sitting")), 3);
        assert_eq!(edits(&chars("saturday"), &chars("sunday")), 3);
        assert_eq!(edits(&[], &chars("abc")), 3);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(by(Metric::Anls, "kitten", &["sitting"]), 1.0 - 3.0 / 7.0);
        near(by(Metric::Anls, " Kitten ", &["KITTEN"]), 1.0);
        near(by(Metric::Anls, "new  york", &["New\nYork"]), 1.0);
        near(by(Metric::Anls, "april", &["apr", "avril"]), 0.8);
        // One of two characters wrong is exactly the threshold, which counts; three of five is beyond it.
        near(by(Metric::Anls, "ab", &["ac"]), 0.5);
        near(by(Metric::Anls, "abcde", &["abxyz"]), 0.0);
        near(by(Metric::Anls, "", &["a"]), 0.0);
        near(by(Metric::Anls, "größe", &["große"]), 0.8);
        near(by(Metric::Anls, "a", &["b", "c"]), 0.0);
    }

    #[test]
    fn anls_of_long_texts_is_cheap_where_lengths_differ() {
        let long = "x".repeat(4 << 20);
        assert_eq!(by(Metric::Anls, "x", &[&long]), 0.0);
    }

    #[test]
    fn relaxed_takes_numbers_within_five_per_cent() {
        let right = |answer, expected| by(Metric::Relaxed, answer, &[expected]) == 1.0;
        assert!(right("105", "100") && right("95", "100") && !right("105.1", "100") && !right("94.9", "100"));
        assert!(right("-10.4", "-10") && !right("10", "-10"));
        assert!(right("0.5", "50%") && right("51%", "50%") && !right("50", "50%"), "a percentage is a hundredth");
        assert!(right("1e3", "1000") && right("0", "0") && !right("0.01", "0"), "nothing is within 5 % of zero");
        assert!(right("Yes", "yes") && !right("yes.", "yes") && !right("1,000", "1000"));
        assert!(!right("nan", "3") && !right("2 apples", "2"));
        assert_eq!(by(Metric::Relaxed, "4", &["7", "4"]), 1.0);
    }

    #[test]
    fn names_are_unique_and_lead_back() {
        for name in Metric::names() {
            assert_eq!(Metric::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Metric::from_name("bleu"), None);
    }
}
