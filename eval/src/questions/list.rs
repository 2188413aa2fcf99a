//! Lists of texts as tables write them: Python's notation or JSON, inside one field.

/// The items of the list that `text` writes down; `None` if it is no list of texts and numbers. Numbers are kept as they
/// are written.
pub(super) fn parse(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut items = Vec::new();
    let mut rest = inner.trim_start();
    while !rest.is_empty() {
        let (item, behind) = match rest.chars().next()? {
            quote @ ('"' | '\'') => quoted(&rest[1..], quote)?,
            _ => bare(rest)?,
        };
        items.push(item);
        rest = behind.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(items)
}

/// A text up to `quote`, and what is behind it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut item = String::new();
    let mut rest = text;
    loop {
        let at = rest.find([quote, '\\'])?;
        item.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix(quote) {
            return Some((item, behind));
        }
        rest = escape(&rest[1..], &mut item)?;
    }
}

/// Adds what the escape behind a backslash stands for, and gives what is behind it.
fn escape<'t>(text: &'t str, item: &mut String) -> Option<&'t str> {
    let code = text.chars().next()?;
    let rest = &text[code.len_utf8()..];
    let digits = match code {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => {
            match code {
                'n' => item.push('\n'),
                't' => item.push('\t'),
                'r' => item.push('\r'),
                '\n' => {}
                '\\' | '\'' | '"' | '/' => item.push(code),
                other => item.extend(['\\', other]),
            }
            return Some(rest);
        }
    };
    let number = |text: &str| u32::from_str_radix(text.get(..digits)?, 16).ok();
    let (first, rest) = (number(rest)?, rest.get(digits..)?);
    // JSON writes what is beyond 16 bits as two halves.
    if (0xd800..0xdc00).contains(&first) && code == 'u' {
        let low = rest.strip_prefix("\\u").and_then(number).filter(|low| (0xdc00..0xe000).contains(low))?;
        item.push(char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00))?);
        return rest.get(2 + digits..);
    }
    item.push(char::from_u32(first)?);
    Some(rest)
}

/// A number or a plain word.
fn bare(text: &str) -> Option<(String, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lists_of_python_and_json_are_read() {
        let items = |text| parse(text).map(|items| items.join("|"));
        assert_eq!(items("['a', 'b c']").as_deref(), Some("a|b c"));
        assert_eq!(items(r#" ["a","b\"c","\u00e9\ud83d\ude42","\/"] "#).as_deref(), Some("a|b\"c|é🙂|/"));
        assert_eq!(items(r#"["it's", 'say "hi"', 'don\'t']"#).as_deref(), Some("it's|say \"hi\"|don't"));
        assert_eq!(items(r"['\frac{1}{2}', 'a\\b', 'x\ty', '\x41']").as_deref(), Some("\\frac{1}{2}|a\\b|x\ty|A"));
        assert_eq!(items("[1, 2.5, -3,]").as_deref(), Some("1|2.5|-3"));
        assert_eq!(parse("[]"), Some(Vec::new()));
        for none in [
            "",
            "plain",
            "[",
            "['a'",
            "['a' 'b']",
            "['a]",
            "[,]",
            "['a',,'b']",
            "[(1)]",
            r#"["\u12"]"#,
            r#"["\ud800"]"#,
        ] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
