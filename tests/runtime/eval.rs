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
use ocelli_quant::GgmlType;
use ocelli_runtime::find_beside;
use serde_json::{Value, json};

use crate::cli::{misused, ocelli, refused, text};
use crate::fixture::{Parts, mini};
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

/// Makes the file of answers as the program would, with `answers` in place of the model's; others are left out.
fn prepare(set: &Set, name: &str, more: &[&str], answers: &[(String, Value)]) {
    let file = set.at("answers.jsonl");
    let out = set.run(name, &[&["--answers", file.to_str().unwrap(), "--overwrite"], more].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let mut rows = set.answers("answers.jsonl");
    rows.retain_mut(|row| {
        let answer = answers.iter().find(|(id, _)| row["id"] == id.as_str());
        answer.inspect(|(_, answer)| row["answers"] = answer.clone()).is_some()
    });
    set.write("answers.jsonl", &rows);
}

#[test]
fn answers_are_taken_over() {
    let set = Set::new();
    let mut lines = conversations();
    lines[0]["turns"][0]["answers"] = json!(["red"]);
    let name = set.write("d.jsonl", &lines);
    let answers = set.at("answers.jsonl");
    let file = answers.to_str().unwrap();
    let more = ["--tasks", "single", "-n", "4"];
    prepare(&set, &name, &more, &[("one".to_owned(), json!([" red "]))]);
    let mut rows = set.answers("answers.jsonl");
    assert_eq!(rows[0]["scores"], json!([0.0]), "of what the model said");
    let mut old = rows[0].clone();
    old["id"] = "old".into();
    rows.push(old);
    set.write("answers.jsonl", &rows);
    let resume = [&more[..], &["--answers", file, "--resume"]].concat();
    let found = set.json(&name, &resume);
    assert_eq!(found["overall"], json!({ "asked": 2, "right": 1, "share": 0.5, "score": 0.5 }));
    assert_eq!(found["speed"]["answer_tokens"]["n"], 4, "only one was asked");
    let kept = set.answers("answers.jsonl");
    let ids: Vec<_> = kept.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!((ids, &kept[0]["scores"]), (vec!["one", "old", "three"], &json!([1.0])));

    // What is expected may be corrected without asking again; what is asked may not.
    lines[0]["turns"][0]["answers"] = json!(["green"]);
    set.write(&name, &lines);
    let found = set.json(&name, &resume);
    assert_eq!((&found["overall"]["right"], &found["speed"]["answer_tokens"]["n"]), (&json!(0), &json!(0)));
    assert_eq!(set.answers("answers.jsonl")[0]["scores"], json!([0.0]));
    let data = set.at(&name);
    for nonsense in ["nonsense\n", "nonsense", "{\"id\":1,\"answers\":[\"x\"]}\n", "{\"id\":\"a\"}\n{\"id\":", "[]\n"] {
        std::fs::write(&answers, nonsense).unwrap();
        refused(&set.args(&data, &resume), b"", &["answers.jsonl, line 1"]);
        assert_eq!(std::fs::read(&answers).unwrap(), nonsense.as_bytes(), "nothing of another file is lost");
    }
    refused(&set.args(&data, &["--answers", "/nowhere/at/all"]), b"", &["/nowhere/at"]);
    refused(&set.args(&data, &["--answers", data.to_str().unwrap(), "--overwrite"]), b"", &["same file as the input"]);
}

#[test]
fn an_evaluation_resumes_only_what_made_it() {
    let set = Set::new();
    let mut lines = conversations();
    let name = set.write("d.jsonl", &lines);
    let (data, answers) = (set.at(&name), set.at("answers.jsonl"));
    let file = ["--answers", answers.to_str().unwrap(), "-n", "4"];
    let args = |more: &[&'static str]| [&file[..], more].concat();
    assert!(set.run(&name, &file).status.success());
    let whole = std::fs::read(&answers).unwrap();
    let untouched = || assert_eq!(std::fs::read(&answers).unwrap(), whole);
    let refuse = |more: &[&'static str], words: &[&str]| {
        refused(&set.args(&data, &args(more)), b"", &[&["answers.jsonl"], words].concat());
        untouched();
    };
    refuse(&[], &["exists already", "--resume", "--overwrite"]);
    for (option, value, made_by) in [
        ("-n", "5", "--predict 4, this run has 5"),
        ("--image-max-slices", "1", "--image-max-slices 9"),
        ("--precision", "exact", "--precision fast"),
        ("--vision-precision", "exact", "--vision-precision fast"),
        ("--image-profile", "llama.cpp", "--image-profile reference"),
        ("-ctk", "q8_0", "--cache-type-k f16"),
        ("--chat-template", "zephyr", "another chat template"),
    ] {
        let more = ["--answers", answers.to_str().unwrap(), "--resume"];
        let n = if option == "-n" { &[][..] } else { &["-n", "4"] };
        refused(&set.args(&data, &[&more, n, &[option, value]].concat()), b"", &["answers.jsonl", made_by]);
        untouched();
    }
    let other = mini(FileType::Q8_0).to_str().unwrap().to_owned();
    let resumed = [&file[..], &["--resume"]].concat();
    let with_model = |model: &str, more: &[&str]| {
        let mut all: Vec<String> = set.args(&data, &resumed).iter().map(|arg| (*arg).to_owned()).collect();
        all[2] = model.to_owned();
        all.extend(more.iter().map(|arg| (*arg).to_owned()));
        all
    };
    let other = with_model(&other, &[]);
    refused(&other.iter().map(String::as_str).collect::<Vec<_>>(), b"", &["answers.jsonl", "another model"]);
    untouched();
    let mut parts = Parts::of(&find_beside(Path::new(&set.model), 256).unwrap());
    let tensor = parts.tensors.iter_mut().find(|t| t.ty == GgmlType::F32.into()).unwrap();
    tensor.bytes[0] ^= 1;
    let mmproj = set.at("other-mmproj.gguf");
    parts.write(&mmproj);
    let other = with_model(&set.model, &["--mmproj", mmproj.to_str().unwrap()]);
    refused(&other.iter().map(String::as_str).collect::<Vec<_>>(), b"", &["answers.jsonl", "another vision file"]);
    untouched();

    // The same name, another question or picture.
    let question = lines[0]["turns"][0]["question"].clone();
    lines[0]["turns"][0]["question"] = "What else?".into();
    set.write(&name, &lines);
    refuse(&["--resume"], &["`one`", "another question"]);
    lines[0]["turns"][0]["question"] = question;
    lines[1]["turns"].as_array_mut().unwrap().truncate(1);
    set.write(&name, &lines);
    refuse(&["--resume"], &["`two`", "another question"]);
    let name = set.write(&name, &conversations());
    let picture = std::fs::read(set.at("c.bmp")).unwrap();
    bmp(&set.at("c.bmp"), 50, 50, 9);
    refuse(&["--resume"], &["`three`", "another question"]);
    std::fs::write(set.at("c.bmp"), picture).unwrap();

    // Lines that do not say what made them.
    let mut rows = set.answers("answers.jsonl");
    rows[1].as_object_mut().unwrap().remove("run");
    set.write("unsigned.jsonl", &rows);
    let unsigned = set.at("unsigned.jsonl");
    let more = ["--answers", unsigned.to_str().unwrap(), "--resume", "-n", "4"];
    refused(&set.args(&data, &more), b"", &["unsigned.jsonl, line 2", "does not say"]);

    // Everything is known; nothing is asked, and the file stays as it is, byte by byte.
    let found = set.json(&name, &args(&["--resume"]));
    assert_eq!(found["speed"]["answer_tokens"]["n"], 0);
    untouched();
    // Ended anywhere while the last line was being written, or before its line feed.
    let start = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for end in [start + 1, start + 6, start + 40, whole.len() - 2] {
        std::fs::write(&answers, &whole[..end]).unwrap();
        let out = set.run(&name, &args(&["--resume"]));
        assert!(out.status.success() && text(&out.stderr).contains("line 5 is cut off"), "{}", text(&out.stderr));
        untouched();
    }
    std::fs::write(&answers, [&whole[..start], &[0; 100]].concat()).unwrap();
    assert!(set.run(&name, &args(&["--resume"])).status.success());
    untouched();
    std::fs::write(&answers, &whole[..whole.len() - 1]).unwrap();
    let found = set.json(&name, &args(&["--resume", "--tasks", "none"]));
    assert_eq!(found["speed"]["answer_tokens"]["n"], 0, "a whole line without its line feed is whole");
    untouched();
    std::fs::write(&answers, "my notes").unwrap();
    assert!(set.run(&name, &args(&["--overwrite"])).status.success());
    untouched();
}

/// A table whose rows' pictures are those of [`Set`] in turn, and answers for it.
fn table(set: &Set, name: &str, columns: &str, rows: &[(&str, &str)]) -> String {
    let encoded = |name: &str| base64::engine::general_purpose::STANDARD.encode(std::fs::read(set.at(name)).unwrap());
    let mut lines = format!("index\timage\tquestion\tanswer\t{columns}\n");
    let mut answers = Vec::new();
    for (at, (rest, answer)) in rows.iter().enumerate() {
        let picture = encoded(["a.bmp", "b.bmp", "c.bmp"][at % 3]);
        let (index, fields) = rest.split_once('|').map_or((at.to_string(), *rest), |(i, f)| (i.to_owned(), f));
        writeln!(lines, "{index}\t{picture}\tWhat is it?\t{fields}").unwrap();
        if !answer.is_empty() {
            answers.push((index, json!([answer])));
        }
    }
    std::fs::write(set.at(name), lines).unwrap();
    if name != "mine.tsv" {
        prepare(set, name, &["-n", "2"], &answers);
    }
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
    let answers = set.at("answers.jsonl");
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(set.args(&data, &["-n", "64", "--answers", answers.to_str().unwrap()]))
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
    assert_eq!(out.status.code(), Some(130), "{rest}");
    let done = rest.split("stopped after ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert_eq!(set.answers("answers.jsonl").len().to_string(), done, "what was paid for is kept");
    assert!(
        rest.contains("stopped after ") && rest.contains(" of 3000 questions") && rest.contains("interrupted"),
        "{rest}"
    );
    assert!(text(&out.stdout).contains("total so far"), "{}", text(&out.stdout));
}
