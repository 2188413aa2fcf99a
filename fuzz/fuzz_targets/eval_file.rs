//! Opens any bytes as a file of questions, as lines of JSON or as a table, and asks for everything in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_eval::questions::{Dataset, PromptStyle, Rules};
use ocelli_fuzz::Bytes;

fuzz_target!(|input: &[u8]| {
    const RULES: [Rules; 7] =
        [Rules::OcrBench, Rules::MmBench, Rules::MmStar, Rules::Ai2d, Rules::ChartQa, Rules::DocVqa, Rules::TextVqa];
    let mut bytes = Bytes::new(input);
    let (name, rules) = match bytes.byte() {
        0..128 => ("questions.jsonl", None),
        _ => ("questions.tsv", Some(*bytes.one_of(&RULES))),
    };
    let style =
        *bytes.one_of(&[PromptStyle::Plain, PromptStyle::MiniCpmV, PromptStyle::MiniCpmV4, PromptStyle::Dataset]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join(name);
    std::fs::write(&path, bytes.rest()).expect("a temporary file");
    let Ok(mut dataset) = Dataset::open(&path, rules, style) else { return };
    for item in dataset.select(&[], Some(3)).expect("no task was asked for") {
        for row in item.rows() {
            let Ok(conversation) = dataset.conversation(*row) else { continue };
            for turn in &conversation.turns {
                for answer in ["", "A", "yes", "Answer: 12%", turn.answers.first().map_or("", String::as_str)] {
                    let score = turn.score(answer);
                    assert!((0.0..=1.0).contains(&score), "a score of {score}");
                }
            }
        }
    }
});
