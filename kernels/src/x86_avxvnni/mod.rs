//! AVX-VNNI: the 16 registers of AVX2, and `vpdpbusd` on 32 bytes of them, as laptops without AVX-512 have it (Intel
//! since Alder Lake).
//!
//! Prompts run here, on the panels of [`crate::x86_avx2`]. One token is bound by memory, and the element-wise functions
//! are small: both are the AVX2 ones.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays and pointers in step")]

mod gemm;
mod peak;

use std::sync::OnceLock;

use ocelli_quant::Unpack;
use ocelli_quant::panel::{Block32, SuperBlock, Unquantized};

use crate::table::{Gemm, KernelTable, Prompt};
use crate::x86_avx2::{self, pack};

pub(crate) const NAME: &str = "avxvnni";

/// What detection asks for, in words.
pub(crate) const NEEDS: &str = "an x86-64 CPU with AVX-VNNI, AVX2, FMA and F16C";

/// Tokens of a tile: 6 registers of a group's sums and 6 of a super-block's, two of weights, one of codes.
const NR: usize = 3;

/// What computes the dot products.
#[derive(Debug, Clone, Copy)]
enum By {
    Vnni,
    #[cfg(feature = "emulated")]
    Avx2,
}

/// The GEMM of a compute layout.
trait Layout: Sized {
    fn prompt<F: Unpack<Unit = Self>>(by: By) -> Option<Prompt>;
}

impl Layout for SuperBlock {
    fn prompt<F: Unpack<Unit = Self>>(by: By) -> Option<Prompt> {
        let gemm = match by {
            By::Vnni => vnni_super::<F>,
            #[cfg(feature = "emulated")]
            By::Avx2 => emulated_super::<F>,
        };
        Some(Prompt { panel_unit_bytes: pack::super_bytes(F::GROUP), pack: pack::pack_super::<F>, gemm })
    }
}

impl Layout for Block32 {
    /// Signed codes too stay bytes here, unlike those of AVX2.
    fn prompt<F: Unpack<Unit = Self>>(by: By) -> Option<Prompt> {
        let gemm = match by {
            By::Vnni => vnni_block::<F>,
            #[cfg(feature = "emulated")]
            By::Avx2 => emulated_block::<F>,
        };
        Some(Prompt { panel_unit_bytes: pack::BLOCK_BYTES, pack: pack::pack_block::<F>, gemm })
    }
}

impl Layout for Unquantized {
    fn prompt<F: Unpack<Unit = Self>>(_: By) -> Option<Prompt> {
        None
    }
}

/// Makes the function of a table's slot out of a function of [`gemm`].
macro_rules! slot {
    ($name:ident, $features:literal, $unit:ty, $gemm:ident::<$dots:ident>) => {
        /// # Safety
        /// As the function called; the features are those of the table, which exists only where the CPU has them.
        #[target_feature(enable = $features)]
        unsafe fn $name<F: Unpack<Unit = $unit>>(a: &Gemm) {
            // SAFETY: promised by the caller.
            unsafe { gemm::$gemm::<gemm::$dots, F>(a) }
        }
    };
}

slot!(vnni_super, "avx2,fma,avxvnni", SuperBlock, gemm_super::<Vnni>);
slot!(vnni_block, "avx2,fma,avxvnni", Block32, gemm_block::<Vnni>);
#[cfg(feature = "emulated")]
slot!(emulated_super, "avx2,fma", SuperBlock, gemm_super::<Emulated>);
#[cfg(feature = "emulated")]
slot!(emulated_block, "avx2,fma", Block32, gemm_block::<Emulated>);

/// The AVX2 table with the GEMMs of this one.
fn made(base: &KernelTable, by: By) -> KernelTable {
    macro_rules! prompts {
        ($($variant:ident $module:ident $ty:ident),+) => {
            [$({
                type F = ocelli_quant::formats::$module::$ty;
                <<F as Unpack>::Unit as Layout>::prompt::<F>(by)
            }),+]
        };
    }
    let mut formats = base.formats.clone();
    for (format, prompt) in formats.iter_mut().zip(ocelli_quant::for_each_format!(prompts)) {
        format.use_prompt(prompt);
    }
    KernelTable { name: NAME, nr: NR, formats, peaks: base.peaks.clone(), ..*base }
}

/// The table, where the CPU has every feature that its functions are compiled with.
pub(crate) fn table() -> Option<&'static KernelTable> {
    static TABLE: OnceLock<Option<KernelTable>> = OnceLock::new();
    TABLE
        .get_or_init(|| {
            let base = x86_avx2::table().filter(|_| is_x86_feature_detected!("avxvnni"))?;
            Some(KernelTable { peaks: peak::loops(&base.peaks), ..made(base, By::Vnni) })
        })
        .as_ref()
}

/// The same table with the instructions of AVX-VNNI made from those of AVX2: slower than AVX2's own, and there to be
/// tested where no CPU has AVX-VNNI.
#[cfg(feature = "emulated")]
pub(crate) fn emulated() -> Option<&'static KernelTable> {
    static TABLE: OnceLock<Option<KernelTable>> = OnceLock::new();
    TABLE
        .get_or_init(|| {
            let made = made(x86_avx2::table()?, By::Avx2);
            Some(KernelTable { name: "avxvnni-emulated", ..made })
        })
        .as_ref()
}
