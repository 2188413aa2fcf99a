//! How a picture becomes an overview and tiles: sizes and grid first ([`plan`]), then the pixels ([`slice`]).
//!
//! Two sets of rules exist for this model, and both are here:
//!
//! | | `reference` | `llama.cpp` |
//! |---|---|---|
//! | source | `image_processing_minicpmv.py` of the published model | `tools/mtmd/mtmd-image.cpp` at commit 0c1e570 |
//! | arithmetic | f64, `round` half to even | f32, `round` half away from zero |
//! | tiles when | the area exceeds S² | a side exceeds S |
//! | no tiles | keeps the aspect ratio, area about S² | squashed to S x S |
//! | tiled picture | stretched to the size of the grid | aspect ratio kept, centred on black |
//!
//! S is [`SliceOptions::scale_resolution`]. Every slice has sides that are multiples of [`SliceOptions::patch_size`].

use super::resize::{PassOrder, resize};
use super::{ImageError, MAX_SIDE, Rgb8};

/// The largest [`SliceOptions::max_slice_nums`]: 64 tiles are 4,160 image tokens with the model's 64 queries.
pub const MAX_SLICE_NUMS: usize = 64;

/// The largest [`SliceOptions::scale_resolution`].
const MAX_SCALE_RESOLUTION: usize = 4096;

/// Tiles that llama.cpp cuts at most; it has no option for it.
const LLAMA_CPP_SLICE_NUMS: usize = 9;

/// Whose rules to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// Those of the published model's own code.
    #[default]
    Reference,
    /// Those of llama.cpp's multimodal tools.
    LlamaCpp,
}

impl Profile {
    /// The names that [`Profile::from_name`] takes.
    pub const NAMES: [&'static str; 2] = ["reference", "llama.cpp"];

    /// The profile of that name, one of [`Profile::NAMES`].
    ///
    /// # Errors
    /// [`ImageError::Option`] for another name.
    pub fn from_name(name: &str) -> Result<Self, ImageError> {
        match name {
            "reference" => Ok(Self::Reference),
            "llama.cpp" => Ok(Self::LlamaCpp),
            _ => Err(ImageError::Option {
                option: "image profile",
                problem: format!("`{}` is none; use {}", name.escape_debug(), Self::NAMES.join(" or ")),
            }),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How to slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SliceOptions {
    /// Whose rules.
    pub profile: Profile,
    /// Tiles at most, 1 to [`MAX_SLICE_NUMS`]; 1 means the overview only. llama.cpp's rules know no other number than
    /// 9 and do not look at this one.
    pub max_slice_nums: usize,
    /// Side S of the square whose area a slice has about: `clip.vision.image_size`, 448 for the model.
    pub scale_resolution: usize,
    /// Side of a patch, which divides the sides of every slice: `clip.vision.patch_size`, 14 for the model.
    pub patch_size: usize,
    /// Which version of Pillow to be equal to under the reference rules; llama.cpp has one order only.
    pub pass_order: PassOrder,
}

impl Default for SliceOptions {
    fn default() -> Self {
        Self {
            profile: Profile::Reference,
            max_slice_nums: 9,
            scale_resolution: 448,
            patch_size: 14,
            pass_order: PassOrder::default(),
        }
    }
}

impl SliceOptions {
    fn check(&self) -> Result<(), ImageError> {
        let bad = |option, value: usize, max: usize| ImageError::Option {
            option,
            problem: format!("{value} is not possible; use 1 to {max}"),
        };
        if !(1..=MAX_SLICE_NUMS).contains(&self.max_slice_nums) {
            return Err(bad("max_slice_nums", self.max_slice_nums, MAX_SLICE_NUMS));
        }
        if !(1..=MAX_SCALE_RESOLUTION).contains(&self.scale_resolution) {
            return Err(bad("scale_resolution", self.scale_resolution, MAX_SCALE_RESOLUTION));
        }
        if !(1..=self.scale_resolution).contains(&self.patch_size) {
            return Err(bad("patch_size", self.patch_size, self.scale_resolution));
        }
        Ok(())
    }
}

/// Where the source's pixels go in the picture that the tiles are cut from; the rest of it is black.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
}

/// Sizes of the slices of a picture, without the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Width and height of the overview (of the only slice when there is no grid).
    pub overview: (usize, usize),
    /// The tiles, if there are any.
    pub tiles: Option<Tiles>,
}

/// The tiled part of a [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Columns and rows.
    pub grid: (usize, usize),
    /// Width and height of one tile.
    pub tile: (usize, usize),
    /// The source within the tiles laid together.
    pub content: Content,
}

impl Plan {
    /// Columns and rows of the grid, if there is one.
    #[must_use]
    pub fn grid(&self) -> Option<(usize, usize)> {
        self.tiles.map(|t| t.grid)
    }

    /// Number of slices: the overview and the tiles.
    #[must_use]
    pub fn slices(&self) -> usize {
        1 + self.tiles.map_or(0, |t| t.grid.0 * t.grid.1)
    }
}

/// A sliced picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sliced {
    /// The overview, then the tiles row by row.
    pub slices: Vec<Rgb8>,
    /// Columns and rows of the tiles, if there are any.
    pub grid: Option<(usize, usize)>,
}

/// Sizes and grid for a picture of `width` x `height` pixels.
///
/// # Errors
/// [`ImageError::Option`] for impossible options, [`ImageError::Size`] when a side is 0 or above
/// [`MAX_SIDE`](super::MAX_SIDE), in the picture or in what it would become.
pub fn plan(width: usize, height: usize, options: &SliceOptions) -> Result<Plan, ImageError> {
    options.check()?;
    super::byte_len(width, height)?;
    let plan = match options.profile {
        Profile::Reference => reference::plan(width, height, options),
        Profile::LlamaCpp => llama_cpp::plan(width, height, options),
    };
    let whole = plan.tiles.map_or((1, 1), |t| (t.grid.0 * t.tile.0, t.grid.1 * t.tile.1));
    if [plan.overview.0, plan.overview.1, whole.0, whole.1].iter().any(|&side| side > MAX_SIDE) {
        let problem = "would become one that is too long; crop it".to_owned();
        return Err(ImageError::Size { width, height, problem });
    }
    Ok(plan)
}

/// Resizes and cuts `image` as [`plan`] says.
///
/// # Errors
/// Those of [`plan`], and [`ImageError::NoMemory`].
pub fn slice(image: &Rgb8, options: &SliceOptions) -> Result<Sliced, ImageError> {
    let plan = plan(image.width, image.height, options)?;
    let order = match options.profile {
        Profile::Reference => options.pass_order,
        Profile::LlamaCpp => PassOrder::HorizontalFirst,
    };
    let mut slices = Vec::with_capacity(plan.slices());
    slices.push(resize(image, plan.overview.0, plan.overview.1, order)?);
    if let Some(Tiles { grid: (cols, rows), tile: (width, height), content }) = plan.tiles {
        let mut whole = resize(image, content.width, content.height, order)?;
        if (content.width, content.height) != (cols * width, rows * height) {
            let mut canvas = Rgb8::black(cols * width, rows * height)?;
            canvas.paste(&whole, content.x, content.y);
            whole = canvas;
        }
        for row in 0..rows {
            for col in 0..cols {
                slices.push(whole.crop(col * width, row * height, width, height)?);
            }
        }
    }
    Ok(Sliced { slices, grid: plan.grid() })
}

/// Grids (columns, rows) for `multiple` tiles or one more or less, at most `max`, in the order in which both programs
/// try them.
fn grids(multiple: usize, max: usize) -> impl Iterator<Item = (usize, usize)> {
    [multiple.saturating_sub(1), multiple, multiple + 1]
        .into_iter()
        .filter(move |&n| n != 1 && n <= max)
        .flat_map(|n| (1..=n).filter(move |cols| n % cols == 0).map(move |cols| (cols, n / cols)))
}

/// The rules of the published model, in Python's arithmetic.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
mod reference {
    use super::{Content, Plan, SliceOptions, Tiles, grids};

    pub(super) fn plan(width: usize, height: usize, options: &SliceOptions) -> Plan {
        let (w, h) = (width as f64, height as f64);
        let Some((cols, rows)) = grid(w, h, options) else {
            return Plan { overview: best_resize(w, h, true, options), tiles: None };
        };
        let cell = |len: f64, parts: usize| ensure_divide(len, parts) as f64 / parts as f64;
        let tile = best_resize(cell(w, cols), cell(h, rows), true, options);
        let content = Content { width: tile.0 * cols, height: tile.1 * rows, x: 0, y: 0 };
        let tiles = Tiles { grid: (cols, rows), tile, content };
        Plan { overview: best_resize(w, h, false, options), tiles: Some(tiles) }
    }

    fn ensure_divide(len: f64, divisor: usize) -> usize {
        ((len / divisor as f64).round_ties_even() as usize * divisor).max(divisor)
    }

    fn best_resize(w: f64, h: f64, upscale: bool, options: &SliceOptions) -> (usize, usize) {
        let side = options.scale_resolution as f64;
        let (mut w, mut h) = (w, h);
        if w * h > side * side || upscale {
            let ratio = w / h;
            h = (side / ratio.sqrt()).trunc();
            w = (h * ratio).trunc();
        }
        (ensure_divide(w, options.patch_size), ensure_divide(h, options.patch_size))
    }

    fn grid(w: f64, h: f64, options: &SliceOptions) -> Option<(usize, usize)> {
        let side = options.scale_resolution as f64;
        let multiple = ((w * h / (side * side)).ceil() as usize).min(options.max_slice_nums);
        if multiple <= 1 {
            return None;
        }
        let aim = (w / h).ln();
        let mut best = ((1, 1), f64::INFINITY);
        for (cols, rows) in grids(multiple, options.max_slice_nums) {
            let error = (aim - (cols as f64 / rows as f64).ln()).abs();
            if error < best.1 {
                best = ((cols, rows), error);
            }
        }
        Some(best.0)
    }
}

/// The rules of llama.cpp, in its arithmetic.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
mod llama_cpp {
    use super::{Content, LLAMA_CPP_SLICE_NUMS, Plan, SliceOptions, Tiles, grids};

    pub(super) fn plan(width: usize, height: usize, options: &SliceOptions) -> Plan {
        let side = options.scale_resolution;
        if width <= side && height <= side {
            return Plan { overview: (side, side), tiles: None };
        }
        let (cols, rows) = grid(width, height, side);
        let (cell_w, cell_h) = (ensure_divide(width, cols) / cols, ensure_divide(height, rows) / rows);
        let tile = best_resize(cell_w, cell_h, true, options);
        let content = letter_box((width, height), (tile.0 * cols, tile.1 * rows));
        let tiles = Tiles { grid: (cols, rows), tile, content };
        Plan { overview: best_resize(width, height, false, options), tiles: Some(tiles) }
    }

    fn ensure_divide(len: usize, divisor: usize) -> usize {
        (((len as f32 / divisor as f32).round() * divisor as f32) as usize).max(divisor)
    }

    fn best_resize(width: usize, height: usize, upscale: bool, options: &SliceOptions) -> (usize, usize) {
        let side = options.scale_resolution;
        let (mut w, mut h) = (width, height);
        if w * h > side * side || upscale {
            let ratio = w as f32 / h as f32;
            h = (side as f32 / ratio.sqrt()) as usize;
            w = (h as f32 * ratio) as usize;
        }
        (ensure_divide(w, options.patch_size), ensure_divide(h, options.patch_size))
    }

    fn grid(width: usize, height: usize, side: usize) -> (usize, usize) {
        let aim = f64::from(width as f32 / height as f32).ln() as f32;
        let area = width as f32 * height as f32 / (side * side) as f32;
        let multiple = (area.ceil() as usize).min(LLAMA_CPP_SLICE_NUMS);
        let mut best = ((1, 1), f32::INFINITY);
        for (cols, rows) in grids(multiple, LLAMA_CPP_SLICE_NUMS) {
            let error = (f64::from(aim) - (cols as f64 / rows as f64).ln()).abs() as f32;
            if error < best.1 {
                best = ((cols, rows), error);
            }
        }
        best.0
    }

    /// The largest picture of the source's aspect ratio inside `target`, in its middle.
    fn letter_box(source: (usize, usize), target: (usize, usize)) -> Content {
        let scale = (target.0 as f32 / source.0 as f32).min(target.1 as f32 / source.1 as f32);
        let fit = |len: usize, max: usize| ((len as f32 * scale).ceil() as usize).clamp(1, max);
        let (width, height) =
            if source == target { target } else { (fit(source.0, target.0), fit(source.1, target.1)) };
        Content { width, height, x: (target.0 - width) / 2, y: (target.1 - height) / 2 }
    }
}
