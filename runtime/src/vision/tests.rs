//! Small made-up vision models against the mathematics written out in f64.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ocelli_gguf::{GgufWriter, MetaValue, TensorType};
use ocelli_kernels::{Kernels, Precision};
use ocelli_quant::GgmlType;

use super::*;
use crate::{Exec, FileOptions};
use ocelli_image::Rgb8;

mod refusals;
mod steps;

/// Sizes of a made-up model: heads of 18 values, a feed-forward that fits no block.
const PATCH: usize = 2;
const EMBD: usize = 36;
const HEADS: usize = 2;
const FF: usize = 56;
const LAYERS: usize = 2;
const GRID: usize = 5;
const QUERIES: usize = 3;
const DIM: usize = 128;

/// A tensor: shape, innermost first, and values.
type Tensor = (Vec<u64>, Vec<f32>);

/// Everything in a file, to be altered before it is written.
#[derive(Clone)]
struct Tiny {
    keys: BTreeMap<&'static str, MetaValue>,
    tensors: BTreeMap<String, Tensor>,
    /// Format of all matrices.
    ty: GgmlType,
}

struct Rng(u64);

impl Rng {
    /// Uniform in −1…1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * scale).collect()
    }
}

impl Tiny {
    fn new() -> Self {
        let mut tiny = Self { keys: BTreeMap::new(), tensors: BTreeMap::new(), ty: GgmlType::F32 };
        tiny.keys.insert("general.architecture", "clip".into());
        tiny.keys.insert("clip.has_vision_encoder", true.into());
        tiny.keys.insert("clip.projector_type", "resampler".into());
        tiny.keys.insert("clip.minicpmv_version", 5i32.into());
        tiny.keys.insert("clip.minicpmv_query_num", (QUERIES as u32).into());
        tiny.keys.insert("clip.use_gelu", true.into());
        for (key, value) in [
            ("clip.vision.image_size", 8),
            ("clip.vision.patch_size", PATCH),
            ("clip.vision.embedding_length", EMBD),
            ("clip.vision.feed_forward_length", FF),
            ("clip.vision.attention.head_count", HEADS),
            ("clip.vision.block_count", LAYERS),
        ] {
            tiny.keys.insert(key, (value as u32).into());
        }
        let mut rng = Rng(11);
        tiny.add(&mut rng, "v.patch_embd.weight", &[PATCH, PATCH, 3, EMBD], 0.3);
        tiny.add(&mut rng, "v.patch_embd.bias", &[EMBD], 0.1);
        tiny.add(&mut rng, "v.position_embd.weight", &[EMBD, GRID * GRID], 0.5);
        for il in 0..LAYERS {
            let name = |part: &str| format!("v.blk.{il}.{part}");
            for part in ["attn_q", "attn_k", "attn_v", "attn_out"] {
                tiny.linear(&mut rng, &name(part), EMBD, EMBD, true);
            }
            tiny.linear(&mut rng, &name("ffn_down"), FF, EMBD, true);
            tiny.linear(&mut rng, &name("ffn_up"), EMBD, FF, true);
            tiny.norm(&mut rng, &name("ln1"), EMBD);
            tiny.norm(&mut rng, &name("ln2"), EMBD);
        }
        tiny.norm(&mut rng, "v.post_ln", EMBD);
        tiny.add(&mut rng, "resampler.query", &[DIM, QUERIES], 1.0);
        tiny.add(&mut rng, "resampler.pos_embed_k", &[DIM, GRID * GRID], 1.0);
        tiny.linear(&mut rng, "resampler.kv", DIM, EMBD, false);
        tiny.linear(&mut rng, "resampler.proj", DIM, DIM, false);
        for part in ["q", "k", "v", "out"] {
            tiny.linear(&mut rng, &format!("resampler.attn.{part}"), DIM, DIM, true);
        }
        for part in ["q", "kv", "post"] {
            tiny.norm(&mut rng, &format!("resampler.ln_{part}"), DIM);
        }
        tiny
    }

    fn add(&mut self, rng: &mut Rng, name: &str, dims: &[usize], scale: f32) {
        let values = rng.values(dims.iter().product(), scale);
        self.tensors.insert(name.to_owned(), (dims.iter().map(|d| *d as u64).collect(), values));
    }

    fn linear(&mut self, rng: &mut Rng, name: &str, rows: usize, cols: usize, bias: bool) {
        self.add(rng, &format!("{name}.weight"), &[cols, rows], 1.7 / (cols as f32).sqrt());
        if bias {
            self.add(rng, &format!("{name}.bias"), &[rows], 0.2);
        }
    }

    fn norm(&mut self, rng: &mut Rng, name: &str, width: usize) {
        self.add(rng, &format!("{name}.weight"), &[width], 0.3);
        self.add(rng, &format!("{name}.bias"), &[width], 0.2);
        for value in &mut self.tensors.get_mut(&format!("{name}.weight")).unwrap().1 {
            *value += 1.0;
        }
    }

    /// Whether a tensor takes the matrices' format.
    fn is_matrix(name: &str, dims: &[u64]) -> bool {
        dims.len() > 1 && name.ends_with(".weight")
    }

    fn write(&self) -> (tempfile::TempDir, PathBuf) {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.keys {
            writer.kv(*key, value.clone()).unwrap();
        }
        let ty = |name: &str, dims: &[u64]| {
            let fits = dims[0].is_multiple_of(self.ty.block_len() as u64);
            if Self::is_matrix(name, dims) && fits { self.ty } else { GgmlType::F32 }
        };
        for (name, (dims, _)) in &self.tensors {
            writer.tensor(name.as_str(), dims, TensorType::from(ty(name, dims))).unwrap();
        }
        let mut sink = writer.start(Vec::new()).unwrap();
        for (name, (dims, values)) in &self.tensors {
            let ty = ty(name, dims);
            let mut bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            if ty != GgmlType::F32 {
                bytes.resize(ty.row_bytes(values.len()).unwrap(), 0);
                ty.quantize_row(values, None, &mut bytes).unwrap();
            }
            sink.write_tensor(name, &bytes).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mmproj-tiny.gguf");
        std::fs::write(&path, sink.finish().unwrap()).unwrap();
        (dir, path)
    }

    fn load(&self) -> Result<VisionModel, RuntimeError> {
        let (_dir, path) = self.write();
        VisionModel::load(&path, FileOptions { mmap: false, ..FileOptions::default() })
    }

    fn encoder(&self, precision: Precision, n_threads: usize) -> VisionEncoder {
        self.encoder_by(Kernels::best(), precision, n_threads)
    }

    fn encoder_by(&self, kernels: Kernels, precision: Precision, n_threads: usize) -> VisionEncoder {
        let options = VisionOptions { n_threads, precision, ..Default::default() };
        let exec = Arc::new(Exec::new(kernels, n_threads));
        VisionEncoder::new(Arc::new(self.load().unwrap()), exec, &options).unwrap()
    }

    /// Multiplies column `column` of a matrix by `factor`, or element `column` of a vector.
    fn scale(&mut self, name: &str, column: usize, factor: f32) {
        let (dims, values) = self.tensors.get_mut(name).unwrap();
        let width = dims[0] as usize;
        values.iter_mut().skip(column).step_by(width).for_each(|v| *v *= factor);
    }

    /// The same function with large values inside, as trained towers have them: channels whose norm has a large gain
    /// and whose columns are small, and the other way round.
    fn with_outliers() -> Self {
        let mut tiny = Self::new();
        let behind = |ln: &str| if ln == "ln1" { &["attn_q", "attn_k", "attn_v"][..] } else { &["ffn_down"][..] };
        for il in 0..LAYERS {
            for (ln, channel, factor) in [("ln1", 5, 50.0), ("ln2", 17, 40.0), ("ln1", 30, 0.02), ("ln2", 9, 0.03)] {
                tiny.scale(&format!("v.blk.{il}.{ln}.weight"), channel, factor);
                tiny.scale(&format!("v.blk.{il}.{ln}.bias"), channel, factor);
                for part in behind(ln) {
                    tiny.scale(&format!("v.blk.{il}.{part}.weight"), channel, 1.0 / factor);
                }
            }
        }
        tiny
    }

    fn get(&self, name: &str) -> Vec<f64> {
        self.tensors[name].1.iter().map(|v| f64::from(*v)).collect()
    }
}

/// The mathematics, in f64 and in the plainest order.
impl Tiny {
    /// Rows times a matrix, plus a bias where the file has one.
    fn multiply(&self, x: &[Vec<f64>], name: &str) -> Vec<Vec<f64>> {
        let w = self.get(&format!("{name}.weight"));
        let rows = w.len() / x[0].len();
        let bias = self
            .tensors
            .get(&format!("{name}.bias"))
            .map_or(vec![0.0; rows], |(_, b)| b.iter().map(|v| f64::from(*v)).collect());
        let dot = |row: &[f64], r: usize| row.iter().zip(&w[r * row.len()..]).map(|(a, b)| a * b).sum::<f64>();
        x.iter().map(|row| (0..rows).map(|r| dot(row, r) + bias[r]).collect()).collect()
    }

    fn normed(&self, x: &[Vec<f64>], name: &str) -> Vec<Vec<f64>> {
        let (w, b) = (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        let row = |x: &Vec<f64>| {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (variance + 1e-6).sqrt();
            x.iter().zip(&w).zip(&b).map(|((v, w), b)| (v - mean) * scale * w + b).collect()
        };
        x.iter().map(row).collect()
    }

    fn attend(q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>], heads: usize) -> Vec<Vec<f64>> {
        let head_dim = q[0].len() / heads;
        q.iter()
            .map(|q| {
                (0..heads)
                    .flat_map(|h| {
                        let part = h * head_dim..(h + 1) * head_dim;
                        let score = |k: &Vec<f64>| -> f64 {
                            let dot = q[part.clone()].iter().zip(&k[part.clone()]).map(|(a, b)| a * b).sum::<f64>();
                            (dot / (head_dim as f64).sqrt()).exp()
                        };
                        let weights: Vec<f64> = k.iter().map(score).collect();
                        let total: f64 = weights.iter().sum();
                        part.map(move |i| weights.iter().zip(v).map(|(w, v)| w * v[i]).sum::<f64>() / total)
                    })
                    .collect()
            })
            .collect()
    }

    fn plus(x: &mut [Vec<f64>], y: &[Vec<f64>]) {
        for (x, y) in x.iter_mut().zip(y) {
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
    }

    /// The tower's result and the embeddings.
    fn reference(&self, pixels: &Rgb8) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let (rows, cols) = (pixels.height() / PATCH, pixels.width() / PATCH);
        let places: Vec<(usize, usize)> = (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))).collect();
        let value = |colour: usize, y: usize, x: usize| {
            f64::from(pixels.data()[(y * pixels.width() + x) * 3 + colour]) / 255.0 * 2.0 - 1.0
        };
        let patch = |(r, c): &(usize, usize)| -> Vec<f64> {
            let inside =
                (0..3).flat_map(|colour| (0..PATCH).flat_map(move |y| (0..PATCH).map(move |x| (colour, y, x))));
            inside.map(|(colour, y, x)| value(colour, r * PATCH + y, c * PATCH + x)).collect()
        };
        let patches: Vec<Vec<f64>> = places.iter().map(patch).collect();
        let mut x = self.multiply(&patches, "v.patch_embd");
        let positions = self.get("v.position_embd.weight");
        let at = |n: usize| Positions::Reference.buckets(n, GRID).unwrap();
        let (row_buckets, col_buckets) = (at(rows), at(cols));
        for (x, (r, c)) in x.iter_mut().zip(&places) {
            let id = row_buckets[*r] * GRID + col_buckets[*c];
            x.iter_mut().zip(&positions[id * EMBD..]).for_each(|(x, p)| *x += p);
        }
        for il in 0..LAYERS {
            let name = |part: &str| format!("v.blk.{il}.{part}");
            let h = self.normed(&x, &name("ln1"));
            let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(|part| self.multiply(&h, &name(part)));
            Self::plus(&mut x, &self.multiply(&Self::attend(&q, &k, &v, HEADS), &name("attn_out")));
            let mut ff = self.multiply(&self.normed(&x, &name("ln2")), &name("ffn_down"));
            for v in ff.iter_mut().flatten() {
                *v *= 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (*v + 0.044715 * v.powi(3))).tanh());
            }
            Self::plus(&mut x, &self.multiply(&ff, &name("ffn_up")));
        }
        let tower = self.normed(&x, "v.post_ln");
        let kv = self.normed(&self.multiply(&tower, "resampler.kv"), "resampler.ln_kv");
        let query: Vec<Vec<f64>> = self.get("resampler.query").chunks(DIM).map(<[f64]>::to_vec).collect();
        let q = self.multiply(&self.normed(&query, "resampler.ln_q"), "resampler.attn.q");
        let mut placed = kv.clone();
        for (row, (r, c)) in placed.iter_mut().zip(&places) {
            for k in 0..DIM / 4 {
                let omega = 1e4f64.powf(-(k as f64) / (DIM / 4) as f64);
                for (half, at) in [(0, *c as f64), (DIM / 2, *r as f64)] {
                    row[half + k] += (at * omega).sin();
                    row[half + DIM / 4 + k] += (at * omega).cos();
                }
            }
        }
        let (k, v) = (self.multiply(&placed, "resampler.attn.k"), self.multiply(&kv, "resampler.attn.v"));
        let out = self.multiply(&Self::attend(&q, &k, &v, DIM / 128), "resampler.attn.out");
        let emb = self.multiply(&self.normed(&out, "resampler.ln_post"), "resampler.proj");
        (tower, emb)
    }
}

/// A picture of noise, `rows` × `cols` patches.
fn picture(rows: usize, cols: usize) -> Rgb8 {
    let mut rng = Rng((rows * 100 + cols) as u64);
    let data = (0..rows * cols * PATCH * PATCH * 3).map(|_| ((rng.next() + 1.0) * 127.5) as u8).collect();
    Rgb8::new(cols * PATCH, rows * PATCH, data).unwrap()
}

fn pictures() -> Vec<Rgb8> {
    [(4, 4), (1, 1), (2, 7), (1, 9), (6, 3), (25, 1), (1, 1)].map(|(r, c)| picture(r, c)).into()
}

fn encode(encoder: &mut VisionEncoder, pictures: &[Rgb8]) -> Vec<f32> {
    let slices: Vec<&Rgb8> = pictures.iter().collect();
    encoder.encode(&slices, None, &mut |_, _| {}, &AtomicBool::new(false)).unwrap()
}

/// What a probe was shown.
#[derive(Default)]
struct Shown(Vec<(usize, usize, usize, Vec<f32>)>);

impl VisionProbe for Shown {
    fn vit(&mut self, slice: usize, patch_rows: usize, patch_cols: usize, rows: &[f32]) {
        self.0.push((slice, patch_rows, patch_cols, rows.to_vec()));
    }
}

fn largest_difference(got: &[f32], want: &[Vec<f64>]) -> f64 {
    let want: Vec<f64> = want.iter().flatten().copied().collect();
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f64, |m, v| m.max(v.abs()));
    got.iter().zip(&want).fold(0f64, |m, (g, w)| m.max((f64::from(*g) - w).abs())) / largest
}

#[test]
fn exact_is_the_mathematics() {
    let tiny = Tiny::new();
    let mut encoder = tiny.encoder(Precision::Exact, 2);
    let pictures = pictures();
    let slices: Vec<&Rgb8> = pictures.iter().collect();
    let mut shown = Shown::default();
    let out = encoder.encode(&slices, Some(&mut shown), &mut |_, _| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!(shown.0.len(), pictures.len());
    for (i, ((picture, out), vit)) in pictures.iter().zip(out.chunks(QUERIES * DIM)).zip(&shown.0).enumerate() {
        let (tower, emb) = tiny.reference(picture);
        assert_eq!((vit.0, vit.1, vit.2), (i, picture.height() / PATCH, picture.width() / PATCH));
        assert!(largest_difference(&vit.3, &tower) < 3e-6, "tower of slice {i}");
        assert!(largest_difference(out, &emb) < 3e-6, "embeddings of slice {i}");
    }
}

#[test]
fn slices_do_not_depend_on_batches_or_threads() {
    let (plain, outliers) = (Tiny::new(), Tiny::with_outliers());
    // More slices than a batch takes.
    let pictures: Vec<Rgb8> = pictures().into_iter().cycle().take(40).collect();
    for (tiny, precision) in [(&plain, Precision::Exact), (&plain, Precision::Fast), (&outliers, Precision::Fast)] {
        for kernels in Kernels::available() {
            let together = encode(&mut tiny.encoder_by(kernels, precision, 3), &pictures);
            let mut alone = tiny.encoder_by(kernels, precision, 1);
            let apart: Vec<f32> = pictures.iter().flat_map(|p| encode(&mut alone, std::slice::from_ref(p))).collect();
            assert!(together == apart, "{} {precision:?}", kernels.name());
        }
    }
}

#[test]
fn large_slices_are_split_into_batches() {
    let tiny = Tiny::new();
    let pictures: Vec<Rgb8> = [(30, 30), (20, 20), (40, 40), (1, 1)].map(|(r, c)| picture(r, c)).into();
    let slices: Vec<&Rgb8> = pictures.iter().collect();
    let mut encoder = tiny.encoder(Precision::Exact, 2);
    let mut steps = Vec::new();
    let out = encoder.encode(&slices, None, &mut |d, n| steps.push((d, n)), &AtomicBool::new(false)).unwrap();
    // 900 patches, 400 that no longer fit, 1600 that fit no batch, 1: each on its own.
    let per_slice = LAYERS + 1;
    let want: Vec<_> = (0..=4 * per_slice).map(|d| (d, 4 * per_slice)).collect();
    assert_eq!(steps, want);
    let (_, emb) = tiny.reference(&pictures[1]);
    assert!(largest_difference(&out[QUERIES * DIM..2 * QUERIES * DIM], &emb) < 3e-6);
    assert!(encode(&mut encoder, &[]).is_empty());
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn fast_stays_close_to_exact() {
    let pictures = pictures();
    let tiny = Tiny::new();
    let exact = encode(&mut tiny.encoder(Precision::Exact, 1), &pictures);
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0] {
        for kernels in Kernels::available() {
            let fast = encode(&mut Tiny { ty, ..tiny.clone() }.encoder_by(kernels, Precision::Fast, 2), &pictures);
            assert!(fast != exact);
            // Fixed-point numbers are as precise as F16 itself.
            let bytes = kernels.fast_bytes() || ty == GgmlType::Q8_0;
            let least = if bytes || ty == GgmlType::BF16 { 0.999 } else { 0.999_999 };
            for (i, (a, b)) in exact.chunks(DIM).zip(fast.chunks(DIM)).enumerate() {
                let cosine = cosine(a, b);
                assert!(cosine > least, "{} {} row {i}: {cosine}", kernels.name(), ty.name());
            }
        }
    }
}

#[test]
fn outliers_do_not_spoil_the_fast_mode() {
    let pictures = pictures();
    let tiny = Tiny::with_outliers();
    let exact = encode(&mut tiny.encoder(Precision::Exact, 1), &pictures);
    // The factors cancel.
    let plain = encode(&mut Tiny::new().encoder(Precision::Exact, 1), &pictures);
    assert!(exact.chunks(DIM).zip(plain.chunks(DIM)).all(|(a, b)| cosine(a, b) > 0.999_999));
    for kernels in Kernels::available() {
        let fast = encode(&mut tiny.encoder_by(kernels, Precision::Fast, 2), &pictures);
        for (i, (a, b)) in exact.chunks(DIM).zip(fast.chunks(DIM)).enumerate() {
            let cosine = cosine(a, b);
            assert!(cosine > 0.999, "{} row {i}: {cosine}", kernels.name());
        }
    }
}

#[test]
fn formats_are_read_as_their_values() {
    let pictures = pictures();
    for ty in [GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0, GgmlType::Q4_0] {
        let stored = Tiny { ty, ..Tiny::new() };
        // The same values, as f32.
        let mut expanded = stored.clone();
        expanded.ty = GgmlType::F32;
        for (name, (dims, values)) in &mut expanded.tensors {
            if Tiny::is_matrix(name, dims) && dims[0].is_multiple_of(ty.block_len() as u64) {
                let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap()];
                ty.quantize_row(values, None, &mut bytes).unwrap();
                ty.dequantize_row(&bytes, values).unwrap();
            }
        }
        let got = encode(&mut stored.encoder(Precision::Exact, 1), &pictures);
        // Products of few rows, like those of the queries, sum up in an order that depends on the format.
        let want = encode(&mut expanded.encoder(Precision::Exact, 1), &pictures);
        let want: Vec<Vec<f64>> = want.chunks(DIM).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect();
        assert!(largest_difference(&got, &want) < 3e-6, "{}", ty.name());
    }
}

#[test]
fn both_spellings_of_the_feed_forward_and_old_keys_are_read() {
    let swapped = Tiny::new();
    let mut plain = swapped.clone();
    plain.tensors = swapped
        .tensors
        .iter()
        .map(|(name, tensor)| {
            let name = match (name.contains("ffn_down"), name.contains("ffn_up")) {
                (true, _) => name.replace("ffn_down", "ffn_up"),
                (_, true) => name.replace("ffn_up", "ffn_down"),
                _ => name.clone(),
            };
            (name, tensor.clone())
        })
        .collect();
    plain.keys.remove("clip.projector_type");
    plain.keys.insert("clip.has_minicpmv_projector", true.into());
    plain.keys.insert("clip.minicpmv_query_num", 0u32.into());
    plain.tensors.remove("resampler.pos_embed_k");
    let picture = [picture(3, 4)];
    let want = encode(&mut swapped.encoder(Precision::Exact, 1), &picture);
    assert!(encode(&mut plain.encoder(Precision::Exact, 1), &picture) == want);
    assert!(plain.load().unwrap().warnings().is_empty());
    plain.keys.remove("clip.use_gelu");
    assert!(plain.load().unwrap().warnings()[0].contains("use_gelu"));
}

#[test]
fn the_model_says_what_it_is() {
    let tiny = Tiny::new();
    let model = tiny.load().unwrap();
    let c = model.config();
    assert_eq!((c.patch_size, c.image_size, c.n_embd, c.head_dim()), (PATCH, 8, EMBD, EMBD / HEADS));
    assert_eq!((c.grid, c.query_num, c.projection_dim), (GRID, QUERIES, DIM));
    assert_eq!((c.image_mean, c.image_std), ([0.5; 3], [0.5; 3]));
    let mut other = tiny.clone();
    other.tensors.get_mut("v.post_ln.bias").unwrap().1[0] += 1.0;
    let identity = |model: &VisionModel| model.weights().identity().unwrap();
    assert_eq!(identity(&model), identity(&tiny.load().unwrap()));
    assert_ne!(identity(&model), identity(&other.load().unwrap()));
}

/// The error of loading an altered file.
fn refused(alter: impl FnOnce(&mut Tiny)) -> String {
    let mut tiny = Tiny::new();
    alter(&mut tiny);
    let error = tiny.load().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("mmproj-tiny.gguf"), "{error}");
    error
}

#[test]
fn foreign_files_are_refused_with_the_reason() {
    let key = |key: &'static str, value: MetaValue| {
        refused(|t| {
            t.keys.insert(key, value);
        })
    };
    for (error, words) in [
        (key("general.architecture", "llama".into()), &["`llama`", "mmproj"][..]),
        (key("clip.projector_type", "mlp".into()), &["`mlp`", "resampler"]),
        (key("clip.minicpmv_version", 3i32.into()), &["MiniCPM-V 2.6", "MiniCPM-V 4.0"]),
        (key("clip.minicpmv_version", 77i32.into()), &["77"]),
        (key("clip.has_vision_encoder", false.into()), &["has_vision_encoder"]),
        (key("clip.use_gelu", false.into()), &["use_gelu", "tanh"]),
        (key("clip.use_silu", true.into()), &["use_silu"]),
        (key("clip.vision.attention.head_count", 5u32.into()), &["head_count", "does not divide", "36"]),
        (key("clip.vision.attention.head_count", 0u32.into()), &["head_count", "outside"]),
        (key("clip.vision.block_count", 1_000_000u32.into()), &["block_count", "outside"]),
        (key("clip.vision.block_count", 3u32.into()), &["v.blk.2.", "missing"]),
        (key("clip.vision.block_count", 1u32.into()), &["v.blk.1.", "resampler"]),
        (key("clip.vision.embedding_length", u32::MAX.into()), &["embedding_length", "outside"]),
        (key("clip.vision.embedding_length", 72u32.into()), &["resampler.kv.weight", "72"]),
        (key("clip.vision.feed_forward_length", 64u32.into()), &["ffn_down.weight", "64"]),
        (key("clip.vision.patch_size", 3u32.into()), &["v.patch_embd.weight", "{3, 3, 3, 36}"]),
        (key("clip.minicpmv_query_num", 64u32.into()), &["query_num", "3 rows"]),
        (key("clip.vision.image_std", MetaValue::from(vec![0.5f32, 0.0, 0.5])), &["image_std"]),
        (key("clip.vision.image_mean", MetaValue::from(vec![0.5f32, 0.5])), &["image_mean"]),
        (refused(|t| drop(t.keys.remove("clip.projector_type"))), &["clip.projector_type", "missing"]),
        (refused(|t| drop(t.keys.remove("clip.minicpmv_version"))), &["2.5"]),
        (refused(|t| drop(t.keys.remove("clip.vision.patch_size"))), &["patch_size", "missing"]),
    ] {
        assert!(words.iter().all(|w| error.contains(w)), "{error}: wants {words:?}");
    }
}

#[test]
fn an_interrupt_ends_the_call_and_the_encoder_goes_on() {
    let tiny = Tiny::new();
    let mut encoder = tiny.encoder(Precision::Exact, 2);
    let (picture, stop) = (picture(5, 5), AtomicBool::new(false));
    let mut calls = 0;
    let result = encoder.encode(
        &[&picture],
        None,
        &mut |done, _| {
            calls += 1;
            if done == 1 {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        },
        &stop,
    );
    assert!(matches!(result, Err(RuntimeError::Interrupted)));
    assert_eq!(calls, 2);
    let again = encode(&mut encoder, std::slice::from_ref(&picture));
    assert!(again == encode(&mut tiny.encoder(Precision::Exact, 1), std::slice::from_ref(&picture)));
}
