//! AVX-512 with VNNI (32 registers of 64 bytes), and AVX-VNNI (16 of 32 bytes; laptops without AVX-512, Intel since Alder
//! Lake). Both have `vpdpbusd`, which adds four products of unsigned and signed bytes to 32 bits without saturation.
//!
//! Prompts run here, on the panels of [`crate::x86_avx2`]: the GEMMs are written once, over the 16 rows of a panel as
//! [`lanes::Lanes`]. AVX-512 has products with one token and with few of its own, too, and small functions of 16 lanes;
//! AVX-VNNI takes those of AVX2.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays and pointers in step")]

pub(crate) mod expand;
mod float;
mod gemm;
mod gemv;
mod halves;
mod lanes;
mod pack;
mod pairs;
mod peak;
pub(crate) mod quantize;
mod soften;
mod steps;
mod two;
mod unpack;

use std::sync::OnceLock;

use ocelli_quant::panel::Unquantized;
use ocelli_quant::{GgmlType, Unpack, formats};

use crate::fixed::{FixedKernels, PairKernels, Panel16};
use crate::table::{Few, FewKernel, FormatKernels, Gemm, GemmF32, Gemv, IntKernels, KernelTable, Pack, Prompt, index};
use crate::x86_avx2::unpack::{Block, Known, Super, Visit};
use crate::x86_avx2::{self, pack as panels};
use halves::{Halves, Vnni};
use lanes::{Avx512, Lanes, Pair};

// Of 16 lanes each: the functions that are written once for all instruction sets.
crate::wide::wide_functions!("avx2,fma,f16c,avx512f,avx512bw,avx512vl");

pub(crate) const AVX512: &str = "avx512vnni";
pub(crate) const AVX: &str = "avxvnni";

/// What detection asks for, in words.
pub(crate) const AVX512_NEEDS: &str = "an x86-64 CPU with AVX-512 F, BW, VL and VNNI";
pub(crate) const AVX_NEEDS: &str = "an x86-64 CPU with AVX-VNNI, AVX2, FMA and F16C";

/// Tokens that are few: AVX2's panels are multiplied twice as fast here. With five, which straight from the blocks are four and
/// one, a panel takes a Zen 4 a fifth less time with Q4_K and Q8_0, a twentieth with Q6_K; with four it takes more.
const FEW: usize = 4;

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

/// Two sums for each of 12 pairs of a panel and a token are 24 registers; three more hold weights and a token's bytes.
type TwoOf<V> = Pair<V, 6>;
type OfAvx = Halves<Vnni, 3>;
#[cfg(feature = "emulated")]
type Emulated512 = Halves<halves::Emulated, { Avx512::TOKENS }>;
#[cfg(feature = "emulated")]
type EmulatedAvx = Halves<halves::Emulated, { OfAvx::TOKENS }>;

/// Makes the functions of a table's slots out of those of [`gemm`], compiled with the table's features. AVX-VNNI has no use
/// for that of floats: the tiles of AVX2's own are larger.
macro_rules! slots {
    ($module:ident, $features:literal, $lanes:ty $(, two: $pair:ty, $f32:ident)?) => {
        mod $module {
            use super::*;

            /// # Safety
            /// As the function called; the features are those of the table, which exists only where the CPU has them.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn gemm_super<F: Super>(a: &Gemm) {
                $(
                    if a.n_rows > x86_avx2::MR {
                        // SAFETY: promised by the caller; a second panel is there.
                        return unsafe { gemm::gemm_super::<$pair, F>(a) };
                    }
                )?
                // SAFETY: promised by the caller.
                unsafe { gemm::gemm_super::<$lanes, F>(a) }
            }

            /// # Safety
            /// As for `gemm_super`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn gemm_block<F: Block>(a: &Gemm) {
                $(
                    if a.n_rows > x86_avx2::MR {
                        // SAFETY: promised by the caller; a second panel is there.
                        return unsafe { gemm::gemm_block::<$pair, F>(a) };
                    }
                )?
                // SAFETY: promised by the caller.
                unsafe { gemm::gemm_block::<$lanes, F>(a) }
            }

            /// # Safety
            /// As for `gemm_super`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn gemm_fixed(a: &Panel16) {
                $(
                    if a.n_rows > x86_avx2::MR {
                        // SAFETY: promised by the caller; a second panel is there.
                        return unsafe { gemm::gemm_fixed::<$pair>(a) };
                    }
                )?
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

slots!(avx512, "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", Avx512, two: TwoOf<Avx512>, gemm_f32);
slots!(avx, "avx2,fma,avxvnni", OfAvx);
#[cfg(feature = "emulated")]
slots!(emulated_512, "avx2,fma", Emulated512, two: TwoOf<Emulated512>, gemm_f32);
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
        let panel_unit_bytes = panels::super_bytes(F::GROUP);
        Some(Prompt { few: FEW, panel_unit_bytes, pack: panels::pack_super::<F>, gemm: slot!(self, gemm_super::<F>) })
    }

    /// Signed codes too stay bytes here, unlike those of AVX2.
    fn block<F: Block>(self) -> Self::Out {
        let panel_unit_bytes = panels::BLOCK_BYTES;
        Some(Prompt { few: FEW, panel_unit_bytes, pack: panels::pack_block::<F>, gemm: slot!(self, gemm_block::<F>) })
    }

    fn float<F: Unpack<Unit = Unquantized>>(self) -> Self::Out {
        None
    }
}

/// The AVX2 table with the integer GEMMs of another.
fn made(base: &KernelTable, by: By, name: &'static str, panels: usize, nr: usize) -> KernelTable {
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
    let fixed = base.fixed.map(|fixed| FixedKernels { gemm, panels, ..fixed });
    let (reach, peaks) = (Some(x86_avx2::REACH), base.peaks.clone());
    KernelTable { name, panels, nr, formats, fixed, fast_bytes: true, reach, peaks, ..*base }
}

/// Puts what AVX-512 has of its own in the place of AVX2's: products with one token and with few, making panels, expanding
/// rows.
fn use_avx512(kernels: &mut [FormatKernels]) {
    let mut put = |ty: GgmlType, gemv: unsafe fn(&mut Gemv), few: unsafe fn(&Few)| {
        if let Some(int) = &mut kernels[index(ty)].int {
            *int = IntKernels { gemv, few: FewKernel { run: Some(few), ..int.few }, ..*int };
        }
    };
    macro_rules! rows {
        ($gemv:ident $few:ident: $($ty:ident $module:ident),+) => {
            $(put(GgmlType::$ty, gemv::$gemv::<formats::$module::$ty>, gemv::$few::<formats::$module::$ty>);)+
        };
    }
    rows!(gemv_super few_super: Q2_K q2_k, Q3_K q3_k, Q4_K q4_k, Q5_K q5_k, Q6_K q6_k);
    rows!(gemv_block few_block: Q4_0 q4_0, Q4_1 q4_1, Q5_0 q5_0, Q5_1 q5_1, Q8_0 q8_0, IQ4_NL iq4_nl);
    let mut put = |ty: GgmlType, panel_unit_bytes: usize, pack: unsafe fn(&mut Pack)| {
        if let Some(int) = &mut kernels[index(ty)].int {
            *int = IntKernels { panel_unit_bytes, pack, ..*int };
        }
    };
    macro_rules! packs {
        ($($ty:ident $module:ident),+) => {
            $(
                let bytes = gemm::unit_bytes::<formats::$module::$ty>(true);
                put(GgmlType::$ty, bytes, pack::pack_super::<formats::$module::$ty>);
            )+
        };
    }
    packs!(Q4_K q4_k, Q5_K q5_k, Q6_K q6_k);
    put(GgmlType::Q8_0, panels::BLOCK_BYTES, pack::pack_q8_0);
    fn use_floats<W: float::Wide>(format: &mut FormatKernels) {
        format.stored_f32 = Some(float::rows::<W>);
    }
    use_floats::<x86_avx2::float::Half>(&mut kernels[index(GgmlType::F16)]);
    use_floats::<x86_avx2::float::Brain>(&mut kernels[index(GgmlType::BF16)]);
    use_floats::<x86_avx2::float::Single>(&mut kernels[index(GgmlType::F32)]);
    macro_rules! expansions {
        ($($ty:ident $module:ident $format:ident),+) => {
            $(kernels[index(GgmlType::$ty)].dequantize = formats::$module::$format::visit(expand::Expansion);)+
        };
    }
    ocelli_quant::for_each_format!(expansions);
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
            let mut made = made(base, By::Avx512, AVX512, 2, TwoOf::<Avx512>::TOKENS);
            use_avx512(&mut made.formats);
            Some(KernelTable {
                rows_f32: float::rows::<x86_avx2::float::Single>,
                gemm_f32: avx512::gemm_f32,
                fixed: made.fixed.map(|fixed| FixedKernels {
                    row: quantize::fixed_row,
                    soften: soften::soften,
                    pairs: PairKernels { spread: quantize::spread, pair: pairs::pair },
                    weigh: soften::weigh,
                    queries: 8,
                    ..fixed
                }),
                quantize_q8k: quantize::quantize_q8k,
                reach: Some(quantize::reach),
                quantize_q8b: quantize::quantize_q8b,
                q8_pairs: quantize::q8_pairs,
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
                dot_f32: elem::dot_f32,
                peaks: peak::avx512_loops(),
                read: peak::read,
                ..made
            })
        })
        .as_ref()
}

/// The table of AVX-VNNI, where the CPU has every feature that its functions are compiled with.
pub(crate) fn avx_table() -> Option<&'static KernelTable> {
    static TABLE: OnceLock<Option<KernelTable>> = OnceLock::new();
    TABLE
        .get_or_init(|| {
            let base = x86_avx2::table().filter(|_| is_x86_feature_detected!("avxvnni"))?;
            let made = made(base, By::Avx, AVX, 1, OfAvx::TOKENS);
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
        let of_512 = made(base, By::Emulated512, "avx512vnni-emulated", 2, TwoOf::<Emulated512>::TOKENS);
        let of_avx = made(base, By::EmulatedAvx, "avxvnni-emulated", 1, EmulatedAvx::TOKENS);
        Some([KernelTable { gemm_f32: emulated_512::gemm_f32, ..of_512 }, of_avx])
    });
    tables.as_ref().map_or([None; 2], |[of_512, of_avx]| [Some(of_512), Some(of_avx)])
}
