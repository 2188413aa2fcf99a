//! The shape of a text model, and the faults found in such files.

use ocelli_gguf::GgufSet;

use super::{Probe, report::TextModel, some_of};

/// Layers, width and vocabulary of MiniCPM-V 4.0's text model.
const MINICPM_V_4: (u64, u64, u64) = (32, 2560, 73_448);

const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

/// The tensors every layer of architecture `llama` has.
const LAYER: [&str; 9] =
    ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"];

/// No real model has more layers; a file may claim any number.
const MAX_LAYERS: u64 = 1000;

pub(super) fn describe(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, arch: &str) -> TextModel {
    let mut key = |name: &str| probe.u64(&format!("{arch}.{name}"));
    let mut text = TextModel {
        context_length: key("context_length"),
        layers: key("block_count"),
        embedding_length: key("embedding_length"),
        feed_forward_length: None,
        vocab_size: key("vocab_size"),
        rope_original_context_length: key("rope.scaling.original_context_length"),
        ..TextModel::default()
    };
    // Some models give one number per layer here.
    let mut per_layer = |name: &str| {
        let key = format!("{arch}.{name}");
        match probe.meta.get(&key) {
            Some(ocelli_gguf::Value::Array(a)) => {
                a.integers().and_then(|mut i| i.next()).and_then(|i| u64::try_from(i).ok())
            }
            _ => probe.u64(&key),
        }
    };
    text.feed_forward_length = per_layer("feed_forward_length");
    text.heads = per_layer("attention.head_count");
    text.kv_heads = per_layer("attention.head_count_kv").or(text.heads);
    let rows = |name: &str| set.tensor(name).and_then(|t| t.dims.get(1).copied());
    text.vocab_size = text.vocab_size.or_else(|| rows("token_embd.weight"));
    text.rope_freq_base = probe.f32(&format!("{arch}.rope.freq_base"));
    text.rope_scaling = probe.str(&format!("{arch}.rope.scaling.type")).map(str::to_owned);
    text.rope_factors = set.tensor(LONG).is_some() && set.tensor(SHORT).is_some();
    text.is_minicpm_v_4 = arch == "llama" && (text.layers, text.embedding_length, text.vocab_size) == some(MINICPM_V_4);

    let key_length = probe.u64(&format!("{arch}.attention.key_length"));
    let default = text.embedding_length.zip(text.heads).and_then(|(e, h)| e.checked_div(h));
    text.head_dim = key_length.or(default);
    text.kv_bytes_per_token_f16 = [text.layers, text.kv_heads, text.head_dim, Some(4)]
        .into_iter()
        .try_fold(1u64, |product, factor| product.checked_mul(factor?));

    if arch == "llama" {
        missing_tensors(set, probe, &text);
        head_width(set, probe, &text, key_length.is_some());
        rope(set, probe, &text);
    } else {
        probe.warning(
            "foreign-architecture",
            format!("architecture `{arch}` cannot be run"),
            "only `llama` models can; this file can be inspected and quantised".to_owned(),
        );
    }
    text
}

fn some((a, b, c): (u64, u64, u64)) -> (Option<u64>, Option<u64>, Option<u64>) {
    (Some(a), Some(b), Some(c))
}

fn missing_tensors(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, text: &TextModel) {
    let Some(layers) = text.layers.filter(|n| *n <= MAX_LAYERS) else {
        let what = text.layers.map_or("the number of layers is missing".to_owned(), |n| format!("{n} layers claimed"));
        probe.error("layer-count", what, "convert the model again".to_owned());
        return;
    };
    // Mixture-of-experts layers are made of other tensors.
    let experts = set.tensor("blk.0.ffn_gate_inp.weight").is_some();
    let mut missing = Vec::new();
    let mut need = |name: String| {
        if set.tensor(&name).is_none() {
            missing.push(name);
        }
    };
    need("token_embd.weight".to_owned());
    need("output_norm.weight".to_owned());
    for layer in 0..layers {
        for part in LAYER.iter().filter(|part| !(experts && part.starts_with("ffn_") && **part != "ffn_norm")) {
            need(format!("blk.{layer}.{part}.weight"));
        }
    }
    if !missing.is_empty() {
        let what = format!("{} tensors are missing: {}", missing.len(), some_of(&missing));
        probe.error("missing-tensors", what, "download the file, or convert the model, again".to_owned());
    }
}

/// The head width must agree with the shape of the query projection.
fn head_width(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, text: &TextModel, is_given: bool) {
    let rows = set.tensor("blk.0.attn_q.weight").and_then(|t| t.dims.get(1).copied());
    let (Some(rows), Some(heads), Some(head_dim)) = (rows, text.heads, text.head_dim) else { return };
    let Some(real) = rows.checked_div(heads).filter(|d| d.checked_mul(heads) == Some(rows)) else {
        let what = format!("the query projection has {rows} rows, which do not divide into {heads} heads");
        probe.error("wrong-head-count", what, "convert the model again".to_owned());
        return;
    };
    if real == head_dim {
        return;
    }
    let (code, what) = if is_given {
        ("wrong-key-length", format!("attention.key_length is {head_dim}"))
    } else {
        ("missing-key-length", format!("attention.key_length is missing, so readers assume {head_dim}"))
    };
    let what = format!("{what}, but the query projection has {heads} heads of {real}");
    probe.error(code, what, format!("convert the model again; the key must be {real}"));
}

fn rope(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, text: &TextModel) {
    let is_longrope = text.rope_scaling.as_deref() == Some("longrope");
    if !text.rope_factors && (is_longrope || text.is_minicpm_v_4) {
        let missing: Vec<&str> = [LONG, SHORT].into_iter().filter(|n| set.tensor(n).is_none()).collect();
        let supply = if text.is_minicpm_v_4 { ", or run with `--rope-factors minicpm-v-4`" } else { "" };
        probe.error(
            "missing-rope-factors",
            format!(
                "the model was trained with longrope, but {} missing: positions are encoded wrongly",
                match missing.as_slice() {
                    [one] => format!("{one} is"),
                    _ => "the rope factor tensors are".to_owned(),
                }
            ),
            format!("convert the checkpoint again with `ocelli convert`{supply}"),
        );
    }
    for name in [LONG, SHORT] {
        let found = set.tensor(name).map(|t| t.n_elements);
        let want = text.head_dim.map(|d| d / 2);
        if let (Some(found), Some(want)) = (found, want)
            && found != want
        {
            let what = format!("{name} has {found} values, one for each of {want} rotated pairs is needed");
            probe.error("wrong-rope-factors", what, "convert the checkpoint again with `ocelli convert`".to_owned());
        }
    }
    if text.rope_factors && !is_longrope {
        let found = text.rope_scaling.as_deref().unwrap_or("missing");
        probe.warning(
            "unused-rope-factors",
            format!("rope factor tensors are there, but the scaling type is {found}, so they are not used"),
            "convert the checkpoint again with `ocelli convert`".to_owned(),
        );
    }
    if text.rope_factors && is_longrope && text.rope_original_context_length.is_none() {
        probe.warning(
            "missing-original-context",
            "rope.scaling.original_context_length is missing: the long factors are never used".to_owned(),
            "convert the checkpoint again with `ocelli convert`".to_owned(),
        );
    }
}
