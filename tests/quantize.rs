//! `ocelli quantize` end to end: every byte as `llama-quantize` writes it, and the cases it must refuse.
//!
//! The inputs are made here from a linear congruential generator; `data/quantize.txt` holds the hashes of what the
//! other program made of them.

use std::path::Path;
use std::process::{Command, Output};

use half::f16;
use ocelli_gguf::{GgufWriter, MetaValue, TensorType, read_header};
use sha2::{Digest, Sha256};

const GOLDEN: &str = include_str!("data/quantize.txt");

/// The generator of the format tests: state `s·1664525 + 1013904223`, values in ±0.125.
struct Lcg(u32);

impl Lcg {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((self.0 >> 8) as f32 * (1.0 / 16_777_216.0) - 0.5) * 0.25
    }
}

/// A GGUF file of generated tensors.
struct Model {
    pairs: Vec<(&'static str, MetaValue)>,
    tensors: Vec<(String, Vec<u64>, TensorType)>,
}

impl Model {
    fn write(&self, path: &Path) {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.pairs {
            writer.kv(*key, value.clone()).unwrap();
        }
        for (name, dims, ty) in &self.tensors {
            writer.tensor(name.as_str(), dims, *ty).unwrap();
        }
        let mut sink = writer.start(Vec::new()).unwrap();
        for (seed, (name, dims, ty)) in (1..).zip(&self.tensors) {
            sink.write_tensor(name, &values(seed, dims, *ty)).unwrap();
        }
        std::fs::write(path, sink.finish().unwrap()).unwrap();
    }
}

/// Generated data. The second row of a matrix is zero and the third has an outlier.
fn values(seed: u32, dims: &[u64], ty: TensorType) -> Vec<u8> {
    let mut lcg = Lcg(seed);
    let row = usize::try_from(dims[0]).unwrap();
    let n = usize::try_from(dims.iter().product::<u64>()).unwrap();
    let mut out = Vec::new();
    for i in 0..n {
        let x = match (dims.len() > 1, i / row) {
            (true, 1) => 0.0 * lcg.next(),
            (true, 2) if i % row == 5 => 40.0 * lcg.next(),
            _ => lcg.next(),
        };
        let x = x + 0.0; // no negative zeros
        match ty {
            TensorType::F16 => out.extend(f16::from_f32(x).to_le_bytes()),
            _ => out.extend(x.to_le_bytes()),
        }
    }
    out
}

/// A text model of two layers; `ff` is the longer row length.
fn text_model(ty: TensorType, tied: bool) -> Model {
    let (embd, ff) = (256, 512);
    let mut tensors: Vec<(String, Vec<u64>, TensorType)> = Vec::new();
    let mut add = |name: String, dims: &[u64], ty| tensors.push((name, dims.to_vec(), ty));
    add("rope_factors_long.weight".into(), &[64], TensorType::F32);
    if !tied {
        add("output.weight".into(), &[embd, 8], ty);
    }
    add("token_embd.weight".into(), &[embd, 8], ty);
    for i in [1, 0] {
        let mut layer = |name: &str, dims: &[u64], ty| add(format!("blk.{i}.{name}.weight"), dims, ty);
        layer("attn_norm", &[embd], TensorType::F32);
        layer("ffn_down", &[ff, 12], ty);
        layer("ffn_gate", &[embd, 24], ty);
        layer("ffn_up", &[embd, 24], ty);
        layer("ffn_norm", &[embd], TensorType::F32);
        for name in ["attn_k", "attn_output", "attn_q", "attn_v"] {
            layer(name, &[embd, 12], ty);
        }
    }
    add("output_norm.weight".into(), &[embd], TensorType::F32);
    let strings = |texts: &[&str]| MetaValue::from(texts.iter().map(|t| (*t).to_owned()).collect::<Vec<String>>());
    let pairs = vec![
        ("general.architecture", "llama".into()),
        ("general.name", "synthetic".into()),
        ("general.file_type", 1u32.into()),
        ("general.quantization_version", 2u32.into()),
        ("llama.block_count", 2u32.into()),
        ("llama.context_length", 64u32.into()),
        ("llama.embedding_length", 256u32.into()),
        ("llama.feed_forward_length", 512u32.into()),
        ("llama.attention.head_count", 4u32.into()),
        ("llama.attention.head_count_kv", if tied { 4u32 } else { 1u32 }.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-6f32.into()),
        ("tokenizer.ggml.tokens", strings(&["a", "\u{2581}b", "<0x00>"])),
        ("tokenizer.ggml.scores", vec![0.5f32, 1.5, -1.0].into()),
        ("tokenizer.ggml.add_bos_token", true.into()),
    ];
    Model { pairs, tensors }
}

/// A vision file whose rows do not divide into large blocks, or not into any.
fn vision_model() -> Model {
    let (embd, ff, out) = (96, 112, 256);
    let mut tensors: Vec<(String, Vec<u64>, TensorType)> = Vec::new();
    let mut add = |name: &str, dims: &[u64], ty| tensors.push((name.to_owned(), dims.to_vec(), ty));
    add("resampler.query", &[out, 4], TensorType::F32);
    add("resampler.proj.weight", &[out, 12], TensorType::F16);
    add("resampler.kv.weight", &[embd, 12], TensorType::F16);
    add("resampler.attn.q.bias", &[out], TensorType::F32);
    add("v.patch_embd.weight", &[14, 14, 3, 4], TensorType::F16);
    add("v.position_embd.weight", &[embd, 9], TensorType::F16);
    for i in 0..2 {
        for name in ["attn_k", "attn_v", "attn_q", "attn_out", "ffn_down"] {
            add(&format!("v.blk.{i}.{name}.weight"), &[embd, 12], TensorType::F16);
        }
        add(&format!("v.blk.{i}.ffn_up.weight"), &[ff, 12], TensorType::F16);
        add(&format!("v.blk.{i}.ln1.weight"), &[embd], TensorType::F32);
    }
    let pairs = vec![
        ("general.architecture", "clip".into()),
        ("clip.has_vision_encoder", true.into()),
        ("general.file_type", 1u32.into()),
        ("clip.minicpmv_version", 5i32.into()),
        ("clip.vision.image_mean", vec![0.5f32, 0.5, 0.5].into()),
    ];
    Model { pairs, tensors }
}

/// Importances for every matrix of a model but one, in GGUF form.
fn imatrix_for(model: &Model, path: &Path) {
    let mut writer = GgufWriter::new();
    writer.kv("general.type", "imatrix").unwrap();
    writer.kv("imatrix.datasets", vec!["wiki.txt".to_owned(), "more.txt".to_owned()]).unwrap();
    writer.kv("imatrix.chunk_count", 7u32).unwrap();
    writer.kv("imatrix.chunk_size", 512u32).unwrap();
    let mut data = Vec::new();
    for (seed, (name, dims, _)) in (100..).zip(&model.tensors) {
        if dims.len() != 2 || name == "blk.1.attn_q.weight" {
            continue;
        }
        let mut lcg = Lcg(seed);
        let squares = (0..dims[0]).flat_map(|_| (lcg.next().powi(2) * 900.0).to_le_bytes()).collect();
        data.push((format!("{name}.in_sum2"), vec![dims[0], 1], squares));
        data.push((format!("{name}.counts"), vec![1, 1], 512f32.to_le_bytes().to_vec()));
    }
    for (name, dims, _) in &data {
        writer.tensor(name.as_str(), dims, TensorType::F32).unwrap();
    }
    let mut sink = writer.start(Vec::new()).unwrap();
    for (name, _, bytes) in &data {
        sink.write_tensor(name, bytes).unwrap();
    }
    std::fs::write(path, sink.finish().unwrap()).unwrap();
}

/// The same in the older form, averaged over three calls, with a useless list for the token embedding.
fn legacy_imatrix_for(model: &Model, path: &Path) {
    let mut entries = Vec::new();
    let mut n_entries = 0i32;
    for (seed, (name, dims, _)) in (200..).zip(&model.tensors).filter(|(_, (_, dims, _))| dims.len() == 2) {
        let n = if name == "token_embd.weight" { 7 } else { i32::try_from(dims[0]).unwrap() };
        let mut lcg = Lcg(seed);
        entries.extend(i32::try_from(name.len()).unwrap().to_le_bytes());
        entries.extend(name.as_bytes());
        entries.extend(3i32.to_le_bytes());
        entries.extend(n.to_le_bytes());
        entries.extend((0..n).flat_map(|_| (lcg.next().powi(2) * 900.0).to_le_bytes()));
        n_entries += 1;
    }
    let mut bytes = n_entries.to_le_bytes().to_vec();
    bytes.extend(entries);
    bytes.extend(42i32.to_le_bytes());
    bytes.extend(8i32.to_le_bytes());
    bytes.extend(b"data.txt");
    std::fs::write(path, bytes).unwrap();
}

/// All inputs of the golden file.
fn write_inputs(dir: &Path) {
    let text = text_model(TensorType::F16, false);
    text.write(&dir.join("text.gguf"));
    text_model(TensorType::F32, false).write(&dir.join("text32.gguf"));
    text_model(TensorType::F16, true).write(&dir.join("tied.gguf"));
    let vision = vision_model();
    vision.write(&dir.join("vision.gguf"));
    imatrix_for(&text, &dir.join("text.imatrix"));
    imatrix_for(&vision, &dir.join("vision.imatrix"));
    legacy_imatrix_for(&text, &dir.join("text.dat"));
}

/// Runs the command in `dir`, so that paths stored in files do not depend on where that is.
fn quantize(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ocelli")).arg("quantize").args(args).current_dir(dir).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Hashes of a file and of each of its tensors, as the golden file spells them.
fn hashes(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let header = read_header(path).unwrap();
    let gguf = header.view().unwrap();
    let mut line = hash(&bytes)[..16].to_owned();
    for t in gguf.tensors() {
        let data = &bytes[usize::try_from(t.offset).unwrap()..][..usize::try_from(t.n_bytes).unwrap()];
        line += &format!(" {}={}:{}", t.name.trim_end_matches(".weight"), t.ty, &hash(data)[..8]);
    }
    line
}

/// `source options TYPE hashes…` → arguments and expected hashes.
#[test]
fn every_byte_is_that_of_llama_quantize() {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path());
    if let Some(keep) = std::env::var_os("OCELLI_KEEP_QUANTIZE_INPUTS") {
        write_inputs(Path::new(&keep));
    }
    let mut failures = Vec::new();
    let mut compared = 0;
    for line in GOLDEN.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.splitn(3, " | ");
        let (args, options, want) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let (source, ty) = args.split_once(' ').unwrap();
        let source = format!("{source}.gguf");
        if want.starts_with("input ") {
            let got = hash(&std::fs::read(dir.path().join(&source)).unwrap());
            assert_eq!(want, format!("input {got}"), "the generated {source} is not the one the hashes are for");
            continue;
        }
        let mut args: Vec<&str> = options.split(' ').filter(|o| !o.is_empty()).collect();
        args.extend([source.as_str(), "out.gguf", ty, "2", "--overwrite"]);
        let output = quantize(dir.path(), &args);
        // The other program ignores patterns where the type of file leaves no choice.
        if ["F16", "F32", "BF16"].contains(&ty) && args.contains(&"--tensor-type") {
            assert!(output.status.code() == Some(1) && stderr(&output).contains("no effect"), "{args:?}");
            continue;
        }
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let got = hashes(&dir.path().join("out.gguf"));
        compared += 1;
        if got != want {
            let pairs = got.split(' ').zip(want.split(' ')).filter(|(g, w)| g != w);
            failures.push(format!("{args:?}: {}", pairs.map(|(g, w)| format!("{g} not {w}; ")).collect::<String>()));
        }
    }
    assert!(failures.is_empty(), "{} of {compared} differ:\n{}", failures.len(), failures.join("\n"));
    assert!(compared >= 150, "only {compared} cases");
}

#[test]
fn vision_files_take_every_type() {
    let dir = tempfile::tempdir().unwrap();
    vision_model().write(&dir.path().join("v.gguf"));
    for ty in ["Q2_K", "IQ4_NL", "Q3_K_L", "Q5_K_S", "BF16"] {
        let output = quantize(dir.path(), &["v.gguf", "out.gguf", ty, "--overwrite"]);
        assert!(output.status.success(), "{ty}: {}", stderr(&output));
        let header = read_header(&dir.path().join("out.gguf")).unwrap();
        let gguf = header.view().unwrap();
        for kept in ["v.patch_embd.weight", "v.position_embd.weight"] {
            assert_eq!(gguf.tensor(kept).unwrap().ty, TensorType::F16, "{ty} {kept}");
        }
    }
}

#[test]
fn the_default_output_lies_beside_the_input_and_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    text_model(TensorType::F16, false).write(&sub.join("m.gguf"));
    assert!(quantize(dir.path(), &["sub/m.gguf", "q4_k"]).status.success());
    let made = sub.join("ggml-model-Q4_K.gguf");
    let before = std::fs::read(&made).unwrap();
    let again = quantize(dir.path(), &["sub/m.gguf", "Q4_K", "--pure"]);
    assert!(!again.status.success() && stderr(&again).contains("--overwrite"), "{}", stderr(&again));
    assert_eq!(std::fs::read(&made).unwrap(), before);
    assert!(quantize(dir.path(), &["sub/m.gguf", "Q4_K", "--pure", "--overwrite"]).status.success());
    assert_ne!(std::fs::read(&made).unwrap(), before);
    assert_eq!(std::fs::read_dir(&sub).unwrap().count(), 2, "no temporary files are left");
}

#[test]
fn refusals_name_the_cause_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    text_model(TensorType::F16, false).write(&path("m.gguf"));
    assert!(quantize(dir.path(), &["m.gguf", "q8.gguf", "Q8_0"]).status.success());
    let mut nan = std::fs::read(path("m.gguf")).unwrap();
    let header = read_header(&path("m.gguf")).unwrap();
    let at = usize::try_from(header.view().unwrap().tensor("blk.1.ffn_up.weight").unwrap().offset).unwrap();
    nan[at + 2 * 300..][..2].copy_from_slice(&f16::NAN.to_le_bytes());
    std::fs::write(path("nan.gguf"), &nan).unwrap();
    std::fs::write(path("cut.gguf"), &nan[..nan.len() - 700]).unwrap();
    std::fs::write(path("bad.imatrix"), b"\x01\0\0\0\xff\xff\xff\x7f").unwrap();
    for (args, parts) in [
        (vec!["m.gguf", "o.gguf", "Q9_K"], vec!["Q9_K", "Q4_K_M"]),
        (vec!["m.gguf", "Q9_K"], vec!["Q9_K", "Q4_K_M"]),
        (vec!["m.gguf", "m.gguf", "Q8_0", "--overwrite"], vec!["m.gguf", "another output"]),
        (vec!["q8.gguf", "o.gguf", "Q4_K_M"], vec!["--allow-requantize", "Q8_0"]),
        (vec!["m.gguf", "o.gguf", "Q2_K_S"], vec!["--imatrix"]),
        (vec!["nan.gguf", "o.gguf", "Q4_K_M"], vec!["blk.1.ffn_up.weight", "NaN", "300"]),
        (vec!["cut.gguf", "o.gguf", "Q4_K_M"], vec!["cut.gguf"]),
        (vec!["none.gguf", "o.gguf", "Q4_K_M"], vec!["none.gguf"]),
        (vec!["m.gguf", "o.gguf", "Q4_K_M", "--imatrix", "bad.imatrix"], vec!["bad.imatrix", "entry 1"]),
        (vec!["m.gguf", "o.gguf", "Q4_K_M", "two"], vec!["two"]),
        (vec!["m.gguf", "o.gguf", "Q4_K_M", "--tensor-type", "a=q4_9"], vec!["q4_9", "Q4_K"]),
        (vec!["m.gguf", "o.gguf", "Q4_K_M", "--output-tensor-type", "x"], vec!["\"x\"", "Q6_K"]),
        (vec!["m.gguf", "nowhere/o.gguf", "Q8_0"], vec!["nowhere"]),
    ] {
        let output = quantize(dir.path(), &args);
        let text = stderr(&output);
        assert!(!output.status.success(), "{args:?} succeeded");
        for part in parts {
            assert!(text.contains(part), "{args:?}: {part:?} is not in: {text}");
        }
    }
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["bad.imatrix", "cut.gguf", "m.gguf", "nan.gguf", "q8.gguf"]);
}

/// Types of single tensors where the kind of file leaves no choice.
#[test]
fn choices_without_effect_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    text_model(TensorType::F32, false).write(&dir.path().join("m.gguf"));
    for (ty, choice, parts) in [
        ("F16", ["--tensor-type", "attn_v=q8_0"], ["`attn_v`", "F16"]),
        ("f32", ["--tensor-type", "attn_v=f16"], ["`attn_v`", "F32"]),
        ("COPY", ["--tensor-type", "attn_v=q8_0"], ["`attn_v`", "a copy"]),
        ("COPY", ["--output-tensor-type", "q8_0"], ["output.weight", "a copy"]),
        ("COPY", ["--token-embedding-type", "q8_0"], ["token_embd.weight", "a copy"]),
    ] {
        let output = quantize(dir.path(), &[&["m.gguf", "o.gguf", ty], &choice[..]].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{ty} {choice:?}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)) && text.lines().count() == 1, "{ty} {choice:?}: {text}");
        assert!(!dir.path().join("o.gguf").exists(), "{ty} {choice:?}");
    }
    // The token embedding may have another type in a file of any.
    let output = quantize(dir.path(), &["m.gguf", "o.gguf", "F16", "--token-embedding-type", "q8_0", "--dry-run"]);
    let line = |text: &str| text.lines().find(|l| l.contains("token_embd.weight")).map(str::to_owned);
    let told = line(std::str::from_utf8(&output.stdout).unwrap()).unwrap_or_else(|| panic!("{}", stderr(&output)));
    assert!(told.contains("(Q8_0)"), "{told}");
}

/// Whoever names tensors expects something to happen to them.
#[test]
fn patterns_that_match_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    text_model(TensorType::F16, false).write(&path("m.gguf"));
    imatrix_for(&text_model(TensorType::F16, false), &path("i.gguf"));
    std::fs::write(path("types.txt"), "attn_v=q8_0 fnn_up=q6_k").unwrap();
    let run = |more: &[&str]| quantize(dir.path(), &[&["m.gguf", "o.gguf", "Q4_K_M"], more].concat());
    let imatrix = ["--imatrix", "i.gguf"];
    for (more, parts) in [
        (vec!["--tensor-type", "atn_v=q8_0"], ["`atn_v`", "attn_v.weight"]),
        (
            vec!["--tensor-type", "attn_v=q8_0", "--tensor-type", r"blk\.9\.ffn_down=q8_0"],
            [r"ffn_down`", "ffn_down.weight"],
        ),
        (vec!["--tensor-type", "output_norm=f16"], ["`output_norm`", "can be converted"]),
        (vec!["--tensor-type-file", "types.txt"], ["`fnn_up`", "ffn_up.weight"]),
        ([&imatrix[..], &["--include-weights", "ffn_upp"]].concat(), ["`ffn_upp`", "ffn_up"]),
        (
            [&imatrix[..], &["--exclude-weights", "attn_v", "--exclude-weights", "nothing"]].concat(),
            ["`nothing`", "i.gguf"],
        ),
    ] {
        for dry in [&[][..], &["--dry-run"]] {
            let output = run(&[&more[..], dry].concat());
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{more:?}: {text}");
            assert!(parts.iter().all(|part| text.contains(part)) && text.lines().count() == 1, "{more:?}: {text}");
        }
        assert!(!path("o.gguf").exists(), "{more:?}");
    }
    let right = run(&["--tensor-type", "ATTN_V=q8_0", "--tensor-type", r"blk\.1\.ffn_down=q6_k"]);
    assert!(right.status.success(), "{}", stderr(&right));
    assert_eq!(run(&["--tensor-type", "attn_v"]).status.code(), Some(2), "that is no pattern with a type");
    assert_eq!(quantize(dir.path(), &["m.gguf", "o.gguf", "Q9"]).status.code(), Some(2));
    assert_eq!(quantize(dir.path(), &["m.gguf", "p.gguf", "Q8_0", "two"]).status.code(), Some(2));
}

#[test]
fn importances_of_another_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    text_model(TensorType::F16, false).write(&dir.path().join("m.gguf"));
    let mut other = text_model(TensorType::F16, false);
    other.tensors.iter_mut().for_each(|t| t.1[0] *= 2);
    imatrix_for(&other, &dir.path().join("other.imatrix"));
    let output = quantize(dir.path(), &["m.gguf", "o.gguf", "Q4_K_M", "--imatrix", "other.imatrix"]);
    let text = stderr(&output);
    assert!(!output.status.success() && text.contains("512 importances") && text.contains("256"), "{text}");
}

/// What a matrix did is told as it is: used, used in part, or not at all and why.
#[test]
fn an_importance_matrix_that_was_not_used_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path());
    let notes = |model: &str, ty: &str, imatrix: &str| {
        let output = quantize(dir.path(), &["--dry-run", model, ty, "--imatrix", imatrix]);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    // One tensor has no entry, by the way the file is made.
    let partly = notes("text.gguf", "Q4_K_M", "text.imatrix");
    assert!(partly.contains(" entries, ") && partly.contains("without importances: blk.1.attn_q.weight"), "{partly}");
    assert!(!partly.contains("was not used"), "{partly}");
    let foreign = notes("text.gguf", "Q4_K_M", "vision.imatrix");
    assert!(foreign.contains("vision.imatrix was not used: it has no entry for any of the "), "{foreign}");
    // Nothing is gained by listing every tensor and every entry, too.
    assert!(!foreign.contains("without importances") && !foreign.contains("unused entries"), "{foreign}");
    let copied = notes("text.gguf", "COPY", "text.imatrix");
    assert!(copied.contains("text.imatrix was not used: no tensor changes its format"), "{copied}");
}

#[test]
fn a_dry_run_says_what_the_file_will_hold() {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path());
    let args = ["text.gguf", "out.gguf", "Q4_K_M", "--imatrix", "text.imatrix", "--json"];
    let dry: Vec<&str> = args.iter().copied().chain(["--dry-run"]).collect();
    let said: serde_json::Value = serde_json::from_slice(&quantize(dir.path(), &dry).stdout).unwrap();
    assert!(!dir.path().join("out.gguf").exists());
    let made: serde_json::Value = serde_json::from_slice(&quantize(dir.path(), &args).stdout).unwrap();
    assert_eq!(said["tensors"], made["tensors"]);
    assert_eq!(made["written"][0], "out.gguf");
    let header = read_header(&dir.path().join("out.gguf")).unwrap();
    let gguf = header.view().unwrap();
    assert_eq!(said["bytes"], gguf.tensors().iter().map(|t| t.n_bytes).sum::<u64>());
    for (said, tensor) in said["tensors"].as_array().unwrap().iter().zip(gguf.tensors()) {
        assert_eq!(said["name"], tensor.name);
        assert_eq!(said["type"], tensor.ty.to_string());
    }
    assert_eq!(said["imatrix"]["without_importance"], serde_json::json!(["blk.1.attn_q.weight"]));
    let plain = quantize(dir.path(), &["--dry-run", "vision.gguf", "Q4_K_M"]);
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(text.contains("instead of Q4_K") && text.contains("quant size"), "{text}");
}

#[test]
fn threads_do_not_change_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    // Rows enough for many strips.
    let mut model = text_model(TensorType::F16, false);
    model.tensors.iter_mut().filter(|t| t.0.contains("ffn_up")).for_each(|t| t.1[1] = 6000);
    model.write(&dir.path().join("m.gguf"));
    for (out, threads) in [("a.gguf", "1"), ("b.gguf", "2"), ("c.gguf", "7")] {
        assert!(quantize(dir.path(), &["m.gguf", out, "Q8_0", "--threads", threads]).status.success());
    }
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf") && read("a.gguf") == read("c.gguf"));
}

/// Splits a model by hand: the metadata in the first part, half of the tensors in each.
fn write_split(model: &Model, dir: &Path) {
    let total = model.tensors.len();
    for no in 0..2usize {
        let range = if no == 0 { 0..total / 2 } else { total / 2..total };
        let mut writer = GgufWriter::new();
        if no == 0 {
            for (key, value) in &model.pairs {
                writer.kv(*key, value.clone()).unwrap();
            }
        }
        writer.kv("split.no", u16::try_from(no).unwrap()).unwrap();
        writer.kv("split.count", 2u16).unwrap();
        writer.kv("split.tensors.count", i32::try_from(total).unwrap()).unwrap();
        for (name, dims, ty) in &model.tensors[range.clone()] {
            writer.tensor(name.as_str(), dims, *ty).unwrap();
        }
        let mut sink = writer.start(Vec::new()).unwrap();
        for i in range {
            let (name, dims, ty) = &model.tensors[i];
            sink.write_tensor(name, &values(u32::try_from(i).unwrap() + 1, dims, *ty)).unwrap();
        }
        let name = format!("part-{:05}-of-00002.gguf", no + 1);
        std::fs::write(dir.join(name), sink.finish().unwrap()).unwrap();
    }
}

#[test]
fn split_models_are_joined_or_kept_split() {
    let dir = tempfile::tempdir().unwrap();
    let model = text_model(TensorType::F16, false);
    model.write(&dir.path().join("whole.gguf"));
    write_split(&model, dir.path());
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(quantize(dir.path(), &["whole.gguf", "a.gguf", "Q4_K_S"]).status.success());
    assert!(quantize(dir.path(), &["part-00001-of-00002.gguf", "b.gguf", "Q4_K_S"]).status.success());
    assert!(read("a.gguf") == read("b.gguf"), "joined parts make the same file");

    let kept = quantize(dir.path(), &["part-00001-of-00002.gguf", "k.gguf", "Q8_0", "--keep-split"]);
    assert!(kept.status.success(), "{}", stderr(&kept));
    let header = read_header(&dir.path().join("k-00002-of-00002.gguf")).unwrap();
    let second = header.view().unwrap();
    assert_eq!(second.metadata().len(), 3);
    assert_eq!(second.metadata().u32("split.no").unwrap(), Some(1));
    assert_eq!(second.tensors().len(), model.tensors.len() - model.tensors.len() / 2);
    // Joined again, the kept parts are what the whole file becomes.
    assert!(quantize(dir.path(), &["k-00001-of-00002.gguf", "c.gguf", "Q8_0"]).status.success());
    assert!(quantize(dir.path(), &["whole.gguf", "d.gguf", "Q8_0"]).status.success());
    assert!(read("c.gguf") == read("d.gguf"));
}

#[test]
fn another_alignment_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = text_model(TensorType::F16, false);
    model.write(&dir.path().join("m32.gguf"));
    model.pairs.push(("general.alignment", 256u32.into()));
    model.write(&dir.path().join("m256.gguf"));
    for (source, out) in [("m32.gguf", "a.gguf"), ("m256.gguf", "b.gguf")] {
        let output = quantize(dir.path(), &[source, out, "Q5_K_M"]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let tensors = |name: &str| hashes(&dir.path().join(name)).split_once(' ').unwrap().1.to_owned();
    assert_eq!(tensors("a.gguf"), tensors("b.gguf"));
    let header = read_header(&dir.path().join("b.gguf")).unwrap();
    assert_eq!(header.view().unwrap().alignment(), 256);
}
