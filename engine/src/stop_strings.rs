//! Texts that end an answer.

/// Watches the text of an answer for strings that end it. A string may come in pieces, so what could be the beginning of one
/// is held back until that is decided.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopStrings {
    /// Watches for `strings`; empty ones are left out.
    #[must_use]
    pub fn new(strings: impl IntoIterator<Item = String>) -> Self {
        let strings = strings.into_iter().filter(|s| !s.is_empty()).collect();
        Self { strings, ..Self::default() }
    }

    /// The string that ended the answer, if one did. It is not part of the answer's text.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.found.map(|i| self.strings[i].as_str())
    }

    /// Takes the next piece of text, and gives what of all pieces so far is certainly part of the answer, once.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        let first = self.strings.iter().enumerate().filter_map(|(i, s)| Some((self.held.find(s.as_str())?, i))).min();
        if let Some((at, i)) = first {
            self.found = Some(i);
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let open = self.strings.iter().map(|s| open_end(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - open);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that begin `string`.
fn open_end(text: &str, string: &str) -> usize {
    let most = text.len().min(string.len() - 1);
    (1..=most).rev().find(|n| string.is_char_boundary(*n) && text.ends_with(&string[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::StopStrings;

    fn told(strings: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut stop = StopStrings::new(strings.iter().map(|s| (*s).to_owned()));
        let mut text: String = pieces.iter().map(|piece| stop.push(piece)).collect();
        text += &stop.finish();
        (text, stop.found().map(str::to_owned))
    }

    #[test]
    fn a_string_is_found_however_it_is_cut() {
        for cut in 0.."one END two".len() {
            let (a, b) = "one END two".split_at(cut);
            assert_eq!(told(&["END", "two"], &[a, b]), ("one ".to_owned(), Some("END".to_owned())), "{cut}");
        }
        let letters: Vec<String> = "aaab ü€x".chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(told(&["ü€!", "aab"], &letters), ("a".to_owned(), Some("aab".to_owned())));
        assert_eq!(told(&["ü€!"], &letters), ("aaab ü€x".to_owned(), None), "what only began like one is given");
        assert_eq!(told(&[""], &["a", "b"]), ("ab".to_owned(), None));
    }

    #[test]
    fn only_what_may_begin_one_is_held_back() {
        let mut stop = StopStrings::new(["\n\nUser:".to_owned()]);
        assert_eq!(stop.push("Hello.\n"), "Hello.");
        assert_eq!(stop.push("\nUs"), "");
        assert_eq!(stop.push("ed"), "\n\nUsed");
    }
}
