//! The benchmarks whose tables are read: how a row becomes a prompt, how its answer is scored, what it counts under.
//!
//! The facts are those of VLMEvalKit: its dataset classes, and the prompts of its MiniCPM-V classes.

use std::path::Path;

use super::{EvalError, Metric};

/// The rules of a benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rules {
    /// Reading: the answer contains an expected one; by category.
    OcrBench,
    /// Multiple choice in rotations, all of which have to be right; by category.
    MmBench,
    /// Multiple choice; by category.
    MmStar,
    /// Multiple choice about diagrams.
    Ai2d,
    /// Questions about charts, relaxed accuracy; the mean of human and augmented questions.
    ChartQa,
    /// Questions about documents, ANLS.
    DocVqa,
    /// Questions about texts in pictures, soft agreement with ten people.
    TextVqa,
}

const NAMES: [(Rules, &str); 7] = [
    (Rules::OcrBench, "OCRBench"),
    (Rules::MmBench, "MMBench"),
    (Rules::MmStar, "MMStar"),
    (Rules::Ai2d, "AI2D"),
    (Rules::ChartQa, "ChartQA"),
    (Rules::DocVqa, "DocVQA"),
    (Rules::TextVqa, "TextVQA"),
];

/// OCRBench's category of formulas, which is compared without blanks.
const FORMULAS: &str = "Handwritten Mathematical Expression Recognition";

/// OCRBench's categories that its table adds up as one.
const TEXT_RECOGNITION: [&str; 6] = [
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
];

impl Rules {
    /// Their name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(rules, _)| *rules == self).map_or("?", |(_, name)| name)
    }

    /// All names.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(_, name)| *name).collect()
    }

    /// The rules of that name, whatever its case.
    ///
    /// # Errors
    /// When there are none.
    pub fn from_name(name: &str) -> Result<Self, EvalError> {
        let unknown = || EvalError::Name { what: "rules", name: name.to_owned(), known: Self::names() };
        Self::find(name).ok_or_else(unknown)
    }

    fn find(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|(rules, _)| *rules)
    }

    /// The rules of a table named as VLMEvalKit names it: `MMBench_DEV_EN.tsv`, `AI2D_TEST.tsv`.
    ///
    /// # Errors
    /// When the name's first word is none of a benchmark. OCRBench's second version has other rules.
    pub fn of_file(path: &Path) -> Result<Self, EvalError> {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let (first, rest) = stem.split_once('_').unwrap_or((stem, ""));
        let later_version = rest.to_ascii_lowercase().split('_').any(|word| word == "v2");
        Self::find(first)
            .filter(|rules| *rules != Self::OcrBench || !later_version)
            .ok_or_else(|| EvalError::UnknownRules { path: path.to_owned(), known: Self::names() })
    }

    /// The metric of a row of `category`.
    pub(super) fn metric(self, category: Option<&str>) -> Metric {
        match self {
            Self::OcrBench if category == Some(FORMULAS) => Metric::ContainsFormula,
            Self::OcrBench => Metric::Contains,
            Self::MmBench | Self::MmStar | Self::Ai2d => Metric::MultipleChoice,
            Self::ChartQa => Metric::Relaxed,
            Self::DocVqa => Metric::Anls,
            Self::TextVqa => Metric::Vqa,
        }
    }

    /// The metric that reports name.
    #[must_use]
    pub fn main_metric(self) -> Metric {
        self.metric(None)
    }

    /// Whether a question is asked with its options.
    pub(super) fn is_multiple_choice(self) -> bool {
        self.metric(None) == Metric::MultipleChoice
    }

    /// Whether rows are rotations of each other.
    pub(super) fn is_circular(self) -> bool {
        self == Self::MmBench
    }

    /// Whether the total is the mean of the tasks, not of the questions.
    #[must_use]
    pub fn total_is_mean_of_tasks(self) -> bool {
        self == Self::ChartQa
    }

    /// The columns whose value a row counts under; the first that a table has.
    pub(super) fn task_columns(self) -> &'static [&'static str] {
        match self {
            Self::OcrBench | Self::MmBench | Self::MmStar | Self::Ai2d => &["category"],
            Self::ChartQa => &["split"],
            Self::DocVqa | Self::TextVqa => &[],
        }
    }

    /// The second sum that a row counts in, from its category and second category.
    pub(super) fn group(self, category: Option<&str>, second: Option<&str>) -> Option<String> {
        match self {
            Self::OcrBench if category.is_some_and(|c| TEXT_RECOGNITION.contains(&c)) => {
                Some("Text Recognition".to_owned())
            }
            Self::MmBench | Self::MmStar => second.map(str::to_owned),
            _ => None,
        }
    }
}

/// How a row of a table is worded as a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PromptStyle {
    /// As VLMEvalKit asks MiniCPM-V, without steps: short answers.
    #[default]
    MiniCpmV,
    /// As MiniCPM-V 4.0 was evaluated: OCRBench, MMStar and ChartQA ask for steps before the answer.
    MiniCpmV4,
    /// As VLMEvalKit asks models that have no prompts of their own.
    Dataset,
    /// The question (with its options) and nothing else.
    Plain,
}

const STYLES: [(PromptStyle, &str); 4] = [
    (PromptStyle::MiniCpmV, "minicpm-v"),
    (PromptStyle::MiniCpmV4, "minicpm-v-4"),
    (PromptStyle::Dataset, "dataset"),
    (PromptStyle::Plain, "plain"),
];

const SHORT: &str = "Answer the question using a single word or phrase.";
const LETTER: &str = "\nAnswer with the option's letter from the given choices directly.";
const SELECT: &str = "Please select the correct answer from the options above. \n";
const LOOK_CAREFULLY: &str = "Carefully observe the image and answer the OCR-related questions below. \n\n";
const STEPS_TO_OPTION: &str = "Carefully read the following multichoice question, solve it step by step and finally pick \
                               the option associated with the correct answer in the format of \"Answer: selected \
                               option\n\n";
const STEPS_TO_PHRASE: &str = "Read the following question carefully, solve it step by step, and then output the final \
                               answer in the format of \"Answer: single number or single word or phrase\".\n\n";

/// A worded row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wording {
    pub(super) before: &'static str,
    pub(super) question: String,
    pub(super) after_steps: bool,
}

impl PromptStyle {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        STYLES.iter().find(|(style, _)| *style == self).map_or("?", |(_, name)| name)
    }

    /// The style of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_name(name: &str) -> Result<Self, EvalError> {
        let known = || STYLES.iter().map(|(_, name)| *name).collect();
        STYLES.iter().find(|(_, n)| *n == name).map(|(style, _)| *style).ok_or_else(|| EvalError::Name {
            what: "prompts",
            name: name.to_owned(),
            known: known(),
        })
    }

    /// What is asked in a row.
    pub(super) fn word(self, rules: Rules, question: &str, hint: Option<&str>, options: &[(char, String)]) -> Wording {
        let steps = self == Self::MiniCpmV4 && matches!(rules, Rules::OcrBench | Rules::MmStar | Rules::ChartQa);
        let wording = |before, question| Wording { before, question, after_steps: false };
        if !rules.is_multiple_choice() {
            return match self {
                Self::MiniCpmV4 if rules == Rules::OcrBench => wording("", format!("{LOOK_CAREFULLY}{question}")),
                _ if steps => Wording { after_steps: true, ..wording("", format!("{STEPS_TO_PHRASE}{question}")) },
                Self::MiniCpmV | Self::MiniCpmV4 => wording(SHORT, question.to_owned()),
                Self::Dataset if rules != Rules::OcrBench => wording("", format!("{question}\n{SHORT}")),
                Self::Dataset | Self::Plain => wording("", question.to_owned()),
            };
        }
        let hint = hint.map_or(String::new(), |hint| format!("Hint: {hint}\n"));
        let lines: String = options.iter().map(|(letter, text)| format!("{letter}. {text}\n")).collect();
        let posed = format!("{hint}Question: {question}\nOptions:\n{lines}");
        match self {
            _ if steps => {
                let question = format!("{STEPS_TO_OPTION}{hint}{question}\n{lines}");
                Wording { after_steps: true, ..wording("", question) }
            }
            Self::MiniCpmV | Self::MiniCpmV4 => wording("", format!("{posed}{LETTER}")),
            Self::Dataset => wording("", format!("{posed}{SELECT}")),
            Self::Plain => wording("", format!("{hint}{question}\n{}", lines.trim_end())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_their_rules() {
        let of = |name: &str| Rules::of_file(Path::new(name)).ok();
        assert_eq!(of("data/OCRBench.tsv"), Some(Rules::OcrBench));
        assert_eq!(of("MMBench_DEV_EN_V11.tsv"), Some(Rules::MmBench));
        assert_eq!(of("mmbench_dev_en.tsv"), Some(Rules::MmBench));
        assert_eq!(of("AI2D_TEST_NO_MASK.tsv"), Some(Rules::Ai2d));
        assert_eq!(of("TextVQA_VAL.tsv"), Some(Rules::TextVqa));
        for other in ["OCRBench_v2.tsv", "MMBench-Video.tsv", "ChartQAPro.tsv", "data.tsv", "MMVet.tsv"] {
            let told = Rules::of_file(Path::new(other)).unwrap_err().to_string();
            assert!(told.contains("--rules") && told.contains("OCRBench, MMBench, MMStar"), "{told}");
        }
        let told = Rules::from_name("BLINK").unwrap_err().to_string();
        assert!(told.contains("`BLINK`") && told.contains("DocVQA, TextVQA"), "{told}");
        assert_eq!(Rules::from_name("chartqa").unwrap(), Rules::ChartQa);
    }

    #[test]
    fn prompts_of_multiple_choice() {
        let options = [('A', "a cat".to_owned()), ('B', "a dog".to_owned())];
        let word = |style: PromptStyle, rules, hint| style.word(rules, "What is it?", hint, &options);
        let posed = "Hint: look\nQuestion: What is it?\nOptions:\nA. a cat\nB. a dog\n";
        let asked = word(PromptStyle::MiniCpmV, Rules::MmBench, Some("look"));
        assert_eq!(
            asked.question,
            format!("{posed}\nAnswer with the option's letter from the given choices directly.")
        );
        assert_eq!((asked.before, asked.after_steps), ("", false));
        assert_eq!(word(PromptStyle::MiniCpmV4, Rules::MmBench, Some("look")), asked);
        let asked = word(PromptStyle::Dataset, Rules::Ai2d, Some("look"));
        assert_eq!(asked.question, format!("{posed}Please select the correct answer from the options above. \n"));
        let asked = word(PromptStyle::MiniCpmV4, Rules::MmStar, None);
        assert!(asked.after_steps && asked.question.ends_with("option\n\nWhat is it?\nA. a cat\nB. a dog\n"));
        let asked = word(PromptStyle::Plain, Rules::MmStar, Some("look"));
        assert_eq!(asked.question, "Hint: look\nWhat is it?\nA. a cat\nB. a dog");
    }

    #[test]
    fn prompts_of_questions() {
        let word = |style: PromptStyle, rules| style.word(rules, "How many?", None, &[]);
        for rules in [Rules::OcrBench, Rules::ChartQa, Rules::DocVqa, Rules::TextVqa] {
            let asked = word(PromptStyle::MiniCpmV, rules);
            assert_eq!((asked.before, asked.question.as_str()), (SHORT, "How many?"));
            assert_eq!(word(PromptStyle::Plain, rules).question, "How many?");
        }
        assert_eq!(word(PromptStyle::Dataset, Rules::DocVqa).question, format!("How many?\n{SHORT}"));
        assert_eq!(word(PromptStyle::Dataset, Rules::OcrBench).question, "How many?");
        let asked = word(PromptStyle::MiniCpmV4, Rules::ChartQa);
        assert!(asked.after_steps && asked.question.starts_with("Read the following question carefully"));
        let asked = word(PromptStyle::MiniCpmV4, Rules::OcrBench);
        assert!(!asked.after_steps && asked.question.starts_with("Carefully observe the image"));
        assert_eq!(word(PromptStyle::MiniCpmV4, Rules::DocVqa).before, SHORT);
        assert_eq!(PromptStyle::from_name("minicpm-v-4").unwrap(), PromptStyle::MiniCpmV4);
        assert!(PromptStyle::from_name("cot").unwrap_err().to_string().contains("minicpm-v, minicpm-v-4, dataset"));
    }
}
