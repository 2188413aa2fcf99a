//! Borrowed metadata values.

use std::fmt;

use crate::{GgufError, Item, ValueType, cursor::Cursor};

/// A metadata value as it lies in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    pub(crate) fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Self, GgufError> {
        let item = || Item::Key(key.to_owned());
        let ty = read_type(cursor, key)?;
        if ty == ValueType::Array { Array::read(cursor, key).map(Self::Array) } else { Self::scalar(ty, cursor, &item) }
    }

    fn scalar(ty: ValueType, cursor: &mut Cursor<'a>, item: &impl Fn() -> Item) -> Result<Self, GgufError> {
        Ok(match ty {
            ValueType::U8 => Self::U8(cursor.u8(item)?),
            ValueType::I8 => Self::I8(cursor.u8(item)?.cast_signed()),
            ValueType::U16 => Self::U16(cursor.u16(item)?),
            ValueType::I16 => Self::I16(cursor.u16(item)?.cast_signed()),
            ValueType::U32 => Self::U32(cursor.u32(item)?),
            ValueType::I32 => Self::I32(cursor.u32(item)?.cast_signed()),
            ValueType::F32 => Self::F32(f32::from_bits(cursor.u32(item)?)),
            ValueType::U64 => Self::U64(cursor.u64(item)?),
            ValueType::I64 => Self::I64(cursor.u64(item)?.cast_signed()),
            ValueType::F64 => Self::F64(f64::from_bits(cursor.u64(item)?)),
            ValueType::String => Self::String(cursor.string(item)?),
            ValueType::Bool => {
                let offset = cursor.offset();
                match cursor.u8(item)? {
                    0 => Self::Bool(false),
                    1 => Self::Bool(true),
                    value => return Err(GgufError::Bool { item: item(), offset, value }),
                }
            }
            ValueType::Array => return Err(GgufError::NestedArray { item: item(), offset: cursor.offset() }),
        })
    }

    /// The type of the value.
    #[must_use]
    pub const fn ty(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value as a wide integer, if it is one of any width.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) | Self::Array(_) => return None,
        })
    }

    /// What an error text calls this value.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Array(a) => format!("an array of {} {} values", a.len(), a.element_type()),
            other => crate::error::type_text(other.ty()),
        }
    }
}

impl fmt::Display for Value<'_> {
    /// Scalars as plain text; arrays as their type and length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(v) => v.fmt(f),
            Self::I8(v) => v.fmt(f),
            Self::U16(v) => v.fmt(f),
            Self::I16(v) => v.fmt(f),
            Self::U32(v) => v.fmt(f),
            Self::I32(v) => v.fmt(f),
            Self::F32(v) => v.fmt(f),
            Self::Bool(v) => v.fmt(f),
            Self::String(v) => v.fmt(f),
            Self::U64(v) => v.fmt(f),
            Self::I64(v) => v.fmt(f),
            Self::F64(v) => v.fmt(f),
            Self::Array(a) => write!(f, "[{}; {}]", a.element_type(), a.len()),
        }
    }
}

fn read_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, GgufError> {
    let item = || Item::Key(key.to_owned());
    let offset = cursor.offset();
    let code = cursor.u32(item)?;
    ValueType::from_code(code).ok_or_else(|| GgufError::ValueType { item: item(), offset, code })
}

/// A metadata array as it lies in the file: checked once when the file is parsed, decoded while it is walked.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    ty: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Self, GgufError> {
        let item = || Item::Key(key.to_owned());
        let type_offset = cursor.offset();
        let ty = read_type(cursor, key)?;
        let count_offset = cursor.offset();
        let claimed = cursor.u64(item)?;
        // Even an empty string takes the eight bytes of its length.
        let element = match ty {
            ValueType::Array => return Err(GgufError::NestedArray { item: item(), offset: type_offset }),
            ValueType::String => 8,
            fixed => fixed.fixed_size().unwrap_or(8) as u64,
        };
        let available = cursor.remaining();
        if claimed > available / element {
            return Err(GgufError::Count {
                item: item(),
                what: "array elements",
                claimed,
                possible: available / element,
                available,
                offset: count_offset,
            });
        }
        let start = cursor.clone();
        if ty == ValueType::String {
            for _ in 0..claimed {
                cursor.string(item)?;
            }
        } else {
            // No overflow: the product was just bounded by the file's size.
            let data_offset = cursor.offset();
            let data = cursor.take(claimed * element, item)?;
            if ty == ValueType::Bool
                && let Some(i) = data.iter().position(|b| *b > 1)
            {
                let value = data.get(i).copied().unwrap_or_default();
                return Err(GgufError::Bool { item: item(), offset: data_offset + i as u64, value });
            }
        }
        let bytes = start.clone().take(cursor.offset() - start.offset(), item)?;
        // The elements are at hand, so their number fits usize.
        let len = usize::try_from(claimed).unwrap_or(bytes.len());
        Ok(Self { ty, len, bytes })
    }

    /// The type of the elements.
    #[must_use]
    pub const fn element_type(&self) -> ValueType {
        self.ty
    }

    /// The number of elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements one by one, whatever their type.
    #[must_use]
    pub fn iter(&self) -> Values<'a> {
        Values { ty: self.ty, left: self.len, cursor: Cursor::new(self.bytes, self.bytes.len() as u64) }
    }

    /// The strings of a string array.
    #[must_use]
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.ty == ValueType::String).then(|| Strings(self.iter()))
    }

    /// The elements of an f32 array.
    #[must_use]
    pub fn f32s(&self) -> Option<impl ExactSizeIterator<Item = f32> + use<'a>> {
        (self.ty == ValueType::F32).then(|| self.chunks().map(f32::from_le_bytes))
    }

    /// The elements of a u32 array.
    #[must_use]
    pub fn u32s(&self) -> Option<impl ExactSizeIterator<Item = u32> + use<'a>> {
        (self.ty == ValueType::U32).then(|| self.chunks().map(u32::from_le_bytes))
    }

    /// The elements of an i32 array.
    #[must_use]
    pub fn i32s(&self) -> Option<impl ExactSizeIterator<Item = i32> + use<'a>> {
        (self.ty == ValueType::I32).then(|| self.chunks().map(i32::from_le_bytes))
    }

    /// The elements of an array of integers of any width.
    #[must_use]
    pub fn integers(&self) -> Option<impl Iterator<Item = i128> + use<'a>> {
        let integer =
            self.ty.fixed_size().is_some() && !matches!(self.ty, ValueType::F32 | ValueType::F64 | ValueType::Bool);
        integer.then(|| self.iter().filter_map(|v| v.as_integer()))
    }

    /// The raw bytes of the elements, little-endian.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn chunks<const N: usize>(&self) -> impl ExactSizeIterator<Item = [u8; N]> + use<'a, N> {
        self.bytes.as_chunks::<N>().0.iter().copied()
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.ty, self.len)
    }
}

/// Iterator over the elements of an [`Array`].
#[derive(Debug, Clone)]
pub struct Values<'a> {
    ty: ValueType,
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The array was validated when the file was parsed, so this cannot fail before `left` reaches zero.
        Value::scalar(self.ty, &mut self.cursor, &|| Item::Header).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// Iterator over the elements of a string [`Array`].
#[derive(Debug, Clone)]
pub struct Strings<'a>(Values<'a>);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match self.0.next()? {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Strings<'_> {}
