//! NEON: 32 registers of 16 bytes. Three tables from one source: `neon` runs on every AArch64 CPU, `neon-dotprod` uses
//! the `sdot` instruction, `neon-i8mm` also `smmla`. All codes are used as signed bytes (unsigned ones are at most 63).
//! Panels interleave rows in steps of s weights:
//!
//! ```text
//! super-block of 8 rows         codes [256/s steps][8 rows][s] i8
//!                               scales [groups][8 rows] i32, mins [groups][8 rows] i32, d [8] f32, dmin [8] f32
//! block of 32 of 8 rows         codes [32/s steps][8 rows][s] i8, d [8] f32, min [8] f32
//! ```
//!
//! With s = 4 a 32-bit lane is a row. With s = 8 (`neon-i8mm`) a register of weights is two rows, one of activations two
//! tokens, and an `smmla` fills four lanes with their four sums of 8 products.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays and pointers in step")]

mod body;
mod dot;
mod peak;
mod transpose;
mod tuned;

/// The list of all formats' kernels, by the `format` function of the module that uses it.
macro_rules! formats_by {
    ($($variant:ident $module:ident $ty:ident),+) => {
        vec![$(format::<ocelli_quant::formats::$module::$ty>()),+]
    };
}

/// Makes the module of one table: the bodies, compiled for the features given.
macro_rules! table {
    ($module:ident, $features:literal, $dot:ty, $name:literal, $needs:literal, $detected:expr) => {
        /// One table of this instruction set.
        pub(crate) mod $module {
            use std::sync::OnceLock;

            use ocelli_quant::{GgmlType, Unpack};
            use ocelli_quant::panel::{Block32, SuperBlock, Unquantized};

            use super::{body, tuned};
            use crate::table::{
                ActKind, FewKernel, FormatKernels, Gemm, GemmF32, Gemv, IntKernels, KernelTable, Pack, RowsF32, TunedGemv, tune,
            };

            crate::wide::wide_functions!($features);

            pub(crate) const NAME: &str = $name;

            /// What detection asks for, in words.
            pub(crate) const NEEDS: &str = $needs;

            type Dot = $dot;

            /// # Safety
            /// As [`body::gemv_super`].
            #[target_feature(enable = $features)]
            unsafe fn gemv_super<F: Unpack<Unit = SuperBlock>>(a: &mut Gemv) {
                // SAFETY: the contract of this function.
                unsafe { body::gemv_super::<F, Dot>(a) };
            }

            /// # Safety
            /// As [`body::gemv_block`].
            #[target_feature(enable = $features)]
            unsafe fn gemv_block<F: Unpack<Unit = Block32>>(a: &mut Gemv) {
                // SAFETY: the contract of this function.
                unsafe { body::gemv_block::<F, Dot>(a) };
            }

            /// # Safety
            /// As [`tuned::gemv_q4_k`].
            #[target_feature(enable = $features)]
            unsafe fn gemv_q4_k(a: &mut Gemv) {
                // SAFETY: the contract of this function.
                unsafe { tuned::gemv_q4_k::<Dot>(a) };
            }

            /// # Safety
            /// As [`tuned::gemv_q5_k`].
            #[target_feature(enable = $features)]
            unsafe fn gemv_q5_k(a: &mut Gemv) {
                // SAFETY: the contract of this function.
                unsafe { tuned::gemv_q5_k::<Dot>(a) };
            }

            /// # Safety
            /// As [`tuned::gemv_q6_k`].
            #[target_feature(enable = $features)]
            unsafe fn gemv_q6_k(a: &mut Gemv) {
                // SAFETY: the contract of this function.
                unsafe { tuned::gemv_q6_k::<Dot>(a) };
            }

            /// # Safety
            /// As [`tuned::gemv_q8_0`].
            #[target_feature(enable = $features)]
            unsafe fn gemv_q8_0(a: &mut Gemv) {
                // SAFETY: the contract of this function.
                unsafe { tuned::gemv_q8_0::<Dot>(a) };
            }

            /// The hand-tuned kernels, by format.
            const TUNED: &[TunedGemv] = &[
                (GgmlType::Q4_K, gemv_q4_k),
                (GgmlType::Q5_K, gemv_q5_k),
                (GgmlType::Q6_K, gemv_q6_k),
                (GgmlType::Q8_0, gemv_q8_0),
            ];

            #[target_feature(enable = $features)]
            fn pack_super<F: Unpack<Unit = SuperBlock>>(a: &mut Pack) {
                body::pack_super::<F, Dot>(a);
            }

            #[target_feature(enable = $features)]
            fn pack_block<F: Unpack<Unit = Block32>>(a: &mut Pack) {
                body::pack_block::<F, Dot>(a);
            }

            /// # Safety
            /// As [`body::tile_super`].
            #[target_feature(enable = $features)]
            unsafe fn gemm_super<F: Unpack<Unit = SuperBlock>>(a: &Gemm) {
                body::over_tokens!(a.acts.q.len() / a.acts.depth, tile_super[F, Dot], a);
            }

            /// # Safety
            /// As [`body::tile_block`].
            #[target_feature(enable = $features)]
            unsafe fn gemm_block<F: Unpack<Unit = Block32>>(a: &Gemm) {
                body::over_tokens!(a.acts.q.len() / a.acts.depth, tile_block[F, Dot], a);
            }

            /// # Safety
            /// As [`body::rows_f32`].
            #[target_feature(enable = $features)]
            unsafe fn rows_f32(a: &RowsF32) {
                // SAFETY: the contract of this function.
                unsafe { body::rows_f32(a) };
            }

            /// # Safety
            /// As [`body::tile_f32`].
            #[target_feature(enable = $features)]
            unsafe fn gemm_f32(a: &GemmF32) {
                body::over_tokens!(a.cols, tile_f32[], a);
            }

            trait Layout: Sized {
                fn int<F: Unpack<Unit = Self>>() -> Option<IntKernels>;
            }

            impl Layout for SuperBlock {
                fn int<F: Unpack<Unit = Self>>() -> Option<IntKernels> {
                    Some(IntKernels {
                        act: ActKind::Q8K,
                        unit: 256,
                        panel_unit_bytes: body::super_bytes(F::GROUP),
                        gemv: gemv_super::<F>,
                        few: FewKernel::ALONE,
                        pack: pack_super::<F>,
                        gemm: gemm_super::<F>,
                    })
                }
            }

            impl Layout for Block32 {
                fn int<F: Unpack<Unit = Self>>() -> Option<IntKernels> {
                    Some(IntKernels {
                        act: ActKind::Q8B,
                        unit: 32,
                        panel_unit_bytes: body::BLOCK_BYTES,
                        gemv: gemv_block::<F>,
                        few: FewKernel::ALONE,
                        pack: pack_block::<F>,
                        gemm: gemm_block::<F>,
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
                FormatKernels { int: F::Unit::int::<F>(), dequantize: elem::dequantize::<F>, stored_f32: None }
            }

            /// The table, where the CPU has every feature that its functions are compiled with.
            pub(crate) fn table() -> Option<&'static KernelTable> {
                static TABLE: OnceLock<Option<KernelTable>> = OnceLock::new();
                TABLE
                    .get_or_init(|| {
                        $detected.then(|| KernelTable {
                            name: NAME,
                            mr: body::MR,
                            panels: 1,
                            nr: body::NR,
                            formats: tune(ocelli_quant::for_each_format!(formats_by), TUNED),
                            rows_f32,
                            gemm_f32,
                            // `smlal` multiplies as many numbers at once as `fmla` does.
                            fixed: None,
                            fast_bytes: true,
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
                            f32_to_f16: elem::f32_to_f16,
                            transpose: super::transpose::transpose,
                            peaks: super::peak::loops(<Dot as crate::aarch64_neon::dot::Dot>::PEAK),
                            read: crate::table::sum_words,
                        })
                    })
                    .as_ref()
            }
        }
    };
}

table!(base, "neon", crate::aarch64_neon::dot::Widen, "neon", "an AArch64 CPU", true);
table!(
    dotprod,
    "neon,dotprod",
    crate::aarch64_neon::dot::Sdot,
    "neon-dotprod",
    "an AArch64 CPU with the dotprod extension",
    std::arch::is_aarch64_feature_detected!("dotprod")
);
table!(
    i8mm,
    "neon,dotprod,i8mm",
    crate::aarch64_neon::dot::Smmla,
    "neon-i8mm",
    "an AArch64 CPU with the i8mm and dotprod extensions",
    std::arch::is_aarch64_feature_detected!("i8mm") && std::arch::is_aarch64_feature_detected!("dotprod")
);
