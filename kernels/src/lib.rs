//! SIMD kernels behind one table per instruction set, chosen at run time.
//!
//! * [`Kernels`] is the chosen table: it can only be had where the machine runs it.
//! * [`Pool`] is the thread pool of the token loop.
//! * [`ActBuf`] holds activations, quantised once; [`matmul`], [`matmul_many`] and [`matmul_swiglu`] multiply stored
//!   weights ([`WeightRef`]) with them; [`matmul_with_columns`] adds products of a few columns in f32.
//! * [`KvLayout`], [`KvBatch`] and [`attention`](attention()) are the paged key/value cache and attention over it, for rows of many
//!   sequences ([`KvSegment`]) at once.
//! * [`attention_spans`](attention_spans()) is attention within spans of rows, everything seen by everything: images.
//! * [`measure`] finds the limits of the machine and times kernels against them.
//! * [`ops`] has the rest: norms, rotary positions, gated activations, embedding rows.
//!
//! Callers see safe functions that check lengths once per call and return errors. `unsafe` lives here, in small
//! blocks that name the check which makes them sound.

#[cfg(target_arch = "aarch64")]
mod aarch64_neon;
mod act;
mod arena;
mod attention;
mod attention_spans;
mod columns;
mod error;
mod fixed;
mod kv;
mod matmul;
pub mod measure;
pub mod ops;
pub mod pool;
pub mod quantize;
mod scalar;
mod select;
mod table;
mod transpose;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_vnni;

pub use act::{ActBuf, ActNeeds, HalfWeights, Precision};
pub use arena::share_arena;
pub use attention::{AttnScratch, AttnShape, attention, attention_unit};
pub use attention_spans::{AttnSpan, SpanHeads, SpanScratch, attention_spans};
pub use columns::{KeptColumns, MAX_COLUMNS};
pub use error::{IsaError, KernelError};
pub use kv::{KvBatch, KvBatchMut, KvLayout, KvPart, KvSegment};
pub use matmul::{
    FEW_TOKENS, MAX_PRODUCTS, MatMul, WeightRef, matmul, matmul_many, matmul_swiglu, matmul_with_columns,
};
pub use ops::RopePairs;
pub use pool::{JoinTimes, Pool};
pub use select::Kernels;
pub use table::fetch;
