//! The complete reference table: plain loops without vector instructions.
//!
//! Clear before fast. Every sum runs in index order; the other tables are tested against this one.

mod elem;
mod matmul;
mod peak;

use std::sync::OnceLock;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock, Unquantized};

use crate::fixed::{FixedKernels, PairKernels};
use crate::table::{ActKind, FewKernel, FormatKernels, IntKernels, KernelTable};

pub(crate) const NAME: &str = "scalar";

/// Rows of a panel.
pub(crate) const MR: usize = 4;

/// The integer kernels of a compute layout.
trait Layout: Sized {
    fn int<F: Unpack<Unit = Self>>() -> Option<IntKernels>;
}

impl Layout for SuperBlock {
    fn int<F: Unpack<Unit = Self>>() -> Option<IntKernels> {
        Some(IntKernels {
            act: ActKind::Q8K,
            unit: 256,
            panel_unit_bytes: MR * size_of::<SuperBlock>(),
            gemv: matmul::gemv_super::<F>,
            few: FewKernel::ALONE,
            pack: matmul::pack::<F>,
            gemm: matmul::gemm_super,
        })
    }
}

impl Layout for Block32 {
    fn int<F: Unpack<Unit = Self>>() -> Option<IntKernels> {
        Some(IntKernels {
            act: ActKind::Q8B,
            unit: 32,
            panel_unit_bytes: MR * size_of::<Block32>(),
            gemv: matmul::gemv_block::<F>,
            few: FewKernel::ALONE,
            pack: matmul::pack::<F>,
            gemm: matmul::gemm_block::<F>,
        })
    }
}

impl Layout for Unquantized {
    fn int<F: Unpack<Unit = Self>>() -> Option<IntKernels> {
        None
    }
}

fn format<F: Unpack>() -> FormatKernels
where
    F::Unit: Layout,
{
    FormatKernels { int: F::Unit::int::<F>(), dequantize: matmul::dequantize::<F>, stored_f32: None }
}

macro_rules! formats {
    ($($variant:ident $module:ident $ty:ident),+) => {
        vec![$(format::<ocelli_quant::formats::$module::$ty>()),+]
    };
}

/// The table. Always available.
pub(crate) fn table() -> &'static KernelTable {
    static TABLE: OnceLock<KernelTable> = OnceLock::new();
    TABLE.get_or_init(|| KernelTable {
        name: NAME,
        mr: MR,
        panels: 1,
        nr: 1,
        formats: ocelli_quant::for_each_format!(formats),
        rows_f32: matmul::rows_f32,
        gemm_f32: matmul::gemm_f32,
        fixed: Some(FixedKernels {
            row: crate::fixed::row,
            soften: elem::soften,
            gemm: matmul::gemm_fixed,
            pairs: PairKernels { spread: elem::spread, pair: elem::pair },
            weigh: elem::weigh,
            panels: 1,
            queries: 8,
        }),
        fast_bytes: true,
        dot_f32: matmul::dot_f32,
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
        f32_to_f16: elem::f32_to_f16,
        transpose: crate::transpose::Transpose::scalar,
        peaks: peak::loops(),
        read: crate::table::sum_words,
    })
}
