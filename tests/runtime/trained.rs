//! The trained model that Ocelli brings, asked from end to end as a user would: picture files in, words out.
//!
//! What these tests are for is everything between the two: slices, pixels, positions, rope, chat template, quantisation.
//! A mistake in one of those leaves the numbers plausible and the answers different. `data/trained/data.jsonl` has
//! questions of every kind with the answers that the float32 reference in `tools/train` gives with the same weights
//! (`evaluate.py --record`), right or wrong; `truth.jsonl` has the same questions with the right ones, and `doubtful.jsonl`
//! others with the reference's answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use crate::cli::text;

fn in_project(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).to_str().unwrap().to_owned()
}

/// A folder for what is converted here, the same in every run.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Runs with the user's cache folder among the tests' files.
fn ocelli(args: &[&str]) -> Output {
    let out = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(args)
        .env("XDG_CACHE_HOME", scratch("cache"))
        .env_remove("OCELLI_ISA")
        .output()
        .unwrap();
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    out
}

/// The model in full precision.
fn exact() -> &'static [String] {
    static FILES: OnceLock<Vec<String>> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = scratch("trained");
        let (model, out) = (in_project("models/ocelli-tiny"), folder.to_str().unwrap());
        let types = ["--outtype", "F32", "--vision-outtype", "f32"];
        ocelli(&[&["convert", &model, "--name", "tiny", "--outdir", out, "--overwrite"], &types[..]].concat());
        let file = folder.join("tiny-F32.gguf").to_str().unwrap().to_owned();
        ["-m", &file, "--precision", "exact"].map(str::to_owned).to_vec()
    })
}

/// Right answers and questions.
fn right(data: &str, more: &[&str]) -> (u64, u64) {
    let data = in_project(&format!("tests/data/trained/{data}.jsonl"));
    let out = ocelli(&[&["eval", "--data", &data, "--json", "-c", "1024", "-t", "2"], more].concat());
    let value: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(value["complete"], true);
    (value["overall"]["right"].as_u64().unwrap(), value["overall"]["asked"].as_u64().unwrap())
}

fn exactly(data: &str, more: &[&str]) -> (u64, u64) {
    let model: Vec<&str> = exact().iter().map(String::as_str).collect();
    right(data, &[&model, more].concat())
}

#[test]
fn every_answer_is_that_of_the_float_reference() {
    let (same, asked) = exactly("data", &[]);
    assert!(asked >= 80, "{asked} questions");
    assert_eq!(same, asked);
}

/// Questions that the model is in doubt about, words and pairs of pictures: what is slightly wrong before it, as tiles in
/// another order or positions a bucket off, shows in these answers first.
#[test]
fn doubtful_answers_are_those_of_the_float_reference() {
    let (same, asked) = exactly("doubtful", &[]);
    assert!(asked >= 10, "{asked} questions");
    assert_eq!(same, asked);
}

/// What the default conversion and 8-bit arithmetic may change is bounded here, and measured on many more questions in
/// docs/measurements.md.
#[test]
fn the_bundled_file_answers_almost_as_the_reference() {
    let (same, asked) = right("data", &[]);
    assert!(same * 100 >= asked * 85, "{same} of {asked}");
}

/// Of the same questions; an untrained model, or one that sees nothing, gets hardly any.
#[test]
fn most_answers_are_right() {
    let (right, asked) = exactly("truth", &[]);
    assert!(right * 100 >= asked * 75, "{right} of {asked}");
}

#[test]
fn tiles_and_template_matter() {
    let (all, asked) = exactly("data", &[]);
    let (overview, _) = exactly("data", &["--image-max-slices", "1"]);
    let (templateless, _) = exactly("data", &["--chat-template", "zephyr"]);
    assert!(overview < all, "{overview} of {asked} without tiles");
    assert!(templateless * 2 < asked, "{templateless} of {asked} in another chat format");
}

#[test]
fn demo_asks_the_bundled_model() {
    let out = ocelli(&["demo"]);
    let told = text(&out.stdout);
    assert_eq!(told.matches("\n$ ocelli run --temp 0 --image ").count(), 3, "{told}");
    let scene = "The picture shows a medium red circle at the top left, a medium yellow star in the middle and a big blue \
                 square at the bottom right.";
    for answer in ["star?'\nyellow\n", "there?'\n3\n", &format!("picture.'\n{scene}\n")] {
        assert!(told.contains(answer), "{told}");
    }
    let asked = ocelli(&["demo", "-p", "Where is the star?"]);
    assert_eq!(text(&asked.stdout).matches("\n$ ocelli run ").count(), 1);
}
