//! A prompt: token ids, with rows of embedded images at some positions.
//!
//! ```text
//! tokens   1  42  100  0  0  0  0  101  42 …      an id at every position, <unk> where an image row stands
//! marks    0   0    0  m₀ m₁ m₂ m₃   0   0 …      zero for a token; for an image row a digest of image and row
//! spans             [start, rows, embedding]      where rows come from
//! ```
//!
//! Two positions are the same exactly when id and mark are the same, so that a cache of keys and values can be compared
//! with a prompt without keeping any image.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// An image turned into rows for the text model.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageEmbedding {
    /// Digest of the picture and of everything that decided its rows.
    pub key: [u8; 32],
    /// Identity of the vision model that made the rows.
    pub model: [u8; 32],
    /// Size of the picture in pixels.
    pub size: (usize, usize),
    /// Columns and rows of the tiles that follow the overview; `None` when there is no tile.
    pub grid: Option<(usize, usize)>,
    /// Rows that one slice became.
    pub queries: usize,
    /// Values of one row.
    pub n_embd: usize,
    /// `slices · queries · n_embd` values: overview first, then the tiles row by row.
    pub rows: Vec<f32>,
}

impl ImageEmbedding {
    /// Slices: the overview and the tiles.
    #[must_use]
    pub fn slices(&self) -> usize {
        1 + self.grid.map_or(0, |(cols, rows)| cols * rows)
    }

    /// Rows in all.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.slices() * self.queries
    }

    /// The mark of one row: never zero.
    fn mark(&self, row: usize) -> u64 {
        // Two independent words of the digest keep rows of one image, and equal rows of two images, apart.
        let word = |at: usize| self.key[at..at + 8].iter().fold(0u64, |acc, b| acc << 8 | u64::from(*b));
        (word(0) ^ (row as u64 + 1).wrapping_mul(word(8) | 1)) | 1 << 63
    }
}

/// An image in a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// Its rows.
    pub image: Arc<ImageEmbedding>,
    /// Whether it gets a number that text can refer to; frames of a video get none.
    pub numbered: bool,
}

/// Rows of one image at consecutive positions.
#[derive(Debug, Clone)]
struct Span {
    start: usize,
    rows: Range<usize>,
    image: Arc<ImageEmbedding>,
}

/// Token ids, with rows of embedded images at some positions.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    tokens: Vec<u32>,
    marks: Vec<u64>,
    spans: Vec<Span>,
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self { marks: vec![0; tokens.len()], tokens, spans: Vec::new() }
    }
}

impl Prompt {
    /// Positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no position at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The id at every position; at image rows the one they were added with.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The ids of all positions that hold no image row.
    pub fn text_tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.tokens.iter().zip(&self.marks).filter(|(_, mark)| **mark == 0).map(|(token, _)| *token)
    }

    /// Positions that hold image rows.
    #[must_use]
    pub fn image_rows(&self) -> usize {
        self.spans.iter().map(|s| s.rows.len()).sum()
    }

    /// First position, rows and image of every run of image rows.
    pub fn image_spans(&self) -> impl Iterator<Item = (usize, Range<usize>, &Arc<ImageEmbedding>)> {
        self.spans.iter().map(|s| (s.start, s.rows.clone(), &s.image))
    }

    /// Makes room for `n` more positions, so that adding them allocates nothing.
    pub fn reserve(&mut self, n: usize) {
        self.tokens.reserve(n);
        self.marks.reserve(n);
    }

    /// Appends tokens.
    pub fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.marks.resize(self.tokens.len(), 0);
    }

    /// Appends `rows` of `image`, with `placeholder` as their id. Rows that the image does not have are left out.
    pub fn push_rows(&mut self, image: &Arc<ImageEmbedding>, rows: Range<usize>, placeholder: u32) {
        let rows = rows.start.min(image.n_rows())..rows.end.min(image.n_rows());
        let start = self.tokens.len();
        self.tokens.resize(start + rows.len(), placeholder);
        self.marks.extend(rows.clone().map(|row| image.mark(row)));
        self.spans.push(Span { start, rows, image: Arc::clone(image) });
    }

    /// Appends all of `other`.
    pub fn append(&mut self, other: &Self) {
        let shift = self.tokens.len();
        self.tokens.extend_from_slice(&other.tokens);
        self.marks.extend_from_slice(&other.marks);
        self.spans.extend(other.spans.iter().map(|s| Span { start: s.start + shift, ..s.clone() }));
    }

    /// The whole prompt, borrowed.
    #[must_use]
    pub fn view(&self) -> PromptView<'_> {
        PromptView { tokens: &self.tokens, marks: &self.marks, spans: &self.spans, offset: 0 }
    }
}

/// A borrowed piece of a prompt.
#[derive(Debug, Clone, Copy)]
pub struct PromptView<'a> {
    tokens: &'a [u32],
    /// Empty where there is no image anywhere.
    marks: &'a [u64],
    spans: &'a [Span],
    /// Position of the first token in the prompt that the spans count from.
    offset: usize,
}

impl<'a> From<&'a [u32]> for PromptView<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Self { tokens, marks: &[], spans: &[], offset: 0 }
    }
}

impl<'a> From<&'a Vec<u32>> for PromptView<'a> {
    fn from(tokens: &'a Vec<u32>) -> Self {
        tokens.as_slice().into()
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for PromptView<'a> {
    fn from(tokens: &'a [u32; N]) -> Self {
        tokens.as_slice().into()
    }
}

impl<'a> From<&'a Prompt> for PromptView<'a> {
    fn from(prompt: &'a Prompt) -> Self {
        prompt.view()
    }
}

impl<'a> PromptView<'a> {
    /// Positions that are known by ids and marks alone; rows of images cannot be computed from them.
    pub(crate) fn marked(tokens: &'a [u32], marks: &'a [u64]) -> Self {
        Self { tokens, marks, spans: &[], offset: 0 }
    }

    /// The ids.
    #[must_use]
    pub fn tokens(self) -> &'a [u32] {
        self.tokens
    }

    /// Positions.
    #[must_use]
    pub fn len(self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no position at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.tokens.is_empty()
    }

    /// The mark at `i`.
    fn mark(self, i: usize) -> u64 {
        self.marks.get(i).copied().unwrap_or(0)
    }

    /// Appends the marks to `marks`.
    pub fn append_marks(self, marks: &mut Vec<u64>) {
        let len = marks.len() + self.len();
        marks.extend_from_slice(self.marks);
        marks.resize(len, 0);
    }

    /// How many positions from the start on are the same as `tokens` with `marks`.
    #[must_use]
    pub fn same_as(self, tokens: &[u32], marks: &[u64]) -> usize {
        let held = tokens.iter().zip(marks);
        let own = self.tokens.iter().enumerate();
        own.zip(held).take_while(|((i, token), (t, m))| token == t && self.mark(*i) == **m).count()
    }

    /// The positions `range`.
    ///
    /// # Panics
    /// When it does not lie inside.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Self {
        let marks = if self.marks.is_empty() { self.marks } else { &self.marks[range.clone()] };
        Self { tokens: &self.tokens[range.clone()], marks, offset: self.offset + range.start, ..self }
    }

    /// The marks of all positions.
    pub(crate) fn all_marks(self) -> Cow<'a, [u64]> {
        if self.marks.is_empty() { vec![0; self.len()].into() } else { self.marks.into() }
    }

    /// Where in this piece image rows stand, which, and of which image.
    pub(crate) fn overlays(self) -> impl Iterator<Item = (usize, Range<usize>, &'a Arc<ImageEmbedding>)> {
        let (from, to) = (self.offset, self.offset + self.len());
        self.spans.iter().filter_map(move |span| {
            let (start, end) = (span.start.max(from), (span.start + span.rows.len()).min(to));
            let row = span.rows.start + start.saturating_sub(span.start);
            (start < end).then(|| (start - from, row..row + (end - start), &span.image))
        })
    }

    /// Width of the image rows, if there is one that differs from `n_embd`.
    pub(crate) fn foreign_width(self, n_embd: usize) -> Option<usize> {
        self.spans.iter().map(|s| s.image.n_embd).find(|n| *n != n_embd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(seed: u8, grid: Option<(usize, usize)>) -> Arc<ImageEmbedding> {
        let mut image = ImageEmbedding {
            key: [seed; 32],
            model: [0; 32],
            size: (10, 10),
            grid,
            queries: 2,
            n_embd: 3,
            rows: Vec::new(),
        };
        image.rows = (0..image.n_rows() * 3).map(|i| f32::from(seed) + i as f32).collect();
        Arc::new(image)
    }

    #[test]
    fn rows_land_where_they_were_put() {
        let picture = image(10, Some((1, 2)));
        let mut prompt = Prompt::from(vec![5, 6]);
        prompt.push_rows(&picture, 0..2, 0);
        prompt.push(&[7]);
        prompt.push_rows(&picture, 2..6, 0);
        assert_eq!(prompt.tokens(), [5, 6, 0, 0, 7, 0, 0, 0, 0]);
        let overlays = |view: PromptView<'_>| view.overlays().map(|(at, rows, _)| (at, rows)).collect::<Vec<_>>();
        assert_eq!(overlays(prompt.view()), [(2, 0..2), (5, 2..6)]);
        // A cut through both pieces.
        assert_eq!(overlays(prompt.view().part(3..7)), [(0, 1..2), (2, 2..4)]);
        assert_eq!(overlays(prompt.view().part(0..2)), []);
    }

    #[test]
    fn only_equal_images_are_the_same() {
        let with = |picture: &Arc<ImageEmbedding>| {
            let mut prompt = Prompt::from(vec![1]);
            prompt.push_rows(picture, 0..2, 0);
            prompt.push(&[9]);
            prompt
        };
        let (a, b) = (with(&image(1, None)), with(&image(2, None)));
        let mut marks = Vec::new();
        a.view().append_marks(&mut marks);
        assert_eq!(a.view().same_as(a.tokens(), &marks), 4);
        assert_eq!(b.view().same_as(a.tokens(), &marks), 1, "ids are equal, images are not");
        assert_eq!(PromptView::from(a.tokens()).same_as(a.tokens(), &marks), 1, "an id is no image row");
        let rows: Vec<_> = marks[1..3].to_vec();
        assert!(rows[0] != rows[1] && rows.iter().all(|m| *m != 0));
    }

    #[test]
    fn appending_moves_images_along() {
        let picture = image(3, None);
        let mut tail = Prompt::default();
        tail.push_rows(&picture, 0..2, 0);
        let mut whole = Prompt::from(vec![1, 2]);
        whole.append(&tail);
        assert_eq!(whole.view().overlays().map(|(at, rows, _)| (at, rows)).collect::<Vec<_>>(), [(2, 0..2)]);
        assert_eq!(whole.image_rows(), 2);
        assert_eq!(whole.view().foreign_width(3), None);
        assert_eq!(whole.view().foreign_width(4), Some(3));
    }
}
