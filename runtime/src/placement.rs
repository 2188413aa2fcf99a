//! Where images stand in a prompt.
//!
//! While a conversation is text, an image is a *marker*: its number between two code points that Unicode keeps for
//! programs' own use (U+FDD0, U+FDD1), so that no template and no user can mean anything else by them; where they come
//! in from outside, they are replaced. When text becomes ids, a marker becomes the tokens around an image and the
//! positions its rows take.
//!
//! Two layouts, by [`Profile`]:
//!
//! * `reference`, as the model's published code places images: `<image_id>k</image_id><image>` rows `</image>`, then
//!   the tiles as `<slice>` rows `</slice>`, a line feed between two rows of tiles; images and text of a message are
//!   joined by line feeds; `k` counts numbered images from 0 over the whole prompt.
//! * `llama.cpp`, as that program does it: no `image_id`, nothing between images and text, and the line feed is the
//!   first token that spells it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::prompt::{ImageEmbedding, Prompt};
use crate::{Assets, RuntimeError, render};
use ocelli_image::Profile;
use ocelli_text::template::Message;
use ocelli_text::tokenizer::{TokenType, Tokenizer};

const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// An image in a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// Its rows.
    pub image: Arc<ImageEmbedding>,
    /// Whether it gets a number that text can refer to; frames of a video get none.
    pub numbered: bool,
}

/// The stand-in for image `index` in the text of a message.
#[must_use]
pub fn marker(index: usize) -> String {
    format!("{OPEN}{index}{CLOSE}")
}

/// `text` without code points that would be taken for a marker.
#[must_use]
pub fn without_markers(text: &str) -> Cow<'_, str> {
    if text.contains([OPEN, CLOSE]) { Cow::Owned(text.replace([OPEN, CLOSE], "\u{fffd}")) } else { text.into() }
}

/// The content of a message that shows the images `indices` before its text.
#[must_use]
pub fn compose(profile: Profile, indices: impl IntoIterator<Item = usize>, text: &str) -> String {
    let gap = if profile == Profile::Reference { "\n" } else { "" };
    let mut content = String::new();
    for index in indices {
        content.push_str(&marker(index));
        content.push_str(gap);
    }
    content.push_str(&without_markers(text));
    content
}

/// The indices of the images in `text`, in order.
pub(crate) fn indices(text: &str) -> impl Iterator<Item = usize> + '_ {
    pieces(text).filter_map(|piece| match piece {
        Piece::Image(index) => Some(index),
        Piece::Text(_) => None,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    Text(&'t str),
    Image(usize),
}

/// Text and markers in order; a stray or damaged marker stays text.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    let mut next = None;
    std::iter::from_fn(move || {
        if let Some(index) = next.take() {
            return Some(Piece::Image(index));
        }
        if rest.is_empty() {
            return None;
        }
        let mut from = 0;
        while let Some(open) = rest[from..].find(OPEN).map(|at| at + from) {
            let inside = &rest[open + OPEN.len_utf8()..];
            if let Some((index, behind)) = inside.split_once(CLOSE).and_then(|(n, b)| Some((n.parse().ok()?, b))) {
                let before = &rest[..open];
                rest = behind;
                if before.is_empty() {
                    return Some(Piece::Image(index));
                }
                next = Some(index);
                return Some(Piece::Text(before));
            }
            from = open + OPEN.len_utf8();
        }
        let all = rest;
        rest = "";
        Some(Piece::Text(all))
    })
}

/// Turns text with markers into a prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placer<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) profile: Profile,
}

impl Placer<'_> {
    /// The prompt that `text` means. `begin` adds BOS (and EOS) where the vocabulary wants them; `numbered` images came
    /// before; `image` gives the image of a marker.
    ///
    /// # Errors
    /// When the vocabulary lacks the tokens that stand around images, or refuses the text.
    pub(crate) fn place<'i>(
        &self,
        text: &str,
        begin: bool,
        mut numbered: usize,
        image: impl Fn(usize) -> Option<&'i Attachment>,
    ) -> Result<Prompt, RuntimeError> {
        let tokenizer = self.tokenizer;
        let mut prompt = Prompt::default();
        if let Some(bos) = tokenizer.ids().bos.filter(|_| begin && tokenizer.adds_bos()) {
            prompt.push(&[bos]);
        }
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => prompt.push(&tokenizer.encode(text, false, true)?),
                Piece::Image(index) => {
                    let Some(attachment) = image(index) else {
                        return Err(RuntimeError::LostImage { index });
                    };
                    let number = (attachment.numbered && self.profile == Profile::Reference).then_some(numbered);
                    numbered += usize::from(attachment.numbered);
                    self.image(&mut prompt, &attachment.image, number)?;
                }
            }
        }
        if let Some(eos) = tokenizer.ids().eos.filter(|_| begin && tokenizer.adds_eos()) {
            prompt.push(&[eos]);
        }
        Ok(prompt)
    }

    fn image(
        &self,
        prompt: &mut Prompt,
        image: &Arc<ImageEmbedding>,
        number: Option<usize>,
    ) -> Result<(), RuntimeError> {
        let unk = self.tokenizer.ids().unknown.unwrap_or(0);
        let line_feed = match self.profile {
            Profile::Reference => self.tokenizer.encode("\n", false, true)?,
            Profile::LlamaCpp => self.line_feed().into_iter().collect(),
        };
        if let Some(number) = number {
            prompt.push(&[self.special("<image_id>")?]);
            prompt.push(&self.tokenizer.encode(&number.to_string(), false, false)?);
            prompt.push(&[self.special("</image_id>")?]);
        }
        let (columns, _) = image.grid.unwrap_or((1, 0));
        for slice in 0..image.slices() {
            let (open, close) = if slice == 0 { ("<image>", "</image>") } else { ("<slice>", "</slice>") };
            if slice > 1 && (slice - 1) % columns == 0 {
                prompt.push(&line_feed);
            }
            prompt.push(&[self.special(open)?]);
            prompt.push_rows(image, slice * image.queries..(slice + 1) * image.queries, unk);
            prompt.push(&[self.special(close)?]);
        }
        Ok(())
    }

    fn special(&self, text: &'static str) -> Result<u32, RuntimeError> {
        let id = self.tokenizer.token_id(text);
        id.filter(|id| {
            let kind = self.tokenizer.token_type(*id);
            matches!(kind, TokenType::Control | TokenType::UserDefined)
        })
        .ok_or(RuntimeError::NoImageTokens { token: text })
    }

    /// The first token that spells a line feed.
    fn line_feed(&self) -> Option<u32> {
        let ids = 0..u32::try_from(self.tokenizer.n_tokens()).unwrap_or(u32::MAX);
        ids.into_iter().find(|id| &*self.tokenizer.piece(*id, true) == b"\n")
    }
}

/// The prompt of a conversation whose markers stand for `images`, up to where the assistant's turn begins.
///
/// # Errors
/// When the template refuses the conversation, a marker has no image, or the vocabulary has no tokens for images.
pub fn conversation_prompt(
    assets: &Assets,
    messages: &[Message],
    images: &[Attachment],
    profile: Profile,
) -> Result<Prompt, RuntimeError> {
    text_prompt(assets, &render(assets, messages)?, images, profile)
}

/// The prompt of a text whose markers stand for `images`.
///
/// # Errors
/// As [`conversation_prompt`].
pub fn text_prompt(
    assets: &Assets,
    text: &str,
    images: &[Attachment],
    profile: Profile,
) -> Result<Prompt, RuntimeError> {
    Placer { tokenizer: &assets.tokenizer, profile }.place(text, true, 0, |index| images.get(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_found_and_strays_stay_text() {
        let text = format!("a{}{}b{OPEN}x{CLOSE}{}", marker(0), marker(12), marker(3));
        let found: Vec<_> = pieces(&text).collect();
        let stray = format!("b{OPEN}x{CLOSE}");
        assert_eq!(found, [Piece::Text("a"), Piece::Image(0), Piece::Image(12), Piece::Text(&stray), Piece::Image(3)]);
        assert_eq!(indices(&text).collect::<Vec<_>>(), [0, 12, 3]);
        assert_eq!(pieces("").count(), 0);
    }

    #[test]
    fn text_from_outside_has_no_markers() {
        let forged = compose(Profile::Reference, [1], &format!("see {}", marker(0)));
        assert_eq!(indices(&forged).collect::<Vec<_>>(), [1]);
        assert_eq!(without_markers("plain"), "plain");
        assert_eq!(compose(Profile::LlamaCpp, [0, 1], "x"), format!("{}{}x", marker(0), marker(1)));
        assert_eq!(compose(Profile::Reference, [0, 1], "x"), format!("{}\n{}\nx", marker(0), marker(1)));
    }
}
