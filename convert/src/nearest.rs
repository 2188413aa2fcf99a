//! Which of many names somebody may have meant.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Names told, at most.
const TOLD: usize = 3;

/// The names that share most with `pattern`, best first, numbers of layers apart: `blk.0.attn_v.weight` stands for all of
/// them. For a message.
pub(crate) fn nearest<'n>(pattern: &str, names: impl Iterator<Item = &'n str>) -> String {
    let wanted = pairs(pattern);
    let mut kinds: BTreeMap<String, &str> = BTreeMap::new();
    for name in names {
        let kind = name.split('.').map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { "#" } else { part });
        kinds.entry(kind.collect::<Vec<_>>().join(".")).or_insert(name);
    }
    let mut scored: Vec<_> = kinds
        .into_values()
        .map(|name| {
            let own = pairs(name);
            let shared: usize = wanted.iter().map(|(pair, n)| n.min(own.get(pair).unwrap_or(&0))).sum();
            // Shared pairs of letters by all pairs: a long name is not nearer for being long.
            let all: usize = wanted.values().chain(own.values()).sum();
            ((2000 * shared).checked_div(all).unwrap_or(0), name)
        })
        .collect();
    scored.sort_by_key(|(score, name)| (Reverse(*score), *name));
    let told: Vec<_> = scored.iter().take(TOLD).map(|(_, name)| name.escape_debug().to_string()).collect();
    if told.is_empty() { "none: there is no name at all".to_owned() } else { told.join(", ") }
}

/// How often every pair of neighbouring letters occurs; what patterns are made of besides letters is left out.
fn pairs(text: &str) -> BTreeMap<(char, char), usize> {
    let letters: Vec<char> =
        text.to_lowercase().chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '.')).collect();
    let mut pairs = BTreeMap::new();
    for pair in letters.windows(2) {
        *pairs.entry((pair[0], pair[1])).or_insert(0) += 1;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_of_the_pen_are_understood() {
        let names = [
            "token_embd.weight",
            "blk.0.attn_q.weight",
            "blk.0.attn_v.weight",
            "blk.0.ffn_down.weight",
            "blk.1.attn_v.weight",
            "blk.1.ffn_down.weight",
            "output_norm.weight",
        ];
        let first = |pattern: &str| {
            let all = nearest(pattern, names.into_iter());
            assert_eq!(all.split(", ").count(), 3, "{all}");
            all.split(", ").next().unwrap().to_owned()
        };
        assert_eq!(first("atn_v"), "blk.0.attn_v.weight");
        assert_eq!(first(r"blk\.[0-3]\.fnn_down"), "blk.0.ffn_down.weight");
        assert_eq!(first("TOKEN_EMBED"), "token_embd.weight");
        assert!(nearest("x", std::iter::empty()).contains("no name"));
    }
}
