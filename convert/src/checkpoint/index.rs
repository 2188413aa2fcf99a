//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::HashMap;
use std::path::Path;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::header::room_for_one;
use crate::error::ConvertError;
use crate::json;
use crate::text_table::PushText;

/// Largest list read; the largest known ones have a few megabytes.
const MAX_BYTES: u64 = 64 << 20;
/// Most shards of a checkpoint.
const MAX_SHARDS: usize = 10_000;

/// The list of shards.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// File names, sorted.
    pub(super) files: Vec<String>,
    /// All tensor names, end to end.
    text: String,
    /// End of the name in `text`, and the file's index.
    entries: Vec<(u32, u32)>,
}

impl Index {
    /// Reads the list, or `None` when there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, ConvertError> {
        let Some(text) = json::text(path, MAX_BYTES)? else { return Ok(None) };
        let Root(map) = json::typed(path, &text)?;
        drop(text);
        let bad = |found: &str| ConvertError::Config {
            path: path.to_owned(),
            key: "weight_map".into(),
            found: found.into(),
            expected: "an object from tensor names to file names in the same folder".into(),
        };
        match map {
            None => Err(bad("missing")),
            Some(index) if index.files.is_empty() => Err(bad("empty")),
            Some(index) => Ok(Some(index)),
        }
    }

    /// Tensor names with the file that is said to hold each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0usize;
        self.entries.iter().map(move |(end, file)| {
            let name = self.text.get(start..*end as usize).unwrap_or_default();
            start = *end as usize;
            (name, self.files.get(*file as usize).map_or("", String::as_str))
        })
    }
}

/// The whole file: only `weight_map` counts.
struct Root(Option<Index>);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Root;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Root, A::Error> {
                let mut out = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key != "weight_map" {
                        map.next_value::<IgnoredAny>()?;
                    } else if out.replace(map.next_value::<Index>()?).is_some() {
                        return Err(A::Error::custom("`weight_map` is there twice"));
                    }
                }
                Ok(Root(out))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Reads a file name and gives its number.
struct FileName<'a>(&'a mut HashMap<String, u32>);

impl<'de> DeserializeSeed<'de> for FileName<'_> {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FileName<'_> {
    type Value = u32;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name of a file in the same folder")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<u32, E> {
        if let Some(number) = self.0.get(name) {
            return Ok(*number);
        }
        // Only plain names: a checkpoint must not reach outside its folder.
        let plain = Path::new(name).file_name().is_some_and(|n| n == name) && !name.contains(['/', '\\', ':']);
        if !plain {
            return Err(E::custom(format!("`{}` is not the name of a file in the same folder", name.escape_debug())));
        }
        if self.0.len() >= MAX_SHARDS {
            return Err(E::custom(format!("more than {MAX_SHARDS} files")));
        }
        let number = self.0.len() as u32;
        self.0.insert(name.to_owned(), number);
        Ok(number)
    }
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Index;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`weight_map`, an object from tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
                let (mut numbers, mut index) = (HashMap::new(), Index::default());
                while let Some((_, end)) = map.next_key_seed(PushText(&mut index.text))? {
                    let file = map.next_value_seed(FileName(&mut numbers))?;
                    room_for_one(&mut index.entries);
                    index.entries.push((end, file));
                }
                // The files in name order, and the entries with them.
                let mut files: Vec<(String, u32)> = numbers.into_iter().collect();
                files.sort();
                let mut place = vec![0u32; files.len()];
                for (at, (_, number)) in files.iter().enumerate() {
                    if let Some(slot) = place.get_mut(*number as usize) {
                        *slot = at as u32;
                    }
                }
                for (_, file) in &mut index.entries {
                    *file = place.get(*file as usize).copied().unwrap_or_default();
                }
                index.files = files.into_iter().map(|(name, _)| name).collect();
                Ok(index)
            }
        }
        deserializer.deserialize_map(Map)
    }
}
