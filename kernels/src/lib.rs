//! SIMD kernels behind one table per instruction set, chosen at run time.
//!
//! `unsafe` lives here, in small blocks that name the check which makes them sound; callers see safe functions.

pub mod quantize;
