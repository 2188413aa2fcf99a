//! The ordered key-value list of a file and its typed getters.

use std::collections::{HashMap, hash_map};

use crate::{Array, GgufError, Item, MetaValue, Strings, Value, cursor::Cursor, error::wrong_type};

/// Longest key allowed by the format, in bytes.
pub const MAX_KEY_LEN: usize = 65_535;

/// Fewest bytes a key-value pair takes: length and one byte of key, type, one byte of value.
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;

/// One key with its value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a str,
    /// Its value.
    pub value: Value<'a>,
    /// Offset in the file where the pair begins.
    pub offset: u64,
}

/// All metadata of a file, in file order.
///
/// The typed getters return `Ok(None)` for a missing key and an error naming key, place, found and expected type for
/// a mistyped one. Integer getters accept an integer of any width and sign whose value fits.
#[derive(Debug, Clone, Default)]
pub struct Metadata<'a> {
    entries: Vec<Entry<'a>>,
    index: HashMap<&'a str, usize>,
}

macro_rules! integer_getters {
    ($($(#[$doc:meta])* $name:ident: $ty:ty;)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// When the value is no integer or does not fit.
            pub fn $name(&self, key: &str) -> Result<Option<$ty>, GgufError> {
                let Some(entry) = self.entry(key) else { return Ok(None) };
                let Some(wide) = entry.value.as_integer() else {
                    return Err(mismatch(entry, concat!("an integer that fits ", stringify!($ty))));
                };
                <$ty>::try_from(wide).map(Some).map_err(|_| GgufError::OutOfRange {
                    key: key.to_owned(),
                    offset: entry.offset,
                    value: wide.to_string(),
                    expected: stringify!($ty),
                })
            }
        )+
    };
}

impl<'a> Metadata<'a> {
    pub(crate) fn read(cursor: &mut Cursor<'a>, count: u64, count_offset: u64) -> Result<Self, GgufError> {
        let available = cursor.remaining();
        if count > available / MIN_PAIR_BYTES {
            return Err(GgufError::Count {
                item: Item::Header,
                what: "metadata keys",
                claimed: count,
                possible: available / MIN_PAIR_BYTES,
                available,
                offset: count_offset,
            });
        }
        let mut meta = Self::default();
        for i in 0..count {
            meta.read_entry(cursor, i)?;
        }
        Ok(meta)
    }

    fn read_entry(&mut self, cursor: &mut Cursor<'a>, i: u64) -> Result<(), GgufError> {
        let offset = cursor.offset();
        let len = cursor.clone().u64(|| Item::KeyIndex(i))?;
        if len == 0 || len > MAX_KEY_LEN as u64 {
            return Err(GgufError::NameLength { item: Item::KeyIndex(i), len, allowed: "1 to 65535 bytes", offset });
        }
        let key = cursor.string(|| Item::KeyIndex(i))?;
        match self.index.entry(key) {
            hash_map::Entry::Occupied(first) => {
                let first = self.entries.get(*first.get()).map_or(0, |e| e.offset);
                return Err(GgufError::Duplicate { item: Item::Key(key.to_owned()), offset, first });
            }
            hash_map::Entry::Vacant(free) => free.insert(self.entries.len()),
        };
        let value = Value::read(cursor, key)?;
        self.entries.push(Entry { key, value, offset });
        Ok(())
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, in file order.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry<'a>> {
        self.entries.iter()
    }

    /// The entry of `key`.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry<'a>> {
        self.entries.get(*self.index.get(key)?)
    }

    /// The value of `key`, whatever its type.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entry(key).map(|e| &e.value)
    }

    /// Whether `key` is present.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// A string.
    ///
    /// # Errors
    /// When the value is no string.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", |v| match v {
            Value::String(s) => Some(*s),
            _ => None,
        })
    }

    /// A boolean.
    ///
    /// # Errors
    /// When the value is no boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// A float; an f64 is rounded to f32.
    ///
    /// # Errors
    /// When the value is no float.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "an f32 value", |v| match v {
            Value::F32(x) => Some(*x),
            Value::F64(x) => Some(*x as f32),
            _ => None,
        })
    }

    integer_getters! {
        /// An integer as u32.
        u32: u32;
        /// An integer as i32.
        i32: i32;
        /// An integer as u64.
        u64: u64;
        /// An integer as i64.
        i64: i64;
        /// An integer as usize.
        usize: usize;
    }

    /// An array of any element type.
    ///
    /// # Errors
    /// When the value is no array.
    pub fn array(&self, key: &str) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key, "an array", |v| match v {
            Value::Array(a) => Some(*a),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// When the value is anything else.
    pub fn array_str(&self, key: &str) -> Result<Option<Strings<'a>>, GgufError> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(a) => a.strings(),
            _ => None,
        })
    }

    /// An array of f32.
    ///
    /// # Errors
    /// When the value is anything else.
    pub fn array_f32(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = f32> + use<'a>>, GgufError> {
        self.typed(key, "an array of f32 values", |v| match v {
            Value::Array(a) => a.f32s(),
            _ => None,
        })
    }

    /// An array of u32.
    ///
    /// # Errors
    /// When the value is anything else.
    pub fn array_u32(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = u32> + use<'a>>, GgufError> {
        self.typed(key, "an array of u32 values", |v| match v {
            Value::Array(a) => a.u32s(),
            _ => None,
        })
    }

    /// An array of i32.
    ///
    /// # Errors
    /// When the value is anything else.
    pub fn array_i32(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = i32> + use<'a>>, GgufError> {
        self.typed(key, "an array of i32 values", |v| match v {
            Value::Array(a) => a.i32s(),
            _ => None,
        })
    }

    /// Turns the `None` of a getter into an error: `meta.required(key, meta.u32(key))`.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`], or the getter's own error.
    pub fn required<T>(&self, key: &str, found: Result<Option<T>, GgufError>) -> Result<T, GgufError> {
        found?.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })
    }

    /// Owned copies of all pairs, in file order, for writing them into another file.
    #[must_use]
    pub fn to_owned_pairs(&self) -> Vec<(String, MetaValue)> {
        self.entries.iter().map(|e| (e.key.to_owned(), MetaValue::from(&e.value))).collect()
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        take: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.entry(key) {
            None => Ok(None),
            Some(entry) => take(&entry.value).map(Some).ok_or_else(|| mismatch(entry, expected)),
        }
    }
}

impl<'m, 'a> IntoIterator for &'m Metadata<'a> {
    type Item = &'m Entry<'a>;
    type IntoIter = std::slice::Iter<'m, Entry<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn mismatch(entry: &Entry<'_>, expected: &'static str) -> GgufError {
    wrong_type(entry.key, entry.offset, entry.value.describe(), expected)
}
