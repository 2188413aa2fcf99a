//! What is shown of an evaluation: progress, the table, the JSON object, the speed.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ocelli_engine::{Completion, Session};
use ocelli_eval::questions::{Count, Item, Rules, Tally};
use serde_json::{Value, json};

use super::Args;
use crate::cmd::common::PrecisionArg;
use crate::sink::{self, OutputError, errln, outln};

/// Time between two lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Scores and times of all that was asked.
pub(super) struct Report {
    rules: Option<Rules>,
    tally: Tally,
    /// Items (questions or conversations) answered.
    pub(super) items: usize,
    /// Answers that ended only because they were long enough.
    pub(super) cut: usize,
    prompt: Rate,
    answer: Rate,
    picture: Rate,
    started: Instant,
    time: Duration,
}

/// Some number of things in some time.
#[derive(Default)]
struct Rate {
    n: usize,
    /// Those of them that the time was spent on.
    timed: usize,
    time: Duration,
}

impl Rate {
    fn add(&mut self, n: usize, timed: usize, time: Duration) {
        self.n += n;
        self.timed += timed;
        self.time += time;
    }

    fn per_second(&self) -> f64 {
        if self.time.is_zero() { 0.0 } else { self.timed as f64 / self.time.as_secs_f64() }
    }

    fn json(&self) -> Value {
        json!({ "n": self.n, "seconds": self.time.as_secs_f64(), "per_second": self.per_second() })
    }
}

impl Report {
    pub(super) fn new(rules: Option<Rules>) -> Self {
        Self {
            rules,
            tally: Tally::default(),
            items: 0,
            cut: 0,
            prompt: Rate::default(),
            answer: Rate::default(),
            picture: Rate::default(),
            started: Instant::now(),
            time: Duration::ZERO,
        }
    }

    /// Counts the scores of an item's questions.
    pub(super) fn add(&mut self, item: &Item, scores: &[f64]) {
        self.items += 1;
        for score in scores {
            self.tally.add(&item.task, item.group.as_deref(), *score);
        }
    }

    pub(super) fn speed(&mut self, answer: &Completion) {
        let n = answer.prefill.evaluated;
        self.prompt.add(n, n, answer.prompt_time);
        self.answer.add(answer.tokens.len(), answer.answer_evaluated, answer.answer_time);
    }

    pub(super) fn pictures(&mut self, n: usize, time: Duration) {
        self.picture.add(n, n, time);
    }

    /// Nothing more is asked.
    pub(super) fn finish(&mut self) {
        self.time = self.started.elapsed();
    }

    fn score(&self) -> f64 {
        match self.rules {
            Some(rules) if rules.total_is_mean_of_tasks() => self.tally.mean_of_tasks(),
            _ => self.tally.total().score(),
        }
    }

    /// The table on stdout.
    pub(super) fn print(&self, complete: bool) -> Result<(), OutputError> {
        let names =
            self.tally.tasks().iter().chain(self.tally.groups()).map(|(name, _)| sink::line(name).chars().count());
        let width = names.max().unwrap_or(0).max(12);
        let line = |name: &str, count: Count, score: f64| {
            outln!("{name:width$}  {:>6}  {:>6}  {:>7.2} %", count.asked, count.right, 100.0 * score)
        };
        outln!("{:width$}  {:>6}  {:>6}  {:>9}", "task", "asked", "right", "score")?;
        for (name, count) in self.tally.tasks() {
            line(&sink::line(name), *count, count.score())?;
        }
        for (at, (name, count)) in self.tally.groups().iter().enumerate() {
            if at == 0 {
                outln!("{}", "-".repeat(width + 28))?;
            }
            line(&sink::line(name), *count, count.score())?;
        }
        outln!("{}", "-".repeat(width + 28))?;
        line(if complete { "total" } else { "total so far" }, self.tally.total(), self.score())
    }

    /// Everything as one JSON object.
    pub(super) fn json(&self, args: &Args, complete: bool, items: usize, session: &Session) -> Value {
        let count = |count: &Count, score: f64| {
            let Count { asked, right, .. } = count;
            json!({ "asked": asked, "right": right, "share": count.share(), "score": score })
        };
        let counts = |all: &[(String, Count)]| -> Value {
            all.iter().map(|(name, c)| (name.clone(), count(c, c.score()))).collect::<serde_json::Map<_, _>>().into()
        };
        let context = session.context();
        let precision = context.precision();
        let name = |precision| format!("{precision:?}").to_lowercase();
        json!({
            "data": args.data,
            "rules": self.rules.map(Rules::name),
            "metric": self.rules.map(|rules| rules.main_metric().name()),
            "prompts": self.rules.map(|_| args.prompts.name()),
            "model": args.model.file().ok(),
            "mmproj": args.vision.mmproj,
            "options": {
                "sampling": "greedy",
                "predict": args.n_predict(),
                "limit": args.limit,
                "tasks": args.tasks,
                "precision": name(precision),
                "isa": context.isa(),
                "threads": context.threads().0,
                "ctx_size": context.n_ctx(),
                "vision_precision": name(args.vision.vision_precision.map_or(precision, PrecisionArg::precision)),
                "image_profile": args.vision.image_profile.name(),
                "image_max_slices": args.vision.image_max_slices,
            },
            "complete": complete,
            "questions": { "answered": self.items, "of": items },
            "overall": count(&self.tally.total(), self.score()),
            "tasks": counts(self.tally.tasks()),
            "groups": counts(self.tally.groups()),
            "cut": self.cut,
            "speed": {
                "seconds": self.time.as_secs_f64(),
                "prompt_tokens": self.prompt.json(),
                "answer_tokens": self.answer.json(),
                "pictures": self.picture.json(),
            },
        })
    }

    /// The closing lines on stderr.
    pub(super) fn tell_speed(&self, n_predict: usize) {
        errln!(
            "{} in {}: {} pictures, {:.2} s each; prompts: {} tokens, {:.1} tok/s; answers: {} tokens, {:.1} tok/s",
            plural(self.items, "question"),
            clock(self.time),
            self.picture.n,
            self.picture.time.as_secs_f64() / self.picture.n.max(1) as f64,
            self.prompt.n,
            self.prompt.per_second(),
            self.answer.n,
            self.answer.per_second()
        );
        if self.cut > 0 {
            errln!("{} cut at {n_predict} tokens; allow more with -n", plural(self.cut, "answer was"));
        }
    }
}

/// `1 question`, `2 questions`; of a phrase with a verb, the plural of both.
fn plural(n: usize, what: &str) -> String {
    match (n, what.strip_suffix(" was")) {
        (1, _) => format!("1 {what}"),
        (_, Some(noun)) => format!("{n} {noun}s were"),
        (_, None) => format!("{n} {what}s"),
    }
}

/// Hours, minutes and seconds.
fn clock(time: Duration) -> String {
    let s = time.as_secs();
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        hours => format!("{hours}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

/// Shows on stderr how far the questions are: a bar on a terminal, a line now and then elsewhere.
pub(super) struct Progress {
    bar: ProgressBar,
    all: usize,
    terminal: bool,
    started: Instant,
    last: Instant,
}

impl Progress {
    pub(super) fn new(all: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::hidden());
        let terminal = sink::err_is_terminal();
        if terminal {
            let style = ProgressStyle::with_template("[{bar:24}] {pos}/{len} {msg}, {elapsed}, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
        }
        let now = Instant::now();
        Self { bar, all, terminal, started: now, last: now }
    }

    pub(super) fn show(&mut self, report: &Report) {
        let message = || format!("score {:.1} %", 100.0 * report.tally.total().score());
        if self.terminal {
            self.bar.set_message(message());
            self.bar.set_position(report.items as u64);
        } else if self.last.elapsed() >= LINE_EVERY && report.items < self.all {
            self.last = Instant::now();
            let each = self.started.elapsed().as_secs_f64() / report.items.max(1) as f64;
            let left = Duration::from_secs_f64(each * (self.all - report.items) as f64);
            errln!("{}/{} questions, {}, {} left", report.items, self.all, message(), clock(left));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
