//! `ocelli eval`: files of questions in, figures out.
//!
//! The model has random weights, so that its answers are noise, but the same noise every time. Where a test wants right
//! answers, it expects the noise, or has the answers taken over from a file.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use ocelli_convert::mixture::FileType;
use serde_json::{Value, json};

use crate::cli::{misused, ocelli, refused, text};
use crate::fixture::mini;
use crate::vision::bmp;

struct Set {
    dir: tempfile::TempDir,
    model: String,
}

impl Set {
    /// Three small pictures and one that is cut into tiles.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, side, seed) in [("a.bmp", 40, 1), ("b.bmp", 60, 2), ("c.bmp", 50, 3), ("large.bmp", 500, 4)] {
            bmp(&dir.path().join(name), side, side, seed);
        }
        Self { dir, model: mini(FileType::F16).to_str().unwrap().to_owned() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, lines: &[Value]) -> String {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(self.at(name), lines).unwrap();
        name.to_owned()
    }

    fn args<'a>(&'a self, data: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let data = data.to_str().unwrap();
        [&["eval", "-m", &self.model, "-c", "1024", "-t", "1", "--data", data], more].concat()
    }

    fn run(&self, name: &str, more: &[&str]) -> Output {
        ocelli(&self.args(&self.at(name), more), b"")
    }

    fn json(&self, name: &str, more: &[&str]) -> Value {
        let out = self.run(name, &[&["--json"], more].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn answers(&self, name: &str) -> Vec<Value> {
        let file = std::fs::read_to_string(self.at(name)).unwrap();
        file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn turn(question: &str, answer: &str) -> Value {
    json!({ "question": question, "answers": [answer], "score": "exact" })
}

fn conversations() -> Vec<Value> {
    let one = |id: &str, task: &str, pictures: &str, names: &[&str], turns: Vec<Value>| json!({ "id": id, "task": task, pictures: names, "turns": turns });
    vec![
        one("one", "single", "images", &["a.bmp"], vec![turn("What is it?", "?")]),
        one("two", "turns", "images", &["b.bmp", "large.bmp"], vec![turn("First?", "?"), turn("And then?", "?")]),
        one("three", "single", "images", &["c.bmp"], vec![turn("What is it?", "?")]),
        one("four", "video", "video", &["a.bmp", "b.bmp", "large.bmp"], vec![turn("What moves?", "?")]),
        one("five", "none", "images", &[], vec![turn("Who are you?", "?")]),
    ]
}

#[test]
fn conversations_are_asked_and_counted() {
    let set = Set::new();
    let mut lines = conversations();
    let name = set.write("d.jsonl", &lines);
    let answers = set.at("answers.jsonl");
    let first = set.run(&name, &["-n", "6", "--answers", answers.to_str().unwrap()]);
    let told = text(&first.stderr);
    assert!(first.status.success(), "{told}");
    assert!(told.contains("5 questions in 0:") && told.contains("6 answers were cut at 6 tokens"), "{told}");
    let table = text(&first.stdout);
    assert!(
        table.starts_with("task           asked   right      score\nsingle             2       0     0.00 %\n"),
        "{table}"
    );
    assert!(table.ends_with("total              6       0     0.00 %\n"), "{table}");

    let given = set.answers("answers.jsonl");
    let ids: Vec<_> = given.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["one", "two", "three", "four", "five"]);
    assert_eq!((given[1]["answers"].as_array().unwrap().len(), &given[1]["scores"]), (2, &json!([0.0, 0.0])));
    assert_ne!(given[0]["answers"], given[2]["answers"], "other pictures, other noise");

    // A single question is what `run` answers.
    let picture = set.at("c.bmp");
    let run = ["run", "-m", &set.model, "-c", "1024", "-t", "1", "--temp", "0", "-n", "6"];
    let run = ocelli(&[&run[..], &["--image", picture.to_str().unwrap(), "-p", "What is it?"]].concat(), b"");
    assert_eq!(text(&run.stdout).trim(), given[2]["answers"][0].as_str().unwrap());

    // The same noise, expected for all turns but one.
    for (line, given) in lines.iter_mut().zip(&given) {
        for (turn, answer) in line["turns"].as_array_mut().unwrap().iter_mut().zip(given["answers"].as_array().unwrap())
        {
            turn["answers"] = json!(["never", answer]);
        }
    }
    lines[1]["turns"][0]["answers"] = json!(["never"]);
    let name = set.write("known.jsonl", &lines);
    let all = set.json(&name, &["-n", "6"]);
    assert_eq!(all["overall"], json!({ "asked": 6, "right": 5, "share": 5.0 / 6.0, "score": 5.0 / 6.0 }));
    assert_eq!(all["tasks"]["turns"], json!({ "asked": 2, "right": 1, "share": 0.5, "score": 0.5 }));
    assert_eq!(all["tasks"]["video"]["right"], 1);
    assert_eq!((&all["complete"], &all["rules"], &all["cut"]), (&json!(true), &Value::Null, &json!(6)));
    assert_eq!(all["options"]["predict"], 6);
    assert_eq!((&all["options"]["precision"], &all["options"]["vision_precision"]), (&json!("fast"), &json!("fast")));
    assert_eq!(all["speed"]["answer_tokens"]["n"], 36);
    assert_eq!(all["speed"]["pictures"]["n"], 7, "each picture once, and each frame, which has no tiles");

    let some = set.json(&name, &["-n", "6", "--limit", "1", "--tasks", "single,turns"]);
    assert_eq!(some["overall"]["asked"], 3);
    assert_eq!(some["tasks"].as_object().unwrap().keys().collect::<Vec<_>>(), ["single", "turns"]);

    // What a second turn adds to the prompt is computed, not the pictures again.
    let computed = |lines: &[Value]| {
        let found = set.json(&set.write("few.jsonl", lines), &["-n", "1"]);
        found["speed"]["prompt_tokens"]["n"].as_u64().unwrap()
    };
    let mut first_turn = lines[1].clone();
    first_turn["turns"].as_array_mut().unwrap().truncate(1);
    let (one, both) = (computed(&[first_turn]), computed(&lines[1..2]));
    assert!(one > 128 && both > one && both < one + 64, "{one} {both}");

    // Pictures are cut into tiles, as many as allowed.
    let tokens = |slices| {
        let found = set.json(&name, &["-n", "1", "--tasks", "turns", "--image-max-slices", slices]);
        assert_eq!(found["options"]["image_max_slices"].to_string(), slices);
        found["speed"]["prompt_tokens"]["n"].as_u64().unwrap()
    };
    assert!(tokens("9") > tokens("1"));
}

#[test]
fn answers_are_taken_over() {
    let set = Set::new();
    let mut lines = conversations();
    lines[0]["turns"][0]["answers"] = json!(["red"]);
    let name = set.write("d.jsonl", &lines);
    let answers = set.at("answers.jsonl");
    let file = answers.to_str().unwrap();
    std::fs::write(&answers, "{\"id\":\"one\",\"answers\":[\" red \"]}\n{\"id\":\"old\",\"answers\":[\"x\"]}\n")
        .unwrap();
    let found = set.json(&name, &["--tasks", "single", "-n", "4", "--answers", file, "--resume"]);
    assert_eq!(found["overall"], json!({ "asked": 2, "right": 1, "share": 0.5, "score": 0.5 }));
    assert_eq!(found["speed"]["answer_tokens"]["n"], 4, "only one was asked");
    let kept = set.answers("answers.jsonl");
    let ids: Vec<_> = kept.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["one", "three", "old"]);
    let args = |file| [&["--answers", file, "--resume"][..], &["--tasks", "turns"]].concat();
    assert_eq!(kept[1]["model"].as_str().unwrap().len(), 32, "text and vision file");
    std::fs::write(&answers, "{\"id\":\"two\",\"answers\":[\"x\",\"y\"],\"model\":\"0011223344556677\"}\n").unwrap();
    let out = set.run(&name, &args(file));
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(["d.jsonl, line 2", "another model", "--answers"].iter().all(|word| told.contains(word)), "{told}");
    std::fs::write(&answers, "{\"id\":\"two\",\"answers\":[\"x\"]}\n").unwrap();
    let out = set.run(&name, &args(file));
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("d.jsonl, line 2: the file of answers has 1 for `two`"),
        "{}",
        text(&out.stderr)
    );
    std::fs::write(&answers, "nonsense\n").unwrap();
    let data = set.at(&name);
    refused(&set.args(&data, &args(file)), b"", &["answers.jsonl, line 1"]);
    refused(&set.args(&data, &["--answers", "/nowhere/at/all"]), b"", &["/nowhere/at", "does not exist"]);
}

/// A table whose rows' pictures are those of [`Set`] in turn, and answers for it.
fn table(set: &Set, name: &str, columns: &str, rows: &[(&str, &str)]) -> String {
    let encoded = |name: &str| base64::engine::general_purpose::STANDARD.encode(std::fs::read(set.at(name)).unwrap());
    let mut lines = format!("index\timage\tquestion\tanswer\t{columns}\n");
    let mut answers = String::new();
    for (at, (rest, answer)) in rows.iter().enumerate() {
        let picture = encoded(["a.bmp", "b.bmp", "c.bmp"][at % 3]);
        let (index, fields) = rest.split_once('|').map_or((at.to_string(), *rest), |(i, f)| (i.to_owned(), f));
        writeln!(lines, "{index}\t{picture}\tWhat is it?\t{fields}").unwrap();
        if !answer.is_empty() {
            writeln!(answers, "{}", json!({ "id": index, "answers": [answer] })).unwrap();
        }
    }
    std::fs::write(set.at(name), lines).unwrap();
    std::fs::write(set.at("answers.jsonl"), answers).unwrap();
    name.to_owned()
}

/// The figures for a table with the answers that came with it.
fn figures(set: &Set, name: &str) -> Value {
    let answers = set.at("answers.jsonl");
    set.json(name, &["-n", "2", "--answers", answers.to_str().unwrap(), "--resume"])
}

#[test]
fn tables_are_scored_by_their_rules() {
    let set = Set::new();
    let (regular, formula) = ("Regular Text Recognition", "Handwritten Mathematical Expression Recognition");
    let name = table(
        &set,
        "OCRBench.tsv",
        "category",
        &[
            (&format!("['CENTRE']\t{regular}"), "the Centre."),
            (&format!("['x ^ 2']\t{formula}"), "$x^2$"),
            (&format!("['abc']\t{formula}"), "ABC"),
            // Not known from before: asked.
            (&format!("['never']\t{regular}"), ""),
        ],
    );
    let found = figures(&set, &name);
    assert_eq!((&found["rules"], &found["metric"]), (&json!("OCRBench"), &json!("contains")));
    assert_eq!(found["overall"]["right"], 2);
    assert_eq!(found["groups"]["Text Recognition"], json!({ "asked": 2, "right": 1, "share": 0.5, "score": 0.5 }));
    assert_eq!(found["speed"]["answer_tokens"]["n"], 2);
    assert_eq!(found["speed"]["pictures"]["n"], 1);

    let name = table(
        &set,
        "MMBench_DEV_EN.tsv",
        "A\tB\tcategory\tl2-category",
        &[
            ("1|A\tcat\tdog\tpets\tanimals", "A"),
            ("2|B\tcat\tdog\tpets\tanimals", "B"),
            ("1000001|B\tdog\tcat\tpets\tanimals", "cat"),
            ("1000002|A\tdog\tcat\tpets\tanimals", "B"),
            ("3|B\tcat\tdog\twild\tanimals", "I cannot say"),
        ],
    );
    let found = figures(&set, &name);
    assert_eq!(found["overall"]["asked"], 3, "rotations count as one");
    assert_eq!(found["tasks"]["pets"], json!({ "asked": 2, "right": 1, "share": 0.5, "score": 0.5 }));
    assert_eq!(found["tasks"]["wild"]["right"], 0);
    assert_eq!(found["groups"]["animals"]["asked"], 3);
    assert_eq!(found["metric"], "multiple-choice");

    for name in ["MMStar.tsv", "AI2D_TEST.tsv"] {
        let rows = [("A\tcat\tdog\tpets", "The answer is A."), ("B\tcat\tdog\twild", "cat")];
        let name = table(&set, name, "A\tB\tcategory", &rows);
        let found = figures(&set, &name);
        assert_eq!((&found["overall"]["right"], &found["tasks"]["pets"]["right"]), (&json!(1), &json!(1)), "{name}");
    }

    let rows = [
        ("100\ttest_human", "104"),
        ("100\ttest_human", "106"),
        ("Yes\ttest_human", "yes"),
        ("7\ttest_augmented", "8"),
    ];
    let name = table(&set, "ChartQA_TEST.tsv", "split", &rows);
    let found = figures(&set, &name);
    assert_eq!(found["overall"]["score"], json!(1.0 / 3.0), "the mean of two thirds and nothing");
    assert_eq!(found["overall"]["right"], 2);

    let name = table(&set, "DocVQA_VAL.tsv", "split", &[("['abcd']\tval", "abc"), ("['abcd']\tval", "xy")]);
    let found = figures(&set, &name);
    assert_eq!(found["tasks"], json!({ "DocVQA": { "asked": 2, "right": 0, "share": 0.0, "score": 0.375 } }));

    let people = "['a', 'a', 'b', 'b', 'b', 'c', 'c', 'c', 'c', 'd']\tval";
    let name = table(&set, "TextVQA_VAL.tsv", "split", &[(people, "The A."), (people, "C"), (people, "d")]);
    let found = figures(&set, &name);
    assert!((found["overall"]["score"].as_f64().unwrap() - (0.6 + 1.0 + 0.3) / 3.0).abs() < 1e-9, "{found}");
    let name = table(&set, "mine.tsv", "split", &[(people, "x")]);
    refused(&set.args(&set.at(&name), &[]), b"", &["mine.tsv", "--rules", "TextVQA"]);
    let found = set.json(&name, &["-n", "2", "--rules", "textvqa", "--prompts", "plain"]);
    assert_eq!((&found["rules"], &found["prompts"]), (&json!("TextVQA"), &json!("plain")));
}

#[test]
fn what_cannot_be_asked_is_told() {
    let set = Set::new();
    let data = set.at(&set.write("d.jsonl", &conversations()));
    let none = set.at("none.jsonl");
    refused(&set.args(&none, &[]), b"", &["none.jsonl"]);
    misused(&set.args(&data, &["--tasks", "single,double"]), &["`double`", "single, turns, video, none"]);
    misused(&set.args(&data, &["--limit", "0"]), &["--limit"]);
    misused(&set.args(&data, &["--limit", "-3"]), &["-3"]);
    misused(&set.args(&data, &["--rules", "BLINK"]), &["BLINK", "MMBench"]);
    misused(&set.args(&data, &["--prompts", "cot"]), &["cot", "minicpm-v-4"]);
    misused(&set.args(&data, &["--resume"]), &["--answers"]);
    misused(&set.args(&data, &["--temp", "1"]), &["--temp"]);
    misused(&["eval", "-m", &set.model], &["--data"]);
    let empty = set.at("empty.jsonl");
    std::fs::write(&empty, "").unwrap();
    refused(&set.args(&empty, &[]), b"", &["holds no question"]);
    let broken =
        set.at(&set.write("broken.jsonl", &[json!({ "id": "x", "task": "t", "images": ["no.png"], "turns": [] })]));
    refused(&set.args(&broken, &[]), b"", &["broken.jsonl, line 1"]);

    // What turns up on the way ends the run, after the figures so far.
    std::fs::write(set.at("text.png"), b"no picture at all").unwrap();
    let mut lines = conversations();
    lines[2]["images"] = json!(["text.png"]);
    let out = set.run(&set.write("later.jsonl", &lines), &["-n", "2"]);
    let (told, table) = (text(&out.stderr), text(&out.stdout));
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains("stopped after 2 of 5 questions") && told.contains("later.jsonl, line 3"), "{told}");
    assert!(told.contains("text.png: no picture") && table.contains("total so far       3"), "{told}{table}");
    let out = set.run("later.jsonl", &["-n", "2", "--json"]);
    let value: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&value["complete"], &value["questions"]), (&json!(false), &json!({ "answered": 2, "of": 5 })));
    let data = set.at("d.jsonl");
    let out = ocelli(&["eval", "-m", &set.model, "-c", "16", "-t", "1", "--data", data.to_str().unwrap()], b"");
    assert!(text(&out.stderr).contains("do not fit the context of 16"), "{}", text(&out.stderr));
    assert_eq!(out.status.code(), Some(1));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_the_figures_so_far() {
    let set = Set::new();
    let lines: Vec<_> = (0..3000)
        .map(|i| json!({ "id": i.to_string(), "task": "t", "images": ["a.bmp"], "turns": [turn("What?", "?")] }))
        .collect();
    let data = set.at(&set.write("long.jsonl", &lines));
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(set.args(&data, &["-n", "64"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The vision file is opened for the first question, when Ctrl-C is watched already.
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("vision: ") {
        line.clear();
        assert_ne!(told.read_line(&mut line).unwrap(), 0, "the program ended");
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{rest}");
    assert!(
        rest.contains("stopped after ") && rest.contains(" of 3000 questions") && rest.contains("interrupted"),
        "{rest}"
    );
    assert!(text(&out.stdout).contains("total so far"), "{}", text(&out.stdout));
}
