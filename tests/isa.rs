//! The whole program with every instruction set that the machine has: right answers, and the same numbers within what the
//! order of sums and the rounding of activations may change. Each run must say that it used the set that was asked for.
//!
//! Sets that the machine lacks are named on standard error; `REQUIRE_ISA=name,…` turns a missing one into a failure.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;

use ocelli_kernels::Kernels;
use safetensors::SafeTensors;
use serde_json::Value;

/// The names that `--isa` takes here.
fn isas() -> Vec<&'static str> {
    static REPORT: Once = Once::new();
    REPORT.call_once(|| {
        for (name, needs) in Kernels::candidates() {
            if let Some(needs) = needs {
                // Not by `eprintln!`, which the test runner shows of failed tests only.
                let _ = writeln!(std::io::stderr(), "\nskipped: {name} (this machine lacks it: {needs})");
            }
        }
        let required = std::env::var("REQUIRE_ISA").unwrap_or_default();
        for name in required.split(',').filter(|name| !name.is_empty()) {
            Kernels::named(name).unwrap_or_else(|error| panic!("REQUIRE_ISA: {error}"));
        }
    });
    Kernels::candidates().iter().filter(|(_, needs)| needs.is_none()).map(|(name, _)| *name).collect()
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// As [`scratch`], for a file that is not there yet: an earlier run may have left it.
fn fresh(name: &str) -> PathBuf {
    let path = scratch(name);
    let _ = std::fs::remove_file(&path);
    path
}

fn picture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ocelli-tiny/examples").join(name);
    path.to_str().unwrap().to_owned()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs with the bundled model's cache among the tests' files. `isa` is given by the environment.
fn run(args: &[&str], isa: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocelli"));
    command.args(args).env("XDG_CACHE_HOME", scratch("isa-cache")).env_remove("OCELLI_ISA");
    if let Some(isa) = isa {
        command.env("OCELLI_ISA", isa);
    }
    command.output().unwrap()
}

/// As [`run`], which must succeed.
fn ocelli(args: &[&str], isa: Option<&str>) -> Output {
    let out = run(args, isa);
    assert!(out.status.success(), "{args:?} {isa:?}: {}", text(&out.stderr));
    out
}

/// As [`ocelli`] with `--isa`, for commands that open a text model: they say which set they use.
fn forced(args: &[&str], isa: &str) -> Output {
    let out = ocelli(&[args, &["--isa", isa]].concat(), None);
    let told = text(&out.stderr);
    assert!(told.contains(&format!("isa: {isa}, ")), "{args:?} with {isa} says: {told}");
    out
}

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The largest difference of two lists, relative to the largest value of the second.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    assert!(largest > 0.0 && a.iter().all(|v| v.is_finite()));
    a.iter().zip(b).fold(0f64, |m, (a, b)| m.max((f64::from(*a) - f64::from(*b)).abs())) / largest
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap().data().to_vec();
    data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn questions_are_answered_correctly_with_every_isa() {
    let scene = "The picture shows a medium red circle at the top left, a medium yellow star in the middle and a big blue \
                 square at the bottom right.";
    for isa in isas() {
        for precision in ["fast", "exact"] {
            for (question, answer) in [
                ("What colour is the star?", "yellow"),
                ("How many objects are there?", "3"),
                ("Describe the picture.", scene),
            ] {
                let shapes = picture("shapes.png");
                let args = ["run", "--temp", "0", "--image", &shapes, "-p", question, "--precision", precision];
                let out = forced(&args, isa);
                assert_eq!(text(&out.stdout).trim_end(), answer, "{isa} {precision}: {question}");
            }
        }
    }
}

#[test]
fn logits_are_those_of_the_scalar_table() {
    for (precision, bounds) in [("exact", (1e-5, 1e-5)), ("fast", (5e-2, 5e-2))] {
        let mut reference: Option<(Vec<f32>, Vec<f32>)> = None;
        // The scalar table is the last, and the reference of the others.
        for isa in isas().into_iter().rev() {
            let file = fresh(&format!("probe-{precision}-{isa}.safetensors"));
            let (path, shapes) = (file.to_str().unwrap(), picture("shapes.png"));
            let args =
                ["probe", "--image", &shapes, "-p", "What colour is the star?", "-o", path, "--precision", precision];
            forced(&args, isa);
            let bytes = std::fs::read(&file).unwrap();
            let probe = SafeTensors::deserialize(&bytes).unwrap();
            let got = (floats(&probe, "logits"), floats(&probe, "slices.0.emb"));
            match &reference {
                None => {
                    assert_eq!(isa, "scalar");
                    reference = Some(got);
                }
                Some((logits, rows)) => {
                    let (of_logits, of_rows) = (difference(&got.0, logits), difference(&got.1, rows));
                    eprintln!("{precision} {isa}: logits {of_logits:.2e}, picture {of_rows:.2e}");
                    assert!(of_logits <= bounds.0, "{precision} {isa}: logits differ by {of_logits:e}");
                    assert!(of_rows <= bounds.1, "{precision} {isa}: embeddings differ by {of_rows:e}");
                }
            }
        }
    }
}

#[test]
fn perplexity_is_that_of_the_scalar_table() {
    let file = scratch("isa-text.txt");
    std::fs::write(&file, "The picture shows a big red circle at the top left and a small blue star. ".repeat(20))
        .unwrap();
    for (precision, bound) in [("exact", 1e-4), ("fast", 2e-2)] {
        let mut reference = None;
        for isa in isas().into_iter().rev() {
            let args = ["perplexity", "-f", file.to_str().unwrap(), "-c", "64", "--json", "--precision", precision];
            let value = json(&forced(&args, isa))["perplexity"].as_f64().unwrap();
            assert!(value.is_finite() && value > 1.0, "{isa} {precision}: {value}");
            let reference = *reference.get_or_insert(value);
            let relative = (value / reference - 1.0).abs();
            eprintln!("{precision} {isa}: perplexity {value:.4}, differs by {relative:.2e}");
            assert!(relative <= bound, "{precision} {isa}: {value}, not {reference}");
        }
    }
}

#[test]
fn embeddings_are_those_of_the_scalar_table() {
    let model = scratch("isa-embed");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ocelli-tiny");
    let args =
        ["convert", source.to_str().unwrap(), "--outdir", model.to_str().unwrap(), "--name", "tiny", "--overwrite"];
    ocelli(&args, None);
    let mmproj = model.join("mmproj-tiny-F16.gguf");
    for (precision, bound) in [("exact", 1e-4), ("fast", 5e-2)] {
        let mut reference = None;
        for isa in isas().into_iter().rev() {
            let file = fresh(&format!("embed-{precision}-{isa}.safetensors"));
            let (mmproj, path, shapes) = (mmproj.to_str().unwrap(), file.to_str().unwrap(), picture("number.png"));
            let args =
                ["embed", "--mmproj", mmproj, "-o", path, "--json", "--precision", precision, "--isa", isa, &shapes];
            assert_eq!(json(&ocelli(&args, None))["isa"], isa);
            let bytes = std::fs::read(&file).unwrap();
            let got = floats(&SafeTensors::deserialize(&bytes).unwrap(), "images.0.emb");
            let reference = reference.get_or_insert_with(|| got.clone());
            let off = difference(&got, reference);
            eprintln!("{precision} {isa}: embeddings differ by {off:.2e}");
            assert!(off <= bound, "{precision} {isa}: embeddings differ by {off:e}");
        }
    }
}

/// Conversion and quantisation go by the environment variable, and give the same bytes.
#[test]
fn files_are_the_same_with_every_isa() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ocelli-tiny");
    let folder = |isa: &str| scratch(&format!("isa-files-{isa}"));
    let mut reference: Option<Vec<(String, Vec<u8>)>> = None;
    let mut codecs = Vec::new();
    for isa in isas().into_iter().rev() {
        let folder = folder(isa);
        let out = folder.to_str().unwrap();
        for outtype in ["F16", "Q5_K_M"] {
            let args = ["convert", source.to_str().unwrap(), "--outdir", out, "--name", "tiny", "--overwrite"];
            ocelli(&[&args[..], &["--outtype", outtype]].concat(), Some(isa));
        }
        for ty in ["Q4_K_M", "Q3_K_S", "IQ4_NL", "Q8_0"] {
            let (from, to) = (folder.join("tiny-F16.gguf"), folder.join(format!("{ty}.gguf")));
            let args = ["quantize", "--overwrite", "--json", from.to_str().unwrap(), to.to_str().unwrap(), ty];
            let said = json(&ocelli(&args, Some(isa)));
            codecs.push((isa, said["codec"].as_str().unwrap().to_owned()));
        }
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        assert_eq!(files.len(), 7, "two models, their vision file, four quantised");
        for (name, bytes) in &files {
            if let Some((_, want)) = reference.iter().flatten().find(|(n, _)| n == name) {
                assert!(bytes == want, "{name} differs with {isa}");
            }
        }
        reference.get_or_insert(files);
    }
    for (isa, codec) in codecs {
        let fits: &[&str] = match isa {
            "avx512vnni" => &["avx512", "avx2"],
            "avxvnni" | "avx2" => &["avx2"],
            _ => &["portable"],
        };
        assert!(fits.contains(&&*codec), "{isa} quantises by {codec}");
    }
}

/// A name that cannot be honoured is an error wherever one is taken, by option and by environment.
#[test]
fn an_isa_that_is_not_there_is_refused() {
    let dir = scratch("isa-refused-folder");
    let (prose, out) = (scratch("isa-refused.txt"), fresh("isa-refused.safetensors"));
    std::fs::write(&prose, "some words ".repeat(100)).unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ocelli-tiny");
    let missing = Kernels::candidates().into_iter().find(|(_, needs)| needs.is_some()).map_or("mmx", |(name, _)| name);
    for name in ["mmx", missing] {
        let check = |out: &Output, what: &str| {
            let told = text(&out.stderr);
            assert!(!out.status.success(), "{what} took {name}");
            assert!(
                told.contains(name) && told.contains("available here") && told.contains("scalar"),
                "{what}: {told}"
            );
        };
        for args in [
            &["run", "-p", "x"][..],
            &["perplexity", "-f", prose.to_str().unwrap()],
            &["probe", "-p", "x", "-o", out.to_str().unwrap()],
        ] {
            check(&run(&[args, &["--isa", name]].concat(), None), args[0]);
            check(&run(args, Some(name)), args[0]);
        }
        for args in [
            &["quantize", "--dry-run", "missing.gguf", "Q4_K_M"][..],
            &["convert", tiny.to_str().unwrap(), "--outdir", dir.to_str().unwrap()],
        ] {
            check(&run(args, Some(name)), args[0]);
        }
    }
    assert!(!dir.exists() && !out.exists(), "something was written");
}
