//! What a model computes, written down for comparison with another implementation.
//!
//! The file is safetensors:
//!
//! | name | type | shape | what |
//! |---|---|---|---|
//! | `ids` | I32 | prompt tokens | the whole prompt |
//! | `logits` | F32 | steps × vocabulary | the last position's, before each step |
//! | `tokens` | I32 | steps | the greedy tokens |
//! | `layers.<i>` | F32 | prompt tokens × embedding | the residual stream after layer i (from 0) |
//! | `slices.<k>.pixels` | U8 | height × width × 3 | slice k of all pictures, in prompt order |
//! | `slices.<k>.grid` | I32 | 2 | its rows and columns of patches |
//! | `slices.<k>.vit` | F32 | patches × width of the tower | the tower's result after its last norm |
//! | `slices.<k>.emb` | F32 | queries × embedding | the rows the text model takes |

use ocelli_files::Output;
use safetensors::tensor::{Dtype, TensorView};

use crate::layers::LayerProbe;
use crate::media::{MediaProbe, Shown};
use crate::vision::VisionProbe;
use crate::{Context, Prompt, RuntimeError};
use ocelli_image::Rgb8;

/// Results of a probe.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probe {
    /// The prompt.
    pub ids: Vec<u32>,
    /// One row of logits per step.
    pub logits: Vec<f32>,
    /// The greedy token of each step.
    pub tokens: Vec<u32>,
    /// The residual stream after each layer, when asked for.
    pub layers: Vec<Vec<f32>>,
    /// What the slices of the prompt's pictures went through.
    pub slices: Stages,
    n_vocab: usize,
    n_embd: usize,
}

impl LayerProbe for Vec<Vec<f32>> {
    fn layer(&mut self, il: usize, _first: usize, rows: &[f32]) {
        if self.len() <= il {
            self.resize_with(il + 1, Vec::new);
        }
        self[il].extend_from_slice(rows);
    }
}

/// Stages of the slices of all pictures, in prompt order. Collects them as a [`MediaProbe`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stages {
    pixels: Vec<Rgb8>,
    towers: Vec<Tower>,
    /// Rows of one slice each.
    rows: Vec<Vec<f32>>,
    queries: usize,
}

/// The tower's result for one slice.
#[derive(Debug, Clone, Default, PartialEq)]
struct Tower {
    grid: (usize, usize),
    rows: Vec<f32>,
}

impl MediaProbe for Stages {
    fn slice(&mut self, pixels: &Rgb8) {
        self.pixels.push(pixels.clone());
    }
}

impl VisionProbe for Stages {
    fn vit(&mut self, slice: usize, patch_rows: usize, patch_cols: usize, rows: &[f32]) {
        if self.towers.len() <= slice {
            self.towers.resize_with(slice + 1, Tower::default);
        }
        self.towers[slice] = Tower { grid: (patch_rows, patch_cols), rows: rows.to_vec() };
    }
}

impl Stages {
    /// Takes the pictures' rows over, in prompt order.
    pub fn finish(&mut self, shown: &[Shown]) {
        for image in shown.iter().map(|s| &s.image) {
            self.queries = image.queries;
            let len = (image.queries * image.n_embd).max(1);
            self.rows.extend(image.rows.chunks_exact(len).map(<[f32]>::to_vec));
        }
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        for (k, pixels) in self.pixels.iter().enumerate() {
            let shape = vec![pixels.height(), pixels.width(), 3];
            parts.push((format!("slices.{k}.pixels"), Dtype::U8, shape, pixels.data().to_vec()));
        }
        for (k, tower) in self.towers.iter().enumerate() {
            let (rows, cols) = tower.grid;
            let grid = [rows as i32, cols as i32].iter().flat_map(|n| n.to_le_bytes()).collect();
            parts.push((format!("slices.{k}.grid"), Dtype::I32, vec![2], grid));
            let patches = rows * cols;
            let shape = vec![patches, tower.rows.len() / patches.max(1)];
            parts.push((format!("slices.{k}.vit"), Dtype::F32, shape, f32_bytes(&tower.rows)));
        }
        for (k, rows) in self.rows.iter().enumerate() {
            let shape = vec![self.queries, rows.len() / self.queries.max(1)];
            parts.push((format!("slices.{k}.emb"), Dtype::F32, shape, f32_bytes(rows)));
        }
        parts
    }
}

/// Name, type, shape and bytes of one tensor of the file.
type Part = (String, Dtype, Vec<usize>, Vec<u8>);

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Index of the first largest value; 0 for none.
#[must_use]
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] || values[best].is_nan() {
            best = i;
        }
    }
    best
}

impl Probe {
    /// Runs `prompt`, whose pictures went through `slices`, and `steps` greedy steps in a fresh sequence.
    ///
    /// # Errors
    /// When the prompt is empty, holds a token outside the vocabulary, or does not fit the context with its steps.
    pub fn run(
        context: &mut Context,
        prompt: &Prompt,
        slices: Stages,
        steps: usize,
        layers: bool,
    ) -> Result<Self, RuntimeError> {
        if prompt.is_empty() {
            return Err(RuntimeError::Option {
                option: "-p/--prompt",
                problem: "gives no tokens; say something".to_owned(),
            });
        }
        let wanted = prompt.len().saturating_add(steps.saturating_sub(1));
        if wanted > context.n_ctx() {
            return Err(RuntimeError::ContextFull { wanted, n_ctx: context.n_ctx(), shift: true });
        }
        let config = context.model().config();
        let mut probe = Self {
            ids: prompt.tokens().to_vec(),
            slices,
            n_vocab: config.n_vocab,
            n_embd: config.n_embd,
            ..Self::default()
        };
        let mut seq = context.new_sequence();
        let mut done = if layers {
            context.decode_probed(&mut seq, prompt, &mut probe.layers)
        } else {
            context.decode(&mut seq, prompt)
        };
        for step in 0..steps {
            let Ok(()) = done else { break };
            let logits = context.logits().unwrap_or_default();
            let token = u32::try_from(argmax(logits)).unwrap_or(0);
            probe.logits.extend_from_slice(logits);
            probe.tokens.push(token);
            if step + 1 < steps {
                done = context.decode(&mut seq, &[token]);
            }
        }
        context.clear(&mut seq);
        done.map(|()| probe)
    }

    /// Writes the results to `output`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, mut output: Output) -> Result<(), RuntimeError> {
        let bytes = self
            .serialize()
            .map_err(|e| RuntimeError::Write { path: output.path().to_owned(), source: std::io::Error::other(e) })?;
        output.put(&bytes)?;
        Ok(output.commit()?)
    }

    fn serialize(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let i32s = |ids: &[u32]| -> Vec<u8> { ids.iter().flat_map(|id| id.to_le_bytes()).collect() };
        let steps = self.tokens.len();
        let mut parts: Vec<Part> = vec![
            ("ids".to_owned(), Dtype::I32, vec![self.ids.len()], i32s(&self.ids)),
            ("logits".to_owned(), Dtype::F32, vec![steps, self.n_vocab], f32_bytes(&self.logits)),
            ("tokens".to_owned(), Dtype::I32, vec![steps], i32s(&self.tokens)),
        ];
        for (i, layer) in self.layers.iter().enumerate() {
            parts.push((format!("layers.{i}"), Dtype::F32, vec![self.ids.len(), self.n_embd], f32_bytes(layer)));
        }
        parts.extend(self.slices.parts());
        let views = parts
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        safetensors::serialize(views, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_largest() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, 0.0]), 1);
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn files_are_safetensors() {
        let probe = Probe {
            ids: vec![1, 2],
            logits: vec![0.5, 1.5, 2.5],
            tokens: vec![2],
            layers: vec![vec![1.0; 4]],
            slices: Stages::default(),
            n_vocab: 3,
            n_embd: 2,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probe.safetensors");
        let options = ocelli_files::WriteOptions::new(ocelli_files::Inputs::none(), ocelli_files::Replace::Never);
        probe.write(Output::create(&path, &options).unwrap()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("ids").unwrap().shape(), [2]);
        assert_eq!(file.tensor("logits").unwrap().shape(), [1, 3]);
        assert_eq!(file.tensor("layers.0").unwrap().shape(), [2, 2]);
        assert_eq!(file.tensor("tokens").unwrap().data(), 2u32.to_le_bytes());
    }
}
