//! Bicubic resampling with antialiasing, equal to Pillow's `Image.resize(size, BICUBIC)` bit for bit.
//!
//! The method (Pillow, `src/libImaging/Resample.c`, described in its documentation of "Filters"): each axis on its own
//! in the order of [`PassOrder`], with a rounding to 8 bits between. Per output position the weights of the input
//! positions within the support are computed in f64, divided by their sum and rounded to 22 fractional bits; a pass is
//! then a sum of integer products. When an axis keeps its length its pass is left out.
//!
//! ```text
//! scale = in / out      stretch = max(scale, 1)      support = 2 * stretch
//! centre = (x + 0.5) * scale
//! first = max(0, trunc(centre - support + 0.5))      end = min(in, trunc(centre + support + 0.5))
//! weight(j) = cubic((j - centre + 0.5) / stretch), cubic with a = -0.5
//! ```

use rayon::prelude::*;

use super::{ImageError, Rgb8, byte_len, zeroed};

/// Fractional bits of a weight: 32 less 8 of a pixel, less 2 for the overshoot of the sums.
const FRACTION: u32 = 22;

/// One half, in units of a weight: turns the shift that ends a sum into rounding.
const HALF: i32 = 1 << (FRACTION - 1);

/// The most that the absolute weights of one output position may add up to. A sum starts at [`HALF`] and adds products
/// of weights with bytes, so every partial sum lies within HALF + 255 * MAX_ABS <= i32::MAX, and none can overflow.
const MAX_ABS: i64 = (i32::MAX as i64 - HALF as i64) / 255;

/// Rows or columns that are handed to one task at a time.
const ROWS_PER_TASK: usize = 16;

/// Which axis is resampled first. As the result is rounded to 8 bits and clipped between, some pixels depend on it: on
/// smooth pictures a few per cent by 1 or 2, on noise more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PassOrder {
    /// Always along the rows first: Pillow up to 12, with which the model was published, and llama.cpp.
    HorizontalFirst,
    /// Along the columns first when the height loses more than twice as many pixels as the width (and any at all):
    /// Pillow from 13.0, which the published code gets when it is installed today.
    #[default]
    Pillow13,
}

impl PassOrder {
    fn vertical_first(self, from: (usize, usize), to: (usize, usize)) -> bool {
        let (loss, height_loss) = (from.0.saturating_sub(to.0), from.1.saturating_sub(to.1));
        // A width that grows counts as a negative loss there, which any loss of height exceeds.
        self == Self::Pillow13 && height_loss > 2 * loss
    }
}

/// Resizes to `width` x `height`, each side 1 to [`MAX_SIDE`](super::MAX_SIDE).
///
/// # Errors
/// [`ImageError::Size`] for a side outside that range, [`ImageError::NoMemory`].
pub fn resize(image: &Rgb8, width: usize, height: usize, order: PassOrder) -> Result<Rgb8, ImageError> {
    byte_len(width, height)?;
    let columns = (width != image.width).then(|| Weights::new(image.width, width)).transpose()?;
    let rows = (height != image.height).then(|| Weights::new(image.height, height)).transpose()?;
    match (columns, rows) {
        (None, None) => Ok(image.clone()),
        (Some(columns), None) => horizontal(image, &columns),
        (None, Some(rows)) => vertical(image, &rows),
        (Some(columns), Some(rows)) if order.vertical_first((image.width, image.height), (width, height)) => {
            horizontal(&vertical(image, &rows)?, &columns)
        }
        (Some(columns), Some(rows)) => vertical(&horizontal(image, &columns)?, &rows),
    }
}

/// The weights of one axis.
struct Weights {
    /// Per output position: where its inputs begin, and where its weights lie in `values`.
    spans: Vec<Span>,
    values: Vec<i32>,
}

#[derive(Clone, Copy)]
struct Span {
    first: usize,
    from: usize,
    to: usize,
}

impl Weights {
    // The bounds are those of the C casts: a negative difference truncates to 0 or below and is then raised to 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn new(input: usize, output: usize) -> Result<Self, ImageError> {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let inverse = 1.0 / stretch;
        let mut spans = Vec::with_capacity(output);
        let mut values = Vec::new();
        let mut exact: Vec<f64> = Vec::new();
        for x in 0..output {
            let centre = (x as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            exact.clear();
            let mut sum = 0.0;
            for j in 0..end.saturating_sub(first) {
                let weight = cubic(((j + first) as f64 - centre + 0.5) * inverse);
                exact.push(weight);
                sum += weight;
            }
            let from = values.len();
            let mut abs = 0;
            for &weight in &exact {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                let scaled = weight * f64::from(1u32 << FRACTION);
                let fixed = if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 } as i32;
                abs += i64::from(fixed).abs();
                values.push(fixed);
            }
            if abs > MAX_ABS {
                let problem = format!("to {output} has weights that are too large");
                return Err(ImageError::Size { width: input, height: 1, problem });
            }
            spans.push(Span { first, from, to: values.len() });
        }
        Ok(Self { spans, values })
    }
}

/// The cubic convolution kernel with a = -0.5 (R. Keys, 1981), in Pillow's order of operations.
fn cubic(t: f64) -> f64 {
    const A: f64 = -0.5;
    let t = t.abs();
    if t < 1.0 {
        ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0
    } else if t < 2.0 {
        (((t - 5.0) * t + 8.0) * t - 4.0) * A
    } else {
        0.0
    }
}

/// A finished sum as a pixel.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#[inline]
fn pixel(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// Changes the length of the rows.
fn horizontal(image: &Rgb8, weights: &Weights) -> Result<Rgb8, ImageError> {
    let (width, height) = (weights.spans.len(), image.height);
    let mut data = zeroed(width, height, byte_len(width, height)?)?;
    data.par_chunks_mut(3 * width * ROWS_PER_TASK)
        .zip(image.data.par_chunks(3 * image.width * ROWS_PER_TASK))
        .for_each(|(to, from)| {
            for (to, from) in to.chunks_exact_mut(3 * width).zip(from.chunks_exact(3 * image.width)) {
                horizontal_row(to, from, weights);
            }
        });
    Ok(Rgb8 { width, height, data })
}

fn horizontal_row(to: &mut [u8], from: &[u8], weights: &Weights) {
    for (out, span) in to.chunks_exact_mut(3).zip(&weights.spans) {
        let values = &weights.values[span.from..span.to];
        let pixels = &from[3 * span.first..3 * (span.first + values.len())];
        let (mut r, mut g, mut b) = (HALF, HALF, HALF);
        for (p, &w) in pixels.chunks_exact(3).zip(values) {
            r += i32::from(p[0]) * w;
            g += i32::from(p[1]) * w;
            b += i32::from(p[2]) * w;
        }
        out[0] = pixel(r);
        out[1] = pixel(g);
        out[2] = pixel(b);
    }
}

/// Changes the number of rows.
fn vertical(image: &Rgb8, weights: &Weights) -> Result<Rgb8, ImageError> {
    let (width, height) = (image.width, weights.spans.len());
    let mut data = zeroed(width, height, byte_len(width, height)?)?;
    let stride = 3 * width;
    data.par_chunks_mut(stride).zip(&weights.spans).with_min_len(ROWS_PER_TASK).for_each_init(
        || vec![0i32; stride],
        |sums, (to, span)| {
            sums.fill(HALF);
            let rows = image.data[stride * span.first..].chunks_exact(stride);
            for (row, &w) in rows.zip(&weights.values[span.from..span.to]) {
                for (sum, &p) in sums.iter_mut().zip(row) {
                    *sum += i32::from(p) * w;
                }
            }
            for (out, &sum) in to.iter_mut().zip(sums.iter()) {
                *out = pixel(sum);
            }
        },
    );
    Ok(Rgb8 { width, height, data })
}
