//! The formats, one file each.

pub mod bf16;
pub mod f16;
pub mod f32;
pub mod q8_0;
