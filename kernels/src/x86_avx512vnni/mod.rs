//! AVX-512 with VNNI: 32 registers of 64 bytes, and `vpdpbusd`, which adds four products of unsigned and signed bytes
//! to 32 bits without saturation.
//!
//! Prompts run here; panels are those of [`crate::x86_avx2`], whose 16 rows are one register. One token is bound by
//! memory, and the element-wise functions are small: both are the AVX2 ones.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays and pointers in step")]

mod gemm;
mod peak;

use std::sync::OnceLock;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock, Unquantized};

use crate::table::{KernelTable, Prompt};
use crate::x86_avx2::{self, pack};

pub(crate) const NAME: &str = "avx512vnni";

/// What detection asks for, in words.
pub(crate) const NEEDS: &str = "an x86-64 CPU with AVX-512 F, BW, VL and VNNI";

/// Tokens of a tile: 8 registers of a group's sums and 8 of a super-block's.
const NR: usize = 8;

/// The GEMM of a compute layout.
trait Layout: Sized {
    fn prompt<F: Unpack<Unit = Self>>() -> Option<Prompt>;
}

impl Layout for SuperBlock {
    fn prompt<F: Unpack<Unit = Self>>() -> Option<Prompt> {
        let panel_unit_bytes = pack::super_bytes(F::GROUP);
        Some(Prompt { panel_unit_bytes, pack: pack::pack_super::<F>, gemm: gemm::gemm_super::<F> })
    }
}

impl Layout for Block32 {
    /// Signed codes too stay bytes here, unlike those of AVX2.
    fn prompt<F: Unpack<Unit = Self>>() -> Option<Prompt> {
        Some(Prompt { panel_unit_bytes: pack::BLOCK_BYTES, pack: pack::pack_block::<F>, gemm: gemm::gemm_block::<F> })
    }
}

impl Layout for Unquantized {
    fn prompt<F: Unpack<Unit = Self>>() -> Option<Prompt> {
        None
    }
}

macro_rules! prompts {
    ($($variant:ident $module:ident $ty:ident),+) => {
        [$({
            type F = ocelli_quant::formats::$module::$ty;
            <<F as Unpack>::Unit as Layout>::prompt::<F>()
        }),+]
    };
}

/// The table, where the CPU has every feature that its functions are compiled with.
pub(crate) fn table() -> Option<&'static KernelTable> {
    static TABLE: OnceLock<Option<KernelTable>> = OnceLock::new();
    TABLE
        .get_or_init(|| {
            let detected = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            let base = x86_avx2::table().filter(|_| detected)?;
            let mut formats = base.formats.clone();
            for (format, prompt) in formats.iter_mut().zip(ocelli_quant::for_each_format!(prompts)) {
                format.use_prompt(prompt);
            }
            let peaks = peak::loops();
            Some(KernelTable {
                name: NAME,
                nr: NR,
                formats,
                gemm_f32: gemm::gemm_f32,
                peaks,
                read: peak::read,
                ..*base
            })
        })
        .as_ref()
}
