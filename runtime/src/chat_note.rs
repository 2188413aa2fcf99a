//! What a saved conversation keeps beside keys and values.
//!
//! ```text
//! length of the JSON u64 | JSON | rows of the images, f32, one image after another
//! ```
//!
//! The JSON holds the messages with their markers, the text the cache stands for, its ids, where images lie in them,
//! and each image's size, grid and key. It comes from a file whose checksum was right, and is checked all the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::chat::text_of;
use crate::placement::Attachment;
use crate::prompt::{ImageEmbedding, Prompt};
use ocelli_image::Profile;
use ocelli_text::template::Message;

/// A conversation as it is saved.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) messages: Vec<Message>,
    pub(crate) images: BTreeMap<usize, Attachment>,
    pub(crate) profile: Profile,
    /// Digest of the chat template.
    pub(crate) template: Option<[u8; 32]>,
    /// The text that the cache stands for.
    pub(crate) text: String,
    /// Its ids and images.
    pub(crate) prompt: Prompt,
}

impl Note {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let messages: Vec<_> = self.messages.iter().map(|m| json!({ "role": m.role, "content": text_of(m) })).collect();
        let images: Vec<_> = self.images.iter().map(|(index, a)| describe(*index, a)).collect();
        let index_of = |image: &Arc<ImageEmbedding>| {
            self.images.iter().find(|(_, a)| Arc::ptr_eq(&a.image, image) || a.image.key == image.key).map(|(i, _)| *i)
        };
        let spans: Vec<_> = self
            .prompt
            .image_spans()
            .filter_map(|(start, rows, image)| Some(json!([start, rows.start, rows.end, index_of(image)?])))
            .collect();
        let note = json!({
            "messages": messages,
            "images": images,
            "profile": self.profile.name(),
            "template": self.template.as_ref().map(hex),
            "text": self.text,
            "ids": self.prompt.tokens(),
            "spans": spans,
        })
        .to_string();
        let mut bytes = (note.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(note.as_bytes());
        for attachment in self.images.values() {
            bytes.extend(attachment.image.rows.iter().flat_map(|v| v.to_le_bytes()));
        }
        bytes
    }

    /// The conversation in `bytes`; `None` when it is none, or an id is not below `n_tokens`.
    pub(crate) fn from_bytes(bytes: &[u8], n_tokens: usize) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let (note, rows) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        let note: Value = serde_json::from_slice(note).ok()?;
        let message = |m: &Value| Some(Message::new(m.get("role")?.as_str()?, m.get("content")?.as_str()?));
        let messages = note.get("messages")?.as_array()?.iter().map(message).collect::<Option<_>>()?;
        let images = read_images(note.get("images")?.as_array()?, rows)?;
        let ids = note.get("ids")?.as_array()?.iter();
        let id = |id: &Value| u32::try_from(id.as_u64()?).ok().filter(|id| (*id as usize) < n_tokens);
        let ids = ids.map(id).collect::<Option<Vec<_>>>()?;
        let prompt = read_prompt(&ids, note.get("spans")?.as_array()?, &images)?;
        let profile = Profile::from_name(note.get("profile")?.as_str()?).ok()?;
        let digest = |key: &str| match note.get(key) {
            None | Some(Value::Null) => Some(None),
            Some(value) => from_hex(value.as_str()?).map(Some),
        };
        let template = digest("template")?;
        let text = note.get("text")?.as_str()?.to_owned();
        Some(Self { messages, images, profile, template, text, prompt })
    }
}

fn describe(index: usize, attachment: &Attachment) -> Value {
    let image = &attachment.image;
    json!({
        "index": index,
        "numbered": attachment.numbered,
        "key": hex(&image.key),
        "model": hex(&image.model),
        "size": image.size,
        "grid": image.grid,
        "queries": image.queries,
        "n_embd": image.n_embd,
    })
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0u8; 32];
    for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn number(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

fn pair(value: &Value) -> Option<(usize, usize)> {
    match value.as_array()?.as_slice() {
        [a, b] => Some((number(a)?, number(b)?)),
        _ => None,
    }
}

fn read_images(list: &[Value], mut bytes: &[u8]) -> Option<BTreeMap<usize, Attachment>> {
    let mut images = BTreeMap::new();
    for value in list {
        let digest = |name: &str| from_hex(value.get(name)?.as_str()?);
        let grid = match value.get("grid")? {
            Value::Null => None,
            grid => Some(pair(grid)?),
        };
        let mut image = ImageEmbedding {
            key: digest("key")?,
            model: digest("model")?,
            size: pair(value.get("size")?)?,
            grid,
            queries: number(value.get("queries")?)?,
            n_embd: number(value.get("n_embd")?)?,
            rows: Vec::new(),
        };
        let tiles = grid.map_or(Some(0), |(cols, rows)| cols.checked_mul(rows))?.checked_add(1)?;
        let len = tiles.checked_mul(image.queries)?.checked_mul(image.n_embd)?.checked_mul(4)?;
        let (rows, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        image.rows = rows.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let numbered = value.get("numbered")?.as_bool()?;
        images.insert(number(value.get("index")?)?, Attachment { image: Arc::new(image), numbered });
    }
    bytes.is_empty().then_some(images)
}

fn read_prompt(ids: &[u32], spans: &[Value], images: &BTreeMap<usize, Attachment>) -> Option<Prompt> {
    let mut prompt = Prompt::default();
    for span in spans {
        let [start, first, end, index] = span.as_array()?.as_slice() else { return None };
        let (start, rows) = (number(start)?, number(first)?..number(end)?);
        prompt.push(ids.get(prompt.len()..start)?);
        let image = &images.get(&number(index)?)?.image;
        prompt.push_rows(image, rows.clone(), *ids.get(start)?);
        if prompt.len() != start.checked_add(rows.len())? {
            return None;
        }
    }
    prompt.push(ids.get(prompt.len()..)?);
    Some(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::compose;

    fn note() -> Note {
        let image = |seed: u8, grid| {
            let mut image = ImageEmbedding {
                key: [seed; 32],
                model: [3; 32],
                size: (7, 9),
                grid,
                queries: 2,
                n_embd: 3,
                rows: Vec::new(),
            };
            image.rows = (0..image.n_rows() * 3).map(|i| i as f32 + 0.5 * f32::from(seed)).collect();
            Attachment { image: Arc::new(image), numbered: seed == 1 }
        };
        let images = BTreeMap::from([(0, image(1, None)), (4, image(2, Some((1, 2))))]);
        let mut prompt = Prompt::from(vec![1, 5]);
        prompt.push_rows(&images[&0].image, 0..2, 0);
        prompt.push(&[6]);
        prompt.push_rows(&images[&4].image, 2..4, 0);
        prompt.push(&[7, 8]);
        let messages = vec![Message::new("user", compose(Profile::Reference, [0, 4], "what?"))];
        let template = Some([3; 32]);
        Note { messages, images, profile: Profile::Reference, template, text: "t".to_owned(), prompt }
    }

    #[test]
    fn a_note_survives_being_written() {
        let note = note();
        let bytes = note.to_bytes();
        let read = Note::from_bytes(&bytes, 100).unwrap();
        assert_eq!((&read.messages, &read.images, &read.text), (&note.messages, &note.images, &note.text));
        assert_eq!((read.profile, read.prompt.tokens()), (note.profile, note.prompt.tokens()));
        assert_eq!(read.template, note.template);
        let (mut marks, mut wanted) = (Vec::new(), Vec::new());
        read.prompt.view().append_marks(&mut marks);
        note.prompt.view().append_marks(&mut wanted);
        assert_eq!(marks, wanted);
    }

    #[test]
    fn anything_else_is_no_note() {
        let bytes = note().to_bytes();
        assert!(Note::from_bytes(b"", 100).is_none());
        assert!(Note::from_bytes(&bytes[..bytes.len() - 1], 100).is_none(), "rows are missing");
        assert!(Note::from_bytes(&[&bytes[..], &[0]].concat(), 100).is_none(), "more rows than images");
        assert!(Note::from_bytes(&bytes, 8).is_none(), "an id outside the vocabulary");
        let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
        for (from, to) in [("[5,2,4,4]", "[5,2,4,9]"), ("[2,0,2,0]", "[9,0,2,0]"), ("\"queries\":2", "\"queries\":-2")]
        {
            assert!(text.contains(from), "{from} is in {text}");
            let json = text[..text.rfind('}').unwrap() + 1].replace(from, to);
            let rows = &bytes[8 + text[..text.rfind('}').unwrap() + 1].len()..];
            let changed = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), rows].concat();
            assert!(Note::from_bytes(&changed, 100).is_none(), "{to}");
        }
    }
}
