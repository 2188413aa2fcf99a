//! Agreement with ten people's answers, as the VQA challenge and TextVQA score it.
//!
//! Answers are normalised first: punctuation, articles, number words and apostrophes that are left out. An answer then
//! has the accuracy `min(1, matches / 3)` against every nine of the ten people, and the mean of these.

/// The accuracy of `answer` against the answers of people.
pub(super) fn accuracy(answer: &str, people: &[String]) -> f64 {
    if people.is_empty() {
        return 0.0;
    }
    let answer = normal(answer);
    let same: Vec<bool> = people.iter().map(|person| normal(person) == answer).collect();
    let matches = same.iter().filter(|same| **same).count();
    let against = |left_out: &bool| ((matches - usize::from(*left_out)) as f64 / 3.0).min(1.0);
    same.iter().map(against).sum::<f64>() / people.len() as f64
}

/// Punctuation that goes; what it leaves is told in [`without_punctuation`].
const PUNCTUATION: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];

const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// Words for numbers.
const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// Contractions that are recognised with one apostrophe left out.
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've \
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've \
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've \
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've \
    something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't \
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's \
    who've why'll why're why's won't would've y'all y'all'll y'all'd've you'd you'd've you'll you're you've";

/// `text` as answers are compared.
fn normal(text: &str) -> String {
    let text = without_punctuation(text.replace(['\n', '\t'], " ").trim()).to_lowercase();
    let words = text.split_whitespace().map(|word| {
        let number = NUMBERS.iter().find(|(name, _)| *name == word);
        number.map_or(word, |(_, digits)| digits)
    });
    let words: Vec<&str> = words.filter(|word| !ARTICLES.contains(word)).map(whole).collect();
    words.join(" ")
}

/// A mark of punctuation vanishes if it stands beside a blank anywhere in the text, or if the text has a comma between
/// two digits; otherwise it becomes a blank. A full stop vanishes unless a digit follows.
fn without_punctuation(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let has_grouped_digits =
        chars.windows(3).any(|w| matches!(w, [a, ',', b] if a.is_ascii_digit() && b.is_ascii_digit()));
    let vanishes = |mark: char| {
        has_grouped_digits
            || chars.windows(2).any(|w| matches!(w, [a, b] if *a == mark && *b == ' ' || *a == ' ' && *b == mark))
    };
    let vanishing: Vec<char> = PUNCTUATION.into_iter().filter(|mark| vanishes(*mark)).collect();
    let swept: Vec<char> = chars
        .iter()
        .filter(|c| !vanishing.contains(c))
        .map(|c| if PUNCTUATION.contains(c) { ' ' } else { *c })
        .collect();
    let follows = swept.iter().skip(1).map(Some).chain([None]);
    let kept = swept.iter().zip(follows).filter(|(c, next)| **c != '.' || next.is_some_and(char::is_ascii_digit));
    kept.map(|(c, _)| *c).collect()
}

/// A contraction with the apostrophe it lacks; any other word as it is.
fn whole(word: &str) -> &str {
    // The one entry of the list that goes the other way.
    if word == "somebody'd" {
        return "somebodyd";
    }
    let lacks_one = |full: &&str| {
        let gaps = full.match_indices('\'').map(|(at, _)| (&full[..at], &full[at + 1..]));
        gaps.into_iter().any(|(head, tail)| word.strip_prefix(head) == Some(tail))
    };
    CONTRACTIONS.split_whitespace().find(lacks_one).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten people, the first `n` of whom say `yes`.
    fn people(n: usize) -> Vec<String> {
        (0..10).map(|i| if i < n { "yes" } else { "no" }.to_owned()).collect()
    }

    /// The well-known steps of the measure: 0.3, 0.6, 0.9, 1 for one to four people who agree.
    #[test]
    fn people_who_agree() {
        for (n, wanted) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            let found = accuracy("Yes.", &people(n));
            assert!((found - wanted).abs() < 1e-12, "{n}: {found}");
        }
        assert_eq!(accuracy("yes", &[]), 0.0);
        assert_eq!(accuracy("yes", &["yes".to_owned()]), 0.0, "nobody is left to agree");
    }

    #[test]
    fn answers_are_normalised() {
        for (text, wanted) in [
            ("The Red Bus", "red bus"),
            ("two dogs and a cat", "2 dogs and cat"),
            ("None", "0"),
            ("dont know", "don't know"),
            ("they'dve", "they'd've"),
            ("theyd've", "they'd've"),
            ("theydve", "theydve"),
            ("yall'd've", "y'all'd've"),
            ("ow's'at", "'ow's'at"),
            ("somebody'd", "somebodyd"),
            ("its", "its"),
            ("don't", "don't"),
            ("1,000", "1000"),
            ("3.5", "3.5"),
            ("end. Of 3.", "end of 3"),
            ("black/white", "black white"),
            ("black/ white", "black white"),
            ("well-known (old)", "well known old"),
            ("well-known", "well known"),
            ("no,\nthanks\t!", "no thanks"),
            ("coca-cola 1,5", "cocacola 15"),
            ("", ""),
        ] {
            assert_eq!(normal(text), wanted, "{text}");
        }
    }
}
