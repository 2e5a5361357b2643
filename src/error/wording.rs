//! Numbers in sentences: digits in groups of three, and nouns that agree with their counts; and
//! text from elsewhere that a terminal shows, and a shell takes, without acting on it.

use std::borrow::Cow;
use std::path::Path;

/// Returns `n` with its digits in groups of three: `14,464`.
pub(crate) fn number(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(u64::MAX).to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// Returns `n` and `noun` in the number that agrees with it: `1 shard`, `2 shards`,
/// `1,200 trajectories`.
///
/// `noun` is a regular English noun in the singular, or a phrase that ends with one.
pub(crate) fn count(n: impl TryInto<u64>, noun: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    let number = number(n);
    match n {
        1 => format!("{number} {noun}"),
        _ => format!("{number} {}", plural(noun)),
    }
}

fn plural(noun: &str) -> String {
    let ends = |endings: &[&str]| endings.iter().any(|ending| noun.ends_with(ending));
    match noun.strip_suffix('y') {
        Some(stem) if !ends(&["ay", "ey", "oy", "uy"]) => format!("{stem}ies"),
        _ if ends(&["s", "x", "z", "ch", "sh"]) => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

/// Returns `text` on one line, with the characters that a terminal acts on escaped, as `\n` or
/// `\u{1b}`: line breaks, control characters other than tabs, and characters that change the
/// direction of text. So nothing in a name looks like a line of output.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let acts = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == '\n' {
            shown.push_str("\\n");
        } else if acts(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Returns `path` as a word of a shell command, quoted if it needs that.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if text.starts_with(|c: char| c != '-') && text.chars().all(is_plain) {
        text
    } else {
        // A leading `-` would be an option.
        let start = if text.starts_with('-') { "./" } else { "" };
        format!("'{start}{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_from_the_right() {
        let numbers = [0_u64, 12, 999, 1_000, 14_464, 1_234_567].map(number);
        assert_eq!(numbers, ["0", "12", "999", "1,000", "14,464", "1,234,567"]);
    }

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        for text in ["plain", "text and\ta tab", "über 10 Å, \u{200f}עברית"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
        }
        assert_eq!(printable("\u{1b}[2J\r\0"), "\\u{1b}[2J\\u{d}\\u{0}");
        assert_eq!(printable("two\nlines"), "two\\nlines");
        for c in [
            '\u{7f}', '\u{80}', '\u{85}', '\u{9b}', '\u{9f}', '\u{2028}', '\u{2029}', '\u{202a}',
            '\u{202e}', '\u{2066}',
        ] {
            let shown = format!("<\\u{{{:x}}}>", u32::from(c));
            assert_eq!(printable(&format!("<{c}>")), shown);
        }
    }

    #[test]
    fn a_path_is_one_word_of_a_command() {
        for (path, expected) in [
            ("out/hopper-v2.1", "out/hopper-v2.1"),
            ("out/my data", "'out/my data'"),
            ("x; rm -r $(y)", "'x; rm -r $(y)'"),
            ("it's", "'it'\\''s'"),
            ("-r", "'./-r'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(Path::new(path)), expected);
        }
    }

    #[test]
    fn nouns_agree_with_their_counts() {
        assert_eq!(count(1_usize, "shard"), "1 shard");
        assert_eq!(count(0_u64, "step"), "0 steps");
        assert_eq!(count(1_200_u32, "trajectory"), "1,200 trajectories");
        assert_eq!(count(2_i64, "damaged batch"), "2 damaged batches");
        assert_eq!(count(3_u8, "day"), "3 days");
    }
}
