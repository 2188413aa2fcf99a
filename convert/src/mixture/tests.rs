//! The choices of `llama-quantize` for ten model shapes, and the order of decision for overrides.

use ocelli_quant::GgmlType;

use super::*;

const GOLDEN: &str = include_str!("../../tests/data/mixtures.txt");

/// One tensor of a test model: name, dimensions and the type it has in the source file.
struct Tensor(String, Vec<u64>, GgmlType);

/// Sizes of a test model, in the order of the golden file's generator.
struct Shape {
    layers: u32,
    heads: (u32, u32),
    embd: u64,
    ff: u64,
    tied: bool,
    experts: u32,
    split_experts: bool,
}

impl Shape {
    const fn dense(layers: u32, heads: (u32, u32), embd: u64, ff: u64, tied: bool) -> Self {
        Self { layers, heads, embd, ff, tied, experts: 0, split_experts: false }
    }

    fn named(name: &str) -> Option<Self> {
        let moe = |experts, split_experts| Self { experts, split_experts, ..Self::dense(16, (32, 8), 256, 256, false) };
        Some(match name {
            "gqa16" => Self::dense(32, (32, 2), 256, 512, false),
            "mha" => Self::dense(32, (32, 32), 256, 512, false),
            "two" => Self::dense(2, (4, 4), 256, 256, true),
            "smol" => Self::dense(30, (9, 3), 576, 1536, true),
            "l80" => Self::dense(80, (64, 8), 256, 256, false),
            "moe8" => moe(8, false),
            "moe8split" => moe(8, true),
            "moe4" => moe(4, false),
            "odd" => Self::dense(8, (4, 1), 40, 96, false),
            _ => return None,
        })
    }

    fn facts(&self) -> ModelFacts {
        ModelFacts {
            arch: "llama".into(),
            n_layer: self.layers,
            n_head: self.heads.0,
            n_head_kv: self.heads.1,
            n_expert: self.experts,
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut all = Vec::new();
        let mut f32s = |name: String, dims: &[u64]| all.push(Tensor(name, dims.to_vec(), GgmlType::F32));
        f32s("output_norm.weight".into(), &[self.embd]);
        for i in 0..self.layers {
            f32s(format!("blk.{i}.attn_norm.weight"), &[self.embd]);
            f32s(format!("blk.{i}.ffn_norm.weight"), &[self.embd]);
            if self.experts > 0 {
                f32s(format!("blk.{i}.ffn_gate_inp.weight"), &[self.embd, self.experts.into()]);
            }
        }
        let mut f16s = |name: String, dims: &[u64]| all.push(Tensor(name, dims.to_vec(), GgmlType::F16));
        f16s("token_embd.weight".into(), &[self.embd, 3]);
        if !self.tied {
            f16s("output.weight".into(), &[self.embd, 3]);
        }
        for i in 0..self.layers {
            for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
                f16s(format!("blk.{i}.{part}.weight"), &[self.embd, 2]);
            }
            for (part, row) in [("ffn_down", self.ff), ("ffn_gate", self.embd), ("ffn_up", self.embd)] {
                match (self.experts, self.split_experts) {
                    (0, _) => f16s(format!("blk.{i}.{part}.weight"), &[row, 2]),
                    (n, false) => f16s(format!("blk.{i}.{part}_exps.weight"), &[row, 2, n.into()]),
                    (_, true) => (0..2).for_each(|e| f16s(format!("blk.{i}.{part}.{e}.weight"), &[row, 2])),
                }
            }
        }
        all.sort_by(|a, b| tensor_order(&a.0, &b.0));
        all
    }
}

/// A vision file with the row lengths of a SigLIP tower and its resampler.
fn vision_tensors() -> Vec<Tensor> {
    let (embd, ff) = (1152, 4304);
    let mut all = Vec::new();
    let mut add = |name: &str, dims: &[u64], ty| all.push(Tensor(name.into(), dims.to_vec(), ty));
    add("resampler.query", &[2560, 4], GgmlType::F32);
    add("resampler.pos_embed_k", &[2560, 5], GgmlType::F32);
    add("resampler.proj.weight", &[2560, 2], GgmlType::F16);
    add("resampler.kv.weight", &[embd, 2], GgmlType::F16);
    for n in ["q", "k", "v", "out"] {
        add(&format!("resampler.attn.{n}.weight"), &[2560, 2], GgmlType::F16);
        add(&format!("resampler.attn.{n}.bias"), &[2560], GgmlType::F32);
    }
    add("v.patch_embd.weight", &[14, 14, 3, 2], GgmlType::F16);
    add("v.position_embd.weight", &[embd, 4], GgmlType::F16);
    for i in 0..27 {
        for n in ["attn_k", "attn_v", "attn_q", "attn_out", "ffn_down"] {
            add(&format!("v.blk.{i}.{n}.weight"), &[embd, 2], GgmlType::F16);
            add(&format!("v.blk.{i}.{n}.bias"), &[2], GgmlType::F32);
        }
        add(&format!("v.blk.{i}.ffn_up.weight"), &[ff, 2], GgmlType::F16);
        add(&format!("v.blk.{i}.ln1.weight"), &[embd], GgmlType::F32);
    }
    all.sort_by(|a, b| tensor_order(&a.0, &b.0));
    all
}

fn options(name: &str) -> TypeOptions {
    let parse = |text: &str| TensorOverride::parse(text).expect("valid override");
    let mut o = TypeOptions::default();
    match name {
        "-" => {}
        "imatrix" => o.has_imatrix = true,
        "pure" => o.pure = true,
        "attn_v" => o.overrides = vec![parse(r"blk\.[0-3]\.ATTN_V=q8_0"), parse("ffn_down=iq4_nl")],
        "ends" => {
            o.output_tensor_type = Some(GgmlType::Q4_0);
            o.token_embedding_type = Some(GgmlType::Q8_0);
        }
        "leave" => o.leave_output_tensor = true,
        "output" => o.output_tensor_type = Some(GgmlType::Q5_K),
        other => panic!("unknown options {other} in the golden file"),
    }
    o
}

/// `blk.7.attn_v.weight` → `blk.*.attn_v`, as the golden file groups names.
fn group_of(name: &str) -> String {
    let short = name.strip_suffix(".weight").unwrap_or(name);
    let Some((before, rest)) = short.split_once("blk.") else { return short.into() };
    let (_layer, rest) = rest.split_once('.').expect("a part after the layer");
    format!("{before}blk.*.{rest}")
}

fn expand(list: &str) -> Vec<GgmlType> {
    list.split(',')
        .flat_map(|item| {
            let (name, n) = item.split_once('*').unwrap_or((item, "1"));
            let ty = GgmlType::from_name(name).expect("known type");
            std::iter::repeat_n(ty, n.parse().expect("count"))
        })
        .collect()
}

fn facts(tensors: &[Tensor]) -> Vec<TensorFacts<'_>> {
    tensors.iter().map(|t| TensorFacts { name: &t.0, dims: &t.1 }).collect()
}

/// Checks one line; returns the number of tensors compared.
fn check_line(line: &str) -> usize {
    let mut words = line.split(' ');
    let mut word = || words.next().expect("three words");
    let (model_name, option_name, type_name) = (word(), word(), word());
    let file_type = FileType::parse(type_name.trim_end_matches('!')).expect("known file type");
    let (model, tensors) = match Shape::named(model_name) {
        Some(shape) => (shape.facts(), shape.tensors()),
        None => (ModelFacts { arch: "clip".into(), ..Default::default() }, vision_tensors()),
    };
    let mut groups: Vec<_> =
        words.filter_map(|w| w.split_once('=')).map(|(name, list)| (name, expand(list).into_iter())).collect();
    let choices = choose_types(file_type, &model, &options(option_name), &facts(&tensors)).expect("a choice");
    for (Tensor(name, dims, source), choice) in tensors.iter().zip(&choices) {
        let group = group_of(name);
        // F32 tensors that stay F32 and groups of only the default type are not listed.
        let want = match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, list)) => list.next().expect("one type per tensor of the group"),
            None if *source == GgmlType::F32 => GgmlType::F32,
            None => file_type.default_type(),
        };
        assert_eq!(choice.ty.unwrap_or(*source), want, "{model_name} {option_name} {type_name}: {name} {dims:?}");
    }
    let needs = choices.iter().any(|c| c.needs_imatrix) && option_name != "imatrix";
    assert_eq!(needs, type_name.ends_with('!'), "importance matrix needed: {line}");
    tensors.len()
}

#[test]
fn every_choice_is_that_of_llama_quantize() {
    let lines: Vec<_> = GOLDEN.lines().filter(|l| !l.starts_with('#')).collect();
    let compared: usize = lines.iter().map(|line| check_line(line)).sum();
    assert_eq!(lines.len(), 746);
    assert!(compared > 150_000, "{compared} tensors compared");
}

#[test]
fn vision_files_have_a_choice_for_every_type() {
    let tensors = vision_tensors();
    let model = ModelFacts { arch: "clip".into(), ..Default::default() };
    for &ty in FileType::ALL {
        let choices = choose_types(ty, &model, &TypeOptions::default(), &facts(&tensors)).expect("a choice");
        for (tensor, choice) in tensors.iter().zip(choices) {
            let ty = choice.ty.unwrap_or(tensor.2);
            assert!(tensor.1[0].is_multiple_of(ty.block_len() as u64), "{} {ty}", tensor.0);
        }
    }
}

#[test]
fn file_types_are_found_by_name_alias_and_number() {
    assert_eq!(FileType::parse("q4_k_m").expect("name"), FileType::Q4_K_M);
    assert_eq!(FileType::parse_named("q4_k").expect("alias"), (FileType::Q4_K_M, "Q4_K"));
    assert_eq!(FileType::parse_named("17").expect("number"), (FileType::Q5_K_M, "Q5_K"));
    assert_eq!(FileType::parse("0").expect("number"), FileType::F32);
    for bad in ["", "Q9_K", "4", "-1", "15x", "IQ1_S"] {
        let message = FileType::parse(bad).expect_err("no such type").to_string();
        assert!(message.contains("Q4_K_M") && message.contains(bad), "{message}");
    }
    let mut codes: Vec<_> = FileType::ALL.iter().map(|t| t.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), FileType::ALL.len());
}

#[test]
fn overrides_shift_the_counters() {
    let shape = Shape::named("gqa16").expect("known shape");
    let tensors = shape.tensors();
    let mut opts = TypeOptions::default();
    let value = |opts: &TypeOptions, layer: usize| {
        let choices = choose_types(FileType::Q4_K_M, &shape.facts(), opts, &facts(&tensors)).expect("a choice");
        let name = format!("blk.{layer}.attn_v.weight");
        let at = tensors.iter().position(|t| t.0 == name).expect("tensor");
        choices[at].ty.expect("quantised")
    };
    assert_eq!(value(&opts, 4), GgmlType::Q4_K);
    opts.overrides = vec![TensorOverride::parse(r"blk\.0\.attn_v=q8_0").expect("valid")];
    assert_eq!(value(&opts, 0), GgmlType::Q8_0);
    // Layer 4 is now the fourth that the rules see, counting from zero: still among the first eighth.
    assert_eq!(value(&opts, 4), GgmlType::Q6_K);
}

#[test]
fn bad_overrides_say_what_is_wrong() {
    for (text, part) in [
        ("attn_v", "PATTERN=TYPE"),
        ("=q8_0", "PATTERN=TYPE"),
        ("attn_v=", "PATTERN=TYPE"),
        ("attn_v=q9", "valid are F32"),
        ("(=q8_0", "regular expression"),
    ] {
        let message = TensorOverride::parse(text).expect_err("wrong").to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
    assert_eq!(TensorOverride::parse_list(" a=q8_0\n\tb=f16 ").expect("two entries").len(), 2);
}

#[test]
fn experts_need_a_layer_number() {
    let model = ModelFacts { n_expert: 8, ..Shape::named("moe8").expect("known").facts() };
    for name in ["ffn_down.weight", "blk.16.ffn_down.weight", "blk.x.ffn_down.weight"] {
        let tensors = [TensorFacts { name, dims: &[256, 2] }];
        let error = choose_types(FileType::Q4_K_M, &model, &TypeOptions::default(), &tensors).expect_err("no layer");
        assert!(matches!(error, MixtureError::Layer { .. }), "{error}");
    }
}

#[test]
fn order_is_by_layer_then_name() {
    let mut names = ["blk.10.a", "blk.2.b", "token_embd.weight", "blk.2.a", "v.blk.3.x", "v.blk.12.x", "output.weight"];
    names.sort_by(|a, b| tensor_order(a, b));
    assert_eq!(
        names,
        ["output.weight", "token_embd.weight", "v.blk.12.x", "v.blk.3.x", "blk.2.a", "blk.2.b", "blk.10.a"]
    );
}

#[test]
fn trailing_dimensions_of_one_do_not_count() {
    assert_eq!(effective_dims(&[]), 1);
    assert_eq!(effective_dims(&[1, 1]), 1);
    assert_eq!(effective_dims(&[5, 1]), 1);
    assert_eq!(effective_dims(&[1, 5, 1]), 2);
    assert!(!is_quantizable(&TensorFacts { name: "blk.0.attn_v.weight", dims: &[256, 1] }));
}
