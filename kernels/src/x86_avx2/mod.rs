//! AVX2 with FMA and F16C: 16 registers of 32 bytes, no dot-product instruction.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs with *saturation* to 16 bits, so every use states
//! the bound that keeps its sums inside. Panels interleave rows in steps of 4 weights, so that a 32-bit lane is a row:
//!
//! ```text
//! super-block of 16 rows        codes [64 steps][16 rows][4] u8
//!                               scales [groups][16 rows][2] i16, each twice
//!                               mins [groups / 2][16 rows][2] i16, of two neighbouring groups
//!                               d [16] f32, dmin [16] f32
//! block of 32 of 16 rows        codes [8 steps][16 rows][4] u8, d [16] f32, min [16] f32
//!     with signed codes         codes [16 steps][16 rows][2] i16, d [16] f32
//! ```

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays and pointers in step")]

pub(crate) mod chain;
pub(crate) mod expand;
mod fixed;
pub(crate) mod float;
pub(crate) mod gemm;
pub(crate) mod gemv;
pub(crate) mod pack;
pub(crate) mod peak;
mod transpose;
pub(crate) mod unpack;

use std::sync::OnceLock;

use ocelli_quant::panel::Unquantized;
use ocelli_quant::{GgmlType, Unpack};

use crate::fixed::{FixedKernels, PairKernels};
use crate::table::{ActKind, FewKernel, FormatKernels, IntKernels, KernelTable, ReachOf, index};
use unpack::{Block, Known, Super, Visit};

crate::wide::wide_functions!("avx2,fma,f16c");

pub(crate) const NAME: &str = "avx2";

/// What detection asks for, in words.
pub(crate) const NEEDS: &str = "an x86-64 CPU with AVX2, FMA and F16C";

/// What [`KernelTable::reach`] is for tables whose GEMMs ask for it; those of this one do not.
pub(crate) const REACH: ReachOf = elem::reach;

/// Rows of a panel: two registers of 8 lanes.
pub(crate) const MR: usize = 16;

/// Tokens of a tile: 16 rows × 4 tokens are 8 registers of 16-bit sums.
const NR: usize = 4;

/// Makes the kernels of a format.
struct Int;

impl Visit for Int {
    type Out = Option<IntKernels>;

    fn super_block<F: Super>(self) -> Self::Out {
        Some(IntKernels {
            act: ActKind::Q8K,
            unit: 256,
            panel_unit_bytes: pack::super_bytes(F::GROUP),
            gemv: gemv::gemv_super::<F>,
            few: FewKernel { most: F::FEW, run: Some(gemv::few_super::<F>) },
            pack: pack::pack_super::<F>,
            gemm: gemm::gemm_super::<F>,
        })
    }

    fn block<F: Block>(self) -> Self::Out {
        let kernels = IntKernels {
            act: ActKind::Q8B,
            unit: 32,
            panel_unit_bytes: pack::BLOCK_BYTES,
            gemv: gemv::gemv_block::<F>,
            few: FewKernel { most: F::FEW, run: Some(gemv::few_block::<F>) },
            pack: pack::pack_block::<F>,
            gemm: gemm::gemm_block::<F>,
        };
        if !F::SIGNED {
            return Some(kernels);
        }
        Some(IntKernels {
            panel_unit_bytes: pack::SIGNED_BYTES,
            pack: pack::pack_signed::<F>,
            gemm: gemm::gemm_signed::<F>,
            ..kernels
        })
    }

    fn float<F: Unpack<Unit = Unquantized>>(self) -> Self::Out {
        None
    }
}

fn format<F: Known>() -> FormatKernels {
    FormatKernels { int: F::visit(Int), dequantize: F::visit(expand::Expansion), stored_f32: None }
}

/// Gives a format of plain floats its products straight from what is stored.
fn use_floats<W: float::Stored>(format: &mut FormatKernels) {
    format.stored_f32 = Some(float::rows::<W>);
}

macro_rules! formats {
    ($($variant:ident $module:ident $ty:ident),+) => {
        vec![$(format::<ocelli_quant::formats::$module::$ty>()),+]
    };
}

/// The table, where the CPU has every feature that its functions are compiled with.
pub(crate) fn table() -> Option<&'static KernelTable> {
    static TABLE: OnceLock<Option<KernelTable>> = OnceLock::new();
    let detected =
        || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    TABLE
        .get_or_init(|| {
            detected().then(|| {
                let mut formats = ocelli_quant::for_each_format!(formats);
                use_floats::<float::Half>(&mut formats[index(GgmlType::F16)]);
                use_floats::<float::Brain>(&mut formats[index(GgmlType::BF16)]);
                use_floats::<float::Single>(&mut formats[index(GgmlType::F32)]);
                KernelTable {
                    name: NAME,
                    mr: MR,
                    panels: 1,
                    nr: NR,
                    formats,
                    rows_f32: float::rows::<float::Single>,
                    gemm_f32: gemm::gemm_f32,
                    fixed: Some(FixedKernels {
                        row: fixed::row,
                        soften: fixed::soften,
                        gemm: fixed::gemm,
                        pairs: PairKernels { spread: fixed::spread, pair: fixed::pair },
                        weigh: elem::weigh,
                        panels: 1,
                        queries: 32,
                    }),
                    // Both are 16 bits wide, and bytes have a scale for every 32.
                    fast_bytes: false,
                    dot_f32: elem::dot_f32,
                    quantize_q8k: elem::quantize_q8k,
                    reach: None,
                    quantize_q8b: elem::quantize_q8b,
                    q8_pairs: elem::q8_pairs,
                    rmsnorm: elem::rmsnorm,
                    layer_norm: elem::layer_norm,
                    bias_gelu: elem::bias_gelu,
                    add_biased: elem::add_biased,
                    swiglu: elem::swiglu,
                    add: elem::add,
                    max: elem::max,
                    magnitudes: elem::magnitudes,
                    exp_sum: elem::exp_sum,
                    scale: elem::scale,
                    rope_interleaved: elem::rope_interleaved,
                    rope_halves: elem::rope_halves,
                    f32_to_f16: float::f32_to_f16,
                    transpose: transpose::transpose,
                    peaks: peak::loops(),
                    read: peak::read,
                }
            })
        })
        .as_ref()
}
