//! Options that take several values: `512`, `1,8,512`, `1-4`, `0-4096+1024`, `1-64*2`.

use anyhow::{Context as _, bail};

/// Values of one option, at most: a longer list is a slip.
const MOST: usize = 1000;

/// The numbers that the values of `option` mean, in order; each may be a number or a range.
pub(super) fn numbers(option: &str, values: &[String]) -> anyhow::Result<Vec<usize>> {
    let mut all = Vec::new();
    for value in values.iter().flat_map(|v| v.split(',')) {
        let value = value.trim();
        range(value, &mut all).with_context(|| {
            format!(
                "{option}: `{}` is none of N, FIRST-LAST, FIRST-LAST+STEP and FIRST-LAST*FACTOR",
                value.escape_debug()
            )
        })?;
        if all.len() > MOST {
            bail!("{option}: more than {MOST} values; give fewer");
        }
    }
    Ok(all)
}

fn range(text: &str, all: &mut Vec<usize>) -> anyhow::Result<()> {
    let Some((first, rest)) = text.split_once('-') else {
        all.push(text.parse()?);
        return Ok(());
    };
    let (last, step, factor) = if let Some((last, step)) = rest.split_once('+') {
        (last, step.parse()?, 1)
    } else if let Some((last, factor)) = rest.split_once('*') {
        (last, 0, factor.parse()?)
    } else {
        (rest, 1, 1)
    };
    let (mut at, last): (usize, usize) = (first.parse()?, last.parse()?);
    if at > last {
        bail!("the range ends before it begins");
    }
    while at <= last {
        all.push(at);
        let next = at.saturating_mul(factor).saturating_add(step);
        if next <= at || all.len() > MOST {
            bail!("the range does not come to its end");
        }
        at = next;
    }
    Ok(())
}

/// The words of an option, separated by commas or given repeatedly.
pub(super) fn words(values: &[String]) -> Vec<String> {
    values.iter().flat_map(|v| v.split(',')).map(|w| w.trim().to_owned()).filter(|w| !w.is_empty()).collect()
}

/// The pairs of `-pg`: a prompt and a number of tokens each.
pub(super) fn pairs(values: &[String]) -> anyhow::Result<Vec<(usize, usize)>> {
    values
        .iter()
        .map(|value| {
            let pair = value.split_once(',').and_then(|(p, g)| Some((p.trim().parse().ok()?, g.trim().parse().ok()?)));
            pair.with_context(|| format!("-pg: `{}` is no pair PROMPT,TOKENS such as 512,128", value.escape_debug()))
        })
        .collect()
}

/// Removes what came before, keeping the order.
pub(super) fn distinct<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept = Vec::with_capacity(values.len());
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> anyhow::Result<Vec<usize>> {
        numbers("-p", &values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn numbers_lists_and_ranges() {
        assert_eq!(of(&["512"]).unwrap(), [512]);
        assert_eq!(of(&["1,8", "512"]).unwrap(), [1, 8, 512]);
        assert_eq!(of(&["1-4"]).unwrap(), [1, 2, 3, 4]);
        assert_eq!(of(&["0-4096+2048,7"]).unwrap(), [0, 2048, 4096, 7]);
        assert_eq!(of(&["1-64*4"]).unwrap(), [1, 4, 16, 64]);
        for bad in ["", "x", "1-", "4-1", "1-9+0", "1-9*1", "0-9*2", "-3", "1-9999999", "1.5"] {
            let error = format!("{:#}", of(&[bad]).unwrap_err());
            assert!(error.contains("-p"), "{bad}: {error}");
        }
    }

    #[test]
    fn words_and_pairs() {
        let list = |v: &[&str]| v.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        assert_eq!(words(&list(&["a, b", "c"])), ["a", "b", "c"]);
        assert_eq!(pairs(&list(&["512,128", "8, 4"])).unwrap(), [(512, 128), (8, 4)]);
        assert!(pairs(&list(&["512"])).unwrap_err().to_string().contains("512,128"));
        assert_eq!(distinct(vec![2, 1, 2, 3, 1]), [2, 1, 3]);
    }
}
