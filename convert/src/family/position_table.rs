//! The fixed sine/cosine table that the resampler adds to its keys.
//!
//! For the patch in row `r` and column `c`, with `d = width / 4` and `ω_k = 1 / 10000^(k/d)`:
//!
//! ```text
//! [ sin(c·ω) (d) │ cos(c·ω) (d) │ sin(r·ω) (d) │ cos(r·ω) (d) ]
//! ```
//!
//! Files of this family hold the table as NumPy computes it in single precision, so every step is done in f32 here
//! too, and sine and cosine by the same approximation: the angle is reduced by the nearest multiple of π/2, kept as
//! three f32 parts, then one of two polynomials is evaluated, all with fused multiply-adds. The result is within two
//! units in the last place of the true value, and the same bytes on every machine.

use std::f32::consts::FRAC_2_PI;
use std::sync::Arc;

use crate::plan::RowFn;

/// −π/2 in three parts, largest first.
const MINUS_HALF_PI: [f32; 3] = [f32::from_bits(0xbfc9_0fd8), f32::from_bits(0xb4a8_885a), f32::from_bits(0xa7c2_34c4)];
/// Coefficients of `cos r` in powers of `r²`, highest first.
const COS: [f32; 5] = [2.437_226_6e-5, -0.001_388_652, 0.041_666_62, -0.5, 1.0];
/// Coefficients of `(sin r − r) / r³` in powers of `r²`, highest first.
const SIN: [f32; 4] = [2.840_409_7e-6, -0.000_198_564_91, 0.008_333_397, -0.166_666_67];

/// Sine and cosine of a small non-negative angle.
fn sin_cos(x: f32) -> (f32, f32) {
    let quadrant = (x * FRAC_2_PI).round_ties_even();
    let r = MINUS_HALF_PI.iter().fold(x, |r, part| quadrant.mul_add(*part, r));
    let square = r * r;
    let polynomial = |coefficients: &[f32]| coefficients.iter().copied().reduce(|p, c| p.mul_add(square, c));
    let cos = polynomial(&COS).unwrap_or_default();
    let sin = (polynomial(&SIN).unwrap_or_default() * square).mul_add(r, r);
    match quadrant as i64 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// A function that fills row `r·side + c` of the table. `width` is a multiple of 4.
pub(super) fn position_table(width: u32, side: u32) -> Arc<RowFn> {
    let quarter = width as usize / 4;
    // One line per coordinate: sines, then cosines.
    let mut lines = Vec::with_capacity(side as usize);
    for position in 0..side {
        let pairs: Vec<(f32, f32)> = (0..quarter)
            .map(|k| {
                let exponent = k as f32 / quarter as f32;
                let omega = 1.0 / 10_000f64.powf(f64::from(exponent)) as f32;
                sin_cos(position as f32 * omega)
            })
            .collect();
        let line = pairs.iter().map(|p| p.0).chain(pairs.iter().map(|p| p.1));
        lines.push(line.collect::<Vec<f32>>());
    }
    Arc::new(move |row, out: &mut [f32]| {
        let side = u64::from(side).max(1);
        let halves = [row % side, row / side].map(|p| usize::try_from(p).ok().and_then(|p| lines.get(p)));
        for (half, line) in out.chunks_mut((2 * quarter).max(1)).zip(halves) {
            for (o, v) in half.iter_mut().zip(line.into_iter().flatten()) {
                *o = *v;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(width: u32, r: u64, c: u64) -> Vec<f32> {
        let mut out = vec![f32::NAN; width as usize];
        position_table(width, 70)(r * 70 + c, &mut out);
        out
    }

    /// Values computed by an independent program for the full-size model.
    #[test]
    fn known_values() {
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} {b}");
        let p = row(2560, 1, 2);
        near(p[0], 0.909_297_4);
        near(p[1], 0.920_816_5);
        near(p[639], 0.000_202_9);
        near(p[640], -0.416_146_8);
        near(p[641], -0.389_996_2);
        near(p[1279], 1.0);
        near(p[1280], 0.841_471);
        near(p[1281], 0.833_665_5);
        near(p[1919], 0.000_101_4);
        near(p[1920], 0.540_302_3);
        let p = row(2560, 31, 69);
        near(p[0], -0.114_784_8);
        near(p[640], 0.993_390_4);
        near(p[1280], -0.404_037_6);
        near(p[1920], 0.914_742_4);
    }

    /// The bits of the whole table, added up, as NumPy computes it for two widths, and some entries at which it is
    /// not correctly rounded.
    #[test]
    fn same_bits_as_numpy() {
        for (width, sum) in [(256u32, 0x0006_42ca_c306_cf1cu64), (2560, 0x003e_56d0_3954_0cec)] {
            let table = position_table(width, 70);
            let mut line = vec![0f32; width as usize];
            let mut total = 0u64;
            for r in 0..4900 {
                table(r, &mut line);
                total = line.iter().fold(total, |n, v| n + u64::from(v.to_bits()));
            }
            assert_eq!(total, sum, "width {width}");
        }
        for (c, k, bits) in [(1, 0, 0x3f57_6aa5), (2, 82, 0x3f13_9967), (31, 23, 0xbe8a_2ff7u32), (69, 3, 0xbde2_cebd)]
        {
            assert_eq!(row(2560, 0, c)[k].to_bits(), bits, "column {c}, entry {k}");
        }
    }

    #[test]
    fn close_to_the_true_values() {
        for i in 0..7000 {
            let x = i as f32 / 100.0;
            let (sin, cos) = sin_cos(x);
            assert!((f64::from(sin) - f64::from(x).sin()).abs() < 1.2e-7, "sin {x}");
            assert!((f64::from(cos) - f64::from(x).cos()).abs() < 1.2e-7, "cos {x}");
        }
    }
}
