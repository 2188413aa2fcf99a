//! Which learned position a patch takes.
//!
//! A tower has learned one embedding for every cell of a square grid (70 × 70); a slice has another number of patches.
//! Both axes are mapped alone: patch `i` of `n` takes bucket `⌊grid·i/n⌋`. Two programs compute that differently:
//!
//! * llama.cpp computes the formula.
//! * The model's own code places fractions `v_i = i·(1/n)` among boundaries `b_k = (k + 1)/grid`, both in f32, and takes
//!   the number of boundaries at or below `v_i`. Where `grid·i/n` is an integer, rounding can put `v_i` just below its
//!   boundary, one bucket lower. That happens at n = 25, 49, 50, 55, 58, … and so on ordinary pictures (40 × 25 patches
//!   is the overview of a 16:10 photo).
//!
//! The fractions come from PyTorch's `arange`, whose rounding depends on its vector loop: of every whole group of 16
//! values, each half of 8 starts from `f32(start + i·step)` and adds `j·step` in f64; what is left over at the end is
//! `f32(start + i·step)`. With this, buckets equal those of PyTorch for all lengths up to [`MAX_AXIS`].

use super::VisionError;

/// Most patches along one axis. The reference's rules have been compared up to here.
pub const MAX_AXIS: usize = 4096;

/// Whose rule places the patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Positions {
    /// That of the model's published code.
    #[default]
    Reference,
    /// That of llama.cpp.
    LlamaCpp,
}

impl Positions {
    /// Buckets of `n` patches along an axis with `grid` learned positions; all below `grid`.
    ///
    /// # Errors
    /// When `n` is beyond [`MAX_AXIS`].
    pub fn buckets(self, n: usize, grid: usize) -> Result<Vec<usize>, VisionError> {
        if n > MAX_AXIS {
            return Err(VisionError::Slice {
                problem: format!("{n} patches along one side; at most {MAX_AXIS} can be"),
            });
        }
        let last = grid.saturating_sub(1);
        Ok(match self {
            Self::LlamaCpp => (0..n).map(|i| grid * i / n).collect(),
            Self::Reference => {
                let step = 1.0 / grid as f64;
                // As many as `arange` makes from `step` up to, and without, 1.
                let boundaries = arange(step, step, ((1.0 - step) / step).ceil().max(0.0) as usize);
                let fractions = arange(0.0, f64::from(1.0 / n as f32), n);
                fractions.iter().map(|v| boundaries.partition_point(|b| b <= v).min(last)).collect()
            }
        })
    }
}

/// `n` values of PyTorch's `arange(start, …, step)` in f32.
fn arange(start: f64, step: f64, n: usize) -> Vec<f32> {
    let at = |i: usize| (start + i as f64 * step) as f32;
    let grouped = n / 16 * 16;
    let value = |i: usize| {
        if i < grouped { (f64::from(at(i / 8 * 8)) + (i % 8) as f64 * step) as f32 } else { at(i) }
    };
    (0..n).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the reference is one below the formula, for all lengths up to 140.
    const LOWER: &[(usize, &[usize])] = &[
        (25, &[5, 10, 15, 20]),
        (49, &[7, 14, 35, 42]),
        (50, &[5, 10, 15, 20, 30, 40]),
        (55, &[11, 22, 33, 44]),
        (58, &[29]),
        (77, &[55]),
        (82, &[41]),
        (86, &[43]),
        (94, &[47]),
        (98, &[7, 14, 35, 42, 56, 70, 84]),
        (100, &[10, 20, 30, 40, 80]),
        (110, &[11, 22, 33, 44, 66, 88]),
        (115, &[23, 46, 69, 92]),
        (135, &[27, 54]),
    ];

    #[test]
    fn reference_is_the_formula_except_where_it_rounds_down() {
        for n in 1..=140 {
            let reference = Positions::Reference.buckets(n, 70).unwrap();
            let formula = Positions::LlamaCpp.buckets(n, 70).unwrap();
            assert_eq!(reference.len(), n);
            let lower = LOWER.iter().find(|(len, _)| *len == n).map_or(&[][..], |(_, at)| at);
            for i in 0..n {
                let want = formula[i] - usize::from(lower.contains(&i));
                assert_eq!(reference[i], want, "patch {i} of {n}");
            }
        }
    }

    /// Number of differences and the sum of their places over all lengths, as PyTorch 2.15 gives them.
    #[test]
    fn long_axes_agree_with_the_reference() {
        let (mut count, mut places) = (0usize, 0usize);
        for n in 141..=MAX_AXIS {
            let reference = Positions::Reference.buckets(n, 70).unwrap();
            for (i, (r, f)) in reference.iter().zip(Positions::LlamaCpp.buckets(n, 70).unwrap()).enumerate() {
                assert!(f - r <= 1, "patch {i} of {n}");
                if *r != f {
                    count += 1;
                    places += n * i;
                }
            }
        }
        assert_eq!((count, places), (3759, 10769390076));
    }

    #[test]
    fn known_tables() {
        let want = [0, 2, 5, 8, 11, 13, 16, 19, 22, 25, 27, 30, 33, 36, 39, 41, 44, 47, 50, 53, 55, 58, 61, 64, 67];
        assert_eq!(Positions::Reference.buckets(25, 70).unwrap(), want);
        let llama = Positions::LlamaCpp.buckets(25, 70).unwrap();
        assert_eq!([5, 10, 15, 20].map(|i| llama[i]), [14, 28, 42, 56]);
        let want = [
            0, 1, 3, 5, 7, 8, 10, 12, 14, 15, 17, 19, 21, 22, 24, 26, 28, 29, 31, 33, 35, 36, 38, 40, 42, 43, 45, 47,
            49, 50, 52, 54, 56, 57, 59, 61, 63, 64, 66, 68,
        ];
        for positions in [Positions::Reference, Positions::LlamaCpp] {
            assert_eq!(positions.buckets(40, 70).unwrap(), want);
        }
    }

    #[test]
    fn any_grid_and_length_stays_inside() {
        for grid in [1, 2, 7, 32, 70, 100] {
            for n in [1, 2, 3, 31, 70, 71, 500] {
                for positions in [Positions::Reference, Positions::LlamaCpp] {
                    let buckets = positions.buckets(n, grid).unwrap();
                    assert!(buckets.len() == n && buckets.iter().all(|b| *b < grid));
                    assert!(buckets.is_sorted());
                }
            }
        }
        assert!(Positions::Reference.buckets(MAX_AXIS + 1, 70).is_err());
    }
}
