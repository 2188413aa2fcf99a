//! The vision part of a model (mmproj), and the faults found in such files.

use ocelli_gguf::{GgufSet, ValueType};

use super::{Probe, report::VisionModel, some_of};

/// Tensors a MiniCPM-V vision file has beside its layers.
const TENSORS: [&str; 22] = [
    "resampler.query",
    "resampler.proj.weight",
    "resampler.kv.weight",
    "resampler.attn.q.weight",
    "resampler.attn.q.bias",
    "resampler.attn.k.weight",
    "resampler.attn.k.bias",
    "resampler.attn.v.weight",
    "resampler.attn.v.bias",
    "resampler.attn.out.weight",
    "resampler.attn.out.bias",
    "resampler.ln_q.weight",
    "resampler.ln_q.bias",
    "resampler.ln_kv.weight",
    "resampler.ln_kv.bias",
    "resampler.ln_post.weight",
    "resampler.ln_post.bias",
    "v.patch_embd.weight",
    "v.patch_embd.bias",
    "v.position_embd.weight",
    "v.post_ln.weight",
    "v.post_ln.bias",
];

/// Parts of each layer, all with weight and bias.
const LAYER: [&str; 8] = ["attn_q", "attn_k", "attn_v", "attn_out", "ln1", "ln2", "ffn_down", "ffn_up"];

/// Stored for other loaders, never computed with.
const POS_EMBED_K: &str = "resampler.pos_embed_k";

/// No real tower has more layers; a file may claim any number.
const MAX_LAYERS: u64 = 1000;

/// The version that can be run: MiniCPM-V 4.0.
const V_4_0: i64 = 5;

pub(super) fn describe(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>) -> VisionModel {
    let version = probe.meta.i64("clip.minicpmv_version");
    let minicpmv_version = probe.noted(version);
    let is_minicpmv = probe.bool("clip.has_minicpmv_projector") == Some(true);
    let projector = probe.str("clip.projector_type").map(str::to_owned);
    let projector = projector.or_else(|| is_minicpmv.then(|| "resampler".to_owned()));
    let rows = |name: &str, dim: usize| set.tensor(name).and_then(|t| t.dims.get(dim).copied());
    let vision = VisionModel {
        projector,
        minicpmv_version,
        made_for: minicpmv_version.and_then(made_for),
        image_size: probe.u64("clip.vision.image_size"),
        patch_size: probe.u64("clip.vision.patch_size"),
        embedding_length: probe.u64("clip.vision.embedding_length"),
        layers: probe.u64("clip.vision.block_count"),
        heads: probe.u64("clip.vision.attention.head_count"),
        queries: rows("resampler.query", 1),
        output_width: output_width(set),
    };
    if vision.projector.as_deref() == Some("resampler") {
        check_version(probe, &vision);
        check_tensors(set, probe, &vision);
    } else {
        let found = vision.projector.as_deref().unwrap_or("missing");
        probe.error(
            "unknown-projector",
            format!("clip.projector_type is {found}"),
            "use the vision file of a MiniCPM-V model; its projector type is `resampler`".to_owned(),
        );
    }
    vision
}

/// The width of the embeddings it makes: the rows of the last projection.
pub(super) fn output_width(set: &GgufSet<'_>) -> Option<u64> {
    set.tensor("resampler.proj.weight").and_then(|t| t.dims.get(1).copied())
}

/// The model a version number stands for.
fn made_for(version: i64) -> Option<&'static str> {
    Some(match version {
        1 => "MiniCPM-V 2",
        2 => "MiniCPM-Llama3-V 2.5",
        3 => "MiniCPM-V 2.6",
        4 => "MiniCPM-o 2.6",
        5 => "MiniCPM-V 4.0",
        6 => "MiniCPM-V 4.5 or MiniCPM-o 4.0",
        100_045 => "MiniCPM-o 4.5",
        _ => return None,
    })
}

fn check_version(probe: &mut Probe<'_, '_>, vision: &VisionModel) {
    let key = "clip.minicpmv_version";
    let remedy = || "use the vision file of MiniCPM-V 4.0, or convert that checkpoint with `ocelli convert`".to_owned();
    match (vision.minicpmv_version, vision.made_for) {
        (Some(V_4_0), _) => {}
        (Some(_), Some(model)) => {
            probe.error(
                "other-minicpmv-version",
                format!("the file belongs to {model}, which cannot be run"),
                remedy(),
            );
        }
        (Some(version), None) => {
            probe.error("unknown-minicpmv-version", format!("key `{key}` is {version}, which no model has"), remedy());
        }
        (None, _) => probe.error(
            "missing-minicpmv-version",
            format!("key `{key}` is missing: readers take the file for that of MiniCPM-Llama3-V 2.5"),
            remedy(),
        ),
    }
    let ty = probe.meta.get(key).map(|v| v.ty());
    if let Some(ty) = ty.filter(|ty| *ty != ValueType::I32) {
        probe.warning(
            "minicpmv-version-type",
            format!("key `{key}` is stored as {ty}; other readers want i32 and refuse the file"),
            "convert the checkpoint again with `ocelli convert`".to_owned(),
        );
    }
}

fn check_tensors(set: &GgufSet<'_>, probe: &mut Probe<'_, '_>, vision: &VisionModel) {
    let again = || "convert the checkpoint again with `ocelli convert`".to_owned();
    let mut missing: Vec<String> =
        TENSORS.iter().filter(|n| set.tensor(n).is_none()).map(|n| (*n).to_owned()).collect();
    match vision.layers {
        Some(layers) if layers <= MAX_LAYERS => {
            let names = (0..layers).flat_map(|i| LAYER.map(|part| format!("v.blk.{i}.{part}")));
            let names = names.flat_map(|n| [format!("{n}.weight"), format!("{n}.bias")]);
            missing.extend(names.filter(|n| set.tensor(n).is_none()));
        }
        Some(n) => probe.error("layer-count", format!("{n} layers claimed"), again()),
        None => probe.error("layer-count", "clip.vision.block_count is missing".to_owned(), again()),
    }
    if !missing.is_empty() {
        let what = format!("{} tensors are missing: {}", missing.len(), some_of(&missing));
        probe.error("missing-tensors", what, again());
    }
    if set.tensor(POS_EMBED_K).is_none() {
        let what = format!("{POS_EMBED_K} is missing; it is not needed here, but llama.cpp refuses the file");
        probe.warning("missing-pos-embed-k", what, again());
    }
    let query_num = probe.u64("clip.minicpmv_query_num").filter(|n| *n != 0);
    if let (Some(key), Some(queries)) = (query_num, vision.queries)
        && key != queries
    {
        let what = format!("clip.minicpmv_query_num is {key}, but resampler.query has {queries} rows");
        probe.error("query-count", what, again());
    }
}
