//! AVX-512 with VNNI (32 registers of 64 bytes), and AVX-VNNI (16 of 32 bytes; laptops without AVX-512, Intel since Alder
//! Lake). Both have `vpdpbusd`, which adds four products of unsigned and signed bytes to 32 bits without saturation.
//!
//! Prompts run here, on the panels of [`crate::x86_avx2`]: the GEMMs are written once, over the 16 rows of a panel as
//! [`lanes::Lanes`]. One token is bound by memory, and the element-wise functions are small: both are the AVX2 ones.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays and pointers in step")]

mod gemm;
mod lanes;
mod peak;

use std::sync::OnceLock;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock, Unquantized};

use crate::fixed::{FixedKernels, Panel16};
use crate::table::{Gemm, GemmF32, KernelTable, Prompt};
use crate::x86_avx2::unpack::{Block, Known, Super, Visit};
use crate::x86_avx2::{self, pack};
use lanes::{Avx512, Halves, Lanes, Vnni};

pub(crate) const AVX512: &str = "avx512vnni";
pub(crate) const AVX: &str = "avxvnni";

/// What detection asks for, in words.
pub(crate) const AVX512_NEEDS: &str = "an x86-64 CPU with AVX-512 F, BW, VL and VNNI";
pub(crate) const AVX_NEEDS: &str = "an x86-64 CPU with AVX-VNNI, AVX2, FMA and F16C";

/// Tokens that are few: AVX2's kernels take them, and its panels cost as much, but are multiplied twice as fast here. An
/// estimate from AVX2's times; no CPU with these instructions was at hand.
const FEW: usize = 6;

/// What a table's GEMMs are made of.
#[derive(Debug, Clone, Copy)]
enum By {
    Avx512,
    Avx,
    #[cfg(feature = "emulated")]
    Emulated512,
    #[cfg(feature = "emulated")]
    EmulatedAvx,
}

type OfAvx = Halves<Vnni, 3>;
#[cfg(feature = "emulated")]
type Emulated512 = Halves<lanes::Emulated, { Avx512::TOKENS }>;
#[cfg(feature = "emulated")]
type EmulatedAvx = Halves<lanes::Emulated, { OfAvx::TOKENS }>;

/// Makes the functions of a table's slots out of those of [`gemm`], compiled with the table's features. AVX-VNNI has no use
/// for that of floats: the tiles of AVX2's own are larger.
macro_rules! slots {
    ($module:ident, $features:literal, $lanes:ty $(, $f32:ident)?) => {
        mod $module {
            use super::*;

            /// # Safety
            /// As the function called; the features are those of the table, which exists only where the CPU has them.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn gemm_super<F: Unpack<Unit = SuperBlock>>(a: &Gemm) {
                // SAFETY: promised by the caller.
                unsafe { gemm::gemm_super::<$lanes, F>(a) }
            }

            /// # Safety
            /// As for `gemm_super`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn gemm_block<F: Unpack<Unit = Block32>>(a: &Gemm) {
                // SAFETY: promised by the caller.
                unsafe { gemm::gemm_block::<$lanes, F>(a) }
            }

            /// # Safety
            /// As for `gemm_super`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn gemm_fixed(a: &Panel16) {
                // SAFETY: promised by the caller.
                unsafe { gemm::gemm_fixed::<$lanes>(a) }
            }

            $(
                /// # Safety
                /// As for `gemm_super`.
                #[target_feature(enable = $features)]
                pub(super) unsafe fn $f32(a: &GemmF32) {
                    // SAFETY: promised by the caller.
                    unsafe { gemm::gemm_f32::<$lanes>(a) }
                }
            )?
        }
    };
}

slots!(avx512, "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", Avx512, gemm_f32);
slots!(avx, "avx2,fma,avxvnni", OfAvx);
#[cfg(feature = "emulated")]
slots!(emulated_512, "avx2,fma", Emulated512, gemm_f32);
#[cfg(feature = "emulated")]
slots!(emulated_avx, "avx2,fma", EmulatedAvx);

/// The function of this name for what a table is made of.
macro_rules! slot {
    ($by:expr, $name:ident::<$F:ident>) => {
        match $by {
            By::Avx512 => avx512::$name::<$F>,
            By::Avx => avx::$name::<$F>,
            #[cfg(feature = "emulated")]
            By::Emulated512 => emulated_512::$name::<$F>,
            #[cfg(feature = "emulated")]
            By::EmulatedAvx => emulated_avx::$name::<$F>,
        }
    };
}

impl Visit for By {
    type Out = Option<Prompt>;

    fn super_block<F: Super>(self) -> Self::Out {
        let panel_unit_bytes = pack::super_bytes(F::GROUP);
        Some(Prompt { few: FEW, panel_unit_bytes, pack: pack::pack_super::<F>, gemm: slot!(self, gemm_super::<F>) })
    }

    /// Signed codes too stay bytes here, unlike those of AVX2.
    fn block<F: Block>(self) -> Self::Out {
        let panel_unit_bytes = pack::BLOCK_BYTES;
        Some(Prompt { few: FEW, panel_unit_bytes, pack: pack::pack_block::<F>, gemm: slot!(self, gemm_block::<F>) })
    }

    fn float<F: Unpack<Unit = Unquantized>>(self) -> Self::Out {
        None
    }
}

/// The AVX2 table with the integer GEMMs of another.
fn made(base: &KernelTable, by: By, name: &'static str, nr: usize) -> KernelTable {
    macro_rules! prompts {
        ($($variant:ident $module:ident $ty:ident),+) => {
            [$(ocelli_quant::formats::$module::$ty::visit(by)),+]
        };
    }
    let mut formats = base.formats.clone();
    for (format, prompt) in formats.iter_mut().zip(ocelli_quant::for_each_format!(prompts)) {
        format.use_prompt(prompt);
    }
    let gemm = match by {
        By::Avx512 => avx512::gemm_fixed,
        By::Avx => avx::gemm_fixed,
        #[cfg(feature = "emulated")]
        By::Emulated512 => emulated_512::gemm_fixed,
        #[cfg(feature = "emulated")]
        By::EmulatedAvx => emulated_avx::gemm_fixed,
    };
    let fixed = base.fixed.map(|fixed| FixedKernels { gemm, ..fixed });
    KernelTable { name, nr, formats, fixed, fast_bytes: true, peaks: base.peaks.clone(), ..*base }
}

/// The table of AVX-512, where the CPU has every feature that its functions are compiled with.
pub(crate) fn avx512_table() -> Option<&'static KernelTable> {
    static TABLE: OnceLock<Option<KernelTable>> = OnceLock::new();
    TABLE
        .get_or_init(|| {
            let detected = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            let base = x86_avx2::table().filter(|_| detected)?;
            let made = made(base, By::Avx512, AVX512, Avx512::TOKENS);
            Some(KernelTable { gemm_f32: avx512::gemm_f32, peaks: peak::avx512_loops(), read: peak::read, ..made })
        })
        .as_ref()
}

/// The table of AVX-VNNI, where the CPU has every feature that its functions are compiled with.
pub(crate) fn avx_table() -> Option<&'static KernelTable> {
    static TABLE: OnceLock<Option<KernelTable>> = OnceLock::new();
    TABLE
        .get_or_init(|| {
            let base = x86_avx2::table().filter(|_| is_x86_feature_detected!("avxvnni"))?;
            let made = made(base, By::Avx, AVX, OfAvx::TOKENS);
            Some(KernelTable { peaks: peak::avx_loops(&base.peaks), ..made })
        })
        .as_ref()
}

/// The same tables with their instructions made from those of AVX2: slower than AVX2's own, and there to be tested where
/// no CPU has AVX-512 or AVX-VNNI.
#[cfg(feature = "emulated")]
pub(crate) fn emulated() -> [Option<&'static KernelTable>; 2] {
    static TABLES: OnceLock<Option<[KernelTable; 2]>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        let base = x86_avx2::table()?;
        let of_512 = made(base, By::Emulated512, "avx512vnni-emulated", Emulated512::TOKENS);
        let of_avx = made(base, By::EmulatedAvx, "avxvnni-emulated", EmulatedAvx::TOKENS);
        Some([KernelTable { gemm_f32: emulated_512::gemm_f32, ..of_512 }, of_avx])
    });
    tables.as_ref().map_or([None; 2], |[of_512, of_avx]| [Some(of_512), Some(of_avx)])
}
