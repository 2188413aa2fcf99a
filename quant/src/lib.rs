//! Tensor formats of GGUF files: byte layouts, quantisers and dequantisers.
//!
//! One file under [`formats`] defines one format; one line in the list at the bottom of this file registers it.
//! The registration macro makes [`GgmlType`] and its look-ups, and [`for_each_format!`] hands the same list to other
//! crates, so that every instruction set's tables and every test matrix cover a new format the day it is registered.
//!
//! Everything here is plain, safe, scalar Rust. The row functions are `#[inline(always)]` and generic over
//! [`lanes::Simd`], so that a caller compiled for a wider instruction set gets wider code from the same source, and
//! identical bytes: no sum is ever re-associated and no multiply-add is ever fused.
#![forbid(unsafe_code)]
// Types carry the field's spellings of the formats.
#![allow(non_camel_case_types)]

mod error;
pub mod format;
pub mod formats;
pub mod half_bits;
pub mod lanes;
pub mod panel;
pub mod search;

pub use error::QuantError;
pub use format::Format;
pub use panel::Unpack;

/// Defines [`GgmlType`], its look-ups and [`for_each_format!`] from the one list of formats.
macro_rules! formats {
    ($($variant:ident => $module:ident :: $ty:ident),+ $(,)?) => {
        /// A tensor format that this crate can read and write.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum GgmlType {
            $(#[doc = concat!("See [`formats::", stringify!($module), "`].")] $variant),+
        }

        impl GgmlType {
            /// Every registered format, in registration order.
            pub const ALL: &'static [GgmlType] = &[$(GgmlType::$variant),+];

            /// The type code stored in GGUF files.
            #[must_use]
            pub const fn id(self) -> u32 {
                match self { $(Self::$variant => <formats::$module::$ty as Format>::ID),+ }
            }

            /// The spelling used by GGUF tools, for example `Q4_K`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => <formats::$module::$ty as Format>::NAME),+ }
            }

            /// Weights in one block.
            #[must_use]
            pub const fn block_len(self) -> usize {
                match self { $(Self::$variant => <formats::$module::$ty as Format>::BLOCK_LEN),+ }
            }

            /// Bytes of one block.
            #[must_use]
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => <formats::$module::$ty as Format>::BLOCK_BYTES),+ }
            }

            /// Whether weights are stored as integer codes with scales.
            #[must_use]
            pub const fn is_quantized(self) -> bool {
                match self { $(Self::$variant => <formats::$module::$ty as Format>::QUANTIZED),+ }
            }

            fn raw_quantize_row(self, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) -> Result<(), QuantError> {
                match self {
                    $(Self::$variant => {
                        format::quantize_checked::<formats::$module::$ty, _>(lanes::Portable::<4>, row, importance, out)
                    }),+
                }
            }

            fn raw_dequantize_row(self, bytes: &[u8], out: &mut [f32]) {
                match self { $(Self::$variant => <formats::$module::$ty as Format>::dequantize_row(bytes, out)),+ }
            }
        }

        /// Calls `$callback!` once with the list `Variant module Type, …` of all registered formats.
        #[macro_export]
        macro_rules! for_each_format {
            ($callback:ident) => { $callback! { $($variant $module $ty),+ } };
        }
    };
}

impl GgmlType {
    /// The format with GGUF type code `id`.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.id() == id)
    }

    /// The format called `name`, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row of `n` weights.
    ///
    /// # Errors
    /// [`QuantError::RowLength`] when `n` is no multiple of the block length or the size overflows.
    pub fn row_bytes(self, n: usize) -> Result<usize, QuantError> {
        if !n.is_multiple_of(self.block_len()) {
            return Err(QuantError::RowLength { format: self.name(), block: self.block_len(), len: n });
        }
        (n / self.block_len()).checked_mul(self.block_bytes()).ok_or(QuantError::RowLength {
            format: self.name(),
            block: self.block_len(),
            len: n,
        })
    }

    /// Quantises one row. `importance`, one value per column, weighs the error where the format can use it.
    ///
    /// # Errors
    /// When a length does not fit, the row (or importance) holds NaN or infinity, or the weights are so large that a
    /// scale overflows the format ([`QuantError::Overflow`]; `out` then holds the bytes all the same).
    pub fn quantize_row(self, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) -> Result<(), QuantError> {
        format::check_quantize(self, row, importance, out)?;
        self.raw_quantize_row(row, importance, out)
    }

    /// Expands one row to f32: the definition of what the stored bytes mean.
    ///
    /// # Errors
    /// When `bytes` is not exactly `out.len()` weights long.
    pub fn dequantize_row(self, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
        format::check_dequantize(self, bytes, out)?;
        self.raw_dequantize_row(bytes, out);
        Ok(())
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

formats! {
    F32 => f32::F32,
    F16 => f16::F16,
    BF16 => bf16::BF16,
    Q8_0 => q8_0::Q8_0,
    Q4_0 => q4_0::Q4_0,
    Q4_1 => q4_1::Q4_1,
    Q5_0 => q5_0::Q5_0,
    Q5_1 => q5_1::Q5_1,
    Q2_K => q2_k::Q2_K,
    Q3_K => q3_k::Q3_K,
    Q4_K => q4_k::Q4_K,
    Q5_K => q5_k::Q5_K,
    Q6_K => q6_k::Q6_K,
    IQ4_NL => iq4_nl::IQ4_NL,
    Q8_K => q8_k::Q8_K,
}
