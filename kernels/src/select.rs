//! Which table runs: detection, override, and what a user is told about it.
//!
//! Tables are listed best first. The first available one is the default; a name chooses another. A name that cannot be
//! honoured is an error, never a silent fall-back. Where a name comes from, an option or a variable, is the program's
//! business.

use ocelli_quant::GgmlType;

use crate::act::is_half;
use crate::error::IsaError;
use crate::matmul::FEW_TOKENS;
use crate::measure::Unit;
use crate::scalar;
use crate::table::{KernelTable, index};

/// One table of this build.
struct Candidate {
    name: &'static str,
    table: fn() -> Option<&'static KernelTable>,
    /// What the machine must have, for messages.
    needs: &'static str,
}

/// The tables of this build, best first. A new instruction set is one line.
const CANDIDATES: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    Candidate {
        name: crate::x86_vnni::AVX512,
        table: crate::x86_vnni::avx512_table,
        needs: crate::x86_vnni::AVX512_NEEDS,
    },
    #[cfg(target_arch = "x86_64")]
    Candidate { name: crate::x86_vnni::AVX, table: crate::x86_vnni::avx_table, needs: crate::x86_vnni::AVX_NEEDS },
    #[cfg(target_arch = "aarch64")]
    Candidate {
        name: crate::aarch64_neon::i8mm::NAME,
        table: crate::aarch64_neon::i8mm::table,
        needs: crate::aarch64_neon::i8mm::NEEDS,
    },
    #[cfg(target_arch = "aarch64")]
    Candidate {
        name: crate::aarch64_neon::dotprod::NAME,
        table: crate::aarch64_neon::dotprod::table,
        needs: crate::aarch64_neon::dotprod::NEEDS,
    },
    #[cfg(target_arch = "aarch64")]
    Candidate {
        name: crate::aarch64_neon::base::NAME,
        table: crate::aarch64_neon::base::table,
        needs: crate::aarch64_neon::base::NEEDS,
    },
    #[cfg(target_arch = "x86_64")]
    Candidate { name: crate::x86_avx2::NAME, table: crate::x86_avx2::table, needs: crate::x86_avx2::NEEDS },
    Candidate { name: scalar::NAME, table: || Some(scalar::table()), needs: "nothing" },
];

/// The kernels of one instruction set. Holding one proves that this machine can run it.
#[derive(Clone, Copy)]
pub struct Kernels {
    pub(crate) table: &'static KernelTable,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Kernels {
    /// The table called `name`, in any case.
    ///
    /// # Errors
    /// When the name is unknown, or known but not available here; the message lists what is.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let Some(candidate) = CANDIDATES.iter().find(|c| c.name.eq_ignore_ascii_case(name)) else {
            return Err(IsaError::Unknown { name: name.to_owned(), list: list() });
        };
        match (candidate.table)() {
            Some(table) => Ok(Self { table }),
            None => Err(IsaError::Unavailable {
                name: candidate.name.to_owned(),
                reason: format!("it needs {}", candidate.needs),
                list: list(),
            }),
        }
    }

    /// The best table of this machine.
    #[must_use]
    pub fn best() -> Self {
        let table = CANDIDATES.iter().find_map(|c| (c.table)()).unwrap_or_else(scalar::table);
        Self { table }
    }

    /// The scalar table: complete, plain, and the reference for all others.
    #[must_use]
    pub fn scalar() -> Self {
        Self { table: scalar::table() }
    }

    /// Every table that this machine can run, best first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        CANDIDATES.iter().filter_map(|c| (c.table)()).map(|table| Self { table }).collect()
    }

    /// Tables whose special instructions are made from plainer ones, so that tests reach the rest of them on CPUs that
    /// lack those. Never chosen.
    #[cfg(feature = "emulated")]
    #[must_use]
    pub fn emulated() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let tables = crate::x86_vnni::emulated();
        #[cfg(not(target_arch = "x86_64"))]
        let tables: [Option<&'static KernelTable>; 0] = [];
        tables.into_iter().flatten().map(|table| Self { table }).collect()
    }

    /// Every table of this build, best first, with what the machine lacks for those that cannot run.
    #[must_use]
    pub fn candidates() -> Vec<(&'static str, Option<&'static str>)> {
        CANDIDATES.iter().map(|c| (c.name, if (c.table)().is_some() { None } else { Some(c.needs) })).collect()
    }

    /// The name of the table, as `--isa` takes it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.table.name
    }

    /// Whether fast products of F16 and BF16 weights, and attention within spans, are those of 16-bit fixed-point numbers.
    #[must_use]
    pub fn fixed_point(&self) -> bool {
        self.table.fixed.is_some()
    }

    /// Whether products of signed bytes are faster than those of fixed-point numbers or, without those, of f32: else there
    /// is nothing to gain from making weights into bytes.
    #[must_use]
    pub fn fast_bytes(&self) -> bool {
        self.table.fast_bytes
    }

    /// What the fast products of weights of this format with so many tokens are made of.
    #[must_use]
    pub fn unit(&self, ty: GgmlType, tokens: usize) -> Unit {
        match self.table.formats[index(ty)].int {
            Some(_) => Unit::Int8,
            None if is_half(ty) && tokens > FEW_TOKENS && self.fixed_point() => Unit::Int16,
            None => Unit::F32,
        }
    }

    /// Rows and tokens of the integer micro-tile.
    #[must_use]
    pub fn tile(&self) -> (usize, usize) {
        (self.table.mr * self.table.panels, self.table.nr)
    }

    /// Tokens up to which a fast product with weights of this format needs no panel; then it is a "gemv", with more tokens a
    /// "gemm". At most [`crate::FEW_TOKENS`].
    #[must_use]
    pub fn few_tokens(&self, ty: GgmlType) -> usize {
        let format = &self.table.formats[index(ty)];
        format.int.map_or(format.few_floats(), |int| int.few.most)
    }
}

/// The tables of this build, in words.
fn list() -> String {
    let (mut here, mut missing) = (Vec::new(), Vec::new());
    for (name, needs) in Kernels::candidates() {
        match needs {
            None => here.push(name.to_owned()),
            Some(needs) => missing.push(format!("{name} (needs {needs})")),
        }
    }
    let mut text = format!("available here: {}", here.join(", "));
    if !missing.is_empty() {
        text.push_str("; not here: ");
        text.push_str(&missing.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_select_and_bad_names_list_the_choices() {
        assert_eq!(Kernels::named("scalar").expect("always there").name(), "scalar");
        assert_eq!(Kernels::named("SCALAR").expect("any case").name(), "scalar");
        let error = Kernels::named("mmx").expect_err("no such table").to_string();
        assert!(error.contains("mmx") && error.contains("scalar"), "{error}");
        for (name, needs) in Kernels::candidates() {
            match needs {
                None => assert_eq!(Kernels::named(name).expect("available").name(), name),
                Some(needs) => {
                    let error = Kernels::named(name).expect_err("not available").to_string();
                    assert!(error.contains(needs) && error.contains("scalar"), "{error}");
                }
            }
        }
    }

    #[test]
    fn the_scalar_table_is_last() {
        let all = Kernels::available();
        assert_eq!(all.last().expect("never empty").name(), "scalar");
        assert_eq!(all[0].name(), Kernels::best().name());
    }
}
