//! Files of questions of our own making, right and wrong.

use std::path::PathBuf;

use base64::Engine as _;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("a.png", b"not decoded here");
        folder.write("b.png", b"nor here");
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self, name: &str, text: &str) -> Result<Dataset, EvalError> {
        Dataset::open(&self.write(name, text.as_bytes()), None, PromptStyle::MiniCpmV)
    }

    #[track_caller]
    fn refused(&self, name: &str, text: &str, words: &[&str]) {
        let told = self.open(name, text).unwrap_err().to_string();
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    }
}

/// Base64 of some bytes that stand for a picture, longer than a reference.
fn picture(seed: u8) -> String {
    base64::engine::general_purpose::STANDARD.encode([seed; 60])
}

const LINE: &str = r#"{"id": "x", "task": "t", "images": ["a.png"], "turns": [{"question": "Q?", "answers": ["a"]}]}"#;

#[test]
fn conversations_are_read() {
    let folder = Folder::new();
    let choice = r#"{"id": "y", "task": "u", "video": ["a.png", "./b.png"], "turns": [
        {"question": "1", "answers": ["B"], "score": "multiple-choice", "options": ["one", "two"]},
        {"question": "2", "answers": ["x", "y"], "score": "anls"}]}"#
        .replace('\n', " ");
    let mut data = folder.open("d.jsonl", &format!("\u{feff}{LINE}\n\n{choice}")).unwrap();
    let tasks: Vec<_> = data.items().iter().map(|item| item.task.as_str()).collect();
    assert_eq!(tasks, ["t", "u"]);
    let first = data.conversation(0).unwrap();
    assert_eq!(first.pictures, [Picture::File(folder.0.path().join("a.png"))]);
    assert_eq!((first.turns[0].score(" a\n"), first.turns[0].score("b")), (1.0, 0.0));
    assert!(first.place.ends_with("d.jsonl, line 1") && !first.is_video);
    let second = data.conversation(1).unwrap();
    assert!(second.is_video && second.pictures.len() == 2 && second.place.ends_with("line 3"));
    assert_eq!(second.turns[0].options, [('A', "one".to_owned()), ('B', "two".to_owned())]);
    assert_eq!((second.turns[0].score("B."), second.turns[0].score("one")), (1.0, 0.0));
    assert_eq!(second.turns[1].metric, Metric::Anls);
    assert!(matches!(data.conversation(2), Err(EvalError::Row { row: 2 })));
}

#[test]
fn wrong_lines_are_named() {
    let folder = Folder::new();
    let with = |from: &str, to: &str| LINE.replace(from, to);
    folder.refused("d.jsonl", &format!("{LINE}\n{{\"id\": "), &["d.jsonl, line 2", "no conversation"]);
    folder.refused("d.jsonl", &with("images", "image"), &["line 1", "unknown field `image`"]);
    folder.refused("d.jsonl", &format!("{LINE}\n{LINE}"), &["line 2", "the id `x` of line 1"]);
    folder.refused("d.jsonl", &with("a.png", "c.png"), &["line 1", "c.png does not exist"]);
    for outside in ["/etc/passwd", "../a.png", "x/../../a.png", ""] {
        folder.refused("d.jsonl", &with("a.png", outside), &["line 1", "picture"]);
    }
    folder.refused("d.jsonl", &with("\"a\"]", "\"a\"], \"score\": \"bleu\""), &["`bleu`", "exact, contains"]);
    folder.refused("d.jsonl", &with("[\"a\"]", "[]"), &["without an answer"]);
    folder.refused("d.jsonl", &with("\"a\"]", "\"a\"], \"score\": \"multiple-choice\""), &["`options`"]);
    folder.refused("d.jsonl", &with("\"a\"]", "\"a\"], \"options\": [\"x\"]"), &["does not look at"]);
    let stray = with("\"a\"]", "\"C\"], \"score\": \"multiple-choice\", \"options\": [\"x\", \"y\"]");
    folder.refused("d.jsonl", &stray, &["`C`", "no letter"]);
    folder.refused("d.jsonl", r#"{"id": "x", "task": "t", "turns": []}"#, &["asks nothing"]);
    folder.refused("d.jsonl", &with("\"images\"", "\"video\": [\"a.png\"], \"images\""), &["both"]);
    folder.refused("d.jsonl", "\n\n", &["holds no question"]);
    folder.refused("d.jsonl", "\u{0}\u{1}", &["line 1"]);
    folder.refused("d.txt", LINE, &[".jsonl", ".tsv"]);
    let rules = Dataset::open(&folder.write("d.jsonl", LINE.as_bytes()), Some(Rules::Ai2d), PromptStyle::Plain);
    assert!(rules.unwrap_err().to_string().contains("--rules"));
    assert!(Dataset::open(&folder.0.path().join("none.jsonl"), None, PromptStyle::Plain).is_err());
}

#[test]
fn tasks_and_limits_choose() {
    let folder = Folder::new();
    let lines: Vec<_> = (0..9)
        .map(|i| LINE.replace("\"x\"", &format!("\"{i}\"")).replace("\"t\"", ["\"s\"", "\"t\"", "\"u\""][i % 3]))
        .collect();
    let data = folder.open("d.jsonl", &lines.join("\n")).unwrap();
    let rows = |tasks: &[&str], limit| -> Vec<usize> {
        let tasks: Vec<_> = tasks.iter().map(|t| (*t).to_owned()).collect();
        data.select(&tasks, limit).unwrap().iter().flat_map(|item| item.rows().to_vec()).collect()
    };
    assert_eq!(rows(&[], None).len(), 9);
    assert_eq!(rows(&[], Some(2)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(rows(&["u", "s"], Some(1)), [0, 2]);
    assert_eq!(rows(&["t"], Some(0)), [0usize; 0]);
    let told = data.select(&["v".to_owned()], None).unwrap_err().to_string();
    assert!(told.contains("`v`") && told.contains("s, t, u"), "{told}");
}

#[test]
fn a_table_of_multiple_choice_in_rotations() {
    let folder = Folder::new();
    let (one, two) = (picture(1), picture(2));
    let table = format!(
        "\u{feff}index\timage\tquestion\thint\tA\tB\tC\tanswer\tcategory\tl2-category\n\
         1\t{one}\tWhat?\tlook\tcat\tdog\t\tA\tpets\tanimals\n\
         2\t\"['{one}', '{two}']\"\t\"Which\none?\"\tnan\tx\ty\tN/A\tB\tletters\tsigns\n\
         1000001\t1\tWhat?\tlook\tdog\tcat\t\tB\tpets\tanimals\n"
    );
    let mut data = folder.open("MMBench_DEV_EN.tsv", &table).unwrap();
    assert_eq!(data.rules(), Some(Rules::MmBench));
    let items = data.items().to_vec();
    assert_eq!((items[0].rows(), items[1].rows()), (&[0, 2][..], &[1][..]));
    assert!(items[0].is_circular() && !items[1].is_circular());
    assert_eq!((items[0].task.as_str(), items[0].group.as_deref()), ("pets", Some("animals")));
    let rotated = data.conversation(2).unwrap();
    assert_eq!(rotated.pictures, [Picture::Bytes(vec![1; 60])], "the picture of row 1");
    assert_eq!(rotated.id, "1000001");
    let turn = &rotated.turns[0];
    assert!(turn.question.starts_with("Hint: look\nQuestion: What?\nOptions:\nA. dog\nB. cat\n\nAnswer with"));
    assert_eq!((turn.score("B"), turn.score("cat"), turn.score("A"), turn.score("fish")), (1.0, 1.0, 0.0, 0.0));
    let second = data.conversation(1).unwrap();
    assert_eq!(second.pictures.len(), 2);
    assert_eq!(second.turns[0].options.len(), 2, "N/A is no option");
    assert!(second.turns[0].question.starts_with("Question: Which\none?\n"));
    assert!(second.place.ends_with("line 3"), "{}", second.place);
    assert_eq!(data.conversation(0).unwrap().pictures, rotated.pictures, "rows can be read in any order");
}

#[test]
fn tables_of_questions() {
    let folder = Folder::new();
    let one = picture(3);
    let head = "index\timage\tquestion\tanswer";
    let mut data = folder
        .open(
            "OCRBench.tsv",
            &format!(
                "{head}\tcategory\n0\t{one}\tread\t['HELLO']\tRegular Text Recognition\n\
                 1\t0\tread\t['a b']\tHandwritten Mathematical Expression Recognition\n"
            ),
        )
        .unwrap();
    let groups: Vec<_> = data.items().iter().map(|item| item.group.as_deref()).collect();
    assert_eq!(groups, [Some("Text Recognition"), None]);
    let turn = |data: &mut Dataset, row| data.conversation(row).unwrap().turns.remove(0);
    assert_eq!(turn(&mut data, 0).score("It says hello."), 1.0);
    assert_eq!(turn(&mut data, 1).score("$ab$"), 1.0);
    assert_eq!(turn(&mut data, 0).before, "Answer the question using a single word or phrase.");

    let mut data = folder
        .open(
            "ChartQA_TEST.tsv",
            &format!("{head}\tsplit\n0\t{one}\tq\t42\ttest_human\n1\t0\tq\tYes\ttest_augmented\n"),
        )
        .unwrap();
    assert_eq!(data.items()[1].task, "test_augmented");
    assert_eq!((turn(&mut data, 0).score("43"), turn(&mut data, 1).score("yes")), (1.0, 1.0));

    let mut data =
        folder.open("DocVQA_VAL.tsv", &format!("{head}\n0\t{one}\tq\t\"[\"\"ab\"\", \"\"abcd\"\"]\"\n")).unwrap();
    assert_eq!(data.items()[0].task, "DocVQA");
    assert_eq!(turn(&mut data, 0).score("abc"), 0.75);

    let people = "['a', 'a', 'b', 'b', 'b', 'c', 'c', 'c', 'c', 'd']";
    let mut data = folder.open("TextVQA_VAL.tsv", &format!("{head}\n0\t{one}\tq\t{people}\n")).unwrap();
    assert!((turn(&mut data, 0).score("B") - 0.9).abs() < 1e-12);
    assert_eq!(turn(&mut data, 0).score("c"), 1.0);

    let text = "index\timage_path\tquestion\tanswer\tA\tB\n7\ta.png\tq\tB\tx\ty\n8\t['a.png', 'b.png']\tq\tA\tx\ty\n";
    let path = folder.write("mine.tsv", text.as_bytes());
    let mut data = Dataset::open(&path, Some(Rules::Ai2d), PromptStyle::MiniCpmV4).unwrap();
    assert_eq!(data.conversation(0).unwrap().pictures, [Picture::File(folder.0.path().join("a.png"))]);
    assert_eq!(data.conversation(1).unwrap().pictures.len(), 2);
    let asked = "Answer: A is near, but in the end and after all of it:\nAnswer: B";
    let path = folder.write("mine2.tsv", text.as_bytes());
    let mut steps = Dataset::open(&path, Some(Rules::MmStar), PromptStyle::MiniCpmV4).unwrap();
    assert_eq!(steps.conversation(0).unwrap().turns[0].score(asked), 1.0);
}

#[test]
fn wrong_tables_are_named() {
    let folder = Folder::new();
    let one = picture(1);
    let refused = |name: &str, text: String, words: &[&str]| folder.refused(name, &text, words);
    let head = "index\timage\tquestion\tanswer";
    refused("MMVet.tsv", format!("{head}\n"), &["--rules", "OCRBench"]);
    refused(
        "DocVQA.tsv",
        format!("index\timage\tquestion\n0\t{one}\tq\n"),
        &["no column `answer`", "index, image, question"],
    );
    refused("DocVQA.tsv", "index\tquestion\tanswer\n0\tq\ta\n".into(), &["no column `image`"]);
    refused("MMStar.tsv", format!("{head}\n0\t{one}\tq\ta\n"), &["no column `A`", "MMStar"]);
    refused("OCRBench.tsv", format!("{head}\n0\t{one}\tq\ta\n"), &["no column `category`"]);
    refused("DocVQA.tsv", format!("{head}\n"), &["holds no question"]);
    refused("DocVQA.tsv", String::new(), &["no column `index`"]);
    refused("DocVQA.tsv", format!("{head}\n0\t{one}\tq\ta\n1\t{one}\tq\n"), &["line 3", "3 fields", "4"]);
    refused("DocVQA.tsv", format!("{head}\n0\t{one}*\tq\ta\n"), &["line 2", "no base64"]);
    refused("DocVQA.tsv", format!("{head}\n0\t['{one}', '%{one}']\tq\ta\n"), &["line 2", "no base64"]);
    refused("DocVQA.tsv", format!("{head}\n0\t['{one}', '{one}\tq\ta\n"), &["line 2", "cut short"]);
    refused("DocVQA.tsv", format!("{head}\n0\t{one}\tq\ta\n0\t{one}\tq\ta\n"), &["line 3", "the index `0` of line 2"]);
    refused("DocVQA.tsv", format!("{head}\n0\t{one}\tq\ta\n1\t5\tq\ta\n"), &["line 3", "`5`", "no index"]);
    refused("DocVQA.tsv", format!("{head}\n0\t{one}\tq\ta\n1\t0\tq\ta\n2\t1\tq\ta\n"), &["line 4", "none of its own"]);
    refused("DocVQA.tsv", format!("{head}\n0\t\tq\ta\n"), &["line 2", "no picture"]);
    refused("DocVQA_TEST.tsv", format!("{head}\n0\t{one}\tq\t\n"), &["line 2", "no answer"]);
    refused("DocVQA.tsv", format!("{head}\n0\t{one}\tq\t[]\n"), &["line 2", "empty list"]);
    refused("AI2D_TEST.tsv", format!("{head}\tA\tB\n0\t{one}\tq\tC\tx\ty\n"), &["line 2", "`C`", "no letter"]);
    refused("MMBench.tsv", format!("{head}\tA\tB\n1000005\t{one}\tq\tA\tx\ty\n"), &["line 2", "question 5"]);
    refused("MMBench.tsv", format!("{head}\tA\tB\nfive\t{one}\tq\tA\tx\ty\n"), &["line 2", "`five`"]);
    let outside = "index\timage_path\tquestion\tanswer\n0\t../a.png\tq\ta\n";
    refused("DocVQA.tsv", outside.into(), &["line 2", "outside"]);
    let path = folder.write("DocVQA.tsv", format!("{head}\n0\t{one}\tq\t").as_bytes());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"caf\xe9\n");
    std::fs::write(&path, bytes).unwrap();
    let told = Dataset::open(&path, None, PromptStyle::Plain).unwrap_err().to_string();
    assert!(told.contains("line 2") && told.contains("not UTF-8"), "{told}");
}

/// Whatever is done to a file, it is read or refused: cut anywhere, or with one byte in four changed.
#[test]
fn damaged_files_do_no_harm() {
    let folder = Folder::new();
    let (one, line) = (picture(1), LINE.replace('t', "t, \u{e9}\\u00e9"));
    let table = format!(
        "index\timage\tquestion\tanswer\tA\tB\tcategory\n1\t{one}\tq\tA\tx\ty\tp\n2\t\"['{one}']\"\tq\tB\tx\ty\tp\n\
         1000001\t1\tq\tB\t\"y\"\tx\tp\n"
    );
    for (name, whole) in [("MMBench.tsv", table.as_bytes()), ("d.jsonl", line.as_bytes())] {
        let check = |bytes: &[u8]| {
            if let Ok(mut data) = Dataset::open(&folder.write(name, bytes), None, PromptStyle::MiniCpmV) {
                let rows: Vec<_> = data.items().iter().flat_map(|item| item.rows().to_vec()).collect();
                for row in rows {
                    let conversation = data.conversation(row).unwrap();
                    conversation.turns.iter().for_each(|turn| assert!((0.0..=1.0).contains(&turn.score("A. x"))));
                }
            }
        };
        for at in 0..whole.len() {
            check(&whole[..at]);
            if at % 4 != 0 {
                continue;
            }
            for byte in [b'"', b'\t', b'\n', b'[', b'\'', 0, 0xff] {
                let mut changed = whole.to_vec();
                changed[at] = byte;
                check(&changed);
            }
        }
    }
}

#[test]
fn rows_without_end_are_refused() {
    let folder = Folder::new();
    let table = format!("index\timage\tquestion\tanswer\n0\t{}\tq\ta\n1\t{}\n", picture(1), "A".repeat(400_000));
    let path = folder.write("DocVQA.tsv", table.as_bytes());
    let open = |most| tsv::Table::open_within(&path, Rules::DocVqa, PromptStyle::Plain, most).map(drop);
    let told = open(100_000).unwrap_err().to_string();
    assert!(told.contains("line 3") && told.contains("it goes on for more than"), "{told}");
    assert!(open(1_000_000).unwrap_err().to_string().contains("2 fields"));
    let long = format!("{LINE}\n{{\"id\": \"{}", "x".repeat(17 << 20));
    folder.refused("d.jsonl", &long, &["line 2", "longer than 16 MiB"]);
}

#[test]
fn what_is_said_before_pictures_stands_before_them() {
    use crate::marker;
    use ocelli_image::Profile;
    let (one, two) = (marker(0), marker(1));
    assert_eq!(content(Profile::Reference, "Look.", 2, "What?"), format!("Look.\n{one}\n{two}\nWhat?"));
    assert_eq!(content(Profile::LlamaCpp, "Look.", 2, "What?"), format!("Look.{one}{two}What?"));
    assert_eq!(content(Profile::Reference, "", 0, "What?"), "What?");
    let forged = content(Profile::Reference, &one, 0, &two);
    assert!(!forged.contains(&one) && !forged.contains(&two), "text is no picture");
}
