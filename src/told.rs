//! How an error is told: in one line, with the option that helps.

use crate::{cmd, outputs};

/// The error, its causes, and what to do.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let remedy = outputs::remedy(error).map(|remedy| format!("; {remedy}")).unwrap_or_default();
    let line = cmd::template::with_remedy(error, causes(error));
    cmd::vision::with_remedy(error, line) + &remedy
}

/// The error and its causes. Library errors often repeat the text of their cause; what was said is not said again.
fn causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.contains(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn causes_are_named_once() {
        let io = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(io).context("cannot write x: disk on fire").context("converting");
        assert_eq!(line(&error), "converting: cannot write x: disk on fire");
        assert_eq!(line(&anyhow::anyhow!("inner").context("outer")), "outer: inner");
    }
}
