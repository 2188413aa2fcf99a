//! Which option an answer chooses, by rules alone: no second model is asked.
//!
//! The rules are those that VLMEvalKit applies under `exact_matching`:
//!
//! 1. An answer that declines chooses nothing.
//! 2. Where exactly one option's letter stands as a word of its own, and among the last four words, it is that one.
//!    Punctuation of lists and sentences counts as blanks.
//! 3. Otherwise, if the answer is not more than twice as long as all options together and holds the text of exactly
//!    one, but for case, it is that one.

/// What separates words, besides blanks.
const PUNCTUATION: &str = ".()[],:;!*#{}";

/// How models decline.
const DECLINED: [&str; 4] = [
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
];

/// Words from the end among which the letter has to be.
const LAST_WORDS: usize = 4;

/// The letter of the option that `answer` chooses, if it chooses one.
pub(super) fn chosen(answer: &str, options: &[(char, String)]) -> Option<char> {
    if DECLINED.iter().any(|text| answer.contains(text)) {
        return None;
    }
    by_letter(answer, options).or_else(|| by_text(answer, options))
}

fn by_letter(answer: &str, options: &[(char, String)]) -> Option<char> {
    let words: Vec<&str> =
        answer.split(|c: char| c.is_whitespace() || PUNCTUATION.contains(c)).filter(|word| !word.is_empty()).collect();
    let place = |letter: char| words.iter().position(|word| word.strip_prefix(letter) == Some(""));
    let mut named = options.iter().filter_map(|(letter, _)| Some((*letter, place(*letter)?)));
    let (letter, at) = named.next()?;
    (named.next().is_none() && at + LAST_WORDS >= words.len()).then_some(letter)
}

fn by_text(answer: &str, options: &[(char, String)]) -> Option<char> {
    let length: usize = options.iter().map(|(_, text)| text.chars().count()).sum();
    if answer.chars().count() > 2 * length {
        return None;
    }
    let answer = answer.to_lowercase();
    let mut named = options.iter().filter(|(_, text)| answer.contains(&text.to_lowercase()));
    let (letter, _) = named.next()?;
    named.next().is_none().then_some(*letter)
}

#[cfg(test)]
mod tests {
    use super::chosen;

    fn options(texts: &[&str]) -> Vec<(char, String)> {
        ('A'..='Z').zip(texts.iter().map(|t| (*t).to_owned())).collect()
    }

    #[test]
    fn letters_are_found_as_words() {
        let four = options(&["a cat", "a dog", "two birds", "nothing"]);
        for (answer, letter) in [
            ("B", Some('B')),
            ("(C)", Some('C')),
            ("D.", Some('D')),
            ("**A**", Some('A')),
            ("The answer is B", Some('B')),
            ("Answer: C. two birds", Some('C')),
            ("A or B", None),
            ("b", None),
            ("E", None),
            ("", None),
            // The letter is an article here: among the last four words it counts all the same, before them not.
            ("A big thing", Some('A')),
            ("A very large and heavy thing", None),
        ] {
            assert_eq!(chosen(answer, &four), letter, "{answer}");
        }
    }

    #[test]
    fn texts_are_found_where_no_letter_is() {
        let four = options(&["red", "Blue", "dark red", "green"]);
        assert_eq!(chosen("It is blue", &four), Some('B'));
        assert_eq!(chosen("dark red", &four), None, "two options are in it");
        assert_eq!(chosen("green, like the grass in the meadow behind the house", &four), None, "too long");
        assert_eq!(chosen("Cannot determine the answer: green", &four), None);
        assert_eq!(chosen("yellow", &four), None);
        // Letters that are not offered do not disturb.
        assert_eq!(chosen("Vitamin D is green", &options(&["red", "blue", "green"])), Some('C'));
    }
}
