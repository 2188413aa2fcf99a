//! Many short texts in one allocation. A list of strings takes ten times the text that it was read from, and a
//! vocabulary is all short texts.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::checkpoint::room_for_one;

/// Appends a text while it is read, and gives the place: start and end.
pub(crate) struct PushText<'a>(pub(crate) &'a mut String);

impl PushText<'_> {
    /// Appends `text`.
    pub(crate) fn push(self, text: &str) -> Option<(u32, u32)> {
        let start = u32::try_from(self.0.len()).ok()?;
        let end = u32::try_from(self.0.len().checked_add(text.len())?).ok()?;
        if self.0.capacity() - self.0.len() < text.len() {
            self.0.reserve_exact(text.len().max(self.0.len() / 4 + 256));
        }
        self.0.push_str(text);
        Some((start, end))
    }
}

impl<'de> DeserializeSeed<'de> for PushText<'_> {
    type Value = (u32, u32);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for PushText<'_> {
    type Value = (u32, u32);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.push(text).ok_or_else(|| E::custom("more than 4 GiB of text"))
    }
}

/// Texts with a number each, sorted by text: the object `{"text": number, …}`.
#[derive(Debug, Default)]
pub(crate) struct TextTable {
    text: String,
    /// Start, end, number.
    entries: Vec<(u32, u32, u32)>,
}

impl TextTable {
    fn text(&self, (start, end, _): &(u32, u32, u32)) -> &str {
        self.text.get(*start as usize..*end as usize).unwrap_or_default()
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many texts there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of a text.
    pub(crate) fn get(&self, text: &str) -> Option<u32> {
        let at = self.entries.binary_search_by(|entry| self.text(entry).cmp(text)).ok()?;
        self.entries.get(at).map(|(.., number)| *number)
    }

    /// All texts in order, with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.entries.iter().map(|entry| (self.text(entry), entry.2))
    }
}

impl<'de> Deserialize<'de> for TextTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = TextTable;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object from token texts to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextTable, A::Error> {
                let mut table = TextTable::default();
                while let Some((start, end)) = map.next_key_seed(PushText(&mut table.text))? {
                    let number = map.next_value::<u32>()?;
                    room_for_one(&mut table.entries);
                    table.entries.push((start, end, number));
                }
                let TextTable { text, mut entries } = table;
                let of = |e: &(u32, u32, u32)| text.get(e.0 as usize..e.1 as usize).unwrap_or_default();
                entries.sort_unstable_by(|a, b| of(a).cmp(of(b)).then(a.2.cmp(&b.2)));
                entries.dedup_by(|a, b| a.2 == b.2 && of(a) == of(b));
                let twice = entries.windows(2).find_map(|pair| match pair {
                    [a, b] if of(a) == of(b) => Some(format!("token {:?} has two ids, {} and {}", of(a), a.2, b.2)),
                    _ => None,
                });
                match twice {
                    Some(problem) => Err(A::Error::custom(problem)),
                    None => Ok(TextTable { text, entries }),
                }
            }
        }
        deserializer.deserialize_map(Map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers() {
        let table: TextTable = serde_json::from_str(r#"{"b": 2, "": 7, "é": 1, "b": 2}"#).unwrap();
        assert_eq!(table.iter().collect::<Vec<_>>(), [("", 7), ("b", 2), ("é", 1)]);
        assert_eq!((table.get("é"), table.get("a"), table.len()), (Some(1), None, 3));
        let error = serde_json::from_str::<TextTable>(r#"{"b": 2, "b": 3}"#).unwrap_err().to_string();
        assert!(error.contains("\"b\" has two ids, 2 and 3"), "{error}");
        assert!(serde_json::from_str::<TextTable>(r#"{"b": -1}"#).is_err());
    }
}
