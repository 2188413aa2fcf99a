//! The fixed sine/cosine table that the resampler adds to its keys.
//!
//! For the patch in row `r` and column `c`, with `d = width / 4` and `ω_k = 1 / 10000^(k/d)`:
//!
//! ```text
//! [ sin(c·ω) (d) │ cos(c·ω) (d) │ sin(r·ω) (d) │ cos(r·ω) (d) ]
//! ```
//!
//! ω and the angles are rounded to f32 at every step, as the reference computes them; sine and cosine of the f32
//! angle are then rounded correctly, which libraries that work in f32 miss by one unit in the last place at some
//! entries.

use std::sync::Arc;

use crate::plan::RowFn;

/// A function that fills row `r·side + c` of the table. `width` is a multiple of 4.
pub(super) fn position_table(width: u32, side: u32) -> Arc<RowFn> {
    let quarter = width as usize / 4;
    // One line per coordinate: sines, then cosines.
    let mut lines = Vec::with_capacity(side as usize);
    for position in 0..side {
        let angles: Vec<f64> = (0..quarter)
            .map(|k| {
                let exponent = k as f32 / quarter as f32;
                let omega = 1.0 / 10_000f64.powf(f64::from(exponent)) as f32;
                f64::from(position as f32 * omega)
            })
            .collect();
        let line = angles.iter().map(|a| a.sin() as f32).chain(angles.iter().map(|a| a.cos() as f32));
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

    #[test]
    fn every_value_is_set() {
        for (r, c) in [(0, 0), (69, 0), (0, 69), (69, 69)] {
            assert!(row(128, r, c).iter().all(|v| v.is_finite()));
        }
    }
}
