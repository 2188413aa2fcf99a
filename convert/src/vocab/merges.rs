//! The list of merges of a BPE model, in either of its two spellings, `"a b"` and `["a", "b"]`.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};

use crate::checkpoint::room_for_one;
use crate::text_table::PushText;

/// Pairs of tokens, first merged first. Both sides stand end to end, so that the merged token is a slice too.
#[derive(Debug, Default)]
pub(super) struct Merges {
    text: String,
    /// Start, middle, end.
    entries: Vec<(u32, u32, u32)>,
}

impl Merges {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Both sides of every merge.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let part = |from: u32, to: u32| self.text.get(from as usize..to as usize).unwrap_or_default();
        self.entries.iter().map(move |(start, middle, end)| (part(*start, *middle), part(*middle, *end)))
    }

    /// The token that every merge makes.
    pub(super) fn results(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(start, _, end)| self.text.get(*start as usize..*end as usize).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Merges;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::default();
                while let Some(entry) = seq.next_element_seed(Pair(&mut merges.text))? {
                    let Some(entry) = entry else {
                        let rank = merges.entries.len();
                        return Err(A::Error::custom(format!("merge {rank} is not a pair of tokens")));
                    };
                    room_for_one(&mut merges.entries);
                    merges.entries.push(entry);
                }
                Ok(merges)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// One merge: its place in the text, or `None` where it is no pair.
struct Pair<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = Option<(u32, u32, u32)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = Option<(u32, u32, u32)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a merge, \"a b\" or [\"a\", \"b\"]")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let Some((left, right)) = text.split_once(' ').filter(|(_, right)| !right.contains(' ')) else {
            return Ok(None);
        };
        let place = |part, text: &mut String| PushText(text).push(part);
        match (place(left, &mut *self.0), place(right, &mut *self.0)) {
            (Some((start, middle)), Some((_, end))) => Ok(Some((start, middle, end))),
            _ => Err(E::custom("more than 4 GiB of text")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((start, middle)) = seq.next_element_seed(PushText(&mut *self.0))? else { return Ok(None) };
        let Some((_, end)) = seq.next_element_seed(PushText(&mut *self.0))? else { return Ok(None) };
        let more = seq.next_element::<serde::de::IgnoredAny>()?.is_some();
        Ok((!more).then_some((start, middle, end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings() {
        let merges: Merges = serde_json::from_str(r#"["a bc", ["d e", "f"]]"#).unwrap();
        assert_eq!(merges.iter().collect::<Vec<_>>(), [("a", "bc"), ("d e", "f")]);
        assert_eq!(merges.results().collect::<Vec<_>>(), ["abc", "d ef"]);
        for bad in [r#"["a b", "ab"]"#, r#"["a b", "a b c"]"#, r#"["a b", ["a"]]"#, r#"["a b", ["a", "b", "c"]]"#] {
            let error = serde_json::from_str::<Merges>(bad).unwrap_err().to_string();
            assert!(error.contains("merge 1"), "{error}");
        }
        assert!(serde_json::from_str::<Merges>("[5]").is_err());
    }
}
