//! Type codes: tensor formats and metadata value types.

use std::fmt;

use ocelli_quant::GgmlType;

/// The format of a tensor as stored in a file: the raw code, with what the GGUF ecosystem knows about it.
///
/// Every format in use is known here by name and block size, so that any file can be inspected; [`Self::ggml`] says
/// whether this project can also compute with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorType(pub u32);

macro_rules! tensor_types {
    ($($name:ident = $code:literal: $len:literal, $bytes:literal;)+) => {
        #[allow(missing_docs)]
        impl TensorType {
            $(pub const $name: Self = Self($code);)+

            /// Every format whose layout is known, by ascending code.
            pub const KNOWN: &'static [Self] = &[$(Self::$name),+];

            /// Name, weights per block and bytes per block.
            const fn traits(self) -> Option<(&'static str, u64, u64)> {
                match self.0 {
                    $($code => Some((stringify!($name), $len, $bytes)),)+
                    _ => None,
                }
            }
        }
    };
}

tensor_types! {
    F32 = 0: 1, 4;
    F16 = 1: 1, 2;
    Q4_0 = 2: 32, 18;
    Q4_1 = 3: 32, 20;
    Q5_0 = 6: 32, 22;
    Q5_1 = 7: 32, 24;
    Q8_0 = 8: 32, 34;
    Q8_1 = 9: 32, 36;
    Q2_K = 10: 256, 84;
    Q3_K = 11: 256, 110;
    Q4_K = 12: 256, 144;
    Q5_K = 13: 256, 176;
    Q6_K = 14: 256, 210;
    Q8_K = 15: 256, 292;
    IQ2_XXS = 16: 256, 66;
    IQ2_XS = 17: 256, 74;
    IQ3_XXS = 18: 256, 98;
    IQ1_S = 19: 256, 50;
    IQ4_NL = 20: 32, 18;
    IQ3_S = 21: 256, 110;
    IQ2_S = 22: 256, 82;
    IQ4_XS = 23: 256, 136;
    I8 = 24: 1, 1;
    I16 = 25: 1, 2;
    I32 = 26: 1, 4;
    I64 = 27: 1, 8;
    F64 = 28: 1, 8;
    IQ1_M = 29: 256, 56;
    BF16 = 30: 1, 2;
    TQ1_0 = 34: 256, 54;
    TQ2_0 = 35: 256, 66;
    MXFP4 = 39: 32, 17;
    NVFP4 = 40: 64, 36;
    Q1_0 = 41: 128, 18;
    Q2_0 = 42: 64, 18;
}

impl TensorType {
    /// The spelling used by GGUF tools, for example `Q4_K`; `None` for a code that is unknown or was withdrawn.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self.traits() {
            Some((name, _, _)) => Some(name),
            None => None,
        }
    }

    /// Weights in one block.
    #[must_use]
    pub const fn block_len(self) -> Option<u64> {
        match self.traits() {
            Some((_, len, _)) => Some(len),
            None => None,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> Option<u64> {
        match self.traits() {
            Some((_, _, bytes)) => Some(bytes),
            None => None,
        }
    }

    /// The format of the same code that this project implements, if it does.
    #[must_use]
    pub fn ggml(self) -> Option<GgmlType> {
        GgmlType::from_id(self.0)
    }

    /// Whether the code was once used by GGUF files and has been withdrawn since.
    #[must_use]
    pub const fn is_withdrawn(self) -> bool {
        matches!(self.0, 4 | 5 | 31..=33 | 36..=38)
    }
}

impl From<GgmlType> for TensorType {
    fn from(ty: GgmlType) -> Self {
        Self(ty.id())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("type {}", self.0)),
        }
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The type of a metadata value or of the elements of a metadata array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    /// Unsigned byte.
    U8 = 0,
    /// Signed byte.
    I8 = 1,
    /// Unsigned 16-bit integer.
    U16 = 2,
    /// Signed 16-bit integer.
    I16 = 3,
    /// Unsigned 32-bit integer.
    U32 = 4,
    /// Signed 32-bit integer.
    I32 = 5,
    /// 32-bit float.
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// Length in bytes (u64), then UTF-8.
    String = 8,
    /// Element type (u32), element count (u64), then the elements.
    Array = 9,
    /// Unsigned 64-bit integer.
    U64 = 10,
    /// Signed 64-bit integer.
    I64 = 11,
    /// 64-bit float.
    F64 = 12,
}

impl ValueType {
    /// The type with this code.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// The code stored in files.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Bytes of one value, for the types whose values all have the same size.
    #[must_use]
    pub const fn fixed_size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }

    /// The name GGUF tools use, for example `u32` or `str`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "str",
            Self::Array => "arr",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_agree_with_the_implemented_formats() {
        for ty in GgmlType::ALL {
            let stored = TensorType::from(*ty);
            assert_eq!(stored.name(), Some(ty.name()));
            assert_eq!(stored.block_len(), Some(ty.block_len() as u64));
            assert_eq!(stored.block_bytes(), Some(ty.block_bytes() as u64));
            assert_eq!(stored.ggml(), Some(*ty));
        }
    }

    #[test]
    fn codes_are_distinct_and_unknown_ones_have_no_layout() {
        for pair in TensorType::KNOWN.windows(2) {
            assert!(pair[0].0 < pair[1].0);
        }
        for code in [4, 5, 31, 33, 36, 38] {
            assert!(TensorType(code).is_withdrawn());
            assert_eq!(TensorType(code).name(), None);
        }
        assert_eq!(TensorType(43).block_len(), None);
        assert_eq!(TensorType(u32::MAX).to_string(), "type 4294967295");
    }

    #[test]
    fn value_type_codes_round_trip() {
        for code in 0..=12 {
            assert_eq!(ValueType::from_code(code).map(ValueType::code), Some(code));
        }
        assert_eq!(ValueType::from_code(13), None);
    }
}
