//! Owned metadata values, for writing.

use crate::{Array, Value, ValueType};

/// An owned metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum MetaValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(MetaArray),
    U64(u64),
    I64(i64),
    F64(f64),
}

macro_rules! meta_arrays {
    ($($variant:ident($ty:ty)),+ $(,)?) => {
        /// An owned metadata array; the type is kept even when it is empty.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub enum MetaArray {
            $($variant(Vec<$ty>)),+
        }

        impl MetaArray {
            /// The type of the elements.
            #[must_use]
            pub const fn element_type(&self) -> ValueType {
                match self { $(Self::$variant(_) => ValueType::$variant),+ }
            }

            /// The number of elements.
            #[must_use]
            pub fn len(&self) -> usize {
                match self { $(Self::$variant(v) => v.len()),+ }
            }

            /// Whether there are no elements.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }

        $(impl From<Vec<$ty>> for MetaValue {
            fn from(values: Vec<$ty>) -> Self {
                Self::Array(MetaArray::$variant(values))
            }
        }

        impl From<$ty> for MetaValue {
            fn from(value: $ty) -> Self {
                Self::$variant(value)
            }
        })+
    };
}

meta_arrays! {
    U8(u8), I8(i8), U16(u16), I16(i16), U32(u32), I32(i32), F32(f32), Bool(bool), String(String), U64(u64), I64(i64),
    F64(f64),
}

impl From<&str> for MetaValue {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<&Value<'_>> for MetaValue {
    fn from(value: &Value<'_>) -> Self {
        match *value {
            Value::U8(v) => Self::U8(v),
            Value::I8(v) => Self::I8(v),
            Value::U16(v) => Self::U16(v),
            Value::I16(v) => Self::I16(v),
            Value::U32(v) => Self::U32(v),
            Value::I32(v) => Self::I32(v),
            Value::F32(v) => Self::F32(v),
            Value::Bool(v) => Self::Bool(v),
            Value::String(v) => Self::String(v.to_owned()),
            Value::U64(v) => Self::U64(v),
            Value::I64(v) => Self::I64(v),
            Value::F64(v) => Self::F64(v),
            Value::Array(ref a) => Self::Array(MetaArray::from(a)),
        }
    }
}

impl From<&Array<'_>> for MetaArray {
    fn from(array: &Array<'_>) -> Self {
        macro_rules! collect {
            ($variant:ident, $map:expr) => {
                Self::$variant(
                    array
                        .iter()
                        .filter_map(|v| if let Value::$variant(x) = v { Some($map(x)) } else { None })
                        .collect(),
                )
            };
            ($variant:ident) => {
                collect!($variant, std::convert::identity)
            };
        }
        match array.element_type() {
            ValueType::U8 => collect!(U8),
            ValueType::I8 => collect!(I8),
            ValueType::U16 => collect!(U16),
            ValueType::I16 => collect!(I16),
            ValueType::U32 => collect!(U32),
            ValueType::I32 => collect!(I32),
            ValueType::F32 => collect!(F32),
            ValueType::Bool => collect!(Bool),
            // The reader refuses nested arrays, so the last case cannot occur.
            ValueType::String | ValueType::Array => collect!(String, str::to_owned),
            ValueType::U64 => collect!(U64),
            ValueType::I64 => collect!(I64),
            ValueType::F64 => collect!(F64),
        }
    }
}

impl MetaValue {
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

    /// Appends the type code and the value as they stand in a file.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.ty().code().to_le_bytes());
        match self {
            Self::U8(v) => out.extend(v.to_le_bytes()),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::String(v) => encode_str(v, out),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::Array(a) => a.encode(out),
        }
    }
}

impl MetaArray {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.element_type().code().to_le_bytes());
        out.extend((self.len() as u64).to_le_bytes());
        match self {
            Self::U8(v) => out.extend(v),
            Self::I8(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::U16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::I16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::Bool(v) => out.extend(v.iter().map(|x| u8::from(*x))),
            Self::String(v) => v.iter().for_each(|s| encode_str(s, out)),
            Self::U64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Self::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        }
    }
}

pub(crate) fn encode_str(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
