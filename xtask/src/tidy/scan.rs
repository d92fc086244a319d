//! Rust without its comments and without what its strings say, line by line as it was.

/// Replaces comments, and the contents of strings and characters, by blanks. Line breaks stay.
pub fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself where none begins.
fn skipped(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, |rest| rest.first() == Some(&'\n')),
        '/' if next == Some('*') => block_comment(chars, at),
        '"' => string(chars, at),
        'r' if !in_word(chars, at) => raw_string(chars, at),
        '\'' => character(chars, at),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, is_end: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len()).find(|at| is_end(&chars[*at..])).unwrap_or(chars.len())
}

/// Block comments nest.
fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0_u32, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"…"`, `r#"…"#` and so on; a raw identifier such as `r#type` is none.
fn raw_string(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let closes = |rest: &[char]| rest[0] == '"' && rest.len() > hashes && rest[1..=hashes].iter().all(|c| *c == '#');
    (find(chars, open + 1, closes) + 1 + hashes).min(chars.len())
}

/// `'a'` or `'\n'`; a lifetime is none.
fn character(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => (find(chars, start + 3, |rest| rest[0] == '\'') + 1).min(chars.len()),
        (Some(_), Some('\'')) => start + 3,
        _ => start,
    }
}

/// True where the character at `at` is in the middle of a word. The `r` of `br"…"` is not: a raw string begins there.
fn in_word(chars: &[char], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|at| chars[at]);
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = matches!(before(1), Some('b' | 'c')) && !word(before(2));
    word(before(1)) && !prefix
}

#[cfg(test)]
mod tests {
    use super::code;

    fn words(text: &str) -> Vec<String> {
        let code = code(text);
        assert_eq!(code.lines().count(), text.lines().count(), "lines stay: {text}");
        code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn comments_go() {
        assert_eq!(words("a // x\nb /* x /* x */ x\n */ c //! x"), ["a", "b", "c"]);
    }

    #[test]
    fn strings_go_and_what_follows_stays() {
        assert_eq!(words(r#"a("x\" x", b'x', '"', c) d"#), ["a", "b", "c", "d"]);
        assert_eq!(words("a(r\"x\\\", b, r##\"x \"# x\"##, br\"x\", c)"), ["a", "b", "b", "c"]);
    }

    #[test]
    fn lifetimes_and_raw_identifiers_stay() {
        assert_eq!(words("fn f<'a>(x: &'a str, r#type: char)"), ["fn", "f", "a", "x", "a", "str", "r", "type", "char"]);
        assert_eq!(words(r"let quote = '\''; let b = '\u{1F}'; c"), ["let", "quote", "let", "b", "c"]);
    }

    #[test]
    fn what_is_not_closed_ends_with_the_file() {
        for text in ["a \"x", "a /* x", "a r#\"x", "a '\\", "a '", "a r#", "a \"\\"] {
            assert_eq!(words(text).first().map(String::as_str), Some("a"), "{text}");
        }
    }
}
