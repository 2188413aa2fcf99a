//! Sums over answers: by task, by group, in all.

/// Answers to one kind of question.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Count {
    /// Questions asked.
    pub asked: usize,
    /// Questions whose answer has the full score.
    pub right: usize,
    /// Sum of all scores.
    pub sum: f64,
}

impl Count {
    /// The mean score, from 0 to 1; 0 of nothing.
    #[must_use]
    pub fn score(&self) -> f64 {
        if self.asked == 0 { 0.0 } else { self.sum / self.asked as f64 }
    }

    /// The share of right answers, from 0 to 1; 0 of nothing.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.asked == 0 { 0.0 } else { self.right as f64 / self.asked as f64 }
    }

    fn add(&mut self, score: f64) {
        self.asked += 1;
        // Means of ninths and thirds come out a rounding below 1.
        self.right += usize::from(score > 1.0 - 1e-9);
        self.sum += score;
    }
}

/// Scores by task and group, in the order in which they came up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    tasks: Vec<(String, Count)>,
    groups: Vec<(String, Count)>,
    total: Count,
}

impl Tally {
    /// Adds the score of one question.
    pub fn add(&mut self, task: &str, group: Option<&str>, score: f64) {
        entry(&mut self.tasks, task).add(score);
        if let Some(group) = group {
            entry(&mut self.groups, group).add(score);
        }
        self.total.add(score);
    }

    /// Tasks and their counts.
    #[must_use]
    pub fn tasks(&self) -> &[(String, Count)] {
        &self.tasks
    }

    /// Second sums and their counts.
    #[must_use]
    pub fn groups(&self) -> &[(String, Count)] {
        &self.groups
    }

    /// All questions.
    #[must_use]
    pub fn total(&self) -> Count {
        self.total
    }

    /// The mean of the tasks' scores, however many questions each has.
    #[must_use]
    pub fn mean_of_tasks(&self) -> f64 {
        let sum: f64 = self.tasks.iter().map(|(_, count)| count.score()).sum();
        if self.tasks.is_empty() { 0.0 } else { sum / self.tasks.len() as f64 }
    }
}

fn entry<'c>(counts: &'c mut Vec<(String, Count)>, name: &str) -> &'c mut Count {
    let at = counts.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        counts.push((name.to_owned(), Count::default()));
        counts.len() - 1
    });
    &mut counts[at].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_task_group_and_in_all() {
        let mut tally = Tally::default();
        for (task, group, score) in
            [("human", None, 1.0), ("augmented", Some("g"), 0.0), ("human", Some("g"), 0.5), ("human", None, 1.0)]
        {
            tally.add(task, group, score);
        }
        let names: Vec<_> = tally.tasks().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["human", "augmented"]);
        let human = tally.tasks()[0].1;
        assert_eq!((human.asked, human.right, human.sum), (3, 2, 2.5));
        assert!((human.score() - 2.5 / 3.0).abs() < 1e-12 && (human.share() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(tally.groups(), [("g".to_owned(), Count { asked: 2, right: 0, sum: 0.5 })]);
        assert_eq!(tally.total().score(), 0.625);
        assert!((tally.mean_of_tasks() - 2.5 / 6.0).abs() < 1e-12);
        assert_eq!(Tally::default().mean_of_tasks(), 0.0);
        assert_eq!(Count::default().share(), 0.0);
    }
}
