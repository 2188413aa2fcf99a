//! Pictures: encoding, and the time to the first token of an answer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ocelli_kernels::Precision;
use ocelli_kernels::measure::Work;

use super::text::batch_work;
use super::{Measured, Repeat, repeated};
use crate::prompt::{ImageEmbedding, Prompt};
use crate::vision::{VisionEncoder, VisionModel};
use crate::{Context, RuntimeError, Sequence};
use ocelli_image::{Rgb8, SliceOptions, slice};

/// Tokens of the question behind a picture.
const QUESTION: usize = 24;

/// A picture to take times with.
#[derive(Debug, Clone)]
pub struct Picture {
    pixels: Rgb8,
    options: SliceOptions,
    slices: Vec<Rgb8>,
    grid: Option<(usize, usize)>,
}

impl Picture {
    /// A made-up square picture of `side` pixels, cut as the published model's rules for `model` say.
    ///
    /// # Errors
    /// When a picture of that size cannot be taken in.
    pub fn square(model: &VisionModel, side: usize) -> Result<Self, RuntimeError> {
        let mut pixels = Rgb8::black(side, side)?.into_data();
        for (i, value) in pixels.iter_mut().enumerate() {
            let (x, y, colour) = (i / 3 % side, i / 3 / side, i % 3);
            // Slopes, edges and a little noise. A byte by construction.
            *value = ((x * (3 + colour) / 5) ^ (y * (2 + colour) / 3) ^ (i.wrapping_mul(2_654_435_761) >> 29)) as u8;
        }
        let config = model.config();
        let options = SliceOptions {
            scale_resolution: config.image_size,
            patch_size: config.patch_size,
            ..SliceOptions::default()
        };
        let pixels = Rgb8::new(side, side, pixels)?;
        let cut = slice(&pixels, &options)?;
        Ok(Self { pixels, options, slices: cut.slices, grid: cut.grid })
    }

    /// Its slices.
    #[must_use]
    pub fn slices(&self) -> usize {
        self.slices.len()
    }

    /// Positions that the picture and the question take.
    #[must_use]
    pub fn positions(&self, model: &VisionModel) -> usize {
        self.slices.len() * model.config().query_num + QUESTION
    }
}

/// Times encoding all slices of `picture`; `pause` is called before each run that counts.
///
/// # Errors
/// When the picture cannot be encoded, or `interrupt` is set.
pub fn encode(
    encoder: &mut VisionEncoder,
    picture: &Picture,
    repeat: Repeat,
    pause: &mut dyn FnMut(),
    interrupt: &AtomicBool,
) -> Result<Measured, RuntimeError> {
    let slices: Vec<&Rgb8> = picture.slices.iter().collect();
    repeated(
        encoder,
        repeat,
        pause,
        |_| Ok(()),
        |encoder| encoder.encode(&slices, None, &mut |_, _| {}, interrupt).map(drop),
        |encoder, on| {
            let times = encoder.join_times();
            encoder.measure_joins(on);
            times
        },
    )
}

struct State<'s> {
    encoder: &'s mut VisionEncoder,
    context: &'s mut Context,
    seq: Sequence,
}

/// Times the way from a decoded picture and a question of 24 tokens to the id of the answer's first token: cutting,
/// encoding, one pass of the text model. `pause` is called before each run that counts.
///
/// # Errors
/// When picture and question do not fit the context, the files do not fit each other, or `interrupt` is set.
pub fn first_token(
    encoder: &mut VisionEncoder,
    context: &mut Context,
    picture: &Picture,
    repeat: Repeat,
    pause: &mut dyn FnMut(),
    interrupt: &AtomicBool,
) -> Result<Measured, RuntimeError> {
    let seq = context.new_sequence();
    let mut state = State { encoder, context, seq };
    repeated(
        &mut state,
        repeat,
        pause,
        |s| {
            s.seq.clear();
            Ok(())
        },
        |s| {
            let cut = slice(&picture.pixels, &picture.options)?;
            let slices: Vec<&Rgb8> = cut.slices.iter().collect();
            let rows = s.encoder.encode(&slices, None, &mut |_, _| {}, interrupt)?;
            let prompt = question(s.encoder.model(), picture, rows);
            s.context.decode(&mut s.seq, &prompt)?;
            let best = s.context.logits().and_then(|l| l.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)));
            std::hint::black_box(best);
            Ok(())
        },
        |s, on| {
            let mut times = s.context.join_times();
            // What both have in common must not count twice.
            if !Arc::ptr_eq(s.context.exec(), s.encoder.exec()) {
                times = times.and(s.encoder.join_times());
                s.encoder.measure_joins(on);
            }
            s.context.measure_joins(on);
            times
        },
    )
}

/// Rows of the picture, then the question.
fn question(model: &VisionModel, picture: &Picture, rows: Vec<f32>) -> Prompt {
    let config = model.config();
    let image = ImageEmbedding {
        key: [0; 32],
        model: [0; 32],
        size: (picture.pixels.width(), picture.pixels.height()),
        grid: picture.grid,
        queries: config.query_num,
        n_embd: config.projection_dim,
        rows,
    };
    let mut prompt = Prompt::default();
    let n = image.n_rows();
    prompt.push_rows(&Arc::new(image), 0..n, 0);
    let ids: Vec<u32> = (1..=QUESTION).filter_map(|i| u32::try_from(i).ok()).collect();
    prompt.push(&ids);
    prompt
}

/// What encoding `picture` needs of the machine at least, and, with a context, its prompt with the question.
///
/// # Errors
/// When the cache's formats do not fit the heads.
pub fn vision_work(
    encoder: &VisionEncoder,
    picture: &Picture,
    context: Option<&Context>,
) -> Result<Work, RuntimeError> {
    let model = encoder.model();
    let size = model.config().patch_size;
    let mut work = Work::default();
    for pixels in &picture.slices {
        let patches = pixels.width() / size * (pixels.height() / size);
        work += model.work(patches, (encoder.precision() == Precision::Fast).then(|| encoder.kernels()));
    }
    if let Some(context) = context {
        work += batch_work(context, 0, picture.positions(model), 1)?;
    }
    Ok(work)
}
